# SPDX-License-Identifier: Apache-2.0
"""The k-th greatest score bit by bit, all scores at once."""

from amaranth.hdl import Cat, Module, Mux, Signal

from hw.select.compact import population
from hw.select.engine import Engine


class BitSerial(Engine):
    """Find the threshold one bit after the other, from all scores of a vector in registers.

    Candidates are the scores that begin with the bits found. If those of them whose next bit is 1
    are fewer than the scores to be kept, all of them are kept, and the rest comes from the other
    candidates. One cycle counts, the next one decides.

    From ``start`` to ``done``: ``2 * width`` cycles, whatever the number of entries. Cost: all
    scores in flip-flops, besides the memory from which the survivors leave, and an adder tree
    over all entries. Rows move through the registers as they arrive: their order does not matter.
    With ``spec.buffers`` of 2 the next vector is accepted while the survivors leave.
    """

    def elaborate(self, platform):
        m = Module()
        spec, entries = self._spec, self._spec.rows * self._spec.lanes
        scores = Signal(entries * spec.width, reset_less=True)
        candidates = Signal(entries)
        step = Signal(spec.width, init=1 << spec.width - 1)  # one bit for each
        left = Signal(spec.count_width)
        count = Signal(spec.count_width)
        threshold = Signal(spec.width)
        counting = Signal()
        deciding = Signal()
        beyond = Signal(spec.count_width + 1)
        bits = Signal(entries)  # of every score, that of this step
        m.d.comb += [
            bits.eq(Cat((scores.word_select(n, spec.width) & step).any() for n in range(entries))),
            beyond.eq(left - count),
            self.ready.eq(~counting & ~deciding),
            self.done.eq(deciding & step[0]),
            self.threshold.eq(threshold),
            self.equals.eq(left),
        ]
        m.d.sync += [
            count.eq(population(m, "ones", list(candidates & bits))),
            counting.eq(self.start | deciding & ~step[0]),
            deciding.eq(counting),
        ]
        with m.If(self.start):
            m.d.sync += left.eq(self.keep)
        with m.If(deciding):
            enough = Signal()
            m.d.comb += enough.eq(beyond[-1] | ~beyond[:-1].any())
            m.d.sync += [
                step.eq(step.rotate_right(1)),
                threshold.eq(Cat(enough, threshold)),
                candidates.eq(Mux(self.done, 0, candidates & Mux(enough, bits, ~bits))),
            ]
            with m.If(~enough):
                m.d.sync += left.eq(beyond)
        with m.If(self.load.valid):
            m.d.sync += [scores.eq(Cat(self.load.scores, scores)),
                         candidates.eq(Cat(self.load.mask, candidates))]
        return m
