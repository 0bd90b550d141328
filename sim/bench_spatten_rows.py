# SPDX-License-Identifier: Apache-2.0
"""Compare RowUnit with its golden model: values wanted, weights, low bits, order, rate, reset."""

from dataclasses import dataclass, field
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from golden.spatten.attention import chosen, distances, exponents, probabilities
from golden.spatten.spec import SpattenSpec
from hw.spatten.layouts import addition, job, pair, result, scored, task, wanted
from sim.bench import parameters, report, rng, start
from sim.stream import Offers, Wants, unpack

SPEC = parameters(SpattenSpec)
C = SPEC.channels
LOWEST = -1 << SPEC.acc_bits - 1
WORD = (1 << SPEC.acc_bits) - 1
SCORE_BITS = 2 * SPEC.acc_bits + max(1, (SPEC.rows - 1).bit_length())
IDLE = 40 + 4 * SPEC.rows
KINDS = 5


@dataclass(eq=False)
class Head:
    """One head: its scores without and with low bits, and what must come of them."""

    op: dict[str, int]
    pair: "Pair"
    odd: int
    scores: np.ndarray  # (2, keys)
    error: int = 0  # among its low bits
    asked: bool = False

    def __post_init__(self):
        op = self.op
        self.number = 2 * self.pair.number + self.odd
        self.settle(0)
        if self.total > op["limit"]:
            self.settle(1)

    def settle(self, low):
        """Compute everything, with low bits or without."""
        op = self.op
        self.low = bool(low)
        distance = distances(SPEC, self.scores[low], op["score_shift"], op["score_mul"])
        self.exponent = exponents(SPEC, distance)
        self.total = int(self.exponent.sum())
        self.keep = chosen(SPEC, distance, self.pair.places, op["values"])
        self.probability = probabilities(SPEC, self.exponent, self.total)

    @property
    def error_there(self):
        """Return whether its result has an error: one among the low bits is that of all twins."""
        one = self.pair
        return int(one.error or one.query_error
                   or self.low and any(twin.error for twin in one.twins(self)))


@dataclass(eq=False)
class Pair:
    """A pair of heads: where its keys lie, who has their scores."""

    op: dict[str, int]
    number: int
    turn: int
    own: int
    accumulate: int
    live: np.ndarray
    heads: list[Head] = field(default_factory=list)
    last: bool = False
    error: int = 0
    query_error: int = 0
    slot: int = 0
    base: int = 0
    beats: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        lane = self.live % C
        self.row = self.live // C
        position = np.zeros(len(lane), np.int64)
        for number in range(C):
            position[lane == number] = np.arange((lane == number).sum())
        self.lane, self.position = lane, position
        self.places = position * C + lane
        self.channel = (lane + self.turn) % C
        self.rows = int(position.max()) + 1

    def twins(self, head):
        """Return the heads that share a vector with one, itself among them."""
        return self.heads if self.op["narrow"] else [head]

    def payload(self):
        odd = [head.odd for head in self.heads]
        return {name: self.op[name] for name in (
            "op", "narrow", "dense", "tokens", "values", "limit", "score_shift", "score_mul",
            "key_low_stride", "value_stride", "value_planes", "mul", "shift")} | self.beats | {
            "slot": self.slot, "even": int(0 in odd), "odd": int(1 in odd), "base": self.base,
            "turn": self.turn, "own": self.own, "accumulate": self.accumulate,
            "pair": self.number, "last": int(self.last), "error": self.query_error}


