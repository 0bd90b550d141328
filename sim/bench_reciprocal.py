# SPDX-License-Identifier: Apache-2.0
"""Take reciprocals of all sums where they are few, else of corners and random ones."""

import cocotb
import numpy as np
from amaranth.hdl import unsigned
from amaranth.lib.data import StructLayout
from cocotb.utils import get_sim_time

from golden.reciprocal import ReciprocalSpec
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource


def stimulus(spec, random):
    """Return sums and multipliers."""
    if spec.sum_width <= 10:
        sums = np.arange(1 << spec.sum_width)
    else:
        powers = 1 << np.arange(spec.sum_width)
        sums = random.integers(0, 1 << spec.sum_width, 1000)
        sums = np.concatenate([powers, powers - 1, 2 * powers - 1,
                               sums >> random.integers(0, spec.sum_width, 1000)])
    sums = random.permutation(np.tile(sums, 2))
    mul = random.integers(0, 1 << spec.mul_width, len(sums))
    return sums, np.where(random.random(len(sums)) < 0.2, (1 << spec.mul_width) - 1, mul)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize((("stall", "after_valid"), [(0.0, False), (0.4, False), (0.0, True)]))
async def equals_golden(dut, stall, after_valid):
    spec = ReciprocalSpec(**parameters())
    sums, mul = stimulus(spec, rng())
    await start(dut)
    begin = get_sim_time("ns")
    source = StreamSource(dut, "i", StructLayout(
        {"sum": unsigned(spec.sum_width), "mul": unsigned(spec.mul_width)}), stall=stall)
    sink = StreamSink(dut, "o", StructLayout(
        {"factor": unsigned(16), "exponent": unsigned(spec.exponent_width)}), stall=stall,
        after_valid=after_valid)
    cocotb.start_soon(source.send(
        {"sum": s, "mul": m} for s, m in zip(sums.tolist(), mul.tolist())))
    received = await sink.receive(len(sums))
    factor, k = spec.compute(np.maximum(sums, 1), mul)
    np.testing.assert_array_equal([one["factor"] for one in received], factor)
    np.testing.assert_array_equal([one["exponent"] for one in received], k)
    if not stall and not after_valid:
        report(cycles=(get_sim_time("ns") - begin) / 10, payloads=len(sums))
