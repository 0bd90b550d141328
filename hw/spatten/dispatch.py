# SPDX-License-Identifier: Apache-2.0
"""Operations in, completions out, and between them pairs of heads whose queries are there."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.operation import DESCRIPTOR_BYTES, Opcode, Status
from golden.spatten.operation import LAYOUT, Subject, Target
from golden.spatten.spec import LOCAL, SpattenSpec
from golden.topk import Rule
from hw.contract import COMPLETION
from hw.spatten.layouts import DONE, bits, fetch, job, pair, prune, walked
from hw.spatten.walk import Walk
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
    values may be under way), a PRUNE of heads and a HALT when they are complete. An ATTEND with
    queries of many tokens cuts one token after the other into pairs of heads; it begins after a
    PRUNE. LINEAR, NORM and LOAD go to the encoder as they are, alone.

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
    tokens : those that are left.
    encode, encoded : ``Out(stream.Signature(OPERATION))``: an operation for the encoder, which
        stays until ``In(stream.Signature(1))`` says that it is over; 1: with a bus error.
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
            "tokens": In(spec.max_tokens),
            "encode": Out(stream.Signature(OPERATION)), "encoded": In(stream.Signature(1)),
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

        refusal = self._check(m, op)
        many = Signal()  # an ATTEND with queries of many tokens
        if spec.local:
            m.d.comb += [many.eq(op.count != 0), self.encode.payload.eq(op)]
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

        start, some, none = self._walk(m, op, many, prepared, number, pruning, given)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(full):
                    with m.If(refusal != Status.OK):
                        accept("refused")
                        m.d.comb += entry.status.eq(refusal)
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
                    if spec.local:
                        with m.Elif(op.opcode != Opcode.ATTEND):
                            with m.If(~flight.o.valid):
                                m.next = "ENCODE"
                    with m.Elif(flight.i.ready & ~(pruning & (of_heads | many))):
                        m.d.comb += start.eq(1)
                        m.next = "BEGIN"
            with m.State("REFUSED"):  # nothing behind it may begin before it is known to fail
                with m.If(~flight.o.valid):
                    m.next = "IDLE"
            if spec.local:
                with m.State("ENCODE"):
                    m.d.comb += self.encode.valid.eq(1)
                    with m.If(self.encode.ready):
                        m.next = "ENCODED"
                with m.State("ENCODED"):
                    m.d.comb += self.encoded.ready.eq(flight.i.ready)
                    with m.If(self.encoded.valid):
                        accept("refused")
                        m.d.comb += entry.status.eq(Mux(self.encoded.payload, Status.BUS_ERROR,
                                                        Status.OK))
                        with m.If(flight.i.ready):
                            m.d.sync += full.eq(0)
                            m.next = "REFUSED"
            with m.State("BEGIN"):  # until it is known whether a token and a head are left
                with m.If(none):
                    accept("empty")
                    m.d.sync += full.eq(0)
                    m.next = "IDLE"
                with m.Elif(some):
                    accept("attend")
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
        """Return why an operation is refused, or OK."""
        spec = self.spec
        bad_opcode, bad_shape = Signal(), Signal()
        out_of_range = Signal()
        refusal = Signal(Status)
        attend, chooses = op.opcode == Opcode.ATTEND, op.opcode == Opcode.PRUNE
        of_heads = op.subject == Subject.HEADS
        bad_heads = (op.heads == 0) | (op.heads > spec.max_heads)
        bad_tokens = (op.tokens == 0) | (op.tokens > spec.max_tokens)
        known, encoder_shape = Const(0), Const(0)
        if spec.local:
            known, encoder_shape = self._check_encoder(m, op, bad_tokens, out_of_range)
        m.d.comb += [
            bad_opcode.eq(~attend & ~chooses & (op.opcode != Opcode.HALT) & ~known
                          | chooses & (op.rule > Rule.THRESHOLD)),
            bad_shape.eq(attend & (bad_heads | bad_tokens | (op.key_planes == 0)
                                   | (op.value_planes == 0)
                                   | (op.key_planes + op.key_half > 3)
                                   | op.narrow & (op.key_half if spec.sharing > 1 else 1)
                                   | (op.count > (spec.max_tokens if spec.local else 0)))
                         | chooses & Mux(of_heads, bad_heads, bad_tokens)
                         | encoder_shape),
            refusal.eq(Mux(bad_opcode, Status.BAD_OPCODE, Mux(
                bad_shape, Status.BAD_SHAPE, Mux(
                    out_of_range, Status.OUT_OF_RANGE, Status.OK)))),
        ]
        return refusal

    def _check_encoder(self, m, op, bad_tokens, out_of_range):
        """Return whether it is one of the encoder's operations, and whether its shape is bad."""
        spec = self.spec
        lanes, top = spec.lanes.bit_length() - 1, LOCAL.bit_length() - 1
        linear, norm = op.opcode == Opcode.LINEAR, op.opcode == Opcode.NORM
        loads, to_local = op.opcode == Opcode.LOAD, op.target == Target.LOCAL
        bad_inputs = bad_tokens | (op.inputs == 0) | (op.inputs > spec.MAX_INPUTS)
        bad_norm = ((op.count > spec.max_width) | (op.count - 1 >> lanes != op.inputs - 1)
                    | (op.shift < spec.norm.Z_FRACTION) | (op.shift > spec.norm.MAX_SHIFT))
        bad_linear = ((op.outputs == 0) | (op.outputs > spec.max_tokens >> lanes)
                      | op.by_head & (op.inputs > Mux(op.narrow, spec.max_heads // 2,
                                                      spec.max_heads))
                      | op.planes & (op.residual | (op.value_planes == 0)))
        # The beats of constants, or of a LOAD, and the room that there is
        first, beats, room = Signal(top), Signal(16), Signal(range(max(
            spec.local, spec.constant_words, spec.table_words) + 1))
        each = spec.memory_bytes // 4  # elements of a NORM whose constants are a beat
        m.d.comb += [first.eq(op.constant), room.eq(spec.constant_words), beats.eq(Mux(
            norm, op.count + (each - 1) >> each.bit_length() - 1,
            op.outputs * (8 * spec.lanes // spec.memory_bytes)))]
        with m.If(loads):
            m.d.comb += beats.eq(op.count)
            with m.If(to_local):
                m.d.comb += [first.eq(op.output), room.eq(spec.local)]
            with m.Elif(op.target == Target.TABLE):
                m.d.comb += room.eq(spec.table_words)
        m.d.comb += out_of_range.eq(
            (linear | norm | loads) & (first + beats > room)
            | loads & to_local & (op.output[top:] != 1))
        return (linear | norm | loads & (op.target <= Target.TABLE),
                linear & (bad_inputs | bad_linear) | norm & (bad_inputs | bad_norm)
                | loads & (op.count == 0))

    def _walk(self, m, op, many, prepared, number, pruning, given):
        """Prepare one pair of heads after the other; give them to the channels.

        Their queries are fetched during a PRUNE of tokens, too; then they wait for its end. Return
        the signal that begins it, whether a pair is left, and whether none is to come.
        """
        spec = self.spec
        start = Signal(name="walk_start")
        none = Signal(name="walk_none")  # no head is to come
        slots = spec.pairs
        at = Signal(bits(spec.max_heads // 2))
        turn = Signal(bits(spec.channels), reset_less=True)
        own = Signal(bits(spec.channels), reset_less=True)  # of the queries
        left = Signal(spec.max_heads)  # heads that are to come, those of pair `at` lowest
        even, odd = left[0], left[1]
        later = Signal()
        beats = {name: Signal(27, name=f"next_{name}", reset_less=True)
                 for name in ("query", "key", "key_low", "value", "output")}
        whole, vector = op.key_planes, spec.vector_beats
        narrow = Signal()  # the heads of a pair share their vectors
        one = ~narrow  # how often a pair's beats are to be doubled
        step = {"query": vector << one, "output": vector << one,
                "key": (whole << one) + op.key_half, "key_low": Mux(narrow, 1, 2),
                "value": op.value_planes << one}
        slot = Signal(bits(slots))
        asked = Signal()  # for the query of the even head
        give = Signal()
        tokens = Signal()  # some are to come
        others = Signal(reset_less=True)  # this token is not the first of all
        m.d.comb += [later.eq(left[2:].any() | tokens), none.eq(~left.any() & ~tokens)]
        if spec.sharing > 1:
            m.d.comb += narrow.eq(op.narrow)

        item = prepared.i.payload
        used = Signal(range(slots + 1))  # slots
        dense = op.dense | ~(self.pruned | pruning)
        vector_fields = {
            "slot": slot, "even": even, "odd": odd, "narrow": narrow, "turn": turn, "own": own,
            "pair": at, "op": number, "accumulate": op.accumulate & ~(op.class_row & others),
            "last": ~later, "dense": dense, "tokens": op.tokens, "key_low": beats["key_low"],
            "value": beats["value"], "output": beats["output"], "base": 0, "error": 0}
        for name, _ in pair(spec):
            m.d.comb += item.pair[name].eq(vector_fields.get(
                name, op[name] if name in LAYOUT.fields else 0))
        m.d.comb += [
            item.job.slot.eq(slot), item.job.even.eq(even), item.job.odd.eq(odd),
            item.job.narrow.eq(narrow), item.job.low.eq(0),
            item.job.beat.eq(beats["key"] + Mux(even | narrow, 0, whole)),
            item.job.stride.eq(op.key_stride), item.job.planes.eq(whole),
            item.job.half.eq(op.key_half), item.job.dense.eq(dense),
            item.job.tokens.eq(op.tokens), item.job.turn.eq(turn),
        ]
        # A pair that takes part: a slot, its queries asked for, a place in the queue
        second = ~narrow & (~even | asked)
        m.d.comb += [
            self.fetch.payload.beat.eq(beats["query"] + Mux(second, vector, 0)),
            self.fetch.payload.slot.eq(slot),
            self.fetch.payload.odd.eq(second),
            self.fetch_channel.eq(own),
        ]
        next_pair = Signal()
        walking = Signal()
        with m.If(walking):
            with m.If(~even & ~odd):
                m.d.comb += next_pair.eq(1)
            with m.Elif((used != slots) & prepared.i.ready):
                m.d.comb += self.fetch.valid.eq(1)
                with m.If(self.fetch.ready):
                    with m.If(second | ~odd | narrow):
                        m.d.comb += [prepared.i.valid.eq(1), give.eq(1), next_pair.eq(1)]
                    with m.Else():
                        m.d.sync += asked.eq(1)
        with m.If(start):
            m.d.sync += walking.eq(1)
        with m.Elif(none):
            m.d.sync += walking.eq(0)
        with m.If(next_pair):
            turns = ~narrow | at[0]  # every second vector is in the next channel
            m.d.sync += [left.eq(left >> 2), at.eq(at + 1), asked.eq(0),
                         turn.eq(turn + turns & spec.channels - 1),
                         own.eq(own + turns & spec.channels - 1)]
            m.d.sync += [signal.eq(signal + step[name]) for name, signal in beats.items()]
        self._tokens(m, op, many, start, left, tokens, {
            "at": at, "asked": asked, "turn": turn, "own": own, "others": others} | beats)
        with m.If(give):
            m.d.sync += slot.eq(Mux(slot == slots - 1, 0, slot + 1))
        m.d.sync += used.eq(used + give - self.release)

        # Pairs whose queries are there, as the score memory has room
        head = prepared.o.payload
        counts = [Signal(range(2 * vector + 1), name=f"came_{n}") for n in range(slots)]
        errors = Signal(slots)
        need = Mux(head.pair.even & head.pair.odd & ~head.pair.narrow, 2 * vector, vector)
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
        return start, left.any(), none

    def _tokens(self, m, op, many, start, left, tokens, state):
        """Begin with the heads of an ATTEND, or of each of its tokens: set ``left`` and ``state``.

        ``tokens`` is 1 until the last token begins.
        """
        spec = self.spec
        heads = self.heads & Cat(op.heads > n for n in range(spec.max_heads))
        begin = Signal()
        token: Any = Signal(walked(spec, 2))
        m.d.comb += [begin.eq(start & ~many), token.channel.eq(op.rotation & spec.channels - 1),
                     token.beat[0].eq(op.query), token.beat[1].eq(op.output)]
        if spec.local:
            m.submodules.walk = walk = Walk(spec, 2)
            m.d.comb += [
                walk.start.eq(start & many & heads.any()),
                walk.tokens.eq(op.tokens), walk.dense.eq(op.dense), walk.pruned.eq(self.pruned),
                walk.limit.eq(op.count), walk.mask.eq(self.tokens), walk.rotation.eq(op.rotation),
                walk.base[0].eq(op.query), walk.stride[0].eq(op.query_stride),
                walk.base[1].eq(op.output), walk.stride[1].eq(op.output_stride),
                walk.o.ready.eq(tokens & ~left.any()),
            ]
            with m.If(walk.start):
                m.d.sync += tokens.eq(1)
            with m.Elif(tokens & walk.none):
                m.d.sync += tokens.eq(0)
            with m.If(walk.o.valid & walk.o.ready):
                m.d.comb += [begin.eq(1), token.eq(walk.o.payload)]
                m.d.sync += tokens.eq(~walk.o.payload.last)
        with m.If(begin):
            m.d.sync += [
                state["at"].eq(0), state["asked"].eq(0), left.eq(heads),
                state["turn"].eq(op.rotation & spec.channels - 1), state["own"].eq(token.channel),
                state["others"].eq(token.token != 0),
                state["query"].eq(token.beat[0]), state["output"].eq(token.beat[1]),
                *(state[name].eq(op[name]) for name in ("key", "key_low", "value"))]
