# SPDX-License-Identifier: Apache-2.0
"""How long networks take on the SpAtten core: its cycle model, operation by operation.

The operations of a network run one after the other, and a channel reads a beat per cycle from its
local memory. So an operation takes as long as the busiest channel reads, or as what comes behind
the channels, whichever is slower; and a start and an end that nothing hides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from golden.fixed import ceil_div
from golden.operation import Opcode, Status
from golden.spatten.emulator import Work
from golden.spatten.operation import LAYOUT, Target, check
from golden.spatten.spec import LOCAL, SpattenSpec

START = 8
"""Cycles from the end of an operation to the beginning of the next."""
PIPELINE = {Opcode.LINEAR: 60, Opcode.NORM: 60, Opcode.ATTEND: 150}
"""Cycles from the first read to the first result, and from the last one to the completion."""
SLICES = 8
"""Cycles of an output of attention."""


@dataclass(frozen=True)
class Prediction:
    """What :func:`predict` says: when each operation is reported, and counters at the end."""

    completions: list[int]
    counters: dict[str, int]
    spans: Mapping[str, Sequence[tuple[int, int, int]]]

    @property
    def cycles(self) -> int:
        """Cycles until the last operation is reported."""
        return self.completions[-1]


def cycles(spec: SpattenSpec, op: Mapping[str, int], work: Work, latency: int) -> int:
    """Return the cycles from the completion of the operation before to that of this one."""
    match op["opcode"]:
        case Opcode.LOAD:
            if op["target"] == Target.LOCAL:
                return START + latency + 8 + op["count"]
            # vector by vector, `pairs` of them under way
            vectors = ceil_div(op["count"], spec.vector_beats)
            period = max(spec.vector_beats, ceil_div(latency + 12, spec.pairs))
            return START + latency + 12 + vectors * period
        case Opcode.LINEAR if work.inputs:
            rows = op["outputs"] * spec.lanes // spec.channels
            collected = work.rows * rows * spec.channels // spec.linear_lanes
            return START + PIPELINE[Opcode.LINEAR] + max(work.beats, collected)
        case Opcode.NORM:
            words = op["inputs"] * spec.lanes // spec.norm.lanes
            return START + PIPELINE[Opcode.NORM] + work.rows * max(words, spec.norm.ROW_CYCLES)
        case Opcode.ATTEND:
            heads = work.rows * work.inputs
            rows = ceil_div(work.keys, spec.channels)
            selection = 2 * rows + 5 + spec.select.find_cycles(rows * spec.channels)
            reading, again = max(4, rows + 1), rows + 8  # where low bits were lacking
            return START + PIPELINE[Opcode.ATTEND] + max(
                work.beats, heads * SLICES, (heads + work.low) * reading,
                ceil_div(heads * selection + work.low * again, spec.selectors))
        case Opcode.PRUNE:
            count = ceil_div(op["tokens"], spec.prune_lanes)
            return START + 2 * count + spec.prune.find_cycles(op["tokens"]) + 20
    return START


def external(spec: SpattenSpec, op: Mapping[str, int], work: Work) -> int:
    """Return the beats that an operation of a network reads from external memory."""
    match op["opcode"]:
        case Opcode.LOAD:
            return op["count"] * (spec.channels if op["target"] == Target.LOCAL else 1)
        case Opcode.LINEAR if op["query"] < LOCAL:
            return work.rows * work.inputs * spec.vector_beats
    return 0


def predict(spec: SpattenSpec, operations: Iterable[bytes], *, latency: int = 64,
            work: Sequence[Work] | None = None) -> Prediction:
    """Predict when operations are reported; ``work`` is what the emulator says of each.

    For the operations of networks, within 5 %. Attention of generation, of which several operations
    are under way at the same time, is not modelled.
    """
    completions, now = [], 0
    beats_read = beats_written = 0
    for n, descriptor in enumerate(operations):
        op = LAYOUT.unpack(descriptor)
        one = work[n] if work else Work()
        if check(spec, op) == Status.OK:
            now += cycles(spec, op, one, latency)
            beats_read += external(spec, op, one)
            if op["opcode"] == Opcode.LINEAR and op["output"] < LOCAL:
                beats_written += one.rows * op["outputs"] * spec.vector_beats
        completions.append(now)
    counters = {"cycles": now, "active": now, "beats_read": beats_read,
                "beats_written": beats_written}
    return Prediction(completions, counters, {})


def static_work(spec: SpattenSpec, operations: Sequence[bytes]) -> list[Work]:
    """Return the work of one image whose low bits of keys are all fetched.

    Beats are those of the fullest lane, as if the tokens that are left were spread evenly.
    """
    left, heads, result = 0, 0, []
    for descriptor in operations:
        op = LAYOUT.unpack(descriptor)
        tokens = op["tokens"] if op["dense"] or not left else left
        vectors = spec.vector_beats
        match op["opcode"]:
            case Opcode.PRUNE if op["subject"]:
                before, heads = heads or op["heads"], op["level"]
                result.append(Work(heads, before))
            case Opcode.PRUNE:
                before = left or op["tokens"]
                left = min(before, max(op["level"], op["protected"], 1))
                result.append(Work(left, before))
            case Opcode.ATTEND:
                rows = min(tokens, op["count"]) if op["count"] else 1
                count = min(heads or op["heads"], op["heads"])
                low = op["limit"] < tokens * ((1 << spec.PROBABILITY_BITS) - 1)
                keys = ceil_div(tokens, spec.channels)
                values = min(op["values"], tokens)
                if op["narrow"]:  # what two choose, each by itself
                    values = round(2 * values - values**2 / tokens)
                beats = keys * (op["key_planes"] + low) + op["value_planes"] * ceil_div(
                    values, spec.channels)
                beats += ceil_div(vectors, spec.channels)
                beats *= ceil_div(count, 2) if op["narrow"] else count
                result.append(Work(rows, tokens, count, rows * count * low, rows * beats))
            case Opcode.LINEAR:
                inputs = op["inputs"]
                if op["by_head"] and heads:
                    inputs = min(ceil_div(heads, 1 + op["narrow"]), inputs)
                weights = op["outputs"] * spec.lanes // spec.channels * spec.WEIGHT_PLANES
                beats = weights * inputs + ceil_div(vectors * inputs, spec.channels)
                result.append(Work(tokens, inputs=inputs, beats=tokens * beats))
            case Opcode.NORM:
                result.append(Work(tokens))
            case _:
                result.append(Work())
    return result
