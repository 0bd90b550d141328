# SPDX-License-Identifier: Apache-2.0
"""The k-th greatest score digit by digit, in a number of cycles that does not depend on scores."""

from typing import Any

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden.topk import TopKSpec
from hw.select.compact import population
from hw.select.engine import Engine


class Histogram(wiring.Component):
    """Count what a bisection wants to know about the digits shown.

    For a ``node`` whose lowest 1 is bit ``b``: how many digits equal it in that bit and all above.
    These are the digits of the upper half, if ``b`` divides those that equal ``node`` above it; so
    every digit of ``size`` bits is found with ``size`` of the ``2**size - 1`` counts. A digit
    counts 2 cycles after it was shown.

    Parameters
    ----------
    spec : TopKSpec
        Its ``lanes``, ``digit`` and ``n``.

    Members
    -------
    digits : ``In(unsigned(spec.digit * spec.lanes))``
    mask : ``In(spec.lanes)``
        The lanes that count.
    clear : ``In(1)``
        Forget what was shown before this cycle.
    node : ``In(unsigned(spec.digit))``
        At least 1.
    count : ``Out(unsigned(spec.count_width))``
        Combinational.
    """

    def __init__(self, spec: TopKSpec):
        self._spec = spec
        super().__init__({
            "digits": In(unsigned(spec.digit * spec.lanes)),
            "mask": In(spec.lanes),
            "clear": In(1),
            "node": In(unsigned(spec.digit)),
            "count": Out(unsigned(spec.count_width)),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        digits = [self.digits.word_select(lane, spec.digit) for lane in range(spec.lanes)]
        counts: list[Value] = [C(0, spec.count_width)]
        for node in range(1, 1 << spec.digit):
            low = (node & -node).bit_length() - 1
            hits = [mask & (digit[low:] == node >> low) for mask, digit in zip(self.mask, digits)]
            some = Signal(range(spec.lanes + 1), name=f"some_{node}")
            count = Signal(spec.count_width, name=f"count_{node}")
            m.d.sync += [some.eq(population(m, f"hits_{node}", hits)),
                         count.eq(Mux(self.clear, 0, count + some))]
            counts.append(count)
        m.d.comb += self.count.eq(Array(counts)[self.node])
        return m


class Radix(Engine):
    """Find the threshold one digit after the other, the most significant one first.

    A histogram of the first digit is made while a vector is loaded. The digit is then found bit by
    bit: if the scores of the upper half are fewer than those to be kept, all of them are kept, and
    the rest comes from the lower half. The next digit is looked for among the scores that begin
    with the digits found, in a new histogram, for which the vector is scanned again. Nothing
    special happens when ``keep`` is 0 (all bits found are 1, and none of the equal scores is kept)
    or exceeds the number of scores (all bits are 0).

    From ``start`` to ``done``: ``digits * digit + (digits - 1) * (rows + 1)`` cycles.

    With ``spec.buffers`` of 2 the vector that is loaded has a histogram of its own; ``ready`` is
    low only while its first digit is looked for.
    """

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        size, steps = spec.digit, spec.digits
        m.submodules.histogram = histogram = Histogram(spec)
        threshold = Signal(size * steps)
        left = Signal(spec.count_width)  # of keep, among the scores that begin with the threshold
        step = Signal(steps, init=1)  # the digit that is counted or looked for, one bit for each
        bit = Signal(size, init=1 << size - 1)  # of the digit, one bit for each
        choosing = Signal()
        draining = Signal()
        digit_end = Signal()
        m.d.comb += [
            self.threshold.eq(threshold[size * steps - spec.width:]),
            self.equals.eq(left),
            digit_end.eq(choosing & bit[0]),
            self.done.eq(digit_end & step[-1]),
            self.scan.eq(digit_end & ~step[-1]),
        ]
        m.d.sync += draining.eq(self.row.valid & self.row.last & ~step[0])
        with m.If(self.start | draining):
            m.d.sync += choosing.eq(1)
        with m.If(choosing):
            m.d.sync += bit.eq(bit.rotate_right(1))
        with m.If(digit_end):
            m.d.sync += [choosing.eq(0), step.eq(step.rotate_left(1))]

        # The first step has the topmost digit.
        found = [threshold.word_select(steps - 1 - n, size) for n in range(steps)]
        node = Signal(size)
        reached = Signal(spec.count_width)
        beyond = Signal(spec.count_width + 1)
        m.d.comb += [
            node.eq(self._by_step(step, found) | bit),
            beyond.eq(left - reached),
        ]
        with m.If(self.start):
            m.d.sync += [threshold.eq(0), left.eq(self.keep)]
        with m.Elif(choosing):
            with m.If(~beyond[-1] & beyond[:-1].any()):
                m.d.sync += left.eq(beyond)
            with m.Else():
                m.d.sync += threshold.eq(threshold | Cat(
                    step[steps - 1 - n].replicate(size) & bit for n in range(steps)))

        loaded = [self._digits(score)[0] for score in self.load.scores]
        scanned = []
        matches = []
        for lane in range(spec.lanes):
            digits = self._digits(self.row.scores[lane])
            same = [digit == so_far for digit, so_far in zip(digits[:-1], found)]
            match = Signal(name=f"match_{lane}")
            # In step n the first n digits must be the same.
            m.d.comb += match.eq(Cat(one | step[:n + 1].any() for n, one in enumerate(same)).all())
            matches.append(match)
            scanned.append(self._by_step(step[1:], digits[1:]))
        load_mask = self.load.mask & self.load.valid.replicate(spec.lanes)
        row_mask = self.row.mask & Cat(matches) & self.row.valid.replicate(spec.lanes)
        if spec.buffers == 1:
            m.d.comb += [
                self.ready.eq(1),
                histogram.digits.eq(Mux(step[0], Cat(loaded), Cat(scanned))),
                histogram.mask.eq(Mux(step[0], load_mask, row_mask)),
                histogram.clear.eq(digit_end),
                histogram.node.eq(node),
                reached.eq(histogram.count),
            ]
            return m
        m.submodules.arriving = arriving = Histogram(spec)
        m.d.comb += [
            self.ready.eq(~(choosing & step[0])),
            arriving.digits.eq(Cat(loaded)),
            arriving.mask.eq(load_mask),
            arriving.clear.eq(digit_end & step[0]),
            arriving.node.eq(node),
            histogram.digits.eq(Cat(scanned)),
            histogram.mask.eq(row_mask & ~step[0].replicate(spec.lanes)),
            histogram.clear.eq(digit_end),
            histogram.node.eq(node),
            reached.eq(Mux(step[0], arriving.count, histogram.count)),
        ]
        return m

    def _digits(self, score: Any) -> list[Value]:
        """Return the digits of a score, the most significant one first; zeros fill the last."""
        size, steps = self._spec.digit, self._spec.digits
        padded = Cat(C(0, size * steps - self._spec.width), score)
        return [padded.word_select(steps - 1 - n, size) for n in range(steps)]

    def _by_step(self, step: Value, values: list[Value]) -> Value:
        """Return the value of the step, whose bit alone is set."""
        chosen = C(0, self._spec.digit)
        for one, value in zip(step, values):
            chosen = chosen | one.replicate(self._spec.digit) & value
        return chosen
