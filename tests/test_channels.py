# SPDX-License-Identifier: Apache-2.0
"""Channels joined to one port: the map, the RTL against it, and refusals."""

import ctypes
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from golden.channels import ChannelsSpec, JoinedSpec
from golden.spatten.spec import PRESETS
from hw.emit import emit
from hw.shell.channels import Joiner
from sim.runner import run
from tests import verilog
from tests.fault_chips import SpattenChip
from tests.test_chip import chip
from tests.test_spatten_networks import small
from vitral.chip_run import Setup, simulate_chip
from vitral.compile.spatten import Choices, compile
from vitral.designs import DESIGNS
from vitral.header import header
from vitral.progress import Progress
from vitral.quantise import integer_images


@pytest.mark.parametrize(("channels", "memory_bytes", "stripe", "depth"), [
    (2, 8, 8, 16), (3, 4, 4, 4), (4, 16, 1, 2)])
def test_join(channels, memory_bytes, stripe, depth, tmp_path):
    """Random reads and writes of all channels; one alone has its beats without a gap."""
    spec = ChannelsSpec(channels=channels, memory_bytes=memory_bytes, stripe=stripe, depth=depth)
    joiner = emit(Joiner(spec), name="joiner")
    verilog.check(joiner.verilog, "joiner", tmp_path)
    done = run(joiner, bench="sim.bench_channels", tests=3, directory=tmp_path)
    if depth > stripe > 1:
        assert done.report["cycles"] == 100 + Joiner.READ_LATENCY


@pytest.mark.parametrize("spec", [
    ChannelsSpec(), ChannelsSpec(channels=3, memory_bytes=4, stripe=8),
    ChannelsSpec(channels=5, stripe=1)])
def test_map(spec):
    """Every beat has a place of its own; joined memory has it there, and comes apart again."""
    random, beats = np.random.default_rng(3), 4 * spec.stripe - 1
    memory = random.integers(1, 256, (beats, spec.channels, spec.memory_bytes)).astype(np.uint8)
    joined = spec.join(memory)
    seen = np.zeros(len(joined), bool)
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


def test_a_network_on_the_chip(tmp_path):
    """The driver runs images of a compiled network, on a bus that stalls; every byte is right."""
    given = SpattenChip()  # whose simulation the fault campaign needs, too
    design = replace(DESIGNS["spatten"], joined=lambda spec: given.channels)
    _, network, images = small("relu", dim=28, heads=2, hidden=36)
    pixels = integer_images(network, images[:2])
    program = compile(network, given.spec, choices=Choices(values=0.6, confident=0.5))
    before = program.memory(pixels)
    programs = [program.operations(n) for n in range(len(pixels))]
    emulator = design.emulator(given.spec, before.copy())
    for one in programs:
        emulator.run(one)
    done = simulate_chip(
        design, given.spec, Setup(shell=given.shell, stalls=30), before, programs,
        simulator="verilator", latency=30, patience=1_000_000, progress=Progress())
    assert done.complaint is None and len(done.cycles) == 2
    np.testing.assert_array_equal(done.memory, emulator.memory.reshape(-1))
    assert done.counters["beats_read"] * given.spec.memory_bytes >= emulator.bytes_read


def test_map_in_c(tmp_path):
    """The header says where beats lie."""
    spec = ChannelsSpec(channels=3, memory_bytes=8, stripe=4)
    (tmp_path / "chip.h").write_text(header("chip", chip().registers, "0" * 64, spec))
    (tmp_path / "place.c").write_text(
        '#include "chip.h"\n'
        "uint32_t place(uint32_t c, uint32_t n) { return vitral_place(c, n); }\n")
    subprocess.run(["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
                    "place.so", "place.c"], cwd=tmp_path, check=True)
    place = ctypes.CDLL(str(tmp_path / "place.so")).place
    for channel, beat in np.random.default_rng(7).integers(0, [3, 1000], (50, 2)).tolist():
        assert place(channel, beat) == spec.place(channel, beat)


def test_wrong():
    with pytest.raises(ValueError, match="^stripe must be a power of two, not 3$"):
        ChannelsSpec(stripe=3)
    with pytest.raises(ValueError, match="^depth must be at least stripe 32, not 16$"):
        ChannelsSpec(depth=16)
    with pytest.raises(ValueError, match="^channels must be 2 as in the core, not 3$"):
        JoinedSpec(core=PRESETS["tiny"], channels=ChannelsSpec(channels=3))
    with pytest.raises(TypeError, match="^spec must be a ChannelsSpec, not 2$"):
        Joiner(2)  # pyright: ignore[reportArgumentType]
