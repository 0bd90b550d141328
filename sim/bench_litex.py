# SPDX-License-Identifier: Apache-2.0
"""The bus of a LiteX SoC in which there is a chip: its host is a Wishbone master on the pins."""

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer

from sim.bench import arrays, parameters, report, save


async def access(dut, address, value=None):
    """Write a word, or read one; a classic cycle, which must not end with an error."""
    dut.host_adr.value = address // 4
    dut.host_dat_w.value = value or 0
    dut.host_we.value = value is not None
    dut.host_sel.value = 15
    dut.host_cyc.value = dut.host_stb.value = 1
    await RisingEdge(dut.sys_clk)
    while not dut.host_ack.value:
        assert not dut.host_err.value, f"the bus must answer at {address:#x}"
        await RisingEdge(dut.sys_clk)
    found = int(dut.host_dat_r.value)
    dut.host_cyc.value = dut.host_stb.value = 0
    await RisingEdge(dut.sys_clk)
    return found


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def run(dut):
    """Load memory, write registers, start, wait for the interrupt; leave memory and registers."""
    settings = parameters()
    for name in ("host_cyc", "host_stb", "host_we", "host_cti", "host_bte"):
        getattr(dut, name).value = 0
    dut.sys_rst.value = 1
    Clock(dut.sys_clk, 20, unit="ns").start()
    await ClockCycles(dut.sys_clk, 4)
    dut.sys_rst.value = 0
    words = np.frombuffer(arrays()["memory"].tobytes(), "<u4")
    for n, word in enumerate(words.tolist()):
        await access(dut, settings["ram"] + 4 * n, word)
    for address, value in settings["write"]:
        await access(dut, address, value)
    late = Timer(1, "ms")
    if not dut.irq.value:
        assert await First(RisingEdge(dut.irq), late) is not late, "the run must end within 1 ms"
    report(registers=[await access(dut, address) for address in settings["read"]])
    found = [await access(dut, settings["ram"] + 4 * n) for n in range(len(words))]
    save(memory=np.array(found, "<u4").view(np.uint8))
