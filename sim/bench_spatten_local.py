# SPDX-License-Identifier: Apache-2.0
"""Compare LocalMemory and WriteRouter with arrays: both sides, order, errors, loads, cycles."""

from collections import deque
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from golden.spatten.spec import LOCAL, SpattenSpec
from hw.contract import REQUEST, response, write_beat
from hw.spatten.layouts import load, local_write, write_request
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource, pack

SPEC = parameters(SpattenSpec)
BYTES, SIZE, C = SPEC.memory_bytes, SPEC.local, SPEC.channels
OUTSIDE = 4096
"""Beats of the memory outside that differ."""


def number(data):
    return int.from_bytes(np.asarray(data, np.uint8).tobytes(), "little")


class Side:
    """What a channel sees: its local memory, and the one outside, which answers in order."""

    def __init__(self, dut, random, stall, latency=12, errors=0.0):
        self.dut, self.random, self.stall, self.latency = dut, random, stall, latency
        self.outside = random.integers(0, 256, (OUTSIDE, BYTES)).astype(np.uint8)
        self.bad = random.random(OUTSIDE) < errors
        self.inside = np.zeros((SIZE, BYTES), np.uint8)
        self.cycle = self.owed = 0
        self.came: list[int] = []  # cycles of the beats
        self.taken: list[int] = []
        self.due: deque = deque()
        self.request = StreamSource(dut, "request", REQUEST, stall=stall)
        self.sink = StreamSink(dut, "response", response(SPEC), stall=stall)
        self.load, self.loaded = StreamSource(dut, "load", load(SPEC)), StreamSink(dut, "loaded", 1)
        self.tasks: list[Any] = [cocotb.start_soon(one) for one in (
            self.accept(), self.answer(), self.clock())]

    def stop(self):
        for one in self.tasks:
            one.cancel()

    async def clock(self):
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            self.cycle += 1
            if dut.response__valid.value and dut.response__ready.value:
                self.came.append(self.cycle)
            if dut.request__valid.value and dut.request__ready.value:
                self.taken.append(self.cycle)

    async def accept(self):
        sink = StreamSink(self.dut, "outer_request", REQUEST, stall=self.stall)
        while True:
            [request] = await sink.receive(1)
            first = request["address"] // BYTES
            assert request["address"] % BYTES == 0
            self.due += [(self.cycle + self.latency, self.beat(first + n))
                         for n in range(request["beats"])]

    async def answer(self):
        source = StreamSource(self.dut, "outer_response", response(SPEC), stall=self.stall)
        while True:
            while not self.due or self.due[0][0] > self.cycle:
                await RisingEdge(self.dut.clk)
            await source.send([self.due.popleft()[1]])

    def beat(self, beat):
        """Return what comes of a beat."""
        if beat & LOCAL:
            beat -= LOCAL
            return {"data": number(self.inside[beat]) if 0 <= beat < SIZE else None,
                    "error": int(not 0 <= beat < SIZE)}
        return {"data": number(self.outside[beat % OUTSIDE]),
                "error": int(self.bad[beat % OUTSIDE])}

    async def write(self, addresses):
        """Write random beats, one per cycle."""
        port = self.dut.write__payload, self.dut.write__valid
        for address in addresses:
            self.inside[address] = self.random.integers(0, 256, BYTES)
            port[0].value = pack(local_write(SPEC), {
                "address": int(address), "data": number(self.inside[address])})
            port[1].value = 1
            await RisingEdge(self.dut.clk)
        port[1].value = 0

    async def read(self, requests):
        """Send requests (first beat, beats) as the channel would; compare what comes."""
        async def send():
            for first, beats in requests:
                while self.owed + beats > SPEC.outstanding:
                    await RisingEdge(self.dut.clk)
                self.owed += beats
                await self.request.send([{"address": first * BYTES % (1 << 32), "beats": beats}])

        task = cocotb.start_soon(send())
        self.tasks.append(task)
        for first, beats in requests:
            for n in range(beats):
                [got] = await self.sink.receive(1)
                self.owed -= 1
                expected = self.beat(first + n)
                if expected["data"] is None:
                    assert got["error"]
                else:
                    assert got == expected, (hex(first), n)
        await task

    async def copy(self, source, target, beats):
        """Load."""
        await self.load.send([{"source": source, "target": target, "beats": beats}])
        [error] = await self.loaded.receive(1)
        if source & LOCAL:
            assert error
            return
        places = (source + np.arange(beats)) % OUTSIDE
        assert error == int(self.bad[places].any())
        self.inside[target:target + beats] = self.outside[places]


