# SPDX-License-Identifier: Apache-2.0
"""Drive a MAC array step by step, and compare each tile with the golden accumulators."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles
from cocotb.utils import get_sim_time

from golden.fixed import bounds
from golden.mac import MacSpec
from hw.array import step_layout, tile_layout
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource


def operands(spec, random, corner):
    """Return a step's operands: random, or all at the ends of their ranges."""
    a_range, b_range = bounds(spec.a_width), bounds(spec.b_width)
    if corner:
        return (np.full((spec.rows, spec.depth), random.choice(a_range)),
                np.full((spec.columns, spec.depth), random.choice(b_range)))
    return (random.integers(*a_range, (spec.rows, spec.depth), endpoint=True),
            random.integers(*b_range, (spec.columns, spec.depth), endpoint=True))


def tiles(spec, random, split, count):
    """Return steps that begin and end tiles at random, and what each group has to offer.

    No sum is longer than ``max_contraction``, but corners use all of it. With two groups, either
    of them may pause, and they begin and end on their own.
    """
    longest = spec.max_contraction // spec.depth
    rows = [range(spec.rows)] if spec.groups == 1 else [range(split), range(split, spec.rows)]
    acc = np.zeros((spec.rows, spec.columns, spec.accumulators), dtype=np.int64)
    left, corner, fresh = [0] * spec.groups, False, [True] * spec.groups
    steps, expected = [], [[] for _ in range(spec.groups)]
    lanes = "dot" not in spec.modes
    for n in range(count):
        if not any(left):
            lanes = bool(random.integers(2)) if len(spec.modes) == 2 else lanes
            corner = random.random() < 0.3
        if not any(left) or not corner:
            a, b = operands(spec, random, corner)
        step = {"a": a.tolist(), "b": b.tolist(), "first": 0, "last": 0, "enable": 0,
                "lanes": lanes}
        for g, own in enumerate(rows):
            if n < count - 1 and random.random() < 0.2:  # a pause, in which all else is noise
                step["first"] |= int(random.integers(2)) << g
                step["last"] |= int(random.integers(2)) << g
                continue
            if not left[g]:
                left[g] = longest if corner else int(random.integers(1, longest + 1))
                fresh[g] = True
            left[g] -= 1
            if n == count - 1:
                left[g] = 0
            step["enable"] |= 1 << g
            step["first"] |= fresh[g] << g
            step["last"] |= (not left[g]) << g
            for r in own:
                row = acc[r:r + 1] if lanes else acc[r:r + 1, :, 0]
                add = spec.lanes if lanes else spec.dot
                row[:] = add(a[None, r:r + 1], b[None], acc=0 if fresh[g] else row)
            fresh[g] = False
            if not left[g]:
                expected[g].append((lanes, acc[own.start:own.stop].copy()))
        steps.append(step if len(spec.modes) == 2 else
                     {key: value for key, value in step.items() if key != "lanes"})
    return steps, expected, rows


async def compare(dut, spec, *, count, split=0, stalls=(0.0, 0.0), salt=0):
    """Send ``count`` steps, and return the cycles until the last tile."""
    steps, expected, rows = tiles(spec, rng(salt), split, count)
    if spec.splittable:
        dut.split.value = split
    names = ["o"] if spec.groups == 1 else [f"o__{g}" for g in range(spec.groups)]
    sinks = [StreamSink(dut, name, tile_layout(spec), stall=stalls[1], seed=salt) for name in names]
    source = StreamSource(dut, "i", step_layout(spec), stall=stalls[0], seed=salt)
    begin = get_sim_time("ns")
    sending = cocotb.start_soon(source.send(steps))
    receiving = [cocotb.start_soon(sink.receive(len(all_tiles)))
                 for sink, all_tiles in zip(sinks, expected, strict=True)]
    for own, task, all_tiles in zip(rows, receiving, expected, strict=True):
        for tile, (lanes, acc) in zip(await task, all_tiles, strict=True):
            kept = slice(None) if lanes else slice(1)
            got = np.array(tile["acc"])[own.start:own.stop]
            np.testing.assert_array_equal(got[..., kept], acc[..., kept])
    await sending
    return (get_sim_time("ns") - begin) / 10


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(stalls=[(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.3)])
async def equals_golden(dut, stalls):
    """Any mixture of tiles, pauses and stalls gives the golden sums; unstalled, in exact time."""
    spec = MacSpec(**parameters())
    for salt, split in enumerate([1, 0, spec.rows, spec.rows // 2] if spec.splittable else [0]):
        await start(dut)
        cycles = await compare(dut, spec, count=120, split=split, stalls=stalls, salt=salt)
        if stalls == (0.0, 0.0):
            assert cycles == spec.cycles(120), f"cycles must be {spec.cycles(120)}, not {cycles}"
            report(cycles=cycles)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def forgets_at_reset(dut):
    """A reset while tiles wait leaves nothing behind."""
    spec = MacSpec(**parameters())
    await start(dut)
    steps = tiles(spec, rng(), 0, 40)[0]
    sending = cocotb.start_soon(StreamSource(dut, "i", step_layout(spec)).send(steps))
    await ClockCycles(dut.clk, 20)  # nobody takes a tile
    assert not dut.i__ready.value
    sending.cancel()
    await start(dut)
    await compare(dut, spec, count=40, salt=1)
