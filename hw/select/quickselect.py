# SPDX-License-Identifier: Apache-2.0
"""The k-th greatest score by partition around pseudo-random pivots, as SpAtten does."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.topk import PivotSource, TopKSpec
from hw.select.compact import ZeroEliminator, population
from hw.select.engine import Engine


class Partition(wiring.Component):
    """Hold one side of a partition: compacted, packed into full rows, with a pivot from it.

    Survivors of a row wait in ``held`` until they fill a row, which is written to memory. Rows are
    written from the beginning of the memory on, never beyond those that were read before, so that
    a side can be read and replaced in the same pass.

    Members
    -------
    keep : ``In(spec.lanes)``, scores : ``In(ArrayLayout(unsigned(spec.width), spec.lanes))``
        A row, and which of it belongs to this side.
    end : ``In(1)``
        The pass ends: write what is held, and start from the beginning. No row in this cycle.
    size : ``Out(unsigned(spec.count_width))``
        Scores of this side so far.
    random : ``In(PivotSource.WIDTH)``
    pivot : ``Out(unsigned(spec.width))``
        One of the scores so far, if there is one.
    read_enable : ``In(1)``, address : ``In(range(spec.rows))``, read : ``Out(...)``
        A row of the pass before, in the next cycle.
    """

    def __init__(self, spec: TopKSpec):
        self._spec = spec
        scores = data.ArrayLayout(unsigned(spec.width), spec.lanes)
        super().__init__({
            "keep": In(spec.lanes),
            "scores": In(scores),
            "end": In(1),
            "size": Out(unsigned(spec.count_width)),
            "random": In(PivotSource.WIDTH),
            "pivot": Out(unsigned(spec.width)),
            "read_enable": In(1),
            "address": In(range(spec.rows)),
            "read": Out(scores),
        })

    def elaborate(self, platform):
        m = Module()
        spec, lanes = self._spec, self._spec.lanes
        m.submodules.memory = memory = Memory(
            shape=unsigned(lanes * spec.width), depth=spec.rows, init=[],
            attrs={"no_rw_check": "1"})
        write, read = memory.write_port(), memory.read_port()
        m.submodules.eliminator = eliminator = ZeroEliminator(
            lanes=lanes, shape=unsigned(spec.width))
        m.d.comb += [eliminator.keep.eq(self.keep), eliminator.i.eq(self.scores)]

        waiting = Signal((lanes - 1).bit_length())  # scores in held
        held = Signal(lanes * spec.width, reset_less=True)
        row = Signal(range(spec.rows))
        filled = Signal(range(2 * lanes))
        full = Signal()
        turned = Signal(lanes * spec.width, name="turned_0")
        m.d.comb += turned.eq(eliminator.o)
        for layer, bit in enumerate(waiting):
            straight, turned = turned, Signal(len(turned), name=f"turned_{2 << layer}")
            m.d.comb += turned.eq(Mux(bit, straight.rotate_left(spec.width << layer), straight))
        merged = Cat(
            Mux(waiting > lane, held.word_select(lane, spec.width),
                turned.word_select(lane, spec.width)) if lane < lanes - 1
            else turned.word_select(lane, spec.width) for lane in range(lanes))
        m.d.comb += [
            filled.eq(waiting + eliminator.count),
            full.eq(filled >= lanes),
            self.size.eq(Cat(waiting, row)),
            write.en.eq(full | self.end),
            write.addr.eq(row),
            write.data.eq(merged),
            read.en.eq(self.read_enable),
            read.addr.eq(self.address),
            Value.cast(self.read).eq(read.data),
        ]
        m.d.sync += [held.eq(Mux(full, turned, merged)), waiting.eq(filled), row.eq(row + full)]
        with m.If(self.end):
            m.d.sync += [waiting.eq(0), row.eq(0)]
        m.submodules.source = source = Reservoir(spec)
        m.d.comb += [
            source.offer.eq(eliminator.count != 0),
            source.score.eq(eliminator.o[0]),
            source.random.eq(self.random),
            source.end.eq(self.end),
            self.pivot.eq(source.pivot),
        ]
        return m


class Reservoir(wiring.Component):
    """Keep one of the scores offered, each about equally likely.

    The ``n``-th is taken with the probability ``2**-ceil(log2(n))``.

    Members
    -------
    offer : ``In(1)``, score : ``In(unsigned(spec.width))``, random : ``In(PivotSource.WIDTH)``
    end : ``In(1)``
        Start again. No offer in this cycle.
    pivot : ``Out(unsigned(spec.width))``
    """

    def __init__(self, spec: TopKSpec):
        self._spec = spec
        super().__init__({
            "offer": In(1),
            "score": In(unsigned(spec.width)),
            "random": In(PivotSource.WIDTH),
            "end": In(1),
            "pivot": Out(unsigned(spec.width)),
        })

    def elaborate(self, platform):
        m = Module()
        offers = Signal(range(self._spec.rows + 1))
        pivot = Signal(self._spec.width, reset_less=True)
        mask = Cat(offers[n:].any() for n in range(len(offers)))
        m.d.comb += self.pivot.eq(pivot)
        with m.If(self.offer):
            m.d.sync += offers.eq(offers + 1)
            with m.If(~(mask & self.random).any()):
                m.d.sync += pivot.eq(self.score)
        with m.If(self.end):
            m.d.sync += offers.eq(0)
        return m


class QuickSelect(Engine):
    """Find the threshold by partition: scores below a pivot to the left, above it to the right.

    ::

        row --+--> compare with the pivot --+--> zero eliminator, packer, memory: left  --+
              ^                             +--> zero eliminator, packer, memory: right --+
              +---------------------------------------------------------------------------+

    If the right side has enough scores, the search goes on there; if with the pivot and its equals
    there are enough, the pivot is the threshold; else the search goes on to the left for what is
    missing. Pivots are scores of the side, drawn while it was filled; that of the first pass while
    the vector was loaded. A pass over ``n`` scores takes ``ceil(n / lanes) + 3`` cycles. Every
    pass removes at least the pivot: the number of passes is small on average, and that of the
    scores for who knows the random numbers (:meth:`~golden.topk.TopKSpec.killer`).

    Source
    ------
    Wang, Zhang, Han, "SpAtten", HPCA 2021 (arXiv:2012.09852), algorithm 3, with the rank counted
    from 1, so that nothing is missing when everything is kept. Our sides are replaced in place.
    """

    def elaborate(self, platform):
        m = Module()
        spec, lanes = self._spec, self._spec.lanes
        m.submodules.left = left = Partition(spec)
        m.submodules.right = right = Partition(spec)
        m.submodules.first = first = Reservoir(spec)
        random = Signal(PivotSource.WIDTH, init=PivotSource.SEED)
        target = Signal(spec.count_width)
        pivot = Signal(spec.width, reset_less=True)
        equal_count = Signal(spec.count_width)
        all_kept = Signal()
        none_kept = Signal()

        # A pass: read, compare, pack; then decide.
        scanning = Signal()  # the pass over the vector itself
        from_right = Signal()
        reading = Signal()
        read_valid = Signal()
        address = Signal(range(spec.rows))
        rest = Signal(spec.count_width)  # scores of the side that were not read yet
        here = Signal(lanes)  # lanes of the row read last that hold scores
        final = Signal()
        rows: Any = Signal(data.ArrayLayout(unsigned(spec.width), lanes))
        mask = Signal(lanes)
        packs: Any = Signal(data.StructLayout({
            "less": lanes, "equal": lanes, "more": lanes, "end": 1}))
        packed = Signal(rows.shape(), reset_less=True)
        deciding = Signal()
        end = Signal()
        m.d.comb += [
            self.ready.eq(1),
            Value.cast(rows).eq(Mux(scanning, self.row.scores, Mux(from_right, right.read,
                                                                    left.read))),
            mask.eq(Mux(scanning, self.row.mask & self.row.valid.replicate(lanes),
                        here & read_valid.replicate(lanes))),
            end.eq(Mux(scanning, self.row.valid & self.row.last, read_valid & final)),
        ]
        below = Cat(score < pivot for score in rows)
        above = Cat(score > pivot for score in rows)
        m.d.sync += [
            packs.less.eq(mask & below),
            packs.more.eq(mask & above),
            packs.equal.eq(mask & ~below & ~above),
            packs.end.eq(end),
            Value.cast(packed).eq(rows),
            deciding.eq(packs.end),
            read_valid.eq(reading),
        ]
        with m.If(reading):
            m.d.sync += [address.eq(address + 1), rest.eq(rest - lanes),
                         here.eq(Cat(rest > lane for lane in range(lanes))),
                         final.eq(rest <= lanes), reading.eq(rest > lanes)]
        for side, keep in ((left, packs.less), (right, packs.more)):
            m.d.comb += [side.keep.eq(keep), side.scores.eq(packed), side.random.eq(random),
                         side.read_enable.eq(reading), side.address.eq(address)]
        m.d.sync += equal_count.eq(equal_count + population(m, "equals", list(packs.equal)))
        moves = packs.less.any() | packs.more.any() | packs.equal.any()
        with m.If(self.load.valid | moves):
            m.d.sync += random.eq(self._following(m, random))

        head = Signal(spec.width)  # the first score that is not protected
        for lane in reversed(range(min(lanes, spec.PROTECTED + 1))):
            with m.If(self.load.mask[lane]):
                m.d.comb += head.eq(self.load.scores[lane])
        m.d.comb += [
            first.offer.eq(self.load.valid & self.load.mask[:spec.PROTECTED + 1].any()),
            first.score.eq(head),
            first.random.eq(random),
            first.end.eq(self.start),
        ]

        enough = Signal()  # scores above the pivot
        found = Signal()
        with_equals = Signal(spec.count_width)
        side_size = Signal(spec.count_width)
        m.d.comb += [
            with_equals.eq(right.size + equal_count),
            enough.eq(right.size >= target),
            found.eq(~enough & (with_equals >= target)),
            side_size.eq(Mux(enough, right.size, left.size)),
            left.end.eq(deciding),
            right.end.eq(deciding),
            self.done.eq(deciding & (found | none_kept | (side_size == 0))),
            self.threshold.eq(Mux(all_kept, 0, pivot | none_kept.replicate(spec.width))),
            self.equals.eq(Mux(none_kept, 0, target | all_kept.replicate(spec.count_width))),
        ]
        started = Signal()
        m.d.sync += started.eq(self.start)
        m.d.comb += self.scan.eq(started)
        with m.If(self.start):
            m.d.sync += [target.eq(self.keep), pivot.eq(first.pivot), equal_count.eq(0),
                         none_kept.eq(self.keep == 0), all_kept.eq(0), scanning.eq(1)]
        with m.If(deciding):
            m.d.sync += [equal_count.eq(0), address.eq(0), rest.eq(side_size), scanning.eq(0)]
            with m.If(found):
                m.d.sync += target.eq(target - right.size)
            with m.Elif(enough):
                m.d.sync += [pivot.eq(right.pivot), from_right.eq(1)]
            with m.Else():
                m.d.sync += [target.eq(target - with_equals), pivot.eq(left.pivot),
                             from_right.eq(0), all_kept.eq(left.size == 0)]
            m.d.sync += reading.eq(~self.done)
        return m

    def _following(self, m: Module, random: Signal) -> Signal:
        """Return what :meth:`PivotSource.step` makes of a pseudo-random number."""
        for step in range(PivotSource.STEPS):
            before, random = random, Signal(len(random), name=f"random_{step + 1}")
            bit = Cat(before[tap] for tap in PivotSource.TAPS).xor()
            m.d.comb += random.eq(Cat(bit, before))
        return random
