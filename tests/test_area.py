# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tests.example import Dot, DotSpec
from vitral.area import area, main


class Multiplier(wiring.Component):
    def __init__(self):
        super().__init__({"a": In(signed(8)), "b": In(signed(8)), "y": Out(signed(16))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.y.eq(self.a * self.b)
        return m


class Buffer(wiring.Component):
    """A memory of 64 x 12 bits and a register of 12."""

    def __init__(self):
        super().__init__({"address": In(6), "data": In(12), "write": In(1), "q": Out(12)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=12, depth=64, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.data), write.en.eq(self.write)]
        m.d.comb += [read.addr.eq(self.address), read.en.eq(1)]
        m.d.sync += self.q.eq(read.data)
        return m


def test_multiplier():
    result = area(Multiplier(), name="multiplier", by_module=False)
    assert result["kge"] == pytest.approx(0.42, rel=0.03)  # a Booth multiplier of this size
    assert (result["register_kge"], result["memory_bits"]) == (0, 0)


def test_memory_is_left_out():
    result = area(Buffer(), name="buffer", by_module=False)
    assert result["memory_bits"] == 64 * 12
    assert (result["cells"]["DFF"], result["cells"]["vitral_memory"]) == (12, 1)
    assert result["register_kge"] == pytest.approx(12 * 4.33 / 1000, abs=5e-4)


def test_parts_add_up():
    result = area(Dot(DotSpec(lanes=4)), name="dot")
    parts = result["by_module"]
    assert {name: part["instances"] for name, part in parts.items()} == {"dot": 1, "dot_lane": 4}
    total = sum(part["own_kge"] for part in parts.values())
    assert total == pytest.approx(parts["dot"]["kge"], abs=2e-3)
    assert parts["dot_lane"]["own_kge"] == pytest.approx(4 * parts["dot_lane"]["kge"], abs=2e-3)
    assert result["kge"] < parts["dot"]["kge"]  # flattened, it knows how small the weights are
    assert result["memory_bits"] == 0  # they are a table


def test_parts_alone():
    """A module is mapped once, and counts as often as there are instances."""
    whole = area(Dot(DotSpec(lanes=4)), name="dot")
    result = area(Dot(DotSpec(lanes=4)), name="dot", flat=False)
    assert result["by_module"] == whole["by_module"]
    assert result["kge"] == pytest.approx(whole["by_module"]["dot"]["kge"], abs=2e-3)
    registers = sum(number for cell, number in result["cells"].items() if cell.startswith("DFF"))
    assert registers and "dot_lane" not in result["cells"]
    assert result["register_kge"] == pytest.approx(registers * 4.33 / 1000, abs=1e-3)
    with pytest.raises(ValueError, match="^flat must be True where by_module is not$"):
        area(Dot(DotSpec(lanes=4)), by_module=False, flat=False)


def test_command(capsys):
    assert main(["tests.example:Dot", "lanes=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["by_module"]["dot_lane"]["instances"] == 4


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tests.example:Dott"], "python -m vitral.area: module 'tests.example' has no attribute"),
        (["tests.example:Dot", "lane=4"], "python -m vitral.area: DotSpec.__init__() got an unexp"),
    ],
)
def test_command_wrong(arguments, complaint, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(complaint)