def some(random, count, local=0.5):
    """Return requests to both sides, some beyond the end of the local memory."""
    result = []
    side = 0
    for _ in range(count):
        if random.random() < 0.4:
            side = int(random.random() < local)
        beats = int(random.choice([1, 1, 2, 4, 8]))
        first = int(random.integers(LOCAL - 8))
        if side:
            first = LOCAL + int(random.choice([
                *random.integers(0, SIZE, 6), SIZE - 1, SIZE, random.integers(SIZE, LOCAL)]))
        result.append((first, beats))
    return result


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def memory_equals_arrays(dut, stall):
    random = rng(int(10 * stall))
    await start(dut)
    side = Side(dut, random, stall, errors=0.02)
    await side.write(random.permutation(SIZE))
    for _ in range(6):
        await side.read(some(random, 60))
        first, beats = random.integers(0, SIZE, 2).tolist()
        await side.copy(int(random.integers(LOCAL - SIZE)), first, 1 + beats % (SIZE - first))
        await side.write(random.integers(0, SIZE, 5))
    await side.copy(LOCAL | 3, 0, 4)
    await side.read([(LOCAL + n, 1) for n in range(SIZE)])
    side.stop()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def memory_writes_while_it_is_read(dut):
    """Writes to one half, requests for the other."""
    random = rng(20)
    await start(dut)
    side = Side(dut, random, 0.0)
    await side.write(range(SIZE))
    for number_ in range(6):
        low, high = (0, SIZE // 2) if number_ % 2 else (SIZE // 2, 0)
        task = cocotb.start_soon(side.write(low + random.integers(0, SIZE // 2, 60)))
        await side.read([(LOCAL + high + int(random.integers(SIZE // 2)), 1) for _ in range(50)])
        await task
    side.stop()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def memory_resets(dut):
    random = rng(21)
    for _ in range(8):
        await start(dut)
        side = Side(dut, random, 0.2)
        await side.write(range(SIZE))
        side.tasks.append(cocotb.start_soon(side.read(some(random, 60))))
        await ClockCycles(dut.clk, int(random.integers(5, 80)))
        side.stop()
        await start(dut)
        side = Side(dut, random, 0.0)
        side.tasks.append(cocotb.start_soon(side.copy(5, 0, SIZE)))
        await ClockCycles(dut.clk, int(random.integers(3, 40)))
        side.stop()
    await start(dut)
    side = Side(dut, random, 0.2)
    await side.copy(7, 0, SIZE)
    await side.read(some(random, 60))
    side.stop()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def memory_cycles(dut):
    """Measure latency, and the cycles of 64 beats with requests of each size."""
    random = rng(22)
    await start(dut)
    side = Side(dut, random, 0.0, latency=1)
    await side.write(range(SIZE))
    measured: Any = {"cycles": []}
    for kind, base in (("local", LOCAL), ("outer", 0)):
        for beats in (1, 2, 8):
            del side.came[:], side.taken[:]
            await side.read([(base + n * beats % SIZE, beats) for n in range(64 // beats)])
            await RisingEdge(dut.clk)
            if beats == 1:
                measured[kind] = side.came[0] - side.taken[0]
            measured["cycles"].append(side.came[-1] - side.came[0] + 1)
    report(**measured)
    side.stop()


class Writes:
    """Writers on one side of the router, local memories and a memory outside on the other."""

    def __init__(self, dut, random, requests, stall):
        self.dut, self.random, self.stall, self.requests = dut, random, stall, requests
        self.inside: Any = {}  # what was written, by channel and beat
        self.outer: list[Any] = []
        self.beats: list[Any] = []
        self.written: list[int] = []  # cycles
        self.cycle = 0
        data = []
        self.data = []
        for request in requests:
            beats = [int.from_bytes(random.bytes(BYTES), "little")
                     for _ in range(request["beats"])]
            self.data.append(beats)
            data += [{"data": one, "last": int(n == len(beats) - 1)}
                     for n, one in enumerate(beats)]
        self.tasks: list[Any] = [cocotb.start_soon(one) for one in (
            StreamSource(dut, "request", write_request(SPEC), stall=stall).send([
                {name: request[name] for name in ("channel", "address", "beats")}
                for request in requests]),
            StreamSource(dut, "data", write_beat(SPEC), stall=stall).send(data),
            self.watch(), self.take_requests(), self.take_beats())]

    def stop(self):
        for one in self.tasks:
            one.cancel()

    async def watch(self):
        ports = [f"write__{c}" if C > 1 else "write" for c in range(C)]
        ports = [name if hasattr(self.dut, f"{name}__valid") else "write__0" for name in ports]
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1
            for c, name in enumerate(ports):
                if getattr(self.dut, f"{name}__valid").value:
                    word = getattr(self.dut, f"{name}__payload").value.to_unsigned()
                    self.inside[c, word & SIZE - 1] = word >> SIZE.bit_length() - 1
                    self.written.append(self.cycle)

    async def take_requests(self):
        sink = StreamSink(self.dut, "outer_request", write_request(SPEC), stall=self.stall)
        while True:
            self.outer += await sink.receive(1)

    async def take_beats(self):
        """Take data; answer some cycles after the last of a request."""
        outside = [request for request in self.requests if not request["local"]]
        sink = StreamSink(self.dut, "outer_data", write_beat(SPEC), stall=self.stall)
        source = StreamSource(self.dut, "outer_response", 1)

        async def answer(before, request):
            await ClockCycles(self.dut.clk, int(self.random.integers(1, 12)))
            if before:
                await before
            await source.send([request["error"]])

        last, count = None, 0
        while True:
            [beat] = await sink.receive(1)
            self.beats.append(beat)
            if beat["last"]:
                last = cocotb.start_soon(answer(last, outside[count]))
                self.tasks.append(last)
                count += 1

    async def check(self):
        """Compare the responses, and what was written where."""
        sink = StreamSink(self.dut, "response", 1, stall=self.stall)
        got = await sink.receive(len(self.requests))
        assert got == [request["error"] for request in self.requests]
        await ClockCycles(self.dut.clk, 3)
        expected, outer, beats = {}, [], []
        for request, data in zip(self.requests, self.data, strict=True):
            first = request["address"] // BYTES - LOCAL
            if request["local"]:
                expected |= {(request["channel"], first + n): one for n, one in enumerate(data)
                             if 0 <= first + n < SIZE}
            else:
                outer.append({name: request[name] for name in ("channel", "address", "beats")})
                beats += [{"data": one, "last": int(n == len(data) - 1)}
                          for n, one in enumerate(data)]
        assert self.inside == expected
        assert self.outer == outer
        assert self.beats == beats


def some_writes(random, count):
    """Return requests to both sides, runs of each."""
    result, local = [], 0
    for _ in range(count):
        if random.random() < 0.3:
            local = 1 - local
        beats = int(random.choice([1, 1, 2, 4]))
        first = int(random.integers(LOCAL - 8))
        if local:
            first = LOCAL + int(random.choice([*random.integers(0, SIZE - 4, 6), SIZE - 1, SIZE,
                                               random.integers(SIZE, LOCAL)]))
        error = local and first + beats > LOCAL + SIZE or not local and random.random() < 0.2
        result.append({"channel": int(random.integers(C)), "address": first * BYTES,
                       "beats": beats, "local": local, "error": int(error)})
    return result


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def router_equals_arrays(dut, stall):
    random = rng(30 + int(10 * stall))
    await start(dut)
    writes = Writes(dut, random, some_writes(random, 150), stall)
    await writes.check()
    writes.stop()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def router_resets(dut):
    random = rng(40)
    for _ in range(10):
        await start(dut)
        writes = Writes(dut, random, some_writes(random, 100), 0.2)
        await ClockCycles(dut.clk, int(random.integers(3, 120)))
        writes.stop()
    await start(dut)
    writes = Writes(dut, random, some_writes(random, 40), 0.2)
    await writes.check()
    writes.stop()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def router_cycles(dut):
    """Measure the cycles of 32 local beats with requests of each size."""
    random, measured = rng(41), []
    for beats in (1, 2, 4):
        await start(dut)
        writes = Writes(dut, random, [{
            "channel": n % C, "address": (LOCAL + n * beats % SIZE) * BYTES, "beats": beats,
            "local": 1, "error": 0} for n in range(32 // beats)], 0.0)
        await writes.check()
        measured.append(writes.written[-1] - writes.written[0] + 1)
        writes.stop()
    report(cycles=measured)
