# SPDX-License-Identifier: Apache-2.0
"""Requantiser: the model against fractions and real multipliers, the RTL against the model."""

import gc
import math
from fractions import Fraction

import numpy as np
import pytest

from golden.requant import RequantSpec
from hw.arith.requant import Requant
from sim.runner import run

SMALL = RequantSpec(lanes=3, acc_width=5, mul_width=3, shift_width=3, out_width=3)


@pytest.mark.parametrize(("simulator", "spec"), [
    ("icarus", SMALL),
    ("icarus", RequantSpec(lanes=1, acc_width=3, mul_width=4, shift_width=2, out_width=12)),
    ("icarus", RequantSpec(lanes=1, acc_width=9, mul_width=7, shift_width=1, out_width=4)),
    ("verilator", SMALL),
    ("verilator", RequantSpec(lanes=2)),
    ("verilator", RequantSpec(lanes=5, acc_width=23, mul_width=11, shift_width=5, out_width=8)),
    ("verilator", RequantSpec(lanes=1, acc_width=40, mul_width=20, out_width=32)),
], ids=str)
def test_rtl_equals_golden(simulator, spec, tmp_path):
    result = run(Requant(spec), bench="sim.bench_requant", simulator=simulator, tests=3,
                 directory=tmp_path)
    assert result.report["cycles"] == spec.cycles(result.report["payloads"])


@pytest.mark.parametrize("spec", [
    SMALL, RequantSpec(lanes=2), RequantSpec(lanes=1, acc_width=23, mul_width=11, out_width=8),
], ids=str)
def test_booth_equals_golden(spec, tmp_path):
    run(Requant(spec, multiplier="booth"), bench="sim.bench_requant", tests=3, directory=tmp_path)


def test_golden_equals_fractions():
    random = np.random.default_rng(2026)
    spec = RequantSpec()
    acc = random.integers(-2**31, 2**31, 3000) >> random.integers(0, 32, 3000)
    mul, shift = random.integers(0, 2**16, 3000), random.integers(0, 64, 3000)
    exact = [math.floor(Fraction(a * m, 1 << s) + Fraction(1, 2))
             for a, m, s in zip(acc.tolist(), mul.tolist(), shift.tolist())]
    np.testing.assert_array_equal(spec.compute(acc, mul, shift), np.clip(exact, -2**15, 2**15 - 1))
    assert 500 < np.count_nonzero(np.abs(exact) < 2**15) < 2500  # saturates, and not always


def test_halves_go_up_and_saturation_is_exact():
    spec = RequantSpec(out_width=4)
    assert spec.compute([-3, -2, -1, 0, 1, 2, 3], 1, 1).tolist() == [-1, -1, 0, 0, 1, 1, 2]
    assert spec.compute([-20, -18, -17, -16, 13, 14, 15, 16], 1, 1).tolist() == [
        -8, -8, -8, -8, 7, 7, 7, 7]
    acc = np.arange(-4000, 4000)
    for mul, shift in [(1, 0), (3, 5), (65535, 20), (40001, 16)]:
        assert np.all(np.diff(spec.compute(acc, mul, shift)) >= 0)  # monotone


def test_factors_are_near():
    random = np.random.default_rng(2026)
    spec = RequantSpec(out_width=8)
    scale = 2.0 ** random.uniform(-16, -6, 20000)
    mul, shift = spec.factors(scale)
    assert np.all((mul >= 2**15) & (mul < 2**16) & (shift >= 0) & (shift < 64))
    error = np.abs(mul / 2.0**shift / scale - 1)
    acc = np.rint(random.uniform(-127, 127, 20000) / scale).astype(np.int64)
    exact = np.floor(acc * scale + 0.5)
    differs = spec.compute(acc, mul, shift) - exact
    print(f"factors: relative error {error.max():.1e}; {np.mean(differs != 0):.3%} differ")
    assert error.max() <= 2.0**-16
    assert np.mean(differs != 0) < 0.001
    assert np.abs(differs).max() <= 1


def test_factors_at_the_ends():
    spec = RequantSpec()
    mul, shift = spec.factors([[0.0, 1.0, 65535.9], [2.0**-48, 2.0**-64, 2.0**-65]])
    assert mul.tolist() == [[0, 2**15, 65535], [2**15, 1, 0]]
    assert shift.tolist()[0] == [0, 15, 0]
    assert shift.tolist()[1] == [63, 63, 63]
    assert spec.factors(0.25) == (2**15, 17)
    assert spec.factors(1 - 2.0**-30) == (2**15, 15)  # rounds up to the next power of two
    for scale in (65536.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=(
                rf"^scale must be finite, from 0 to below 65536, not {scale!r}$")):
            spec.factors(scale)


@pytest.mark.parametrize(("name", "value", "kind", "rule"), [
    ("lanes", 0, ValueError, "an integer from 1 to 1024"),
    ("acc_width", 45, ValueError, "an integer from 2 to 44"),
    ("mul_width", 1, ValueError, "an integer from 2 to 20"),
    ("shift_width", 7, ValueError, "an integer from 1 to 6"),
    ("out_width", 16.0, TypeError, "an integer from 2 to 32"),
])
def test_refuses(name, value, kind, rule):
    with pytest.raises(kind, match=f"^{name} must be {rule}, not {value}$"):
        RequantSpec(**{name: value})


@pytest.mark.filterwarnings("ignore:.* created but never used")
def test_refuses_what_is_no_specification():
    with pytest.raises(TypeError, match=r"^spec must be a RequantSpec, not 8$"):
        Requant(8)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=(
            r"^multiplier must be one of inferred, booth, not 'wallace'$")):
        Requant(SMALL, multiplier="wallace")
    gc.collect()  # what Amaranth says of an unused component belongs to this test
