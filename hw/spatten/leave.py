# SPDX-License-Identifier: Apache-2.0
"""Heads leave the row unit: the values that are wanted of them."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.spatten.spec import SpattenSpec
from hw.spatten.choice import order_signature, row_signature
from hw.spatten.lanes import rotated
from hw.spatten.layouts import bits, result, task, wanted
from hw.spatten.request import TASKS
from hw.stream import Queue


def leaving_layout(spec: SpattenSpec) -> data.StructLayout:
    """Return what must be known of a head whose values are being chosen."""
    return data.StructLayout({"turn": bits(spec.channels), "selector": bits(spec.selectors),
                              "narrow": 1, "task": task(spec), "result": result(spec)})


class Leave(wiring.Component):
    """Push what is wanted of heads, one after the other, row by row, and their ends.

    Each row goes to all channels in one cycle, when all of them have taken what they were offered
    before. Throughput: ``R + 1`` cycles per head of ``R`` rows.

    Of heads that share their vectors the even one's rows go to a memory; those of the odd one then
    leave together with them: what one of the two wants.

    ``ready`` of ``task`` and ``wanted`` reaches ``row.take`` combinationally.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    leaving : ``In(Signature({"valid": Out(1), "payload": Out(leaving_layout(spec))}))``
        A head is final; there is always room for it.
    through : ``In(1)``
        Nobody else needs the exponents of a head any more, in the order of ``leaving``.
    order, row
        The other ends of those of :class:`~hw.spatten.choice.Choice`.
    task, wanted, result
        Those of :class:`~hw.spatten.rows.RowUnit`.
    freed : ``Out(selectors)``
        The last row of a selector was taken.
    """

    RESULTS = TASKS + 8

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "leaving": In(wiring.Signature({
                "valid": Out(1), "payload": Out(leaving_layout(spec))})),
            "through": In(1),
            "order": Out(order_signature(spec)),
            "row": In(row_signature(spec)),
            "task": Out(stream.Signature(task(spec))),
            "wanted": Out(stream.Signature(wanted(spec))).array(spec.channels),
            "result": Out(stream.Signature(result(spec))),
            "freed": Out(spec.selectors),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, row, vectors = self._spec, self.row, self._spec.selectors + 4
        m.submodules.heads = heads = Queue(shape=leaving_layout(spec), depth=vectors)
        m.submodules.order = order = Queue(shape=bits(spec.selectors), depth=vectors)
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
        free = Signal(range(vectors + 1))  # heads that may leave
        ready = Cat(one.ready for one in self.wanted)
        by_channel = Cat(rotated(m, "wanted_channel", list(row.wanted), head.turn, back=True))
        keeps = Signal()  # the even one of two heads
        m.d.comb += keeps.eq(~head.result.ends)
        there, factors = self._factors(m, by_channel & row.keys.there, head, keeps)
        m.d.comb += [
            heads.i.valid.eq(self.leaving.valid), heads.i.payload.eq(self.leaving.payload),
            order.i.valid.eq(self.leaving.valid),
            order.i.payload.eq(self.leaving.payload.selector),
            # The next head's selector is known while the end is pushed: its first row is read then.
            self.order.valid.eq(order.o.valid), self.order.selector.eq(order.o.payload),
            order.o.ready.eq(row.take & row.last),
            room.eq(~(offered & ~ready).any()),
            row.take.eq(row.valid & ~ending & (room | keeps) & heads.o.valid
                        & (~row.first | (~task_offered | self.task.ready | keeps)
                           & results.i.ready & (free != 0))),
            begins.eq(row.take & row.first),
            ends.eq(ending & (room | keeps)),
            heads.o.ready.eq(ends),
            self.freed.eq(Cat(row.take & row.last & (order.o.payload == number)
                              for number in range(spec.selectors))),
            results.i.valid.eq(begins), results.i.payload.eq(head.result),
            self.task.valid.eq(task_offered), self.task.payload.eq(task_payload),
            *(one.valid.eq(offered[c]) for c, one in enumerate(self.wanted)),
            *(one.payload.eq(payload[c]) for c, one in enumerate(self.wanted)),
        ]
        m.d.sync += [free.eq(free + self.through - begins),
                     offered.eq(offered & ~ready),
                     task_offered.eq(begins & ~keeps | task_offered & ~self.task.ready)]
        with m.If(begins & ~keeps):
            m.d.sync += task_payload.eq(head.task)
        with m.If(ends):
            m.d.sync += ending.eq(0)
        with m.If(row.take):
            m.d.sync += ending.eq(row.last)
        with m.If(ends & ~keeps):
            m.d.sync += [offered.eq(~0), *(one.end.eq(1) for one in payload)]
        with m.If(row.take & ~keeps):
            m.d.sync += offered.eq(there)
            for c, one in enumerate(payload):
                m.d.sync += [one.end.eq(0), one.row.eq(row.keys.row[c]),
                             *(mine.eq(factor) for mine, factor in zip(one.exponents, factors[c]))]
        return m

    def _factors(self, m: Module, wanted: Value, head: Any,
                 keeps: Signal) -> tuple[Value, list[list[Value]]]:
        """Return which channels' values a row wants, and the exponents of each for its parts."""
        spec, row = self._spec, self.row
        if spec.sharing == 1:
            return wanted, [[exponent] for exponent in row.exponents]
        mine = [exponent & wanted[c].replicate(len(exponent))
                for c, exponent in enumerate(row.exponents)]
        word = data.StructLayout({"there": spec.channels, "exponents": row.exponents.shape()})
        m.submodules.mate = memory = Memory(shape=word, depth=spec.rows, init=[],
                                            attrs={"no_rw_check": "1"})
        write, read = memory.write_port(), memory.read_port()
        place = Signal(range(spec.rows))
        after = Signal(range(spec.rows))
        m.d.comb += [
            after.eq(Mux(row.take, Mux(row.last, 0, place + 1), place)),
            write.en.eq(row.take & keeps), write.addr.eq(place),
            write.data.there.eq(wanted), Value.cast(write.data.exponents).eq(Cat(mine)),
            read.addr.eq(after), read.en.eq(1),
        ]
        m.d.sync += place.eq(after)
        both = ~head.result.begins
        even, odd = head.narrow & ~head.result.head[0], head.narrow & head.result.head[0]
        return wanted | read.data.there & both.replicate(spec.channels), [
            [Mux(odd, mate & both.replicate(len(mate)), own), Mux(even, 0, own)]
            for own, mate in zip(mine, read.data.exponents)]
