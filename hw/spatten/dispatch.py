# SPDX-License-Identifier: Apache-2.0
"""Operations in, completions out, and between them pairs of heads whose queries are there."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.operation import DESCRIPTOR_BYTES, Opcode, Status
from golden.spatten.operation import LAYOUT, Subject
from golden.spatten.spec import SpattenSpec
from golden.topk import Rule
from hw.contract import COMPLETION
from hw.spatten.layouts import DONE, bits, fetch, job, pair, prune
from hw.stream import Queue

OPERATION = data.StructLayout({name: unsigned(field.width)
                               for name, field in LAYOUT.fields.items()})
IN_FLIGHT = 8
"""Operations that are under way at the same time."""
KINDS = {"attend": 0, "empty": 1, "prune": 2, "refused": 3}


class Dispatcher(wiring.Component):
    """Check operations, cut ATTENDs into pairs of heads, report completions in order.

    A pair goes to the channels once its queries lie in their memories and the score memory has
    room; the queries of the pairs behind it are fetched meanwhile. An ATTEND begins while the ones
    before it are under way, a PRUNE of tokens when all their probabilities have been added (their
    values may be under way), a PRUNE of heads and a HALT when they are complete.

    Members
    -------
    operation : ``In(stream.Signature(512))``
    completion : ``Out(stream.Signature(COMPLETION))``
    heads, pruned, rows : what PRUNE left: heads; whether tokens were chosen, and if so the rows of
        the longest lane.
    fetch : ``Out(stream.Signature(fetch(spec)))``, with ``fetch_channel``.
    fetched, fetched_slot, fetched_error : a beat of a query came.
    pair, job : ``Out`` streams: what the row unit and the channels must know, in the same order.
    release : the oldest pair is through.
    adding : the row unit has probabilities that were not added.
    prune, pruned_now : ``Out`` stream of PRUNEs, and the pulse at their end.
    clear, clearing : forget all that was chosen; whether that is still being done.
    done : ``In(stream.Signature({"op": 2, "error": 1}))``: the outputs of an operation are written.
    drop : the program has failed: write nothing.
    """

    def __init__(self, spec: SpattenSpec):
        self.spec = spec
        super().__init__({
            "operation": In(stream.Signature(8 * DESCRIPTOR_BYTES)),
            "completion": Out(stream.Signature(COMPLETION)),
            "heads": In(spec.max_heads), "pruned": In(1), "rows": In(bits(spec.rows + 1)),
            "fetch": Out(stream.Signature(fetch(spec))),
            "fetch_channel": Out(bits(spec.channels)),
            "fetched": In(1), "fetched_slot": In(bits(spec.pairs)), "fetched_error": In(1),
            "pair": Out(stream.Signature(pair(spec))),
            "job": Out(stream.Signature(job(spec))),
            "release": In(1), "adding": In(1),
            "prune": Out(stream.Signature(prune(spec))), "pruned_now": In(1),
            "clear": Out(1), "clearing": In(1),
            "done": In(stream.Signature(DONE)),
            "drop": Out(1), "active": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        op: data.View = Signal(OPERATION, reset_less=True)
        full = Signal()  # `op` holds an operation
        failed = Signal()
        m.submodules.flight = flight = Queue(
            shape=data.StructLayout({"tag": 16, "kind": 2, "status": Status}), depth=IN_FLIGHT)
        m.submodules.prepared = prepared = Queue(
            shape=data.StructLayout({"pair": pair(spec), "job": job(spec)}), depth=spec.pairs)
        number = Signal(2)  # of the next operation
        pruning = Signal()  # a PRUNE is under way,
        of_heads = Signal()  # of heads
        chosen = Signal(range(IN_FLIGHT + 1))  # PRUNEs that have ended and wait for their report
        idle = Signal()  # nobody needs the tokens that are left, or adds to their importance
        given = Signal(range(spec.pairs + 1))  # pairs that the channels have
        m.d.comb += [
            idle.eq((prepared.level == 0) & (given == 0) & ~self.adding & ~pruning),
            self.drop.eq(failed),
            self.active.eq(full | flight.o.valid),
        ]

        bad_opcode, bad_shape = self._check(m, op)
        m.d.comb += self.operation.ready.eq(~full)
        with m.If(self.operation.valid & ~full):
            for name, field in LAYOUT.fields.items():
                m.d.sync += op[name].eq(self.operation.payload[field.offset:field.offset
                                                               + field.width])
            m.d.sync += full.eq(1)

        entry = flight.i.payload
        m.d.comb += [entry.tag.eq(op.tag), entry.status.eq(Status.OK)]

        def accept(kind):
            m.d.comb += [flight.i.valid.eq(1), entry.kind.eq(KINDS[kind])]

        start, none = self._walk(m, op, prepared, number, pruning, given)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(full):
                    with m.If(bad_opcode | bad_shape):
                        accept("refused")
                        m.d.comb += entry.status.eq(Mux(bad_opcode, Status.BAD_OPCODE,
                                                        Status.BAD_SHAPE))
                        with m.If(flight.i.ready):
                            m.d.sync += full.eq(0)
                            m.next = "REFUSED"
                    with m.Elif(op.opcode == Opcode.HALT):
                        with m.If(~flight.o.valid):
                            m.next = "CLEAR"
                    with m.Elif(failed):
                        accept("refused")
                        with m.If(flight.i.ready):
                            m.d.sync += full.eq(0)
                    with m.Elif(op.opcode == Opcode.PRUNE):
                        heads = op.subject == Subject.HEADS
                        with m.If(idle & (~heads | ~flight.o.valid) & flight.i.ready):
                            m.next = "PRUNE"
                    with m.Elif(flight.i.ready & ~(pruning & of_heads)):
                        m.d.comb += start.eq(1)
                        m.next = "BEGIN"
            with m.State("REFUSED"):  # nothing behind it may begin before it is known to fail
                with m.If(~flight.o.valid):
                    m.next = "IDLE"
            with m.State("BEGIN"):  # now it is known whether a head is left
                accept("attend")
                with m.If(none):
                    accept("empty")
                    m.d.sync += full.eq(0)
                    m.next = "IDLE"
                with m.Else():
                    m.next = "PAIRS"
            with m.State("PAIRS"):
                with m.If(none):
                    m.d.sync += [full.eq(0), number.eq(number + 1)]
                    m.next = "IDLE"
            with m.State("PRUNE"):
                m.d.comb += self.prune.valid.eq(1)
                with m.If(self.prune.ready):
                    accept("prune")
                    m.d.sync += [full.eq(0), pruning.eq(1), of_heads.eq(op.subject)]
                    m.next = "IDLE"
            with m.State("CLEAR"):
                m.d.comb += self.clear.eq(1)
                m.next = "CLEARING"
            with m.State("CLEARING"):
                m.d.sync += failed.eq(0)
                with m.If(~self.clearing):
                    m.next = "HALT"
            with m.State("HALT"):
                accept("refused")
                with m.If(flight.i.ready):
                    m.d.sync += full.eq(0)
                    m.next = "IDLE"
        m.d.comb += self.prune.payload.count.eq(Mux(op.subject == Subject.HEADS, op.heads,
                                                    op.tokens))
        for name, _ in prune(spec):
            if name != "count":
                m.d.comb += self.prune.payload[name].eq(op[name])

        # Completions
        first = flight.o.payload
        status = Signal(Status)
        ready = Signal()
        error = self.done.payload.error
        m.d.comb += [
            ready.eq((first.kind == KINDS["refused"]) | (first.kind == KINDS["empty"])
                     | (first.kind == KINDS["prune"]) & (chosen != 0)
                     | (first.kind == KINDS["attend"]) & self.done.valid),
            status.eq(Mux(failed, Status.SKIPPED, Mux(
                (first.kind == KINDS["attend"]) & error, Status.BUS_ERROR, first.status))),
            self.completion.valid.eq(flight.o.valid & ready),
            self.completion.payload.tag.eq(first.tag),
            self.completion.payload.status.eq(status),
            flight.o.ready.eq(ready & self.completion.ready),
            self.done.ready.eq(flight.o.valid & (first.kind == KINDS["attend"])
                               & self.completion.ready),
        ]
        finished = self.completion.valid & self.completion.ready
        with m.If(finished & (status != Status.OK)):
            m.d.sync += failed.eq(1)
        with m.If(self.pruned_now):
            m.d.sync += pruning.eq(0)
        m.d.sync += chosen.eq(chosen + self.pruned_now
                              - (finished & (first.kind == KINDS["prune"])))
        return m

    def _check(self, m, op):
        spec = self.spec
        bad_opcode, bad_shape = Signal(), Signal()
        attend, chooses = op.opcode == Opcode.ATTEND, op.opcode == Opcode.PRUNE
        of_heads = op.subject == Subject.HEADS
        bad_heads = (op.heads == 0) | (op.heads > spec.max_heads)
        bad_tokens = (op.tokens == 0) | (op.tokens > spec.max_tokens)
        m.d.comb += [
            bad_opcode.eq(~attend & ~chooses & (op.opcode != Opcode.HALT)
                          | chooses & (op.rule > Rule.THRESHOLD)),
            bad_shape.eq(attend & (bad_heads | bad_tokens | (op.key_planes == 0)
                                   | (op.value_planes == 0)
                                   | (op.key_planes + op.key_half > 3))
                         | chooses & Mux(of_heads, bad_heads, bad_tokens)),
        ]
        return bad_opcode, bad_shape

    def _walk(self, m, op, prepared, number, pruning, given):
        """Prepare one pair of heads after the other; give them to the channels.

        Their queries are fetched during a PRUNE of tokens, too; then they wait for its end.
        """
        spec = self.spec
        start = Signal(name="walk_start")
        none = Signal(name="walk_none")  # no head is to come
        slots = spec.pairs
        at = Signal(bits(spec.max_heads // 2))
        turn = Signal(bits(spec.channels), reset_less=True)
        left = Signal(spec.max_heads)  # heads that are to come, those of pair `at` lowest
        even, odd = left[0], left[1]
        later = Signal()
        beats = {name: Signal(27, name=f"next_{name}", reset_less=True)
                 for name in ("query", "key", "key_low", "value", "output")}
        whole, vector = op.key_planes, spec.vector_beats
        step = {"query": 2 * vector, "output": 2 * vector, "key": (whole << 1) + op.key_half,
                "key_low": 2, "value": op.value_planes << 1}
        slot = Signal(bits(slots))
        asked = Signal()  # for the query of the even head
        give = Signal()
        m.d.comb += [later.eq(left[2:].any()), none.eq(~left.any())]
        with m.If(start):
            m.d.sync += [at.eq(0), turn.eq(op.rotation & spec.channels - 1), asked.eq(0),
                         left.eq(self.heads & Cat(op.heads > n for n in range(spec.max_heads)))]
            m.d.sync += [signal.eq(op[name]) for name, signal in beats.items()]

        item = prepared.i.payload
        used = Signal(range(slots + 1))  # slots
        dense = op.dense | ~(self.pruned | pruning)
        vector_fields = {
            "slot": slot, "even": even, "odd": odd, "turn": turn, "pair": at, "op": number,
            "last": ~later, "dense": dense, "tokens": op.tokens, "key_low": beats["key_low"],
            "value": beats["value"], "output": beats["output"], "base": 0, "error": 0}
        for name, _ in pair(spec):
            m.d.comb += item.pair[name].eq(vector_fields.get(
                name, op[name] if name in LAYOUT.fields else 0))
        m.d.comb += [
            item.job.slot.eq(slot), item.job.even.eq(even), item.job.odd.eq(odd),
            item.job.low.eq(0), item.job.beat.eq(beats["key"] + Mux(even, 0, whole)),
            item.job.stride.eq(op.key_stride), item.job.planes.eq(whole),
            item.job.half.eq(op.key_half), item.job.dense.eq(dense),
            item.job.tokens.eq(op.tokens), item.job.turn.eq(turn),
        ]
        # A pair that takes part: a slot, its queries asked for, a place in the queue
        second = ~even | asked
        m.d.comb += [
            self.fetch.payload.beat.eq(beats["query"] + Mux(second, vector, 0)),
            self.fetch.payload.slot.eq(slot),
            self.fetch.payload.odd.eq(second),
            self.fetch_channel.eq(turn),
        ]
        next_pair = Signal()
        walking = Signal()
        with m.If(walking):
            with m.If(~even & ~odd):
                m.d.comb += next_pair.eq(1)
            with m.Elif((used != slots) & prepared.i.ready):
                m.d.comb += self.fetch.valid.eq(1)
                with m.If(self.fetch.ready):
                    with m.If(second | ~odd):
                        m.d.comb += [prepared.i.valid.eq(1), give.eq(1), next_pair.eq(1)]
                    with m.Else():
                        m.d.sync += asked.eq(1)
        with m.If(start):
            m.d.sync += walking.eq(1)
        with m.Elif(none):
            m.d.sync += walking.eq(0)
        with m.If(next_pair):
            m.d.sync += [left.eq(left >> 2), at.eq(at + 1), asked.eq(0),
                         turn.eq(turn + 1 & spec.channels - 1)]
            m.d.sync += [signal.eq(signal + step[name]) for name, signal in beats.items()]
        with m.If(give):
            m.d.sync += slot.eq(Mux(slot == slots - 1, 0, slot + 1))
        m.d.sync += used.eq(used + give - self.release)

        # Pairs whose queries are there, as the score memory has room
        head = prepared.o.payload
        counts = [Signal(range(2 * vector + 1), name=f"came_{n}") for n in range(slots)]
        errors = Signal(slots)
        need = Mux(head.pair.even & head.pair.odd, 2 * vector, vector)
        came = Signal(range(2 * vector + 1))
        base = Signal(bits(spec.score_rows))
        free = Signal(range(spec.score_rows + 1), init=spec.score_rows)
        rows = Signal(bits(spec.rows + 1))
        m.submodules.sizes = sizes = Queue(shape=bits(spec.rows + 1), depth=slots)
        ready = Signal()
        go = Signal()
        m.d.comb += [
            came.eq(Cat(counts).word_select(head.pair.slot, len(counts[0]))),
            rows.eq(Mux(head.pair.dense,
                        (head.pair.tokens + spec.channels - 1) >> bits(spec.channels)
                        if spec.channels > 1 else head.pair.tokens, self.rows)),
            ready.eq(prepared.o.valid & (came == need) & (free >= rows) & ~pruning),
            self.pair.valid.eq(ready & self.job.ready),
            self.job.valid.eq(ready & self.pair.ready),
            go.eq(ready & self.pair.ready & self.job.ready),
            prepared.o.ready.eq(go),
            self.pair.payload.eq(head.pair), self.job.payload.eq(head.job),
            self.pair.payload.base.eq(base), self.job.payload.base.eq(base),
            self.pair.payload.error.eq(errors.bit_select(head.pair.slot, 1)),
            sizes.i.valid.eq(go), sizes.i.payload.eq(rows), sizes.o.ready.eq(self.release),
        ]
        m.d.sync += given.eq(given + go - self.release)
        with m.If(go):
            m.d.sync += base.eq(base + rows)
        m.d.sync += free.eq(free - Mux(go, rows, 0) + Mux(self.release, sizes.o.payload, 0))
        for n, count in enumerate(counts):
            with m.If(self.fetched & (self.fetched_slot == n)):
                m.d.sync += [count.eq(count + 1), errors[n].eq(errors[n] | self.fetched_error)]
            with m.If(go & (head.pair.slot == n)):
                m.d.sync += [count.eq(0), errors[n].eq(0)]
        return start, none
