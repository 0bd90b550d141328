# SPDX-License-Identifier: Apache-2.0
"""Activation functions between the requantiser and the store."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.activation import ActivationKind, ActivationSpec
from hw.arith.pipeline import pipeline
from hw.arith.requant import Requant
from hw.arith.saturate import saturate, saturate_unsigned
from hw.arith.table import Table


class Activation(wiring.Component):
    """Apply the activation that comes with the data, as :meth:`ActivationSpec.compute` says.

    ::

        q -+- saturate ----------------- reg -+
           +- index -- table (registered) ----+- or -- reg -+------------------------ o
           +- p, clip(p + c3) -- reg -- x ----+             +- x mul >> shift (3) --- o

    Without HARDSWISH the second register is the output. With it, all results go through the
    requantiser, the others times 1 and shifted by 0: no registers wait beside it. Only what
    ``spec.kinds`` names is built; another kind gives 0 (anything, if but one is built).

    Latency: 2 cycles, or 5 with HARDSWISH, for all kinds alike; ``n`` payloads take
    ``n + latency`` when nothing stalls. Throughput: 1 payload per cycle. The pipeline stops as a
    whole; ``o.ready`` reaches ``i.ready`` combinationally.

    ===============================  ======  =========  ===========
    area, 8 lanes of 16 bits to 8     kGE    registers  memory bits
    ===============================  ======  =========  ===========
    NONE, RELU                        1.35    0.56                0
    NONE, RELU, TABLE                 2.84    0.68           65,536
    all                              44.5     4.2            65,536
    ===============================  ======  =========  ===========

    Parameters
    ----------
    spec : ActivationSpec
        What to compute.

    Members
    -------
    i : ``In(stream.Signature(StructLayout({"q": ..., "kind": ActivationKind})))``
        Pre-activations, ``ArrayLayout(signed(in_width), lanes)``, and what to do with them.
    c3, mul, shift : ``In(unsigned(hardswish_width))``, ``In(unsigned(16))``, ``In(unsigned(6))``
        Of Hardswish: ``round(3 / scale)``, and the factor of its requantiser. Constant while data
        is in flight.
    load : ``In(stream.Signature(Table.load_shape(spec.table_spec)))``
        Words of the table, signed entries as raw bits. Always ready.
    o : ``Out(stream.Signature(ArrayLayout(unsigned(width), lanes)))``
        Raw bits: signed, but after RELU unsigned.

    Source
    ------
    Howard et al., ICCV 2019 (arXiv:1905.02244), for Hardswish; tables are exact for each index.
    """

    def __init__(self, spec: ActivationSpec):
        if not isinstance(spec, ActivationSpec):
            raise TypeError(f"spec must be an ActivationSpec, not {spec!r}")
        self._spec = spec
        requant = spec.hardswish_requant
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "q": data.ArrayLayout(signed(spec.in_width), spec.lanes),
                "kind": ActivationKind,
            }))),
            "c3": In(unsigned(spec.hardswish_width)),
            "mul": In(unsigned(requant.mul_width)),
            "shift": In(unsigned(requant.shift_width)),
            "load": In(stream.Signature(Table.load_shape(spec.table_spec))),
            "o": Out(stream.Signature(data.ArrayLayout(unsigned(spec.width), spec.lanes))),
        })

    @property
    def spec(self) -> ActivationSpec:
        """What is implemented."""
        return self._spec

    @property
    def latency(self) -> int:
        """Cycles from ``i`` to ``o``."""
        return self._spec.latency

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        built = set(spec.kinds)
        hardswish = ActivationKind.HARDSWISH in built
        q, kind = self.i.payload.q, self.i.payload.kind
        kind_1 = Signal(ActivationKind, reset_less=True)
        kind_2 = Signal(ActivationKind, reset_less=True)
        out = self.o
        if hardswish:
            m.submodules.requant = requant = Requant(spec.hardswish_requant)
            out = requant.i
        advance = pipeline(m, self.i, out, 2)
        with m.If(advance):
            m.d.sync += [kind_1.eq(kind), kind_2.eq(kind_1)]
        if ActivationKind.TABLE in built:
            m.submodules.look_up = table = Table(spec.table_spec)
            connect(m, flipped(self.load), table.load)
            m.d.comb += table.enable.eq(advance & (kind == ActivationKind.TABLE))
        else:
            m.d.comb += self.load.ready.eq(1)

        def gate(kind: Value, one: ActivationKind, value: Value) -> Value:
            """Return ``value`` where ``kind`` is ``one``, else 0: the results are then or-ed."""
            return value if len(built) == 1 else Mux(kind == one, value, 0)

        for lane in range(spec.lanes):
            first, second = [], []  # results of cycle 1 and of cycle 2
            if ActivationKind.NONE in built:
                first.append(gate(kind, ActivationKind.NONE, saturate(q[lane], spec.width)))
            if ActivationKind.RELU in built:
                first.append(gate(kind, ActivationKind.RELU,
                                  saturate_unsigned(q[lane], spec.width)))
            if first:
                clipped = Signal(signed(spec.width), name=f"clipped_{lane}", reset_less=True)
                with m.If(advance):
                    m.d.sync += clipped.eq(reduce(or_, first))
                second.append(clipped)
            if ActivationKind.TABLE in built:
                index = saturate(q[lane], spec.table_width)
                m.d.comb += table.index[lane].eq(Cat(index[:-1], ~index[-1]))
                second.append(gate(kind_1, ActivationKind.TABLE, table.value[lane].as_signed()))
            if hardswish:
                product = self._product(m, q[lane], advance, lane)
                second.append(gate(kind_1, ActivationKind.HARDSWISH, product))
            result = Signal(signed(requant.spec.acc_width if hardswish else spec.width),
                            name=f"result_{lane}", reset_less=True)
            with m.If(advance):
                m.d.sync += result.eq(reduce(or_, second))
            if hardswish:
                # Other results pass the requantiser unchanged: times 1, shifted by 0.
                passes = (kind_2 != ActivationKind.HARDSWISH) & (len(built) > 1)
                m.d.comb += [
                    requant.i.payload.acc[lane].eq(result),
                    requant.i.payload.mul[lane].eq(Mux(passes, 1, self.mul)),
                    requant.i.payload.shift[lane].eq(Mux(passes, 0, self.shift)),
                    self.o.payload[lane].eq(requant.o.payload[lane]),
                ]
            else:
                m.d.comb += self.o.payload[lane].eq(result)
        if hardswish:
            m.d.comb += [self.o.valid.eq(requant.o.valid), requant.o.ready.eq(self.o.ready)]
        return m

    def _product(self, m: Module, q: Value, advance: Signal, lane: int) -> Value:
        """Return ``p * clip(p + c3, 0, 2 * c3)`` of registered factors."""
        width = self._spec.hardswish_width
        p = Signal(signed(width), name=f"p_{lane}")
        moved = Signal(signed(width + 2), name=f"moved_{lane}")
        factor = Signal(signed(width), name=f"factor_{lane}", reset_less=True)
        clipped = Signal(width + 1, name=f"gate_{lane}", reset_less=True)
        m.d.comb += [p.eq(saturate(q, width)), moved.eq(p + self.c3)]
        with m.If(advance):
            m.d.sync += [
                factor.eq(p),
                clipped.eq(Mux(moved < 0, 0, Mux(p > self.c3, self.c3 << 1, moved))),
            ]
        return factor * clipped

