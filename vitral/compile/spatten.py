# SPDX-License-Identifier: Apache-2.0
"""Compile for the SpAtten core."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import e, log2
from typing import Any

import numpy as np

from golden.activation import ActivationKind
from golden.fixed import Integers, ceil_div
from golden.operation import Opcode
from golden.requant import RequantSpec
from golden.spatten.emulator import LINEAR_CONSTANT
from golden.spatten.operation import (
    LAYOUT,
    LIMIT_BITS,
    Activation,
    Rescale,
    Subject,
    Target,
)
from golden.spatten.spec import LOCAL, LSB_BITS, SpattenSpec
from golden.topk import Rule
from golden.validate import require
from golden.vit import Block, IntegerVit, LinearLayer, NormLayer
from vitral.compile import Bytes, Capture, Program, Step

__all__ = ["Choices", "compile", "limit"]

REQUANT = RequantSpec()
HEADROOM = 12
"""Steps of a 12-bit query in one of the 8-bit query of the network: 127 of those are 1524."""
FINER = 8
"""Likewise of an output of attention."""
KINDS = {ActivationKind.NONE: Activation.NONE, ActivationKind.RELU: Activation.RELU,
         ActivationKind.TABLE: Activation.TABLE}


def limit(confident: float) -> int:
    """Return the sum of exponents of a row whose greatest probability is ``confident``.

    The greatest exponent has all bits set. Above 1 no row is as flat: the low bits always come.
    """
    top, never = (1 << SpattenSpec.PROBABILITY_BITS) - 1, (1 << LIMIT_BITS) - 1
    return min(int(top / confident), never) if confident else never


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the core leaves out, besides tokens.

    Parameters
    ----------
    values : part of the tokens that are left whose values are fetched, those of greatest
        probability.
    confident : a row whose greatest probability is at least this does without the low bits of its
        keys: 0 never fetches them, above 1 keys are read whole.
    heads : block to the heads that stay from there on, of greatest importance.
    """

    values: float = 1.0
    confident: float = 2.0
    heads: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self):
        require(0 < self.values <= 1, f"values must be above 0 and at most 1, not {self.values}")
        require(self.confident >= 0, f"confident must be at least 0, not {self.confident}")


@dataclass(frozen=True)
class Region:
    """Rows of vectors in the local memories: ``step`` beats a vector, ``stride`` a row."""

    base: int
    vectors: int
    step: int = 4

    @property
    def stride(self) -> int:
        """Beats from one row of tokens to the next."""
        return self.vectors * self.step


