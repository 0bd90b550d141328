# SPDX-License-Identifier: Apache-2.0
"""The timeline shows what the counters say, from samples of them or from the cycle model."""

import json
import re
import sys

import numpy as np
import pytest

from golden.rowwise.cycles import overlap, predict
from golden.rowwise.spec import PRESETS
from sim.core import simulate
from tests.networks import random_vit
from vitral.cli import main
from vitral.compile.rowwise import compile
from vitral.designs import design
from vitral.estimate import predict_images
from vitral.record import kind
from vitral.timeline import CAUSES, HEIGHT, OPERATIONS, WIDTH, draw, modelled, sampled

SPEC = PRESETS["tiny"]
TINY = ["--on", "rowwise", "--preset", "tiny"]
ACTIVE = ("busy", "beats_read", "beats_written", "softmax", "norm", *CAUSES)


@pytest.fixture(scope="module")
def program():
    return compile(random_vit(1, depth=2, dim=12, heads=2, head_dim=6, hidden=20), SPEC)


def check_activity(activity, counters, cycles):
    """Nothing is lost between the samples, and no cycle counts twice."""
    assert activity.edges[0] == 0
    assert activity.edges[-1] == counters["cycles"] == cycles
    assert (np.diff(activity.edges) > 0).all()
    for name in ACTIVE:
        assert activity.events[name].sum() == pytest.approx(counters[name]), name
        assert (activity.rate(name) > -1e-9).all()
        assert (activity.rate(name) < 1 + 1e-9).all()
    whole = sum(activity.rate(name) for name in ("busy", *CAUSES))
    np.testing.assert_allclose(whole, 1)


def test_overlap_cuts_each_cycle_to_one_side():
    random = np.random.default_rng(0)

    def spans():
        """Some spans in order: ends of cycles, two by two."""
        ends = np.sort(random.choice(60, 12, replace=False)).tolist()
        return [(begin, end, end - begin) for begin, end in zip(ends[::2], ends[1::2])]

    def cycles(parts):
        assert all(count == end - begin > 0 for begin, end, count in parts)
        return [cycle for begin, end, _ in parts for cycle in range(begin, end)]

    for _ in range(100):
        ones, others = spans(), spans()
        inside, outside = map(cycles, overlap(ones, others))
        assert inside == sorted(set(cycles(ones)) & set(cycles(others)))
        assert outside == sorted(set(cycles(ones)) - set(cycles(others)))


@pytest.mark.parametrize("images", [1, 2, 5])
def test_the_model_knows_when(images, program):
    cycles = predict_images(design("rowwise"), SPEC, program, images, 64)
    exact = predict(SPEC, [one for n in range(images) for one in program.operations(n)])
    found = modelled(cycles, len(program.steps), 97)
    check_activity(found, exact.counters, exact.cycles)
    for name, spans in exact.spans.items():
        each = np.zeros(exact.cycles)
        for begin, end, events in spans:
            each[begin:end] += events / (end - begin)
        want = np.add.reduceat(each, found.edges[:-1])
        np.testing.assert_allclose(found.events[name], want, atol=1e-6, err_msg=name)


def test_samples_of_the_rtl(program, tmp_path):
    pixels = np.random.default_rng(2).integers(-128, 128, (1, 1, 8, 8))
    operations = program.operations()
    run = simulate(SPEC, program.memory(pixels), operations, sample=64, directory=tmp_path)
    assert [one["cycles"] for one in run.samples] == list(
        range(63, 63 + 64 * len(run.samples), 64))
    assert len(run.samples) >= run.cycles[-1] // 64
    found = sampled(run.samples, run.counters[-1])
    check_activity(found, run.counters[-1], run.cycles[-1])
    model = modelled(predict_images(design("rowwise"), SPEC, program, 1, 64), len(program.steps), 8)
    whole = np.interp(model.edges / model.edges[-1], found.edges / found.edges[-1],
                      [0, *np.cumsum(found.events["busy"])])
    np.testing.assert_allclose(np.cumsum(model.events["busy"]), whole[1:], atol=0.03 * whole[-1])


def test_every_operation_has_a_colour(program):
    known = {name for _, names in OPERATIONS.values() for name in names}
    others = {kind(step.name) for step in program.steps} - known
    assert others == {"head", "logits", "store", "halt"} & others
    for colours in ([colour for colour, _ in CAUSES.values()],
                    [colour for colour, _ in OPERATIONS.values()]):
        assert len(set(colours)) == len(colours)


@pytest.mark.parametrize(("suffix", "start"), [
    ("png", b"\x89PNG\r\n\x1a\n"), ("svg", b"<?xml"), ("pdf", b"%PDF-")])
def test_pictures(suffix, start, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        assert main(["run", "digits", *TINY, "--images", "2", "--timeline",
                     str(tmp_path / f"{name}.{suffix}"), "--json", str(tmp_path / "r.json")]) == 0
    one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
    assert one == two
    assert one.startswith(start)
    if suffix == "png":
        assert (int.from_bytes(one[16:20]), int.from_bytes(one[20:24])) == (WIDTH, HEIGHT)
    if suffix == "svg":
        result = json.loads((tmp_path / "r.json").read_text())
        busy = result["counters"]["busy"] / result["counters"]["cycles"]
        for text in (f"busy, {busy:.1%}", "image 1", "port, 8 bytes a cycle",
                     f"2 images: {result['counters']['cycles']:,} cycles"):
            assert f"<!-- {text}".encode() in one or text.encode() in one


def test_many_images_fit_a_picture(program, tmp_path):
    pytest.importorskip("matplotlib")
    cycles = predict_images(design("rowwise"), SPEC, program, 40, 64)
    result = {"model": "m", "design": "rowwise", "preset": "tiny", "engine": "golden",
              "images": 40, "utilisation": 0.5, "parameters": vars(SPEC)}
    picture = draw(tmp_path / "x.svg", modelled(cycles, len(program.steps)), program,
                   cycles.completions, result)
    assert b"image 39" not in picture  # no room for the word
    assert b"<!-- 39 -->" in picture


@pytest.mark.parametrize(("name", "sentence"), [
    ("x.jpg", "--timeline must name a file that ends in .png, .svg, .pdf, not 'x.jpg'"),
    ("no/x.png", r"cannot write \S+no/x.png: its folder does not exist"),
])
def test_refuses_a_name(name, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vitral.run.quantised", None)  # refused before any work
    assert main(["run", "digits", *TINY, "--timeline", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert not list(tmp_path.iterdir())
    assert re.fullmatch(f"vitral: {sentence}\n", err)


def test_refuses_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("vitral.run.quantised", None)
    assert main(["run", "digits", *TINY, "--timeline", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err == (
        "vitral: matplotlib must be installed for --timeline: pip install 'vitral[plots]'\n")
    assert not list(tmp_path.iterdir())
