# SPDX-License-Identifier: Apache-2.0
"""The networks that Vitral knows, by name; ``README.md`` here is their model card."""
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from safetensors import safe_open
from safetensors.numpy import load_file

from golden.reference.vit import FloatVit
from golden.validate import choice
from models import data, deit

__all__ = ["MODELS", "Model", "model"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network: its weights, what they do not say, and its images.

    Parameters
    ----------
    name : str
        As on the command line.
    path : Path or None
        safetensors with timm's names; its header must agree with ``heads``, ``activation``
        and ``prune``. None for a network that ``models.deit`` generates: nobody trained
        it, its images have no labels.
    heads : int
        Attention heads of each block.
    activation : str
        ``"gelu"`` or ``"relu"``.
    accuracy : float or None
        Part of the 360 held-out images that the float weights classify correctly, nothing pruned;
        None without
        labels.
    summary : str
        One line for ``vitral list``.
    prune : mapping of int to float
        Block -> part of the patches then present that it was trained to pass on, those of greatest
        importance: the attention of the class token. Empty: not trained for it.
    """

    name: str
    path: Path | None
    heads: int
    activation: str
    accuracy: float | None
    summary: str
    prune: Mapping[int, float] = field(default_factory=dict, hash=False)

    def tensors(self):
        """Read the weights as float32, by timm's names; ValueError when the header disagrees."""
        if self.path is None:
            return deit.tensors(self.name)
        with safe_open(self.path, "numpy") as file:
            header = file.metadata() or {}
            for key, value in (("heads", str(self.heads)), ("activation", self.activation),
                               ("prune", json.dumps(self.prune) if self.prune else None)):
                if header.get(key) != value:
                    raise ValueError(f"{key} in {self.path.name} must be {value}, "
                                     f"not {header.get(key)!r}")
        return {name: value.astype(np.float32) for name, value in load_file(self.path).items()}

    def float_vit(self, dtype: DTypeLike = np.float64):
        """Build the float reference of this network."""
        return FloatVit(self.tensors(), heads=self.heads, activation=self.activation, dtype=dtype)

    def images(self, split="held_out"):
        """Return images as the network expects them, see ``models.data`` and ``models.deit``."""
        if self.path is None:
            return deit.images(self.name, split)
        return data.images(self.name, split)

    def labels(self, split="held_out"):
        """Return the labels of ``images(split)``; None where there are none."""
        return None if self.path is None else data.labels(self.name, split)


def _shipped(name, *, activation="gelu", **values):
    return Model(name=name, path=Path(__file__).with_name(f"{name}.safetensors"),
                 activation=activation, **values)


def _generated(name, dim):
    return Model(name=name, path=None, heads=deit.HEADS[name], activation="gelu", accuracy=None,
                 summary=f"224 x 224 colours, 197 tokens, 12 blocks of width {dim}; random weights "
                         "of realistic statistics")


MODELS = {entry.name: entry for entry in (
    _shipped("digits", heads=4, accuracy=1.0,
             summary="8 x 8 digits, 17 tokens, 4 blocks of width 64"),
    _shipped("digits-197", heads=4, accuracy=359 / 360,
             summary="56 x 56 digits, 197 tokens, 6 blocks of width 128"),
    _shipped("digits-197-relu", heads=4, activation="relu", accuracy=356 / 360,
             prune={0: 0.5, 2: 0.5},
             summary="digits-197 with ReLU, for token pruning and FFN skipping"),
    _generated("deit-tiny", 192), _generated("deit-small", 384), _generated("deit-base", 768),
)}


def model(name):
    """Return the model called ``name``."""
    choice("model", name, MODELS)
    return MODELS[name]
