# SPDX-License-Identifier: Apache-2.0
"""Post-training quantisation: from a float Vision Transformer and some images to an integer one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.activation import ActivationKind, ActivationSpec, gelu
from golden.fixed import Integers, bounds, saturate
from golden.importance import ImportanceSpec
from golden.layernorm import LayerNormSpec
from golden.prune import Prune, Skip
from golden.reference.vit import FloatVit, activate
from golden.requant import RequantSpec
from golden.softmax import SoftmaxSpec
from golden.topk import Rule
from golden.validate import integer
from golden.vit import Block, Head, IntegerVit, LinearLayer, NormLayer, Scale

__all__ = ["integer_images", "quantise"]

Reals = NDArray[np.float64]

REQUANT = RequantSpec()
SAMPLE = 1 << 15
"""How many numbers of a tensor a scale is fitted to."""
HEADROOM = 2.0
"""Range of the 16-bit tensors over the largest value seen: they have bits to spare."""
GAMMA_FRACTION = LayerNormSpec.MAX_SHIFT - LayerNormSpec.Z_FRACTION
"""Most fraction bits of gamma and beta."""


@dataclass
class Statistics:
    """What calibration saw: for each tensor its largest magnitude and a random sample.

    Half of a sample is the class token's (and the distillation token's), whose row alone becomes
    the logits: among the hundreds of other rows, a range that clips its scores would look best.
    """

    random: np.random.Generator
    batches: int
    largest: dict[str, Reals] = field(default_factory=dict)
    parts: dict[str, list[Reals]] = field(default_factory=dict)
    prefix: int = 1

    PER_HEAD = ("q", "k", "v")
    ROWS = ("scores",)
    WITHOUT_CLASS = ("patches", "patch_embed", "norm", "head", "head_dist", "logits")

    def observe(self, name: str, array: Reals) -> None:
        """Take note of one batch of a tensor: a row for each number, or row of scores."""
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite during calibration, not NaN or infinite")
        name = "norm" if name == "norm_dist" else name  # one LayerNorm
        kind = name.rsplit(".", 1)[-1]
        if kind in ("probabilities", "importance", "kept", "fused"):
            return
        if kind in self.PER_HEAD:  # a column for each head
            array = np.moveaxis(array, 1, -1)
        elif kind not in self.ROWS:
            array = array[..., None]
        width = array.shape[-1]
        largest = np.abs(array).reshape(-1, width).max(0)
        if kind in self.ROWS:  # which differ in length where tokens leave
            largest = largest.max(keepdims=True)
        tokens = 2 if kind in self.ROWS else 1
        groups = [array] if name in self.WITHOUT_CLASS else np.split(array, [self.prefix], tokens)
        groups = [group for group in groups if group.size]  # all patches may have left
        quota = max(1, SAMPLE // self.batches // len(groups) // (width if kind in self.ROWS else 1))
        for group in groups:
            rows = group.reshape(-1, width)
            chosen = self.random.choice(len(rows), quota, replace=len(rows) < quota)
            self.parts.setdefault(name, []).append(rows[chosen])
        self.largest[name] = np.maximum(self.largest.get(name, 0.0), largest)

    def sample(self, name: str) -> Reals:
        """Return the sample: (rows, 1), (rows, heads) of q, k and v, or rows of scores.

        Short rows of scores end with minus infinity, a probability of 0.
        """
        parts = self.parts[name]
        width = max(part.shape[1] for part in parts)
        return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])),
                                      constant_values=-np.inf) for part in parts])


def fit(sample: Reals, largest: float, top: int,
        error: Callable[[Reals, Reals], float] | None = None, least: float = 0.3) -> float:
    """Return the scale of integers up to ``top`` with the least error over a sample.

    Tried are 72 that clip at ``least`` times to once the largest magnitude, and powers of two,
    which lose nothing where the numbers are multiples of one. ``error(sample, quantised)`` is the
    mean square by default. A tensor of zeros gets 1.
    """
    exact = largest / top
    if exact < np.finfo(np.float64).tiny:
        return 1.0
    tried = [exact * ratio for ratio in np.linspace(1, least, 72)]
    tried += [2.0 ** (math.ceil(math.log2(exact)) + step) for step in range(3)]
    low = -top - 1 if np.any(sample < 0) else 0

    def loss(scale: float) -> float:
        quantised = np.clip(np.rint(sample / scale), low, top) * scale
        return error(sample, quantised) if error else float(np.square(sample - quantised).mean())

    return min(tried, key=loss)


def integer_images(network: IntegerVit, images: ArrayLike) -> Integers:
    """Return float images (N, C, H, W) as the s8 numbers that the network reads."""
    images = np.asarray(images, np.float64)
    if not np.isfinite(images).all():
        raise ValueError("images must be finite, not NaN or infinite")
    scale = np.asarray(network.scales["patches"])
    return saturate(np.rint(np.clip(images / scale, -1e6, 1e6)).astype(np.int64), 8)


def linear_layer(weight: Reals, bias: Reals, in_scale: ArrayLike, out_scale: float) -> LinearLayer:
    """Quantise ``x @ weight + bias``; ``in_scale`` for all inputs or for each of them.

    One weight scale per output: that of the largest weight, or coarser where the bias would not
    fit beside the products.
    """
    weight = weight * np.broadcast_to(in_scale, len(weight))[:, None]
    limit = LinearLayer.bias_limit(len(weight))
    scale = np.maximum(np.abs(weight).max(0) / 127, np.abs(bias) / limit)
    scale[scale == 0] = 1.0
    mul, shift = REQUANT.factors(np.minimum(scale / out_scale, (1 << REQUANT.mul_width) - 1))
    return LinearLayer(weight=np.rint(weight / scale).astype(np.int64),
                       bias=np.clip(np.rint(bias / scale), -limit, limit).astype(np.int64),
                       mul=mul, shift=shift)


def norm_layer(gamma: Reals, beta: Reals, out_scale: float) -> NormLayer:
    """Quantise a LayerNorm, with as many fraction bits as its parameters leave."""
    both = np.stack([gamma, beta]) / out_scale
    top = bounds(16)[1]
    largest = np.abs(both).max()
    fraction = GAMMA_FRACTION
    while fraction and largest * 2**fraction > top:
        fraction -= 1
    both = saturate(np.rint(np.clip(both * 2**fraction, -1e6, 1e6)).astype(np.int64), 16)
    return NormLayer(gamma=both[0], beta=both[1], shift=LayerNormSpec.Z_FRACTION + fraction)


@dataclass
class Quantiser:
    """One quantisation: the float network, what calibration saw, and the scales chosen."""

    network: FloatVit
    seen: Statistics
    table_width: int
    index_bits: int
    prune: Mapping[int, Prune]
    source: str
    skip: Skip | None
    scales: dict[str, Scale] = field(default_factory=dict)

    def levels(self) -> dict[int, Prune]:
        """Return what tokens must have to stay, in integers."""
        spec = ImportanceSpec(source=self.source)

        def level(one: Prune) -> int:
            if one.rule == Rule.THRESHOLD:
                return spec.level(one.level)
            factor = 1 << Prune.MEAN_FRACTION if one.rule == Rule.MEAN else 1
            return min(int(one.level * factor + 0.5), (1 << spec.WIDTH) - 1)

        return {block: replace(one, level=level(one)) for block, one in self.prune.items()}

    def scale(self, name: str, top: int = 127, **how) -> float:
        """Choose the scale of one tensor."""
        scale = fit(self.seen.sample(name), float(self.seen.largest[name].max()), top, **how)
        self.scales[name] = scale
        return scale

    def head_scales(self, name: str) -> Reals:
        """Choose the scales of a tensor for each head: (heads,)."""
        sample, largest = self.seen.sample(name), self.seen.largest[name]
        scales = np.array([fit(column, float(top), 127) for column, top in
                           zip(sample.T, largest, strict=True)])
        self.scales[name] = scales[:, None, None]
        return scales

    def wide_scale(self, *names: str) -> float:
        """Choose one scale for 16-bit tensors."""
        largest = max(float(self.seen.largest[name].max()) for name in names)
        scale = largest * HEADROOM / bounds(16)[1] or 1.0
        for name in names:
            self.scales[name] = scale
        return scale

    def tensor(self, name: str) -> Reals:
        """Return a float tensor; weights as (inputs, outputs)."""
        value = self.network.tensors[name].astype(np.float64)
        matrix = name.endswith("weight") and value.ndim > 1
        return value.reshape(len(value), -1).T if matrix else value

    def linear(self, name: str, in_scale: ArrayLike, out_scale: float) -> LinearLayer:
        """Quantise a whole layer."""
        return linear_layer(self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), in_scale,
                            out_scale)

    def norm(self, name: str) -> tuple[NormLayer, float]:
        """Quantise a LayerNorm; return its output's scale too."""
        scale = self.scale(name)
        return norm_layer(self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), scale), scale

    def score_scale(self, name: str) -> float:
        """Choose the scale of the scores by the probabilities that come of them."""

        def probabilities(scores: Reals, scale: float | None = None) -> Reals:
            exponents = np.exp(scores - scores.max(-1, keepdims=True))
            if scale is None:
                return exponents / exponents.sum(-1, keepdims=True)
            exponents = np.rint(255 * exponents)
            return exponents / exponents.sum(-1, keepdims=True)

        exact = probabilities(self.seen.sample(name))

        def error(scores: Reals, quantised: Reals) -> float:
            quantised = np.where(np.isfinite(scores), quantised, -np.inf)
            return float(np.square(probabilities(quantised, 1.0) - exact).mean())

        return self.scale(name, error=error, least=0.2)

    def heads(self, name: str, in_scale: float) -> tuple[tuple[Head, ...], Integers, float]:
        """Quantise a block's heads; return them, their exponent table and the output's scale."""
        net = self.network
        weight = self.tensor(f"{name}.attn.qkv.weight").reshape(net.dim, 3, net.heads, -1)
        bias = self.tensor(f"{name}.attn.qkv.bias").reshape(3, net.heads, -1)
        scales = [self.head_scales(f"{name}.{part}") for part in "qkv"]
        score, out = self.score_scale(f"{name}.scores"), self.scale(f"{name}.attn")
        heads = []
        for head in range(net.heads):
            query, key, value = (float(scale[head]) for scale in scales)
            layers = [linear_layer(weight[:, part, head], bias[part, head], in_scale, scale)
                      for part, scale in enumerate((query, key, value))]
            (score_mul, mul), (score_shift, shift) = REQUANT.factors(np.minimum(
                [query * key / math.sqrt(net.head_dim) / score, value / out], 65535.0))
            heads.append(Head(query=layers[0], key=layers[1], value=layers[2],
                              score_mul=int(score_mul), score_shift=int(score_shift),
                              mul=int(mul), shift=int(shift)))
        return tuple(heads), SoftmaxSpec.table(score), out

    def hidden(self, name: str) -> tuple[float, float, ActivationKind, Integers | None]:
        """Choose the scales around the activation, and its kind and table."""
        if self.network.activation == "relu":
            scale = self.scale(f"{name}.hidden", top=255)
            self.scales[f"{name}.fc1"] = scale
            return scale, scale, ActivationKind.RELU, None
        spec = ActivationSpec(table_width=self.table_width)

        def error(exact: Reals, quantised: Reals) -> float:
            return float(np.square(activate(exact, "gelu") - activate(quantised, "gelu")).mean())

        before = self.scale(f"{name}.fc1", top=bounds(self.table_width)[1], error=error, least=0.2)
        after = self.scale(f"{name}.hidden")
        return before, after, ActivationKind.TABLE, spec.table(gelu, before, after)

    def block(self, name: str, residual: float) -> Block:
        """Quantise one block."""
        norm1, scale = self.norm(f"{name}.norm1")
        heads, exponents, out = self.heads(name, scale)
        norm2, scale = self.norm(f"{name}.norm2")
        before, after, kind, table = self.hidden(name)
        return Block(norm1=norm1, heads=heads, exponents=exponents,
                     proj=self.linear(f"{name}.attn.proj", out, residual), norm2=norm2,
                     fc1=self.linear(f"{name}.mlp.fc1", scale, before), activation=kind,
                     table=table, fc2=self.linear(f"{name}.mlp.fc2", after, residual))

    def quantise(self) -> IntegerVit:
        """Quantise the network."""
        net = self.network
        blocks = [f"blocks.{index}" for index in range(net.depth)]
        residual = self.wide_scale("embed", *(f"{block}.residual{half}" for block in blocks
                                              for half in (1, 2)))
        for name in ("patch_embed", *(f"{block}.{part}" for block in blocks
                                      for part in ("proj", "fused", "fc2"))):
            self.scales[name] = residual
        position = self.tensor("pos_embed")[0]
        for row, name in enumerate(("cls_token", "dist_token")[:net.prefix]):
            position[row] += self.tensor(name)[0, 0]
        patches = self.scale("patches")
        norm, last = self.norm("norm")
        return IntegerVit(
            channels=net.channels, image=net.image, patch=net.patch,
            patch_embed=self.linear("patch_embed.proj", patches, residual),
            position=saturate(np.rint(position / residual).astype(np.int64), 16),
            blocks=tuple(self.block(name, residual) for name in blocks), norm=norm,
            prefix=net.prefix, **self.classifiers(last), index_bits=self.index_bits,
            prune=self.levels(), source=self.source, skip=self.skip, scales=self.scales)

    def classifiers(self, last: float) -> dict[str, LinearLayer]:
        """Quantise one head, or two to a scale at which the sum is the mean."""
        if not self.network.distilled:
            return {"head": self.linear("head", last, self.wide_scale("logits"))}
        self.scales["norm_dist"] = last
        scale = self.wide_scale("head", "head_dist")
        self.scales["logits"] = scale / 2
        return {name: self.linear(name, last, scale) for name in ("head", "head_dist")}


