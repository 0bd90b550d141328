# SPDX-License-Identifier: Apache-2.0
"""Softmax by an exponent table, with the normalisation deferred to the output requantiser."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from golden.fixed import Integers, ceil_div, integers
from golden.reciprocal import ReciprocalSpec
from golden.table import TableSpec
from golden.validate import integer, power_of_two


@dataclass(frozen=True, kw_only=True)
class SoftmaxSpec:
    """Turn signed 8-bit scores into unsigned 8-bit exponents and one factor per row.

    For a row of ``n`` scores ``q``: ``p_j = table[max(q) - q_j]``, ``s = sum_j p_j``, and with
    :class:`~golden.reciprocal.ReciprocalSpec` ``(F, k) = reciprocal(s, mul)``. The probabilities
    are ``p_j / s``; they are never formed. Whoever accumulates ``acc = sum_j p_j * v_j`` with the
    same quantised exponents gets ``softmax(q) @ v * scale`` as
    ``requantise(acc, F, exponent + k)``, where ``scale = mul / 2**exponent``.

    Scores arrive as tiles of ``rows`` rows: column by column of ``lanes`` scores, and within a
    column row by row, which is how an output-stationary array finishes them. Exponents leave row
    by row, each row in ``ceil(n / lanes)`` words, with zeros in the lanes beyond ``n``.

    Parameters
    ----------
    rows : rows of a tile that arrive interleaved (1: rows one after the other).
    lanes : scores per word.
    max_keys : longest row.
    index_bits : bits of the reciprocal's index.
    load_entries : table entries that are written at once, a power of two.

    Source: ``docs/numbers.md``; deferred normalisation as in Milakov and Gimelshein
    (arXiv:1805.02867) and FlashAttention, here with one exact maximum per row.
    """

    rows: int = 8
    lanes: int = 8
    max_keys: int = 200
    index_bits: int = 8
    load_entries: int = 8

    SCORE_WIDTH = 8
    EXPONENT_WIDTH = 8

    def __post_init__(self):
        integer("rows", self.rows, 1, 256)
        integer("lanes", self.lanes, 1, 256)
        integer("max_keys", self.max_keys, 1, 65535)
        integer("index_bits", self.index_bits, 1, 10)
        power_of_two("load_entries", self.load_entries, 1, 256)

    @property
    def sum_width(self) -> int:
        """Bits of the sum of a row's exponents."""
        return (255 * self.max_keys).bit_length()

    @property
    def max_words(self) -> int:
        """Words of the longest row."""
        return ceil_div(self.max_keys, self.lanes)

    @property
    def reciprocal(self) -> ReciprocalSpec:
        """The reciprocal of a row's sum."""
        return ReciprocalSpec(sum_width=self.sum_width, index_bits=self.index_bits)

    @property
    def table_spec(self) -> TableSpec:
        """The exponent table: one entry for each difference of two scores."""
        return TableSpec(depth=1 << self.SCORE_WIDTH, width=self.EXPONENT_WIDTH,
                         lanes=self.lanes, load_entries=self.load_entries)

    @property
    def score_words(self) -> int:
        """Words of ``8 * lanes`` bits of the score memory: two tiles of the longest rows."""
        return 2 * self.rows * self.max_words

    @property
    def latency(self) -> int:
        """Cycles from a tile's last score to its first exponent: 5 for up to 8 lanes, 6 for 32.

        Reading, subtraction, table and mask take one each; the maximum of many lanes comes later.
        """
        return 5 + max(0, (self.lanes - 1).bit_length() // 2 - 1)

    @property
    def factor_latency(self) -> int:
        """Cycles from a row's last exponent to its factor: 6 for 8 to 32 lanes."""
        return 1 + (self.lanes - 1).bit_length() // 3 + self.reciprocal.LATENCY

    def cycles(self, keys: int, tiles: int = 1) -> int:
        """Return the cycles from the first score to the last factor of equal tiles, unstalled."""
        words = self.rows * ceil_div(keys, self.lanes)
        late = (self.latency - 5) * ((tiles - 1) // 2)  # a slot is refilled as soon as it is read
        return (tiles + 1) * words - 1 + self.latency + late + self.factor_latency

    @staticmethod
    def table(scale: float) -> Integers:
        """Return the 256 entries ``255 * exp(-d * scale)``, rounded half up; entry 0 is 255.

        ``scale`` is the real value of one step of a score.
        """
        return np.array([math.floor(255.0 * math.exp(-d * scale) + 0.5) for d in range(256)],
                        dtype=np.int64)

    def exponents(self, scores: ArrayLike, table: ArrayLike) -> Integers:
        """Return the exponents of scores of shape (..., n)."""
        scores = integers(scores)
        return integers(table)[scores.max(axis=-1, keepdims=True) - scores]

    def compute(self, scores: ArrayLike, table: ArrayLike,
                mul: int) -> tuple[Integers, Integers, Integers]:
        """Return exponents (..., n), factors ``F`` (...) and ``k`` (...) of scores (..., n)."""
        exponents = self.exponents(scores, table)
        factor, k = self.reciprocal.compute(exponents.sum(axis=-1), mul)
        return exponents, factor, k
