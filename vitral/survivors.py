# SPDX-License-Identifier: Apache-2.0
"""Draw which patches of an image are left after each block."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.vit import IntegerVit
from vitral.pictures import ORANGE, STYLE, rendered

__all__ = ["draw", "visible"]

COLUMNS = 4
"""Panels side by side."""
GONE = np.array([0.0, 0.18, 0.28])
"""Colour that patches which are gone are mixed with, three parts to one."""


def visible(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return an image (channels, height, width) as (height, width, 3) colours from 0 to 1."""
    low, high = float(image.min()), float(image.max())
    bright = (image.astype(np.float64) - low) / (high - low or 1.0)
    bright = bright if len(bright) == 3 else np.repeat(bright.mean(0, keepdims=True), 3, 0)
    return bright.transpose(1, 2, 0)


def draw(path: Path, image: NDArray[np.floating], network: IntegerVit,
         kept: Mapping[int, Sequence[int]], result: Mapping[str, Any]) -> bytes:
    """Return the picture of the first image of a run, in the format that ``path`` ends in.

    ``kept`` are the tokens that are left after blocks. Panels are the image and, for each of these
    blocks that changed the set, the image with the patches darkened that are gone.
    """
    import matplotlib
    from matplotlib.figure import Figure

    patch, prefix, tokens = network.patch, network.prefix, network.tokens
    side = image.shape[-1] // patch
    panels, left = [(f"image\n{tokens} tokens", np.ones((side, side), bool))], tokens
    for block, survivors in sorted(kept.items()):
        if len(survivors) == left:
            continue
        left, there = len(survivors), np.zeros(side * side, bool)
        there[np.asarray(survivors)[prefix:] - prefix] = True
        panels.append((f"after block {block}\n{left} tokens, {left / tokens:.0%}",
                       there.reshape(side, side)))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    colours = visible(image)
    panel, above = 3.3, 0.7  # inches: of an image, and for what stands above it
    width, height = max(7.2, (panel + 0.2) * columns), 0.4 + (above + panel) * rows
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=120)
        figure.suptitle(_title(result), fontsize=14 if columns > 2 else 12, weight="bold",
                        y=1 - 0.12 / height)
        axes = np.ravel(figure.subplots(rows, columns, squeeze=False, gridspec_kw=dict(
            left=0.01, right=0.99, bottom=0.1 / height, top=1 - (0.3 + above) / height,
            wspace=0.05, hspace=above / panel)))
        for axis, (text, there) in zip(axes, panels):
            pixels = np.repeat(np.repeat(there, patch, 0), patch, 1)[..., None]
            axis.imshow(np.where(pixels, colours, colours / 4 + GONE * 0.75),
                        interpolation="nearest", extent=(0, side, side, 0))
            axis.set_title(text, fontsize=12)
            _outline(axis, there)
        for axis in axes:
            axis.set_axis_off()
        return rendered(figure, path)


def _title(result: Mapping[str, Any]) -> str:
    """Return what the picture shows, in a line."""
    prune = result["prune"]
    label = "" if not result["labels"] else f" (label {result['labels'][0]})"
    return (f"{result['model']} on {result['design']}: class {result['predictions'][0]}{label}, "
            f"tokens by {prune['source']} "
            f"{'scores' if prune['source'] == 'external' else 'attention'}")


def _outline(axis: Any, there: NDArray[np.bool_]) -> None:
    """Draw the border between patches that are left and others, the image's edge included."""
    edge = np.pad(there, 1)
    rows, columns = np.nonzero(edge[1:, 1:-1] != edge[:-1, 1:-1])
    axis.hlines(rows, columns, columns + 1, color=ORANGE, linewidth=1.2)
    rows, columns = np.nonzero(edge[1:-1, 1:] != edge[1:-1, :-1])
    axis.vlines(columns, rows, rows + 1, color=ORANGE, linewidth=1.2)
