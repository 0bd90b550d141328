# SPDX-License-Identifier: Apache-2.0
"""A chip against somebody else's idea of AXI: the models of cocotbext-axi."""

import itertools

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from sim.bench import arrays, parameters, report, rng, save


@cocotb.test()
async def run(dut):
    """Load memory, write registers, start, wait for the interrupt; leave memory and registers."""
    settings, dice = parameters(), rng()
    dut.aresetn.value = 0
    Clock(dut.aclk, 10, unit="ns").start()
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.aclk, dut.aresetn,
                         reset_active_level=False)
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn,
                 reset_active_level=False, size=settings["size"])
    if settings["stall"]:
        channels = [getattr(end, name) for port in (ram, host)
                    for end, names in ((port.write_if, ("aw", "w", "b")),
                                       (port.read_if, ("ar", "r")))
                    for name in (f"{one}_channel" for one in names)]
        for channel in channels:
            pauses = (dice.random(997) < settings["stall"]).tolist()
            channel.set_pause_generator(itertools.cycle(pauses))
    await ClockCycles(dut.aclk, 4)
    dut.aresetn.value = 1
    ram.write(settings["base"], arrays()["memory"].tobytes())
    for offset, value in settings["write"]:
        await host.write_dword(offset, value)
    late = Timer(1, "ms")
    assert await First(RisingEdge(dut.irq), late) is not late, "the run must end within 1 ms"
    report(registers=[await host.read_dword(offset) for offset in settings["read"]],
           refused=int((await host.read(settings["nowhere"], 4)).resp))
    content = ram.read(0, settings["size"])
    assert isinstance(content, bytes | bytearray)
    save(memory=np.frombuffer(bytes(content), np.uint8))
