# SPDX-License-Identifier: Apache-2.0
"""Compare Walk with the emulator's choice of tokens: order, places, cycles, resets."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from golden.spatten.spec import SpattenSpec
from hw.spatten.layouts import walked
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink

SPEC = parameters(SpattenSpec)
ADDRESSES = 3
C, MOST = SPEC.channels, SPEC.max_tokens


def some_walk(random):
    """Return the inputs of a walk: few or many tokens, some of them left."""
    density = random.choice([0, 1 / MOST, 0.1, 0.5, 1])
    return {
        "tokens": int(random.choice([1, 2, C, MOST - 1, MOST, random.integers(1, MOST + 1)])),
        "dense": int(random.random() < 0.3), "pruned": int(random.random() < 0.7),
        "limit": int(random.choice([0, 0, 1, MOST, random.integers(1, MOST + 1)])),
        "mask": random.random(MOST) < density, "rotation": int(random.integers(256)),
        "base": random.integers(1 << 27, size=ADDRESSES),
        "stride": random.integers(1 << 16, size=ADDRESSES),
    }


def expected(walk):
    """Return what the walk must give."""
    live = (np.arange(walk["tokens"]) if walk["dense"] or not walk["pruned"]
            else np.flatnonzero(walk["mask"]))
    if walk["limit"]:
        live = live[live < walk["limit"]]
    return [{"token": token, "channel": (token + walk["rotation"]) % C, "last": token == live[-1],
             "beat": ((walk["base"] + token // C * walk["stride"]) % (1 << 27)).tolist()}
            for token in live.tolist()]


async def begin(dut, walk):
    """Start a walk; returns in the cycle after."""
    for name, value in walk.items():
        if name == "mask":
            value = sum(1 << int(n) for n in np.flatnonzero(value))
        elif name in ("base", "stride"):
            width = {"base": 27, "stride": 16}[name]
            value = sum(int(one) << width * n for n, one in enumerate(value))
        getattr(dut, name).value = value
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0


async def check(dut, walk, stall):
    """Run a walk, and compare what it gives."""
    sink = StreamSink(dut, "o", walked(SPEC, ADDRESSES), stall=stall)
    await begin(dut, walk)
    tokens = expected(walk)
    assert await sink.receive(len(tokens)) == tokens
    cycles = 0
    await RisingEdge(dut.clk)
    while dut.busy.value:
        assert not tokens, "busy must end with the last token"
        assert not dut.o__valid.value
        cycles += 1
        assert cycles <= SPEC.rows + 3
        await RisingEdge(dut.clk)
    assert dut.none.value == (not tokens)


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.5])
async def equals_golden(dut, stall):
    random = rng(int(10 * stall))
    await start(dut)
    for _ in range(60):
        await check(dut, some_walk(random), stall)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def resets(dut):
    """Reset in the middle of a walk; then all begins anew."""
    random = rng(3)
    for _ in range(10):
        await start(dut)
        await begin(dut, some_walk(random))
        dut.o__ready.value = int(random.integers(2))
        await ClockCycles(dut.clk, int(random.integers(1, 12)))
        await start(dut)
        await check(dut, some_walk(random), 0.2)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def cycles(dut):
    """Measure the cycles to the first token, and those per token."""
    await start(dut)
    walk = some_walk(rng(4)) | {"tokens": MOST, "dense": 1, "limit": 0}
    dut.o__ready.value = 1
    await begin(dut, walk)
    seen = []
    for cycle in range(2 * MOST + 10):
        await RisingEdge(dut.clk)
        if dut.o__valid.value:
            seen.append(cycle + 1)
    assert len(seen) == MOST
    report(latency=seen[0], period=(seen[-1] - seen[0]) / (MOST - 1))
