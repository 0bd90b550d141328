# SPDX-License-Identifier: Apache-2.0
"""The memory channels of a core on one bus: what lies where."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fixed import ceil_div
from golden.validate import integer, power_of_two, require

ADDRESS_BITS = 32
"""Of the bus."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ChannelsSpec:
    """Channels with addresses of their own, in stripes on one bus.

    ``stripe`` beats of channel 0 lie first, then as many of each other, then the next of channel 0.
    So what follows each other in a channel makes bursts of up to a stripe, a memory of any size has
    the same part for each channel, and what lies beyond the end of it does so in all.

    Parameters
    ----------
    channels : number of channels.
    memory_bytes : bytes of a beat of one.
    stripe : beats that lie next to each other, a power of two. No request on the bus is longer.
    depth : beats of each channel that can wait to be taken, a power of two, at least ``stripe``.
        No more are asked for, so that no channel waits for another to take its own.
    """

    channels: int = 2
    memory_bytes: int = 8
    stripe: int = 32
    depth: int = 64

    def __post_init__(self):
        integer("channels", self.channels, 1, 64)
        power_of_two("memory_bytes", self.memory_bytes, 4, 64)
        power_of_two("stripe", self.stripe, 1, 1024)
        power_of_two("depth", self.depth, 2, 1024)
        require(self.depth >= self.stripe,
                f"depth must be at least stripe {self.stripe}, not {self.depth}")

    @property
    def row_bytes(self) -> int:
        """Bytes of a stripe of every channel."""
        return self.channels * self.stripe * self.memory_bytes

    def place(self, channel: int, beat: int) -> int:
        """Return the bus address of a beat; of one beyond 4 GB, that of the last below."""
        row, rest = divmod(beat, self.stripe)
        place = (row * self.channels + channel) * self.stripe + rest
        return min(place * self.memory_bytes, (1 << ADDRESS_BITS) - self.memory_bytes)

    def pieces(self, channel: int, address: int, beats: int) -> list[tuple[int, int]]:
        """Return a request, from a byte address of a channel, as the bus sees it: address, beats.

        None is longer than up to the end of its stripe.
        """
        beat, pieces = address // self.memory_bytes, []
        while beats:
            count = min(beats, self.stripe - beat % self.stripe)
            pieces.append((self.place(channel, beat), count))
            beat, beats = beat + count, beats - count
        return pieces

    def join(self, memory: Bytes) -> Bytes:
        """Return memory (beats, channels, bytes of a beat) as it lies on the bus: (bytes,).

        Beats that are missing of the last stripes are 0.
        """
        rows = ceil_div(len(memory), self.stripe)
        whole = np.zeros((rows * self.stripe, self.channels, self.memory_bytes), np.uint8)
        whole[:len(memory)] = memory
        return whole.reshape(rows, self.stripe, self.channels, -1).swapaxes(1, 2).reshape(-1).copy()

    def part(self, memory: Bytes) -> Bytes:
        """Return what :meth:`join` made of memory, with the beats of its whole stripes."""
        rows = len(memory) // self.row_bytes
        stripes = memory[:rows * self.row_bytes].reshape(
            rows, self.channels, self.stripe, self.memory_bytes)
        return stripes.swapaxes(1, 2).reshape(-1, self.channels, self.memory_bytes).copy()


@dataclass(frozen=True, kw_only=True)
class JoinedSpec:
    """A core whose channels are joined; ``core`` is the specification of the core."""

    core: Any
    channels: ChannelsSpec

    def __post_init__(self):
        for name in ("channels", "memory_bytes"):
            mine, its = getattr(self.channels, name), getattr(self.core, name)
            require(mine == its, f"{name} must be {its} as in the core, not {mine}")

    @property
    def memory_bytes(self) -> int:
        """Bytes of a beat of the port."""
        return self.channels.memory_bytes
