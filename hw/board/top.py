# SPDX-License-Identifier: Apache-2.0
"""A chip with memory and a serial line: all of a board but its pins."""

from amaranth.hdl import ClockDomain, DomainRenamer, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden.board import BoardSpec
from hw.board.bridge import ACCESS, RESULT, Bridge
from hw.board.memory import BoardMemory
from hw.shell.chip import Chip, axi
from hw.shell.registers import axil


class RegisterAccess(wiring.Component):
    """Accesses to words, as the master of AXI4-Lite; one at a time.

    Latency: that of the slave, and 1 cycle. Addresses beyond the slave's are cut.

    Members
    -------
    m_axil_* : the bus.
    access, result : accesses, and one result for each.
    """

    def __init__(self, address_width: int):
        self._address_width = address_width
        super().__init__({name.replace("s_axil", "m_axil"):
                          (In if member.flow == Out else Out)(member.shape)
                          for name, member in axil(address_width).items()} | {
            "access": In(stream.Signature(ACCESS)), "result": Out(stream.Signature(RESULT))})

    def elaborate(self, platform):
        m = Module()
        asked, told = self.access.payload, self.result.payload
        pending = Signal()
        m.d.comb += [
            self.access.ready.eq(~pending),
            self.m_axil_bready.eq(self.result.ready), self.m_axil_rready.eq(self.result.ready),
            self.result.valid.eq(self.m_axil_bvalid | self.m_axil_rvalid),
            told.data.eq(self.m_axil_rdata),
            told.response.eq(Mux(self.m_axil_bvalid, self.m_axil_bresp, self.m_axil_rresp)),
            self.m_axil_wstrb.eq(~0),
        ]
        for name in ("aw", "w", "ar"):
            valid = getattr(self, f"m_axil_{name}valid")
            with m.If(getattr(self, f"m_axil_{name}ready")):
                m.d.sync += valid.eq(0)
        with m.If(self.access.valid & self.access.ready):
            m.d.sync += [
                pending.eq(1), self.m_axil_awvalid.eq(asked.write),
                self.m_axil_wvalid.eq(asked.write), self.m_axil_arvalid.eq(~asked.write),
                self.m_axil_awaddr.eq(asked.address), self.m_axil_araddr.eq(asked.address),
                self.m_axil_wdata.eq(asked.data),
            ]
        with m.Elif(self.result.valid & self.result.ready):
            m.d.sync += pending.eq(0)
        return m


class Board(wiring.Component):
    """A chip, memory behind its AXI4 master, and a bridge to both; one clock.

    ::

        rx, tx <-> Bridge -> RegisterAccess -> Chip <-> BoardMemory
                     |                                       |
                     +---------------------------------------+

    Registers lie at their offsets, memory at the bus addresses of ``spec.memory``, which the chip
    has too.

    Parameters
    ----------
    chip : the chip.
    spec : BoardSpec

    Members
    -------
    clk, rst : clock, and synchronous reset.
    rx, tx : serial line.
    irq : the chip's.
    """

    def __init__(self, chip: Chip, spec: BoardSpec):
        if not isinstance(spec, BoardSpec):
            raise TypeError(f"spec must be a BoardSpec, not {spec!r}")
        self.chip, self.spec = chip, spec
        super().__init__({"clk": In(1), "rst": In(1), "rx": In(1), "tx": Out(1),
                          "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        chip, spec = self.chip, self.spec
        # not ``sync``, of which the chip has its own
        m.domains.board = domain = ClockDomain("board", local=True)
        in_board = DomainRenamer("board")
        m.submodules.chip = chip
        m.submodules.bridge = bridge = in_board(Bridge(spec.bridge))
        m.submodules.memory = memory = in_board(
            BoardMemory(spec.memory, chip.spec.shell.data_width))
        m.submodules.registers = registers = in_board(
            RegisterAccess(chip.registers.address_width))
        m.d.comb += [
            domain.clk.eq(self.clk), domain.rst.eq(self.rst),
            chip.aclk.eq(self.clk), chip.aresetn.eq(~self.rst), self.irq.eq(chip.irq),
            bridge.rx.eq(self.rx), self.tx.eq(bridge.tx),
        ]
        for names, ours, theirs, there in (
                (axi(chip.spec.shell.data_width), "m_axi", memory, "s_axi"),
                (axil(chip.registers.address_width), "s_axil", registers, "m_axil")):
            for name, member in names.items():
                one, other = getattr(chip, name), getattr(theirs, name.replace(ours, there))
                m.d.comb += other.eq(one) if member.flow == Out else one.eq(other)

        # Accesses go to one of two; there is one under way
        to_memory = Signal()
        with m.If(bridge.access.valid & bridge.access.ready):
            m.d.board += to_memory.eq(bridge.access.payload.memory)
        for chosen, held, end in (
                (bridge.access.payload.memory, to_memory, memory),
                (~bridge.access.payload.memory, ~to_memory, registers)):
            m.d.comb += [
                end.access.payload.eq(bridge.access.payload),
                end.access.valid.eq(bridge.access.valid & chosen),
                end.result.ready.eq(bridge.result.ready & held),
            ]
            with m.If(chosen):
                m.d.comb += bridge.access.ready.eq(end.access.ready)
            with m.If(held):
                m.d.comb += [bridge.result.valid.eq(end.result.valid),
                             bridge.result.payload.eq(end.result.payload)]
        return m
