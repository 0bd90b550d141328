# SPDX-License-Identifier: Apache-2.0
"""PRUNE: the importance of tokens, and the choice of those that stay."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.rowwise.operation import Importance as Mode
from golden.rowwise.spec import RowwiseSpec
from hw.attention.importance import Importance
from hw.attention.softmax import MARK, WATCH
from hw.rowwise.layouts import OPERATION, config
from hw.select.topk import TopK


class Selector(wiring.Component):
    """Watch the softmax for the importance of tokens, and execute PRUNE.

    ::

        softmax -> Importance -> TopK -> kept tokens -> normaliser
                                  +----> token count -> sequencer

    A PRUNE begins when all ATTEND with importance that were started have been added up, and takes
    :meth:`golden.rowwise.spec.RowwiseSpec.prune_cycles` then. The softmax waits only where rows of
    scores are so short that a watched one comes before the last has been added.

    Area with 200 keys: 4.88 kGE, of which 3.00 are the selection and 1.40 the importance from the
    class token; that from all tokens would be 17.08.

    Members
    -------
    attend, attend_id : an ATTEND with importance has been started.
    configs : what is known of the array operations under way.
    score, score_id : a word of scores enters the softmax; ``watch`` goes with it.
    valid, ready, exponents, last, watched : a word that leaves it, also given only when ``ready``.
    found : reciprocals from the softmax.
    start, op : begin a PRUNE; only when none is under way.
    done, tokens : it is complete, and so many tokens are left.
    kept : read port of the tokens kept.
    fused, seen : the last PRUNE was a FUSE after which tokens left (one more token is in
        ``tokens``); how many it chose from.
    weight : read port of the importance of those.
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        importance = spec.importance
        super().__init__({
            "attend": In(1), "attend_id": In(1),
            "configs": In(data.ArrayLayout(config(spec), 2)),
            "score": In(1), "score_id": In(1), "watch": Out(WATCH),
            "valid": In(1), "ready": Out(1),
            "exponents": In(data.ArrayLayout(8, spec.columns)), "last": In(1),
            "watched": In(MARK),
            "found": In(data.StructLayout({
                "valid": 1, "reciprocal": 17,
                "exponent": importance.reciprocal.exponent_width})),
            "start": In(1), "op": In(OPERATION),
            "done": Out(1), "tokens": Out(range(spec.max_keys + 1)),
            "kept": In(wiring.Signature({
                "addr": Out(range(spec.max_keys)), "data": In(range(spec.max_keys))})),
            **({
                "fused": Out(1), "seen": Out(range(spec.max_keys + 1)),
                "weight": In(wiring.Signature({
                    "addr": Out(range(spec.max_keys)), "data": In(importance.WIDTH)})),
            } if spec.fuse else {}),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        m.submodules.importance = importance = Importance(spec.importance)
        m.submodules.topk = topk = TopK(spec.topk)

        # Which rows count
        setting = self.configs[self.watched.tag]
        row = importance.row
        first_row = Signal()
        m.d.comb += [
            self.watch.tag.eq(self.score_id),
            row["keys"].eq(setting["keys"]),
            row.start.eq((setting.importance == Mode.START) & first_row),
            importance.i.valid.eq(self.valid & self.watched.watched),
            importance.i.payload.exponents.eq(self.exponents),
            importance.i.payload.last.eq(self.watched.row_end),
            importance.found.eq(self.found),
            self.ready.eq(~self.watched.watched | importance.i.ready),
        ]
        if spec.pruning == "class":  # row 0 of the first tile
            fresh = Signal(2)  # by operation: its first scores have not come yet
            for n in range(2):
                with m.If(self.attend & (self.attend_id == n)):
                    m.d.sync += fresh[n].eq(1)
                with m.Elif(self.score & (self.score_id == n)):
                    m.d.sync += fresh[n].eq(0)
            m.d.comb += [self.watch.first.eq(fresh.bit_select(self.score_id, 1)), first_row.eq(1),
                         row.counts.eq(setting.first), row.final.eq(1)]
        else:  # all rows, but for those that fill the last tile
            between = Signal(init=1)
            left = Signal(16, reset_less=True)
            left_now = Signal(16)
            m.d.comb += [
                self.watch.all.eq(self.configs[self.score_id].importance != Mode.NONE),
                left_now.eq(Mux(between, setting.rows, left)), first_row.eq(between),
                row.counts.eq(left_now != 0), row.final.eq(self.last & (left_now <= 1)),
            ]
            with m.If(importance.i.valid & importance.i.ready & self.watched.row_end):
                m.d.sync += [between.eq(row.final),
                             left.eq(Mux(left_now == 0, 0, left_now - 1))]

        # PRUNE
        owed = Signal(range(5))  # ATTEND that have been started and not been added up
        waiting = Signal()
        reading = Signal()
        valid = Signal()
        key = Signal(range(spec.max_keys))
        op = Signal(OPERATION, reset_less=True)
        last = Signal()
        last_read = Signal()
        m.d.sync += owed.eq(owed + self.attend - importance.done)
        with m.If(self.start):
            m.d.sync += [waiting.eq(1), op.eq(self.op), key.eq(0)]
        with m.Elif(waiting & (owed == 0)):
            m.d.sync += [waiting.eq(0), reading.eq(1)]
        m.d.comb += [
            last.eq(key == op.rows - 1),
            importance.read.en.eq(reading & (~valid | topk.i.ready)),
            importance.read.addr.eq(key),
            topk.setting.n.eq(op.rows), topk.setting.rule.eq(op.rule),
            topk.setting.value.eq(op.level),
            topk.setting.protected.eq(Mux(op.protected == 0, 1, op.protected)),
            topk.i.valid.eq(valid), topk.i.payload.scores[0].eq(importance.read.data),
            topk.i.payload.last.eq(last_read),
        ]
        with m.If(importance.read.en):
            m.d.sync += [key.eq(key + 1), last_read.eq(last), valid.eq(1), reading.eq(~last)]
        with m.Elif(topk.i.ready):
            m.d.sync += valid.eq(0)

        m.submodules.kept = kept = Memory(shape=len(self.kept.data), depth=spec.max_keys, init=[])
        write, read = kept.write_port(), kept.read_port()
        place = Signal(range(spec.max_keys))
        chosen = topk.o.payload
        m.d.comb += [
            topk.o.ready.eq(1),
            write.en.eq(topk.o.valid & (chosen.count != 0)), write.addr.eq(place),
            write.data.eq(chosen.indices[0]),
            read.addr.eq(self.kept.addr), self.kept.data.eq(read.data),
            self.done.eq(topk.o.valid & chosen.last), self.tokens.eq(chosen.total),
        ]
        with m.If(write.en):
            m.d.sync += place.eq(place + 1)
        with m.If(self.done):
            m.d.sync += place.eq(0)
        if spec.fuse:
            m.submodules.weights = weights = Memory(shape=importance.spec.WIDTH,
                                                    depth=spec.max_keys, init=[])
            write, read = weights.write_port(), weights.read_port()
            entered = Signal.like(key)
            fuses = Signal()
            with m.If(importance.read.en):
                m.d.sync += entered.eq(key)
            m.d.comb += [
                write.en.eq(valid), write.addr.eq(entered), write.data.eq(importance.read.data),
                read.addr.eq(self.weight.addr), self.weight.data.eq(read.data),
                fuses.eq(op.gather & (chosen.total != op.rows)), self.seen.eq(op.rows),
                self.tokens.eq(chosen.total + fuses),
            ]
            with m.If(self.done):
                m.d.sync += self.fused.eq(fuses)
        return m
