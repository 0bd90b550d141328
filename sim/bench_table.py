# SPDX-License-Identifier: Apache-2.0
"""Load a table, look up every entry in every lane and then at random, reload parts of it."""

import cocotb
import numpy as np
from amaranth.hdl import unsigned
from amaranth.lib.data import ArrayLayout, StructLayout
from cocotb.triggers import RisingEdge

from golden.table import TableSpec
from sim.bench import parameters, rng, start
from sim.stream import StreamSource, pack, unpack


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.5])
async def equals_golden(dut, stall):
    spec, random = TableSpec(**parameters()), rng()
    index_shape = ArrayLayout(unsigned(spec.index_width), spec.lanes)
    value_shape = ArrayLayout(unsigned(spec.width), spec.lanes)
    load = StreamSource(dut, "load", StructLayout({
        "address": unsigned(spec.address_width),
        "entries": ArrayLayout(unsigned(spec.width), spec.load_entries)}), stall=stall)
    await start(dut)
    entries = np.zeros(spec.depth, np.int64)
    expected = None
    for part in (1.0, 0.3, 0.0, 1.0):
        words = np.flatnonzero(random.random(spec.words) < part)
        changed = random.integers(-1 << spec.width - 1, 1 << spec.width - 1, spec.depth)
        rows = [{"address": int(word), "entries": row}
                for word, row in zip(words, spec.load(changed)[words].tolist())]
        await load.send(random.permutation(np.array(rows, dtype=object)))
        ones = (1 << len(dut["load__payload"])) - 1
        dut["load__payload"].value = int(random.choice([0, 1])) * ones  # invalid: must not count
        entries = np.where(np.isin(np.arange(spec.depth) // spec.load_entries, words), changed,
                           entries)
        order = [random.permutation(spec.depth) for _ in range(spec.lanes)]
        index = np.concatenate([np.transpose(order),
                                random.integers(0, spec.depth, (200, spec.lanes))])
        for row in index:
            enable = int(random.random() >= stall)
            dut.enable.value = enable
            dut["index"].value = pack(index_shape, row)
            await RisingEdge(dut.clk)
            if expected is not None:  # of the cycle before; it stays while enable is 0
                assert unpack(value_shape, dut["value"].value.to_unsigned()) == expected
            if enable:
                expected = spec.compute(row, entries).tolist()
        dut.enable.value = 0
