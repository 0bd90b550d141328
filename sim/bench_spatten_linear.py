# SPDX-License-Identifier: Apache-2.0
"""Compare Linear with its golden model: numbers, where they go, errors, reset, rate."""

from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from golden.operation import Opcode, Status
from golden.spatten.emulator import LINEAR_CONSTANT, Emulator, digits, narrow
from golden.spatten.operation import LAYOUT, Activation
from golden.spatten.spec import SpattenSpec
from hw.arith.table import Table
from hw.spatten.dispatch import OPERATION
from hw.spatten.layouts import (
    destination,
    fetch,
    fetched,
    job,
    numbers,
    score,
    scored,
    vector_at,
    vector_beat,
)
from sim.bench import parameters, report, rng, start
from sim.stream import Offers, StreamSource, Wants, pack

SPEC = parameters(SpattenSpec)
C, L, BYTES, BEATS = SPEC.channels, SPEC.lanes, SPEC.memory_bytes, SPEC.vector_beats
MOST = min(SPEC.MAX_INPUTS, 16)
SCORE_BITS = score(SPEC).size
WORD = (1 << SPEC.acc_bits) - 1
END = 6
"""Cycles of an engine from a job's last beat to its end."""


class Bus:
    """The fetched beats, which all blocks get."""

    def __init__(self, dut):
        self.valid, self.payload = dut.fetched__valid, dut.fetched__payload
        self.is_valid = 0
        self.valid.value = 0

    def drive(self, beat):
        """Give a beat in this cycle, or None."""
        if beat is not None:
            self.payload.value = pack(fetched(SPEC), beat)
        if self.is_valid != (beat is not None):
            self.is_valid = int(beat is not None)
            self.valid.value = self.is_valid


@dataclass(eq=False)
class Engine:
    """A channel: fetches that it has to answer, and jobs."""

    fetches: deque
    jobs: deque
    ends: deque
    free_at: int = 0
    answer_at: int = 0
    part: int = 0


