# SPDX-License-Identifier: Apache-2.0
"""The LiteX example: a SoC with the chip in it, generated, linted, and run from the SoC's bus."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from golden.operation import Opcode
from golden.shell import IDENTITY, Code, ShellSpec
from hw.emit import emit, write
from hw.shell.chip import Chip
from sim.runner import LINT, run
from sim.tools import verilator
from tests.copy_core import CopyCore, CopySpec
from tests.test_chip import HALT, copy, operation

pytest.importorskip("litex", reason="LiteX must be installed: the extra `litex`")
from tests.litex_soc import RAM, REGISTERS

ROOT = Path(__file__).parents[1]
LITEX = ("COMBDLY", "CASEINCOMPLETE")
"""Warnings that Verilog of LiteX draws; all others, such as ports without a connection, count."""


def soc(data_width, folder):
    """Return the chip, its Verilog, and the file of a SoC around it."""
    chip = Chip(CopyCore(CopySpec()), ShellSpec(data_width=data_width))
    emitted = emit(chip, name="copy_chip")
    source, _ = write(emitted, folder)
    output = folder / "soc.v"
    made = subprocess.run([sys.executable, "-m", "tests.litex_soc", source, output], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    output.write_text("".join(f"/* verilator lint_off {name} */\n" for name in LITEX)
                      + output.read_text())
    found = subprocess.run(
        ["verilator", "--lint-only", "--top-module", "soc", LINT, output, source],
        env=verilator().environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    return chip, emitted, output


def test_ports(tmp_path):
    """With a bus as wide as that of the SoC, all of the chip's inputs are driven."""
    chip, _, output = soc(32, tmp_path)
    instance = output.read_text().split("copy_chip copy_chip(")[1].split(");\n")[0]
    for name, member in chip.signature.members.items():
        assert f".{name} " in instance or f".{name}(" in instance or str(member.flow) == "Out", name


def test_program(tmp_path):
    """From the bus of the SoC, with converters between: identity, a program, its interrupt."""
    chip, emitted, output = soc(64, tmp_path)
    memory = np.random.default_rng(29).integers(0, 256, 0x3000).astype(np.uint8)
    program = np.frombuffer(b"".join([
        operation(Opcode.LOAD, beats=150, request=70, address=0x7F8),
        operation(Opcode.STORE, beats=140, request=50, address=0x1010), HALT]), np.uint8)
    memory[0x2000:0x2000 + len(program)] = program
    at = {one.name: REGISTERS + one.offset for one in chip.registers.registers}
    registers = {"window_base": RAM, "window_limit": RAM + 0x2FFF, "program": 0x2000,
                 "interrupt_enable": 7, "control": 1}
    done = run(emitted, bench="sim.bench_litex", tests=1, directory=tmp_path / "run",
               extra_sources=[output], toplevel="soc", arrays={"memory": memory}, parameters={
                   "ram": RAM, "write": [[at[name], value] for name, value in registers.items()],
                   "read": [at[name] for name in ("identity", "status", "completed",
                                                  "interrupt_pending")]})
    assert done.report == {"registers": [IDENTITY, Code.OK, 3, 1]}
    copy(memory, 8, (0x7F8, 150), (0x1010, 140))
    np.testing.assert_array_equal(done.arrays["memory"], memory)
