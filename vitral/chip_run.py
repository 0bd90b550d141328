# SPDX-License-Identifier: Apache-2.0
"""Run a network on the RTL of a whole chip, through the driver, image by image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fixed import ceil_div
from golden.operation import DESCRIPTOR_BYTES
from golden.shell import PAGE, ShellSpec
from vitral.designs import Design
from vitral.driver import ChipError, Driver
from vitral.progress import Progress

__all__ = ["ChipRun", "Setup", "simulate_chip"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What surrounds the core.

    ``shell`` is the chip's; ``stalls`` how often, in percent, each channel of the bus is delayed by
    a cycle, at random from ``seed``.
    """

    shell: ShellSpec = field(default_factory=ShellSpec)
    stalls: int = 0
    seed: int = 2026


@dataclass(frozen=True, kw_only=True)
class ChipRun:
    """What a simulation left behind.

    ``cycles`` of each image, from the start command until all its operations had completed;
    ``counters``, their sums over the images; ``memory`` at the end; ``complaint``, what the driver
    raised, if it did: then the later images have not run.
    """

    cycles: list[int]
    counters: dict[str, int]
    memory: NDArray[np.uint8]
    seconds: float
    complaint: str | None


def simulate_chip(design: Design, spec: Any, setup: Setup, memory: NDArray[np.uint8],
                  programs: Sequence[Sequence[bytes]], *, simulator: str, latency: int,
                  patience: int, progress: Progress) -> ChipRun:
    """Simulate the chip: load everything, then start it once for each program.

    The programs lie behind ``memory``, and the protection window ends with them. ``patience`` are
    the cycles after which a run is given up.
    """
    import time

    from sim.chip import MEMORY, ChipSimulation
    from vitral.driver.simulation import PERIOD, SimulatedTransport

    chip = design.chip(spec, setup.shell)
    channels = design.joined(spec) if design.joined else None
    given = len(memory)
    if channels:
        memory = channels.join(memory.reshape(-1, channels.channels, channels.memory_bytes))
    code = [b"".join(program) for program in programs]
    at = ceil_div(len(memory), DESCRIPTOR_BYTES) * DESCRIPTOR_BYTES
    size = ceil_div(at + sum(map(len, code)), PAGE) * PAGE
    stall = setup.stalls * 256 // 100
    cycles: list[int] = []
    counters: Counter[str] = Counter()
    complaint = None
    progress.step("building the simulation, which is kept for the next time")
    with ChipSimulation(chip, size=size, simulator=simulator, latency=latency, seed=setup.seed,
                        stall_read=stall, stall_write=stall, stall_host=stall,
                        allow_high=MEMORY + size - 1) as simulation:
        progress.step("simulating")
        begin = time.monotonic()
        driver = Driver(SimulatedTransport(simulation), chip.registers)
        driver.window(MEMORY, size)
        driver.load(0, memory.tobytes())
        driver.load(at, b"".join(code))
        try:
            for n, program in enumerate(code):
                progress.show(f"image {n + 1} of {len(code)}")
                done = driver.run(at, len(program) // DESCRIPTOR_BYTES, timeout=patience * PERIOD)
                at += len(program)
                cycles.append(done.counters["cycles"])
                counters.update(done.counters)
        except ChipError as error:
            complaint = f"image {len(cycles)}: {error}"
        after = np.frombuffer(driver.dump(0, len(memory)), np.uint8)
        seconds = time.monotonic() - begin
    if channels:
        after = channels.part(after).reshape(-1)[:given]
    return ChipRun(cycles=cycles, counters=dict(counters), memory=after, seconds=seconds,
                   complaint=complaint)
