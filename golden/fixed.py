# SPDX-License-Identifier: Apache-2.0
"""Integer arithmetic that every model shares: int64, rounding half up, saturation."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.validate import require

Integers = NDArray[np.int64]


def integers(values: ArrayLike) -> Integers:
    """Return ``values`` as int64; floats are refused (``TypeError``), not rounded."""
    return np.asarray(values).astype(np.int64, casting="safe")


def round_shift(values: ArrayLike, shift: ArrayLike) -> Integers:
    """Divide by ``2**shift`` rounding half up: ``(v + 2**(shift-1)) >> shift``.

    Computed as ``((2v >> shift) + 1) >> 1``, which is the same number, needs no case for a shift
    of 0 and is what the hardware does. ``values`` below 2**62 in magnitude, ``shift`` 0..63.
    """
    return ((integers(values) * 2 >> integers(shift)) + 1) >> 1


def bounds(width: int, signed: bool = True) -> tuple[int, int]:
    """Return the least and the greatest number of ``width`` bits."""
    return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)


def saturate(values: ArrayLike, width: int, signed: bool = True) -> Integers:
    """Clip to ``width`` bits, two's complement or unsigned."""
    return np.clip(integers(values), *bounds(width, signed))


def product(a: ArrayLike, b: ArrayLike) -> Integers:
    """Return the matrix product of ``a`` (..., i, k) and ``b`` (..., k, j).

    Exact: multiplied in float64, which numpy is many times faster at, but refused (``ValueError``)
    where sums of ``k`` products of the greatest numbers might not be whole there, from 2**53 on.
    """
    a, b = integers(a), integers(b)
    most = b.shape[-2] * greatest(a) * greatest(b)
    require(most < 1 << 53, f"sums of products must be below 2**53, not up to {most}")
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def greatest(values: Integers) -> int:
    """Return the greatest magnitude; 0 of none."""
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))


def ceil_div(value: int, divisor: int) -> int:
    """Return ``value / divisor`` rounded up."""
    return -(-value // divisor)


def signed_width(low: int, high: int) -> int:
    """Return the two's complement width that holds ``low..high``."""
    return 1 + max(high.bit_length() if high >= 0 else (~high).bit_length(),
                   low.bit_length() if low >= 0 else (~low).bit_length())
