# SPDX-License-Identifier: Apache-2.0
"""The way to a chip in simulation."""

from sim.chip import ChipSimulation
from vitral.driver.driver import RefusedError

PERIOD = 1e-8
"""Seconds of a simulated clock cycle."""


class SimulatedTransport:
    """A :class:`~vitral.driver.Transport` to a :class:`sim.chip.ChipSimulation`.

    Time is simulated: cycles of 10 ns. ``patience`` is the longest that one wait lets pass, so that
    a watcher sees how far a run has come.
    """

    def __init__(self, simulation: ChipSimulation, patience: float = 1e-3):
        self.simulation = simulation
        self._patience = patience

    def read(self, offset: int) -> int:
        response, value = self.simulation.read(offset)
        if response:
            raise RefusedError(f"register {offset:#x} must exist, but its read was refused")
        return value

    def read_words(self, offset: int, count: int) -> list[int]:
        return [self.read(offset + 4 * n) for n in range(count)]

    def write(self, offset: int, value: int) -> None:
        if self.simulation.write(offset, value):
            raise RefusedError(f"register {offset:#x} must accept {value:#x}, but refused it: "
                               "there is none, it is only read, or the chip is busy")

    def _whole(self, address: int, count: int) -> tuple[int, int]:
        """Return the whole words around some bytes: address and count."""
        word = self.simulation.bytes
        low = address // word * word
        return low, -(-(address + count) // word) * word - low

    def load(self, address: int, data: bytes) -> None:
        if not data:
            return
        low, count = self._whole(address, len(data))
        words = bytearray(count)
        if count != len(data):
            words[:] = self.simulation.dump(low, count).tobytes()
        words[address - low:address - low + len(data)] = data
        self.simulation.load(low, bytes(words))

    def dump(self, address: int, count: int) -> bytes:
        low, size = self._whole(address, count)
        return self.simulation.dump(low, size).tobytes()[address - low:][:count] if count else b""

    def wait(self, seconds: float) -> None:
        self.simulation.wait(max(1, int(min(seconds, self._patience) / PERIOD)))

    def time(self) -> float:
        return self.simulation.look("cycle")["cycle"] * PERIOD
