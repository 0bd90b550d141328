# SPDX-License-Identifier: Apache-2.0
"""Quantised networks stay close to the float ones, are integers, and refuse bad numbers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from golden.activation import ActivationKind
from golden.reference.vit import FloatVit
from golden.rowwise.emulator import Emulator
from golden.rowwise.spec import PRESETS
from golden.vit import IntegerVit, LinearLayer
from models.zoo import model
from tests.networks import random_vit
from vitral import accuracy
from vitral.compile.rowwise import compile
from vitral.quantise import Statistics, fit, integer_images, quantise

SIZES = [  # image, patch, channels, dim, depth, heads, hidden, classes
    (8, 2, 1, 12, 2, 3, 20, 10),
    (15, 5, 3, 8, 1, 1, 7, 3),
    (12, 3, 2, 16, 3, 4, 32, 5),
]


def checkpoint(image, patch, channels, dim, depth, heads, hidden, classes, prefix=1):
    """Return random float tensors under timm's names, with about unit gain in each layer."""
    random = np.random.default_rng(dim)

    def linear(name, outputs, inputs, *kernel):
        fan_in = inputs * max(1, int(np.prod(kernel)))
        return {f"{name}.weight": random.normal(size=(outputs, inputs, *kernel)) / fan_in**0.5,
                f"{name}.bias": random.normal(size=outputs) * 0.2}

    def norm(name):
        return {f"{name}.weight": random.uniform(0.3, 1.5, dim),
                f"{name}.bias": random.normal(size=dim) * 0.2}

    tensors = {"cls_token": random.normal(size=(1, 1, dim)),
               "pos_embed": random.normal(size=(1, (image // patch)**2 + prefix, dim)),
               **linear("patch_embed.proj", dim, channels, patch, patch), **norm("norm"),
               **linear("head", classes, dim)}
    if prefix == 2:
        tensors |= {"dist_token": random.normal(size=(1, 1, dim)),
                    **linear("head_dist", classes, dim)}
    for index in range(depth):
        at = f"blocks.{index}"
        tensors |= {**norm(f"{at}.norm1"), **linear(f"{at}.attn.qkv", 3 * dim, dim),
                    **linear(f"{at}.attn.proj", dim, dim), **norm(f"{at}.norm2"),
                    **linear(f"{at}.mlp.fc1", hidden, dim), **linear(f"{at}.mlp.fc2", dim, hidden)}
    return tensors


def case(size=SIZES[0], activation="gelu", images=24, **changes):
    """Return a float network and images for it; ``changes`` edit its tensors in place."""
    tensors = checkpoint(*size)
    for name, change in changes.items():
        tensors[name.replace("__", ".")] = np.asarray(change(tensors[name.replace("__", ".")]))
    image, _, channels, *_ = size
    pixels = np.random.default_rng(1).uniform(-1, 1, (images, channels, image, image))
    return FloatVit(tensors, heads=size[5], activation=activation), pixels


def distance(found, exact):
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("size", [*SIZES, (*SIZES[0], 2), (*SIZES[2], 2)])
def test_every_tensor_is_near_the_float_one(size, activation, record_property):
    network, images = case(size, activation, 80)
    integer = quantise(network, images[:64])
    exact, errors = {}, {}
    network.forward(images[64:], exact.__setitem__)

    def compare(name, array):
        assert array.dtype == np.int64
        if name in integer.scales:
            errors[name] = distance(array * integer.scales[name], exact[name])
    integer.forward(integer_images(integer, images[64:]), compare)
    print({name: round(error, 4) for name, error in errors.items()})
    record_property("logit_error", errors["logits"])
    assert set(exact) - set(errors) == {f"blocks.{index}.probabilities"
                                        for index in range(size[4])}
    assert max(errors.values()) < 0.1
    assert errors["logits"] < 0.05
    assert errors["embed"] < 0.01


def test_digits_loses_no_accuracy_and_its_programs_compute_it():
    entry = model("digits")
    network = entry.float_vit()
    integer = quantise(network, entry.images("calibration"))
    pixels, labels = entry.images("held_out")[::4], np.asarray(entry.labels("held_out"))[::4]
    images = integer_images(integer, pixels)
    exact, logits = network.forward(pixels), integer.forward(images)
    error = distance(logits * integer.scales["logits"], exact)
    print("digits: logit error", error)
    assert error < 0.03
    assert abs(np.mean(exact.argmax(1) == labels) - np.mean(logits.argmax(1) == labels)) <= 0.005
    for name in ("tiny", "ecp5", "paper"):
        program = compile(integer, PRESETS[name])
        core = Emulator(PRESETS[name], program.memory(images[:2]))
        for index in range(2):
            core.run(program.operations(index))
            np.testing.assert_array_equal(program.logits(core.memory, index), logits[index])


def test_accuracy_command_prints_and_writes(tmp_path, capsys):
    file = tmp_path / "accuracy.json"
    assert accuracy.main(["digits", "--images", "30", "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())
    assert list(row) == ["model", "images", "float_correct", "integer_correct", "agreement",
                         "logit_error"]
    assert row["images"] == 30 and row["integer_correct"] >= 29 and 0 < row["logit_error"] < 0.03
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["model", "images", "float", "integer", "agree", "logit",
                                           "error"]
    assert f"{row['integer_correct'] / 30:.2%}" in out


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["vgg"], "model must be one of digits, digits-197, digits-197-relu, deit-tiny, "),
    (["--images", "0"], "--images must be at least 1, not 0"),
])
def test_accuracy_command_refuses(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        accuracy.main(arguments)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_quantisation_is_deterministic_and_reads_no_state():
    network, images = case()
    one, two = quantise(network, images), quantise(network, images)
    assert compile(one, PRESETS["tiny"]).weights == compile(two, PRESETS["tiny"]).weights
    assert one.scales.keys() == two.scales.keys()


def test_multiples_of_a_power_of_two_are_kept_exactly():
    network, images = case()
    images = np.rint(images * 8) / 8
    integer = quantise(network, images)
    np.testing.assert_array_equal(
        integer_images(integer, images) * integer.scales["patches"], images)


def zero(x):
    return x * 0


DEAD = {
    "patches": dict(patch_embed__proj__weight=zero, patch_embed__proj__bias=zero),
    "everything before the encoder": dict(
        patch_embed__proj__weight=zero, patch_embed__proj__bias=zero, pos_embed=zero,
        cls_token=zero),
    "norm": dict(blocks__0__norm1__weight=zero, blocks__0__norm1__bias=zero),
    "attention": dict(blocks__0__attn__qkv__weight=zero, blocks__0__attn__qkv__bias=zero),
    "weights, not biases": dict(blocks__1__attn__qkv__weight=zero, blocks__1__mlp__fc1__weight=zero,
                                blocks__1__mlp__fc2__weight=zero),
    "hidden": dict(blocks__0__mlp__fc1__weight=zero, blocks__0__mlp__fc1__bias=zero),
    "one channel": dict(blocks__0__mlp__fc1__weight=lambda w: w * (np.arange(20) != 3)[:, None],
                        blocks__0__mlp__fc1__bias=lambda b: b * (np.arange(20) != 3)),
    "logits": dict(head__weight=zero, head__bias=zero),
    "weights far below biases": dict(blocks__0__mlp__fc1__weight=lambda w: w * 1e-12,
                                     blocks__0__attn__qkv__weight=lambda w: w * 1e-9),
    "great spread": dict(blocks__0__mlp__fc2__weight=lambda w: w * 10.0 ** -np.arange(20)),
}


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("name", DEAD)
def test_dead_tensors_are_quantised(name, activation):
    network, images = case(activation=activation, **DEAD[name])
    integer = quantise(network, images[:16])
    exact = network.forward(images)
    logits = integer.forward(integer_images(integer, images)) * integer.scales["logits"]
    error = np.linalg.norm(logits - exact)
    # the dead head says 0; a class token of zeros makes LayerNorm divide rounding errors
    limit = 1.0 if name == "everything before the encoder" else 0.05
    assert error <= limit * np.linalg.norm(exact)
    program = compile(integer, PRESETS["tiny"], trace=True)
    pixels = integer_images(integer, images[:1])
    core = Emulator(PRESETS["tiny"], program.memory(pixels))
    core.run(program.operations())
    assert program.differences(core.memory, pixels) == []


def test_constant_images_are_quantised():
    network, _ = case()
    integer = quantise(network, np.zeros((2, 1, 8, 8)))
    assert integer.forward(np.zeros((1, 1, 8, 8), np.int64)).shape == (1, 10)


def test_fit_keeps_the_range_or_trades_it():
    uniform = np.linspace(-1, 1, 4001)
    assert fit(uniform, 1.0, 127) == pytest.approx(1 / 127, rel=0.02)
    outlier = np.append(np.random.default_rng(0).normal(size=10**6), 20.0)
    assert fit(outlier, 20.0, 127) < 10 / 127
    assert fit(np.zeros(5), 0.0, 127) == 1.0
    assert fit(np.arange(-8, 9) / 8, 1.0, 127) == 1 / 64


def test_half_of_each_sample_is_the_class_token():
    """Its row alone becomes the logits, however many others there are."""
    seen = Statistics(np.random.default_rng(0), 1)
    array = np.zeros((2, 3, 50, 50))
    array[:, :, 0] = 1
    seen.observe("blocks.0.scores", array)
    seen.observe("blocks.0.q", array[..., :8])
    seen.observe("blocks.0.hidden", array[:, 0])
    seen.observe("patches", array[:, 0])
    for name, shape in (("scores", 50), ("q", 3), ("hidden", 1)):
        sample = seen.sample(f"blocks.0.{name}")
        assert sample.shape[1] == shape and sample.mean() == 0.5
    assert 0 < seen.sample("patches").mean() < 0.1
    distilled = Statistics(np.random.default_rng(0), 1, prefix=2)
    array[:, :, :2] = [[0], [2]]
    for name in ("blocks.0.scores", "norm_dist"):
        distilled.observe(name, array if "." in name else array[:, 0, 1])
    assert 0.45 < distilled.sample("blocks.0.scores").mean() < 0.55
    assert distilled.sample("norm").mean() == 2     # both tokens' LayerNorm is one
    assert {name: largest.tolist() for name, largest in seen.largest.items()} == {
        "blocks.0.scores": [1.0], "blocks.0.q": [1.0] * 3, "blocks.0.hidden": [1.0],
        "patches": [1.0]}


@pytest.mark.parametrize(("images", "sentence"), [
    (np.full((2, 1, 8, 8), np.nan), "calibration_images must be finite, not NaN or infinite"),
    (np.zeros((0, 1, 8, 8)), "calibration_images must be at least 1 image, not 0"),
    (np.zeros((2, 1, 9, 8)), r"images must have shape \(N, 1, 8, 8\), not \(2, 1, 9, 8\)"),
])
def test_refuses_bad_images(images, sentence):
    network, good = case()
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        quantise(network, images)
    if "finite" in sentence:
        integer = quantise(network, good)
        with pytest.raises(ValueError, match=r"^images must be finite, not NaN or infinite$"):
            integer_images(integer, images)


def test_refuses_networks_that_overflow_or_are_none():
    network, images = case(blocks__0__mlp__fc2__weight=lambda w: w * 1e308)
    with np.errstate(all="ignore"), pytest.raises(
            ValueError, match=r"^blocks\.0\.(fc2|residual2) must be finite during calibration, not "
            r"NaN or infinite$"):
        quantise(network, images)
    with pytest.raises(TypeError, match=r"^network must be a FloatVit, not dict$"):
        quantise({}, images)  # pyright: ignore[reportArgumentType]


def test_a_table_of_other_width_follows_the_core():
    network, images = case()
    integer = quantise(network, images, table_width=8, index_bits=6)
    spec = replace(PRESETS["tiny"], table_width=8, index_bits=6)
    pixels = integer_images(integer, images[:1])
    program = compile(integer, spec)
    core = Emulator(spec, program.memory(pixels))
    core.run(program.operations())
    assert program.differences(core.memory, pixels) == []


# The integer network itself

def test_forward_takes_patches_and_shows_the_same_names_as_the_float_one():
    network, images = case()
    integer = quantise(network, images)
    pixels = integer_images(integer, images)
    seen, shown = {}, {}
    network.forward(images, seen.__setitem__)
    logits = integer.forward(pixels, shown.__setitem__)
    np.testing.assert_array_equal(integer.forward(integer.patches(pixels)), logits)
    np.testing.assert_array_equal(integer.forward(pixels[5:6]), logits[5:6])
    assert [name.replace("exponents", "probabilities") for name in shown] == list(seen)
    for name, array in shown.items():
        assert array.shape == seen[name.replace("exponents", "probabilities")].shape
    assert integer.macs == random_vit(0, dim=12, heads=3, head_dim=4, hidden=20).macs


def test_residual_additions_saturate():
    net = random_vit(2, dim=8, heads=1, head_dim=8, hidden=8, depth=1)
    full = replace(net, position=np.full((17, 8), 32767))
    seen = {}
    full.forward(np.full((1, 1, 8, 8), 127), seen.__setitem__)
    exact = 32767 + seen["patch_embed"]
    assert exact.max() > 32767
    np.testing.assert_array_equal(seen["embed"][:, 1:], np.minimum(exact, 32767))


def parts(**changes):
    layer = dict(weight=np.ones((4, 3), int), bias=np.zeros(3, int), mul=np.ones(3, int),
                 shift=np.zeros(3, int))
    return {**layer, **changes}


@pytest.mark.parametrize(("changes", "error", "sentence"), [
    (dict(weight=np.full((4, 3), 128)), ValueError,
     "weight must hold integers from -128 to 127, not 128"),
    (dict(weight=np.ones(4, int)), ValueError,
     r"weight must have 2 dimensions of at least 1, not shape \(4,\)"),
    (dict(bias=np.zeros(4, int)), ValueError, r"bias must have shape \(3,\), not \(4,\)"),
    (dict(bias=np.full(3, 2**31 - 1)), ValueError,
     "bias must be at most 2147352575 for 4 inputs, not 2147483647"),
    (dict(mul=np.full(3, -1)), ValueError, "mul must hold integers from 0 to 65535, not -1"),
    (dict(shift=np.full(3, 64)), ValueError, "shift must hold integers from 0 to 63, not 64"),
    (dict(weight=np.ones((4, 3))), TypeError, ".*"),
])
def test_layers_refuse_numbers_that_no_core_holds(changes, error, sentence):
    LinearLayer(**parts())
    with pytest.raises(error, match=f"^{sentence}$"):
        LinearLayer(**parts(**changes))


@pytest.mark.parametrize(("change", "sentence"), [
    (dict(patch=3), "patch must divide the image's side 8, not 3"),
    (dict(blocks=()), "blocks must be at least 1, not 0"),
    (dict(position=np.zeros((16, 12), int)),
     r"position must have shape \(17, 12\), not \(16, 12\)"),
    (dict(head=LinearLayer(**parts())), r"head weight must have shape \(12, 3\), not \(4, 3\)"),
    (dict(channels=2), r"patch_embed weight must have shape \(8, 12\), not \(4, 12\)"),
])
def test_networks_refuse_layers_that_do_not_fit(change, sentence):
    net = random_vit(1, dim=12, heads=3, head_dim=4, hidden=20)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        replace(net, **change)


def test_blocks_refuse_activations_without_their_table():
    block = random_vit(1, dim=12, heads=3, head_dim=4, hidden=20).blocks[0]
    for change, sentence in (
            (dict(table=None), "table must be given for TABLE alone, not for TABLE"),
            (dict(activation=ActivationKind.HARDSWISH),
             "activation must be NONE, RELU or TABLE, not HARDSWISH"),
            (dict(exponents=np.zeros(256, int)),
             "exponents must start with a number above 0, not 0"),
            (dict(heads=()), "heads must be at least 1, not 0")):
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            replace(block, **change)


@pytest.mark.parametrize(("images", "sentence"), [
    (np.zeros((1, 1, 8, 9), int), r"images must have shape \(N, 1, 8, 8\), not \(1, 1, 8, 9\)"),
    (np.zeros((1, 15, 4), int), r"patches must have shape \(N, 16, 4\), not \(1, 15, 4\)"),
    (np.full((1, 1, 8, 8), 128), "images must hold integers from -128 to 127, not beyond"),
])
def test_forward_refuses_other_images(images, sentence):
    net: IntegerVit = random_vit(1, dim=12, heads=3, head_dim=4, hidden=20)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        net.forward(images)
