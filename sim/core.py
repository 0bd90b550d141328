# SPDX-License-Identifier: Apache-2.0
"""Run programs on the RTL of a core, with its external memory."""

import pathlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from golden.operation import Completion, Status
from golden.rowwise.spec import RowwiseSpec
from hw.contract import COUNTER_BITS
from hw.emit import Emitted, emit
from hw.rowwise.core import COUNTERS, RowwiseCore
from sim.runner import run

NAME = "rowwise"
"""Module name of the emitted core."""


@dataclass(frozen=True, kw_only=True)
class CoreRun:
    """What a simulation left behind.

    ``completions``, ``cycles`` (when each was reported, from reset) and ``counters`` (their values
    then) have an entry for each operation; ``samples`` has the counters of every ``sample``-th
    cycle, if they were asked for; ``memory`` is the external memory at the end.
    """

    completions: list[Completion]
    cycles: list[int]
    counters: list[dict[str, int]]
    samples: list[dict[str, int]]
    memory: NDArray[np.uint8]
    seconds: float


@cache
def emitted(spec: RowwiseSpec) -> Emitted:
    """Return the Verilog of the core; once for each specification, as it takes a while."""
    return emit(RowwiseCore(spec), name=NAME)


def bench_source(spec: RowwiseSpec, words_log2: int) -> str:
    """Return the test bench for a core of this memory width."""
    source = pathlib.Path(__file__).with_name("core_bench.v").read_text()
    for name, value in (("BEAT_BYTES", spec.memory_bytes), ("WORDS_LOG2", words_log2),
                        ("COUNTER_BITS", COUNTER_BITS * len(COUNTERS))):
        head, tail = source.split(f"parameter {name} = ")
        source = f"{head}parameter {name} = {value}{tail[tail.index(';'):]}"
    return source


def words_hex(data: NDArray[np.uint8] | bytes, word: int) -> str:
    """Return bytes as lines of hexadecimal little-endian words, for ``$readmemh``."""
    padded = np.frombuffer(bytes(data) + bytes(-len(bytes(data)) % word), np.uint8)
    return "\n".join(bytes(row[::-1]).hex() for row in padded.reshape(-1, word)) + "\n"


def simulate(spec: RowwiseSpec, memory: NDArray[np.uint8], operations: Sequence[bytes], *,
             simulator: str = "verilator", design: Emitted | None = None, testcase: str = "run",
             latency: int = 64, stalls: Sequence[int] = (0, 0, 0, 0), limit: int | None = None,
             fault: tuple[int, int] = (0, 0), quiet_cycles: int = 1_000_000,
             sample: int = 0, settings: dict | None = None, timeout: float = 3600,
             directory: pathlib.Path | None = None) -> CoreRun:
    """Run descriptors on the RTL, all offered one after the other.

    Parameters
    ----------
    spec, memory, operations : as for the emulator; ``memory`` is not changed.
    simulator : ``"verilator"`` or ``"icarus"``.
    design : the emitted core, if the caller has it already.
    latency : cycles from a read request to its first beat.
    stalls : how often, out of 256, offers of operations, acceptance of completions, reads and
        writes are delayed at random.
    limit, fault : bytes of memory, and a range of addresses, where accesses end with an error.
    quiet_cycles : cycles without a completion after which the bench gives up.
    sample : cycles from one sample of the counters to the next; 0 for none.
    testcase, settings : another test of :mod:`sim.bench_core`, and what it needs.
    """
    words_log2 = max(18, ((len(memory) - 1) // spec.memory_bytes).bit_length())
    done = execute(
        design or emitted(spec), bench_source(spec, words_log2), "core_bench", memory,
        spec.memory_bytes, operations, simulator=simulator, testcase=testcase, timeout=timeout,
        directory=directory, sample=sample, settings={
            "latency": latency, "limit": len(memory) if limit is None else limit,
            "fault_low": fault[0], "fault_high": fault[1], "stalls": stalls,
            "quiet_cycles": quiet_cycles, **(settings or {})})
    return CoreRun(counters=[unpack(word, COUNTERS) for word in done.counters],
                   samples=[unpack(word, COUNTERS) for word in done.samples],
                   completions=done.completions, cycles=done.cycles, memory=done.memory,
                   seconds=done.seconds)


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What a bench of any core left; counters as words."""

    completions: list[Completion]
    cycles: list[int]
    counters: list[int]
    samples: list[int]
    memory: NDArray[np.uint8]
    seconds: float


def execute(design: Emitted, source: str, toplevel: str, memory: NDArray[np.uint8],
            word_bytes: int, operations: Sequence[bytes], *, settings: dict, simulator: str,
            testcase: str, timeout: float, directory: pathlib.Path | None,
            sample: int = 0) -> Executed:
    """Run a test bench with the ports of ``core_bench.v``: ``source``, with a core inside.

    ``settings`` are those of :mod:`sim.bench_core`; ``stalls`` stands for four of them.
    """
    with tempfile.TemporaryDirectory(prefix="vitral-core-") as temporary:
        place = pathlib.Path(directory or temporary).absolute()
        place.mkdir(parents=True, exist_ok=True)
        bench = place / f"{toplevel}.v"
        bench.write_text(source)
        (place / "memory.hex").write_text(words_hex(memory.tobytes(), word_bytes))
        (place / "operations.hex").write_text(words_hex(b"".join(operations), 64))
        stalls = dict(zip(("stall_operation", "stall_completion", "stall_read", "stall_write"),
                          settings.pop("stalls"), strict=True))
        parameters = {"first_operation": 0, "last_operation": len(operations), **stalls,
                      **settings}
        plusargs = [f"+memory={place}/memory.hex", f"+operations={place}/operations.hex",
                    f"+log={place}/completions.log", f"+dump={place}/dump.hex"]
        if sample:
            plusargs += [f"+samples={place}/samples.log", f"+sample={sample}"]
        result = run(design, bench="sim.bench_core", parameters=parameters, simulator=simulator,
                     testcase=testcase, tests=1, extra_sources=[bench], toplevel=toplevel,
                     plusargs=plusargs, timeout=timeout, directory=place)
        dumped = (line.split("//")[0] for line in (place / "dump.hex").read_text().splitlines())
        words = "".join(line for line in dumped if line and not line.startswith("@"))
        after = np.frombuffer(bytes.fromhex(words), np.uint8).reshape(-1, word_bytes)
        lines = [line.split() for line in (place / "completions.log").read_text().splitlines()]
        sampled = (place / "samples.log").read_text().split() if sample else []
    return Executed(
        completions=[Completion(int(tag), Status(int(status))) for tag, status, _, _ in lines],
        cycles=[int(cycle) for _, _, cycle, _ in lines],
        counters=[int(word, 16) for *_, word in lines], samples=[int(word, 16) for word in sampled],
        memory=after[:, ::-1].ravel()[:memory.size].copy(), seconds=result.seconds)


def unpack(word: int, names: Sequence[str]) -> dict[str, int]:
    """Return the counters of a core by name."""
    return {name: word >> COUNTER_BITS * n & (1 << COUNTER_BITS) - 1
            for n, name in enumerate(names)}
