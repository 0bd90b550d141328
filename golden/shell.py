# SPDX-License-Identifier: Apache-2.0
"""The shell that makes a chip of any core: its parameters, its registers, how a run ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from golden.operation import DESCRIPTOR_BYTES, Status
from golden.registers import BitField, Register, RegisterMap
from golden.validate import choice, integer, power_of_two

IDENTITY = int.from_bytes(b"Vitr", "little")
"""What a driver finds at offset 0."""
VERSION = (1, 0)
"""Of the register map: a new minor number adds, a new major number changes."""
PAGE = 4096
"""Granularity of the protection window, and what no burst crosses."""
COUNTERS_AT = 0x100
"""Offset of the first counter."""


class Code(IntEnum):
    """How a run ended: as the first operation that failed did, or for a reason of the shell."""

    OK = 0
    BAD_OPCODE = Status.BAD_OPCODE
    BAD_SHAPE = Status.BAD_SHAPE
    OUT_OF_RANGE = Status.OUT_OF_RANGE
    BUS_ERROR = Status.BUS_ERROR
    FETCH = 8
    """An operation could not be read from memory."""
    ABORTED = 9


class Cause(IntEnum):
    """Why an access to memory failed."""

    NONE = 0
    WINDOW = 1
    """It is not wholly inside the protection window, and never reached the bus."""
    SLVERR = 2
    DECERR = 3


class Access(IntEnum):
    """What kind of access it was."""

    READ = 0
    WRITE = 1
    FETCH = 2


@dataclass(frozen=True, kw_only=True)
class ShellSpec:
    """The shell around a core: registers, program fetch, and the way to memory.

    Parameters
    ----------
    data_width : bits of the AXI4 master, 32 to 256, whatever the core's port has.
    burst_beats : longest burst, a power of two; bursts end where its size divides the address.
    requests : requests of the core that are under way, each way, a power of two.
    fetch : operations fetched ahead, a power of two.
    """

    data_width: int = 128
    burst_beats: int = 64
    requests: int = 16
    fetch: int = 4

    READ_LATENCY = 6
    """Cycles that a read takes longer than the memory: arbiter, check, split, and three slices."""
    READS = 64
    """Bursts that are read at the same time, at most."""

    def __post_init__(self):
        choice("data_width", self.data_width, (32, 64, 128, 256))
        power_of_two("burst_beats", self.burst_beats, 1, min(256, PAGE // self.bus_bytes))
        power_of_two("requests", self.requests, 2, 64)
        power_of_two("fetch", self.fetch, 1, 16)

    @property
    def bus_bytes(self) -> int:
        """Bytes of a beat of the bus."""
        return self.data_width // 8

    @property
    def burst_bytes(self) -> int:
        """Bytes of the longest burst."""
        return self.burst_beats * self.bus_bytes


@dataclass(frozen=True, kw_only=True)
class ChipSpec:
    """A core in a shell; ``core`` is the specification of the core."""

    core: Any
    shell: ShellSpec


def registers(*, shell: ShellSpec, memory_bytes: int, config_hash: int,
              counters: Sequence[str]) -> RegisterMap:
    """Return the registers of a chip.

    Parameters
    ----------
    shell : the shell's parameters.
    memory_bytes : bytes per beat of the core.
    config_hash : 64 bits that tell configurations apart.
    counters : names of the core's counters.
    """
    integer("memory_bytes", memory_bytes, 4, DESCRIPTOR_BYTES)
    integer("config_hash", config_hash, 0, (1 << 64) - 1)

    def log2(value):
        return value.bit_length() - 1

    capabilities = (
        BitField(name="bus_bytes", offset=0, width=4, doc="log2 of the bytes of a bus beat"),
        BitField(name="memory_bytes", offset=4, width=4, doc="log2 of the bytes of a core beat"),
        BitField(name="counters", offset=8, width=8, doc="number of counters"),
        BitField(name="requests", offset=16, width=8, doc="requests under way, each way"),
    )
    built = (log2(shell.bus_bytes), log2(memory_bytes), len(counters), shell.requests)
    return RegisterMap(address_width=12, registers=(
        Register(name="identity", offset=0x00, access="read", reset=IDENTITY,
                 doc="the letters Vitr"),
        Register(name="version", offset=0x04, access="read", reset=VERSION[0] << 16 | VERSION[1],
                 doc="of this register map", fields=(
                     BitField(name="minor", offset=0, width=16, doc="grows when something is new"),
                     BitField(name="major", offset=16, width=16,
                              doc="grows when something is different"))),
        Register(name="config_hash", offset=0x08, access="read", width=64, reset=config_hash,
                 doc="first 64 bits of the hash of core, shell and version of Vitral"),
        Register(name="capabilities", offset=0x10, access="read", doc="what was built",
                 reset=sum(value << part.offset
                           for part, value in zip(capabilities, built, strict=True)),
                 fields=capabilities),
        Register(name="control", offset=0x14, access="command", doc="commands", fields=(
            BitField(name="start", offset=0, locked=True,
                     doc="reset the core and run the program"),
            BitField(name="abort", offset=1,
                     doc="end the run as soon as all bus transactions have ended"),
            BitField(name="reset", offset=2,
                     doc="abort, then give all registers their reset values"),
            BitField(name="snapshot", offset=3,
                     doc="copy the core's counters into the counter registers"))),
        Register(name="status", offset=0x18, access="read", doc="of the current or last run",
                 fields=(
                     BitField(name="busy", offset=0, doc="a run or an abort is under way"),
                     BitField(name="code", offset=8, width=8, doc="how the last run ended",
                              values={one.name: one.value for one in Code}),
                     BitField(name="cause", offset=16, width=2,
                              doc="with BUS_ERROR and FETCH: why",
                              values={one.name: one.value for one in Cause}),
                     BitField(name="access", offset=20, width=2, doc="what kind of access failed",
                              values={one.name: one.value for one in Access}))),
        Register(name="operation_index", offset=0x1C, access="read",
                 doc="which operation of the program failed, from 0"),
        Register(name="operation_address", offset=0x20, access="read",
                 doc="where that operation lies, relative to the window"),
        Register(name="fault_address", offset=0x24, access="read",
                 doc="with BUS_ERROR and FETCH: of the first access that failed, relative to the "
                     "window (of a write: where its request began)"),
        Register(name="completed", offset=0x28, access="read",
                 doc="operations of the current or last run that have completed"),
        Register(name="program", offset=0x2C, access="write", locked=True,
                 doc="where the program begins, relative to the window", fields=(
                     BitField(name="descriptor", offset=6, width=26, doc="in units of 64 bytes"),)),
        Register(name="operations", offset=0x30, access="write", locked=True,
                 doc="operations to execute; 0: up to the first HALT"),
        Register(name="window_base", offset=0x34, access="write", locked=True, reset=0xFFFFF000,
                 doc="first byte of memory that may be accessed; what a program calls address 0",
                 fields=(BitField(name="page", offset=12, width=20, doc="in units of 4 KB"),)),
        Register(name="window_limit", offset=0x38, access="write", locked=True, reset=0xFFF,
                 doc="last byte of memory that may be accessed",
                 fields=(BitField(name="page", offset=12, width=20, doc="in units of 4 KB"),)),
        Register(name="interrupt_enable", offset=0x3C, access="write",
                 doc="which of the pending events raise the interrupt", fields=_events()),
        Register(name="interrupt_pending", offset=0x40, access="clear",
                 doc="events since they were last cleared", fields=_events()),
        *(Register(name=f"counter_{name}", offset=COUNTERS_AT + 8 * n, access="read", width=64,
                   doc=f"`{name}` of the core, from the start to the last snapshot")
          for n, name in enumerate(counters)),
    ))


def _events() -> tuple[BitField, ...]:
    return (BitField(name="done", offset=0, doc="a run ended with OK"),
            BitField(name="error", offset=1, doc="a run ended with an error"),
            BitField(name="aborted", offset=2, doc="a run was aborted"))
