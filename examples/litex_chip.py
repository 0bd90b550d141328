# SPDX-License-Identifier: Apache-2.0
"""A Vitral chip in a LiteX SoC: registers on its bus, memory through a DMA port, an interrupt.

    vitral verilog rowwise --preset ecp5 --level chip --bus 64 -o build

and in the SoC, which has a main memory:

    self.vitral = VitralChip(self.platform, "build/rowwise_ecp5_chip.v")
    self.vitral.connect(self, registers=0x8000_0000)

``build/rowwise_ecp5_chip.h`` is for its firmware, and examples/baremetal.c shows how. Needs LiteX,
the extra ``litex``; tests/test_litex.py generates such a SoC, and runs a program from its bus.
"""

import itertools
import json
from pathlib import Path

from litex.gen import LiteXModule
from litex.soc.integration.soc import SoCRegion
from litex.soc.interconnect import axi
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel
from migen import ClockSignal, Instance, ResetSignal, Signal

CHANNELS = ("aw", "w", "b", "ar", "r")
FIELDS = ("addr", "len", "size", "burst", "lock", "cache", "prot", "qos", "id", "data", "strb",
          "resp", "last", "valid", "ready")


class VitralChip(LiteXModule):
    """Instantiate what ``vitral verilog ... --level chip`` wrote.

    Parameters
    ----------
    platform : LiteX platform, which is given the Verilog.
    source : the ``.v`` file; its ``.json`` must lie beside it.

    Members
    -------
    registers : AXI4-Lite slave.
    memory : AXI4 master.
    """

    def __init__(self, platform, source):
        source = Path(source)
        about = json.loads(source.with_suffix(".json").read_text())
        ports = {port["name"]: port for port in about["ports"]}
        width = ports["m_axi_wdata"]["width"]
        self.registers = axi.AXILiteInterface(data_width=32, address_width=32)
        self.memory = axi.AXIInterface(data_width=width, address_width=32, id_width=1,
                                       bursting=True)
        self.irq = Signal()
        connections = {"i_aclk": ClockSignal("sys"), "i_aresetn": ~ResetSignal("sys"),
                       "o_irq": self.irq}
        for prefix, bus in (("s_axil", self.registers), ("m_axi", self.memory)):
            for channel, name in itertools.product(CHANNELS, FIELDS):
                port = ports.get(f"{prefix}_{channel}{name}")
                signal = getattr(getattr(bus, channel), name, None)
                if port is None or (signal is None and port["direction"] == "output"):
                    continue
                kind = "i" if port["direction"] == "input" else "o"
                connections[f"{kind}_{port['name']}"] = (
                    0 if signal is None else signal[:port["width"]])
        self.specials += Instance(about["name"], **connections)
        platform.add_source(str(source))
        self.ev = EventManager()
        self.ev.run = EventSourceLevel()
        self.ev.finalize()
        self.comb += self.ev.run.trigger.eq(self.irq)

    def connect(self, soc, *, registers, name="vitral"):
        """Put the registers at a bus address of the SoC, the master on its DMA bus, and the irq."""
        region = SoCRegion(origin=registers, size=0x1000, cached=False)
        soc.bus.add_slave(name=name, slave=self.registers, region=region)
        bus = getattr(soc, "dma_bus", soc.bus)
        bus.add_master(name=name, master=self.memory)
        if soc.irq.enabled:  # there is a CPU
            soc.irq.add(name, use_loc_if_exists=True)
