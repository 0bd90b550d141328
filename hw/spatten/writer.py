# SPDX-License-Identifier: Apache-2.0
"""Vectors of 16-bit numbers to the memories, as they are or in planes of 4 bits."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.arith.saturate import saturate
from hw.contract import write_beat
from hw.spatten.layouts import destination, numbers, write_request


class Writer(wiring.Component):
    """Write vectors one after the other; a request or, in planes, up to two of them.

    Planes are collected first: a beat of a plane has a nibble of each number of the vector.
    Latency: 0 cycles to a beat of numbers, 1 from a vector's last beat to that of its first plane.
    Throughput: a beat per cycle; ``vector_beats + planes`` cycles for a vector in planes.

    Cost: 8.5 kGE as ``paper``, 3.3 of it registers of planes.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    vector : ``In(stream.Signature(destination(spec)))``
        Taken when all its requests and beats have been.
    i : ``In(stream.Signature(numbers(spec)))``
        ``spec.vector_beats`` beats of each vector, in their order.
    write_request : ``Out(stream.Signature(write_request(spec)))``, \
write_data : ``Out(stream.Signature(write_beat(spec)))``, \
write_response : ``In(stream.Signature(1))``
        The data of a request may come before it. A response is an error bit, in the order of the
        requests, and always taken. Up to ``WRITES`` are under way.
    idle : ``Out(1)``
        No vector is offered, and nothing is under way.
    error : ``Out(1)``, clear : ``In(1)``
        A response since ``clear`` was an error.
    """

    WRITES = 15

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "vector": In(stream.Signature(destination(spec))),
            "i": In(stream.Signature(numbers(spec))),
            "write_request": Out(stream.Signature(write_request(spec))),
            "write_data": Out(stream.Signature(write_beat(spec))),
            "write_response": In(stream.Signature(1)),
            "idle": Out(1),
            "error": Out(1),
            "clear": In(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, vector = self._spec, self.vector
        at, request, response = vector.payload, self.write_request, self.write_response
        in_planes = at.planes != 0

        # Requests: all beats, or the upper planes, if there are any, and the last one
        upper = Signal()  # planes that were asked for
        asked = Signal()  # for all
        low = Signal()
        asking = Signal()
        asks_last = Signal()
        owed = Signal(range(self.WRITES + 1))
        m.d.comb += [
            low.eq(in_planes & (upper | (at.planes == 1))),
            request.valid.eq(vector.valid & ~asked & (owed != self.WRITES)),
            request.payload.channel.eq(at.channel),
            request.payload.address.eq(Mux(low, at.low, at.beat) * spec.memory_bytes),
            request.payload.beats.eq(Mux(low, 1, Mux(in_planes, at.planes - 1,
                                                     spec.vector_beats))),
            asking.eq(request.valid & request.ready),
            asks_last.eq(asking & (low | ~in_planes)),
            response.ready.eq(1),
            self.idle.eq(~vector.valid & (owed == 0)),
        ]
        m.d.sync += [
            owed.eq(owed + asking - response.valid),
            upper.eq((upper | asking) & ~asks_last),
            asked.eq((asked | asks_last) & ~vector.ready),
            self.error.eq((self.error | response.valid & response.payload) & ~self.clear),
        ]

        # Beats: those that come, or planes, the one that is next in `planes[0]`
        size = 2 * spec.memory_bytes  # bits of a plane of the numbers of a beat
        planes = [Signal(8 * spec.memory_bytes, name=f"plane_{n}", reset_less=True)
                  for n in range(3)]
        place = Signal(range(spec.vector_beats))
        left = Signal(2)  # planes that are collected, to be sent
        sent = Signal()
        takes = Signal()
        sends = Signal()
        sends_last = Signal()
        out = self.write_data
        free = Signal()  # a beat may come
        m.d.comb += [
            free.eq(vector.valid & ~sent & (left == 0)),
            self.i.ready.eq(free & (in_planes | out.ready)),
            out.valid.eq(Mux(left != 0, 1, free & ~in_planes & self.i.valid)),
            out.payload.data.eq(Mux(in_planes, planes[0], self.i.payload.as_value())),
            out.payload.last.eq(Mux(in_planes, left <= 2, place == spec.vector_beats - 1)),
            takes.eq(self.i.valid & self.i.ready),
            sends.eq(out.valid & out.ready),
            sends_last.eq(sends & Mux(in_planes, left == 1, out.payload.last)),
            vector.ready.eq((asked | asks_last) & (sent | sends_last)),
        ]
        m.d.sync += [place.eq(place + takes), sent.eq((sent | sends_last) & ~vector.ready)]
        with m.If(in_planes & takes):
            words = [Mux(at.planes == 3, saturate(x, 12), Mux(
                at.planes == 2, saturate(x, 8) << 4, saturate(x, 4) << 8)) for x in self.i.payload]
            m.d.sync += [plane.eq(Cat(plane[size:], *(word[low:low + 4] for word in words)))
                         for plane, low in zip(planes, (8, 4, 0))]
            with m.If(place == spec.vector_beats - 1):
                m.d.sync += left.eq(at.planes)
        with m.Elif(in_planes & sends):
            m.d.sync += [left.eq(left - 1), planes[0].eq(planes[1]), planes[1].eq(planes[2])]
        return m
