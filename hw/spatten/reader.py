# SPDX-License-Identifier: Apache-2.0
"""Vectors of 16-bit numbers from the memories of all channels, in order."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.spatten.layouts import bits, fetch, fetched, vector_at, vector_beat


class Reader(wiring.Component):
    """Ask channels for vectors, and give their beats in the order in which they were wanted.

    Beats of different channels come in any order, those of a vector in theirs; each has a place of
    its own in a memory of ``spec.pairs`` vectors. So many can be under way: a vector is, from the
    cycle in which it is asked for until its last beat is read from there.

    Latency: a beat is offered 2 cycles after it came. Throughput: a beat per cycle.

    Cost: 0.6 kGE as ``paper``, beside 8,224 bits of memory.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    request : ``In(stream.Signature(vector_at(spec)))``
    fetch : ``Out(stream.Signature(fetch(spec)))``, fetch_channel : ``Out``
        With ``unit``. ``fetch.ready`` reaches ``request.ready`` combinationally.
    fetched : ``In(Signature({"valid": Out(1), "payload": Out(fetched(spec))}))``
        What channels give, broadcast; beats without ``unit`` are not for the reader.
    o : ``Out(stream.Signature(vector_beat(spec)))``
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "request": In(stream.Signature(vector_at(spec))),
            "fetch": Out(stream.Signature(fetch(spec))),
            "fetch_channel": Out(bits(spec.channels)),
            "fetched": In(wiring.Signature({"valid": Out(1), "payload": Out(fetched(spec))})),
            "o": Out(stream.Signature(vector_beat(spec))),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        slot = Signal(range(spec.pairs))
        under_way = Signal(range(spec.pairs + 1))
        room = Signal()
        asked = Signal()
        freed = Signal()
        m.d.comb += [
            room.eq(under_way != spec.pairs),
            self.fetch.valid.eq(self.request.valid & room),
            self.request.ready.eq(self.fetch.ready & room),
            self.fetch.payload.beat.eq(self.request.payload.beat),
            self.fetch.payload.slot.eq(slot),
            self.fetch.payload.unit.eq(1),
            self.fetch_channel.eq(self.request.payload.channel),
            asked.eq(self.fetch.valid & self.fetch.ready),
        ]
        m.d.sync += [slot.eq(slot + asked), under_way.eq(under_way + asked - freed)]

        depth, came = spec.pairs * spec.vector_beats, self.fetched.payload
        m.submodules.memory = memory = Memory(shape=vector_beat(spec), depth=depth, init=[],
                                              attrs={"no_rw_check": "1"})
        write, read = memory.write_port(), memory.read_port()
        there = Signal(depth)
        at = Signal(range(depth))
        mine = Signal()
        full = Signal()  # what was read is offered
        taken = Signal()
        m.d.comb += [
            mine.eq(self.fetched.valid & came.unit),
            write.en.eq(mine),
            write.addr.eq(Cat(came.part, came.slot)),
            write.data.numbers.as_value().eq(came.data),
            write.data.error.eq(came.error),
            read.addr.eq(at),
            read.en.eq(there.bit_select(at, 1) & (~full | self.o.ready)),
            freed.eq(read.en & ((at + 1) % spec.vector_beats == 0)),
            self.o.valid.eq(full),
            self.o.payload.eq(read.data),
            taken.eq(self.o.valid & self.o.ready),
        ]
        m.d.sync += [
            full.eq(read.en | full & ~taken),
            at.eq(at + read.en),
            there.eq((there | Mux(mine, 1 << write.addr, 0)) & ~Mux(read.en, 1 << at, 0)),
        ]
        return m
