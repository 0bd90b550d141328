# SPDX-License-Identifier: Apache-2.0
"""Compare Importance with its golden model: sums, latency, back-pressure."""

from dataclasses import dataclass

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from golden.fixed import ceil_div
from golden.importance import ImportanceSpec
from hw.attention.importance import Importance, row_layout
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSource, pack

SPEC = ImportanceSpec(**parameters())
PORTS = Importance(SPEC).signature.members
WORD, FOUND = PORTS["i"].signature.members["payload"].shape, PORTS["found"].shape


@dataclass
class Row:
    """Exponents of a row, and what is said of it."""

    exponents: np.ndarray
    start: bool
    counts: bool = True

    @property
    def setting(self):
        return pack(row_layout(SPEC), {"keys": len(self.exponents), "start": self.start,
                                       "counts": self.counts, "final": 1})

    @property
    def words(self):
        size = ceil_div(len(self.exponents), SPEC.lanes) * SPEC.lanes
        padded = np.zeros(size, int)
        padded[:len(self.exponents)] = self.exponents
        return padded.reshape(-1, SPEC.lanes)

    def add(self, sums):
        """Add the row to the sums as the model does."""
        keys = len(self.exponents)
        old = np.zeros(keys, int) if self.start else sums[:keys]
        sums[:keys] = SPEC.add(old, self.exponents[None] * self.counts)


def some_rows(random, count):
    """Return rows of all lengths: flat, peaked, zeros, extremes; every third starts anew."""
    result = []
    for number in range(count):
        keys = int(random.choice([1, SPEC.lanes, SPEC.max_keys,
                                  random.integers(1, SPEC.max_keys + 1)]))
        kinds = [random.integers(0, 256, keys), np.eye(1, keys, keys // 2, dtype=int)[0] * 255,
                 np.zeros(keys, int), np.full(keys, 255), random.integers(0, 3, keys)]
        result.append(Row(kinds[number % len(kinds)], bool(number % 3 == 0), random.random() < 0.9))
    return result


class Driver:
    """Send rows, tell their reciprocals some cycles after their last words, count ``done``."""

    def __init__(self, dut, rows, *, stall=0.0, delay=6, seed=0):
        self.dut, self.rows, self.delay = dut, rows, delay
        self.source = StreamSource(dut, "i", WORD, stall=stall, seed=seed)
        self.done, self.cycle, self.told = [], 0, []
        self.arrived = []
        for one in (self.watch(), self.send(), self.tell()):
            cocotb.start_soon(one)

    async def watch(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1
            if self.dut.done.value:
                self.done.append(self.cycle)

    async def send(self):
        for row in self.rows:
            self.dut.row.value = row.setting
            words = row.words.tolist()
            await self.source.send([{"exponents": word, "last": n == len(words) - 1}
                                    for n, word in enumerate(words)])
            self.arrived.append(self.cycle)

    async def tell(self):
        due = 0
        for number, row in enumerate(self.rows):
            while len(self.arrived) <= number or self.cycle < max(
                    due, self.arrived[number] + self.delay):
                await RisingEdge(self.dut.clk)
            r, k = SPEC.reciprocal.lookup(max(int(row.exponents.sum()), 1))
            self.dut.found.value = pack(FOUND, {"valid": 1, "reciprocal": int(r),
                                                "exponent": int(k)})
            await RisingEdge(self.dut.clk)
            self.dut.found.value = 0
            self.told.append(self.cycle)
            due = self.cycle + 1

    async def finish(self):
        while len(self.done) < len(self.rows):
            await RisingEdge(self.dut.clk)


async def check(dut, rows):
    """Read all keys, one per cycle, and compare with the model."""
    sums = np.zeros(SPEC.max_keys, int)
    for row in rows:
        row.add(sums)
    got = []
    dut.read__en.value = 1
    for key in range(SPEC.max_keys + 1):
        dut.read__addr.value = min(key, SPEC.max_keys - 1)
        await RisingEdge(dut.clk)
        got.append(int(dut.read__data.value) if key else 0)  # of the key before
    dut.read__en.value = 0
    np.testing.assert_array_equal(got[1:], SPEC.importance(sums))


def whole(random, keys=None):
    """Return a row that makes every sum known: the memory starts undefined."""
    return Row(random.integers(1, 256, keys or SPEC.max_keys), True)


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.5], delay=[2, 6, 40])
async def equals_golden(dut, stall, delay):
    random = rng(delay)
    await start(dut)
    rows = [whole(random), *some_rows(random, 40)]
    driver = Driver(dut, rows, stall=stall, delay=delay)
    await driver.finish()
    await check(dut, rows)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def saturates(dut):
    """Add the greatest probability to the same key until its sum is full, and once more."""
    random = rng(3)
    await start(dut)
    peak = np.zeros(SPEC.max_keys, int)
    peak[SPEC.max_keys // 2] = 255
    rows = [whole(random), *[Row(peak, False) for _ in range(6 if SPEC.shift == 0 else 1030)]]
    driver = Driver(dut, rows)
    await driver.finish()
    sums = np.zeros(SPEC.max_keys, int)
    for row in rows:
        row.add(sums)
    assert sums.max() == (1 << SPEC.sum_bits) - 1
    await check(dut, rows)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def latency(dut):
    """Measure from a row's reciprocal to the end of its addition."""
    random = rng(4)
    await start(dut)
    driver = Driver(dut, [whole(random)])
    await driver.finish()
    await ClockCycles(dut.clk, 3)
    report(cycles=driver.done[0] + 1 - driver.told[0])
