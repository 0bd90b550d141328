# SPDX-License-Identifier: Apache-2.0
"""Importance: the model against softmax probabilities, the RTL against the model."""

import numpy as np
import pytest

from golden.importance import ImportanceSpec
from hw.attention.importance import Importance
from sim.runner import run
from tests.simulators import need


@pytest.mark.parametrize("source", ImportanceSpec.SOURCES)
def test_distance_from_real(source):
    """Sums of probabilities, within the error of the reciprocal and one step for each row."""
    spec = ImportanceSpec(source=source)
    exponents = np.random.default_rng(1).integers(0, 256, (50, 100))
    real = exponents / exponents.sum(1, keepdims=True)
    real = real[:1].sum(0) if source == "class" else real.sum(0)
    steps = spec.add(np.zeros(100, int), exponents)
    assert np.abs(steps / 2**spec.FRACTION - real).max() <= 0.003 * real.max() + 50 / 2**15
    shown = spec.importance(steps)
    assert abs(int(shown[7]) - spec.level(float(real[7]))) <= 2


def test_other_rows_do_not_count():
    """Of a tile that does not begin with row 0 nothing is the class token's."""
    spec = ImportanceSpec()
    assert not spec.add(np.zeros(9, int), np.full((4, 9), 7), first_row=4).any()


@pytest.mark.parametrize(("field", "value", "error", "message"), [
    ("max_keys", 1, ValueError, "max_keys must be an integer from 2 to 65535, not 1"),
    ("lanes", 3, ValueError, "lanes must be a power of two, not 3"),
    ("source", "rows", ValueError, "source must be one of none, class, column, not 'rows'"),
])
def test_wrong_field(field, value, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        ImportanceSpec(**{field: value})


def test_wrong_specification():
    with pytest.raises(TypeError, match=r"^spec must be an ImportanceSpec, not 8$"):
        Importance(8)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("simulator", "fields"), [
    ("verilator", {"max_keys": 50, "lanes": 8}),
    ("icarus", {"max_keys": 13, "lanes": 2, "index_bits": 6}),
    ("icarus", {"max_keys": 40, "lanes": 4, "source": "column"}),
    ("verilator", {"max_keys": 21, "lanes": 8, "source": "column"}),
])
def test_equals_golden(simulator, fields, tmp_path):
    need(simulator)
    spec = ImportanceSpec(**fields)
    result = run(Importance(spec), bench="sim.bench_importance", simulator=simulator, tests=8,
                 directory=tmp_path)
    assert result.report["cycles"] == spec.cycles(spec.max_keys)
