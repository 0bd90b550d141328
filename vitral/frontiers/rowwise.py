# SPDX-License-Identifier: Apache-2.0
"""Accuracy against multiplications and FFN2 weights on the row-wise core."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from golden.topk import Rule
from models.zoo import Model
from vitral.frontiers.entry import Frontier, Group, Measured, Saving
from vitral.record import left_out
from vitral.sparse import Sparsity

__all__ = ["FRONTIER", "PAPER", "Point", "point", "settings"]

PAPER = {"macs_saved": 0.615, "ffn2_reads_saved": 0.593, "points_lost": 2.0}
"""What Hsiung and Chang say of their network, which is not known: fewer operations, fewer FFN2
weights, and an upper limit of the accuracy lost, in points."""
SCALES = (1.4, 1.0, 0.8, 0.6, 0.4)
"""Parts that stay, as multiples of those that the network was trained for."""
LEVELS = (2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting, measured.

    Parameters
    ----------
    name : what is left out.
    correct, images : held-out images classified correctly, of how many.
    tokens : tokens that come to each block's FFN, mean over the images.
    macs : executed multiplications per image.
    ffn2_reads : weight words read for the second FFN layers, over those of the dense network.
    blocks_skipped : part of the blocks of the tokens left that was skipped.
    cycles : predicted per image, mean over the first images.
    """

    name: str
    rule: str
    keep: Mapping[str, float]
    skip: int | None
    correct: int
    images: int
    tokens: Sequence[float]
    macs: float
    ffn2_reads: float
    blocks_skipped: float
    cycles: float


def settings(entry: Model) -> list[tuple[str, Sparsity]]:
    """Return the settings to compare, by name; the first is the dense network."""
    exact = 0 if entry.activation == "relu" else None

    def part(scale: float) -> dict[int, float]:
        return {block: min(1.0, keep * scale) for block, keep in entry.prune.items()}

    result = [("dense", Sparsity(keep={}))]
    if exact is not None:
        result.append(("skip exact", Sparsity(keep={}, level=exact)))
    result += [(f"prune x {scale:g}, {rule.name.lower()}",
                Sparsity(keep=part(scale), rule=rule, level=exact))
               for scale in SCALES if entry.prune
               for rule in ((Rule.THRESHOLD, Rule.MEAN, Rule.TOPK) if scale == 1 else
                            (Rule.THRESHOLD,))]
    result += [(f"prune x 1, skip up to {level}", Sparsity(keep=part(1), level=level))
               for level in LEVELS if exact is not None]
    return result


def point(found: Measured) -> Point:
    """Return what was measured with one setting."""
    sparsity, left = found.sparsity, left_out(found.program, found.sparsity, found.work)
    return Point(name=found.name, rule=sparsity.rule.name.lower(),
                 keep={str(block): part for block, part in sparsity.keep.items()},
                 skip=sparsity.level, correct=found.correct, images=found.images,
                 tokens=left["tokens"], macs=left["macs_executed"],
                 ffn2_reads=left["ffn2_reads"] or 1.0,
                 blocks_skipped=left["blocks_skipped"] or 0.0, cycles=found.cycles)


FRONTIER = Frontier(
    design="rowwise", model="digits-197-relu", settings=settings, point=point, columns=(
        ("tokens by block", lambda one, dense: " ".join(f"{count:.0f}" for count in one.tokens)),
        ("MACs saved", lambda one, dense: f"{1 - one.macs / dense.macs:.1%}"),
        ("FFN2 weight reads saved", lambda one, dense: f"{1 - one.ffn2_reads:.1%}"),
        ("blocks skipped", lambda one, dense: f"{one.blocks_skipped:.1%}"),
        ("cycles saved", lambda one, dense: f"{1 - one.cycles / dense.cycles:.1%}")),
    paper=(("Hsiung and Chang, network unknown", "", f"< {PAPER['points_lost']:g}", "",
            f"{PAPER['macs_saved']:.1%}", f"{PAPER['ffn2_reads_saved']:.1%}", "", ""),),
    savings=(
        Saving("MACs saved", lambda one, dense: 1 - one.macs / dense.macs, PAPER["macs_saved"]),
        Saving("FFN2 weight reads saved", lambda one, dense: 1 - one.ffn2_reads,
               PAPER["ffn2_reads_saved"])),
    groups=(Group("tokens pruned, exact skipping", "o", "#0072b2", lambda one: not one.skip),
            Group("skipping up to a level", "s", "#d55e00", lambda one: bool(one.skip))),
    limit=PAPER["points_lost"], limit_title="Hsiung and Chang: at most this loss")
