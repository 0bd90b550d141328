# SPDX-License-Identifier: Apache-2.0
"""A board in simulation, as its host sees it: a serial port."""

import pathlib
from typing import Any

from amaranth.lib import wiring

from golden.bridge import BridgeSpec
from hw.emit import emit
from sim.host import Hosted

PERIOD = 1e-8
"""Seconds of a simulated clock cycle."""


class SimulatedPort(Hosted):
    """The serial port of a component with ``rx`` and ``tx``, for as long as a ``with`` block runs.

    Simulated time passes while something is sent, and while an answer is waited for.

    Parameters
    ----------
    component : a board, or whatever holds a bridge.
    spec : of that bridge.
    simulator : ``"verilator"`` or ``"icarus"``.
    timeout : seconds of wall clock after which the simulation is killed.
    directory : where to run; by default a temporary folder.
    """

    def __init__(self, component: wiring.Component, spec: BridgeSpec, *,
                 simulator: str = "verilator", timeout: float = 3600,
                 directory: pathlib.Path | None = None):
        self._design = emit(component, name="board")
        self._spec, self._simulator, self._timeout = spec, simulator, timeout
        super().__init__(directory)

    def _run(self, place: pathlib.Path, address: str) -> dict[str, Any]:
        return dict(
            design=self._design, bench="sim.bench_board", simulator=self._simulator, tests=1,
            parameters={"socket": address, "divisor": self._spec.uart.divisor}, directory=place,
            timeout=self._timeout)

    def read(self, count: int) -> bytes:
        """Return so many bytes, or fewer if the bridge's time-out and some bytes more pass."""
        patience = self._spec.timeout + self._spec.uart.cycles(4)
        return bytes.fromhex(self._ask("read", count=count, patience=patience))

    def write(self, content: bytes) -> int:
        """Send bytes."""
        self._ask("write", content=content.hex())
        return len(content)

    def sleep(self, seconds: float) -> None:
        """Let simulated time pass."""
        self._ask("sleep", cycles=max(1, round(seconds / PERIOD)))

    def time(self) -> float:
        """Return simulated seconds."""
        return self._ask("time") * PERIOD
