# SPDX-License-Identifier: Apache-2.0
"""The memory of a board: every beat and word, at full rate and with stalls, and its end."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from golden.board import MEMORY_LATENCY, MemorySpec
from hw.board.memory import DECERR, BoardMemory

BASE = 0x40000000


class Bench:
    """A third of the memory is read in bursts, one is written in bursts, one word by word."""

    def __init__(self, spec, width, stall, seed):
        self.dut, self.spec, self.bytes = BoardMemory(spec, width), spec, width // 8
        self.stall = stall
        self.rng = np.random.default_rng(seed)
        self.memory = self.rng.integers(0, 256, spec.size).astype(np.uint8)
        self.third = spec.size // 3 // 1024 * 1024
        self.cycle, self.filled, self.running = 0, False, 0
        self.asked, self.beats, self.ends, self.expected = [], [], [], []

    def burst(self, region, most):
        """Return first beat and length of a burst that lies in a third, as beats of memory."""
        beats = self.third // self.bytes
        length = int(self.rng.integers(1, min(most, beats) + 1))
        return region * beats + int(self.rng.integers(0, beats - length + 1)), length

    async def pause(self, ctx):
        while self.rng.random() < self.stall:
            await ctx.tick()

    async def hand(self, ctx, valid, ready, **values):
        """Offer until it is taken; return the cycle in which it was."""
        for name, value in values.items():
            ctx.set(getattr(self.dut, name), value)
        ctx.set(valid, 1)
        while True:
            cycle = self.cycle
            _, _, taken = await ctx.tick().sample(ready)
            if taken:
                break
        ctx.set(valid, 0)
        return cycle

    async def clock(self, ctx):
        async for _ in ctx.tick():
            self.cycle += 1

    async def access(self, ctx, address, data=None):
        """Access a word by the second port; return response, data and latency."""
        port = self.dut.access
        ctx.set(port.payload, {"address": address, "data": data or 0, "write": data is not None,
                               "memory": 1})
        begin = await self.hand(ctx, port.valid, port.ready)
        await self.pause(ctx)
        ctx.set(self.dut.result.ready, 1)
        while True:
            cycle = self.cycle
            _, _, valid, found = await ctx.tick().sample(self.dut.result.valid,
                                                         self.dut.result.payload)
            if valid:
                break
        ctx.set(self.dut.result.ready, 0)
        return found.response, found.data, cycle - begin

    async def words(self, ctx):
        """Fill the memory; then access words at random, some beyond its end."""
        for at in range(0, self.spec.size, 4):
            value = int(self.memory[at:at + 4].view("<u4")[0])
            response, _, latency = await self.access(ctx, BASE + at, value)
            assert response == 0 and (self.stall or latency == BoardMemory.ACCESS_CYCLES)
        self.filled = True
        for _ in range(80):
            await self.pause(ctx)
            at = 2 * self.third + 4 * int(self.rng.integers(0, self.third // 4))
            if self.rng.random() < 0.2:
                outside = int(self.rng.choice([BASE - 4, BASE + self.spec.size, 0, 0xFFFFFFFC]))
                data = [None, 7][int(self.rng.integers(2))]
                assert (await self.access(ctx, outside, data))[0] == DECERR
            elif self.rng.random() < 0.5:
                value = int(self.rng.integers(0, 1 << 32))
                self.memory[at:at + 4] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)
                assert (await self.access(ctx, BASE + at, value))[0] == 0
            else:
                response, data, latency = await self.access(ctx, BASE + at)
                assert (response, data) == (0, int(self.memory[at:at + 4].view("<u4")[0]))
                assert self.stall or latency == BoardMemory.ACCESS_CYCLES

    async def reads(self, ctx, bursts):
        while not self.filled:
            await ctx.tick()
        for first, length in bursts:
            await self.pause(ctx)
            inside = (first + 1) * self.bytes <= self.spec.size
            for n in range(length):
                at = (first + n) * self.bytes
                data = int.from_bytes(self.memory[at:at + self.bytes].tobytes(), "little")
                self.expected.append((data if inside else None, 0 if inside else DECERR,
                                      n == length - 1))
            self.asked.append(await self.hand(
                ctx, self.dut.s_axi_arvalid, self.dut.s_axi_arready,
                s_axi_araddr=BASE + first * self.bytes, s_axi_arlen=length - 1))

    async def takes(self, ctx, count):
        dut, offered = self.dut, None
        while len(self.beats) < count:
            ctx.set(dut.s_axi_rready, self.rng.random() >= self.stall)
            cycle = self.cycle
            _, _, valid, ready, *beat = await ctx.tick().sample(
                dut.s_axi_rvalid, dut.s_axi_rready, dut.s_axi_rdata, dut.s_axi_rresp,
                dut.s_axi_rlast)
            assert offered is None or (valid and beat == offered), "an offer was withdrawn"
            offered = beat if valid and not ready else None
            if valid and ready:
                data, response, last = self.expected[len(self.beats)]
                assert (beat[1], beat[2]) == (response, last)
                assert data is None or beat[0] == data
                self.beats.append(cycle)
        ctx.set(dut.s_axi_rready, 0)

    async def writes(self, ctx, bursts):
        dut = self.dut
        while not self.filled:
            await ctx.tick()
        for first, length in bursts:
            await self.pause(ctx)
            await self.hand(ctx, dut.s_axi_awvalid, dut.s_axi_awready,
                            s_axi_awaddr=BASE + first * self.bytes, s_axi_awlen=length - 1)
            inside, end = (first + 1) * self.bytes <= self.spec.size, 0
            for n in range(length):
                await self.pause(ctx)
                data = self.rng.integers(0, 256, self.bytes).astype(np.uint8)
                mask = self.rng.random(self.bytes) < 0.7
                if inside:
                    at = (first + n) * self.bytes
                    self.memory[at:at + self.bytes][mask] = data[mask]
                end = await self.hand(
                    ctx, dut.s_axi_wvalid, dut.s_axi_wready, s_axi_wlast=n == length - 1,
                    s_axi_wdata=int.from_bytes(data.tobytes(), "little"),
                    s_axi_wstrb=sum(int(bit) << n for n, bit in enumerate(mask)))
            await self.pause(ctx)
            ctx.set(dut.s_axi_bready, 1)
            while True:
                cycle = self.cycle
                _, _, valid, response = await ctx.tick().sample(dut.s_axi_bvalid, dut.s_axi_bresp)
                if valid:
                    break
            ctx.set(dut.s_axi_bready, 0)
            assert response == (0 if inside else DECERR)
            assert self.stall or cycle == end + 1

    def run(self, *benches):
        """Run coroutines side by side."""
        m = Module()
        m.submodules.dut = self.dut
        simulator = Simulator(m)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.clock, background=True)
        for one in benches:
            simulator.add_testbench(one)
        simulator.run()


@pytest.mark.parametrize(("width", "size", "stall"), [(32, 4096, 0.5), (64, 12288, 0.4),
                                                      (128, 4096, 0.0)])
def test_every_word_is_where_it_belongs(width, size, stall, monkeypatch):
    monkeypatch.setattr(BoardMemory, "BANK", 512)  # 3 of them with 64 bits
    bench = Bench(MemorySpec(size=size, base=BASE), width, stall, seed=width)
    beyond = size // bench.bytes
    reads = [bench.burst(0, 20) if bench.rng.random() < 0.9 else (beyond, 3) for _ in range(30)]
    writes = [bench.burst(1, 20) if bench.rng.random() < 0.9 else (beyond + 5, 2)
              for _ in range(20)]
    everything = [(at, min(64, beyond - at)) for at in range(0, beyond, 64)]
    count = sum(length for _, length in reads)

    async def first(ctx):
        await bench.reads(ctx, reads)

    async def takes(ctx):
        await bench.takes(ctx, count)

    async def written(ctx):
        await bench.writes(ctx, writes)

    async def over(ctx):
        """Read all of it when everything has ended."""
        while bench.running < 4:
            await ctx.tick()
        await bench.reads(ctx, everything)

    async def all_of_it(ctx):
        while bench.running < 4:
            await ctx.tick()
        await bench.takes(ctx, count + beyond)

    def counted(one):
        async def run(ctx):
            await one(ctx)
            bench.running += 1
        return run

    bench.run(*map(counted, (first, takes, written, bench.words)), over, all_of_it)
    assert len(bench.beats) == count + beyond


@pytest.mark.parametrize("length", [1, 2, 16])
def test_one_beat_per_cycle(length):
    bench = Bench(MemorySpec(size=4096, base=BASE), 64, 0.0, seed=1)
    bench.filled = True
    bench.memory[:] = 0
    bursts = [bench.burst(0, 1)[:1] + (length,) for _ in range(32)]

    async def asks(ctx):
        await bench.reads(ctx, bursts)

    async def takes(ctx):
        await bench.takes(ctx, 32 * length)

    bench.run(asks, takes)
    assert bench.beats[0] == bench.asked[0] + MEMORY_LATENCY
    assert bench.beats == list(range(bench.beats[0], bench.beats[0] + 32 * length))
