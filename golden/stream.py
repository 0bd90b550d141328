# SPDX-License-Identifier: Apache-2.0
"""Streams whose payloads change their shape on the way."""

from collections.abc import Sequence
from dataclasses import dataclass

from golden.fixed import ceil_div
from golden.validate import integer, require


@dataclass(frozen=True, kw_only=True)
class WidthConverterSpec:
    """Cut words of ``in_width`` bits into words of ``out_width``, or join them, little end first.

    One width must be a multiple of the other. Words that do not fill an output word stay inside.

    Parameters
    ----------
    in_width, out_width : bits of the words that enter and that leave.
    """

    in_width: int = 64
    out_width: int = 512

    LATENCY = 1

    def __post_init__(self):
        integer("in_width", self.in_width, 1, 65536)
        integer("out_width", self.out_width, 1, 65536)
        low, high = sorted((self.in_width, self.out_width))
        require(high % low == 0, f"in_width and out_width must divide one another, "
                                 f"not {self.in_width} and {self.out_width}")

    @property
    def narrow(self) -> int:
        """Bits of the narrower side."""
        return min(self.in_width, self.out_width)

    @property
    def parts(self) -> int:
        """Narrow words in a wide one."""
        return max(self.in_width, self.out_width) // self.narrow

    def compute(self, words: Sequence[int]) -> list[int]:
        """Convert ``words``; plain integers, because words may be wider than 64 bits."""
        everything = sum(int(word) << n * self.in_width for n, word in enumerate(words))
        count, mask = len(words) * self.in_width // self.out_width, (1 << self.out_width) - 1
        return [everything >> n * self.out_width & mask for n in range(count)]

    def cycles(self, words: int) -> int:
        """Return the cycles from the first of ``words`` words in to the last word out, unstalled.

        The narrow side moves a word each cycle, and a word appears ``LATENCY`` cycles after the
        last of its bits.
        """
        return ceil_div(words * self.in_width, self.narrow) + self.LATENCY
