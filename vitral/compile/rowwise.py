# SPDX-License-Identifier: Apache-2.0
"""Compile for the row-wise core."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from golden.activation import ActivationKind
from golden.fixed import Integers, ceil_div
from golden.operation import Opcode, Wait
from golden.rowwise.operation import LAYOUT, Importance, Place
from golden.rowwise.spec import RowwiseSpec
from golden.validate import require
from golden.vit import Block, Head, IntegerVit, LinearLayer, NormLayer
from vitral.compile import Bytes, Capture, Program, Step

__all__ = ["compile"]


class TooSmallError(ValueError):
    """A buffer cannot hold what it must."""

    def __init__(self, buffer: str, message: str):
        super().__init__(message)
        self.buffer = buffer


@dataclass(frozen=True)
class Rows:
    """Rows of a tensor in the activation buffer, or in the residual buffer with ``banks`` 1.

    Row ``t`` lies in bank ``t % banks`` at word ``base + t // banks * stride``.
    """

    base: int
    stride: int
    count: int
    banks: int

    @property
    def words(self) -> int:
        """Words from the first row to the last."""
        return ceil_div(self.count, self.banks) * self.stride


@dataclass
class Compiler:
    """One compilation: what was emitted so far, and where things lie.

    The activation buffer holds, from word 0, the normalised rows; behind them, one after the other,
    patches, then all heads' outputs, each in the place of its query, then hidden units. Everything
    but NORM, LOAD and STORE executes in order on the array, so that a region may be written by the
    array as soon as the operation that reads it has been issued.
    """

    waits_for_store: ClassVar[bool] = True
    network: IntegerVit
    spec: RowwiseSpec
    trace: bool
    steps: list[Step] = field(default_factory=list)
    weights: bytearray = field(default_factory=bytearray)
    captures: list[Capture] = field(default_factory=list)
    slot: int = 0
    table: bytes | None = None
    live: bool = False  # tokens have left

    def __post_init__(self):
        net, spec = self.network, self.spec
        self.tokens, self.word = net.tokens, spec.word_bytes
        self.check_limits()
        # the residual stream and the normalised rows keep their places all the time
        self.residual = Rows(0, ceil_div(net.dim, spec.columns), self.tokens, 1)
        self.need("residual", self.residual.words, f"{self.tokens} tokens of {net.dim} elements")
        self.normal = self.rows(0, net.dim, self.tokens)

    def check_limits(self) -> None:
        """Refuse a network that the core was not built for, whatever its memories are."""
        net, spec = self.network, self.spec
        require(net.index_bits == spec.index_bits,
                f"index_bits must be {spec.index_bits} as in the core, not {net.index_bits}")
        require(self.tokens <= spec.max_keys,
                f"tokens must be at most max_keys {spec.max_keys}, not {self.tokens}")
        require(net.dim <= spec.max_width,
                f"width must be at most max_width {spec.max_width}, not {net.dim}")
        require(not net.prune or net.source == spec.pruning,
                f"pruning must be {net.source} in the core for this network, not {spec.pruning}")
        fusing = sorted(index for index, one in net.prune.items() if one.fuse)
        require(spec.fuse or not fusing,
                "fuse must be True in the core for this network, which fuses the tokens that leave "
                f"block {', '.join(map(str, fusing))}, not False")
        block = spec.block_units
        require(net.skip is None or bool(block), "skip_words must be at least 1 to skip, not 0")
        require(net.skip is None or (net.skip.rows, net.skip.channels) == (spec.rows, block),
                f"blocks that are skipped must be {spec.rows} tokens of {block} units in this "
                f"core, not {net.skip}")
        for index, block in enumerate(net.blocks):
            require(block.activation in spec.activation.kinds,
                    f"activation of block {index} must be one that the core has, not "
                    f"{block.activation.name}")
            size = 1 << spec.table_width
            require(block.table is None or len(block.table) == size,
                    f"table of block {index} must have {size} entries as in the core, not "
                    f"{0 if block.table is None else len(block.table)}")

    # Places

    def rows(self, base: int, width: int, count: int) -> Rows:
        """Return rows of ``width`` bytes in the activation buffer."""
        return Rows(base, ceil_div(width, self.word), count, self.spec.rows)

    def parts(self, rows: int, *most: int) -> Iterator[tuple[str, int, int]]:
        """Divide rows into as few parts as possible, about equally.

        Part ``n`` has up to ``most[n % len(most)]`` row groups. Yields a suffix for the name (empty
        when there is but one part), the first row and the rows.
        """
        groups, count = ceil_div(rows, self.spec.rows), 0
        room: list[int] = []
        while sum(room) < groups:
            room.append(most[len(room) % len(most)])
        for index in range(len(room)):
            left = groups - count
            size = max(left - sum(room[index + 1:]), left // (len(room) - index))
            first, count = count * self.spec.rows, count + size
            end = min(count * self.spec.rows, rows)
            yield f".{index}" if len(room) > 1 else "", first, end - first

    def need(self, buffer: str, words: int, what: str) -> None:
        """Require a buffer to hold ``words`` words."""
        block = self.spec.block_bytes[buffer]
        have = getattr(self.spec, f"{buffer}_bytes")
        if words * block > have:
            raise TooSmallError(
                buffer, f"{buffer} buffer must hold {words * block} bytes for {what}, has {have}")

    # Operations

    def emit(self, name: str, opcode: Opcode, wait: Wait, *, segment: str = "weights",
             macs: int = 0, tile: int = 0, blocks: int = 0, **fields: int) -> None:
        """Append an operation. One after a STORE waits for it: it may overwrite what is stored."""
        after_store = (self.waits_for_store and self.steps and
                       self.steps[-1].fields["opcode"] == Opcode.STORE)
        fields = {"opcode": opcode, "wait": Wait.ALL if after_store else wait,
                  "tag": len(self.steps) & 0xFFFF, **fields}
        self.steps.append(Step(name=name, fields=fields, segment=segment, macs=macs, tile=tile,
                               blocks=blocks))

    def stream(self, *parts: bytes) -> int:
        """Append to the weight image; return the address of the first byte."""
        address = len(self.weights)
        self.weights += b"".join(parts)
        self.weights += bytes(-len(self.weights) % self.spec.memory_bytes)
        return address

    def tiles(self, layer: LinearLayer, columns: int, source: Integers, depth: int) -> bytes:
        """Return the weight stream of a layer: for each column tile its scales, then its weights.

        ``source[i]`` is the byte of a stored row that holds input ``i``.
        """
        spec = self.spec
        width = columns * spec.columns
        weight = np.zeros((depth * spec.depth, width), np.int8)
        weight[source, :layer.outputs] = layer.weight
        weight = weight.reshape(depth, spec.depth, columns, spec.columns).transpose(2, 0, 3, 1)
        scale = np.zeros(width, np.dtype([("bias", "<i4"), ("mul", "<u2"), ("shift", "u1"),
                                          ("zero", "u1")]))
        for name in ("bias", "mul", "shift"):
            scale[name][:layer.outputs] = getattr(layer, name)
        scales = scale.view(np.uint8).reshape(columns, -1)
        return np.concatenate([scales, weight.reshape(columns, -1).view(np.uint8)], 1).tobytes()

    def depth(self, layer: LinearLayer, source: Integers) -> int:
        """Return the contraction steps of a layer."""
        return ceil_div(int(source[-1]) + 1, self.spec.depth)

    def group(self, columns: int, depth: int, what: str) -> int:
        """Return how many column tiles share one pass over the rows.

        As many as fit twice, so that the next are fetched meanwhile; then as few as make no more
        passes.
        """
        spec = self.spec
        words = spec.words("weight")
        self.need("weight", depth, f"one column tile of {what}")
        most = min(max(1, words // (2 * depth)), spec.weight_tiles // 2, columns)
        return ceil_div(columns, ceil_div(columns, most))

    def linear(self, name: str, layer: LinearLayer, wait: Wait, place: Place, source: Rows,
               target: Rows, *, inputs: Integers | None = None, rows: int | None = None,
               source_row: int = 0, target_row: int = 0, address: int | None = None,
               table: Integers | None = None, unsigned: bool = False,
               activation: ActivationKind = ActivationKind.NONE, token: int = 0,
               detect: bool = False, skip: bool = False) -> int:
        """Emit a LINEAR; return the address of its tiles, for another that uses them again.

        ``token`` is the one that its first row stands for. Where blocks are detected or skipped,
        columns and contraction fill whole blocks.
        """
        spec = self.spec
        inputs = np.arange(layer.inputs) if inputs is None else inputs
        block = spec.block_units
        depth = self.depth(layer, inputs)
        if skip:
            depth = ceil_div(depth * spec.depth, block) * block // spec.depth
        most = spec.max_contraction // spec.depth * spec.depth
        require(depth * spec.depth <= most,
                f"inputs of {name} must be at most max_contraction {most} with their padding, not "
                f"{depth * spec.depth}")
        # a result word is written whole, so that no old byte of it is ever multiplied
        unit = spec.columns if place in (Place.ADD, Place.RESIDUAL) else self.word
        unit = block if detect else unit
        columns = ceil_div(layer.outputs, unit) * unit // spec.columns
        rows = target.count if rows is None else rows
        entries = b"" if table is None else table.astype(np.int8).tobytes()
        load = entries not in (b"", self.table)
        start = address
        if start is None:
            self.table = entries or self.table
            start = self.stream(entries if load else b"", self.tiles(layer, columns, inputs, depth))
        self.emit(name, Opcode.LINEAR, wait, place=place, rows=rows, source_row=source_row,
                  target_row=target_row, source=source.base, source_stride=source.stride,
                  target=target.base, target_stride=target.stride, columns=columns, depth=depth,
                  group=self.group(columns, depth, name), activation=activation, table=load,
                  unsigned=unsigned, address=start, macs=rows * layer.weight.size,
                  live=self.live, token=token, detect=detect, skip=skip,
                  level=self.network.skip.level if detect and self.network.skip else 0,
                  tile=spec.rows, blocks=depth * spec.depth // block if skip else 0)
        return start + load * len(entries)

    def norm(self, name: str, layer: NormLayer, wait: Wait, rows: int, *,
             gather: bool = False, mean: tuple[int, int] = (0, 0)) -> None:
        """Emit a NORM of residual rows 0 to ``rows``; ``mean`` as of ``ImportanceSpec``."""
        pairs = np.zeros((self.residual.stride * self.spec.columns, 2), "<i2")
        pairs[:self.network.dim] = np.stack([layer.gamma, layer.beta], 1)
        self.emit(name, Opcode.NORM, wait, place=Place.ACTIVATION, rows=rows,
                  source=self.residual.base, source_stride=self.residual.stride,
                  target=self.normal.base, target_stride=self.normal.stride,
                  width=self.network.dim, shift=layer.shift, table=1,
                  live=self.live, gather=gather, address=self.stream(pairs.tobytes()),
                  score_mul=mean[0], score_shift=mean[1])

    # Memory of one image

    def reserve(self, size: int) -> int:
        """Return the offset of ``size`` new bytes in the image's memory."""
        start = self.slot
        self.slot += ceil_div(size, self.spec.memory_bytes) * self.spec.memory_bytes
        return start

    def capture(self, name: str, place: Place, rows: Rows, width: int, *, signed: bool = True,
                order: Integers | None = None, index: tuple = ()) -> Capture:
        """Emit a STORE of whole words; return how to read the tensor of ``width`` columns from it.

        ``order`` names the stored column of each column of the tensor.
        """
        spec, residual = self.spec, place == Place.RESIDUAL
        buffer, lanes, kind = (("residual", spec.columns, "<i2") if residual else
                               ("activation", self.word, "i1" if signed else "u1"))
        columns = np.arange(width) if order is None else order
        keys = rows.words - rows.stride + columns[-1] // lanes + 1
        size, whole = (int(words) * spec.block_bytes[buffer] for words in (keys, rows.words))
        offset = self.reserve(size)
        self.emit(f"{name}.store", Opcode.STORE, Wait.ALL, segment="image", place=place,
                  target=rows.base, keys=int(keys), address=offset)

        def decode(data: Bytes) -> Integers:
            words = np.pad(data, (0, whole - size)).view(kind)
            words = words.reshape(-1, rows.stride, rows.banks, lanes)
            tensor = words.transpose(0, 2, 1, 3).reshape(len(words) * rows.banks, -1)
            return tensor[:rows.count, columns].astype(np.int64)

        return Capture(name=name, index=index, offset=offset, size=size, decode=decode)

    def show(self, name: str, place: Place, rows: Rows, width: int, **how) -> None:
        """Capture an intermediate when tracing."""
        if self.trace:
            self.captures.append(self.capture(name, place, rows, width, **how))

    # The network

    def patch_embed(self) -> None:
        """Start the residual stream: positions, then the patches on top, part by part.

        When the patches do not fit at once behind the normalised rows, two parts of the whole
        buffer take turns: one is loaded while the other is multiplied. The first part is multiplied
        while it is loaded.
        """
        net, spec = self.network, self.spec
        count, inputs = self.tokens - net.prefix, net.patch_embed.inputs
        position = np.zeros((self.tokens, self.residual.stride * spec.columns), "<i2")
        position[:, :net.dim] = net.position
        whole = self.rows(0, inputs, count)
        self.need("activation", whole.stride, f"one row group of patches of {inputs} bytes")
        total = spec.words("activation")
        groups = total // whole.stride
        if self.normal.words + whole.words <= total:
            bases, most = [self.normal.words], [whole.words // whole.stride]
        elif groups == 1:
            bases, most = [0], [1]
        else:
            most = [ceil_div(groups, 2), groups // 2]
            bases = [0, most[0] * whole.stride]
        self.input_bytes = whole.words * spec.block_bytes["activation"]
        offset, address = self.reserve(self.input_bytes), None
        parts = list(self.parts(count, *most))
        self.patches_overlap = bases[(len(parts) - 1) % len(bases)] < self.normal.words

        def load_positions(index: int, wait: Wait) -> None:
            name, first, rows = parts[index]
            tokens = slice(net.prefix + first if index else 0, net.prefix + first + rows)
            self.emit(f"position{name}", Opcode.LOAD, wait, place=Place.RESIDUAL,
                      target=self.residual.base + tokens.start * self.residual.stride,
                      keys=(tokens.stop - tokens.start) * self.residual.stride,
                      address=self.stream(position[tokens].tobytes()))

        def load_patches(index: int) -> None:
            name, first, rows = parts[index]
            self.emit(f"patch_embed{name}.load", Opcode.LOAD, Wait.NONE, segment="image",
                      place=Place.ACTIVATION, target=bases[index % len(bases)],
                      keys=ceil_div(rows, spec.rows) * whole.stride,
                      address=offset + first // spec.rows * whole.stride *
                      spec.block_bytes["activation"])

        ahead = len(bases)
        load_positions(0, Wait.NONE)
        load_patches(0)
        for index, (name, first, rows) in enumerate(parts):
            # what is loaded next takes the place of what the LINEAR before has read
            more = index + 1 < len(parts)
            if ahead == 2 and more and index:
                load_positions(index + 1, Wait.ALL)
            address = self.linear(
                f"patch_embed{name}", net.patch_embed,
                Wait.NONE if ahead == 2 and more and index else Wait.ROWS, Place.ADD,
                self.rows(bases[index % ahead], inputs, rows), self.residual, rows=rows,
                target_row=net.prefix + first, address=address)
            if more and (ahead == 1 or not index):
                load_positions(index + 1, Wait.ALL if ahead == 1 else Wait.NONE)
            if more:
                load_patches(index + 1)
        self.show("embed", Place.RESIDUAL, self.residual, net.dim)

    def encode(self, patches: Integers) -> bytes:
        """Return patches as LOAD brings them in: by row group, word and bank."""
        rows = self.rows(0, patches.shape[1], len(patches))
        image = np.zeros((ceil_div(rows.count, rows.banks) * rows.banks, rows.stride * self.word),
                         np.int8)
        image[:rows.count, :patches.shape[1]] = patches
        return image.reshape(-1, rows.banks, rows.stride, self.word).transpose(0, 2, 1, 3).tobytes()

    def block(self, index: int, block: Block) -> None:
        """Emit one encoder block."""
        name = f"blocks.{index}"
        wait = Wait.ALL if not index and self.patches_overlap else Wait.ROWS
        self.norm(f"{name}.norm1", block.norm1, wait, self.tokens)
        self.show(f"{name}.norm1", Place.ACTIVATION, self.normal, self.network.dim)
        prune = self.network.prune.get(index)
        self.attention(name, block, prune is not None)
        mean = 0, 0
        if prune is not None:
            self.emit(f"{name}.prune", Opcode.FUSE if prune.fuse else Opcode.PRUNE, Wait.NONE,
                      rows=self.tokens, rule=prune.rule, level=int(prune.level),
                      protected=self.network.prefix)
            self.live = True
            if prune.fuse:
                mean = self.network.importance.mean(len(block.heads), self.tokens)
        self.norm(f"{name}.norm2", block.norm2, Wait.ROWS, self.tokens, gather=prune is not None,
                  mean=mean)
        self.show(f"{name}.norm2", Place.ACTIVATION, self.normal, self.network.dim)
        self.feed_forward(name, block)

    def attention(self, name: str, block: Block, weigh: bool) -> None:
        """Emit the heads, one after the other, and the projection of their outputs."""
        heads, width = len(block.heads), block.heads[0].query.outputs
        padded = ceil_div(width, self.word) * self.word
        output = self.rows(self.normal.words, heads * padded, self.tokens)
        self.need("activation", output.base + output.words,
                  f"normalised rows and the outputs of {heads} heads of {self.tokens} tokens")
        for index, head in enumerate(block.heads):
            self.head(name, index, head, block, output,
                      (Importance.ADD if index else Importance.START) if weigh
                      else Importance.NONE)
        order = (np.arange(heads)[:, None] * padded + np.arange(width)).ravel()
        self.show(f"{name}.attn", Place.ACTIVATION, output, len(order), order=order)
        self.linear(f"{name}.proj", block.proj, Wait.ROWS, Place.ADD, output, self.residual,
                    inputs=order)
        self.show(f"{name}.residual1", Place.RESIDUAL, self.residual, self.network.dim)

    def head(self, name: str, index: int, head: Head, block: Block, output: Rows,
             importance: Importance) -> None:
        """Emit one head: three projections of the normalised rows, then attention.

        The query lies where the head's outputs go: ATTEND has read a row before it writes it.
        """
        spec, at, width = self.spec, f"{name}.heads.{index}", head.query.outputs
        words = ceil_div(width, self.word)
        query = Rows(output.base + index * words, output.stride, self.tokens, spec.rows)
        key = Rows(0, words, self.tokens, spec.columns)
        value = Rows(0, words * self.word // spec.columns, self.tokens, spec.depth)
        self.need("key", key.words, f"the keys of {self.tokens} tokens")
        self.need("value", value.words, f"the values of {self.tokens} tokens")
        self.linear(f"{at}.query", head.query, Wait.NONE if index else Wait.ROWS, Place.ACTIVATION,
                    self.normal, query)
        self.show(f"{name}.q", Place.ACTIVATION, output, width, index=(index,),
                  order=index * words * self.word + np.arange(width))
        # the array has read the last normalised row for the query before it comes to the key
        self.linear(f"{at}.key", head.key, Wait.NONE, Place.KEY, self.normal, key)
        self.linear(f"{at}.value", head.value, Wait.NONE, Place.VALUE, self.normal, value)
        address = 0 if index else self.stream(block.exponents.astype(np.uint8).tobytes())
        self.emit(f"{at}.attend", Opcode.ATTEND, Wait.ALL, place=Place.ACTIVATION,
                  rows=self.tokens, source=query.base, source_stride=query.stride,
                  target=query.base, target_stride=query.stride,
                  columns=value.stride, depth=words * self.word // spec.depth, keys=self.tokens,
                  key=key.base, value=value.base, score_mul=head.score_mul,
                  score_shift=head.score_shift, mul=head.mul, shift=head.shift, table=not index,
                  address=address, macs=2 * self.tokens**2 * head.query.outputs, live=self.live,
                  importance=importance)

    def feed_forward(self, name: str, block: Block) -> None:
        """Emit the two layers, in as few row groups as the hidden units allow."""
        spec, hidden = self.spec, block.fc1.outputs
        skips = self.network.skip is not None
        unit = spec.block_units if skips else 1
        free = spec.words("activation") - self.normal.words
        whole = self.rows(self.normal.words, ceil_div(hidden, unit) * unit, self.tokens)
        self.need("activation", self.normal.words + whole.stride,
                  f"normalised rows and one row group of {hidden} hidden units")
        relu = block.activation == ActivationKind.RELU
        first_address = second_address = None
        for part, first, count in self.parts(self.tokens, free // whole.stride):
            rows = Rows(whole.base, whole.stride, count, whole.banks)
            # only array operations are in order: NORM may not have come to a later group's rows
            first_address = self.linear(
                f"{name}.fc1{part}", block.fc1, Wait.ALL if first else Wait.ROWS, Place.ACTIVATION,
                self.normal, rows, source_row=first, activation=block.activation,
                table=block.table, address=first_address, token=first, detect=skips)
            self.show(f"{name}.hidden", Place.ACTIVATION, rows, hidden, signed=not relu,
                      index=(slice(first, first + count),))
            second_address = self.linear(
                f"{name}.fc2{part}", block.fc2, Wait.ROWS, Place.ADD, rows, self.residual,
                rows=count, target_row=first, address=second_address, unsigned=relu, token=first,
                skip=skips)
        self.show(f"{name}.residual2", Place.RESIDUAL, self.residual, self.network.dim)

    def distilled(self, head: LinearLayer, row: Rows, logits: Rows) -> None:
        """Emit the heads of a distilled network; row 1 goes where row 0 of a row group lies."""
        net = self.network
        second = self.rows(row.base + row.words, net.dim, 1)
        self.need("activation", second.base + second.words,
                  "a row group of normalised tokens for each of two heads")
        self.emit("norm_dist", Opcode.NORM, Wait.ALL, place=Place.ACTIVATION, rows=1, source_row=1,
                  source=self.residual.base, source_stride=self.residual.stride,
                  target=second.base, target_stride=second.stride, width=net.dim,
                  shift=net.norm.shift)     # gamma and beta are still there
        self.show("norm_dist", Place.ACTIVATION, second, net.dim, index=(None,))
        # the logits overwrite what the NORM reads
        self.linear("head", net.head, Wait.ALL, Place.RESIDUAL, row, logits)
        self.linear("head_dist", head, Wait.NONE, Place.ADD, second, logits)

    def program(self) -> Program:
        """Emit everything."""
        net = self.network
        self.patch_embed()
        for index, block in enumerate(net.blocks):
            self.block(index, block)
        self.norm("norm", net.norm, Wait.ROWS, 1)
        row = self.rows(self.normal.base, net.dim, 1)
        self.show("norm", Place.ACTIVATION, row, net.dim, index=(None,))
        logits = Rows(0, ceil_div(net.classes, self.spec.columns), 1, 1)
        self.need("residual", logits.words, f"{net.classes} logits")
        if net.head_dist is None:
            self.linear("head", net.head, Wait.ROWS, Place.RESIDUAL, row, logits)
        else:
            self.distilled(net.head_dist, row, logits)
        output = self.capture("logits", Place.RESIDUAL, logits, net.classes, index=(None,))
        self.emit("halt", Opcode.HALT, Wait.ALL)
        return Program(network=net, layout=LAYOUT, steps=tuple(self.steps),
                       weights=bytes(self.weights), image_bytes=self.slot,
                       input_bytes=self.input_bytes, encode=self.encode, output=output,
                       captures=tuple(self.captures), alignment=self.spec.memory_bytes)


def compile(network: IntegerVit, spec: RowwiseSpec, *, trace: bool = False) -> Program:
    """Return the program that runs ``network`` on the row-wise core of ``spec``.

    One image at a time: patches and positions are loaded; each block runs NORM, for each head its
    projections and ATTEND, the output projection onto the residual stream, NORM, and the two FFN
    layers in as few parts as the activation buffer allows; the classifier of the class token leaves
    its logits in memory, that of a distillation token adds to them. Columns and contractions that
    do not fill the array are padded with zero weights.

    Where a buffer is too small for a network without pruning, tensors stay in external memory, see
    :class:`vitral.compile.rowwise_spill.SpillingCompiler`.

    With ``trace`` every result that a STORE can reach goes to memory too (``Program.captures``); it
    costs time, as each waits for all before it. Of a network that is too large those are shown that
    go to memory anyway.

    ``ValueError`` for a network that the core cannot hold; the sentence names the buffer, the bytes
    needed and the bytes there are.
    """
    from vitral.compile.rowwise_spill import SpillingCompiler

    try:
        return Compiler(network, spec, trace).program()
    except TooSmallError as error:
        if error.buffer not in ("activation", "residual"):
            raise
        if network.prune:
            raise TooSmallError(error.buffer, f"{error}; only a network without pruning (--prune "
                                "off) can have its tensors in external memory") from None
        return SpillingCompiler(network, spec, trace).program()
