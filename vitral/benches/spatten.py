# SPDX-License-Identifier: Apache-2.0
"""What is measured of the SpAtten design."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vitral.benches import common
from vitral.benches.common import compared, device, losses, modules, shell
from vitral.benches.entry import Entry, Results, Row, Suite

__all__ = ["ENTRIES", "SUITE"]

PAPER = {"bytes saved": 10, "tokens": 3.8, "heads": 1.1, "bits": 5.1, "select, mm2": 0.5,
         "GOPS, 1/8": 360}
"""Wang et al., HPCA 2021: DRAM accesses against fp32 (mean of 30 benchmarks; token and value
pruning on GPT-2)."""
RELEASED = {"paper": 536315, "paper-1/8": 2409263, "paper, dense": 2685888}
"""Cycles of the authors' released hardware on the trace, with the same model of memory (channels
of 32 bytes per cycle, 30 cycles, 64 requests), but without softmax or selection. The dense one is
32 times that of an iteration of 1,024 tokens."""
TRACE = "../shared/data/spatten_gpt2_small_wikitext2.csv.gz"
"""The workload of the authors' repository, which is not part of this one."""
LOST = 0.5
"""Points of accuracy that may be lost."""
CHOICES = "--prune 0:0.5,2:0.5 --values 0.25 --confident 0.1 --heads-left 2:3"