class World:
    """Everything around the block; its memory is that of the model before each operation."""

    def __init__(self, dut, random, stall, emulator, *, errors=0.0):
        self.dut, self.random, self.stall, self.errors = dut, random, stall, errors
        self.emulator = emulator
        self.memory = emulator.memory.copy()
        self.constants = emulator.constants
        self.cycle = self.fetch_channel = 0
        self.op_port = Wants(dut, "op", OPERATION)
        self.finished = Offers(dut, "finished", 1)
        self.fetch = Offers(dut, "fetch", fetch(SPEC))
        self.job = Offers(dut, "job", job(SPEC))
        self.request = Offers(dut, "request", vector_at(SPEC))
        self.vector = Offers(dut, "vector", destination(SPEC))
        self.o = Offers(dut, "o", numbers(SPEC))
        self.residual = Wants(dut, "residual", vector_beat(SPEC))
        self.scored = [Wants(dut, f"scored__{c}", scored(SPEC)) for c in range(C)]
        self.bus = Bus(dut)
        self.channels = [Engine(deque(), deque(), deque()) for _ in range(C)]
        self.slots = {}  # (slot, odd) -> list of beats of numbers
        self.slot_jobs = [0] * SPEC.pairs  # channels whose ends are outstanding
        self.held = [None] * SPEC.score_rows  # the token whose score it is
        self.base = 0
        self.words = [[0] * SPEC.score_rows for _ in range(C)]
        self.token = None
        self.residuals = deque()  # (due, beat)
        self.vectors, self.beats = deque(), []
        self.late = bool(random.integers(2))  # a vector is taken when its numbers were
        self.wrong = False  # an error was injected
        # Of the operation: jobs, cycles of the first engine, and when beats of numbers were given
        self.jobs = self.engine_begin = self.engine_busy = self.engine_end = 0
        self.numbers = []

    def later(self, least):
        """Return a cycle that is soon, or not."""
        return self.cycle + (least if not self.stall
                             else 1 + int(self.random.exponential(20 * self.stall)))

    def error(self):
        """Return whether something goes wrong here."""
        wrong = bool(self.errors and self.random.random() < self.errors)
        self.wrong |= wrong
        return int(wrong)

    async def run(self, op, heads, tokens, cycles=None):
        """Execute an operation, and compare the memory after it; or stop in the middle."""
        emulator = self.emulator
        emulator.heads[:] = heads
        emulator.pruned = tokens is not None
        emulator.tokens[:] = True if tokens is None else tokens
        self.op, self.begin, self.wrong = op, self.cycle, False
        self.numbers = []
        self.engine_begin = self.engine_busy = self.jobs = 0
        self.dut.heads.value = sum(int(one) << n for n, one in enumerate(heads))
        self.dut.pruned.value = int(emulator.pruned)
        self.dut.tokens.value = sum(int(one) << n for n, one in enumerate(emulator.tokens))
        self.op_port.offer(op, {name: int(self.random.integers(256)) for name in LAYOUT.fields}
                           | op)
        self.done = None
        watchdog = SPEC.max_tokens * 20 + 400 * (1 + 20 * self.stall) \
            + self.work(op) * (3 + 40 * self.stall)
        while self.done is None:
            await self.tick()
            if cycles is not None and self.cycle - self.begin >= cycles:
                return
            assert self.cycle - self.begin < watchdog, f"stuck: {self.jobs} jobs, {op}"
        assert self.op_port.offered is None, "op must be taken with finished"
        assert not self.vectors and not self.beats and not self.residuals
        assert self.done == self.wrong
        [completion] = emulator.run([LAYOUT.pack({"opcode": Opcode.LINEAR} | op)])
        assert completion.status == Status.OK
        np.testing.assert_array_equal(self.memory, emulator.memory, str(op))

    def work(self, op):
        """Return about how many cycles an operation takes."""
        live = op["tokens"] if op["dense"] or not self.emulator.pruned \
            else int(self.emulator.tokens.sum())
        rows = live * op["outputs"] * L // C
        return rows * max(2 * op["inputs"] + 2, C // SPEC.linear_lanes)

    async def tick(self):
        await RisingEdge(self.dut.clk)
        self.cycle += 1
        random, stall = self.random, self.stall
        self.read()
        self.done = self.finished.sample()
        self.op_port.sample()
        waited, channel = self.fetch.offered is not None, int(self.dut.fetch_channel.value)
        got: Any = self.fetch.sample()
        assert not waited or channel == self.fetch_channel, "fetch_channel changed"
        self.fetch_channel = channel
        if got is not None:
            assert not got["unit"] and not self.slot_jobs[got["slot"]], "the slot is in use"
            assert (got["slot"], got["odd"]) not in self.slots
            self.slots[got["slot"], got["odd"]] = []
            engine = self.channels[channel]
            engine.fetches.append(got)
            if len(engine.fetches) == 1:
                engine.answer_at = self.later(10)
        if (got := self.job.sample()) is not None:
            self.begin_job(got)
        if (got := self.request.sample()) is not None:
            data = self.memory[got["beat"]:got["beat"] + BEATS, got["channel"]]
            due = self.later(10)
            self.residuals.extend((due, beat) for beat in data.copy().view("<i2"))
        if (got := self.vector.sample()) is not None:
            self.vectors.append(got)
        if (got := self.o.sample()) is not None:
            self.numbers.append(self.cycle)
            self.beats.append(got)
        self.residual.sample()
        for c in range(C):
            self.scored[c].sample()
        # What the world does
        if self.residual.offered is None and self.residuals and self.residuals[0][0] <= self.cycle \
                and random.random() >= stall:
            beat = self.residuals.popleft()[1]
            self.residual.offer(beat, {"numbers": beat, "error": self.error()})
        self.write()
        self.answer()
        for c, engine in enumerate(self.channels):
            self.compute(c, engine)
        for offer in (self.finished, self.fetch, self.job, self.request, self.vector, self.o):
            late = offer is self.vector and self.late and len(self.beats) < BEATS
            offer.drive(int(not late and (not stall or random.random() >= stall)))

    def read(self):
        """Serve the read ports of scores and constants: what they gave stays."""
        dut = self.dut
        if int(dut.read_enable.value):
            row = int(dut.read_address.value)
            token = self.held[row]
            assert token is not None and not token.open, "a score was read that is not there"
            self.held[row] = None
            self.dut.read_data.value = sum(self.words[c][row] << c * SCORE_BITS for c in range(C))
            for c in range(C):
                self.words[c][row] = self.garbage()
        if int(dut.constant_enable.value):
            place = int(dut.constant_address.value) % len(self.constants)
            self.dut.constant_data.value = int.from_bytes(self.constants[place].tobytes(), "little")

    def garbage(self):
        return int.from_bytes(self.random.bytes((SCORE_BITS + 7) // 8), "little") \
            & (1 << SCORE_BITS) - 1

    def answer(self):
        """Give one beat of a channel that has an answer; or one for others."""
        due = [engine for engine in self.channels
               if engine.fetches and engine.answer_at <= self.cycle]
        if self.stall and self.random.random() < 0.1:
            return self.bus.drive({
                "data": int.from_bytes(self.random.bytes(BYTES), "little"),
                "slot": int(self.random.integers(SPEC.pairs)), "odd": int(self.random.integers(2)),
                "unit": 1, "part": int(self.random.integers(BEATS)), "error": 1})
        if not due or self.random.random() < self.stall / 2:
            return self.bus.drive(None)
        engine = due[self.random.integers(len(due))]
        asked = engine.fetches[0]
        c = self.channels.index(engine)
        data = self.memory[asked["beat"] + engine.part, c]
        self.bus.drive({"data": int.from_bytes(data.tobytes(), "little"), "slot": asked["slot"],
                        "odd": asked["odd"], "unit": 0, "part": engine.part,
                        "error": self.error()})
        self.slots[asked["slot"], asked["odd"]].append(narrow(data.copy().view("<i2")
                                                              .astype(np.int64)))
        engine.part = (engine.part + 1) % BEATS
        if not engine.part:
            engine.fetches.popleft()
            engine.answer_at = self.later(1)

    def begin_job(self, got):
        """Check a job, and give it to the channels."""
        op, rows = self.op, self.op["outputs"] * L // C
        self.jobs += 1
        assert got["even"] or got["odd"]
        assert {name: got[name] for name in ("low", "planes", "half", "dense", "tokens", "turn")} \
            == {"low": 0, "planes": 2, "half": 0, "dense": 1, "tokens": op["outputs"] * L,
                "turn": 0}
        assert not self.slot_jobs[got["slot"]]
        inputs = [np.concatenate(self.slots.pop((got["slot"], odd))) if got[name] else None
                  for odd, name in enumerate(("even", "odd"))]
        assert all(one is None or len(one) == L for one in inputs), "an input is not there"
        if got["add"] == 0:
            assert got["base"] == self.base
            self.base = (self.base + rows) % SPEC.score_rows
            self.token = SimpleNamespace(base=got["base"], open=0)
            for row in range(rows):
                place = (got["base"] + row) % SPEC.score_rows
                assert self.held[place] is None, "scores would be lost"
                self.held[place] = self.token
        assert self.token is not None and got["base"] == self.token.base
        heads = self.emulator.heads
        left = heads.reshape(-1, 2).any(-1) if op["narrow"] else heads
        jobs = sum(1 for n in range(0, MOST, 2) if any(
            m < op["inputs"] and (not op["by_head"] or left[m]) for m in (n, n + 1)))
        self.token.open += jobs * C if got["add"] == 0 else 0
        self.slot_jobs[got["slot"]] = C
        for engine in self.channels:
            engine.jobs.append((got, inputs, self.token, rows))
            if len(engine.jobs) == 1:
                self.begin_keys(engine)

    def begin_keys(self, engine):
        """Begin the first of a channel's jobs."""
        got, _, _, rows = engine.jobs[0]
        cycles = rows * (4 if got["even"] and got["odd"] else 2)
        if self.stall and self.random.random() < 0.5:
            cycles = 1 + int(self.random.integers(cycles))
        engine.free_at = self.cycle + cycles
        if engine is self.channels[0]:
            self.engine_begin = self.engine_begin or self.cycle
            self.engine_busy += cycles
            self.engine_end = engine.free_at

    def compute(self, c, engine):
        """Go on with the jobs of a channel."""
        if engine.jobs and engine.free_at <= self.cycle:
            got, inputs, token, rows = engine.jobs.popleft()
            self.score(c, got, inputs, rows)
            engine.ends.append((self.cycle + END if not self.stall else self.later(1), got, token))
            if engine.jobs:
                self.begin_keys(engine)
        want = self.scored[c]
        if want.offered is None and engine.ends and engine.ends[0][0] <= self.cycle:
            _, got, token = engine.ends.popleft()
            token.open -= 1
            self.slot_jobs[got["slot"]] -= 1
            want.offer(got, {"even": int(self.random.integers(-WORD // 2, WORD // 2)),
                             "odd": int(self.random.integers(-WORD // 2, WORD // 2)),
                             "keys": rows_of(got), "error": self.error()})

    def score(self, c, got, inputs, rows):
        """Write the scores of a job, as an engine does."""
        both = got["even"] and got["odd"]
        first = got["beat"] + np.arange(rows) * got["stride"]
        data = self.memory[first[:, None] + np.arange(4 if both else 2), c].astype(np.int64)
        planes = np.stack([data & 15, data >> 4], -1).reshape(rows, -1, L)
        for odd, x in enumerate(inputs):
            if x is None and got["add"]:
                continue
            if x is None:
                values = self.random.integers(-WORD // 2, WORD // 2, rows)
            else:
                weights = digits(planes[:, 2 * (odd and both):][:, :2])
                values = 16 * (weights @ x) + 688 * x.sum()
            shift = odd * SPEC.acc_bits
            for row, value in enumerate(values.tolist()):
                place = (got["base"] + row) % SPEC.score_rows
                word = self.words[c][place]
                if got["add"] >> odd & 1:
                    value += word >> shift & WORD
                self.words[c][place] = word & ~(WORD << shift) | (value & WORD) << shift

    def write(self):
        """Write vectors whose numbers are there."""
        while self.vectors and len(self.beats) >= BEATS:
            where = self.vectors.popleft()
            got, self.beats = np.concatenate(self.beats[:BEATS]), self.beats[BEATS:]
            channel, n = where["channel"], where["planes"]
            if not n:
                self.memory[where["beat"]:, channel][:BEATS] = (
                    got.astype("<i2").view(np.uint8).reshape(BEATS, BYTES))
                continue
            got = np.clip(got, -8 << 4 * n - 4, (8 << 4 * n - 4) - 1)
            for plane in range(n):
                beat = where["low"] if plane == n - 1 else where["beat"] + plane
                nibbles = got >> 4 * (n - 1 - plane) & 15
                self.memory[beat, channel] = nibbles[0::2] | nibbles[1::2] << 4


def rows_of(got):
    """Return the keys of a job of one channel."""
    return got["tokens"] // C


def machine(random, beats):
    """Return a model with random memory, constants and table."""
    emulator = Emulator(SPEC, random.integers(0, 256, (beats, C, BYTES), dtype=np.uint8))
    emulator.table[:] = random.integers(-128, 128, 1 << SPEC.table_width)
    return emulator


def constants(random, emulator, first, count, size):
    """Set the constants of outputs such that results are of all sizes."""
    words = np.zeros(count, LINEAR_CONSTANT)
    words["bias"] = random.integers(-1 << 31, 1 << 31, count) >> random.integers(0, 24, count)
    words["bias"][random.random(count) < 0.1] = random.choice([-1 << 31, (1 << 31) - 1])
    words["mul"] = random.choice([0, 65535, *random.integers(1 << 12, 1 << 16, 6)], count)
    words["shift"] = np.clip(size + random.integers(-4, 6, count), 0, 63) | random.choice(
        [0, 64, 128], count)
    words["zero"] = random.integers(256)
    emulator.constants[first:][:len(words) * 8 // BYTES] = words.view(np.uint8).reshape(-1, BYTES)


def an_op(random, emulator, **given):
    """Return an operation, the heads and tokens that are left (or None); it fits the memory."""
    most = SPEC.max_tokens // L
    inputs = given.get("inputs", int(random.choice([1, 2, 3, random.integers(1, MOST + 1)])))
    narrow = given.get("narrow", int(random.random() < 0.4))
    by_head = given.get("by_head", int(inputs <= SPEC.max_heads >> narrow
                                       and random.random() < 0.5))
    heads = random.random(SPEC.max_heads) < random.choice([0.3, 0.7, 1])
    planes = given.get("planes", int(random.random() < 0.3))
    op = {
        "inputs": inputs, "by_head": by_head, "narrow": narrow,
        "outputs": int(random.integers(1, most + 1)),
        "tokens": int(random.choice([1, 2, C, C + 1, 5])), "dense": int(random.random() < 0.3),
        "rotation": int(random.integers(256)), "activation": int(random.integers(4)),
        "planes": planes, "residual": int(not planes and random.random() < 0.5),
        "value_planes": int(random.integers(1, 4)), "output_step": int(random.integers(4, 8)),
        "low_step": int(random.integers(1, 4)), **given}
    tokens = None
    if random.random() < 0.5:
        tokens = np.zeros(SPEC.max_tokens, bool)
        tokens[random.integers(0, SPEC.max_tokens, random.integers(0, 6))] = True
    # Places: as many as all tokens need, in any order
    sizes = {"query": 4 * inputs + int(random.integers(3)),
             "output": 8 * op["outputs"] + int(random.integers(3)),
             "key_low": 4 * op["outputs"] + int(random.integers(3)),
             "key": 2 * inputs + int(random.integers(5))}
    at = 0
    for name in random.permutation(list(sizes)).tolist():
        op[name], op[f"{name}_stride"] = at, sizes[name]
        at += sizes[name] * SPEC.rows + int(random.integers(9))
    count = op["outputs"] * L
    words = count * 8 // BYTES
    op["constant"] = int(random.integers(SPEC.constant_words - words + 1))
    constants(random, emulator, op["constant"], count,
              max(0, int(18 + np.log2(L * inputs) / 2 + 14 - 15)))
    return op, heads, tokens


PLACES = SPEC.rows * (8 * MOST + 16 * (SPEC.max_tokens // L)) + 64 * SPEC.rows
"""Beats of a channel's memory: room for an_op."""


async def begin(dut, emulator, again=False):
    """Start the clock, or only reset; load the table."""
    if again:
        for name in ("op", "fetched", "residual", *(f"scored__{c}" for c in range(C))):
            getattr(dut, f"{name}__valid").value = 0
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0
    else:
        await start(dut)
    source = StreamSource(dut, "load", Table.load_shape(SPEC.activation.table_spec))
    words = emulator.table.reshape(-1, BYTES) & 255
    await source.send([{"address": n, "entries": word} for n, word in enumerate(words)])


async def several(dut, random, stall, count, errors=0.0, again=False, **given):
    """Run operations back to back."""
    emulator = machine(random, PLACES)
    await begin(dut, emulator, again)
    world = World(dut, random, stall, emulator, errors=errors)
    for _ in range(count):
        await world.run(*an_op(random, emulator, **given))
    return world


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.2, 0.7])
async def equals_golden(dut, stall):
    """Operations of all kinds, one after the other."""
    await several(dut, rng(int(10 * stall)), stall, 8)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def activations(dut):
    """Each activation, into numbers and planes, with and without residual."""
    random = rng(20)
    emulator = machine(random, PLACES)
    await begin(dut, emulator)
    world = World(dut, random, 0.0, emulator)
    for kind in Activation:
        for planes, residual in ((0, 0), (0, 1), (1, 0)):
            await world.run(*an_op(random, emulator, activation=int(kind), planes=planes,
                                   residual=residual, tokens=2, inputs=2))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def some_heads(dut):
    """Every pattern of heads of two pairs, the last of which is not complete; and none at all."""
    random = rng(21)
    emulator = machine(random, PLACES)
    await begin(dut, emulator)
    world = World(dut, random, 0.1, emulator)
    inputs = min(4, SPEC.max_heads)
    for pattern in range(1 << inputs):
        op, heads, tokens = an_op(random, emulator, inputs=inputs, by_head=1, outputs=1,
                                  narrow=0)
        heads[:inputs] = [pattern >> n & 1 for n in range(inputs)]
        await world.run(op, heads, tokens)
        assert bool(world.jobs) == bool(pattern and world.work(op))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def extremes(dut):
    """The greatest and the least sums."""
    random = rng(22)
    for x, w in ((-2048, -128), (2047, -128), (-2048, 127)):
        emulator = machine(random, PLACES)
        emulator.memory[:] = 0
        op, heads, _ = an_op(random, emulator, inputs=MOST, by_head=0, tokens=2, dense=1, outputs=1,
                             activation=0, planes=0, residual=0)
        emulator.memory[op["query"]:][:op["query_stride"]] = np.full(
            BYTES // 2, x, "<i2").view(np.uint8)
        rows = np.arange(L // C)[:, None] * op["key_stride"] + np.arange(0, 2 * MOST, 2)
        for plane, nibble in enumerate((w >> 4 & 15, w & 15)):
            emulator.memory[op["key"] + rows + plane] = nibble * 17
        constants(random, emulator, op["constant"], L, 28)
        await begin(dut, emulator, (x, w) != (-2048, -128))
        await World(dut, random, 0.0, emulator).run(op, heads, None)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def errors(dut):
    """Errors are told with the operation in which they were, and not with the next."""
    random = rng(23)
    world = await several(dut, random, 0.1, 10, errors=0.01, outputs=1, inputs=3)
    world.errors = 0
    await world.run(*an_op(random, world.emulator, outputs=1))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def resets(dut):
    """A reset at any time leaves nothing behind."""
    random = rng(24)
    for number in range(12):
        emulator = machine(random, PLACES)
        await begin(dut, emulator, number > 0)
        world = World(dut, random, 0.2 * (number % 2), emulator)
        await world.run(*an_op(random, emulator), int(random.integers(5, 400)))
    await several(dut, random, 0.1, 2, again=True)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def rate(dut):
    """Measure which part of the time the engines work, and the collector; engines are ideal."""
    random, found = rng(25), {}
    tokens, outputs = min(SPEC.max_tokens, 24), min(SPEC.max_tokens // L, max(1, 192 // L))
    for name, given in (("engines", {"inputs": 3, "residual": 1}), ("planes", {"inputs": 4}),
                        ("balanced", {"inputs": 2}), ("collector", {"inputs": 1})):
        emulator = machine(random, PLACES)
        op, heads, left = an_op(random, emulator, **{
            "residual": 0, "planes": int(name == "planes"), "tokens": tokens, "dense": 1,
            "by_head": 0, "outputs": outputs, **given})
        await begin(dut, emulator, len(found) > 0)
        world = World(dut, random, 0.0, emulator)
        await world.run(op, heads, left)
        beats = BYTES // 2 // SPEC.linear_lanes * (len(world.numbers) - 1)
        found[name] = {
            "cycles": world.cycle - world.begin,
            "engines": world.engine_busy / (world.engine_end - world.engine_begin),
            "collector": beats / (world.numbers[-1] - world.numbers[0])}
    report(**found)
