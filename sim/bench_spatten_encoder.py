# SPDX-License-Identifier: Apache-2.0
"""Compare Encoder with the emulator: operations in any order, errors, cycles, resets."""

from collections import deque

import cocotb
import numpy as np
from amaranth.lib import data
from cocotb.triggers import ClockCycles, RisingEdge

from golden.operation import BusError, Opcode, Status
from golden.spatten.emulator import LINEAR_CONSTANT, Emulator, digits, narrow
from golden.spatten.operation import LAYOUT, Target
from golden.spatten.spec import LOCAL, SpattenSpec
from hw.spatten.dispatch import OPERATION
from hw.spatten.layouts import job, load, score, scored
from sim.bench import parameters, report, rng, start
from sim.spatten_vectors import Vectors
from sim.stream import StreamSink, StreamSource, pack

SPEC = parameters(SpattenSpec)
C, BEATS = SPEC.channels, SPEC.vector_beats
SCORES = data.ArrayLayout(score(SPEC), C)
ROOM = SPEC.local // 2
"""Beats for the rows of all tokens; there is room for them twice in each memory."""


def some_emulator(random):
    """Return an emulator whose memories are full of numbers, small and large."""
    shape = (2 * ROOM, C, SPEC.memory_bytes // 2)
    size = 1 << random.integers(1, 16, shape)
    numbers = random.integers(-size, size).astype("<i2")
    emulator = Emulator(SPEC, numbers.view(np.uint8))
    emulator.places.local[:] = random.permutation(numbers)[:SPEC.local].view(np.uint8)
    emulator.pruned = bool(random.random() < 0.6)
    emulator.tokens = random.random(SPEC.max_tokens) < random.choice([0, 0.1, 0.6, 1])
    emulator.heads = random.random(SPEC.max_heads) < random.choice([0, 0.5, 1])
    return emulator


def some_rows(random, vectors):
    """Return where rows of all tokens lie: first beat and stride."""
    stride = vectors * BEATS + int(random.integers(3))
    first = int(random.integers(2)) * ROOM + int(random.integers(ROOM - SPEC.rows * stride + 1))
    return first | int(random.choice([0, LOCAL])), stride


def some_norm(random):
    """Return a NORM, some of them in place."""
    inputs = int(random.integers(1, -(-SPEC.max_width // SPEC.lanes) + 1))
    most = min(SPEC.max_width, inputs * SPEC.lanes)
    op = {"opcode": Opcode.NORM, "inputs": inputs,
          "count": int(random.choice([most, random.integers((inputs - 1) * SPEC.lanes + 1,
                                                            most + 1)])),
          "tokens": int(random.integers(1, SPEC.max_tokens + 1)),
          "dense": int(random.random() < 0.3), "rotation": int(random.integers(256)),
          "shift": int(random.integers(12, 28))}
    words = -(-4 * op["count"] // SPEC.memory_bytes)
    op["constant"] = int(random.integers(SPEC.constant_words - words + 1))
    op["query"], op["query_stride"] = op["output"], op["output_stride"] = some_rows(random, inputs)
    while op["query"] // ROOM == op["output"] // ROOM and op["query"] != op["output"] or (
            random.random() < 0.5):
        op["output"], op["output_stride"] = some_rows(random, inputs)
    return op


def some_linear(random):
    """Return a LINEAR: inputs, weights and results in three different places."""
    wide = min(SPEC.MAX_INPUTS, (ROOM // SPEC.rows - 2) // BEATS)
    inputs = int(random.integers(1, wide + 1))
    outputs = int(random.integers(1, SPEC.max_tokens // SPEC.lanes + 1))
    planes, narrow = int(random.random() < 0.4), int(random.random() < 0.4)
    op = {"opcode": Opcode.LINEAR, "inputs": inputs, "outputs": outputs, "planes": planes,
          "value_planes": int(random.integers(1, 4)) if planes else int(random.integers(4)),
          "residual": int(not planes and random.random() < 0.5),
          "narrow": narrow, "by_head": int(
              inputs <= SPEC.max_heads >> narrow and random.random() < 0.5),
          "activation": int(random.integers(4)), "constant": int(random.integers(
              SPEC.constant_words - 8 * outputs * SPEC.lanes // SPEC.memory_bytes + 1)),
          "tokens": int(random.integers(1, min(12, SPEC.max_tokens) + 1)),
          "dense": int(random.random() < 0.4), "rotation": int(random.integers(256)),
          "output_step": int(random.integers(2, 4)), "low_step": int(random.integers(1, 4)),
          "key_stride": 2 * inputs + int(random.integers(3)),
          "query_stride": inputs * BEATS + int(random.integers(3)),
          "output_stride": outputs * BEATS + int(random.integers(3)),
          "key_low_stride": outputs * 3 + int(random.integers(3))}
    places = random.permutation([0, ROOM, LOCAL, LOCAL + ROOM]).tolist()
    return op | dict(zip(("query", "key", "output", "key_low"), places))


def some_load(random, target):
    """Return a LOAD."""
    room = {Target.LOCAL: SPEC.local, Target.CONSTANTS: SPEC.constant_words,
            Target.TABLE: SPEC.table_words}[target]
    first = int(random.integers(room))
    count = int(random.integers(1, min(room - first, ROOM) + 1))
    return {"opcode": Opcode.LOAD, "target": target, "count": count, "constant": first,
            "output": LOCAL | first, "key": int(random.integers(2 * ROOM - count + 1)),
            "rotation": int(random.integers(256))}


def some_operation(random):
    """Return any operation."""
    kind = int(random.integers(5))
    return (some_load(random, Target(kind)) if kind < 3
            else some_norm(random) if kind == 3 else some_linear(random))


class Engines:
    """Jobs of the channels, and their score memories.

    Scores are those of the engines: 16 times the product, and 688 times the sum of the query.
    """

    def __init__(self, dut, world, stall):
        self.dut, self.world, self.stall = dut, world, stall
        self.scores = np.zeros((SPEC.score_rows, C, 2), np.int64)
        self.ends = [deque() for _ in range(C)]  # cycle, end
        self.running = [cocotb.start_soon(one) for one in (
            self.take_jobs(), self.read(), *(self.end(c) for c in range(C)))]

    async def read(self):
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            if dut.read_enable.value:
                row = self.scores[int(dut.read_address.value)]
                dut.read_data.value = pack(SCORES, [
                    {"even": int(even), "odd": int(odd), "row": 0} for even, odd in row])

    async def take_jobs(self):
        sink = StreamSink(self.dut, "job", job(SPEC), stall=self.stall)
        free = 0
        while True:
            [got] = await sink.receive(1)
            both = got["even"] and got["odd"]
            rows = got["tokens"] // C
            free = max(free, self.world.cycle) + rows * (4 if both else 2)
            for c in range(C):
                error = self.compute(got, rows, c)
                self.ends[c].append((free + int(self.world.random.integers(8)), {
                    "even": 0, "odd": 0, "keys": rows, "error": error}))

    def compute(self, got, rows, channel):
        """Compute the scores of a job in one channel; return whether a beat is not there."""
        both, memory = got["even"] and got["odd"], self.world.memory
        first = got["beat"] + np.arange(rows) * got["stride"]
        place = (got["base"] + np.arange(rows)) % SPEC.score_rows
        for odd, name in enumerate(("even", "odd")):
            if not got[name]:
                continue
            beats = b"".join(
                self.world.queries.pop((got["slot"], odd, part)).to_bytes(SPEC.memory_bytes,
                                                                          "little")
                if channel == C - 1 else
                self.world.queries[got["slot"], odd, part].to_bytes(SPEC.memory_bytes, "little")
                for part in range(BEATS))
            x = narrow(np.frombuffer(beats, "<i2").astype(np.int64))
            try:
                weights = digits(memory.nibbles(np.int64(channel), first + 2 * (odd and both), 2))
            except BusError:
                return 1
            score = 16 * (weights @ x) + 688 * x.sum()
            adds = got["add"] >> odd & 1
            self.scores[place, channel, odd] = score + adds * self.scores[place, channel, odd]
        return 0

    async def end(self, channel):
        source = StreamSource(self.dut, f"scored__{channel}", scored(SPEC), stall=self.stall)
        ends = self.ends[channel]
        while True:
            if ends and ends[0][0] <= self.world.cycle:
                await source.send([ends.popleft()[1]])
            else:
                await RisingEdge(self.dut.clk)


class Bench:
    """Memories and channels around the encoder, and the emulator, which executes the same."""

    def __init__(self, dut, random, stall=0.0, **settings):
        self.dut, self.stall, self.model = dut, stall, some_emulator(random)
        model = self.model
        self.world = Vectors(dut, SPEC, Emulator(SPEC, model.memory.copy()).places, stall=stall,
                             **settings)
        self.world.memory.local[:] = model.places.local
        dut.pruned.value = int(model.pruned)
        for name in ("tokens", "heads"):
            getattr(dut, name).value = sum(1 << int(n)
                                           for n in np.flatnonzero(getattr(model, name)))
        self.op = StreamSource(dut, "op", OPERATION, stall=stall)
        self.engines = Engines(dut, self.world, stall)
        self.running = [cocotb.start_soon(self.load()), *self.engines.running]

    def stop(self):
        self.world.stop()
        for one in self.running:
            one.cancel()

    async def load(self):
        """Copy what is to be loaded, all channels at once; answer one after the other."""
        sink = StreamSink(self.dut, "load", load(SPEC), stall=self.stall)
        sources = [StreamSource(self.dut, f"loaded__{c}", 1, stall=self.stall) for c in range(C)]
        while True:
            [got] = await sink.receive(1)
            bad = int(self.world.random.integers(C))  # one channel may find an error, or all
            error = got["source"] + got["beats"] > 2 * ROOM
            if not error:
                memory = self.world.memory
                memory.local[got["target"]:][:got["beats"]] = memory.external[
                    got["source"]:][:got["beats"]]
            answers = [cocotb.start_soon(source.send([int(error and c >= bad)]))
                       for c, source in enumerate(sources)]
            for answer in answers:
                await answer

    async def prepare(self, random):
        """Load all constants, such that most results of LINEARs fit, and the whole table."""
        constants = np.zeros(SPEC.constant_words * SPEC.memory_bytes // 8, LINEAR_CONSTANT)
        constants["bias"] = random.integers(-1 << 20, 1 << 20, len(constants))
        constants["mul"] = random.integers(1 << 14, 1 << 16, len(constants))
        constants["shift"] = random.integers(18, 30, len(constants))
        constants["zero"] = random.integers(256, size=len(constants))
        for target, count in ((Target.CONSTANTS, SPEC.constant_words),
                              (Target.TABLE, SPEC.table_words)):
            op = some_load(random, target) | {"constant": 0, "count": count,
                                              "key": int(random.integers(2 * ROOM - count + 1))}
            if target == Target.CONSTANTS:
                for memory in (self.model.memory, self.world.memory.external):
                    memory[op["key"]:, op["rotation"] % C][:count] = constants.view(
                        np.uint8).reshape(count, -1)
            await self.check(op)

    async def check(self, op):
        """Execute an operation; return the cycles that it took."""
        dut, model, world = self.dut, self.model, self.world
        idle = op["opcode"] != Opcode.LOAD and not len(model._live(op))
        status = Status.OK if idle else model.step(LAYOUT.pack(op)).status
        model._failed = False
        assert not dut.busy.value
        began = world.cycle
        offering = cocotb.start_soon(self.op.send([dict.fromkeys(OPERATION.members, 0) | op]))
        while not dut.done__valid.value:
            await RisingEdge(dut.clk)
        cycles, error = world.cycle - began, int(dut.done__payload.value)
        assert offering.done(), "it must be taken before it is done"
        dut.done__ready.value = 1
        await RisingEdge(dut.clk)
        dut.done__ready.value = 0
        assert error == (status == Status.BUS_ERROR), str(op)
        if error:
            world.memory.external[:] = model.memory
            world.memory.local[:] = model.places.local
        else:
            assert status == Status.OK
            np.testing.assert_array_equal(world.memory.external, model.memory, str(op))
            np.testing.assert_array_equal(world.memory.local, model.places.local, str(op))
        await ClockCycles(dut.clk, 2)
        assert not dut.busy.value
        assert not any(world.asked)
        return cycles


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3])
async def equals_golden(dut, stall):
    random = rng(int(10 * stall))
    for _ in range(4):
        await start(dut)
        bench = Bench(dut, random, stall)
        await bench.prepare(random)
        for _ in range(6):
            await bench.check(some_operation(random))
        bench.stop()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def errors(dut):
    """Beats that are not there, to be read or written; what follows is right."""
    random = rng(2)
    await start(dut)
    bench = Bench(dut, random, 0.1)
    bench.model.pruned = False
    dut.pruned.value = 0
    await bench.prepare(random)
    for number in range(12):
        op = some_operation(random)
        if number % 2:
            name = str(random.choice({Opcode.NORM: ["query", "output"], Opcode.LOAD: ["key"]}.get(
                op["opcode"], ["query", "key", "output", "key_low"])))
            op[name] = 2 * ROOM - int(random.integers(1, 9))
        await bench.check(op)
        if number % 2:
            await bench.prepare(random)
    assert bench.model.constants.any()
    bench.stop()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def last_beats(dut):
    """Constants that end with the memory: what is read behind them cannot be an error."""
    random = rng(4)
    await start(dut)
    bench = Bench(dut, random)
    await bench.prepare(random)
    for count in range(1, 2 * BEATS):
        await bench.check(some_load(random, Target.CONSTANTS)
                          | {"constant": 0, "count": count, "key": 2 * ROOM - count})
        await bench.check(some_norm(random))
    bench.stop()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def resets(dut):
    """Reset in the middle of operations; then all begins anew."""
    random = rng(3)
    for _ in range(5):
        await start(dut)
        bench = Bench(dut, random, 0.1)
        op = some_operation(random)
        dut.op__payload.value = pack(OPERATION, dict.fromkeys(OPERATION.members, 0) | op)
        dut.op__valid.value = 1
        await ClockCycles(dut.clk, int(random.integers(1, 200)))
        bench.stop()
        await start(dut)
        bench = Bench(dut, random, 0.1)
        await bench.prepare(random)
        await bench.check(some_norm(random))
        bench.stop()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def cycles(dut):
    """Measure NORMs of the widest rows, and LINEARs: cycles per token, and the others."""
    random = rng(5)
    await start(dut)
    bench = Bench(dut, random, latency=(6, 7))
    await bench.prepare(random)
    inputs, outputs = -(-SPEC.max_width // SPEC.lanes), SPEC.max_tokens // SPEC.lanes
    op = {"dense": 1, "query": 0, "query_stride": 4 * BEATS, "output": LOCAL,
          "output_stride": 4 * BEATS, "shift": 20, "key": ROOM, "key_stride": 8}
    for name, fields, tokens in (
            ("norm", {"opcode": Opcode.NORM, "inputs": inputs, "count": SPEC.max_width}, 32),
            ("linear", {"opcode": Opcode.LINEAR, "inputs": 4, "outputs": outputs}, 12)):
        few = await bench.check(op | fields | {"tokens": tokens // 2})
        many = await bench.check(op | fields | {"tokens": tokens})
        per_token = (many - few) / (tokens // 2)
        report(**{name: [per_token, many - tokens * per_token]})
    bench.stop()
