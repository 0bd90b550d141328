# SPDX-License-Identifier: Apache-2.0
"""The dot product of a vector with digits of 2 bits."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.arith.product import Digit, carry_save, partial


class DigitDot(wiring.Component):
    """Add ``query[d] * (digit[d] - 1)`` over all lanes, or each half of them, without a register.

    With a digit of -1 to 2 a product is one partial product, where 0 to 3 takes two.

    Members
    -------
    query : ``In(ArrayLayout(signed(spec.QUERY_BITS), spec.lanes))``
    digit : ``In(ArrayLayout(2, spec.lanes))``
    totals : ``Out(ArrayLayout(signed(width), spec.sharing))``
        ``width = spec.QUERY_BITS + 1 + log2(lanes of a part)``.
    """

    def __init__(self, spec: SpattenSpec):
        self._spec = spec
        self.width = spec.QUERY_BITS + (spec.lanes // spec.sharing).bit_length()
        super().__init__({
            "query": In(data.ArrayLayout(signed(spec.QUERY_BITS), spec.lanes)),
            "digit": In(data.ArrayLayout(2, spec.lanes)),
            "totals": Out(data.ArrayLayout(signed(self.width), spec.sharing)),
        })

    def elaborate(self, platform):
        m = Module()
        words = []
        for lane in range(self._spec.lanes):
            low, high = self.digit[lane][0], self.digit[lane][1]
            digit = Digit(high & ~low, high & low, ~high & ~low, False)
            one, two, negative = (Signal(name=f"{kind}_{lane}") for kind in Digit._fields[:3])
            word = Signal(self._spec.QUERY_BITS + 1, name=f"partial_{lane}")
            m.d.comb += [
                one.eq(digit.one), two.eq(digit.two), negative.eq(digit.negative),
                word.eq(partial(self.query[lane], Digit(one, two, negative, False))),
            ]
            words += [(0, word), (0, negative)]
        size = len(words) // len(self.totals)
        for part, wanted in enumerate(self.totals):
            total = Signal(self.width, name=f"total_{part}")
            m.d.comb += [
                total.eq(carry_save(m, f"tree_{part}", words[part * size:(part + 1) * size],
                                    self.width)),
                # each product was counted 2**QUERY_BITS too large
                wanted.eq(Cat(total[:-1], ~total[-1]).as_signed()),
            ]
        return m
