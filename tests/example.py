# SPDX-License-Identifier: Apache-2.0
"""A small component with everything that emission and simulation must get right."""

from dataclasses import dataclass

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.data import ArrayLayout
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


@dataclass(frozen=True, kw_only=True)
class DotSpec:
    """Dot product of a row of signed bytes with fixed weights 1, 2, 3 ..."""

    lanes: int = 4

    @property
    def weight(self):
        return [lane + 1 for lane in range(self.lanes)]

    def cycles(self, rows):
        """From the end of the reset to the last result: start, load, one row each, pipeline."""
        return 1 + self.lanes + rows + 1


class Lane(wiring.Component):
    """Multiply by a weight kept in a register. Combinational, but for that register."""

    def __init__(self):
        super().__init__({"x": In(signed(8)), "weight": In(8), "load": In(1), "y": Out(signed(24))})

    def elaborate(self, platform):
        m = Module()
        weight = Signal(8)
        with m.If(self.load):
            m.d.sync += weight.eq(self.weight)
        m.d.comb += self.y.eq(self.x * weight)
        return m


class Dot(wiring.Component):
    """Load the weights from a memory, then stream dot products: an FSM, a memory, equal lanes."""

    def __init__(self, spec: DotSpec):
        self.spec = spec
        super().__init__(
            {
                "i": In(stream.Signature(ArrayLayout(signed(8), spec.lanes))),
                "o": Out(stream.Signature(signed(24))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = self.spec.lanes
        m.submodules.weights = weights = Memory(
            shape=8, depth=lanes, init=self.spec.weight, attrs={"ram_style": "block"}
        )
        read = weights.read_port()
        index = Signal(range(lanes + 1))
        total = Signal(signed(24))
        loading = Signal()
        previous = Signal(range(lanes + 1))
        m.d.comb += [read.addr.eq(index), read.en.eq(1)]
        m.d.sync += previous.eq(index)
        terms = []
        for number in range(lanes):
            m.submodules[f"lane_{number}"] = lane = Lane()
            m.d.comb += [
                lane.x.eq(self.i.payload[number]),
                lane.weight.eq(read.data),
                lane.load.eq(loading & (previous == number)),
            ]
            terms.append(lane.y)
        m.d.comb += total.eq(sum(terms))
        with m.FSM():
            with m.State("Start"):
                m.d.sync += index.eq(1)
                m.next = "Load"
            with m.State("Load"):
                m.d.comb += loading.eq(1)
                m.d.sync += index.eq(index + 1)
                with m.If(index == lanes):
                    m.next = "Run"
            with m.State("Run"):
                m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
                with m.If(self.i.ready):
                    m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(total)]
        return m
