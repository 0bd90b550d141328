# SPDX-License-Identifier: Apache-2.0
"""The MAC line: multipliers that share an accumulator, or keep one each."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.mac import MacSpec


def column_layout(spec: MacSpec) -> data.StructLayout:
    """Return how a column operand reaches its lines: the numbers, or what the lines need of them.

    With ``booth``, digit ``d`` of number ``k`` is worth ``4**d`` times 0, 1 (``one[k][d]``) or 2
    (``two[k][d]``), negative if ``negative[k][d]``, and ``carries`` is what the partial products
    lack: 1 for each negative digit, because they are ones' complements, and an offset, because
    their sign bits are inverted.
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
    one, two, negative, weights = [], [], [], []
    for number in b:
        bits = Cat(Const(0, 1), number, number[-1])  # digit d is made of bits 2 d to 2 d + 2
        for d in range((spec.b_width + 1) // 2):
            one.append(bits[2 * d] ^ bits[2 * d + 1])
            two.append((bits[2 * d] == bits[2 * d + 1]) & (bits[2 * d + 1] != bits[2 * d + 2]))
            negative.append(bits[2 * d + 2])
            weights.append(2 * d)
    offset = sum(1 << spec.a_width + weight for weight in weights)
    carries = tree([bit << weight for bit, weight in zip(negative, weights, strict=True)])
    width = spec.sum_width
    return Cat(one, two, negative, (carries + Const(-offset % (1 << width), width))[:width])


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
            addends = registers("sum", self.add, spec.sum_width, [tree(self._partial_products(m))])
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
        """Return the rows whose sum, modulo ``2**sum_width``, is the sum of the products.

        A partial product is 0, ``a`` or ``2 * a``, inverted if the digit is negative; its sign bit
        is inverted once more, so that it counts as a positive number.
        """
        rows = [self.b.carries]
        for k, a in enumerate(self.a):
            one, two, negative = self.b.one[k], self.b.two[k], self.b.negative[k]
            n = len(a) + 1
            for d in range(len(one)):
                row = Signal(n, name=f"partial_{k}_{d}")
                once = one[d].replicate(n) & Cat(a, a[-1])
                twice = two[d].replicate(n) & Cat(Const(0, 1), a)
                signs = Cat(negative[d].replicate(n - 1), ~negative[d])
                m.d.comb += row.eq((once | twice) ^ signs)
                rows.append(row << 2 * d)
        return rows
