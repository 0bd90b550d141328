# SPDX-License-Identifier: Apache-2.0
"""Draw by how much each kind of pruning reduces the bytes that attention reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitral.pictures import BLUE, GREY, LIGHT, RED, STYLE, rendered

__all__ = ["WORDS", "draw"]

WORDS = {
    "dense, 32 bit": "all keys and values, 32 bit",
    "dense, 12 bit": "in 12 bit",
    "tokens": "without the tokens that left",
    "values": "only the values of the likeliest keys",
    "high bits": "only the high bits",
    "low bits": "low bits of the keys where needed",
    "moved": "in whole beats, with queries",
}
"""What each step of :func:`vitral.trace.reduction` is, for a reader."""


def draw(path: Path, result: Mapping[str, Any]) -> bytes:
    """Return the picture of a trace's result, in the format that ``path`` ends in.

    Bytes are on a logarithmic axis: a step's length is its factor, and the steps add up to the
    whole.
    """
    import matplotlib
    from matplotlib.figure import Figure

    steps = list(result["reduction"].items())
    sizes = [size / 1e6 for _, size in steps]
    low, high = min(sizes) / 2.5, max(sizes)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 5.6), dpi=120)
        axis = figure.subplots(gridspec_kw=dict(left=0.27, right=0.9, top=0.85, bottom=0.11))
        for n, size in enumerate(sizes):
            before = sizes[n - 1] if n else size
            less, more = min(before, size), max(before, size)
            axis.barh(n, less - low, left=low, color=GREY if n in (0, len(sizes) - 1) else LIGHT,
                      height=0.62)
            axis.barh(n, more - less, left=less, color=BLUE if size < before else RED, height=0.62)
            if n:
                axis.plot([before, before], [n - 0.69, n + 0.31], color="black", linewidth=0.8)
                inside = before / size > 1.5
                factor = (f"÷ {before / size:.2f}" if size <= before else
                          f"\N{MULTIPLICATION SIGN} {size / before:.2f}")
                axis.text((less * more)**0.5 if inside else more * 1.04, n, factor,
                          color="white" if inside else BLUE if size <= before else RED,
                          weight="bold", ha="center" if inside else "left", va="center")
            axis.text(less / 1.04, n, _size(size), ha="right", va="center",
                      color="white" if n in (0, len(sizes) - 1) else "black")
        axis.set_xscale("log")
        axis.set_xlim(low, high * 1.05)
        axis.set_yticks(range(len(steps)), [WORDS[name] for name, _ in steps])
        axis.tick_params(axis="y", length=0)
        axis.invert_yaxis()
        axis.set_xlabel("MB read, logarithmic")
        axis.xaxis.set_major_formatter("{x:,g}")
        whole = sizes[0] / sizes[-1]
        figure.text(0.02, 0.94, f"{result['trace']} on {result['design']} {result['preset']}, "
                    f"{result['iterations']} tokens generated: {whole:.1f} times fewer bytes",
                    fontsize=14, weight="bold", va="center")
        return rendered(figure, path)


def _size(megabytes: float) -> str:
    """Return a size with three digits."""
    digits = max(0, 2 - len(f"{megabytes:.0f}") + (megabytes >= 1))
    return f"{megabytes:,.{digits}f} MB" if megabytes >= 0.1 else f"{megabytes * 1e6:,.0f} bytes"
