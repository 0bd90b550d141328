# SPDX-License-Identifier: Apache-2.0
"""The selector: what is selected, how fast, and RTL against golden, one body for all engines."""

import numpy as np
import pytest
from amaranth.hdl import unsigned
from amaranth.sim import Simulator

from golden.topk import Rule, TopKSpec
from hw.select import TopK, ZeroEliminator
from sim.runner import run
from tests.simulators import need
from vitral import selectors
from vitral.selectors import cycles, specs


def test_top_k_is_what_sorting_says():
    spec, rng = TopKSpec(n=9, width=2), np.random.default_rng(1)
    for _ in range(500):
        n, k, protected = rng.integers(1, 10), rng.integers(0, 12), rng.integers(0, 4)
        scores = rng.integers(0, 4, n)
        keep = spec.select(scores, Rule.TOPK, int(k), int(protected))
        rest = sorted(range(protected, n), key=lambda index: (-scores[index], index))
        kept = {*range(min(protected, n)), *rest[:max(0, k - protected)]}
        assert set(np.flatnonzero(keep)) == kept
        assert keep.sum() == min(n, max(k, protected))


def test_thresholds():
    spec = TopKSpec(n=6, width=8)
    scores = [7, 0, 10, 255, 9, 10]
    assert spec.select(scores, Rule.THRESHOLD, 10).tolist() == [0, 0, 1, 1, 0, 1]
    assert spec.select(scores, Rule.THRESHOLD, 10, 1).tolist() == [1, 0, 1, 1, 0, 1]
    assert spec.select(scores, Rule.MEAN, 0).all()
    even = [20, 30, 40]  # the mean is 30, and 30 of the last two is 6/7 of theirs
    assert spec.select(even, Rule.MEAN, 255).tolist() == [0, 1, 1]
    assert TopKSpec(width=9).select(even, Rule.MEAN, 256).tolist() == [0, 1, 1]
    assert TopKSpec(width=9).select(even, Rule.MEAN, 257).tolist() == [0, 0, 1]
    assert spec.select(even, Rule.MEAN, 219, 1).tolist() == [1, 1, 1]
    assert spec.select(even, Rule.MEAN, 220, 1).tolist() == [1, 0, 1]


def test_many_at_once():
    spec, rng = TopKSpec(n=20), np.random.default_rng(2)
    scores = rng.integers(0, 50, (4, 5, 20))
    for rule, value in ((Rule.TOPK, 7), (Rule.THRESHOLD, 25), (Rule.MEAN, 300)):
        keep = spec.select(scores, rule, value, 2)
        for place in np.ndindex(4, 5):
            np.testing.assert_array_equal(
                keep[place], spec.select(scores[place], rule, value, 2))


