# SPDX-License-Identifier: Apache-2.0
"""Draw what the array, softmax, LayerNorm and the memory port of a core do over time."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitral.compile import Program
from vitral.estimate import Cycles
from vitral.pictures import (
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    PINK,
    RED,
    SKY,
    STYLE,
    YELLOW,
    rendered,
)
from vitral.record import kind

__all__ = ["BINS", "Activity", "draw", "modelled", "sampled"]

BINS = 600
"""Samples of a whole run, about: two pixels each."""
WIDTH, HEIGHT = 1600, 900
CAUSES = {
    "stall_norm": (GREEN, "waits for LayerNorm"), "stall_rows": (SKY, "waits for the layer before"),
    "stall_weights": (RED, "waits for weights"), "stall_softmax": (PINK, "waits for softmax"),
    "stall_collect": (ORANGE, "waits for the collector"),
    "stall_move": (YELLOW, "fill: LOAD, STORE"), "stall_order": (GREY, "drain"),
    "idle": (LIGHT, "idle"),
}
"""What the array does when it is not busy: colour and words."""
# Paul Tol's light colours: what the strip shows is not what the array waits for
OPERATIONS = {
    "embed": ("#DDDDDD", ("position", "patch_embed", "load")),
    "norm": ("#44BB99", ("norm", "norm1", "norm2", "norm_dist")),
    "QKV": ("#99DDFF", ("query", "key", "value")),
    "attend": ("#FFAABB", ("attend",)),
    "project": ("#EEDD88", ("proj",)),
    "prune": ("#AAAA00", ("prune",)),
    "FFN 1": ("#BBCC33", ("fc1",)),
    "FFN 2": ("#EE8866", ("fc2",)),
    "other": ("#77AADD", ()),
}
"""Colour of each kind of operation, and the names that :func:`vitral.record.kind` gives it."""


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Events between each of ``edges`` (cycles) and the next one, by counter."""

    edges: NDArray[np.int64]
    events: Mapping[str, NDArray[np.float64]]

    def rate(self, name: str) -> NDArray[np.float64]:
        """Return the events per cycle."""
        return self.events.get(name, np.zeros(len(self.edges) - 1)) / np.diff(self.edges)


def sampled(samples: Sequence[Mapping[str, int]], end: Mapping[str, int]) -> Activity:
    """Return what happened between samples of a core's counters, which end with ``end``."""
    rows = [dict.fromkeys(end, 0), *(one for one in samples if one["cycles"] < end["cycles"]), end]
    values = {name: np.array([row[name] for row in rows], np.int64) for name in end}
    return Activity(edges=values["cycles"], events={
        name: np.diff(value).astype(np.float64) for name, value in values.items()})


