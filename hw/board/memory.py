# SPDX-License-Identifier: Apache-2.0
"""Block RAM behind AXI4, into which the bridge looks as well."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
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
    cycle for each access of the second port, which goes first. Latency:
    :data:`~golden.board.MEMORY_LATENCY` cycles, 5, from an address to its first beat, 1 from the
    last beat to the response, and ``ACCESS_CYCLES``, 5, for the second port. Two cycles are on the
    way to the memory, and one behind each bank of ``BANK`` words: 128 block RAMs of an ECP5 lie all
    over it, a long way from what drives and reads them.
    A beat that is read while it is written is undefined, as AXI allows, which spares Yosys what
    would make it the old one. Bursts that begin outside, and such words, are answered with DECERR
    and change nothing. Cost: ``size`` bytes of memory, with one port for reads and one for writes,
    and 5 beats that wait.

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
    BEATS = 5
    """Beats on their way or waiting: as many as cycles from asking for one to having given it."""
    BANK = 1 << 14
    """Words, the most bits of one block RAM."""
    ACCESS_CYCLES = 5

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
        at_read = Signal(range(depth))
        at_write = Signal(range(depth))
        data_write = Signal(width, reset_less=True)
        enable = Signal(width // 8)
        fetched = Array(Signal(width, name=f"fetched_{n}", reset_less=True)
                        for n in range(-(-depth // self.BANK)))
        bank_bits = (self.BANK - 1).bit_length()
        for n, one in enumerate(fetched):
            size = min(self.BANK, depth - n * self.BANK)
            m.submodules[f"bank_{n}"] = memory = Memory(  # pyright: ignore[reportCallIssue]
                shape=width, depth=size, init=[],
                attrs={"no_rw_check": 1})  # pyright: ignore[reportArgumentType]
            write, read = memory.write_port(granularity=8), memory.read_port()
            m.d.comb += [
                read.addr.eq(at_read), write.addr.eq(at_write), write.data.eq(data_write),
                write.en.eq(Mux(at_write[bank_bits:] == n, enable, 0)),
            ]
            m.d.sync += one.eq(read.data)
        banks = [Signal(range(len(fetched) + 1), name=f"which_{n}", reset_less=True)
                 for n in range(2)]  # of the word on its way
        m.d.sync += [banks[0].eq(at_read[bank_bits:]), banks[1].eq(banks[0])]
        found = Signal(width)
        m.d.comb += found.eq(fetched[banks[1]])
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

        # The second port: an access, and five cycles later its result. The bridge is far away, so
        # what it asks for is kept first
        asked = Signal.like(self.access.payload, reset_less=True)
        lane = asked.address[2:bus] if bus > 2 else 0
        last_lane = Signal(max(1, bus - 2))
        taken = Signal()
        looks = Signal()
        fills = Signal()
        response = Signal(2)
        under_way = Signal(3)
        m.d.comb += [
            self.access.ready.eq(~(taken | under_way.any() | self.result.valid)),
            looks.eq(taken & ~asked.write), fills.eq(taken & asked.write),
            self.result.payload.response.eq(response),
        ]
        m.d.sync += [asked.eq(self.access.payload), taken.eq(self.access.valid & self.access.ready),
                     under_way.eq(Cat(taken, under_way))]
        with m.If(taken):
            m.d.sync += [last_lane.eq(lane), response.eq(Mux(inside(asked.address), OKAY, DECERR))]
        with m.If(under_way[-1]):
            m.d.sync += [
                self.result.valid.eq(1), self.result.payload.data.eq(
                    found.word_select(last_lane, 32) if bus > 2 else found)]
        with m.Elif(self.result.ready):
            m.d.sync += self.result.valid.eq(0)

        # Reads: ``done`` beats of the burst at the head have been asked for, as far as there is
        # room for what comes
        burst = reads.o.payload
        done = Signal(8)
        step = Signal()
        room = Signal(range(self.BEATS + 1), init=self.BEATS)
        about = [Signal(data.StructLayout({"response": 2, "last": 1, "valid": 1}),
                        name=f"about_{n}") for n in range(3)]  # of beats on their way
        m.submodules.beats = beats = Queue(
            shape=data.StructLayout({"data": width, "response": 2, "last": 1}), depth=self.BEATS)
        m.d.comb += [
            self.s_axi_rvalid.eq(beats.o.valid), beats.o.ready.eq(self.s_axi_rready),
            self.s_axi_rdata.eq(beats.o.payload.data),
            self.s_axi_rresp.eq(beats.o.payload.response),
            self.s_axi_rlast.eq(beats.o.payload.last),
            step.eq(reads.o.valid & ~looks & (room != 0)),
            reads.o.ready.eq(step & (done == burst.length)),
            beats.i.valid.eq(about[-1].valid), beats.i.payload.data.eq(found),
            beats.i.payload.response.eq(about[-1].response),
            beats.i.payload.last.eq(about[-1].last),
        ]
        m.d.sync += [
            at_read.eq(Mux(looks, word(asked.address), word(burst.address) + done)),
            room.eq(room - step + (self.s_axi_rvalid & self.s_axi_rready)),
            about[0].valid.eq(step), about[0].last.eq(done == burst.length),
            about[0].response.eq(Mux(inside(burst.address), OKAY, DECERR)),
            *(later.eq(one) for one, later in zip(about, about[1:])),
        ]
        with m.If(step):
            m.d.sync += done.eq(Mux(done == burst.length, 0, done + 1))

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
        ]
        m.d.sync += [
            at_write.eq(Mux(fills, word(asked.address), word(goal.address) + count)),
            data_write.eq(Mux(fills, asked.data.replicate(width // 32), self.s_axi_wdata)),
            enable.eq(0),
        ]
        with m.If(put):
            m.d.sync += count.eq(Mux(self.s_axi_wlast, 0, count + 1))
        with m.If(put & inside(goal.address)):
            m.d.sync += enable.eq(self.s_axi_wstrb)
        with m.If(fills & inside(asked.address)):
            m.d.sync += enable.eq(0xF << (lane << 2))
        return m
