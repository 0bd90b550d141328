# SPDX-License-Identifier: Apache-2.0
"""Let pass what a threshold keeps of a vector, compacted."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.topk import TopKSpec
from hw.select.compact import ZeroEliminator, ranks
from hw.select.engine import row_layout


def beat_layout(spec: TopKSpec) -> data.StructLayout:
    """Return the layout of the survivors of a row, as :class:`~hw.select.topk.TopK` tells it."""
    return data.StructLayout({
        "indices": data.ArrayLayout(unsigned(spec.index_width), spec.lanes),
        "scores": data.ArrayLayout(unsigned(spec.width), spec.lanes),
        "count": range(spec.lanes + 1),
        "total": unsigned(spec.count_width),
        "last": 1,
    } | ({"mask": spec.lanes} if spec.mask else {}))


class Filter(wiring.Component):
    """Keep what is above a threshold, the first so many of what equals it, and the protected.

    Every rule ends here: comparison in the first stage; in the second the limit of the equal ones,
    and their compaction. Latency: 2 cycles. Throughput: 1 row per cycle; ``row_ready`` depends on
    ``o.ready``, combinationally.

    Members
    -------
    row : ``In(row_layout(spec))``
        Under ``mask`` the entries that are not protected.
    exempt : ``In(spec.lanes)``
        The protected entries: kept whatever their scores.
    row_ready : ``Out(1)``
    threshold : ``In(unsigned(spec.width))``, equals : ``In(unsigned(spec.count_width))``
        As an :class:`~hw.select.engine.Engine` tells them; constant from a vector's first row to
        its last, ``equals`` needed with the first.
    every : ``In(1)``
        All that equal the threshold are kept.
    o : ``Out(stream.Signature(beat_layout(spec)))``
    """

    LATENCY = 2

    def __init__(self, spec: TopKSpec):
        self._spec = spec
        super().__init__({
            "row": In(row_layout(spec)),
            "exempt": In(spec.lanes),
            "row_ready": Out(1),
            "threshold": In(unsigned(spec.width)),
            "equals": In(unsigned(spec.count_width)),
            "every": In(1),
            "o": Out(stream.Signature(beat_layout(spec))),
        })

    def elaborate(self, platform):
        m = Module()
        spec, lanes, row = self._spec, self._spec.lanes, self.row
        kept: Any = Signal(data.StructLayout({
            "above": lanes, "equal": lanes, "last": 1, "scores": row.scores.shape()}),
            reset_less=True)
        kept_valid = Signal()
        kept_ready = Signal()
        first = Signal(init=1)
        left = Signal(spec.count_width, reset_less=True)  # of those that equal the threshold
        m.d.comb += [kept_ready.eq(~self.o.valid | self.o.ready),
                     self.row_ready.eq(~kept_valid | kept_ready)]
        order, equals = ranks(m, "equal", kept.equal)
        with m.If(kept_valid & kept_ready):
            m.d.sync += left.eq(Mux(left > equals, left - equals, 0))
        with m.If(self.row_ready):
            m.d.sync += kept_valid.eq(row.valid)
            with m.If(row.valid):
                m.d.sync += [first.eq(row.last), kept.last.eq(row.last),
                             kept.scores.eq(row.scores)]
                for lane, score in enumerate(row.scores):
                    same = Signal(name=f"same_{lane}")
                    above = (score > self.threshold) | same & self.every
                    m.d.comb += same.eq(score == self.threshold)
                    m.d.sync += [
                        kept.above[lane].eq(self.exempt[lane] | row.mask[lane] & above),
                        kept.equal[lane].eq(row.mask[lane] & same)]
                with m.If(first):
                    m.d.sync += left.eq(self.equals)

        keep = Signal(lanes)
        m.submodules.eliminator = eliminator = ZeroEliminator(lanes=lanes, shape=data.StructLayout({
            "score": spec.width, "lane": (lanes - 1).bit_length()}))
        m.d.comb += [
            keep.eq(Cat(above | equal & (left > rank)
                        for above, equal, rank in zip(kept.above, kept.equal, order))),
            eliminator.keep.eq(keep),
        ]
        for lane, item in enumerate(eliminator.i):
            m.d.comb += [item.score.eq(kept.scores[lane]), item.lane.eq(lane)]

        valid = Signal()
        beat: Any = Signal(data.StructLayout({
            "items": eliminator.o.shape(), "count": range(lanes + 1), "mask": lanes}),
            reset_less=True)
        last = Signal(init=1)
        number = Signal(range(spec.rows))  # of the row that is in beat
        total = Signal(spec.count_width)
        with m.If(kept_ready):
            m.d.sync += valid.eq(
                kept_valid & (C(1) if spec.mask else keep.any() | kept.last))
            with m.If(kept_valid):
                m.d.sync += [
                    beat.items.eq(eliminator.o), beat.count.eq(eliminator.count),
                    beat.mask.eq(keep), last.eq(kept.last), number.eq(Mux(last, 0, number + 1)),
                    total.eq(Mux(last, 0, total) + eliminator.count)]
        payload = self.o.payload
        m.d.comb += [self.o.valid.eq(valid), payload.count.eq(beat.count),
                     payload.last.eq(last), payload.total.eq(total)]
        if spec.mask:
            m.d.comb += payload.mask.eq(beat.mask)
        for lane, item in enumerate(beat.items):
            m.d.comb += [payload.scores[lane].eq(item.score),
                         payload.indices[lane].eq(Cat(item.lane, number))]
        return m
