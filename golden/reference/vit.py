# SPDX-License-Identifier: Apache-2.0
"""A Vision Transformer in float64 numpy: what quantised and compiled networks are measured by."""
import math

import numpy as np
from numpy.typing import DTypeLike

from golden.prune import ACCUMULATE
from golden.validate import choice, integer, require

__all__ = ["FloatVit", "activate", "erf"]

_STEPS = 128                                             # grid points of erf's table per unit
_GRID = np.arange(6 * _STEPS + 1) / _STEPS               # at 6, erf rounds to 1
_SLOPE = 2 / math.sqrt(math.pi) * np.exp(-_GRID ** 2)
_TAYLOR = (                                              # derivatives of order k over k!
    np.array([math.erf(x) for x in _GRID]),
    _SLOPE,
    -_GRID * _SLOPE,
    (4 * _GRID ** 2 - 2) / 6 * _SLOPE,
    (12 - 8 * _GRID ** 2) * _GRID / 24 * _SLOPE,
    ((16 * _GRID ** 2 - 48) * _GRID ** 2 + 12) / 120 * _SLOPE,
)


def erf(x):
    """Return the error function of each element, in the type of ``x``; error below 1e-15.

    A Taylor polynomial of order 5 around the nearest of 769 points, which ``math.erf`` gave:
    within half a step, 1/256, the order left out contributes less than 2e-16.
    """
    x = np.asarray(x)
    near = np.minimum(np.abs(x), 6.0)
    index = np.rint(np.fmin(near, 6.0) * _STEPS).astype(np.intp)    # a NaN needs an index too
    offset = near - index.astype(near.dtype) / _STEPS
    result = _TAYLOR[-1].astype(near.dtype)[index]
    for table in _TAYLOR[-2::-1]:
        result *= offset
        result += table.astype(near.dtype)[index]
    return np.copysign(result, x)


def activate(x, activation):
    """Apply ``"gelu"`` (exact, with ``erf``) or ``"relu"`` to each element."""
    if activation == "relu":
        return np.maximum(x, 0)
    return x * (1 + erf(x * math.sqrt(0.5))) / 2


