# SPDX-License-Identifier: Apache-2.0
"""Drive the example of the tests: a dot product with weights that come from a memory."""

import cocotb
from amaranth.hdl import signed
from amaranth.lib.data import ArrayLayout
from cocotb.utils import get_sim_time

from sim.bench import arrays, parameters, report, rng, save, start
from sim.stream import StreamSink, StreamSource


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.5], after_valid=[False, True])
async def sums(dut, stall, after_valid):
    lanes = parameters()["lanes"]
    rows = rng().integers(-128, 128, (200, lanes))
    shape = ArrayLayout(signed(8), lanes)
    await start(dut)
    begin = get_sim_time("ns")
    source = StreamSource(dut, "i", shape, stall=stall)
    sink = StreamSink(dut, "o", signed(24), stall=stall, after_valid=after_valid)
    cocotb.start_soon(source.send(rows))
    received = await sink.receive(len(rows))
    weight = arrays()["weight"]
    assert received == (rows @ weight).tolist()
    if not stall and not after_valid:
        save(received=received)
        report(cycles=(get_sim_time("ns") - begin) / 10)
