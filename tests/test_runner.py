# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.wiring import Out
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.emit import emit
from sim import tools
from sim.runner import SimulationError, build, run
from sim.stream import pack, unpack
from tests.example import Dot, DotSpec

SPEC = DotSpec(lanes=5)
WEIGHT = {"weight": np.array(SPEC.weight)}
BENCH = "sim.bench_example"


@pytest.fixture(scope="module")
def dot():
    return emit(Dot(SPEC), name="dot")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Write a bench of one test, and return its module name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, body):
        lines = ["import cocotb", "from sim.bench import *", "from sim.stream import *"]
        lines += ["@cocotb.test()", "async def scenario(dut):", *(f"    {x}" for x in body)]
        (tmp_path / f"{name}.py").write_text("\n".join(lines))
        return name

    return write


def test_simulators_agree(dot, tmp_path):
    results = [
        run(dot, bench=BENCH, simulator=simulator, arrays=WEIGHT, tests=4,
            directory=tmp_path / simulator)
        for simulator in ("icarus", "verilator")
    ]
    first, second = results
    assert first.tests == second.tests
    assert first.report == second.report == {"cycles": SPEC.cycles(200)}
    np.testing.assert_array_equal(first.arrays["received"], second.arrays["received"])
    assert first.arrays["received"].shape == (200,)


def test_seed_is_followed(dot):
    def received(seed):
        return run(dot, bench=BENCH, simulator="icarus", arrays=WEIGHT, testcase="stall=0.0",
                   seed=seed, tests=2).arrays["received"].tolist()

    assert received(1) == received(1) != received(2)


def test_failure_is_told(dot, bench, tmp_path):
    name = bench("bench_fails", ["await start(dut)", "assert 1 + 1 == 3, 'sum is wrong'"])
    with pytest.raises(SimulationError, match="bench_fails.scenario must pass, but: .*sum is wrong"
                       ) as caught:
        run(dot, bench=name, simulator="icarus", directory=tmp_path / "run")
    assert "FAIL=1" in str(caught.value)  # the end of the log
    assert (tmp_path / "run" / "log.txt").exists()


def test_no_test_is_a_failure(dot):
    with pytest.raises(SimulationError, match=r"must run at least one test, and ran none"):
        run(dot, bench=BENCH, simulator="icarus", arrays=WEIGHT, testcase="no such name")
    with pytest.raises(SimulationError, match=r"^the simulation must leave results.xml"):
        run(dot, bench="sim.no_such_bench", simulator="icarus")


def test_count_is_checked(dot):
    with pytest.raises(SimulationError, match=r"^sim.bench_example must pass 5 tests, not 4\n"):
        run(dot, bench=BENCH, simulator="icarus", arrays=WEIGHT, tests=5)


def test_watchdog(dot, bench):
    name = bench("bench_hangs", ["await start(dut)", "while True: pass"])
    begin = time.monotonic()
    with pytest.raises(SimulationError, match=r"must end within 5 s of wall clock, and was killed"):
        run(dot, bench=name, simulator="icarus", timeout=5)
    assert time.monotonic() - begin < 60


