# SPDX-License-Identifier: Apache-2.0
"""The shipped networks are what their card says, and their images what the data set holds."""
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models import data
from models.zoo import MODELS, model

CARD = (Path(data.__file__).parent / "README.md").read_text()
SHAPES = {  # image, tokens, dim, depth, heads, hidden
    "digits": (8, 17, 64, 4, 4, 256),
    "digits-197": (56, 197, 128, 6, 4, 256),
    "digits-197-relu": (56, 197, 128, 6, 4, 256),
}
TRAINED = [name for name, entry in MODELS.items() if entry.path is not None]
FLOOR = {"digits": 0.98, "digits-197": 0.975, "digits-197-relu": 0.975}


@pytest.mark.parametrize("name", TRAINED)
def test_weights_load_under_timms_names(name):
    entry = model(name)
    assert entry.path and entry.path.stat().st_size < 2_000_000
    vit = entry.float_vit()
    assert (vit.image, vit.tokens, vit.dim, vit.depth, vit.heads, vit.hidden) == SHAPES[name]
    assert (vit.channels, vit.classes) == (1, 10)
    assert all(np.array_equal(value, value.astype(np.float16)) for value in vit.tensors.values())
    parameters = sum(value.size for value in entry.tensors().values())
    assert f"{parameters:,}".replace(",", " ") in CARD


@pytest.mark.parametrize("name", TRAINED)
def test_held_out_accuracy_is_the_cards(name):
    entry = model(name)
    # A process of its own, because one BLAS thread is ten times faster where cores are shared.
    count = ("import sys, numpy; from models.zoo import model; m = model(sys.argv[1]);"
             "print((m.float_vit(numpy.float32).predict(m.images()) == m.labels()).sum())")
    right = int(subprocess.run(
        [sys.executable, "-c", count, name], check=True, text=True, stdout=subprocess.PIPE,
        timeout=300, cwd=Path(data.__file__).parents[1],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}).stdout)
    assert right == round((entry.accuracy or 0) * 360)
    row = re.search(rf"^\| `{name}` .*\| (\d+) of 360, (\d+\.\d\d) % \|$", CARD, re.MULTILINE)
    assert row, "the card has no such row"
    assert (int(row[1]), row[2]) == (right, f"{100 * right / 360:.2f}")
    assert right / 360 >= FLOOR[name]


def test_pruned_networks_name_blocks_of_theirs_and_parts_of_their_patches():
    assert {name for name in MODELS if MODELS[name].prune} == {"digits-197-relu"}
    for name in MODELS:
        assert all(0 <= block < SHAPES[name][3] and 0 < part < 1
                   for block, part in MODELS[name].prune.items())


def test_most_blocks_of_the_relu_networks_hidden_layers_are_zero():
    zero, dead = [], []

    def observe(name, array):
        if name.endswith(".hidden"):        # all tokens, 8-bit steps, blocks of 8 x 8
            steps = np.rint(array[:, :192] / array.max() * 255)
            blocks = steps.reshape(len(array), 24, 8, -1, 8).max((2, 4)) == 0
            zero.append(blocks.mean())
            dead.append(blocks.all((0, 1)).mean())

    entry = model("digits-197-relu")
    entry.float_vit(np.float32).forward(entry.images("calibration")[:8], observe)
    assert len(zero) == 6
    assert np.mean(zero) > 0.5              # to skip
    assert np.mean(dead) < 0.1              # because of the image: other images need them


def test_images_are_as_a_network_expects_them():
    for name, size in data.SIZES.items():
        for split, count in (("held_out", 360), ("calibration", 128)):
            images, labels = data.images(name, split), data.labels(name, split)
            assert (images.shape, images.dtype) == ((count, 1, size, size), np.float32)
            assert (labels.shape, labels.dtype) == ((count,), np.int64)
            assert (images.min(), images.max()) == (-1, 1)
    assert np.bincount(data.labels("digits")).tolist() == [36] * 10
    np.testing.assert_array_equal(data.images("digits")[:, 0] * 8 + 8, data.pixels())


def test_bicubic_keeps_constants_and_lines():
    matrix = data.bicubic(8, 56)
    assert matrix.shape == (56, 8)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-15)
    inside = slice(14, 42)      # away from the border all four taps differ, and lines are kept
    centre = (np.arange(56) + 0.5) / 7 - 0.5
    np.testing.assert_allclose((matrix @ np.arange(8.0))[inside], centre[inside], atol=1e-14)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-14)
    np.testing.assert_array_equal(data.bicubic(8, 8), np.eye(8))


def test_stored_images_are_those_of_scikit_learn_and_the_parts_disjoint():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    held_out, calibration, training = data.split(digits.target)
    assert sorted([*held_out, *training]) == list(range(len(digits.target)))
    assert set(calibration) <= set(training)
    for split, index in (("held_out", held_out), ("calibration", calibration)):
        np.testing.assert_array_equal(data.pixels(split), digits.images[index])
        np.testing.assert_array_equal(data.labels("digits", split), digits.target[index])
    rows = {image.tobytes() for image in digits.images}
    assert len(rows) == len(digits.images)      # no held-out image has a twin in training


def test_held_out_and_calibration_images_differ():
    seen = {image.tobytes() for image in data.pixels("calibration")}
    assert len(seen) == 128
    assert not any(image.tobytes() in seen for image in data.pixels())


def test_callers_cannot_spoil_the_stored_images():
    data.pixels()[:] = 0
    data.labels("digits")[:] = 11
    assert (data.pixels().max(), data.labels("digits").max()) == (16, 9)


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: model("resnet"),
     "model must be one of digits, digits-197, digits-197-relu, .*, not 'resnet'"),
    (lambda: data.images("resnet"),
     "model_name must be one of digits, digits-197, digits-197-relu, not 'resnet'"),
    (lambda: data.labels("digits", "test"),
     "split must be one of held_out, calibration, not 'test'"),
])
def test_refuses_unknown_names(call, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        call()


def test_refuses_a_header_that_disagrees(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"cls_token": np.zeros((1, 1, 4), np.float32)}, path, {"heads": "2"})
    with pytest.raises(ValueError, match=r"^heads in other\.safetensors must be 4, not '2'$"):
        replace(model("digits"), path=path).tensors()
    other = replace(model("digits-197-relu"), prune={0: 0.5})
    with pytest.raises(ValueError, match=r"^prune in digits-197-relu\.safetensors must be "
                                         r"""{"0": 0\.5}, not '{"0": 0\.5, "2": 0\.5}'$"""):
        other.tensors()
