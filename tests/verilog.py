# SPDX-License-Identifier: Apache-2.0
"""Emitted Verilog, looked at by other tools."""

import pathlib
import subprocess

from sim.runner import LINT
from sim.tools import verilator
from tests.proofs import YOSYS


def check(source: str, top: str, directory: pathlib.Path) -> None:
    """Require that Verilog lints clean, and has neither latches nor black boxes."""
    path = directory / f"{top}.v"
    path.write_text(source)
    found = subprocess.run(["verilator", "--lint-only", "-Wall", LINT, path],
                           env=verilator().environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    if YOSYS.exists():
        script = (f"read_verilog {top}.v; hierarchy -check -top {top}; proc; "
                  "select -assert-none t:$dlatch t:$adlatch t:$dlatchsr; flatten; opt_clean; "
                  "check -assert")
        subprocess.run([YOSYS, "-q", "-p", script], cwd=directory, check=True)
