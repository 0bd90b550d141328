# SPDX-License-Identifier: Apache-2.0
"""The front of a linear layer: from tokens to jobs, and to the tokens whose scores are there."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.array.line import tree
from hw.spatten.dispatch import OPERATION
from hw.spatten.layouts import bits, fetch, fetched, job, scored, walked
from hw.spatten.pick import pick
from hw.stream import Queue

ADDRESSES = ("query", "output", "key_low")
"""Of what a token has beats."""


def sum_bits(spec: SpattenSpec) -> int:
    """Return the bits of the sum of all inputs of a token."""
    return spec.QUERY_BITS + (spec.MAX_INPUTS * spec.lanes - 1).bit_length()


def place(spec: SpattenSpec) -> data.StructLayout:
    """Where the first output of a token goes."""
    return data.StructLayout({"channel": bits(spec.channels), "beat": 27, "low": 27})


class Feeder(wiring.Component):
    """Fetch the inputs of tokens, two vectors to a slot; give a job for each slot.

    ::

        token --> fetch ~~> fetched --> sums of the slots --+
             |                                              v
             +--> prepared ----- all came, and room ---> sum of the token --> scored by all? --> o
                                                     +--> job ~~> scored -----------^

    The vectors of a pair take part in a job as an even and an odd head do. The jobs of a token add
    to its rows of the score memories, which follow those of the token before. A slot is free when
    all channels have ended its job; its successors are fetched meanwhile.

    Throughput: a job in 3 cycles, or 2 with one vector, and one more for each token.

    Members
    -------
    op : ``In(OPERATION)``, inputs : ``In(spec.MAX_INPUTS)``
        Constant while ``busy``; which vectors take part, at least one.
    enable : ``In(1)``
        Beats that are fetched are inputs.
    token : ``In(stream.Signature(walked(spec, 3)))``
        With the beats of ``ADDRESSES``.
    place : ``Out(stream.Signature(place(spec)))``
        Of each token, in the cycle in which it is taken.
    fetch, fetch_channel, fetched, job, scored :
        see :class:`~hw.spatten.linear.Linear`.
    o : ``Out(stream.Signature(signed(sum_bits(spec))))``
        A token has its scores: the sum of its inputs.
    freed : ``In(1)``
        A row of scores was read.
    error : ``Out(1)``
        There was one, in this cycle.
    busy : ``Out(1)``
        Tokens were taken that have not left through ``o``.
    """

    def __init__(self, spec: SpattenSpec):
        self._spec = spec
        super().__init__({
            "op": In(OPERATION),
            "inputs": In(spec.MAX_INPUTS),
            "enable": In(1),
            "token": In(stream.Signature(walked(spec, len(ADDRESSES)))),
            "place": Out(stream.Signature(place(spec))),
            "fetch": Out(stream.Signature(fetch(spec))),
            "fetch_channel": Out(bits(spec.channels)),
            "fetched": In(wiring.Signature({"valid": Out(1), "payload": Out(fetched(spec))})),
            "job": Out(stream.Signature(job(spec))),
            "scored": In(stream.Signature(scored(spec))).array(spec.channels),
            "o": Out(stream.Signature(signed(sum_bits(spec)))),
            "freed": In(1),
            "error": Out(1),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec, slots = self._spec, self._spec.pairs
        most = spec.MAX_INPUTS // 2
        m.submodules.prepared = prepared = Queue(depth=slots, shape=data.StructLayout({
            "even": 1, "odd": 1, "add": 2, "pair": range(most), "last": 1}))
        pairs = Signal(most)  # those with a vector that takes part
        m.d.comb += pairs.eq(self.inputs[0::2] | self.inputs[1::2])

        # Vectors of a token
        token: Any = Signal(self.token.payload.shape(), reset_less=True)
        left = Signal(most)  # pairs that are to come
        lowest = Signal(most)
        rest = Signal(most)
        pair = Signal(range(most))
        even = Signal()
        odd = Signal()
        had = Signal(2)  # even and odd vectors that were before
        asked = Signal()  # for the even vector
        second = Signal()
        give = Signal()
        slot = Signal(range(slots))
        used = Signal(range(slots + 1))
        take = Signal()
        entry, own = prepared.i.payload, self.fetch.payload
        m.d.comb += [
            self.token.ready.eq(~left.any() & self.place.ready),
            self.place.valid.eq(~left.any() & self.token.valid),
            take.eq(self.token.valid & self.token.ready),
            self.place.payload.channel.eq(self.token.payload.channel),
            self.place.payload.beat.eq(self.token.payload.beat[ADDRESSES.index("output")]),
            self.place.payload.low.eq(self.token.payload.beat[ADDRESSES.index("key_low")]),
            lowest.eq(left & -left), rest.eq(left & ~lowest),
            pair.eq(Cat(Cat(lowest[n] for n in range(most) if n >> bit & 1).any()
                        for bit in range(len(pair)))),
            even.eq(pick(list(self.inputs[0::2]), lowest)),
            odd.eq(pick(list(self.inputs[1::2]), lowest)),
            second.eq(~even | asked),
            own.beat.eq(token.beat[0] + Cat(second, pair) * spec.vector_beats),
            own.slot.eq(slot), own.odd.eq(second),
            self.fetch_channel.eq(token.channel + pair & spec.channels - 1),
            self.fetch.valid.eq(left.any() & (used != slots)),
            give.eq(self.fetch.valid & self.fetch.ready & (second | ~odd)),
            prepared.i.valid.eq(give),  # it has as many places as there are slots
            entry.even.eq(even), entry.odd.eq(odd), entry.add.eq(had), entry.pair.eq(pair),
            entry.last.eq(~rest.any()),
        ]
        with m.If(take):
            m.d.sync += [token.eq(self.token.payload), left.eq(pairs), had.eq(0)]
        with m.If(self.fetch.valid & self.fetch.ready):
            m.d.sync += asked.eq(~give)
        with m.If(give):
            m.d.sync += [left.eq(rest), had.eq(had | Cat(even, odd)), slot.eq(slot + 1)]

        end = self._ends(m)
        m.d.sync += used.eq(used + give - end)
        waiting = self._jobs(m, prepared.o, pairs, end)
        m.d.comb += self.busy.eq(left.any() | (used != 0) | waiting)
        return m

    def _ends(self, m: Module) -> Signal:
        """Take the ends of a job from all channels together; return when."""
        end = Signal()
        wrong = Cat(one.payload.error for one in self.scored).any()
        beat = self.fetched.payload
        m.d.comb += [
            end.eq(Cat(one.valid for one in self.scored).all()),
            self.error.eq(end & wrong
                          | self.enable & self.fetched.valid & ~beat.unit & beat.error),
        ]
        m.d.comb += [one.ready.eq(end) for one in self.scored]
        return end

    def _arrive(self, m: Module, slot: Signal, go: Signal) -> tuple[Signal, Signal]:
        """Add up inputs and count beats; return those of a slot, which ``go`` empties."""
        spec, slots, beat = self._spec, self._spec.pairs, self.fetched.payload
        numbers = [beat.data[n:n + spec.QUERY_BITS].as_signed()
                   for n in range(0, len(beat.data), 16)]
        came = Signal()
        at = Signal(range(slots), reset_less=True)
        total = Signal(signed(spec.QUERY_BITS + (len(numbers) - 1).bit_length()), reset_less=True)
        width = spec.QUERY_BITS + (2 * spec.lanes - 1).bit_length()
        counts = [Signal(range(2 * spec.vector_beats + 1), name=f"came_{n}") for n in range(slots)]
        sums = [Signal(signed(width), name=f"sum_{n}") for n in range(slots)]
        m.d.sync += [came.eq(self.enable & self.fetched.valid & ~beat.unit), at.eq(beat.slot),
                     total.eq(tree(numbers))]
        more = Signal(signed(width))
        m.d.comb += more.eq(Array(sums)[at] + total)
        for n in range(slots):
            with m.If(came & (at == n)):
                m.d.sync += [counts[n].eq(counts[n] + 1), sums[n].eq(more)]
            with m.If(go & (slot == n)):
                m.d.sync += [counts[n].eq(0), sums[n].eq(0)]
        count = Signal.like(counts[0])
        its_sum = Signal(signed(width))
        m.d.comb += [count.eq(Array(counts)[slot]), its_sum.eq(Array(sums)[slot])]
        return count, its_sum

    def _jobs(self, m: Module, prepared: Any, pairs: Signal, end: Signal) -> Signal:
        """Give jobs whose inputs are there; offer tokens. Return whether one is complete."""
        spec, op, job, own = self._spec, self.op, self.job.payload, prepared.payload
        lane = spec.lanes.bit_length() - 1
        rows = Signal(range(spec.rows + 1))
        slot = Signal(range(spec.pairs))
        base = Signal(bits(spec.score_rows))
        free = Signal(range(spec.score_rows + 1), init=spec.score_rows)
        total = Signal(signed(sum_bits(spec)), reset_less=True)  # of the jobs before
        now = Signal(signed(sum_bits(spec)))
        first = Signal()
        go = Signal()
        tokens = 2 * spec.pairs
        m.submodules.sums = sums = Queue(shape=signed(sum_bits(spec)), depth=tokens)
        count, its_sum = self._arrive(m, slot, go)
        m.d.comb += [
            rows.eq(op.outputs << lane - (spec.channels - 1).bit_length()),
            first.eq(own.add == 0),
            now.eq(Mux(first, 0, total) + its_sum),
            self.job.valid.eq(prepared.valid & (~own.last | sums.i.ready)
                              & (count == Mux(own.even & own.odd, 2, 1) * spec.vector_beats)
                              & (~first | (free >= rows))),
            go.eq(self.job.valid & self.job.ready),
            prepared.ready.eq(go),
            job.slot.eq(slot), job.even.eq(own.even), job.odd.eq(own.odd), job.add.eq(own.add),
            job.base.eq(base), job.stride.eq(op.key_stride), job.planes.eq(spec.WEIGHT_PLANES),
            job.beat.eq(op.key + Cat(~own.even, own.pair) * spec.WEIGHT_PLANES),
            job.dense.eq(1), job.tokens.eq(op.outputs << lane),
            sums.i.valid.eq(go & own.last), sums.i.payload.eq(now),
        ]
        m.d.sync += free.eq(free - Mux(go & first, rows, 0) + self.freed)
        with m.If(go):
            m.d.sync += [slot.eq(slot + 1), total.eq(now)]
        with m.If(go & own.last):
            m.d.sync += base.eq(base + rows)

        jobs = Signal(range(spec.MAX_INPUTS // 2 + 1))  # of a token
        ended = Signal.like(jobs)
        last = Signal()
        complete = Signal(range(tokens + 1))  # tokens
        m.d.comb += [
            jobs.eq(tree(list(pairs))),
            last.eq(ended + 1 == jobs),
            self.o.valid.eq(complete != 0), self.o.payload.eq(sums.o.payload),
            sums.o.ready.eq(self.o.valid & self.o.ready),
        ]
        with m.If(end):
            m.d.sync += ended.eq(Mux(last, 0, ended + 1))
        m.d.sync += complete.eq(complete + (end & last) - (self.o.valid & self.o.ready))
        return self.o.valid
