# SPDX-License-Identifier: Apache-2.0
"""Table: what it refuses, how it is loaded, the RTL against the model."""

import numpy as np
import pytest

from golden.table import TableSpec
from hw.arith.table import Table
from sim.runner import run

SMALL = TableSpec(depth=4, width=3, lanes=1, load_entries=2)


@pytest.mark.parametrize(("simulator", "spec"), [
    ("icarus", SMALL),
    ("icarus", TableSpec(depth=8, width=5, lanes=3, load_entries=8)),
    ("verilator", SMALL),
    ("verilator", TableSpec(depth=64, width=13, lanes=5, load_entries=1)),
    ("verilator", TableSpec(depth=16, width=9, lanes=2, load_entries=16)),
    ("verilator", TableSpec()),
], ids=str)
def test_rtl_equals_golden(simulator, spec, tmp_path):
    run(Table(spec), name="look_up", bench="sim.bench_table", simulator=simulator, tests=2,
        directory=tmp_path)


def test_golden():
    spec = TableSpec(depth=8, width=4, lanes=2, load_entries=2)
    table = np.arange(-4, 4)
    assert spec.load(table).tolist() == [[12, 13], [14, 15], [0, 1], [2, 3]]
    assert spec.compute([[0, 7], [3, 4]], table).tolist() == [[12, 3], [15, 0]]
    assert (spec.index_width, spec.words, spec.address_width, spec.memory_bits) == (3, 4, 2, 64)
    with pytest.raises(ValueError, match=r"^table must have shape \(8,\), not \(7,\)$"):
        spec.load(table[1:])


@pytest.mark.parametrize(("fields", "kind", "sentence"), [
    ({"depth": 1}, ValueError, "depth must be an integer from 2 to 65536, not 1"),
    ({"depth": 24}, ValueError, "depth must be a power of two, not 24"),
    ({"width": 65}, ValueError, "width must be an integer from 1 to 64, not 65"),
    ({"lanes": 0}, ValueError, "lanes must be an integer from 1 to 1024, not 0"),
    ({"load_entries": 3}, ValueError, "load_entries must be a power of two, not 3"),
    ({"load_entries": None}, TypeError, "load_entries must be an integer of at least 1, not None"),
    ({"depth": 4}, ValueError, "load_entries must be at most depth 4, not 8"),
])
def test_refuses(fields, kind, sentence):
    with pytest.raises(kind, match=f"^{sentence}$"):
        TableSpec(**fields)
