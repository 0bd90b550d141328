# SPDX-License-Identifier: Apache-2.0
"""Serve a host that is another process: see :class:`sim.board.SimulatedPort`."""

import cocotb
from cocotb.triggers import ClockCycles, Timer
from cocotb.utils import get_sim_time

from golden.uart import UartSpec
from sim.bench import answer, parameters, start
from sim.serial import Line

PERIOD = 10  # ns


async def read(line, request):
    """Return bytes as they come, as soon as there are enough or nothing comes for long."""
    known = -1
    while len(line.received) < request["count"] and known != len(line.received):
        known = len(line.received)
        await line.until(request["count"], request["patience"])
    found = bytes(line.received[:request["count"]])
    del line.received[:len(found)]
    return found.hex()


async def write(line, request):
    """Send bytes."""
    await line.send(bytes.fromhex(request["content"]))


async def sleep(_, request):
    """Let time pass."""
    await Timer(request["cycles"] * PERIOD, "ns")


async def time(*_):
    """Return cycles."""
    return int(get_sim_time("ns")) // PERIOD


ACTIONS = {action.__name__: action for action in (read, write, sleep, time)}


@cocotb.test()
async def serve(dut):
    """Do what the host asks, until it hangs up."""
    settings = parameters()
    await start(dut)
    line = Line(dut, UartSpec(divisor=settings["divisor"]))
    await ClockCycles(dut.clk, 2 * line.spec.cycles(1))
    await answer(settings["socket"], ACTIONS, line)
