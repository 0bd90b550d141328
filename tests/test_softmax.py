# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden.requant import RequantSpec
from golden.softmax import SoftmaxSpec
from hw.attention.maximum import RowMaximum
from hw.attention.softmax import Softmax
from sim.runner import run
from tests.simulators import need

# What an ideal int8 store loses, and the whole recipe: relL2 of P V, by sigma of the logits.
MEASURED = {0.5: 0.0086, 1.0: 0.0155, 2.0: 0.0303, 4.0: 0.0152}


def quantise(x):
    scale = np.abs(x).max() / 127
    return np.floor(x / scale + 0.5).astype(np.int64), scale


@pytest.mark.parametrize("sigma", MEASURED)
def test_distance_from_float(sigma):
    """Softmax times V in float64, against the integers with the deferred normalisation."""
    rng, keys = np.random.default_rng(2026), 197
    spec, requant = SoftmaxSpec(max_keys=keys), RequantSpec(acc_width=24, out_width=8)
    scores, score_scale = quantise(rng.normal(0, sigma, (512, keys)))
    value, value_scale = quantise(rng.normal(0, 1, (keys, 64)))
    probability = np.exp(scores * score_scale)
    probability /= probability.sum(axis=1, keepdims=True)
    exact = probability @ (value * value_scale)
    out_scale = np.abs(exact).max() / 127
    exact /= out_scale

    mul, exponent = (int(part) for part in requant.factors(value_scale / out_scale))
    exponents, factor, k = spec.compute(scores, spec.table(score_scale), mul)
    assert exponents.max() == 255
    result = requant.compute(exponents @ value, factor[:, None], exponent + k[:, None])

    def distance(y):
        return np.linalg.norm(y - exact) / np.linalg.norm(exact)

    rounded = np.floor(exact + 0.5)
    print(f"sigma {sigma}: relL2 {distance(result):.4f}, of an ideal int8 result "
          f"{distance(rounded):.4f}, different {np.mean(result != rounded):.1%}")
    assert distance(result) < 1.25 * MEASURED[sigma]
    assert distance(result) - distance(rounded) < 0.012


def test_exponents_do_not_depend_on_an_offset():
    scores = np.random.default_rng(1).integers(-60, 60, (8, 50))
    spec = SoftmaxSpec()
    table = spec.table(0.1)
    assert table[0] == 255
    assert np.all(np.diff(table) <= 0)
    for old, new in zip(spec.compute(scores, table, 999), spec.compute(scores + 60, table, 999)):
        np.testing.assert_array_equal(old, new)


def test_constant_values_come_back():
    """Whatever the scores: the mean of equal values is that value, within one step."""
    spec, requant = SoftmaxSpec(), RequantSpec(acc_width=24, out_width=8)
    scores = np.random.default_rng(2).integers(-128, 128, (500, 200))
    mul, exponent = (int(part) for part in requant.factors(1.0))
    exponents, factor, k = spec.compute(scores, spec.table(0.05), mul)
    result = requant.compute(100 * exponents.sum(axis=1), factor, exponent + k)
    assert np.abs(result - 100).max() <= 1


@pytest.mark.parametrize(("field", "value", "error", "message"), [
    ("rows", 0, ValueError, "rows must be an integer from 1 to 256, not 0"),
    ("lanes", 2.0, TypeError, r"lanes must be an integer from 1 to 256, not 2\.0"),
    ("max_keys", 65536, ValueError, "max_keys must be an integer from 1 to 65535, not 65536"),
    ("index_bits", 11, ValueError, "index_bits must be an integer from 1 to 10, not 11"),
    ("load_entries", 12, ValueError, "load_entries must be a power of two, not 12"),
])
def test_wrong_field(field, value, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        SoftmaxSpec(**{field: value})


@pytest.mark.parametrize("component", [Softmax, RowMaximum])
def test_wrong_specification(component):
    with pytest.raises(TypeError, match=r"^spec must be a SoftmaxSpec, not 8$"):
        component(8)


@pytest.mark.parametrize(("simulator", "fields"), [
    ("verilator", {"max_keys": 50}),
    ("verilator", {"rows": 1, "max_keys": 30, "load_entries": 1}),
    ("verilator", {"rows": 3, "lanes": 5, "max_keys": 13, "index_bits": 6}),
    ("verilator", {"rows": 2, "lanes": 16, "max_keys": 70, "load_entries": 32}),
    ("verilator", {"rows": 1, "lanes": 1, "max_keys": 3, "load_entries": 256}),
    ("icarus", {"rows": 2, "lanes": 3, "max_keys": 7}),
])
def test_equals_golden(simulator, fields, tmp_path):
    need(simulator)
    spec = SoftmaxSpec(**fields)
    result = run(Softmax(spec), bench="sim.bench_softmax", simulator=simulator, tests=15,
                 directory=tmp_path)
    assert result.report["cycles_1"] == spec.cycles(spec.max_keys)
    assert result.report["cycles_6"] == spec.cycles(spec.max_keys, tiles=6)
