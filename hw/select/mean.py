# SPDX-License-Identifier: Apache-2.0
"""A multiple of the mean as a threshold, multiplied and divided bit by bit."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden.topk import TopKSpec
from hw.select.engine import row_layout


class MeanThreshold(wiring.Component):
    """Find ``q, r = divmod(value * s, m << 8)`` for the sum ``s`` of ``m`` scores.

    The sum is multiplied bit by bit, lowest first, and slides out of ``product`` meanwhile; then
    the product slides out, highest first, and the quotient in. From ``start`` to ``done``:
    ``2 * sum_width + width - 8`` cycles.

    Members
    -------
    load : ``In(row_layout(spec))``
        A row that arrives.
    start : ``In(1)``
        Begin, 2 cycles after the last row or later. Rows of the next vector may follow with
        ``spec.buffers`` of 2; with 1 when the answer is not needed any more.
    value : ``In(unsigned(spec.width))``, count : ``In(unsigned(spec.count_width))``
        The factor and ``m``; constant until ``done``.
    done : ``Out(1)``
        The answer stands from the next cycle on.
    threshold : ``Out(unsigned(spec.width))``
        ``q``, or all ones if it is greater.
    exact : ``Out(1)``
        Scores that equal the threshold are kept: ``r`` is 0, and ``q`` is no greater.
    """

    def __init__(self, spec: TopKSpec):
        self._spec = spec
        super().__init__({
            "load": In(row_layout(spec)),
            "start": In(1),
            "value": In(unsigned(spec.width)),
            "count": In(unsigned(spec.count_width)),
            "done": Out(1),
            "threshold": Out(unsigned(spec.width)),
            "exact": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec, load = self._spec, self.load
        width, depth = spec.width, spec.sum_width
        terms = [Mux(mask & load.valid, score, 0) for mask, score in zip(load.mask, load.scores)]
        while len(terms) > 1:
            terms = [a + b for a, b in zip(terms[::2], terms[1::2])]
        some = Signal(terms[0].shape())
        m.d["sync" if spec.lanes > 1 else "comb"] += some.eq(terms[0])

        high = Signal(width)
        low = Signal(depth)
        product = Cat(low, high)
        rest = Signal(spec.count_width)
        shifts = 2 * depth + width - spec.FRACTION
        left = Signal(range(shifts))
        busy = Signal()
        total = low if spec.buffers == 1 else Signal(depth, name="total")
        fresh = Signal()  # the next row begins a new sum
        was_fresh = Signal(init=1)
        m.d.comb += [self.done.eq(busy & (left == 0)), fresh.eq(self.start | was_fresh)]
        m.d.sync += [total.eq(Mux(fresh & load.valid, 0, total) + some),
                     was_fresh.eq(fresh & ~load.valid)]
        with m.If(self.start):
            m.d.sync += [low.eq(total), high.eq(0), rest.eq(0), busy.eq(1), left.eq(shifts - 1)]
        with m.Elif(busy):
            m.d.sync += [left.eq(left - 1), busy.eq(~self.done)]
            with m.If(left >= shifts - depth):
                higher = Signal(width + 1)
                m.d.comb += higher.eq(high + Mux(low[0], self.value, 0))
                m.d.sync += product.eq(Cat(low[1:], higher))
            with m.Else():
                longer = Signal(spec.count_width + 1)
                less = Signal(spec.count_width + 1)
                m.d.comb += [longer.eq(Cat(high[-1], rest)), less.eq(longer - self.count)]
                m.d.sync += [product.eq(Cat(~less[-1], product)),
                             rest.eq(Mux(less[-1], longer, less))]
        quotient = product[:width + depth - spec.FRACTION]
        none = quotient[width:].any()
        m.d.comb += [
            self.threshold.eq(quotient[:width] | none.replicate(width)),
            self.exact.eq(~none & ~rest.any() & ~product[len(quotient):].any()),
        ]
        return m
