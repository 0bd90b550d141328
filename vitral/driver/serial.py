# SPDX-License-Identifier: Apache-2.0
"""The way to a chip behind a serial line: requests to the bridge of a board."""

import contextlib
import importlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from golden.bridge import (
    ANSWER_HEAD,
    SUM,
    SYNC,
    WORD,
    Answer,
    Command,
    Reply,
    Request,
)
from vitral.driver.driver import ChipError, RefusedError

__all__ = ["GarbledError", "Port", "PortError", "SerialTransport", "SilentError", "open_port"]


class PortError(ChipError):
    """The serial port could not be opened, or went away."""


class SilentError(ChipError):
    """Nothing answered."""


class GarbledError(ChipError):
    """What was answered, or what arrived, was broken each time."""


class Port(Protocol):
    """A serial port, as pyserial has them: ``read`` returns less than ``count`` if time is up."""

    def read(self, count: int, /) -> bytes: ...

    def write(self, content: bytes, /) -> Any: ...


def open_port(name: str, baud: int, timeout: float = 0.5) -> Any:
    """Open a serial port, such as ``/dev/ttyUSB0``; :class:`PortError` says why that fails."""
    try:
        serial = importlib.import_module("serial")
    except ModuleNotFoundError:
        raise PortError("pyserial must be installed to reach a board: "
                        "pip install 'vitral[board]'") from None
    try:
        port = serial.Serial(name, baud, timeout=timeout, write_timeout=10)
    except (OSError, ValueError) as error:
        raise PortError(why_not(name, error)) from error
    # An adapter holds back what it received for some ms, which each answer would wait for; only
    # some systems and adapters can be told not to.
    with contextlib.suppress(AttributeError, OSError, ValueError, NotImplementedError):
        port.set_low_latency_mode(True)
    return port


def why_not(name: str, error: Exception) -> str:
    """Return a sentence about a port that cannot be opened."""
    number = getattr(error, "errno", None)
    reason = {2: "there is none of that name; is the board plugged in?",
              13: "this user may not; on most systems members of the group dialout may",
              16: "another program has it open"}.get(number or 0, str(error))
    return f"port {name} must open, but {reason}"


