# SPDX-License-Identifier: Apache-2.0
"""Compare Softmax with its golden model: order, values, latency, stalls, settings, reloads."""

from dataclasses import dataclass

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge, Timer

from golden.fixed import ceil_div
from golden.softmax import SoftmaxSpec
from hw.attention.softmax import Softmax
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource

SPEC = SoftmaxSpec(**parameters())
PORTS = Softmax(SPEC).signature.members
SHAPES = {name: PORTS[name].signature.members["payload"].shape
          for name in ("load", "i", "o", "o_factor")}


@dataclass
class Tile:
    """Scores (rows, keys), the settings that go with them, and what must come out."""

    scores: np.ndarray
    mul: int
    table: np.ndarray

    @property
    def keys(self):
        return self.scores.shape[1]

    @property
    def words(self):
        return ceil_div(self.keys, SPEC.lanes)

    def arriving(self, random):
        """Return the words in their order; what is in the lanes beyond the keys must not count."""
        padded = random.integers(-128, 128, (SPEC.rows, self.words * SPEC.lanes))
        padded[:, :self.keys] = self.scores
        return padded.reshape(SPEC.rows, self.words, SPEC.lanes).swapaxes(0, 1).reshape(
            -1, SPEC.lanes)

    def expected(self):
        """Return the payloads of both outputs."""
        exponents, factor, k = SPEC.compute(self.scores, self.table, self.mul)
        padded = np.zeros((SPEC.rows, self.words * SPEC.lanes), int)
        padded[:, :self.keys] = exponents
        padded = padded.reshape(SPEC.rows, self.words, SPEC.lanes)
        last = SPEC.rows - 1
        return ([{"exponents": padded[row, word].tolist(), "row": row, "word": word,
                  "last": int((row, word) == (last, self.words - 1))}
                 for row in range(SPEC.rows) for word in range(self.words)],
                [{"row": row, "factor": int(factor[row]), "exponent": int(k[row]),
                  "last": int(row == last)} for row in range(SPEC.rows)])


def a_table(random):
    """Return any 256 entries: the hardware need not know what they mean."""
    table = random.integers(0, 256, 256)
    table[0] = random.integers(1, 256)  # no sum is 0
    return table


def tiles(random, tables, each=6):
    """Return ``each`` tiles of every kind of scores and corner of ``keys``, for every table."""
    n, most = SPEC.lanes, SPEC.max_keys
    corners = [1, n - 1, n, n + 1, most - 1, most]
    result = []
    for table in tables:
        for number in range(each):
            keys = int(random.integers(1, most + 1))
            if number < len(corners):
                keys = min(max(corners[number], 1), most)
            shape = (SPEC.rows, keys)
            scores = [random.integers(-128, 128, shape), np.full(shape, random.integers(-128, 128)),
                      random.choice([-128, 127], shape), np.full(shape, -128),
                      np.sort(random.integers(-128, 128, shape)),
                      np.clip(random.normal(0, 20, shape), -128, 127).astype(int)]
            result.append(Tile(scores[(number + len(result)) % len(scores)],
                               int(random.choice([0, 1, 32768, 65535, random.integers(65536)])),
                               table))
    return result


async def load(dut, table):
    source = StreamSource(dut, "load", SHAPES["load"])
    entries = SPEC.table_spec.load(table)
    await source.send([{"address": address, "entries": word}
                       for address, word in enumerate(entries)])
    await RisingEdge(dut.clk)


async def send(dut, some, random, stall=0.0, wait_free=False):
    """Send tiles; after a tile's first word its settings are gone."""
    source = StreamSource(dut, "i", SHAPES["i"], stall=stall, seed=len(some))
    for tile in some:
        if wait_free:
            await Timer(1, "ns")  # free as it is after the last word of the tile before
            while not dut.free.value:
                await RisingEdge(dut.clk)
                await Timer(1, "ns")
        dut.keys.value, dut.mul.value = tile.keys, tile.mul
        words = tile.arriving(random)
        await source.send(words[:1])
        dut.keys.value, dut.mul.value = int(random.integers(1, SPEC.max_keys + 1)), 12345
        await source.send(words[1:])


class Watch:
    """Note the cycles in which scores, exponents and factors move, and check their order."""

    def __init__(self, dut):
        self.dut, self.cycle = dut, 0
        self.scores, self.exponents, self.factors, self.refused = [], [], [], 0
        self.rows_given = self.rows_taken = 0
        self.promised = True  # both slots are empty
        cocotb.start_soon(self.run())

    async def run(self):
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            self.cycle += 1
            self.watch_free()
            if dut.i__valid.value:
                if dut.i__ready.value:
                    self.scores.append(self.cycle)
                else:
                    self.refused += 1
            if dut.o_factor__valid.value:
                assert self.rows_taken < self.rows_given, "a factor came before its row's end"
                if dut.o_factor__ready.value:
                    self.factors.append(self.cycle)
                    self.rows_taken += 1
            if dut.o__valid.value and dut.o__ready.value:
                self.exponents.append(self.cycle)
                self.rows_given += self.ends[len(self.exponents) - 1]

    def watch_free(self):
        """Hold ``free`` to its word: once given, it stays until the next tile begins."""
        between = len(self.scores) in self.starts
        free = bool(self.dut.free.value)
        assert free or not self.promised, "free was withdrawn"
        assert not between or self.dut.i__ready.value == free
        accepted = self.dut.i__valid.value and self.dut.i__ready.value
        self.promised = free and not (between and accepted and self.scores)

    def expect(self, some):
        """Say where tiles begin among the scores, and where rows end among the exponents."""
        self.starts = {SPEC.rows * sum(tile.words for tile in some[:number])
                       for number in range(len(some) + 1)}
        self.ends = [word == tile.words - 1
                     for tile in some for _ in range(SPEC.rows) for word in range(tile.words)]
        return self


