# SPDX-License-Identifier: Apache-2.0
"""Which head's exponents are computed next, and the greatest of its scores."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.attention.maximum import fold
from hw.spatten.layouts import bits, pair, scored

OPERATION = ("op", "narrow", "dense", "tokens", "values", "limit", "score_shift", "score_mul",
             "key_low_stride", "value_stride", "value_planes", "mul", "shift")
"""Fields of a pair that are those of its operation."""

HEAD = ("slot", "base", "turn", "own", "pair", "accumulate", "key_low", "value", "output")
"""Fields of a pair that its two heads have in common."""


def operation_layout(spec: SpattenSpec) -> data.StructLayout:
    """Return what the heads of an operation have in common."""
    fields = pair(spec)
    return data.StructLayout({name: fields[name].shape for name in OPERATION})


def head_layout(spec: SpattenSpec) -> data.StructLayout:
    """Return what must be known of a head until it is final.

    ``place`` is that of its pair among those that have not been released. ``twin``: it shares its
    vector with the other head of the pair.
    """
    fields = pair(spec)
    return data.StructLayout({name: fields[name].shape for name in HEAD}
                             | {"odd": 1, "twin": 1, "place": bits(spec.pairs), "error": 1})


def vector_layout(spec: SpattenSpec) -> data.StructLayout:
    """Return a head whose scores are to be read: the greatest one, keys of each channel, rows.

    ``final``: they have their low bits. ``first`` and ``whole``: of a pair whose heads begin it is
    the first one, the last one.
    """
    return data.StructLayout({
        "head": head_layout(spec), "highest": signed(spec.acc_bits),
        "keys": data.ArrayLayout(bits(spec.rows + 1), spec.channels),
        "rows": bits(spec.rows + 1), "final": 1, "first": 1, "whole": 1})


class Begin(wiring.Component):
    """Take pairs and the ends of their jobs, and give heads, each with its greatest score.

    Heads whose low bits have come go before others, but not between twins: these follow each other,
    with low bits, too, which are asked for once. The tree of comparators, two layers per
    cycle, serves both heads of a pair, and low bits, from what the channels offer.

    Latency: ``1 + log2(channels) // 2`` cycles; throughput: a head in one cycle more, 4 with 16
    or 32 channels. ``o.ready`` reaches the other streams' ``ready`` combinationally.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    pair : ``In(stream.Signature(pair(spec)))``
    asked : ``In(stream.Signature(head_layout(spec)))``
        Heads that wait for low bits, in the order in which those come.
    scored, scored_low : ``In(stream.Signature(scored(spec))).array(channels)``
    room : ``In(1)``
        A pair may begin.
    drained : ``In(1)``
        No head waits to become final: a pair of another operation may begin.
    operation : ``Out(operation_layout(spec))``
        Of the pair that began last; from the cycle after its first head was taken.
    last : ``Out(1)``
        It is the last one of its operation.
    o : ``Out(stream.Signature(vector_layout(spec)))``
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        ends = In(stream.Signature(scored(spec))).array(spec.channels)
        super().__init__({
            "pair": In(stream.Signature(pair(spec))),
            "asked": In(stream.Signature(head_layout(spec))),
            "scored": ends, "scored_low": ends,
            "room": In(1),
            "drained": In(1),
            "operation": Out(operation_layout(spec)),
            "last": Out(1),
            "o": Out(stream.Signature(vector_layout(spec))),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, here, o = self._spec, self.pair.payload, self.o.payload
        second = Signal()  # the even head of the pair has begun
        again = Signal()  # the even one of twins has that have low bits
        place = Signal(range(spec.pairs))
        chosen = Signal()
        start = Signal()  # in the cycle after
        held = Signal()  # the greatest score has been found
        low = Signal()
        odd = Signal()
        number = Signal()  # of the pair's head that is next
        low_there = Signal()
        pair_there = Signal()
        follows = Signal()  # its operation is that of the pair before, or it may begin
        taken = Signal()
        through = Signal()  # the last head of those with low bits is taken
        twin = Signal()  # of the pair
        asked = self.asked.payload
        m.d.comb += [
            twin.eq(here.narrow & here.even & here.odd & (spec.sharing > 1)),
            low_there.eq(Cat(self.asked.valid, *(s.valid for s in self.scored_low)).all()
                         & ~(second & twin)),
            pair_there.eq(Cat(self.pair.valid, *(s.valid for s in self.scored)).all()),
            follows.eq(self.drained | (here.op == self.operation.op) & ~self.last),
            number.eq(second | ~here.even),
        ]
        m.d.sync += start.eq(0)
        with m.If(~chosen & (low_there | second | pair_there & follows & self.room)):
            m.d.sync += [chosen.eq(1), start.eq(1), low.eq(low_there),
                         odd.eq(Mux(low_there, Mux(asked.twin, again, asked.odd), number))]

        # What is offered stays until it is taken, and so does what follows from it.
        greatest, keys, errors = [], [], []
        for c, (normal, lower) in enumerate(zip(self.scored, self.scored_low)):
            end: Any = Signal(scored(spec), name=f"end_{c}")
            m.d.comb += end.eq(Mux(low, lower.payload.as_value(), normal.payload.as_value()))
            score = Mux(odd, end.odd, end.even)
            greatest.append(Cat(score[:-1], ~score[-1]))  # unsigned, in the same order
            keys.append(end["keys"])
            errors.append(end.error)
        mark: Any = Signal(data.StructLayout({"valid": 1}))
        highest, marks = fold(m, "highest", greatest, _greater, layers=2, mark=mark)
        rows, _ = fold(m, "rows", keys, _greater, layers=2, mark=mark)
        m.d.comb += [
            mark.valid.eq(start),
            self.o.valid.eq(marks[-1].valid | held),
            taken.eq(self.o.valid & self.o.ready),
            o.highest.eq(Cat(highest[:-1], ~highest[-1])),
            *(o["keys"][c].eq(count) for c, count in enumerate(keys)),
            o.rows.eq(rows), o.final.eq(low), o.first.eq(~low & ~second),
            o.whole.eq(~low & (odd | ~here.odd)),
            o.head.eq(asked), o.head.odd.eq(odd),
            o.head.error.eq(Cat(Mux(low, asked.error, here.error), *errors).any()),
            through.eq(taken & low & (odd | ~asked.twin)),
            self.asked.ready.eq(through), self.pair.ready.eq(taken & o.whole),
            *(s.ready.eq(through) for s in self.scored_low),
            *(s.ready.eq(taken & o.whole) for s in self.scored),
        ]
        with m.If(~low):
            m.d.comb += [o.head[name].eq(here[name]) for name in HEAD]
            m.d.comb += [o.head.twin.eq(twin), o.head.place.eq(place)]
        m.d.sync += held.eq(self.o.valid & ~taken)
        with m.If(taken):
            m.d.sync += chosen.eq(0)
            with m.If(low):
                m.d.sync += again.eq(~through)
            with m.Else():
                m.d.sync += [second.eq(~o.whole), place.eq(place + o.whole),
                             self.last.eq(here.last),
                             *(self.operation[name].eq(here[name]) for name in OPERATION)]
        return m


def _greater(a: Value, b: Value) -> Value:
    """Return the greater one of two unsigned numbers."""
    return Mux(a > b, a, b)
