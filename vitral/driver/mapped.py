# SPDX-License-Identifier: Apache-2.0
"""The way to a chip whose registers and memory Linux maps into this process."""

import ctypes
import mmap
import os
import select
import time
from pathlib import Path


class MappedTransport:
    """A :class:`~vitral.driver.Transport` by memory mapping: UIO, or ``/dev/mem``.

    Parameters
    ----------
    registers : file with the registers: ``/dev/uioN`` (its first map), or ``/dev/mem``.
    memory : file with the memory that chip and host share: ``/dev/mem``, or a device that
        allocates such memory, as u-dma-buf does.
    base : bus address at which the chip sees the first byte of that memory.
    size : its bytes.
    registers_at, memory_at : where they begin in these files; multiples of the page size.
    interrupt : whether reading ``registers`` waits for an interrupt, as UIO does; by default if it
        is called ``uio``. Otherwise waiting is polling, once every ``poll`` seconds.

    The bus of the chip must be coherent with the mapping: ``/dev/mem`` is opened with O_SYNC, which
    makes it uncached. Used in a ``with`` block, it unmaps everything at its end.
    """

    WINDOW = 4096

    def __init__(self, registers: Path | str, memory: Path | str, *, base: int, size: int,
                 registers_at: int = 0, memory_at: int = 0, interrupt: bool | None = None,
                 poll: float = 1e-3):
        self._base, self._size, self._poll = base, size, poll
        self._interrupt = (Path(registers).name.startswith("uio") if interrupt is None
                           else interrupt)
        self._files: list[int] = []
        self._maps: list[mmap.mmap] = []
        try:
            self._device = self._open(registers)
            block = self._map(self._device, self.WINDOW, registers_at)
            # single 32-bit accesses, which slices of a map do not promise
            self._words = (ctypes.c_uint32 * (self.WINDOW // 4)).from_buffer(block)
            self._memory = self._map(self._open(memory), size, memory_at)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path | str) -> int:
        self._files.append(os.open(path, os.O_RDWR | os.O_SYNC))
        return self._files[-1]

    def _map(self, file: int, size: int, offset: int) -> mmap.mmap:
        self._maps.append(mmap.mmap(file, size, offset=offset))
        return self._maps[-1]

    def close(self) -> None:
        """Unmap everything."""
        self._words = None
        for one in self._maps:
            one.close()
        for file in self._files:
            os.close(file)
        self._maps, self._files = [], []

    def __enter__(self) -> "MappedTransport":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, offset: int) -> int:
        assert self._words is not None, "the transport is closed"
        return self._words[offset // 4]

    def read_words(self, offset: int, count: int) -> list[int]:
        return [self.read(offset + 4 * n) for n in range(count)]

    def write(self, offset: int, value: int) -> None:
        assert self._words is not None, "the transport is closed"
        self._words[offset // 4] = value

    def _at(self, address: int, count: int) -> int:
        if not self._base <= address <= address + count <= self._base + self._size:
            raise ValueError(f"memory must hold {count} bytes at {address:#x}, but has "
                             f"{self._size} at {self._base:#x}")
        return address - self._base

    def load(self, address: int, data: bytes) -> None:
        at = self._at(address, len(data))
        self._memory[at:at + len(data)] = data

    def dump(self, address: int, count: int) -> bytes:
        at = self._at(address, count)
        return self._memory[at:at + count]

    def wait(self, seconds: float) -> None:
        if not self._interrupt:
            time.sleep(min(seconds, self._poll))
            return
        os.write(self._device, (1).to_bytes(4, "little"))  # UIO: let the next interrupt through
        if select.select([self._device], [], [], seconds)[0]:
            os.read(self._device, 4)

    def time(self) -> float:
        return time.monotonic()