class SerialTransport:
    """A :class:`~vitral.driver.Transport` through a bridge, see :mod:`golden.bridge`.

    What arrives broken is asked for again, ``attempts`` times in all, after a silence. A write to a
    register is not repeated if its answer is lost, because it may have been carried out: that is a
    :class:`SilentError`.

    Parameters
    ----------
    port : the line. Its ``read`` must wait for longer than the bridge's ``timeout``.
    buffer_bytes : the bridge's.
    attempts : how often a request is made.
    poll : seconds between two looks at a busy chip.
    clock, sleep : of the time that passes for the chip.
    """

    STALE = 16
    """Answers to other requests, and as many times the noise, that are skipped before one's own."""

    def __init__(self, port: Port, *, buffer_bytes: int = 1024, attempts: int = 3,
                 poll: float = 1e-3, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], object] = time.sleep):
        self.port = port
        self._buffer, self._attempts, self._poll = buffer_bytes, attempts, poll
        self._clock, self._sleep = clock, sleep
        self._tag = 0

    def read(self, offset: int) -> int:
        return self.read_words(offset, 1)[0]

    def read_words(self, offset: int, count: int) -> list[int]:
        found = b""
        for at in range(0, count * WORD, self._buffer):
            answer = self._ask(Command.READ_REGISTER, offset + at,
                               min(self._buffer, count * WORD - at))
            if answer.status != Reply.OK:
                raise RefusedError(f"register {offset + at:#x} must exist, but its read was "
                                   "refused")
            found += answer.data
        return [int.from_bytes(found[at:at + WORD], "little") for at in range(0, len(found), WORD)]

    def write(self, offset: int, value: int) -> None:
        answer = self._ask(Command.WRITE_REGISTER, offset, WORD, value.to_bytes(WORD, "little"))
        if answer.status != Reply.OK:
            raise RefusedError(f"register {offset:#x} must accept {value:#x}, but refused it: "
                               "there is none, it is only read, or the chip is busy")

    def load(self, address: int, data: bytes) -> None:
        low, high = address // WORD * WORD, -(-(address + len(data)) // WORD) * WORD
        if not data:
            return
        before = self.dump(low, WORD)[:address - low] if low != address else b""
        end = address + len(data)
        after = self.dump(high - WORD, WORD)[end - high:] if high != end else b""
        data = before + data + after
        for at in range(0, len(data), self._buffer):
            part = data[at:at + self._buffer]
            self._memory(self._ask(Command.WRITE_MEMORY, low + at, len(part), part), low + at,
                         len(part))

    def dump(self, address: int, count: int) -> bytes:
        if not count:
            return b""
        low, high = address // WORD * WORD, -(-(address + count) // WORD) * WORD
        found = b""
        for at in range(low, high, self._buffer):
            size = min(self._buffer, high - at)
            found += self._memory(self._ask(Command.READ_MEMORY, at, size), at, size)
        return found[address - low:][:count]

    def wait(self, seconds: float) -> None:
        self._sleep(min(seconds, self._poll))

    def time(self) -> float:
        return self._clock()

    @staticmethod
    def _memory(answer: Answer, address: int, count: int) -> bytes:
        """Return what was read; ``ValueError`` beyond the end of memory, as other transports."""
        if answer.status != Reply.OK:
            raise ValueError(f"memory must hold {count} bytes at {address:#x}, but the board "
                             f"answered {answer.status.name}")
        return answer.data

    def _ask(self, command: Command, address: int, count: int, data: bytes = b"") -> Answer:
        """Return the answer to a request, whose status says that it was carried out or refused."""
        once = command == Command.WRITE_REGISTER
        what = f"{command.name} at {address:#x}"
        complaint: ChipError = SilentError("")
        for _ in range(self._attempts):
            self._tag = (self._tag + 1) % 256
            self._send(Request(command=command, tag=self._tag, address=address, count=count,
                               data=data).encode())
            answer = self._receive(0 if command.writes else count)
            if isinstance(answer, Answer):
                if not answer.status.untouched:
                    return answer
                complaint = GarbledError(f"the board must understand {what}, but answered "
                                         f"{answer.status.name} {self._attempts} times")
                continue  # it has waited for silence
            if answer:
                complaint = GarbledError(f"the answer to {what} must arrive whole, but {answer}")
            else:
                complaint = SilentError(
                    f"a board must answer {what}, but nothing came: is it the right port and "
                    "speed, and has the board its bitstream?")
            self._drain()
            if once:
                break
        raise complaint

    def _send(self, content: bytes) -> None:
        try:
            self.port.write(content)
        except OSError as error:
            raise PortError(f"the port must stay open, but {error}") from error

    def _get(self, count: int) -> bytes:
        try:
            return bytes(self.port.read(count))
        except OSError as error:
            raise PortError(f"the port must stay open, but {error}") from error

    def _drain(self) -> None:
        """Take what comes until nothing does: then the bridge waits for a request."""
        for _ in range(self.STALE):
            if not self._get(self._buffer):
                return

    def _receive(self, count: int) -> Answer | str:
        """Return the answer to the last request, or what was wrong; "" if nothing came."""
        wrong, noise = "", 0
        while noise <= self.STALE * self._buffer:
            first = self._get(1)
            if not first:
                return wrong
            if first[0] != SYNC:
                wrong, noise = wrong or "there was only noise", noise + 1
                continue
            head = self._get(ANSWER_HEAD.size)
            size = ANSWER_HEAD.unpack(head)[2] if len(head) == ANSWER_HEAD.size else 0
            if size > self._buffer:
                wrong, noise = "its count is wrong", noise + len(head)
                continue
            frame = head + self._get(size + SUM.size)
            noise += len(frame)
            try:
                answer = Answer.decode(frame)
            except ValueError as error:
                wrong = str(error)
                continue
            if answer.tag == self._tag and (answer.status != Reply.OK or size == count):
                return answer
            if answer.status.untouched and answer.tag == 0:
                return answer  # its tag did not arrive
        return wrong
