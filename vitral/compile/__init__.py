# SPDX-License-Identifier: Apache-2.0
"""From a quantised network to a program: operations, weight image and memory map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.fixed import Integers, integers
from golden.operation import Layout, Opcode
from golden.validate import integer, require
from golden.vit import IntegerVit

__all__ = ["Capture", "Program", "Step"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation of a program.

    Parameters
    ----------
    name : what it does to the network, such as ``blocks.0.heads.1.query``; ``halt`` at the end.
    fields : the descriptor's fields; the address in ``where`` counts from the start of ``segment``.
    segment : ``weights``, or ``image`` for what each image has of its own.
    where : the field with an address in external memory.
    macs : useful multiplications, without padding, if nothing is pruned or skipped.
    tile, blocks : where blocks can be skipped: rows of a row tile, and all blocks of a row tile.
    """

    name: str
    fields: Mapping[str, int]
    segment: str = "weights"
    where: str = "address"
    macs: int = 0
    tile: int = 0
    blocks: int = 0

    def executed(self, work: Any) -> int:
        """Return the useful multiplications that were left of ``macs``; ``work`` of the design."""
        rows, macs = self.fields.get("rows", self.fields.get("tokens", 0)), self.macs
        heads = self.fields.get("inputs" if self.fields.get("by_head") else "heads", 0)
        if heads:  # of those that are left
            macs = macs * work.inputs // heads
        if self.fields["opcode"] == Opcode.ATTEND:
            return macs * work.rows * work.keys // (rows * self.fields.get("keys", rows))
        if not macs or work.blocks is None:
            return macs * work.rows // max(rows, 1)
        sizes = (min(self.tile, work.rows - self.tile * n) for n in range(len(work.blocks)))
        left = sum(size * count for size, count in zip(sizes, work.blocks, strict=True))
        return macs * left // (rows * self.blocks)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Where a stored tensor lies in memory, and how to read it.

    ``offset`` counts from the start of the image's memory, ``size`` bytes are stored, and
    ``decode`` makes of them rows that must equal ``observed[image][index]``, where ``observed`` is
    what ``IntegerVit.forward`` shows under ``name``.
    """

    name: str
    index: tuple
    offset: int
    size: int
    decode: Callable[[Bytes], Integers]


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A network compiled for one core.

    Memory starts with the weight image; then each image has a slot of ``image_bytes``: its input,
    its logits and, where they were asked for, its intermediates.

    Parameters
    ----------
    network : what was compiled.
    layout : the core's descriptor.
    steps : operations of one image, the last of which is HALT.
    weights : the weight image, from address 0.
    image_bytes : memory of one image, a multiple of ``alignment``.
    input_bytes : bytes of its input, which ``encode`` makes of patches (P, C * p * p); they are
        the first of the slot.
    output : the logits.
    captures : the intermediates, in the order of computation; empty unless traced.
    alignment : of every address, in bytes.
    unit : bytes from one address to the next.
    exact : the network's logits are those of the program, bit for bit; otherwise the network is
        what the program approximates.
    encode_scores : the importance of tokens that comes with an image, (choices, tokens) unsigned 32
        bit, to the bytes that follow its input; None: it comes from nowhere.
    """

    network: IntegerVit
    layout: Layout
    steps: tuple[Step, ...]
    weights: bytes
    image_bytes: int
    input_bytes: int
    encode: Callable[[Integers], bytes]
    output: Capture
    captures: tuple[Capture, ...]
    alignment: int
    unit: int = 1
    exact: bool = True
    encode_scores: Callable[[Integers], bytes] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each operation; its index is the operation's tag."""
        return tuple(step.name for step in self.steps)

    @property
    def macs(self) -> int:
        """Useful multiplications of one image, without padding, if nothing is pruned or skipped."""
        return sum(step.macs for step in self.steps)

    def executed(self, work: Sequence[Any]) -> int:
        """Return the useful multiplications of images; ``work`` of each of their operations."""
        return sum(step.executed(one) for step, one in zip(cycle(self.steps), work))

    def memory_bytes(self, images: int = 1) -> int:
        """Return the external memory that weights and ``images`` images need."""
        return self.image_address(images)

    def image_address(self, image_index: int) -> int:
        """Return where the memory of an image starts."""
        integer("image_index", image_index, 0)
        return len(self.weights) + image_index * self.image_bytes

    def operations(self, image_index: int = 0) -> list[bytes]:
        """Return the descriptors that run one image, HALT included."""
        base = self.image_address(image_index)
        require(base + self.image_bytes <= 1 << 32,
                f"memory must end below 4 GiB, not at {base + self.image_bytes}")
        return [self.layout.pack({**step.fields, step.where: step.fields.get(step.where, 0) + (
                    base // self.unit if step.segment == "image" else 0)})
                for step in self.steps]

    def place_input(self, image: ArrayLike) -> bytes:
        """Return the input bytes of a quantised image (C, H, W), or of its patches (P, C * p * p).

        They belong at ``image_address(image_index)``.
        """
        image = integers(image)
        patches = self.network.patches(image[None])[0] if image.ndim == 3 else image
        wanted = (self.network.tokens - self.network.prefix, self.network.patch_embed.inputs)
        require(patches.shape == wanted, f"patches must have shape {wanted}, not {patches.shape}")
        return self.encode(patches)

    def memory(self, images: ArrayLike, scores: ArrayLike | None = None) -> Bytes:
        """Return memory that holds the weights and the given quantised images (N, ...).

        ``scores`` (N, choices, tokens) come with them where ``encode_scores`` is there.
        """
        images = integers(images)
        memory = np.zeros(self.memory_bytes(len(images)), np.uint8)
        memory[:len(self.weights)] = np.frombuffer(self.weights, np.uint8)
        for index, image in enumerate(images):
            start = self.image_address(index)
            memory[start:start + self.input_bytes] = np.frombuffer(
                self.place_input(image), np.uint8)
            if self.encode_scores is not None and scores is not None:
                data = self.encode_scores(integers(scores)[index])
                start += self.input_bytes
                memory[start:start + len(data)] = np.frombuffer(data, np.uint8)
        return memory

    def read(self, memory: Bytes, capture: Capture, image_index: int = 0) -> Integers:
        """Return a stored tensor of one image."""
        start = self.image_address(image_index) + capture.offset
        return capture.decode(np.asarray(memory[start:start + capture.size], np.uint8))

    def logits(self, memory: Bytes, image_index: int = 0) -> Integers:
        """Return the s16 logits (classes,) of one image."""
        return self.read(memory, self.output, image_index)[0]

    def differences(self, memory: Bytes, images: ArrayLike) -> list[str]:
        """Return the names of the stored tensors that differ from the network's, by image.

        ``memory`` is what ``memory(images)`` became when the operations of every image had run.
        """
        images, names = integers(images), []
        for image in range(len(images) if self.exact else 0):
            seen: dict[str, Integers] = {}
            self.network.forward(images[image:image + 1], seen.__setitem__)
            for capture in (*self.captures, self.output):
                wanted = seen[capture.name][0][capture.index]  # of pruned tokens nothing is wanted
                if not np.array_equal(self.read(memory, capture, image)[:len(wanted)], wanted):
                    names.append(f"image {image}: {capture.name}{list(capture.index) or ''}")
        return names
