# SPDX-License-Identifier: Apache-2.0
"""Compare TopK with its golden model: survivors, order, cycles, stalls, settings."""

from dataclasses import dataclass

import cocotb
import numpy as np
from amaranth.hdl import Shape
from cocotb.triggers import ClockCycles, RisingEdge

from golden.fixed import ceil_div
from golden.topk import Rule, TopKSpec
from hw.select.topk import TopK
from sim.bench import arrays, parameters, report, rng, save, start
from sim.stream import StreamSink, StreamSource, pack

SPEC = TopKSpec(**parameters())
PORTS = TopK(SPEC).signature.members
SETTING = PORTS["setting"].shape
SHAPES = {name: PORTS[name].signature.members["payload"].shape for name in ("i", "o")}
RULES = list(Rule) if SPEC.threshold else [Rule.TOPK]
TOP = (1 << SPEC.width) - 1


@dataclass
class Vector:
    """Scores and the setting that goes with them."""

    scores: np.ndarray
    rule: Rule
    value: int
    protected: int

    @property
    def n(self):
        return len(self.scores)

    @property
    def rows(self):
        return ceil_div(self.n, SPEC.lanes)

    def setting(self):
        return pack(SETTING, {"n": self.n, "rule": self.rule, "value": self.value,
                              "protected": self.protected})

    def arriving(self, random):
        """Return the beats; what is in the lanes beyond the entries must not count."""
        padded = random.integers(0, TOP + 1, self.rows * SPEC.lanes)
        padded[:self.n] = self.scores
        return [{"scores": row.tolist(), "last": int(number == self.rows - 1)}
                for number, row in enumerate(padded.reshape(-1, SPEC.lanes))]

    def expected(self):
        """Return the beats that must leave, of those lanes that matter."""
        keep = SPEC.select(self.scores, self.rule, self.value, self.protected)
        beats, total = [], 0
        for row in range(self.rows):
            low = row * SPEC.lanes
            here = low + np.flatnonzero(keep[low:low + SPEC.lanes])
            total += len(here)
            last = row == self.rows - 1
            if len(here) or last or SPEC.mask:
                beats.append({"indices": here.tolist(), "scores": self.scores[here].tolist(),
                              "count": len(here), "total": total, "last": int(last)})
                if SPEC.mask:
                    beats[-1]["mask"] = sum(1 << int(index - low) for index in here)
        return beats

    def __str__(self):
        return f"{self.rule!r} {self.value}, {self.protected} protected, of {self.scores.tolist()}"


def scores_of(random, kind, n):
    """Return scores of one of the kinds that selectors find hard."""
    top = TOP + 1
    if kind == 0:
        return random.integers(0, top, n)
    if kind == 1:
        return random.choice(random.integers(0, top, 4), n)
    if kind == 2:
        return np.full(n, random.choice([0, TOP, random.integers(top)]))
    if kind == 3:
        return np.sort(random.integers(0, top, n))
    if kind == 4:
        return np.sort(random.integers(0, top, n))[::-1].copy()
    if kind == 5:
        return np.where(random.random(n) < 0.1, random.integers(0, top, n), random.integers(top))
    return np.minimum(TOP, random.exponential(TOP / 16, n).astype(np.int64))


KINDS = 7


def vectors(random, count):
    """Return vectors in which every kind of scores and every corner of n and k is likely."""
    result = []
    for number in range(count):
        n = int(random.choice([1, 2, 3, SPEC.lanes - 1, SPEC.lanes, SPEC.lanes + 1, SPEC.n - 1,
                               SPEC.n, *random.integers(1, SPEC.n + 1, 4)]))
        n = min(max(n, 1), SPEC.n)
        scores = scores_of(random, number % KINDS, n)
        rule = RULES[0 if random.random() < 0.6 else random.integers(len(RULES))]
        protected = int(random.choice([0, 0, 0, 1, 2, 3]))
        if rule == Rule.TOPK:
            most = (1 << SPEC.value_width) - 1
            value = random.choice([0, 1, 2, n - 1, n, n + 1, most, *random.integers(0, n + 1, 8)])
            value = min(value, most)
        elif rule == Rule.THRESHOLD:
            value = random.choice([0, TOP, scores[0], scores[-1], random.integers(TOP + 1)])
        else:
            value = random.choice([0, 1, TOP, min(TOP, 256), min(TOP, 128),
                                   *random.integers(0, min(TOP, 800) + 1, 4)])
        result.append(Vector(scores, rule, int(value), protected))
    return result


