# SPDX-License-Identifier: Apache-2.0
"""Compare the engines of the selector: cycles, measured on the RTL, and areas.

    python -m vitral.selectors

prints a Markdown table of the selectors of 16 scores of 12 bits per cycle, for vectors of 197 and
1024: cycles from the last scores of a vector to its last survivors. The mean and the 99th
percentile are of random scores, of which half are kept; the worst is that of sorted, equal and
two-valued scores, and of the scores that are worst for the pivots of quick-select.
"""

import argparse
import sys

import numpy as np

from golden.topk import TopKSpec
from hw.select.topk import ENGINES, TopK
from sim.runner import run
from vitral.area import area

__all__ = ["cycles", "table"]


def specs(sizes=(197, 1024)):
    """Return what is compared: the engines that there are for vectors of these sizes."""
    return [TopKSpec(n=n, width=12, lanes=16, engine=engine, buffers=1, threshold=False)
            for n in sizes for engine in ENGINES if engine != "bitserial" or n <= 256]


def cycles(spec, *, vectors=200, seed=2026, directory=None):
    """Return the cycles that a selector needs for random vectors, and those for the worst ones.

    Each vector has ``spec.n`` scores, of which half are kept, but for the first of the worst ones:
    all passes of quick-select for a single survivor. The RTL's answers are compared with the
    golden model's on the way.
    """
    rng, n, top = np.random.default_rng(seed), spec.n, 1 << spec.width
    ramp = np.arange(n) * top // n
    scores = np.stack([spec.killer(n), ramp, ramp[::-1], np.full(n, top - 1),
                       np.where(rng.random(n) < 0.5, 0, top - 1),
                       *rng.integers(0, top, (vectors, n))])
    keep = np.full(len(scores), n // 2)
    keep[0] = 1
    result = run(TopK(spec), bench="sim.bench_topk", testcase="measured_cycles", tests=1,
                 arrays={"scores": scores, "keep": keep}, directory=directory)
    late = result.arrays["cycles"]
    return late[5:], late[:5]


def table(*, areas=True, **options):
    """Return the lines of the Markdown table."""
    lines = ["| n | engine | mean | p99 | worst | engine, kGE | whole, kGE | memory, bits |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for spec in specs():
        random, worst = cycles(spec, **options)
        row = [spec.n, spec.engine, f"{random.mean():.0f}", f"{np.percentile(random, 99):.0f}",
               max(worst.max(), random.max())]
        if areas:
            engine = area(ENGINES[spec.engine](spec), by_module=False)
            whole = area(TopK(spec), by_module=False)
            row += [f"{engine['kge']:.1f}", f"{whole['kge']:.1f}", f"{whole['memory_bits']:,}"]
        else:
            row += ["", "", ""]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return lines


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m vitral.selectors",
                                     description="Compare the engines of the selector.")
    parser.add_argument("--no-area", action="store_true", help="only cycles: seconds, not minutes")
    options = parser.parse_args(arguments)
    print("\n".join(table(areas=not options.no_area)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
