# SPDX-License-Identifier: Apache-2.0
"""The row unit of the SpAtten core: RTL against golden, and its rate."""

import pytest

from golden.spatten.spec import PRESETS, SpattenSpec
from hw.spatten.begin import Begin
from hw.spatten.choice import Choice
from hw.spatten.leave import Leave
from hw.spatten.rows import RowUnit
from hw.spatten.softmax import Exponents, Probabilities
from sim.runner import run
from tests.simulators import need

SPECS = {
    "tiny": PRESETS["tiny"],
    "one_channel": SpattenSpec(channels=1, lanes=8, max_tokens=24, max_heads=6, pairs=2,
                               score_rows=64, selectors=2, prune_lanes=1),
    "three_selectors": SpattenSpec(channels=4, lanes=32, max_tokens=52, max_heads=8, pairs=4,
                                   score_rows=32, selectors=3, prune_lanes=4, index_bits=5),
    "eight_channels": SpattenSpec(channels=8, lanes=16, max_tokens=40, max_heads=4, pairs=2,
                                  score_rows=16, selectors=5, prune_lanes=8, index_bits=3),
    "sixteen_channels": SpattenSpec(max_tokens=512),
}


@pytest.mark.parametrize("name", SPECS)
def test_equals_golden(name, tmp_path):
    need("verilator")
    spec = SPECS[name]
    result = run(RowUnit(spec), bench="sim.bench_spatten_rows", tests=6, directory=tmp_path)
    for rows, cycles in result.report["cycles"]:
        print(f"{name}: {cycles:.2f} cycles per task of {rows} rows")
        least = RowUnit(spec).period(rows) / spec.selectors
        assert least <= cycles <= least + 3  # operations wait for each other
        if (name, rows) == ("sixteen_channels", 11):
            assert cycles <= rows + 4


@pytest.mark.parametrize("block", [RowUnit, Begin, Choice, Exponents, Leave, Probabilities])
def test_wrong_specification(block):
    with pytest.raises(TypeError, match=r"^spec must be a SpattenSpec, not 8$"):
        block(8)
