# SPDX-License-Identifier: Apache-2.0
"""Survivors to the front, in their order."""

from collections.abc import Sequence

from amaranth.hdl import C, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.validate import power_of_two


def ranks(m: Module, name: str, bits: Value) -> tuple[list[Value], Value]:
    """Return how many ones are below each of the bits, and in all: a prefix sum of log2 layers."""
    def halves(low: int, high: int) -> tuple[list[Value], Value]:
        if high - low == 1:
            return [C(0, 0)], bits[low]
        middle = (low + high) // 2
        (left, below), (right, above) = halves(low, middle), halves(middle, high)
        total = Signal(range(high - low + 1), name=f"{name}_total_{low}_{high}")
        m.d.comb += total.eq(below + above)
        later = []
        for lane, rank in enumerate(right, middle):
            later.append(Signal(range(lane - low + 1), name=f"{name}_rank_{lane}_from_{low}"))
            m.d.comb += later[-1].eq(below + rank)
        return left + later, total
    return halves(0, len(bits))


def population(m: Module, name: str, bits: Sequence[Value]) -> Value:
    """Return how many of the bits are ones, by a tree of adders."""
    terms = list(bits)
    layer = 0
    while len(terms) > 1:
        later = []
        for place in range(0, len(terms), 2):
            term = Signal(range(min(len(bits), 2 << layer) + 1), name=f"{name}_{layer}_{place}")
            m.d.comb += term.eq(sum(terms[place:place + 2], C(0, 0)))
            later.append(term)
        terms, layer = later, layer + 1
    return terms[0]


class ZeroEliminator(wiring.Component):
    """Move the items of the lanes that are kept to the lowest lanes, without changing their order.

    Combinational: every lane counts the zeros below it, and ``log2(lanes)`` layers of multiplexers
    move an item by ``2**layer`` lanes if that bit of its count is set. Two items never meet, since
    a later item has as many zeros below it, or more by the gap between the two.

    Parameters
    ----------
    lanes : a power of two.
    shape : shape of the items.

    Members
    -------
    keep : ``In(lanes)``
        The lanes that are kept.
    i : ``In(ArrayLayout(shape, lanes))``
    o : ``Out(ArrayLayout(shape, lanes))``
        Items kept; anything in the lanes from ``count`` on.
    count : ``Out(range(lanes + 1))``
        How many are kept.

    Source
    ------
    Wang, Zhang, Han, "SpAtten", HPCA 2021 (arXiv:2012.09852), section IV-B.
    """

    def __init__(self, *, lanes: int, shape: ShapeLike):
        power_of_two("lanes", lanes, 1, 64)
        self._lanes = lanes
        self._shape = shape
        super().__init__({
            "keep": In(lanes),
            "i": In(data.ArrayLayout(shape, lanes)),
            "o": Out(data.ArrayLayout(shape, lanes)),
            "count": Out(range(lanes + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, width = self._lanes, Shape.cast(self._shape).width
        zeros, gone = ranks(m, "zeros", ~self.keep)
        m.d.comb += self.count.eq(lanes - gone)
        raw = self.i.as_value()
        items = [raw.word_select(lane, width) for lane in range(lanes)]
        keeps = list(self.keep)
        for layer in range((lanes - 1).bit_length()):
            step = 1 << layer
            leaves = [Signal(name=f"leaves_{layer}_{lane}") for lane in range(lanes)]
            m.d.comb += [leave.eq(keep & zero.bit_select(layer, 1) if len(zero) > layer else 0)
                         for leave, keep, zero in zip(leaves, keeps, zeros)]
            later = []
            for lane in range(lanes):
                item = Signal(width, name=f"item_{layer}_{lane}")
                zero = Signal(range(lanes), name=f"zero_{layer}_{lane}")
                keep = Signal(name=f"keep_{layer}_{lane}")
                m.d.comb += [item.eq(items[lane]), zero.eq(zeros[lane]),
                             keep.eq(keeps[lane] & ~leaves[lane])]
                if lane + step < lanes:
                    comes = leaves[lane + step]
                    m.d.comb += [item.eq(Mux(comes, items[lane + step], items[lane])),
                                 zero.eq(Mux(comes, zeros[lane + step], zeros[lane])),
                                 keep.eq(comes | keeps[lane] & ~leaves[lane])]
                later.append((item, zero, keep))
            items, zeros, keeps = (list(column) for column in zip(*later))
        m.d.comb += [self.o.as_value().word_select(lane, width).eq(item)
                     for lane, item in enumerate(items)]
        return m
