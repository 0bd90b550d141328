# SPDX-License-Identifier: Apache-2.0
"""A :class:`~hw.board.top.Board` on the pins of a ULX3S."""

import importlib
from typing import Any

from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from golden.pll import PllSpec
from hw.board.pll import Pll
from hw.board.top import Board

__all__ = ["BOARDS", "Ulx3s", "constraints", "platform"]

BOARDS = {f"ulx3s-{size}f": f"ULX3S_{size}F_Platform" for size in (12, 25, 45, 85)}
"""Name of each board, and what describes it in ``amaranth_boards.ulx3s``."""
PINS = {"clk25": ("clk25", 0, None), "rx": ("uart", 0, "rx"), "tx": ("uart", 0, "tx"),
        "button": ("button_fire", 0, None)} | {f"led[{n}]": ("led", n, None) for n in range(8)}
"""Where each port leads: resource of the board, its number, and a part of it."""


def platform(board: str) -> Any:
    """Return what ``amaranth_boards`` knows of a board."""
    return getattr(importlib.import_module("amaranth_boards.ulx3s"), BOARDS[board])


def constraints(board: str) -> str:
    """Return the pins of a :class:`Ulx3s`, and the clock it is given, as an LPF file."""
    resources = {(one.name, one.number): one for one in platform(board).resources}
    lines = []
    for port, (name, number, part) in PINS.items():
        one = resources[name, number]
        ends = [end for end in one.ios if getattr(end, "name", None) == part]
        attributes, pins = dict(one.attrs), ends[0]
        if part is not None:
            attributes |= pins.attrs
            pins = pins.ios[0]
        if len(pins.names) != 1 or pins.invert:
            raise RuntimeError(f"{name} must be one pin, high when active, not {pins}")
        said = " ".join(f"{key}={value}" for key, value in attributes.items())
        lines += [f'LOCATE COMP "{port}" SITE "{pins.names[0]}";', f'IOBUF PORT "{port}" {said};']
        if one.clock is not None:
            lines.append(f'FREQUENCY PORT "{port}" {one.clock.frequency / 1e6:g} MHZ;')
    return "\n".join([*lines, ""])


class Ulx3s(wiring.Component):
    """A board on the ULX3S, with a clock made of the 25 MHz of its oscillator.

    The serial port is that of its USB bridge. It is in reset until the clock has its frequency and
    256 cycles longer, and as long as the button FIRE 1 is held. LED 0 is on while the chip
    interrupts, LED 1 and 2 while the line to and from the host is low, LED 7 out of reset.

    Parameters
    ----------
    board : the board.
    pll : its clock.

    Members
    -------
    clk25, rx, tx, button, led : pins, see :data:`PINS`.
    """

    RESET = 256
    """Cycles of reset, once there is a clock, and after the button."""

    def __init__(self, board: Board, pll: PllSpec):
        self.board, self.pll = board, pll
        super().__init__({"clk25": In(1), "rx": In(1), "button": In(1), "tx": Out(1),
                          "led": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.board = board = self.board
        m.submodules.pll = pll = Pll(self.pll)
        m.domains.pins = pins = ClockDomain("pins", local=True, reset_less=True)
        pressed = Signal()
        locked = Signal()
        quiet = Signal(range(self.RESET))  # cycles since both were as they should be
        reset = Signal(init=1)
        m.submodules.press = FFSynchronizer(self.button, pressed, o_domain="pins")
        m.submodules.lock = FFSynchronizer(pll.locked, locked, o_domain="pins")
        m.d.comb += [
            pll.i.eq(self.clk25), pins.clk.eq(pll.o),
            board.clk.eq(pll.o), board.rst.eq(reset),
            board.rx.eq(self.rx), self.tx.eq(board.tx),
            self.led[0].eq(board.irq), self.led[1].eq(~self.rx), self.led[2].eq(~board.tx),
            self.led[7].eq(~reset),
        ]
        with m.If(pressed | ~locked):
            m.d.pins += [quiet.eq(0), reset.eq(1)]
        with m.Elif(quiet != self.RESET - 1):
            m.d.pins += quiet.eq(quiet + 1)
        with m.Else():
            m.d.pins += reset.eq(0)
        return m
