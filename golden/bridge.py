# SPDX-License-Identifier: Apache-2.0
"""The bridge from a serial line to registers and memory: its frames, and what it answers.

A request is SYNC, command, tag, address (4 bytes), count (2), what is written, checksum; its answer
is SYNC, tag, status, count (2), what was read, checksum. Numbers have their low byte first, but the
checksum its high one: the CRC-16 with polynomial 0x1021 that begins with 0xFFFF, of all between it
and SYNC.
"""

import struct
from binascii import crc_hqx
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from golden.uart import UartSpec
from golden.validate import integer, power_of_two, require

SYNC = 0x56
"""First byte of each frame."""
WORD = 4
"""Bytes of an access; address and count are multiples."""
HEAD = struct.Struct("<BBIH")
"""Command, tag, address, count."""
ANSWER_HEAD = struct.Struct("<BBH")
"""Tag, status, count."""
SUM = struct.Struct(">H")


class Command(IntEnum):
    """What a request asks for: bit 0 is set in writes, bit 1 where memory is meant."""

    READ_REGISTER = 0
    WRITE_REGISTER = 1
    READ_MEMORY = 2
    WRITE_MEMORY = 3

    @property
    def writes(self) -> bool:
        """Whether the request carries data; otherwise its answer does."""
        return bool(self & 1)

    @property
    def memory(self) -> bool:
        """Whether memory is meant, not registers."""
        return bool(self & 2)


class Reply(IntEnum):
    """What became of a request."""

    OK = 0
    CHECKSUM = 1
    """It arrived with errors, and was not carried out; neither were those with a code below."""
    SLVERR = 2
    """A word was refused: those before it were accessed, those behind it not."""
    DECERR = 3
    """Likewise, because nothing lies there."""
    COMMAND = 4
    """There is no such command."""
    SHAPE = 5
    """Address or count is no multiple of 4, or count is 0 or more than the buffer has."""
    LINE = 6
    """A byte had no stop bit (a break, another speed), or came too early and was lost."""
    TIMEOUT = 7
    """It stopped in the middle."""

    @property
    def untouched(self) -> bool:
        """Whether nothing was accessed, so that the request may be repeated."""
        return self not in (Reply.OK, Reply.SLVERR, Reply.DECERR)


def checksum(content: bytes) -> bytes:
    """Return the two bytes that end a frame of this content."""
    return SUM.pack(crc_hqx(content, 0xFFFF))


