# SPDX-License-Identifier: Apache-2.0
"""The images that ship with the models, and the one way from a pixel to a network's input.

Source: the 1797 handwritten digits of scikit-learn's ``load_digits``, a copy of the test set of
E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49, CC BY 4.0. Each is 8 x 8 pixels of 0 (paper) to 16 (ink).
``digits.npz`` holds 360 held-out images, 36 of each digit, that no training ever saw, and 128
training images for calibration; ``split`` says which they are.
"""
from functools import cache
from pathlib import Path

import numpy as np

from golden.validate import choice

__all__ = ["SIZES", "SPLITS", "bicubic", "images", "labels", "pixels", "prepare", "split"]

SIZES = {"digits": 8, "digits-197": 56, "digits-197-relu": 56}     # side of the input, in pixels
SPLITS = ("held_out", "calibration")
_HELD_OUT_PER_CLASS = 36
_CALIBRATION = 128


def split(targets):
    """Divide the data set, stratified and seeded: ``(held_out, calibration, training)`` indices.

    ``targets`` are the labels in the order of ``load_digits``. The calibration images belong to
    the training images too. All three are sorted; numpy promises the stream of ``RandomState``.
    """
    random = np.random.RandomState(0)
    held_out = np.sort(np.concatenate([
        random.permutation(np.flatnonzero(targets == label))[:_HELD_OUT_PER_CLASS]
        for label in range(10)]))
    training = np.setdiff1d(np.arange(len(targets)), held_out)
    return held_out, np.sort(random.permutation(training)[:_CALIBRATION]), training


def bicubic(old, size):
    """Return the (size, old) matrix that resizes a line of pixels with Keys' kernel, a = -1/2.

    Pixel centres lie at halves; the border pixel repeats. Each row sums to 1.
    """
    centre = (np.arange(size) + 0.5) * old / size - 0.5
    matrix = np.zeros((size, old))
    for tap in range(-1, 3):
        source = np.floor(centre).astype(int) + tap
        x = np.abs(centre - source)
        weight = np.where(x <= 1, (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)
        np.add.at(matrix, (np.arange(size), source.clip(0, old - 1)), weight)
    return matrix


def prepare(images, size):
    """Make a network's input of 8 x 8 pixels of 0..16: float32 (N, 1, size, size) in [-1, 1].

    Resized (``bicubic``, float64) when ``size`` is not 8, clipped to 0..16, then
    ``pixel / 8 - 1``. At size 8 the 17 levels are multiples of 1/8, so an 8-bit input with the
    scale 1/8 loses nothing.
    """
    images = np.asarray(images, np.float64)
    if size != images.shape[-1]:
        matrix = bicubic(images.shape[-1], size)
        images = (matrix @ images @ matrix.T).clip(0, 16)
    return (images / 8 - 1).astype(np.float32)[:, None]


@cache
def _archive():
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        return dict(archive)


def _entry(name, split):
    choice("split", split, SPLITS)
    return _archive()[f"{split}_{name}"]


def pixels(split="held_out"):
    """Return the images of a split as stored: uint8 (N, 8, 8), 0 to 16."""
    return _entry("images", split).copy()


def labels(model_name, split="held_out"):
    """Return the digit that each of ``images(model_name, split)`` shows: int64 (N,)."""
    _size(model_name)
    return _entry("labels", split).astype(np.int64)


def images(model_name, split="held_out"):
    """Return a split as a model expects it: float32 (N, 1, H, W) in [-1, 1], see ``prepare``."""
    return prepare(_entry("images", split), _size(model_name))


def _size(model_name):
    choice("model_name", model_name, SIZES)
    return SIZES[model_name]
