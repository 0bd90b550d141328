# SPDX-License-Identifier: Apache-2.0
"""The rows of attention: from scores to the values that are fetched."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.spatten.spec import SpattenSpec
from hw.arith.reciprocal import Reciprocal
from hw.attention.maximum import fold
from hw.spatten.choice import Choice
from hw.spatten.lanes import rotated
from hw.spatten.layouts import addition, bits, job, pair, result, score, scored, task, wanted
from hw.spatten.softmax import Exponents, Probabilities
from hw.stream import Queue

OPERATION = ("op", "dense", "tokens", "values", "limit", "score_shift", "score_mul", "accumulate",
             "key_low_stride", "value_stride", "value_planes", "mul", "shift")
"""Fields of a pair that are those of its operation."""

HEAD = ("slot", "base", "turn", "pair", "key_low", "value", "output")
"""Fields of a pair that its two heads have in common."""


def _head(spec: SpattenSpec) -> data.StructLayout:
    """Return what must be known of a head until it is final.

    ``ring`` is the place of its pair among those that have not been released.
    """
    fields = pair(spec)
    return data.StructLayout({name: fields[name].shape for name in HEAD}
                             | {"odd": 1, "ring": bits(spec.pairs), "error": 1})


def _pass(spec: SpattenSpec) -> data.StructLayout:
    """Return what must be known of a head whose exponents are being computed."""
    return data.StructLayout({"head": _head(spec), "selector": bits(spec.selectors), "final": 1})


def _leaving(spec: SpattenSpec) -> data.StructLayout:
    """Return what must be known of a head whose values are being chosen."""
    return data.StructLayout({"turn": bits(spec.channels), "task": task(spec),
                              "result": result(spec)})


def _row(spec: SpattenSpec) -> data.StructLayout:
    """Return what goes with a row of keys, but what :class:`Exponents` carries."""
    return data.StructLayout({
        "valid": 1, "last": 1, "selector": bits(spec.selectors), "place": bits(spec.rows),
        "rows": bits(spec.rows + 1), "turn": bits(spec.channels)})


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

    Cycles per head with ``R`` rows of keys, nothing stalling: the greatest of ``R`` and 4 (its
    exponents; twice if low bits are needed), ``R + 1`` (leaving), and ``spec.selectors`` -th part
    of ``3 * R + 5 + 15`` (in a selector).

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
        Low bits of a head's keys, please.
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

    RESULTS = 16

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

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        fields = pair(spec)
        vectors = spec.selectors + 4
        m.submodules.pairs = self._pairs = Queue(shape=fields, depth=spec.pairs)
        m.submodules.asking = self._asking = Queue(shape=_head(spec), depth=2 * spec.pairs)
        m.submodules.asked = self._asked = Queue(shape=_head(spec), depth=2 * spec.pairs)
        m.submodules.passes = self._passes = Queue(shape=_pass(spec), depth=vectors)
        m.submodules.leaving = self._leaving = Queue(shape=_leaving(spec), depth=vectors)
        m.submodules.order = self._order = Queue(shape=bits(spec.selectors), depth=vectors)
        m.submodules.exponents = self._exponents = Exponents(spec)
        m.submodules.choice = self._choice = Choice(spec)
        self._operation: Any = Signal(data.StructLayout(
            {name: fields[name].shape for name in OPERATION}), name="operation")
        self._busy = Signal(spec.selectors, name="busy")
        begun = Signal()  # a pair of it was begun
        finals = Signal()  # a head became final
        finished = Signal()  # the additions of one were made
        connect(m, flipped(self.pair), self._pairs.i)
        self._begin(m, begun)
        self._decide(m, finals)
        self._ask(m)
        self._leave(m, finished)
        self._count(m, begun, finals, finished)
        return m

    def _by_selector(self, selector: Value, event: Value) -> Value:
        """Return an event as the bit of its selector."""
        return Cat(event & (selector == number) for number in range(self._spec.selectors))

    def _begin(self, m: Module, begun: Signal) -> None:
        """Choose the next head, find its greatest score, read its scores."""
        spec, head, now = self._spec, self._pairs.o.payload, self._operation
        self._second = second = Signal(name="second")  # the even head of the pair has begun
        self._ring = ring = Signal(range(spec.pairs), name="ring")
        self._level = level = Signal(range(spec.pairs + 1), name="level")  # pairs not released
        self._open = Signal(range(2 * spec.pairs + 1), name="open")  # heads not final
        which: Any = Signal(data.StructLayout({"low": 1, "odd": 1}))
        chosen = Signal()
        start = Signal()
        held = Signal()
        found = Signal()
        load = Signal()
        low_there = Cat(self._asked.o.valid, *(s.valid for s in self.scored_low)).all()
        pair_there = Cat(self._pairs.o.valid, *(s.valid for s in self.scored)).all()
        same = (head.op == now.op) | (self._open == 0)
        odd = second | ~head.even
        m.d.sync += start.eq(0)
        with m.If(~chosen & (low_there | second | pair_there & same & (level != spec.pairs))):
            m.d.sync += [chosen.eq(1), start.eq(1), which.low.eq(low_there),
                         which.odd.eq(Mux(low_there, self._asked.o.payload.odd, odd))]

        greatest, keys, errors = [], [], []
        for c, (normal, low) in enumerate(zip(self.scored, self.scored_low)):
            end: Any = Signal(scored(spec), name=f"end_{c}")
            m.d.comb += end.eq(Mux(which.low, low.payload.as_value(), normal.payload.as_value()))
            most = Mux(which.odd, end.odd, end.even)
            greatest.append(Cat(most[:-1], ~most[-1]))  # unsigned in the same order
            keys.append(end["keys"])
            errors.append(end.error)
        mark: Any = Signal(data.StructLayout({"valid": 1}))
        m.d.comb += mark.valid.eq(start)
        greater = lambda a, b: Mux(a > b, a, b)  # noqa: E731
        highest, marks = fold(m, "highest", greatest, greater, layers=2, mark=mark)
        rows, _ = fold(m, "rows", keys, greater, layers=2, mark=mark)
        m.d.comb += found.eq(marks[-1].valid | held)
        m.d.sync += held.eq(found & ~load)

        # The vector that is read
        active = Signal()
        place = Signal(range(spec.rows + 1))
        last = Signal()
        vector: Any = Signal(data.StructLayout({
            "highest": signed(spec.acc_bits), "keys": data.ArrayLayout(bits(spec.rows + 1),
                                                                       spec.channels),
            "rows": bits(spec.rows + 1), "base": bits(spec.score_rows), "odd": 1,
            "turn": bits(spec.channels), "selector": bits(spec.selectors)}), reset_less=True)
        selector = Signal(range(spec.selectors))
        this: Any = Signal(_head(spec))
        m.d.comb += [
            load.eq(found & (~active | last) & ~self._busy.bit_select(selector, 1)),
            this.eq(self._asked.o.payload),
            last.eq(place + 1 >= vector.rows),
        ]
        with m.If(~which.low):
            m.d.comb += [this[name].eq(head[name]) for name in HEAD]
            m.d.comb += [this.odd.eq(odd), this.ring.eq(ring), this.error.eq(0)]
        passing = self._passes.i.payload
        whole = Signal()  # all heads of the pair have begun
        m.d.comb += [
            whole.eq(load & ~which.low & (odd | ~head.odd)),
            begun.eq(load & ~which.low & ~second),
            self._pairs.o.ready.eq(whole),
            self._asked.o.ready.eq(load & which.low),
            *(s.ready.eq(whole) for s in self.scored),
            *(s.ready.eq(load & which.low) for s in self.scored_low),
            self._passes.i.valid.eq(load),
            passing.head.eq(this),
            passing.head.error.eq(this.error | Cat(errors).any()),
            passing.selector.eq(selector),
            passing.final.eq(which.low),
        ]
        with m.If(active):
            m.d.sync += [place.eq(place + 1), active.eq(~last)]
        with m.If(load):
            m.d.sync += [
                chosen.eq(0), active.eq(1), place.eq(0),
                vector.highest.eq(Cat(highest[:-1], ~highest[-1])),
                *(vector["keys"][c].eq(count) for c, count in enumerate(keys)),
                vector.rows.eq(rows), vector.base.eq(this.base), vector.odd.eq(this.odd),
                vector.turn.eq(this.turn), vector.selector.eq(selector),
                selector.eq(Mux(selector == spec.selectors - 1, 0, selector + 1)),
            ]
        with m.If(load & ~which.low):
            m.d.sync += second.eq(~whole)
        with m.If(begun):
            m.d.sync += [now[name].eq(head[name]) for name in OPERATION]
        with m.If(whole):
            m.d.sync += ring.eq(ring + 1)  # modulo a power of two
        self._whole = whole
        left = Signal(spec.selectors)  # the selectors whose last row leaves
        m.d.comb += left.eq(self._by_selector(self._order.o.payload, self._order.o.ready))
        m.d.sync += self._busy.eq((self._busy | self._by_selector(selector, load))
                                  & ~left & ~self._choice.discard)

        # A row: address, scores, distances, exponents
        rows_: list[Any] = [Signal(_row(spec), name=f"row_{stage}")
                            for stage in ("address", "scores", "difference", "step", "distance",
                                          "exponent")]
        m.d.comb += [
            self.read_enable.eq(active), self.read_address.eq(vector.base + place),
            rows_[0].valid.eq(active), rows_[0].last.eq(last), rows_[0].place.eq(place),
            *(rows_[0][name].eq(vector[name]) for name in ("selector", "rows", "turn")),
        ]
        m.d.sync += [later.eq(sooner) for sooner, later in zip(rows_, rows_[1:])]
        exponents, mark = self._exponents, self._exponents.mark
        odd_read = Signal()
        m.d.sync += [
            mark.valid.eq(active), mark.first.eq(place == 0), mark.last.eq(last),
            mark.there.eq(Cat(count > place for count in vector["keys"])),
            exponents.highest.eq(vector.highest), odd_read.eq(vector.odd),
        ]
        m.d.comb += [exponents.shift.eq(now.score_shift), exponents.mul.eq(now.score_mul),
                     *(exponents.scores[c].eq(Mux(odd_read, word.odd, word.even))
                       for c, word in enumerate(self.read_data))]

        stored, loaded = self._choice.keys, self._choice.load
        m.d.comb += [
            stored.valid.eq(rows_[1].valid), stored.selector.eq(rows_[1].selector),
            stored.place.eq(rows_[1].place), stored.row.there.eq(mark.there),
            *(stored.row.row[c].eq(word.row) for c, word in enumerate(self.read_data)),
            loaded.exponents.eq(exponents.exponent), loaded.values.eq(now["values"]),
            *(getattr(loaded, name).eq(rows_[5][name])
              for name in ("valid", "selector", "place", "last", "rows")),
        ]
        there = [Signal(spec.channels, name=f"there_{stage}", reset_less=True)
                 for stage in ("difference", "step", "distance")]
        m.d.sync += [later.eq(sooner) for sooner, later in zip([mark.there, *there], there)]
        near = []
        for c in range(spec.channels):
            nearness = Signal(spec.select.width, name=f"near_{c}")
            m.d.comb += nearness.eq(Mux(
                there[-1][c], (1 << spec.DISTANCE_BITS) - exponents.distance[c], 0))
            near.append(nearness)
        by_lane = rotated(m, "near_lane", near, rows_[4].turn)
        scores = Signal(loaded.scores.shape(), reset_less=True)
        m.d.sync += [scores[lane].eq(value) for lane, value in enumerate(by_lane)]
        m.d.comb += loaded.scores.eq(scores)

    def _decide(self, m: Module, finals: Signal) -> None:
        """Look whether a head is final; if so, it will leave, else it asks for low bits."""
        spec, now = self._spec, self._operation
        passing, leaving = self._passes.o.payload, self._leaving.i.payload
        head, total, done = passing.head, self._exponents.total, self._exponents.done
        lacking = Signal()
        found = data.StructLayout({"reciprocal": 12, "shift": spec.reciprocal.exponent_width})
        m.submodules.reciprocal = reciprocal = Reciprocal(spec.reciprocal)
        m.submodules.factors = self._factors = Queue(shape=found, depth=spec.selectors + 4)
        self._final_pair = Signal(name="final_pair")  # the last one of its operation was begun
        number = Cat(head.odd, head.pair)
        m.d.comb += [
            lacking.eq((total > now.limit) & ~passing.final),
            finals.eq(done & ~lacking),
            self._passes.o.ready.eq(done),
            self._asking.i.valid.eq(done & lacking),
            self._asking.i.payload.eq(head),
            self._choice.discard.eq(self._by_selector(passing.selector, done & lacking)),
            self._order.i.valid.eq(finals), self._order.i.payload.eq(passing.selector),
            self._leaving.i.valid.eq(finals),
            leaving.turn.eq(head.turn),
            leaving.task.beat.eq(head.value + Mux(head.odd, now.value_planes, 0)),
            leaving.task.stride.eq(now.value_stride), leaving.task.planes.eq(now.value_planes),
            leaving.result.total.eq(total), leaving.result.mul.eq(now.mul),
            leaving.result.shift.eq(now.shift), leaving.result.channel.eq(head.turn),
            leaving.result.output.eq(head.output + Mux(head.odd, spec.vector_beats, 0)),
            leaving.result.head.eq(number), leaving.result.accumulate.eq(now.accumulate),
            leaving.result.op.eq(now.op), leaving.result.error.eq(head.error),
            leaving.result.last.eq(self._final_pair & (self._open == 1)),
            reciprocal.i.valid.eq(finals), reciprocal.i.payload.sum.eq(total),
            reciprocal.watch.eq(1), reciprocal.o.ready.eq(1),
            self._factors.i.valid.eq(reciprocal.found.valid),
            self._factors.i.payload.reciprocal.eq(reciprocal.found.reciprocal >> 5),
            self._factors.i.payload.shift.eq(reciprocal.found.exponent),
        ]

    def _ask(self, m: Module) -> None:
        """Ask for low bits; remember for whom."""
        now, head, low = self._operation, self._asking.o.payload, self.low.payload
        m.d.comb += [
            self.low.valid.eq(self._asking.o.valid & self._asked.i.ready),
            self._asking.o.ready.eq(self.low.ready & self._asked.i.ready),
            self._asked.i.valid.eq(self._asking.o.valid & self.low.ready),
            self._asked.i.payload.eq(head),
            low.low.eq(1), low.even.eq(~head.odd), low.odd.eq(head.odd),
            low.slot.eq(head.slot), low.base.eq(head.base), low.turn.eq(head.turn),
            low.beat.eq(head.key_low + head.odd), low.stride.eq(now.key_low_stride),
            low.dense.eq(now.dense), low.tokens.eq(now.tokens),
        ]

    def _leave(self, m: Module, finished: Signal) -> None:
        """Push what is wanted of the vector whose turn it is, and its probabilities."""
        spec, o, head = self._spec, self._choice.o, self._leaving.o.payload
        task_offered = Signal()
        task_now: Any = Signal(task(spec), reset_less=True)
        m.submodules.results = results = Queue(shape=result(spec), depth=self.RESULTS)
        m.submodules.probabilities = probabilities = Probabilities(spec)
        connect(m, flipped(self.result), results.o)
        ending = Signal()  # all rows were pushed, but not their end
        room = Signal()
        begins = Signal()
        offered = Signal(spec.channels)
        payload: Any = Signal(data.ArrayLayout(wanted(spec), spec.channels), reset_less=True)
        ready = Cat(w.ready for w in self.wanted)
        by_channel = Cat(rotated(m, "wanted_channel", list(o.wanted), head.turn, back=True))
        m.d.comb += [
            room.eq(~(offered & ~ready).any()),
            self._choice.order.valid.eq(self._order.o.valid),
            self._choice.order.selector.eq(self._order.o.payload),
            o.take.eq(o.valid & ~ending & room & self._leaving.o.valid & self._factors.o.valid
                      & (~o.first | (~task_offered | self.task.ready) & results.i.ready)),
            self._order.o.ready.eq(o.take & o.last),
            begins.eq(o.take & o.first),
            self.task.valid.eq(task_offered), self.task.payload.eq(task_now),
            results.i.valid.eq(begins), results.i.payload.eq(head.result),
            self._leaving.o.ready.eq(ending & room),
            self._factors.o.ready.eq(ending & room),
            *(w.valid.eq(offered[c]) for c, w in enumerate(self.wanted)),
            *(w.payload.eq(payload[c]) for c, w in enumerate(self.wanted)),
        ]
        m.d.sync += [offered.eq(offered & ~ready),
                     task_offered.eq(begins | task_offered & ~self.task.ready)]
        with m.If(begins):
            m.d.sync += task_now.eq(head.task)
        with m.If(ending & room):
            m.d.sync += [ending.eq(0), offered.eq(~0), *(one.end.eq(1) for one in payload)]
        with m.If(o.take):
            m.d.sync += [ending.eq(o.last), offered.eq(by_channel & o.keys.there)]
            for c, one in enumerate(payload):
                m.d.sync += [one.end.eq(0), one.row.eq(o.keys.row[c]),
                             one.exponent.eq(o.exponents[c])]

        # What was pushed is there for a cycle at least, and so is the head.
        steps: list[Any] = [Signal(data.StructLayout({
            "valid": 1, "last": 1, "turn": bits(spec.channels), "there": spec.channels}),
            name=f"addition_{stage}") for stage in ("exponent", "product", "probability")]
        m.d.sync += [
            steps[0].valid.eq(o.take & head.result.accumulate), steps[0].last.eq(o.last),
            steps[0].turn.eq(head.turn), steps[0].there.eq(o.keys.there),
            steps[1].eq(steps[0]), steps[2].eq(steps[1]),
        ]
        m.d.comb += [
            *(probabilities.exponent[c].eq(one.exponent) for c, one in enumerate(payload)),
            probabilities.reciprocal.eq(self._factors.o.payload.reciprocal),
            probabilities.shift.eq(self._factors.o.payload.shift),
        ]
        shape = data.StructLayout({"row": bits(spec.rows), "probability": spec.PROBABILITY_BITS,
                                   "there": 1})
        words = []
        for c, probability in enumerate(probabilities.probability):
            row = Signal(bits(spec.rows), name=f"row_product_{c}", reset_less=True)
            m.d.sync += row.eq(payload[c].row)
            words.append(Cat(row, probability, steps[1].there[c]))
        out: Any = Signal(addition(spec), name="added", reset_less=True)
        for lane, value in enumerate(rotated(m, "addition_lane", words, steps[1].turn)):
            word = data.View(shape, value)
            m.d.sync += [out.row[lane].eq(word.row), out.probability[lane].eq(word.probability),
                         out.there[lane].eq(word.there)]
        m.d.comb += [
            self.addition.valid.eq(steps[2].valid), self.addition.payload.eq(out),
            finished.eq(steps[2].valid & steps[2].last),
        ]

    def _count(self, m: Module, begun: Signal, finals: Signal, finished: Signal) -> None:
        """Count heads that are not final, by operation and by pair, and those to be added."""
        spec, head = self._spec, self._pairs.o.payload
        arriving = self.pair.payload
        heads = Signal(2)
        to_add = Signal(range(4 * spec.pairs + 2 * spec.selectors + 8))
        accepted = self.pair.valid & self.pair.ready & arriving.accumulate
        m.d.comb += [heads.eq(head.even + head.odd), self.adding.eq(to_add != 0)]
        m.d.sync += [
            self._open.eq(self._open + Mux(begun, heads, 0) - finals),
            to_add.eq(to_add + Mux(accepted, arriving.even + arriving.odd, 0) - finished),
            self._level.eq(self._level + self._whole - self.released),
        ]
        with m.If(begun):
            m.d.sync += self._final_pair.eq(head.last)
        oldest = Signal(range(spec.pairs))
        left = [Signal(2, name=f"left_{place}") for place in range(spec.pairs)]
        m.d.comb += self.released.eq((self._level != 0) & (Array(left)[oldest] == 0))
        with m.If(self.released):
            m.d.sync += oldest.eq(oldest + 1)
        ring = self._passes.o.payload.head.ring
        for place, count in enumerate(left):
            with m.If(begun & (self._ring == place)):
                m.d.sync += count.eq(heads)
            with m.Elif(finals & (ring == place)):
                m.d.sync += count.eq(count - 1)
