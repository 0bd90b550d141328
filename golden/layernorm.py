# SPDX-License-Identifier: Apache-2.0
"""LayerNorm of 16-bit rows by exact moments and an integer reciprocal square root."""

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np
from numpy.typing import ArrayLike

from golden.fixed import Integers, bounds, ceil_div, integers, round_shift, saturate, signed_width
from golden.reciprocal import log2_floor
from golden.validate import integer, require


@dataclass(frozen=True, kw_only=True)
class LayerNormSpec:
    """``y = gamma * (x - mean) / sigma + beta`` of rows of ``width`` elements, in integers.

    With ``rs(a, s)`` for ``a / 2**s`` rounded half up:

    1. ``S1 = sum x``, ``S2 = sum x**2``, ``v = width * S2 - S1**2``: exact, never negative.
    2. ``e = floor(log2 v) // 2`` and ``m = (v << 14) >> 2e``, in ``[2**14, 2**16)``;
       ``r = value[i] - drop[i] * (m % 512) // 512`` with ``i = m // 512 - 32``: one of 96 segments
       of ``2**22 / sqrt(m)``, so that ``1 / sqrt(v) ~ r / 2**(15 + e)``.
    3. ``a = rs(width * r, h)``, at most ``2**15 - 1``; ``h`` makes it 15 bits: with ``n`` the bits
       of ``width``, ``h`` is ``n`` if ``width * r >= 2**(n + 14)``, else ``n - 1``.
    4. ``z = rs((x - x0) * a * 2**h - (S1 - width * x0) * r, e + 3)`` with ``x0`` the row's first
       element: the normalised element with 12 fraction bits; 0 for a constant row (``v = 0``),
       whose result is ``beta``.
    5. ``y = saturate(rs(z * gamma + (beta << 12), shift), 8)`` with ``shift = 12 + g`` where
       ``gamma`` and ``beta`` are signed 16 bit with ``g`` fraction bits of an output step.

    The row's mean is subtracted exactly; ``x0`` only keeps it exact when ``width * r`` is rounded
    to ``a``, which makes the multiplier of an element 16 by 16 bits instead of 16 by 26. Adding a
    constant to a row changes nothing. Within 1 LSB of the correctly rounded result, which 99.8 % of
    the elements equal: the smaller gamma is in output steps, the more, because ``z`` is rounded.

    Rows arrive and leave in words of ``lanes`` elements, element 0 in the lowest lane. In a row's
    last word the lanes beyond ``width`` hold 0, and come out as ``beta`` of that place makes them
    (``gamma`` 0 and ``beta`` 0 give 0).

    Parameters
    ----------
    lanes : elements per word.
    max_width : longest row.
    buffer_rows : rows of ``max_width`` that the row memory holds at least.

    Source: moments as in FQ-ViT (arXiv:2111.13824); figures in ``docs/numbers.md``.
    """

    lanes: int = 8
    max_width: int = 768
    buffer_rows: int = 3

    IN_WIDTH = 16
    OUT_WIDTH = 8
    PARAMETER_WIDTH = 16
    Z_FRACTION = 12
    MAX_SHIFT = 27  # 15 fraction bits of gamma and beta: finer ones would change no result
    ROW_CYCLES = 15  # between two short rows: the row constants share one multiplier
    LATENCY = 22  # from a row's last word in to its first word out, and 1

    def __post_init__(self):
        integer("lanes", self.lanes, 1, 256)
        integer("max_width", self.max_width, 1, 4096)
        integer("buffer_rows", self.buffer_rows, 1, 16)

    @property
    def max_words(self) -> int:
        """Words of the longest row."""
        return ceil_div(self.max_width, self.lanes)

    @property
    def buffer_words(self) -> int:
        """Words of the row memory. One row and what arrives during the row constants suffice."""
        return max(self.buffer_rows * self.max_words, self.max_words + self.ROW_CYCLES + 2)

    @property
    def memory_bits(self) -> dict[str, int]:
        """Bits of the memories."""
        return {"rows": self.buffer_words * self.lanes * self.IN_WIDTH,
                "parameters": self.max_words * self.lanes * 2 * self.PARAMETER_WIDTH}

    @property
    def count_width(self) -> int:
        """Unsigned bits of ``width``."""
        return self.max_width.bit_length()

    @property
    def sum_width(self) -> int:
        """Signed bits of ``S1``."""
        return self.IN_WIDTH + self.count_width

    @property
    def square_width(self) -> int:
        """Unsigned bits of ``S2``."""
        return (self.max_width << 30).bit_length()

    @property
    def variance_width(self) -> int:
        """Unsigned bits of ``v``: at most ``width**2 * 2**30``."""
        return (self.max_width**2 << 30).bit_length()

    @property
    def z_width(self) -> int:
        """Signed bits of ``z``: ``|z| <= sqrt(width) * 2**12``, and the rounding of ``r``."""
        largest = isqrt(self.max_width << 2 * self.Z_FRACTION)
        largest += (largest >> 11) + 2
        return signed_width(-largest, largest)

    @cached_property
    def segments(self) -> tuple[Integers, Integers]:
        """96 values and drops: chords of ``2**22 / sqrt(m)``, lowered by half of what they exceed.

        ``value`` has 15 bits, ``drop`` has 9.
        """
        # 2**18 / sqrt(j) with 8 fraction bits at the ends (even j) and the middle of each segment
        root = np.array([isqrt((1 << 52) // j) for j in range(64, 257)], dtype=np.int64)
        low, middle, high = root[:-1:2], root[1::2], root[2::2]
        return 3 * low + 2 * middle - high >> 10, round_shift(low - high, 8)

    def reciprocal_root(self, v: ArrayLike) -> tuple[Integers, Integers]:
        """Return ``(r, e)`` with ``1/sqrt(v) ~ r / 2**(15 + e)``; ``v`` positive."""
        v = integers(v)
        e = log2_floor(v) >> 1
        m = np.where(e >= 7, v >> np.maximum(2 * e - 14, 0), v << np.maximum(14 - 2 * e, 0))
        value, drop = self.segments
        index = (m >> 9) - 32
        return value[index] - (drop[index] * (m & 511) >> 9), e

    def normalise(self, x: ArrayLike) -> Integers:
        """Return ``z`` of rows ``x`` of shape (..., width)."""
        x = integers(x)
        width = x.shape[-1]
        require(1 <= width <= self.max_width,
                f"rows must have 1 to {self.max_width} elements, not {width}")
        s1 = x.sum(axis=-1, keepdims=True)
        v = width * (x * x).sum(axis=-1, keepdims=True) - s1 * s1
        r, e = self.reciprocal_root(np.maximum(v, 1))
        scale = width * r
        h = width.bit_length() - (scale < 1 << width.bit_length() + 14)
        a = np.minimum(round_shift(scale, h), bounds(16)[1])
        x0 = x[..., :1]
        return np.where(v > 0, round_shift((x - x0) * (a << h) - (s1 - width * x0) * r, e + 3), 0)

    def compute(self, x: ArrayLike, gamma: ArrayLike, beta: ArrayLike, shift: int) -> Integers:
        """Normalise ``x`` of shape (..., width); ``gamma`` and ``beta`` of shape (width,)."""
        integer("shift", shift, self.Z_FRACTION, self.MAX_SHIFT)
        biased = self.normalise(x) * integers(gamma) + (integers(beta) << self.Z_FRACTION)
        return saturate(round_shift(biased, shift), self.OUT_WIDTH)

    def cycles(self, rows: int, width: int) -> int:
        """Return the cycles from the first word of ``rows`` rows in to the last one out, unstalled.

        A row is received while its predecessor is normalised: rows follow each other at
        ``max(words, ROW_CYCLES)`` cycles.
        """
        words = ceil_div(width, self.lanes)
        return (rows - 1) * max(words, self.ROW_CYCLES) + 2 * words + self.LATENCY
