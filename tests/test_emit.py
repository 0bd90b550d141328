# SPDX-License-Identifier: Apache-2.0
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum

import pytest
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.emit import config_hash, emit, from_plain, parameters_of, write
from sim import tools
from sim.runner import LINT, run
from tests.example import Dot, DotSpec

SPEC = DotSpec(lanes=5)


@pytest.fixture(scope="module")
def dot():
    return emit(Dot(SPEC), name="dot")


def test_same_bytes():
    program = (
        "import hashlib; from hw.emit import emit; from tests.example import Dot, DotSpec;"
        "e = emit(Dot(DotSpec(lanes=5)), name='dot');"
        "print(hashlib.sha256(f'{e.verilog}{e.description}'.encode()).hexdigest())"
    )
    digests = set()
    for seed in "123":
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program]
        digests.add(subprocess.check_output(command, env=environment))
    assert len(digests) == 1


def test_no_paths(dot):
    assert "src" not in dot.verilog
    assert ".py" not in dot.verilog
    assert os.sep not in re.sub(r"//|/\*.*?\*/", "", dot.verilog.split("\n", 1)[1])


def test_merges_identical_modules(dot):
    assert dot.description["modules"] == {"dot": 1, "dot_lane": 5}
    assert re.findall(r"^module (\w+)", dot.verilog, re.M) == ["dot", "dot_lane"]
    assert len(re.findall(r"^  dot_lane lane_\d \(", dot.verilog, re.M)) == 5


def test_names_are_legal(dot):
    assert "\\" not in dot.verilog
    assert "'hx" not in dot.verilog
    assert {port["name"] for port in dot.description["ports"]} == {
        *("clk", "rst", "i__payload", "i__valid", "i__ready", "o__payload", "o__valid", "o__ready")
    }


def test_description(dot):
    assert dot.description["name"] == "dot"
    assert dot.description["parameters"] == {"lanes": 5}
    assert dot.description["config_hash"] == config_hash("dot", {"lanes": 5})
    assert dot.description["config_hash"] in dot.verilog.split("\n", 1)[0]
    assert dot.description["memories"] == [
        {
            "module": "dot", "name": "weights", "width": 8, "depth": 5, "writable": False,
            "instances": 1,
        }
    ]
    payload = next(port for port in dot.description["ports"] if port["name"] == "i__payload")
    assert payload == {
        "name": "i__payload", "direction": "input", "width": 40, "member": "i.payload",
        "signed": False, "array": {"length": 5, "width": 8},
    }


def test_lint_is_clean(dot, tmp_path):
    verilog, _ = write(dot, tmp_path)
    command = ["verilator", "--lint-only", "-Wall", str(LINT), str(verilog)]
    linted = subprocess.run(
        command, env=tools.verilator().environment, capture_output=True, text=True
    )
    assert (linted.returncode, linted.stderr) == (0, "")