def speed(released: int | None) -> Callable[[Any, Results], Iterator[Row]]:
    """Return the rows of a trace in RTL, ``released`` being the cycles of the authors' hardware."""
    def rows(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
        yield Row("RTL equals the golden model", "yes" if found["bit_exact"] else "NO")
        yield Row("cycles", found["cycles"], paper=released, note="paper: the released hardware")
        yield Row("cycles if all channels were busy", found["cycles_bound"])
        yield Row("bandwidth used", round(100 * found["bandwidth_utilisation"], 1), "%")
        yield Row("bytes read", found["bytes_read"])
        yield Row("tokens", found["iterations"])
        if released is not None:
            yield Row("times faster", round(released / found["cycles"], 2))
    return rows


def saved(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield by how much each part of the algorithm reduces what is read."""
    steps = found["reduction"]
    names = list(steps)
    for before, name in zip(names, names[1:]):
        yield Row(f"{name}, by", round(steps[before] / steps[name], 2), "times")
    yield Row("all, against 12 bit", round(steps["dense, 12 bit"] / steps["moved"], 2), "times")
    yield Row("all, against 32 bit", round(steps["dense, 32 bit"] / steps["moved"], 2), "times",
              PAPER["bytes saved"])


def network(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield what a run or an estimate of a network says of cycles."""
    return common.speed(found, paper={})


def savings(dense: str) -> Callable[[Any, Results], Iterator[Row]]:
    """Return the rows of a run that leaves something out, compared with the run ``dense``."""
    def rows(found: Mapping[str, Any], results: Results) -> Iterator[Row]:
        yield from network(found, results)
        executed = found["macs_executed"] / found["macs_per_image"]
        yield Row("operations saved", round(100 * (1 - executed), 2), "%")
        yield Row("tokens left, block by block", _listed(found["tokens"]))
        yield Row("heads left, block by block", _listed(found["heads"]))
        yield Row("values fetched", round(100 * found["values_fetched"], 2), "%")
        yield Row("queries that needed low bits", round(100 * found["low_fetched"], 2), "%")
        yield from compared(found, results.get(dense), LOST)
    return rows


def frontier(found: Sequence[Mapping[str, Any]], _: Results) -> Iterator[Row]:
    """Yield what each setting costs and saves."""
    dense = found[0]
    for one in found:
        yield Row(f"{one['name']}: correct", f"{one['correct']} of {one['images']}", note=(
            f"tokens kept {one['tokens_kept']:.1%}, heads "
            f"{sum(one['heads']) / sum(dense['heads']):.1%}, beats "
            f"{one['beats'] / dense['beats']:.1%}, cycles {one['cycles'] / dense['cycles']:.1%}"))
    least = [one["tokens_kept"] for one in found
             if 100 * (dense["correct"] - one["correct"]) / one["images"] <= LOST]
    yield Row(f"fewest tokens with at most {LOST:g} points lost", round(100 * min(least), 1), "%",
              note="mean of the blocks")


def _listed(counts: Sequence[float]) -> str:
    return " ".join(f"{count:g}" for count in counts)


def gates(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield the gates of a component."""
    yield Row("logic", found["kge"], "kGE")
    yield Row("of it registers", found["register_kge"], "kGE")
    yield Row("memory", found["memory_bits"], "bits")
    yield from modules(found) if "by_module" in found else ()


def trace(name: str, preset: str, released: int | None = None, *options: str,
          engine: str = "rtl", rows: Any = None) -> Entry:
    """Return the entry of a trace."""
    return Entry(name=name, module="vitral.cli", slow=engine == "rtl",
                 rows=rows or speed(released), arguments=(
        "trace", TRACE, "--on", "spatten", "--preset", preset, "--engine", engine, *options,
        "--json", "-"))


def run(name: str, arguments: str, *, command: str = "run", slow: bool = False,
        rows: Callable[[Any, Results], Iterator[Row]] = network) -> Entry:
    """Return the entry of a ``vitral run`` or ``vitral estimate``."""
    return common.run(name, "spatten", arguments, command=command, slow=slow, rows=rows)


def area(name: str, component: str, *fields: str, parts: bool = False) -> Entry:
    """Return the entry of an area, of the flattened whole or of ``parts`` that add up."""
    return Entry(name=name, module="vitral.area", rows=gates, slow=True,
                 arguments=(component, *fields, "--parts" if parts else "--total", "--json"))


ENTRIES = (
    trace("GPT-2 trace, paper", "paper", RELEASED["paper"]),
    trace("GPT-2 trace, paper-1/8", "paper-1/8", RELEASED["paper-1/8"]),
    trace("GPT-2 dense, paper", "paper", RELEASED["paper, dense"], "--dense"),
    trace("bytes", "paper", engine="golden", rows=saved),
    run("digits, tiny", "digits --preset tiny --engine rtl --images 2"),
    run("digits, tiny, chip", "digits --preset tiny --engine rtl --level chip --images 2",
        rows=shell("digits, tiny", network)),
    run("digits-197, dense", "digits-197 --preset paper --engine rtl --images 2", slow=True),
    run("digits-197, all choices", f"digits-197 --preset paper {CHOICES} --engine rtl --images 2",
        rows=savings("digits-197, dense"), slow=True),
    run("deit-tiny", "deit-tiny --preset paper", command="estimate"),
    Entry(name="frontier, digits-197", module="vitral.frontier", rows=frontier, slow=True,
          arguments=("digits-197", "--on", "spatten", "-o", "build/bench/spatten", "--json")),
    area("area, selector of values", "hw.select.topk:TopK", "n=1024", "width=10", "lanes=16",
         "digit=5", "buffers=1", "threshold=false", "mask=true"),
    area("area, channel", "hw.spatten.channel:Channel"),
    area("area, row unit", "hw.spatten.rows:RowUnit"),
    area("area, unit that prunes", "hw.spatten.prune:PruneUnit"),
    area("area, output unit", "hw.spatten.output:OutputUnit"),
    area("area, parts of the encoder", "hw.spatten.encoder:Encoder", "local=1024", parts=True),
    area("area, whole core", "hw.spatten.core:SpattenCore", "local=1024", parts=True),
    Entry(name="ECP5, ecp5", module="vitral.fpga", rows=device, slow=True,
          arguments=("hw.spatten.core:SpattenCore", "--preset", "ecp5", "--json")),
)
SUITE = Suite(
    design="spatten", title="The SpAtten design, measured", paper=PAPER, entries=ENTRIES,
    more=losses, about=(
        "The paper's figures are means over its benchmarks; cycles of the released hardware were",
        "measured with the same model of memory, but it computes no softmax and selects nothing."))
