# SPDX-License-Identifier: Apache-2.0
"""Benches of a whole core: see :func:`sim.core.simulate`, which prepares and judges them."""

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from sim.bench import parameters, report, start

INPUTS = ("first_operation", "last_operation", "latency", "limit", "fault_low", "fault_high",
          "stall_operation", "stall_completion", "stall_read", "stall_write")


async def prepare(dut):
    """Set the test bench up and reset the core; return the settings."""
    settings = parameters()
    dut.dump.value = 0
    for name in INPUTS:
        getattr(dut, name).value = settings[name]
    await start(dut)
    return settings


async def finish(dut, settings):
    """Wait for all completions, or fail after too long a silence; then dump the memory."""
    seen, silent = -1, 0
    while not dut.finished.value:
        await ClockCycles(dut.clk, 500)
        now = int(dut.completions.value)
        silent = 0 if now != seen else silent + 500
        seen = now
        assert silent < settings["quiet_cycles"], (
            f"the core hangs: {now} operations completed, none for {silent} cycles")
    await RisingEdge(dut.clk)
    dut.dump.value = 1
    await ClockCycles(dut.clk, 2)


@cocotb.test()
async def run(dut):
    """Offer all operations, wait for all completions."""
    settings = await prepare(dut)
    await finish(dut, settings)


@cocotb.test()
async def reset_in_the_middle(dut):
    """Reset after ``reset_after`` cycles, then run another range of operations to its end."""
    settings = await prepare(dut)
    await ClockCycles(dut.clk, settings["reset_after"])
    report(completed_before_reset=int(dut.completions.value))
    dut.rst.value = 1
    dut.first_operation.value = settings["again_from"]
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    await finish(dut, settings)
