# SPDX-License-Identifier: Apache-2.0
"""Give inputs cycle by cycle, and keep what comes out."""

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge

from sim.bench import arrays, save, start

OUTPUTS = ("wide", "narrow", "bytes", "nine", "whole", "natural", "more")


@cocotb.test()
async def record(dut):
    inputs = arrays()
    for name in inputs:
        getattr(dut, name).value = 0
    await start(dut)
    found = {name: [] for name in OUTPUTS}
    await FallingEdge(dut.clk)
    for n in range(len(inputs["at"])):
        for name, values in inputs.items():
            getattr(dut, name).value = int(values[n])
        await FallingEdge(dut.clk)
        for name, values in found.items():
            values.append(getattr(dut, name).value.to_unsigned())
    save(**{name: np.array(values) for name, values in found.items()})
