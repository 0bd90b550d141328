# SPDX-License-Identifier: Apache-2.0
"""Block RAM behind AXI4, into which the bridge looks as well."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.board import MemorySpec
from hw.board.bridge import ACCESS, RESULT
from hw.shell.chip import axi
from hw.shell.layouts import BURST, log2
from hw.shell.registers import OKAY
from hw.stream import Queue

DECERR = 3


def slave(data_width: int) -> dict[str, wiring.Member]:
    """Return the ports of an AXI4 slave for the master of a chip."""
    return {name.replace("m_axi", "s_axi"): (In if member.flow == Out else Out)(member.shape)
            for name, member in axi(data_width).items()}


class BoardMemory(wiring.Component):
    """Memory for INCR bursts of whole, aligned beats, with a second port of single words.

    Throughput: 1 beat per cycle in each direction at the same time, whatever the bursts, less one
    cycle for each access of the second port, which goes first. Latency: 2 cycles from an address to
    its first beat, 1 from the last beat to the response, and 1 for the second port.
    Bursts that begin outside, and such words, are answered with DECERR and change nothing. Cost:
    ``size`` bytes of memory, with one port for reads and one for writes.

    Parameters
    ----------
    spec : MemorySpec
    data_width : bits of the bus.

    Members
    -------
    s_axi_* : AXI4 slave.
    access, result : the second port.
    """

    QUEUE = 4
    """Bursts that wait, each way."""

    def __init__(self, spec: MemorySpec, data_width: int):
        self.spec = spec
        self._width = data_width
        super().__init__(slave(data_width) | {
            "access": In(stream.Signature(ACCESS)), "result": Out(stream.Signature(RESULT))})

    def elaborate(self, platform):
        m = Module()
        spec, width = self.spec, self._width
        bus = log2(width // 8)
        depth = spec.size >> bus
        m.submodules.memory = memory = Memory(shape=width, depth=depth, init=[])
        write, read = memory.write_port(granularity=8), memory.read_port()
        m.submodules.reads = reads = Queue(shape=BURST, depth=self.QUEUE)
        m.submodules.writes = writes = Queue(shape=BURST, depth=self.QUEUE)
        m.submodules.responses = responses = Queue(shape=2, depth=self.QUEUE)
        for prefix, queue in (("ar", reads), ("aw", writes)):
            m.d.comb += [
                queue.i.valid.eq(getattr(self, f"s_axi_{prefix}valid")),
                queue.i.payload.address.eq(getattr(self, f"s_axi_{prefix}addr")),
                queue.i.payload.length.eq(getattr(self, f"s_axi_{prefix}len")),
                getattr(self, f"s_axi_{prefix}ready").eq(queue.i.ready),
            ]

        def inside(address):
            offset = address - spec.base
            return offset[:32] < spec.size

        def word(address):
            return (address - spec.base)[bus:bus + (depth - 1).bit_length()]

        # The second port: an access, and in the next cycle its result
        asked = self.access.payload
        lane = asked.address[2:bus] if bus > 2 else 0
        last_lane = Signal(max(1, bus - 2))
        looks = Signal()
        fills = Signal()
        response = Signal(2)
        fresh = Signal()  # what was read lies at the port of the memory
        kept = Signal(32)
        m.d.comb += [
            self.access.ready.eq(~self.result.valid),
            looks.eq(self.access.valid & self.access.ready & ~asked.write),
            fills.eq(self.access.valid & self.access.ready & asked.write),
        ]
        m.d.sync += fresh.eq(looks)
        with m.If(self.access.valid & self.access.ready):
            m.d.sync += [self.result.valid.eq(1), last_lane.eq(lane),
                         response.eq(Mux(inside(asked.address), OKAY, DECERR))]
        with m.Elif(self.result.ready):
            m.d.sync += self.result.valid.eq(0)
        found = read.data.word_select(last_lane, 32) if bus > 2 else read.data
        m.d.comb += [self.result.payload.data.eq(Mux(fresh, found, kept)),
                     self.result.payload.response.eq(response)]
        with m.If(fresh):
            m.d.sync += kept.eq(found)

        # Reads: ``left`` beats of the burst at the head, from ``at``, have not been asked for
        burst = reads.o.payload
        done = Signal(8)
        step = Signal()
        held = Signal()  # a beat waits, in ``hold``
        came = Signal()  # a beat lies at the port of the memory
        hold = Signal(width, reset_less=True)
        info = data.StructLayout({"response": 2, "last": 1})
        about = Signal(info)
        m.d.comb += [
            self.s_axi_rvalid.eq(came | held),
            self.s_axi_rdata.eq(Mux(held, hold, read.data)),
            self.s_axi_rresp.eq(about.response), self.s_axi_rlast.eq(about.last),
            step.eq(reads.o.valid & ~looks & (~self.s_axi_rvalid | self.s_axi_rready)),
            reads.o.ready.eq(step & (done == burst.length)),
            read.addr.eq(Mux(looks, word(asked.address), word(burst.address) + done)),
        ]
        m.d.sync += [came.eq(step), held.eq(self.s_axi_rvalid & ~self.s_axi_rready)]
        with m.If(came):
            m.d.sync += hold.eq(read.data)
        with m.If(step):
            m.d.sync += [done.eq(Mux(done == burst.length, 0, done + 1)),
                         about.last.eq(done == burst.length),
                         about.response.eq(Mux(inside(burst.address), OKAY, DECERR))]

        # Writes
        goal = writes.o.payload
        count = Signal(8)
        put = Signal()
        m.d.comb += [
            self.s_axi_wready.eq(writes.o.valid & responses.i.ready & ~fills),
            put.eq(self.s_axi_wvalid & self.s_axi_wready),
            writes.o.ready.eq(put & self.s_axi_wlast),
            responses.i.valid.eq(put & self.s_axi_wlast),
            responses.i.payload.eq(Mux(inside(goal.address), OKAY, DECERR)),
            self.s_axi_bvalid.eq(responses.o.valid), self.s_axi_bresp.eq(responses.o.payload),
            responses.o.ready.eq(self.s_axi_bready),
            write.addr.eq(word(goal.address) + count), write.data.eq(self.s_axi_wdata),
        ]
        with m.If(put):
            m.d.sync += count.eq(Mux(self.s_axi_wlast, 0, count + 1))
            with m.If(inside(goal.address)):
                m.d.comb += write.en.eq(self.s_axi_wstrb)
        with m.If(fills):
            m.d.comb += [write.addr.eq(word(asked.address)),
                         write.data.eq(asked.data.replicate(width // 32))]
            with m.If(inside(asked.address)):
                m.d.comb += write.en.eq(0xF << (lane << 2))
        return m
