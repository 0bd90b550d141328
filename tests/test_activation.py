# SPDX-License-Identifier: Apache-2.0
"""Activation functions: the model against floats, the RTL against the model."""

import math

import numpy as np
import pytest

from golden.activation import ActivationKind, ActivationSpec, gelu, hardswish
from hw.arith.activation import Activation
from sim.runner import run

NONE, RELU, TABLE, HARDSWISH = ActivationKind
SMALL = ActivationSpec(lanes=1, in_width=7, width=4, table_width=5, hardswish_width=6,
                       load_entries=4)


@pytest.mark.parametrize(("simulator", "spec"), [
    ("icarus", SMALL),
    ("icarus", ActivationSpec(lanes=2, kinds=(RELU,))),
    ("icarus", ActivationSpec(lanes=1, in_width=9, hardswish_width=9, table_width=4,
                              load_entries=16, kinds=(HARDSWISH,))),
    ("verilator", SMALL),
    ("verilator", ActivationSpec(lanes=3)),
    ("verilator", ActivationSpec(lanes=5, width=7, table_width=8, load_entries=1,
                                 kinds=(NONE, TABLE))),
    ("verilator", ActivationSpec(lanes=2, in_width=12, width=13, table_width=9, hardswish_width=4,
                                 kinds=(RELU, HARDSWISH))),
], ids=lambda value: value if isinstance(value, str) else (
    f"{value.lanes}x{value.in_width}-{''.join(kind.name[0] for kind in value.kinds)}"))
def test_rtl_equals_golden(simulator, spec, tmp_path):
    result = run(Activation(spec), bench="sim.bench_activation", simulator=simulator, tests=3,
                 directory=tmp_path)
    assert result.report["cycles"] == spec.cycles(result.report["payloads"])
    assert spec.latency == (5 if HARDSWISH in spec.kinds else 2)


def test_none_and_relu():
    spec, q = ActivationSpec(), np.arange(-2**15, 2**15)
    np.testing.assert_array_equal(spec.compute(q, NONE), np.maximum(np.minimum(q, 127), -128))
    np.testing.assert_array_equal(spec.compute(q, RELU), np.maximum(np.minimum(q, 255), 0))


@pytest.mark.parametrize(("width", "in_scale", "out_scale"), [
    (10, 1 / 128, 1 / 32), (10, 0.0117, 0.0473), (8, 1 / 16, 1 / 16), (12, 3e-4, 5e-3)])
def test_every_entry_of_gelu_is_rounded_from_the_function(width, in_scale, out_scale):
    spec = ActivationSpec(table_width=width)
    table = spec.table(gelu, in_scale, out_scale)
    for q in range(-1 << width - 1, 1 << width - 1):
        x = q * in_scale
        exact = x * math.erfc(-x / math.sqrt(2)) / 2 / out_scale
        assert table[q + (1 << width - 1)] == min(127, math.floor(exact + 0.5))
        assert spec.compute(q, TABLE, table=table) == table[q + (1 << width - 1)]
    beyond = spec.compute([-2**15, 2**15 - 1], TABLE, table=table)
    assert beyond.tolist() == [table[0], table[-1]]


def mismatch(function, integer, sigma, width, seed):
    """Return the part of 8-bit results that are not the rounded exact ones of the same input."""
    x = np.random.default_rng(seed).normal(0, sigma, 20000)
    exact = np.array([function(value) for value in x])
    in_scale = np.abs(x).max() / ((1 << width - 1) - 1)
    out_scale = np.abs(exact).max() / 127
    y = integer(np.floor(x / in_scale + 0.5).astype(np.int64), in_scale, out_scale)
    error = y - np.floor(exact / out_scale + 0.5)
    assert np.abs(error).max() <= 1
    return np.mean(error != 0)


