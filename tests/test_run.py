# SPDX-License-Identifier: Apache-2.0
"""Runs end to end: the result has the documented keys, and RTL and golden model the same bits."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from golden.rowwise.cycles import predict
from golden.rowwise.spec import PRESETS
from golden.shell import Cause, Code
from models.zoo import model
from tests.networks import random_vit
from tests.test_reference_vit import checkpoint
from vitral.cli import main
from vitral.compile.rowwise import compile
from vitral.designs import DESIGNS, design
from vitral.driver import Driver, MemoryAccessError
from vitral.estimate import predict_images
from vitral.losses import ROWWISE
from vitral.quantise import integer_images, quantise
from vitral.record import KEYS, kind, summary
from vitral.run import compare
from vitral.task import load_weights

ROOT = Path(__file__).parents[1]
CONTRACT, README = (ROOT / "docs" / "json.md").read_text(), (ROOT / "README.md").read_text()
TINY = ["--on", "rowwise", "--preset", "tiny"]
SMALL = (8, 2, 1, 12, 1, 3, 20, 10)  # image, patch, channels, width, depth, heads, hidden, classes


def result(tmp_path, *arguments, code=0):
    """Run a command that writes its result, and return that."""
    path = tmp_path / "result.json"
    assert main([*map(str, arguments), "--json", str(path)]) == code
    return json.loads(path.read_text())


def check_counters(counters):
    """Each cycle is busy, one kind of stall, or idle."""
    parts = [value for name, value in counters.items() if name in ("busy", "idle")
             or name.startswith("stall_")]
    assert sum(parts) == counters["cycles"]


def check_lost(found):
    """What is lost and what is not make all the cycles; the summary has a line for each."""
    assert list(found["lost"]) == list(ROWWISE.causes)
    cycles = found["cycles_per_image"] or found["cycles_predicted"]
    macs = PRESETS[found["preset"]].macs
    assert sum(found["lost"].values()) == pytest.approx(cycles - found["macs_per_image"] / macs)
    assert min(found["lost"].values()) >= 0
    for name, text in ROWWISE.causes.items():
        assert f"  {text:<52}{found['lost'][name]:>14,.1f}" in summary(found)


def keys(text):
    """Return the keys of the tables of a text."""
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("command", [["run", "--images", "2"], ["estimate"]])
@pytest.mark.parametrize("name", ["rowwise", "spatten"])
def test_a_result_has_the_keys_of_the_contract(name, command, tmp_path):
    found = result(tmp_path, command[0], "digits", "--on", name, "--preset", "tiny", *command[1:])
    assert list(found) == list(KEYS)
    parts = re.split("^## .*$", CONTRACT, flags=re.MULTILINE)
    assert keys(parts[0]) == list(KEYS)
    counters, lost = (dict(re.findall(r"^### (\w+)\n(.*?)(?=^###|\Z)", part,
                                      re.MULTILINE | re.DOTALL)) for part in parts[1:3])
    assert set(counters) == set(lost) == set(DESIGNS)
    assert keys(counters[name]) == list(found["counters"])
    assert keys(lost[name]) == list(found["lost"])
    assert found["parameters"] == asdict(DESIGNS[name].presets["tiny"])
    known = name == "spatten" and command[0] == "run"
    for key in ("heads", "values_fetched", "low_fetched"):
        assert (found[key] is not None) == known


def test_golden_run_classifies_digits(tmp_path, capsys):
    found = result(tmp_path, "run", "digits", *TINY, "--images", 3, "--outputs", tmp_path / "y.npy")
    labels = model("digits").labels()
    assert labels is not None
    assert found["predictions"] == found["labels"] == labels[:3].tolist()
    assert (found["correct"], found["accuracy"]) == (3, 1.0)
    assert (found["bit_exact"], found["cycles_per_image"], found["simulator"]) == (None,) * 3
    text = capsys.readouterr().out
    assert "accuracy          3 of 3, 100.00%" in text
    entry = model("digits")
    integer = quantise(entry.float_vit(), entry.images("calibration"))
    logits = integer.forward(integer_images(integer, entry.images()[:3]))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), logits * integer.scales["logits"])


def test_estimate_is_what_a_run_predicts(tmp_path, capsys):
    ran = result(tmp_path, "run", "digits", *TINY, "--images", 2)
    estimated = result(tmp_path, "estimate", "digits", *TINY, "--images", 2)
    for name in ("cycles_predicted", "macs_per_image", "utilisation", "bytes_read", "bytes_written",
                 "lost", "counters", "profile", "parameters"):
        assert estimated[name] == ran[name], name
    check_counters(estimated["counters"])
    check_lost(estimated)
    assert estimated["predictions"] is None
    cycles = sum(entry["cycles"] for entry in estimated["profile"].values())
    assert cycles == pytest.approx(estimated["cycles_predicted"])
    assert sum(entry["macs"] for entry in estimated["profile"].values()) == \
        estimated["macs_per_image"]
    slow = result(tmp_path, "estimate", "digits", *TINY, "--images", 2, "--latency", 1000)
    assert slow["cycles_predicted"] > estimated["cycles_predicted"]


def test_the_readme_has_the_predicted_cycles(tmp_path):
    rows = re.findall(r"^\| `\S+` \| .* \| ([\d,.]+) \(([\d,.]+)\) \| .* \| ([\d,]+) \| `(.*)` \|$",
                      README, re.MULTILINE)
    assert len(rows) == 6
    for rtl, predicted, traffic, command in rows:
        found = result(tmp_path, "estimate", *command.split(), "--on", "rowwise")
        number = float(predicted.replace(",", ""))
        assert found["cycles_predicted"] == pytest.approx(number, abs=0.051), command
        assert float(rtl.replace(",", "")) == pytest.approx(number, rel=0.01)
        assert found["bytes_read"] == found["images"] * int(traffic.replace(",", ""))


def test_images_after_the_second_are_extrapolated_exactly():
    spec = PRESETS["tiny"]
    program = compile(random_vit(1, depth=1, dim=12, heads=2, head_dim=6, hidden=20), spec)
    for images in (1, 2, 5):
        exact = predict(spec, [one for n in range(images) for one in program.operations(n)])
        cycles = predict_images(design("rowwise"), spec, program, images, 64)
        assert list(cycles.completions) == exact.completions
        assert cycles.counters == exact.counters


def test_kinds_of_operations():
    assert [kind(name) for name in ("halt", "blocks.0.heads.1.query", "blocks.0.fc1.3",
                                    "patch_embed.0.load")] == ["halt", "query", "fc1", "load"]


def test_own_weights_of_every_precision(tmp_path):
    images = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "label.npy", np.zeros(4, np.uint8))
    tensors = {name: value.astype(np.float16) for name, value in checkpoint(*SMALL).items()}
    outputs = {}
    for kind_, dtype in (("half", np.float16), ("single", np.float32), ("double", np.float64)):
        path = tmp_path / f"{kind_}.safetensors"
        save_file({name: value.astype(dtype) for name, value in tensors.items()}, path)
        found = result(tmp_path, "run", *TINY, "--weights", path, "--heads", 3, "--inputs",
                       tmp_path / "x.npy", "--outputs", tmp_path / "y.npy", "--activation", "relu",
                       "--labels", tmp_path / "label.npy")
        outputs[kind_] = np.load(tmp_path / "y.npy")
        assert (found["model"], found["images"]) == (path.name, 4)
        assert found["correct"] == found["predictions"].count(0)
    np.testing.assert_array_equal(outputs["half"], outputs["single"])
    np.testing.assert_array_equal(outputs["half"], outputs["double"])
    exact = load_weights(tmp_path / "double.safetensors", 3, "relu").forward(images)
    assert np.linalg.norm(outputs["half"] - exact) < 0.05 * np.linalg.norm(exact)


def test_bfloat16_weights_are_read(tmp_path):
    tensors = checkpoint(*SMALL)
    bits = {name: value.view(np.uint32) & 0xFFFF0000 for name, value in tensors.items()}
    save_file({name: value.view(np.float32) for name, value in bits.items()}, tmp_path / "w")
    header, data, at = {}, b"", 0
    for name, value in bits.items():
        part = (value >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [at, at + len(part)]}
        data, at = data + part, at + len(part)
    text = json.dumps(header).encode()
    (tmp_path / "b").write_bytes(len(text).to_bytes(8, "little") + text + data)
    for name, value in load_weights(tmp_path / "w", 3, None).tensors.items():
        np.testing.assert_array_equal(value, load_weights(tmp_path / "b", 3, None).tensors[name])


def test_calibration_decides_the_scales(tmp_path):
    random = np.random.default_rng(0)
    save_file(checkpoint(*SMALL), tmp_path / "w.safetensors")
    np.save(tmp_path / "x.npy", random.normal(size=(2, 1, 8, 8)))
    np.save(tmp_path / "wide.npy", 10 * random.normal(size=(2, 1, 8, 8)))
    command = ["run", *TINY, "--weights", tmp_path / "w.safetensors", "--heads", 3, "--inputs",
               tmp_path / "x.npy", "--outputs", tmp_path / "y.npy"]
    logits = []
    for name in (None, "x", "wide"):
        more = [] if name is None else ["--calibration", tmp_path / f"{name}.npy"]
        found = result(tmp_path, *command, *more)
        assert (found["correct"], found["accuracy"], found["labels"]) == (None,) * 3
        logits.append(np.load(tmp_path / "y.npy"))
    np.testing.assert_array_equal(logits[0], logits[1])
    assert (logits[0] != logits[2]).any()


def test_differences_are_found_and_named():
    spec, random = PRESETS["tiny"], np.random.default_rng(1)
    network = random_vit(2, depth=1, dim=12, heads=2, head_dim=6, hidden=20)
    program = compile(network, spec, trace=True)
    pixels = random.integers(-128, 128, (2, 1, 8, 8))
    emulator = design("rowwise").emulator(spec, program.memory(pixels))
    ends = [end for n in range(2) for end in emulator.run(program.operations(n))]
    memory = emulator.memory.copy()
    assert compare(program, emulator.memory, memory, ends, ends, pixels) == []
    memory[program.image_address(1) + program.output.offset] ^= 1
    one, two = compare(program, emulator.memory, memory, ends, ends, pixels)
    assert re.fullmatch(r"memory must equal the golden model's, but 1 bytes differ, .*", one)
    assert re.fullmatch(r"image 1: logits.* differs", two)
    swapped = [ends[1], ends[0], *ends[2:]]
    (one,) = compare(program, emulator.memory, emulator.memory, ends, swapped, pixels)
    assert one.startswith("image 0: position must end as")


def test_chip_classifies_digits_bit_for_bit(tmp_path, capsys):
    """The driver starts the chip for each image, on a bus that stalls."""
    found = result(tmp_path, "run", "digits", *TINY, "--engine", "rtl", "--level", "chip",
                   "--images", 2, "--stalls", 30, "--seed", 5)
    assert list(found) == list(KEYS)
    assert found["bit_exact"] is True and found["correct"] == 2
    assert (found["level"], found["stalls"], found["seed"]) == ("chip", 30, 5)
    assert found["shell"]["data_width"] == 128
    assert found["cycles_per_image"] == pytest.approx(found["cycles_predicted"], rel=0.02)
    check_counters(found["counters"])
    check_lost(found)
    assert "chip with a 128-bit bus" in capsys.readouterr().out
    for wrong in (["--engine", "golden"], ["--engine", "rtl", "--timeline", tmp_path / "x.svg"]):
        assert main([str(one) for one in ("run", "digits", *TINY, "--level", "chip", *wrong)]) == 2
        assert capsys.readouterr().err == (
            "vitral: --level chip must go with --engine rtl and without --timeline\n")


def test_a_chip_that_fails_is_a_complaint(tmp_path, monkeypatch, capsys):
    """What the driver says of a run is what the user reads."""
    def refuse(self, program, operations=0, *, timeout):
        raise MemoryAccessError(code=Code.BUS_ERROR, index=3, address=192, cause=Cause.DECERR,
                                fault_address=64)

    monkeypatch.setattr(Driver, "run", refuse)
    assert main([str(one) for one in ("run", "digits", *TINY, "--engine", "rtl", "--level", "chip",
                                      "--images", 1)]) == 1
    out, err = capsys.readouterr()
    assert "bit exact         NO" in out
    assert ("vitral: image 0: operation 3 at 0xc0 failed, because a read at 0x40 leads to no memory"
            " (DECERR)\nvitral: memory must equal the golden model's, but ") in err


@pytest.mark.parametrize("simulator", ["verilator", "icarus"])
def test_rtl_classifies_a_digit_bit_for_bit(simulator, tmp_path, capsys):
    if simulator == "icarus" and shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog is not installed")
    trace = ["--trace"] if simulator == "verilator" else []
    found = result(tmp_path, "run", "digits", *TINY, "--engine", "rtl", "--simulator", simulator,
                   "--images", 1, *trace)
    assert list(found) == list(KEYS)
    assert found["bit_exact"] is True
    assert (found["correct"], found["simulator"], found["trace"]) == (1, simulator, bool(trace))
    assert found["cycles_per_image"] == pytest.approx(found["cycles_predicted"], rel=0.01)
    assert found["utilisation"] == pytest.approx(
        found["macs_per_image"] / found["cycles_per_image"] / 64, abs=1e-6)
    check_counters(found["counters"])
    check_lost(found)
    golden = result(tmp_path, "run", "digits", *TINY, "--images", 1, *trace)
    for name in ("bytes_read", "bytes_written", "predictions"):
        assert golden[name] == found[name], name
    for name, value in golden["counters"].items():
        assert found["counters"][name] == pytest.approx(value, abs=value * 0.01 + 32), name
    assert "bit exact         yes" in capsys.readouterr().out
