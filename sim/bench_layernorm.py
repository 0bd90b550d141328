# SPDX-License-Identifier: Apache-2.0
"""Normalise ordinary and extreme rows of every awkward width, and count the cycles."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from golden.fixed import ceil_div
from golden.layernorm import LayerNormSpec
from hw.arith.layernorm import LayerNorm
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource

SPEC = LayerNormSpec(**parameters())
PORTS = LayerNorm(SPEC).signature.members
SHAPES = {name: PORTS[name].signature.members["payload"].shape for name in ("load", "i", "o")}
LOW, HIGH = -(1 << 15), (1 << 15) - 1


def rows_of(width, random):
    """Return rows of every kind, shuffled; not all of them where they are long."""
    def ordinary():
        mean, spread = random.normal(0, 8000), 10.0 ** random.uniform(-1, 4.5)
        return np.rint(np.clip(random.normal(mean, spread, width), LOW, HIGH)).astype(int)

    def lonely(rest, one, place):
        row = np.full(width, rest)
        row[place % width] = one
        return row

    places = [0, width - 1, *random.integers(0, width, 2)]
    rows = [ordinary() for _ in range(6)] + [
        np.full(width, LOW), np.full(width, HIGH), np.full(width, int(random.integers(LOW, HIGH))),
        np.where(np.arange(width) % 2, HIGH, LOW), np.where(np.arange(width) % 2, LOW, HIGH),
        random.choice([LOW, HIGH], width), random.choice([0, 1], width),
        random.choice([HIGH - 1, HIGH], width), random.integers(LOW, HIGH + 1, width),
        *(lonely(rest, one, place) for place in places
          for rest, one in ((0, 1), (HIGH, HIGH - 1), (LOW, HIGH), (HIGH, LOW), (-1, 200))),
    ]
    return random.permutation(np.array(rows))[:max(4, 500 * SPEC.lanes // width)]


def widths(random):
    """Return the corners of ``width`` and some others."""
    lanes, most = SPEC.lanes, SPEC.max_width
    some = [1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes, most - 1, most,
            SPEC.ROW_CYCLES * lanes, *random.integers(1, most + 1, 3)]
    return sorted({int(width) for width in some if 1 <= width <= most})


def words_of(values):
    """Cut rows (rows, width) into words (rows * words, lanes), zeros in what is left over."""
    words = ceil_div(values.shape[1], SPEC.lanes)
    padded = np.zeros((len(values), words * SPEC.lanes), int)
    padded[:, :values.shape[1]] = values
    return padded.reshape(-1, SPEC.lanes)


class Layer:
    """Rows, the parameters that go with them, and what must come out."""

    def __init__(self, width, random):
        self.width, self.words = width, ceil_div(width, SPEC.lanes)
        self.rows = rows_of(width, random)
        self.shift = int(random.integers(SPEC.Z_FRACTION, SPEC.MAX_SHIFT + 1))
        # Between results that mostly saturate and results that mostly do not.
        largest = min(HIGH, 2 ** int(self.shift - SPEC.Z_FRACTION + random.integers(1, 8)))
        self.gamma, self.beta = random.integers(-largest, largest + 1, (2, width))
        extreme = random.integers(0, width, 2)
        self.gamma[extreme], self.beta[extreme] = (LOW, HIGH), (HIGH, LOW)

    def parameters(self):
        gamma, beta = words_of(self.gamma[None]), words_of(self.beta[None])
        return [{"address": n, "gamma": gamma[n], "beta": beta[n]} for n in range(self.words)]

    def _payloads(self, name, values):
        return [{name: word, "last": int(n % self.words == self.words - 1)}
                for n, word in enumerate(words_of(values).tolist())]

    def arriving(self):
        return self._payloads("x", self.rows)

    def expected(self):
        return self._payloads("y", SPEC.compute(self.rows, self.gamma, self.beta, self.shift))


class Watch:
    """Note the cycles in which words came and went."""

    def __init__(self, dut):
        self.taken, self.given = [], []
        cocotb.start_soon(self.run(dut))

    async def run(self, dut):
        cycle = 0
        while True:
            await RisingEdge(dut.clk)
            cycle += 1
            if dut.i__valid.value and dut.i__ready.value:
                self.taken.append(cycle)
            if dut.o__valid.value and dut.o__ready.value:
                self.given.append(cycle)


async def load(dut, layer):
    dut.width.value, dut.shift.value = layer.width, layer.shift
    await StreamSource(dut, "load", SHAPES["load"]).send(layer.parameters())


def send(dut, layer, stall=0.0):
    source = StreamSource(dut, "i", SHAPES["i"], stall=stall, seed=layer.width)
    return cocotb.start_soon(source.send(layer.arriving()))


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize((("stall_i", "stall_o", "after_valid"), [
    (0.0, 0.0, False), (0.4, 0.0, False), (0.0, 0.6, False), (0.2, 0.2, False), (0.0, 0.0, True)]))
async def equals_golden(dut, stall_i, stall_o, after_valid):
    random = rng(int(10 * (stall_i + 2 * stall_o)))
    await start(dut)
    watch = Watch(dut)
    sink = StreamSink(dut, "o", SHAPES["o"], stall=stall_o, after_valid=after_valid)
    rigid = not (stall_i or stall_o or after_valid)
    for width in widths(random) if rigid else random.permutation(widths(random))[:3].tolist():
        layer = Layer(width, random)
        await load(dut, layer)
        watch.taken, watch.given = [], []
        send(dut, layer, stall_i)
        expected = layer.expected()
        assert await sink.receive(len(expected)) == expected
        await RisingEdge(dut.clk)
        if rigid:
            check_timing(watch, layer)
    report(widths=len(widths(rng())))


def check_timing(watch, layer):
    """Each row leaves without a gap, and all at the rate and latency that the model tells."""
    words, rows = layer.words, len(layer.rows)
    assert watch.taken[:words] == list(range(watch.taken[0], watch.taken[0] + words))
    first = np.array(watch.taken[0] + words + SPEC.LATENCY)
    begins = first + np.arange(rows) * max(words, SPEC.ROW_CYCLES)
    assert watch.given == (begins[:, None] + np.arange(words)).ravel().tolist()
    assert watch.given[-1] - watch.taken[0] + 1 == SPEC.cycles(rows, layer.width)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def waits_for_its_consumer(dut):
    """Nobody takes results: the row memory fills, and all goes on where it stopped."""
    random = rng(1)
    await start(dut)
    watch = Watch(dut)
    layer = Layer(SPEC.max_width, random)
    await load(dut, layer)
    send(dut, layer)
    await ClockCycles(dut.clk, 2 * SPEC.buffer_words + 100)
    inside = len(watch.taken)
    assert not dut.i__ready.value
    assert dut.o__valid.value
    assert min(2 * layer.words, SPEC.buffer_words) <= inside <= SPEC.buffer_words + 6  # stages
    expected = layer.expected()
    assert await StreamSink(dut, "o", SHAPES["o"]).receive(len(expected)) == expected


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def forgets_after_reset(dut):
    """A reset in the middle of rows, at any moment, leaves nothing behind."""
    random = rng(2)
    for cycles in (3, 2 * SPEC.max_words + 1, *random.integers(1, 4 * SPEC.max_words + 60, 6)):
        await start(dut)
        layer = Layer(SPEC.max_width, random)
        await load(dut, layer)
        task = send(dut, layer)
        dut.o__ready.value = int(random.integers(0, 2))
        await ClockCycles(dut.clk, int(cycles))
        task.cancel()
        await start(dut)
        layer = Layer(max(1, SPEC.max_width // 2), random)
        await load(dut, layer)
        layer.rows = layer.rows[:4]
        send(dut, layer)
        expected = layer.expected()
        assert await StreamSink(dut, "o", SHAPES["o"]).receive(len(expected)) == expected
