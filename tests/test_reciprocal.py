# SPDX-License-Identifier: Apache-2.0
"""Reciprocal: the model against division, the RTL against the model."""

from fractions import Fraction

import numpy as np
import pytest

from golden.reciprocal import ReciprocalSpec, log2_floor
from hw.arith.reciprocal import Reciprocal
from sim.runner import run

SMALL = ReciprocalSpec(sum_width=5, index_bits=2, mul_width=4)


@pytest.mark.parametrize(("simulator", "spec"), [
    ("icarus", SMALL),
    ("icarus", ReciprocalSpec(sum_width=2, index_bits=1, mul_width=2)),
    ("verilator", SMALL),
    ("verilator", ReciprocalSpec()),
    ("verilator", ReciprocalSpec(sum_width=37, index_bits=3, mul_width=11)),
    ("verilator", ReciprocalSpec(sum_width=9, index_bits=10)),
], ids=str)
def test_rtl_equals_golden(simulator, spec, tmp_path):
    result = run(Reciprocal(spec), bench="sim.bench_reciprocal", simulator=simulator, tests=3,
                 directory=tmp_path)
    assert result.report["cycles"] == spec.cycles(result.report["payloads"])


@pytest.mark.parametrize("index_bits", [1, 3, 6, 8, 10])
def test_golden_is_near_division(index_bits):
    spec = ReciprocalSpec(index_bits=index_bits)
    s = np.arange(1, 2**16)
    worst = rms = 0.0
    for mul in (2**15, 40001, 2**16 - 1):
        factor, k = spec.compute(s, mul)
        assert factor.min() >= 0
        assert factor.max() < 2**16
        error = factor * s / (mul * 2.0**k) - 1
        worst, rms = max(worst, np.abs(error).max()), max(rms, np.sqrt(np.mean(error**2)))
    bound = 2.0 ** -(index_bits + 1) + 2.0**-14
    print(f"reciprocal, {index_bits} bits: worst error {worst:.5f} (< {bound:.5f}), rms {rms:.5f}")
    assert worst < bound
    assert worst > bound / 2  # no bits are wasted


def test_table_is_exact():
    for bits in range(1, 11):
        exact = [Fraction(2**17 * 2 ** (bits + 1), 2 ** (bits + 1) + 2 * i + 1)
                 for i in range(2**bits)]
        assert ReciprocalSpec(index_bits=bits).table.tolist() == [
            (one + Fraction(1, 2)).__floor__() for one in exact]


def test_log2_floor():
    powers = [2**k for k in range(62)]
    assert log2_floor(powers).tolist() == list(range(62))
    assert log2_floor([2 * power - 1 for power in powers]).tolist() == list(range(62))
    with pytest.raises(ValueError, match=r"^values must be positive$"):
        log2_floor([3, 0])


@pytest.mark.parametrize(("name", "value", "kind", "rule"), [
    ("sum_width", 41, ValueError, "an integer from 2 to 40"),
    ("index_bits", 0, ValueError, "an integer from 1 to 10"),
    ("mul_width", 17, ValueError, "an integer from 2 to 16"),
    ("mul_width", "16", TypeError, "an integer from 2 to 16"),
])
def test_refuses(name, value, kind, rule):
    with pytest.raises(kind, match=f"^{name} must be {rule}, not {value!r}$"):
        ReciprocalSpec(**{name: value})
