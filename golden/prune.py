# SPDX-License-Identifier: Apache-2.0
"""Which tokens leave a network, where, and which hidden units count as zero."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.fixed import Integers
from golden.topk import Rule
from golden.validate import integer

ACCUMULATE = {"cumulative": 1.0, "clear": 0.0, "average": 0.5}
"""What is left of importance that adds up from block to block, once tokens were chosen by it."""


@dataclass(frozen=True)
class Prune:
    """Tokens leave a block between its attention and its FFN.

    Parameters
    ----------
    rule : by which the others are chosen; the class token (and a distillation token) always stay.
    level : TOPK: tokens that stay, those included; THRESHOLD: least importance that stays; MEAN:
        least multiple of the mean importance of all but those. Real numbers for a float network; an
        integer one has importance in the steps of :class:`~golden.importance.ImportanceSpec` and
        multiples with 8 fraction bits.
    fuse : those that leave become one token, behind those that stay: the sum of their rows, each
        times the mean attention that it got. Where none leaves there is none, and in later blocks
        it is a token like any other.

    Source: Liang et al., EViT, ICLR 2022 (arXiv:2202.07800), section 3.2, for ``fuse``.
    """

    rule: Rule
    level: float
    fuse: bool = False

    MEAN_FRACTION = 8

    def keep(self, importance: ArrayLike, protected: int = 1) -> NDArray[np.intp]:
        """Return the tokens that stay of those with the given real importance, in their order."""
        importance = np.asarray(importance, np.float64)
        rest = np.arange(len(importance)) >= protected
        if self.rule == Rule.TOPK:
            order = np.lexsort((-importance, rest))
            return np.sort(order[:max(int(self.level), protected)])
        least = self.level
        if self.rule == Rule.MEAN:
            least *= importance[rest].mean() if rest.any() else 0
        return np.flatnonzero(~rest | (importance >= least))


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Blocks of hidden units that count as zero behind a ReLU.

    A block is ``channels`` neighbouring units of ``rows`` neighbouring tokens, counted from the
    first; it is skipped if none of its unsigned 8-bit numbers is above ``level``. With a level of
    0 skipping changes nothing but the work.
    """

    rows: int
    channels: int
    level: int = 0

    def __post_init__(self):
        integer("rows", self.rows, 1)
        integer("channels", self.channels, 1)
        integer("level", self.level, 0, 255)

    def listed(self, hidden: Integers) -> Any:
        """Return which blocks of (tokens, units) are multiplied: (row tiles, blocks)."""
        tokens, units = hidden.shape
        padded = np.pad(hidden, ((0, -tokens % self.rows), (0, -units % self.channels)))
        return (padded > self.level).reshape(
            -1, self.rows, padded.shape[1] // self.channels, self.channels).any((1, 3))

    def apply(self, hidden: Integers) -> Integers:
        """Return hidden units (..., tokens, units) with 0 for those that are skipped."""
        result = np.array(hidden)
        for index in np.ndindex(hidden.shape[:-2]):
            mask = self.listed(hidden[index]).repeat(self.rows, 0).repeat(self.channels, 1)
            result[index] *= mask[:hidden.shape[-2], :hidden.shape[-1]]
        return result
