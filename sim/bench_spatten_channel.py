# SPDX-License-Identifier: Apache-2.0
"""Compare a channel of the SpAtten core with numpy: jobs, values, queries, errors, beats."""

from collections import deque
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, Event, Lock, RisingEdge

from golden.fixed import ceil_div
from golden.spatten.emulator import digits
from golden.spatten.spec import LSB_BITS, SpattenSpec
from hw.contract import REQUEST
from hw.emit import from_plain
from hw.spatten.channel import Channel
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource, pack, unpack

PARAMETERS = parameters()
SPEC = from_plain(SpattenSpec, PARAMETERS["spec"])
INDEX = PARAMETERS["index"]
PORTS = Channel(SPEC, INDEX).signature.members
STREAMS = ("job", "fetch", "fetched", "request", "response", "scored", "scored_low", "task",
           "wanted", "part")
SHAPES = {name: PORTS[name].signature.members["payload"].shape for name in STREAMS}
QUERY = PORTS["query"].signature.members["payload"].shape
SCORE = PORTS["read_data"].shape
BYTES, LANES, ROWS = SPEC.memory_bytes, SPEC.lanes, SPEC.rows
LEAST = -1 << SPEC.acc_bits - 1
LATENCY = 30
FORMATS = [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]  # planes, half: 4 to 12 bits


class Memory:
    """A channel's memory: it answers in order, ``LATENCY`` cycles later, a beat per cycle.

    Every address has data, drawn from a table; some of its entries are bus errors.
    """

    TABLE = 4096

    def __init__(self, dut, random, stall=0.0, errors=0.0):
        self.dut, self.random, self.stall, self.latency = dut, random, stall, LATENCY
        data = random.integers(0, 256, (self.TABLE, BYTES))
        extreme = random.random(self.TABLE) < 0.2
        data[extreme] = random.choice([0x00, 0xFF, 0x77, 0x88], (extreme.sum(), 1))
        self.data = data.astype(np.uint8)
        self.bad = random.random(self.TABLE) < errors
        self.cycle, self.accepted, self.requests = 0, [], []
        self.pending: deque = deque()

    @classmethod
    def index(cls, beat):
        """Return where in the table a beat is."""
        beat = beat % ((1 << 32) // BYTES)
        return (beat ^ beat >> 12 ^ beat >> 24) % cls.TABLE

    def nibbles(self, first, count):
        """Return beats as 4-bit numbers, (..., count, lanes), and whether one is an error."""
        place = self.index(np.asarray(first, np.int64)[..., None] + np.arange(count))
        data = self.data[place].astype(np.int64)
        return (np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:-1], LANES),
                bool(self.bad[place].any()))

    def word(self, beat):
        """Return a beat and its error bit."""
        place = self.index(beat)
        return {"data": int.from_bytes(self.data[place].tobytes(), "little"),
                "error": int(self.bad[place])}

    async def run(self):
        """Serve."""
        dut, offered = self.dut, False
        dut.request__ready.value = dut.response__valid.value = 0
        offer = None
        while True:
            ready = self.random.random() >= self.stall
            dut.request__ready.value = int(ready)
            if not offered and self.pending and self.pending[0][0] <= self.cycle \
                    and self.random.random() >= self.stall:
                offered = True
                dut.response__payload.value = pack(SHAPES["response"],
                                                   self.word(self.pending[0][1]))
            dut.response__valid.value = int(offered)
            await RisingEdge(dut.clk)
            self.cycle += 1
            if offered and dut.response__ready.value:
                self.pending.popleft()
                self.accepted.append(self.cycle)
                offered = False
                assert dut.beat.value
            else:
                assert not dut.beat.value
            if dut.request__valid.value:
                raw = dut.request__payload.value.to_unsigned()
                assert offer in (None, raw), "a request must stay until taken"
                offer = None if ready else raw
                if ready:
                    self.take(unpack(REQUEST, raw))
            else:
                assert offer is None, "a request must not be withdrawn"

    def take(self, request):
        """Accept a request."""
        assert request["address"] % BYTES == 0
        assert request["beats"] > 0
        first = request["address"] // BYTES
        self.requests.append((first, request["beats"]))
        self.pending += [(self.cycle + self.latency, first + n) for n in range(request["beats"])]
        assert len(self.pending) <= SPEC.outstanding, "too many beats are owed"

    def rate(self, begin=0):
        """Return the share of cycles from an accepted beat to the last one that accepted one."""
        accepted = self.accepted[begin:]
        return len(accepted) / (accepted[-1] - accepted[0] + 1)


