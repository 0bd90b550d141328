# SPDX-License-Identifier: Apache-2.0
"""One row of attention: distances, exponents, the choice of values, the output."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Integers, product, round_shift, saturate
from golden.spatten.spec import SpattenSpec
from golden.topk import Rule


@cache
def octave(spec: type[SpattenSpec] = SpattenSpec) -> Integers:
    """Return ``top * 2**(-f / size)`` of the ``size`` fractions of an octave, half rounded up.

    ``top`` has all bits set. Exact: ``x`` is the greatest with ``(2x - 1)**size * 2**f <=
    (2 top)**size``.
    """
    top, size = (1 << spec.PROBABILITY_BITS) - 1, 1 << spec.OCTAVE_BITS
    result, x = [], top
    for f in range(size):
        while (2 * x - 1) ** size << f > (2 * top) ** size:
            x -= 1
        result.append(x)
    return np.array(result, np.int64)


def distances(spec: SpattenSpec, scores: Integers, shift: int, mul: int) -> Integers:
    """Return how far scores (..., keys) lie below the greatest of their row, saturated.

    In ``2**-5`` octaves: ``x = min((max - score) >> shift, 2**14 - 1)``, and the distance is
    ``(x * mul + 2**8) >> 9``.
    """
    steps = np.minimum(scores.max(-1, keepdims=True) - scores >> shift, (1 << spec.STEP_BITS) - 1)
    return saturate(round_shift(steps * mul, 9), spec.DISTANCE_BITS, signed=False)


def exponents(spec: SpattenSpec, distance: Integers) -> Integers:
    """Return ``4095 * 2**(-distance / 32)``, 12 bits, half rounded up after the fraction."""
    return round_shift(octave()[distance & (1 << spec.OCTAVE_BITS) - 1],
                       distance >> spec.OCTAVE_BITS)


def probabilities(spec: SpattenSpec, exponent: Integers, total: Integers | int) -> Integers:
    """Return exponents divided by their sum, which broadcasts, in steps of ``2**-12``, 12 bits.

    ``min((e * (r >> 5) + 2**(k-1)) >> k, 2**12 - 1)`` with the ``r / 2**(17 + k) ~ 1 / total`` of
    the reciprocal.
    """
    r, k = spec.reciprocal.lookup(np.maximum(total, 1))
    return saturate(round_shift(exponent * (r >> 5), k), spec.PROBABILITY_BITS, signed=False)


def chosen(spec: SpattenSpec, distance: Integers, places: Integers,
           values: int) -> NDArray[np.bool_]:
    """Return which keys' values are fetched of distances (..., keys): the ``values`` nearest.

    ``places`` are those of the keys among all that the selector sees: row by row of the lanes'
    lists. Of equal distances the first place wins.
    """
    if values >= len(places):
        return np.ones(distance.shape, bool)
    most = (1 << spec.DISTANCE_BITS) - 1
    entries = (int(places.max()) // spec.channels + 1) * spec.channels
    seen = np.zeros((*distance.shape[:-1], entries), np.int64)
    seen[..., places] = most + 1 - distance
    return spec.select.select(seen, Rule.TOPK, min(values, entries))[..., places]


def output(spec: SpattenSpec, exponent: Integers, value: Integers, total: Integers | int, mul: int,
           shift: int) -> Integers:
    """Return the requantised sums of values (keys, lanes), times exponents (..., keys)."""
    factor, k = spec.reciprocal.compute(np.maximum(total, 1), mul)
    return spec.requant.compute(product(exponent, value), factor[..., None],
                                np.minimum(shift + k, 63)[..., None])
