# SPDX-License-Identifier: Apache-2.0
"""Values times exponents: one accumulator per lane, and the queue of the sums."""

from collections.abc import Iterable

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from golden.validate import integer


def multiples(spec: SpattenSpec) -> data.StructLayout:
    """Return the multiples of an exponent that all lanes choose from.

    ``high`` is for the upper digit of a nibble, ``low`` for the lower: element ``n - 1`` is that of
    digit ``n``; all are 0 where there is no value. ``shift`` says which plane it is, one of the
    bits being set.
    """
    width = spec.PROBABILITY_BITS
    return data.StructLayout({
        "high": data.ArrayLayout(signed(width + 3), 3), "low": data.ArrayLayout(width + 2, 3),
        "shift": 3})


def select(width: int, which: Value, words: Iterable) -> Value:
    """Return the signed word whose bit is set, in ``width`` bits."""
    chosen = Const(0, width)
    for bit, word in zip(which, words, strict=True):
        sign = word[-1] if word.shape().signed else Const(0, 1)
        word = Cat(word, sign.replicate(max(0, width - len(word))))[:width]
        chosen |= word & bit.replicate(width)
    return chosen.as_signed()


class ValueLane(wiring.Component):
    """Accumulate nibbles times exponents: each cycle adds one product, or 0.

    Members
    -------
    multiples : ``In(multiples(spec))``
    nibble : ``In(4)``
    clear : ``In(1)``; the sum begins with this product.
    sum : ``Out(signed(spec.value_bits))``; a register.
    """

    def __init__(self, spec: SpattenSpec):
        self._spec = spec
        super().__init__({
            "multiples": In(multiples(spec)),
            "nibble": In(4),
            "clear": In(1),
            "sum": Out(signed(spec.value_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._spec.PROBABILITY_BITS

        def choose(digit, words):
            which = Cat(digit[0] & ~digit[1], ~digit[0] & digit[1], digit.all())
            return select(len(words[0]), which, words)

        low = Signal(width + 2)
        high = Signal(signed(width + 3))
        product = Signal(signed(width + 5))
        shifted = Signal(signed(width + 13))
        total = Signal(signed(self._spec.value_bits), reset_less=True)
        m.d.comb += [
            low.eq(choose(self.nibble[:2], self.multiples.low)),
            high.eq(choose(self.nibble[2:], self.multiples.high)),
            product.eq(Cat(low[:2], (high + low[2:])[:width + 3]).as_signed()),
            shifted.eq(select(width + 13, self.multiples.shift,
                              [product, product << 4, product << 8])),
            self.sum.eq(total),
        ]
        m.d.sync += total.eq(Mux(self.clear, 0, total) + shifted)
        return m


class Spool(wiring.Component):
    """Queue of wide payloads: they lie in a memory, and nowhere else.

    Latency: 2 cycles. Throughput: 1 payload per cycle. Cost: ``depth`` payloads of memory, whose
    output register is the offer: one more payload has room there.

    Parameters
    ----------
    shape : shape of the payload.
    depth : payloads in memory, a power of two.

    Members
    -------
    i : ``In(stream.Signature(shape))``
    o : ``Out(stream.Signature(shape))``
    """

    LATENCY = 2

    def __init__(self, *, shape: ShapeLike, depth: int):
        integer("depth", depth, 2, 65536)
        self._shape, self._depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=Shape.cast(self._shape).width, depth=self._depth, init=[],
            attrs={"no_rw_check": "1"})
        write, read = memory.write_port(), memory.read_port()
        level = Signal(range(self._depth + 1))  # not yet read
        offered = Signal()
        m.d.comb += [
            self.i.ready.eq(level != self._depth),
            write.en.eq(self.i.valid & self.i.ready),
            write.data.eq(self.i.payload),
            read.en.eq((level != 0) & (~offered | self.o.ready)),
            self.o.valid.eq(offered),
            Value.cast(self.o.payload).eq(read.data),
        ]
        m.d.sync += level.eq(level + write.en - read.en)
        with m.If(write.en):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(read.en):
            m.d.sync += [read.addr.eq(read.addr + 1), offered.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += offered.eq(0)
        return m
