# SPDX-License-Identifier: Apache-2.0
"""Probabilities of heads that are final, for the importance of tokens."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.spatten.choice import again_signature
from hw.spatten.lanes import rotated
from hw.spatten.layouts import addition, bits
from hw.spatten.softmax import Probabilities
from hw.stream import Queue


def adding_layout(spec: SpattenSpec) -> data.StructLayout:
    """Return what must be known of a head whose probabilities are wanted, or not."""
    return data.StructLayout({"turn": bits(spec.channels), "selector": bits(spec.selectors),
                              "rows": bits(spec.rows + 1), "accumulate": 1})


class Add(wiring.Component):
    """Read the exponents of one head after the other again, divided by their sum.

    That happens while the head's values are being chosen, whose memory nobody reads meanwhile: so
    importance does not wait for values to be fetched, nor a PRUNE behind it. Throughput: ``R + 1``
    cycles per head of ``R`` rows, 1 for a head that is not added.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    head : ``In(Signature({"valid": Out(1), "payload": Out(adding_layout(spec))}))``
        A head is final; there is always room for it.
    found : ``In(StructLayout({"valid": 1, "reciprocal": 17, "exponent": ...}))``
        Then ``r`` and ``k`` of its sum.
    again
        The other end of that of :class:`~hw.spatten.choice.Choice`.
    addition : of :class:`~hw.spatten.rows.RowUnit`.
    through : ``Out(1)``
        The exponents of a head, in their order, are not needed any more.
    added : ``Out(1)``
        The last addition of a head is made.
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "head": In(wiring.Signature({
                "valid": Out(1), "payload": Out(adding_layout(spec))})),
            "found": In(data.StructLayout({
                "valid": 1, "reciprocal": 17, "exponent": spec.reciprocal.exponent_width})),
            "again": Out(again_signature(spec)),
            "addition": Out(wiring.Signature({
                "valid": Out(1), "payload": Out(addition(spec))})),
            "through": Out(1),
            "added": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, vectors = self._spec, self._spec.selectors + 4
        factor = data.StructLayout({"reciprocal": 12, "shift": self.found.exponent.shape()})
        m.submodules.heads = heads = Queue(shape=adding_layout(spec), depth=vectors)
        m.submodules.factors = factors = Queue(shape=factor, depth=vectors)
        m.submodules.probabilities = probabilities = Probabilities(spec)
        head = heads.o.payload
        mark = data.StructLayout({
            "valid": 1, "last": 1, "turn": bits(spec.channels), "factor": factor})
        asked, came, held, product, added = (Signal(mark, name=f"mark_{stage}") for stage in (
            "asked", "came", "held", "product", "added"))
        place = Signal(range(spec.rows))
        known = Signal()
        m.d.comb += [
            heads.i.valid.eq(self.head.valid), heads.i.payload.eq(self.head.payload),
            factors.i.valid.eq(self.found.valid),
            factors.i.payload.reciprocal.eq(self.found.reciprocal[5:]),
            factors.i.payload.shift.eq(self.found.exponent),
            known.eq(heads.o.valid & factors.o.valid),
            asked.valid.eq(known & head.accumulate),
            asked.last.eq(place + 1 >= head.rows),
            asked.turn.eq(head.turn), asked.factor.eq(factors.o.payload),
            self.again.selector.eq(head.selector), self.again.place.eq(place),
            self.through.eq(known & (asked.last | ~head.accumulate)),
            heads.o.ready.eq(self.through), factors.o.ready.eq(self.through),
        ]
        with m.If(asked.valid):
            m.d.sync += place.eq(Mux(asked.last, 0, place + 1))
        m.d.sync += [came.eq(asked), held.eq(came), product.eq(held), added.eq(product)]

        keys: Any = Signal(self.again.keys.shape(), reset_less=True)
        exponents = Signal(self.again.exponents.shape(), reset_less=True)
        before: Any = Signal.like(keys, reset_less=True)
        m.d.sync += [keys.eq(self.again.keys), exponents.eq(self.again.exponents),
                     before.eq(keys)]
        m.d.comb += [
            probabilities.exponent.eq(exponents),
            probabilities.reciprocal.eq(held.factor.reciprocal),
            probabilities.shift.eq(held.factor.shift),
            self.addition.valid.eq(added.valid), self.added.eq(added.valid & added.last),
        ]
        shape = data.StructLayout({
            "row": bits(spec.rows), "probability": spec.PROBABILITY_BITS, "there": 1})
        words = [Cat(before.row[c], probability, before.there[c])
                 for c, probability in enumerate(probabilities.probability)]
        out: Any = Signal(addition(spec), reset_less=True)
        m.d.comb += self.addition.payload.eq(out)
        for lane, word in enumerate(rotated(m, "addition_lane", words, product.turn)):
            view = data.View(shape, word)
            m.d.sync += [out.row[lane].eq(view.row), out.probability[lane].eq(view.probability),
                         out.there[lane].eq(view.there)]
        return m
