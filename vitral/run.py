# SPDX-License-Identifier: Apache-2.0
"""Run a network on a design: quantise, compile, execute the program, compare."""

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.operation import Status
from vitral.board_run import Connection, run_board
from vitral.boards import SIMULATED, BoardSetup
from vitral.chip_run import Setup, simulate_chip
from vitral.compile import Program
from vitral.designs import Design
from vitral.estimate import Cycles, predict_images
from vitral.progress import Progress
from vitral.quantise import integer_images
from vitral.record import record
from vitral.sparse import quantised
from vitral.task import Task
from vitral.timeline import BINS, Activity, modelled, sampled
from vitral.usage import UsageError, refusing

__all__ = ["Run", "run"]

MOST_OPERATIONS = 65535
"""Operations that the test bench of a core can hold."""
SHOWN = 5
"""Tensors that are named when the bits differ."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run leaves: the ``result`` of ``docs/json.md``, and what is too large for it.

    ``logits`` are float, (images, classes). ``cycles`` are those of each image, None unless
    simulated. ``complaints`` say what differs from the golden model. ``program``, the cycles at
    which its operations ended (``ends``, of all images) and the ``activity`` in between are what a
    timeline shows; there is no activity unless asked for. ``kept`` are the tokens of the first
    image that are left after blocks, where the design tells.
    """

    result: dict[str, Any]
    logits: NDArray[np.float64]
    cycles: list[int] | None
    complaints: list[str]
    program: Program
    ends: Sequence[int]
    activity: Activity | None
    kept: Mapping[int, Sequence[int]]


