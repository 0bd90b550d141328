# SPDX-License-Identifier: Apache-2.0
"""Cycles, utilisation and traffic of a network from the cycle model alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from golden.reference.vit import FloatVit
from golden.rowwise.emulator import Work
from golden.topk import Rule
from vitral.compile import Program
from vitral.designs import Design
from vitral.quantise import quantise
from vitral.record import record
from vitral.sparse import Sparsity, plan
from vitral.usage import refusing

__all__ = ["Cycles", "estimate", "predict_images"]


@dataclass(frozen=True)
class Cycles:
    """Predicted ``completions`` of all images' operations, and the ``counters`` at the end.

    ``spans`` of events, see :class:`golden.rowwise.cycles.Prediction`, are those of the first
    ``modelled`` images; what is not known of the others is like the last of these.
    """

    completions: Sequence[int]
    counters: dict[str, int]
    spans: Mapping[str, Sequence[tuple[int, int, int]]]
    modelled: int

    @property
    def total(self) -> int:
        """Cycles until the last operation is reported."""
        return self.completions[-1]


def predict_images(design: Design, spec: Any, program: Program, images: int, latency: int,
                   work: Sequence[Work] = ()) -> Cycles:
    """Predict ``images`` images one after the other.

    Each ends with a HALT, which waits for everything, so that all images after the first take the
    same time if all do the same ``work``: only two are modelled. Otherwise ``work`` is that of each
    operation of each image.
    """
    steps = len(program.steps)
    if len(work) > steps:
        operations = [one for n in range(images) for one in program.operations(n)]
        whole = design.predict(spec, operations, latency=latency, work=work)
        return Cycles(whole.completions, whole.counters, whole.spans, images)
    same = list(work) or None
    first = design.predict(spec, program.operations(0), latency=latency, work=same)
    if images == 1:
        return Cycles(first.completions, first.counters, first.spans, 1)
    two = design.predict(spec, [*program.operations(0), *program.operations(1)], latency=latency,
                         work=same and same * 2)
    period, more = two.cycles - first.cycles, images - 2
    again = two.completions[len(program.steps):]
    completions = two.completions + [cycle + n * period for n in range(1, more + 1)
                                     for cycle in again]
    return Cycles(completions, {name: value + more * (value - first.counters[name])
                                for name, value in two.counters.items()}, two.spans, 2)


def estimate(design: Design, preset: str, spec: Any, name: str, network: FloatVit,
             sparsity: Sparsity, *, images: int, latency: int) -> dict[str, Any]:
    """Return the result, as ``docs/json.md`` explains it; see :func:`compiled`."""
    program, work, cycles = compiled(design, spec, network, sparsity, images=images,
                                     latency=latency)
    beats = spec.memory_bytes
    return record(
        model=name, design=design, preset=preset, spec=spec, program=program, images=images,
        engine="estimate", trace=False, latency=latency, cycles=None, predicted=cycles.total,
        bytes_read=cycles.counters["beats_read"] * beats,
        bytes_written=cycles.counters["beats_written"] * beats,
        counters={counter: cycles.counters.get(counter) for counter in design.counters()},
        sparsity=replace(sparsity, rule=Rule.TOPK), work=work * images,
        completions=cycles.completions)


def compiled(design: Design, spec: Any, network: FloatVit, sparsity: Sparsity, *, images: int,
             latency: int) -> tuple[Program, list[Any], Cycles]:
    """Return the program of a network, what its operations have to do, and when.

    Cycles do not depend on the numbers, so one random image calibrates the quantiser. Of each image
    as many tokens stay as by TOPK, whatever the rule; how many blocks will be skipped is not known:
    all are multiplied.
    """
    shape = (1, network.channels, network.image, network.image)
    image = np.random.default_rng(0).uniform(-1, 1, shape)
    with refusing():
        by = sparsity.attention(spec)
        prune = plan(network, image, sparsity.keep, Rule.TOPK, "class", sparsity.fuse)
        integer = quantise(network, image, table_width=spec.table_width, index_bits=spec.index_bits)
        integer = replace(integer, skip=sparsity.skip(spec), source=by, prune=prune)
        program = design.compile(integer, spec, sparsity)
    work = design.static_work(spec, program)
    return program, work, predict_images(design, spec, program, images, latency, work)
