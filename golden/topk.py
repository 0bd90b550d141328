# SPDX-License-Identifier: Apache-2.0
"""Selection of the best scores: exact top-k, a threshold, or a multiple of the mean."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.fixed import ceil_div, integers
from golden.validate import choice, integer, power_of_two, require


class Rule(IntEnum):
    """What the value of a selection means."""

    TOPK = 0
    """Keep the ``value`` greatest scores; among equal ones those of the lowest index."""
    THRESHOLD = 1
    """Keep the scores of at least ``value``."""
    MEAN = 2
    """Keep the scores of at least ``value / 2**8`` times the mean."""


@dataclass(frozen=True, kw_only=True)
class TopKSpec:
    """Select entries of a vector of unsigned scores, in exact integer arithmetic.

    The first ``protected`` entries of a vector always stay. Under :attr:`Rule.TOPK` they count
    towards k: of ``n`` entries ``min(n, max(k, protected))`` are kept. Under :attr:`Rule.MEAN` they
    are not part of the mean: with the sum ``s`` and the number ``m`` of the other entries, a score
    is kept if ``(score * m << 8) >= value * s``. Both sides are exact: ``s`` has ``sum_width``
    bits, ``value * s`` ``width`` more. The hardware divides: with ``q, r = divmod(value * s,
    m << 8)`` it keeps the scores above ``q``, and those that equal it if ``r`` is 0.

    Parameters
    ----------
    n : most entries of a vector.
    width : bits of a score.
    lanes : scores that enter and that leave per cycle, a power of two.
    digit : bits that the radix engine decides with one pass over the vector.
    engine : ``"radix"``.
    buffers : 2: a vector is accepted while the one before is selected; 1: when it has been read.
    threshold : whether the rules other than :attr:`Rule.TOPK` are there.
    mask : whether every row of ``lanes`` entries gives an output beat that says which of them
        stay; otherwise only rows of which one stays, and the last row.
    """

    n: int = 197
    width: int = 16
    lanes: int = 16
    digit: int = 4
    engine: str = "radix"
    buffers: int = 2
    threshold: bool = True
    mask: bool = False

    PROTECTED = 3
    FRACTION = 8

    def __post_init__(self):
        integer("n", self.n, 1, 4096)
        integer("width", self.width, 1, 24)
        power_of_two("lanes", self.lanes, 1, 64)
        integer("digit", self.digit, 1, 8)
        choice("engine", self.engine, ("radix",))
        integer("buffers", self.buffers, 1, 2)

    @property
    def rows(self) -> int:
        """Rows of ``lanes`` scores of the longest vector."""
        return ceil_div(self.n, self.lanes)

    @property
    def digits(self) -> int:
        """Digits of a score: what the radix engine needs passes for."""
        return ceil_div(self.width, self.digit)

    @property
    def index_width(self) -> int:
        """Bits of an index."""
        return (self.rows * self.lanes - 1).bit_length()

    @property
    def count_width(self) -> int:
        """Bits of a number of entries."""
        return self.n.bit_length()

    @property
    def value_width(self) -> int:
        """Bits of the value of a rule."""
        return max(self.width, self.count_width)

    @property
    def sum_width(self) -> int:
        """Bits of the sum of a vector; at least 8, as many as a mean's factor has below 1."""
        return max(self.FRACTION, (self.n * ((1 << self.width) - 1)).bit_length())

    @property
    def memory_bits(self) -> int:
        """Bits of the score memory."""
        return self.buffers * self.rows * self.lanes * self.width

    def select(self, scores: ArrayLike, rule: int, value: int,
               protected: int = 0) -> NDArray[np.bool_]:
        """Return which of the scores of shape (..., n) are kept."""
        scores = integers(scores)
        n = scores.shape[-1]
        integer("n", n, 1, self.n)
        integer("value", value, 0, (1 << self.value_width) - 1)
        integer("protected", protected, 0, self.PROTECTED)
        choice("rule", rule, list(Rule) if self.threshold else [Rule.TOPK])
        require(bool(np.all((scores >= 0) & (scores < 1 << self.width))),
                f"scores must be unsigned numbers of {self.width} bits")
        free = scores[..., protected:]
        if rule == Rule.TOPK:
            order = np.argsort(-free, axis=-1, kind="stable")
            keep = np.zeros(free.shape, bool)
            np.put_along_axis(keep, order[..., :max(0, value - protected)], True, axis=-1)
        elif rule == Rule.THRESHOLD:
            keep = free >= value
        else:
            total = free.sum(axis=-1, keepdims=True)
            keep = free * free.shape[-1] << self.FRACTION >= value * total
        first = np.ones((*scores.shape[:-1], min(n, protected)), bool)
        return np.concatenate([first, keep], axis=-1)

    def find_cycles(self, n: int, rule: int = Rule.TOPK) -> int:
        """Return the cycles from a vector's last scores to its first row out, if any is kept there.

        A function of ``n`` and the rule, whatever the scores; with ``B = ceil(n / lanes)`` rows
        ``(digits - 1) * (B + digit + 1) + digit + 4`` for top-k, 5 for a threshold, and
        ``2 * sum_width + width - 3`` for a mean.
        """
        rows = ceil_div(n, self.lanes)
        if rule == Rule.THRESHOLD:
            return 5
        if rule == Rule.MEAN:
            return 5 + 2 * self.sum_width + self.width - self.FRACTION
        return (self.digits - 1) * (rows + self.digit + 1) + self.digit + 4

    def cycles(self, n: int, rule: int = Rule.TOPK) -> int:
        """Return the cycles from a vector's last scores in to its last beat out, unstalled.

        ``find_cycles(n, rule) + ceil(n / lanes) - 1``: ``3 * ceil(n / 16) + 17`` for radix with 16
        lanes, 12 bits and digits of 4.
        """
        return self.find_cycles(n, rule) + ceil_div(n, self.lanes) - 1