def modelled(cycles: Cycles, steps: int, bins: int = BINS) -> Activity:
    """Return what the cycle model says of the images of a run, ``steps`` operations each."""
    edges = np.unique(np.linspace(0, cycles.total, bins + 1).round().astype(np.int64))
    ends = [0, *cycles.completions[steps - 1::steps]][:cycles.modelled + 1]
    known, period = ends[-1], ends[-1] - ends[-2]
    again = np.maximum(0, -(-(edges - known) // period))
    events = {}
    for name, spans in cycles.spans.items():
        time = np.array([0, *(cycle for begin, end, _ in spans for cycle in (begin, end))])
        count = np.cumsum([0, *(part for *_, number in spans for part in (0, number))])
        last = np.interp([known - period, known], time, count)
        so_far = np.interp(edges - again * period, time, count) + again * (last[1] - last[0])
        events[name] = np.diff(so_far)
    return Activity(edges=edges, events=events)


def draw(path: Path, activity: Activity, program: Program, completions: Sequence[int],
         result: Mapping[str, Any]) -> bytes:
    """Return the picture of a run, in the format that ``path`` ends in.

    ``completions`` are the cycles at which the operations of all images ended, ``result`` is that
    of ``docs/json.md``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
        axes = figure.subplots(5, 1, sharex=True, height_ratios=[0.45, 3, 0.9, 0.9, 1.5],
                               gridspec_kw=dict(left=0.065, right=0.8, top=0.86, bottom=0.075,
                                                hspace=0.13))
        strip, array, softmax, norm, memory = axes
        figure.text(0.065, 0.963, title(result, completions), fontsize=15, weight="bold",
                    va="center")
        _operations(strip, program, completions)
        _array(array, activity, result["utilisation"])
        for axis, name, colour, text in ((softmax, "softmax", PINK, "softmax"),
                                         (norm, "norm", GREEN, "LayerNorm")):
            rate = activity.rate(name)
            share = np.sum(activity.events[name]) / activity.edges[-1]
            _steps(axis, activity.edges, rate, colour, f"{text} busy, {share:.1%}")
            axis.set(ylim=(0, 1), yticks=[0, 1], yticklabels=["0", "100%"])
        _memory(memory, activity, result["parameters"]["memory_bytes"])
        for axis in axes:
            _marks(axis, program, completions, named=axis is strip)
            if axis is not strip:
                axis.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False,
                            fontsize=11, handlelength=1.2, labelspacing=0.35)
        memory.set_xlim(0, completions[-1])
        memory.set_xlabel("cycles")
        memory.xaxis.set_major_formatter("{x:,.0f}")
        return rendered(figure, path)


def title(result: Mapping[str, Any], completions: Sequence[int]) -> str:
    """Return what the picture shows, in a line."""
    size, images = result["parameters"], result["images"]
    how = "RTL" if result["engine"] == "rtl" else "cycle model"
    array = f"{size['rows']} x {size['columns']} x {size['depth']} MACs"
    return (f"{result['model']} on {result['design']} {result['preset']} ({array}), {how}, "
            f"{images} image{'s' * (images > 1)}: {completions[-1]:,} cycles, "
            f"utilisation {result['utilisation']:.1%}")


def _steps(axis: Any, edges: NDArray[Any], rate: NDArray[Any], colour: str, label: str,
           below: Any = 0.0) -> None:
    """Fill between ``below`` and ``below + rate``, in steps."""
    bottom = np.broadcast_to(below, rate.shape)
    axis.fill_between(edges, [*bottom, bottom[-1]], [*(bottom + rate), bottom[-1] + rate[-1]],
                      step="post", color=colour, linewidth=0, label=label)


def _operations(axis: Any, program: Program, completions: Sequence[int]) -> None:
    """Draw each operation from the completion of the one before to its own."""
    names = [step.name for step in program.steps]
    group_of = {name: group for group, (_, names_) in OPERATIONS.items() for name in names_}
    bars: dict[str, list[tuple[int, int]]] = {group: [] for group in OPERATIONS}
    for n, (begin, end) in enumerate(zip([0, *completions], completions)):
        group = bars[group_of.get(kind(names[n % len(names)]), "other")]
        if group and sum(group[-1]) == begin:
            begin = group.pop()[0]
        group.append((begin, end - begin))
    for group, parts in bars.items():
        axis.broken_barh(parts, (0, 1), color=OPERATIONS[group][0], linewidth=0)
        for begin, length in parts:
            if length > completions[-1] * 0.0065 * len(group):
                axis.text(begin + length / 2, 0.48, group, fontsize=10, ha="center", va="center")
    shown = [group for group, parts in bars.items() if parts]
    axis.set(ylim=(0, 1), yticks=[])
    axis.set_ylabel("operation", rotation=0, ha="right", va="center")
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(bottom=False)
    handles = [axis.fill_between([], [], color=OPERATIONS[group][0]) for group in shown]
    axis.figure.legend(handles, shown, loc="upper left", bbox_to_anchor=(0.065, 0.937), ncols=9,
                       frameon=False, fontsize=11, handlelength=1.2, borderaxespad=0,
                       columnspacing=1.4, borderpad=0)


def _array(axis: Any, activity: Activity, utilisation: float) -> None:
    """Draw what becomes of the array's cycles, stacked up to all of them."""
    total = activity.edges[-1]
    below = activity.rate("busy")
    share = np.sum(activity.events["busy"]) / total
    _steps(axis, activity.edges, below, BLUE, f"busy, {share:.1%}")
    for name, (colour, text) in CAUSES.items():
        lost = np.sum(activity.events.get(name, 0.0))
        if lost:
            rate = activity.rate(name)
            _steps(axis, activity.edges, rate, colour, f"{text}, {lost / total:.1%}", below)
            below = below + rate
    axis.axhline(utilisation, color="white", linewidth=3)
    axis.axhline(utilisation, color="black", linewidth=1, linestyle="--",
                 label=f"utilisation, {utilisation:.1%}")
    axis.set(ylim=(0, 1), yticks=[0, 0.25, 0.5, 0.75, 1],
             yticklabels=["0", "25%", "50%", "75%", "100%"], ylabel="array")


def _memory(axis: Any, activity: Activity, beat: int) -> None:
    """Draw the bytes read and written per cycle, written on top of read."""
    below = np.zeros(len(activity.edges) - 1)
    for name, colour, text in (("beats_read", BLUE, "read"), ("beats_written", RED, "written")):
        size = np.sum(activity.events[name]) * beat
        amount = f"{size / 1e6:,.2f} MB" if size >= 1e6 else f"{size:,.0f} bytes"
        rate = activity.rate(name) * beat
        _steps(axis, activity.edges, rate, colour, f"{text}, {amount}", below)
        below = below + rate
    axis.axhline(beat, color=GREY, linewidth=1, linestyle=":", label=f"port, {beat} bytes a cycle")
    axis.set(ylim=(0, beat * 1.08), yticks=[0, beat / 2, beat], ylabel="bytes per cycle")


def _marks(axis: Any, program: Program, completions: Sequence[int], *, named: bool) -> None:
    """Draw a line where an image or a block begins, and say which, where there is room."""
    steps, images = len(program.steps), len(completions) // len(program.steps)
    starts = [0, *completions]
    blocks = [re.match(r"blocks\.(\d+)\.", step.name) for step in program.steps]
    numbers = [None if match is None else int(match[1]) for match in blocks]
    begins = {number: n for n, number in reversed([*enumerate(numbers)]) if number is not None}
    room = completions[-1] * 0.03
    for image in range(images):
        if images > 1:
            at = starts[image * steps]
            axis.axvline(at, color="black", linewidth=1.2, zorder=3)
            if named:
                word = "image " * (completions[-1] / images > 2 * room)
                axis.annotate(f"{word}{image}", (at, 1), (3, 3), textcoords="offset points",
                              fontsize=10, va="bottom")
        if images * len(begins) > 64:
            continue
        for number, n in begins.items():
            at = starts[image * steps + n]
            axis.axvline(at, color="black", linewidth=0.6, linestyle=(0, (4, 3)), zorder=3)
            if named and images == 1:
                axis.annotate(f"block {number}" if len(begins) < 16 else f"{number}",
                              (at, 1), (2, 3), textcoords="offset points", fontsize=10, va="bottom")


