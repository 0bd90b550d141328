# SPDX-License-Identifier: Apache-2.0
"""The MAC line: multipliers that share an accumulator, or keep one each."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.mac import MacSpec
from hw.arith.product import Digit, carry_save, digits, partial


def column_layout(spec: MacSpec) -> data.StructLayout:
    """Return how a column operand reaches its lines: the numbers, or what the lines need of them.

    With ``booth``, ``one[k][d]``, ``two[k][d]`` and ``negative[k][d]`` are
    :class:`~hw.arith.product.Digit` ``d`` of number ``k``, and ``carries`` is what the partial
    products lack: 1 for each ``negative``, and less than 0 for their inverted sign bits.
    """
    if spec.multiplier == "inferred":
        return data.StructLayout({"b": data.ArrayLayout(signed(spec.b_width), spec.depth)})
    digits = data.ArrayLayout((spec.b_width + 1) // 2, spec.depth)
    return data.StructLayout(
        {"one": digits, "two": digits, "negative": digits, "carries": spec.sum_width})


def prepare(spec: MacSpec, b) -> Value:
    """Return ``b``, ``ArrayLayout(signed(spec.b_width), spec.depth)``, as :func:`column_layout`."""
    if spec.multiplier == "inferred":
        return Value.cast(b)
    found = [(2 * d, digit) for number in b for d, digit in enumerate(digits(number))]
    one, two, negative = ([digit[n] for _, digit in found] for n in range(3))
    offset = Const(-sum(1 << spec.a_width + place for place, _ in found), spec.sum_width)
    carries = tree([digit.negative << place for place, digit in found])
    return Cat(one, two, negative, (carries + offset)[:spec.sum_width])


def tree(terms) -> Value:
    """Add in a balanced tree."""
    half = (len(terms) + 1) // 2
    return terms[0] if len(terms) == 1 else tree(terms[:half]) + tree(terms[half:])


class MacLine(wiring.Component):
    """Multiply ``depth`` numbers with ``depth`` others and accumulate the products.

    A pipeline without control: whoever drives the operands (:class:`~hw.array.array.MacArray`)
    says when each row of registers takes a step in.

    =====================  =========================  ===================================
    built                  ``multiply``               ``add``
    =====================  =========================  ===================================
    inferred, dot          products                   their sum
    inferred, both modes   products                   their sum, and the products again
    inferred, lanes        not used                   products
    booth                  not used                   the sum of all partial products
    =====================  =========================  ===================================

    Parameters
    ----------
    spec : MacSpec

    Members
    -------
    a : ``In(ArrayLayout(signed(spec.a_width), spec.depth))``
    b : ``In(column_layout(spec))``
    multiply, add, accumulate : ``In(1)``
        Enable the three rows of registers.
    first : ``In(1)``
        With ``accumulate``: start a new sum.
    lanes, accumulate_lanes : ``In(1)``, if both modes are built
        With ``add``: keep the products apart; with ``accumulate``: in the other lanes, too.
    acc : ``Out(ArrayLayout(signed(spec.acc_width), spec.accumulators))``
    """

    def __init__(self, spec: MacSpec):
        if not isinstance(spec, MacSpec):
            raise TypeError(f"spec must be a MacSpec, not {spec!r}")
        self._spec = spec
        members = {
            "a": In(data.ArrayLayout(signed(spec.a_width), spec.depth)),
            "b": In(column_layout(spec)),
            "multiply": In(1),
            "add": In(1),
            "accumulate": In(1),
            "first": In(1),
            "acc": Out(data.ArrayLayout(signed(spec.acc_width), spec.accumulators)),
        }
        if len(spec.modes) == 2:
            members |= {"lanes": In(1), "accumulate_lanes": In(1)}
        super().__init__(members)

    @property
    def spec(self) -> MacSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, width = self._spec, self._spec.a_width + self._spec.b_width

        def registers(name, enable, width, values):
            row = [Signal(signed(width), name=f"{name}_{k}", reset_less=True)
                   for k in range(len(values))]
            with m.If(enable):
                m.d.sync += [x.eq(y) for x, y in zip(row, values, strict=True)]
            return row

        if spec.multiplier == "booth":
            total = carry_save(m, "tree", self._partial_products(m), spec.sum_width)
            addends = registers("sum", self.add, spec.sum_width, [total])
        else:
            products = [a * b for a, b in zip(self.a, self.b.b, strict=True)]
            enable = self.multiply if "dot" in spec.modes else self.add
            addends = registers("product", enable, width, products)
            if "dot" in spec.modes:
                total, apart = tree(addends), []
                if "lanes" in spec.modes:
                    total, apart = Mux(self.lanes, addends[0], total), addends[1:]
                addends = [*registers("sum", self.add, spec.sum_width, [total]),
                           *registers("lane", self.add, width, apart)]
        for k, addend in enumerate(addends):
            acc = Signal(signed(spec.acc_width), name=f"acc_{k}", reset_less=True)
            m.d.comb += self.acc[k].eq(acc)
            enable = self.accumulate_lanes if k and "dot" in spec.modes else self.accumulate
            with m.If(enable):
                m.d.sync += acc.eq(Mux(self.first, 0, acc) + addend)
        return m

    def _partial_products(self, m):
        """Return the words whose sum, modulo ``2**sum_width``, is the sum of the products."""
        words = [(0, self.b.carries)]
        for k, a in enumerate(self.a):
            count = len(self.b.one[k])
            for d in range(count):
                digit = Digit(self.b.one[k][d], self.b.two[k][d], self.b.negative[k][d],
                              d == count - 1)
                word = Signal(len(a) + 1, name=f"partial_{k}_{d}")
                m.d.comb += word.eq(partial(a, digit))
                words.append((2 * d, word))
        return words
