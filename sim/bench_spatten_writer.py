# SPDX-License-Identifier: Apache-2.0
"""Compare Writer with the model's memory: numbers, planes, errors, cycles, resets."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from golden.fixed import saturate
from golden.operation import BusError
from golden.spatten.memory import Memory
from golden.spatten.spec import LOCAL, SpattenSpec
from hw.spatten.layouts import destination, numbers
from sim.bench import parameters, report, rng, start
from sim.spatten_vectors import Vectors
from sim.stream import StreamSource

SPEC = parameters(SpattenSpec)
BEATS, SIZE, COUNT = SPEC.vector_beats, 512, SPEC.lanes


def empty_memory():
    """Return memories full of nothing."""
    return Memory(SPEC, np.zeros((SIZE, SPEC.channels, SPEC.memory_bytes), np.uint8))


def some_vectors(random, count, errors=False, planes=(0, 0, 1, 2, 3)):
    """Return vectors and where they go, no two to the same place, if there is one."""
    places = random.permutation(SIZE // 8)[:count] * 8
    vectors = []
    for first in places.tolist():
        size = int(random.integers(2, 17))
        wrong = errors and random.random() < 0.1
        inside = first + 8 <= SPEC.local and random.random() < 0.5
        beat = first | (LOCAL if inside else 0)
        vectors.append(({"channel": int(random.integers(SPEC.channels)),
                         "beat": beat + SIZE if wrong else beat, "low": beat + 4,
                         "planes": int(random.choice(planes))},
                        random.integers(-1 << size - 1, 1 << size - 1, COUNT)))
    return vectors


def store(memory, where, vector):
    """Execute a write as the model does; return whether it is an error."""
    channel, failed = np.int64(where["channel"]), False
    parts = [(where["beat"], None)]
    if where["planes"]:
        bits = 4 * where["planes"]
        vector = saturate(vector, bits)
        parts = [(where["beat"] + n if n < where["planes"] - 1 else where["low"], n)
                 for n in range(where["planes"])]
    for beat, plane in parts:
        try:
            if plane is None:
                memory.store_vectors(channel, np.int64(beat), vector)
            else:
                memory.store_plane(channel, np.int64(beat), vector >> bits - 4 * plane - 4 & 15)
        except BusError:
            failed = True
    return failed


class Bench:
    """A memory around the writer, and who has vectors."""

    def __init__(self, dut, vectors, stall=0.0, **settings):
        self.dut, self.vectors = dut, vectors
        self.world = Vectors(dut, SPEC, empty_memory(), stall=stall, **settings)
        beats = [part.tolist() for _, vector in vectors for part in np.split(vector, BEATS)]
        self.sending = [
            cocotb.start_soon(StreamSource(dut, "vector", destination(SPEC), stall=stall).send(
                [where for where, _ in vectors])),
            cocotb.start_soon(StreamSource(dut, "i", numbers(SPEC), stall=stall).send(beats))]

    def stop(self):
        for one in self.sending:
            one.cancel()
        self.world.stop()

    async def check(self):
        """Wait until all is written, and compare the memories."""
        dut, model = self.dut, empty_memory()
        failed = sum(store(model, *vector) for vector in self.vectors) > 0
        for one in self.sending:
            await one
        while not dut.idle.value:
            await RisingEdge(dut.clk)
        requests = sum(1 + (where["planes"] > 1) for where, _ in self.vectors)
        assert self.world.writes == requests, "idle must be after the last response"
        await RisingEdge(dut.clk)
        assert dut.error.value == failed == (self.world.errors > 0)
        np.testing.assert_array_equal(self.world.memory.external, model.external)
        np.testing.assert_array_equal(self.world.memory.local, model.local)
        dut.clear.value = 1
        await ClockCycles(dut.clk, 2)
        dut.clear.value = 0
        assert not dut.error.value
        self.stop()


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def equals_golden(dut, stall):
    await start(dut)
    await Bench(dut, some_vectors(rng(int(10 * stall)), 40), stall).check()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def errors(dut):
    random = rng(2)
    await start(dut)
    for _ in range(6):
        await Bench(dut, some_vectors(random, 10, errors=True), 0.2).check()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def slow_memory(dut):
    """So many writes wait for their responses that no more may begin."""
    await start(dut)
    bench = Bench(dut, some_vectors(rng(6), 40), latency=(400, 401))
    await bench.check()
    assert bench.world.cycle > 2 * 400, "the writer must have waited"


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def resets(dut):
    """Reset in the middle of vectors; then all begins anew."""
    random = rng(3)
    for _ in range(10):
        await start(dut)
        bench = Bench(dut, some_vectors(random, 20), 0.2)
        await ClockCycles(dut.clk, int(random.integers(1, 60)))
        bench.stop()
        await start(dut)
        await Bench(dut, some_vectors(random, 6), 0.2).check()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def cycles(dut):
    """Measure the cycles per vector, as numbers and in three planes."""
    for name, planes in (("numbers", 0), ("planes", 3)):
        await start(dut)
        bench = Bench(dut, some_vectors(rng(4), 20, planes=(planes,)), latency=(2, 3))
        await bench.check()
        taken = bench.world.beats_taken
        beats = planes or BEATS
        report(**{name: (taken[-1] - taken[beats - 1]) / (len(taken) // beats - 1)})
