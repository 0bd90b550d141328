# SPDX-License-Identifier: Apache-2.0
"""The generated DeiT networks are the same everywhere, and as their page says."""
import json
import re
import zlib

import numpy as np
import pytest

from golden.rowwise.emulator import Emulator
from golden.rowwise.spec import PRESETS
from models import deit
from models.zoo import model
from vitral.cli import main
from vitral.compile.rowwise import compile
from vitral.quantise import integer_images, quantise
from vitral.task import load_weights

SHAPES = {"deit-tiny": (192, 3, 5_717_416), "deit-small": (384, 6, 22_050_664),
          "deit-base": (768, 12, 86_567_656)}    # width, heads, parameters
CHECKSUMS = {"deit-tiny": 0x33464fcb, "deit-small": 0xec77957b, "deit-base": 0x885b5667}
IMAGES = {"held_out": 0xbf897c67, "calibration": 0x0a14d735}


def checksum(tensors):
    """Return one of all names, shapes and bits."""
    crc = 0
    for name in sorted(tensors):
        assert tensors[name].dtype == np.float32
        crc = zlib.crc32(f"{name} {tensors[name].shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(tensors[name], "<f4").tobytes(), crc)
    return crc


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_the_same_everywhere(name):
    width, heads, parameters = SHAPES[name]
    tensors = deit.tensors(name)
    assert sum(value.size for value in tensors.values()) == parameters
    assert checksum(tensors) == CHECKSUMS[name]
    if name == "deit-base":
        return
    vit = model(name).float_vit(np.float32)
    assert (vit.dim, vit.heads, vit.hidden, vit.depth) == (width, heads, 4 * width, 12)
    assert (vit.image, vit.patch, vit.channels, vit.tokens, vit.classes) == (224, 16, 3, 197, 1000)
    assert all(np.array_equal(vit.tensors[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("split", IMAGES)
def test_images_are_the_same_everywhere(split):
    images = deit.images("deit-base", split)
    assert (images.shape, images.dtype) == ((deit.SPLITS[split], 3, 224, 224), np.float32)
    assert checksum({"images": images}) == IMAGES[split]
    pixels = (images * deit.DEVIATION + deit.MEAN) * 255
    assert np.abs(pixels - np.rint(pixels)).max() < 1e-3
    assert (pixels.min() > -0.5, pixels.max() < 255.5) == (True, True)
    # 1 / f: half the frequency, four times the energy
    energy = np.square(np.abs(np.fft.rfft(images, axis=-1))).mean((0, 1, 2))
    assert 2 < energy[8:12].mean() / energy[16:24].mean() < 6


def test_activations_are_what_the_page_says():
    rows = re.findall(r"^(blocks\.\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$",
                      str(deit.__doc__), re.MULTILINE)
    assert len(rows) == 5
    sums = {name: np.zeros(4) for name, *_ in rows}
    largest = dict.fromkeys(sums, 0.0)

    def observe(name, array):
        block, _, kind = name.rpartition(".")
        if block not in sums:
            return
        if kind == "residual2":
            sums[block][0] += np.square(array).mean()
            largest[block] = max(largest[block], np.abs(array).max())
        elif kind == "probabilities":
            entropy = -(array * np.log(np.maximum(array, 1e-30))).sum(-1)
            sums[block][1:3] += entropy.mean(), entropy[:, :, 0].mean()
        elif kind == "fc1":
            sums[block][3] += (array < 0).mean()

    vit, images = model("deit-tiny").float_vit(np.float32), model("deit-tiny").images()
    logits = np.concatenate([vit.forward(images[start:start + 4], observe)
                             for start in range(0, 16, 4)])
    for name, rms, top, *others in rows:
        mean = sums[name] / 4
        found = [np.sqrt(mean[0]), *mean[1:]]
        assert found == pytest.approx([float(rms), *map(float, others)], abs=0.0051)
        assert largest[name] == pytest.approx(float(top), abs=0.051)
    assert 1.4 < logits.std(1).mean() < 1.5


def test_deit_tiny_runs_on_the_papers_core():
    entry = model("deit-tiny")
    network, pixels = entry.float_vit(np.float32), entry.images()[:1]
    integer = quantise(network, entry.images("calibration")[:4])
    program = compile(integer, PRESETS["paper"])
    images = integer_images(integer, pixels)
    core = Emulator(PRESETS["paper"], program.memory(images))
    core.run(program.operations())
    assert program.differences(core.memory, images) == []
    exact = network.forward(pixels)[0]
    logits = program.logits(core.memory) * integer.scales["logits"]
    assert np.linalg.norm(logits - exact) < 0.15 * np.linalg.norm(exact)


def test_the_command_line_has_no_labels_for_them(tmp_path, capsys):
    found = []
    for command in ("estimate", "run"):
        file = tmp_path / f"{command}.json"
        assert main([command, "deit-tiny", "--on", "rowwise", "--images", "1", "--json",
                     str(file)]) == 0
        found.append(json.loads(file.read_text()))
    estimated, ran = found
    assert estimated["cycles_predicted"] == ran["cycles_predicted"]
    assert estimated["macs_per_image"] == 1_253_683_200
    assert estimated["utilisation"] > 0.95
    assert (ran["labels"], ran["correct"], ran["accuracy"]) == (None, None, None)
    assert len(ran["predictions"]) == 1
    assert "accuracy" not in capsys.readouterr().out
    assert main(["run", "deit-tiny", "--on", "rowwise", "--images", "17"]) == 2
    assert capsys.readouterr().err == ("vitral: --images must be at most 16, all there are, not "
                                       "17\n")


def test_nobody_calls_them_trained():
    entry = model("deit-tiny")
    assert "random weights of realistic statistics" in entry.summary
    assert (entry.path, entry.accuracy, entry.labels()) == (None, None, None)


def test_other_seeds_would_be_other_networks():
    """Tensors of one network and of two are not copies of each other."""
    tiny, small = deit.tensors("deit-tiny"), deit.tensors("deit-small")
    one, two = (tiny[f"blocks.{index}.mlp.fc1.weight"] for index in (3, 4))
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.02
    other = small["blocks.3.mlp.fc1.weight"][:768, :192]
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: deit.tensors("deit-huge"),
     "name must be one of deit-tiny, deit-small, deit-base, not 'deit-huge'"),
    (lambda: deit.images("deit-tiny", "test"),
     "split must be one of held_out, calibration, not 'test'"),
])
def test_refuses_unknown_names(call, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        call()


def test_first_blocks_as_a_weight_file(tmp_path):
    path = tmp_path / "one.safetensors"
    deit.main(["deit-tiny", "--blocks", "1", "-o", str(path)])
    network = load_weights(path, None, None)
    assert (network.depth, network.heads, network.dim) == (1, 3, 192)
    whole = deit.tensors("deit-tiny")
    np.testing.assert_array_equal(network.tensors["head.weight"], whole["head.weight"])
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), deit.images("deit-tiny"))
