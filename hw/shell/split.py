# SPDX-License-Identifier: Apache-2.0
"""Requests to bursts, inside the protection window."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.shell import ShellSpec
from hw.contract import REQUEST
from hw.shell.layouts import BURST, TASK, WINDOW, log2


class Splitter(wiring.Component):
    """Check each request against the window, and cut it into bursts of the bus.

    Bursts end where ``burst_bytes`` divides the address, so that none crosses 4 KB. A request that
    is not wholly inside the window gives a task with ``bad``, and no burst. Latency: 2 cycles.
    Throughput: 1 burst per cycle.

    Members
    -------
    i : requests, with the number of who asks.
    task : each request when it is begun, not later than its first burst.
    burst : its bursts.
    window : what may be accessed.
    """

    def __init__(self, shell: ShellSpec, memory_bytes: int):
        self._shell = shell
        self._memory_bytes = memory_bytes
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"source": 1, "payload": REQUEST}))),
            "task": Out(stream.Signature(TASK)),
            "burst": Out(stream.Signature(BURST)),
            "window": In(WINDOW),
        })

    def elaborate(self, platform):
        m = Module()
        shell = self._shell
        bus, beat = log2(shell.bus_bytes), log2(self._memory_bytes)

        # First, the words of the bus that are concerned, and whether they may be
        request = self.i.payload.payload
        checked = Signal()
        task = Signal(TASK, reset_less=True)
        first = Signal(32 - bus, reset_less=True)
        words = Signal(16 + max(0, beat - bus) + 1, reset_less=True)
        address = Signal(32)
        end = Signal(33)
        m.d.comb += [
            address.eq(Cat(Const(0, beat), request.address[beat:])),
            end.eq(address + (request.beats << beat) - 1),
            self.i.ready.eq(~checked),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                checked.eq(self.i.valid), task.address.eq(address),
                task.last_beat.eq(request.beats - 1),
                task.source.eq(self.i.payload.source),
                task.bad.eq(self.window.empty | end[32] | (end[12:32] > self.window.last)),
                first.eq(address[bus:]), words.eq(end[bus:32] - address[bus:] + 1),
            ]
        with m.Elif(self.task.valid & self.task.ready):
            m.d.sync += checked.eq(0)

        # Then bursts
        word = Signal(32 - bus, reset_less=True)
        left = Signal(len(words))
        chunk = Signal(range(shell.burst_beats + 1))
        until = Signal(range(shell.burst_beats + 1))
        final = Signal()
        m.d.comb += [
            until.eq(shell.burst_beats - word[:log2(shell.burst_beats)]),
            final.eq(left <= until),
            chunk.eq(Mux(final, left, until)),
            self.burst.valid.eq(left != 0),
            self.burst.payload.length.eq(chunk - 1),
            self.burst.payload.address.eq(Cat(Const(0, bus), word) + (self.window.base << 12)),
            self.task.valid.eq(checked & ((left == 0) | (final & self.burst.ready))),
            self.task.payload.eq(task),
        ]
        with m.If(self.burst.valid & self.burst.ready):
            m.d.sync += [word.eq(word + chunk), left.eq(left - chunk)]
        with m.If(self.task.valid & self.task.ready):
            m.d.sync += [word.eq(first), left.eq(Mux(task.bad, 0, words))]
        return m
