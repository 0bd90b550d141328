# SPDX-License-Identifier: Apache-2.0
"""A :class:`~hw.board.top.Board` on the pins of a ULX3S."""

from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

from hw.board.top import Board

__all__ = ["Ulx3s"]


class Ulx3s(Elaboratable):
    """A board on the ULX3S, at the 25 MHz of its oscillator.

    The serial port is that of its USB bridge: 1 Mbaud with a ``divisor`` of 25. It begins in
    reset for 256 cycles, and as long as the button FIRE 1 is held. LED 0 is on while the chip
    interrupts, LED 1 and 2 while the line to and from the host is low, LED 7 out of reset.

    Parameters
    ----------
    board : the board. It is elaborated for a platform of ``amaranth_boards.ulx3s``.
    """

    FREQUENCY = 25_000_000
    RESET = 256
    """Cycles of reset, after configuration and after the button."""

    def __init__(self, board: Board):
        self.board = board

    def elaborate(self, platform):
        m = Module()
        m.submodules.board = board = self.board
        m.domains.pins = pins = ClockDomain("pins", local=True, reset_less=True)
        into, out = io.Direction.Input, io.Direction.Output
        uart = platform.request("uart", dir=dict.fromkeys(("rx", "tx", "rts", "dtr"), "-"))
        leds = [platform.request("led", n, dir="-") for n in (0, 1, 2, 7)]
        m.submodules.clock = clock = io.Buffer(into, platform.request("clk25", dir="-"))
        m.submodules.rx = rx = io.Buffer(into, uart.rx)
        m.submodules.tx = tx = io.Buffer(out, uart.tx)
        m.submodules.button = button = io.Buffer(into, platform.request("button_fire", 0, dir="-"))
        pressed = Signal()
        quiet = Signal(range(self.RESET))  # cycles since the button
        reset = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(button.i, pressed, o_domain="pins")
        m.d.comb += [
            pins.clk.eq(clock.i),
            board.clk.eq(pins.clk), board.rst.eq(reset),
            board.rx.eq(rx.i), tx.o.eq(board.tx),
        ]
        for n, (led, value) in enumerate(zip(leds, (board.irq, ~board.rx, ~board.tx, ~reset),
                                             strict=True)):
            m.submodules[f"led_{n}"] = buffer = io.Buffer(out, led)
            m.d.comb += buffer.o.eq(value)
        with m.If(pressed):
            m.d.pins += [quiet.eq(0), reset.eq(1)]
        with m.Elif(quiet != self.RESET - 1):
            m.d.pins += quiet.eq(quiet + 1)
        with m.Else():
            m.d.pins += reset.eq(0)
        return m
