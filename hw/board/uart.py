# SPDX-License-Identifier: Apache-2.0
"""Bytes from and to a serial line."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from golden.uart import UartSpec

RECEIVED = data.StructLayout({"data": 8, "error": 1})
"""A byte, and whether it was not received as it was sent, or stands for some that were lost."""


class Receiver(wiring.Component):
    """Receive bytes.

    Each bit is sampled in its middle, after two flip-flops. A low that is gone in the middle of a
    start bit is none. A byte without its stop bit has ``error``; the next can begin when the line
    has been high. If one arrives while the one before is still offered, it is lost, and offered
    with ``error``, whatever was in it, as soon as there is room. Latency: 3 cycles from the middle
    of the stop bit.

    Members
    -------
    i : the line.
    o : bytes.
    """

    def __init__(self, spec: UartSpec):
        self.spec = spec
        super().__init__({"i": In(1), "o": Out(stream.Signature(RECEIVED))})

    def elaborate(self, platform):
        m = Module()
        divisor = self.spec.divisor
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.i, line, init=1)
        timer = Signal(range(divisor))
        sample = Signal()
        bit = Signal(3)
        shift = Signal(8, reset_less=True)
        arrived = Signal()
        lost = Signal()
        m.d.comb += sample.eq(timer == 0)
        with m.If(sample):
            m.d.sync += timer.eq(divisor - 1)
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [timer.eq((divisor - 3) // 2), bit.eq(0)]
                with m.If(~line):
                    m.next = "START"
            with m.State("START"):
                with m.If(sample & line):
                    m.next = "IDLE"
                with m.Elif(sample):
                    m.next = "DATA"
            with m.State("DATA"):
                with m.If(sample):
                    m.d.sync += [shift.eq(Cat(shift[1:], line)), bit.eq(bit + 1)]
                    with m.If(bit == 7):
                        m.next = "STOP"
            with m.State("STOP"):
                with m.If(sample):
                    m.d.comb += arrived.eq(1)
                    m.next = "IDLE"
                    with m.If(~line):
                        m.next = "BREAK"
            with m.State("BREAK"):
                with m.If(line):
                    m.next = "IDLE"
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(arrived & self.o.valid & ~self.o.ready):
            m.d.sync += lost.eq(1)
        with m.Elif((arrived | lost) & (~self.o.valid | self.o.ready)):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.data.eq(shift),
                         self.o.payload.error.eq(lost | ~line), lost.eq(0)]
        return m


class Transmitter(wiring.Component):
    """Send bytes.

    Latency: 1 cycle to the start bit. Throughput: the line's, one byte in ``10 * divisor`` cycles.

    Members
    -------
    i : bytes.
    o : the line.
    """

    def __init__(self, spec: UartSpec):
        self.spec = spec
        super().__init__({"i": In(stream.Signature(8)), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        timer = Signal(range(spec.divisor))
        left = Signal(range(spec.BITS + 1))
        shift = Signal(spec.BITS - 1, init=-1)
        m.d.comb += [
            self.o.eq(shift[0]),
            self.i.ready.eq((left == 0) | ((left == 1) & (timer == 0))),
        ]
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [shift.eq(Cat(Const(0, 1), self.i.payload)), left.eq(spec.BITS),
                         timer.eq(spec.divisor - 1)]
        with m.Elif((timer == 0) & (left != 0)):
            m.d.sync += [shift.eq(Cat(shift[1:], Const(1, 1))), left.eq(left - 1),
                         timer.eq(spec.divisor - 1)]
        return m
