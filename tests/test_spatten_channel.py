# SPDX-License-Identifier: Apache-2.0
"""A channel of the SpAtten core: RTL against numpy, beats per cycle, what it emits."""

import dataclasses

import pytest

from golden.spatten.spec import PRESETS, SpattenSpec
from hw.emit import emit
from hw.spatten.channel import Channel
from sim.runner import run
from tests import verilog

SMALL = SpattenSpec(channels=1, lanes=8, max_tokens=12, max_heads=2, pairs=2, score_rows=32,
                    selectors=1, value_queue=4, prune_lanes=1, output_queue=2, outstanding=8)
SPECS = {
    "tiny": (PRESETS["tiny"], 1),
    "one channel": (SMALL, 0),
    "four channels": (dataclasses.replace(
        SMALL, channels=4, max_tokens=256, pairs=8, score_rows=128, selectors=2, value_queue=32,
        prune_lanes=4, output_queue=4, outstanding=64), 3),
    "four channels, local": (dataclasses.replace(
        SMALL, channels=4, lanes=16, max_tokens=64, pairs=4, score_rows=64, prune_lanes=4,
        local=16, max_width=16), 2),
    "64 lanes": (dataclasses.replace(
        PRESETS["paper"], channels=2, max_tokens=64, score_rows=64, prune_lanes=2), 1),
}
RATES = {
    "pairs": 0.97, "pairs masked": 0.97, "pairs values": 0.97, "pairs masked values": 0.95,
    "low": 0.95, "low masked": 0.95, "4 bits": 0.95, "4 bits masked": 0.95,
    "values alone": 0.97,
}


@pytest.mark.parametrize("name", SPECS)
def test_equals_numpy(name, tmp_path):
    spec, index = SPECS[name]
    result = run(Channel(spec, index), bench="sim.bench_spatten_channel",
                 parameters={"spec": dataclasses.asdict(spec), "index": index}, directory=tmp_path)
    assert not spec.local or result.report["adding"] == 1


def test_a_beat_per_cycle(tmp_path):
    """With what the ``paper`` preset has per channel, and narrow lanes."""
    spec = dataclasses.replace(PRESETS["paper"], lanes=8, local=0)
    result = run(Channel(spec, 5), bench="sim.bench_spatten_channel",
                 testcase="a_beat_per_cycle", directory=tmp_path,
                 parameters={"spec": dataclasses.asdict(spec), "index": 5, "kinds": list(RATES)})
    for kind, (rate, beats) in result.report["rates"].items():
        print(f"{kind}: {100 * rate:.1f} % of {beats} beats")
        assert beats > 800
    for kind, (rate, _) in result.report["rates"].items():
        assert rate >= RATES[kind], kind
    assert set(result.report["rates"]) == set(RATES)


def test_verilog(tmp_path):
    verilog.check(emit(Channel(PRESETS["tiny"], 1), name="channel").verilog, "channel", tmp_path)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((3,), TypeError, "spec must be a SpattenSpec, not 3"),
    ((PRESETS["tiny"], 2), ValueError, "index must be an integer from 0 to 1, not 2"),
])
def test_wrong_argument(arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        Channel(*arguments)
