# SPDX-License-Identifier: Apache-2.0
"""Linear layers of the SpAtten core: the RTL against the model."""

import pytest

from golden.spatten.spec import PRESETS, SpattenSpec
from hw.spatten.linear import Linear
from sim.runner import run
from tests.simulators import need

SPECS = {
    "tiny": PRESETS["tiny"],
    "four_channels": SpattenSpec(channels=4, lanes=16, max_tokens=48, max_heads=6, pairs=4,
                                 score_rows=64, selectors=1, prune_lanes=4, local=64, max_width=64),
    "rows_share_constants": SpattenSpec(channels=2, lanes=64, max_tokens=192, max_heads=4, pairs=4,
                                        score_rows=256, selectors=1, prune_lanes=2, local=64,
                                        max_width=64),
    "paper": PRESETS["paper"],
}


def test_wrong_specification():
    with pytest.raises(TypeError, match=r"^spec must be a SpattenSpec, not 8$"):
        Linear(8)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", SPECS)
def test_equals_golden(name, tmp_path):
    """What limits the rate, engines or collector, hardly ever waits."""
    need("verilator")
    result = run(Linear(SPECS[name]), bench="sim.bench_spatten_linear", tests=9,
                 directory=tmp_path)
    for kind, found in result.report.items():
        print(f"{name}, {kind}: {found}")
        assert max(found["engines"], found["collector"]) > 0.95
