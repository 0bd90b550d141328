# SPDX-License-Identifier: Apache-2.0
"""Tokens that leave become one: the sum of their rows, each times its importance."""

from dataclasses import dataclass
from functools import cached_property

from numpy.typing import ArrayLike

from golden.fixed import Integers, ceil_div, integers, signed_width
from golden.importance import ImportanceSpec
from golden.requant import RequantSpec
from golden.validate import integer, power_of_two


@dataclass(frozen=True, kw_only=True)
class FuseSpec:
    """``y = saturate((sum_j w_j * x_j * mul + 2**(shift-1)) >> shift)``: halves round up.

    Rows ``x_j`` are signed 16 bit, weights ``w_j`` the unsigned 16-bit importance of
    :class:`~golden.importance.ImportanceSpec`, whose ``mean`` gives ``mul`` and ``shift``; the sum
    is exact, and rounded once.

    Rows arrive and the sum leaves in words of ``lanes`` elements. Rows are added at a word per
    cycle (one of a single word every other cycle); the sum leaves element by element.

    Parameters
    ----------
    lanes : elements per word, a power of two.
    max_tokens : tokens of which all but one can be fused.
    max_width : longest row.

    Source: Liang et al., EViT, ICLR 2022 (arXiv:2202.07800), section 3.2.
    """

    lanes: int = 8
    max_tokens: int = 200
    max_width: int = 768

    WIDTH = 16
    """Bits of an element, in and out."""
    LATENCY = 6
    """Cycles from the last row's last word in to the sum's first word out, less ``lanes``."""

    def __post_init__(self):
        power_of_two("lanes", self.lanes, 2, 256)
        integer("max_tokens", self.max_tokens, 1, 4096)
        integer("max_width", self.max_width, 1, 4096)

    @property
    def max_words(self) -> int:
        """Words of the longest row."""
        return ceil_div(self.max_width, self.lanes)

    @property
    def acc_width(self) -> int:
        """Signed bits of a sum."""
        largest = max(1, self.max_tokens - 1) * ((1 << ImportanceSpec.WIDTH) - 1) << self.WIDTH - 1
        return signed_width(-largest, largest)

    @property
    def memory_bits(self) -> int:
        """Bits of the memory of sums: one row."""
        return self.max_words * self.lanes * self.acc_width

    @cached_property
    def requant(self) -> RequantSpec:
        """The requantiser: one element per cycle."""
        return RequantSpec(lanes=1, acc_width=self.acc_width, out_width=self.WIDTH)

    def cycles(self, width: int) -> int:
        """Return the cycles from the last row's last word in to the sum's last word out.

        ``ceil(width / lanes) * lanes + LATENCY`` when nothing stalls.
        """
        return ceil_div(width, self.lanes) * self.lanes + self.LATENCY

    def compute(self, x: ArrayLike, weights: ArrayLike, mul: int, shift: int) -> Integers:
        """Return the fused row (width,) of rows (tokens, width) with weights (tokens,)."""
        acc = (integers(weights)[:, None] * integers(x)).sum(0)
        return self.requant.compute(acc, mul, shift)
