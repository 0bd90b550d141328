# SPDX-License-Identifier: Apache-2.0
"""NORM: rows of 16-bit numbers through LayerNorm, from memory to memory."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.arith.layernorm import LayerNorm
from hw.spatten.layouts import bits, destination, numbers, vector_at, vector_beat, walked
from hw.stream import Queue


class Norm(wiring.Component):
    """Normalise the rows of tokens, reading, normalising and writing different ones.

    A row is ``inputs`` vectors of ``WORDS`` words of ``spec.norm.lanes`` elements; ``count`` of
    them count, the others leave as 0. It may lie where the results go: those of a row are written
    when all of it has been read. Throughput: ``max(WORDS * inputs, LayerNormSpec.ROW_CYCLES)``
    cycles per row as long as the memories keep up, and some 60 before and after them.

    Cost: 63 kGE as ``paper``, 22 as ``tiny``, nearly all of it LayerNorm.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    start : ``In(1)``
        An operation begins; only while not ``busy``, and with no token offered before the next
        cycle. What follows must stay until it is complete.
    inputs, count, constant, shift : ``In``
        As in its descriptor, which was found good.
    token : ``In(stream.Signature(walked(spec, 2)))``
        Its tokens; the first address is that of the row, the second that of the result.
    request : ``Out(stream.Signature(vector_at(spec)))``, \
beat : ``In(stream.Signature(vector_beat(spec)))``
        See :class:`~hw.spatten.reader.Reader`.
    constants : ``Out`` ``enable``, ``address``; ``In`` ``data``
        Read port of the constants; data the cycle after.
    vector : ``Out(stream.Signature(destination(spec)))``, \
