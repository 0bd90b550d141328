# SPDX-License-Identifier: Apache-2.0
"""Run a network on a board, through its serial line, image by image."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.bridge import WORD, BridgeSpec
from golden.fixed import Integers, ceil_div
from golden.operation import DESCRIPTOR_BYTES
from vitral.boards import SIMULATED, BoardSetup
from vitral.compile import Program
from vitral.designs import Design
from vitral.driver import ChipError, Driver
from vitral.driver.serial import SerialTransport, open_port
from vitral.progress import Progress
from vitral.usage import UsageError

__all__ = ["BoardRun", "Connection", "line_cycles", "places", "run_board"]

Connection = Callable[[Any, BoardSetup], AbstractContextManager[SerialTransport]]
"""From a chip and what is around it to the way there."""
SECONDS = 10.0
"""Of patience with an image."""
CHUNK = 8192
"""Bytes between two signs of life."""


@dataclass(frozen=True, kw_only=True)
class BoardRun:
    """What a board left behind.

    ``cycles`` of each image, from the start command until all its operations had completed;
    ``counters``, their sums over the images; ``memory`` as if each image had had its own;
    ``seconds`` from the first image to the last, without the weights; ``complaint``, what the
    driver raised, if it did: then the later images have not run.
    """

    cycles: list[int]
    counters: dict[str, int]
    memory: NDArray[np.uint8]
    seconds: float
    complaint: str | None


def connect(port: str) -> Connection:
    """Return the way to a board at a serial port."""
    @contextmanager
    def open_it(_: Any, setup: BoardSetup) -> Iterator[SerialTransport]:
        with open_port(port, setup.baud) as line:
            yield SerialTransport(line, buffer_bytes=setup.spec.bridge.buffer_bytes)
    return open_it


def simulated(simulator: str) -> Connection:
    """Return the way to a board in simulation."""
    @contextmanager
    def open_it(chip: Any, setup: BoardSetup) -> Iterator[SerialTransport]:
        from hw.board.top import Board
        from sim.board import PERIOD, SimulatedPort

        spec = setup.spec
        with SimulatedPort(Board(chip, spec), spec.bridge, simulator=simulator) as line:
            yield SerialTransport(line, buffer_bytes=spec.bridge.buffer_bytes, poll=2048 * PERIOD,
                                  clock=line.time, sleep=line.sleep)
    return open_it


def run_board(design: Design, spec: Any, setup: BoardSetup, program: Program, pixels: Integers,
              connection: Connection, *, progress: Progress) -> BoardRun:
    """Load weights and program once; for each image its input, a run, and its memory back.

    The board's memory holds the weights, one image and the program.

    Raises
    ------
    UsageError
        If the program does not fit, there is no board, or it holds another chip.
    """
    slot, code, size = program.image_address(0), b"".join(program.operations(0)), setup.memory.size
    at, end = places(program)
    if end > size:
        raise UsageError(f"the board's memory must hold {end:,} bytes (weights "
                         f"{slot:,}, image {program.image_bytes:,}, program {len(code):,}), "
                         f"has {size:,}")
    chip = setup.chip(design, spec)
    memory = program.memory(pixels)
    cycles: list[int] = []
    counters: Counter[str] = Counter()
    complaint, seconds = None, 0.0
    progress.step("building the simulation, which is kept for the next time"
                  if setup.board == SIMULATED else "looking for the board")
    try:
        with connection(chip, setup) as transport:
            driver = Driver(transport, chip.registers)
            driver.reset(SECONDS)
            driver.window(setup.memory.base, size)
            progress.step("loading weights and program")
            image = memory[:slot].tobytes() + bytes(at - slot) + code
            for start in range(0, len(image), CHUNK):
                progress.show(f"{start / len(image):.0%} of {len(image):,} bytes")
                driver.load(start, image[start:start + CHUNK])
            progress.step("running")
            begin = time.monotonic()
            try:
                for n in range(len(pixels)):
                    progress.show(f"image {n + 1} of {len(pixels)}")
                    place = program.image_address(n)
                    driver.load(slot, memory[place:place + program.input_bytes].tobytes())
                    done = driver.run(at, len(code) // DESCRIPTOR_BYTES, timeout=SECONDS)
                    memory[place:place + program.image_bytes] = np.frombuffer(
                        driver.dump(slot, program.image_bytes), np.uint8)
                    cycles.append(done.counters["cycles"])
                    counters.update(done.counters)
            except ChipError as error:
                complaint = f"image {len(cycles)}: {error}"
            seconds = time.monotonic() - begin
    except (ChipError, ValueError) as error:
        raise UsageError(str(error)) from error
    return BoardRun(cycles=cycles, counters=dict(counters), memory=memory, seconds=seconds,
                    complaint=complaint)


def places(program: Program) -> tuple[int, int]:
    """Return where the operations lie in the memory of a board, behind an image; and their end."""
    at = ceil_div(program.memory_bytes(1), DESCRIPTOR_BYTES) * DESCRIPTOR_BYTES
    return at, at + len(program.steps) * DESCRIPTOR_BYTES


def line_cycles(program: Program, bridge: BridgeSpec, counters: int) -> int:
    """Return the cycles that the serial line takes for an image of :func:`run_board`.

    Its input, five registers that start it, one look at its status, one register that ends it, how
    much was completed, the counters, and its memory back. What the host takes in between is its
    own.
    """
    def words(count: int) -> Iterator[int]:
        for start in range(0, count, bridge.buffer_bytes):
            yield min(bridge.buffer_bytes, ceil_div(count - start, WORD) * WORD)

    written = [*words(program.input_bytes), *[WORD] * 6]
    read = [WORD, WORD, *words(2 * WORD * counters), *words(program.image_bytes)]
    return sum(bridge.cycles(one, 0) for one in written) + sum(
        bridge.cycles(0, one) for one in read)
