# SPDX-License-Identifier: Apache-2.0
"""Apply all kinds in turn: every pre-activation where they are few, else edges and random ones."""

import cocotb
import numpy as np
from amaranth.hdl import signed, unsigned
from amaranth.lib.data import ArrayLayout, StructLayout
from cocotb.utils import get_sim_time

from golden.activation import ActivationKind, ActivationSpec
from golden.fixed import bounds, integers
from hw.emit import from_plain
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSink, StreamSource


def stimulus(spec, random):
    """Return pre-activations (number, lanes) and kinds; every kind sees every number of a lane."""
    low, high = bounds(spec.in_width)
    if spec.in_width <= 8:
        numbers = np.arange(low, high + 1)
    else:
        widths = {spec.width, spec.width + 1, spec.table_width, spec.hardswish_width, spec.in_width}
        edges = [edge + step for width in widths for edge in bounds(width) for step in (-1, 0, 1)]
        numbers = random.integers(low, high + 1, 300)
        numbers = np.concatenate([np.clip(edges, low, high), numbers,
                                  numbers >> random.integers(0, spec.in_width, 300)])
    kinds = integers(np.repeat([int(kind) for kind in spec.kinds], len(numbers)))
    q = np.transpose([np.concatenate([random.permutation(numbers) for _ in spec.kinds])
                      for _ in range(spec.lanes)])
    order = random.permutation(len(kinds))
    return q[order], kinds[order]


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize((("stall", "after_valid"), [(0.0, False), (0.4, False), (0.0, True)]))
async def equals_golden(dut, stall, after_valid):
    spec, random = from_plain(ActivationSpec, parameters()), rng()
    table_spec = spec.table_spec
    q, kinds = stimulus(spec, random)
    await start(dut)
    load = StreamSource(dut, "load", StructLayout({
        "address": unsigned(table_spec.address_width),
        "entries": ArrayLayout(unsigned(spec.width), spec.load_entries)}), stall=stall)
    source = StreamSource(dut, "i", StructLayout({
        "q": ArrayLayout(signed(spec.in_width), spec.lanes), "kind": unsigned(2)}), stall=stall)
    sink = StreamSink(dut, "o", ArrayLayout(unsigned(spec.width), spec.lanes), stall=stall,
                      after_valid=after_valid)
    top = bounds(spec.hardswish_width)[1]
    cycles = 0
    for c3, gain in [(top // 2, 0.9), (top // 5, 1.5), (2 * top + 1, 0.99)]:
        # The greatest result is the greatest number that fits, times the gain.
        largest = top * min(2 * c3, top + c3)
        mul, shift = map(int, spec.hardswish_requant.factors(
            gain * bounds(spec.width)[1] / largest))
        table = random.integers(*bounds(spec.width), table_spec.depth, endpoint=True)
        if ActivationKind.TABLE in spec.kinds:
            await load.send({"address": address, "entries": entries} for address, entries in
                            enumerate(table_spec.load(table).tolist()))
        dut.c3.value, dut.mul.value, dut.shift.value = c3, mul, shift
        expected = np.empty_like(q)
        for kind in spec.kinds:
            mine = kinds == kind
            expected[mine] = spec.compute(q[mine], kind, table=table, c3=c3, mul=mul, shift=shift)
            assert len(np.unique(expected[mine])) > 3
        begin = get_sim_time("ns")
        cocotb.start_soon(source.send(
            {"q": numbers, "kind": kind} for numbers, kind in zip(q.tolist(), kinds.tolist())))
        received = await sink.receive(len(q))
        cycles += (get_sim_time("ns") - begin) / 10
        np.testing.assert_array_equal(received, expected & (1 << spec.width) - 1)
    if not stall and not after_valid:
        report(cycles=cycles / 3, payloads=len(q))
