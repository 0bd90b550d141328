# SPDX-License-Identifier: Apache-2.0
"""What passes between any core and the world: completions, memory requests, beats, counters."""

from typing import Protocol

from amaranth.lib import data

from golden.operation import Status

COUNTER_BITS = 40

COMPLETION = data.StructLayout({"tag": 16, "status": Status})

REQUEST = data.StructLayout({"address": 32, "beats": 16})
"""A read or write of ``beats`` consecutive memory beats from a byte address."""


class Port(Protocol):
    """A specification with beats of ``memory_bytes`` bytes."""

    @property
    def memory_bytes(self) -> int: ...


def response(spec: Port) -> data.StructLayout:
    """One beat read from memory."""
    return data.StructLayout({"data": 8 * spec.memory_bytes, "error": 1})


def write_beat(spec: Port) -> data.StructLayout:
    """One beat written to memory; ``last`` ends its request."""
    return data.StructLayout({"data": 8 * spec.memory_bytes, "last": 1})
