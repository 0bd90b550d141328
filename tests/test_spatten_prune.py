# SPDX-License-Identifier: Apache-2.0
"""PRUNE of the SpAtten core: the RTL against the emulator."""

from dataclasses import replace

import pytest

from golden.spatten.operation import Rescale, Subject
from golden.spatten.spec import PRESETS, SpattenSpec
from golden.topk import Rule
from hw.spatten.prune import PruneUnit
from sim.runner import run
from tests.simulators import need

SPECS = {
    "tiny": replace(PRESETS["tiny"], fuse=True),
    "one channel": SpattenSpec(channels=1, lanes=8, max_tokens=12, max_heads=6, score_rows=32,
                               prune_lanes=1),
    "4 channels": SpattenSpec(channels=4, lanes=16, max_tokens=120, max_heads=20, score_rows=64,
                              prune_lanes=8),
    "16 channels": SpattenSpec(lanes=16, max_tokens=336, max_heads=14, prune_lanes=16),
}


def test_cycles_of_the_paper():
    """The search takes most of them; additions and rescaling none."""
    unit = PruneUnit(SpattenSpec())
    for rescale in Rescale:
        assert unit.cycles(1024, rule=Rule.TOPK, subject=Subject.TOKENS, rescale=rescale) == 185
    assert unit.cycles(1, rule=Rule.THRESHOLD, subject=Subject.TOKENS, rescale=Rescale.KEEP) == 9
    assert unit.cycles(1, rule=Rule.THRESHOLD, subject=Subject.TOKENS, rescale=Rescale.CLEAR) == 35


def test_wrong_specification():
    with pytest.raises(TypeError, match=r"^spec must be a SpattenSpec, not 8$"):
        PruneUnit(8)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_equals_emulator(spec, tmp_path):
    need("verilator")
    run(PruneUnit(spec), bench="sim.bench_spatten_prune", tests=10 + spec.fuse, directory=tmp_path)


def test_prune_of_1024_tokens(tmp_path):
    need("verilator")
    result = run(PruneUnit(SpattenSpec()), bench="sim.bench_spatten_prune", tests=1,
                 testcase="cycles", directory=tmp_path)
    assert result.report["prune"] == 185
    print(f"PRUNE of 1024 tokens: {result.report['prune']} cycles")
