# SPDX-License-Identifier: Apache-2.0
"""FUSE: of the tokens that left one, at the place of the first of them."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from golden.validate import require
from hw.attention.fuse import Fuser
from hw.spatten.layouts import bits, destination, numbers, vector_at, vector_beat, walked, weigh
from hw.stream import Queue


class Fuse(wiring.Component):
    """Add up the rows of tokens, each times its score; give the sum, a vector after the other.

    ::

        token --> request ~~> beat --+
            |                        +--> Fuser --> o
            +--> weigh ~~> score ----+

    Throughput: a row of ``n`` beats in ``n + 2`` cycles; then an element of the sum per cycle.

    Parameters
    ----------
    spec : SpattenSpec
        With ``fuse``.

    Members
    -------
    start : ``In(1)``
        An operation begins; only while not ``busy``, and with no token offered before the next
        cycle. What follows must stay until it is complete.
    inputs, mul, shift, importance_shift : ``In``
        As in its descriptor, which was found good.
    token : ``In(stream.Signature(walked(spec, 2)))``
        Its tokens; the first address is that of the row, the second that of the result, of which
        that of the first token counts.
    request : ``Out(stream.Signature(vector_at(spec)))``, \
beat : ``In(stream.Signature(vector_beat(spec)))``
        See :class:`~hw.spatten.reader.Reader`.
    weigh : ``Out(weigh(spec))``
        See :class:`~hw.spatten.prune.PruneUnit`.
    vector : ``Out(stream.Signature(destination(spec)))``, \
o : ``Out(stream.Signature(numbers(spec)))``
        See :class:`~hw.spatten.writer.Writer`.
    first : ``Out``
        The first token.
    busy : ``Out(1)``
        A token was taken, and not all of the sum.
    error : ``Out(1)``
        A beat with an error was taken.
    """

    ROWS = 4
    """Rows under way."""

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        require(spec.fuse, f"fuse must be True, not {spec.fuse}")
        self._spec = spec
        super().__init__({
            "start": In(1),
            "inputs": In(range(spec.fuser.max_width // spec.lanes + 1)),
            "mul": In(16), "shift": In(6), "importance_shift": In(5),
            "token": In(stream.Signature(walked(spec, 2))),
            "request": Out(stream.Signature(vector_at(spec))),
            "beat": In(stream.Signature(vector_beat(spec))),
            "weigh": Out(weigh(spec)),
            "vector": Out(stream.Signature(destination(spec))),
            "o": Out(stream.Signature(numbers(spec))),
            "first": Out(bits(spec.max_tokens)),
            "busy": Out(1),
            "error": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, vector_beats = self._spec, self._spec.vector_beats
        m.submodules.fuser = fuser = Fuser(spec.fuser)
        m.submodules.rows = rows = Queue(depth=self.ROWS, shape=bits(spec.max_tokens) + 1)
        last_vector = Signal.like(self.inputs)
        last_word = Signal(range(spec.fuser.max_words))
        fresh = Signal()  # no token was taken
        m.d.comb += [last_vector.eq(self.inputs - 1),
                     last_word.eq(self.inputs * vector_beats - 1),
                     fuser.start.eq(self.start), fuser.mul.eq(self.mul),
                     fuser.shift.eq(self.shift)]

        # Ask for rows
        row: Any = self.token.payload
        place: Any = Signal(row.shape(), reset_less=True)  # of the first token
        asked = Signal.like(last_vector)
        asking = Signal()
        taken = Signal()
        m.d.comb += [
            self.request.valid.eq(self.token.valid & ((asked != 0) | rows.i.ready)),
            self.request.payload.channel.eq(row.channel + (asked >> 1) & spec.channels - 1),
            self.request.payload.beat.eq(row.beat[0] + asked * vector_beats),
            asking.eq(self.request.valid & self.request.ready),
            taken.eq(asking & (asked == last_vector)),
            # with the first vector: a row may have more than wait in the reader
            self.token.ready.eq(taken), rows.i.valid.eq(asking & (asked == 0)),
            rows.i.payload.eq(row.last << bits(spec.max_tokens) | row.token),
            self.first.eq(place.token),
        ]
        with m.If(asking):
            m.d.sync += asked.eq(Mux(taken, 0, asked + 1))
        with m.If(self.start):
            m.d.sync += fresh.eq(1)
        with m.Elif(taken):
            m.d.sync += [fresh.eq(0), self.busy.eq(1)]
            with m.If(fresh):
                m.d.sync += place.eq(row)

        # Rows come: the score of one, then its beats
        word = Signal.like(last_word)
        weighing = Signal()
        weighed = Signal()
        weight = Signal(spec.SELECT_BITS, reset_less=True)
        ends = Signal()
        m.d.comb += [
            self.weigh.valid.eq(rows.o.valid & ~weighing & ~weighed),
            self.weigh.token.eq(rows.o.payload[:bits(spec.max_tokens)]),
            self.weigh.shift.eq(self.importance_shift),
            fuser.i.valid.eq(self.beat.valid & weighed),
            fuser.i.payload.x.eq(self.beat.payload.numbers),
            fuser.i.payload.weight.eq(weight), fuser.i.payload.last.eq(word == last_word),
            self.beat.ready.eq(fuser.i.ready & weighed),
            ends.eq(self.beat.valid & self.beat.ready & (word == last_word)),
            rows.o.ready.eq(ends),
            fuser.finish.eq(ends & rows.o.payload[-1]),
            self.error.eq(self.beat.valid & self.beat.ready & self.beat.payload.error),
        ]
        m.d.sync += weighing.eq(self.weigh.valid)
        with m.If(weighing):
            m.d.sync += [weight.eq(self.weigh.score), weighed.eq(1)]
        with m.If(ends):
            m.d.sync += weighed.eq(0)
        with m.If(self.beat.valid & self.beat.ready):
            m.d.sync += word.eq(Mux(ends, 0, word + 1))

        # The sum leaves
        given = Signal.like(last_vector)
        giving = Signal()  # vectors are left whose place was not given
        out = self.vector.payload
        m.d.comb += [
            self.vector.valid.eq(giving),
            out.channel.eq(place.channel + (given >> 1) & spec.channels - 1),
            out.beat.eq(place.beat[1] + given * vector_beats),
            self.o.valid.eq(fuser.o.valid), fuser.o.ready.eq(self.o.ready),
            self.o.payload.eq(fuser.o.payload.x),
        ]
        with m.If(fuser.finish):
            m.d.sync += giving.eq(1)
        with m.If(self.vector.valid & self.vector.ready):
            m.d.sync += given.eq(given + 1)
            with m.If(given == last_vector):
                m.d.sync += [given.eq(0), giving.eq(0)]
        with m.If(fuser.o.valid & fuser.o.ready & fuser.o.payload.last):
            m.d.sync += self.busy.eq(0)
        return m
