# SPDX-License-Identifier: Apache-2.0
import cocotb
from cocotb.triggers import RisingEdge

from sim.bench import parameters, report, start


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def replay(dut):
    outputs = []
    await start(dut)
    for a, b, c in parameters():
        dut.a.value, dut.b.value, dut.c.value = a, b, c
        await RisingEdge(dut.clk)
        outputs.append(int(dut.y.value))
    report(y=outputs)
