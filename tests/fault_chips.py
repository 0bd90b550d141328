# SPDX-License-Identifier: Apache-2.0
"""The chips of the fault campaign: each with a good program, and what must be known of its core."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from golden.channels import ChannelsSpec
from golden.operation import Completion, Layout, Opcode, Status
from golden.rowwise import operation as rowwise
from golden.rowwise.emulator import Emulator
from golden.shell import ShellSpec
from golden.spatten import operation as spatten
from golden.spatten.emulator import Emulator as SpattenEmulator
from golden.spatten.spec import ADDRESS_BITS, LOCAL, SpattenSpec
from hw.rowwise.core import RowwiseCore
from hw.shell.channels import Joined
from hw.shell.chip import Chip
from hw.spatten.core import SpattenCore
from tests.spatten_network import Network
from tests.test_rowwise import GEOMETRIES, network

Bytes = NDArray[np.uint8]


class FaultChip(ABC):
    """A small chip, and the program that it gets again and again.

    Attributes: ``shell``; ``layout`` of its operations; ``data``, memory as the bus sees it before
    ``good``, the good program; ``cycles`` within which that ends. Addresses are multiples of
    ``beat``, and count ``unit`` bytes of memory; ``edges`` are some of special meaning. ``places``
    are the fields with addresses, by opcode; ``sizes`` those with sizes and places inside the core.
    """

    shell: ShellSpec
    layout: Layout
    data: Bytes
    good: list[bytes]
    cycles: int
    beat: int
    unit: int
    edges: tuple[int, ...] = ()
    places: ClassVar[Mapping[Opcode, tuple[str, ...]]]
    sizes: tuple[str, ...]

    @abstractmethod
    def core(self) -> Any:
        """Return the core, with one port."""

    @abstractmethod
    def emulator(self, window: Bytes) -> Callable[[bytes], Completion]:
        """Return what executes an operation with this memory, which it may change."""

    @abstractmethod
    def run_good(self) -> Bytes:
        """Return ``data`` after the good program."""

    @cached_property
    def after(self) -> Bytes:
        """``data`` after the good program."""
        return self.run_good()

    @abstractmethod
    def targets(self, op: Mapping[str, int], size: int) -> NDArray[np.bool_]:
        """Return the bytes of a window that a valid operation may write."""

    @abstractmethod
    def valid(self, op: Mapping[str, int]) -> bool:
        """Return whether the core executes this."""

    def differs(self, after: Bytes) -> Iterator[str]:
        """Yield what a good program that ran wrote wrong; all that it wrote counts."""
        wrong = np.flatnonzero(after != self.after)
        if len(wrong):
            yield f"{len(wrong)} bytes differ, the first at {wrong[0]:#x}"

    def decided(self, op: Mapping[str, int]) -> bool:
        """Return whether descriptors alone say how the operation ends."""
        return True

    def chip(self, data_width: int | None = None) -> Chip:
        """Return the chip, perhaps with a bus of another width."""
        return Chip(self.core(), ShellSpec(data_width=data_width) if data_width else self.shell)


class RowwiseChip(FaultChip):
    """A row-wise chip, and a network whose every intermediate is stored.

    Words that it stores are compared as far as tensors fill them: beside a tensor lies what was in
    the buffer before.
    """

    layout, unit = rowwise.LAYOUT, 1
    places: ClassVar = {one: ("address",) for one in (
        Opcode.LINEAR, Opcode.LOAD, Opcode.STORE, Opcode.NORM, Opcode.ATTEND)}
    sizes = ("rows", "source_row", "target_row", "source", "source_stride", "target",
             "target_stride", "columns", "depth", "group", "keys", "key", "value", "width")

    def __init__(self, name: str, data_width: int, cycles: int = 12_000):
        self.spec, self.cycles = GEOMETRIES[name], cycles
        self.shell, self.beat = ShellSpec(data_width=data_width), self.spec.memory_bytes
        self.program, self.pixels, self.data, self.good = network(name, trace=True)

    def core(self):
        return RowwiseCore(self.spec)

    def emulator(self, window):
        return Emulator(self.spec, window).step

    def run_good(self):
        memory = self.data.copy()
        Emulator(self.spec, memory).run(self.good)
        return memory

    def targets(self, op, size):
        may = np.zeros(size, bool)
        for address, count in rowwise.runs(self.spec, op) if op["opcode"] == Opcode.STORE else ():
            may[address:address + count] = True
        return may

    def valid(self, op):
        return rowwise.check(self.spec, op) == Status.OK

    def differs(self, after):
        yield from (f"{name} differs" for name in self.program.differences(after, self.pixels))

    def decided(self, op):
        return op["opcode"] not in rowwise.CHOICES


class SpattenChip(FaultChip):
    """A SpAtten chip with four channels on its bus, and random layers of all kinds."""

    layout = spatten.LAYOUT
    places: ClassVar = {
        Opcode.ATTEND: ("query", "key", "key_low", "value", "output"),
        Opcode.LINEAR: ("query", "key", "key_low", "output"),
        Opcode.NORM: ("query", "output"), Opcode.LOAD: ("key", "output")}
    sizes = ("heads", "tokens", "values", "key_planes", "value_planes", "key_stride",
             "key_low_stride", "value_stride", "level", "inputs", "outputs", "query_stride",
             "output_stride", "count", "constant", "output_step", "low_step", "rotation")

    def __init__(self, cycles: int = 12_000):
        self.spec = SpattenSpec(
            channels=4, lanes=16, max_tokens=32, max_heads=2, pairs=2, score_rows=16, selectors=1,
            value_queue=4, prune_lanes=4, output_queue=2, outstanding=8, local=256, max_width=32,
            table_width=8)
        self.channels = ChannelsSpec(channels=4, memory_bytes=8, stripe=8, depth=8)
        self.shell, self.cycles = ShellSpec(data_width=128), cycles
        self.beat, self.unit = 1, 4 * self.spec.memory_bytes
        self.edges = (LOCAL - 1, LOCAL + self.spec.local - 1, LOCAL + self.spec.local, LOCAL << 1)
        memory, self.good = Network(self.spec, 36).program(8)
        self.data = self.channels.join(memory)

    def core(self):
        return Joined(SpattenCore(self.spec), self.channels)

    def emulator(self, window):
        return SpattenEmulator(self.spec, self.channels.part(window)).step

    def run_good(self):
        golden = SpattenEmulator(self.spec, self.channels.part(self.data))
        golden.run(self.good)
        return self.channels.join(golden.memory)

    def valid(self, op):
        return spatten.check(self.spec, op) == Status.OK

    def targets(self, op, size):
        spec, kind = self.spec, op["opcode"]
        own = {Opcode.ATTEND: "heads", Opcode.LINEAR: "outputs", Opcode.NORM: "inputs"}
        vectors = next((op[name] for one, name in own.items() if one == kind), 0)
        count = op["count"] or 1 if kind == Opcode.ATTEND else (
            op["tokens"] if op["dense"] else spec.max_tokens)  # pruned: whoever is left
        token, vector = np.indices((count, vectors)).reshape(2, -1)
        may = np.zeros((size // self.unit, spec.channels, spec.memory_bytes), np.uint8)

        def mark(name, step, beats):
            first = (op[name] + token // spec.channels * op[f"{name}_stride"] + vector * step)
            beat = first[:, None] + np.arange(beats) & (1 << ADDRESS_BITS) - 1
            channel = (token + op["rotation"] + vector // 2) % spec.channels
            inside = (beat & LOCAL == 0) & (beat < len(may))
            may[beat[inside], np.broadcast_to(channel[:, None], beat.shape)[inside]] = 1

        if kind == Opcode.LINEAR and op["planes"]:
            mark("output", op["output_step"], op["value_planes"] - 1)
            mark("key_low", op["low_step"], 1)
        else:
            mark("output", spec.vector_beats, spec.vector_beats)
        return self.channels.join(may).astype(bool)


CHIPS: dict[str, Callable[[], FaultChip]] = {
    "rowwise-2x4x4": lambda: RowwiseChip("2x4x4", 64),
    "rowwise-1x8x4": lambda: RowwiseChip("1x8x4", 32),
    "spatten": SpattenChip,
}
