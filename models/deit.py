# SPDX-License-Identifier: Apache-2.0
"""DeiT-Tiny, -Small and -Base with random weights of realistic statistics: nothing is trained.

No trained ImageNet weights ship with Vitral, but cycles depend on shapes alone, and the cost of
quantisation on how numbers are spread. So each tensor is drawn as a trained one looks:

- a few channels of the residual stream are outliers, which attention and MLP feed and LayerNorm
  damps; a quarter carries positions, which later blocks hardly write and LayerNorm amplifies;
- patch filters are windowed waves with a colour, positions are smooth waves over the grid;
- gamma and the norms of weight rows are log-normal; pre-activations of GELU lie around -0.7;
- a *local* head has queries and keys that look alike at the positions, and so sees its
  neighbourhood; the others compare contents. Attention sharpens, and the stream grows, with depth.

The images have 8-bit pixels, a 1/f amplitude spectrum, correlated colours, and a contrast and tint
of their own, normalised as ImageNet's are. There are no labels. Over the 16 held-out images: root
mean square of the residual stream behind a block, its largest magnitude, entropy of the attention
of all rows and of the class token's (197 equal keys: 5.28), share of GELU's inputs below 0.

==========  =====  =====  =======  ===========  ======
deit-tiny     rms  range  entropy  class token  GELU-
==========  =====  =====  =======  ===========  ======
blocks.0     0.84   11.6     3.90         4.19    0.71
blocks.3     1.48   18.7     3.72         4.33    0.72
blocks.6     2.54   34.3     3.51         3.79    0.73
blocks.9     4.17   49.2     3.94         4.54    0.74
blocks.11    5.20   77.3     3.34         3.85    0.79
==========  =====  =====  =======  ===========  ======

``deit-small`` ends at 5.41, 66.6, 3.73, 3.79 and 0.71, ``deit-base`` at 5.43, 125.4, 3.92, 3.79 and
0.74. Logits of an image have a standard deviation of about 1.5. What they have in common is more
than in a trained network (correlation of two images' logits: 0.82, 0.74 and 0.64 on average), so
compare logits rather than classes.

The numbers do not depend on the machine or the version of numpy: all randomness are 16-bit
integers of ``RandomState``, whose streams numpy froze (NEP 19), seeded by the name of each tensor
and mapped to quantiles of the normal distribution; where float64 rounds differently elsewhere,
rounding to float32, or to a pixel, hides it.

Source of the shapes: Touvron et al., ICML 2021 (arXiv:2012.12877), table 1.
"""
import argparse
import zlib
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
from safetensors.numpy import save_file

from golden.validate import choice

__all__ = ["HEADS", "SPLITS", "images", "tensors"]

HEADS = {"deit-tiny": 3, "deit-small": 6, "deit-base": 12}
SPLITS = {"held_out": 16, "calibration": 8}
"""Images of each split."""
IMAGE, PATCH, CHANNELS, BLOCKS, CLASSES = 224, 16, 3, 12, 1000
HEAD_WIDTH, GRID = 64, IMAGE // PATCH
MEAN, DEVIATION = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
"""Of the colours of ImageNet, with which inputs are normalised."""


def _single(values):
    return np.asarray(values, np.float32)


@cache
def _quantiles():
    """Return 65536 quantiles of the normal distribution, in order: float32."""
    half = [NormalDist().inv_cdf((index + 0.5) / 65536) for index in range(32768)]
    return _single(half + [-value for value in half[::-1]])


