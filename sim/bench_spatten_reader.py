# SPDX-License-Identifier: Apache-2.0
"""Compare Reader with the model's memory: vectors in order, errors, cycles, resets."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from golden.spatten.memory import Memory
from golden.spatten.spec import LOCAL, SpattenSpec
from hw.spatten.layouts import vector_at, vector_beat
from sim.bench import parameters, report, rng, start
from sim.spatten_vectors import Vectors
from sim.stream import StreamSink, StreamSource

SPEC = parameters(SpattenSpec)
BEATS, SIZE = SPEC.vector_beats, 64


def some_memory(random):
    """Return memories full of numbers."""
    shape = (SIZE, SPEC.channels, SPEC.memory_bytes)
    memory = Memory(SPEC, random.integers(256, size=shape).astype(np.uint8))
    memory.local[:] = random.integers(256, size=memory.local.shape)
    return memory


def some_vectors(random, count):
    """Return where vectors lie, some of them partly beyond a memory."""
    first = random.integers(-1, SIZE - BEATS + 3, count)
    first = np.where(first < 0, SPEC.local - BEATS + random.integers(3), first)
    first |= np.where((random.random(count) < 0.5) | (first >= SIZE), LOCAL, 0)
    return [{"channel": int(random.integers(SPEC.channels)), "beat": int(beat)} for beat in first]


class Bench:
    """A memory around the reader, and who wants vectors."""

    def __init__(self, dut, vectors, stall=0.0, **settings):
        self.dut, self.vectors = dut, vectors
        self.world = Vectors(dut, SPEC, some_memory(rng(5)), stall=stall, noise=True,
                             **settings)
        source = StreamSource(dut, "request", vector_at(SPEC), stall=stall)
        self.sink = StreamSink(dut, "o", vector_beat(SPEC), stall=stall)
        self.sending = cocotb.start_soon(source.send(vectors))

    def stop(self):
        self.sending.cancel()
        self.world.stop()

    async def check(self):
        """Compare all beats."""
        for vector in self.vectors:
            for part, got in enumerate(await self.sink.receive(BEATS)):
                data, error = self.world.read(vector["channel"], vector["beat"] + part)
                assert got["error"] == error
                if not error:
                    raw = np.array(got["numbers"]).astype("<i2").tobytes()
                    assert int.from_bytes(raw, "little") == data
        await self.sending
        await ClockCycles(self.dut.clk, 10)
        assert not self.dut.o__valid.value
        self.stop()


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def equals_golden(dut, stall):
    await start(dut)
    await Bench(dut, some_vectors(rng(int(10 * stall)), 60), stall).check()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def resets(dut):
    """Reset with vectors under way; then all begins anew."""
    random = rng(3)
    for _ in range(10):
        await start(dut)
        bench = Bench(dut, some_vectors(random, 20), 0.2)
        await ClockCycles(dut.clk, int(random.integers(1, 60)))
        bench.stop()
        await start(dut)
        await Bench(dut, some_vectors(random, 8), 0.2).check()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def cycles(dut):
    """Measure the cycles from a beat that comes to its offer, and those per beat."""
    await start(dut)
    vectors = [one | {"channel": 0} for one in some_vectors(rng(4), 40)]
    bench = Bench(dut, vectors, latency=(0, 1))
    offered = []
    dut.o__ready.value = 1
    while len(offered) < BEATS * len(vectors):
        await RisingEdge(dut.clk)
        if dut.o__valid.value:
            offered.append(bench.world.cycle)
    report(latency=offered[0] - bench.world.beats_given[0] - 1,
           period=(offered[-1] - offered[0]) / (len(offered) - 1))
    bench.stop()
