# SPDX-License-Identifier: Apache-2.0
"""The sum of weighted rows: its specification, and the block against it."""

from fractions import Fraction

import numpy as np
import pytest
from amaranth.sim import Simulator

from golden.fuse import FuseSpec
from golden.importance import ImportanceSpec
from hw.attention.fuse import Fuser

SPECS = {
    "inferred": (FuseSpec(lanes=4, max_tokens=9, max_width=14), "inferred"),
    "booth": (FuseSpec(lanes=2, max_tokens=300, max_width=5), "booth"),
}


@pytest.mark.parametrize("lanes, tokens, width, bits", [(8, 200, 768, 40), (2, 2, 1, 32),
                                                        (4, 257, 64, 40), (4, 4096, 64, 44)])
def test_sums_fit(lanes, tokens, width, bits):
    """The largest sum needs all of ``acc_width``, and is exact."""
    spec = FuseSpec(lanes=lanes, max_tokens=tokens, max_width=width)
    assert spec.acc_width == spec.requant.acc_width == bits
    least = (tokens - 1) * 65535 * -32768
    assert -(1 << bits - 1) <= least < -(1 << bits - 2)
    x = np.full((tokens - 1, 1), -32768)
    assert spec.compute(x, np.full(tokens - 1, 65535), 1, 30)[0] == (
        least + (1 << 29) >> 30)


@pytest.mark.parametrize("source", ImportanceSpec.SOURCES)
@pytest.mark.parametrize("heads, tokens", [(1, 2), (3, 197), (12, 577), (16, 4096), (7, 4095)])
def test_mean(source, heads, tokens):
    """Importance times ``mul / 2**shift`` is the mean over heads, and rows for ``column``."""
    spec = ImportanceSpec(max_keys=tokens, source=source)
    mul, shift = spec.mean(heads, tokens)
    assert 1 << 15 <= mul < 1 << 16 and shift < 64
    step = Fraction(1, 1 << spec.FRACTION - spec.shift)
    exact = step / heads / (tokens if source == "column" else 1)
    assert abs(Fraction(mul, 1 << shift) / exact - 1) <= Fraction(1, 1 << 16)


def drive(spec, multiplier, cases, pauses):
    """Return the sums that the block gives for cases (x, weights, mul, shift), and their cycles."""
    block = Fuser(spec, multiplier=multiplier)
    random = np.random.default_rng(3)
    sums, cycles = [], []

    async def bench(ctx):
        for x, weights, mul, shift in cases:
            words = -(-x.shape[1] // spec.lanes)
            ctx.set(block.mul, int(mul))
            ctx.set(block.shift, int(shift))
            ctx.set(block.start, 1)
            await ctx.tick()
            ctx.set(block.start, 0)
            last_row = len(x) - 1
            for n, row in enumerate(np.pad(x, ((0, 0), (0, words * spec.lanes - x.shape[1])))):
                for word in range(words):
                    while pauses and random.integers(2):
                        await ctx.tick()
                    end = word == words - 1
                    ctx.set(block.i.valid, 1)
                    ctx.set(block.i.payload.last, end)
                    ctx.set(block.i.payload.weight, int(weights[n]))
                    for lane in range(spec.lanes):
                        ctx.set(block.i.payload.x[lane], int(row[word * spec.lanes + lane]))
                    while not ctx.get(block.i.ready):
                        await ctx.tick()
                    ctx.set(block.finish, end and n == last_row and not pauses)
                    await ctx.tick()
                    ctx.set(block.i.valid, 0)
                    ctx.set(block.finish, 0)
            if pauses:  # no word need go with it
                await ctx.tick().repeat(int(random.integers(1, 4)))
                ctx.set(block.finish, 1)
                await ctx.tick()
                ctx.set(block.finish, 0)
            found, waited, last = [], 0, False
            while not last:
                waited += 1
                assert waited < 10_000
                ctx.set(block.o.ready, int(not pauses or random.integers(3) == 0))
                if ctx.get(block.o.valid) and ctx.get(block.o.ready):
                    found += [ctx.get(block.o.payload.x[lane]) for lane in range(spec.lanes)]
                    last = ctx.get(block.o.payload.last)
                await ctx.tick()
            ctx.set(block.o.ready, 0)
            sums.append(found)
            cycles.append(waited)

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return sums, cycles


@pytest.mark.parametrize("pauses", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_block(name, pauses):
    """Rows of all lengths, of a single word too, one sum after the other."""
    spec, multiplier = SPECS[name]
    random = np.random.default_rng(1)
    cases = []
    for n in range(24):
        rows = int(random.integers(1, spec.max_tokens)) if n % 6 == 0 else n % 4 + 1
        width = int(random.integers(1, spec.max_width + 1))
        width = min(width, spec.lanes) if n % 3 == 0 else width
        x = random.integers(-32768, 32768, (rows, width))
        weights = random.integers(0, 65536, rows)
        if n % 5 == 0:
            x[:], weights[:] = random.choice([-32768, 32767]), 65535
        cases.append((x, weights, random.integers(1 << 16), random.integers(20, 44)))
    sums, cycles = drive(spec, multiplier, cases, pauses)
    for case, found, waited in zip(cases, sums, cycles, strict=True):
        width = case[0].shape[1]
        np.testing.assert_array_equal(found[:width], spec.compute(*case))
        assert not any(found[width:])
        if not pauses:
            assert waited == spec.cycles(width)
