# SPDX-License-Identifier: Apache-2.0
"""Registers on AXI4-Lite, made from their description."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden.registers import WORD, RegisterMap

OKAY, SLVERR = 0, 2


def axil(address_width: int) -> dict[str, wiring.Member]:
    """Return the ports of an AXI4-Lite slave."""
    return {f"s_axil_{name}": member for name, member in {
        "awaddr": In(address_width), "awprot": In(3), "awvalid": In(1), "awready": Out(1),
        "wdata": In(WORD), "wstrb": In(WORD // 8), "wvalid": In(1), "wready": Out(1),
        "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
        "araddr": In(address_width), "arprot": In(3), "arvalid": In(1), "arready": Out(1),
        "rdata": Out(WORD), "rresp": Out(2), "rvalid": Out(1), "rready": In(1),
    }.items()}


class Registers(wiring.Component):
    """The registers of a map, as a slave that takes one access of each direction at a time.

    An access takes 3 cycles. SLVERR, without any effect, answers: an address without a register; a
    write to a register that is only read; and, while ``busy``, a write to a locked register, or of
    a 1 to a locked field of a command. Strobes are obeyed. The low bits of an address are ignored.

    Members
    -------
    s_axil_* : the bus.
    busy : what is locked is refused.
    clear : registers take their reset values.
    NAME : of a register with access ``read``: its value, in; ``write``: its value, out; ``command``
        or ``clear``: out, the bits that are written as 1, for one cycle, or its value.
    NAME_set : of a register with access ``clear``: bits that happen, in.
    """

    def __init__(self, registers: RegisterMap):
        if not isinstance(registers, RegisterMap):
            raise TypeError(f"registers must be a RegisterMap, not {registers!r}")
        self._registers = registers
        ports = axil(registers.address_width) | {"busy": In(1), "clear": In(1)}
        for one in registers.registers:
            ports[one.name] = (In if one.access == "read" else Out)(one.width)
            if one.access == "clear":
                ports[f"{one.name}_set"] = In(one.width)
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        address_bits = self._registers.address_width - 2

        # Writes: address and data are taken together
        write = Signal()
        write_ok = Signal()
        at = self.s_axil_awaddr[2:]
        mask = Signal(WORD)
        data = Signal(WORD, reset_less=True)
        m.d.comb += [
            self.s_axil_awready.eq(write), self.s_axil_wready.eq(write),
        ]
        # decoded in the cycle before, from which on the master holds what it offers, and `busy`
        # does not begin: only an access can begin a run
        strobes = Cat(bit.replicate(8) for bit in self.s_axil_wstrb)
        busy = Signal()
        m.d.sync += [mask.eq(strobes), data.eq(self.s_axil_wdata), busy.eq(self.busy)]
        m.d.sync += write.eq(self.s_axil_awvalid & self.s_axil_wvalid & ~write
                             & (~self.s_axil_bvalid | self.s_axil_bready))
        with m.If(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        with m.If(write):
            m.d.sync += [self.s_axil_bvalid.eq(1),
                         self.s_axil_bresp.eq(Mux(write_ok, OKAY, SLVERR))]

        # Reads
        read = Signal()
        read_at = Signal(address_bits, reset_less=True)
        value = Signal(WORD)
        found = Signal()
        m.d.comb += self.s_axil_arready.eq(read)
        m.d.sync += [
            read.eq(self.s_axil_arvalid & ~read & (~self.s_axil_rvalid | self.s_axil_rready)),
            read_at.eq(self.s_axil_araddr[2:]),
        ]
        with m.If(self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        with m.If(read):
            m.d.sync += [self.s_axil_rvalid.eq(1), self.s_axil_rdata.eq(value),
                         self.s_axil_rresp.eq(Mux(found, OKAY, SLVERR))]

        for one in self._registers.registers:
            port, writable = getattr(self, one.name), one.writable
            chosen = Signal(name=f"write_{one.name}")
            m.d.sync += chosen.eq(at == one.offset >> 2)
            if one.access == "write":
                kept = Signal(WORD, name=f"{one.name}_kept", init=one.reset)
                m.d.comb += port.eq((kept & writable) | (one.reset & ~writable))
                with m.If(chosen):
                    m.d.comb += write_ok.eq(~busy if one.locked else 1)
                with m.If(self.clear):
                    m.d.sync += kept.eq(one.reset)
                with m.Elif(write & chosen & write_ok):
                    m.d.sync += kept.eq((kept & ~mask) | (data & mask))
            elif one.access == "command":
                locked = sum(part.mask for part in one.fields if part.locked)
                held = Signal(name=f"{one.name}_held")
                m.d.sync += held.eq((self.s_axil_wdata & strobes & locked) != 0)
                with m.If(chosen):
                    m.d.comb += write_ok.eq(~busy | ~held)
                with m.If(write & chosen & write_ok):
                    m.d.comb += port.eq(data & mask & writable)
            elif one.access == "clear":
                kept = Signal(WORD, name=f"{one.name}_kept")
                gone = Signal(WORD, name=f"{one.name}_gone")
                m.d.comb += port.eq(kept)
                with m.If(chosen):
                    m.d.comb += write_ok.eq(1)
                with m.If(write & chosen):
                    m.d.comb += gone.eq(data & mask)
                m.d.sync += kept.eq((kept & ~gone | getattr(self, f"{one.name}_set")) & writable)
                with m.If(self.clear):
                    m.d.sync += kept.eq(0)
        with m.Switch(read_at):
            for one in self._registers.registers:
                for half in range(one.width // WORD):
                    with m.Case((one.offset >> 2) + half):
                        m.d.comb += found.eq(1)
                        if one.access != "command":
                            word = getattr(self, one.name)
                            m.d.comb += value.eq(word[half * WORD:(half + 1) * WORD])
        return m
