# SPDX-License-Identifier: Apache-2.0
"""Blocks of the SpAtten core's encoder mode: the RTL against the model."""

import pytest

from golden.spatten.spec import PRESETS, SpattenSpec
from hw.spatten.encoder import Encoder
from hw.spatten.norm import Norm
from hw.spatten.reader import Reader
from hw.spatten.walk import Walk
from hw.spatten.writer import Writer
from sim.runner import run
from tests.simulators import need

SPECS = {
    "tiny": PRESETS["tiny"],
    "4 channels": SpattenSpec(channels=4, lanes=16, max_tokens=32, max_heads=6, pairs=4,
                              score_rows=64, prune_lanes=4, local=1024, max_width=40, fuse=True),
    "64 lanes": SpattenSpec(channels=2, lanes=64, max_tokens=64, max_heads=4, pairs=2,
                            score_rows=64, prune_lanes=4, local=2048, max_width=130),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


@pytest.mark.parametrize("block", [lambda spec: Walk(spec, 1), Reader, Writer, Norm, Encoder])
def test_wrong_specification(block):
    with pytest.raises(TypeError, match=r"^spec must be a SpattenSpec, not 8$"):
        block(8)


def test_wrong_addresses():
    with pytest.raises(ValueError, match=r"^addresses must be an integer from 1 to 8, not 0$"):
        Walk(SPECS["tiny"], 0)


@every_spec
def test_walk(spec, tmp_path):
    need("icarus")
    result = run(Walk(spec, 3), bench="sim.bench_spatten_walk", tests=4, simulator="icarus",
                 directory=tmp_path)
    assert result.report == {"latency": 3, "period": 1}


@every_spec
def test_reader(spec, tmp_path):
    need("icarus")
    result = run(Reader(spec), bench="sim.bench_spatten_reader", tests=5, simulator="icarus",
                 directory=tmp_path)
    assert result.report == {"latency": 2, "period": 1}


@every_spec
def test_writer(spec, tmp_path):
    need("icarus")
    result = run(Writer(spec), bench="sim.bench_spatten_writer", tests=7, simulator="icarus",
                 directory=tmp_path)
    assert result.report == {"numbers": spec.vector_beats, "planes": spec.vector_beats + 3}


@every_spec
def test_norm(spec, tmp_path):
    need("icarus")
    result = run(Norm(spec), bench="sim.bench_spatten_norm", tests=5, simulator="icarus",
                 directory=tmp_path)
    assert result.report == {"widest": Norm.WORDS * -(-spec.max_width // spec.lanes),
                             "narrow": spec.norm.ROW_CYCLES}


@every_spec
def test_encoder(spec, tmp_path):
    """A NORM takes a word of a row per cycle, a LINEAR a beat of weights."""
    need("icarus")
    result = run(Encoder(spec), bench="sim.bench_spatten_encoder", tests=6, simulator="icarus",
                 directory=tmp_path)
    expected = {"norm": Norm.WORDS * -(-spec.max_width // spec.lanes),
                "linear": spec.rows * 2 * 4}  # 4 vectors of inputs
    for name, cycles in expected.items():
        per_token, rest = result.report[name]
        assert per_token == pytest.approx(cycles, rel=0.05), name
        assert rest < 150, name


def test_one_channel(tmp_path):
    """All of it, where nothing goes from channel to channel."""
    spec = SpattenSpec(channels=1, lanes=16, max_tokens=32, max_heads=6, pairs=2, score_rows=64,
                       prune_lanes=1, local=2048, max_width=40)
    need("icarus")
    run(Encoder(spec), bench="sim.bench_spatten_encoder", testcase="equals_golden", tests=2,
        simulator="icarus", directory=tmp_path)


def test_no_local_memory():
    with pytest.raises(ValueError, match=r"^local must be at least 16, not 0$"):
        Encoder(SpattenSpec())
