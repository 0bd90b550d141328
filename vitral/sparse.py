# SPDX-License-Identifier: Apache-2.0
"""What is left out of a network: which tokens leave where, and which hidden units are skipped."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.importance import ImportanceSpec
from golden.operation import Opcode
from golden.prune import Prune, Skip
from golden.reference.vit import FloatVit
from golden.rowwise.emulator import Work
from golden.rowwise.operation import CHOICES, live_rows
from golden.topk import Rule
from golden.validate import choice, integer, require
from golden.vit import IntegerVit
from vitral.compile import Program
from vitral.compile.spatten import Choices
from vitral.quantise import quantise
from vitral.usage import UsageError, refusing

__all__ = ["Sparsity", "choices", "plan", "quantised", "source", "sparsity", "static_work"]

RULES = {rule.name.lower(): rule for rule in (Rule.THRESHOLD, Rule.MEAN, Rule.TOPK)}


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """What a user asks for.

    Parameters
    ----------
    keep : block to the part of its patches that stays, on average; class and distillation tokens
        are not counted, as they always stay.
    rule : how tokens are chosen.
    level : of :class:`~golden.prune.Skip`; None: no skipping.
    fuse : patches that leave become one token.
    source : whose attention says how important a token is; None: as the core has it; ``external``:
        nobody's, but numbers that come with the images.
    accumulate : what importance that adds up from block to block becomes once tokens were chosen;
        None: as the core has it.
    choices : what else a core can leave out that chooses heads, values and bits.
    """

    keep: Mapping[int, float]
    rule: Rule = Rule.THRESHOLD
    level: int | None = None
    fuse: bool = False
    source: str | None = None
    accumulate: str | None = None
    choices: Choices = field(default_factory=Choices)

    def attention(self, spec: Any) -> str:
        """Return whose attention chooses tokens on a core, or in its place where none does."""
        return self.source if self.source in ImportanceSpec.SOURCES else source(spec)

    def skip(self, spec: Any) -> Skip | None:
        """Return the blocks that a core of this geometry skips."""
        return None if self.level is None else Skip(
            rows=spec.rows, channels=spec.block_units, level=self.level)


class _Seen(Exception):
    """The importance that a forward pass was made for."""


def importance(network: FloatVit, image: NDArray[np.floating], block: int,
               prune: Mapping[int, Prune], source: str,
               accumulate: str | None) -> NDArray[np.float64]:
    """Return the importance of the tokens of one image that come to a block."""

    def observe(name: str, array: Any) -> None:
        if name == f"blocks.{block}.importance":
            raise _Seen(array[0])

    everything = Prune(Rule.TOPK, network.tokens)
    try:
        network.forward(image[None], observe, prune={**prune, block: everything}, source=source,
                        accumulate=accumulate)
    except _Seen as seen:
        return seen.args[0]
    raise AssertionError("every block that prunes shows its importance")


def plan(network: FloatVit, images: ArrayLike, keep: Mapping[int, float], rule: Rule,
         source: str, fuse: bool = False, accumulate: str | None = None) -> dict[int, Prune]:
    """Choose levels so that on these images the wanted part of the patches stays.

    Block by block, in their order: all patches that come to a block, of all images, are ranked by
    importance (MEAN: divided by their image's mean), and the level is put where ``keep`` of them
    stay. TOPK keeps the same number of each image: ``keep`` of those there are, rounded. A part of
    0 leaves none, which in the last block changes no logit: nobody looks at the others any more.

    With ``fuse`` those that leave become one, in later blocks a patch like any other; not in the
    last block, for the same reason.

    ``ValueError`` for a block that is not there, or a part that is not between 0 and 1.
    """
    images = np.asarray(images)
    protected = network.prefix
    present, result = float(network.grid**2), {}
    for block, part in sorted(keep.items()):
        integer("block to prune", block, 0, network.depth - 1)
        require(0 <= part <= 1, f"part that stays must be from 0 to 1, not {part}")
        fuses, before = fuse and block < network.depth - 1, np.floor(present + 0.5)
        present *= part
        if rule == Rule.TOPK or not part:
            present = np.floor(present + 0.5)
            result[block] = Prune(Rule.TOPK, protected + int(present), fuses)
            present += fuses and present < before
            continue
        ranked = []
        for image in images:
            values = importance(network, image, block, result, source, accumulate)[protected:]
            if len(values):
                mean = values.mean() if rule == Rule.MEAN else 1.0
                ranked.append(values / mean if mean else np.ones_like(values))
        values = np.sort(np.concatenate(ranked)) if ranked else np.zeros(1)
        first = min(round((1 - part) * len(values)), len(values) - 1)
        result[block] = Prune(rule, float(values[first] + values[max(first - 1, 0)]) / 2
                              if first else 0.0, fuses)
    return result


def choices(values: float | None, confident: float | None, heads: str | None) -> Choices:
    """Read ``--values``, ``--confident`` and ``--heads-left``."""
    left: dict[int, int] = {}
    for entry in heads.split(",") if heads else ():
        found = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", entry)
        if not found or int(found[1]) in left:
            raise UsageError("--heads-left must be BLOCK:HEADS,..., each block once, such as "
                             f"2:3,4:2, not {heads!r}")
        left[int(found[1])] = int(found[2])
    given = {"values": values, "confident": confident}
    with refusing():
        return Choices(**{name: one for name, one in given.items() if one is not None}, heads=left)


def sparsity(prune: str | None, rule: str | None, skip: str | None, fuse: bool = False, *,
             default: Mapping[int, float], relu: bool, spec: Any) -> Sparsity:
    """Read ``--prune``, ``--rule``, ``--skip`` and ``--fuse``.

    What is not given is what suits the network.

    A network that was trained for pruning is pruned by a core that can; blocks are skipped
    exactly where the network has ReLU and the core can.
    """
    rule = str(rule or spec.rules[0])
    with refusing():
        choice("--rule", rule, spec.rules)
    able, skips = spec.pruning != "none", bool(spec.skip_words)
    keep: dict[int, float] = dict(default) if prune is None and able else {}
    if prune not in (None, "off"):
        for entry in str(prune).split(","):
            found = re.fullmatch(r"([0-9]{1,4}):([0-9]*\.?[0-9]+)", entry)
            if not found or float(found[2]) > 1:
                raise UsageError("--prune must be off or BLOCK:PART,... with parts from 0 to 1, "
                                 f"such as 0:0.5,2:0.5, not {prune!r}")
            if int(found[1]) in keep:
                raise UsageError(f"--prune must name block {found[1]} once, not twice")
            keep[int(found[1])] = float(found[2])
        if not able:
            raise UsageError("--prune must be off for a core with pruning none, not "
                             f"{prune!r}")
    if fuse and not spec.fuse:
        raise UsageError("--fuse must be left out for a core with fuse false, built without what "
                         "fuses tokens; --set fuse=true builds it")
    if fuse and not keep:
        raise UsageError("--fuse must be left out where no token leaves: --prune names none")
    level = 0 if skip is None and relu and skips else None
    if skip not in (None, "off"):
        text = "0" if skip == "exact" else str(skip)
        if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > 255:
            raise UsageError(f"--skip must be off, exact or a level from 0 to 255, not {skip!r}")
        if not relu:
            raise UsageError("--skip must be off for a network without ReLU, not "
                             f"{skip!r}")
        if not skips:
            raise UsageError(f"--skip must be off for a core with skip_words 0, not {skip!r}")
        level = int(text)
    return Sparsity(keep=keep, rule=RULES[rule], level=level, fuse=fuse)


def quantised(network: FloatVit, calibration: ArrayLike, sparsity: Sparsity,
              spec: Any) -> IntegerVit:
    """Return the network as a core of this specification runs it, its levels chosen."""
    by, accumulate = sparsity.attention(spec), sparsity.accumulate or spec.accumulate
    prune = plan(network, calibration, sparsity.keep, sparsity.rule, by, sparsity.fuse, accumulate)
    return quantise(network, calibration, table_width=spec.table_width, index_bits=spec.index_bits,
                    prune=prune, source=by, accumulate=accumulate, skip=sparsity.skip(spec))


def source(spec: Any) -> str:
    """Return whose attention a core takes for importance."""
    return "class" if spec.pruning == "none" else spec.pruning


def static_work(program: Program) -> list[Work]:
    """Return the work of one image whose tokens leave by TOPK, all blocks being multiplied."""
    tokens, result = program.network.tokens, []
    for step in program.steps:
        fields = dict.fromkeys(program.layout.names, 0) | dict(step.fields)
        rows, keys = live_rows(fields, tokens), fields["keys"]
        if fields["live"]:
            keys = min(keys, tokens)
        if fields["opcode"] in CHOICES:
            keys, rows = tokens, min(tokens, max(fields["level"], fields["protected"]))
            tokens = rows + (fields["opcode"] == Opcode.FUSE and rows < keys)
        result.append(Work(rows, keys))
    return result
