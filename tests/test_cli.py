# SPDX-License-Identifier: Apache-2.0
"""The command line does what is asked, or says in one sentence why not and leaves nothing."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from golden.operation import Field, Opcode, Status, Wait
from golden.rowwise.operation import LAYOUT, Place
from golden.rowwise.spec import PRESETS
from hw.emit import Emitted
from models.zoo import MODELS
from tests.test_reference_vit import checkpoint
from vitral.cli import main
from vitral.files import write

DOCS = Path(__file__).parents[1] / "docs"
TINY = ["--on", "rowwise", "--preset", "tiny"]
SMALL = (8, 2, 1, 12, 1, 3, 20, 10)  # image, patch, channels, width, depth, heads, hidden, classes


@pytest.fixture
def own(tmp_path):
    """The arguments of a user's own network, whose files may still be spoilt."""
    tensors = checkpoint(*SMALL)
    save_file(tensors, tmp_path / "w.safetensors")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3, 1, 8, 8)))
    return ["run", *TINY, "--weights", str(tmp_path / "w.safetensors"),
            "--inputs", str(tmp_path / "x.npy"), "--heads", "3"]


def refused(arguments, capsys):
    """Return the one sentence with which the command line refuses."""
    assert main(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vitral: ")
    assert err.count("\n") == 1
    return err.strip().removeprefix("vitral: ")


def test_list_names_all_there_is(capsys):
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in ("rowwise", *PRESETS, *MODELS):
        assert re.search(rf"^  {name} ", out, re.MULTILINE)
    assert re.search(r"^  paper +512 +8 x 8 x 8 +\d+ KB +16 bytes/cycle$", out, re.MULTILINE)


def test_verilog_is_described_and_the_same_every_time(tmp_path, capsys):
    settings = {"rows": 2, "columns": 2, "depth": 2, "memory_bytes": 4, "max_keys": 0x10,
                "max_width": 16, "max_contraction": 64, "table_width": 8, "index_bits": 2,
                **{f"{buffer}_bytes": 128 for buffer in PRESETS["tiny"].block_bytes}}
    command = ["verilog", "rowwise", "--preset", "tiny", "--set", "queue_depth=0x2"]
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    for folder in ("a/deep", "b"):
        assert main([*command, "-o", str(tmp_path / folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    files = {path.name: path.read_bytes() for path in (tmp_path / "a/deep").iterdir()}
    assert sorted(files) == ["rowwise_tiny_custom.json", "rowwise_tiny_custom.v"]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    about = json.loads(files["rowwise_tiny_custom.json"])
    changed = {**settings, "queue_depth": 2}
    assert {name: about["parameters"][name] for name in changed} == changed
    assert about["parameters"]["weight_tiles"] == PRESETS["tiny"].weight_tiles
    source = files["rowwise_tiny_custom.v"].decode()
    assert re.search(r"^module rowwise_tiny_custom\(", source, re.MULTILINE)
    assert str(Path(__file__).parents[1]) not in source


def test_verilog_is_named_after_design_and_preset(tmp_path, monkeypatch):
    about = {"memories": [], "modules": {}, "config_hash": "0" * 64}
    monkeypatch.setattr("hw.emit.emit", lambda component, name: Emitted(
        name=name, verilog=f"// {component.spec.macs}\n", description=about))
    for preset, spec in PRESETS.items():
        assert main(["verilog", "rowwise", "--preset", preset, "-o", str(tmp_path)]) == 0
        assert (tmp_path / f"rowwise_{preset}.v").read_text() == f"// {spec.macs}\n"
    assert main(["verilog", "rowwise", "--name", "mine", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "mine.v").read_text() == (tmp_path / "rowwise_paper.v").read_text()


@pytest.mark.parametrize(("arguments", "sentence"), [
    ([], r"the following arguments are required: COMMAND .*"),
    (["fly"], r"argument COMMAND: invalid choice: 'fly' .*"),
    (["run", "digits"], r"the following arguments are required: --on .*"),
    (["run", "cats", *TINY], "model must be one of digits, digits-197, .*, not 'cats'"),
    (["run", *TINY], "either a MODEL or --weights must be given, not neither"),
    (["run", "digits", *TINY, "--weights", "w"],
     "either a MODEL or --weights must be given, not both"),
    (["run", "digits", "--on", "tpu"], "design must be one of rowwise, spatten, not 'tpu'"),
    (["run", "digits", *TINY, "--images", "0"],
     r"argument --images: must be an integer of at least 1, not '0' .*"),
    (["run", "digits", *TINY, "--images", "361"],
     "--images must be at most 360, all there are, not 361"),
    (["run", "digits", *TINY, "--labels", "y.npy"], "--labels must go with --inputs: .*"),
    (["run", "digits", *TINY, "--heads", "2"], "--heads must go with --weights: .*"),
    (["run", "digits", "--on", "rowwise", "--set", "residual_bytes=1024"],
     "residual buffer must hold 2048 bytes for two row groups of 64 elements, has 1024"),
    (["estimate", "digits-197", "--on", "rowwise", "--preset", "ecp5"],
     "tokens must be at most max_keys 128, not 197"),
    (["estimate", "digits-197-relu", "--on", "rowwise", "--set", "residual_bytes=16384"],
     (r"residual buffer must hold 50432 bytes .*, has 16384; only a network without pruning "
      r"\(--prune off\) can have its tensors in external memory")),
])
def test_refuses(arguments, sentence, capsys):
    assert re.fullmatch(sentence, refused(arguments, capsys))


@pytest.mark.parametrize(("options", "sentence"), [
    (["--preset", "huge"], "preset must be one of tiny, paper, ecp5, not 'huge'"),
    (["--set", "lanes=8"], "parameter must be one of rows, columns, .*, not 'lanes'"),
    (["--set", "rows"], "--set must be followed by name=value, not 'rows'"),
    (["--set", "rows=x"], "rows must be an integer, not 'x'"),
    (["--set", "rows=0"], "rows must be an integer from 1 to 64, not 0"),
    (["--set", "rows=3"], "rows must be a power of two, not 3"),
    (["--set", "rows=4", "--set", "rows=8"], "rows must be set once, not twice"),
    (["--set", "key_bytes=64"], "key_bytes must be an integer from 128 to .*, not 64"),
    (["--set", "max_keys=1"], "max_keys must be an integer from 2 to 4096, not 1"),
    (["--set", "key_bytes=200"], r"key_bytes must be a multiple of 64 \(one word\), not 200"),
    (["--name", "a b"], "name must be a Verilog identifier, not 'a b'"),
])
@pytest.mark.parametrize("command", ["verilog", "run"])
def test_refuses_a_configuration(command, options, sentence, tmp_path, capsys):
    if command == "verilog":
        arguments = ["verilog", "rowwise", *options, "-o", tmp_path / "new"]
    elif "--name" in options:
        pytest.skip("run has no names")
    else:
        arguments = ["run", "digits", "--on", "rowwise", *options, "--json", tmp_path / "new"]
    assert re.fullmatch(sentence, refused(arguments, capsys))
    assert not list(tmp_path.iterdir())


def missing(tensors):
    del tensors["norm.bias"]


def misshaped(tensors):
    tensors["blocks.0.mlp.fc2.weight"] = np.zeros((12, 21), np.float32)


def not_finite(tensors):
    tensors["head.bias"][2] = np.nan


def not_float(tensors):
    tensors["head.bias"] = np.zeros(10, np.int32)


def empty(tensors):
    for block in ("weight", "bias"):
        tensors[f"blocks.0.mlp.fc1.{block}"] = np.zeros((0, 12)[:2 - (block == "bias")], np.float32)


@pytest.mark.parametrize(("spoil", "sentence"), [
    (missing, "tensor norm.bias must be in the checkpoint, not missing"),
    (misshaped, r"tensor blocks.0.mlp.fc2.weight must have shape \(12, 20\), not \(12, 21\)"),
    (not_finite, "tensor head.bias must be finite, not NaN or infinite"),
    (not_float, "tensor head.bias must be floating point, not I32"),
    (empty, r"tensor blocks.0.mlp.fc1.\w+ must have no size of 0, not shape \(0,.*\)"),
])
def test_refuses_weights(spoil, sentence, own, tmp_path, capsys):
    tensors = checkpoint(*SMALL)
    spoil(tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    outputs = ["--outputs", tmp_path / "y.npy", "--json", tmp_path / "result.json"]
    assert re.fullmatch(f"{tmp_path}/w.safetensors: {sentence}",
                        refused([*own, *outputs], capsys))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.safetensors", "x.npy"]


def test_refuses_weights_that_overflow(own, tmp_path, capsys):
    tensors = {name: value.astype(np.float64) for name, value in checkpoint(*SMALL).items()}
    tensors["blocks.0.mlp.fc2.weight"] *= 1e308
    save_file(tensors, tmp_path / "w.safetensors")
    assert re.fullmatch(r"\S+ must be finite during calibration, not NaN or infinite",
                        refused(own, capsys))


def test_refuses_what_is_no_weight_file(own, tmp_path, capsys):
    (tmp_path / "w.safetensors").write_bytes(b"this is text, not weights")
    assert re.fullmatch(r"\S+ must be a safetensors file, but: .*", refused(own, capsys))
    (tmp_path / "w.safetensors").unlink()
    assert refused(own, capsys).endswith("w.safetensors: No such file or directory")


def test_heads_must_be_known(own, tmp_path, capsys):
    assert re.fullmatch(r"--heads must be given for \S+: its width 12 is not a multiple of the "
                        "usual 64 a head", refused(own[:-2], capsys))
    assert re.fullmatch(r"\S+: heads must divide the width 12, not 5",
                        refused([*own[:-1], "5"], capsys))
    save_file(checkpoint(*SMALL), tmp_path / "w.safetensors", {"heads": "3"})
    assert main(own[:-2]) == 0


@pytest.mark.parametrize(("images", "sentence"), [
    (np.zeros((3, 8, 8)), r"images in \S+ must have shape \(N, 1, 8, 8\), not \(3, 8, 8\)"),
    (np.zeros((3, 1, 8, 9)), r"images in \S+ must have shape \(N, 1, 8, 8\), not \(3, 1, 8, 9\)"),
    (np.zeros((3, 1, 8, 8), np.uint8), r"images in \S+ must be floating point, not uint8"),
    (np.zeros((0, 1, 8, 8)), r"images in \S+ must be at least 1, not 0"),
    (np.full((3, 1, 8, 8), np.nan), r"images in \S+ must be finite, not NaN or infinite"),
])
def test_refuses_images(images, sentence, own, tmp_path, capsys):
    np.save(tmp_path / "bad.npy", images)
    assert re.fullmatch(sentence, refused([*own[:6], tmp_path / "w.safetensors", "--heads", 3,
                                           "--inputs", tmp_path / "bad.npy"], capsys))
    assert re.fullmatch(sentence, refused([*own, "--calibration", tmp_path / "bad.npy"], capsys))


def test_refuses_other_arrays(own, tmp_path, capsys):
    np.save(tmp_path / "y.npy", np.zeros(2, np.int64))
    assert re.fullmatch(r"labels in \S+ must be 3 integers, not int64 of shape \(2,\)",
                        refused([*own, "--labels", tmp_path / "y.npy"], capsys))
    (tmp_path / "x.npy").write_text("0 1 2")
    assert re.fullmatch(r"\S+x.npy must be a .npy file of plain numbers, but: .*",
                        refused(own, capsys))


@pytest.mark.parametrize("option", ["--json", "--outputs"])
def test_refuses_an_output_before_the_work(option, own, tmp_path, capsys):
    for place, reason in ((tmp_path, "Is a directory"),
                          (tmp_path / "no" / "y", "its folder does not exist"),
                          (Path("/proc/y"), ".*")):
        assert re.fullmatch(f"cannot write .*{reason}", refused([*own, option, place], capsys))


def test_a_missing_simulator_is_named(own, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    sentence = refused([*own, "--engine", "rtl", "--simulator", "icarus"], capsys)
    assert sentence == "Icarus Verilog must be installed: apt-get install iverilog"


def test_files_appear_whole_or_not_at_all(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    write(Path(os.devnull), b"nothing")
    assert not Path(os.devnull).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_interruption_is_quiet(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt
    monkeypatch.setattr("vitral.listing.listing", interrupt)
    assert main(["list"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fault():
        raise ValueError("a fault")
    monkeypatch.setattr("vitral.listing.listing", fault)
    with pytest.raises(ValueError, match=r"^a fault$"):
        main(["list"])


def test_the_command_is_installed_and_survives_a_closed_pipe():
    command = f"{sys.executable} -m vitral.cli list | true"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    program = Path(sys.executable).with_name("vitral")
    assert program.exists()


def test_the_documentation_names_every_option():
    text = (DOCS / "command-line.md").read_text()
    for command in ("list", "verilog", "run", "trace", "estimate"):
        run = subprocess.run([sys.executable, "-m", "vitral.cli", command, "--help"],
                             capture_output=True, text=True, check=True)
        assert f"## vitral {command}" in text
        for option in set(re.findall(r"--[a-z]+(?:-[a-z]+)*", run.stdout)) - {"--help"}:
            assert f"`{option}" in text, f"{option} of {command} is not documented"


def test_the_documentation_of_the_core_is_its_specification():
    text = (DOCS / "rowwise.md").read_text()
    header = re.search(r"^\| parameter \| (.*) \| meaning \|$", text, re.MULTILINE)
    assert header
    assert header[1].split(" | ") == list(PRESETS)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (\w+) \| ", text, re.MULTILINE)
    assert {name: tuple(values) for name, *values in rows if name in asdict(PRESETS["tiny"])} == {
        name: tuple(str(getattr(spec, name)).lower() for spec in PRESETS.values())
        for name in asdict(PRESETS["tiny"])}
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| [^|\d]", text, re.MULTILINE)
    assert {name: Field(int(offset), int(width)) for name, offset, width in rows} == LAYOUT.fields
    rows = re.findall(r"^\| ([A-Z_]+) \| (\d) \| ", text, re.MULTILINE)
    assert {name: int(value) for name, value in rows} == {one.name: one for one in Status}
    for kind, field in ((Opcode, "opcode"), (Wait, "wait"), (Place, "place")):
        line = re.search(rf"^\| `{field}` .*$", text, re.MULTILINE)
        assert line
        for one in kind:
            assert f"{one.name} {one.value}" in line[0]