async def send(dut, some, random, stall=0.0):
    """Send vectors; after a vector's first beat its setting is gone."""
    source = StreamSource(dut, "i", SHAPES["i"], stall=stall, seed=len(some))
    for vector in some:
        dut.setting.value = vector.setting()
        beats = vector.arriving(random)
        await source.send(beats[:1])
        dut.setting.value = int(random.integers(1 << Shape.cast(SETTING).width))
        await source.send(beats[1:])


class Watch:
    """Note the cycles in which beats move."""

    def __init__(self, dut):
        self.dut, self.cycle, self.given, self.taken = dut, 0, [], []
        cocotb.start_soon(self.run())

    async def run(self):
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            self.cycle += 1
            if dut.i__valid.value and dut.i__ready.value:
                self.taken.append(self.cycle)
            if dut.o__valid.value and dut.o__ready.value:
                self.given.append(self.cycle)


async def receive(sink, vector):
    """Receive what a vector gives, and compare."""
    expected = vector.expected()
    beats = await sink.receive(len(expected))
    for beat in beats:
        for name in ("indices", "scores"):
            beat[name] = beat[name][:beat["count"]]
    assert beats == expected, str(vector)


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stalls=[(0.0, 0.0), (0.5, 0.0), (0.0, 0.6), (0.3, 0.3)])
async def equals_golden(dut, stalls):
    random = rng(int(10 * sum(stalls)))
    await start(dut)
    some = vectors(random, 60)
    cocotb.start_soon(send(dut, some, random, stalls[0]))
    sink = StreamSink(dut, "o", SHAPES["o"], stall=stalls[1], after_valid=stalls[0] > 0)
    for vector in some:
        await receive(sink, vector)
    await ClockCycles(dut.clk, 3 * SPEC.rows)
    assert not dut.o__valid.value
    assert dut.i__ready.value


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def cycles_are_a_function_of_n(dut):
    """Send a vector when the one before is through; hold every one to its number of cycles."""
    random = rng(7)
    await start(dut)
    watch, sink = Watch(dut), StreamSink(dut, "o", SHAPES["o"])
    for vector in vectors(random, 80):
        given, taken = len(watch.given), len(watch.taken)
        cocotb.start_soon(send(dut, [vector], random))
        await receive(sink, vector)
        await RisingEdge(dut.clk)
        last_in = watch.taken[taken + vector.rows - 1]
        assert len(watch.taken) == taken + vector.rows
        assert watch.taken[-1] - watch.taken[taken] == vector.rows - 1, "a row had to wait"
        late, most = watch.given[-1] - last_in, SPEC.cycles(vector.n, vector.rule)
        if vector.rule == Rule.TOPK and SPEC.engine == "quickselect":
            assert late <= most, str(vector)
            continue
        assert late == most, str(vector)
        if SPEC.mask or vector.expected()[0]["indices"][:1] == [0]:
            assert watch.given[given] - last_in == SPEC.find_cycles(vector.n, vector.rule)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def next_vector_loads_meanwhile(dut):
    """Measure the cycles per vector when the longest vectors follow each other."""
    random = rng(8)
    await start(dut)
    watch, sink = Watch(dut), StreamSink(dut, "o", SHAPES["o"])
    some = [Vector(scores_of(random, 0, SPEC.n), Rule.TOPK, 1 + SPEC.n // 2, 0) for _ in range(6)]
    cocotb.start_soon(send(dut, some, random))
    ends = []
    for vector in some:
        await receive(sink, vector)
        await RisingEdge(dut.clk)
        ends.append(watch.given[-1])
    report(cycles=ends[0] - watch.taken[SPEC.rows - 1], period=ends[-1] - ends[-2])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def measured_cycles(dut):
    """Leave the cycles of given vectors; of its own, show that the worst for quick-select is."""
    random = rng(9)
    await start(dut)
    watch, sink = Watch(dut), StreamSink(dut, "o", SHAPES["o"])
    given = arrays()
    if given:
        some = [Vector(scores, Rule.TOPK, int(keep), 0)
                for scores, keep in zip(given["scores"], given["keep"])]
    else:
        n = min(SPEC.n, TOP + 1)
        some = [Vector(SPEC.killer(n), Rule.TOPK, 1, 0)]
    cycles = []
    for vector in some:
        taken = len(watch.taken)
        cocotb.start_soon(send(dut, [vector], random))
        await receive(sink, vector)
        await RisingEdge(dut.clk)
        cycles.append(watch.given[-1] - watch.taken[taken + vector.rows - 1])
    assert cycles[0] == SPEC.cycles(some[0].n)
    save(cycles=np.array(cycles))
