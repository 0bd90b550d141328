# SPDX-License-Identifier: Apache-2.0
"""The register slice that separates blocks."""

from amaranth.hdl import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Slice(wiring.Component):
    """Register slice: no combinational path crosses it, in either direction.

    ``head`` waits for the consumer; ``spare`` catches the payload that is on its way when the
    consumer stops. Latency: 1 cycle. Throughput: 1 payload per cycle. Cost: 2 payloads of
    flip-flops; 0.14 kGE for 8 bits, 1.02 kGE for 64.

    Parameters
    ----------
    shape : shape of the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
    o : ``Out(stream.Signature(shape))``
    """

    LATENCY = 1

    def __init__(self, shape: ShapeLike):
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        head = Signal(self._shape, reset_less=True)
        spare = Signal(self._shape, reset_less=True)
        head_full = Signal()
        spare_full = Signal()
        m.d.comb += [
            self.i.ready.eq(~spare_full),
            self.o.valid.eq(head_full),
            self.o.payload.eq(head),
        ]
        with m.If(~head_full | self.o.ready):
            m.d.sync += [
                Value.cast(head).eq(Mux(spare_full, spare, self.i.payload)),
                head_full.eq(spare_full | self.i.valid),
                spare_full.eq(0),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += spare_full.eq(1)
        with m.If(~spare_full):  # whether it is needed is known late
            m.d.sync += spare.eq(self.i.payload)
        return m
