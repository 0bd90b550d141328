# SPDX-License-Identifier: Apache-2.0
"""Softmax of the SpAtten core: distances to the greatest score, exponents, probabilities."""

from operator import add
from typing import Any

from amaranth.hdl import C, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.attention import octave
from golden.spatten.spec import SpattenSpec
from hw.attention.maximum import fold


def mark_layout(spec: SpattenSpec) -> data.StructLayout:
    """Return what goes with a row of keys: whether it is one, its vector's first or last; which
    channels have a key in it."""
    return data.StructLayout({"valid": 1, "first": 1, "last": 1, "there": spec.channels})


class Exponents(wiring.Component):
    """Turn rows of scores into distances, exponents and their sum.

    As :func:`golden.spatten.attention.distances` and ``exponents`` say. A key of each channel per
    cycle; nothing stalls. Registers: difference; shifted and saturated; distance; exponent; two
    layers of additions each; sum.

    Latency: ``DISTANCE`` cycles from scores to distances, ``EXPONENT`` to exponents, and
    ``EXPONENT + 1 + log2(channels) // 2`` from a vector's last scores to its sum.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    mark : ``In(mark_layout(spec))``
    scores : ``In(ArrayLayout(signed(spec.acc_bits), channels))``
        A row, together with its mark; where no key is there, they do not matter.
    highest : ``In(signed(spec.acc_bits))``
        The greatest score of the vector, together with each of its rows.
    shift : ``In(5)``, mul : ``In(8)``
        Constant while rows are inside.
    distance : ``Out(ArrayLayout(unsigned(9), channels))``
    exponent : ``Out(ArrayLayout(unsigned(12), channels))``
        0 where no key is.
    total : ``Out(unsigned(spec.sum_bits))``
    done : ``Out(1)``
        For one cycle: ``total`` is that of a vector.
    """

    DISTANCE = 3
    EXPONENT = 4

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        c = spec.channels
        super().__init__({
            "mark": In(mark_layout(spec)),
            "scores": In(data.ArrayLayout(signed(spec.acc_bits), c)),
            "highest": In(signed(spec.acc_bits)),
            "shift": In(5),
            "mul": In(8),
            "distance": Out(data.ArrayLayout(unsigned(spec.DISTANCE_BITS), c)),
            "exponent": Out(data.ArrayLayout(unsigned(spec.PROBABILITY_BITS), c)),
            "total": Out(spec.sum_bits),
            "done": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        marks: list[Any] = [self.mark]
        for stage in ("difference", "step", "distance", "exponent"):
            marks.append(Signal(self.mark.shape(), name=f"mark_{stage}"))
            m.d.sync += marks[-1].eq(marks[-2])
        exponents = []
        for c in range(spec.channels):
            difference = Signal(spec.acc_bits, name=f"difference_{c}", reset_less=True)
            step = Signal(spec.STEP_BITS, name=f"step_{c}", reset_less=True)
            distance = Signal(spec.DISTANCE_BITS, name=f"distance_{c}", reset_less=True)
            exponent = Signal(spec.PROBABILITY_BITS, name=f"exponent_{c}", reset_less=True)
            steps, lost = _shifted(m, f"steps_{c}", difference, self.shift, spec.STEP_BITS)
            half = Signal(spec.STEP_BITS, name=f"half_{c}")  # of a step, of a distance
            rounded = Signal(spec.STEP_BITS, name=f"rounded_{c}")
            m.d.comb += [
                half.eq((step * self.mul) >> 8),
                rounded.eq((half + 1) >> 1),
                self.distance[c].eq(distance), self.exponent[c].eq(exponent),
            ]
            m.d.sync += [
                difference.eq(self.highest - self.scores[c]),
                step.eq(steps | lost.replicate(spec.STEP_BITS)),
                distance.eq(_saturated(rounded, spec.DISTANCE_BITS)),
                exponent.eq(Mux(marks[self.DISTANCE].there[c], self._exponent(distance), 0)),
            ]
            exponents.append(exponent)
        end = marks[self.EXPONENT]
        some: Any = Signal(data.StructLayout({"valid": 1, "first": 1, "last": 1}))
        m.d.comb += [some.valid.eq(end.valid), some.first.eq(end.first), some.last.eq(end.last)]
        row, ends = fold(m, "sum", exponents, add, layers=2, mark=some)
        now = ends[-1]
        m.d.sync += self.done.eq(now.valid & now.last)
        with m.If(now.valid):
            m.d.sync += self.total.eq(Mux(now.first, 0, self.total) + row)
        return m

    def _exponent(self, distance: Value) -> Value:
        """Return ``2**-distance`` by truth tables of its fraction, and a shift."""
        spec = self._spec
        fraction, whole = distance[:spec.OCTAVE_BITS], distance[spec.OCTAVE_BITS:]
        table = octave()
        columns = [sum(int(entry >> bit & 1) << row for row, entry in enumerate(table))
                   for bit in range(spec.PROBABILITY_BITS)]
        value = Cat(C(0, 1), *(Const(column, len(table)).bit_select(fraction, 1)
                               for column in columns))
        return ((value >> whole) + 1) >> 1


class Probabilities(wiring.Component):
    """Divide rows of exponents by their sum: :func:`golden.spatten.attention.probabilities`.

    Latency: 1 cycle, the product's; the rest is combinational. Throughput: a row per cycle.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    exponent : ``In(ArrayLayout(unsigned(12), channels))``
    reciprocal : ``In(12)``, shift : ``In(unsigned(spec.reciprocal.exponent_width))``
        With the exponents: ``r >> 5`` and ``k`` of a sum of which each exponent is a part.
    probability : ``Out(ArrayLayout(unsigned(12), channels))``
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        row = data.ArrayLayout(unsigned(spec.PROBABILITY_BITS), spec.channels)
        super().__init__({
            "exponent": In(row),
            "reciprocal": In(12),
            "shift": In(spec.reciprocal.exponent_width),
            "probability": Out(row),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        width = self._spec.PROBABILITY_BITS
        shift = Signal.like(self.shift, reset_less=True)
        m.d.sync += shift.eq(self.shift)
        for c, exponent in enumerate(self.exponent):
            product = Signal(2 * width, name=f"product_{c}", reset_less=True)
            # An exponent is less than 2**(k + 1), and r >> 5 less than 2**12.
            half, _ = _shifted(m, f"half_{c}", Cat(C(0, 1), product), shift, width + 2)
            rounded = Signal(width + 1, name=f"rounded_{c}")
            m.d.sync += product.eq(exponent * self.reciprocal)
            m.d.comb += [
                rounded.eq((half + 1) >> 1),
                self.probability[c].eq(_saturated(rounded, width)),
            ]
        return m


def _shifted(m: Module, name: str, x: Value, shift: Value, width: int) -> tuple[Value, Value]:
    """Return ``width`` bits of unsigned ``x >> shift``, and whether there are more.

    The greatest steps come first: each keeps only what the later ones can still bring down.
    """
    lost: Value = C(0, 1)
    for bit in reversed(range(len(shift))):
        step = 1 << bit
        moved = Signal(len(x), name=f"{name}_{step}")
        m.d.comb += moved.eq(Mux(shift[bit], x >> step, x))
        lost = lost | moved[width + step - 1:].any()
        x = moved[:width + step - 1]
    return x, lost


def _saturated(x: Value, width: int) -> Value:
    """Return unsigned ``x`` in ``width`` bits."""
    return x[:width] | x[width:].any().replicate(width)
