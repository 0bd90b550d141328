# SPDX-License-Identifier: Apache-2.0
"""Compare Norm with the model's LayerNorm: rows, where they go, errors, cycles, resets."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from golden.spatten.spec import SpattenSpec
from hw.spatten.layouts import destination, numbers, vector_at, vector_beat, walked
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource

SPEC = parameters(SpattenSpec)
C, BEATS, LANES = SPEC.channels, SPEC.vector_beats, SPEC.lanes


class Operation:
    """Random rows of tokens, their parameters, and where the results go."""

    def __init__(self, random, tokens, inputs=None, errors=False):
        most = -(-SPEC.max_width // LANES)
        self.inputs = inputs or int(random.integers(1, most + 1))
        top = min(SPEC.max_width, self.inputs * LANES)
        self.count = int(random.choice([top, random.integers((self.inputs - 1) * LANES + 1,
                                                             top + 1)]))
        self.words = -(-4 * self.count // SPEC.memory_bytes)
        self.constant = int(random.integers(SPEC.constant_words - self.words + 1))
        self.shift = int(random.integers(12, 28))
        size = 1 << random.integers(1, 16, (tokens, 1))
        self.rows = random.integers(-size, size, (tokens, self.inputs * LANES))
        self.constants = random.integers(0, 256, (SPEC.constant_words, SPEC.memory_bytes))
        self.errors = random.random((tokens, self.inputs * BEATS)) < 0.02 * errors
        self.tokens = [{"token": 0, "channel": int(random.integers(C)),
                        "beat": random.integers(1 << 26, size=2).tolist(), "last": n == tokens - 1}
                       for n in range(tokens)]

    def vectors(self, address):
        """Return where the vectors of all tokens lie, of rows (0) or of results (1)."""
        return [{"channel": (token["channel"] + n // 2) % C, "beat": token["beat"][address]
                 + n * BEATS} for token in self.tokens for n in range(self.inputs)]

    @property
    def results(self):
        """What the model says."""
        used = self.constants[self.constant:self.constant + self.words].astype(np.uint8)
        gamma, beta = used.reshape(-1).view("<i2").reshape(-1, 2)[:self.count].T.astype(np.int64)
        y = np.zeros_like(self.rows)
        y[:, :self.count] = SPEC.norm.compute(self.rows[:, :self.count], gamma, beta, self.shift)
        return y.reshape(-1, LANES // BEATS)


class Bench:
    """All that is around the unit, for one operation."""

    def __init__(self, dut, operation, stall=0.0):
        self.dut, self.operation, self.stall, self.cycle = dut, operation, stall, 0
        self.errors, self.requests = 0, []
        self.running: list = [cocotb.start_soon(job) for job in (
            self.constants(), self.watch(), self.ask(), self.answer(),
            StreamSource(dut, "token", walked(SPEC, 2), stall=stall).send(operation.tokens))]

    def stop(self):
        for one in self.running:
            one.cancel()

    async def constants(self):
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            if dut.constants__enable.value:
                word = self.operation.constants[int(dut.constants__address.value)]
                dut.constants__data.value = int.from_bytes(bytes(word.tolist()), "little")

    async def watch(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1
            self.errors += int(self.dut.error.value)

    async def ask(self):
        sink = StreamSink(self.dut, "request", vector_at(SPEC), stall=self.stall)
        while True:
            self.requests += await sink.receive(1)

    async def answer(self):
        """Give the beats of vectors that were asked for."""
        source = StreamSource(self.dut, "beat", vector_beat(SPEC), stall=self.stall)
        beats = self.operation.rows.reshape(-1, BEATS, LANES // BEATS)
        errors = self.operation.errors.reshape(-1, BEATS)
        for n, (vector, error) in enumerate(zip(beats, errors)):
            while len(self.requests) <= n:
                await RisingEdge(self.dut.clk)
            await source.send([{"numbers": beat.tolist(), "error": int(wrong)}
                               for beat, wrong in zip(vector, error)])

    async def check(self):
        """Run the operation; return the cycles in which beats came out."""
        dut, op, seen = self.dut, self.operation, []
        for name in ("inputs", "count", "constant", "shift"):
            getattr(dut, name).value = getattr(op, name)
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        vectors = StreamSink(dut, "vector", destination(SPEC), stall=self.stall)
        results = StreamSink(dut, "o", numbers(SPEC), stall=self.stall)
        places = cocotb.start_soon(vectors.receive(len(op.tokens) * op.inputs))
        self.running.append(places)
        expected = op.results
        for row in expected:
            assert await results.receive(1) == [row.tolist()]
            seen.append(self.cycle)
        assert await places == [{"low": 0, "planes": 0} | where for where in op.vectors(1)]
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        assert not dut.busy.value
        assert self.requests == op.vectors(0)
        assert self.errors == op.errors.sum()
        self.stop()
        return seen


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def equals_golden(dut, stall):
    random = rng(int(10 * stall))
    await start(dut)
    for number in range(6):
        operation = Operation(random, int(random.integers(1, 12)), errors=number % 2 == 1)
        await Bench(dut, operation, stall).check()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def resets(dut):
    """Reset in the middle of rows; then all begins anew."""
    random = rng(3)
    for _ in range(8):
        await start(dut)
        bench = Bench(dut, Operation(random, 4), 0.1)
        running = cocotb.start_soon(bench.check())
        await ClockCycles(dut.clk, int(random.integers(1, 150)))
        running.cancel()
        bench.stop()
        await start(dut)
        await Bench(dut, Operation(random, 3), 0.1).check()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def cycles(dut):
    """Measure the cycles per row, of the widest ones and of one vector."""
    await start(dut)
    for name, inputs in (("widest", -(-SPEC.max_width // LANES)), ("narrow", 1)):
        seen = await Bench(dut, Operation(rng(4), 20, inputs)).check()
        beats = inputs * BEATS
        report(**{name: (seen[-1] - seen[5 * beats - 1]) / 15})