def run(design: Design, preset: str, spec: Any, task: Task, *, engine: str, simulator: str,
        trace: bool, latency: int, progress: Progress, timeline: bool = False,
        chip: Setup | None = None,
        board: tuple[BoardSetup, Connection] | None = None) -> Run:
    """Run all images of a task.

    The golden engine emulates the program operation by operation. The RTL engine does that too,
    then simulates the Verilog of the core with all images in one simulation, and compares the whole
    memory and all completions; or that of a ``chip``, which its driver starts for each image.
    On a ``board`` it is the chip there that its driver starts.
    ``trace`` makes the program store every intermediate result. ``timeline`` asks for the activity
    over time: sampled in the simulation of a core, if there is one.
    """
    images = len(task.images)
    progress.step(f"calibrating with {len(task.calibration)} images")
    with refusing(), np.errstate(over="ignore", invalid="ignore"):
        network = quantised(task.network, task.calibration, task.sparsity, spec)
        program = design.compile(network, spec, task.sparsity, trace=trace)
        pixels = integer_images(network, task.images)
        programs = [program.operations(n) for n in range(images)]
    operations = [one for program_of_image in programs for one in program_of_image]
    if engine == "rtl" and len(operations) > MOST_OPERATIONS:
        raise UsageError(f"--images must be at most {MOST_OPERATIONS // len(program.steps)} for a "
                         f"simulation of {len(program.steps)} operations an image, not {images}")
    before = program.memory(pixels, task.scores)
    emulator = design.emulator(spec, before.copy())
    progress.step("emulating")
    completions, begin = [], time.monotonic()
    for n, one in enumerate(programs):
        progress.show(f"image {n + 1} of {images}")
        completions += emulator.run(one)
    seconds = time.monotonic() - begin
    for completion, step in zip(completions, [*program.steps] * images, strict=True):
        if completion.status != Status.OK:
            raise RuntimeError(f"{step.name} must be accepted, but was {completion.status.name}")
    progress.step("predicting cycles")
    differ = network.prune or network.skip or not program.exact  # in what they do
    predicted = predict_images(design, spec, program, images, latency,
                               emulator.work if differ else ())
    known: dict[str, Any] = {"cycles": None, "simulator": None, "bit_exact": None,
                             "bytes_read": emulator.bytes_read,
                             "bytes_written": emulator.bytes_written,
                             **design.attention(emulator, program.steps)}
    golden = emulator.memory.reshape(-1)
    memory, counters, ends = golden, predicted.counters, predicted.completions
    cycles, complaints = None, []
    activity = modelled(predicted, len(program.steps)) if timeline else None
    if engine == "rtl" and chip:
        done = simulate_chip(design, spec, chip, before, programs, simulator=simulator,
                             latency=latency, progress=progress,
                             patience=1_000_000 + 20 * predicted.total // images)
        memory, seconds = done.memory, done.seconds
        counters = dict.fromkeys(design.counters(), 0) | done.counters
        cycles = None if done.complaint else done.cycles
        complaints = [done.complaint] if done.complaint else []
        complaints += compare(program, golden, memory, [], [], pixels)
        known |= measured(spec, simulator, max(1, sum(done.cycles)), counters, complaints, seconds)
    elif board:
        done = run_board(design, spec, board[0], program, pixels, board[1], progress=progress)
        memory, seconds, engine = done.memory, done.seconds, "board"
        counters = dict.fromkeys(design.counters(), 0) | done.counters
        cycles = None if done.complaint else done.cycles
        complaints = [done.complaint] if done.complaint else []
        complaints += compare(program, golden, memory, [], [], pixels)
        simulated = board[0].board == SIMULATED
        known |= measured(spec, simulator if simulated else None, max(1, sum(done.cycles)),
                          counters, complaints, seconds)
        known |= {"board": board[0].board, "cycles_per_second": None,
                  "images_per_second": None if simulated else round(images / seconds, 3)}
    elif engine == "rtl":
        done = simulate(design, spec, program, before, operations, predicted, images=images,
                        simulator=simulator, latency=latency, progress=progress,
                        sample=max(1, predicted.total // BINS) if timeline else 0)
        activity = sampled(done.samples, done.counters[-1]) if timeline else None
        memory, counters, ends, seconds = done.memory, done.counters[-1], done.cycles, done.seconds
        halts = ends[len(program.steps) - 1::len(program.steps)]
        cycles = [end - start for start, end in zip([0, *halts], halts)]
        complaints = compare(program, golden, memory, completions, done.completions,
                             pixels)
        known |= measured(spec, simulator, ends[-1], counters, complaints, seconds)
    progress.close()
    integers = np.stack([program.logits(memory, n) for n in range(images)])
    around = board[0] if board else chip
    result = record(
        model=task.name, design=design, preset=preset, spec=spec, program=program,
        images=images, engine=engine, trace=trace, latency=latency, predicted=predicted.total,
        level={"golden": None, "board": "board"}.get(engine, "chip" if chip else "core"),
        shell=around and asdict(around.shell),
        stalls=chip and chip.stalls, seed=chip and chip.seed,
        predictions=integers.argmax(1).tolist(),
        labels=None if task.labels is None else task.labels.tolist(),
        counters={name: counters.get(name) for name in design.counters()},
        sparsity=task.sparsity, work=emulator.work, completions=ends, seconds=round(seconds, 3),
        **known)
    scale = np.asarray(network.scales["logits"], np.float64)
    return Run(result=result, logits=integers * scale, cycles=cycles, complaints=complaints,
               program=program, ends=ends, activity=activity, kept=design.kept(
                   emulator, program.steps))


def measured(spec: Any, simulator: str | None, cycles: int, counters: Mapping[str, int],
             complaints: list[str], seconds: float) -> dict[str, Any]:
    """Return the part of the result that a simulation measures."""
    return {"cycles": cycles, "simulator": simulator, "bit_exact": not complaints,
            "bytes_read": counters.get("beats_read", 0) * spec.memory_bytes,
            "bytes_written": counters.get("beats_written", 0) * spec.memory_bytes,
            "cycles_per_second": round(cycles / seconds, 1)}


def simulate(design: Design, spec: Any, program: Program, memory: NDArray[np.uint8],
             operations: list[bytes], predicted: Cycles, *, images: int, simulator: str,
             latency: int, progress: Progress, sample: int) -> Any:
    """Simulate all operations in one go, and show how far the simulation has come."""
    gaps = np.diff([0, *predicted.completions])
    with tempfile.TemporaryDirectory(prefix="vitral-run-") as folder:
        progress.step("building the simulation, which is kept for the next time")
        over = threading.Event()
        watcher = threading.Thread(daemon=True, target=watch, args=(
            Path(folder) / "completions.log", len(program.steps), images, progress, over))
        watcher.start()
        try:
            return design.simulate(
                spec, memory, operations, simulator=simulator, latency=latency, sample=sample,
                quiet_cycles=max(1_000_000, 2 * int(gaps.max())),
                timeout=3600 + predicted.total / 50, directory=Path(folder))
        finally:
            over.set()
            watcher.join()


def watch(log: Path, steps: int, images: int, progress: Progress, over: threading.Event) -> None:
    """Follow the completions that a simulation writes down, until it is ``over``."""
    count, cycle, rest, file, begin = 0, 0, "", None, 0.0
    while not over.wait(0.5):
        if file is None and log.exists():
            progress.step("simulating")
            file, begin = log.open(), time.monotonic()
        if file is None:
            progress.show("")
            continue
        *lines, rest = (rest + file.read()).split("\n")
        if lines:
            count, cycle = count + len(lines), int(lines[-1].split()[2])
        speed = cycle / (time.monotonic() - begin)
        progress.show(f"image {min(count // steps + 1, images)} of {images}, {cycle:,} cycles, "
                      f"{speed:,.0f} cycles/s")
    if file is not None:
        file.close()


def compare(program: Program, expected: NDArray[np.uint8], found: NDArray[np.uint8],
            completions: list[Any], reported: list[Any], pixels: NDArray[np.int64]) -> list[str]:
    """Return what differs between the golden model's and the simulation's end."""
    complaints = []
    for n, (golden, rtl) in enumerate(zip(completions, reported, strict=True)):
        if golden != rtl:
            step = program.steps[n % len(program.steps)]
            complaints.append(f"image {n // len(program.steps)}: {step.name} must end as {golden}, "
                              f"not as {rtl}")
            break
    different = np.flatnonzero(expected != found)
    if len(different):
        complaints.append(f"memory must equal the golden model's, but {len(different)} bytes "
                          f"differ, the first at {different[0]:#x}")
        names = program.differences(found, pixels)
        complaints += [f"{name} differs" for name in names[:SHOWN]]
        if len(names) > SHOWN:
            complaints.append(f"{len(names) - SHOWN} more tensors differ")
    return complaints
