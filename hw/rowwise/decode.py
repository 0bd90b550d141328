# SPDX-License-Identifier: Apache-2.0
"""Descriptors into operations that are known to be legal."""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden.activation import ActivationKind
from golden.layernorm import LayerNormSpec
from golden.operation import DESCRIPTOR_BYTES, Opcode, Status, Wait
from golden.rowwise.operation import LAYOUT, Importance, Place
from golden.rowwise.spec import RowwiseSpec
from golden.topk import Rule
from hw.rowwise.layouts import OPERATION, log2


def ceil_shift(value, divisor: int):
    """Return ``ceil(value / divisor)`` of an unsigned value and a power of two."""
    return (value + (divisor - 1)) >> log2(divisor)


class Decoder(wiring.Component):
    """Check each descriptor as :func:`golden.rowwise.operation.check` says; precompute addresses.

    A refused operation leaves with its status and nothing else happens to it; the ones behind it,
    up to the next HALT, leave as SKIPPED. One multiplier serves all checks, one after the other:
    at most ``CYCLES`` cycles for an operation, hidden behind the execution of earlier ones. A FUSE
    leaves as a PRUNE with ``gather``.

    Members
    -------
    i : ``In(stream.Signature(8 * DESCRIPTOR_BYTES))``
    o : ``Out(stream.Signature(OPERATION))``
    """

    CYCLES = 3 + 3 * 6

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        super().__init__({
            "i": In(stream.Signature(8 * DESCRIPTOR_BYTES)),
            "o": Out(stream.Signature(OPERATION)),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        op = Signal(OPERATION, reset_less=True)
        failed = Signal()
        m.d.comb += self.o.payload.eq(op)

        opcode, place = op.opcode, op.place
        is_linear = Signal()
        is_attend = Signal()
        is_norm = Signal()
        is_move = Signal()
        is_prune = Signal()
        m.d.comb += [
            is_prune.eq((opcode == Opcode.PRUNE) | (opcode == Opcode.FUSE) if spec.fuse
                        else opcode == Opcode.PRUNE),
            is_linear.eq(opcode == Opcode.LINEAR), is_attend.eq(opcode == Opcode.ATTEND),
            is_norm.eq(opcode == Opcode.NORM),
            is_move.eq((opcode == Opcode.LOAD) | (opcode == Opcode.STORE)),
        ]

        def unlisted(row, count, unit):
            """Whether rows are no row groups with a list, or tiles or steps no whole blocks."""
            return ((row & (spec.rows - 1) != 0) | (row + op.rows > spec.max_keys)
                    | (count & (max(1, unit) - 1) != 0))

        bad_opcode = Signal()
        bad_shape = Signal()
        kinds = [op.activation == kind for kind in spec.activation.kinds]
        m.d.sync += bad_opcode.eq(
            (opcode > (Opcode.STORE if spec.pruning == "none" else
                       Opcode.FUSE if spec.fuse else Opcode.PRUNE))
            | (op.wait > Wait.ALL)
            | (is_linear & ((place > Place.VALUE) | ~_any(kinds)))
            | (is_linear & op.detect & ((place != Place.ACTIVATION)
                                        | (op.activation != ActivationKind.RELU)))
            | (is_linear & (op.detect | op.skip) & (not spec.skip_words))
            | (is_attend & (op.importance > (
                Importance.NONE if spec.pruning == "none" else Importance.ADD)))
            | (is_norm & op.gather & (1 if spec.pruning == "none" else ~op.live))
            | (is_prune & (op.rule > Rule.MEAN))
            | ((is_attend | is_norm) & (place != Place.ACTIVATION))
            | (is_move & (place > Place.RESIDUAL)))
        m.d.sync += bad_shape.eq(
            (~is_prune & (op.address[:log2(spec.memory_bytes)] != 0))
            | (is_prune & ((op.rows == 0) | (op.rows > spec.max_keys)))
            | ((is_linear | is_attend | is_norm) & op.live
               & (op.token + op.rows > spec.max_keys))
            | ((is_linear | is_attend) & (
                (op.columns == 0) | (op.depth == 0)
                | (op.source_row & (spec.rows - 1) != 0)
                | (op.depth > spec.max_contraction // spec.depth)))
            | ((is_linear | is_attend | is_norm) & (op.rows == 0))
            | (is_linear & ((op.group == 0) | (op.group > spec.weight_tiles)))
            | (is_attend & ((op["keys"] == 0) | (op["keys"] > spec.max_keys)))
            | (is_norm & ((op.width == 0) | (op.width > spec.max_width)
                          | (op.shift < LayerNormSpec.Z_FRACTION)
                          | (op.shift > LayerNormSpec.MAX_SHIFT)))
            | (is_move & (op["keys"] == 0))
            | (is_linear & op.detect & unlisted(op.target_row, op.columns, spec.block_tiles))
            | (is_linear & op.skip & unlisted(op.source_row, op.depth, spec.block_steps)))

        beyond = Signal()  # LOAD, STORE: the end of the 32-bit address space
        moved = [(op["keys"] << log2(spec.block_bytes[name])) + op.address > 1 << 32
                 for name in ("activation", "residual")]
        m.d.sync += beyond.eq(is_move & Mux(place == Place.ACTIVATION, *moved))

        # One extent after the other: base + (count - 1) * stride + words <= size
        step = Signal(range(6))
        base = Signal(16, reset_less=True)
        count_less = Signal(17, reset_less=True)
        stride = Signal(16, reset_less=True)
        words = Signal(17, reset_less=True)
        size = Signal(17, reset_less=True)
        product = Signal(33, reset_less=True)
        most = Signal(signed(19), reset_less=True)  # that the product may be
        tight = Signal(reset_less=True)  # the next row would begin in this one

        def select(b, count, s, w, limit):
            return [base.eq(b), count_less.eq(count - 1), stride.eq(s), words.eq(w), size.eq(limit)]

        word = spec.word_bytes
        # complete when the first extent is selected
        source_rows = Signal(17, reset_less=True)
        target_rows = Signal(17, reset_less=True)
        source_groups = Signal(17, reset_less=True)
        target_groups = Signal(17, reset_less=True)
        read = Signal(16, reset_less=True)
        written = Signal(16, reset_less=True)
        norm_words = Signal(16, reset_less=True)
        banks = {Place.ACTIVATION: spec.rows, Place.RESIDUAL: 1, Place.ADD: 1,
                 Place.KEY: spec.columns, Place.VALUE: spec.depth}
        buffers = {Place.ACTIVATION: "activation", Place.RESIDUAL: "residual",
                   Place.ADD: "residual", Place.KEY: "key", Place.VALUE: "value"}
        m.d.sync += [
            source_rows.eq(op.source_row + op.rows), target_rows.eq(op.target_row + op.rows),
            source_groups.eq(ceil_shift(source_rows, spec.rows)),
            read.eq(ceil_shift(op.depth, word // spec.depth)),
            written.eq(ceil_shift(op.columns, word // spec.columns)),
            norm_words.eq(ceil_shift(op.width, spec.columns)),
        ]
        with m.Switch(place):
            for where in buffers:
                with m.Case(where):
                    m.d.sync += target_groups.eq(ceil_shift(target_rows, banks[where]))
        free = Const(1), Const(0), Const(0), 1 << 16  # count, stride, words, size: always fits

        with m.FSM():
            with m.State("ACCEPT"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    fields = {name: self.i.payload[field.offset:field.offset + field.width]
                              for name, field in LAYOUT.fields.items()}
                    score_mul = fields.pop("score_mul")
                    m.d.sync += [op[name].eq(value) for name, value in fields.items()]
                    scored = fields["opcode"] == Opcode.ATTEND
                    if spec.fuse:
                        scored = scored | (fields["opcode"] == Opcode.NORM)
                    with m.If(scored):
                        m.d.sync += op.level.eq(score_mul)
                    m.d.sync += [op.status.eq(Status.OK), step.eq(0)]
                    m.next = "WEIGH"
            with m.State("WEIGH"):  # what is bad about it is known in the next cycle
                m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "SELECT"
                with m.If(opcode == Opcode.HALT):
                    with m.If(op.wait > Wait.ALL):
                        m.d.sync += op.status.eq(Mux(failed, Status.SKIPPED, Status.BAD_OPCODE))
                    m.next = "GIVE"
                with m.Elif(failed):
                    m.d.sync += op.status.eq(Status.SKIPPED)
                    m.next = "GIVE"
                with m.Elif(bad_opcode):
                    m.d.sync += op.status.eq(Status.BAD_OPCODE)
                    m.next = "GIVE"
                with m.Elif(bad_shape):
                    m.d.sync += op.status.eq(Status.BAD_SHAPE)
                    m.next = "GIVE"
                with m.Elif(is_prune):
                    if spec.fuse:
                        m.d.sync += [op.opcode.eq(Opcode.PRUNE),
                                     op.gather.eq(opcode == Opcode.FUSE)]
                    m.next = "GIVE"
                with m.Elif(beyond):
                    m.d.sync += op.status.eq(Status.OUT_OF_RANGE)
                    m.next = "GIVE"
            with m.State("SELECT"):
                with m.Switch(step):
                    with m.Case(0):  # what is read
                        m.d.sync += select(op.source, source_groups, op.source_stride, read,
                                           spec.words("activation"))
                        with m.If(is_norm):
                            m.d.sync += select(op.source, source_rows, op.source_stride, norm_words,
                                               spec.words("residual"))
                        with m.If(is_move):
                            m.d.sync += select(0, *free)
                    with m.Case(1):  # what is written
                        with m.Switch(place):
                            for where, name in buffers.items():
                                with m.Case(where):
                                    m.d.sync += select(
                                        op.target, target_groups, op.target_stride,
                                        written if where in (Place.ACTIVATION, Place.KEY)
                                        else op.columns,
                                        spec.words(name))
                        with m.If(is_norm):
                            m.d.sync += words.eq(ceil_shift(norm_words, word // spec.columns))
                        with m.If(is_move):
                            m.d.sync += [count_less.eq(0), words.eq(op["keys"])]
                    with m.Case(2):  # weight ring, or keys
                        m.d.sync += select(0, *free)
                        with m.If(is_linear):
                            m.d.sync += select(0, op.group, op.depth, op.depth,
                                               spec.words("weight"))
                        with m.If(is_attend):
                            m.d.sync += select(op.key, ceil_shift(op["keys"], spec.columns), read,
                                               read, spec.words("key"))
                    with m.Case(3):  # values
                        m.d.sync += select(0, *free)
                        with m.If(is_attend):
                            m.d.sync += select(op.value, ceil_shift(op["keys"], spec.depth),
                                               op.columns, op.columns, spec.words("value"))
                    with m.Case(4):  # address of the first row read
                        m.d.sync += [base.eq(op.source), stride.eq(op.source_stride),
                                     count_less.eq(op.source_row >> log2(spec.rows))]
                        with m.If(is_norm):
                            m.d.sync += count_less.eq(op.source_row)
                    with m.Case(5):  # address of the first row written
                        m.d.sync += [base.eq(op.target), stride.eq(op.target_stride)]
                        with m.Switch(place):
                            for where in buffers:
                                with m.Case(where):
                                    m.d.sync += count_less.eq(op.target_row >> log2(banks[where]))
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [product.eq(count_less * stride), most.eq(size - base - words),
                             tight.eq((count_less != 0) & (words > stride))]
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += step.eq(step + 1)
                m.next = "SELECT"
                with m.If(step == 4):
                    m.d.sync += op.source_start.eq(product + base)
                with m.Elif(step == 5):
                    m.d.sync += op.target_start.eq(product + base)
                    m.next = "GIVE"
                with m.Elif((product > most) | tight):
                    m.d.sync += op.status.eq(Status.OUT_OF_RANGE)
                    m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += failed.eq(op.status != Status.OK)
                    m.next = "ACCEPT"
        return m


def _any(conditions):
    result = Const(0)
    for one in conditions:
        result = result | one
    return result
