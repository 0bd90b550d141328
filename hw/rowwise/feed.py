# SPDX-License-Identifier: Apache-2.0
"""One step of the array per cycle: operand addresses, operands, and every reason to wait."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.rowwise.spec import RowwiseSpec
from hw.array.array import step_layout
from hw.rowwise.layouts import (
    CHAIN,
    OPERATION,
    PROGRESS,
    Chain,
    ColumnSource,
    Engine,
    Kind,
    exponent_words,
    log2,
    tile,
)
from hw.rowwise.lists import length_read, list_read
from hw.rowwise.walk import Walker

STALLS = ("rows", "weights", "softmax", "collect")
"""Why a tile that is next cannot start or finish: rows of the operation it follows (or the list of
its blocks, which is read when they are complete), weights from memory, the softmax of its row tile,
the collector still busy with the tile before."""


def block(banks: int, width: int):
    """Return the signature of a banked buffer's read port."""
    return lambda words: wiring.Signature({
        "enable": Out(1), "address": Out(range(words)), "data": In(data.ArrayLayout(width, banks))})


class Feeder(wiring.Component):
    """Step through the tiles of a :class:`~hw.rowwise.walk.Walker` and feed the MAC array.

    A tile of ``n`` steps takes ``n`` cycles; there is no cycle between tiles, nor between
    operations. Once a step is issued nothing stops it on its way through array and collector:
    every reason to wait is tested here. Tiles finish at least ``rows`` cycles apart, because the
    collector takes a row per cycle.

    Of a row tile with a list of blocks only their steps are issued; the next entry of the list is
    read with the last step of the block before. An empty list leaves one step, of zeros.

    Where values meet the array their block of ``depth`` tokens x ``columns`` is transposed by
    wiring: lane ``k`` of column ``c`` is byte ``c`` of bank ``k``. So neither keys nor values are
    ever moved to be transposed.

    A STORE reads the activation buffer in the cycle after ``taken`` is 1.

    Operand latency: the array accepts a step 2 cycles after it was issued. In the first of them the
    operands are read.
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        words = spec.words
        super().__init__({
            "start": In(1), "op": In(OPERATION), "id": In(1), "skip": In(1), "chain": In(CHAIN),
            "busy": Out(1),
            "norm": In(PROGRESS), "array": In(PROGRESS), "move": In(PROGRESS),
            "activation": Out(block(spec.rows, 8 * spec.word_bytes)(words("activation"))),
            "exponent": Out(block(spec.rows, 8 * spec.word_bytes)(2 * exponent_words(spec))),
            "key": Out(block(spec.columns, 8 * spec.word_bytes)(words("key"))),
            "value": Out(block(spec.depth, 8 * spec.columns)(words("value"))),
            "weight": Out(wiring.Signature({
                "en": Out(1), "addr": Out(range(words("weight"))),
                "data": In(8 * spec.columns * spec.depth)})),
            "taken": In(1), "written": In(1),
            "release": Out(1), "release_words": Out(16),
            "scored": In(1), "slot_ready": In(1),
            "o": Out(stream.Signature(step_layout(spec.mac))),
            "tile": Out(stream.Signature(tile(spec))),
            "skipped": Out(1), "skipped_id": Out(1), "collecting": In(1),
            "issued": Out(1), "stall": Out(len(STALLS)), "normed": Out(1),
            **({"length": Out(length_read(spec)), "entry": Out(list_read(spec)),
                "steps_skipped": Out(16)} if spec.skip_words else {}),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        chunks = spec.word_bytes // spec.depth
        ring_words = spec.words("weight")
        m.submodules.walker = walker = Walker(spec)
        m.d.comb += [walker.start.eq(self.start), walker.op.eq(self.op), walker.id.eq(self.id),
                     walker.skip.eq(self.skip), self.busy.eq(walker.busy)]
        job, ready = walker.o.payload, walker.o.ready

        # Whom the two operations that may be under way follow
        progress = {Engine.NORM: self.norm, Engine.ARRAY: self.array, Engine.MOVE: self.move}
        chains = [Chain(m, progress, f"{n}") for n in range(2)]
        for n, chain in enumerate(chains):
            with m.If(self.start & (self.id == n)):
                m.d.sync += chain.start(self.chain)
        # What has arrived, what is free
        resident = Signal(range(ring_words + 1))
        with m.If(self.release):
            m.d.sync += resident.eq(resident - self.release_words + self.written)
        with m.Else():
            m.d.sync += resident.eq(resident + self.written)
        score_slots = Signal(range(3), init=2)
        exponent_slots = Signal(range(3))
        take_score = Signal()
        take_exponents = Signal()
        m.d.sync += [
            score_slots.eq(score_slots + self.scored - take_score),
            exponent_slots.eq(exponent_slots + self.slot_ready - take_exponents),
        ]
        spacing = Signal(range(max(spec.rows, 2)))
        with m.If(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)

        # The step: the first of a tile takes its addresses from the job, and so do those of a list
        step = Signal(16)
        row_at = Signal.like(job.row_address, reset_less=True)
        column_at = Signal.like(job.column_address, reset_less=True)
        row_address = Signal.like(row_at)
        column_address = Signal.like(column_at)
        first = Signal(init=1)
        last = Signal()
        waits = Signal(len(STALLS))
        issue = Signal()
        goes = Signal()  # it issues, if it need not wait for rows: no job of a list does
        weights = Signal()
        fold = log2(chunks)
        is_score = Signal()
        is_output = Signal()
        listed = job.listed if spec.skip_words else 0
        # side by side: which of the chains, and of the words, is known late
        mine = Signal(2)

        def behind(what):
            """Whether the operation followed has not got as far."""
            return (mine & Cat(chain.limit <= what for chain in chains)).any()

        rows, words = (Mux(job.tile.id, *(getattr(chains[n], name) for n in (1, 0)))
                       for name in ("rows", "words"))
        no_rows = Signal()
        no_word = Signal()
        m.d.comb += [
            mine.eq(1 << job.tile.id),
            no_rows.eq(first & rows & behind(job.row)),
            no_word.eq(words & Mux(first, behind(job.row_address >> fold), behind(row_at >> fold))),
            last.eq(step == job.last_step),
            row_address.eq(Mux(first | listed, job.row_address, row_at)),
            column_address.eq(Mux(first | listed, job.column_address, column_at)),
            weights.eq(job.tile.kind == Kind.LINEAR),
            is_score.eq(job.tile.kind == Kind.SCORE),
            is_output.eq(job.tile.kind == Kind.OUTPUT),
            self.normed.eq(first & Mux(job.tile.id, chains[1].normed, chains[0].normed)),
            waits[0].eq(weights & ~job.skip & ~listed & (no_rows | no_word)),
            waits[1].eq(first & weights & (resident < job.need)),
            waits[2].eq(first & job.first & ((is_score & (score_slots == 0))
                                             | (is_output & (exponent_slots == 0)))),
            waits[3].eq(last & ((spacing != 0) | ~self.tile.ready)),
            goes.eq(walker.o.valid & ~job.skip & (waits[1:] == 0) & (is_output | ~self.taken)),
            issue.eq(goes & ~waits[0]),
            self.issued.eq(issue),
            take_score.eq(issue & first & job.first & is_score),
            take_exponents.eq(issue & first & job.first & is_output),
            self.tile.valid.eq(issue & last),
            self.tile.payload.eq(job.tile),
        ]
        with m.If(walker.o.valid & ~job.skip):
            m.d.comb += self.stall.eq(waits & -waits)
        with m.If(issue):
            m.d.sync += [
                first.eq(last), step.eq(Mux(last, 0, step + 1)),
                row_at.eq(row_address + 1),
                column_at.eq(column_address + job.column_step),
            ]
            with m.If((job.column_source == ColumnSource.WEIGHT)
                      & (column_address == ring_words - 1)):
                m.d.sync += column_at.eq(0)
            with m.If(last):
                m.d.sync += spacing.eq(spec.rows - 1)
        # A tile to be skipped is only released; its operation ends when the ones before it have
        drop = Signal()
        m.d.comb += [
            drop.eq(walker.o.valid & job.skip & ~waits[1]
                    & ~(job.tile.last & self.collecting)),
            ready.eq((issue & last) | drop),
            self.release.eq(ready & weights & job.release),
            self.release_words.eq(job.need),
            self.skipped.eq(drop & job.tile.last),
            self.skipped_id.eq(job.tile.id),
        ]

        # A cycle later: read the operands
        reads = Signal()
        source = Signal(ColumnSource, reset_less=True)
        from_exponents = Signal(reset_less=True)
        row_base = Signal.like(row_at)
        column_base = Signal.like(column_at)
        row = Signal.like(row_at)
        column = Signal.like(column_at)
        begin = Signal(reset_less=True)
        end = Signal(reset_less=True)
        extend = Signal(reset_less=True)
        m.d.sync += [
            reads.eq(issue), source.eq(job.column_source), from_exponents.eq(is_output),
            row_base.eq(row_address), column_base.eq(column_address),
            begin.eq(first), end.eq(last), extend.eq(~job.unsigned),
        ]
        m.d.comb += [row.eq(row_base), column.eq(column_base)]
        if spec.skip_words:
            self._list(m, walker, chains, step, goes, last, row_base, column_base, row, column)
        m.d.comb += [
            self.activation.enable.eq(reads & ~from_exponents),
            self.activation.address.eq(row >> fold),
            self.exponent.enable.eq(reads & from_exponents),
            self.exponent.address.eq(row >> fold),
            self.weight.en.eq(reads & (source == ColumnSource.WEIGHT)),
            self.weight.addr.eq(column),
            self.key.enable.eq(reads & (source == ColumnSource.KEY)),
            self.key.address.eq(column >> fold),
            self.value.enable.eq(reads & (source == ColumnSource.VALUE)),
            self.value.address.eq(column),
        ]

        # Another cycle later: select and extend them
        chosen = Signal.like(source, reset_less=True)
        exponents = Signal(reset_less=True)
        extends = Signal(reset_less=True)
        row_part = Signal(range(max(chunks, 2)), reset_less=True)
        column_part = Signal(range(max(chunks, 2)), reset_less=True)
        begins = Signal(reset_less=True)
        ends = Signal(reset_less=True)
        step_o = self.o.payload
        m.d.sync += [
            self.o.valid.eq(reads), chosen.eq(source), exponents.eq(from_exponents),
            extends.eq(extend), row_part.eq(row), column_part.eq(column),
            begins.eq(begin), ends.eq(end),
        ]
        m.d.comb += [step_o.first.eq(begins), step_o.last.eq(ends), step_o.enable.eq(1)]

        def part(word, which):
            return word.word_select(which, 8 * spec.depth) if chunks > 1 else word

        for r in range(spec.rows):
            operand = Signal(8 * spec.depth, name=f"row_{r}")
            m.d.comb += operand.eq(part(Mux(exponents, self.exponent.data[r],
                                            self.activation.data[r]), row_part))
            for k in range(spec.depth):
                byte = operand.word_select(k, 8)
                m.d.comb += step_o.a[r][k].eq(Cat(byte, byte[7] & extends).as_signed())
        for c in range(spec.columns):
            operand = Signal(8 * spec.depth, name=f"column_{c}")
            value = Cat(self.value.data[k][8 * c:8 * c + 8] for k in range(spec.depth))
            with m.Switch(chosen):
                with m.Case(ColumnSource.WEIGHT):
                    m.d.comb += operand.eq(
                        self.weight.data.word_select(c, 8 * spec.depth))
                with m.Case(ColumnSource.KEY):
                    m.d.comb += operand.eq(part(self.key.data[c], column_part))
                with m.Case(ColumnSource.VALUE) if spec.skip_words else m.Default():
                    m.d.comb += operand.eq(value)
            for k in range(spec.depth):
                m.d.comb += step_o.b[c][k].eq(operand.word_select(k, 8).as_signed())
        return m

    def _list(self, m, walker, chains, step, goes, last, row_base, column_base, row, column):
        """Blocks: the walker reads the first one of a row tile, this the others."""
        spec, job, valid = self.spec, walker.o.payload, walker.o.valid
        steps_log2 = log2(spec.block_steps)
        ring_words = spec.words("weight")

        # The walker reads the list when its rows are there and the tile under way needs no more
        reads = Signal()
        limit, rows, words = (Mux(walker.held_id, *(getattr(chains[n], name) for n in (1, 0)))
                              for name in ("limit", "rows", "words"))
        inner = step[:steps_log2]
        m.d.comb += [
            reads.eq(valid & job.listed & ~last),
            walker.reached.eq(walker.looks & ~words & (~rows | (limit > walker.row))
                              & (~(valid & job.listed) | (goes & last))),
            self.length.en.eq(walker.length.en), self.length.addr.eq(walker.length.addr),
            walker.length.data.eq(self.length.data), walker.entry.data.eq(self.entry.data),
            self.entry.en.eq(Mux(reads, goes & (inner == spec.block_steps - 1), walker.entry.en)),
            self.entry.addr.eq(Mux(
                reads, (job.row_address >> log2(spec.word_bytes // spec.depth))
                + (step >> steps_log2) + 1, walker.entry.addr)),
        ]
        with m.If(~valid & walker.waits):
            m.d.comb += self.stall.eq(1 << STALLS.index("rows"))

        entry = Signal.like(job.block)
        steps = Signal(len(job.block) + steps_log2, reset_less=True)  # ahead of the list's
        ahead = Signal(range(2 * ring_words))
        listed = Signal(reset_less=True)
        m.d.comb += entry.eq(Mux(step[steps_log2:] == 0, job.block, self.entry.data))
        m.d.sync += [
            listed.eq(job.listed),
            steps.eq(Mux(job.listed, Cat(inner, Mux(entry > job.last_block, job.last_block, entry)),
                         0)),
        ]
        m.d.comb += [row.eq(row_base + steps), ahead.eq(column_base + steps)]
        with m.If(listed & (ahead >= ring_words)):
            m.d.comb += column.eq(ahead - ring_words)
        with m.Else():
            m.d.comb += column.eq(column_base + steps)
        skips = Signal()
        skipped = Signal.like(self.steps_skipped, reset_less=True)
        m.d.sync += [skips.eq(job.listed & goes & last),
                     skipped.eq(((job.last_block + 1) << steps_log2) - job.last_step - 1)]
        m.d.comb += self.steps_skipped.eq(Mux(skips, skipped, 0))
