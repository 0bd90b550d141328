# SPDX-License-Identifier: Apache-2.0
"""Run programs on the RTL of the SpAtten core, with a memory of several channels."""

import pathlib
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from golden.spatten.spec import SpattenSpec
from hw.contract import COUNTER_BITS
from hw.emit import Emitted, emit
from hw.spatten.core import COUNTERS, SpattenCore
from hw.spatten.layouts import bits
from sim.core import CoreRun, execute, unpack

NAME = "spatten"
"""Module name of the emitted core."""


@cache
def emitted(spec: SpattenSpec) -> Emitted:
    """Return the Verilog of the core; once for each specification, as it takes a while."""
    return emit(SpattenCore(spec), name=NAME)


def bench_source(spec: SpattenSpec, words_log2: int) -> str:
    """Return the test bench for a core of so many channels."""
    source = pathlib.Path(__file__).with_name("channels_bench.v").read_text()
    for name, value in (("CHANNELS", spec.channels), ("BEAT_BYTES", spec.memory_bytes),
                        ("WORDS_LOG2", words_log2), ("CHANNEL_BITS", bits(spec.channels)),
                        ("COUNTER_BITS", COUNTER_BITS * len(COUNTERS))):
        head, tail = source.split(f"parameter {name} = ")
        source = f"{head}parameter {name} = {value}{tail[tail.index(';'):]}"
    ports, beat = [], 8 * spec.memory_bytes
    for n in range(spec.channels):
        ports += [
            f".request__{n}__payload(request[{48 * n}+:48])",
            f".request__{n}__valid(request_valid[{n}])",
            f".request__{n}__ready(request_ready[{n}])",
            f".response__{n}__payload({{read_error[{n}], read_data[{beat * n}+:{beat}]}})",
            f".response__{n}__valid(read_valid[{n}])",
            f".response__{n}__ready(read_ready[{n}])"]
    return source.replace("// CHANNEL PORTS\n", ",\n        ".join(ports) + ",\n")


def simulate(spec: SpattenSpec, memory: NDArray[np.uint8], operations: Sequence[bytes], *,
             simulator: str = "verilator", design: Emitted | None = None, testcase: str = "run",
             latency: int = 30, stalls: Sequence[int] = (0, 0, 0, 0), limit: int | None = None,
             fault: tuple[int, int] = (0, 0), quiet_cycles: int = 1_000_000,
             settings: dict | None = None, timeout: float = 3600,
             directory: pathlib.Path | None = None) -> CoreRun:
    """Run descriptors on the RTL, all offered one after the other.

    As :func:`sim.core.simulate`; ``memory`` is that of :class:`golden.spatten.emulator.Emulator`,
    and ``limit`` and ``fault`` count its words, channel by channel within a beat.
    """
    words = memory.shape[0] * memory.shape[1]
    done = execute(
        design or emitted(spec), bench_source(spec, max(12, (words - 1).bit_length())),
        "channels_bench", memory, spec.memory_bytes, operations, simulator=simulator,
        testcase=testcase, timeout=timeout, directory=directory, settings={
            "latency": latency, "limit": words if limit is None else limit,
            "fault_low": fault[0], "fault_high": fault[1], "stalls": stalls,
            "quiet_cycles": quiet_cycles, **(settings or {})})
    return CoreRun(counters=[unpack(word, COUNTERS) for word in done.counters], samples=[],
                   completions=done.completions, cycles=done.cycles,
                   memory=done.memory.reshape(memory.shape), seconds=done.seconds)