o : ``Out(stream.Signature(numbers(spec)))``
        See :class:`~hw.spatten.writer.Writer`.
    busy : ``Out(1)``
        Parameters are being loaded, or some vector of a token that was taken was not.
    error : ``Out(1)``
        A beat with an error was taken.
    """

    WORDS = 8
    ROWS = 8
    """Rows under way."""

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "start": In(1),
            "inputs": In(range(spec.MAX_INPUTS + 1)),
            "count": In(range(spec.max_width + 1)),
            "constant": In(bits(spec.constant_words)),
            "shift": In(6),
            "token": In(stream.Signature(walked(spec, 2))),
            "request": Out(stream.Signature(vector_at(spec))),
            "beat": In(stream.Signature(vector_beat(spec))),
            "constants": Out(constants_port(spec)),
            "vector": Out(stream.Signature(destination(spec))),
            "o": Out(stream.Signature(numbers(spec))),
            "busy": Out(1),
            "error": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, lanes = self._spec, self._spec.norm.lanes
        m.submodules.layernorm = norm = LayerNorm(spec.norm)
        m.submodules.rows = rows = Queue(depth=self.ROWS, shape=data.StructLayout({
            "channel": bits(spec.channels), "beat": 27}))
        words = Signal(range(spec.norm.max_words + 1))
        tail = Signal(range(lanes))  # elements of the last word; 0: all of its lanes
        members = [(tail == 0) | (tail > lane) for lane in range(lanes - 1)] + [tail == 0]
        last_vector = Signal(range(spec.MAX_INPUTS))
        loading = self._load(m, norm, words)
        under_way = Signal(range(self.ROWS + 1))  # rows, of which some words have not left
        m.d.comb += [
            words.eq((self.count + lanes - 1) // lanes), tail.eq(self.count % lanes),
            last_vector.eq(self.inputs - 1),
            norm.width.eq(self.count), norm.shift.eq(self.shift),
            self.busy.eq(loading | (under_way != 0) | rows.o.valid),
        ]

        # Ask for rows
        asked = Signal.like(last_vector)
        asking = Signal()
        row = self.token.payload
        m.d.comb += [
            self.request.valid.eq(self.token.valid & rows.i.ready & (under_way != self.ROWS)),
            self.request.payload.channel.eq(row.channel + (asked >> 1) & spec.channels - 1),
            self.request.payload.beat.eq(row.beat[0] + asked * spec.vector_beats),
            asking.eq(self.request.valid & self.request.ready),
            self.token.ready.eq(asking & (asked == last_vector)),
            rows.i.valid.eq(self.token.ready),
            rows.i.payload.channel.eq(row.channel), rows.i.payload.beat.eq(row.beat[1]),
        ]
        with m.If(asking):
            m.d.sync += asked.eq(Mux(self.token.ready, 0, asked + 1))

        # Rows come: two words a beat, of which the last ones are dropped
        came, counts, last_came, step, _ = self._word(m, "came", words, last_vector)
        half = came[0]
        m.d.comb += [
            norm.i.valid.eq(self.beat.valid & counts),
            norm.i.payload.last.eq(last_came),
            step.eq(self.beat.valid & (norm.i.ready | ~counts)),
            self.beat.ready.eq(step & half),
            self.error.eq(self.beat.valid & self.beat.ready & self.beat.payload.error),
        ]
        for lane in range(lanes):
            x = self.beat.payload.numbers
            there = ~last_came | members[lane]
            m.d.comb += norm.i.payload.x[lane].eq(
                Mux(there, Mux(half, x[lanes + lane], x[lane]), 0))

        # Results leave: two words a beat, filled up with 0
        left, counts, last_left, step, last_word = self._word(m, "left", words, last_vector)
        low: Any = Signal(data.ArrayLayout(norm.o.payload.y[0].shape(), lanes), reset_less=True)
        half = left[0]
        there = norm.o.valid | (under_way != 0) & ~counts
        m.d.comb += [
            self.o.valid.eq(half & there),
            step.eq(there & (~half | self.o.ready)),
            norm.o.ready.eq(counts & (~half | self.o.ready)),
        ]
        for lane in range(lanes):
            there = counts & (~last_left | members[lane])
            y = Mux(there, norm.o.payload.y[lane], 0)
            m.d.comb += [self.o.payload[lane].eq(low[lane]), self.o.payload[lanes + lane].eq(y)]
            with m.If(~half):
                m.d.sync += low[lane].eq(y)


        # Where they go
        given = Signal.like(last_vector)
        taken = Signal()
        where = self.vector.payload
        m.d.comb += [
            self.vector.valid.eq(rows.o.valid),
            where.channel.eq(rows.o.payload.channel + (given >> 1) & spec.channels - 1),
            where.beat.eq(rows.o.payload.beat + given * spec.vector_beats),
            taken.eq(self.vector.valid & self.vector.ready),
            rows.o.ready.eq(taken & (given == last_vector)),
        ]
        m.d.sync += under_way.eq(under_way + self.token.ready - (step & last_word))
        with m.If(taken):
            m.d.sync += given.eq(Mux(rows.o.ready, 0, given + 1))
        return m

    def _load(self, m: Module, norm: LayerNorm, words: Signal) -> Signal:
        """Load the parameters of the operation that begins; return whether that goes on.

        None is late: a row is normalised when all of its words have come.
        """
        spec, lanes, port = self._spec, self._spec.norm.lanes, self.constants
        at = Signal(range(spec.norm.max_words + 1))
        loading = Signal()
        arrives = Signal()
        address = Signal(norm.load.payload.address.shape(), reset_less=True)
        m.d.comb += [
            port.enable.eq(loading), port.address.eq(self.constant + at),
            norm.load.valid.eq(arrives), norm.load.payload.address.eq(address),
        ]
        for lane in range(lanes):
            pair = port.data[32 * lane:][:32]
            m.d.comb += [norm.load.payload.gamma[lane].eq(pair[:16].as_signed()),
                         norm.load.payload.beta[lane].eq(pair[16:].as_signed())]
        m.d.sync += [arrives.eq(loading), address.eq(at)]
        with m.If(self.start):
            m.d.sync += [loading.eq(1), at.eq(0)]
        with m.Elif(loading):
            m.d.sync += [at.eq(at + 1), loading.eq(at != words - 1)]
        return loading

    def _word(self, m: Module, name: str, words: Signal, last_vector: Signal):
        """Count words of rows; return the number of this one, whether it is one of the ``words``
        that count, the last of them, what must say that it goes, and whether it ends the row."""
        number = Signal(range(self.WORDS * self._spec.MAX_INPUTS), name=f"word_{name}")
        step = Signal(name=f"step_{name}")
        counts = Signal(name=f"counts_{name}")
        last = Signal(name=f"last_{name}")
        end = number == Cat(Const(self.WORDS - 1), last_vector)
        m.d.comb += [counts.eq(number < words), last.eq(number == words - 1)]
        with m.If(step):
            m.d.sync += number.eq(Mux(end, 0, number + 1))
        return number, counts, last, step, end


def constants_port(spec: SpattenSpec) -> wiring.Signature:
    """The read port of the constants, of those who read."""
    return wiring.Signature({"enable": Out(1), "address": Out(bits(spec.constant_words)),
                             "data": In(8 * spec.memory_bytes)})
