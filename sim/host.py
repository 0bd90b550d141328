# SPDX-License-Identifier: Apache-2.0
"""A simulation that serves a host, which is another process."""

import contextlib
import json
import pathlib
import socket
import tempfile
import threading
from abc import ABC, abstractmethod
from typing import Any, Self

from sim.runner import SimulationError, run

__all__ = ["Hosted"]


class Hosted(ABC):
    """Simulate for as long as the ``with`` block runs; the bench does what is asked.

    Simulated time passes only while something is asked for. A bench that fails fails the block.

    Parameters
    ----------
    directory : where to run; by default a temporary folder.
    """

    def __init__(self, directory: pathlib.Path | None = None):
        self._directory = directory
        self._error: BaseException | None = None

    @abstractmethod
    def _run(self, place: pathlib.Path, address: str) -> dict[str, Any]:
        """Return the arguments of :func:`sim.runner.run`; the bench connects to ``address``."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="vitral-host-"))
            place = pathlib.Path(self._directory or temporary).absolute()
            place.mkdir(parents=True, exist_ok=True)
            address = str(pathlib.Path(temporary) / "host")
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen(1)
            server.settimeout(0.2)
            self._thread = threading.Thread(target=self._simulate, daemon=True,
                                            kwargs=self._run(place, address))
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
            run(**options)
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
