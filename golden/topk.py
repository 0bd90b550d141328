# SPDX-License-Identifier: Apache-2.0
"""Choose entries of a vector by their scores."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.fixed import integers
from golden.validate import integer


class Rule(IntEnum):
    """Which entries stay."""

    TOPK = 0
    THRESHOLD = 1
    MEAN = 2


@dataclass(frozen=True, kw_only=True)
class TopKSpec:
    """Choose among up to ``n`` unsigned scores of ``width`` bits."""

    n: int = 197
    width: int = 16
    lanes: int = 1
    buffers: int = 1

    def __post_init__(self):
        integer("n", self.n, 1, 65535)

    def select(self, scores: ArrayLike, rule: Rule, value: int,
               protected: int = 0) -> NDArray[np.bool_]:
        """Return the mask of the entries that stay."""
        scores = integers(scores)
        free = np.arange(len(scores)) >= protected
        if rule == Rule.THRESHOLD:
            return ~free | (scores >= value)
        if rule == Rule.MEAN:
            return ~free | (scores * int(free.sum()) * 256 >= value * int(scores[free].sum()))
        k = min(max(value - min(protected, len(scores)), 0), int(free.sum()))
        order = np.lexsort((np.arange(len(scores)), -scores, ~free))
        mask = ~free
        mask[order[:k]] = True
        return mask
