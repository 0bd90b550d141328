# SPDX-License-Identifier: Apache-2.0
"""Requantise corners, edges of saturation and random numbers; narrow ones exhaustively."""

import itertools

import cocotb
import numpy as np
from amaranth.hdl import signed, unsigned
from amaranth.lib.data import ArrayLayout, StructLayout
from cocotb.utils import get_sim_time

from golden.fixed import bounds
from golden.requant import RequantSpec
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource


def stimulus(spec, random):
    """Return payloads (number, 3, lanes) of accumulators, multipliers and shifts."""
    (low, high), top = bounds(spec.acc_width), (1 << spec.mul_width) - 1
    last = (1 << spec.shift_width) - 1
    if spec.acc_width + spec.mul_width + spec.shift_width <= 12:
        parts = [itertools.product(range(low, high + 1), range(top + 1), range(last + 1))]
    else:
        count = 1500
        shift = random.integers(0, last + 1, count)
        mul = random.integers(0, top + 1, count) >> random.integers(0, spec.mul_width, count)
        acc = random.integers(low, high + 1, count) >> random.integers(0, spec.acc_width, count)
        # Accumulators whose results are about to saturate.
        edge = random.choice(bounds(spec.out_width), count).astype(float)
        near = np.rint((edge + random.normal(0, 0.7, count)) * 2.0**shift / np.maximum(mul, 1))
        near = np.clip(near, float(low), float(high)).astype(np.int64)
        corners = itertools.product([low, low + 1, -1, 0, 1, high - 1, high], [0, 1, top - 1, top],
                                    range(last + 1))
        parts = [corners, zip(acc, mul, shift), zip(np.clip(near, low, high), mul, shift)]
    rows = random.permutation(np.array(list(itertools.chain(*parts)), dtype=np.int64))
    rows = np.concatenate([rows, rows[:-len(rows) % spec.lanes]])
    return rows.reshape(-1, spec.lanes, 3).transpose(0, 2, 1)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize((("stall", "after_valid"), [(0.0, False), (0.4, False), (0.0, True)]))
async def equals_golden(dut, stall, after_valid):
    spec = RequantSpec(**parameters())
    payloads = stimulus(spec, rng())
    await start(dut)
    begin = get_sim_time("ns")
    source = StreamSource(dut, "i", StructLayout({
        "acc": ArrayLayout(signed(spec.acc_width), spec.lanes),
        "mul": ArrayLayout(unsigned(spec.mul_width), spec.lanes),
        "shift": ArrayLayout(unsigned(spec.shift_width), spec.lanes),
    }), stall=stall)
    sink = StreamSink(dut, "o", ArrayLayout(signed(spec.out_width), spec.lanes), stall=stall,
                      after_valid=after_valid)
    cocotb.start_soon(source.send(
        {"acc": acc, "mul": mul, "shift": shift} for acc, mul, shift in payloads.tolist()))
    received = await sink.receive(len(payloads))
    np.testing.assert_array_equal(received, spec.compute(*payloads.transpose(1, 0, 2)))
    if not stall and not after_valid:
        report(cycles=(get_sim_time("ns") - begin) / 10, payloads=len(payloads))
