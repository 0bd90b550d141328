# SPDX-License-Identifier: Apache-2.0
"""Outputs of the SpAtten core: the RTL against the model."""

import pytest

from golden.spatten.spec import PRESETS, SpattenSpec
from hw.spatten.output import OutputUnit
from sim.runner import run
from tests.simulators import need

SPECS = {
    "tiny": (PRESETS["tiny"], 1),
    "one channel": (SpattenSpec(channels=1, lanes=8, max_tokens=12, max_heads=6, score_rows=32,
                                prune_lanes=1), 1),
    "4 channels": (SpattenSpec(channels=4, lanes=16, max_tokens=120, max_heads=20, score_rows=64,
                               prune_lanes=8), 1),
    "16 channels": (SpattenSpec(), 1),
    "32 channels": (SpattenSpec(channels=32, lanes=16, max_tokens=64, prune_lanes=32), 2),
}


def test_wrong_specification():
    with pytest.raises(TypeError, match=r"^spec must be a SpattenSpec, not 8$"):
        OutputUnit(8)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("spec", "stages"), SPECS.values(), ids=SPECS)
def test_equals_golden(spec, stages, tmp_path):
    """One task in 8 cycles, whatever the number of channels."""
    need("verilator")
    result = run(OutputUnit(spec), bench="sim.bench_spatten_output", tests=12, directory=tmp_path)
    assert result.report == {"latency": OutputUnit.PREPARE + OutputUnit.LATENCY + stages,
                             "period": OutputUnit.SLICES}
