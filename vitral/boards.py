# SPDX-License-Identifier: Apache-2.0
"""The boards by name, and what is built for them: a chip, memory, a clock, a serial line."""

from dataclasses import dataclass, field
from typing import Any

from golden.board import MEMORY_LATENCY, BoardSpec, MemorySpec
from golden.bridge import BridgeSpec
from golden.pll import MHZ, PllSpec
from golden.shell import ShellSpec
from golden.uart import UartSpec
from golden.validate import choice, integer, require
from vitral.usage import UsageError, refusing

__all__ = [
    "BAUD", "BOARDS", "BUS", "CLOCK", "LATENCY", "MEMORY", "PRESET", "SEED", "SIMULATED",
    "BoardSetup",
]

BOARDS = {"ulx3s-85f": "85k", "ulx3s-45f": "45k", "ulx3s-25f": "25k", "ulx3s-12f": "12k"}
"""Each board, and its ECP5 in :data:`vitral.fpga.DEVICES`."""
SIMULATED = "simulated"
"""A board without pins, in simulation."""
PRESET, BUS, MEMORY, CLOCK, BAUD = "ecp5", 64, 256, 50.0, 1_000_000
"""What a board is built with unless told otherwise: bits, KB, MHz, bit/s."""
SEED = 2
"""Where a placement begins that lets a ULX3S-85F reach its clock with a margin: others differ from
it by a third."""
LATENCY = ShellSpec.READ_LATENCY + MEMORY_LATENCY
"""Cycles from a read request of the core to its first beat."""


@dataclass(frozen=True, kw_only=True)
class BoardSetup:
    """What surrounds the core on a board.

    Parameters
    ----------
    board : of :data:`BOARDS`, or :data:`SIMULATED`.
    shell : of its chip.
    memory : its memory.
    clock : Hz and where they come from.
    baud : bits per second of the serial line, met within 2 %. In simulation a bit takes as few
        cycles as it can, 4.
    """

    board: str = "ulx3s-85f"
    shell: ShellSpec = field(default_factory=lambda: ShellSpec(data_width=BUS))
    memory: MemorySpec = field(default_factory=lambda: MemorySpec(size=MEMORY << 10))
    clock: PllSpec = field(default_factory=lambda: PllSpec(frequency=int(CLOCK * MHZ)))
    baud: int = BAUD

    OFF = 0.02
    """How much the line may differ from ``baud``: the receiver on the other side may too."""

    def __post_init__(self):
        choice("board", self.board, (*BOARDS, SIMULATED))
        integer("baud", self.baud, 1200, 3_000_000)
        cycles = float(self.clock.made) / self.baud
        require(round(cycles) >= 4 and abs(round(cycles) / cycles - 1) <= self.OFF,
                f"baud must be at most a quarter of the clock and divide it within 2 %, not "
                f"{self.baud}, of which each takes {cycles:.3g} cycles at "
                f"{float(self.clock.made) / MHZ:g} MHz")

    @property
    def spec(self) -> BoardSpec:
        """The board around the chip."""
        divisor = 4 if self.board == SIMULATED else round(float(self.clock.made) / self.baud)
        return BoardSpec(memory=self.memory, bridge=BridgeSpec(uart=UartSpec(divisor=divisor)))

    def chip(self, design: Any, spec: Any) -> Any:
        """Return the chip of a core; refused if it does not go into the shell."""
        if design.joined:
            raise UsageError(f"design must have one memory port for a board, which {design.name} "
                             "has not")
        with refusing():
            return design.chip(spec, self.shell)
