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

    While ``taken`` is 1 a STORE reads the activation buffer.

    Operand latency: the array accepts a step the cycle after it was issued.
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
        asking_id = Signal()
        asking_row = Signal.like(job.row)
        reached = Mux(asking_id, *(chains[n].reached(asking_row) for n in (1, 0)))

        # What has arrived, what is free
        resident = Signal(range(ring_words + 1))
        m.d.sync += resident.eq(resident + self.written
                                - Mux(self.release, self.release_words, 0))
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

        # The step: the first of a tile takes its addresses from the job, that of a block from its
        # number too
        step = Signal(16)
        row_at = Signal.like(job.row_address, reset_less=True)
        column_at = Signal.like(job.column_address, reset_less=True)
        row_address = Signal.like(row_at)
        column_address = Signal.like(column_at)
        first = Signal()
        last = Signal()
        waits = Signal(len(STALLS))
        issue = Signal()
        weights = Signal()
        fold = log2(chunks)
        loaded = Mux(job.tile.id, *(chains[n].loaded(row_address >> fold) for n in (1, 0)))
        is_score = Signal()
        is_output = Signal()
        begins = Signal()
        row_begin = Signal.like(row_at)
        column_begin = Signal.like(column_at)
        listed = job.listed if spec.skip_words else 0
        m.d.comb += [
            first.eq(step == 0),
            last.eq(step == job.steps - 1),
            begins.eq(first),
            row_begin.eq(job.row_address),
            column_begin.eq(job.column_address),
            row_address.eq(Mux(begins, row_begin, row_at)),
            column_address.eq(Mux(begins, column_begin, column_at)),
            weights.eq(job.tile.kind == Kind.LINEAR),
            is_score.eq(job.tile.kind == Kind.SCORE),
            is_output.eq(job.tile.kind == Kind.OUTPUT),
            asking_id.eq(job.tile.id), asking_row.eq(job.row),
            self.normed.eq(first & Mux(asking_id, chains[1].normed, chains[0].normed)),
            waits[0].eq(weights & ~job.skip & ~listed & (first & ~reached | ~loaded)),
            waits[1].eq(first & weights & (resident < job.need)),
            waits[2].eq(first & job.first & ((is_score & (score_slots == 0))
                                             | (is_output & (exponent_slots == 0)))),
            waits[3].eq(last & ((spacing != 0) | ~self.tile.ready)),
            issue.eq(walker.o.valid & ~job.skip & (waits == 0) & (is_output | ~self.taken)),
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
                step.eq(Mux(last, 0, step + 1)),
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

        if spec.skip_words:
            looks = reached & Mux(walker.held_id, *(chains[n].loaded() for n in (1, 0)))
            self._list(m, walker, looks, asking_id, asking_row, step, issue, first,
                       last, begins, row_begin, column_begin)

        # Read the operands
        m.d.comb += [
            self.activation.enable.eq(issue & ~is_output),
            self.activation.address.eq(row_address >> fold),
            self.exponent.enable.eq(issue & is_output),
            self.exponent.address.eq(row_address >> fold),
            self.weight.en.eq(issue & (job.column_source == ColumnSource.WEIGHT)),
            self.weight.addr.eq(column_address),
            self.key.enable.eq(issue & (job.column_source == ColumnSource.KEY)),
            self.key.address.eq(column_address >> fold),
            self.value.enable.eq(issue & (job.column_source == ColumnSource.VALUE)),
            self.value.address.eq(column_address),
        ]

        # A cycle later: select and extend them
        source = Signal(ColumnSource, reset_less=True)
        from_exponents = Signal(reset_less=True)
        extend = Signal(reset_less=True)
        row_part = Signal(range(max(chunks, 2)), reset_less=True)
        column_part = Signal(range(max(chunks, 2)), reset_less=True)
        begin = Signal(reset_less=True)
        end = Signal(reset_less=True)
        m.d.sync += [
            self.o.valid.eq(issue), source.eq(job.column_source), from_exponents.eq(is_output),
            extend.eq(~job.unsigned), row_part.eq(row_address), column_part.eq(column_address),
            begin.eq(first), end.eq(last),
        ]
        step_o = self.o.payload
        m.d.comb += [step_o.first.eq(begin), step_o.last.eq(end), step_o.enable.eq(1)]

        def part(word, which):
            return word.word_select(which, 8 * spec.depth) if chunks > 1 else word

        for r in range(spec.rows):
            operand = Signal(8 * spec.depth, name=f"row_{r}")
            m.d.comb += operand.eq(part(Mux(from_exponents, self.exponent.data[r],
                                            self.activation.data[r]), row_part))
            for k in range(spec.depth):
                byte = operand.word_select(k, 8)
                m.d.comb += step_o.a[r][k].eq(Cat(byte, byte[7] & extend).as_signed())
        for c in range(spec.columns):
            operand = Signal(8 * spec.depth, name=f"column_{c}")
            value = Cat(self.value.data[k][8 * c:8 * c + 8] for k in range(spec.depth))
            with m.Switch(source):
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

    def _list(self, m, walker, reached, asking_id, asking_row, step, issue, first, last,
              begins, row_begin, column_begin):
        """Blocks: the walker reads the first one of a row tile, this the others."""
        spec, job, valid = self.spec, walker.o.payload, walker.o.valid
        steps_log2 = log2(spec.block_steps)
        ring_words = spec.words("weight")

        # The walker asks for its rows when the next tile does not, and reads the list when the
        # tile under way needs no more of it
        asks = Signal()
        reads = Signal()
        inner = step[:steps_log2]
        m.d.comb += [
            asks.eq(valid & first & ~job.listed),
            reads.eq(valid & job.listed & ~last),
            walker.reached.eq(walker.looks & ~asks & reached
                              & (~(valid & job.listed) | (issue & last))),
            self.length.en.eq(walker.length.en), self.length.addr.eq(walker.length.addr),
            walker.length.data.eq(self.length.data), walker.entry.data.eq(self.entry.data),
            self.entry.en.eq(Mux(reads, issue & (inner == spec.block_steps - 1), walker.entry.en)),
            self.entry.addr.eq(Mux(
                reads, (job.row_address >> log2(spec.word_bytes // spec.depth))
                + (step >> steps_log2) + 1, walker.entry.addr)),
        ]
        with m.If(~asks):
            m.d.comb += [asking_id.eq(walker.held_id), asking_row.eq(walker.row)]
        with m.If(~valid & walker.waits):
            m.d.comb += self.stall.eq(1 << STALLS.index("rows"))

        entry = Signal.like(job.block)
        block = Signal.like(job.block)
        steps = Signal.like(column_begin)
        column = Signal(range(2 * ring_words))
        m.d.comb += [
            entry.eq(Mux(first, job.block, self.entry.data)),
            block.eq(Mux(entry > job.last_block, job.last_block, entry)),
            steps.eq(block << steps_log2),
            column.eq(job.column_address + steps),
        ]
        with m.If(job.listed):
            m.d.comb += [
                begins.eq(first | (inner == 0)),
                row_begin.eq(job.row_address + steps),
                column_begin.eq(Mux(column >= ring_words, column - ring_words, column)),
            ]
            with m.If(issue & last):
                m.d.comb += self.steps_skipped.eq(
                    ((job.last_block + 1) << steps_log2) - job.steps)
