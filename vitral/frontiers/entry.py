# SPDX-License-Identifier: Apache-2.0
"""What a design measures when more and more is left out, and the picture of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.zoo import Model
from vitral.compile import Program
from vitral.sparse import Sparsity

__all__ = ["Frontier", "Group", "Measured", "Saving", "picture"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What images with one setting left.

    Parameters
    ----------
    name, sparsity : the setting.
    program : what was run.
    work : of each operation of each image.
    attention : of each image, what :class:`vitral.designs.Design` says of its attention.
    correct, images : images classified correctly, of how many.
    cycles : predicted per image, mean over the first images.
    """

    name: str
    sparsity: Sparsity
    program: Program
    work: Sequence[Any]
    attention: Sequence[Mapping[str, Any]]
    correct: int
    images: int
    cycles: float


@dataclass(frozen=True)
class Saving:
    """What accuracy is drawn against: a point and the dense one to a part from 0 to 1.

    ``paper`` is what the paper says, if anything.
    """

    title: str
    of: Callable[[Any, Any], float]
    paper: float | None = None


@dataclass(frozen=True)
class Group:
    """Points that are drawn alike, and which these are."""

    title: str
    mark: str
    colour: str
    has: Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What is measured of one design.

    Parameters
    ----------
    design, model : its name, and the network if none is named.
    settings : model to the settings to compare, by name; the first is the dense network.
    point : what was measured to a dataclass with ``name``, ``correct`` and ``images``, and what
        else the design measures.
    columns : title, and a point and the dense one to text.
    paper : further rows of the table, cell by cell.
    savings, groups : of the picture, in which the loss of ``limit`` points is a line or, where
        the paper has a figure, a star.
    """

    design: str
    model: str
    settings: Callable[[Model], list[tuple[str, Sparsity]]]
    point: Callable[[Measured], Any]
    columns: Sequence[tuple[str, Callable[[Any, Any], str]]]
    paper: Sequence[Sequence[str]] = ()
    savings: Sequence[Saving]
    groups: Sequence[Group]
    limit: float
    limit_title: str


def picture(frontier: Frontier, name: str, measured: Sequence[Any], path: Path) -> None:
    """Draw accuracy against what is saved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dense, panels = measured[0], len(frontier.savings)
    size = (11 if panels < 3 else 1 + 4.4 * panels, 4.6)
    figure = Figure(figsize=size, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, panels, sharey=True)
    limit = 100 * dense.correct / dense.images - frontier.limit
    for axis, saving in zip(axes, frontier.savings):
        for group in frontier.groups:
            chosen = [one for one in measured if group.has(one) and (
                one is dense or saving.of(one, dense))]  # not what saves nothing of the kind
            axis.plot([100 * saving.of(one, dense) for one in chosen],
                      [100 * one.correct / one.images for one in chosen], group.mark,
                      color=group.colour, label=group.title, markersize=7)
        line = axis.axhline(limit, color="#999999", linestyle="--", linewidth=1)
        if saving.paper is None:
            line.set_label(frontier.limit_title)
        else:
            axis.plot([100 * saving.paper], [limit], "*", color="#000000", markersize=13,
                      label=frontier.limit_title)
        axis.set_xlabel(f"{saving.title} (%)")
        axis.set_xlim(-3, 100)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"correct of {dense.images} held-out images (%)")
    if panels > 2:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center",
                      frameon=False)
    else:
        axes[0].legend(loc="lower left", frameon=False)
    figure.suptitle(f"{name}: accuracy against savings over its dense self")
    with np.errstate(all="ignore"):
        canvas.print_figure(path, dpi=120)
