# SPDX-License-Identifier: Apache-2.0
"""A LiteX SoC around a chip, as examples/litex_chip.py puts it there, with its bus on pins.

``python tests/litex_soc.py CHIP.v OUTPUT.v``; a process of its own, as LiteX logs and keeps state.
"""

import importlib.util
import sys
from pathlib import Path

from litex.build.generic_platform import GenericPlatform, Pins, Subsignal
from litex.build.io import CRG
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import wishbone
from migen.genlib.record import DIR_M_TO_S

RAM, REGISTERS = 0x40000000, 0x80000000


def example():
    """Return the example as a module."""
    path = Path(__file__).parents[1] / "examples" / "litex_chip.py"
    spec = importlib.util.spec_from_file_location("litex_chip", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Soc(SoCMini):
    """16 KB of memory, the chip, and a host on the pins."""

    def __init__(self, platform, source):
        super().__init__(platform, clk_freq=int(50e6), integrated_main_ram_size=0x4000)
        assert self.mem_map["main_ram"] == RAM
        self.crg = CRG(platform.request("sys_clk"), platform.request("sys_rst"))
        host, pads = platform.host, platform.request("host")
        for name, _, direction in host.layout:
            ends = getattr(host, name), getattr(pads, name)
            target, origin = ends if direction == DIR_M_TO_S else reversed(ends)
            self.comb += target.eq(origin)
        self.bus.add_master(name="host", master=host)
        self.vitral = example().VitralChip(platform, source)
        self.vitral.connect(self, registers=REGISTERS)
        self.comb += platform.request("irq").eq(self.vitral.irq)


def main(source, output):
    """Write the Verilog of the SoC."""
    host = wishbone.Interface(data_width=32, address_width=32, addressing="word")
    pins = [(name, 0, Pins(1)) for name in ("sys_clk", "sys_rst", "irq")]
    pins.append(("host", 0, *(Subsignal(name, Pins(len(getattr(host, name))))
                              for name, _, _ in host.layout)))
    platform = GenericPlatform("none", pins, name="soc")
    platform.host = host
    soc = Soc(platform, source)
    soc.finalize()
    platform.get_verilog(soc, name="soc").write(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
