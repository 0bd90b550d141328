# SPDX-License-Identifier: Apache-2.0
"""Compare OutputUnit with the model: outputs, magnitudes, operations, errors, cycles."""

from dataclasses import dataclass

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from golden.spatten.attention import output
from golden.spatten.spec import SpattenSpec
from hw.contract import write_beat
from hw.spatten.layouts import DONE, bits, part, result, write_request
from hw.spatten.output import OutputUnit
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource

SPEC = parameters(SpattenSpec)
UNIT = OutputUnit(SPEC)
C, BEATS = SPEC.channels, SPEC.vector_beats
TOP = 1 << SPEC.value_bits - 1


@dataclass
class Task:
    """Results (of the whole or two halves), parts (channels, lanes), and which of these and of the
    write have an error."""

    results: list[dict]
    parts: np.ndarray
    errors: np.ndarray
    write_error: bool
    drop: bool

    @property
    def broken(self):
        return bool(self.results[0]["error"] or self.errors.any())

    @property
    def written(self):
        return not (self.broken or self.drop)

    @property
    def outputs(self):
        """What the model says: the parts are the products of unit exponents with values."""
        ones = np.ones(C, np.int64)
        return np.concatenate([
            output(SPEC, ones, parts, r["total"], r["mul"], r["shift"])
            for r, parts in zip(self.results, np.split(self.parts, len(self.results), -1))])

    @property
    def amounts(self):
        """What heads get of it."""
        return [(r["head"], int(np.abs(part).sum())) for r, part in zip(
            self.results, np.split(self.outputs, len(self.results))) if r["accumulate"]]


def some_task(random, op, last, errors=False, drop=False, halves=0.4):
    """Return a task: its total any number there is, its outputs of all sizes."""
    kind = random.integers(4)
    if kind == 0:
        parts = random.choice([-TOP, TOP - 1, -1, 0], (C, SPEC.lanes))
    else:
        size = int(random.integers(1, SPEC.value_bits))
        parts = random.integers(-1 << size, 1 << size, (C, SPEC.lanes))
    total = int(random.integers(1 << int(random.integers(SPEC.sum_bits + 1))))
    broken = errors and random.random() < 0.2
    flags = (random.random(C) < 1 / C) if broken else np.zeros(C, bool)
    # such that most outputs use their bits
    middle = max(0, int(np.abs(parts.sum(0)).max()).bit_length() + 16 - 12
                 - max(1, total).bit_length())
    shift = int(np.clip(middle + random.integers(-3, 4), 0, 63))
    result = {
        "total": total, "mul": int(random.choice([65535, 0, *random.integers(1, 65536, 6)])),
        "shift": int(random.choice([shift] * 8 + [0, 63])),
        "channel": int(random.integers(1 << bits(C))) % C,
        "output": int(random.integers(1 << 27)), "head": int(random.integers(SPEC.max_heads)),
        "accumulate": int(random.random() < 0.6), "op": op, "last": int(last), "begins": 1,
        "ends": 1, "error": int(broken and random.random() < 0.5)}
    results = [result]
    if random.random() < halves:
        results = [result | {"ends": 0, "last": 0}, result | {
            "begins": 0, "total": int(random.integers(1, 1 << SPEC.sum_bits)),
            "head": int(random.integers(SPEC.max_heads))}]
    return Task(results, parts.astype(np.int64), flags,
                bool(errors and random.random() < 0.2), drop)


def some_operations(random, count, errors=False, drops=False):
    """Return lists of tasks."""
    operations = []
    for number in range(count):
        size = int(random.choice([1, 2, random.integers(1, 7)]))
        wrong = errors and number % 2 == 0  # so that what follows an error is seen to be right
        drop = drops and random.random() < 0.4
        operations.append([some_task(random, number % 4, n == size - 1, wrong, drop)
                           for n in range(size)])
    return operations


