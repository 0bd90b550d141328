# SPDX-License-Identifier: Apache-2.0
"""Selection of the best scores: exact top-k, a threshold, or a multiple of the mean."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.fixed import Integers, ceil_div, integers
from golden.validate import choice, integer, power_of_two, require


class Rule(IntEnum):
    """What the value of a selection means."""

    TOPK = 0
    """Keep the ``value`` greatest scores; among equal ones those of the lowest index."""
    THRESHOLD = 1
    """Keep the scores of at least ``value``."""
    MEAN = 2
    """Keep the scores of at least ``value / 2**8`` times the mean."""


class PivotSource:
    """The pseudo-random numbers of quick-select: a linear feedback register, some steps each."""

    WIDTH = 16
    SEED = 0xACE1
    TAPS = (15, 14, 12, 3)
    STEPS = 8

    def __init__(self):
        self.value = self.SEED

    def step(self) -> None:
        """Go on to the next number."""
        for _ in range(self.STEPS):
            bit = sum(self.value >> tap for tap in self.TAPS) & 1
            self.value = (self.value << 1 | bit) & (1 << self.WIDTH) - 1

    def accepts(self, before: int) -> bool:
        """Return whether an offer after so many others is taken."""
        return not self.value & (1 << before.bit_length()) - 1


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
    engine : ``"radix"``, ``"bitserial"`` (up to 256 entries) or ``"quickselect"``.
    buffers : 2: a vector is accepted while the one before is selected; 1: when it has been read.
    threshold : whether the rules other than :attr:`Rule.TOPK` are there.
    absent : a score of 0 is that of an entry that is not there, which is no part of a mean; with
        ``buffers`` of 1.
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
    absent: bool = False
    mask: bool = False

    PROTECTED = 3
    FRACTION = 8

    def __post_init__(self):
        integer("n", self.n, 1, 4096)
        integer("width", self.width, 1, 24)
        power_of_two("lanes", self.lanes, 1, 64)
        integer("digit", self.digit, 1, 8)
        choice("engine", self.engine, ("radix", "bitserial", "quickselect"))
        integer("buffers", self.buffers, 1, 2)
        require(not self.absent or self.buffers == 1,
                f"buffers must be 1 with absent, not {self.buffers}")
        require(self.engine != "bitserial" or self.n <= 256,
                f"n must be at most 256 for the bitserial engine, not {self.n}")

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
        """Bits of the value of a rule; all rules but top-k use the lowest ``width`` of them."""
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
        """Return which of the scores of shape (..., n) are kept.

        ``value`` has ``value_width`` bits for top-k, else ``width``; ``protected`` is at most 3.
        """
        scores = integers(scores)
        n = scores.shape[-1]
        integer("n", n, 1, self.n)
        choice("rule", rule, list(Rule) if self.threshold else [Rule.TOPK])
        width = self.value_width if rule == Rule.TOPK else self.width
        integer("value", value, 0, (1 << width) - 1)
        integer("protected", protected, 0, self.PROTECTED)
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
            count = (free > 0).sum(axis=-1, keepdims=True) if self.absent else free.shape[-1]
            keep = free * count << self.FRACTION >= value * total
        first = np.ones((*scores.shape[:-1], min(n, protected)), bool)
        return np.concatenate([first, keep], axis=-1)

    def find_cycles(self, n: int, rule: int = Rule.TOPK) -> int:
        """Return the cycles from a vector's last scores to its first row out, if any is kept there.

        A function of ``n`` and the rule, whatever the scores; with ``B = ceil(n / lanes)`` rows

        ===========================  ==========================================================
        threshold                    5
        mean                         ``2 * sum_width + width - 3``
        top-k, radix                 ``(digits - 1) * (B + digit + 1) + digit + 4``
        top-k, bitserial             ``2 * width + 4``
        top-k, quickselect, at most  ``4 + sum of ceil(m / lanes) + 3 for m from 1 to n``
        ===========================  ==========================================================
        """
        rows = ceil_div(n, self.lanes)
        if rule == Rule.THRESHOLD:
            return 5
        if rule == Rule.MEAN:
            return 5 + 2 * self.sum_width + self.width - self.FRACTION
        if self.engine == "radix":
            return (self.digits - 1) * (rows + self.digit + 1) + self.digit + 4
        if self.engine == "bitserial":
            return 2 * self.width + 4
        return 4 + sum(ceil_div(m, self.lanes) + 3 for m in range(1, n + 1))

    def cycles(self, n: int, rule: int = Rule.TOPK) -> int:
        """Return the cycles from a vector's last scores in to its last beat out, unstalled.

        ``find_cycles(n, rule) + ceil(n / lanes) - 1``: ``3 * ceil(n / 16) + 17`` for radix with 16
        lanes, 12 bits and digits of 4.
        """
        return self.find_cycles(n, rule) + ceil_div(n, self.lanes) - 1

    def period(self, n: int) -> int:
        """Return the cycles per top-k of equally long vectors that follow each other unstalled.

        With two buffers a vector is selected as soon as the one before has been read, with one it
        is loaded then. For quick-select this is what the worst scores and pivots take.
        """
        rows, search = ceil_div(n, self.lanes), self.find_cycles(n) - 4
        if self.buffers == 1:
            return search + 2 * rows + 1
        single = self.engine == "bitserial" or (self.engine, self.digits) == ("radix", 1)
        return search + rows + single  # which load when they have found

    def killer(self, n: int) -> Integers:
        """Return ``n`` scores whose greatest one quick-select finds after ``n`` passes.

        For the first vector after a reset, k = 1 and nothing protected; every pivot is the least
        score that is left. ``width`` must be enough for ``n`` different scores.
        """
        source, scores = PivotSource(), np.zeros(n, np.int64)
        side, pivot = list(range(n)), 0
        for row in range(ceil_div(n, self.lanes)):
            pivot = row * self.lanes if source.accepts(row) else pivot
            source.step()
        for score in range(n):
            scores[pivot] = score
            offers, least, greater = 0, pivot, []
            for start in range(0, len(side), self.lanes):
                kept = [index for index in side[start:start + self.lanes] if index != least]
                greater += kept
                if kept:
                    pivot = kept[0] if source.accepts(offers) else pivot
                    offers += 1
                source.step()
            side = greater
        return scores