@dataclass
class Compiler:
    """One compilation.

    Local memories hold the residual stream, the normalised rows (in whose place the outputs of the
    heads come), then queries, keys and values, or hidden units, and behind what is needed of that
    the weights of one operation.
    """

    network: IntegerVit
    spec: SpattenSpec
    choices: Choices
    steps: list[Step] = field(default_factory=list)
    image: list[np.ndarray] = field(default_factory=list)
    beats: int = 0
    table: bytes | None = None

    def __post_init__(self):
        net, spec = self.network, self.spec
        self.check_limits()
        self.rows, self.left = ceil_div(net.tokens, spec.channels), net.tokens
        self.heads = len(net.blocks[0].heads)
        width = max(block.heads[0].query.outputs for block in net.blocks)
        self.narrow = spec.sharing > 1 and self.heads > 1 and 2 * width <= spec.lanes
        self.shared = ceil_div(self.heads, 2) if self.narrow else self.heads  # vectors of heads
        self.whole = self.choices.confident > 1
        vectors = self.vectors(net.dim)
        self.top = 0
        self.residual = self.region(vectors)
        self.residual_end = self.top
        self.normal = self.region(max(vectors, self.shared))
        self.normal_end = self.top
        self.query = self.region(self.shared)
        self.key = self.region(self.shared, 1 + self.whole)
        self.key_low = (Region(self.key.base + 1, self.shared, 2) if self.whole
                        else self.region(self.shared, 1))
        self.value = self.region(self.shared, 2)
        self.attention_end, self.top = self.top, self.normal_end
        self.hidden = self.region(self.vectors(max(block.fc1.outputs for block in net.blocks)))
        self.hidden_end = self.top

    def check_limits(self) -> None:
        """Refuse a network that the core was not built for, whatever its memories are."""
        net, spec = self.network, self.spec
        require(spec.local > 0, "local must be above 0 to run networks, not 0")
        require(net.index_bits == spec.index_bits,
                f"index_bits must be {spec.index_bits} as in the core, not {net.index_bits}")
        require(net.tokens <= spec.max_tokens,
                f"tokens must be at most max_tokens {spec.max_tokens}, not {net.tokens}")
        require(net.dim <= spec.max_width,
                f"width must be at most max_width {spec.max_width}, not {net.dim}")
        require(net.head_dist is None, "head_dist must be None: this core runs no network with a "
                "distillation token")
        require(net.skip is None, "skip must be off: this core skips no hidden units")
        for index, block in enumerate(net.blocks):
            require(len(block.heads) <= spec.max_heads,
                    f"heads must be at most max_heads {spec.max_heads}, not {len(block.heads)}")
            width = block.heads[0].query.outputs
            require(width <= spec.lanes, f"heads must be at most the lanes {spec.lanes} wide, not "
                    f"{width}")
            most = spec.MAX_INPUTS * spec.lanes
            require(block.fc2.inputs <= most,
                    f"hidden units must be at most {most} ({spec.MAX_INPUTS} times the lanes), not "
                    f"{block.fc2.inputs}")
            size = 1 << spec.table_width
            require(block.table is None or len(block.table) == size,
                    f"table of block {index} must have {size} entries as in the core, not "
                    f"{0 if block.table is None else len(block.table)}")
            for name in ("q", "k", "v", "attn"):
                require(f"blocks.{index}.{name}" in net.scales,
                        f"scales must have blocks.{index}.{name} to be compiled for this core")
        for index, one in net.prune.items():
            require(one.rule == Rule.TOPK, f"rule must be topk on this core, not "
                    f"{one.rule.name.lower()}")
            require(not one.fuse, f"fuse must be False on this core, not True in block {index}")
        for index, count in self.choices.heads.items():
            require(0 <= index < len(net.blocks) and 0 < count <= len(net.blocks[0].heads),
                    f"heads of block {index} must be 1 to {len(net.blocks[0].heads)} of a block "
                    f"below {len(net.blocks)}, not {count}")

    # Places

    def vectors(self, width: int) -> int:
        """Return the vectors of a row of ``width`` numbers."""
        return ceil_div(width, self.spec.lanes)

    def region(self, vectors: int, step: int = 4) -> Region:
        """Return a new region of the local memories."""
        region = Region(LOCAL + self.top, vectors, step)
        self.top += self.rows * region.stride
        return region

    def store(self, data: Bytes) -> int:
        """Append beats (beats, channels, bytes) to the weight image; return the first's address."""
        first = self.beats
        self.image.append(data)
        self.beats += len(data)
        return first

    def store_stream(self, data: bytes) -> int:
        """Append bytes that channel 0 reads beat by beat, those of other channels being 0."""
        spec = self.spec
        words = np.frombuffer(data + bytes(-len(data) % spec.memory_bytes), np.uint8)
        beats = np.zeros((len(words) // spec.memory_bytes, spec.channels, spec.memory_bytes),
                         np.uint8)
        beats[:, 0] = words.reshape(-1, spec.memory_bytes)
        return self.store(beats)

    def placed(self, rows: Integers) -> Bytes:
        """Return rows of 16-bit numbers (tokens, width) as beats: (beats, channels, bytes)."""
        spec = self.spec
        vectors, tokens = self.vectors(rows.shape[1]), len(rows)
        padded = np.zeros((tokens, vectors * spec.lanes), "<i2")
        padded[:, :rows.shape[1]] = rows
        data = padded.view(np.uint8).reshape(tokens, vectors, spec.vector_beats, -1)
        beats = np.zeros((ceil_div(tokens, spec.channels), vectors, spec.vector_beats,
                          spec.channels, spec.memory_bytes), np.uint8)
        token, vector = np.indices((tokens, vectors))
        beats[token // spec.channels, vector, :, (token + vector // 2) % spec.channels] = data
        return beats.reshape(-1, spec.channels, spec.memory_bytes)

    # Operations

    def emit(self, name: str, opcode: Opcode, *, segment: str = "weights", where: str = "key",
             macs: int = 0, **fields: int) -> None:
        """Append an operation."""
        self.steps.append(Step(name=name, segment=segment, where=where, macs=macs, fields={
            "opcode": opcode, "tag": len(self.steps) & 0xFFFF, **fields}))

    def constants(self, name: str, data: bytes) -> None:
        """Load the constants of the next operation."""
        self.emit(f"{name}.constants", Opcode.LOAD, target=Target.CONSTANTS,
                  key=self.store_stream(data), count=ceil_div(len(data), self.spec.memory_bytes))

    def norm(self, name: str, layer: NormLayer, tokens: int) -> None:
        """Emit a NORM of the residual stream, and what loads its constants."""
        pairs = np.stack([layer.gamma, layer.beta], 1).astype("<i2")
        self.constants(name, pairs.tobytes())
        self.emit(name, Opcode.NORM, tokens=tokens, dense=tokens == 1,
                  inputs=self.vectors(self.network.dim), count=self.network.dim,
                  query=self.residual.base, query_stride=self.residual.stride,
                  output=self.normal.base, output_stride=self.normal.stride, shift=layer.shift)

    def weight_beats(self, weight: Integers, inputs: int) -> Bytes:
        """Return weights (outputs, inputs * lanes) as beats of planes, lane by lane."""
        spec = self.spec
        nibbles = np.stack([weight >> 4 & 15, weight & 15], 1).reshape(
            len(weight), 2, inputs, spec.lanes).transpose(0, 2, 1, 3)
        data = (nibbles[..., ::2] | nibbles[..., 1::2] << 4).astype(np.uint8)
        data = data.reshape(len(weight) // spec.channels, spec.channels, 2 * inputs, -1)
        return np.ascontiguousarray(data.transpose(0, 2, 1, 3)).reshape(
            -1, spec.channels, spec.memory_bytes)

    def linear(self, name: str, layer: LinearLayer, source: Region, target: Region, *,
               free: int, also: tuple[int, int] = (0, 0), inputs: Integers | None = None,
               outputs: Integers | None = None, tokens: int | None = None,
               scale: float | np.ndarray = 1.0, finer: int = 1, segment: str = "weights",
               where: str = "query", **fields: int) -> None:
        """Emit a LINEAR, in as many parts as the room for its weights asks for.

        They lie from beat ``free`` on, or between the two of ``also`` if more fit there.
        ``inputs[i]`` and ``outputs[o]`` are the places of the layer's inputs and outputs in rows of
        vectors. ``scale`` is multiplied to its factors; its inputs have ``finer`` times the steps.
        """
        spec, net = self.spec, self.network
        inputs = np.arange(layer.inputs) if inputs is None else inputs
        outputs = np.arange(layer.outputs) if outputs is None else outputs
        tokens = net.tokens if tokens is None else tokens
        vectors = self.vectors(int(inputs[-1]) + 1)
        size = self.vectors(int(outputs[-1]) + 1) * spec.lanes
        weight = np.zeros((size, vectors * spec.lanes), np.int64)
        weight[np.ix_(outputs, inputs)] = layer.weight.T
        constant = np.zeros(size, LINEAR_CONSTANT)
        factor = layer.mul / 2.0 ** layer.shift * scale / finer
        exact = finer == 1 and np.all(np.asarray(scale) == 1.0)
        mul, shift = (layer.mul, layer.shift) if exact else REQUANT.factors(factor)
        most_bias = LinearLayer.bias_limit(layer.inputs * finer)
        for field_, value in (("bias", np.clip(layer.bias * finer, -most_bias, most_bias)),
                              ("mul", mul), ("shift", shift)):
            constant[field_][outputs] = value
        start, end = max((free, spec.local), also, key=lambda ends: ends[1] - ends[0])
        beats = spec.lanes // spec.channels * 2 * vectors  # of a vector of outputs
        most = min((end - start) // beats, spec.max_tokens // spec.lanes)
        require(most > 0, f"local must be at least {free + beats} for {name} of {net.tokens} "
                f"tokens, not {spec.local}")
        if 1 < most < size // spec.lanes:
            most -= most % 2  # a vector's channel goes up with every second one
        parts = ceil_div(size // spec.lanes, most)
        base = LOCAL + start
        for part, first in enumerate(range(0, size // spec.lanes, most)):
            rows = slice(first * spec.lanes, min(size, (first + most) * spec.lanes))
            at = f"{name}.{part}" if parts > 1 else name
            data = self.weight_beats(weight[rows], vectors)
            self.emit(f"{at}.weights", Opcode.LOAD, target=Target.LOCAL, key=self.store(data),
                      output=base, count=len(data))
            self.constants(at, constant[rows].tobytes())
            here = dict(fields)
            if "key_low" in here:
                here["key_low"] += first * here["low_step"]
            useful = np.count_nonzero((outputs >= rows.start) & (outputs < rows.stop))
            self.emit(at, Opcode.LINEAR, segment=segment, where=where, tokens=tokens,
                      dense=tokens == 1, inputs=vectors, outputs=(rows.stop - rows.start)
                      // spec.lanes, query=source.base, query_stride=source.stride,
                      output=target.base + first * target.step, output_stride=target.stride,
                      rotation=first // 2, key=base, key_stride=2 * vectors,
                      macs=tokens * layer.inputs * int(useful), **here)

    # The network

    def patch_embed(self) -> None:
        """Start the residual stream: positions, less what the class token's row would add."""
        net = self.network
        position = np.array(net.position)
        empty = net.patch_embed.compute(np.zeros((1, net.patch_embed.inputs), np.int64))[0]
        start = position[:net.prefix] - empty
        require(np.abs(start).max() < 1 << 15, "positions of the class token must leave room for "
                "the bias of the patch embedding")
        position[:net.prefix] = start
        beats = self.placed(position)
        self.emit("position", Opcode.LOAD, target=Target.LOCAL, key=self.store(beats),
                  output=self.residual.base, count=len(beats))
        vectors = self.vectors(net.patch_embed.inputs)
        self.input_beats = self.rows * vectors * self.spec.vector_beats
        self.linear("patch_embed", net.patch_embed, Region(0, vectors), self.residual,
                    free=self.residual_end, segment="image", residual=1)

    def encode(self, patches: Integers) -> bytes:
        """Return patches as the first LINEAR reads them, rows of the class token being 0."""
        rows = np.zeros((self.network.tokens, patches.shape[1]), np.int64)
        rows[self.network.prefix:] = patches
        return self.placed(rows).tobytes()

    def block(self, index: int, block: Block) -> None:
        """Emit one encoder block."""
        net, name = self.network, f"blocks.{index}"
        self.norm(f"{name}.norm1", block.norm1, net.tokens)
        self.attention(name, index, block)
        padded = self.padded(block)
        self.linear(f"{name}.proj", block.proj, Region(self.normal.base, self.shared),
                    self.residual, free=self.normal_end, inputs=padded, finer=FINER, residual=1,
                    by_head=bool(self.choices.heads), narrow=self.narrow)
        prune = net.prune.get(index)
        if prune is not None:
            self.emit(f"{name}.prune", Opcode.PRUNE, tokens=net.tokens, level=int(prune.level),
                      subject=Subject.TOKENS, rule=Rule.TOPK, protected=net.prefix,
                      importance_shift=self.importance_shift(index + 1), rescale=Rescale.KEEP)
            self.left = min(self.left, int(prune.level))
        if index in self.choices.heads:
            self.emit(f"{name}.prune_heads", Opcode.PRUNE, heads=self.heads,
                      level=self.choices.heads[index], subject=Subject.HEADS, rule=Rule.TOPK,
                      importance_shift=self.head_shift, rescale=Rescale.KEEP)
        self.norm(f"{name}.norm2", block.norm2, net.tokens)
        entries = b"" if block.table is None else block.table.astype(np.int8).tobytes()
        if entries and entries != self.table:
            self.table = entries
            self.emit(f"{name}.table", Opcode.LOAD, target=Target.TABLE,
                      key=self.store_stream(entries), count=self.spec.table_words)
        self.linear(f"{name}.fc1", block.fc1, self.normal, self.hidden, free=self.hidden_end,
                    activation=KINDS[block.activation])
        self.linear(f"{name}.fc2", block.fc2, self.hidden, self.residual,
                    free=self.hidden_end, also=(self.residual_end, self.normal_end), residual=1)

    def importance_shift(self, blocks: int) -> int:
        """Return the bits of a token's importance that a comparison behind so many blocks ignores.

        The class token's row adds at most 1, ``2**12`` steps, for each head. Those of all tokens
        add 1 on average, and a comparison goes up to at least 16 times that: of tokens beyond it
        there are few, and they stay.
        """
        most = (1 if self.network.source == "class" else 16) * self.heads * blocks
        return max(0, most.bit_length() + self.spec.PROBABILITY_BITS - self.spec.SELECT_BITS)

    @property
    def head_shift(self) -> int:
        """Return the bits of a head's importance that no comparison needs."""
        most = self.network.tokens * self.spec.lanes * len(self.network.blocks)
        return max(0, most.bit_length() + self.spec.OUTPUT_BITS - 1 - self.spec.SELECT_BITS)

    def padded(self, block: Block) -> Integers:
        """Return the places of the heads' numbers: each head begins a vector, or half of one."""
        width, part = block.heads[0].query.outputs, self.spec.lanes >> self.narrow
        return (np.arange(self.heads)[:, None] * part + np.arange(width)).ravel()

    def attention(self, name: str, index: int, block: Block) -> None:
        """Emit the projections and the heads, whose outputs have ``FINER`` times the steps."""
        net, spec = self.network, self.spec
        width = block.heads[0].query.outputs
        query, key, value = (np.ravel(np.asarray(net.scales[f"{name}.{part}"], np.float64))
                             for part in "qkv")
        out = float(np.asarray(net.scales[f"{name}.attn"]))
        # one scale for the scores of all heads, and one for their values
        score, common = float((query * key).max()) / HEADROOM, float(value.max())
        scales = {"query": query * key / score, "key": np.ones_like(key), "value": value / common}
        places = self.padded(block)
        fields: dict[str, Any]
        for part, target, fields in (
                ("query", self.query, dict(activation=Activation.CLIP)),
                ("key", self.key, dict(planes=1, value_planes=2, output_step=self.key.step,
                                       low_step=self.key_low.step, key_low=self.key_low.base,
                                       key_low_stride=self.key_low.stride)),
                ("value", self.value, dict(planes=1, value_planes=2, output_step=2, low_step=2,
                                           key_low=self.value.base + 1,
                                           key_low_stride=self.value.stride))):
            layers = [getattr(head, part) for head in block.heads]
            whole = LinearLayer(**{field_: np.concatenate(
                [getattr(layer, field_) for layer in layers], -1)
                for field_ in ("weight", "bias", "mul", "shift")})
            self.linear(f"{name}.{part}", whole, self.normal, target, free=self.attention_end,
                        outputs=places, scale=np.repeat(scales[part], width), **fields)
        octaves = 32 * log2(e) * score / np.sqrt(width)  # of a score's step, in distances
        shift = max(0, int(np.floor(8 - log2(octaves * 512))))
        mul, out_shift = REQUANT.factors(common / (out / FINER))
        self.emit(f"{name}.attend", Opcode.ATTEND, heads=self.heads, tokens=net.tokens,
                  count=net.tokens, values=max(1, round(self.choices.values * self.left)),
                  narrow=self.narrow, key_planes=1 + self.whole, value_planes=2, accumulate=1,
                  class_row=net.source == "class",
                  limit=limit(0 if self.whole else self.choices.confident),
                  # whole keys have all bits 4 places higher; no score is as great as 2**31
                  score_shift=min(31, shift + LSB_BITS * self.whole),
                  score_mul=min(255, round(octaves * 512 * 2 ** shift)),
                  shift=int(out_shift), mul=int(mul),
                  query=self.query.base, query_stride=self.query.stride,
                  key=self.key.base, key_stride=self.key.stride, key_low=self.key_low.base,
                  key_low_stride=self.key_low.stride, value=self.value.base,
                  value_stride=self.value.stride, output=self.normal.base,
                  output_stride=self.shared * spec.vector_beats,
                  macs=2 * net.tokens**2 * width * self.heads)

    def program(self) -> Program:
        """Emit everything."""
        net, spec = self.network, self.spec
        self.patch_embed()
        for index, block in enumerate(net.blocks):
            self.block(index, block)
        self.norm("norm", net.norm, 1)
        vectors = self.vectors(net.classes)
        self.linear("head", net.head, self.normal, Region(self.input_beats, vectors),
                    free=self.normal_end, tokens=1, segment="image", where="output")
        self.emit("halt", Opcode.HALT)
        unit = spec.channels * spec.memory_bytes
        size = vectors * spec.vector_beats * unit

        def decode(data: Bytes) -> Integers:
            beats = data.reshape(vectors, spec.vector_beats, spec.channels, spec.memory_bytes)
            rows = [beats[n, :, n // 2 % spec.channels].reshape(-1).view("<i2")
                    for n in range(vectors)]
            return np.concatenate(rows)[None, :net.classes].astype(np.int64)

        return Program(
            network=net, layout=LAYOUT, steps=tuple(self.steps),
            weights=np.concatenate(self.image).tobytes(), encode=self.encode, captures=(),
            image_bytes=self.input_beats * unit + size, input_bytes=self.input_beats * unit,
            alignment=unit, unit=unit, exact=False, output=Capture(
                name="logits", index=(None,), offset=self.input_beats * unit, size=size,
                decode=decode))


def compile(network: IntegerVit, spec: SpattenSpec, *, trace: bool = False,
            choices: Choices | None = None) -> Program:
    """Return the program that runs ``network`` on the SpAtten core of ``spec``.

    One image at a time. All activations stay in the local memories; the weights of each LINEAR are
    loaded before it. Heads are padded to the lanes, or half of them where two share a vector: on
    cores that can, if there are two of such a width. Queries have 12 bits, of steps so fine that
    one scale serves the scores of all heads; keys and values have 8, of which the low 4 of a key
    are fetched as ``choices.confident`` says.

    ``ValueError`` for a network that the core cannot hold.
    """
    require(not trace, "trace must be False: this core keeps intermediate results on chip")
    return Compiler(network, spec, choices or Choices()).program()
