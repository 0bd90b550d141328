# SPDX-License-Identifier: Apache-2.0
"""Heads leave the row unit: values that are wanted, and probabilities."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.spatten.spec import SpattenSpec
from hw.spatten.choice import order_signature, row_signature
from hw.spatten.lanes import rotated
from hw.spatten.layouts import addition, bits, result, task, wanted
from hw.spatten.softmax import Probabilities
from hw.stream import Queue


def leaving_layout(spec: SpattenSpec) -> data.StructLayout:
    """Return what must be known of a head whose values are being chosen."""
    return data.StructLayout({"turn": bits(spec.channels), "selector": bits(spec.selectors),
                              "task": task(spec), "result": result(spec)})


class Leave(wiring.Component):
    """Push what is wanted of heads, one after the other, row by row, and their ends.

    Each row goes to all channels in one cycle, when all of them have taken what they were offered
    before. Its probabilities follow three cycles later. Throughput: ``R + 1`` cycles per head of
    ``R`` rows. ``ready`` of ``task`` and ``wanted`` reaches ``row.take`` combinationally.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    leaving : ``In(Signature({"valid": Out(1), "payload": Out(leaving_layout(spec))}))``
        A head is final; there is always room for it.
    found : ``In(Signature({"valid": Out(1), "reciprocal": Out(17), "exponent": ...}))``
        Then ``r`` and ``k`` of its sum.
    order, row
        The other ends of those of :class:`~hw.spatten.choice.Choice`.
    task, wanted, result, addition
        Those of :class:`~hw.spatten.rows.RowUnit`.
    freed : ``Out(selectors)``
        The last row of a selector was taken.
    added : ``Out(1)``
        The last addition of a head is made.
    """

    RESULTS = 16

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "leaving": In(wiring.Signature({
                "valid": Out(1), "payload": Out(leaving_layout(spec))})),
            "found": In(data.StructLayout({
                "valid": 1, "reciprocal": 17, "exponent": spec.reciprocal.exponent_width})),
            "order": Out(order_signature(spec)),
            "row": In(row_signature(spec)),
            "task": Out(stream.Signature(task(spec))),
            "wanted": Out(stream.Signature(wanted(spec))).array(spec.channels),
            "result": Out(stream.Signature(result(spec))),
            "addition": Out(wiring.Signature({
                "valid": Out(1), "payload": Out(addition(spec))})),
            "freed": Out(spec.selectors),
            "added": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, row, vectors = self._spec, self.row, self._spec.selectors + 4
        factor = data.StructLayout({"reciprocal": 12, "shift": self.found.exponent.shape()})
        m.submodules.heads = heads = Queue(shape=leaving_layout(spec), depth=vectors)
        m.submodules.order = order = Queue(shape=bits(spec.selectors), depth=vectors)
        m.submodules.factors = factors = Queue(shape=factor, depth=vectors)
        m.submodules.results = results = Queue(shape=result(spec), depth=self.RESULTS)
        connect(m, flipped(self.result), results.o)
        head = heads.o.payload
        ending = Signal()  # all rows were pushed, but not their end
        room = Signal()
        begins = Signal()
        ends = Signal()
        offered = Signal(spec.channels)
        payload: Any = Signal(data.ArrayLayout(wanted(spec), spec.channels), reset_less=True)
        task_offered = Signal()
        task_payload: Any = Signal(task(spec), reset_less=True)
        ready = Cat(one.ready for one in self.wanted)
        by_channel = Cat(rotated(m, "wanted_channel", list(row.wanted), head.turn, back=True))
        m.d.comb += [
            heads.i.valid.eq(self.leaving.valid), heads.i.payload.eq(self.leaving.payload),
            order.i.valid.eq(self.leaving.valid),
            order.i.payload.eq(self.leaving.payload.selector),
            factors.i.valid.eq(self.found.valid),
            factors.i.payload.reciprocal.eq(self.found.reciprocal[5:]),
            factors.i.payload.shift.eq(self.found.exponent),
            # The next head's selector is known while the end is pushed: its first row is read then.
            self.order.valid.eq(order.o.valid), self.order.selector.eq(order.o.payload),
            order.o.ready.eq(row.take & row.last),
            room.eq(~(offered & ~ready).any()),
            row.take.eq(row.valid & ~ending & room & heads.o.valid & factors.o.valid
                        & (~row.first | (~task_offered | self.task.ready) & results.i.ready)),
            begins.eq(row.take & row.first),
            ends.eq(ending & room),
            heads.o.ready.eq(ends), factors.o.ready.eq(ends),
            self.freed.eq(Cat(row.take & row.last & (order.o.payload == number)
                              for number in range(spec.selectors))),
            results.i.valid.eq(begins), results.i.payload.eq(head.result),
            self.task.valid.eq(task_offered), self.task.payload.eq(task_payload),
            *(one.valid.eq(offered[c]) for c, one in enumerate(self.wanted)),
            *(one.payload.eq(payload[c]) for c, one in enumerate(self.wanted)),
        ]
        m.d.sync += [offered.eq(offered & ~ready),
                     task_offered.eq(begins | task_offered & ~self.task.ready)]
        with m.If(begins):
            m.d.sync += task_payload.eq(head.task)
        with m.If(ends):
            m.d.sync += [ending.eq(0), offered.eq(~0), *(one.end.eq(1) for one in payload)]
        with m.If(row.take):
            m.d.sync += [ending.eq(row.last), offered.eq(by_channel & row.keys.there)]
            for c, one in enumerate(payload):
                m.d.sync += [one.end.eq(0), one.row.eq(row.keys.row[c]),
                             one.exponent.eq(row.exponents[c])]
        self._add(m, head, factors.o.payload, payload)
        return m

    def _add(self, m: Module, head: Any, factor: Any, payload: Any) -> None:
        """Divide the row that is offered by its sum; it stays for a cycle, as its head does."""
        spec, row = self._spec, self.row
        m.submodules.probabilities = probabilities = Probabilities(spec)
        mark = data.StructLayout({
            "valid": 1, "last": 1, "turn": bits(spec.channels), "there": spec.channels})
        offered, product, added = (
            Signal(mark, name=f"mark_{stage}") for stage in ("offered", "product", "added"))
        m.d.sync += [
            offered.valid.eq(row.take & head.result.accumulate), offered.last.eq(row.last),
            offered.turn.eq(head.turn), offered.there.eq(row.keys.there),
            product.eq(offered), added.eq(product),
        ]
        m.d.comb += [
            *(probabilities.exponent[c].eq(one.exponent) for c, one in enumerate(payload)),
            probabilities.reciprocal.eq(factor.reciprocal), probabilities.shift.eq(factor.shift),
            self.addition.valid.eq(added.valid), self.added.eq(added.valid & added.last),
        ]
        shape = data.StructLayout({
            "row": bits(spec.rows), "probability": spec.PROBABILITY_BITS, "there": 1})
        words = []
        for c, probability in enumerate(probabilities.probability):
            place = Signal(bits(spec.rows), name=f"row_{c}", reset_less=True)
            m.d.sync += place.eq(payload[c].row)
            words.append(Cat(place, probability, product.there[c]))
        out: Any = Signal(addition(spec), reset_less=True)
        m.d.comb += self.addition.payload.eq(out)
        for lane, word in enumerate(rotated(m, "addition_lane", words, product.turn)):
            view = data.View(shape, word)
            m.d.sync += [out.row[lane].eq(view.row), out.probability[lane].eq(view.probability),
                         out.there[lane].eq(view.there)]
