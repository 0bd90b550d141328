# SPDX-License-Identifier: Apache-2.0
"""The MAC line: multipliers that share an accumulator, or keep one each."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.mac import MacSpec


def column_layout(spec: MacSpec) -> data.StructLayout:
    """Return how a column operand reaches its lines: the numbers, or what the lines need of them.

    With ``booth``, digit ``d`` of number ``k``, worth ``4**d``, is 1 (``one[k][d]``), 2
    (``two[k][d]``), -1 (``negative[k][d]`` alone) or 0; in the highest digit ``negative`` stands
    beside ``one`` or ``two`` and makes it -1 or -2, and -0 is a 0. ``carries`` is what the partial
    products lack: 1 for each ``negative``, because they are ones' complements, and an offset,
    because their sign bits are inverted.
    """
    if spec.multiplier == "inferred":
        return data.StructLayout({"b": data.ArrayLayout(signed(spec.b_width), spec.depth)})
    digits = data.ArrayLayout((spec.b_width + 1) // 2, spec.depth)
    return data.StructLayout(
        {"one": digits, "two": digits, "negative": digits, "carries": spec.sum_width})


def prepare(spec: MacSpec, b) -> Value:
    """Return ``b``, ``ArrayLayout(signed(spec.b_width), spec.depth)``, as :func:`column_layout`.

    A pair of bits and the carry from below make 0 to 4: 3 becomes -1 and 4 becomes 0, both with a
    carry. Without -2 a lower digit costs a line 3 gates per bit instead of 4.
    """
    if spec.multiplier == "inferred":
        return Value.cast(b)
    one, two, negative, weights = [], [], [], []
    top = (spec.b_width + 1) // 2 - 1
    for number in b:
        bits, carry = Cat(number, number[-1]), Const(0, 1)
        for d in range(top + 1):
            low, high = bits[2 * d], bits[2 * d + 1]
            odd = low ^ carry
            one.append(odd if d == top else odd & ~high)
            two.append(~odd & (high ^ (low & carry)))
            negative.append(high if d == top else odd & high)
            carry = high & (low | carry)
            weights.append(2 * d)
    offset = Const(-sum(1 << spec.a_width + weight for weight in weights), spec.sum_width)
    carries = tree([bit << weight for bit, weight in zip(negative, weights, strict=True)])
    return Cat(one, two, negative, (carries + offset)[:spec.sum_width])


def tree(terms) -> Value:
    """Add in a balanced tree."""
    half = (len(terms) + 1) // 2
    return terms[0] if len(terms) == 1 else tree(terms[:half]) + tree(terms[half:])


def carry_save(m: Module, words, width: int) -> Value:
    """Add ``words``, pairs of a lowest bit's place and unsigned bits, modulo ``2**width``.

    Full adders make two words of three until two are left. The words that end lowest go first: few
    adders then lack a third bit, and the two words hardly overlap.
    """
    words = list(words)
    for adder in range(len(words) - 2):
        words.sort(key=lambda word: word[0] + len(word[1]))
        three, words = words[:3], words[3:]
        lows = sorted(low for low, _ in three)
        ends = sorted(low + len(bits) for low, bits in three)
        a, b, c = (Cat(Const(0, low - lows[0]), bits, Const(0, ends[2] - low - len(bits)))
                   for low, bits in three)
        half = Signal(ends[2] - lows[0], name=f"half_{adder}")
        total = Signal(ends[2] - lows[0], name=f"total_{adder}")
        carry = Signal(min(ends[1], width - 1) - lows[1], name=f"carry_{adder}")
        m.d.comb += [half.eq(a ^ b), total.eq(half ^ c),
                     carry.eq((half & c | ~half & a)[lows[1] - lows[0]:])]
        words += [(lows[0], total), (lows[1] + 1, carry)]
    return sum(Cat(Const(0, low), bits) for low, bits in words)[:width]


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
            total = carry_save(m, self._partial_products(m), spec.sum_width)
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
        """Return the words whose sum, modulo ``2**sum_width``, is the sum of the products.

        A partial product is a multiple of ``a`` as a ones' complement; its sign bit is inverted, so
        that it counts as a positive number.
        """
        words = [(0, self.b.carries)]
        for k, a in enumerate(self.a):
            one, two, negative = self.b.one[k], self.b.two[k], self.b.negative[k]
            n = len(a) + 1
            for d in range(len(one)):
                partial = Signal(n, name=f"partial_{k}_{d}")
                invert = negative[d].replicate(n)
                multiple = (one[d].replicate(n) & Cat(a, a[-1])
                            | two[d].replicate(n) & Cat(Const(0, 1), a))
                if d < len(one) - 1:
                    multiple |= invert & ~Cat(a, a[-1])
                else:
                    multiple ^= invert
                m.d.comb += partial.eq(multiple ^ 1 << n - 1)
                words.append((2 * d, partial))
        return words
