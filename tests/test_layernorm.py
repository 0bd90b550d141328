# SPDX-License-Identifier: Apache-2.0
"""LayerNorm: the model against floating point and its properties, the RTL against the model."""

import numpy as np
import pytest

from golden.fixed import saturate
from golden.layernorm import LayerNormSpec
from hw.arith.layernorm import LayerNorm
from sim.runner import run

LOW, HIGH = -(1 << 15), (1 << 15) - 1


@pytest.mark.parametrize(("simulator", "spec"), [
    ("icarus", LayerNormSpec(lanes=2, max_width=9)),
    ("verilator", LayerNormSpec(lanes=2, max_width=9)),
    ("verilator", LayerNormSpec(lanes=3, max_width=100, buffer_rows=1)),
    ("verilator", LayerNormSpec(max_width=768)),
    ("verilator", LayerNormSpec(lanes=16, max_width=4096, buffer_rows=1)),
], ids=lambda one: one if isinstance(one, str) else f"{one.lanes}x{one.max_width}")
def test_rtl_equals_golden(simulator, spec, tmp_path):
    run(LayerNorm(spec), bench="sim.bench_layernorm", simulator=simulator, tests=7,
        directory=tmp_path)


def test_booth_equals_golden(tmp_path):
    spec = LayerNormSpec(lanes=4, max_width=256)
    run(LayerNorm(spec, multiplier="booth"), bench="sim.bench_layernorm", tests=7,
        directory=tmp_path)


def exact(x, gamma, beta, fraction):
    """Return LayerNorm in floating point, not rounded, in output steps."""
    x = np.asarray(x, dtype=np.float64)
    z = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    return (z * gamma + beta) / 2.0**fraction


def rounded(y):
    return np.clip(np.floor(y + 0.5), -128, 127)


@pytest.mark.parametrize("width", [64, 192, 197, 384, 768])
def test_near_floating_point(width):
    """Rows of different size and mean, some channels larger, outputs that just fit 8 bits."""
    random, rows = np.random.default_rng(2026), 1500
    channel = random.normal(0, 0.3, width)
    x = random.normal(0, 1, (rows, width)) * np.exp(random.normal(0, 0.3, width)) + channel
    x = x * 10 ** random.uniform(1.5, 3.7, (rows, 1)) + random.normal(0, 1000, (rows, 1))
    x = saturate(np.rint(x).astype(np.int64), 16)
    gamma, beta = random.normal(1, 0.2, width), random.normal(0, 0.2, width)
    step = np.abs(exact(x, gamma, beta, 0)).max() / 127
    gamma, beta = (np.rint(one / step * 1024).astype(np.int64) for one in (gamma, beta))
    y = LayerNormSpec(max_width=width).compute(x, gamma, beta, 22)
    differs = np.abs(y - rounded(exact(x, gamma, beta, 10)))
    print(f"LayerNorm of {width}: {(differs > 0).mean():.3%} differ, "
          f"at most by {differs.max():.0f}")
    assert differs.max() <= 1
    assert (differs > 0).mean() <= 0.0015


def test_reciprocal_root_is_near():
    """Every mantissa there is; the exponent only moves it."""
    spec = LayerNormSpec()
    m = np.arange(1 << 14, 1 << 16)
    r, e = spec.reciprocal_root(m)
    error = r * np.sqrt(m) / 2.0**22 - 1
    print(f"1/sqrt: relative error {np.abs(error).max():.2e}, "
          f"on average {np.abs(error).mean():.1e}")
    assert np.abs(error).max() <= 7.2e-5
    assert np.all((r >= 1 << 14) & (r < 1 << 15) & (e == 7))
    for moved in (0, 3, 6, 19):
        again, e = spec.reciprocal_root(m << 2 * moved)
        assert np.all((again == r) & (e == 7 + moved))
    small = np.arange(1, 1 << 14)
    r, e = spec.reciprocal_root(small)
    assert np.abs(r * np.sqrt(small) / 2.0 ** (15 + e) - 1).max() <= 7.2e-5