def test_cycles_of_the_requirement():
    """With 16 lanes, 12 bits and digits of 4: 56 cycles for 197 entries, 209 for 1,024."""
    spec = TopKSpec(n=1024, width=12)
    for n in range(1, 1025):
        rows = -(-n // 16)
        assert spec.cycles(n) == 3 * rows + 17
        assert spec.find_cycles(n) == 2 * rows + 18
    assert (spec.cycles(197), spec.cycles(1024)) == (56, 209)
    assert TopKSpec(width=12, engine="bitserial").find_cycles(197) <= 2 * 12 + 4
    assert TopKSpec(engine="quickselect").find_cycles(197) == 1904 + 4


@pytest.mark.parametrize(("fields", "message"), [
    ({"n": 0}, "n must be an integer from 1 to 4096, not 0"),
    ({"width": 25}, "width must be an integer from 1 to 24, not 25"),
    ({"lanes": 12}, "lanes must be a power of two, not 12"),
    ({"digit": 9}, "digit must be an integer from 1 to 8, not 9"),
    ({"buffers": 3}, "buffers must be an integer from 1 to 2, not 3"),
    ({"engine": "sort"}, "engine must be one of radix, bitserial, quickselect, not 'sort'"),
    ({"engine": "bitserial", "n": 257},
     "n must be at most 256 for the bitserial engine, not 257"),
])
def test_wrong_field(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        TopKSpec(**fields)


@pytest.mark.parametrize(("arguments", "message"), [
    (([1, 2], Rule.THRESHOLD, 1), "rule must be one of 0, not <Rule.THRESHOLD: 1>"),
    (([1, 2], Rule.TOPK, 16), "value must be an integer from 0 to 15, not 16"),
    (([1, 2], Rule.TOPK, -1), "value must be an integer from 0 to 15, not -1"),
    (([1, 2], Rule.TOPK, 1, 4), "protected must be an integer from 0 to 3, not 4"),
    (([1, 16], Rule.TOPK, 1), "scores must be unsigned numbers of 4 bits"),
    (([0] * 6, Rule.TOPK, 1), "n must be an integer from 1 to 5, not 6"),
])
def test_wrong_selection(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        TopKSpec(n=5, width=4, threshold=False).select(*arguments)


def test_value_of_a_threshold_is_a_score():
    spec = TopKSpec(n=100, width=3)
    assert spec.select([5, 6], Rule.TOPK, 100).all()
    with pytest.raises(ValueError, match=r"^value must be an integer from 0 to 7, not 8$"):
        spec.select([5, 6], Rule.THRESHOLD, 8)


def test_wrong_specification():
    with pytest.raises(TypeError, match=r"^spec must be a TopKSpec, not 8$"):
        TopK(8)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^lanes must be a power of two, not 6$"):
        ZeroEliminator(lanes=6, shape=1)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_zero_eliminator(lanes):
    """Every mask there is."""
    part, rng = ZeroEliminator(lanes=lanes, shape=unsigned(7)), np.random.default_rng(lanes)

    async def bench(ctx):
        for mask in range(1 << lanes):
            items = rng.integers(0, 128, lanes).tolist()
            ctx.set(part.keep, mask)
            ctx.set(part.i, items)
            kept = [item for lane, item in enumerate(items) if mask >> lane & 1]
            assert ctx.get(part.count) == len(kept)
            assert [ctx.get(part.o[lane]) for lane in range(len(kept))] == kept

    sim = Simulator(part)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("spec", specs((197,)), ids=lambda spec: spec.engine)
def test_measured_cycles(spec, tmp_path):
    """Only quick-select depends on the scores, and its worst case is as bad as it can be."""
    random, worst = cycles(spec, vectors=20, directory=tmp_path)
    if spec.engine == "quickselect":
        assert worst[0] == spec.cycles(197) == 1920
        assert 50 < random.mean() < 150
    else:
        assert {*random, *worst} == {spec.cycles(197)}


def test_table(monkeypatch, capsys):
    """One line for each engine and size; the figures come from elsewhere."""
    monkeypatch.setattr(selectors, "cycles", lambda spec: (np.arange(100), np.array([spec.n, 3])))
    monkeypatch.setattr(selectors, "area", lambda component, by_module: {
        "kge": 7.26 if isinstance(component, TopK) else 2.3, "memory_bits": 4096})
    selectors.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 5
    assert lines[2] == "| 197 | radix | 50 | 98 | 197 | 2.3 | 7.3 | 4,096 |"
    selectors.main(["--no-area"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[6] == "| 1024 | quickselect | 50 | 98 | 1024 |  |  |  |"


SMALL = {"n": 13, "width": 6, "lanes": 4}


@pytest.mark.parametrize(("simulator", "fields"), [
    pytest.param("verilator", fields, id=name) for name, fields in {
        "radix": {"width": 12},
        "radix_single_lane": {"n": 60, "lanes": 1, "digit": 2, "buffers": 1},
        "radix_two_lanes": {"n": 37, "width": 7, "lanes": 2, "digit": 3, "buffers": 1,
                            "mask": True},
        "radix_bits": {"n": 70, "width": 5, "lanes": 4, "digit": 1, "threshold": False},
        "radix_one_bit": {"n": 1, "width": 1, "lanes": 1, "digit": 1},
        "radix_wide_digit": {"n": 19, "width": 8, "lanes": 8, "digit": 5, "mask": True},
        "bitserial": {"width": 12, "engine": "bitserial"},
        "bitserial_single_lane": {"n": 50, "width": 7, "lanes": 1, "engine": "bitserial",
                                  "buffers": 1},
        "quickselect": {"n": 70, "width": 12, "engine": "quickselect"},
        "quickselect_two_lanes": {"n": 41, "width": 10, "lanes": 2, "engine": "quickselect",
                                  "mask": True},
        "quickselect_single_lane": {"n": 30, "width": 5, "lanes": 1, "engine": "quickselect",
                                    "buffers": 1},
    }.items()
] + [
    pytest.param("icarus", SMALL | {"engine": engine}, id=f"icarus_{engine}")
    for engine in ("radix", "bitserial", "quickselect")
])
def test_equals_golden(simulator, fields, tmp_path):
    need(simulator)
    spec = TopKSpec(**fields)
    result = run(TopK(spec), bench="sim.bench_topk", simulator=simulator, tests=7,
                 directory=tmp_path)
    for measured, most in (("cycles", spec.cycles(spec.n)), ("period", spec.period(spec.n))):
        if spec.engine == "quickselect":
            assert result.report[measured] <= most
        else:
            assert result.report[measured] == most
