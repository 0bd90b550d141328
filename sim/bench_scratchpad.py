# SPDX-License-Identifier: Apache-2.0
"""Read and write a scratchpad in every cycle, and compare with the golden memory."""

import math

import cocotb
import numpy as np
from amaranth.hdl import unsigned
from amaranth.lib import data
from cocotb.triggers import RisingEdge

from golden.scratchpad import ScratchpadSpec
from sim.bench import parameters, rng, start
from sim.stream import pack, unpack


class Driver:
    """Move one cycle on, with what is to be read and written in it."""

    def __init__(self, dut, spec):
        self.dut = dut
        word = data.ArrayLayout(unsigned(spec.segment), spec.segments)
        self.words = data.ArrayLayout(word, spec.banks)
        self.addresses = data.ArrayLayout(range(spec.words), spec.banks)

    async def cycle(self, read=None, write=None):
        """Read block ``read``; write (enable, address, data, segments); return the data shown."""
        dut = self.dut
        dut.read__enable.value = read is not None
        dut.read__address.value = 0 if read is None else int(read)
        dut.write__enable.value = 0
        if write is not None:
            enable, address, words, segments = write
            dut.write__enable.value = sum(int(one) << n for n, one in enumerate(enable))
            dut.write__segments.value = sum(int(one) << n for n, one in enumerate(segments))
            dut.write__address.value = pack(self.addresses, address)
            dut.write__data.value = pack(self.words, words)
        await RisingEdge(dut.clk)
        shown = dut.read__data.value  # X until the first read
        return np.array(unpack(self.words, shown.to_unsigned()) if shown.is_resolvable else [])


def fill(spec, random, *shape):
    """Return random segments; Python integers, which may be wide."""
    raw = [int.from_bytes(random.bytes(spec.segment // 8 + 1), "little") % (1 << spec.segment)
           for _ in range(math.prod(shape))]
    return np.array(raw, dtype=object if spec.segment > 62 else np.int64).reshape(shape)


def noise(spec, random):
    """Return a random write, of all banks now and then."""
    enable = random.integers(0, 2, spec.banks) | (random.random() < 0.3)
    return (enable, random.integers(0, spec.words, spec.banks),
            fill(spec, random, spec.banks, spec.segments),
            random.integers(0, 2, spec.segments) | (random.random() < 0.3))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def equals_golden(dut):
    """Random traffic on both ports; data stay while ``enable`` is low."""
    spec, random = ScratchpadSpec(**parameters()), rng()
    await start(dut)
    driver, memory = Driver(dut, spec), spec.empty()
    for address in range(spec.words):  # whatever was there before
        await driver.cycle(write=([1] * spec.banks, [address] * spec.banks,
                                  memory[:, address].tolist(), [1] * spec.segments))
    shown = None
    for _ in range(1500):
        read = int(random.integers(spec.words)) if random.random() < 0.7 else None
        write = noise(spec, random)
        seen = await driver.cycle(read, write)
        if shown is not None:
            np.testing.assert_array_equal(seen, shown)
        if read is not None:
            shown = spec.block(memory, read).copy()  # the old words
        spec.write(memory, *write)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def holds_tokens(dut):
    """Tokens written piece by piece are read as blocks, where the address helpers say."""
    spec, random = ScratchpadSpec(**parameters()), rng(1)
    await start(dut)
    driver, memory = Driver(dut, spec), spec.empty()
    tokens, words, stride = 2 * spec.banks + 1, 2, 3
    base = spec.words - spec.size(tokens, stride)
    rows = fill(spec, random, tokens, words, spec.segments)
    spec.scatter(memory, base, stride, rows)
    for token in random.permutation(tokens):
        for word in range(words):
            bank, address = spec.place(token, word, base, stride)
            enable = [n == bank for n in range(spec.banks)]
            piece = np.where(np.array(enable)[:, None], rows[token, word], 7 % (1 << spec.segment))
            await driver.cycle(write=(enable, [int(address)] * spec.banks, piece,
                                      [1] * spec.segments))
    for first in range(0, tokens, spec.banks):
        live = min(spec.banks, tokens - first)
        for word in range(words):
            address = base + first // spec.banks * stride + word
            await driver.cycle(read=address)
            block = (await driver.cycle())[:live]
            np.testing.assert_array_equal(block, rows[first:first + live, word])
            np.testing.assert_array_equal(block, spec.block(memory, address)[:live])
    np.testing.assert_array_equal(spec.gather(memory, base, stride, tokens, words),
                                  rows.reshape(tokens, -1))