def _normal(name, *shape):
    """Return standard normal numbers, float32, that ``name`` and ``shape`` alone decide."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return _quantiles()[random.randint(0, 65536, shape, np.uint16)]


class _Network:
    """One network while it is drawn; ``tensors`` has what is done."""

    def __init__(self, name):
        self.name, self.heads = name, HEADS[name]
        self.dim = dim = self.heads * HEAD_WIDTH
        self.tensors = {}
        order = np.argsort(self.normal("channels", dim), kind="stable")
        self.place, self.outlier = np.zeros((2, dim), bool)
        self.place[order[:dim // 4]] = True
        self.outlier[order[-max(3, dim // 96):]] = True
        gain = self.spread("gain", 0.4, dim) * self.channels(0.1, 5)
        self.gain = gain / np.sqrt(np.square(gain).mean())
        self.embed()
        for index in range(BLOCKS):
            self.attention(f"blocks.{index}", index)
            self.mlp(f"blocks.{index}", index)
        gamma = self.norm("norm", 1.5)
        self.put("head", 1.5 * self.matrix("head", gamma, CLASSES),
                 0.1 * self.normal("head.bias", CLASSES))

    def put(self, at, weight, bias):
        """Keep a layer, as float32."""
        self.tensors |= {f"{at}.weight": _single(weight), f"{at}.bias": _single(bias)}

    def normal(self, at, *shape):
        """Return standard normal numbers: float32."""
        return _normal(f"{self.name} {at}", *shape)

    def spread(self, at, sigma, *shape):
        """Return log-normal numbers around 1: float64."""
        return np.exp(sigma * self.normal(at, *shape).astype(np.float64))

    def channels(self, place, outlier):
        """Return a factor for each channel: that of those with positions, of outliers, else 1."""
        return np.where(self.place, place, np.where(self.outlier, outlier, 1))

    def matrix(self, at, sizes, outputs):
        """Return (outputs, inputs) that makes numbers around 1 of inputs of the given sizes."""
        rows = self.spread(f"{at} rows", 0.25, outputs) / np.sqrt(np.square(sizes).sum())
        return self.normal(at, outputs, len(sizes)) * _single(rows)[:, None]

    def norm(self, at, median, boost=1.0):
        """Draw a LayerNorm; return the sizes of its results, before those of positions grow."""
        gamma = median * self.spread(f"{at}.weight", 0.3, self.dim) * self.channels(1, 0.25)
        self.put(at, gamma * self.channels(boost, 1),
                 0.15 * median * self.normal(f"{at}.bias", self.dim))
        return gamma

    def out(self, at, inputs, size):
        """Draw a layer onto the residual stream, deaf to what all its inputs have in common."""
        rows = _single(size * self.gain / np.sqrt(inputs))[:, None]
        weight = self.normal(at, self.dim, inputs) * rows
        self.put(at, weight - _single(weight.mean(1, np.float64, keepdims=True)),
                 0.05 * size * self.gain * self.normal(f"{at}.bias", self.dim))

    def embed(self):
        """Draw what the residual stream starts from."""
        dim = self.dim
        y, x = np.mgrid[:PATCH, :PATCH] / PATCH - 0.5
        u, v = 1.2 * self.normal("patch waves", 2, dim, 1, 1).astype(np.float64)
        phase = np.pi * self.normal("patch phases", dim, 1, 1).astype(np.float64)
        waves = np.cos(2 * np.pi * (u * x + v * y) + phase) * np.exp(-2 * (x**2 + y**2))
        size = 0.0035 * self.spread("patch gains", 0.3, dim) * self.channels(0.3, 1)
        waves *= size[:, None, None] * (0.3 + np.hypot(u, v)) ** 1.2    # slow waves are strong
        colour = 1 + 0.35 * self.normal("patch colours", dim, CHANNELS, 1, 1).astype(np.float64)
        self.put("patch_embed.proj", waves[:, None] * colour + 0.004 * self.normal(
            "patch noise", dim, CHANNELS, PATCH, PATCH).astype(np.float64),
            0.1 * self.normal("patch_embed.proj.bias", dim))
        y, x = np.mgrid[:GRID, :GRID].reshape(2, -1, 1) / GRID
        u, v = 2.5 * self.normal("position waves", 2, dim).astype(np.float64)
        phase = np.pi * self.normal("position phases", dim).astype(np.float64)
        grid = np.cos(np.pi * (u * x + v * y) + phase) * np.where(self.place, 0.8, 0.1)
        grid += 0.05 * self.normal("position noise", GRID**2, dim)
        first = 0.1 * self.normal("position of the class token", 1, dim)
        self.tensors["pos_embed"] = _single(np.concatenate([first, grid])[None])
        self.tensors["cls_token"] = _single(
            0.2 * self.normal("cls_token", 1, 1, dim) * self.channels(1, 3))

    def attention(self, block, index):
        """Draw the attention of a block; later blocks have fewer local heads."""
        gamma = self.norm(f"{block}.norm1", 0.8, 1 + 0.35 * index)
        local = self.normal(f"{block} local heads", self.heads) > 0.1 * index - 0.4
        sharpness = (1 + 0.07 * index) * self.spread(f"{block} sharpness", 0.3, self.heads)
        parts = {"query": [], "key": [], "value": []}
        for head in range(self.heads):
            look = np.where(self.place, *((1, 0.15) if local[head] else (0.5, 1)))
            alike = np.float32(0.9 if local[head] else 0.1)
            size = np.float32(np.sqrt((0.8 if local[head] else 1.7) * sharpness[head]))
            query, key = (size * _single(look) * self.matrix(
                f"{block} head {head} {part}", gamma * look, HEAD_WIDTH)
                for part in ("query", "key"))
            parts["query"].append(query)
            parts["key"].append(alike * query + np.sqrt(1 - alike * alike) * key)
            parts["value"].append(self.matrix(f"{block} head {head} value", gamma, HEAD_WIDTH))
        # a key's bias would move all scores of a row alike, a value's add to all rows
        bias = _single([[0.3], [0], [0.05]]) * self.normal(f"{block} qkv bias", 3, self.dim)
        self.put(f"{block}.attn.qkv", np.concatenate([
            head for part in parts.values() for head in part]), bias.ravel())
        self.out(f"{block}.attn.proj", self.dim, 0.5 * 1.13**index)

    def mlp(self, block, index):
        """Draw the MLP of a block."""
        gamma, hidden = self.norm(f"{block}.norm2", 0.9), 4 * self.dim
        self.put(f"{block}.mlp.fc1", 1.2 * self.matrix(f"{block} fc1", gamma, hidden),
                 0.4 * self.normal(f"{block} fc1 bias", hidden) - 0.7)
        self.out(f"{block}.mlp.fc2", hidden, 1.13**index)


def tensors(name):
    """Return the weights of ``deit-tiny``, ``deit-small`` or ``deit-base``.

    Float32 under timm's names, new arrays for each call, of 5.7, 22 and 87 million numbers.
    """
    choice("name", name, HEADS)
    return _Network(name).tensors


def images(name, split="held_out"):
    """Return the images of a split as the networks expect them: float32 (N, 3, 224, 224)."""
    choice("name", name, HEADS)
    choice("split", split, SPLITS)
    return np.stack([_image(f"{split} {index}") for index in range(SPLITS[split])])


def _image(name):
    y, x = np.fft.fftfreq(IMAGE)[:, None], np.fft.rfftfreq(IMAGE)
    noise = _normal(f"image {name}", CHANNELS, IMAGE, IMAGE).astype(np.float64)
    spectrum = np.fft.rfft2(noise) / np.maximum(np.hypot(y, x), 0.5 / IMAGE)
    noise = np.fft.irfft2(spectrum, (IMAGE, IMAGE))
    grey, warm, green = noise / noise.std((1, 2), keepdims=True)
    colours = [0.9 * grey + a * warm + b * green for a, b in (
        (0.25, 0.1), (0.1, -0.15), (-0.2, 0.1))]
    contrast, light, *tint = _normal(f"mood of image {name}", 2 + CHANNELS).astype(np.float64)
    pixels = (115 + 20 * light + 12 * np.reshape(tint, (-1, 1, 1))
              + 55 * np.exp(0.25 * contrast) * np.stack(colours))
    return _single((np.rint(pixels).clip(0, 255) / 255 - MEAN) / DEVIATION)


def main(arguments=None):
    """Write a network, or its first blocks, as a weight file, and its images beside it."""
    parser = argparse.ArgumentParser(prog="python -m models.deit", description=main.__doc__)
    parser.add_argument("name", choices=HEADS)
    parser.add_argument("--blocks", type=int, default=12, metavar="N", choices=range(1, 13),
                        help="only the first N of the 12 blocks")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.safetensors",
                        help="default: NAME.safetensors; the images go to FILE.npy")
    options = parser.parse_args(arguments)
    path = options.output or Path(f"{options.name}.safetensors")
    kept = {key: np.ascontiguousarray(value) for key, value in tensors(options.name).items()
            if not key.startswith("blocks.") or int(key.split(".")[1]) < options.blocks}
    save_file(kept, path, {"heads": str(HEADS[options.name]), "activation": "gelu"})
    np.save(path.with_suffix(".npy"), images(options.name))


if __name__ == "__main__":
    main()