def quantise(network: FloatVit, calibration_images: ArrayLike, *, table_width: int = 10,
             index_bits: int = 8, batch: int = 16, prune: Mapping[int, Prune] | None = None,
             source: str = "class", accumulate: str | None = None,
             skip: Skip | None = None) -> IntegerVit:
    """Return the integer network nearest to a float one.

    Scales are fitted to what the float network does with the calibration images: 8-bit tensors to
    the least mean square error, queries, keys and values for each head; scores to the least error
    of the probabilities, pre-activations to that of the activation; 16-bit tensors get twice the
    range seen. In these errors the class token, with the distillation token if there is one, counts
    as much as all others together. Deterministic.

    Parameters
    ----------
    network : FloatVit
    calibration_images : (N, C, H, W) float, as the network expects them; training images, not those
        that accuracy is measured on.
    table_width, index_bits : of the core: index bits of the activation table and of the reciprocal.
    batch : images per float forward pass.
    prune, source, accumulate : which tokens leave, see :meth:`FloatVit.forward`; calibration
        prunes as well.
    skip : which blocks of hidden units count as zero.

    Raises
    ------
    ValueError
        No images, images of another shape, a number that is not finite.
    """
    if not isinstance(network, FloatVit):
        raise TypeError(f"network must be a FloatVit, not {type(network).__name__}")
    integer("batch", batch, 1)
    integer("table_width", table_width, 8, 12)
    integer("index_bits", index_bits, 1, 10)
    images = np.asarray(calibration_images, np.float64)
    if not len(images):
        raise ValueError("calibration_images must be at least 1 image, not 0")
    if not np.isfinite(images).all():
        raise ValueError("calibration_images must be finite, not NaN or infinite")
    prune = prune or {}
    batch = 1 if prune else batch
    starts = range(0, len(images), batch)
    seen = Statistics(np.random.default_rng(0), len(starts), prefix=network.prefix)
    for start in starts:
        network.forward(images[start:start + batch], seen.observe, prune=prune, source=source,
                        accumulate=accumulate)
    return Quantiser(network, seen, table_width, index_bits, prune, source, skip).quantise()
