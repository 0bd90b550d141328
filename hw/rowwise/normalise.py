# SPDX-License-Identifier: Apache-2.0
"""NORM: residual rows through LayerNorm into the activation buffer, beside the array."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect

from golden.rowwise.spec import RowwiseSpec
from hw.arith.layernorm import LayerNorm
from hw.rowwise.collect import write_port
from hw.rowwise.decode import ceil_shift
from hw.rowwise.layouts import CHAIN, OPERATION, PROGRESS, Chain, Engine, log2
from hw.stream import Queue


class Normaliser(wiring.Component):
    """Execute NORM row by row, each row as soon as the operation it follows has completed it.

    One word of ``columns`` elements per cycle each way while the buffers' ports are free; rows
    follow each other in ``max(words, minimum period of LayerNorm)`` cycles. Elements of the last
    word beyond ``width`` count as 0 and leave as 0.

    Members
    -------
    start, op, id, chain : begin an operation; only while ``busy`` is 0.
    residual : read port, granted by ``residual_free``.
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
            "activation": Out(write_port(spec.rows, spec.words("activation"),
                                         spec.word_bytes // spec.columns, 8 * spec.columns)),
            "activation_free": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec, columns = self.spec, self.spec.columns
        parts = log2(spec.word_bytes // columns)
        m.submodules.layernorm = norm = LayerNorm(spec.norm)
        m.d.comb += [norm.load.valid.eq(self.load.valid),
                     norm.load.payload.address.eq(self.load.address)]
        for c in range(columns):
            m.d.comb += [norm.load.payload.gamma[c].eq(self.load.gamma[c].as_signed()),
                         norm.load.payload.beta[c].eq(self.load.beta[c].as_signed())]

        op = Signal(OPERATION, reset_less=True)
        words = Signal(range(spec.norm.max_words + 1), reset_less=True)
        tail = Signal(columns, reset_less=True)  # lanes of the last word that count
        with m.If(self.start):
            m.d.sync += [
                op.eq(self.op), words.eq(ceil_shift(self.op.width, columns)),
                tail.eq(((1 << columns) - 1) >> ~(self.op.width - 1)[:log2(columns)]),
            ]
        m.d.comb += [norm.width.eq(op.width), norm.shift.eq(op.shift)]

        # Read rows
        own = {Engine.ARRAY: self.array, Engine.NORM: self.progress, Engine.MOVE: self.move}
        chain = Chain(m, own, "norm")
        reading = Signal()
        row = Signal(16, reset_less=True)
        word = Signal.like(words, reset_less=True)
        base = Signal(16, reset_less=True)
        read_word = data.StructLayout({"x": norm.i.payload.x.shape(), "last": 1})
        m.submodules.words = rows = Queue(shape=read_word, depth=4)
        last_word = Signal()
        issue = Signal()
        arriving = Signal()
        arriving_last = Signal(reset_less=True)
        reached = chain.reached(op.source_row + row, base + word)
        m.d.comb += [
            last_word.eq(word == words - 1),
            self.residual.en.eq(reading & reached & (rows.level + arriving < 3)),
            self.residual.addr.eq(base + word),
            issue.eq(self.residual.en & self.residual_free),
        ]
        m.d.sync += [arriving.eq(issue), arriving_last.eq(last_word)]
        with m.If(self.start):
            m.d.sync += [chain.start(self.chain), reading.eq(1), row.eq(0), word.eq(0),
                         base.eq(self.op.source_start)]
        with m.Elif(issue):
            m.d.sync += word.eq(word + 1)
            with m.If(last_word):
                m.d.sync += [word.eq(0), row.eq(row + 1), base.eq(base + op.source_stride)]
                with m.If(row == op.rows - 1):
                    m.d.sync += reading.eq(0)
        m.d.comb += [rows.i.valid.eq(arriving), rows.i.payload.last.eq(arriving_last)]
        for c in range(columns):
            x = self.residual.data[16 * c:16 * c + 16]
            m.d.comb += rows.i.payload.x[c].eq(
                Mux(arriving_last & ~tail[c], 0, x).as_signed())
        connect(m, rows.o, norm.i)

        # Write rows
        writing = Signal()
        left = Signal(17, reset_less=True)
        write_word = Signal.like(words, reset_less=True)
        address = Signal(16, reset_less=True)
        lane = Signal(range(max(spec.rows, 2)), reset_less=True)
        complete = Signal(17)
        put = Signal()
        m.d.comb += [
            self.busy.eq(writing),
            self.activation.enable.eq(norm.o.valid),
            self.activation.bank.eq(lane),
            self.activation.address.eq(address + (write_word >> parts)),
            self.activation.segment.eq(write_word),
            norm.o.ready.eq(self.activation_free),
            put.eq(norm.o.valid & norm.o.ready),
            self.activation.data.eq(Cat(
                Mux(norm.o.payload.last & ~tail[c], 0, norm.o.payload.y[c]).as_unsigned()[:8]
                for c in range(columns))),
            self.progress.limit.eq(complete),
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
            with m.If(norm.o.payload.last):
                m.d.sync += [write_word.eq(0), left.eq(left - 1), complete.eq(complete + 1)]
                with m.If(lane == spec.rows - 1):
                    m.d.sync += [lane.eq(0), address.eq(address + op.target_stride)]
                with m.Else():
                    m.d.sync += lane.eq(lane + 1)
                with m.If(left == 1):
                    m.d.sync += [writing.eq(0), self.progress.done.eq(1)]
        return m
