# SPDX-License-Identifier: Apache-2.0
"""A quantised Vision Transformer, tensor by tensor: what every compiled program must compute."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.activation import ActivationKind, ActivationSpec
from golden.fixed import Integers, bounds, integers, product, saturate
from golden.fuse import FuseSpec
from golden.importance import ImportanceSpec
from golden.layernorm import LayerNormSpec
from golden.prune import Prune, Skip
from golden.requant import RequantSpec
from golden.softmax import SoftmaxSpec
from golden.topk import TopKSpec
from golden.validate import choice, integer, require

Observe = Callable[[str, Integers], object]
Scale = float | NDArray[np.float64]

REQUANT = RequantSpec()
"""The requantiser behind every sum of products: s32 to s16, multiplier 16 bits, shift 6 bits."""


def _stored(name: str, value: ArrayLike, shape: tuple[int, ...], width: int,
            signed: bool = True) -> Integers:
    """Return ``value`` as int64, read-only; refuse another shape, a float or too wide a number."""
    array = integers(value).copy()
    low, high = bounds(width, signed)
    require(array.shape == shape, f"{name} must have shape {shape}, not {array.shape}")
    for worst in (array.min(), array.max()):
        require(low <= worst <= high,
                f"{name} must hold integers from {low} to {high}, not {worst}")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearLayer:
    """``y = requantise(x @ weight + bias)``, saturated to 16 bits; ``mul``, ``shift`` per output.

    Parameters
    ----------
    weight : (inputs, outputs), signed 8 bit.
    bias : (outputs,), signed; with the largest sum of products it stays inside 32 bits.
    mul, shift : (outputs,), unsigned 16 and 6 bit.
    """

    weight: Integers
    bias: Integers
    mul: Integers
    shift: Integers

    def __post_init__(self):
        shape = np.shape(self.weight)
        require(len(shape) == 2 and min(shape) > 0,
                f"weight must have 2 dimensions of at least 1, not shape {shape}")
        for name, width, signed in (("bias", 32, True), ("mul", 16, False), ("shift", 6, False)):
            object.__setattr__(self, name, _stored(
                name, getattr(self, name), shape[1:], width, signed))
        object.__setattr__(self, "weight", _stored("weight", self.weight, shape, 8))
        limit = self.bias_limit(shape[0])
        require(int(np.abs(self.bias).max()) <= limit,
                f"bias must be at most {limit} for {shape[0]} inputs, not "
                f"{np.abs(self.bias).max()}")

    @staticmethod
    def bias_limit(inputs: int) -> int:
        """Return the largest bias that cannot overflow 32 bits, whatever the operands are."""
        return (1 << 31) - 1 - (inputs << 15)

    @property
    def inputs(self) -> int:
        """Length of the contraction."""
        return self.weight.shape[0]

    @property
    def outputs(self) -> int:
        """Columns of the weight matrix."""
        return self.weight.shape[1]

    def compute(self, x: Integers) -> Integers:
        """Return the s16 result of 8-bit rows (..., inputs)."""
        acc = product(np.atleast_2d(x), self.weight).reshape(*x.shape[:-1], self.outputs)
        return REQUANT.compute(acc + self.bias, self.mul, self.shift)


@dataclass(frozen=True, kw_only=True, eq=False)
class NormLayer:
    """LayerNorm: ``gamma``, ``beta`` (width,), signed 16 bit with ``shift - 12`` fraction bits."""

    gamma: Integers
    beta: Integers
    shift: int

    def __post_init__(self):
        shape = np.shape(self.gamma)
        require(len(shape) == 1, f"gamma must have 1 dimension, not shape {shape}")
        for name in ("gamma", "beta"):
            object.__setattr__(self, name, _stored(name, getattr(self, name), shape, 16))
        integer("shift", self.shift, LayerNormSpec.Z_FRACTION, LayerNormSpec.MAX_SHIFT)

    def compute(self, x: Integers) -> Integers:
        """Return the s8 rows of s16 rows (..., width)."""
        spec = LayerNormSpec(max_width=len(self.gamma))
        return spec.compute(x, self.gamma, self.beta, self.shift)


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """One attention head.

    Parameters
    ----------
    query, key, value : projections of the normalised rows, of the same width.
    score_mul, score_shift : requantisation of ``query . key`` to s8 scores.
    mul, shift : scale from values to attention output, ``mul / 2**shift``; see
        :class:`~golden.softmax.SoftmaxSpec`.
    """

    query: LinearLayer
    key: LinearLayer
    value: LinearLayer
    score_mul: int
    score_shift: int
    mul: int
    shift: int

    def __post_init__(self):
        shape = self.query.weight.shape
        for name in ("key", "value"):
            other = getattr(self, name).weight.shape
            require(other == shape, f"{name} weight must have shape {shape}, not {other}")
        for name, width in (("score_mul", 16), ("score_shift", 6), ("mul", 16), ("shift", 6)):
            integer(name, getattr(self, name), 0, (1 << width) - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """One encoder block: ``x += attention(norm1(x)); x += fc2(activation(fc1(norm2(x))))``.

    ``exponents`` is the softmax table (256,), unsigned 8 bit, of all heads; ``table`` the
    activation table (2**n,), signed 8 bit, when ``activation`` is TABLE and ``None`` otherwise.
    """

    norm1: NormLayer
    heads: tuple[Head, ...]
    exponents: Integers
    proj: LinearLayer
    norm2: NormLayer
    fc1: LinearLayer
    activation: ActivationKind
    table: Integers | None
    fc2: LinearLayer

    def __post_init__(self):
        require(bool(self.heads), "heads must be at least 1, not 0")
        object.__setattr__(self, "exponents",
                           _stored("exponents", self.exponents, (256,), 8, signed=False))
        require(bool(self.exponents[0]), "exponents must start with a number above 0, not 0")
        kind = ActivationKind(self.activation)
        require(kind is not ActivationKind.HARDSWISH,
                "activation must be NONE, RELU or TABLE, not HARDSWISH")
        require((self.table is not None) == (kind is ActivationKind.TABLE),
                f"table must be given for TABLE alone, not for {kind.name}")
        if self.table is not None:
            size = np.size(self.table)
            require(size in (256, 512, 1024, 2048, 4096),
                    f"table must have 256 to 4096 entries, a power of two, not {size}")
            object.__setattr__(self, "table", _stored("table", self.table, (size,), 8))

    def layers(self) -> Iterator[tuple[str, LinearLayer, int, int]]:
        """Yield the name, layer, inputs and outputs that fit a block, for its own width."""
        dim, hidden = len(self.norm1.gamma), self.fc1.outputs
        for index, head in enumerate(self.heads):
            yield f"heads.{index}.query", head.query, dim, self.heads[0].query.outputs
        yield "proj", self.proj, sum(head.value.outputs for head in self.heads), dim
        yield "fc1", self.fc1, dim, hidden
        yield "fc2", self.fc2, hidden, dim


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerVit:
    """Run a quantised pre-norm Vision Transformer in integers.

    Parameters
    ----------
    channels, image, patch : sizes of the input; side of the square image and patch in pixels.
    patch_embed : projection of a patch, its pixels channel by channel and row by row.
    position : (tokens, dim), signed 16 bit: what the residual stream starts from. Row 0 is the
        class token, and each carries its position; the patches are added to rows ``prefix`` and on.
    blocks, norm, head : the encoder, the final LayerNorm and the classifier of the class token.
    prefix : tokens before the patches: 1, or 2 with a distillation token in row 1.
    head_dist : its classifier, or None; what it says is added to what ``head`` says.
    index_bits : bits of the softmax reciprocal's index.
    prune : after which blocks' attention tokens leave, by integer levels.
    source : whose attention says how important a token is, ``class`` or ``column``.
    skip : which blocks of hidden units count as zero, of networks with ReLU; None: no skipping.
    scales : real value of one step of each tensor that ``forward`` shows, where it has one;
        ``scales["patches"]`` turns pixels into integers, ``scales["logits"]`` logits into numbers.

    Weights are signed 8 bit per output channel, activations signed 8 bit (unsigned after ReLU), the
    residual stream and the logits signed 16 bit, sums 32 bit; every addition to the residual stream
    saturates.

    Source: Dosovitskiy et al., ICLR 2021 (arXiv:2010.11929), equations 1 to 4; ``docs/numbers.md``.
    """

    channels: int
    image: int
    patch: int
    patch_embed: LinearLayer
    position: Integers
    blocks: tuple[Block, ...]
    norm: NormLayer
    head: LinearLayer
    prefix: int = 1
    head_dist: LinearLayer | None = None
    index_bits: int = 8
    prune: Mapping[int, Prune] = field(default_factory=dict)
    source: str = "class"
    skip: Skip | None = None
    scales: Mapping[str, Scale] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("channels", "image", "patch"):
            integer(name, getattr(self, name), 1)
        integer("index_bits", self.index_bits, 1, 10)
        require(self.image % self.patch == 0,
                f"patch must divide the image's side {self.image}, not {self.patch}")
        require(bool(self.blocks), "blocks must be at least 1, not 0")
        choice("source", self.source, ImportanceSpec.SOURCES)
        for index, one in self.prune.items():
            integer("block of prune", index, 0, len(self.blocks) - 1)
            integer("level of prune", one.level, 0, (1 << ImportanceSpec.WIDTH) - 1)
        relu = all(block.activation is ActivationKind.RELU for block in self.blocks)
        require(self.skip is None or relu, "skip must be None for networks without ReLU")
        integer("prefix", self.prefix, 1, 2)
        require(self.head_dist is None or self.prefix == 2,
                f"prefix must be 2 with head_dist, not {self.prefix}")
        shape = (self.grid**2 + self.prefix, self.patch_embed.outputs)
        object.__setattr__(self, "position", _stored("position", self.position, shape, 16))
        layers = [("patch_embed", self.patch_embed, self.channels * self.patch**2, self.dim),
                  ("head", self.head, self.dim, self.classes)]
        if self.head_dist is not None:
            layers.append(("head_dist", self.head_dist, self.dim, self.classes))
        norms = [("norm", self.norm)]
        for index, block in enumerate(self.blocks):
            at = f"blocks.{index}"
            layers += [(f"{at}.{name}", layer, inputs, outputs)
                       for name, layer, inputs, outputs in block.layers()]
            norms += [(f"{at}.norm1", block.norm1), (f"{at}.norm2", block.norm2)]
        for name, norm in norms:
            require(len(norm.gamma) == self.dim,
                    f"{name} must have width {self.dim}, not {len(norm.gamma)}")
        for name, layer, inputs, outputs in layers:
            require(layer.weight.shape == (inputs, outputs),
                    f"{name} weight must have shape {(inputs, outputs)}, not {layer.weight.shape}")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        """Rows of the residual stream: ``prefix`` tokens, then the patches."""
        return len(self.position)

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.position.shape[1]

    @property
    def classes(self) -> int:
        """Logits."""
        return self.head.outputs

    @property
    def macs(self) -> int:
        """Multiplications of one image, attention included."""
        tokens = self.tokens
        total = (tokens - self.prefix) * self.patch_embed.weight.size + self.head.weight.size
        total += 0 if self.head_dist is None else self.head_dist.weight.size
        for block in self.blocks:
            total += tokens * sum(layer.weight.size for layer in
                                  (block.proj, block.fc1, block.fc2))
            total += sum(tokens * (3 * head.query.weight.size + 2 * tokens * head.query.outputs)
                         for head in block.heads)
        return total

    def patches(self, images: ArrayLike) -> Integers:
        """Cut integer images (N, C, H, W) into rows (N, patches, C * patch**2)."""
        images, grid, side = integers(images), self.grid, self.patch
        wanted = (self.channels, self.image, self.image)
        require(images.ndim == 4 and images.shape[1:] == wanted,
                f"images must have shape (N, {', '.join(map(str, wanted))}), not {images.shape}")
        tiled = images.reshape(-1, self.channels, grid, side, grid, side)
        return tiled.transpose(0, 2, 4, 1, 3, 5).reshape(len(images), grid**2, -1)

    def forward(self, images: ArrayLike, observe: Observe | None = None) -> Integers:
        """Return the s16 logits (N, classes) of s8 images (N, C, H, W) or patches (N, P, C*p*p).

        ``observe(name, array)``, when given, sees each intermediate in the order of computation,
        under the names of :meth:`golden.reference.vit.FloatVit.forward`; ``exponents`` (u8) stand
        in for the probabilities, which are never formed. Where tokens leave, images are computed
        one by one, and ``importance``, ``kept`` and ``fused`` are shown too.
        """
        see = observe or (lambda name, array: None)
        images = integers(images)
        if self.prune and len(images) > 1:
            return np.concatenate([self.forward(images[n:n + 1], observe)
                                   for n in range(len(images))])
        x = self.patches(images) if images.ndim == 4 else images
        wanted = (self.tokens - self.prefix, self.patch_embed.inputs)
        require(x.ndim == 3 and x.shape[1:] == wanted,
                f"patches must have shape (N, {wanted[0]}, {wanted[1]}), not {x.shape}")
        require(not x.size or (x.min() >= -128 and x.max() <= 127),
                "images must hold integers from -128 to 127, not beyond")
        see("patches", x)
        x = self.patch_embed.compute(x)
        see("patch_embed", x)
        first = np.zeros((len(x), self.prefix, self.dim), np.int64)
        x = saturate(self.position + np.concatenate([first, x], 1), 16)
        see("embed", x)
        for index in range(len(self.blocks)):
            x = self._block(x, index, lambda name, array, at=f"blocks.{index}":
                            see(f"{at}.{name}", array))
        row = self.norm.compute(x[:, 0])
        see("norm", row)
        logits = self.head.compute(row)
        if self.head_dist is not None:
            row = self.norm.compute(x[:, 1])
            see("norm_dist", row)
            see("head", logits)
            added = self.head_dist.compute(row)
            see("head_dist", added)
            logits = saturate(logits + added, 16)
        see("logits", logits)
        return logits

    def _block(self, x: Integers, index: int, see: Observe) -> Integers:
        block = self.blocks[index]
        rows = block.norm1.compute(x)
        see("norm1", rows)
        heads = [self._attend(rows, head, block) for head in block.heads]
        for name in heads[0]:
            if name != "attn":
                see(name, np.stack([head[name] for head in heads], 1))
        attended = np.concatenate([head["attn"] for head in heads], -1)
        see("attn", attended)
        added = block.proj.compute(attended)
        see("proj", added)
        x = saturate(x + added, 16)
        see("residual1", x)
        if index in self.prune:
            x = self._prune(x, self.prune[index], [head["exponents"][0] for head in heads], see)
        rows = block.norm2.compute(x)
        see("norm2", rows)
        hidden = block.fc1.compute(rows)
        see("fc1", hidden)
        width = 10 if block.table is None else len(block.table).bit_length() - 1
        hidden = ActivationSpec(table_width=width).compute(hidden, block.activation,
                                                           table=block.table)
        see("hidden", hidden)
        if self.skip is not None and self.skip.level:
            hidden = self.skip.apply(hidden)
        added = block.fc2.compute(hidden)
        see("fc2", added)
        x = saturate(x + added, 16)
        see("residual2", x)
        return x

    @property
    def importance(self) -> ImportanceSpec:
        """How the importance of tokens is accumulated."""
        return ImportanceSpec(max_keys=self.tokens, source=self.source,
                              sum_width=SoftmaxSpec(max_keys=self.tokens).sum_width,
                              index_bits=self.index_bits)

    def _prune(self, x: Integers, prune: Prune, exponents: Sequence[Integers],
               see: Observe) -> Integers:
        """Return what is left of the rows of one image; ``exponents`` (tokens, tokens) by head."""
        spec = self.importance
        sums = np.zeros(len(exponents[0]), np.int64)
        for head in exponents:
            sums = spec.add(sums, head)
        importance = spec.importance(sums)
        see("importance", importance[None])
        chooser = TopKSpec(n=self.tokens, width=spec.WIDTH)
        kept = np.flatnonzero(chooser.select(importance, prune.rule, int(prune.level),
                                             protected=self.prefix))
        see("kept", kept[None])
        left = np.setdiff1d(np.arange(x.shape[1]), kept)
        if not prune.fuse or not len(left):
            return x[:, kept]
        fuser = FuseSpec(max_tokens=self.tokens, max_width=self.dim)
        fused = fuser.compute(x[0, left], importance[left],
                              *spec.mean(len(exponents), self.tokens))[None, None]
        see("fused", fused)
        return np.concatenate([x[:, kept], fused], 1)

    def _attend(self, rows: Integers, head: Head, block: Block) -> dict[str, Integers]:
        query, key, value = (saturate(layer.compute(rows), 8)
                             for layer in (head.query, head.key, head.value))
        scores = saturate(REQUANT.compute(product(query, key.swapaxes(-1, -2)), head.score_mul,
                                          head.score_shift), 8)
        softmax = SoftmaxSpec(max_keys=self.tokens, index_bits=self.index_bits)
        exponents, factor, k = softmax.compute(scores, block.exponents, head.mul)
        shift = np.minimum(head.shift + k, 63)
        out = REQUANT.compute(product(exponents, value), factor[..., None], shift[..., None])
        return {"q": query, "k": key, "v": value, "scores": scores, "exponents": exponents,
                "attn": saturate(out, 8)}
