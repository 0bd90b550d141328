# SPDX-License-Identifier: Apache-2.0
"""The MAC array: golden model, refusals, and RTL against golden."""

import numpy as np
import pytest

from golden.mac import MacSpec
from hw.array import MacArray
from sim.runner import run

SPECS = {
    "odd": MacSpec(rows=3, columns=5, depth=7, acc_width=21, max_contraction=28),
    "square": MacSpec(rows=4, columns=4, depth=4, a_width=8, acc_width=22, max_contraction=64),
    "booth": MacSpec(rows=3, columns=2, depth=7, acc_width=21, max_contraction=28,
                     multiplier="booth"),
    "booth_split": MacSpec(rows=2, columns=3, depth=4, a_width=5, b_width=7, acc_width=16,
                           max_contraction=16, splittable=True, multiplier="booth"),
    "lanes": MacSpec(rows=2, columns=3, depth=5, acc_width=20, max_contraction=10,
                     modes=("lanes",)),
    "all": MacSpec(rows=5, columns=2, depth=3, acc_width=21, max_contraction=15,
                   modes=("dot", "lanes"), splittable=True),
    "one": MacSpec(rows=1, columns=1, depth=1, a_width=2, b_width=2, acc_width=6,
                   max_contraction=3, multiplier="booth"),
}


def test_dot_is_a_matrix_product():
    spec, rng = MacSpec(), np.random.default_rng(1)
    a, b = rng.integers(-256, 256, (8, 48)), rng.integers(-128, 128, (8, 48))
    steps = [x.reshape(8, 6, 8).swapaxes(0, 1) for x in (a, b)]
    np.testing.assert_array_equal(spec.dot(*steps), a @ b.T)
    np.testing.assert_array_equal(spec.dot(*steps, acc=spec.dot(*steps)), 2 * (a @ b.T))
    np.testing.assert_array_equal(spec.lanes(*steps).sum(axis=2), a @ b.T)


def test_widths_are_exact():
    spec = MacSpec(rows=1, columns=1, depth=3, acc_width=19, max_contraction=7)
    low = spec.dot(np.full((1, 1, 3), -256), np.full((1, 1, 3), -128))[0, 0]
    assert low == 3 << 15 and spec.sum_width == 18 and low < 1 << 17
    assert (spec.macs, spec.groups, spec.accumulators, spec.cycles(10)) == (3, 1, 1, 14)
    both = MacSpec(modes=("dot", "lanes"), splittable=True)
    assert (both.groups, both.accumulators, both.modes) == (2, 8, ("dot", "lanes"))


@pytest.mark.parametrize("arguments, message", [
    ({"rows": 0}, "rows must be an integer from 1 to 256, not 0"),
    ({"a_width": 19}, "a_width must be an integer from 2 to 18, not 19"),
    ({"modes": ()}, r"modes must name dot, lanes or both, not \(\)"),
    ({"modes": ("both",)}, "modes must be one of dot, lanes, not 'both'"),
    ({"splittable": 2}, "splittable must be one of False, True, not 2"),
    ({"multiplier": "wallace"}, "multiplier must be one of inferred, booth, not 'wallace'"),
    ({"multiplier": "booth", "modes": ("lanes",)},
     "multiplier must be inferred when lanes are built, not 'booth'"),
    ({"acc_width": 28}, "acc_width must be at least 29 for max_contraction 4096, not 28"),
])
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        MacSpec(**arguments)


def test_refuses_other_kinds():
    with pytest.raises(TypeError, match=r"^depth must be an integer from 1 to 256, not 8\.0$"):
        MacSpec(depth=8.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^spec must be a MacSpec, not 8$"):
        MacArray(8)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SPECS)
def test_array(name, tmp_path):
    spec = SPECS[name]
    result = run(MacArray(spec), bench="sim.bench_mac", tests=5, directory=tmp_path)
    assert result.report["cycles"] == spec.cycles(120)


@pytest.mark.parametrize("name", ["odd", "booth_split"])
def test_array_icarus(name, tmp_path):
    run(MacArray(SPECS[name]), bench="sim.bench_mac", simulator="icarus", tests=5,
        directory=tmp_path)
