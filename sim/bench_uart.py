# SPDX-License-Identifier: Apache-2.0
"""Bytes received at several speeds, broken and lost ones; bytes sent, cycle by cycle."""

import cocotb
from amaranth.hdl import unsigned
from cocotb.triggers import ClockCycles, RisingEdge, Timer

from golden.uart import UartSpec
from hw.board.uart import RECEIVED
from sim.bench import parameters, rng, start
from sim.serial import Line
from sim.stream import StreamSink, StreamSource


def tell(payloads):
    """Return bytes and errors."""
    return [(one["data"], one["error"]) for one in payloads]


async def nothing_more(dut):
    await ClockCycles(dut.clk, 3000)
    assert not int(dut.o__valid.value)


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def receives(dut):
    spec = parameters(UartSpec)
    random = rng()
    await start(dut)
    dut.i.value, dut.rst.value = 1, 1  # again with the line idle
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    sink = StreamSink(dut, "o", RECEIVED, stall=0.5)
    for off in (0, -4, 4):
        bit = spec.divisor * 10 * (100 + off) // 100 if spec.divisor >= 25 else spec.divisor * 10
        line = Line(dut, spec, rx="i", tx=None, bit=bit)
        await Timer(int(random.integers(500, 600)), "ns")
        content = bytes(random.integers(0, 256, 50).tolist()) + b"\0\xff\0"
        task = cocotb.start_soon(sink.receive(len(content)))
        await line.send(content)
        assert tell(await task) == [(one, 0) for one in content]
    line = Line(dut, spec, rx="i", tx=None)
    # A glitch, shorter than half a bit
    dut.i.value = 0
    await Timer(10, "ns")
    dut.i.value = 1
    await nothing_more(dut)
    # No stop bit; a break is one such byte; the next is good
    task = cocotb.start_soon(sink.receive(4))
    await line.send(b"\xa5", stop=0)
    await line.send(b"a")
    dut.i.value = 0
    await ClockCycles(dut.clk, 40 * spec.divisor)
    dut.i.value = 1
    await ClockCycles(dut.clk, spec.divisor)
    await line.send(b"b")
    assert tell(await task) == [(0xA5, 1), (ord("a"), 0), (0, 1), (ord("b"), 0)]
    # Nobody takes: the first stays, the next two are lost, which one after it tells
    await line.send(b"123")
    await ClockCycles(dut.clk, 10)
    task = cocotb.start_soon(sink.receive(4))
    await ClockCycles(dut.clk, 30)
    await line.send(b"45")
    first, (_, error), *rest = tell(await task)
    assert (first, error, rest) == ((ord("1"), 0), 1, [(ord("4"), 0), (ord("5"), 0)])
    await nothing_more(dut)


@cocotb.test(timeout_time=4, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.99])
async def sends(dut, stall):
    """The level of the line in each cycle; between two bytes it is high."""
    spec, random = parameters(UartSpec), rng()
    await start(dut)
    content = bytes(random.integers(0, 256, 20).tolist())
    await ClockCycles(dut.clk, 5)
    assert int(dut.o.value)
    source = StreamSource(dut, "i", unsigned(8), stall=stall)
    levels = []

    async def watch():
        while True:
            await RisingEdge(dut.clk)
            levels.append(int(dut.o.value))

    cocotb.start_soon(watch())
    await source.send(content)
    await ClockCycles(dut.clk, spec.cycles(1) + 2)
    if not stall:
        first = levels.index(0)
        assert levels[first:first + spec.cycles(len(content))] == spec.levels(content)
        assert all(levels[first + spec.cycles(len(content)):])
    else:
        at = 0
        for one in content:
            at = levels.index(0, at)
            assert levels[at:at + spec.cycles(1)] == spec.levels(bytes([one]))
            at += spec.cycles(1)
        assert all(levels[at:])
