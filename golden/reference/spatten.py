# SPDX-License-Identifier: Apache-2.0
"""SpAtten's attention in real numbers: one query of each head, nothing rounded but the keys.

Source: Wang et al., HPCA 2021 (arXiv:2012.09852), algorithms 1 and 2, sections III-A to III-D.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]


@dataclass
class Cascade:
    """Attention with cascade pruning of tokens and heads, for one query of each head at a time.

    ``tokens`` and ``heads`` are those that are left, in order; importance is never forgotten.
    """

    tokens: NDArray[np.intp]
    heads: NDArray[np.intp]
    token_importance: Real
    head_importance: Real

    @classmethod
    def of(cls, tokens: int, heads: int) -> "Cascade":
        """Begin with all tokens and heads."""
        return cls(np.arange(tokens), np.arange(heads), np.zeros(tokens), np.zeros(heads))

    def attend(self, query: Real, key: Real, low: Real, value: Real, *, values: int,
               threshold: float, sharing: int = 1) -> dict[int, tuple[Real, bool]]:
        """Return the output of each head that is left, and whether it needed the low bits.

        ``query`` (heads, width), already divided by the root of the width; ``key``, ``low``,
        ``value`` (tokens, heads, width), where ``key + low`` is the key in full. The ``values``
        with the greatest probabilities are added up, not renormalised. Low bits are those of
        ``sharing`` heads together: all have them if one of these needs them.
        """
        result = {}
        needs = {head: _softmax(key[self.tokens, head] @ query[head]).max() < threshold
                 for head in self.heads}
        for head in self.heads:
            scores = key[self.tokens, head] @ query[head]
            fetched = any(needs[one] for one in self.heads if one // sharing == head // sharing)
            if fetched:
                scores = scores + low[self.tokens, head] @ query[head]
            probability = _softmax(scores)
            keep = np.sort(np.lexsort((np.arange(len(scores)), -scores))[:values])
            output = probability[keep] @ value[self.tokens[keep], head]
            self.token_importance[self.tokens] += probability
            self.head_importance[head] += np.abs(output).sum()
            result[int(head)] = output, bool(fetched)
        return result

    def prune_tokens(self, count: int) -> None:
        """Keep the ``count`` most important of the tokens that are left, and the first."""
        self.tokens = self._keep(self.tokens, self.token_importance, count, 1)

    def prune_heads(self, count: int) -> None:
        """Keep the ``count`` most important of the heads that are left."""
        self.heads = self._keep(self.heads, self.head_importance, count, 0)

    @staticmethod
    def _keep(of: NDArray[np.intp], importance: Real, count: int,
              protected: int) -> NDArray[np.intp]:
        order = np.lexsort((of, -importance[of], of >= protected))
        return np.sort(of[order[:max(count, protected)]])


def _softmax(scores: Real) -> Real:
    exponents = np.exp(scores - scores.max())
    return exponents / exponents.sum()
