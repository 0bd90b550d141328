# SPDX-License-Identifier: Apache-2.0
"""The measurements of docs/numbers.md are what the golden models give: same seeds, same figures."""

import math
from pathlib import Path

import numpy as np
import pytest

from golden.activation import ActivationKind, ActivationSpec, gelu, hardswish
from golden.fixed import bounds, round_shift, saturate
from golden.layernorm import LayerNormSpec
from golden.requant import RequantSpec
from golden.softmax import SoftmaxSpec

PAGE = (Path(__file__).parents[1] / "docs" / "numbers.md").read_text()
REQUANT = RequantSpec()


def half_up(x):
    return np.floor(x + 0.5).astype(np.int64)


def distance(y, exact):
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


def check(*cells):
    """Require a table row of the page, and print it for who changes a model."""
    row = "| " + " | ".join(cells) + " |"
    print(row)
    assert row in PAGE


@pytest.mark.parametrize("width", [8, 10, 12, 14, 16, 18])
def test_multiplier_width(width):
    random = np.random.default_rng(1)
    acc = random.integers(-(1 << 20), 1 << 20, 400_000)
    factor = 2.0 ** random.uniform(-16, -10, 400)
    mul, shift = RequantSpec(mul_width=width).factors(factor)
    acc = acc.reshape(400, -1)
    y = RequantSpec(mul_width=width).compute(acc, mul[:, None], shift[:, None])
    exact = half_up(acc * factor[:, None])
    assert np.abs(y - exact).max() <= (16 if width < 10 else 4)
    inside = np.abs(exact) <= 127
    check(f"{width} bits", f"{(y != exact)[inside].mean():.3%}")
    assert width < 16 or (y != exact)[inside].mean() < 0.001


@pytest.mark.parametrize("sigma", [0.5, 1, 2, 4])
def test_softmax(sigma):
    random, keys, rows = np.random.default_rng(2), 197, 256
    logits = random.normal(0, sigma, (rows, keys))
    scale = np.abs(logits).max() / 127
    q = half_up(logits / scale)
    value = half_up(np.clip(random.normal(0, 32, (keys, 64)), -127, 127))
    p = np.exp(scale * (q - q.max(1, keepdims=True)))
    p /= p.sum(1, keepdims=True)
    exact = p @ value
    step = np.abs(exact).max() / 127
    floor = half_up(exact / step)

    def figures(y):
        return f"{distance(y * step, exact):.4f}, {(y != floor).mean():.1%}"

    (mul,), (exponent,) = REQUANT.factors([1 / step])
    spec = SoftmaxSpec(max_keys=keys)
    exponents, factor, k = spec.compute(q, SoftmaxSpec.table(scale), int(mul))
    y = REQUANT.compute(exponents @ value, factor[:, None], (int(exponent) + k)[:, None])
    first = half_up(255 * p)  # the usual way: probabilities in 8 bits, then the product
    check(f"{sigma}", f"{distance(floor * step, exact):.4f}", figures(saturate(y, 8)),
          figures(saturate(half_up(first @ value / 255 / step), 8)))
    assert np.abs(y - floor).max() <= 8


@pytest.mark.parametrize("width", [64, 192, 384, 768])
def test_layernorm(width):
    random, rows = np.random.default_rng(3), 2000
    spread = np.exp(random.normal(0, 0.5, (rows, 1)))  # tokens differ in size, as they do
    fine = np.clip(spread * random.normal(0, 2000, (rows, width)), -32767, 32767)
    x = half_up(fine)
    gamma = half_up(random.normal(0, 35, width) * 256)
    beta = half_up(random.normal(0, 15, width) * 256)
    y = LayerNormSpec(max_width=width).compute(x, gamma, beta, 20)

    def exact(x):
        x = x - x.mean(1, keepdims=True)
        return (x / x.std(1, keepdims=True) * gamma + beta) / 256

    wanted = saturate(half_up(exact(x)), 8)
    coarse = np.abs(fine).max() / 127  # the residual stream in 8 bits
    check(f"{width}", f"{(y != wanted).mean():.2%}", f"{np.abs(y - wanted).max()}",
          f"{distance(exact(x), exact(fine)):.4f}",
          f"{distance(exact(half_up(fine / coarse) * coarse), exact(fine)):.4f}")
    assert np.abs(y - wanted).max() <= 1


@pytest.mark.parametrize("width", [8, 10, 12])
def test_activations(width):
    x = np.random.default_rng(4).normal(0, 2, 200_000)
    low, high = bounds(width)
    scale = np.abs(x).max() / high
    q = np.clip(half_up(x / scale), low, high)
    cells = []
    for function in (gelu, hardswish):
        exact = np.array([function(one) for one in x])
        step = exact.max() / 127
        if function is gelu:
            spec = ActivationSpec(table_width=width)
            y = spec.compute(q, ActivationKind.TABLE, table=spec.table(gelu, scale, step))
        else:
            (mul,), (shift,) = REQUANT.factors([scale**2 / 6 / step])
            y = ActivationSpec(hardswish_width=width).compute(
                q, ActivationKind.HARDSWISH, c3=round(3 / scale), mul=int(mul), shift=int(shift))
        cells.append(f"{distance(y * step, exact):.4f}, "
                     f"{(y != saturate(half_up(exact / step), 8)).mean():.1%}")
    check(f"{width} bits", *cells)


def test_rounding_half_up_has_no_bias_where_it_matters():
    acc = np.random.default_rng(5).integers(-(1 << 20), 1 << 20, 1_000_000)
    for mul, shift in ((40503, 27), (1, 9), (1, 2)):
        bias = float((round_shift(acc * mul, shift) - acc * mul / 2**shift).mean())
        cut = float(((acc * mul >> shift) - acc * mul / 2**shift).mean())
        check(f"{mul}, {shift}", f"{bias:+.3f}", f"{cut:+.3f}")
    assert math.isclose(bias, 0.125, abs_tol=0.001)  # ties of shifts by 2: one in four
