# SPDX-License-Identifier: Apache-2.0
"""Send words through slices, queues, width converters and arbiters, and see how they come out."""

import cocotb
import numpy as np
from amaranth.lib import data
from cocotb.utils import get_sim_time

from golden.stream import WidthConverterSpec
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource

STALLS = [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.3, 0.3)]


def random_words(random, width, count):
    """Return ``count`` integers of ``width`` bits."""
    return [int.from_bytes(random.bytes(width // 8 + 1), "little") % (1 << width)
            for _ in range(count)]


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(stalls=STALLS)
async def keeps_order(dut, stalls):
    """Words come out as the golden model says; unstalled, in exact time."""
    spec = WidthConverterSpec(**parameters())
    words = random_words(rng(), spec.in_width, 60 * spec.parts)
    expected = spec.compute(words)
    await start(dut)
    source = StreamSource(dut, "i", spec.in_width, stall=stalls[0])
    sink = StreamSink(dut, "o", spec.out_width, stall=stalls[1], after_valid=stalls[1] > 0.5)
    begin = get_sim_time("ns")
    cocotb.start_soon(source.send(words))
    assert await sink.receive(len(expected)) == expected
    if stalls == (0.0, 0.0):
        report(cycles=(get_sim_time("ns") - begin) / 10, words=len(words))


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(stalls=STALLS)
async def merges_fairly(dut, stalls):
    """Each input keeps its order; while all inputs offer, they take turns."""
    inputs, width = parameters()["inputs"], parameters()["width"]
    words = [random_words(rng(n), width, 50) for n in range(inputs)]
    await start(dut)
    layout = data.StructLayout({"source": range(inputs), "payload": width})
    sink = StreamSink(dut, "o", layout, stall=stalls[1])
    for n in range(inputs):
        source = StreamSource(dut, f"i__{n}", width, stall=stalls[0])
        cocotb.start_soon(source.send(words[n]))
    begin = get_sim_time("ns")
    merged = await sink.receive(50 * inputs)
    for n in range(inputs):
        assert [item["payload"] for item in merged if item["source"] == n] == words[n]
    if not stalls[0]:
        sources = [item["source"] for item in merged]
        np.testing.assert_array_equal(sources, np.arange(50 * inputs) % inputs)
    if stalls == (0.0, 0.0):
        report(cycles=(get_sim_time("ns") - begin) / 10)
