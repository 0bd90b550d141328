# SPDX-License-Identifier: Apache-2.0
"""Requantisation: from accumulators to stored numbers, with one multiplication."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.fixed import Integers, integers, round_shift, saturate
from golden.validate import integer


@dataclass(frozen=True, kw_only=True)
class RequantSpec:
    """``y = saturate((acc * mul + 2**(shift-1)) >> shift)``: halves round up.

    ``mul`` and ``shift`` come with the data, so that they may differ by channel, by row or not at
    all. ``lanes`` numbers are requantised side by side.

    Parameters
    ----------
    lanes : numbers per payload.
    acc_width : signed accumulator bits, with ``mul_width`` up to 60.
    mul_width : unsigned multiplier bits.
    shift_width : shift bits; shifts ``0 .. 2**shift_width - 1``.
    out_width : signed output bits, up to the 16 of the residual stream.

    Source: Jacob et al., CVPR 2018 (arXiv:1712.05877), section 2.2; rounding half up everywhere.
    """

    lanes: int = 8
    acc_width: int = 32
    mul_width: int = 16
    shift_width: int = 6
    out_width: int = 16

    LATENCY = 3

    def __post_init__(self):
        integer("lanes", self.lanes, 1, 1024)
        integer("mul_width", self.mul_width, 2, 20)
        integer("acc_width", self.acc_width, 2, 60 - self.mul_width)
        integer("shift_width", self.shift_width, 1, 6)
        integer("out_width", self.out_width, 2, 32)

    @property
    def product_width(self) -> int:
        """Signed bits of ``acc * mul``."""
        return self.acc_width + self.mul_width

    def cycles(self, payloads: int) -> int:
        """Return the cycles from the first payload in to the last one out, nothing stalling."""
        return payloads + self.LATENCY

    def compute(self, acc: ArrayLike, mul: ArrayLike, shift: ArrayLike) -> Integers:
        """Requantise; the three arrays broadcast against each other."""
        return saturate(round_shift(integers(acc) * integers(mul), shift), self.out_width)

    def factors(self, scale: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ``mul`` and ``shift`` of the real factors ``scale``, as a quantiser needs them.

        ``mul`` uses all its bits (the top one is set) unless the shift would leave its range.
        Factors too small for the largest shift become 0; ``ValueError`` for one that is too
        large, negative or not finite.
        """
        flat = np.atleast_1d(np.asarray(scale, dtype=np.float64))
        pairs = [self._factor(float(one)) for one in flat.ravel()]
        mul, shift = (np.array(part, dtype=np.int64).reshape(np.shape(scale)) for part in
                      zip(*pairs, strict=True))
        return mul, shift

    def _factor(self, scale: float) -> tuple[int, int]:
        top, last = (1 << self.mul_width) - 1, (1 << self.shift_width) - 1
        if not (math.isfinite(scale) and 0 <= scale < top + 1):
            raise ValueError(f"scale must be finite, from 0 to below {top + 1}, not {scale!r}")
        if scale == 0:
            return 0, 0
        shift = min(self.mul_width - math.frexp(scale)[1], last)
        mul = math.floor(math.ldexp(scale, shift) + 0.5)
        if mul > top:  # rounded up to the next power of two
            mul, shift = mul >> 1, shift - 1
        if shift < 0:
            mul, shift = min(mul << -shift, top), 0
        return mul, shift
