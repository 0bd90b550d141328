# SPDX-License-Identifier: Apache-2.0
"""The local memory of a channel, and the way of writes: RTL against arrays, cycles."""

import pytest

from golden.spatten.spec import PRESETS, SpattenSpec
from hw.emit import emit
from hw.spatten.local import LocalMemory, WriteRouter
from sim.runner import run
from tests import verilog
from tests.simulators import need

SPECS = {
    "tiny": PRESETS["tiny"],
    "one channel": SpattenSpec(channels=1, lanes=16, max_tokens=20, max_heads=2, pairs=2,
                               score_rows=64, prune_lanes=1, outstanding=24, local=16),
    "8 channels": SpattenSpec(channels=8, lanes=64, max_tokens=64, prune_lanes=8, local=64),
}


@pytest.mark.parametrize("name", SPECS)
def test_memory(name, tmp_path):
    need("verilator")
    result = run(LocalMemory(SPECS[name]), bench="sim.bench_spatten_local", testcase="memory",
                 tests=6, directory=tmp_path)
    assert result.report["local"] == LocalMemory.LATENCY
    assert result.report["cycles"][:3] == [64] * 3


@pytest.mark.parametrize("name", SPECS)
def test_router(name, tmp_path):
    need("verilator")
    result = run(WriteRouter(SPECS[name]), bench="sim.bench_spatten_local", testcase="router",
                 tests=5, directory=tmp_path)
    assert result.report["cycles"] == [32] * 3


@pytest.mark.parametrize("block", [LocalMemory, WriteRouter])
def test_verilog(block, tmp_path):
    verilog.check(emit(block(PRESETS["tiny"]), name="block").verilog, "block", tmp_path)


@pytest.mark.parametrize("block", [LocalMemory, WriteRouter])
@pytest.mark.parametrize(("spec", "error", "message"), [
    (3, TypeError, "spec must be a SpattenSpec, not 3"),
    (SpattenSpec(), ValueError, "spec must be one with local memories, not one without"),
])
def test_wrong_argument(block, spec, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        block(spec)
