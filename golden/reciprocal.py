# SPDX-License-Identifier: Apache-2.0
"""Normalise and look up: the reciprocal of a sum, and of a square root."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from golden.fixed import Integers, integers, round_shift
from golden.validate import integer


def log2_floor(values: ArrayLike) -> Integers:
    """Return the index of the leading one of each positive integer (exact up to 2**62)."""
    values = integers(values)
    if np.any(values <= 0):
        raise ValueError("values must be positive")
    index = np.zeros_like(values)
    for step in (32, 16, 8, 4, 2, 1):
        above = (values >> step) > 0
        index += np.where(above, step, 0)
        values = np.where(above, values >> step, values)
    return index


@dataclass(frozen=True, kw_only=True)
class ReciprocalSpec:
    """``F / 2**(exponent + k) ~ scale / s``: one table look-up and one multiplication.

    With ``k = floor(log2 s)`` and ``idx`` the ``index_bits`` bits below the leading one (zeros
    where ``s`` is short), ``r = table[idx]`` is ``2**17 / (1 + (idx + 1/2) / 2**index_bits)``
    rounded half up and at most ``2**17 - 1``, and ``F = (r * mul + 2**16) >> 17`` fits the 16-bit
    multiplier of the requantiser. ``scale = mul / 2**exponent``: a constant of the layer.

    Relative error below ``2**-(index_bits + 1) + 2**-14`` where ``mul`` uses 16 bits.

    Parameters
    ----------
    sum_width : unsigned bits of ``s``.
    index_bits : bits of the table's index.
    mul_width : unsigned bits of ``mul``.

    Source: ``docs/numbers.md``; normalise-and-look-up division is textbook (Parhami, ch. 16).
    """

    sum_width: int = 16
    index_bits: int = 8
    mul_width: int = 16

    FACTOR_WIDTH = 16
    LATENCY = 4

    def __post_init__(self):
        integer("sum_width", self.sum_width, 2, 40)
        integer("index_bits", self.index_bits, 1, 10)
        integer("mul_width", self.mul_width, 2, 16)

    @property
    def exponent_width(self) -> int:
        """Unsigned bits of ``k``."""
        return (self.sum_width - 1).bit_length()

    def cycles(self, payloads: int) -> int:
        """Return the cycles from the first payload in to the last one out, nothing stalling."""
        return payloads + self.LATENCY

    @cached_property
    def table(self) -> Integers:
        """The ``2**index_bits`` entries of ``r``, 17 bits each, computed exactly in integers."""
        index = np.arange(1 << self.index_bits, dtype=np.int64)
        numerator = 1 << (18 + self.index_bits)  # 2**17 * 2 * 2**index_bits
        denominator = (2 << self.index_bits) + 2 * index + 1
        return np.minimum((2 * numerator + denominator) // (2 * denominator), (1 << 17) - 1)

    def lookup(self, s: ArrayLike) -> tuple[Integers, Integers]:
        """Return ``(r, k)`` of each positive sum: ``r / 2**(17 + k)`` is about ``1 / s``."""
        s = integers(s)
        k = log2_floor(s)
        index = np.where(k >= self.index_bits, s >> np.maximum(k - self.index_bits, 0),
                         s << np.maximum(self.index_bits - k, 0)) - (1 << self.index_bits)
        return self.table[index], k

    def compute(self, s: ArrayLike, mul: ArrayLike) -> tuple[Integers, Integers]:
        """Return ``(F, k)`` of each positive sum ``s``; ``mul`` broadcasts."""
        r, k = self.lookup(s)
        return round_shift(r * integers(mul), 17), k