def scores_of(random, kind, keys, op):
    """Return scores without and with low bits: flat, peaked, with ties, of the whole range."""
    unit = max(1, (512 << min(op["score_shift"], 20)) // max(1, op["score_mul"]))  # of a distance
    top = -LOWEST - 1
    if kind == 0:
        scores = random.normal(0, 60, keys) * unit
    elif kind == 1:
        scores = random.integers(0, 3, keys) * unit / 2
    elif kind == 2:
        scores = np.full(keys, random.integers(-top, top))
        scores[random.integers(keys)] += 100 * unit
    elif kind == 3:
        scores = random.choice(random.normal(0, 40, 3), keys) * unit
    else:  # of all
        scores = random.choice([LOWEST, top, 0, *random.integers(LOWEST, top, 3)], keys)
    scores = np.clip(np.asarray(scores, float), LOWEST, top).astype(np.int64)
    scores = np.clip(scores, LOWEST, top)
    low = np.clip(scores + (random.normal(0, 9, keys) * unit).astype(np.int64), LOWEST, top)
    return np.stack([scores, low])


def an_op(random, number, *, heads=None, accumulate=None, **given):
    """Return the pairs of an operation, whose fields are random if they are not given."""
    most, many = SPEC.max_tokens, (1 << 24) - 1
    dense = given.get("dense", int(random.random() < 0.5))
    tokens = given.get("tokens", int(random.choice(
        [1, C, min(C + 1, most), most, *random.integers(1, most + 1, 4)])))
    live = np.arange(tokens)
    if not dense:
        live = np.flatnonzero(random.random(most) < random.choice([0.05, 0.5, 0.9]))
        live = live if len(live) else np.array([most // 2])
    keys = len(live)
    op: dict[str, int] = {
        "op": (number + random.integers(2)) % 4, "dense": dense, "tokens": tokens,
        "narrow": int(SPEC.sharing > 1 and random.random() < 0.5),
        "values": int(random.choice([0, 1, 3, keys // 2, keys, keys + 1, 65535, 2048])),
        "limit": int(random.choice([0, many, 4095 * (1 + keys // 4), 4095 * 2])),
        "score_shift": int(random.choice([31, *random.integers(0, SPEC.acc_bits - 16, 7)])),
        "score_mul": int(random.integers(1, 256)),
        "key_low_stride": int(random.integers(1 << 16)),
        "value_stride": int(random.integers(1 << 16)), "value_planes": int(random.integers(1, 4)),
        "mul": int(random.integers(1 << 16)), "shift": int(random.integers(64))} | given
    rotation, kind = int(random.integers(C)), int(random.integers(KINDS))
    pairs = []
    for place in range(SPEC.max_heads // 2):
        taking = heads or [(), (0,), (1,), (0, 1), (0, 1)][random.integers(5)]
        if not taking and (pairs or place < SPEC.max_heads // 2 - 1):
            continue
        adds = int(random.random() < 0.6) if accumulate is None else accumulate
        one = Pair(op, place, (rotation + place) % C, int(random.integers(C)), adds, live,
                   error=int(random.random() < 0.1), query_error=int(random.random() < 0.1))
        one.beats = {name: int(random.integers(1 << 27))
                     for name in ("key_low", "value", "output")}
        for odd in taking or (1,):
            own = kind if random.random() < 0.6 else int(random.integers(KINDS))
            one.heads.append(Head(op, one, odd, scores_of(random, own, keys, op),
                                  error=int(random.random() < 0.2)))
        if op["narrow"] and any(head.low for head in one.heads):
            for head in one.heads:
                head.settle(1)
        pairs.append(one)
    pairs[-1].last = True
    return pairs


class World:
    """The dispatcher, the channels, and those who take what the block gives."""

    def __init__(self, dut, ops, random, stall):
        self.dut, self.random, self.stall = dut, random, stall
        self.to_send = [one for pairs in ops for one in pairs]
        self.waiting = [[head for one in pairs for head in one.heads] for pairs in ops]
        self.count = sum(map(len, self.waiting))
        self.vectors = sum(len({id(one.twins(head)[0]) for head in one.heads})
                           for pairs in ops for one in pairs)
        self.cycle = self.quiet = self.slot = self.base = self.held_rows = 0
        self.to_add = 0  # rows of keys whose additions are outstanding
        self.alive: list[Pair] = []
        self.pairs = Wants(dut, "pair", pair(SPEC))
        self.scored = [Wants(dut, f"scored__{c}", scored(SPEC)) for c in range(C)]
        self.scored_low = [Wants(dut, f"scored_low__{c}", scored(SPEC)) for c in range(C)]
        self.low = Offers(dut, "low", job(SPEC))
        self.task = Offers(dut, "task", task(SPEC))
        self.result = Offers(dut, "result", result(SPEC))
        self.wanted = [Offers(dut, f"wanted__{c}", wanted(SPEC)) for c in range(C)]
        self.queues = [0] * C  # entries that wait in a channel
        self.memory = [[self.garbage() for _ in range(SPEC.score_rows)] for _ in range(C)]
        self.events = [[[] for _ in range(C)] for _ in range(2)]  # normal, low: (due, head or pair)
        self.tasks: list[Any] = []
        self.results: list[Head] = []
        self.whole: list[list[Head]] = []  # vectors whose results are there
        self.got: list[list[list[tuple[int, list[int]]]]] = [[] for _ in range(C)]
        self.open = [False] * C  # a task's values are arriving
        self.ended = [0] * C
        self.additions: list[Any] = []
        self.ends: list[int] = []  # cycles of the ends of tasks

    def garbage(self):
        return int.from_bytes(self.random.bytes((SCORE_BITS + 7) // 8), "little") \
            & (1 << SCORE_BITS) - 1

    def later(self):
        """Return a cycle that is soon, or not."""
        return self.cycle + (int(self.random.exponential(20 * self.stall)) if self.stall else 1)

    async def run(self, cycles=None):
        """Go on until everything was done, or for so many cycles."""
        watchdog = 4000 + self.count * 40 * (SPEC.rows + 20)
        while self.quiet < IDLE and (cycles is None or self.cycle < cycles):
            await RisingEdge(self.dut.clk)
            self.step()
            done = min(*self.ended, len(self.whole), len(self.tasks)) == self.vectors
            self.quiet = self.quiet + 1 if done else 0
            assert self.cycle < watchdog, f"stuck: {self.ended}, {len(self.results)} results"
        if cycles is None:
            self.finish()

    def step(self):
        self.cycle += 1
        dut, random = self.dut, self.random
        self.read()
        # What the block gave
        assert int(dut.adding.value) == (self.to_add > 0)
        if int(dut.addition__valid.value):
            self.additions.append(unpack(addition(SPEC), dut.addition__payload.value.to_unsigned()))
            self.to_add -= 1
        if int(dut.released.value):
            self.release()
        got = self.low.sample()
        if got:
            self.check_low(got)
        took = self.pairs.sample()
        if took:
            self.to_add += took.accumulate * len(took.heads) * took.rows
        for c in range(C):
            self.scored[c].sample()
            self.scored_low[c].sample()
        for offer, check in ((self.task, self.check_task), (self.result, self.check_result)):
            got = offer.sample()
            if got:
                check(got)
        for c, offer in enumerate(self.wanted):
            got = offer.sample()
            if got:
                self.check_wanted(c, got)
        # What the world does
        self.send()
        for kind, wants in enumerate((self.scored, self.scored_low)):
            for c, want in enumerate(wants):
                events = self.events[kind][c]
                if want.offered is None and events and events[0][0] <= self.cycle:
                    self.end_of_job(kind, c, want, events.pop(0)[1])
        for offer in (self.low, self.task, self.result):
            offer.drive(int(not self.stall or random.random() > self.stall))
        for c, offer in enumerate(self.wanted):
            if self.queues[c] and (not self.stall or random.random() > 0.9 * self.stall):
                self.queues[c] -= 1
            offer.drive(int(not self.stall or self.queues[c] < 4))

    def read(self):
        """Serve the read port of the score memories."""
        dut, data = self.dut, 0
        address = int(dut.read_address.value) if int(dut.read_enable.value) else None
        for c in range(C):
            word = self.garbage() if address is None else self.memory[c][address]
            data |= word << c * SCORE_BITS
        dut.read_data.value = data

    def send(self):
        """Begin the next pair if there is room for its query and its scores."""
        if not self.to_send or self.pairs.offered is not None:
            return
        one = self.to_send[0]
        if (len(self.alive) == SPEC.pairs or self.held_rows + one.rows > SPEC.score_rows
                or self.stall and self.random.random() < self.stall):
            return
        self.to_send.pop(0)
        one.slot, one.base = self.slot, self.base
        self.slot = (self.slot + 1) % SPEC.pairs
        self.base = (self.base + one.rows) % SPEC.score_rows
        self.held_rows += one.rows
        self.alive.append(one)
        self.pairs.offer(one, one.payload())
        for events in self.events[0]:
            events.append((max(self.later(), events[-1][0] if events else 0), one))

    def end_of_job(self, kind, c, want, what):
        """Write a channel's scores, and say so."""
        one = what[0].pair if kind else what
        mine = np.flatnonzero(one.channel == c)
        best = {"even": LOWEST, "odd": LOWEST} if not len(mine) else {
            "even": int(self.random.integers(LOWEST, -LOWEST)),
            "odd": int(self.random.integers(LOWEST, -LOWEST))}
        for key in mine:
            place = (one.base + int(one.position[key])) % SPEC.score_rows
            word = self.memory[c][place] if kind else (
                self.garbage() & (1 << 2 * SPEC.acc_bits) - 1
                | int(one.row[key]) << 2 * SPEC.acc_bits)
            for head in what if kind else one.heads:
                shift = head.odd * SPEC.acc_bits
                word &= ~(WORD << shift)
                word |= (int(head.scores[kind][key]) & WORD) << shift
            self.memory[c][place] = word
        for head in what if kind else one.heads:
            if len(mine):
                best["odd" if head.odd else "even"] = int(head.scores[kind][mine].max())
        error = any(head.error for head in what) if kind else what.error
        want.offer(what, best | {"keys": len(mine), "error": int(error and c == one.number % C)})

    def release(self):
        """Forget the oldest pair: nobody must look at its scores from now on."""
        assert self.alive, "released what is not there"
        one = self.alive.pop(0)
        assert all(head.asked == head.low for head in one.heads), "released too early"
        self.held_rows -= one.rows
        for c in range(C):
            assert all(what is not one for _, what in self.events[0][c])
            for i in range(one.rows):
                self.memory[c][(one.base + i) % SPEC.score_rows] = self.garbage()

    def check_low(self, got):
        one = next(one for one in self.alive if one.slot == got["slot"])
        op = one.op
        heads = one.twins(next(head for head in one.heads if head.odd == got["odd"]
                               or op["narrow"]))
        assert all(head.low and not head.asked for head in heads)
        for head in heads:
            head.asked = True
        odd = [head.odd for head in heads]
        step = 0 if op["narrow"] else odd[0]
        expected = {"slot": one.slot, "even": int(0 in odd), "odd": int(1 in odd), "low": 1,
                    "narrow": op["narrow"], "base": one.base,
                    "beat": (one.beats["key_low"] + step) % (1 << 27),
                    "stride": op["key_low_stride"], "dense": op["dense"], "tokens": op["tokens"],
                    "turn": one.turn}
        assert {name: got[name] for name in expected} == expected
        for want, events in zip(self.scored_low, self.events[1]):
            assert len(events) + (want.offered is not None) < SPEC.low_jobs
            events.append((max(self.later(), events[-1][0] if events else 0), heads))

    def check_result(self, got):
        waiting = self.waiting[0]
        head = next(head for head in waiting if head.number == got["head"])
        one, op = head.pair, head.op
        waiting.remove(head)
        if not waiting:
            self.waiting.pop(0)
        # Of those of the same kind, the older one leaves first.
        older = [other for other in waiting if other.low == head.low
                 and (other.pair.number, other.odd) < (one.number, head.odd)]
        assert not older, f"{older[0].number} before {head.number}"
        self.results.append(head)
        twins = one.twins(head)
        if head is twins[-1]:
            self.whole.append(twins)
        step = 0 if op["narrow"] else head.odd
        assert got == {
            "total": head.total, "mul": op["mul"], "shift": op["shift"], "channel": one.own,
            "output": (one.beats["output"] + step * SPEC.vector_beats) % (1 << 27),
            "head": head.number, "accumulate": one.accumulate, "op": op["op"],
            "begins": int(head is twins[0]), "ends": int(head is twins[-1]),
            "last": int(not waiting), "error": head.error_there}
        self.check_order()

    def check_task(self, got):
        self.tasks.append(got)
        self.check_order()

    def check_order(self):
        """Compare the newest of the tasks and results that are both known."""
        number = min(len(self.tasks), len(self.whole)) - 1
        if number < 0:
            return
        head, got = self.whole[number][0], self.tasks[number]
        op = head.op
        odd = head.odd and not op["narrow"]
        assert got == {
            "beat": (head.pair.beats["value"] + odd * op["value_planes"]) % (1 << 27),
            "stride": op["value_stride"], "planes": op["value_planes"]}

    def check_wanted(self, c, got):
        self.queues[c] += 1
        number = self.ended[c]
        assert len(self.tasks) > number or self.task.offered, "a value before its task"
        if not self.open[c]:
            self.got[c].append([])
        self.open[c] = not got["end"]
        if not got["end"]:
            self.got[c][number].append((got["row"], got["exponents"]))
            return
        assert len(self.whole) > number or int(self.result.valid.value), "no result at the end"
        self.ended[c] += 1
        if min(self.ended) > len(self.ends):
            self.ends.append(self.cycle)

    def finish(self):
        """Compare what came, task by task."""
        assert not self.alive and not int(self.dut.adding.value)
        place = 0
        for number, heads in enumerate(self.whole):
            one, narrow = heads[0].pair, heads[0].op["narrow"]
            weights = np.zeros((SPEC.sharing, len(one.lane)), np.int64)
            for head in heads:
                weights[head.odd if narrow else slice(None)] = head.exponent * head.keep
            wanted = np.any([head.keep for head in heads], 0)
            for c in range(C):
                mine = np.flatnonzero((one.channel == c) & wanted)
                mine = mine[np.argsort(one.position[mine])]
                assert self.got[c][number] == [
                    (int(one.row[key]), weights[:, key].tolist()) for key in mine], (c, number)
        for head in self.results:
            one = head.pair
            assert head.asked == head.low
            if not one.accumulate:
                continue
            for i in range(one.rows):
                got = self.additions[place]
                place += 1
                keys = np.flatnonzero(one.position == i)
                assert got["there"] == sum(1 << int(lane) for lane in one.lane[keys])
                for key in keys:
                    lane = one.lane[key]
                    assert got["row"][lane] == one.row[key]
                    assert got["probability"][lane] == head.probability[key]
        assert place == len(self.additions)
        assert len(self.results) == self.count and len(self.whole) == self.vectors


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def equals_golden(dut, stall):
    """Several operations, one after the other; all of them end."""
    random = rng(int(10 * stall))
    world = World(dut, [an_op(random, number) for number in range(12)], random, stall)
    await start(dut)
    await world.run()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def some_need_low_bits(dut):
    """Heads of an operation that need low bits, and others that do not, in turns."""
    random = rng(20)
    tokens = min(SPEC.max_tokens, 5 * C + 1)
    ops = [an_op(random, number, heads=(0, 1), dense=1, tokens=tokens, limit=4095 * limit,
                 accumulate=1) for number, limit in enumerate([3, 2, 1, 4, 0, tokens])]
    low = [head.low for pairs in ops for one in pairs for head in one.heads]
    assert any(low) and not all(low)
    world = World(dut, ops, random, 0.2)
    await start(dut)
    await world.run()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def reset_in_the_middle(dut):
    """A reset at any time leaves nothing behind."""
    random = rng(21)
    for number in range(5):
        world = World(dut, [an_op(random, number) for number in range(4)], random, 0.3)
        await begin(dut, number)
        await world.run(int(random.integers(10, 600)))
    world = World(dut, [an_op(random, number) for number in range(3)], random, 0.3)
    await begin(dut, 1)
    await world.run()


async def begin(dut, again):
    """Start the clock, or only reset."""
    if not again:
        return await start(dut)
    for name in ("pair", *(f"{kind}__{c}" for kind in ("scored", "scored_low") for c in range(C))):
        getattr(dut, f"{name}__valid").value = 0
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    dut.rst.value = 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def rate(dut):
    """Measure the cycles from one task's end to the next, nothing stalling, by rows of keys."""
    random, measured = rng(22), {}
    for rows in sorted({min(rows, SPEC.rows) for rows in (2, 6, 11, SPEC.rows)}):
        ops = [an_op(random, number, heads=(0, 1), dense=1, tokens=rows * C, limit=(1 << 24) - 1,
                     values=rows * C // 4, accumulate=1, narrow=0) for number in range(6)]
        world = World(dut, ops, random, 0.0)
        await begin(dut, measured)
        await world.run()
        tasks = len(world.ends) * 3 // 4 // SPEC.selectors * SPEC.selectors  # they come in bursts
        measured[rows] = (world.ends[-1] - world.ends[-1 - tasks]) / tasks
    report(cycles=list(measured.items()))
