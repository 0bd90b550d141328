# SPDX-License-Identifier: Apache-2.0
"""A chip in simulation, with a memory, as its host sees it."""

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.emit import Emitted, emit
from hw.shell.chip import Chip
from sim.core import words_hex
from sim.host import Hosted

NAME = "chip"
"""Module name of the emitted chip."""
MEMORY = 0x40000000
"""Where the memory begins on the bus."""
RULES = {
    1: "an offered AR stays as it is until it is taken", 2: "AW likewise", 3: "W likewise",
    4: "bursts are INCR", 5: "of whole beats", 6: "aligned", 7: "within 4 KB",
    8: "within the window", 9: "no beat is written before its burst was asked for",
    10: "the last beat of a burst says so, and no other", 11: "an offered B stays",
    12: "R likewise", 13: "no response without a request", 14: "nothing is offered in reset",
}
"""What the bench checks, by the number of ``violation``."""
DEFAULTS = {
    "latency": 64, "stall_read": 0, "stall_write": 0, "stall_host": 0, "error_rate": 0,
    "pause_rate": 0, "pause_cycles": 0, "seed": 2026, "fault_low": 0, "fault_high": 0,
    "allow_low": MEMORY, "allow_high": 0xFFFFFFFF,
}
"""Settings of the bench, see ``chip_bench.v``."""


def emitted(chip: Chip) -> Emitted:
    """Return the Verilog of a chip for its bench."""
    return emit(chip, name=NAME)


def bench_source(data_bytes: int, words_log2: int) -> str:
    """Return the test bench for a bus of this width."""
    source = pathlib.Path(__file__).with_name("chip_bench.v").read_text()
    for name, value in (("DATA_BYTES", data_bytes), ("WORDS_LOG2", words_log2)):
        head, tail = source.split(f"parameter {name} = ")
        source = f"{head}parameter {name} = {value}{tail[tail.index(';'):]}"
    return source


class ChipSimulation(Hosted):
    """Simulate a chip for as long as the ``with`` block runs.

    Simulated time passes only while something is asked for. Each run checks the rules of AXI (see
    :data:`RULES`) in every cycle; one that was broken fails the block.

    Parameters
    ----------
    chip : the chip.
    size : bytes of memory, which begins at :data:`MEMORY`; rounded up to a power of two.
    simulator : ``"verilator"`` or ``"icarus"``.
    design : the emitted chip, if the caller has it already.
    timeout : seconds of wall clock after which the simulation is killed.
    directory : where to run; by default a temporary folder.
    settings : of the bench, see :data:`DEFAULTS`.
    """

    def __init__(self, chip: Chip, *, size: int, simulator: str = "verilator",
                 design: Emitted | None = None, timeout: float = 3600,
                 directory: pathlib.Path | None = None, **settings: int):
        self.bytes = chip.spec.shell.bus_bytes
        self.size = max(1 << 16, 1 << (size - 1).bit_length())
        self._design = design or emitted(chip)
        self._simulator, self._timeout = simulator, timeout
        self._settings = DEFAULTS | settings
        super().__init__(directory)

    def _run(self, place: pathlib.Path, address: str) -> dict[str, Any]:
        self._memory = place / "memory.hex"
        bench = place / "chip_bench.v"
        bench.write_text(bench_source(self.bytes, (self.size // self.bytes).bit_length() - 1))
        return dict(
            design=self._design, bench="sim.bench_chip", simulator=self._simulator, tests=1,
            extra_sources=[bench], parameters={"socket": address, "settings": self._settings},
            directory=place, toplevel="chip_bench", plusargs=[f"+memory={self._memory}"],
            timeout=self._timeout)

    def read(self, offset: int) -> tuple[int, int]:
        """Read a word of a register: AXI response and value."""
        response, value = self._ask("access", write=0, offset=offset, value=0, strobe=0,
                                    patience=100_000)
        return response, value

    def write(self, offset: int, value: int, strobe: int = 0xF) -> int:
        """Write a word of a register; return the AXI response."""
        return self._ask("access", write=1, offset=offset, value=value, strobe=strobe,
                         patience=100_000)[0]

    def load(self, address: int, data: bytes | NDArray[np.uint8]) -> None:
        """Fill memory from a bus address; both are whole words of the bus."""
        content = bytes(data)
        first = self._words(address, len(content))
        if content:
            self._memory.write_text(words_hex(content, self.bytes))
            self._ask("strobe", load=1, first=first, last=first + len(content) // self.bytes - 1)

    def dump(self, address: int, count: int) -> NDArray[np.uint8]:
        """Return so many bytes of memory; whole words of the bus."""
        first = self._words(address, count)
        self._ask("strobe", load=0, first=first, last=first + count // self.bytes - 1)
        lines = (line.split("//")[0] for line in self._memory.read_text().splitlines())
        words = "".join(line for line in lines if line and not line.startswith("@"))
        after = np.frombuffer(bytes.fromhex(words), np.uint8).reshape(-1, self.bytes)
        return after[:, ::-1].ravel().copy()

    def _words(self, address: int, count: int) -> int:
        if address % self.bytes or count % self.bytes:
            raise ValueError(f"address and count must be multiples of {self.bytes}, not "
                             f"{address:#x} and {count}")
        if not MEMORY <= address <= address + count <= MEMORY + self.size:
            raise ValueError(f"memory must hold {count} bytes at {address:#x}, but has "
                             f"{self.size} at {MEMORY:#x}")
        return (address - MEMORY) // self.bytes

    def wait(self, cycles: int, *, interrupt: bool = True) -> bool:
        """Let time pass, up to the interrupt unless told otherwise; return whether it is there."""
        return self._ask("wait", cycles=cycles, interrupt=interrupt)

    def change(self, **settings: int) -> None:
        """Change settings of the bench."""
        self._ask("change", settings=settings)

    def look(self, *names: str) -> dict[str, int]:
        """Return signals of the bench: ``violation``, ``under_way``, marks of throughput."""
        return dict(zip(names, self._ask("look", names=names), strict=True))