@pytest.mark.parametrize("sigma", [1, 2, 4])
@pytest.mark.parametrize(("width", "bound"), [(8, 0.24), (10, 0.06), (12, 0.016)])
def test_mismatch_of_gelu(sigma, width, bound):
    spec = ActivationSpec(table_width=width)

    def integer(q, in_scale, out_scale):
        return spec.compute(q, TABLE, table=spec.table(gelu, in_scale, out_scale))

    share = mismatch(gelu, integer, sigma, width, 2026 + sigma)
    print(f"GELU, {width}-bit table, sigma {sigma}: {share:.2%} differ by 1")
    assert share < bound


@pytest.mark.parametrize("sigma", [1, 2, 4])
@pytest.mark.parametrize(("width", "bound"), [(8, 0.24), (10, 0.06), (12, 0.016)])
def test_mismatch_of_hardswish(sigma, width, bound):
    spec = ActivationSpec(hardswish_width=width)

    def integer(q, in_scale, out_scale):
        mul, shift = map(int, spec.hardswish_requant.factors(in_scale**2 / 6 / out_scale))
        return spec.compute(q, HARDSWISH, c3=round(3 / in_scale), mul=mul, shift=shift)

    share = mismatch(hardswish, integer, sigma, width, 2026 + sigma)
    print(f"Hardswish, {width} bits, sigma {sigma}: {share:.2%} differ by 1")
    assert share < bound


@pytest.mark.parametrize("c3", [3, 100, 767, 1500, 4095])
def test_hardswish_is_zero_below_and_monotone_above(c3):
    spec = ActivationSpec()
    q = np.arange(-2**15, 2**15)
    mul, shift = map(int, spec.hardswish_requant.factors(100 / (2047 * 2 * c3)))
    y = spec.compute(q, HARDSWISH, c3=c3, mul=mul, shift=shift)
    if c3 <= 2048:
        assert not y[q <= -c3].any()
    assert np.all(np.diff(y[q >= -c3 / 2]) >= 0)
    assert y.min() == math.floor(-(c3 * c3 // 4) * 100 / (2047 * 2 * c3) + 0.5)  # at -c3/2


def test_the_products_of_hardswish_fit():
    for width in range(4, 17):
        spec = ActivationSpec(hardswish_width=width, table_width=4)
        low, high = -1 << width - 1, (1 << width - 1) - 1
        c3 = np.array([0, high // 2, high, high + 1, 2 * high + 1])
        for p in (low, -1, high // 2, high):
            product = p * np.clip(p + c3, 0, 2 * c3)
            limit = 1 << spec.hardswish_requant.acc_width - 1
            assert np.all((product >= -limit) & (product < limit))


@pytest.mark.parametrize(("fields", "kind", "sentence"), [
    ({"lanes": 0}, ValueError, "lanes must be an integer from 1 to 1024, not 0"),
    ({"in_width": 3}, ValueError, "in_width must be an integer from 4 to 32, not 3"),
    ({"width": 2.5}, TypeError, r"width must be an integer from 2 to 16, not 2\.5"),
    ({"in_width": 8}, ValueError, "table_width must be an integer from 4 to 8, not 10"),
    ({"hardswish_width": 17}, ValueError,
     "hardswish_width must be an integer from 4 to 16, not 17"),
    ({"load_entries": 12}, ValueError, "load_entries must be a power of two, not 12"),
    ({"load_entries": 2048}, ValueError,
     "load_entries must be an integer from 1 to 1024, not 2048"),
    ({"kinds": (0, 4)}, ValueError, r"kinds must be activation kinds, not \(0, 4\)"),
    ({"kinds": ()}, ValueError, r"kinds must be activation kinds, not \(\)"),
])
def test_refuses(fields, kind, sentence):
    with pytest.raises(kind, match=f"^{sentence}$"):
        ActivationSpec(**fields)


def test_computes_only_what_is_built():
    spec = ActivationSpec(kinds=(TABLE, NONE, TABLE))
    assert spec.kinds == (TABLE, NONE)
    with pytest.raises(ValueError, match=r"^kind must be one of TABLE, NONE, not 'RELU'$"):
        spec.compute(1, RELU)
    with pytest.raises(ValueError, match=r"^table must have shape \(1024,\), not \(0,\)$"):
        spec.compute(1, TABLE)