def _framed(content: bytes) -> bytes:
    return bytes([SYNC]) + content + checksum(content)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request; ``count`` bytes from ``address``, of which ``data`` are written."""

    command: Command
    tag: int
    address: int
    count: int
    data: bytes = b""

    def encode(self) -> bytes:
        """Return its frame."""
        return _framed(HEAD.pack(self.command, self.tag, self.address, self.count) + self.data)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer; ``data`` are what was read."""

    tag: int
    status: Reply
    data: bytes = b""

    def encode(self) -> bytes:
        """Return its frame."""
        return _framed(ANSWER_HEAD.pack(self.tag, self.status, len(self.data)) + self.data)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Return the answer of a frame without its SYNC; ``ValueError`` if it arrived broken."""
        require(len(content) >= ANSWER_HEAD.size + SUM.size,
                f"an answer must have at least {ANSWER_HEAD.size + SUM.size} bytes, "
                f"not {len(content)}")
        body, end = content[:-SUM.size], content[-SUM.size:]
        require(checksum(body) == end, f"checksum must be {checksum(body).hex()}, not {end.hex()}")
        tag, status, count = ANSWER_HEAD.unpack_from(body)
        require(status in iter(Reply), f"status must be at most {max(Reply)}, not {status}")
        data = body[ANSWER_HEAD.size:]
        require(len(data) == count, f"count must be {len(data)}, not {count}")
        return cls(tag=tag, status=Reply(status), data=data)


@dataclass(frozen=True, kw_only=True)
class BridgeSpec:
    """A bridge that carries out one request after the other.

    A request is carried out when all of it has arrived unbroken. After one that was broken
    everything is ignored until the line is silent; then it is answered. So a host that has an
    answer, or has been silent for so long, begins anew.

    Parameters
    ----------
    uart : the line.
    buffer_bytes : what a request can read or write at most, a power of two.
    timeout : cycles of silence that end a request; more than 4 bytes take.
    queue : bytes that wait while a request is carried out and answered, a power of two. A host
        that writes need not wait for answers: they are shorter than its requests.
    """

    uart: UartSpec = field(default_factory=UartSpec)
    buffer_bytes: int = 1024
    timeout: int = 1 << 18
    queue: int = 64

    WORD_CYCLES = 4
    """Of a word that is accessed, besides what the access takes."""

    def __post_init__(self):
        power_of_two("buffer_bytes", self.buffer_bytes, 2 * WORD, 1 << 15)
        integer("timeout", self.timeout, self.uart.cycles(4), (1 << 32) - 1)
        power_of_two("queue", self.queue, 8, 4096)

    def cycles(self, request: int, answer: int) -> int:
        """Return the cycles of the line for a request and an answer of so many bytes of data."""
        return self.uart.cycles(1 + HEAD.size + request + SUM.size
                                + 1 + ANSWER_HEAD.size + answer + SUM.size)


Access = Callable[[bool, bool, int, int], tuple[Reply, int]]
"""Access a word of (memory, or register), (write, or read), address, value: response and value."""


class BridgeModel:
    """What a bridge answers, event by event: bytes, broken bytes, silence.

    Parameters
    ----------
    spec : the bridge.
    access : what it leads to.
    """

    def __init__(self, spec: BridgeSpec, access: Access):
        self.spec, self.access = spec, access
        self._frame: bytearray | None = None  # of the request under way, without SYNC
        self._fault: Reply | None = None  # and how it was broken

    def take(self, content: bytes) -> bytes:
        """Receive bytes; return what is answered."""
        return b"".join(map(self._take, content))

    def spoil(self) -> bytes:
        """Receive a byte without its stop bit; return what is answered."""
        if self._frame is not None and self._fault is None:
            self._fault = Reply.LINE
        return b""

    def silence(self) -> bytes:
        """Let ``timeout`` pass; return what is answered."""
        return b"" if self._frame is None else self._end(
            Reply.TIMEOUT if self._fault is None else self._fault)

    def _take(self, one: int) -> bytes:
        if self._frame is None:
            if one == SYNC:
                self._frame = bytearray()
        elif self._fault is None:
            self._frame.append(one)
            return self._judge(bytes(self._frame))
        return b""

    def _judge(self, frame: bytes) -> bytes:
        if len(frame) < HEAD.size:
            return b""
        command, _, address, count = HEAD.unpack_from(frame)
        if command not in iter(Command):
            self._fault = Reply.COMMAND
        elif address % WORD or count % WORD or not 0 < count <= self.spec.buffer_bytes:
            self._fault = Reply.SHAPE
        else:
            body = HEAD.size + count * Command(command).writes
            if len(frame) == body + SUM.size:
                if checksum(frame[:body]) == frame[body:]:
                    return self._do(Command(command), address, count, frame[HEAD.size:body])
                self._fault = Reply.CHECKSUM
        return b""

    def _do(self, command: Command, address: int, count: int, data: bytes) -> bytes:
        found = b""
        for at in range(0, count, WORD):
            value = int.from_bytes(data[at:at + WORD], "little")
            status, value = self.access(command.memory, command.writes, (address + at) % (1 << 32),
                                        value)
            if status != Reply.OK:
                return self._end(status)
            found += value.to_bytes(WORD, "little")
        return self._end(Reply.OK, b"" if command.writes else found)

    def _end(self, status: Reply, data: bytes = b"") -> bytes:
        assert self._frame is not None
        tag = self._frame[1] if len(self._frame) > 1 else 0
        self._frame = self._fault = None
        return Answer(tag=tag, status=status, data=data).encode()
