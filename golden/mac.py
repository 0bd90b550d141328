# SPDX-License-Identifier: Apache-2.0
"""The MAC line and the MAC array that every design is built around."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from golden.fixed import Integers, integers, signed_width
from golden.validate import choice, integer, require


@dataclass(frozen=True, kw_only=True)
class MacSpec:
    """A grid of ``rows`` x ``columns`` MAC lines of ``depth`` multipliers each.

    Line (r, c) multiplies the ``depth`` numbers of row operand ``a[r]`` with those of column
    operand ``b[c]``. In *dot* mode (inter-PE) it adds the products into one accumulator,
    ``acc[r, c] += sum_k a[r, k] * b[c, k]``; in *lanes* mode (intra-PE) it keeps ``depth`` of them
    side by side, ``acc[r, c, k] += a[r, k] * b[c, k]``. Rows can be split at run time into two
    groups that start, accumulate and finish on their own (``split`` rows belong to the first one).

    Parameters
    ----------
    rows, columns : lines of the grid; operands are broadcast along rows and columns.
    depth : multipliers of a line.
    a_width, b_width : signed operand bits; 9 holds signed and unsigned 8-bit activations alike.
    acc_width : signed accumulator bits; must hold ``max_contraction`` products.
    max_contraction : longest sum, for the check of ``acc_width``.
    modes : the modes that are built, of ``dot`` and ``lanes``.
    splittable : whether the rows can be split into two groups at run time.
    multiplier : ``inferred`` leaves the products to the synthesis tool, which has multipliers on an
        FPGA; ``booth`` (dot mode alone) adds the partial products of a whole line at once, with
        the Booth digits of ``b`` found once per column: a third fewer gates, slower to emit and
        to simulate.

    Source: ViTCoD (arXiv:2210.09573) section 5 for the inter-/intra-PE line, Trio-ViT
    (arXiv:2405.03882) for the split engines, Wang and Chang (arXiv:2205.03998) for the row-wise dot
    product; Booth's digits are textbook, their sharing along a column is ours.
    """

    rows: int = 8
    columns: int = 8
    depth: int = 8
    a_width: int = 9
    b_width: int = 8
    acc_width: int = 32
    max_contraction: int = 4096
    modes: tuple[str, ...] = ("dot",)
    splittable: bool = False
    multiplier: str = "inferred"

    LATENCY = 4

    def __post_init__(self):
        integer("rows", self.rows, 1, 256)
        integer("columns", self.columns, 1, 256)
        integer("depth", self.depth, 1, 256)
        integer("a_width", self.a_width, 2, 18)
        integer("b_width", self.b_width, 2, 18)
        integer("acc_width", self.acc_width, 2, 48)
        integer("max_contraction", self.max_contraction, 1)
        object.__setattr__(self, "modes", tuple(self.modes))
        require(bool(self.modes), "modes must name dot, lanes or both, not ()")
        for mode in self.modes:
            choice("modes", mode, ("dot", "lanes"))
        choice("splittable", self.splittable, (False, True))
        choice("multiplier", self.multiplier, ("inferred", "booth"))
        require(self.multiplier == "inferred" or "lanes" not in self.modes,
                "multiplier must be inferred when lanes are built, not 'booth'")
        largest = self.max_contraction << (self.a_width + self.b_width - 2)
        need = signed_width(-largest, largest)
        require(self.acc_width >= need,
                f"acc_width must be at least {need} for max_contraction {self.max_contraction}, "
                f"not {self.acc_width}")

    @property
    def macs(self) -> int:
        """Multipliers of the array."""
        return self.rows * self.columns * self.depth

    @property
    def groups(self) -> int:
        """Groups of rows that are steered on their own."""
        return 2 if self.splittable else 1

    @property
    def accumulators(self) -> int:
        """Accumulators of a line; in dot mode the first one holds the sum."""
        return self.depth if "lanes" in self.modes else 1

    @property
    def sum_width(self) -> int:
        """Signed bits of the sum of a line's products."""
        largest = self.depth << (self.a_width + self.b_width - 2)
        return signed_width(-largest, largest)

    def dot(self, a: ArrayLike, b: ArrayLike, acc: ArrayLike = 0) -> Integers:
        """Return ``acc`` (rows, columns) after steps in dot mode.

        ``a`` is (steps, rows, depth), ``b`` is (steps, columns, depth).
        """
        return integers(acc) + np.einsum("srk,sck->rc", integers(a), integers(b))

    def lanes(self, a: ArrayLike, b: ArrayLike, acc: ArrayLike = 0) -> Integers:
        """Return ``acc`` (rows, columns, depth) after the same steps in lanes mode."""
        return integers(acc) + np.einsum("srk,sck->rck", integers(a), integers(b))

    def cycles(self, steps: int) -> int:
        """Return the cycles from the first of ``steps`` steps in to the last sum out, unstalled."""
        return steps + self.LATENCY