class Bench:
    """A channel, its memory, and everybody around."""

    def __init__(self, dut, random, stall=0.0, errors=0.0):
        self.dut, self.random = dut, random
        self.memory = Memory(dut, random, stall, errors)
        self.source = {name: StreamSource(dut, name, SHAPES[name], stall=stall)
                       for name in ("job", "fetch", "task", "wanted")}
        self.sink = {name: StreamSink(dut, name, SHAPES[name], stall=stall)
                     for name in ("fetched", "scored", "scored_low", "part")}
        self.tasks = [cocotb.start_soon(self.memory.run())]
        self.job_lock, self.query_lock = Lock(), Lock()
        self.changed = Event()
        self.queries = {}  # by slot and head
        self.released = self.rows = 0  # jobs and score rows that are free again

    def start(self, *coroutines):
        """Start coroutines; return their tasks."""
        started = [cocotb.start_soon(one) for one in coroutines]
        self.tasks += started
        return started

    def stop(self):
        """End everything, with the simulation in the middle of it."""
        for one in self.tasks:
            one.cancel()

    async def load_query(self, slot, odd):
        """Write a query vector; return its numbers."""
        dut, random = self.dut, self.random
        vector = random.integers(-2048, 2048, LANES)
        if random.random() < 0.3:
            vector[:] = random.choice([-2048, 2047])
        raw = (vector & 4095 | random.integers(0, 16, LANES) << 12).reshape(SPEC.vector_beats, -1)
        for n, beat in enumerate(raw):
            word = {"data": sum(int(x) << 16 * k for k, x in enumerate(beat)), "slot": slot,
                    "odd": odd, "part": n, "error": 0, "unit": 0}
            dut.query__payload.value = pack(QUERY, word)
            dut.query__valid.value = 1
            await RisingEdge(dut.clk)
            if random.random() < 0.3:  # a beat that is not for the query memories
                dut.query__payload.value = pack(QUERY, word | {"unit": 1, "data": 0})
                await RisingEdge(dut.clk)
            dut.query__valid.value = 0
            while random.random() < 0.2:
                await RisingEdge(dut.clk)
        self.queries[slot, odd] = vector

    async def read(self, address):
        """Return a word of the score memory."""
        dut = self.dut
        dut.read_address.value = address
        dut.read_enable.value = 1
        await RisingEdge(dut.clk)
        dut.read_enable.value = 0
        dut.read_address.value = int(self.random.integers(SPEC.score_rows))
        await RisingEdge(dut.clk)
        word: Any = unpack(SCORE, dut.read_data.value.to_unsigned())
        return word

    # Jobs

    def keys(self, job, mask):
        """Return the token rows of the keys that a job has in this channel."""
        lane = (INDEX - job["turn"]) % SPEC.channels
        if job["dense"]:
            return np.arange(max(0, ceil_div(job["tokens"] - lane, SPEC.channels)))
        return np.flatnonzero([mask >> row * SPEC.channels + lane & 1 for row in range(ROWS)])

    def scores(self, job, rows):
        """Return the scores (2, keys) of a normal job, and whether it has an error."""
        planes, half = job["planes"], job["half"]
        heads = [n for n, name in enumerate(("even", "odd")) if job[name]]
        if job["narrow"]:
            data, error = self.memory.nibbles(job["beat"] + rows * job["stride"], planes)
            bias = sum(5 << 4 * n for n in range(planes)) - (8 << 4 * planes - 4)
            return self.halves(job, digits(data) - bias << LSB_BITS), error
        data, error = self.memory.nibbles(job["beat"] + rows * job["stride"],
                                          len(heads) * planes + half)
        shared = data[:, planes * (1 - heads[0])] if half else None
        scores = np.zeros((2, len(rows)), np.int64)
        weights = [LSB_BITS + 2 * half + 4 * n for n in range(planes)]
        bias = sum(5 << weight for weight in weights) - (8 << weights[-1])
        for head in heads:
            key = digits(data[:, -planes:] if head else data[:, :planes]) << weights[0]
            if shared is not None:
                key += (shared & 3 if head else shared >> 2) << LSB_BITS
            key -= bias + (half << LSB_BITS)  # see Engine
            scores[head] = key @ self.queries[job["slot"], head]
        return scores, error

    def halves(self, job, key):
        """Return the scores (2, keys) of the heads that share the vectors of narrow keys."""
        products = (key * self.queries[job["slot"], 0]).reshape(len(key), 2, LANES // 2)
        return products.sum(-1).T * np.array([[job["even"]], [job["odd"]]])

    def low_scores(self, job, rows):
        """Return what a low job adds (2, keys), and whether it has an error."""
        data, error = self.memory.nibbles(job["beat"] + rows * job["stride"], 1)
        key, odd = data[:, 0] - 5, job["odd"]
        if job["narrow"]:
            return self.halves(job, key), error
        return np.stack([key @ self.queries[job["slot"], odd] if head == odd else 0 * rows
                         for head in range(2)]), error

    def job(self, slot, base, **fields):
        """Return a random job."""
        random = self.random
        planes, half = FORMATS[random.integers(len(FORMATS))]
        heads = int(random.choice([1, 2, 3, 3, 3]))
        small = random.random() < 0.5
        narrow = SPEC.sharing > 1 and not half and "half" not in fields and random.random() < 0.5
        return {
            "slot": slot, "even": heads & 1, "odd": heads >> 1, "low": 0, "add": 0, "base": base,
            "beat": int(random.integers(1 << 27)),
            "stride": int(random.integers(8 if small else 1 << 16)),
            "planes": planes, "half": half, "narrow": int(narrow),
            "dense": int(random.random() < 0.4),
            "tokens": int(random.integers(1, SPEC.max_tokens + 1)),
            "turn": int(random.integers(SPEC.channels))} | fields

    async def send_job(self, job):
        """Send a job."""
        async with self.job_lock:
            await self.source["job"].send([job])

    async def jobs(self, count, mask):
        """Send jobs whose slots and rows are free; compare all that comes of them."""
        base, sent = int(self.random.integers(SPEC.score_rows)), deque()
        self.released, self.rows, used = 0, SPEC.score_rows, 0
        (collector,) = self.start(self.collect(count, mask, sent))
        for n in range(count):
            slot = n % SPEC.pairs
            job = self.job(slot, base)
            more = int(self.random.integers(3))  # other lanes may have more keys
            size = min(len(self.keys(job, mask)) + more, SPEC.score_rows)
            while self.released + SPEC.pairs <= n or used + size > self.rows:
                self.changed.clear()
                await self.changed.wait()
            used, base = used + size, (base + size) % SPEC.score_rows
            for odd, name in enumerate(("even", "odd")):
                if job[name] or job["narrow"]:
                    await self.load_query(slot, odd)
            await self.send_job(job)
            sent.append((job, size))
        await collector

    async def collect(self, count, mask, sent):
        """Compare ends of jobs, and scores; send low jobs, compare again; free slot and rows."""
        for n in range(count):
            (scored,) = await self.sink["scored"].receive(1)
            job, size = sent.popleft() if sent else await self.next(sent)
            rows = self.keys(job, mask)
            scores, error = self.scores(job, rows)
            heads = [head for head, name in enumerate(("even", "odd")) if job[name]]
            self.check_end(scored, scores, heads, error)
            await self.check_scores(job, rows, scores, heads)
            again = [head for head in heads if self.random.random() < 0.6]
            groups = [again] if job["narrow"] and again else [[head] for head in again]
            lows = [job | {"low": 1, "even": int(0 in group), "odd": int(1 in group), "planes": 3,
                           "half": 1, "beat": int(self.random.integers(1 << 27)),
                           "stride": int(self.random.integers(1 << 16))} for group in groups]
            for low in lows:
                await self.send_job(low)
            ends = await self.sink["scored_low"].receive(len(lows))
            for low, end, group in zip(lows, ends, groups, strict=True):
                more, error = self.low_scores(low, rows)
                scores += more
                self.check_end(end, scores, group, error)
            if lows:
                await self.check_scores(job, rows, scores, heads)
            self.released, self.rows = n + 1, self.rows + size
            self.changed.set()

    async def next(self, sent):
        """Wait for a job that is sent, but not yet noted."""
        while not sent:
            await RisingEdge(self.dut.clk)
        return sent.popleft()

    def check_end(self, scored, scores, heads, error):
        assert scored["keys"] == scores.shape[1]
        assert scored["error"] == error
        for head in heads:
            assert scored[("even", "odd")[head]] == scores[head].max(initial=LEAST)

    async def check_scores(self, job, rows, scores, heads):
        for n, row in enumerate(rows):
            word = await self.read((job["base"] + n) % SPEC.score_rows)
            assert word["row"] == row
            for head in heads:
                assert word[("even", "odd")[head]] == scores[head, n]

    # Values, queries

    def value_task(self, most=ROWS):
        """Return a random task and its values."""
        random = self.random
        count = int(random.choice([0, 0, 1, 2, most, random.integers(most + 1)]))
        rows = np.sort(random.permutation(ROWS)[:min(count, most)])
        exponents = random.integers(0, 4096, (len(rows), SPEC.sharing))
        exponents[random.random(exponents.shape) < 0.2] = 4095
        task = {"beat": int(random.integers(1 << 27)), "stride": int(random.integers(1 << 16)),
                "planes": int(random.integers(1, 4))}
        return task, rows, exponents

    async def values(self, some, late=0, pace: Any = None):
        """Send tasks and their values; compare the sums, which nobody takes at first.

        ``pace(n)`` is awaited before the values of task ``n`` are sent.
        """
        parts = SPEC.sharing
        some = [(task, rows, np.broadcast_to(one.T, (parts, len(rows))).T)  # all, or of each part
                for task, rows, one in some]
        entries = [{"row": int(row), "exponents": exponents, "end": end}
                   for _, rows, one in some
                   for row, exponents, end in [
                       *((row, each.tolist(), 0) for row, each in zip(rows, one, strict=True)),
                       (0, self.random.integers(4096, size=parts).tolist(), 1)]]

        async def send():
            first = 0
            for n, (_, rows, _) in enumerate(some):
                await pace(n)
                await self.source["wanted"].send(entries[first:first + len(rows) + 1])
                first += len(rows) + 1

        self.start(self.source["task"].send([task for task, _, _ in some]),
                   send() if pace else self.source["wanted"].send(entries))
        await ClockCycles(self.dut.clk, late) if late else None
        for task, rows, exponents in some:
            (got,) = await self.sink["part"].receive(1)
            data, error = self.memory.nibbles(task["beat"] + rows * task["stride"], task["planes"])
            each = np.repeat(exponents, LANES // parts, -1)  # (rows, lanes)
            assert got["sums"] == (each * digits(data)).sum(0).tolist()
            assert got["error"] == error

    async def fetches(self, count):
        """Fetch vectors; compare."""
        random = self.random
        some = [{"beat": int(random.integers(1 << 27)), "slot": int(random.integers(SPEC.pairs)),
                 "odd": int(random.integers(2)),
                 "unit": int(random.integers(2)) if SPEC.local else 0} for _ in range(count)]

        async def send():
            for fetch in some:
                await ClockCycles(self.dut.clk, int(random.integers(1, 150)))
                await self.source["fetch"].send([fetch])

        self.start(send())
        for fetch in some:
            for part, beat in enumerate(await self.sink["fetched"].receive(SPEC.vector_beats)):
                assert beat == self.memory.word(fetch["beat"] + part) | {
                    "slot": fetch["slot"], "odd": fetch["odd"], "unit": fetch["unit"],
                    "part": part}

    def mask(self):
        """Return random tokens that are left."""
        density = self.random.choice([0.0, 0.1, 0.5, 1.0])
        left = self.random.random(SPEC.max_tokens) < density
        return sum(1 << int(token) for token in np.flatnonzero(left))

    async def everything(self, rounds, jobs):
        """Run jobs, values and fetches at the same time, and nothing is left."""
        values, fetches = self.start(
            self.values([self.value_task() for _ in range(rounds * jobs)]),
            self.fetches(rounds * jobs // 2))
        for _ in range(rounds):
            mask = self.mask()
            self.dut.tokens.value = mask
            await self.jobs(jobs, mask)
        await values
        await fetches
        await ClockCycles(self.dut.clk, 2 * LATENCY)
        dut = self.dut
        assert not self.memory.pending
        assert not any(getattr(dut, f"{name}__valid").value for name in (
            "request", "fetched", "scored", "scored_low", "part"))


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def equals_golden(dut, stall):
    await start(dut)
    bench = Bench(dut, rng(int(10 * stall)), stall)
    await bench.everything(8, 12)


@cocotb.test(timeout_time=2, timeout_unit="ms", skip=not SPEC.local)
@cocotb.parametrize(stall=[0.0, 0.3])
async def adds_to_scores(dut, stall):
    """Jobs of the same keys, as close as can be, each with one or two more vectors."""
    random = rng(11)
    await start(dut)
    bench = Bench(dut, random, stall)
    for slot in range(SPEC.pairs):
        for odd in range(2):
            await bench.load_query(slot, odd)
    bench.memory.latency = 1
    base, words, rates = 0, np.zeros((2, SPEC.score_rows), np.int64), []
    for count in [2, 2, 2, *random.integers(2, ROWS + 1, 30)]:
        jobs, had, expected = [], 0, []
        rows = np.arange(count)
        places = (base + rows) % SPEC.score_rows
        for number in range(int(random.integers(1, 9))):
            heads = int(random.choice([1, 2, 3, 3]))
            jobs.append(bench.job(
                number % SPEC.pairs, base, even=heads & 1, odd=heads >> 1, add=had,
                planes=2, half=0, dense=1, tokens=int(count) * SPEC.channels))
            scores, _ = bench.scores(jobs[-1], rows)
            for head in range(2):
                if heads >> head & 1:
                    words[head, places] = scores[head] + (words[head, places] if had >> head & 1
                                                          else 0)
            had |= heads
            expected.append([int(word[places].max()) for word in words])
        begin = len(bench.memory.accepted)
        bench.start(bench.source["job"].send(jobs))
        for job, tops in zip(jobs, expected, strict=True):
            (end,) = await bench.sink["scored"].receive(1)
            bench.check_end(end | {"error": 0}, words[:, places], [], 0)
            for head, name in enumerate(("even", "odd")):
                assert not job[name] or end[name] == tops[head]
        rates.append(bench.memory.rate(begin) if len(jobs) > 2 else 0)
        for n, at in enumerate(places):
            word = await bench.read(int(at))
            assert word["row"] == n
            for head, name in enumerate(("even", "odd")):
                assert not had >> head & 1 or word[name] == words[head, at]
        base = (base + int(count)) % SPEC.score_rows
    if not stall:
        report(adding=max(rates))


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def errors_mark_what_they_belong_to(dut):
    await start(dut)
    bench = Bench(dut, rng(5), 0.1, errors=0.03)
    await bench.everything(6, 12)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def reset_leaves_nothing(dut):
    """Stop at some moment, reset, and begin again."""
    random = rng(6)
    for _ in range(6):
        await start(dut)
        bench = Bench(dut, random, 0.1)
        bench.start(bench.everything(100, 12))
        await ClockCycles(dut.clk, int(random.integers(20, 600)))
        bench.stop()
    await start(dut)
    await Bench(dut, random, 0.1).everything(2, 12)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def order_of_requests(dut):
    """A job that has begun goes on, then low jobs, other jobs, values; fetches overtake all."""
    await start(dut)
    bench = Bench(dut, rng(8))
    bench.memory.stall = 1.0  # no request is taken
    count = min(4, ROWS)
    fields = {"dense": 1, "tokens": count * SPEC.channels, "stride": 64}
    begun, waits = (bench.job(0, 0, beat=beat, **fields) for beat in (1 << 16, 2 << 16))
    low = bench.job(0, 0, beat=3 << 16, **fields) | {"low": 1, "even": 1, "odd": 0}
    task = {"beat": 4 << 16, "stride": 64, "planes": 2}
    rows = np.arange(min(count, 3 * SPEC.value_queue // 4 - 2))  # and their end
    await bench.source["job"].send([begun, waits, low])
    (values, _) = bench.start(
        bench.values([(task, rows, rows + 1)]),
        bench.source["fetch"].send([{"beat": 5 << 16, "slot": 0, "odd": 0, "unit": 0}]))
    await ClockCycles(dut.clk, 20)
    bench.memory.stall = 0.0
    await bench.sink["fetched"].receive(SPEC.vector_beats)
    await bench.sink["scored"].receive(2)
    await bench.sink["scored_low"].receive(1)
    await values
    firsts = [first for first, _ in bench.memory.requests]
    assert firsts.index(5 << 16) <= 3, "requests that wait to be taken, and one more"
    firsts.remove(5 << 16)
    assert firsts == [job["beat"] + 64 * n for job in (begun, low, waits) for n in range(count)] \
        + [task["beat"] + 64 * int(row) for row in rows]


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def values_that_press(dut):
    """Values go before keys until their queue is less than three quarters full."""
    await start(dut)
    bench = Bench(dut, rng(11))
    bench.memory.stall = 1.0  # no request is taken
    begun, waits = (bench.job(0, 0, beat=beat, dense=1, tokens=SPEC.max_tokens, stride=64)
                    for beat in (1 << 16, 2 << 16))
    task = {"beat": 4 << 16, "stride": 64, "planes": 1}
    rows = np.arange(SPEC.value_queue - 1) % ROWS
    await bench.source["job"].send([begun, waits])
    (values,) = bench.start(bench.values([(task, rows, rows + 1)]))
    await ClockCycles(dut.clk, SPEC.value_queue + 20)
    bench.memory.stall = 0.0
    await bench.sink["scored"].receive(2)
    await values
    kinds = [first >> 16 == 4 for first, _ in bench.memory.requests]
    started = kinds.index(True)
    assert started <= 3, "requests that wait to be taken"
    pressing = kinds.index(False, started) - started
    assert SPEC.value_queue // 4 <= pressing <= SPEC.value_queue // 4 + 3
    assert all(kinds[len(kinds) - len(rows) + pressing:])


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def late_takers(dut):
    """Nothing is lost when all that comes of jobs and tasks waits."""
    random = rng(9)
    await start(dut)
    bench = Bench(dut, random)
    mask = bench.mask()
    dut.tokens.value = mask
    for slot in range(SPEC.pairs):
        for odd in range(2):
            await bench.load_query(slot, odd)
    jobs = [bench.job(n % SPEC.pairs, 0) for n in range(4 * SPEC.pairs)]
    tasks = [bench.value_task() for _ in range(4 * SPEC.output_queue)]
    values, _ = bench.start(bench.values(tasks, late=1500), bench.source["job"].send(jobs))
    await ClockCycles(dut.clk, 1000)
    beats = len(bench.memory.accepted)
    await ClockCycles(dut.clk, 200)
    assert len(bench.memory.accepted) == beats, "something must wait"
    for job in jobs:
        (scored,) = await bench.sink["scored"].receive(1)
        scores, error = bench.scores(job, bench.keys(job, mask))
        bench.check_end(scored, scores, [head for head, name in enumerate(("even", "odd"))
                                         if job[name]], error)
    await values


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def latencies(dut):
    """Hold a job of one key, and a task of one value, to their cycles."""
    await start(dut)
    bench = Bench(dut, rng(10))
    seen = {}

    async def watch():
        for cycle in range(400):
            await RisingEdge(dut.clk)
            for name in ("job", "wanted", "request", "response", "scored", "part"):
                if getattr(dut, f"{name}__valid").value and getattr(dut, f"{name}__ready").value:
                    seen[name] = cycle  # the last time

    bench.start(watch())
    job = bench.job(0, 0, dense=1, turn=0, tokens=INDEX + 1, planes=1, half=0, even=1, odd=0)
    await bench.source["job"].send([job])
    await bench.sink["scored"].receive(1)
    await RisingEdge(dut.clk)
    assert seen["request"] - seen["job"] == Channel.REQUEST_LATENCY
    assert seen["scored"] - seen["response"] == Channel.SCORE_LATENCY
    await bench.values([({"beat": 3, "stride": 5, "planes": 1}, np.array([1]), np.array([7]))])
    await RisingEdge(dut.clk)
    assert seen["part"] - seen["response"] == Channel.PART_LATENCY


async def flow(dut, bench, jobs, tasks, together):
    """Send jobs as fast as they are taken, at most ``together`` at a time; values follow from them.

    Return the rate, and the beats of which it is the rate.
    """
    under_way = ended = 0

    async def send():
        nonlocal under_way
        for job in jobs:
            while under_way == together:
                await RisingEdge(dut.clk)
            under_way += 1
            await bench.source["job"].send([job])

    async def end():
        nonlocal under_way, ended
        for job in jobs:
            await bench.sink["scored_low" if job["low"] else "scored"].receive(1)
            under_way, ended = under_way - 1, ended + 1

    async def pace(n):
        while n * len(jobs) >= ended * len(tasks) and ended < len(jobs):
            await RisingEdge(dut.clk)

    started = bench.start(bench.values(tasks, pace=pace), send(), end())
    for one in (started[0], started[2]):
        await one
    return bench.memory.rate(), len(bench.memory.accepted)


KEYS = min(7, ROWS)


def streaming(bench, kind):
    """Return jobs, tasks, and jobs at a time, for a kind of traffic."""
    random = bench.random
    few = {"planes": 1, "half": 1, "even": 1, "odd": 1, "tokens": KEYS * SPEC.channels, "dense": 1}
    if "masked" in kind:
        few["dense"] = 0
    if "low" in kind:
        few |= {"low": 1, "even": 0}
    if "4 bits" in kind:
        few |= {"half": 0, "even": 0}
    jobs = [bench.job(n % SPEC.pairs, n * KEYS % SPEC.score_rows, **few)
            for n in range(0 if "alone" in kind else 120)]
    tasks = []
    for _ in range(480 if "values" in kind else 0):
        rows = np.sort(random.permutation(ROWS)[:random.integers(min(7, ROWS) + 1)])
        tasks.append(({"beat": int(random.integers(1 << 27)), "stride": 8, "planes": 2}, rows,
                      random.integers(1, 4096, len(rows))))
    return jobs, tasks, 2 if "values" in kind else SPEC.pairs


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_beat_per_cycle(dut):
    """Measure, with a memory that never stalls, and enough beats under way to hide its latency."""
    rates = {}
    for kind in PARAMETERS.get("kinds", []):
        await start(dut)
        bench = Bench(dut, rng(7))
        mask = sum(1 << t for t in range(SPEC.max_tokens)
                   if bench.random.random() < KEYS / ROWS)
        dut.tokens.value = mask
        rates[kind] = await flow(dut, bench, *streaming(bench, kind))
        bench.stop()
    report(rates=rates)