class Liar(wiring.Component):
    """Offers a payload for one cycle, whether taken or not; or changes it all the time."""

    def __init__(self, withdraws):
        self._withdraws = withdraws
        super().__init__({"o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        count = Signal(8)
        m.d.sync += count.eq(count + 1)
        m.d.comb += self.o.payload.eq(5 if self._withdraws else count)
        m.d.comb += self.o.valid.eq(count[1] if self._withdraws else 1)
        return m


@pytest.mark.parametrize(
    ("withdraws", "complaint"),
    [(True, r"o.valid must stay high until taken"),
     (False, r"o.payload must stay \w+ until taken, not \w+")],
)
def test_sink_catches_liars(withdraws, complaint, bench):
    body = ["await start(dut)", "await StreamSink(dut, 'o', 8, stall=0.7).receive(20)"]
    with pytest.raises(SimulationError, match=complaint):
        run(Liar(withdraws), bench=bench("bench_liar", body), simulator="icarus")


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_other_top(simulator, bench, dot, tmp_path):
    top = tmp_path / "two_dots.v"
    top.write_text("""
        module two_dots(input clk, input rst, output both, output ready);
          wire [1:0] r;
          reg [7:0] seen = 0;
          genvar n;
          generate for (n = 0; n < 2; n = n + 1) begin : copy
            dot one (.clk(clk), .rst(rst), .i__payload(40'h0), .i__valid(1'b0), .i__ready(r[n]),
                     .o__payload(), .o__valid(), .o__ready(1'b1));
          end endgenerate
          assign both = &r;
          assign ready = |r;
          always @(posedge clk) seen <= seen + {7'b0, both};
        endmodule
    """)
    body = ["from cocotb.triggers import ClockCycles", "await start(dut)",
            "await ClockCycles(dut.clk, 40)", "report(seen=int(dut.seen.value))"]
    result = run(dot, bench=bench("bench_top", body), simulator=simulator, toplevel="two_dots",
                 extra_sources=[top])
    assert result.report == {"seen": 40 - SPEC.lanes - 2}


def _build(directory, barrier):
    os.environ["VITRAL_CACHE"] = str(directory)
    barrier.wait()
    build(emit(Dot(SPEC), name="dot"), simulator="icarus")


def test_cache(tmp_path, monkeypatch, dot):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    pair = [context.Process(target=_build, args=(tmp_path, barrier)) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    monkeypatch.setenv("VITRAL_CACHE", str(tmp_path))
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
    model, top = build(dot, simulator="icarus")
    assert (top, [path.name for path in model.iterdir()]) == ("dot", ["sim.vvp"])
    before = (model / "sim.vvp").stat().st_mtime_ns
    assert build(dot, simulator="icarus")[0] == model
    assert (model / "sim.vvp").stat().st_mtime_ns == before
    other, _ = build(emit(Dot(DotSpec(lanes=6)), name="dot"), simulator="icarus")
    assert other != model


def test_simulator_wrong(dot):
    with pytest.raises(ValueError, match=r"^simulator must be 'verilator' or 'icarus', not 'x'$"):
        build(dot, simulator="x")


def test_missing_tools_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tools.MissingToolError, match=r"^Icarus Verilog must be installed: apt-"):
        tools.icarus()
    with pytest.raises(tools.MissingToolError, match=r"^g\+\+ must be installed .* install g\+\+$"):
        tools.verilator()


@pytest.mark.parametrize(("version", "wins"), [("5.036", True), ("6.002", True), ("5.006", False)])
def test_system_verilator(version, wins, monkeypatch, tmp_path):
    program = tmp_path / "verilator"
    program.write_text(f"#!/bin/sh\necho Verilator {version} 2030-01-01\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    tool = tools.verilator()
    assert (tool.version == f"Verilator {version} 2030-01-01") == wins
    assert ("VERILATOR_ROOT" in tool.environment) != wins
    assert bool(tool.make_variables) != wins
    found = shutil.which("verilator", path=tool.environment["PATH"])
    assert (found == str(program)) == wins


SHAPES = st.recursive(
    st.builds(signed, st.integers(1, 70)) | st.builds(unsigned, st.integers(1, 70)),
    lambda inner: st.builds(ArrayLayout, inner, st.integers(1, 5))
    | st.dictionaries(st.sampled_from("abcd"), inner, min_size=1).map(StructLayout),
    max_leaves=5,
)


def _values(shape):
    if isinstance(shape, ArrayLayout):
        return st.lists(_values(shape.elem_shape), min_size=shape.length, max_size=shape.length)
    if isinstance(shape, StructLayout):
        return st.fixed_dictionaries({key: _values(field.shape) for key, field in shape})
    high = 1 << shape.width - shape.signed
    return st.integers(-high if shape.signed else 0, high - 1)


@settings(deadline=None, derandomize=True)
@given(st.data())
def test_pack(data):
    shape = data.draw(SHAPES)
    value = data.draw(_values(shape))
    bits = pack(shape, value)
    assert unpack(shape, bits) == value
    if isinstance(shape, ArrayLayout | StructLayout):
        assert bits == shape.const(value).as_bits()


def test_pack_wrong():
    with pytest.raises(ValueError, match=r"^value must have 3 elements, not 2$"):
        pack(ArrayLayout(8, 3), [1, 2])
