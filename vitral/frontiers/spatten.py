# SPDX-License-Identifier: Apache-2.0
"""Accuracy against tokens, heads and what is read on the SpAtten core."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from golden.operation import Opcode
from golden.topk import Rule
from models.zoo import Model
from vitral.compile.spatten import Choices
from vitral.frontiers.entry import Frontier, Group, Measured, Saving
from vitral.record import left_out
from vitral.sparse import Sparsity

__all__ = ["FRONTIER", "Point", "point", "settings"]

HALVES = {0: 0.5, 2: 0.5}
SCHEDULES = ({1: 0.5}, HALVES, {0: 0.3, 2: 0.5}, {0: 0.7, 2: 0.7, 4: 0.7})
"""Parts of the patches that stay behind blocks."""
VALUES = (0.5, 0.25)
CONFIDENT = (0.0, 0.1)
"""Probabilities from which on the high bits do: high bits alone, and what the paper sets."""
LIMIT = 0.5
"""Points of accuracy that may be lost."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting, measured; counts are means over the images.

    Parameters
    ----------
    name : what is left out.
    source : whose attention says how important a token is.
    keep, heads_left, values, confident : what was asked for.
    correct, images : held-out images classified correctly, of how many.
    tokens : tokens that come to each block's FFN.
    tokens_kept : mean over the blocks, over those of the dense network.
    heads : heads that attend in each block.
    values_fetched : part of the values of the keys there are.
    low_fetched : part of the queries that needed the low bits of the keys.
    beats : that the busiest channel reads of its local memory, for keys, values, queries and
        weights.
    macs : executed multiplications per image.
    cycles : predicted per image, mean over the first images.
    """

    name: str
    source: str
    keep: Mapping[str, float]
    heads_left: Mapping[str, int]
    values: float
    confident: float
    correct: int
    images: int
    tokens: Sequence[float]
    tokens_kept: float
    heads: Sequence[float]
    values_fetched: float
    low_fetched: float
    beats: float
    macs: float
    cycles: float


def settings(entry: Model) -> list[tuple[str, Sparsity]]:
    """Return the settings to compare, by name; the first is the dense network."""
    depth, heads = entry.float_vit().depth, entry.heads

    def within(parts: Mapping[int, float], end: int = depth) -> dict[int, float]:
        return {block: part for block, part in parts.items() if block < end}

    def sparsity(keep: Mapping[int, float] = {}, source: str | None = None,
                 left: Mapping[int, float] = {}, rule: Rule = Rule.TOPK,
                 **choices: float) -> Sparsity:
        fewer = {block: int(count) for block, count in within(left, depth - 1).items()}
        return Sparsity(keep=within(keep), rule=rule, source=source,
                        choices=Choices(heads=fewer, **choices))

    def words(parts: Mapping[int, float], end: int = depth) -> str:
        return ",".join(f"{block}:{part:g}" for block, part in within(parts, end).items())

    result = [("dense", sparsity())]
    result += [(f"tokens {words(keep)}", sparsity(keep)) for keep in SCHEDULES]
    result.append((f"tokens {words(HALVES)}, by the class token", sparsity(HALVES, "class")))
    result += [(f"tokens {words(HALVES)}, by {rule.name.lower()}", sparsity(HALVES, rule=rule))
               for rule in (Rule.THRESHOLD, Rule.MEAN)]
    some = {2: heads - 1}  # nobody asks which heads stay behind the last block
    if heads > 2:
        result += [(f"heads {words(left, depth - 1)}", sparsity(left=left))
                   for left in (some, {1: heads - 1, 3: heads - 2})]
    result += [(f"values {part:g}", sparsity(values=part)) for part in VALUES]
    result += [(f"bits, confident from {p:g}", sparsity(confident=p)) for p in CONFIDENT]
    result.append((f"all: tokens {words(HALVES)}, heads, values {VALUES[-1]:g}, bits",
                   sparsity(HALVES, left=some if heads > 1 else {}, values=VALUES[-1],
                            confident=CONFIDENT[-1])))
    return result


def point(found: Measured) -> Point:
    """Return what was measured with one setting."""
    left, choices = left_out(found.program, found.sparsity, found.work), found.sparsity.choices
    steps, network = found.program.steps, found.program.network
    local = [step.fields["opcode"] != Opcode.LOAD for step in steps] * found.images

    def mean(name: str) -> list[float]:
        return np.round(np.mean([one[name] for one in found.attention], 0), 6).tolist()

    return Point(
        name=found.name, source=network.source,
        keep={str(block): part for block, part in found.sparsity.keep.items()},
        heads_left={str(block): count for block, count in choices.heads.items()},
        values=choices.values, confident=choices.confident, correct=found.correct,
        images=found.images, tokens=left["tokens"],
        tokens_kept=round(float(np.mean(left["tokens"])) / network.tokens, 6),
        heads=mean("heads"), values_fetched=mean("values_fetched"),  # type: ignore[arg-type]
        low_fetched=mean("low_fetched"),  # type: ignore[arg-type]
        beats=sum(one.beats for one, read in zip(found.work, local) if read) / found.images,
        macs=left["macs_executed"], cycles=found.cycles)


def _numbers(counts: Sequence[float]) -> str:
    return " ".join(f"{count:.0f}" for count in counts)


FRONTIER = Frontier(
    design="spatten", model="digits-197", settings=settings, point=point, columns=(
        ("tokens by block", lambda one, dense: _numbers(one.tokens)),
        ("tokens kept", lambda one, dense: f"{one.tokens_kept:.1%}"),
        ("heads by block", lambda one, dense: _numbers(one.heads)),
        ("values fetched", lambda one, dense: f"{one.values_fetched:.1%}"),
        ("low bits fetched", lambda one, dense: f"{one.low_fetched:.1%}"),
        ("local beats", lambda one, dense: f"{one.beats / dense.beats:.1%}"),
        ("MACs saved", lambda one, dense: f"{1 - one.macs / dense.macs:.1%}"),
        ("cycles saved", lambda one, dense: f"{1 - one.cycles / dense.cycles:.1%}")),
    savings=(
        Saving("tokens left out, mean of the blocks", lambda one, dense: 1 - one.tokens_kept),
        Saving("heads left out, mean of the blocks",
               lambda one, dense: 1 - sum(one.heads) / sum(dense.heads)),
        Saving("beats of the local memories saved",
               lambda one, dense: 1 - one.beats / dense.beats)),
    groups=(
        Group("dense", "o", "#000000", lambda one: one.name == "dense"),
        Group("tokens, by column sums", "o", "#0072b2",
              lambda one: one.name.startswith("tokens") and one.source == "column"),
        Group("tokens, by the class token", "D", "#56b4e9",
              lambda one: one.name.startswith("tokens") and one.source == "class"),
        Group("heads", "s", "#009e73", lambda one: one.name.startswith("heads")),
        Group("values", "^", "#e69f00", lambda one: one.name.startswith("values")),
        Group("bits", "v", "#cc79a7", lambda one: one.name.startswith("bits")),
        Group("all of it", "*", "#d55e00", lambda one: one.name.startswith("all"))),
    limit=LIMIT, limit_title=f"{LIMIT:g} points lost")
