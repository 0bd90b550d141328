# SPDX-License-Identifier: Apache-2.0
"""Figures that more than one design has."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vitral.benches.entry import Entry, Results, Row
from vitral.designs import DESIGNS

__all__ = ["compared", "device", "losses", "modules", "run", "shell", "speed"]


def speed(found: Mapping[str, Any], *, paper: Mapping[str, Any],
          note: str = "") -> Iterator[Row]:
    """Yield what a run or an estimate says of cycles; ``note`` is about the utilisation."""
    spec = type(DESIGNS[found["design"]].presets["paper"])(**found["parameters"])
    cycles = found["cycles_per_image"] or found["cycles_predicted"]
    if found["bit_exact"] is not None:
        yield Row("RTL equals the golden model", "yes" if found["bit_exact"] else "NO")
        yield Row("cycles per image", found["cycles_per_image"])
    yield Row("cycles per image, predicted", found["cycles_predicted"])
    yield Row("utilisation", round(100 * found["utilisation"], 2), "%", note=note)
    yield Row("multipliers", spec.macs, paper=paper.get("MACs"))
    yield Row("at 1 GHz: images per second", round(1e9 / cycles, 1))
    yield Row("at 1 GHz: operations", round(2 * found["macs_executed"] / cycles, 1), "GOPS",
              paper=f"{paper['GOPS']:,} at most" if "GOPS" in paper else None)
    yield Row("bytes read per image", round(found["bytes_read"] / found["images"]))
    if found["accuracy"] is not None:
        yield Row("classified correctly", f"{found['correct']} of {found['images']}")


def compared(found: Mapping[str, Any], whole: Mapping[str, Any] | None,
             limit: float) -> Iterator[Row]:
    """Yield what a run that leaves something out gains and loses against the ``whole``."""
    if whole is None:
        return
    before, after = (one["cycles_per_image"] or one["cycles_predicted"] for one in (whole, found))
    yield Row("times faster than dense", round(before / after, 3))
    if whole["images"] == found["images"] and found["accuracy"] is not None:
        lost = 100 * (whole["accuracy"] - found["accuracy"])
        yield Row("accuracy lost", round(lost, 2), "points", f"< {limit:g}")


def shell(core: str, speed: Callable[[Any, Results], Iterator[Row]]
          ) -> Callable[[Any, Results], Iterator[Row]]:
    """Return the rows of a run of a chip, compared with the run ``core`` of the core alone."""
    def rows(found: Mapping[str, Any], results: Results) -> Iterator[Row]:
        yield from speed(found, results)
        if core in results:
            yield Row("cycles of the chip / of the core", round(
                found["cycles_per_image"] / results[core]["cycles_per_image"], 4))
    return rows


def modules(found: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the gates of each module of a component that takes 1 % of them."""
    for name, part in sorted(found["by_module"].items(), key=lambda item: -item[1]["own_kge"]):
        if part["own_kge"] >= found["kge"] / 100:
            yield Row(f"{name} ({part['instances']})", part["own_kge"], "kGE")


def device(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield what a core takes of an FPGA."""
    for key, name in (("lut", "LUT"), ("ff", "FF"), ("dsp", "DSP (MULT18X18D)"),
                      ("ebr", "EBR (DP16KD)")):
        total = found["available"][key]
        yield Row(name, found[key], f"of {total:,}")
    yield Row("Fmax", found["fmax_mhz"], "MHz", note=f"speed grade {found['speed']}")


def run(name: str, design: str, arguments: str, *, command: str = "run", slow: bool = False,
        rows: Callable[[Any, Results], Iterator[Row]]) -> Entry:
    """Return the entry of a ``vitral run`` or ``vitral estimate``."""
    return Entry(name=name, module="vitral.cli", rows=rows, slow=slow, arguments=(
        command, *arguments.split(), "--on", design, "--json", "-"))


def losses(done: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a table of where the cycles of each run of one design go."""
    runs = {name: one["result"] for name, one in done.items()
            if "lost" in one.get("result", {}) and any(
                row["name"] == "utilisation" for row in one["figures"])}
    if not runs:
        return []
    causes = DESIGNS[next(iter(runs.values()))["design"]].losses.causes
    lines = ["", "Where the cycles of the array go, in % of all cycles:", "",
             "| run | " + " | ".join(causes) + " | useful |",
             "| --- |" + " --- |" * (len(causes) + 1)]
    for name, found in runs.items():
        cycles = found["cycles_per_image"] or found["cycles_predicted"]
        parts = [f"{100 * found['lost'][cause] / cycles:.2f}" for cause in causes]
        lines.append(f"| {name} | " + " | ".join(parts) + f" | {100 * found['utilisation']:.2f} |")
    return lines
