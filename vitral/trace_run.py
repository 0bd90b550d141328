# SPDX-License-Identifier: Apache-2.0
"""Run a trace on a design: cycles, bytes, and what each kind of pruning saves."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from golden.operation import Completion, Status
from golden.spatten.spec import SpattenSpec
from vitral.progress import Progress
from vitral.run import MOST_OPERATIONS
from vitral.trace import Layer, dense, reduction, workload
from vitral.usage import UsageError

__all__ = ["run", "summary"]


def run(trace: Sequence[Layer], spec: SpattenSpec, *, name: str, design: str, preset: str,
        engine: str, simulator: str, full: bool, iterations: int | None, seed: int, latency: int,
        progress: Progress) -> dict[str, Any]:
    """Return the result of ``docs/json.md``: None where the golden model does not know."""
    if iterations is not None:
        first = trace[0].iteration
        trace = [one for one in trace if one.iteration - first < iterations]
    steps = reduction(trace, spec)
    trace = dense(trace) if full else trace
    progress.step("emulating")
    work = workload(trace, spec, seed)
    core = work.emulator
    expected = sum(one.bytes_read(spec) for one in trace)
    rows = [row for rows in core.rows for row in rows]
    bandwidth = spec.channels * spec.memory_bytes
    result: dict[str, Any] = {
        "trace": name, "design": design, "preset": preset, "parameters": asdict(spec),
        "engine": engine, "simulator": None, "dense": full, "latency": latency, "seed": seed,
        "iterations": len({one.iteration for one in trace}), "rows": len(rows),
        "rows_low": sum(row.low for row in rows), "keys": sum(row.keys for row in rows),
        "values": sum(row.values for row in rows), "bytes_read": core.bytes_read,
        "bytes_expected": expected, "bytes_written": core.bytes_written,
        "cycles_bound": -(-core.bytes_read // bandwidth), "cycles": None,
        "bandwidth_utilisation": None, "bit_exact": None, "reduction": steps, "counters": None,
        "seconds": None, "cycles_per_second": None}
    if engine == "rtl":
        result |= _simulate(work, spec, simulator, latency, progress)
        result["bandwidth_utilisation"] = round(
            result["bytes_read"] / (result["cycles"] * bandwidth), 6)
    return result


def _simulate(work, spec, simulator, latency, progress) -> dict[str, Any]:
    from sim.spatten import emitted, simulate

    if len(work.operations) > MOST_OPERATIONS:
        raise UsageError(f"--iterations must be fewer: a simulation holds {MOST_OPERATIONS} "
                         f"operations, not {len(work.operations)}")
    progress.step("writing Verilog")
    design = emitted(spec)
    progress.step("simulating")
    begin = time.monotonic()
    done = simulate(spec, work.memory, work.operations, design=design, simulator=simulator,
                    latency=latency)
    tags = [Completion(n & 0xFFFF, Status.OK) for n in range(len(work.operations))]
    counters = done.counters[-1]
    # from the first operation to the last output: the HALT behind it is no part of the work
    cycles = done.cycles[-2]
    seconds = done.seconds or time.monotonic() - begin
    return {
        "simulator": simulator, "cycles": cycles,
        "bytes_read": counters["beats_read"] * spec.memory_bytes,
        "bytes_written": counters["beats_written"] * spec.memory_bytes,
        "bit_exact": bool(done.completions == tags
                          and np.array_equal(done.memory, work.emulator.memory)
                          and counters["beats_read"] * spec.memory_bytes
                          == work.emulator.bytes_read),
        "counters": counters, "seconds": round(seconds, 3),
        "cycles_per_second": round(cycles / seconds, 1)}


def summary(result: Mapping[str, Any]) -> str:
    """Return the result for a reader."""
    spec = result["parameters"]
    engine = ("golden emulator" if result["engine"] == "golden" else
              f"RTL under {result['simulator']}")
    lines = [
        (f"{result['trace']}{', dense' * result['dense']} on {result['design']} {result['preset']} "
         f"({spec['channels']} x {spec['lanes']} multipliers of 12 x 4 bit), {engine}"), "",
        (f"rows              {result['rows']:,} of {result['iterations']} tokens; "
         f"{result['rows_low']:,} needed the low bits"),
        f"bytes read        {result['bytes_read']:,}; {result['bytes_expected']:,} by count"]
    bound = f"{result['cycles_bound']:,}"
    if result["cycles"] is None:
        lines.append(f"cycles            at least {bound}, all channels being busy")
    else:
        lines += [
            "bit exact         " + ("yes, memory and completions equal the golden model's"
                                    if result["bit_exact"] else
                                    "NO: memory, completions or bytes differ from the golden "
                                    "model's"),
            f"cycles            {result['cycles']:,}; {bound} if all channels were busy",
            f"bandwidth         {result['bandwidth_utilisation']:.1%} used",
            (f"simulation        {result['seconds']:,.1f} s, "
             f"{result['cycles_per_second']:,.0f} cycles/s")]
    steps = list(result["reduction"].items())
    first = steps[0][1]
    lines += ["", f"{'keys and values, bytes':<24}{'':>16}{'step':>8}{'all':>8}",
              f"{steps[0][0]:<24}{first:>16,.0f}"]
    for (_, before), (name, now) in pairwise(steps):
        lines.append(f"{name:<24}{now:>16,.0f}{before / now:>7.2f}x{first / now:>7.2f}x")
    return "\n".join(lines)
