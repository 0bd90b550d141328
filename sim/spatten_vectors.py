# SPDX-License-Identifier: Apache-2.0
"""The memories of a SpAtten core as blocks see them that read vectors and write beats."""

from collections import deque

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from golden.operation import BusError
from golden.spatten.memory import Memory
from hw.contract import write_beat
from hw.spatten.layouts import fetch, fetched, write_request
from sim.bench import rng
from sim.stream import StreamSink, StreamSource, pack


class Vectors:
    """Answer ``fetch`` with beats of ``fetched``, and execute writes, all after some time.

    Parameters
    ----------
    dut : cocotb handle, with members ``fetch``, ``fetch_channel`` and ``fetched``, or
        ``write_request``, ``write_data`` and ``write_response``, or all of them.
    spec : SpattenSpec
    memory : golden.spatten.memory.Memory, read when a beat comes, written with the last of a
        request. What it refuses are errors.
    stall : probability of a pause of everything here, in each cycle.
    latency : cycles to the first beat, or the response, from and to.
    noise : give beats without ``unit``, too, that nobody asked for.

    ``queries`` holds the beats given without ``unit``, by slot, whether odd, and part.
    """

    def __init__(self, dut, spec, memory: Memory, *, stall=0.0, latency=(4, 12),
                 noise=False, seed=0):
        self.dut, self.spec, self.memory, self.stall = dut, spec, memory, stall
        self.latency, self.random, self.cycle = latency, rng(1000 + seed), 0
        self.noise, self.queries = noise, {}
        self.asked = [deque() for _ in range(spec.channels)]  # (cycle, fetch)
        self.parts = [0] * spec.channels
        self.requests, self.beats, self.writes, self.errors = deque(), [], 0, 0
        self.beats_given, self.beats_taken = [], []  # cycles
        self.running = []
        for port, job in (("fetch__valid", self.take_fetches), ("fetched__valid", self.give_beats),
                          ("write_request__valid", self.take_requests),
                          ("write_data__valid", self.write)):
            if hasattr(dut, port):
                self.running.append(cocotb.start_soon(job()))
        self.running.append(cocotb.start_soon(self.count()))

    def stop(self):
        for one in self.running:
            one.cancel()

    async def count(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1

    def later(self):
        return self.cycle + int(self.random.integers(*self.latency))

    async def take_fetches(self):
        """One per cycle, or less; its channel lies beside it."""
        dut, shape = self.dut, fetch(self.spec)
        slot, unit, offered = shape["slot"], shape["unit"], None
        while True:
            ready = self.random.random() >= self.stall
            dut.fetch__ready.value = ready
            await RisingEdge(dut.clk)
            if not dut.fetch__valid.value:
                assert offered is None, "fetch.valid must stay high until taken"
                continue
            got, channel = int(dut.fetch__payload.value), int(dut.fetch_channel.value)
            assert offered in (None, (got, channel)), "fetch.payload must stay until taken"
            offered = None if ready else (got, channel)
            if ready:
                self.asked[channel].append((
                    self.later(), got & (1 << 27) - 1,
                    got >> slot.offset & (1 << slot.width) - 1,
                    got >> shape["odd"].offset & 1, got >> unit.offset & 1))

    async def give_beats(self):
        """A beat of any channel in a cycle; sometimes one that is not for the unit."""
        dut, spec = self.dut, self.spec
        while True:
            known = [c for c, asked in enumerate(self.asked)
                     if asked and asked[0][0] <= self.cycle]
            dut.fetched__valid.value = 0
            if self.noise and self.random.random() < self.stall / 4:
                dut.fetched__valid.value = 1
                dut.fetched__payload.value = pack(fetched(spec), {
                    "data": 5, "slot": int(self.random.integers(spec.pairs)), "odd": 1, "unit": 0,
                    "part": int(self.random.integers(spec.vector_beats)), "error": 1})
            elif known and self.random.random() >= self.stall:
                channel = int(self.random.choice(known))
                _, beat, slot, odd, unit = self.asked[channel][0]
                part = self.parts[channel]
                data, error = self.read(channel, beat + part)
                dut.fetched__valid.value = 1
                dut.fetched__payload.value = pack(fetched(spec), {
                    "data": data, "slot": slot, "odd": odd, "unit": unit, "part": part,
                    "error": error})
                if not unit:
                    self.queries[slot, odd, part] = data
                self.beats_given.append(self.cycle)
                self.parts[channel] = (part + 1) % spec.vector_beats
                if part == spec.vector_beats - 1:
                    self.asked[channel].popleft()
            await RisingEdge(dut.clk)

    def read(self, channel, beat):
        """Return a beat as a number, and whether there is none."""
        try:
            data = self.memory.read(np.int64(channel), np.int64(beat), 1)
        except BusError:
            return int(self.random.integers(256)), 1
        return int.from_bytes(data.tobytes(), "little"), 0

    async def take_requests(self):
        sink = StreamSink(self.dut, "write_request", write_request(self.spec), stall=self.stall)
        while True:
            self.requests += await sink.receive(1)

    async def write(self):
        """Execute requests when their beats are there, and answer them in order."""
        spec = self.spec
        waiting = deque()
        source = StreamSource(self.dut, "write_response", 1)

        async def answer():
            while True:
                if waiting and waiting[0][0] <= self.cycle:
                    await source.send([waiting.popleft()[1]])
                else:
                    await RisingEdge(self.dut.clk)

        self.running.append(cocotb.start_soon(answer()))
        sink = StreamSink(self.dut, "write_data", write_beat(spec), stall=self.stall)
        while True:
            beats = []
            while not beats or not beats[-1]["last"]:
                beats += await sink.receive(1)
                self.beats_taken.append(self.cycle)
            while not self.requests:
                await RisingEdge(self.dut.clk)
            request = self.requests.popleft()
            assert request["beats"] == len(beats)
            assert request["address"] % spec.memory_bytes == 0
            data = np.array([list(beat["data"].to_bytes(spec.memory_bytes, "little"))
                             for beat in beats], np.uint8)
            error = 0
            try:
                self.memory.write(np.int64(request["channel"]),
                                  np.int64(request["address"] // spec.memory_bytes), data)
            except BusError:
                error = 1
            self.writes += 1
            self.errors += error
            waiting.append((self.later(), error))
