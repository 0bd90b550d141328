# SPDX-License-Identifier: Apache-2.0
"""Importance of tokens and heads: sums, and the choice of those that stay."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.fixed import ceil_div
from golden.spatten.operation import Rescale, Subject
from golden.spatten.spec import SpattenSpec
from hw.select.topk import TopK
from hw.spatten.layouts import adding, bits, head_amount, prune


class Bank(wiring.Component):
    """The sums of every ``prune_lanes``-th token, and the arithmetic of a lane.

    Members
    -------
    valid, row, amount : In
        Add to a sum, saturating: one addition per cycle, also of the same row.
    read, write, place : In
        Of another row: read it, write ``changed``. Not with additions, nor before the cycle after
        the next.
    other, others : In
        ``other`` takes the place of the sum that was read.
    shift, rescale : In
        What ``changed`` is, of the sum that was read. ``Rescale.KEEP`` is not for it.
    score : ``Out(SELECT_BITS)``
        ``min(sum >> shift, 2**16 - 3) + 1``.
    changed : ``Out(IMPORTANCE_BITS)``
    """

    def __init__(self, spec: SpattenSpec):
        self._spec = spec
        self._rows = spec.max_tokens // spec.prune_lanes
        row, width = bits(self._rows), spec.IMPORTANCE_BITS
        super().__init__({
            "valid": In(1), "row": In(row), "amount": In(spec.PROBABILITY_BITS),
            "read": In(1), "write": In(1), "place": In(row), "write_place": In(row),
            "others": In(1), "other": In(width), "shift": In(5), "rescale": In(2),
            "score": Out(spec.SELECT_BITS), "changed": Out(width),
        })

    def elaborate(self, platform):
        m = Module()
        spec, width = self._spec, self._spec.IMPORTANCE_BITS
        m.submodules.sums = sums = Memory(
            shape=width, depth=self._rows, init=[], attrs={"no_rw_check": "1"})
        write, read = sums.write_port(), sums.read_port()
        adding = Signal()
        again = Signal()  # to the row that is being written
        at = Signal(self.row.shape(), reset_less=True)
        amount = Signal(self.amount.shape(), reset_less=True)
        latest = Signal(width, reset_less=True)
        now = Signal(width)
        moved = Signal(width)
        addend = Signal(width)
        result = Signal(width + 1)
        m.d.comb += [
            read.en.eq(self.valid | self.read),
            read.addr.eq(Mux(self.valid, self.row, self.place)),
            now.eq(Mux(self.others, self.other, Mux(again, latest, read.data))),
            moved.eq(now >> self.shift),
            addend.eq(Mux(adding, amount, ~moved)),
            result.eq(now + addend + ~adding),
            write.en.eq(adding | self.write),
            write.addr.eq(Mux(adding, at, self.write_place)),
            write.data.eq(self.changed),
        ]
        with m.If(adding | (self.rescale == Rescale.DECAY)):
            m.d.comb += self.changed.eq(result[:width] | (adding & result[-1]).replicate(width))
        with m.Elif(self.rescale == Rescale.SHIFT):
            m.d.comb += self.changed.eq(moved)
        m.d.sync += [adding.eq(self.valid), again.eq(adding & self.valid & (at == self.row))]
        with m.If(self.valid):
            m.d.sync += [at.eq(self.row), amount.eq(self.amount)]
        with m.If(adding):
            m.d.sync += latest.eq(self.changed)
        low, most = moved[:spec.SELECT_BITS], (1 << spec.SELECT_BITS) - 2
        beyond = moved[spec.SELECT_BITS:].any() | low[1:].all()
        m.d.comb += self.score.eq(Mux(beyond, most, low + 1))
        return m


class PruneUnit(wiring.Component):
    """Add up the importance of tokens and heads; execute PRUNE as ``Emulator._prune`` does.

    ::

        addition --> banks of token sums --+--> shift --> TopK --> tokens, heads
        head ------> sums of heads --------+      +-----> rescaled sums

    Sums lie in rows of ``prune_lanes``, of which a sweep passes one per cycle: the rows of a
    PRUNE's candidates to the selector, then, while that is busy, all rows of the kind through the
    same shifters and adders to be rescaled. The adders are those of the additions, too.

    Cycles from a PRUNE to ``done``: :meth:`cycles`. An addition takes 2 cycles, one may come in
    each. After a reset and after ``clear`` the unit is busy for ``sweep + 1`` cycles, in which
    all sums become 0.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    addition : ``In(adding(spec))``
        For the sums of tokens. Not while ``busy`` with something else.
    head : ``In(head_amount(spec))``
        For the sums of heads, at most in every other cycle. Not while ``busy`` with something else.
    op : ``In(stream.Signature(prune(spec)))``
        Not taken in the cycle of an addition, nor while busy.
    clear : ``In(1)``
        Begin anew: sums 0, all tokens and heads left. Only when not ``busy``, without ``op``.
    busy : ``Out(1)``
        Something is under way, an addition included.
    done : ``Out(1)``
        A PRUNE ends, ``tokens`` or ``heads`` are those that stay.
    tokens : ``Out(spec.max_tokens)``, heads : ``Out(spec.max_heads)``
        Those that are left. They change while a PRUNE is under way.
    pruned : ``Out(1)``
        Tokens were chosen since the last ``clear``.
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        self._token_rows = spec.max_tokens // spec.prune_lanes
        self._head_rows = ceil_div(spec.max_heads, spec.prune_lanes)
        super().__init__({
            "addition": In(adding(spec)), "head": In(head_amount(spec)),
            "op": In(stream.Signature(prune(spec))),
            "clear": In(1), "busy": Out(1), "done": Out(1),
            "tokens": Out(spec.max_tokens), "heads": Out(spec.max_heads), "pruned": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    @property
    def sweep(self) -> int:
        """Rows of the longer memory of sums."""
        return max(self._token_rows, self._head_rows)

    def cycles(self, count: int, *, rule: int, subject: int, rescale: int) -> int:
        """Return the cycles from that in which a PRUNE is taken to that of its ``done``."""
        rows = ceil_div(count, self._spec.prune_lanes)
        every = self._head_rows if subject == Subject.HEADS else self._token_rows
        return max(rows + 3 + self._spec.prune.cycles(count, rule),
                   rows + every + 2 if rescale != Rescale.KEEP else 0)

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        lanes = spec.prune_lanes
        within = (lanes - 1).bit_length()  # bits of a lane
        banks = []
        for lane in range(lanes):
            m.submodules[f"bank_{lane}"] = bank = Bank(spec)
            banks.append(bank)

        op: Any = Signal(self.op.payload.shape(), reset_less=True)
        final = Signal(op.count.shape())  # index of the last that takes part
        place = Signal(range(self.sweep))
        before = Signal(range(self.sweep))
        reading = Signal()
        last = Signal()  # row of the sweep
        begin = Signal()
        scored = Signal()  # a row of sums is there to be compared,
        scored_last = Signal()  # the last one,
        writing = Signal()  # to be rescaled,
        clearing = Signal()  # to be cleared
        chosen = Signal()
        m.d.comb += final.eq(op.count - 1)
        m.d.sync += [before.eq(place), begin.eq(0), scored.eq(0), writing.eq(0), clearing.eq(0)]
        with m.If(reading):
            m.d.sync += place.eq(Mux(last, 0, place + 1))
        with m.FSM(init="clear") as fsm:
            with m.State("clear"):
                m.d.comb += [reading.eq(1), last.eq(place == self.sweep - 1)]
                m.d.sync += [writing.eq(1), clearing.eq(1)]
                with m.If(last):
                    m.next = "idle"
            with m.State("idle"):
                m.d.comb += self.op.ready.eq(
                    ~writing & ~self.addition.valid & ~self.head.valid)
                with m.If(self.clear):
                    m.next = "clear"
                with m.Elif(self.op.valid & self.op.ready):
                    m.d.sync += [op.eq(self.op.payload), begin.eq(1), chosen.eq(0)]
                    m.next = "load"
            with m.State("load"):
                m.d.comb += [reading.eq(1), last.eq(place == final >> within)]
                m.d.sync += [scored.eq(1), scored_last.eq(last)]
                with m.If(last):
                    with m.If(op.rescale == Rescale.KEEP):
                        m.next = "wait"
                    with m.Else():
                        m.next = "rescale"
            with m.State("rescale"):
                m.d.comb += [reading.eq(1), last.eq(place == Mux(
                    op.subject == Subject.HEADS, self._head_rows - 1, self._token_rows - 1))]
                m.d.sync += writing.eq(1)
                with m.If(last):
                    m.next = "wait"
            with m.State("wait"):
                m.d.comb += self.done.eq(chosen & ~writing)
                with m.If(self.done):
                    m.next = "idle"
        cleared = Signal()
        added = Signal()
        heads = (scored | writing) & (op.subject == Subject.HEADS)
        m.d.comb += [cleared.eq(fsm.ongoing("idle") & self.clear),
                     self.busy.eq(~fsm.ongoing("idle") | writing | added)]
        m.d.sync += added.eq(self.addition.valid | self.head.valid)

        sums = self._heads(m, banks, place, reading, before, writing & (heads | clearing))
        self._additions(m, banks)
        for bank, other in zip(banks, sums):
            m.d.comb += [
                bank.read.eq(reading), bank.place.eq(place),
                bank.write.eq(writing & (~heads | clearing)), bank.write_place.eq(before),
                bank.others.eq(heads), bank.other.eq(other),
                bank.shift.eq(Mux(scored, op.importance_shift, op.rescale_shift)),
                bank.rescale.eq(Mux(clearing, Rescale.CLEAR, op.rescale)),
            ]

        # What is left, in rows: tokens, then heads
        kept = [Signal(lanes, name=f"tokens_{row}", init=-1) for row in range(self._token_rows)]
        kept += [Signal(lanes, name=f"heads_{row}", init=-1) for row in range(self._head_rows)]
        number = Signal(range(len(kept)))
        first = Mux(op.subject == Subject.HEADS, self._token_rows, 0)
        candidates = Signal(lanes)
        m.submodules.topk = topk = TopK(spec.prune)
        chosen_row = topk.o.payload
        newest = Signal(lanes)
        tail = final[:within]
        m.d.comb += [
            self.tokens.eq(Cat(kept[:self._token_rows])),
            self.heads.eq(Cat(kept[self._token_rows:])),
            newest.eq(Mux(op.newest & Mux(scored, scored_last, chosen_row.last), 1 << tail, 0)),
            candidates.eq(Array(kept)[number] | op.dense.replicate(lanes) | newest),
        ]
        with m.If(begin | scored & scored_last):
            m.d.sync += number.eq(first)
        with m.Elif(scored | topk.o.valid):
            m.d.sync += number.eq(number + 1)
        with m.If(topk.o.valid & chosen_row.last):
            m.d.sync += chosen.eq(1)
            with m.If(op.subject == Subject.TOKENS):
                m.d.sync += self.pruned.eq(1)
        for row, bits_ in enumerate(kept):
            of_heads = row >= self._token_rows
            index = row - self._token_rows if of_heads else row
            with m.If(cleared):
                m.d.sync += bits_.eq(-1)
            with m.Elif(topk.o.valid & (number == row)):
                m.d.sync += bits_.eq(chosen_row.mask & candidates)
            if index:
                with m.Elif(begin & (op.subject == int(of_heads)) & (final >> within < index)):
                    m.d.sync += bits_.eq(0)
        with m.If(cleared):
            m.d.sync += self.pruned.eq(0)

        # To the selector, which always is ready
        offered = Signal()
        offered_last = Signal()
        scores: Any = Signal(topk.i.payload.scores.shape(), reset_less=True)
        protected = Mux((op.subject == Subject.TOKENS) & (op.protected == 0), 1, op.protected)
        m.d.sync += [offered.eq(scored), offered_last.eq(scored_last)]
        with m.If(scored):
            m.d.sync += [score.eq((bank.score | newest[lane].replicate(spec.SELECT_BITS))
                                  & candidates[lane].replicate(spec.SELECT_BITS))
                         for lane, (score, bank) in enumerate(zip(scores, banks))]
        m.d.comb += [
            topk.setting.n.eq(op.count), topk.setting.rule.eq(op.rule),
            topk.setting.value.eq(op.level), topk.setting.protected.eq(protected),
            topk.i.valid.eq(offered), topk.i.payload.scores.eq(scores),
            topk.i.payload.last.eq(offered_last), topk.o.ready.eq(1),
        ]
        return m

    def _additions(self, m: Module, banks: list[Bank]) -> None:
        """Give each lane of an addition to the bank of its token."""
        spec, addition = self._spec, self.addition.payload
        more = (spec.prune_lanes // spec.channels - 1).bit_length()
        for lane, bank in enumerate(banks):
            group, lane = divmod(lane, spec.channels)
            row = addition.row[lane]
            m.d.comb += [
                bank.valid.eq(self.addition.valid & addition.there[lane] & (row[:more] == group)),
                bank.row.eq(row[more:]),
                bank.amount.eq(addition.probability[lane]),
            ]

    def _heads(self, m: Module, banks: list[Bank], place: Signal, reading: Signal, before: Signal,
               writing: Value) -> list[Value]:
        """Add to the sums of heads, or write what the banks make of a row; return the row read."""
        lanes, width = self._spec.prune_lanes, self._spec.IMPORTANCE_BITS
        within = (lanes - 1).bit_length()
        m.submodules.head_sums = sums = Memory(
            shape=unsigned(lanes * width), depth=self._head_rows, init=[],
            attrs={"no_rw_check": "1"})
        write, read = sums.write_port(granularity=width), sums.read_port()
        valid = Signal()
        head = Signal(self.head.head.shape(), reset_less=True)
        amount = Signal(self.head.amount.shape(), reset_less=True)
        old = Signal(width)
        new = Signal(width + 1)
        row = [read.data[lane * width:(lane + 1) * width] for lane in range(lanes)]
        m.d.comb += [
            read.en.eq(self.head.valid | reading),
            read.addr.eq(Mux(self.head.valid, self.head.head >> within, place)),
            old.eq(read.data.word_select(head[:within], width)),
            new.eq(old + amount),
            write.addr.eq(Mux(valid, head >> within, before)),
        ]
        m.d.sync += valid.eq(self.head.valid)
        with m.If(self.head.valid):
            m.d.sync += [head.eq(self.head.head), amount.eq(self.head.amount)]
        for lane, bank in enumerate(banks):
            one = slice(lane * width, (lane + 1) * width)
            m.d.comb += [
                write.en[lane].eq(Mux(valid, head[:within] == lane, writing)),
                write.data[one].eq(Mux(valid, new[:width] | new[-1].replicate(width),
                                       bank.changed)),
            ]
        return row
