# SPDX-License-Identifier: Apache-2.0
"""From accumulators to stored rows: bias, requantisation, activation, residual, softmax."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from golden.activation import ActivationKind
from golden.rowwise.operation import Place
from golden.rowwise.spec import RowwiseSpec
from hw.arith.activation import Activation
from hw.arith.requant import Requant
from hw.arith.saturate import saturate
from hw.arith.table import Table
from hw.array.array import tile_layout
from hw.rowwise.layouts import PROGRESS, Kind, bank_limit, config, log2, tile
from hw.rowwise.lists import Lister, length_read, length_write, list_write
from hw.stream import Queue


def write_port(banks: int, words: int, segments: int, width: int) -> wiring.Signature:
    """Return a one-row write: one bank, one segment of one word."""
    return wiring.Signature({
        "enable": Out(1), "bank": Out(range(max(banks, 2))), "address": Out(range(words)),
        "segment": Out(range(max(segments, 2))), "data": Out(width)})


def factor_layout(spec: RowwiseSpec) -> data.StructLayout:
    """What the softmax says of a row when its exponents are complete."""
    return data.StructLayout({"row": range(spec.rows), "factor": 16,
                              "exponent": spec.softmax.reciprocal.exponent_width, "last": 1})


class Collector(wiring.Component):
    """Take finished tiles from the array and store them, one row per cycle.

    ::

        array -> tile register -> + bias -> requantise -+-> activation -> activation / key / value
                                                        +-> + residual -> residual
                                                        +-> saturate   -> softmax (scores)

    The scores' requantiser setting belongs to the operation, that of the outputs ``P V`` to the row
    (it carries the softmax normalisation), that of LINEAR to the column.

    Nothing here can wait: a row enters each cycle and leaves ``LATENCY`` cycles later. Writes have
    precedence over those of other engines. A :class:`~hw.rowwise.lists.Lister` looks on.

    Latency: the first row of a tile is written ``LATENCY`` cycles after the array offers it.
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        columns, width = spec.columns, 8 * spec.columns
        parts = spec.word_bytes // spec.columns
        residual = range(spec.words("residual"))
        self.latency = 2 + Requant.LATENCY + max(spec.activation.latency, 2)
        super().__init__({
            "i": In(stream.Signature(tile_layout(spec.mac))),
            "tile": In(stream.Signature(tile(spec))),
            "configs": In(data.ArrayLayout(config(spec), 2)),
            "scale": Out(wiring.Signature({
                "en": Out(1), "addr": Out(range(spec.weight_tiles)),
                "data": In(54 * spec.columns)})),
            "load": In(stream.Signature(Table.load_shape(spec.activation.table_spec))),
            "score": Out(stream.Signature(data.ArrayLayout(signed(8), columns))),
            "score_id": Out(1), "score_keys": Out(range(spec.max_keys + 1)),
            "factor": In(stream.Signature(factor_layout(spec))),
            "slot_ready": Out(1),
            "slot_free": Out(1),
            "activation": Out(write_port(spec.rows, spec.words("activation"), parts, width)),
            "key": Out(write_port(spec.columns, spec.words("key"), parts, width)),
            "value": Out(write_port(spec.depth, spec.words("value"), 1, width)),
            "residual_read": Out(wiring.Signature({
                "en": Out(1), "addr": Out(residual), "data": In(16 * spec.columns)})),
            "residual_write": Out(wiring.Signature({
                "en": Out(1), "addr": Out(residual), "data": Out(16 * spec.columns)})),
            "started": In(1), "started_id": In(1),
            "progress": Out(PROGRESS),
            "busy": Out(1),
            **({"entry": Out(list_write(spec)), "length": Out(length_read(spec)),
                "put": Out(length_write(spec))} if spec.skip_words else {}),
        })

    def elaborate(self, platform):
        m = Module()
        spec, columns = self.spec, self.spec.columns
        acc_layout = self.i.payload.acc.shape().elem_shape
        m.submodules.tiles = tiles = Queue(shape=tile(spec), depth=8 if spec.rows < 4 else 4)
        wiring.connect(m, flipped(self.tile), tiles.i)
        head = tiles.o.payload

        # Tile register: a row leaves per cycle
        rows = [Signal(acc_layout, name=f"tile_{r}", reset_less=True) for r in range(spec.rows)]
        current = Signal(tile(spec), reset_less=True)
        active = Signal()
        row = Signal(range(max(spec.rows, 2)))
        at = Signal.like(current.target, reset_less=True)
        load = Signal()
        m.d.comb += [self.i.ready.eq(1), load.eq(self.i.valid), tiles.o.ready.eq(load),
                     self.scale.en.eq(load), self.scale.addr.eq(head.scale)]
        setting = Signal(config(spec))
        m.d.comb += setting.eq(self.configs[current.id])
        wraps = Signal()
        with m.Switch(setting.place):
            for place, banks in ((Place.ACTIVATION, spec.rows), (Place.KEY, columns),
                                 (Place.VALUE, spec.depth)):
                with m.Case(place):
                    m.d.comb += wraps.eq(at.lane == banks - 1)
            with m.Default():
                m.d.comb += wraps.eq(1)
        last_row = Signal()
        m.d.comb += last_row.eq(row == spec.rows - 1)
        with m.If(load):
            m.d.sync += [current.eq(head), at.eq(head.target), active.eq(1), row.eq(0)]
            m.d.sync += [rows[r].eq(self.i.payload.acc[r]) for r in range(spec.rows)]
        with m.Else():  # rows move on also when nobody looks: registers without enable
            m.d.sync += [rows[r].eq(rows[r + 1]) for r in range(spec.rows - 1)]
            with m.If(active):
                m.d.sync += [row.eq(row + 1), active.eq(~last_row),
                             at.lane.eq(Mux(wraps, 0, at.lane + 1))]
                with m.If(wraps):
                    m.d.sync += at.address.eq(at.address + setting.stride)

        # Factors of the rows of two exponent slots
        factor = self.factor.payload
        factors = [[Signal(data.StructLayout({"mul": 16, "exponent": len(factor.exponent)}),
                           name=f"factor_{slot}_{r}", reset_less=True)
                    for r in range(spec.rows)] for slot in range(2)]
        factor_slot = Signal()
        m.d.comb += [self.factor.ready.eq(1),
                     self.slot_ready.eq(self.factor.valid & factor.last)]
        with m.If(self.factor.valid):
            for slot in range(2):
                for r in range(spec.rows):
                    with m.If((factor_slot == slot) & (factor.row == r)):
                        m.d.sync += [factors[slot][r].mul.eq(factor.factor),
                                     factors[slot][r].exponent.eq(factor.exponent)]
        with m.If(self.slot_ready):
            m.d.sync += factor_slot.eq(~factor_slot)
        own = Signal.like(factors[0][0])
        with m.Switch(Cat(row, current.slot)):
            for slot in range(2):
                for r in range(spec.rows):
                    with m.Case(r | slot << len(row)):
                        m.d.comb += own.eq(factors[slot][r])
        own_shift = Signal(7)
        m.d.comb += own_shift.eq(setting.shift + own.exponent)
        m.d.comb += self.slot_free.eq(active & last_row & current.slot_last
                                      & (current.kind == Kind.OUTPUT))

        # Bias, and the setting of the requantiser
        m.submodules.requant = requant = Requant(spec.requant, multiplier=spec.multiplier)
        entry = Signal.like(requant.i.payload, reset_less=True)
        entering = Signal()
        for c in range(columns):
            scale = self.scale.data[54 * c:54 * (c + 1)]
            acc = rows[0][c][0]
            with m.Switch(current.kind):
                with m.Case(Kind.LINEAR):
                    m.d.sync += [entry.acc[c].eq(acc + scale[:32].as_signed()),
                                 entry.mul[c].eq(scale[32:48]), entry.shift[c].eq(scale[48:54])]
                with m.Case(Kind.SCORE):
                    m.d.sync += [entry.acc[c].eq(acc), entry.mul[c].eq(setting.score_mul),
                                 entry.shift[c].eq(setting.score_shift)]
                with m.Default():
                    m.d.sync += [entry.acc[c].eq(acc), entry.mul[c].eq(own.mul),
                                 entry.shift[c].eq(Mux(own_shift[-1], 63, own_shift))]
        m.d.sync += entering.eq(active)
        m.d.comb += [requant.i.valid.eq(entering), requant.i.payload.eq(entry),
                     requant.o.ready.eq(1)]

        # What goes with the row through the pipeline
        mark_layout = data.StructLayout({
            "store": 1, "score": 1, "id": 1, "place": 3, "activation": ActivationKind,
            "address": 16, "lane": range(max(bank_limit(spec), 2)),
            "segment": range(max(spec.word_bytes // columns, 2)),
            "limit": 17, "final": 1, "last": 1, "end": 1})
        parts = log2(spec.word_bytes // columns)
        mark = Signal(mark_layout)
        folded = (setting.place == Place.ACTIVATION) | (setting.place == Place.KEY)
        m.d.comb += [
            mark.store.eq(active & (current.kind != Kind.SCORE) & (row < current.rows)),
            mark.score.eq(active & (current.kind == Kind.SCORE)),
            mark.id.eq(current.id), mark.place.eq(setting.place),
            mark.activation.eq(Mux((current.kind == Kind.LINEAR)
                                   & (setting.place == Place.ACTIVATION),
                                   setting.activation, ActivationKind.NONE)),
            mark.address.eq(at.address + Mux(folded, current.column >> parts, current.column)),
            mark.lane.eq(at.lane), mark.segment.eq(current.column), mark.limit.eq(current.limit),
            mark.final.eq(current.final), mark.last.eq(current.last),
            mark.end.eq(active & last_row),
        ]

        def delay(mark, cycles, name):
            for n in range(cycles):
                later = Signal(mark_layout, name=f"{name}_{n}")
                m.d.sync += later.eq(mark)
                mark = later
            return mark

        at_result = delay(mark, 1 + Requant.LATENCY, "mark")

        # 8-bit results
        m.submodules.activation = unit = Activation(spec.activation)
        wiring.connect(m, flipped(self.load), unit.load)
        m.d.comb += [
            unit.i.valid.eq(requant.o.valid), unit.i.payload.q.eq(requant.o.payload),
            unit.i.payload.kind.eq(at_result.activation), unit.o.ready.eq(1),
            self.score.payload.as_value().eq(unit.o.payload.as_value()),
        ]
        before = delay(at_result, unit.latency - 1, "stored")
        stored = delay(before, 1, "stored_last")
        m.d.sync += self.score_keys.eq(self.configs[before.id]["keys"])
        m.d.comb += [self.score.valid.eq(stored.score), self.score_id.eq(stored.id)]
        for place, port in ((Place.ACTIVATION, self.activation), (Place.KEY, self.key),
                            (Place.VALUE, self.value)):
            m.d.comb += [
                port.enable.eq(stored.store & (stored.place == place)),
                port.bank.eq(stored.lane), port.address.eq(stored.address),
                port.segment.eq(stored.segment if place != Place.VALUE else 0),
                port.data.eq(unit.o.payload.as_value()),
            ]

        if spec.skip_words:
            m.submodules.lister = lister = Lister(spec)
            wiring.connect(m, lister.entry, flipped(self.entry))
            wiring.connect(m, lister.length, flipped(self.length))
            wiring.connect(m, lister.put, flipped(self.put))
            m.d.comb += [
                lister.store.eq(stored.store), lister.end.eq(stored.end),
                lister.last.eq(stored.last), lister.address.eq(stored.address),
                lister.limit.eq(stored.limit),
                lister.values.as_value().eq(unit.o.payload.as_value()),
                lister.detect.eq(self.configs[stored.id].detect),
                lister.level.eq(self.configs[stored.id].level),
            ]

        # 16-bit results
        to_residual = Signal()
        m.d.comb += [
            to_residual.eq(at_result.store & ((at_result.place == Place.ADD)
                                              | (at_result.place == Place.RESIDUAL))),
            self.residual_read.en.eq(to_residual & (at_result.place == Place.ADD)),
            self.residual_read.addr.eq(at_result.address),
        ]
        result = Signal.like(requant.o.payload, reset_less=True)
        adding = Signal(mark_layout)
        adds = Signal()
        m.d.sync += [result.eq(requant.o.payload), adding.eq(at_result), adds.eq(to_residual)]
        summed = Signal(data.ArrayLayout(signed(16), columns), reset_less=True)
        address = Signal.like(self.residual_write.addr, reset_less=True)
        writes = Signal()
        for c in range(columns):
            old = self.residual_read.data[16 * c:16 * c + 16].as_signed()
            total = Signal(signed(17), name=f"total_{c}")
            m.d.comb += total.eq(result[c] + Mux(adding.place == Place.ADD, old, 0))
            m.d.sync += summed[c].eq(saturate(total, 16))
        m.d.sync += [writes.eq(adds), address.eq(adding.address)]
        m.d.comb += [self.residual_write.en.eq(writes), self.residual_write.addr.eq(address),
                     self.residual_write.data.eq(summed.as_value())]

        # Progress: rows are complete when the last one is written; an operation a cycle later, when
        # its lists are
        wrote = delay(stored, max(unit.latency, 2) - unit.latency, "wrote")
        done = delay(wrote, 1, "done")
        in_flight = Signal(range(16))
        m.d.sync += in_flight.eq(in_flight + (self.tile.valid & self.tile.ready) - done.end)
        m.d.comb += [
            self.busy.eq(in_flight != 0),
            self.progress.done.eq(done.end & done.last), self.progress.done_id.eq(done.id),
        ]
        with m.If(wrote.end & wrote.final):
            m.d.sync += [self.progress.limit.eq(wrote.limit), self.progress.id.eq(wrote.id)]
        with m.Elif(self.started & (self.started_id == self.progress.id)):
            m.d.sync += self.progress.limit.eq(0)  # that was the last but one operation's
        return m
