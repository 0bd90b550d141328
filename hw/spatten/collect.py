# SPDX-License-Identifier: Apache-2.0
"""The end of a linear layer: from scores to numbers that are stored."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.activation import ActivationKind
from golden.spatten.operation import Activation as Kind
from golden.spatten.spec import SpattenSpec
from hw.arith.activation import Activation
from hw.arith.pipeline import pipeline
from hw.arith.requant import Requant
from hw.arith.saturate import saturate
from hw.arith.table import Table
from hw.spatten.dispatch import OPERATION
from hw.spatten.feed import sum_bits
from hw.spatten.layouts import bits, numbers, score, vector_beat

CONSTANT = data.StructLayout({"bias": signed(32), "mul": 16, "shift": 6, "zero": 10})
"""What must be known of an output."""


class Collector(wiring.Component):
    """Read the scores of tokens; give biased, requantised, activated numbers, beat by beat.

    ::

        token -> scores -> even + odd - constant -> + bias -> requantise -+-> activation -+
                 (read)        (1)                  (1)          (3)      +-> clip (2) ---+
                                 constants (read) ---^                                    v
                                                               o <- beats <- + residual <-+

    ``spec.linear_lanes`` outputs at a time go through a pipeline that stops as a whole where a
    beat is refused or a beat of the residual lacks; the memories keep their data meanwhile.

    The score of a channel is ``16 * x @ w + 688 * sum(x)`` for each of the two vectors.

    Latency: ``LATENCY`` cycles from a token to its first outputs. Throughput: a row of scores in
    ``channels / linear_lanes`` cycles; none is lost between tokens.

    Members
    -------
    op : ``In(OPERATION)``, parities : ``In(2)``
        Constant while ``busy``; whether even and odd vectors take part.
    token : ``In(stream.Signature(signed(sum_bits(spec))))``
        The sum of the inputs of a token, whose scores follow those of the token before.
    freed : ``Out(1)``
        A row of scores is read in this cycle.
    read_enable, read_address, read_data, constant_enable, constant_address, constant_data, load, \
