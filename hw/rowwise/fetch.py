# SPDX-License-Identifier: Apache-2.0
"""The weight stream: requested ahead of execution, sorted into ring, scales and tables."""

from enum import IntEnum

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.activation import ActivationKind
from golden.operation import Opcode
from golden.rowwise.operation import NORM_BYTES, SCALE_BYTES
from golden.rowwise.spec import RowwiseSpec
from hw.contract import REQUEST, response
from hw.rowwise.decode import ceil_shift
from hw.rowwise.layouts import log2
from hw.stream import Queue

NUMBER_BITS = 4
"""Bits of the number that tells apart the operations which are between decoder and completion."""


class Table(IntEnum):
    """The tables and parameters that an operation can bring along."""

    ACTIVATION = 0
    EXPONENT = 1
    NORM = 2
    TILE = 3  # not a table: scale and weights of a column tile


FETCH = data.StructLayout({"opcode": 8, "table": 1, "activation": 2, "columns": 16, "depth": 16,
                           "width": 16, "address": 32, "token": 16})
"""What the fetcher must know about an operation; ``token`` is 0 where it has rows in any case."""


def uses_stream(op):
    """Return whether an operation passes through the fetcher."""
    return ((op.opcode == Opcode.LINEAR) | (op.opcode == Opcode.ATTEND)
            | (op.opcode == Opcode.NORM) | (op.opcode == Opcode.HALT)
            | (op.opcode == Opcode.PRUNE))


