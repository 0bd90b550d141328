# SPDX-License-Identifier: Apache-2.0
"""Channels joined to one port: the map, the RTL against it, and refusals."""

import numpy as np
import pytest

from golden.channels import ChannelsSpec, JoinedSpec
from golden.spatten.spec import PRESETS
from hw.shell.channels import Join
from sim.runner import run


@pytest.mark.parametrize(("channels", "memory_bytes", "stripe", "depth"), [
    (2, 8, 8, 16), (3, 4, 4, 4), (4, 16, 1, 2)])
def test_join(channels, memory_bytes, stripe, depth, tmp_path):
    """Random reads and writes of all channels; one alone has its beats without a gap."""
    spec = ChannelsSpec(channels=channels, memory_bytes=memory_bytes, stripe=stripe, depth=depth)
    done = run(Join(spec), name="joined", bench="sim.bench_channels", tests=3, directory=tmp_path)
    if depth > stripe > 1:
        assert done.report["cycles"] == 100 + Join.READ_LATENCY


@pytest.mark.parametrize("spec", [
    ChannelsSpec(), ChannelsSpec(channels=3, memory_bytes=4, stripe=8),
    ChannelsSpec(channels=5, stripe=1)])
def test_map(spec):
    """Every beat has a place of its own; joined memory has it there, and comes apart again."""
    random, beats = np.random.default_rng(3), 4 * spec.stripe - 1
    memory = random.integers(1, 256, (beats, spec.channels, spec.memory_bytes)).astype(np.uint8)
    joined, seen = spec.join(memory), np.zeros(4 * spec.row_bytes, bool)
    for channel in range(spec.channels):
        for beat in range(beats):
            place = slice(spec.place(channel, beat), spec.place(channel, beat) + spec.memory_bytes)
            np.testing.assert_array_equal(joined[place], memory[beat, channel])
            assert not seen[place].any()
            seen[place] = True
        for first, count in ((0, 1), (1, 2 * spec.stripe), (spec.stripe - 1, 2)):
            pieces = spec.pieces(channel, first * spec.memory_bytes, count)
            assert [place + n * spec.memory_bytes for place, size in pieces for n in range(size)] \
                == [spec.place(channel, first + n) for n in range(count)]
            assert all(place % (spec.stripe * spec.memory_bytes) == 0 for place, _ in pieces[1:])
    assert not joined[~seen].any()
    np.testing.assert_array_equal(spec.part(joined)[:beats], memory)
    assert spec.place(0, 1 << 32) == (1 << 32) - spec.memory_bytes


def test_wrong():
    with pytest.raises(ValueError, match="^stripe must be a power of two, not 3$"):
        ChannelsSpec(stripe=3)
    with pytest.raises(ValueError, match="^depth must be at least stripe 32, not 16$"):
        ChannelsSpec(depth=16)
    with pytest.raises(ValueError, match="^channels must be 2 as in the core, not 3$"):
        JoinedSpec(core=PRESETS["tiny"], channels=ChannelsSpec(channels=3))
    with pytest.raises(TypeError, match="^spec must be a ChannelsSpec, not 2$"):
        Join(2)