residual, o :
        see :class:`~hw.spatten.linear.Linear`.
    error : ``Out(1)``
        There was one, in this cycle.
    busy : ``Out(1)``
        Tokens were taken whose numbers have not left.
    """

    LATENCY = 3 + Requant.LATENCY + 2

    def __init__(self, spec: SpattenSpec):
        self._spec = spec
        super().__init__({
            "op": In(OPERATION),
            "parities": In(2),
            "token": In(stream.Signature(signed(sum_bits(spec)))),
            "freed": Out(1),
            "read_enable": Out(1),
            "read_address": Out(bits(spec.score_rows)),
            "read_data": In(data.ArrayLayout(score(spec), spec.channels)),
            "constant_enable": Out(1),
            "constant_address": Out(bits(spec.constant_words)),
            "constant_data": In(8 * spec.memory_bytes),
            "load": In(stream.Signature(Table.load_shape(spec.activation.table_spec))),
            "residual": In(stream.Signature(vector_beat(spec))),
            "o": Out(stream.Signature(numbers(spec))),
            "error": Out(1),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec, op, lanes = self._spec, self.op, self._spec.linear_lanes
        m.submodules.requant = requant = Requant(spec.linear_requant)
        m.submodules.activation = activation = Activation(spec.activation)
        connect(m, flipped(self.load), activation.load)

        # Steps: so many outputs of a token at a time
        steps = spec.lanes // lanes  # of a vector
        in_row = spec.channels // lanes
        step = Signal(range(spec.max_tokens // lanes))
        row = Signal(bits(spec.score_rows))
        source: Any = stream.Signature(1).create()
        advance = pipeline(m, source, requant.i, 3)
        go = Signal()
        m.d.comb += [
            source.valid.eq((step != 0) | self.token.valid),
            self.token.ready.eq(advance & (step == 0)),
            go.eq(source.valid & advance),
            self.freed.eq(go & (step & in_row - 1 == 0)),
            self.read_enable.eq(self.freed), self.read_address.eq(row),
        ]
        m.d.sync += row.eq(row + self.freed)
        with m.If(go):
            m.d.sync += step.eq(Mux(step + 1 == op.outputs * steps, 0, step + 1))

        # Scores, totals, and what is requantised
        width = spec.acc_bits - 4
        at_scores = Signal.like(step, reset_less=True)
        at_total = Signal.like(step, reset_less=True)
        offset = Signal(signed(width), reset_less=True)
        entry = Signal.like(requant.i.payload, reset_less=True)
        in_word = spec.memory_bytes // 8 // lanes  # steps of a beat of constants
        words = self._words(self.read_data, score(spec), at_scores, in_row)
        constants = self._words(self.constant_data, CONSTANT, at_total, in_word)
        m.d.comb += [
            self.constant_enable.eq(advance),
            self.constant_address.eq(op.constant + (at_scores >> (in_word - 1).bit_length())),
            requant.i.payload.eq(entry),
        ]
        with m.If(go & (step == 0)):
            m.d.sync += offset.eq(self.token.payload * 43)  # 688 / 16
        with m.If(advance):
            m.d.sync += [at_scores.eq(step), at_total.eq(at_scores)]
        for lane in range(lanes):
            word, constant = words[lane], constants[lane]
            even, odd = (Mux(takes, one >> 4, 0)
                         for takes, one in zip(self.parities, (word.even, word.odd)))
            total = Signal(signed(width), name=f"total_{lane}", reset_less=True)
            biased = Signal(signed(33), name=f"biased_{lane}")
            m.d.comb += biased.eq(total + constant.bias)
            with m.If(advance):
                m.d.sync += [
                    total.eq(even + odd - offset),
                    entry.acc[lane].eq(saturate(biased, 32)),
                    entry.mul[lane].eq(constant["mul"]), entry.shift[lane].eq(constant.shift),
                ]
        results = self._activate(m, requant.o, activation)
        part, taken = self._pack(m, results, activation.o)

        # Beats begun and not taken: at most 3, as a beat has at least 4 steps, and the pipelines 8;
        # at least 1 until a token's last, whose steps follow each other.
        beats = Signal(range(4))
        begun = go & (step & (1 << len(part)) - 1 == 0)
        m.d.sync += beats.eq(beats + begun - taken)
        m.d.comb += self.busy.eq(beats != 0)
        return m

    def _words(self, source: Any, shape: Any, step: Signal, count: int) -> Any:
        """Return one of ``count`` parts of memory words, the one of a step."""
        lanes, whole = self._spec.linear_lanes, Value.cast(source)
        size = len(whole) // count
        if count > 1:
            whole = whole.word_select(step[:(count - 1).bit_length()], size)
        width = size // lanes
        return [data.View(shape, whole[n * width:(n + 1) * width]) for n in range(lanes)]

    def _activate(self, m: Module, q: Any, activation: Activation) -> list[Signal]:
        """Return what comes beside the valid outputs of ``activation``."""
        kind, payload = self.op.activation, activation.i.payload
        m.d.comb += [
            activation.i.valid.eq(q.valid), q.ready.eq(activation.i.ready),
            payload.q.eq(q.payload),
            payload.kind.eq(Mux(kind == Kind.TABLE, ActivationKind.TABLE, ActivationKind.RELU)),
        ]
        results = []
        for lane, narrow in enumerate(activation.o.payload):
            clipped = Signal(signed(16), name=f"clipped_{lane}", reset_less=True)
            beside = Signal(signed(16), name=f"beside_{lane}", reset_less=True)
            result = Signal(signed(16), name=f"result_{lane}")
            with m.If(activation.i.ready):  # its registers take a step
                m.d.sync += [clipped.eq(Mux(kind == Kind.CLIP,
                                            saturate(q.payload[lane], self._spec.QUERY_BITS),
                                            q.payload[lane])),
                             beside.eq(clipped)]
            sign = (kind == Kind.TABLE) & narrow[-1]
            m.d.comb += result.eq(Mux((kind == Kind.RELU) | (kind == Kind.TABLE),
                                      Cat(narrow, sign.replicate(16 - len(narrow))), beside))
            results.append(result)
        return results

    def _pack(self, m: Module, results: list[Signal], control: Any) -> tuple[Signal, Signal]:
        """Add the residual, offer whole beats; return which part is next, and when one is taken."""
        spec, lanes, residual = self._spec, self._spec.linear_lanes, self.op.residual
        parts = spec.memory_bytes // 2 // lanes
        part = Signal(range(parts))
        held = [Signal(16 * lanes, name=f"part_{n}", reset_less=True) for n in range(parts - 1)]
        last = Signal()
        there = Signal()  # the beat of the residual, if it is needed
        taken = Signal()
        sums = []
        old = Signal(16 * lanes)
        m.d.comb += old.eq(Value.cast(self.residual.payload.numbers).word_select(part, 16 * lanes)
                           & residual.replicate(16 * lanes))
        for lane, result in enumerate(results):
            total = Signal(signed(17), name=f"added_{lane}")
            m.d.comb += total.eq(result + old[16 * lane:16 * lane + 16].as_signed())
            sums.append(saturate(total, 16))
        m.d.comb += [
            last.eq(part.all()),
            there.eq(~residual | self.residual.valid),
            self.o.valid.eq(control.valid & last & there),
            Value.cast(self.o.payload).eq(Cat(*held, *sums)),
            control.ready.eq(there & (~last | self.o.ready)),
            taken.eq(self.o.valid & self.o.ready),
            self.residual.ready.eq(taken & residual),
            self.error.eq(self.residual.ready & self.residual.payload.error),
        ]
        with m.If(control.valid & control.ready):
            m.d.sync += part.eq(part + 1)
            m.d.sync += [one.eq(later) for one, later in zip(held, [*held[1:], Cat(sums)])]
        return part, taken