class Bench:
    """Everything around the unit."""

    def __init__(self, dut, operations, stall=0.0, latency=(0, 3)):
        self.dut, self.operations, self.stall, self.latency = dut, operations, stall, latency
        self.random = rng(99)
        self.tasks = [task for operation in operations for task in operation]
        self.cycle, self.heads, self.requests, self.beats, self.waiting = 0, [], [], [], []
        self.responses, self.closed = 0, 0
        self.offered, self.written = [], []  # cycles
        sends = [self.send("result", result(SPEC), [
            one for task in self.tasks for one in task.results])]
        for channel in range(C):
            name = f"part__{channel}" if hasattr(dut, "part__0__valid") else "part"
            sends.append(self.send(name, part(SPEC), [
                {"sums": task.parts[channel].tolist(), "error": int(task.errors[channel])}
                for task in self.tasks]))
        self.running = [cocotb.start_soon(one) for one in (
            *sends, self.watch(), self.take_requests(), self.take_beats(), self.respond(),
            self.drops())]

    async def send(self, name, shape, payloads):
        source = StreamSource(self.dut, name, shape, stall=self.stall, seed=len(payloads))
        await source.send(payloads)

    async def watch(self):
        """Note heads, and the cycles in which things move."""
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            self.cycle += 1
            if dut.head__valid.value:
                self.heads.append((int(dut.head__head.value), int(dut.head__amount.value)))
            if dut.result__valid.value:
                self.offered.append(self.cycle)
            if dut.write_data__valid.value and dut.write_data__ready.value:
                self.written.append(self.cycle)

    async def drops(self):
        """Drop whole operations: the next one is known when ``done`` is taken."""
        for operation in self.operations:
            self.dut.drop.value = int(operation[0].drop)
            closed = self.closed
            while self.closed == closed:
                await RisingEdge(self.dut.clk)

    async def take_requests(self):
        sink = StreamSink(self.dut, "write_request", write_request(SPEC), stall=self.stall)
        while True:
            self.requests += await sink.receive(1)

    async def take_beats(self):
        sink = StreamSink(self.dut, "write_data", write_beat(SPEC), stall=self.stall)
        while True:
            self.beats += await sink.receive(1)
            if self.beats[-1]["last"]:
                self.waiting.append(self.cycle + int(self.random.integers(*self.latency)))

    async def respond(self):
        """Answer writes in order, some time after their last beats."""
        source = StreamSource(self.dut, "write_response", 1)
        for task in self.tasks:
            if not task.written:
                continue
            while len(self.waiting) <= self.responses or (
                    self.cycle < self.waiting[self.responses]
                    or len(self.requests) <= self.responses):
                await RisingEdge(self.dut.clk)
            self.responses += 1
            await source.send([int(task.write_error)])

    async def check(self):
        """Wait for every operation's end, and compare all that came before."""
        dut = self.dut
        sink = StreamSink(dut, "done", DONE, stall=self.stall)
        tasks = heads = 0
        for operation in self.operations:
            [done] = await sink.receive(1)
            written = [task for task in operation if task.written]
            error = any(task.broken or task.written and task.write_error for task in operation)
            assert done == {"op": operation[0].results[0]["op"], "error": int(error)}
            tasks += len(written)
            assert self.responses == len(self.requests) == tasks, "done must be after all responses"
            assert len(self.beats) == tasks * BEATS
            numbers = np.array([
                np.frombuffer(beat["data"].to_bytes(SPEC.memory_bytes, "little"), "<i2")
                for beat in self.beats]).reshape(-1, SPEC.lanes)[tasks - len(written):]
            assert [beat["last"] for beat in self.beats] == ([0] * (BEATS - 1) + [1]) * tasks
            for number, (got, task) in enumerate(zip(numbers, written), tasks - len(written)):
                result = task.results[0]
                np.testing.assert_array_equal(got, task.outputs, str(task.results))
                assert self.requests[number] == {
                    "channel": result["channel"], "beats": BEATS,
                    "address": result["output"] * SPEC.memory_bytes % (1 << 32)}
            expected = [amount for task in written for amount in task.amounts]
            assert self.heads[heads:] == expected
            heads += len(expected)
            self.closed += 1

    async def stop(self):
        for one in self.running:
            one.cancel()
        await RisingEdge(self.dut.clk)


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.8], errors=[False, True])
async def equals_golden(dut, stall, errors):
    random = rng(int(10 * stall) + errors)
    await start(dut)
    bench = Bench(dut, some_operations(random, 40, errors), stall)
    await bench.check()
    await ClockCycles(dut.clk, 30)
    assert not dut.done__valid.value
    assert not dut.write_data__valid.value
    await bench.stop()


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.5])
async def drops(dut, stall):
    """Operations that are dropped, and others between them."""
    await start(dut)
    bench = Bench(dut, some_operations(rng(5), 40, errors=True, drops=True), stall)
    await bench.check()
    await bench.stop()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def slow_memory(dut):
    """So many writes wait for their responses that no more may begin."""
    random = rng(6)
    await start(dut)
    tasks = [some_task(random, 1, n == 39) for n in range(40)]
    bench = Bench(dut, [tasks], latency=(400, 401))
    await bench.check()
    assert bench.cycle > 2 * 400, "the unit must have waited"
    await bench.stop()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def next_operation_waits(dut):
    """Until done is taken nothing of the next operation is."""
    random = rng(7)
    await start(dut)
    bench = Bench(dut, [[some_task(random, 1, True)], [some_task(random, 2, True)]])
    while not dut.done__valid.value:
        await RisingEdge(dut.clk)
    await ClockCycles(dut.clk, 50)
    assert len(bench.requests) == 1
    assert len(bench.beats) == BEATS
    await bench.check()
    await bench.stop()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def resets(dut):
    """Reset in the middle of tasks; then all begins anew."""
    for number in range(20):
        random = rng(100 + number)
        await start(dut)
        bench = Bench(dut, some_operations(random, 4, errors=True), 0.2 * (number % 3))
        await ClockCycles(dut.clk, int(random.integers(1, 60)))
        await bench.stop()
        await start(dut)
        bench = Bench(dut, some_operations(random, 3), 0.2 * (number % 3))
        await bench.check()
        await bench.stop()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def cycles(dut):
    """Measure the cycles to the first beat, and those per task."""
    random = rng(8)
    await start(dut)
    tasks = [some_task(random, 1, n == 20, halves=0) for n in range(21)]
    bench = Bench(dut, [tasks])
    await bench.check()
    report(latency=bench.written[0] - bench.offered[0],
           period=(bench.written[-1] - bench.written[BEATS - 1]) / (len(tasks) - 1))
    await bench.stop()
