# SPDX-License-Identifier: Apache-2.0
"""Build a design for a simulator, once for each content, and run a cocotb bench on it.

A built model is kept under the hash of everything that went into it: Verilog, flags, tools. The
cache is ``build/sim`` of the checkout, or ``$VITRAL_CACHE``. Two processes that want the same model
build it once: the second waits. Every run has a folder of its own.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

import cocotb_tools.config
import numpy as np

from hw.emit import Emitted, canonical_json, emit
from sim import tools

__all__ = ["Result", "SimulationError", "build", "cache_directory", "run"]

LINT = pathlib.Path(__file__).with_name("lint.vlt")
_VERILATOR = ("--cc", "--exe", "--vpi", "--no-timing", "--timescale", "1ns/1ps", "--prefix", "Vtop")
_OPTIMISE = ("OPT_FAST=-O2", "OPT_GLOBAL=-O2", "OPT_SLOW=-O0")
# cocotb's own runner starts the simulation, in a process of its own, so that it can be killed.
_LAUNCH = """
import json, sys
from cocotb_tools.runner import get_runner
request = json.load(open(sys.argv[1]))
get_runner(request.pop("simulator")).test(hdl_toplevel_lang="verilog", **request)
"""
_SCHEMA = 1  # increase when build() changes what it leaves in a cache folder


class SimulationError(RuntimeError):
    """Say why a simulation failed, with the end of its log and the folder it ran in."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Hold what a bench left behind.

    Attributes: ``tests`` (names of the tests, all passed), ``report`` (what the bench gave to
    :func:`sim.bench.report`), ``arrays`` (what it gave to :func:`sim.bench.save`), ``seconds`` of
    wall clock without the build, ``log`` (text) and ``directory``.
    """

    tests: tuple
    report: dict
    arrays: dict
    seconds: float
    log: str
    directory: pathlib.Path


def cache_directory():
    """Return the folder of built models, made if need be."""
    root = pathlib.Path(__file__).resolve().parent.parent
    if "VITRAL_CACHE" in os.environ:
        directory = pathlib.Path(os.environ["VITRAL_CACHE"]).absolute()
    elif (root / "pyproject.toml").exists():
        directory = root / "build" / "sim"
    else:
        directory = pathlib.Path.home() / ".cache" / "vitral"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def run(
    design,
    *,
    bench,
    parameters=None,
    arrays=None,
    simulator="verilator",
    name=None,
    seed=2026,
    testcase=None,
    tests=None,
    extra_sources=(),
    toplevel=None,
    public=(),
    plusargs=(),
    timeout: float = 600,
    waves=False,
    directory=None,
):
    """Run a cocotb bench on a design, and return its :class:`Result`.

    Parameters
    ----------
    design : Component or Emitted
        What to simulate; a component is emitted first.
    bench : str
        Module with the cocotb tests, such as ``"sim.bench_topk"``.
    parameters : optional
        What :func:`sim.bench.parameters` returns in the bench; by default the component's spec.
    arrays : dict of numpy arrays, optional
        What :func:`sim.bench.arrays` returns in the bench.
    simulator : ``"verilator"`` or ``"icarus"``
    name : str, optional
        Name of the emitted module; by default that of the component's class.
    seed : int
        ``cocotb.RANDOM_SEED`` in the bench.
    testcase : str, optional
        Run only the tests whose name contains this.
    tests : int, optional
        How many tests must pass; by default at least one.
    extra_sources, toplevel, public
        More Verilog files, the top module among them, and what else than the top's ports the bench
        touches: see :func:`build`.
    plusargs : sequence of str
        Passed to the simulator.
    timeout : float
        Seconds of wall clock after which the simulation is killed, and the run has failed.
    waves : bool
        Leave ``dump.vcd`` (Verilator) or ``dump.fst`` (Icarus) in the directory.
    directory : path, optional
        Where to run, such as a test's ``tmp_path``; by default a temporary folder, removed on
        success. Each run needs its own.

    Raises
    ------
    SimulationError
        If the build fails, a test fails, no test runs, or the time is up.
    """
    if parameters is None:
        parameters = getattr(design, "spec", None)
        if isinstance(design, Emitted):
            parameters = design.description["parameters"]
    design = _emitted(design, name)
    model, toplevel = build(
        design,
        simulator=simulator,
        extra_sources=extra_sources,
        toplevel=toplevel,
        public=public,
        waves=waves,
    )
    temporary = directory is None
    if temporary:
        directory = tempfile.mkdtemp(prefix="vitral-run-")
    directory = pathlib.Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    for stale in ("results.xml", "report.json", "saved.npz"):
        (directory / stale).unlink(missing_ok=True)
    (directory / "parameters.json").write_text(canonical_json(parameters))
    (directory / "description.json").write_text(json.dumps(design.description))
    np.savez(directory / "arrays.npz", **(arrays or {}))
    request = {
        "simulator": simulator,
        "test_module": bench,
        "hdl_toplevel": toplevel,
        "build_dir": str(model),
        "test_dir": str(directory),
        "results_xml": str(directory / "results.xml"),
        "seed": seed,
        "plusargs": list(plusargs),
        "waves": waves,
        "test_filter": None if testcase is None else re.escape(testcase),
    }
    (directory / "request.json").write_text(json.dumps(request))
    environment = {
        key: value
        for key, value in _tool(simulator).environment.items()
        if not key.startswith(("COCOTB_", "PYTEST_"))
    }
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    environment["VITRAL_RUN"] = str(directory)
    begin = time.monotonic()
    command = [sys.executable, "-c", _LAUNCH, "request.json"]
    with (directory / "log.txt").open("w") as log:
        late = _execute(command, directory, environment, log, timeout)
    seconds = time.monotonic() - begin
    log = (directory / "log.txt").read_text(errors="replace")
    passed, complaints = _read_results(directory / "results.xml")
    if late:
        complaints.append(f"{bench} must end within {timeout} s of wall clock, and was killed")
    elif not passed and not complaints:
        complaints.append(f"{bench} must run at least one test, and ran none")
    elif tests is not None and len(passed) != tests:
        complaints.append(f"{bench} must pass {tests} tests, not {len(passed)}")
    if complaints:
        end = "\n".join(log.splitlines()[-40:])
        raise SimulationError(
            "\n".join([*complaints, f"---- the end of {directory / 'log.txt'}:", end])
        )
    report, saved = directory / "report.json", directory / "saved.npz"
    result = Result(
        tests=tuple(passed),
        report=json.loads(report.read_text()) if report.exists() else {},
        arrays=dict(np.load(saved)) if saved.exists() else {},
        seconds=seconds,
        log=log,
        directory=directory,
    )
    if temporary and not waves:
        shutil.rmtree(directory)
    return result


def build(
    design,
    *,
    simulator="verilator",
    name=None,
    extra_sources=(),
    toplevel=None,
    public=(),
    waves=False,
):
    """Build a design for a simulator; return the model's folder and the top module's name.

    Parameters
    ----------
    design : Component or Emitted
    simulator : ``"verilator"`` or ``"icarus"``
    extra_sources : sequence of paths
        More Verilog, such as a memory model with the design inside.
    toplevel : str, optional
        The top module, when it is one of ``extra_sources``; all its signals are public.
    public : sequence of str
        Signals and memories below the top that the bench touches, as ``"module.signal"``.
        Verilator removes everything that is not public, which makes it fast; Icarus keeps all.
    waves : bool
        Build a model that can dump waves.
    """
    design = _emitted(design, name)
    tool = _tool(simulator)
    sources = {f"{design.name}.v": design.verilog}
    for source in map(pathlib.Path, extra_sources):
        if source.name in sources:
            raise ValueError(f"extra_sources must have distinct names, not {source.name!r} twice")
        sources[source.name] = source.read_text()
    top = toplevel or design.name
    ports = ["*"] if toplevel else [port["name"] for port in design.description["ports"]]
    touched = [f"{top}.{port}" for port in ports] + list(public)
    key = {
        "schema": _SCHEMA,
        "sources": sources,
        "top": top,
        "tool": [tool.name, tool.version, tool.make_variables],
        "cocotb": [importlib.metadata.version("cocotb"), str(cocotb_tools.config.libs_dir)],
        "options": [waves, touched, _VERILATOR, _OPTIMISE, LINT.read_text()]
        if simulator == "verilator"
        else [waves],
    }
    digest = hashlib.sha256(canonical_json(key).encode()).hexdigest()[:32]
    model = cache_directory() / f"{top}-{simulator}-{digest}"
    with _locked(model):
        if not model.exists():
            # In a folder without spaces, which make cannot stand, and in nobody's way.
            with tempfile.TemporaryDirectory(prefix="vitral-build-") as folder:
                work = pathlib.Path(folder)
                for filename, text in sources.items():
                    (work / filename).write_text(text)
                build_with = _build_verilator if simulator == "verilator" else _build_icarus
                product = build_with(tool, work, list(sources), top, touched, waves)
                _publish([product], model)
    return model, top


def _emitted(design, name):
    """Emit a component, called after its class unless told otherwise."""
    if isinstance(design, Emitted):
        return design
    if name is None:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(design).__name__).lower()
    return emit(design, name=name)


def _tool(simulator):
    if simulator not in ("verilator", "icarus"):
        raise ValueError(f"simulator must be 'verilator' or 'icarus', not {simulator!r}")
    return tools.verilator() if simulator == "verilator" else tools.icarus()


@contextlib.contextmanager
def _locked(path):
    """Hold the lock beside a cache folder; the kernel drops it if this process dies."""
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(files, folder):
    """Move files into a new cache folder, which appears with all of them or not at all."""
    staging = pathlib.Path(tempfile.mkdtemp(prefix="new-", dir=folder.parent))
    for file in files:
        shutil.copy2(file, staging / file.name)
    staging.chmod(0o755)
    with contextlib.suppress(OSError):  # another process was first, with the same content
        staging.rename(folder)
    shutil.rmtree(staging, ignore_errors=True)


def _call(command, work, tool, what):
    run = subprocess.run(
        command,
        cwd=work,
        env=tool.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if run.returncode:
        end = "\n".join(run.stdout.splitlines()[-40:])
        raise SimulationError(f"{what} must be accepted by {command[0]}, which said:\n{end}")


def _build_icarus(tool, work, sources, top, touched, waves):
    del touched
    (work / "options.f").write_text("+timescale+1ns/1ps\n")
    roots = ["-s", top]
    if waves:
        (work / "dump_waves.v").write_text(
            "module dump_waves;\ninitial begin\n"
            f'$dumpfile("dump.fst"); $dumpvars(0, {top});\nend\nendmodule\n'
        )
        sources = [*sources, "dump_waves.v"]
        roots += ["-s", "dump_waves"]
    command = ["iverilog", "-g2012", "-o", "sim.vvp", *roots, "-f", "options.f", *sources]
    _call(command, work, tool, top)
    return work / "sim.vvp"


def _build_verilator(tool, work, sources, top, touched, waves):
    lines = ["`verilator_config"]
    for item in touched:
        module, _, variable = item.partition(".")
        lines.append(f'public_flat_rw -module "{module}" -var "{variable}"')
    (work / "public.vlt").write_text("\n".join([*lines, ""]))
    config = cocotb_tools.config
    command = ["verilator", *_VERILATOR, *(["--trace"] if waves else []), "-Mdir", ".", "-o", top]
    command += ["--top-module", top, "public.vlt", str(LINT)]
    command += [
        "-LDFLAGS",
        f"-Wl,-rpath,{config.libs_dir} -L{config.libs_dir} -lcocotbvpi_verilator",
    ]
    command += [str(config.share_dir / "lib" / "verilator" / "verilator.cpp"), *sources]
    _call(command, work, tool, top)
    # Verilator's runtime is the same for every model, and would be most of the time for small ones.
    key = canonical_json([_SCHEMA, tool.version, tool.make_variables, _OPTIMISE, waves])
    runtime = cache_directory() / f"runtime-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    with _locked(runtime):
        if not runtime.exists():
            classes = (work / "Vtop_classes.mk").read_text()
            objects = [f"{name}.o" for name in re.findall(r"^\s+(verilated\w*) ", classes, re.M)]
            _make(tool, work, waves, objects)
            _publish([work / name for name in objects], runtime)
    for file in runtime.iterdir():
        shutil.copy(file, work)  # copy, not copy2: newer than its source
    _make(tool, work, waves, [])
    return work / top


def _make(tool, work, waves, targets):
    jobs = f"-j{min(4, os.cpu_count() or 1)}"
    command = ["make", jobs, "-f", "Vtop.mk", f"VM_TRACE={int(waves)}"]
    _call([*command, *tool.make_variables, *_OPTIMISE, *targets], work, tool, "Verilator's C++")


def _execute(command, directory, environment, log, timeout):
    """Run a command in a session of its own; return whether it had to be killed."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        process.wait(timeout)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):  # the simulator too, also on Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read_results(path):
    """Return the names of the tests that passed, and a complaint about each that did not."""
    if not path.exists():
        return [], ["the simulation must leave results.xml, and ended without"]
    passed, complaints = [], []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        for fault in case:
            if fault.tag in ("failure", "error"):
                message = fault.get("error_msg") or fault.get("message") or fault.text or ""
                complaints.append(f"{name} must pass, but: {message.strip()}")
                break
            if fault.tag == "skipped":
                break
        else:
            passed.append(name)
    return passed, complaints