def extreme_rows(width):
    """Yield rows with the largest and the least variance, and with the farthest outliers."""
    yield np.where(np.arange(width) % 2, HIGH, LOW)
    for rest, one in ((0, 1), (HIGH, HIGH - 1), (LOW, HIGH), (HIGH, LOW), (-5, 17)):
        for place in (0, width // 2, width - 1):
            row = np.full(width, rest)
            row[place] = one
            yield row


@pytest.mark.parametrize("width", [2, 3, 5, 48, 197, 768, 1023, 4096])
def test_extreme_rows_stay_near(width):
    spec = LayerNormSpec(max_width=width)
    x = np.array(list(extreme_rows(width)))
    z = spec.normalise(x)
    assert np.abs(z).max() < 1 << spec.z_width - 1  # no overflow in the hardware's width
    error = np.abs(z - exact(x, 1, 0, -spec.Z_FRACTION))
    print(f"z of extreme rows of {width}: off by up to {error.max():.1f} of {np.abs(z).max()}")
    assert np.all(error <= 1 + 1.6e-4 * np.abs(z).max())
    gamma, beta = np.full(width, 5 << 8), np.full(width, 3 << 8)
    y = spec.compute(x, gamma, beta, 20)
    assert np.abs(y - rounded(exact(x, gamma, beta, 8))).max() <= 1


def test_constant_rows_give_beta():
    spec = LayerNormSpec()
    for value in (LOW, -1, 0, 1, HIGH):
        for width in (1, 2, 7, 768):
            gamma, beta = np.full(width, HIGH), np.arange(width) * 97 - 20000
            y = spec.compute(np.full((2, width), value), gamma, beta, 20)
            np.testing.assert_array_equal(y, np.tile(np.clip(beta + 128 >> 8, -128, 127), (2, 1)))


def test_offset_changes_nothing_and_scale_little():
    random = np.random.default_rng(2026)
    spec = LayerNormSpec()
    for width in (3, 64, 197, 768):
        spread = 10.0 ** random.uniform(0, 3, (200, 1))
        x = np.rint(np.clip(random.normal(0, 1, (200, width)) * spread, -8000, 8000)).astype(int)
        gamma, beta = random.integers(-9000, 9000, (2, width))
        y = spec.compute(x, gamma, beta, 20)
        np.testing.assert_array_equal(spec.compute(x + 15000, gamma, beta, 20), y)
        np.testing.assert_array_equal(spec.compute(x - 15000, gamma, beta, 20), y)
        for scale in (2, 4):
            assert np.abs(spec.compute(x * scale, gamma, beta, 20) - y).max() <= 1


def test_neither_size_nor_other_rows_matter():
    random = np.random.default_rng(2026)
    x = random.integers(LOW, HIGH + 1, (5, 4, 33))
    gamma, beta = random.integers(-9000, 9000, (2, 33))
    y = LayerNormSpec(lanes=3, max_width=33).compute(x, gamma, beta, 19)
    np.testing.assert_array_equal(LayerNormSpec(max_width=4096).compute(x, gamma, beta, 19), y)
    np.testing.assert_array_equal(LayerNormSpec().compute(x[2, 1], gamma, beta, 19), y[2, 1])


def test_halves_go_up_and_saturation_is_exact():
    spec, x = LayerNormSpec(), np.array([-1, 1])  # z is -1 and 1, or next to it
    one = int(spec.normalise(x)[1])
    assert abs(one - 4096) <= 1
    np.testing.assert_array_equal(spec.normalise(x), [-one, one])
    for beta, y in ((-3, -1), (-2, -1), (-1, 0), (0, 0), (1, 1), (253, 127), (255, 127),
                    (-256, -128), (-257, -128), (-259, -128)):
        assert spec.compute([7, 7], [0, 0], [beta, beta], 13).tolist() == [y, y]


def test_cycles():
    spec = LayerNormSpec(lanes=8, max_width=768)
    assert spec.cycles(1, 768) == 2 * 96 + spec.LATENCY
    assert spec.cycles(10, 768) == 11 * 96 + spec.LATENCY
    assert spec.cycles(10, 9) == 9 * spec.ROW_CYCLES + 4 + spec.LATENCY
    assert spec.ROW_CYCLES <= 16
    assert spec.memory_bits == {"rows": 3 * 96 * 128, "parameters": 96 * 256}
    assert LayerNormSpec(buffer_rows=1).buffer_words == 96 + spec.ROW_CYCLES + 2


@pytest.mark.parametrize(("name", "value", "kind", "rule"), [
    ("lanes", 0, ValueError, "an integer from 1 to 256"),
    ("lanes", 8.0, TypeError, "an integer from 1 to 256"),
    ("max_width", 4097, ValueError, "an integer from 1 to 4096"),
    ("buffer_rows", 17, ValueError, "an integer from 1 to 16"),
    ("buffer_rows", True, TypeError, "an integer from 1 to 16"),
])
def test_refuses(name, value, kind, rule):
    with pytest.raises(kind, match=rf"^{name} must be {rule}, not {value!r}$"):
        LayerNormSpec(**{name: value})


def test_refuses_rows_and_shifts():
    spec = LayerNormSpec(max_width=3)
    for shift in (11, 28):
        with pytest.raises(ValueError, match=(
                rf"^shift must be an integer from 12 to 27, not {shift}$")):
            spec.compute([1, 2], [1, 1], [0, 0], shift)
    with pytest.raises(ValueError, match=r"^rows must have 1 to 3 elements, not 4$"):
        spec.normalise([1, 2, 3, 4])
    with pytest.raises(TypeError):
        spec.normalise([0.5, 1.5])
    with pytest.raises(TypeError, match=r"^spec must be a LayerNormSpec, not 8$"):
        LayerNorm(8)  # type: ignore[arg-type]
