# SPDX-License-Identifier: Apache-2.0
"""What the parts of the shell tell each other."""

from amaranth.hdl import Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from golden.shell import Cause

BURST = data.StructLayout({"address": 32, "length": 8})
"""An INCR burst of ``length + 1`` bus beats from a bus address."""

TASK = data.StructLayout({"address": 32, "last_beat": 16, "bad": 1, "source": 1})
"""A request: beats of the core, numbered from 0, from an address inside the window; ``bad`` if not
wholly inside."""

FAULT = data.StructLayout({"valid": 1, "cause": Cause, "address": 32})
"""An access failed in this cycle."""


WINDOW = wiring.Signature({"base": Out(20), "last": Out(20), "empty": Out(1)})
"""What may be accessed: its first page on the bus; its last page, counted from there; nothing."""


def log2(value: int) -> int:
    """Return the logarithm of a power of two."""
    return value.bit_length() - 1


def answer(memory_bytes: int) -> data.StructLayout:
    """One beat read for the core, and why that failed, if it did."""
    return data.StructLayout({"data": 8 * memory_bytes, "cause": Cause})


def cause_of(m, response, name: str) -> Signal:
    """Return the cause that an AXI response stands for."""
    cause = Signal(2, name=name)
    with m.If(response[1]):  # SLVERR and DECERR are 2 and 3, as in Cause
        m.d.comb += cause.eq(response)
    return cause
