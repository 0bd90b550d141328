# SPDX-License-Identifier: Apache-2.0
"""What is measured of the SpAtten design."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

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


def gates(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield the gates of a component."""
    yield Row("logic", found["kge"], "kGE")
    yield Row("of it registers", found["register_kge"], "kGE")
    yield Row("memory", found["memory_bits"], "bits")


def trace(name: str, preset: str, released: int | None = None, *options: str,
          engine: str = "rtl", rows: Any = None) -> Entry:
    """Return the entry of a trace."""
    return Entry(name=name, module="vitral.cli", slow=engine == "rtl",
                 rows=rows or speed(released), arguments=(
        "trace", TRACE, "--on", "spatten", "--preset", preset, "--engine", engine, *options,
        "--json", "-"))


def area(name: str, component: str, *fields: str) -> Entry:
    """Return the entry of an area."""
    return Entry(name=name, module="vitral.area", rows=gates, slow=True,
                 arguments=(component, *fields, "--total", "--json"))


ENTRIES = (
    trace("GPT-2 trace, paper", "paper", RELEASED["paper"]),
    trace("GPT-2 trace, paper-1/8", "paper-1/8", RELEASED["paper-1/8"]),
    trace("GPT-2 dense, paper", "paper", RELEASED["paper, dense"], "--dense"),
    trace("bytes", "paper", engine="golden", rows=saved),
    area("area, selector of values", "hw.select.topk:TopK", "n=1024", "width=10", "lanes=16",
         "digit=5", "buffers=1", "threshold=false", "mask=true"),
    area("area, channel", "hw.spatten.channel:Channel"),
    area("area, row unit", "hw.spatten.rows:RowUnit"),
    area("area, unit that prunes", "hw.spatten.prune:PruneUnit"),
    area("area, output unit", "hw.spatten.output:OutputUnit"),
)
SUITE = Suite(
    design="spatten", title="The SpAtten design, measured", paper=PAPER, entries=ENTRIES, about=(
        "The paper's figures are means over its benchmarks; cycles of the released hardware were",
        "measured with the same model of memory, but it computes no softmax and selects nothing."))
