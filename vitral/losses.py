# SPDX-License-Identifier: Apache-2.0
"""Where the cycles of a run go that do no useful multiplication, for each design."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from golden.operation import Opcode
from vitral.compile import Program

__all__ = ["ROWWISE", "SPATTEN", "Losses"]

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Losses:
    """What a design can lose cycles to: ``causes`` in words, and how to ``count`` them.

    ``rate`` are the MACs that a core of a specification can do in a cycle. ``count`` gets the
    specification, the program, the work of all operations of all images, the cycles at which they
    completed, and the counters at the end; what it returns adds up to the cycles less
    ``macs / rate``, of all images.
    """

    causes: Mapping[str, str]
    rate: Callable[[Any], int]
    count: Callable[[Any, Program, Sequence[Any], Sequence[int], Numbers, float],
                    dict[str, float]]

    def of_image(self, spec: Any, program: Program, work: Sequence[Any],
                 completions: Iterable[int], counters: Numbers) -> dict[str, float]:
        """Return the lost cycles of one image, a mean."""
        images = len(work) // len(program.steps)
        useful = program.executed(work) / self.rate(spec)
        parts = self.count(spec, program, work, list(completions), counters, useful)
        return {name: round(parts[name] / images, 3) for name in self.causes}


def _rowwise(spec: Any, program: Program, work: Sequence[Any], completions: Sequence[int],
             counters: Numbers, useful: float) -> dict[str, float]:
    """Each cycle is one of a step of the array, one stall, or idle.

    What steps multiply beyond what is useful is the remainder of tiles.
    """
    parts = {name.removeprefix("stall_"): value for name, value in counters.items()
             if name.startswith("stall_")}
    return parts | {"remainder": counters["busy"] - useful, "idle": counters["idle"]}


ROWWISE = Losses({
    "remainder": "tile remainder: rows, columns, depth padded",
    "norm": "norm: LayerNorm has not finished the rows",
    "rows": "rows: the layer before has not finished them",
    "weights": "weights: they have not arrived",
    "softmax": "softmax: not finished, or no room for scores",
    "collect": "collect: the tile before is still being stored",
    "move": "fill: nothing but LOAD or STORE under way",
    "order": "drain: what is next needs all of what was before",
    "idle": "idle",
}, lambda spec: spec.macs, _rowwise)


def _spatten(spec: Any, program: Program, work: Sequence[Any], completions: Sequence[int],
             counters: Numbers, useful: float) -> dict[str, float]:
    """Operations run one after the other: each cycle belongs to one.

    Of a LINEAR or an ATTEND as many are not lost as the busiest channel reads beats.
    """
    parts = dict.fromkeys(SPATTEN.causes, 0.0)
    beats = 0
    names = {Opcode.LOAD: "load", Opcode.NORM: "norm", Opcode.PRUNE: "prune",
             Opcode.FUSE: "prune", Opcode.LINEAR: "linear", Opcode.ATTEND: "attend"}
    for n, (before, cycle, one) in enumerate(zip([0, *completions], completions, work)):
        opcode = program.steps[n % len(program.steps)].fields["opcode"]
        spent = float(cycle - before)
        if opcode in (Opcode.LINEAR, Opcode.ATTEND):
            beats, spent = beats + one.beats, spent - one.beats
        parts[names.get(Opcode(opcode), "other")] += spent
    return parts | {"padding": beats - useful}


SPATTEN = Losses({
    "padding": "padding: of heads to lanes, of tokens to channels",
    "linear": "linear: fill and drain",
    "attend": "attend: softmax, choice, outputs; fill and drain",
    "norm": "norm: LayerNorm",
    "prune": "prune: choosing tokens and heads; fusing",
    "load": "load: weights and constants",
    "other": "other: between images",
}, lambda spec: spec.macs // spec.WEIGHT_PLANES, _spatten)
