# SPDX-License-Identifier: Apache-2.0
"""Importance of tokens and heads: sums, and the choice of those that stay."""

from typing import Any

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.fixed import ceil_div
from golden.spatten.operation import Rescale, Subject
from golden.spatten.spec import SpattenSpec
from hw.select.topk import TopK
from hw.spatten.layouts import adding, bits, head_amount, prune, token_amount, weigh
from hw.spatten.pick import pick


class Bank(wiring.Component):
    """A memory of sums, and what is done with one of them per cycle.

    Parameters
    ----------
    spec : SpattenSpec
    rows : sums.
    width : bits of what is added.

    Members
    -------
    valid, row, amount : In
        Add to a sum, saturating, also to the same in cycles that follow each other. 2 cycles.
    read, place : In
        Read another, not in a cycle of an addition nor in the next. ``score`` and ``changed`` are
        there in the next cycle, in which it can be replaced by ``changed``.
    shift, rescale : In
        What the sum in that cycle becomes. ``Rescale.KEEP`` is not for it.
    write, write_place : In
        Write ``changed``; not in the cycle after an addition.
    load, amount_loaded : In
        With ``write``: write this number in its place.
    score : ``Out(SELECT_BITS)``
        ``min(sum >> shift, 2**16 - 3) + 1``.
    """

    def __init__(self, spec: SpattenSpec, *, rows: int, width: int):
        self._spec = spec
        self._rows = rows
        super().__init__({
            "valid": In(1), "row": In(bits(rows)), "amount": In(width),
            "read": In(1), "place": In(bits(rows)), "shift": In(5), "rescale": In(2),
            "write": In(1), "write_place": In(bits(rows)), "score": Out(spec.SELECT_BITS),
            "load": In(1), "amount_loaded": In(spec.IMPORTANCE_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        spec, width = self._spec, self._spec.IMPORTANCE_BITS
        m.submodules.sums = sums = Memory(
            shape=width, depth=self._rows, init=[], attrs={"no_rw_check": "1"})
        write, read = sums.write_port(), sums.read_port()
        adding = Signal()
        again = Signal()  # to the sum that is being written
        at = Signal(self.row.shape(), reset_less=True)
        amount = Signal(self.amount.shape(), reset_less=True)
        latest = Signal(width, reset_less=True)
        now = Signal(width)
        moved = Signal(width)
        addend = Signal(width)
        result = Signal(width + 1)
        changed = Signal(width)
        m.d.comb += [
            read.en.eq(self.valid | self.read),
            read.addr.eq(Mux(self.valid, self.row, self.place)),
            now.eq(Mux(again, latest, read.data)),
            moved.eq(now >> self.shift),
            addend.eq(Mux(adding, amount, ~moved)),
            result.eq(now + addend + ~adding),
            write.en.eq(adding | self.write),
            write.addr.eq(Mux(adding, at, self.write_place)),
            write.data.eq(changed),
        ]
        with m.If(self.load):
            m.d.comb += changed.eq(self.amount_loaded)
        with m.Elif(adding | (self.rescale == Rescale.DECAY)):
            m.d.comb += changed.eq(result[:width] | (adding & result[-1]).replicate(width))
        with m.Elif(self.rescale == Rescale.SHIFT):
            m.d.comb += changed.eq(moved)
        m.d.sync += [
            adding.eq(self.valid), again.eq(adding & self.valid & (at == self.row)),
            at.eq(self.row), amount.eq(self.amount), latest.eq(changed),
        ]
        low, most = moved[:spec.SELECT_BITS], (1 << spec.SELECT_BITS) - 2
        beyond = moved[spec.SELECT_BITS:].any() | low[1:].all()
        m.d.comb += self.score.eq(Mux(beyond, most, low + 1))
        return m


def greatest(values: list[Any]) -> Value:
    """Return the greatest of unsigned values."""
    if len(values) == 1:
        return values[0]
    one, other = greatest(values[::2]), greatest(values[1::2])
    return Mux(one > other, one, other)


class PruneUnit(wiring.Component):
    """Add up the importance of tokens and heads; execute PRUNE as ``Emulator._prune`` does.

    ::

        addition --> prune_lanes banks --+--> rows of scores --> TopK --> tokens, heads
        head ------> bank of heads ------+

    A sweep passes ``prune_lanes`` tokens or one head per cycle: first the candidates to the
    selector; then, while that searches, all of the kind to be rescaled, by the shifters that scaled
    the scores and the adders of the additions.

    Cycles from a PRUNE to ``done``: :meth:`cycles`. An addition takes 2 cycles, one may come in
    each. After a reset and after ``clear`` the unit is busy for ``sweep + 1`` cycles, in which
    all sums become 0.

    Cost as ``paper``, but with ``prune_lanes`` of 16: 45.7 kGE, of which 11.9 are registers; 49,664
    bits of memory, of which the selector has 16,384.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    addition : ``In(adding(spec))``
        For the sums of tokens. Not while ``busy``.
    head : ``In(head_amount(spec))``
        For the sums of heads. Not while a PRUNE of heads or a clear is under way.
    load : ``In(token_amount(spec))``
        What a token's sum becomes. Not while ``busy``, nor in the cycle of an addition or the next.
    op : ``In(stream.Signature(prune(spec)))``
        Not taken in the cycle of an addition, nor while busy.
    clear : ``In(1)``
        Begin anew: sums 0, all tokens and heads left. Not while ``busy``, nor with an addition.
    busy : ``Out(1)``
        A PRUNE or a clear is under way.
    gone : ``Out(spec.max_tokens)``, weigh : ``In(weigh(spec))``, back : ``In(token_back)``
        With ``spec.fuse``: the tokens that left with the last PRUNE of tokens; the score of one of
        them; one that is left again. Not while ``busy``, nor with an addition; ``rows`` is right
        two cycles later.
    done : ``Out(1)``
        A PRUNE ends, ``tokens`` or ``heads`` are those that stay.
    tokens : ``Out(spec.max_tokens)``, heads : ``Out(spec.max_heads)``
        Those that are left. They change while a PRUNE is under way.
    pruned : ``Out(1)``
        Tokens were chosen since the last ``clear``.
    rows : ``Out``
        If so, the tokens of the lane that has most of them, from the cycle after ``done`` on.
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        self._token_rows = spec.max_tokens // spec.prune_lanes
        self._head_rows = ceil_div(spec.max_heads, spec.prune_lanes)
        super().__init__({
            "addition": In(adding(spec)), "head": In(head_amount(spec)),
            "load": In(token_amount(spec)),
            "op": In(stream.Signature(prune(spec))),
            "clear": In(1), "busy": Out(1), "done": Out(1),
            "tokens": Out(spec.max_tokens), "heads": Out(spec.max_heads), "pruned": Out(1),
            "rows": Out(bits(spec.rows + 1)),
        } | ({"gone": Out(spec.max_tokens), "weigh": In(weigh(spec)),
              "back": In(wiring.Signature({"valid": Out(1), "token": Out(bits(spec.max_tokens))}))}
             if spec.fuse else {}))

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    @property
    def sweep(self) -> int:
        """Steps in which all sums are passed."""
        return max(self._token_rows, self._spec.max_heads)

    def cycles(self, count: int, *, rule: int, subject: int, rescale: int) -> int:
        """Return the cycles from that in which a PRUNE is taken to that of its ``done``.

        With ``s`` steps to load the candidates, ``ceil(count / prune_lanes)`` for tokens and the
        same times ``prune_lanes`` for heads: ``s + 3 + prune.cycles(count, rule)``; where sums are
        rescaled at least ``s + 2`` and a step for each row of tokens or each head there is.
        """
        steps = ceil_div(count, self._spec.prune_lanes)
        every = self._token_rows
        if subject == Subject.HEADS:
            steps, every = steps * self._spec.prune_lanes, self._spec.max_heads
        return max(steps + 3 + self._spec.prune.cycles(count, rule),
                   steps + every + 2 if rescale != Rescale.KEEP else 0)

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        lanes = spec.prune_lanes
        within = (lanes - 1).bit_length()  # bits of a lane

        # The sweeps
        op: Any = Signal(self.op.payload.shape(), reset_less=True)
        of_heads = Signal()
        final = Signal(op.count.shape())  # index of the last candidate
        place = Signal(range(max(self.sweep, self._head_rows * lanes)))
        before = Signal(place.shape())
        reading = Signal()
        last = Signal()  # step of the sweep
        row_last = Signal()  # head of a row, if it is heads
        final_row = Signal()
        begin = Signal()
        scored = Signal()  # sums are there to be compared,
        scored_row = Signal()  # those of a row are complete,
        scored_final = Signal()  # the last row; or they are there
        writing = Signal()  # to be rescaled,
        clearing = Signal()  # to be cleared
        chosen = Signal()
        m.d.comb += [
            of_heads.eq(op.subject == Subject.HEADS),
            final.eq(op.count - 1),
            row_last.eq(~of_heads | (place[:within].all() if within else 1)),
            final_row.eq(Mux(of_heads, place >> within, place) == final >> within),
        ]
        m.d.sync += [
            before.eq(place), begin.eq(0), scored.eq(0), writing.eq(0), clearing.eq(0),
            scored_row.eq(row_last), scored_final.eq(final_row),
        ]
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
                    ~writing & ~self.clear & ~self.addition.valid & ~self.head.valid)
                with m.If(self.clear):
                    m.next = "clear"
                with m.Elif(self.op.valid & self.op.ready):
                    m.d.sync += [op.eq(self.op.payload), begin.eq(1), chosen.eq(0)]
                    m.next = "load"
            with m.State("load"):
                m.d.comb += [reading.eq(1), last.eq(final_row & row_last)]
                m.d.sync += scored.eq(1)
                with m.If(last):
                    with m.If(op.rescale == Rescale.KEEP):
                        m.next = "wait"
                    with m.Else():
                        m.next = "rescale"
            with m.State("rescale"):
                m.d.comb += [reading.eq(1), last.eq(place == Mux(
                    of_heads, spec.max_heads - 1, self._token_rows - 1))]
                m.d.sync += writing.eq(1)
                with m.If(last):
                    m.next = "wait"
            with m.State("wait"):
                m.d.comb += self.done.eq(chosen & ~writing)
                with m.If(self.done):
                    m.next = "idle"
        clears = fsm.ongoing("clear")
        m.d.comb += self.busy.eq(~fsm.ongoing("idle") | writing)

        banks = self._banks(m)
        for index, bank in enumerate(banks):
            mine, loads = ~of_heads, self.load.valid & (self.load.token[:within] == index)
            if bank is banks[-1]:
                mine, loads = of_heads, C(0)
            m.d.comb += [
                bank.read.eq(reading), bank.place.eq(place),
                bank.write.eq(writing & (mine | clearing) | loads),
                bank.write_place.eq(Mux(loads, self.load.token >> within, before)),
                bank.load.eq(loads), bank.amount_loaded.eq(self.load.amount),
                bank.shift.eq(Mux(scored, op.importance_shift, op.rescale_shift)),
                bank.rescale.eq(Mux(clearing, Rescale.CLEAR, op.rescale)),
            ]

        # What is left, in rows: tokens, then heads
        kinds = (self._token_rows, self._head_rows)
        kept = [Signal(lanes, name=f"{name}_{row}", init=-1, reset_less=True)
                for name, rows in zip(("tokens", "heads"), kinds) for row in range(rows)]
        number = Signal(range(len(kept)))
        here = Signal(len(kept))  # the row of that number
        beyond = Signal(len(kept))  # rows without candidates
        candidates = Signal(lanes)
        newest = Signal(lanes)
        left = Signal(lanes)
        m.submodules.topk = topk = TopK(spec.prune)
        survivors = topk.o.payload
        m.d.comb += [
            self.tokens.eq(Cat(kept[:self._token_rows])),
            self.heads.eq(Cat(kept[self._token_rows:])),
            here.eq(1 << number),
            beyond.eq(Cat(
                (op.subject == subject) & (final >> within < row) if row else C(0)
                for subject, rows in enumerate(kinds) for row in range(rows))),
            newest.eq(Mux(op.newest & Mux(scored, scored_final, survivors.last),
                          1 << final[:within], 0)),
            candidates.eq(pick(kept, here) | op.dense.replicate(lanes) | newest),
            left.eq(clears.replicate(lanes) | candidates & survivors.mask
                    & topk.o.valid.replicate(lanes)),
        ]
        with m.If(begin | scored & scored_row & scored_final):
            m.d.sync += number.eq(Mux(of_heads, self._token_rows, 0))
        with m.Elif(scored & scored_row | topk.o.valid):
            m.d.sync += number.eq(number + 1)
        for row, one in enumerate(kept):
            with m.If(clears | begin & beyond[row] | topk.o.valid & here[row]):
                m.d.sync += one.eq(left)
        with m.If(clears):
            m.d.sync += self.pruned.eq(0)
        with m.Elif(topk.o.valid & survivors.last):
            m.d.sync += [chosen.eq(1), self.pruned.eq(self.pruned | ~op.subject)]

        # How many are left in the longest lane
        counts = [Signal(self.rows.shape(), name=f"left_{lane}", reset_less=True)
                  for lane in range(spec.channels)]
        with m.If(begin & ~of_heads):
            m.d.sync += [count.eq(0) for count in counts]
        with m.Elif(topk.o.valid & ~of_heads):
            m.d.sync += [count.eq(count + sum(left[lane::spec.channels]))
                         for lane, count in enumerate(counts)]
        with m.If(self.done & (op.subject == Subject.TOKENS)):
            m.d.sync += self.rows.eq(greatest(counts))

        if spec.fuse:
            self._fuse(m, banks, kept, counts, clears, begin & ~of_heads, beyond,
                       topk.o.valid, here, left)

        # To the selector, which always is ready: tokens row by row, heads one by one
        offered = Signal()
        offered_last = Signal()
        scores: Any = Signal(topk.i.payload.scores.shape(), reset_less=True)
        lane_before = Signal(lanes)
        same = spec.SELECT_BITS  # bits of a score
        m.d.comb += lane_before.eq(1 << before[:within])
        head = ((banks[-1].score | (newest & lane_before).any().replicate(same))
                & (candidates & lane_before).any().replicate(same))
        with m.If(scored):
            for lane, bank in enumerate(banks[:-1]):
                token = ((bank.score | newest[lane].replicate(same))
                         & candidates[lane].replicate(same))
                m.d.sync += scores[lane].eq(
                    Mux(of_heads, scores[lane + 1] if lane < lanes - 1 else head, token))
        m.d.sync += [offered.eq(scored & scored_row), offered_last.eq(scored_final)]
        m.d.comb += [
            topk.setting.n.eq(op.count), topk.setting.rule.eq(op.rule),
            topk.setting.value.eq(op.level),
            topk.setting.protected.eq(Mux(~of_heads & (op.protected == 0), 1, op.protected)),
            topk.i.valid.eq(offered), topk.i.payload.scores.eq(scores),
            topk.i.payload.last.eq(offered_last), topk.o.ready.eq(1),
        ]
        return m

    def _fuse(self, m, banks, kept, counts, clears, begin, beyond, chosen, here, left):
        """Keep who left; give scores of tokens one by one, take back one."""
        spec, lanes = self._spec, self._spec.prune_lanes
        within = (lanes - 1).bit_length()
        for row in range(self._token_rows):
            gone = self.gone[row * lanes:][:lanes]
            with m.If(clears):
                m.d.sync += gone.eq(0)
            with m.Elif(begin & beyond[row]):
                m.d.sync += gone.eq(kept[row])
            with m.Elif(chosen & here[row]):
                m.d.sync += gone.eq(kept[row] & ~left)
        asked, back = self.weigh, self.back
        lane = Signal(bits(lanes))
        again = Signal()
        m.d.sync += [lane.eq(asked.token[:within]), again.eq(back.valid)]
        m.d.comb += asked.score.eq(Array(bank.score for bank in banks[:-1])[lane])
        with m.If(asked.valid):
            for bank in banks[:-1]:
                m.d.comb += [bank.read.eq(1), bank.place.eq(asked.token >> within)]
        shift = Signal(5)
        weighed = Signal()
        m.d.sync += [shift.eq(asked.shift), weighed.eq(asked.valid)]
        with m.If(weighed):
            m.d.comb += [bank.shift.eq(shift) for bank in banks[:-1]]
        for row in range(self._token_rows):
            with m.If(back.valid & (back.token >> within == row)):
                m.d.sync += kept[row].eq(kept[row] | (1 << back.token[:within])[:lanes])
        for number, count in enumerate(counts):
            with m.If(back.valid & (back.token[:bits(spec.channels)] == number
                                    if spec.channels > 1 else back.valid)):
                m.d.sync += count.eq(count + 1)
        with m.If(again):
            m.d.sync += self.rows.eq(greatest(counts))

    def _banks(self, m: Module) -> list[Bank]:
        """Return the banks of the lanes, and that of the heads, to which additions go."""
        spec, addition = self._spec, self.addition.payload
        more = (spec.prune_lanes // spec.channels - 1).bit_length()
        banks = [Bank(spec, rows=self._token_rows, width=spec.PROBABILITY_BITS)
                 for _ in range(spec.prune_lanes)]
        for number, bank in enumerate(banks):
            m.submodules[f"bank_{number}"] = bank
            group, lane = divmod(number, spec.channels)
            row = addition.row[lane]
            m.d.comb += [
                bank.valid.eq(self.addition.valid & addition.there[lane] & (row[:more] == group)),
                bank.row.eq(row[more:]),
                bank.amount.eq(addition.probability[lane]),
            ]
        m.submodules.heads = heads = Bank(spec, rows=spec.max_heads, width=len(self.head.amount))
        m.d.comb += [heads.valid.eq(self.head.valid), heads.row.eq(self.head.head),
                     heads.amount.eq(self.head.amount)]
        return [*banks, heads]
