# SPDX-License-Identifier: Apache-2.0
"""How important each token is: the attention that it gets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from golden.fixed import Integers, ceil_div, integers, round_shift, saturate
from golden.reciprocal import ReciprocalSpec
from golden.validate import choice, integer, power_of_two


@dataclass(frozen=True, kw_only=True)
class ImportanceSpec:
    """Sum up softmax probabilities over the heads of a layer, key by key.

    A row of unsigned 8-bit exponents ``p`` with sum ``s`` contributes to key ``j`` its probability
    in steps of ``2**-FRACTION``: ``round(p_j * r / 2**(3 + k))`` with ``(r, k)`` the reciprocal of
    ``s``, so ``r / 2**(17 + k)`` is about ``1 / s``. Without the reciprocal the heads would not
    weigh the same. Sums saturate.

    ``source`` says which rows contribute: ``class`` the class token alone, so that the importance
    of token ``j`` is what the class token attends to it, summed over heads (as in EViT); ``column``
    all of them (as in SpAtten), and the importance is the sum divided by ``2**COLUMN_SHIFT``.

    Parameters
    ----------
    max_keys : most keys.
    lanes : exponents of a row that arrive at once, a power of two.
    source : ``class`` or ``column``.
    sum_width, index_bits : of the softmax and its reciprocal.

    Source: Liang et al., EViT, ICLR 2022 (arXiv:2202.07800), section 3.1, for the class token's
    attention; Wang et al., SpAtten, HPCA 2021 (arXiv:2012.09852), section III-A, for column sums.
    """

    max_keys: int = 200
    lanes: int = 8
    source: str = "class"
    sum_width: int = 16
    index_bits: int = 8

    WIDTH = 16
    """Bits of an importance."""
    FRACTION = 14
    """Bits of it that are fraction, for ``class``; ``FRACTION - COLUMN_SHIFT`` for ``column``."""
    COLUMN_SHIFT = 8
    SOURCES = ("class", "column")
    SERIAL = 12
    """Cycles for each key, for ``class``: read, load, 8 bits of the exponent, round, add."""
    ROWS = 4
    """Rows that wait or are added at the same time, for ``column``."""

    def __post_init__(self):
        integer("max_keys", self.max_keys, 2, 65535)
        power_of_two("lanes", self.lanes, 1, 256)
        choice("source", self.source, ("none", *self.SOURCES))
        _ = self.reciprocal

    @property
    def shift(self) -> int:
        """Bits of a sum below its importance."""
        return self.COLUMN_SHIFT if self.source == "column" else 0

    @property
    def sum_bits(self) -> int:
        """Bits of a sum."""
        return self.WIDTH + self.shift

    @property
    def parallel(self) -> int:
        """Keys added at the same time."""
        return self.lanes if self.source == "column" else 1

    @property
    def row_words(self) -> int:
        """Words of exponents that wait: a row, or for ``column`` two."""
        return ceil_div(self.max_keys, self.lanes) * (2 if self.source == "column" else 1)

    @property
    def sum_words(self) -> int:
        """Words of ``parallel`` sums."""
        return ceil_div(self.max_keys, self.parallel)

    @property
    def memory_bits(self) -> dict[str, int]:
        """Bits of each memory."""
        return {"sums": self.sum_words * self.parallel * self.sum_bits,
                "rows": self.row_words * self.lanes * 8}

    def cycles(self, keys: int) -> int:
        """Return the cycles from a row's reciprocal until its last sum can be read.

        ``12 * keys + 1`` for ``class``, ``ceil(keys / lanes) + 5`` for ``column``.
        """
        return (ceil_div(keys, self.lanes) + 5 if self.source == "column"
                else self.SERIAL * keys + 1)

    @property
    def reciprocal(self) -> ReciprocalSpec:
        """The reciprocal of the softmax."""
        return ReciprocalSpec(sum_width=self.sum_width, index_bits=self.index_bits)

    def contribution(self, exponents: ArrayLike, first_row: int = 0) -> Integers:
        """Return what rows of exponents (rows, keys) add to the keys (keys,).

        ``first_row`` is the number of the first of them; the class token is row 0.
        """
        exponents = integers(exponents)
        if self.source == "class":
            exponents = exponents[:max(0, 1 - first_row)]
        r, k = self.reciprocal.lookup(np.maximum(exponents.sum(-1, keepdims=True), 1))
        return round_shift(exponents * r, 3 + k).sum(0)

    def add(self, sums: ArrayLike, exponents: ArrayLike, first_row: int = 0) -> Integers:
        """Return the sums (keys,) after rows of exponents (rows, keys)."""
        return saturate(integers(sums) + self.contribution(exponents, first_row), self.sum_bits,
                        signed=False)

    def importance(self, sums: ArrayLike) -> Integers:
        """Return the unsigned 16-bit importance of each key."""
        return integers(sums) >> self.shift

    def mean(self, heads: int, tokens: int) -> tuple[int, int]:
        """Return ``mul`` and ``shift`` that turn importance into a mean attention.

        ``class``: over the heads; ``column``: over heads and ``tokens`` rows. ``mul`` has 16 bits,
        the top one set, or is rounded up to that.
        """
        count = heads * (tokens if self.source == "column" else 1)
        shift = 15 + (count - 1).bit_length()
        mul = ((2 << shift) // count + 1) >> 1
        return min(mul, (1 << 16) - 1), shift + self.FRACTION - self.shift

    def level(self, importance: float) -> int:
        """Return a real importance, in probabilities summed over heads (and rows), as an integer.

        Rounded half up and saturated.
        """
        scale = 1 << self.FRACTION - self.shift
        return int(saturate(int(importance * scale + 0.5), self.WIDTH, signed=False))
