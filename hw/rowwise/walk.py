# SPDX-License-Identifier: Apache-2.0
"""The loops of the array operations: one tile of results after the other."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.operation import Opcode
from golden.rowwise.operation import Place
from golden.rowwise.spec import RowwiseSpec
from hw.rowwise.decode import ceil_shift
from hw.rowwise.layouts import OPERATION, ColumnSource, Kind, exponent_words, log2, pointer, tile
from hw.rowwise.lists import length_read, list_read
from hw.stream import Queue


def job(spec: RowwiseSpec) -> data.StructLayout:
    """One tile of results: which operands, how many steps, and what the collector makes of it.

    Operand addresses count chunks of ``depth`` bytes (values: words of ``columns`` bytes).
    """
    return data.StructLayout({
        "row_address": 16 + log2(spec.word_bytes // spec.depth),
        "unsigned": 1,
        "column_source": ColumnSource,
        "column_address": 16 + log2(spec.word_bytes // spec.depth),
        "column_step": 16,
        "last_step": 16,  # the steps are numbered from 0
        "need": 17,  # WEIGHT: words of the ring, from its oldest, that must have arrived
        "release": 1,  # WEIGHT: the last pass over this weight tile
        "skip": 1,  # WEIGHT: only wait for it and release it
        "row": 17,  # last row read, for an operation that follows another row by row
        "first": 1,  # the first tile of a row tile's scores or outputs
        **({
            "listed": 1,  # only the blocks of its row tile's list, whose rows are complete
            "block": spec.block_width,  # the first one
            "last_block": spec.block_width,  # of the operation
        } if spec.skip_words else {}),
        "tile": tile(spec),
    })


class Walker(wiring.Component):
    """Produce the tiles of one LINEAR or ATTEND after the other, at most one tile a cycle.

    LINEAR: for each group of column tiles, for each row tile, for each column tile of the group.
    So a weight tile stays in the ring for one pass over the rows and is read from memory once, a
    row tile's results follow each other closely enough to be normalised while the next row tiles
    are computed, and the first row tile of the next operation can start when its rows are complete.

    ATTEND: scores of row tile 0, scores of 1, outputs of 0, scores of 2, outputs of 1, ...: the
    softmax of a row tile takes place while the array computes the scores of the next one.

    LINEAR with ``skip``: length and first entry of a row tile's list are read when its rows are
    complete, which takes 3 cycles before its first tile; the feeder reads the other entries. The
    walker is a tile or two ahead of the feeder, which seldom notices.

    Members
    -------
    start, op, id, skip : begin an operation; only while ``busy`` is 0.
    o : ``Out(stream.Signature(job(spec)))``
    looks, held_id, row, reached : with skipping: ask whether row ``row`` is complete in whom the
        operation follows, and the list can be read now. ``waits`` from then until it has been.
    length, entry : ``Out(length_read(spec))``, ``Out(list_read(spec))``
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        super().__init__({
            "start": In(1), "op": In(OPERATION), "id": In(1), "skip": In(1), "busy": Out(1),
            "o": Out(stream.Signature(job(spec))),
            **({"looks": Out(1), "held_id": Out(1), "row": Out(17), "reached": In(1),
                "waits": Out(1), "length": Out(length_read(spec)), "entry": Out(list_read(spec))}
               if spec.skip_words else {}),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        rows_step, word = spec.rows, spec.word_bytes
        chunks = word // spec.depth
        ring_words = spec.words("weight")
        m.submodules.jobs = jobs = Queue(shape=job(spec), depth=2)
        connect(m, jobs.o, flipped(self.o))
        give, given = jobs.i.payload, Signal()
        m.d.comb += given.eq(jobs.i.valid & jobs.i.ready)

        op = Signal(OPERATION, reset_less=True)
        skip = Signal(reset_less=True)
        column = Signal(16, reset_less=True)  # column tile; ATTEND: of the outputs
        base_column = Signal(16, reset_less=True)
        row = Signal(17, reset_less=True)  # first row of the row tile, from 0
        row_address = Signal.like(give.row_address, reset_less=True)
        target = Signal(pointer(spec), reset_less=True)
        next_target = Signal(pointer(spec))
        left = Signal(17, reset_less=True)  # rows from there on
        final_row = Signal(reset_less=True)  # they are the last
        steps = Signal(16)
        next_left = [left.eq(left - rows_step), final_row.eq(left <= 2 * rows_step)]
        # A row tile further in the target buffer, whatever its number of banks
        with m.Switch(op.place):
            for place, banks in ((Place.ACTIVATION, spec.rows), (Place.RESIDUAL, 1), (Place.ADD, 1),
                                 (Place.KEY, spec.columns), (Place.VALUE, spec.depth)):
                with m.Case(place):
                    if rows_step >= banks:
                        m.d.comb += [
                            next_target.lane.eq(target.lane),
                            next_target.address.eq(
                                target.address + (op.target_stride << log2(rows_step // banks))),
                        ]
                    else:
                        lane = Signal(range(2 * banks), name=f"lane_{place.name.lower()}")
                        wrap = lane >= banks
                        m.d.comb += [
                            lane.eq(target.lane + rows_step),
                            next_target.lane.eq(lane & (banks - 1)),
                            next_target.address.eq(
                                target.address + Mux(wrap, op.target_stride, 0)),
                        ]
        first_lane = Signal.like(target.lane)
        with m.Switch(self.op.place):
            for place, banks in ((Place.ACTIVATION, spec.rows), (Place.KEY, spec.columns),
                                 (Place.VALUE, spec.depth)):
                with m.Case(place):
                    m.d.comb += first_lane.eq(self.op.target_row & (banks - 1))

        held_id = Signal()
        held_lane = Signal.like(first_lane, reset_less=True)
        with m.If(self.start):
            m.d.sync += [held_id.eq(self.id), held_lane.eq(first_lane)]

        # The ring: where the current weight tile and its scales lie
        weight_at = Signal(range(ring_words))
        weight_next = Signal(range(ring_words))
        weight_sum = Signal(range(2 * ring_words))
        weight_base = Signal(range(ring_words))
        scale_at = Signal(range(spec.weight_tiles))
        scale_base = Signal(range(spec.weight_tiles))
        need = Signal(17, reset_less=True)
        in_group = Signal(16, reset_less=True)  # tiles of the group behind the current one
        rest = Signal(16, reset_less=True)  # tiles of the operation behind the group
        m.d.comb += [
            weight_sum.eq(weight_at + op.depth),
            weight_next.eq(Mux(weight_sum >= ring_words, weight_sum - ring_words, weight_sum)),
        ]

        # ATTEND: scores run a row tile ahead of the outputs
        ahead_row = Signal(17, reset_less=True)
        ahead_address = Signal.like(row_address, reset_less=True)
        ahead_left = Signal(17)
        primed = Signal(reset_less=True)
        scored = Signal(reset_less=True)
        key_at = Signal.like(give.column_address, reset_less=True)
        keys_left = Signal(range(spec.max_keys + 1), reset_less=True)
        slot = Signal()
        m.d.comb += ahead_left.eq(op.rows - ahead_row)
        read_words = ceil_shift(op.depth, chunks)

        m.d.comb += [
            give.tile.id.eq(held_id),
            give.tile.target.eq(target),
            give.tile.column.eq(column),
            give.tile.scale.eq(scale_at),
            give.tile.rows.eq(Mux(final_row, left, rows_step)),
            give.tile.slot.eq(slot),
            give.tile.limit.eq(Mux(final_row, op.target_row + op.rows,
                                   op.target_row + row + rows_step)),
            give.skip.eq(skip),
            give.row.eq(Mux(final_row, op.source_row + op.rows - 1,
                            op.source_row + row + (rows_step - 1))),
            give.last_step.eq(steps - 1),
        ]

        # LINEAR with skip: what the list of the row tile says
        listed = Signal(reset_less=True)
        blocks = Signal(spec.block_width + 1)
        length = Signal.like(blocks, reset_less=True)
        found = Signal.like(blocks)
        block = Signal(spec.block_width, reset_less=True)
        if spec.skip_words:
            known = self.length.data.length
            aim = Signal.like(give.row, reset_less=True)
            m.d.sync += aim.eq(give.row)
            m.d.comb += [
                blocks.eq(op.depth >> log2(spec.block_steps)),
                found.eq(Mux(known > blocks, blocks, known)),
                give.block.eq(block), give.last_block.eq(blocks - 1),
                self.held_id.eq(held_id), self.row.eq(aim),
                self.length.addr.eq(aim >> log2(spec.rows)),
                self.entry.addr.eq(row_address >> log2(chunks)),
            ]

        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                with m.If(self.start):
                    address = self.op.source_start << log2(chunks)
                    group = Mux(self.op.columns > self.op.group, self.op.group, self.op.columns)
                    m.d.sync += [
                        op.eq(self.op), skip.eq(self.skip), row.eq(0), left.eq(self.op.rows),
                        final_row.eq(self.op.rows <= rows_step),
                        column.eq(0), base_column.eq(0), row_address.eq(address),
                        target.address.eq(self.op.target_start), target.lane.eq(first_lane),
                        need.eq(self.op.depth), in_group.eq(group - 1),
                        rest.eq(self.op.columns - group),
                        ahead_row.eq(0), ahead_address.eq(address), primed.eq(0), scored.eq(0),
                        key_at.eq(self.op.key << log2(chunks)), keys_left.eq(self.op["keys"]),
                    ]
                    with m.If(self.op.opcode == Opcode.LINEAR):
                        m.next = "LINEAR"
                        if spec.skip_words:
                            m.d.sync += listed.eq(self.op.skip & ~self.skip)
                            with m.If(self.op.skip & ~self.skip):
                                m.next = "AIM"
                    with m.Else():
                        m.next = "SCORE"

            if spec.skip_words:
                m.d.comb += self.waits.eq(
                    fsm.ongoing("AIM") | fsm.ongoing("LOOK") | fsm.ongoing("SEE"))
                with m.State("AIM"):
                    m.next = "LOOK"
                with m.State("LOOK"):
                    m.d.comb += [self.looks.eq(1), self.length.en.eq(self.reached),
                                 self.entry.en.eq(self.reached)]
                    with m.If(self.reached):
                        m.next = "SEE"
                with m.State("SEE"):
                    m.d.sync += [length.eq(found), block.eq(self.entry.data)]
                    m.next = "LINEAR"

            with m.State("LINEAR"):
                last_row_tile = Signal()
                m.d.comb += [
                    last_row_tile.eq(final_row | skip),
                    jobs.i.valid.eq(1),
                    give.row_address.eq(row_address),
                    give.unsigned.eq(op.unsigned),
                    give.column_source.eq(ColumnSource.WEIGHT),
                    give.column_address.eq(weight_at),
                    give.column_step.eq(1),
                    steps.eq(op.depth),
                    give.need.eq(Mux(last_row_tile, op.depth, need)),
                    give.release.eq(last_row_tile),
                    give.tile.kind.eq(Kind.LINEAR),
                    give.tile.final.eq((in_group == 0) & (rest == 0)),
                    give.tile.last.eq(give.tile.final & last_row_tile),
                ]
                if spec.skip_words:
                    m.d.comb += give.listed.eq(listed)
                    with m.If(listed):
                        m.d.comb += steps.eq(length << log2(spec.block_steps))
                        with m.If(length == 0):
                            m.d.comb += [steps.eq(1),
                                         give.column_source.eq(ColumnSource.NOTHING)]
                with m.If(given):
                    m.d.sync += [
                        column.eq(column + 1), need.eq(need + op.depth), weight_at.eq(weight_next),
                        scale_at.eq(scale_at + 1), in_group.eq(in_group - 1),
                    ]
                    with m.If(in_group == 0):
                        if spec.skip_words:
                            with m.If(listed):
                                m.next = "AIM"
                        with m.If(~last_row_tile):  # the same weights, the next rows
                            m.d.sync += [
                                column.eq(base_column), weight_at.eq(weight_base),
                                scale_at.eq(scale_base), in_group.eq(column - base_column),
                                row.eq(row + rows_step), *next_left, target.eq(next_target),
                                row_address.eq(row_address + (op.source_stride << log2(chunks))),
                            ]
                        with m.Else():  # the next weights, all rows again
                            m.d.sync += [
                                base_column.eq(column + 1), weight_base.eq(weight_next),
                                scale_base.eq(scale_at + 1), row.eq(0), left.eq(op.rows),
                                final_row.eq(op.rows <= rows_step),
                                row_address.eq(op.source_start << log2(chunks)),
                                target.address.eq(op.target_start), target.lane.eq(held_lane),
                                in_group.eq(Mux(rest > op.group, op.group, rest) - 1),
                                rest.eq(Mux(rest > op.group, rest - op.group, 0)),
                            ]
                            with m.If(rest == 0):
                                m.next = "IDLE"
                        m.d.sync += need.eq(op.depth)

            with m.State("SCORE"):
                final_key = keys_left <= spec.columns
                m.d.comb += [
                    jobs.i.valid.eq(1),
                    give.row_address.eq(ahead_address),
                    give.column_source.eq(ColumnSource.KEY),
                    give.column_address.eq(key_at),
                    give.column_step.eq(1),
                    steps.eq(op.depth),
                    give.first.eq(keys_left == op["keys"]),
                    give.tile.kind.eq(Kind.SCORE),
                    give.tile.rows.eq(spec.rows),
                ]
                with m.If(given):
                    m.d.sync += [key_at.eq(key_at + (read_words << log2(chunks))),
                                 keys_left.eq(keys_left - spec.columns)]
                    with m.If(final_key):
                        m.d.sync += [
                            key_at.eq(op.key << log2(chunks)), keys_left.eq(op["keys"]),
                            ahead_row.eq(ahead_row + rows_step),
                            ahead_address.eq(ahead_address + (op.source_stride << log2(chunks))),
                            primed.eq(1), scored.eq(ahead_left <= rows_step),
                        ]
                        with m.If(primed | (ahead_left <= rows_step)):
                            m.next = "OUTPUT"

            with m.State("OUTPUT"):
                last_column = column == op.columns - 1
                m.d.comb += [
                    jobs.i.valid.eq(1),
                    give.row_address.eq(Mux(slot, exponent_words(spec) * chunks, 0)),
                    give.unsigned.eq(1),
                    give.column_source.eq(ColumnSource.VALUE),
                    give.column_address.eq(op.value + column),
                    give.column_step.eq(op.columns),
                    steps.eq(ceil_shift(op["keys"], spec.depth)),
                    give.first.eq(column == 0),
                    give.tile.kind.eq(Kind.OUTPUT),
                    give.tile.slot_last.eq(last_column),
                    give.tile.final.eq(last_column),
                    give.tile.last.eq(last_column & final_row),
                ]
                with m.If(given):
                    m.d.sync += column.eq(column + 1)
                    with m.If(last_column):
                        m.d.sync += [column.eq(0), row.eq(row + rows_step), *next_left,
                                     target.eq(next_target), slot.eq(~slot)]
                        with m.If(final_row):
                            m.next = "IDLE"
                        with m.Elif(~scored):
                            m.next = "SCORE"
        return m

