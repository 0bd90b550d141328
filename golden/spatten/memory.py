# SPDX-License-Identifier: Apache-2.0
"""The memories of the SpAtten core, beat by beat."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Integers
from golden.operation import BusError
from golden.spatten.spec import ADDRESS_BITS, LOCAL, SpattenSpec

Bytes = NDArray[np.uint8]
Places = Integers | np.int64
"""A number or many."""


@dataclass
class Memory:
    """External and local memory: each (beats of a channel, channels, bytes of a beat).

    A beat's address has bit 26 set where it is that of a local memory, ``LOCAL``, and no more bits:
    what follows the last begins again with 0. Accesses beyond the end of either raise
    :class:`~golden.operation.BusError`. ``bytes_read`` and ``bytes_written`` count what goes to and
    from external memory, ``beats`` what each channel reads of both.
    """

    spec: SpattenSpec
    external: Bytes
    local: Bytes = field(init=False)
    bytes_read: int = field(init=False, default=0)
    bytes_written: int = field(init=False, default=0)
    beats: Integers = field(init=False)

    def __post_init__(self):
        self.local = np.zeros((self.spec.local, self.spec.channels, self.spec.memory_bytes),
                              np.uint8)
        self.beats = np.zeros(self.spec.channels, np.int64)

    def _where(self, place: Integers, access: str) -> tuple[Bytes, Integers]:
        """Return the memory of addresses, which all are of the same, and where they lie in it."""
        place = place & (1 << ADDRESS_BITS) - 1
        last = int(place.max(initial=0))
        memory = self.local if last & LOCAL else self.external
        inside = place - LOCAL if last & LOCAL else place
        if inside.size and not 0 <= inside.min() <= inside.max() < len(memory):
            raise BusError(f"{access} of beat {last} is beyond the memory")
        return memory, inside

    def read(self, channel: Places, first: Places, beats: int,
             times: Integers | int = 1) -> Bytes:
        """Return so many beats from ``first`` on: (..., beats, bytes).

        They are counted as if they were read so many ``times`` (...).
        """
        channel = np.asarray(channel)
        counts = beats * np.bincount(channel.ravel(), np.broadcast_to(times, channel.shape).ravel(),
                                     self.spec.channels).astype(np.int64)
        memory, place = self._where(np.asarray(first)[..., None] + np.arange(beats), "read")
        data = memory[place, channel[..., None]]
        self.beats += counts
        if memory is self.external:
            self.bytes_read += int(counts.sum()) * self.spec.memory_bytes
        return data

    def write(self, channel: Places, first: Places, data: Bytes) -> None:
        """Store (..., beats, bytes) from ``first`` on."""
        memory, place = self._where(np.asarray(first)[..., None] + np.arange(data.shape[-2]),
                                    "write")
        memory[place, np.asarray(channel)[..., None]] = data
        if memory is self.external:
            self.bytes_written += data.size

    def nibbles(self, channel: Places, first: Places, beats: int,
                times: Integers | int = 1) -> Integers:
        """Return beats as planes of 4-bit numbers: (..., beats, lanes)."""
        data = self.read(channel, first, beats, times).astype(np.int64)
        return np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:-1], self.spec.lanes)

    def vectors(self, channel: Places, first: Places) -> Integers:
        """Return vectors of signed 16-bit numbers: (..., lanes)."""
        data = np.ascontiguousarray(self.read(channel, first, self.spec.vector_beats))
        return data.reshape(*data.shape[:-2], 2 * self.spec.lanes).view("<i2").astype(np.int64)

    def store_vectors(self, channel: Places, first: Places, numbers: Integers) -> None:
        """Store vectors of 16-bit numbers (..., lanes)."""
        spec = self.spec
        data = np.ascontiguousarray(numbers.astype("<i2")).view(np.uint8)
        self.write(channel, first, data.reshape(*numbers.shape[:-1], spec.vector_beats,
                                                spec.memory_bytes))

    def store_plane(self, channel: Places, first: Places, nibbles: Integers) -> None:
        """Store planes of 4-bit numbers (..., lanes), a beat each."""
        pairs = nibbles.reshape(*nibbles.shape[:-1], self.spec.memory_bytes, 2)
        data = (pairs[..., 0] | pairs[..., 1] << 4).astype(np.uint8)
        self.write(channel, first, data[..., None, :])