class FloatVit:
    """Run a pre-norm Vision Transformer, sized by its own tensors.

    Parameters
    ----------
    tensors : dict of str to array
        timm's names: ``cls_token``, ``pos_embed``, ``patch_embed.proj``, ``blocks.N.norm1``,
        ``attn.qkv``, ``attn.proj``, ``norm2``, ``mlp.fc1``, ``mlp.fc2``, then ``norm`` and
        ``head``, each with ``weight`` and ``bias``. ``attn.qkv.bias`` may be missing: it is 0.
        With ``dist_token`` a distillation token follows the class token; with ``head_dist`` too,
        the logits are the mean of what both heads say of their tokens.
    heads : int
        Heads of each block; divides the width.
    activation : {"gelu", "relu"}
        Between ``fc1`` and ``fc2``.
    dtype : numpy dtype
        Arithmetic; float32 is about twice as fast and differs by about 1e-5 in the logits.

    Members
    -------
    channels, image, patch, grid, tokens, dim, depth, heads, head_dim, hidden, classes : int
        Sizes; ``tokens`` counts all, ``grid`` the patches along a side.
    prefix : int
        Tokens before the patches: 1, or 2 with a distillation token.
    distilled : bool
        The distillation token has a head of its own.
    tensors : dict of str to array
        The checked weights in ``dtype``, ``qkv.bias`` included.

    Raises
    ------
    ValueError
        A tensor is missing, unknown, not finite or of another shape than the others ask for; the
        sentence names it.

    Source
    ------
    Dosovitskiy et al., ICLR 2021 (arXiv:2010.11929), equations 1 to 4, LayerNorm epsilon 1e-6;
    the distillation token: Touvron et al., ICML 2021 (arXiv:2012.12877), section 4.
    """

    EPSILON = 1e-6

    def __init__(self, tensors, *, heads, activation="gelu", dtype: DTypeLike = np.float64):
        choice("activation", activation, ("gelu", "relu"))
        integer("heads", heads, 1)
        self.heads = heads
        self.activation = activation
        self.dtype = np.dtype(dtype)
        self.tensors = {}
        for name, value in tensors.items():
            value = np.asarray(value)
            require(value.dtype.kind == "f",
                    f"tensor {name} must be floating point, not {value.dtype}")
            require(bool(np.isfinite(value).all()),
                    f"tensor {name} must be finite, not NaN or infinite")
            self.tensors[name] = value.astype(self.dtype)
        self._measure()

    def _shape(self, name, rank):
        require(name in self.tensors, f"tensor {name} must be in the checkpoint, not missing")
        shape = self.tensors[name].shape
        require(len(shape) == rank,
                f"tensor {name} must have {rank} dimensions, not shape {shape}")
        return shape

    def _measure(self):
        """Read the sizes off the tensors, then compare every tensor with what they imply."""
        self.dim, self.channels, self.patch, width = self._shape("patch_embed.proj.weight", 4)
        require(self.patch == width, f"patch must be square, not {self.patch} x {width}")
        self.tokens = self._shape("pos_embed", 3)[1]
        self.prefix = 1 + ("dist_token" in self.tensors)
        self.distilled = self.prefix == 2 and any(
            name.startswith("head_dist.") for name in self.tensors)
        self.grid = math.isqrt(max(self.tokens - self.prefix, 0))
        require(self.grid > 0 and self.grid ** 2 + self.prefix == self.tokens,
                f"tokens must be {self.prefix} + a square number of patches (a square image), "
                f"not {self.tokens}")
        self.image = self.grid * self.patch
        require(self.dim % self.heads == 0,
                f"heads must divide the width {self.dim}, not {self.heads}")
        self.head_dim = self.dim // self.heads
        blocks = {int(name.split(".")[1]) for name in self.tensors
                  if name.startswith("blocks.") and name.split(".")[1].isdecimal()}
        self.depth = max(blocks, default=-1) + 1
        require(self.depth > 0, "depth must be at least 1, not 0")
        gap = next(index for index in range(self.depth + 1) if index not in blocks)
        require(gap == self.depth, f"blocks must be numbered without a gap, but there is no "
                                   f"blocks.{gap} although there is a blocks.{self.depth - 1}")
        self.hidden = self._shape("blocks.0.mlp.fc1.weight", 2)[0]
        self.classes = self._shape("head.weight", 2)[0]

        dim, hidden = self.dim, self.hidden
        expected = {"cls_token": (1, 1, dim), "pos_embed": (1, self.tokens, dim),
                    "patch_embed.proj.weight": (dim, self.channels, self.patch, self.patch),
                    "patch_embed.proj.bias": (dim,)}
        for block in (f"blocks.{index}" for index in range(self.depth)):
            self.tensors.setdefault(f"{block}.attn.qkv.bias", np.zeros(3 * dim, self.dtype))
            for name in ("norm1", "norm2"):
                expected |= {f"{block}.{name}.weight": (dim,), f"{block}.{name}.bias": (dim,)}
            for name, rows, columns in (("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim),
                                        ("mlp.fc1", hidden, dim), ("mlp.fc2", dim, hidden)):
                expected |= {f"{block}.{name}.weight": (rows, columns),
                             f"{block}.{name}.bias": (rows,)}
        expected |= {"norm.weight": (dim,), "norm.bias": (dim,),
                     "head.weight": (self.classes, dim), "head.bias": (self.classes,)}
        if self.prefix == 2:
            expected["dist_token"] = (1, 1, dim)
        if self.distilled:
            expected |= {"head_dist.weight": (self.classes, dim),
                         "head_dist.bias": (self.classes,)}
        for name, shape in expected.items():
            found = self._shape(name, len(shape))
            require(found == shape, f"tensor {name} must have shape {shape}, not {found}")
        for name in sorted(self.tensors.keys() - expected):
            raise ValueError(f"tensor {name} must be part of a plain Vision Transformer, "
                             "not an addition to it")

    def patches(self, images):
        """Cut images (N, C, H, W) into rows (N, patches, C * patch^2), as a convolution reads."""
        images = np.asarray(images, self.dtype)
        wanted = (self.channels, self.image, self.image)
        require(images.ndim == 4 and images.shape[1:] == wanted,
                f"images must have shape (N, {', '.join(map(str, wanted))}), not {images.shape}")
        tiled = images.reshape(-1, self.channels, self.grid, self.patch, self.grid, self.patch)
        return tiled.transpose(0, 2, 4, 1, 3, 5).reshape(
            len(images), self.grid ** 2, self.channels * self.patch ** 2)

    def forward(self, images, observe=None, *, prune=None, source="class", accumulate=None):
        """Return the logits (N, classes) of images (N, channels, image, image).

        ``prune`` says after which blocks' attention tokens leave ({block: Prune}), by the attention
        that they get: from the class token, summed over heads, or with ``source`` "column" from all
        tokens. Images are then computed one by one, as they differ in their tokens. Those that
        leave are fused by their mean attention over the heads, with "column" over all ``tokens``.
        With ``accumulate`` it is the attention of all blocks so far, of which once tokens were
        chosen that part is left that :data:`golden.prune.ACCUMULATE` says; a fused token goes on
        from that of the first of those that it is made of.

        ``observe(name, array)``, when given, sees each intermediate in the order of computation:
        ``patches`` (N, patches, C * patch^2), ``patch_embed`` before the position is added
        (N, patches, dim), ``embed`` (N, tokens, dim); for each block ``blocks.B.norm1``, ``.q``,
        ``.k``, ``.v`` (N, heads, tokens, head_dim), ``.scores`` after 1/sqrt(head_dim) and
        ``.probabilities`` (N, heads, tokens, tokens), ``.attn``, the heads side by side, ``.proj``,
        ``.residual1``, ``.norm2``, ``.fc1`` before the activation, ``.hidden`` after it, ``.fc2``,
        ``.residual2``; ``norm`` and ``logits`` of the class token alone (N, dim), (N, classes). A
        distilled network shows ``norm``, ``norm_dist`` of the distillation token, then ``head`` and
        ``head_dist``, whose mean are the ``logits``.
        Where tokens leave, ``.importance`` (N, tokens), ``.kept``, the indices of those that stay,
        and ``.fused`` (N, 1, dim), if there is one, follow ``.residual1``.
        """
        see = observe or (lambda name, array: None)
        if prune and len(images) > 1:
            return np.concatenate([
                self.forward(images[n:n + 1], observe, prune=prune, source=source,
                             accumulate=accumulate) for n in range(len(images))])
        weights = self.tensors

        def linear(x, name, at):
            weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            x = x @ weight.reshape(len(weight), -1).T + bias
            see(at, x)
            return x

        def norm(x, name, at=None):
            centred = x - x.mean(-1, keepdims=True)
            variance = (centred ** 2).mean(-1, keepdims=True)
            x = (centred / np.sqrt(variance + self.EPSILON)) * weights[f"{name}.weight"]
            x += weights[f"{name}.bias"]
            see(at or name, x)
            return x

        x = self.patches(images)
        batch = len(x)
        see("patches", x)
        x = linear(x, "patch_embed.proj", "patch_embed")
        first = [np.broadcast_to(weights[name], (batch, 1, self.dim))
                 for name in ("cls_token", "dist_token")[:self.prefix]]
        x = np.concatenate([*first, x], 1) + weights["pos_embed"]
        see("embed", x)
        before, blocks = np.zeros(x.shape[1]), 0  # importance of the tokens left; adds up over
        for index in range(self.depth):
            block, tokens = f"blocks.{index}", x.shape[1]
            qkv = norm(x, f"{block}.norm1") @ weights[f"{block}.attn.qkv.weight"].T
            qkv += weights[f"{block}.attn.qkv.bias"]
            query, key, value = qkv.reshape(
                batch, tokens, 3, self.heads, self.head_dim).transpose(2, 0, 3, 1, 4)
            for name, part in (("q", query), ("k", key), ("v", value)):
                see(f"{block}.{name}", part)
            scores = query @ key.swapaxes(-1, -2) / math.sqrt(self.head_dim)
            see(f"{block}.scores", scores)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            see(f"{block}.probabilities", scores)
            heads = (scores @ value).swapaxes(1, 2).reshape(batch, tokens, self.dim)
            see(f"{block}.attn", heads)
            x = x + linear(heads, f"{block}.attn.proj", f"{block}.proj")
            see(f"{block}.residual1", x)
            if prune:
                rows = scores[:, :, :1] if source == "class" else scores
                importance, blocks = rows.sum((1, 2)), 1 + blocks if accumulate else 1
                if accumulate:
                    importance += before
                    before = importance[0]
            if prune and index in prune:
                see(f"{block}.importance", importance)
                kept = prune[index].keep(importance[0], self.prefix)
                see(f"{block}.kept", kept[None])
                x, every = x[:, kept], x
                if prune[index].fuse and len(kept) < tokens:
                    weight = importance / (self.heads * blocks
                                           * (1 if source == "class" else self.tokens))
                    weight[:, kept] = 0
                    fused = weight[:, None] @ every
                    see(f"{block}.fused", fused)
                    x = np.concatenate([x, fused], 1)
                    kept = np.append(kept, np.setdiff1d(np.arange(tokens), kept)[0])
                if accumulate:
                    part = ACCUMULATE[accumulate]
                    before, blocks = part * before[kept], part * blocks
            hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1", f"{block}.fc1")
            hidden = activate(hidden, self.activation)
            see(f"{block}.hidden", hidden)
            x = x + linear(hidden, f"{block}.mlp.fc2", f"{block}.fc2")
            see(f"{block}.residual2", x)
        if not self.distilled:
            return linear(norm(x[:, 0], "norm"), "head", "logits")
        rows = [norm(x[:, row], "norm", at) for row, at in enumerate(("norm", "norm_dist"))]
        x = (linear(rows[0], "head", "head") + linear(rows[1], "head_dist", "head_dist")) / 2
        see("logits", x)
        return x

    def predict(self, images, batch=4, **how):
        """Return the class of each image (N,), ``batch`` images at a time: few fit a cache."""
        images = np.asarray(images)
        return np.concatenate([self.forward(images[start:start + batch], **how).argmax(-1)
                               for start in range(0, max(len(images), 1), batch)])
