# SPDX-License-Identifier: Apache-2.0
"""NORM: residual rows through LayerNorm into the activation buffer, beside the array."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect

from golden.rowwise.spec import RowwiseSpec
from hw.arith.layernorm import LayerNorm
from hw.attention.fuse import Fuser
from hw.rowwise.collect import write_port
from hw.rowwise.layouts import CHAIN, OPERATION, PROGRESS, Chain, Engine, log2
from hw.stream import Queue, Slice


class Normaliser(wiring.Component):
    """Execute NORM row by row, each row as soon as the operation it follows has completed it.

    One word of ``columns`` elements per cycle each way while the buffers' ports are free; rows
    follow each other in ``max(words, minimum period of LayerNorm)`` cycles. Elements of the last
    word beyond ``width`` count as 0 and leave as 0.

    With ``gather`` the rows are those of the tokens kept, a cycle later for each one left out (rows
    of fewer than 3 words are then read in 3 cycles, LayerNorm takes them no faster), and
    words that are not where they belong go there on their way to LayerNorm. None is lost: a token's
    number is never below its place, and rows are read in their order.

    After a FUSE all tokens are read: words of those that leave go to the :class:`Fuser`, and what
    it makes of them is the last row, ``FuseSpec.cycles`` later.

    Members
    -------
    start, op, id, chain, most, pruned, tokens : begin an operation; only while ``busy`` is 0.
    residual : read port, granted by ``residual_free``.
    kept : read port of the tokens kept.
    fused, seen : the last PRUNE was a FUSE after which tokens left; how many it chose from.
    weight : read port of the importance of those.
    moved : write port of the residual buffer, granted by ``moved_free``; only while ``moving``.
    activation : write port, granted by ``activation_free``.
    load : parameters, see :class:`~hw.arith.layernorm.LayerNorm`.
    progress : how far it has come.
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        lane = data.ArrayLayout(16, spec.columns)
        super().__init__({
            "start": In(1), "op": In(OPERATION), "id": In(1), "chain": In(CHAIN), "busy": Out(1),
            "array": In(PROGRESS), "move": In(PROGRESS), "progress": Out(PROGRESS),
            "load": In(wiring.Signature({
                "valid": Out(1), "address": Out(range(spec.norm.max_words)), "gamma": Out(lane),
                "beta": Out(lane)})),
            "residual": Out(wiring.Signature({
                "en": Out(1), "addr": Out(range(spec.words("residual"))),
                "data": In(16 * spec.columns)})),
            "residual_free": In(1),
            "most": In(16), "pruned": In(1),
            "kept": Out(wiring.Signature({
                "addr": Out(range(spec.max_keys)), "data": In(range(spec.max_keys))})),
            **({
                "tokens": In(range(spec.max_keys + 1)),
                "fused": In(1), "seen": In(range(spec.max_keys + 1)),
                "weight": Out(wiring.Signature({
                    "addr": Out(range(spec.max_keys)), "data": In(spec.importance.WIDTH)})),
            } if spec.fuse else {}),
            "moved": Out(wiring.Signature({
                "en": Out(1), "addr": Out(range(spec.words("residual"))),
                "data": Out(16 * spec.columns)})),
            "moved_free": In(1), "moving": Out(1),
            "activation": Out(write_port(spec.rows, spec.words("activation"),
                                         spec.word_bytes // spec.columns, 8 * spec.columns)),
            "activation_free": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec, columns = self.spec, self.spec.columns
        parts = log2(spec.word_bytes // columns)
        m.submodules.layernorm = norm = LayerNorm(spec.norm, multiplier=spec.multiplier)
        m.d.comb += [norm.load.valid.eq(self.load.valid),
                     norm.load.payload.address.eq(self.load.address)]
        for c in range(columns):
            m.d.comb += [norm.load.payload.gamma[c].eq(self.load.gamma[c].as_signed()),
                         norm.load.payload.beta[c].eq(self.load.beta[c].as_signed())]

        op = Signal(OPERATION, reset_less=True)
        final_word = Signal(range(spec.norm.max_words), reset_less=True)  # of a row
        tail = Signal(columns, reset_less=True)  # lanes of the last word that count
        with m.If(self.start):
            m.d.sync += [
                op.eq(self.op), final_word.eq((self.op.width - 1) >> log2(columns)),
                tail.eq(((1 << columns) - 1) >> ~(self.op.width - 1)[:log2(columns)]),
            ]
        m.d.comb += [norm.width.eq(op.width), norm.shift.eq(op.shift)]

        # Read rows
        own = {Engine.ARRAY: self.array, Engine.NORM: self.progress, Engine.MOVE: self.move}
        chain = Chain(m, own, "norm")
        reading = Signal()
        row = Signal(16, reset_less=True)
        word = Signal.like(final_word, reset_less=True)
        base = Signal(16, reset_less=True)
        read_at = Signal(16, reset_less=True)  # address of the word
        source_row = Signal(17, reset_less=True)
        read_word = data.StructLayout({"x": 16 * columns, "last": 1,
                                       **({"left": 1, "final": 1} if spec.fuse else {})})
        m.submodules.words = rows = Queue(shape=read_word, depth=4)
        under_way = Signal(range(5))  # words that have been read and not been taken
        last_word = Signal()
        issue = Signal()
        arriving = Signal()
        arriving_last = Signal(reset_less=True)
        at = Signal(range(spec.max_keys), reset_less=True)  # gathers: the row `base` points to
        at_most = Signal(reset_less=True)
        gathers = Signal(reset_less=True)
        most = Signal(range(spec.max_keys), reset_less=True)  # the last row that may be gathered
        token = Signal.like(self.kept.data, reset_less=True)  # of the row
        gap = Signal.like(token, reset_less=True)  # tokens to pass by before it
        next_gap = Signal.like(token, reset_less=True)
        next_here = Signal(reset_less=True)  # which is 0
        known = Signal(2)  # its second bit: these two are those of the next row
        fresh = Signal()  # the first token comes from memory
        there = Signal()
        row_there = Signal()  # as far as it was known a cycle ago
        word_there = Signal()
        reached = ~(chain.rows & ~row_there | chain.words & ~word_there)
        here = Signal(reset_less=True)  # gathers: `base` points to the token of the row
        stays = ~gathers | here | at_most
        wanted, next_row, last_row, passes_by = there, row + 1, row == op.rows - 1, 1
        if spec.fuse:  # tokens that leave are read too, and the last row is theirs
            fuses = Signal(reset_less=True)
            final = Signal.like(most)
            arriving_left = Signal(reset_less=True)
            arriving_final = Signal(reset_less=True)
            over = Signal()
            stays = stays & ~(fuses & last_row)
            wanted, next_row, passes_by = there | fuses, row + there, ~fuses
            m.d.comb += over.eq((at == final) & (next_row == op.rows - 1))
            last_row = Mux(fuses, over, last_row)
            m.d.sync += [arriving_left.eq(~there), arriving_final.eq(fuses & over & last_word)]
            m.d.comb += [rows.i.payload.left.eq(arriving_left),
                         rows.i.payload.final.eq(arriving_final)]
            with m.If(self.start):
                m.d.sync += [
                    fuses.eq(self.op.gather & self.pruned & self.fused
                             & (self.op.rows == self.tokens)),
                    final.eq(Mux(self.seen < self.most, self.seen, self.most) - 1)]
        m.d.comb += [
            last_word.eq(word == final_word),
            there.eq(stays),
            self.residual.en.eq(reading & wanted & reached & (under_way < 3)
                                & (~gathers | ~fresh & (~last_word | known[1]))),
            self.residual.addr.eq(read_at),
            issue.eq(self.residual.en & self.residual_free),
            self.kept.addr.eq(Mux(self.start, 0, row + 1)),
        ]
        m.d.sync += [under_way.eq(under_way + issue - (rows.o.valid & rows.o.ready)),
                     arriving.eq(issue), arriving_last.eq(last_word)]
        step = Signal()  # to the next row
        with m.If(self.start):
            m.d.sync += [
                chain.start(self.chain), reading.eq(1), row.eq(0), word.eq(0), at.eq(0),
                base.eq(self.op.source_start), read_at.eq(self.op.source_start),
                source_row.eq(self.op.source_row), gathers.eq(self.op.gather & self.pruned),
                most.eq(self.most - 1), at_most.eq(self.most == 1),
            ]
        with m.Elif(issue):
            m.d.sync += [word.eq(word + 1), read_at.eq(read_at + 1)]
            with m.If(last_word):
                m.d.comb += step.eq(~gathers | ~at_most)
                m.d.sync += [word.eq(0), row.eq(next_row), read_at.eq(base)]
                with m.If(last_row):
                    m.d.sync += reading.eq(0)
        with m.Elif(reading & ~there & ~fresh):
            m.d.comb += step.eq(passes_by)

        # How many tokens lie between that of a row and the next one's is known two cycles after the
        # row began, and none of it depends on what is read in between
        with m.If(self.start | issue & last_word & there):
            m.d.sync += known.eq(0)
        with m.Else():
            m.d.sync += known.eq(Cat(1, known))
        following = Signal.like(self.kept.data, reset_less=True)
        m.d.sync += [fresh.eq(self.start), following.eq(self.kept.data),
                     next_gap.eq(self.kept.data - token - 1),
                     next_here.eq(self.kept.data == token + 1)]
        with m.If(fresh):
            m.d.sync += [token.eq(self.kept.data), gap.eq(self.kept.data),
                         here.eq(self.kept.data == 0)]
        with m.Elif(issue & last_word & there):
            m.d.sync += [token.eq(following), gap.eq(next_gap), here.eq(next_here)]
        with m.Elif(step):
            m.d.sync += [gap.eq(gap - 1), here.eq(gap == 1)]
        m.d.sync += [
            row_there.eq(~self.start & Mux(step, chain.limit > source_row + 1,
                                           chain.limit > source_row)),
            word_there.eq(~self.start & ~step & ~(issue & last_word)
                          & ((chain.limit > read_at + 1) | ~issue & (chain.limit > read_at))),
        ]
        with m.If(step):
            next_base = (base + op.source_stride)[:16]
            m.d.sync += [at.eq(at + 1), at_most.eq(at + 1 == most), source_row.eq(source_row + 1),
                         base.eq(next_base), read_at.eq(next_base)]
        m.d.comb += [rows.i.valid.eq(arriving), rows.i.payload.last.eq(arriving_last),
                     rows.i.payload.x.eq(self.residual.data)]

        # Words that move go to their places when LayerNorm takes them
        place = Signal(16, reset_less=True)
        moved_word = Signal.like(final_word, reset_less=True)
        moves = Signal(reset_less=True)
        source = self._fuse(m, rows.o, op) if spec.fuse else rows.o
        given = source.payload
        passes = ~moves | self.moved_free
        m.d.comb += [
            norm.i.valid.eq(source.valid & passes), source.ready.eq(norm.i.ready & passes),
            norm.i.payload.last.eq(given.last),
            self.moving.eq(source.valid & moves),
            self.moved.en.eq(self.moving & norm.i.ready),
            self.moved.addr.eq(place + moved_word), self.moved.data.eq(given.x),
        ]
        with m.If(self.start):
            m.d.sync += [place.eq(self.op.source_start), moved_word.eq(0), moves.eq(0)]
        with m.Else():
            with m.If(source.valid & source.ready):
                m.d.sync += moved_word.eq(moved_word + 1)
                with m.If(given.last):
                    m.d.sync += [moved_word.eq(0), place.eq(place + op.source_stride)]
            with m.If(reading & ~there & ~fresh):
                m.d.sync += moves.eq(1)
        for c in range(columns):
            m.d.comb += norm.i.payload.x[c].eq(
                Mux(given.last & ~tail[c], 0, given.x[16 * c:16 * c + 16]).as_signed())

        # Write rows
        m.submodules.results = results = Slice(norm.o.payload.shape())
        connect(m, norm.o, results.i)
        normalised = results.o
        result = normalised.payload
        writing = Signal()
        left = Signal(17, reset_less=True)
        write_word = Signal.like(final_word, reset_less=True)
        address = Signal(16, reset_less=True)
        lane = Signal(range(max(spec.rows, 2)), reset_less=True)
        complete = Signal(17)
        put = Signal()
        m.d.comb += [
            self.busy.eq(writing),
            self.activation.enable.eq(normalised.valid),
            self.activation.bank.eq(lane),
            self.activation.address.eq(address + (write_word >> parts)),
            self.activation.segment.eq(write_word),
            normalised.ready.eq(self.activation_free),
            put.eq(normalised.valid & normalised.ready),
            self.activation.data.eq(Cat(
                Mux(result.last & ~tail[c], 0, result.y[c]).as_unsigned()[:8]
                for c in range(columns))),
            self.progress.limit.eq(Mux(put & result.last, complete + 1, complete)),
            self.progress.done_id.eq(self.progress.id),
        ]
        m.d.sync += self.progress.done.eq(0)
        with m.If(self.start):
            m.d.sync += [
                writing.eq(1), left.eq(self.op.rows), write_word.eq(0),
                self.progress.id.eq(self.id),
                address.eq(self.op.target_start), lane.eq(self.op.target_row & (spec.rows - 1)),
                complete.eq(self.op.target_row),
            ]
        with m.Elif(put):
            m.d.sync += write_word.eq(write_word + 1)
            with m.If(result.last):
                m.d.sync += [write_word.eq(0), left.eq(left - 1), complete.eq(complete + 1)]
                with m.If(lane == spec.rows - 1):
                    m.d.sync += [lane.eq(0), address.eq(address + op.target_stride)]
                with m.Else():
                    m.d.sync += lane.eq(lane + 1)
                with m.If(left == 1):
                    m.d.sync += [writing.eq(0), self.progress.done.eq(1)]
        return m

    def _fuse(self, m, rows, op):
        """Give words that leave to the fuser; return the stream of the others, and of the sum."""
        spec, columns = self.spec, self.spec.columns
        m.submodules.fuser = fuser = Fuser(spec.fuser, multiplier=spec.multiplier)
        o = stream.Signature(data.StructLayout({"x": 16 * columns, "last": 1})).create(
            path=("words",))
        given, taken = rows.payload, rows.valid & rows.ready
        token = Signal(range(spec.max_keys), reset_less=True)
        ends = Signal()  # with the last word of the last token
        m.d.comb += [
            fuser.start.eq(self.start), fuser.mul.eq(op.level), fuser.shift.eq(op.score_shift),
            fuser.i.valid.eq(rows.valid & given.left), fuser.i.payload.x.as_value().eq(given.x),
            fuser.i.payload.last.eq(given.last), fuser.i.payload.weight.eq(self.weight.data),
            ends.eq(taken & given.final), fuser.finish.eq(ends),
            self.weight.addr.eq(Mux(self.start, 0, token + (taken & given.last))),
        ]
        m.d.sync += token.eq(self.weight.addr)
        m.d.comb += [
            o.valid.eq(rows.valid & ~given.left), o.payload.x.eq(given.x),
            o.payload.last.eq(given.last),
            rows.ready.eq(Mux(given.left, fuser.i.ready, o.ready)),
        ]
        sums = Signal()  # all tokens have been read
        with m.If(self.start):
            m.d.sync += sums.eq(0)
        with m.Elif(ends):
            m.d.sync += sums.eq(1)
        with m.If(sums):
            m.d.comb += [o.valid.eq(fuser.o.valid), o.payload.x.eq(fuser.o.payload.x),
                         o.payload.last.eq(fuser.o.payload.last), fuser.o.ready.eq(o.ready)]
        return o
