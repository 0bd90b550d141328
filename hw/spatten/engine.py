# SPDX-License-Identifier: Apache-2.0
"""What a channel computes: scores of keys, sums of values, one beat per cycle."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.contract import response
from hw.spatten.dot import DigitDot
from hw.spatten.layouts import bits, fetched, part, score, scored
from hw.spatten.request import Kind, tag
from hw.spatten.values import Spool, ValueLane, multiples, select
from hw.stream import Queue


class Engine(wiring.Component):
    """Consume a beat per cycle: for a key, a value, or as part of a query vector.

    ::

                      query memory --> products --> trees --> scores --> score memory, maxima
                                          ^
        response --> beat (a register) ---+--> fetched
                                          v
                         multiples --> products --> accumulators --> memory --> part

    A beat is accepted if its tag is there, what it completes has room in its queue, and no beat of
    a query waits for the taker of ``fetched``. Nothing behind the beat's register ever stops.

    Scores are less than the products of the vectors by a constant that depends on the query and on
    the format of the keys alone: for each beat by the query's sum times 5, or -3 for a plane with
    signs, or 1 for one of 2 bits, at the weight of the beat. Then a digit takes one partial product
    (see :class:`~hw.spatten.dot.DigitDot`). The constant is the same in all channels and of all
    keys, so no distance to the greatest score shows it; nor does a score need more bits for it.
    Of a job that adds to scores, they have it once for each job.

    Of a narrow job, the sums of the two halves of the lanes are those of the two heads: the last
    level of adders, which makes one sum of them else, adds upper and lower digits there.

    A score is in the memory ``SCORES_AFTER`` cycles after the last beat of its key was accepted:
    then the first beat of a key that adds to it may be. That is as late as any comes, with two keys
    of two beats in a job.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    tag : ``In(stream.Signature(tag(spec)))``
    beat : ``Out(1)``; a beat of a response is accepted.
    hold : ``Out(1)``; more than half of the places for sums are taken.
    response, fetched, query, scored, scored_low, read_enable, read_address, read_data, part :
        see :class:`~hw.spatten.channel.Channel`.
    """

    SCORES_AFTER = 3

    def __init__(self, spec: SpattenSpec):
        self._spec = spec
        super().__init__({
            "tag": In(stream.Signature(tag(spec))),
            "response": In(stream.Signature(response(spec))),
            "beat": Out(1),
            "hold": Out(1),
            "fetched": Out(stream.Signature(fetched(spec))),
            "query": In(wiring.Signature({"valid": Out(1), "payload": Out(fetched(spec))})),
            "scored": Out(stream.Signature(scored(spec))),
            "scored_low": Out(stream.Signature(scored(spec))),
            "read_enable": In(1),
            "read_address": In(bits(spec.score_rows)),
            "read_data": Out(score(spec)),
            "part": Out(stream.Signature(part(spec))),
        })

    def elaborate(self, platform):
        m = Module()
        spec, now = self._spec, self.tag.payload
        m.submodules.scored = normal = Queue(shape=scored(spec), depth=spec.pairs)
        m.submodules.scored_low = low = Queue(shape=scored(spec), depth=spec.low_jobs)
        m.submodules.part = parts = Spool(shape=part(spec), depth=spec.output_queue)
        for queue, port in ((normal, self.scored), (low, self.scored_low), (parts, self.part)):
            wiring.connect(m, queue.o, wiring.flipped(port))

        # Which beat of its request is next, and whether it may come
        step = Signal(3)
        final = Signal()
        accept = Signal()
        finish = Signal()  # this tag is done
        flush = Signal()  # the task before this tag ends now
        flushed = Signal()
        moves = Signal()  # the beat's register is free
        query = Signal()  # it holds a beat of a query
        ends = Signal()  # with its last beat, this tag completes a job
        is_low, is_key = now.kind == Kind.LOW, now.kind == Kind.KEY
        m.d.comb += [
            final.eq(now.none | (step == now.final)),
            ends.eq(final & now.last & (is_key | is_low)),
            moves.eq(~query | self.fetched.ready),
        ]

        def room(name, depth, taken, port):
            """Return what is under way or waits, and whether that leaves room in a queue."""
            waiting = Signal(range(depth + 1), name=f"waiting_{name}")
            m.d.sync += waiting.eq(waiting + taken - (port.valid & port.ready))
            return waiting, waiting != depth

        ready = Signal()
        _, normal_room = room("normal", spec.pairs, finish & ends & is_key, self.scored)
        _, low_room = room("low", spec.low_jobs, finish & ends & is_low, self.scored_low)
        sums, part_room = room("part", spec.output_queue, flush, self.part)
        m.d.comb += [
            ready.eq(moves
                     & (flush | flushed | ~now.flush)
                     & (normal_room | ~(ends & is_key))
                     & (low_room | ~(ends & is_low))),
            flush.eq(self.tag.valid & now.flush & ~flushed & part_room),
            self.hold.eq(sums > spec.output_queue // 2),
            self.response.ready.eq(self.tag.valid & ready & ~now.none),
            accept.eq(self.response.valid & self.response.ready),
            finish.eq(self.tag.valid & ready & Mux(now.none, 1, accept & final)),
            self.tag.ready.eq(finish),
            self.beat.eq(accept),
        ]
        m.d.sync += flushed.eq((flushed | flush) & ~finish)
        with m.If(accept):
            m.d.sync += step.eq(Mux(final, 0, step + 1))

        # The beat
        beat = Signal(8 * spec.memory_bytes, reset_less=True)
        error = Signal(reset_less=True)
        place = Signal(data.StructLayout(
            {"slot": bits(spec.pairs), "odd": 1, "unit": 1, "part": bits(spec.vector_beats)}),
            reset_less=True)
        signs = Signal()
        control = self._key_control(m, step, accept, finish & ends, signs)
        with m.If(moves):
            m.d.sync += [
                query.eq(accept & (now.kind == Kind.QUERY)),
                beat.eq(self.response.payload.data
                        ^ Cat(Const(8, 4) for _ in range(spec.lanes))
                        & signs.replicate(8 * spec.memory_bytes)),
                error.eq(self.response.payload.error),
                place.slot.eq(now.slot), place.odd.eq(now.odd), place.unit.eq(now.unit),
                place.part.eq(step),
            ]
        m.d.comb += [
            self.fetched.valid.eq(query),
            self.fetched.payload.data.eq(beat),
            self.fetched.payload.slot.eq(place.slot),
            self.fetched.payload.odd.eq(place.odd),
            self.fetched.payload.unit.eq(place.unit),
            self.fetched.payload.part.eq(place.part),
            self.fetched.payload.error.eq(error),
        ]
        nibbles = [beat[4 * lane:4 * lane + 4] for lane in range(spec.lanes)]
        self._keys(m, accept, nibbles, error, control, normal, low)
        self._values(m, accept & (now.kind == Kind.VALUE), step, flush, nibbles, error, parts)
        return m

    def _key_control(self, m: Module, step: Signal, accept: Signal, ends: Value, signs: Signal):
        """Register what is to be done with the beat that is accepted, if it is one of a key."""
        spec, now = self._spec, self.tag.payload
        is_low = now.kind == Kind.LOW
        layout = data.StructLayout({
            "beat": 1,  # of a key
            "half": 1,  # both heads' 2 bits
            "odd": 1,  # all 4 bits are the odd head's
            "narrow": 1,  # each half of the lanes is one head's
            "weight": 6,  # one of WEIGHTS
            "begins": 2,  # this is the first beat of the even, the odd head
            "adds": 2,  # the heads that it is for
            "onto": 2,  # the heads whose sums begin with the scores that lie there
            "stores": 2,  # the heads whose sums are stored
            "final": 1,  # the score is complete
            "first": 1,  # the first beat of the job
            "opens": 1,  # the first key of the job
            "ends": 1,  # the job ends, perhaps without a key
            "none": 1,  # without a key
            "low": 1,
            "place": bits(spec.score_rows), "row": bits(spec.rows)})
        control = Signal(layout)
        evens = Signal(2)  # beats of the even head alone
        place = Signal(3)  # of the plane in its head
        in_even = Signal()
        in_half = Signal()
        left = Signal(2)
        narrow = Signal()
        m.d.comb += [
            narrow.eq(now.narrow),
            evens.eq(Mux(now.even | narrow, now.planes, 0)),
            in_even.eq(step < evens),
            in_half.eq(now.half & (step == evens) & ~is_low),
            place.eq(Mux(in_even, step, step - evens - now.half)),
            left.eq(now.planes - 1 - place),  # planes below
            signs.eq((now.kind == Kind.KEY) & ~in_half & (place == 0)),
        ]
        is_key = is_low | (now.kind == Kind.KEY)
        add = Signal(2)
        weight = [(left == n) & (now.half == h) & ~in_half for h in range(2) for n in range(3)]
        # by 0, 4, 6, 8, 10, 12 bits
        weights = Cat(is_low, weight[0] | in_half, weight[3], weight[1], weight[4], weight[2])
        m.d.comb += add.eq(now.add)
        m.d.sync += [
            control.beat.eq(accept & is_key),
            control.half.eq(in_half),
            control.odd.eq(Mux(is_low, now.odd, ~in_even) & ~narrow),
            control.narrow.eq(narrow),
            control.weight.eq(Mux(is_low, 1, weights & ~Const(1, 6))),
            control.begins.eq(Cat(step == 0, is_low | Mux(now.half, in_half, place == 0))),
            control.adds.eq(Mux(is_low | narrow, Cat(now.even, now.odd),
                                Cat(in_even | in_half, ~in_even))),
            control.onto.eq(add | is_low.replicate(2)),
            control.stores.eq(Mux(is_low | add.any(), Cat(now.even, now.odd), 3)),
            control.final.eq(accept & is_key & (step == now.final)),
            control.first.eq(now.first & (step == 0)),
            control.opens.eq(now.first),
            control.ends.eq(ends),
            control.none.eq(now.none),
            control.low.eq(is_low),
            control.place.eq(now.place),
            control.row.eq(now.row),
        ]
        return control

    def _keys(self, m: Module, accept: Signal, nibbles: list, error: Value, control, normal,
              low) -> None:
        """Compute scores: products and trees; weights and sums; memory and maxima; the end."""
        spec, lanes = self._spec, self._spec.lanes
        segment = 3 * lanes  # elements of 12 bits in a beat: lanes / 4
        elements, kind = self.query.payload.data, self.tag.payload.kind
        vectors = []
        for odd in range(2):
            memory = Memory(shape=spec.QUERY_BITS * lanes, depth=spec.pairs, init=[],
                            attrs={"no_rw_check": "1"})
            m.submodules[f"query_{'odd' if odd else 'even'}"] = memory
            write, read = memory.write_port(granularity=segment), memory.read_port()
            word = Cat(elements[16 * n:16 * n + spec.QUERY_BITS] for n in range(lanes // 4))
            m.d.comb += [
                write.en.eq(Mux(self.query.valid & ~self.query.payload.unit
                                & (self.query.payload.odd == odd),
                                1 << self.query.payload.part, 0)),
                write.addr.eq(self.query.payload.slot),
                write.data.eq(word.replicate(spec.vector_beats)),
                read.en.eq(accept & ((kind == Kind.KEY) | (kind == Kind.LOW))),
                read.addr.eq(self.tag.payload.slot),
            ]
            vectors.append(read.data)

        # The upper digits of both heads' 2 bits are the even head's, the lower ones the odd's
        dots = []
        for name, odd, digits in (("high", control.odd & ~control.half, 2),
                                  ("low", control.odd | control.half, 0)):
            m.submodules[f"dot_{name}"] = dot = DigitDot(spec)
            m.d.comb += [
                Value.cast(dot.query).eq(Mux(odd, vectors[1], vectors[0])),
                Value.cast(dot.digit).eq(Cat(nibble[digits:digits + 2] for nibble in nibbles)),
            ]
            dots.append(list(dot.totals))
        totals = self._totals(m, dots[0], dots[1], control.narrow)

        # Weights and sums
        adding = Signal(control.shape())
        adding_error = Signal(reset_less=True)
        whole = Signal(signed(spec.QUERY_BITS + spec.lanes.bit_length() + 3))
        m.d.comb += whole.eq((totals[0] << 2) + totals[1])
        m.d.sync += [adding.eq(control), adding_error.eq(error & control.beat)]
        writing = Signal(control.shape())
        writing_error = Signal(reset_less=True)
        m.d.sync += [writing.eq(adding), writing_error.eq(adding_error)]
        sums, tops = [], []
        for odd, name in enumerate(("even", "odd")):
            memory = Memory(shape=signed(spec.acc_bits), depth=spec.score_rows, init=[],
                            attrs={"no_rw_check": "1"})
            m.submodules[f"score_{name}"] = memory
            write, old, read = memory.write_port(), memory.read_port(), memory.read_port()
            term = Signal(signed(len(whole)), name=f"term_{name}")
            heavy = Signal(signed(spec.acc_bits), name=f"heavy_{name}")
            start = Signal(signed(spec.acc_bits), name=f"start_{name}")
            total = Signal(signed(spec.acc_bits), name=f"sum_{name}", reset_less=True)
            top = Signal(signed(spec.acc_bits), name=f"top_{name}", reset_less=True)
            m.d.comb += [
                term.eq(Mux(adding.half | adding.narrow, totals[odd], whole)),
                heavy.eq(select(spec.acc_bits, adding.weight,
                                [term << n for n in (0, 4, 6, 8, 10, 12)])),
                start.eq(Mux(adding.begins[odd], Mux(adding.onto[odd], old.data, 0), total)),
                old.addr.eq(control.place),
                old.en.eq(control.beat & control.onto.any()),
                read.addr.eq(self.read_address),
                read.en.eq(self.read_enable),
                self.read_data[name].eq(read.data),
                write.addr.eq(writing.place),
                write.data.eq(total),
                write.en.eq(writing.final & writing.stores[odd]),
            ]
            with m.If(adding.beat & adding.adds[odd]):
                m.d.sync += total.eq(start + heavy)
            with m.If(writing.ends & writing.none):
                m.d.sync += top.eq(-1 << spec.acc_bits - 1)
            with m.Elif(writing.final & (writing.opens | (total > top))):
                m.d.sync += top.eq(total)
            sums.append(total)
            tops.append(top)
        m.submodules.score_row = rows = Memory(shape=bits(spec.rows), depth=spec.score_rows,
                                               init=[], attrs={"no_rw_check": "1"})
        write, read = rows.write_port(), rows.read_port()
        m.d.comb += [
            write.addr.eq(writing.place), write.data.eq(writing.row),
            write.en.eq(writing.final & ~writing.low),
            read.addr.eq(self.read_address), read.en.eq(self.read_enable),
            self.read_data.row.eq(read.data),
        ]

        # The end of a job
        end = Signal()
        end_low = Signal(reset_less=True)
        keys = Signal(range(spec.rows + 1), reset_less=True)
        failed = Signal(reset_less=True)
        with m.If(writing.ends & writing.none):
            m.d.sync += [keys.eq(0), failed.eq(0)]
        with m.Elif(writing.beat):
            m.d.sync += failed.eq(writing_error | failed & ~writing.first)
            with m.If(writing.final):
                m.d.sync += keys.eq(Mux(writing.opens, 0, keys) + 1)
        m.d.sync += [end.eq(writing.ends), end_low.eq(writing.low)]
        for queue, mine in ((normal, ~end_low), (low, end_low)):
            m.d.comb += [
                queue.i.valid.eq(end & mine),
                queue.i.payload.even.eq(tops[0]),
                queue.i.payload.odd.eq(tops[1]),
                queue.i.payload.keys.eq(keys),
                queue.i.payload.error.eq(failed),
            ]

    def _totals(self, m: Module, high: list, low: list, narrow: Signal) -> list[Signal]:
        """Register the sums of the upper and lower digits, or, if ``narrow``, of the two halves."""
        if self._spec.sharing > 1:
            high, low = ([Mux(narrow, high[0] << 2, high[0]) + Mux(narrow, low[0], high[1])],
                         [Mux(narrow, high[1] << 2, low[0]) + low[1]])
        totals = [Signal(one.shape(), name=f"total_{name}", reset_less=True)
                  for name, (one,) in (("high", high), ("low", low))]
        m.d.sync += [total.eq(one) for total, (one,) in zip(totals, (high, low))]
        return totals

    def _values(self, m: Module, accept: Value, step: Signal, flush: Signal, nibbles: list,
                error: Value, parts) -> None:
        """Add values times exponents; at the end of a task, store the sums."""
        spec, now = self._spec, self.tag.payload
        clear = Signal(init=1)
        here = Signal()
        end = Signal()
        failed = Signal()
        left = Signal(2)  # planes below
        signs = step == 0
        m.d.comb += left.eq(now.planes - 1 - step)
        m.d.sync += [here.eq(accept), end.eq(flush), clear.eq(0),
                     failed.eq(failed & ~end | here & error)]
        m.d.comb += [parts.i.valid.eq(end), parts.i.payload.error.eq(failed)]
        common: list[Any] = []
        for n, once in enumerate(now.exponents):
            twice, thrice = once << 1, Signal(spec.PROBABILITY_BITS + 2, name=f"thrice_{n}")
            mine: Any = Signal(multiples(spec), name=f"common_{n}", reset_less=True)
            gate = accept.replicate(len(thrice) + 1)
            m.d.comb += thrice.eq(once + twice)
            m.d.sync += [
                mine.low[0].eq(once & gate), mine.low[1].eq(twice & gate),
                mine.low[2].eq(thrice & gate), mine.high[0].eq(once & gate),
                mine.high[1].eq(Mux(signs, -twice, twice) & gate),
                mine.high[2].eq(Mux(signs, -once, thrice) & gate),
                mine.shift.eq(Cat(left == n for n in range(3))),
            ]
            common.append(mine)
        for n, nibble in enumerate(nibbles):
            m.submodules[f"value_{n}"] = lane = ValueLane(spec)
            m.d.comb += [lane.multiples.eq(common[n * len(common) // spec.lanes]),
                         lane.nibble.eq(nibble),
                         lane.clear.eq(end | clear), parts.i.payload.sums[n].eq(lane.sum)]