def test_write_is_whole_or_nothing(dot, tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "folder"
    paths = write(dot, folder)
    assert [path.name for path in paths] == ["dot.v", "dot.json"]
    assert paths[0].read_text() == dot.verilog
    assert json.loads(paths[1].read_text()) == dot.description

    def fail(source, target):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write(dot, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["dot.json", "dot.v"]


@pytest.mark.parametrize("name", ["module", "2nd", "a-b", ""])
def test_name_wrong(name):
    with pytest.raises(ValueError, match=f"^name must be a Verilog identifier, not '{name}'$"):
        emit(Dot(SPEC), name=name)


def test_ports_wrong():
    with pytest.raises(ValueError, match=r"^name must not be that of a port, .*, not 'x'$"):
        emit(Part(1), name="x")

    class Word(wiring.Component):
        def __init__(self):
            super().__init__({"reg": Out(1)})

        def elaborate(self, platform):
            return Module()

    with pytest.raises(ValueError, match=r"^port must not be a word of Verilog, not 'reg'$"):
        emit(Word(), name="word")


class Kind(Enum):
    SLOW = 1
    FAST = 2


@dataclass(frozen=True, kw_only=True)
class Nested:
    dot: DotSpec
    kinds: tuple[Kind, ...] = (Kind.FAST,)
    limit: int | None = None


@pytest.mark.parametrize(
    "spec", [Nested(dot=SPEC), Nested(dot=SPEC, kinds=(Kind.SLOW, Kind.FAST), limit=3)]
)
def test_parameters_round_trip(spec):
    class Component:
        def __init__(self, spec):
            self.spec = spec

    plain = json.loads(json.dumps(parameters_of(Component(spec))))
    assert from_plain(Nested, plain) == spec


def test_parameter_wrong():
    with pytest.raises(TypeError, match=r"^parameter must be a number, text or .*, not <object"):
        emit(Dot(SPEC), name="dot", parameters={"x": object()})


class Awkward(wiring.Component):
    """Different parts of one name, a Verilog keyword, a name with dots, an unused carry."""

    def __init__(self):
        super().__init__({"x": In(8), "y": Out(8)})

    def elaborate(self, platform):
        m = Module()
        reg = Signal(8)
        odd = Signal(8, name="a.b")
        m.submodules.part_0 = part_0 = Part(1)
        m.submodules.part_1 = part_1 = Part(2)
        m.submodules.part_2 = part_2 = Part(1)
        m.d.sync += [reg.eq(self.x), odd.eq(reg + 1)]
        m.d.comb += [part_0.x.eq(odd), part_1.x.eq(part_0.y), part_2.x.eq(part_1.y)]
        m.d.comb += self.y.eq(part_2.y)
        return m


class Part(wiring.Component):
    def __init__(self, step):
        self._step = step
        super().__init__({"x": In(8), "y": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.y.eq(self.x + self._step)
        return m


def test_awkward_names():
    emitted = emit(Awkward(), name="awkward")
    assert emitted.description["modules"] == {"awkward": 1, "awkward_part": 2, "awkward_part_2": 1}
    assert "\\" not in emitted.verilog
    assert re.search(r"reg \[7:0\] reg_ = ", emitted.verilog)
    assert re.search(r"reg \[7:0\] a_b = ", emitted.verilog)


class Tangle(wiring.Component):
    """Logic at random, of all operators, widths and signs, in registers, memories' place and If."""

    def __init__(self, seed):
        self.seed = seed
        super().__init__({"a": In(signed(9)), "b": In(6), "c": In(1), "y": Out(48)})

    def elaborate(self, platform):
        m = Module()
        rng = random.Random(self.seed)
        pool: list[Value] = [self.a, self.b, self.c]

        def expression():
            x, y, s = rng.choices(pool, k=3)
            low = rng.randrange(len(x))
            return rng.choice([
                lambda: x + y, lambda: x - y, lambda: -x, lambda: ~x, lambda: x & y,
                lambda: x | y, lambda: x ^ y, lambda: x == y, lambda: x < y, lambda: Mux(s, x, y),
                lambda: Cat(x, y), lambda: x[low:], lambda: x >> 2, lambda: x.any(),
                lambda: x[:8] * y[:8], lambda: x[:8].as_signed() * y[:8].as_signed(),
                lambda: x.bit_select(s[:3], 3), lambda: x << s[:2], lambda: x // 3, lambda: y % 5,
            ])()[:24]

        for index in range(40):
            shape = rng.choice([signed, unsigned])(rng.randint(1, 24))
            signal = Signal(shape, name=f"value_{index}", init=rng.randint(0, 1) - shape.signed)
            domain = m.d.sync if rng.random() < 0.4 else m.d.comb
            if rng.random() < 0.5:
                domain += signal.eq(expression())
            else:
                with m.Switch(Cat(*rng.choices(pool, k=2))[:2]):
                    with m.Case(0):
                        domain += signal.eq(expression())
                    with m.Case(1, 2):
                        domain += signal[: rng.randint(1, len(signal))].eq(expression())
                    with m.Default(), m.If(self.c):
                        domain += signal.eq(expression())
            pool.append(signal)
        y = Value.cast(0)
        for index, value in enumerate(pool):
            y = y ^ (value << index % 24)
        m.d.comb += self.y.eq(y)
        return m


@pytest.mark.parametrize("seed", range(6))
def test_verilog_equals_amaranth(seed, tmp_path):
    component, rng, expected = Tangle(seed), random.Random(seed), []
    stimulus = [(rng.getrandbits(9), rng.getrandbits(6), rng.getrandbits(1)) for _ in range(300)]

    async def drive(ctx):
        for a, b, c in stimulus:
            ctx.set(component.a, a)
            ctx.set(component.b, b)
            ctx.set(component.c, c)
            _, _, y = await ctx.tick().sample(component.y)
            expected.append(y)

    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    result = run(
        Tangle(seed), bench="tests.bench_tangle", simulator="icarus", tests=1, directory=tmp_path,
        parameters=stimulus,
    )
    assert result.report["y"] == expected