class Fetcher(wiring.Component):
    """Walk through the operations ahead of their execution and request what each will read.

    A column tile is requested when the ring has room for it, so that its data never waits and
    other readers behind it never do. A table is requested when the last operation that uses its
    predecessor has completed. At a HALT the fetcher waits for all data and for a pending error to
    be reported, so that an error is always that of the operation it names. An operation for tokens
    that may be gone by then waits until all PRUNE and HALT before it have been executed, and is
    passed over if it has no rows.

    Members
    -------
    i : ``In(stream.Signature(FETCH))``
    request : ``Out(stream.Signature(REQUEST))``
    data : ``In(stream.Signature(response(spec)))``; always ready.
    weight, scale : write ports of ring and scales; ``written`` counts in the former.
    activation, exponent, norm : loads of the three tables; always accepted.
    passed : one bit a table, one cycle: an operation that uses it has been walked through.
    loaded : one bit a table, one cycle: its load is complete.
    retired : one bit a table, one cycle: an operation that uses it is complete.
    counted : one cycle: a PRUNE or a HALT has been walked through, or will be without a look at the
        token count.
    settled, tokens : all that were ``counted`` have been executed, and the token count since.
    release : the feeder is done with a tile of ``release_words`` words.
    error, error_number : sticky: an access of operation ``error_number`` failed; ``error_clear``.
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        entries = data.ArrayLayout(8, spec.memory_bytes)
        norm_words = spec.norm.max_words
        lane = data.ArrayLayout(16, spec.columns)
        super().__init__({
            "i": In(stream.Signature(FETCH)),
            "request": Out(stream.Signature(REQUEST)),
            "data": In(stream.Signature(response(spec))),
            "weight": Out(wiring.Signature({
                "en": Out(1), "addr": Out(range(spec.words("weight"))),
                "data": Out(8 * spec.columns * spec.depth)})),
            "scale": Out(wiring.Signature({
                "en": Out(1), "addr": Out(range(spec.weight_tiles)),
                "data": Out(54 * spec.columns)})),
            "activation": Out(wiring.Signature({
                "valid": Out(1), "address": Out(spec.table_width - log2(spec.memory_bytes)),
                "entries": Out(entries)})),
            "exponent": Out(wiring.Signature({
                "valid": Out(1), "address": Out(log2(256 // spec.memory_bytes)),
                "entries": Out(entries)})),
            "norm": Out(wiring.Signature({
                "valid": Out(1), "address": Out(range(norm_words)), "gamma": Out(lane),
                "beta": Out(lane)})),
            "passed": Out(3),
            "loaded": Out(3),
            "retired": In(3),
            "counted": Out(1),
            "settled": In(1),
            "tokens": In(range(spec.max_keys + 1)),
            "release": In(1),
            "release_words": In(16),
            "error": Out(1),
            "error_number": Out(NUMBER_BITS),
            "error_clear": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec, beat_bits = self.spec, 8 * self.spec.memory_bytes
        ring_words = spec.words("weight")
        tile_beats = spec.columns * spec.depth // spec.memory_bytes
        scale_beats = SCALE_BYTES * spec.columns // spec.memory_bytes
        norm_beats = NORM_BYTES * spec.columns // spec.memory_bytes
        activation_beats = (1 << spec.table_width) // spec.memory_bytes
        exponent_beats = 256 // spec.memory_bytes

        # The requests under way, in order: what comes, how many words of it, and for whom
        route_layout = data.StructLayout({"kind": Table, "last_word": 16, "number": NUMBER_BITS})
        m.submodules.route = route = Queue(shape=route_layout, depth=16)

        op = Signal(FETCH, reset_less=True)
        kind = Signal(Table, reset_less=True)
        number = Signal(NUMBER_BITS)
        address = Signal(32, reset_less=True)
        tiles_left = Signal(16, reset_less=True)
        norm_words = Signal(range(spec.norm.max_words + 1), reset_less=True)
        uses = Array(Signal(range(spec.queue_depth * 2 + 4), name=f"uses_{name}")
                     for name in ("activation", "exponent", "norm"))
        unused = Signal(3)  # as it was a cycle ago: none passes in the cycle before it is asked
        for table in range(3):
            m.d.sync += [uses[table].eq(uses[table] + self.passed[table] - self.retired[table]),
                         unused[table].eq(uses[table] == 0)]

        reserved_words = Signal(range(ring_words + 1))
        reserved_tiles = Signal(range(spec.weight_tiles + 1))
        reserve = Signal()
        released = Signal()
        released_words = Signal.like(self.release_words, reset_less=True)
        m.d.sync += [
            released.eq(self.release), released_words.eq(self.release_words),
            reserved_words.eq(reserved_words + Mux(reserve, op.depth, 0)
                              - Mux(released, released_words, 0)),
            reserved_tiles.eq(reserved_tiles + reserve - released),
        ]
        room = Signal()  # as it was a cycle ago
        m.d.sync += room.eq((reserved_words + op.depth <= ring_words)
                            & (reserved_tiles != spec.weight_tiles) & ~reserve & ~self.i.ready)

        ask = Signal()
        asked = Signal()
        beats = Signal(16)
        words = Signal(16)
        m.d.comb += [
            self.request.valid.eq(ask & route.i.ready),
            self.request.payload.address.eq(address),
            self.request.payload.beats.eq(beats),
            asked.eq(ask & route.i.ready & self.request.ready),
            route.i.valid.eq(asked),
            route.i.payload.last_word.eq(words - 1),
            route.i.payload.number.eq(number),
        ]
        with m.If(asked):
            m.d.sync += address.eq(address + (beats << log2(spec.memory_bytes)))

        def begin(op):
            with m.If(op.table):
                m.next = "TABLE"
            with m.Elif(op.opcode == Opcode.LINEAR):
                m.next = "TILE"
            with m.Else():
                m.next = "PASS"

        with m.FSM():
            with m.State("ACCEPT"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [
                    op.eq(self.i.payload), address.eq(self.i.payload.address),
                    tiles_left.eq(self.i.payload.columns),
                    norm_words.eq(ceil_shift(self.i.payload.width, spec.columns)),
                ]
                with m.Switch(self.i.payload.opcode):
                    with m.Case(Opcode.LINEAR):
                        m.d.sync += kind.eq(Table.ACTIVATION)
                    with m.Case(Opcode.ATTEND):
                        m.d.sync += kind.eq(Table.EXPONENT)
                    with m.Case(Opcode.NORM):
                        m.d.sync += kind.eq(Table.NORM)
                with m.If(self.i.valid):
                    with m.If(self.i.payload.opcode == Opcode.HALT):
                        m.d.comb += self.counted.eq(1)
                        m.next = "HALT"
                    with m.Elif(self.i.payload.opcode == Opcode.PRUNE):
                        m.d.comb += self.counted.eq(1)
                        m.d.sync += number.eq(number + 1)
                    with m.Elif(self.i.payload.token != 0):
                        m.next = "COUNT"
                    with m.Else():
                        begin(self.i.payload)
            with m.State("COUNT"):
                with m.If(self.settled & (self.tokens <= op.token)):
                    m.d.sync += number.eq(number + 1)
                    m.next = "ACCEPT"
                with m.Elif(self.settled):
                    begin(op)
            with m.State("HALT"):
                with m.If((route.level == 0) & ~self.error):
                    m.d.sync += number.eq(number + 1)
                    m.next = "ACCEPT"
            with m.State("TABLE"):
                m.d.comb += route.i.payload.kind.eq(kind)
                with m.Switch(kind):
                    with m.Case(Table.ACTIVATION):
                        m.d.comb += [ask.eq(unused[0]), beats.eq(activation_beats),
                                     words.eq(activation_beats)]
                    with m.Case(Table.EXPONENT):
                        m.d.comb += [ask.eq(unused[1]), beats.eq(exponent_beats),
                                     words.eq(exponent_beats)]
                    with m.Case(Table.NORM):
                        m.d.comb += [ask.eq(unused[2]), beats.eq(norm_words * norm_beats),
                                     words.eq(norm_words)]
                with m.If(asked):
                    m.next = "PASS"
                    with m.If(op.opcode == Opcode.LINEAR):
                        m.next = "TILE"
            with m.State("TILE"):
                m.d.comb += [route.i.payload.kind.eq(Table.TILE), ask.eq(room), words.eq(op.depth),
                             beats.eq(op.depth * tile_beats + scale_beats), reserve.eq(asked)]
                with m.If(asked):
                    m.d.sync += tiles_left.eq(tiles_left - 1)
                    with m.If(tiles_left == 1):
                        m.next = "PASS"
            with m.State("PASS"):
                with m.Switch(op.opcode):
                    with m.Case(Opcode.LINEAR):
                        m.d.comb += self.passed[0].eq(op.activation == ActivationKind.TABLE)
                    with m.Case(Opcode.ATTEND):
                        m.d.comb += self.passed[1].eq(1)
                    with m.Case(Opcode.NORM):
                        m.d.comb += self.passed[2].eq(1)
                m.d.sync += number.eq(number + 1)
                m.next = "ACCEPT"

        # Responses: beats are collected from the top of a shift register
        most = 8 * max(spec.columns * spec.depth, SCALE_BYTES * spec.columns)
        earlier = Signal(most, reset_less=True)
        whole = Signal(most)
        in_scale = Signal(init=1)
        beat = Signal(range(max(tile_beats, scale_beats, norm_beats, 2)))
        word = Signal(16)
        current = route.o.payload
        last_beat = Signal()
        last_word = Signal()
        take = Signal()
        m.d.comb += [
            self.data.ready.eq(1),
            take.eq(self.data.valid),
            whole.eq(Cat(earlier[beat_bits:], self.data.payload.data) if most > beat_bits
                     else self.data.payload.data),
            last_word.eq(word == current.last_word),
        ]
        with m.Switch(current.kind):
            with m.Case(Table.NORM):
                m.d.comb += last_beat.eq(beat == norm_beats - 1)
            with m.Case(Table.TILE):
                m.d.comb += last_beat.eq(beat == Mux(in_scale, scale_beats - 1, tile_beats - 1))
            with m.Default():
                m.d.comb += last_beat.eq(1)

        weight_at = Signal(range(ring_words))
        scale_at = Signal(range(spec.weight_tiles))
        scales = whole[-8 * SCALE_BYTES * spec.columns:]
        norms = whole[-8 * NORM_BYTES * spec.columns:]
        m.d.comb += [
            self.weight.addr.eq(weight_at),
            self.weight.data.eq(whole[-8 * spec.columns * spec.depth:]),
            self.scale.addr.eq(scale_at),
            self.scale.data.eq(Cat(scales[64 * c:64 * c + 54] for c in range(spec.columns))),
            self.activation.address.eq(word),
            self.activation.entries.as_value().eq(self.data.payload.data),
            self.exponent.address.eq(word),
            self.exponent.entries.as_value().eq(self.data.payload.data),
            self.norm.address.eq(word),
        ]
        for c in range(spec.columns):
            m.d.comb += [self.norm.gamma[c].eq(norms[32 * c:32 * c + 16]),
                         self.norm.beta[c].eq(norms[32 * c + 16:32 * c + 32])]
        with m.If(take):
            m.d.sync += [earlier.eq(whole), beat.eq(beat + 1)]
            with m.If(self.data.payload.error & ~self.error):
                m.d.sync += [self.error.eq(1), self.error_number.eq(current.number)]
            with m.If(last_beat):
                m.d.sync += beat.eq(0)
                with m.Switch(current.kind):
                    with m.Case(Table.TILE):
                        m.d.comb += [self.scale.en.eq(in_scale), self.weight.en.eq(~in_scale)]
                    with m.Case(Table.ACTIVATION):
                        m.d.comb += self.activation.valid.eq(1)
                    with m.Case(Table.EXPONENT):
                        m.d.comb += self.exponent.valid.eq(1)
                    with m.Case(Table.NORM):
                        m.d.comb += self.norm.valid.eq(1)
                with m.If((current.kind == Table.TILE) & in_scale):
                    m.d.sync += [in_scale.eq(0), scale_at.eq(scale_at + 1)]
                with m.Else():
                    m.d.sync += word.eq(word + 1)
                    with m.If(current.kind == Table.TILE):
                        m.d.sync += weight_at.eq(Mux(weight_at == ring_words - 1, 0, weight_at + 1))
                    with m.If(last_word):
                        m.d.comb += route.o.ready.eq(1)
                        m.d.sync += [word.eq(0), in_scale.eq(1)]
                        with m.If(current.kind != Table.TILE):
                            m.d.comb += self.loaded.eq(1 << current.kind)
        with m.If(self.error_clear):
            m.d.sync += self.error.eq(0)
        return m
