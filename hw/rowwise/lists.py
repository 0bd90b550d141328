# SPDX-License-Identifier: Apache-2.0
"""Which blocks of hidden units are not 0: lists beside the activation buffer."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.rowwise.spec import RowwiseSpec
from hw.rowwise.layouts import length_layout, log2


def list_write(spec: RowwiseSpec) -> wiring.Signature:
    """Return a write of one entry of a list."""
    return wiring.Signature({"en": Out(1), "addr": Out(range(spec.words("activation"))),
                             "data": Out(spec.block_width)})


def list_read(spec: RowwiseSpec) -> wiring.Signature:
    """Return a read of one entry of a list."""
    return wiring.Signature({"en": Out(1), "addr": Out(range(spec.words("activation"))),
                             "data": In(spec.block_width)})


def length_write(spec: RowwiseSpec) -> wiring.Signature:
    """Return a write of the length of one row group's list."""
    return wiring.Signature({"en": Out(1), "addr": Out(range(max(2, spec.groups))),
                             "data": Out(length_layout(spec))})


def length_read(spec: RowwiseSpec) -> wiring.Signature:
    """Return a read of the length of one row group's list."""
    return wiring.Signature({"en": Out(1), "addr": Out(range(max(2, spec.groups))),
                             "data": In(length_layout(spec))})


class Lister(wiring.Component):
    """List the blocks in which a stored number is above the operation's level.

    It sees the rows as they are stored. A LINEAR comes to a row tile once for each group of its
    column tiles, so the lists of all its row tiles grow together: the length of each, and what is
    known of a block that is not complete, wait in a memory. Which column tile a row belongs to
    follows from the order of the rows: it need not come through the collector's pipeline.

    Latency: an entry and a length are written 1 cycle after the last row of their tile is stored.

    Members
    -------
    store, end, last : a row is stored; it was the last cycle of a tile, and of an operation.
    detect, level : of its operation.
    address, limit, values : where the row is stored, the row limit of its tile, its numbers.
    entry : ``Out(list_write(spec))``
    length, put : ``Out(length_read(spec))``, ``Out(length_write(spec))``
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        super().__init__({
            "store": In(1), "end": In(1), "last": In(1), "detect": In(1), "level": In(8),
            "address": In(range(spec.words("activation"))), "limit": In(17),
            "values": In(data.ArrayLayout(8, spec.columns)),
            "entry": Out(list_write(spec)), "length": Out(length_read(spec)),
            "put": Out(length_write(spec)),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        most = (1 << spec.block_width) - 1
        tiles = spec.block_tiles

        # The row's group, and its numbers
        before = Signal(range(spec.groups * spec.rows))  # its tile's last row
        row_group = Signal.like(self.length.addr)
        m.d.comb += [
            before.eq(self.limit - 1), row_group.eq(before >> log2(spec.rows)),
            self.length.en.eq(self.store & self.detect), self.length.addr.eq(row_group),
        ]
        row = Signal(data.StructLayout({"store": 1, "end": 1, "last": 1, "above": 1}))
        group = Signal.like(row_group, reset_less=True)
        address = Signal.like(self.address, reset_less=True)
        exceeds = Signal(spec.columns)
        m.d.comb += [exceeds[c].eq(self.values[c] > self.level) for c in range(spec.columns)]
        # How it lies to the group before
        held_group = Signal.like(group, reset_less=True)
        latest = Mux(row.store, group, held_group)
        higher = Signal(reset_less=True)
        lower = Signal(reset_less=True)
        m.d.sync += [higher.eq(row_group > latest), lower.eq(row_group < latest)]
        m.d.sync += [
            row.store.eq(self.store & self.detect), row.end.eq(self.end & self.detect),
            row.last.eq(self.end & self.last), row.above.eq(exceeds.any()),
            group.eq(row_group), address.eq(self.address),
        ]

        # A cycle later. The column tile: a higher row group has that of the one before in this
        # pass, any other the one that follows.
        fresh = Signal(init=1)  # the first row of a tile
        begun = Signal()
        count = spec.words("activation") * (spec.word_bytes // spec.columns)
        column = Signal(range(count), reset_less=True)
        base = Signal.like(column, reset_less=True)
        now = Signal.like(column)
        length = Signal(spec.length_width, reset_less=True)
        above = Signal(reset_less=True)  # a number of the block, so far
        known = Signal.like(length)
        known_above = Signal()
        m.d.comb += [now.eq(column), known.eq(length), known_above.eq(above)]
        with m.If(fresh):
            with m.If(~begun):
                m.d.comb += now.eq(0)
            with m.Elif(higher):
                m.d.comb += now.eq(base)
            with m.If(now == 0):
                m.d.comb += [known.eq(0), known_above.eq(0)]
            with m.Elif(higher | lower):
                m.d.comb += known.eq(self.length.data.length)
                if tiles > 1:
                    m.d.comb += known_above.eq(self.length.data.above)

        some = Signal()
        complete = Signal()
        listed = Signal()
        block = now >> log2(tiles)
        m.d.comb += [
            some.eq(known_above | (row.store & row.above)),
            complete.eq(now[:log2(tiles)].all() if tiles > 1 else 1),
            listed.eq(row.end & complete & some),
            self.entry.en.eq(listed),
            self.entry.addr.eq(address - (now >> log2(spec.word_bytes // spec.columns)) + known),
            self.entry.data.eq(Mux(block > most, most, block)),
            self.put.en.eq(row.end), self.put.addr.eq(group),
            self.put.data.length.eq(known + listed),
        ]
        if tiles > 1:
            m.d.comb += self.put.data.above.eq(some & ~complete)
        with m.If(row.store):
            m.d.sync += [fresh.eq(0), held_group.eq(group), begun.eq(1), column.eq(now),
                         length.eq(known), above.eq(some)]
            with m.If(fresh & (~begun | lower)):
                m.d.sync += base.eq(now)
        with m.If(row.end):
            m.d.sync += [fresh.eq(1), column.eq(now + 1), length.eq(self.put.data.length),
                         above.eq(some & ~complete)]
        with m.If(row.last):
            m.d.sync += begun.eq(0)
        return m
