# SPDX-License-Identifier: Apache-2.0
"""Saturation, combinational."""

from amaranth.hdl import Cat, Mux, Value


def differs(bits: Value, sign: Value) -> Value:
    """Return whether one of ``bits`` is not the ``sign``."""
    return (bits ^ sign.replicate(len(bits))).any()


def clip(low: Value, lost: Value, sign: Value) -> Value:
    """Return ``low`` below its ``sign``; where bits were ``lost``, the extreme of that sign."""
    return Cat(Mux(lost, (~sign).replicate(len(low)), low), sign).as_signed()


def saturate(x: Value, width: int) -> Value:
    """Return signed ``x`` in ``width`` signed bits."""
    return clip(x[:-1][:width - 1], differs(x[:-1][width - 1:], x[-1]), x[-1])


def saturate_unsigned(x: Value, width: int) -> Value:
    """Return signed ``x`` in ``width`` unsigned bits: 0 where it is negative."""
    positive = x[:-1]
    return Mux(x[-1], 0, positive[:width] | positive[width:].any().replicate(width))
