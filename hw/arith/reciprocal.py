# SPDX-License-Identifier: Apache-2.0
"""The reciprocal of a sum: normalise, look up, multiply, round."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.reciprocal import ReciprocalSpec
from hw.arith.pipeline import pipeline


class Reciprocal(wiring.Component):
    """Turn a sum into a requantiser's factor, as :meth:`ReciprocalSpec.compute` says.

    Four registers: normalised sum, table's entry (constant logic), product, rounded product. A sum
    of 0 is taken for 1.

    Latency: 4 cycles; ``n`` payloads take ``n + 4`` when nothing stalls. Throughput: 1 payload per
    cycle. The pipeline stops as a whole; ``o.ready`` reaches ``i.ready`` combinationally.

    ====================================  ======  =========
    area                                   kGE    registers
    ====================================  ======  =========
    16-bit sums, 8 bits of index           3.60    0.48
    24-bit sums, 3 bits of index           2.78    0.47
    ====================================  ======  =========

    Parameters
    ----------
    spec : ReciprocalSpec
        What to compute.

    Members
    -------
    i : ``In(stream.Signature(StructLayout({"sum": ..., "mul": ...})))``
        ``unsigned(sum_width)`` and ``unsigned(mul_width)``.
    o : ``Out(stream.Signature(StructLayout({"factor": ..., "exponent": ...})))``
        ``unsigned(16)`` and ``unsigned(exponent_width)``: ``F`` and ``k``.
    watch : ``In(1)``
        With a payload: tell its table entry.
    found : ``Out(StructLayout({"valid": 1, "reciprocal": 17, "exponent": ...}))``
        ``r`` and ``k`` of a payload that is watched, for one cycle, 2 cycles or more after it came.

    Source
    ------
    Normalise-and-look-up division is textbook: Parhami, Computer Arithmetic, ch. 16.
    """

    LATENCY = ReciprocalSpec.LATENCY

    def __init__(self, spec: ReciprocalSpec):
        if not isinstance(spec, ReciprocalSpec):
            raise TypeError(f"spec must be a ReciprocalSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "sum": unsigned(spec.sum_width),
                "mul": unsigned(spec.mul_width),
            }))),
            "o": Out(stream.Signature(data.StructLayout({
                "factor": unsigned(spec.FACTOR_WIDTH),
                "exponent": unsigned(spec.exponent_width),
            }))),
            "watch": In(1),
            "found": Out(data.StructLayout({
                "valid": 1,
                "reciprocal": 17,
                "exponent": spec.exponent_width,
            })),
        })

    @property
    def spec(self) -> ReciprocalSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        advance = pipeline(m, self.i, self.o, self.LATENCY)
        fraction, exponent = self._normalise(m, self.i.payload.sum)

        index = Signal(spec.index_bits, reset_less=True)
        value = Signal(17, reset_less=True)
        product = Signal(17 + spec.mul_width, reset_less=True)
        factor = Signal(spec.FACTOR_WIDTH, reset_less=True)
        mul_1 = Signal(spec.mul_width, reset_less=True)
        mul_2 = Signal(spec.mul_width, reset_less=True)
        exponents = [Signal(spec.exponent_width, name=f"exponent_{stage}", reset_less=True)
                     for stage in range(1, self.LATENCY + 1)]
        watched = Signal(2)
        m.d.comb += [
            self.found.valid.eq(watched[1] & advance),
            self.found.reciprocal.eq(value),
            self.found.exponent.eq(exponents[1]),
        ]
        with m.If(advance):
            m.d.sync += [
                watched.eq(Cat(self.i.valid & self.watch, watched)),
                index.eq(fraction), mul_1.eq(self.i.payload.mul),
                value.eq(self._look_up(index)), mul_2.eq(mul_1),
                product.eq(value * mul_2),
                factor.eq((product >> 17) + product[16]),
            ]
            m.d.sync += [later.eq(sooner)
                         for sooner, later in zip([exponent, *exponents], exponents)]
        m.d.comb += [self.o.payload.factor.eq(factor), self.o.payload.exponent.eq(exponents[-1])]
        return m

    def _normalise(self, m: Module, x: Value) -> tuple[Value, Value]:
        """Return the ``index_bits`` bits below the leading one of ``x``, and its index.

        ``x`` moves up by halving steps while its top bits are zero; below, each step keeps only
        what the later ones can still bring into the index.
        """
        below, width = self._spec.index_bits, self._spec.exponent_width
        zeros = Signal(width)
        x = Cat(Const(0, below), x, Const(0, (1 << width) - len(x)))
        for k in reversed(range(width)):
            step = 1 << k
            m.d.comb += zeros[k].eq(~x[-step:].any())
            moved = Signal(below + step, name=f"moved_{step}")
            m.d.comb += moved.eq(Mux(zeros[k], x[:-step], x[step:]))
            x = moved
        return x[:below], ~zeros

    def _look_up(self, index: Signal) -> Value:
        """Return the table's entry, bit by bit, as truth tables of ``index``."""
        table = self._spec.table
        columns = [sum(int(entry >> bit & 1) << row for row, entry in enumerate(table))
                   for bit in range(17)]
        return Cat(*(Const(column, len(table)).bit_select(index, 1) for column in columns))
