# SPDX-License-Identifier: Apache-2.0
"""What surrounds a chip on a board: memory, and a bridge to a serial line."""

from dataclasses import dataclass, field

from golden.bridge import BridgeSpec
from golden.shell import PAGE
from golden.validate import integer, require

MEMORY_LATENCY = 5
"""Cycles from an address on the bus of a :class:`MemorySpec` to its first beat."""


@dataclass(frozen=True, kw_only=True)
class MemorySpec:
    """Memory of whole pages, on the bus of a chip.

    Parameters
    ----------
    size : bytes, a multiple of 4 KB.
    base : address of the first, a multiple of 4 KB.
    """

    size: int = 1 << 18
    base: int = 0x40000000

    def __post_init__(self):
        integer("size", self.size, PAGE, 1 << 28)
        integer("base", self.base, 0, (1 << 32) - PAGE)
        for name, value in (("size", self.size), ("base", self.base)):
            require(value % PAGE == 0, f"{name} must be a multiple of {PAGE}, not {value}")
        require(self.base + self.size <= 1 << 32,
                f"base must leave room for size {self.size:#x} below 4 GB, not {self.base:#x}")


@dataclass(frozen=True, kw_only=True)
class BoardSpec:
    """A board: memory that a chip and its host share, and the host's way to both."""

    memory: MemorySpec = field(default_factory=MemorySpec)
    bridge: BridgeSpec = field(default_factory=BridgeSpec)
