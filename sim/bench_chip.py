# SPDX-License-Identifier: Apache-2.0
"""Serve a host that is another process: see :class:`sim.chip.ChipSimulation`."""

import cocotb
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer

from sim.bench import answer, parameters, start

PERIOD = 10  # ns


async def access(dut, request):
    """Read or write a register; return response and data."""
    dut.go_write.value = request["write"]
    dut.go_address.value = request["offset"]
    dut.go_data.value = request["value"]
    dut.go_strobe.value = request["strobe"]
    dut.go.value = 1
    late = Timer(request["patience"] * PERIOD, "ns")
    assert await First(RisingEdge(dut.done), late) is not late, "the chip must answer its host"
    await ClockCycles(dut.clk, 1)
    response, data = int(dut.done_response.value), int(dut.done_data.value)
    dut.go.value = 0
    await ClockCycles(dut.clk, 2)
    return [response, data]


async def strobe(dut, request):
    """Load or dump words of the memory."""
    dut.first_word.value, dut.last_word.value = request["first"], request["last"]
    await Timer(1, "ns")
    signal = dut.load if request["load"] else dut.dump
    signal.value = 1
    await ClockCycles(dut.clk, 1)
    signal.value = 0
    await ClockCycles(dut.clk, 1)


async def wait(dut, request):
    """Let time pass, up to the interrupt if that is asked for; return whether it is there."""
    late = Timer(request["cycles"] * PERIOD, "ns")
    if not request["interrupt"]:
        await late
    elif not dut.irq.value:
        await First(RisingEdge(dut.irq), late)
    return bool(dut.irq.value)


async def change(dut, request):
    """Change settings of the bench; with ``rst``, reset the chip."""
    for name, value in request["settings"].items():
        getattr(dut, name).value = value
    await ClockCycles(dut.clk, 2)


async def look(dut, request):
    """Return signals of the bench."""
    return [int(getattr(dut, name).value) for name in request["names"]]


ACTIONS = {action.__name__: action for action in (access, strobe, wait, change, look)}


@cocotb.test()
async def serve(dut):
    """Do what the host asks, until it hangs up; then no rule may have been broken."""
    settings = parameters()
    for name in ("go", "load", "dump", "clear_marks"):
        getattr(dut, name).value = 0
    for name, value in settings["settings"].items():
        getattr(dut, name).value = value
    await start(dut)
    await ClockCycles(dut.clk, 2)
    await answer(settings["socket"], ACTIONS, dut)
    violation = int(dut.violation.value)
    assert violation == 0, f"the chip must keep the rules of AXI, but broke number {violation}"
