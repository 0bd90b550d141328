# SPDX-License-Identifier: Apache-2.0
"""What is measured of the row-wise design."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from golden.rowwise.spec import PRESETS, RowwiseSpec
from vitral.benches import common
from vitral.benches.common import compared, device, losses, modules, shell
from vitral.benches.entry import Entry, Results, Row, Suite

__all__ = ["ENTRIES", "PAPER", "SUITE"]

PAPER = {"MACs": 512, "kGE": 496.4, "kGE per MAC": 0.97, "KB": 232, "GOPS": 1024,
         "operations saved": 61.5, "FFN2 weights saved": 59.3, "accuracy lost": 2.0}
"""What the abstract of Hsiung and Chang says, at 1 GHz in 28 nm; multipliers and kGE per multiplier
follow from it. Which network it means is not known."""
OTHERS = "HG-PIPE 96.8, ITA 73.6, MASE 97.9"
"""Utilisations in %, as their authors say."""


def speed(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield what a run or an estimate says of cycles."""
    paper = RowwiseSpec(**found["parameters"]) == PRESETS["paper"]
    yield from common.speed(found, paper=PAPER if paper else {}, note=OTHERS)


def savings(dense: str) -> Callable[[Any, Results], Iterator[Row]]:
    """Return the rows of a run that leaves something out, compared with the run ``dense``."""
    def rows(found: Mapping[str, Any], results: Results) -> Iterator[Row]:
        yield from speed(found, results)
        executed = found["macs_executed"] / found["macs_per_image"]
        yield Row("operations saved", round(100 * (1 - executed), 2), "%",
                  PAPER["operations saved"])
        if found["ffn2_reads"] is not None:
            yield Row("FFN2 weights not read", round(100 * (1 - found["ffn2_reads"]), 2), "%",
                      PAPER["FFN2 weights saved"])
        yield from compared(found, results.get(dense), PAPER["accuracy lost"])
    return rows


def memories(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield the size of each memory of a core."""
    bits = RowwiseSpec(**found["parameters"]).memory_bits
    for name, size in bits.items():
        yield Row(name, round(size / 8192, 3), "KB")
    yield Row("all memories", round(sum(bits.values()) / 8192, 3), "KB", PAPER["KB"],
              "of 1024 bytes")


def areas(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield the gates of a core, and of each of its modules that takes 1 % of them."""
    kge = found["kge"]
    yield Row("logic", kge, "kGE", PAPER["kGE"], "theirs in 28 nm; ours without memories")
    yield Row("logic per multiplier", round(kge / PAPER["MACs"], 3), "kGE", PAPER["kGE per MAC"])
    yield Row("of it registers", found["register_kge"], "kGE")
    yield from modules(found)


def accuracies(found: Sequence[Mapping[str, Any]], _: Results) -> Iterator[Row]:
    """Yield what quantisation costs each network."""
    for one in found:
        for key, name in (("float_correct", "float"), ("integer_correct", "integer"),
                          ("agreement", "both agree")):
            if one.get(key) is not None:
                yield Row(f"{one['model']}, {name}", f"{one[key]} of {one['images']}")


def run(name: str, arguments: str, *, command: str = "run", slow: bool = False,
        rows: Callable[[Any, Results], Iterator[Row]] = speed) -> Entry:
    """Return the entry of a ``vitral run`` or ``vitral estimate``."""
    return common.run(name, "rowwise", arguments, command=command, slow=slow, rows=rows)


SMALL = " ".join(f"--set {one}" for one in (
    "activation_bytes=166400", "residual_bytes=151296", "max_width=384"))
BASE = " ".join(f"--set {one}" for one in (
    "activation_bytes=320000", "residual_bytes=302592", "weight_bytes=98304", "max_width=768"))
RELU = "digits-197-relu --preset paper"
OFF = "--prune off --skip off"
ENTRIES = (
    run("digits, tiny", "digits --preset tiny --engine rtl --images 16"),
    run("digits, paper", "digits --preset paper --engine rtl --images 16"),
    run("digits, ecp5", "digits --preset ecp5 --engine rtl --images 16"),
    run("digits-197, tiny", "digits-197 --preset tiny --engine rtl --images 1"),
    run("digits-197, paper", "digits-197 --preset paper --engine rtl --images 1"),
    run("deit-tiny, paper", "deit-tiny --preset paper --engine rtl --images 1", slow=True),
    run("digits, tiny, chip", "digits --preset tiny --engine rtl --level chip --images 16",
        rows=shell("digits, tiny", speed)),
    run("deit-tiny, paper, chip", "deit-tiny --preset paper --engine rtl --level chip --images 1",
        rows=shell("deit-tiny, paper", speed), slow=True),
    run("deit-small, paper", "deit-small --preset paper", command="estimate"),
    run("deit-base, paper", "deit-base --preset paper", command="estimate", slow=True),
    run("deit-small, enlarged", f"deit-small --preset paper {SMALL}", command="estimate"),
    run("deit-base, enlarged", f"deit-base --preset paper {BASE}", command="estimate", slow=True),
    run("dense, RTL", f"{RELU} {OFF} --engine rtl --images 4", slow=True),
    run("pruned and skipped, RTL", f"{RELU} --engine rtl --images 4", rows=savings("dense, RTL"),
        slow=True),
    run("dense, all images", f"{RELU} {OFF} --images 360", slow=True),
    run("pruned and skipped, all images", f"{RELU} --images 360",
        rows=savings("dense, all images"), slow=True),
    Entry(name="accuracy", module="vitral.accuracy", arguments=("--json", "-"), rows=accuracies,
          slow=True),
    run("memories, paper", "digits --preset paper", command="estimate", rows=memories),
    Entry(name="area, paper", module="vitral.area", rows=areas, slow=True,
          arguments=("hw.rowwise.core:RowwiseCore", "--json")),
    Entry(name="ECP5, ecp5", module="vitral.fpga", rows=device, slow=True,
          arguments=("hw.rowwise.core:RowwiseCore", "--preset", "ecp5", "--json")),
)
SUITE = Suite(
    design="rowwise", title="The row-wise design, measured", paper=PAPER, entries=ENTRIES,
    more=losses, about=(
        "The paper's figures are those of its abstract, or follow from it (28 nm, 1 GHz); its",
        "network is not known."))
