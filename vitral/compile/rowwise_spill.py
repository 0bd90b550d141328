# SPDX-License-Identifier: Apache-2.0
"""Compile for the row-wise core a network whose tensors stay in external memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from golden.activation import ActivationKind
from golden.fixed import Integers, ceil_div
from golden.operation import Opcode, Wait
from golden.rowwise.operation import Place
from golden.vit import Block, Head, LinearLayer, NormLayer
from vitral.compile import Bytes, Capture
from vitral.compile.rowwise import Compiler, Rows

__all__ = ["SpillingCompiler"]

Part = tuple[int, int]
"""First row and rows of what is on chip together; the first row is a multiple of ``rows``."""


@dataclass
class SpillingCompiler(Compiler):
    """A compilation that keeps in external memory what no buffer holds.

    Attention needs all rows at once, everything else one row at a time. So the residual stream and
    the outputs of the heads lie in memory, and between two attentions the rows go part by part
    through all that lies between them: projection, NORM, ``fc1``, ``fc2``. Query, keys and values
    of one head are on chip; so are, as far as there is room, the normalised rows that each head
    needs again. The others are computed again from the residual stream; each head goes through them
    the other way round than the one before, to begin with what that has left.

    What a part needs is loaded while the array works on the part before. Two halves of the residual
    buffer take turns. In the activation buffer two regions do, at its start and at its end: the
    attention outputs of a part come into one, its normalised rows into the other, where the outputs
    of the next part arrive while hidden units, beside that region, are multiplied.

    The array goes on while a STORE is under way, but the STORE waits for all before it. So it comes
    where that costs no more than the array's drain, and never between a NORM and what it follows.
    Weights are read again for each part: the array needs ``columns * depth / row tiles`` bytes per
    cycle.
    """

    waits_for_store: ClassVar[bool] = False
    turn: int = 0  # half of the residual buffer that was used last
    left: bool = False  # it has the last rows as the attention needs them
    norms: str = ""  # whose parameters the normaliser has
    addresses: dict[str, int] = field(default_factory=dict)  # of weights that are read again
    kept: dict[int, Part] = field(default_factory=dict)  # normalised rows, by word address

    def __post_init__(self):
        net, spec = self.network, self.spec
        self.tokens, self.word = net.tokens, spec.word_bytes
        self.check_limits()
        heads = max(len(block.heads) for block in net.blocks)
        units = max(block.fc1.outputs for block in net.blocks)
        self.unit = spec.block_units if net.skip is not None else 1
        width = max(block.heads[0].query.outputs for block in net.blocks)
        self.total, self.half = spec.words("activation"), spec.words("residual") // 2
        self.token_words = ceil_div(net.dim, spec.columns)
        self.normal = self.rows(0, net.dim, 1)
        self.output_words = heads * ceil_div(width, self.word)
        self.space = self.total - self.rows(0, width, self.tokens).words  # beside a query
        region = max(self.normal.stride, self.output_words)
        group = region + max(region, self.hidden(units))
        self.need("activation", self.total - self.space + 2 * self.normal.stride,
                  f"a query of {self.tokens} tokens and two row groups of normalised rows")
        self.need("activation", group, f"one row group of normalised rows, of the outputs of "
                  f"{heads} heads and of {units} hidden units")
        self.need("residual", 2 * spec.rows * self.token_words,
                  f"two row groups of {net.dim} elements")
        self.whole = 0, self.tokens
        self.residual = Rows(self.half, self.token_words, net.prefix, 1)  # of the classifiers
        most = min(self.total // group, self.space // (2 * self.normal.stride),
                   self.half // (spec.rows * self.token_words))
        self.pieces = [part[1:] for part in self.parts(self.tokens, most)]
        self.region = max(map(self.groups, self.pieces)) * region
        self.resident = self.groups(self.whole) * self.normal.stride <= self.space
        # a head goes through the last piece, which is on chip, and then through several at a time
        many = 2 if self.resident else (
            self.space // 2 // self.normal.stride // max(map(self.groups, self.pieces)))
        self.way, end = [self.pieces[-1]], self.pieces[-1][0]
        while end:
            first = [first for first, _ in self.pieces if first < end][-many:][0]
            self.way.append((first, end - first))
            end = first

    def hidden(self, units: int) -> int:
        """Return the words of the hidden units of a row: whole blocks where those are skipped."""
        return ceil_div(ceil_div(units, self.unit) * self.unit, self.word)

    def groups(self, part: Part) -> int:
        """Return the row groups of a part."""
        return ceil_div(part[1], self.spec.rows)

    # Operations

    def layer(self, name: str, part: str, layer: LinearLayer, wait: Wait, place: Place,
              source: Rows, target: Rows, **how) -> None:
        """Emit a LINEAR of some rows; its weights are in the image once."""
        self.addresses[name] = self.linear(f"{name}{part}", layer, wait, place, source, target,
                                           address=self.addresses.get(name), **how)

    def normalise(self, name: str, part: str, layer: NormLayer, wait: Wait, base: int, rows: int,
                  target: int) -> None:
        """Emit a NORM of ``rows`` rows at residual word ``base`` to activation word ``target``."""
        load = self.norms != name
        if name not in self.addresses:
            pairs = np.zeros((self.token_words * self.spec.columns, 2), "<i2")
            pairs[:self.network.dim] = np.stack([layer.gamma, layer.beta], 1)
            self.addresses[name] = self.stream(pairs.tobytes())
        self.norms = name
        self.emit(f"{name}{part}", Opcode.NORM, wait, place=Place.ACTIVATION, rows=rows,
                  source=base, source_stride=self.token_words, target=target,
                  target_stride=self.normal.stride, width=self.network.dim, shift=layer.shift,
                  table=load, address=self.addresses[name])

    def move(self, name: str, opcode: Opcode, wait: Wait, place: Place, target: int, words: int,
             offset: int, **how: int) -> None:
        """Emit a LOAD or STORE of the image's memory."""
        self.emit(name, opcode, wait, segment="image", place=place, target=target, keys=words,
                  address=offset, **how)

    def move_rows(self, name: str, opcode: Opcode, wait: Wait, part: Part, base: int,
                  offset: int) -> None:
        """Emit a LOAD or STORE of rows of the residual stream; base and offset of their buffer."""
        size = self.token_words * self.spec.block_bytes["residual"]
        self.move(name, opcode, wait, Place.RESIDUAL, base, part[1] * self.token_words,
                  offset + part[0] * size)

    def next_half(self) -> int:
        """Return the word address of the half of the residual buffer whose turn it is."""
        self.turn = 1 - self.turn
        return self.turn * self.half

    # Memory

    def residual_area(self) -> int:
        """Reserve memory for the residual stream."""
        self.residual_bytes = (self.tokens * self.token_words * self.spec.block_bytes["residual"])
        return self.reserve(self.residual_bytes)

    def output_area(self) -> int:
        """Reserve memory for the outputs of all heads."""
        self.output_bytes = (self.groups(self.whole) * self.output_words *
                             self.spec.block_bytes["activation"])
        return self.reserve(self.output_bytes)

    def see(self, name: str, offset: int, size: int, decode: Callable[[Bytes], Integers]) -> None:
        """Capture what lies in memory when tracing."""
        if self.trace:
            self.captures.append(Capture(name=name, index=(), offset=offset, size=size,
                                         decode=lambda data: decode(data).astype(np.int64)))

    def see_rows(self, name: str) -> None:
        """Capture the residual stream when tracing."""
        shape, dim = (self.tokens, -1), self.network.dim
        self.see(name, self.residual_offset, self.residual_bytes,
                 lambda data: data.view("<i2").reshape(shape)[:, :dim])

    # The network

    def patch_embed(self) -> None:
        """Store the residual stream: positions with the patches on top, part by part."""
        net, spec = self.network, self.spec
        count, inputs = self.tokens - net.prefix, net.patch_embed.inputs
        position = np.zeros((self.tokens, self.token_words * spec.columns), "<i2")
        position[:, :net.dim] = net.position
        whole, side = self.rows(0, inputs, count), self.total // 2
        block = spec.block_bytes["activation"]
        self.need("activation", 2 * whole.stride, f"two row groups of patches of {inputs} bytes")
        self.need("residual", 2 * (spec.rows + net.prefix) * self.token_words,
                  f"two row groups and {2 * net.prefix} tokens of {net.dim} elements")
        self.input_bytes = whole.words * block
        offset, self.residual_offset = self.reserve(self.input_bytes), self.residual_area()
        self.output_offset = self.output_area()
        parts = list(self.parts(count, min(
            side // whole.stride, (self.half // self.token_words - net.prefix) // spec.rows)))
        halves = [self.next_half() for _ in parts]
        tokens = [(net.prefix + first, rows) if first else (0, net.prefix + rows)
                  for _, first, rows in parts]

        def load(index: int) -> None:
            name, first, rows = parts[index]
            start, size = tokens[index]
            self.emit(f"position{name}", Opcode.LOAD, Wait.NONE, place=Place.RESIDUAL,
                      target=halves[index], keys=size * self.token_words,
                      address=self.stream(position[start:start + size].tobytes()))
            self.move(f"patch_embed{name}.load", Opcode.LOAD, Wait.NONE, Place.ACTIVATION,
                      index % 2 * side, ceil_div(rows, spec.rows) * whole.stride,
                      offset + first // spec.rows * whole.stride * block)

        load(0)
        for index, (name, first, rows) in enumerate(parts):
            self.layer("patch_embed", name, net.patch_embed, Wait.NONE if index else Wait.ROWS,
                       Place.ADD, self.rows(index % 2 * side, inputs, rows),
                       Rows(halves[index], self.token_words, rows, 1),
                       target_row=0 if first else net.prefix)
            if index + 1 < len(parts):
                load(index + 1)
            self.move_rows(f"embed{name}.store", Opcode.STORE, Wait.ALL, tokens[index],
                           halves[index], self.residual_offset)
        self.see_rows("embed")

    def block(self, index: int, block: Block) -> None:
        """Emit one encoder block; what is before it has just been stored."""
        if self.trace and index:
            self.output_offset = self.output_area()
        self.heads(f"blocks.{index}", block)
        last = index + 1 == len(self.network.blocks) and not self.trace
        self.between(f"blocks.{index}", block, last)

    def heads(self, name: str, block: Block) -> None:
        """Emit the heads, one after the other; their outputs go to memory."""
        kept, stride, slots = self.kept, self.normal.stride, (0, self.space // 2)

        def place(part: Part, other: Part | None) -> int:
            """Return where a part is normalised, while another one is in use."""
            if self.resident:
                return part[0] // self.spec.rows * stride
            return slots[kept.get(slots[0]) == other]

        def fill(part: Part, base: int) -> list[Callable[[], None]]:
            """Return what emits the loading and normalising of each piece of a part."""
            kept[base] = part

            def piece(one: Part) -> Callable[[], None]:
                def emit() -> None:
                    what, at = f".{one[0] // self.spec.rows}", self.next_half()
                    self.move_rows(f"{name}.norm1{what}.load", Opcode.LOAD, Wait.NONE, one, at,
                                   self.residual_offset)
                    self.normalise(f"{name}.norm1", what, block.norm1, Wait.ROWS, at, one[1],
                                   base + (one[0] - part[0]) // self.spec.rows * stride)
                return emit
            return [piece(one) for one in self.pieces if part[0] <= one[0] < sum(part)]

        kept.clear()
        start = self.way[0]
        loads = fill(start, place(start, None))
        if self.left:
            self.normalise(f"{name}.norm1", f".{start[0] // self.spec.rows}", block.norm1,
                           Wait.NONE, self.turn * self.half, start[1], next(iter(kept)))
        else:
            loads[0]()
        for index, head in enumerate(block.heads):
            way = self.way[::-1] if index % 2 else self.way
            if self.resident and index:
                way, kept[0] = [self.whole], self.whole
            ahead = [*way[1:], way[-1]]  # the next head begins with what this one ends with
            for number, (part, coming) in enumerate(zip(way, ahead, strict=True)):
                base = next(base for base, one in kept.items() if one == part)
                loads = [] if coming in kept.values() else fill(coming, place(coming, part))
                self.project(f"{name}.heads.{index}", part, base, head, loads,
                             begins=not number, first=not index)
            self.attend(name, index, head, block)
        order = self.order(block)
        shape = self.groups(self.whole), self.output_words, self.spec.rows, self.word
        self.see(f"{name}.attn", self.output_offset, self.output_bytes, lambda data: data.view(
            "i1").reshape(shape).transpose(0, 2, 1, 3).reshape(
                shape[0] * shape[2], -1)[:self.tokens, order])

    def order(self, block: Block) -> Integers:
        """Return the stored column of each column of the outputs of all heads."""
        width = block.heads[0].query.outputs
        padded = ceil_div(width, self.word) * self.word
        return (np.arange(len(block.heads))[:, None] * padded + np.arange(width)).ravel()

    def places(self, head: Head) -> tuple[Rows, Rows, Rows]:
        """Return where a head's query, keys and values lie."""
        spec, words = self.spec, ceil_div(head.query.outputs, self.word)
        key = Rows(0, words, self.tokens, spec.columns)
        value = Rows(0, words * self.word // spec.columns, self.tokens, spec.depth)
        self.need("key", key.words, f"the keys of {self.tokens} tokens")
        self.need("value", value.words, f"the values of {self.tokens} tokens")
        return Rows(self.space, words, self.tokens, spec.rows), key, value

    def project(self, at: str, part: Part, base: int, head: Head, loads: list, *, begins: bool,
                first: bool) -> None:
        """Emit key, value and query of some rows, and between them what loads the next ones.

        What is loaded takes the place of the rows before these, which must have been read. A head
        finds the STORE of the one before under way, and its query needs that place.
        """
        what = "" if part == self.whole else f".{part[0] // self.spec.rows}"
        source = Rows(base, self.normal.stride, part[1], self.spec.rows)
        query, key, value = self.places(head)
        start = Wait.ALL if not begins else Wait.ROWS if first else Wait.NONE
        for number, (name, layer, wait, place, target) in enumerate((
                ("key", head.key, start, Place.KEY, key),
                ("value", head.value, Wait.NONE, Place.VALUE, value),
                ("query", head.query, Wait.ALL if begins and not first else Wait.NONE,
                 Place.ACTIVATION, query))):
            self.layer(f"{at}.{name}", what, layer, wait, place, source, target, rows=part[1],
                       target_row=part[0])
            for load in loads[number:number + 1 if number < 2 else None]:
                load()

    def attend(self, name: str, index: int, head: Head, block: Block) -> None:
        """Emit a head's attention, in the place of its query, and the STORE of its outputs."""
        at, spec = f"{name}.heads.{index}", self.spec
        query, key, value = self.places(head)
        words = query.stride
        address = 0 if index else self.stream(block.exponents.astype(np.uint8).tobytes())
        self.emit(f"{at}.attend", Opcode.ATTEND, Wait.ALL, place=Place.ACTIVATION,
                  rows=self.tokens, source=query.base, source_stride=words, target=query.base,
                  target_stride=words, columns=value.stride, depth=words * self.word // spec.depth,
                  keys=self.tokens, key=key.base, value=value.base, score_mul=head.score_mul,
                  score_shift=head.score_shift, mul=head.mul, shift=head.shift, table=not index,
                  address=address, macs=2 * self.tokens**2 * head.query.outputs)
        if index + 1 == len(block.heads):
            self.load_rows(name, 0, Wait.NONE)
        self.move(f"{at}.attend.store", Opcode.STORE, Wait.ALL, Place.ACTIVATION, query.base,
                  query.words,
                  self.output_offset + index * words * spec.block_bytes["activation"],
                  width=words, target_stride=self.output_words - words)

    def load_rows(self, name: str, index: int, wait: Wait) -> None:
        """Emit the LOAD of the residual rows of a piece."""
        self.move_rows(f"{name}.residual.{index}.load", Opcode.LOAD, wait, self.pieces[index],
                       self.next_half(), self.residual_offset)

    def load_outputs(self, name: str, index: int, base: int) -> None:
        """Emit the LOAD of the attention outputs of a piece."""
        spec, part = self.spec, self.pieces[index]
        words = self.output_words
        self.move(f"{name}.attn.{index}.load", Opcode.LOAD, Wait.NONE, Place.ACTIVATION, base,
                  self.groups(part) * words, self.output_offset +
                  part[0] // spec.rows * words * spec.block_bytes["activation"])

    def between(self, name: str, block: Block, last: bool) -> None:
        """Emit all between two attentions, piece by piece; of the ``last`` few rows are stored."""
        relu, hidden = block.activation == ActivationKind.RELU, self.hidden(block.fc1.outputs)
        skips = self.network.skip is not None
        regions = 0, self.total - self.region
        offset = self.residual_area() if self.trace else self.residual_offset
        count = len(self.pieces)

        def store(index: int, half: int) -> bool:
            """Emit the STORE of a piece, if it is needed."""
            needed = index >= 0 and not (
                last and self.pieces[index][0] >= self.network.prefix)
            if needed:
                self.move_rows(f"{name}.residual.{index}.store", Opcode.STORE, Wait.ALL,
                               self.pieces[index], half * self.half, offset)
            return needed

        self.load_outputs(name, 0, regions[0])
        for index, (_, rows) in enumerate(self.pieces):
            what, side, half = f".{index}", index % 2, self.turn
            residual = Rows(half * self.half, self.token_words, rows, 1)
            self.layer(f"{name}.proj", what, block.proj, Wait.ROWS, Place.ADD,
                       Rows(regions[side], self.output_words, rows, self.spec.rows), residual,
                       inputs=self.order(block))
            self.normalise(f"{name}.norm2", what, block.norm2, Wait.ROWS, residual.base, rows,
                           regions[1 - side])
            units = Rows(side * self.region, hidden, rows, self.spec.rows)
            self.layer(f"{name}.fc1", what, block.fc1, Wait.ROWS, Place.ACTIVATION,
                       Rows(regions[1 - side], self.normal.stride, rows, self.spec.rows), units,
                       activation=block.activation, table=block.table, detect=skips)
            stored = store(index - 1, 1 - half)
            more = index + 1 < count
            if more and not stored:
                self.load_rows(name, index + 1, Wait.ALL)
            self.layer(f"{name}.fc2", what, block.fc2, Wait.NONE if stored or more else Wait.ROWS,
                       Place.ADD, units, residual, unsigned=relu, skip=skips)
            if more and stored:
                self.load_rows(name, index + 1, Wait.NONE)
            if more:
                self.load_outputs(name, index + 1, regions[1 - side])
        self.left = store(count - 1, self.turn)
        self.residual_offset = offset
        self.see_rows(f"{name}.residual2")

    def norm(self, name: str, layer: NormLayer, wait: Wait, rows: int, *,
             gather: bool = False) -> None:
        """Emit a NORM of the first rows, loaded for it behind the place of the logits."""
        base = self.residual.base
        self.move_rows(f"{name}.load", Opcode.LOAD, Wait.ALL, (0, self.network.prefix), base,
                       self.residual_offset)
        self.normalise(name, "", layer, wait, base, rows, self.normal.base)
