# SPDX-License-Identifier: Apache-2.0
"""A core in its shell: the chip, with the ports that an integrator expects."""

from typing import Any

from amaranth.hdl import Cat, ClockDomain, Const, DomainRenamer, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from golden.operation import DESCRIPTOR_BYTES
from golden.registers import RegisterMap
from golden.shell import ChipSpec, Code, ShellSpec, registers
from golden.validate import require
from hw.emit import config_hash
from hw.shell.layouts import log2
from hw.shell.program import RESULT, Program
from hw.shell.read import Reader
from hw.shell.registers import Registers, axil
from hw.shell.write import Writer
from hw.stream import Slice

PORTS = ("operation", "completion", "read_request", "read_data", "write_request", "write_data",
         "write_response", "counters")
"""What a core must have."""
INCR = 1
CACHE = 0b0011
"""Modifiable and bufferable: normal memory that nobody else caches."""


def axi(data_width: int) -> dict[str, wiring.Member]:
    """Return the ports of an AXI4 master with one ID."""
    address = {"id": Out(1), "addr": Out(32), "len": Out(8), "size": Out(3), "burst": Out(2),
               "lock": Out(1), "cache": Out(4), "prot": Out(3), "qos": Out(4), "valid": Out(1),
               "ready": In(1)}
    return {f"m_axi_{name}": member for name, member in {
        **{f"aw{name}": member for name, member in address.items()},
        "wdata": Out(data_width), "wstrb": Out(data_width // 8), "wlast": Out(1), "wvalid": Out(1),
        "wready": In(1),
        "bid": In(1), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        **{f"ar{name}": member for name, member in address.items()},
        "rid": In(1), "rdata": In(data_width), "rresp": In(2), "rlast": In(1), "rvalid": In(1),
        "rready": Out(1),
    }.items()}


class Chip(wiring.Component):
    """Run programs from memory on a core.

    ::

        s_axil -> Registers -> control: IDLE -> RUN -> DRAIN -> IDLE
                                  |
        m_axi <-> Reader -----> Program <----> core
              <-> Writer <---------------------+

    The core may be any component with the ports of :class:`~hw.rowwise.core.RowwiseCore` (one with
    several memory channels becomes such a one in :class:`~hw.shell.channels.Joined`): streams
    ``operation``, ``completion``, ``read_request``, ``read_data``, ``write_request``,
    ``write_data``, ``write_response``, a structure of ``counters``, and a ``spec`` with
    ``memory_bytes``. It is in reset while no run is under way. Every run ends in DRAIN, until all
    that the bus was promised has happened; the result and the counters are kept.

    Parameters
    ----------
    core : the core.
    shell : ShellSpec

    Members
    -------
    aclk, aresetn : clock, and synchronous reset, active low.
    s_axil_* : AXI4-Lite slave, 12 bits of address: :attr:`registers`.
    m_axi_* : AXI4 master, ``data_width`` bits, 32 bits of address, one ID.
    irq : high while an enabled event is pending.
    """

    def __init__(self, core: Any, shell: ShellSpec):
        if not isinstance(shell, ShellSpec):
            raise TypeError(f"shell must be a ShellSpec, not {shell!r}")
        missing = [name for name in PORTS if not hasattr(core, name)]
        require(not missing, f"core must have the ports of one for this shell, but "
                             f"{type(core).__name__} has no {', '.join(missing)}")
        self.core = core
        self.spec = ChipSpec(core=core.spec, shell=shell)
        beat = core.spec.memory_bytes
        require(beat <= DESCRIPTOR_BYTES,
                f"memory_bytes must be at most {DESCRIPTOR_BYTES} in a chip, not {beat}")
        self._names = tuple(dict(core.counters.shape()))
        self._registers = registers(
            shell=shell, memory_bytes=beat, counters=self._names,
            config_hash=int(config_hash(type(core).__name__, self.spec)[:16], 16))
        super().__init__({
            "aclk": In(1), "aresetn": In(1), **axil(self._registers.address_width),
            **axi(shell.data_width), "irq": Out(1)})

    @property
    def registers(self) -> RegisterMap:
        """The registers of this chip."""
        return self._registers

    def elaborate(self, platform):
        m = Module()
        shell, beat = self.spec.shell, self.spec.core.memory_bytes
        stop = Signal(init=1)
        m.domains.sync = sync = ClockDomain("sync", local=True)
        m.domains.run = run = ClockDomain("run", local=True)
        sync.clk = run.clk = self.aclk
        # A reset turns `stop` on, and so reaches the run a cycle later; until then nothing begins
        m.d.comb += [sync.rst.eq(~self.aresetn), run.rst.eq(stop)]

        in_run = DomainRenamer("run")
        m.submodules.core = in_run(self.core)
        m.submodules.program = program = in_run(Program(shell, beat))
        m.submodules.reader = reader = Reader(shell, beat)
        m.submodules.writer = writer = Writer(shell, beat)
        m.submodules.registers = regs = Registers(self._registers)
        self._connect_core(m, program, reader, writer)
        self._connect_bus(m, reader, writer)
        for name, member in axil(self._registers.address_width).items():
            ours, theirs = getattr(self, name), getattr(regs, name)
            m.d.comb += ours.eq(theirs) if member.flow == Out else theirs.eq(ours)

        base = Signal(20)
        limit = Signal(20)
        span = Signal(21)
        m.d.comb += [
            base.eq(regs.window_base[12:]), limit.eq(regs.window_limit[12:]),
            span.eq(limit - base),
            program.first.eq(regs.program[log2(DESCRIPTOR_BYTES):]),
            program.operations.eq(regs.operations),
        ]
        for one in (reader, writer):
            m.d.comb += [one.window.base.eq(base), one.window.last.eq(span[:20]),
                         one.window.empty.eq(span[20]), one.stop.eq(stop)]
        self._control(m, regs, program, stop, reader.idle & writer.idle)
        return m

    def _connect_core(self, m, program, reader, writer):
        """Operations and completions; the core's reads and writes, cut off by registers."""
        core = self.core
        in_run = DomainRenamer("run")

        def cut(name, given, taken):
            m.submodules[name] = part = in_run(Slice(given.payload.shape()))
            connect(m, given, part.i)
            connect(m, part.o, taken)

        connect(m, program.operation, core.operation)
        connect(m, core.completion, program.completion)
        cut("read_request", core.read_request, reader.request[0])
        connect(m, program.request, reader.request[1])
        connect(m, reader.o[1], program.data)
        cut("write_request", core.write_request, writer.request)
        cut("write_data", core.write_data, writer.data)
        connect(m, writer.response, core.write_response)
        read = reader.o[0]
        m.d.comb += [
            core.read_data.valid.eq(read.valid), read.ready.eq(core.read_data.ready),
            core.read_data.payload.data.eq(read.payload.data),
            core.read_data.payload.error.eq(read.payload.cause != 0),
            program.read_fault.eq(reader.fault), program.write_fault.eq(writer.fault),
        ]

    def _connect_bus(self, m, reader, writer):
        """Streams to the channels of AXI4."""
        shell = self.spec.shell
        for prefix, burst in (("aw", writer.aw), ("ar", reader.ar)):
            def port(name, prefix=prefix):
                return getattr(self, f"m_axi_{prefix}{name}")
            m.d.comb += [
                port("addr").eq(burst.payload.address), port("len").eq(burst.payload.length),
                port("size").eq(log2(shell.bus_bytes)), port("burst").eq(INCR),
                port("cache").eq(CACHE), port("valid").eq(burst.valid),
                burst.ready.eq(port("ready")),
            ]
        m.d.comb += [
            reader.r.payload.data.eq(self.m_axi_rdata),
            reader.r.payload.response.eq(self.m_axi_rresp),
            reader.r.payload.last.eq(self.m_axi_rlast),
            reader.r.valid.eq(self.m_axi_rvalid), self.m_axi_rready.eq(reader.r.ready),
            self.m_axi_wdata.eq(writer.w.payload.data),
            self.m_axi_wstrb.eq(writer.w.payload.strobe),
            self.m_axi_wlast.eq(writer.w.payload.last),
            self.m_axi_wvalid.eq(writer.w.valid), writer.w.ready.eq(self.m_axi_wready),
            writer.b.payload.eq(self.m_axi_bresp),
            writer.b.valid.eq(self.m_axi_bvalid), self.m_axi_bready.eq(writer.b.ready),
        ]

    def _control(self, m, regs, program, stop, idle):
        """Begin and end runs, keep what came of them, raise the interrupt."""
        core, registers = self.core, self._registers
        command = {part.name: regs.control[part.offset] for part in registers["control"].fields}
        busy = Signal()
        finished = Signal()
        resetting = Signal()
        result = Signal(RESULT)
        completed = Signal(32)
        counters = Signal(core.counters.shape())
        status = {"busy": busy, **{name: result[name] for name in ("code", "cause", "access")}}
        aborted = result.code == Code.ABORTED
        ok = result.code == Code.OK
        events = {"done": ok, "error": ~ok & ~aborted, "aborted": aborted}
        m.d.comb += [
            regs.busy.eq(busy),
            *(getattr(regs, one.name).eq(one.reset) for one in registers.registers
              if one.access == "read" and one.reset),  # constants
            *(regs.status[part.offset:part.offset + part.width].eq(status[part.name])
              for part in registers["status"].fields),
            *(regs.interrupt_pending_set[part.offset].eq(finished & events[part.name])
              for part in registers["interrupt_pending"].fields),
            *(getattr(regs, f"counter_{name}").eq(counters[name]) for name in self._names),
            regs.completed.eq(completed), regs.operation_index.eq(result.index),
            regs.operation_address.eq(Cat(Const(0, log2(DESCRIPTOR_BYTES)),
                                          (program.first + result.index)[:26])),
            regs.fault_address.eq(result.fault),
            self.irq.eq((regs.interrupt_pending & regs.interrupt_enable).any()),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += regs.clear.eq(command["reset"])
                with m.If(command["start"] & ~command["reset"]):
                    m.d.sync += [result.eq(0), completed.eq(0), stop.eq(0)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += busy.eq(1)
                m.d.sync += completed.eq(program.completed)
                with m.If(command["snapshot"]):
                    m.d.sync += counters.eq(core.counters)
                with m.If(command["abort"] | command["reset"] | program.over):
                    m.d.sync += [counters.eq(core.counters), stop.eq(1)]
                    m.next = "DRAIN"
                with m.If(command["abort"] | command["reset"]):
                    m.d.sync += [result.code.eq(Code.ABORTED), result.index.eq(program.completed),
                                 resetting.eq(command["reset"])]
                with m.Elif(program.over):
                    m.d.sync += result.eq(program.result)
            with m.State("DRAIN"):
                m.d.comb += busy.eq(1)
                with m.If(command["reset"]):
                    m.d.sync += resetting.eq(1)
                with m.Elif(idle):
                    m.d.comb += [finished.eq(1), regs.clear.eq(resetting)]
                    m.next = "IDLE"
        with m.If(regs.clear):
            m.d.sync += [result.eq(0), completed.eq(0), counters.eq(0), resetting.eq(0)]
