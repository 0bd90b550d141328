# SPDX-License-Identifier: Apache-2.0
"""The rows of attention: from scores to the values that are fetched."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.spatten.spec import SpattenSpec
from hw.arith.reciprocal import Reciprocal
from hw.spatten.add import Add
from hw.spatten.begin import Begin, head_layout, vector_layout
from hw.spatten.choice import Choice
from hw.spatten.lanes import rotated
from hw.spatten.layouts import addition, bits, job, pair, result, score, scored, task, wanted
from hw.spatten.leave import Leave
from hw.spatten.softmax import Exponents
from hw.stream import Queue


def _pass(spec: SpattenSpec) -> data.StructLayout:
    """Return what must be known of a head whose exponents are being computed."""
    return data.StructLayout({
        "head": head_layout(spec), "selector": bits(spec.selectors), "final": 1,
        "rows": bits(spec.rows + 1)})


def _row(spec: SpattenSpec) -> data.StructLayout:
    """Return what goes with a row of keys, but what :class:`Exponents` carries."""
    return data.StructLayout({
        "valid": 1, "last": 1, "selector": bits(spec.selectors), "place": bits(spec.rows),
        "rows": bits(spec.rows + 1), "turn": bits(spec.channels), "there": spec.channels})


class RowUnit(wiring.Component):
    """Turn the scores of heads into the values that must be fetched, and their weights.

    As :func:`golden.spatten.attention.distances`, ``exponents``, ``chosen`` and ``probabilities``
    say::

        scored -> maxima -+
                          v
        score memories -> distances -> exponents -> sum -> > limit? -> low
                             |            |                 1/x
                             v            v                  v
                         selectors   exponent memory ------> * --> addition
                             +------------+--> wanted, task, result

    A vector of exponents is computed while earlier ones are in the selectors, and one of those
    leaves. A head whose sum exceeds its limit asks for its low bits; it is forgotten, and computed
    once more when they were added. Other heads of the operation go on meanwhile, those of the next
    one do not. Tasks leave in the order in which they became final.

    Throughput: ``period(rows)``. At the ``paper`` preset 13.25 cycles per head of 11 rows (the
    selectors: each is taken for ``3 * rows + 20`` cycles), ``rows + 1`` from 17 rows on.

    ========================================  ======  =========  ===========
    area                                       kGE    registers  memory bits
    ========================================  ======  =========  ===========
    ``paper``: 16 channels, 4 selectors       139.78   29.43       125,688
    ``tiny``: 2 channels, 1 selector           28.08   10.45         4,167
    ========================================  ======  =========  ===========

    Of the first, each selector is some 15 kGE, exponents are 33, probabilities 22, maxima 12.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    pair : ``In(stream.Signature(pair(spec)))``
        In the order of their jobs; at least one head of each takes part.
    scored, scored_low : ``In(stream.Signature(scored(spec))).array(channels)``
        Taken from all channels together.
    read_enable : ``Out(1)``, read_address : ``Out(range(score_rows))``
    read_data : ``In(ArrayLayout(score(spec), channels))``
        The score memories, a cycle after their address.
    low : ``Out(stream.Signature(job(spec)))``
        Low bits of a head's keys, please; at most ``spec.low_jobs`` whose ends were not taken.
    task : ``Out(stream.Signature(task(spec)))``
        Not later than what is wanted for it.
    wanted : ``Out(stream.Signature(wanted(spec))).array(channels)``
    result : ``Out(stream.Signature(result(spec)))``
        In the order of tasks, not later than the end of a task. ``RESULTS`` of them can wait.
    addition : ``Out(Signature({"valid": Out(1), "payload": Out(addition(spec))}))``
    released : ``Out(1)``
        The oldest pair that was not released is: its query and its scores are not needed any more.
    adding : ``Out(1)``
        Additions of pairs that were accepted are outstanding.

    Source
    ------
    Wang, Zhang, Han, "SpAtten", HPCA 2021 (arXiv:2012.09852), sections III-C to III-E: local value
    pruning, progressive quantisation. Ours chooses among all channels at once, and by distances to
    the maximum in place of probabilities.
    """

    RESULTS = Leave.RESULTS

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        c = spec.channels
        super().__init__({
            "pair": In(stream.Signature(pair(spec))),
            "scored": In(stream.Signature(scored(spec))).array(c),
            "scored_low": In(stream.Signature(scored(spec))).array(c),
            "read_enable": Out(1),
            "read_address": Out(bits(spec.score_rows)),
            "read_data": In(data.ArrayLayout(score(spec), c)),
            "low": Out(stream.Signature(job(spec))),
            "task": Out(stream.Signature(task(spec))),
            "wanted": Out(stream.Signature(wanted(spec))).array(c),
            "result": Out(stream.Signature(result(spec))),
            "addition": Out(wiring.Signature({
                "valid": Out(1), "payload": Out(addition(spec))})),
            "released": Out(1),
            "adding": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def period(self, rows: int) -> int:
        """Return the cycles for ``spec.selectors`` heads of so many rows, nothing stalling.

        Reading and leaving take at least 4 and ``rows + 1`` cycles for each; a selector is taken
        from the reading of a head's first row until its last row leaves. Low bits are not needed.
        """
        spec = self._spec
        search = spec.select.find_cycles(rows * spec.channels)
        return max(spec.selectors * max(4, rows + 1), 2 * rows + 5 + search)

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        m.submodules.pairs = pairs = Queue(shape=pair(spec), depth=spec.pairs)
        m.submodules.begin = begin = Begin(spec)
        m.submodules.choice = choice = Choice(spec)
        m.submodules.exponents = exponents = Exponents(spec)
        m.submodules.add = add = Add(spec)
        m.submodules.leave = leave = Leave(spec)
        m.submodules.passes = passes = Queue(shape=_pass(spec), depth=spec.selectors + 4)
        busy = Signal(spec.selectors)  # selectors that are not free
        selector = Signal(range(spec.selectors))  # whose turn it is
        begun = Signal()
        finals = Signal()  # a head became final
        connect(m, flipped(self.pair), pairs.i)
        connect(m, pairs.o, begin.pair)
        for mine, its in ((self.scored, begin.scored), (self.scored_low, begin.scored_low),
                          (self.wanted, leave.wanted)):
            for one, other in zip(mine, its):
                connect(m, flipped(one), other)
        for mine, its in ((self.task, leave.task), (self.result, leave.result),
                          (self.addition, add.addition)):
            connect(m, flipped(mine), its)
        connect(m, leave.order, choice.order)
        connect(m, choice.o, leave.row)
        connect(m, add.again, choice.again)
        m.d.comb += leave.through.eq(add.through)

        free = Signal()
        m.d.comb += [
            free.eq(~busy.bit_select(selector, 1)),
            begun.eq(begin.o.valid & begin.o.ready),
            passes.i.valid.eq(begun),
            passes.i.payload.head.eq(begin.o.payload.head),
            passes.i.payload.selector.eq(selector),
            passes.i.payload.final.eq(begin.o.payload.final),
            passes.i.payload.rows.eq(begin.o.payload.rows),
        ]
        taken = Cat(begun & (selector == number) for number in range(spec.selectors))
        m.d.sync += busy.eq((busy | taken) & ~leave.freed & ~choice.discard)
        with m.If(begun):
            m.d.sync += selector.eq(Mux(selector == spec.selectors - 1, 0, selector + 1))
        self._read(m, begin, exponents, choice, selector, free)
        open_ = self._count(m, begin, begun, passes.o.payload.head, finals, add.added)
        self._decide(m, begin, passes, exponents, choice, add, leave, open_, finals)
        return m

    def _read(self, m: Module, begin: Begin, exponents: Exponents, choice: Choice,
              selector: Signal, free: Signal) -> None:
        """Read a vector's scores row by row; bring distances and exponents to its selector."""
        spec, now = self._spec, begin.operation
        active = Signal()
        place = Signal(range(spec.rows + 1))
        vector: Any = Signal(vector_layout(spec), reset_less=True)
        number = Signal.like(selector)
        stages = ("address", "scores", "difference", "step", "distance", "exponent")
        rows: list[Any] = [Signal(_row(spec), name=f"row_{stage}") for stage in stages]
        now_read, at_scores, at_distance, at_exponent = rows[0], rows[1], rows[-2], rows[-1]
        m.d.comb += [
            begin.o.ready.eq((~active | now_read.last) & free),
            self.read_enable.eq(active), self.read_address.eq(vector.head.base + place),
            now_read.valid.eq(active), now_read.last.eq(place + 1 >= vector.rows),
            now_read.place.eq(place), now_read.rows.eq(vector.rows),
            now_read.turn.eq(vector.head.turn), now_read.selector.eq(number),
            now_read.there.eq(Cat(count > place for count in vector["keys"])),
        ]
        m.d.sync += [later.eq(sooner) for sooner, later in zip(rows, rows[1:])]
        with m.If(active):
            m.d.sync += [place.eq(place + 1), active.eq(~now_read.last)]
        with m.If(begin.o.valid & begin.o.ready):
            m.d.sync += [vector.eq(begin.o.payload), number.eq(selector), active.eq(1),
                         place.eq(0)]

        odd = Signal()
        mark, load = exponents.mark, choice.load
        m.d.sync += [mark.first.eq(place == 0), exponents.highest.eq(vector.highest),
                     odd.eq(vector.head.odd)]
        m.d.comb += [
            mark.valid.eq(at_scores.valid), mark.last.eq(at_scores.last),
            mark.there.eq(at_scores.there),
            exponents.shift.eq(now.score_shift), exponents.mul.eq(now.score_mul),
            choice.keys.valid.eq(at_scores.valid), choice.keys.selector.eq(at_scores.selector),
            choice.keys.place.eq(at_scores.place), choice.keys.row.there.eq(at_scores.there),
            *(getattr(load, name).eq(at_exponent[name])
              for name in ("valid", "selector", "place", "last", "rows")),
            load.values.eq(now["values"]), load.exponents.eq(exponents.exponent),
        ]
        near = []
        for c, word in enumerate(self.read_data):
            nearness = Signal(spec.select.width, name=f"near_{c}")
            m.d.comb += [
                exponents.scores[c].eq(Mux(odd, word.odd, word.even)),
                choice.keys.row.row[c].eq(word.row),
                nearness.eq(Mux(at_distance.there[c],
                                (1 << spec.DISTANCE_BITS) - exponents.distance[c], 0)),
            ]
            near.append(nearness)
        scores = Signal(load.scores.shape(), reset_less=True)
        m.d.sync += [scores[lane].eq(nearness) for lane, nearness
                     in enumerate(rotated(m, "near_lane", near, at_distance.turn))]
        m.d.comb += load.scores.eq(scores)

    def _decide(self, m: Module, begin: Begin, passes: Queue, exponents: Exponents,
                choice: Choice, add: Add, leave: Leave, open_: Signal, finals: Signal) -> None:
        """Let heads leave that are final; let others ask for low bits, and come back."""
        spec, now = self._spec, begin.operation
        this, total, done = passes.o.payload, exponents.total, exponents.done
        head, task_, result_ = this.head, leave.leaving.payload.task, leave.leaving.payload.result
        m.submodules.asking = asking = Queue(shape=head_layout(spec), depth=2 * spec.pairs)
        m.submodules.asked = asked = Queue(shape=head_layout(spec), depth=self._spec.low_jobs)
        m.submodules.reciprocal = reciprocal = Reciprocal(spec.reciprocal)
        lacks = Signal()  # this head does
        lacking = Signal()
        # Twins are final together: the even one in the cycle of the decision, the odd one late
        other: Any = Signal(data.StructLayout({
            "total": spec.sum_bits, "lacks": 1, "selector": bits(spec.selectors)}),
            reset_less=True)  # the even one
        due = Signal()  # a head or twins are decided about
        late = Signal()
        held = Signal(spec.sum_bits, reset_less=True)  # the odd one's sum
        odd, sum_, selector = Signal(), Signal(spec.sum_bits), Signal(bits(spec.selectors))
        with m.If(done & ~due):
            m.d.sync += [other.total.eq(total), other.lacks.eq(lacks),
                         other.selector.eq(this.selector)]
        with m.If(done):
            m.d.sync += held.eq(total)
        m.d.sync += late.eq(due & ~lacking & head.twin)
        connect(m, asked.o, begin.asked)
        m.d.comb += [
            due.eq(done & (head.odd | ~head.twin)),
            lacks.eq((total > now.limit) & ~this.final),
            lacking.eq(lacks | head.twin & other.lacks),
            odd.eq(Mux(head.twin, late, head.odd)),
            sum_.eq(Mux(late, held, Mux(head.twin, other.total, total))),
            selector.eq(Mux(head.twin & ~late, other.selector, this.selector)),
            finals.eq(due & ~lacking | late),
            passes.o.ready.eq(late | done & ~(due & ~lacking & head.twin)),
            reciprocal.i.valid.eq(finals), reciprocal.i.payload.sum.eq(sum_),
            reciprocal.watch.eq(1), reciprocal.o.ready.eq(1), add.found.eq(reciprocal.found),
            add.head.valid.eq(finals), add.head.payload.turn.eq(head.turn),
            add.head.payload.selector.eq(selector), add.head.payload.rows.eq(this.rows),
            add.head.payload.accumulate.eq(head.accumulate),
            leave.leaving.valid.eq(finals),
            leave.leaving.payload.turn.eq(head.turn),
            leave.leaving.payload.selector.eq(selector),
            leave.leaving.payload.narrow.eq(now.narrow),
            task_.beat.eq(head.value + Mux(odd & ~now.narrow, now.value_planes, 0)),
            task_.stride.eq(now.value_stride), task_.planes.eq(now.value_planes),
            result_.total.eq(sum_), result_.channel.eq(head.own),
            result_.output.eq(head.output + Mux(odd & ~now.narrow, spec.vector_beats, 0)),
            result_.head.eq(Cat(odd, head.pair)), result_.error.eq(head.error),
            result_.begins.eq(~late), result_.ends.eq(late | ~head.twin),
            result_.last.eq(begin.last & (open_ == 1)),
            result_.accumulate.eq(head.accumulate),
            *(result_[name].eq(now[name]) for name in ("mul", "shift", "op")),
            asking.i.valid.eq(due & lacking), asking.i.payload.eq(head),
            choice.discard.eq(Cat(
                asking.i.valid & ((this.selector == number)
                                  | head.twin & (other.selector == number))
                for number in range(spec.selectors))),
        ]
        waiting, low = asking.o.payload, self.low.payload
        m.d.comb += [
            self.low.valid.eq(asking.o.valid & asked.i.ready),
            asking.o.ready.eq(self.low.ready & asked.i.ready),
            asked.i.valid.eq(asking.o.valid & self.low.ready), asked.i.payload.eq(waiting),
            low.low.eq(1), low.narrow.eq(now.narrow),
            low.even.eq(waiting.twin | ~waiting.odd), low.odd.eq(waiting.twin | waiting.odd),
            *(low[name].eq(waiting[name]) for name in ("slot", "base", "turn")),
            low.beat.eq(waiting.key_low + (waiting.odd & ~now.narrow)),
            low.stride.eq(now.key_low_stride), low.dense.eq(now.dense), low.tokens.eq(now.tokens),
        ]

    def _count(self, m: Module, begin: Begin, begun: Signal, final: Any, finals: Signal,
               added: Signal) -> Signal:
        """Count heads that are not final, of each pair and of all, and those to be added."""
        spec, vector = self._spec, begin.o.payload
        arriving, taking = self.pair.payload, begin.pair.payload
        heads = Signal(2)
        first = Signal()  # a pair begins
        whole = Signal()  # all its heads have begun
        open_ = Signal(range(2 * spec.pairs + 1))
        pairs = Signal(range(spec.pairs + 1))  # that were not released
        oldest = Signal(range(spec.pairs))
        to_add = Signal(range(4 * spec.pairs + 2 * spec.selectors + 8))
        left = [Signal(2, name=f"left_{place}") for place in range(spec.pairs)]
        accepted = self.pair.valid & self.pair.ready & arriving.accumulate
        m.d.comb += [
            heads.eq(taking.even + taking.odd),
            first.eq(begun & vector.first), whole.eq(begun & vector.whole),
            begin.room.eq(pairs != spec.pairs), begin.drained.eq(open_ == 0),
            self.released.eq((pairs != 0) & (Array(left)[oldest] == 0)),
            self.adding.eq(to_add != 0),
        ]
        m.d.sync += [
            open_.eq(open_ + Mux(first, heads, 0) - finals),
            pairs.eq(pairs + whole - self.released),
            oldest.eq(oldest + self.released),  # modulo a power of two, as Begin counts
            to_add.eq(to_add + Mux(accepted, arriving.even + arriving.odd, 0) - added),
        ]
        for place, count in enumerate(left):
            with m.If(first & (vector.head.place == place)):
                m.d.sync += count.eq(heads)
            with m.Elif(finals & (final.place == place)):
                m.d.sync += count.eq(count - 1)
        return open_