def sinks(dut, stall_o=0.0, stall_factor=0.0, after_valid=False):
    return (StreamSink(dut, "o", SHAPES["o"], stall=stall_o,
                       after_valid=after_valid),
            StreamSink(dut, "o_factor", SHAPES["o_factor"],
                       stall=stall_factor, after_valid=after_valid))


async def receive(o, o_factor, some):
    """Receive what the tiles give, and compare."""
    expected = [tile.expected() for tile in some]
    words = [word for exponents, _ in expected for word in exponents]
    rows = [row for _, factors in expected for row in factors]
    factors = cocotb.start_soon(o_factor.receive(len(rows)))
    assert await o.receive(len(words)) == words
    assert await factors == rows


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(stalls=[(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.6, 0.0), (0.0, 0.0, 0.8),
                            (0.3, 0.3, 0.3)], after_valid=[False, True])
async def equals_golden(dut, stalls, after_valid):
    stall_i, stall_o, stall_factor = stalls
    random = rng(int(10 * sum(stalls)))
    await start(dut)
    o, o_factor = sinks(dut, stall_o, stall_factor, after_valid)
    some = tiles(random, [a_table(random), SPEC.table(0.05)])
    watch = Watch(dut).expect(some)
    for part in (some[:6], some[6:]):
        await load(dut, part[0].table)
        cocotb.start_soon(send(dut, part, random, stall_i))
        await receive(o, o_factor, part)
    await ClockCycles(dut.clk, 20)
    assert not dut.o__valid.value
    assert not dut.o_factor__valid.value
    assert dut.free.value
    if not (stall_i or stall_o or stall_factor or after_valid):
        check_latency(watch, some)


def check_latency(watch, some):
    """Each tile leaves without a gap, as soon as it is complete and the tile before is through."""
    given, done, through = 0, 0, 0
    for number, tile in enumerate(some):
        words = SPEC.rows * tile.words
        done += words
        complete = watch.scores[done - 1]
        first = max(complete + SPEC.latency, through + 1)
        through = first + words - 1
        assert watch.exponents[given:given + words] == list(range(first, through + 1)), number
        assert watch.factors[number * SPEC.rows:][:SPEC.rows] == [
            first + (row + 1) * tile.words - 1 + SPEC.factor_latency
            for row in range(SPEC.rows)], number
        given += words


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(count=[1, 6])
async def same_tiles_without_stalls(dut, count):
    """Measure the rate that a producer sees, and the cycles that the model tells."""
    random = rng(count)
    await start(dut)
    table = a_table(random)
    some = [Tile(random.integers(-128, 128, (SPEC.rows, SPEC.max_keys)), 40000 + number, table)
            for number in range(count)]
    await load(dut, table)
    watch = Watch(dut).expect(some)
    o, o_factor = sinks(dut)
    cocotb.start_soon(send(dut, some, random))
    await receive(o, o_factor, some)
    check_latency(watch, some)
    if SPEC.lanes <= 8:
        assert not watch.refused
    report(**{f"cycles_{count}": watch.factors[-1] - watch.scores[0] + 1})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def free_promises_a_tile(dut):
    """Start tiles only when ``free`` is high: none is stopped before its end."""
    random = rng(7)
    await start(dut)
    some = tiles(random, [a_table(random)], each=12)
    await load(dut, some[0].table)
    watch = Watch(dut).expect(some)
    o, o_factor = sinks(dut, 0.5)
    cocotb.start_soon(send(dut, some, random, wait_free=True))
    await receive(o, o_factor, some)
    assert not watch.refused


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def two_tiles_wait(dut):
    """Take nothing for a while: two tiles fit, a third is refused; then all is still there."""
    random = rng(8)
    await start(dut)
    some = tiles(random, [a_table(random)], each=3)
    await load(dut, some[0].table)
    watch = Watch(dut).expect(some)
    o, o_factor = sinks(dut)
    cocotb.start_soon(send(dut, some, random))
    words = [SPEC.rows * tile.words for tile in some]
    # A stuck pipeline holds as many words as it has stages: a very short tile leaves its slot.
    await ClockCycles(dut.clk, sum(words) + 20)
    if words[0] > 5:
        assert len(watch.scores) == words[0] + words[1]
        assert not dut.free.value
        assert not dut.i__ready.value
    await receive(o, o_factor, some)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def factor_does_not_wait_for_exponents(dut):
    """Want a row's factor before any exponent of the next row is taken."""
    random = rng(9)
    await start(dut)
    some = tiles(random, [a_table(random)], each=4)
    await load(dut, some[0].table)
    Watch(dut).expect(some)
    o, o_factor = sinks(dut)
    cocotb.start_soon(send(dut, some, random))
    for tile in some:
        exponents, factors = tile.expected()
        for row in range(SPEC.rows):
            words = exponents[row * tile.words:][:tile.words]
            assert await o.receive(tile.words) == words
            assert await o_factor.receive(1) == factors[row:row + 1]
