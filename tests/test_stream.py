# SPDX-License-Identifier: Apache-2.0
"""Slices, queues, width converters and arbiters: models, refusals, and RTL against golden."""

import numpy as np
import pytest
from amaranth.hdl import signed
from amaranth.lib import data, stream

from golden.stream import WidthConverterSpec
from hw.stream import Arbiter, Queue, Slice, WidthConverter
from sim.runner import run

PAIR = data.StructLayout({"value": signed(7), "tag": 4})
SAME = WidthConverterSpec(in_width=11, out_width=11)


def same(part, simulator="verilator"):
    return pytest.param(part, SAME, simulator)


def converter(in_width, out_width, simulator="verilator"):
    spec = WidthConverterSpec(in_width=in_width, out_width=out_width)
    return pytest.param(WidthConverter(spec), spec, simulator)


@pytest.mark.parametrize("part, spec, simulator", [
    same(Slice(PAIR)),
    same(Queue(shape=PAIR, depth=2)),
    same(Queue(shape=PAIR, depth=3), "icarus"),
    same(Queue(shape=11, depth=5)),
    same(Queue(shape=PAIR, depth=16), "icarus"),
    converter(8, 40),
    converter(4, 8, "icarus"),
    converter(96, 32),
    converter(21, 3, "icarus"),
    converter(5, 5, "icarus"),
])
def test_order(part, spec, simulator, tmp_path):
    result = run(part, bench="sim.bench_stream", simulator=simulator, testcase="keeps_order",
                 tests=4, parameters={"in_width": spec.in_width, "out_width": spec.out_width},
                 directory=tmp_path)
    assert result.report["cycles"] == spec.cycles(result.report["words"])


@pytest.mark.parametrize("inputs, simulator", [(3, "verilator"), (4, "icarus"), (1, "icarus")])
def test_arbiter(inputs, simulator, tmp_path):
    result = run(Arbiter(shape=signed(9), inputs=inputs), bench="sim.bench_stream",
                 simulator=simulator, testcase="merges_fairly", tests=4,
                 parameters={"inputs": inputs, "width": 9}, directory=tmp_path)
    assert result.report["cycles"] == 50 * inputs + Arbiter.LATENCY


def test_converter_model():
    spec, random = WidthConverterSpec(in_width=16, out_width=64), np.random.default_rng(5)
    words = random.integers(0, 1 << 16, 22)
    joined = spec.compute(words.tolist())
    assert joined == words[:20].astype("<u2").view("<u8").tolist()  # the rest stays inside
    back = WidthConverterSpec(in_width=64, out_width=16)
    assert back.compute(joined) == words[:20].tolist()
    assert (spec.parts, back.parts, spec.narrow, back.narrow) == (4, 4, 16, 16)
    assert (spec.cycles(8), back.cycles(8), SAME.cycles(8)) == (9, 33, 9)


def test_types_are_kept():
    for part in (Slice(PAIR), Queue(shape=PAIR, depth=4)):
        assert part.signature.members["o"].signature == stream.Signature(PAIR)
        assert part.o.payload.shape() == PAIR


@pytest.mark.parametrize("make, error, message", [
    (lambda: Queue(shape=8, depth=1), ValueError,
     "depth must be an integer from 2 to 65536, not 1"),
    (lambda: Queue(shape=8, depth=True), TypeError,
     "depth must be an integer from 2 to 65536, not True"),
    (lambda: Arbiter(shape=8, inputs=0), ValueError,
     "inputs must be an integer from 1 to 64, not 0"),
    (lambda: WidthConverterSpec(in_width=8, out_width=12), ValueError,
     "in_width and out_width must divide one another, not 8 and 12"),
    (lambda: WidthConverterSpec(in_width=0, out_width=12), ValueError,
     "in_width must be an integer from 1 to 65536, not 0"),
    (lambda: WidthConverter(8), TypeError,  # type: ignore[arg-type]
     "spec must be a WidthConverterSpec, not 8"),
])
def test_refusals(make, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        make()
