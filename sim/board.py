# SPDX-License-Identifier: Apache-2.0
"""A board in simulation, as its host sees it: a serial port."""

import contextlib
import json
import pathlib
import socket
import tempfile
import threading
from typing import Any

from amaranth.lib import wiring

from golden.bridge import BridgeSpec
from hw.emit import emit
from sim.runner import SimulationError, run

PERIOD = 1e-8
"""Seconds of a simulated clock cycle."""


class SimulatedPort:
    """The serial port of a component with ``rx`` and ``tx``, for as long as a ``with`` block runs.

    Simulated time passes while something is sent, and while an answer is waited for.

    Parameters
    ----------
    component : a board, or whatever holds a bridge.
    spec : of that bridge.
    simulator : ``"verilator"`` or ``"icarus"``.
    bench : what runs it; it calls :func:`sim.bench_board.serve`.
    timeout : seconds of wall clock after which the simulation is killed.
    directory : where to run; by default a temporary folder.
    """

    def __init__(self, component: wiring.Component, spec: BridgeSpec, *,
                 simulator: str = "verilator", bench: str = "sim.bench_board",
                 timeout: float = 3600, directory: pathlib.Path | None = None):
        self._design = emit(component, name="board")
        self._spec, self._simulator, self._bench = spec, simulator, bench
        self._timeout, self._directory = timeout, directory
        self._error: BaseException | None = None

    def __enter__(self) -> "SimulatedPort":
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="vitral-board-"))
            address = str(pathlib.Path(temporary) / "host")
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen(1)
            server.settimeout(0.2)
            self._thread = threading.Thread(target=self._simulate, daemon=True, kwargs=dict(
                bench=self._bench, simulator=self._simulator, tests=1,
                parameters={"socket": address, "divisor": self._spec.uart.divisor},
                directory=self._directory or pathlib.Path(temporary), timeout=self._timeout))
            self._thread.start()
            link = None
            while link is None:
                with contextlib.suppress(TimeoutError):
                    link = server.accept()[0]
                if link is None and not self._thread.is_alive():
                    raise self._error or SimulationError("the simulation must connect to its host")
            link.settimeout(None)
            self._link = stack.enter_context(link)
            self._lines = stack.enter_context(link.makefile("rw"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        with self._stack:
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_WR)
            self._thread.join()
        if self._error is not None and (kind is None or kind is ConnectionError):
            raise self._error

    def _simulate(self, **options: Any) -> None:
        try:
            run(self._design, **options)
        except BaseException as error:
            self._error = error

    def _ask(self, do: str, **request: Any) -> Any:
        try:
            self._lines.write(json.dumps({"do": do, **request}) + "\n")
            self._lines.flush()
            line = self._lines.readline()
        except OSError:
            line = ""
        if not line:
            raise ConnectionError("the simulation must answer its host, but ended")
        return json.loads(line)

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
