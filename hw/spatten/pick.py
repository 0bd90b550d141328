# SPDX-License-Identifier: Apache-2.0
"""One of several values, without a decoder."""

from collections.abc import Sequence

from amaranth.hdl import Value


def pick(values: Sequence[Value], which: Value) -> Value:
    """Return the value whose bit of ``which`` is set, of values of the same width; else 0."""
    half = len(values) // 2
    if not half:
        return values[0] & which[0].replicate(len(values[0]))
    return pick(values[:half], which[:half]) | pick(values[half:], which[half:])
