# SPDX-License-Identifier: Apache-2.0
"""The banked on-chip memory that holds activations, one token per bank in turn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from golden.fixed import Integers, ceil_div, integers
from golden.validate import integer, require


@dataclass(frozen=True, kw_only=True)
class ScratchpadSpec:
    """``banks`` memories of ``words`` words of ``width`` bits, a token in each in turn.

    A token is a row of ``stride`` words. A matrix of tokens at ``base`` puts word ``w`` of token
    ``t`` into bank ``t mod banks``, at address ``base + (t // banks) * stride + w``, so that equal
    words of ``banks`` neighbouring tokens have equal addresses. One address reads a *block* of
    ``banks`` tokens by one word, and nothing that a row-wise core does meets a bank twice. With
    ``banks`` = rows = columns = ``depth`` of the array, and words of ``depth`` numbers, a block is

    - a row operand: ``rows`` tokens, ``depth`` numbers each, contracted along the word;
    - a column operand of ``Q K^T``: ``columns`` keys, ``depth`` numbers each, along the word too;
    - a column operand of ``P V``: ``depth`` values (tokens), ``columns`` numbers each, contracted
      along the tokens: the same block with rows and columns exchanged by wiring;
    - a result: ``rows`` tokens, ``columns`` numbers each, written at once, or token by token, when
      each word goes to the bank of its token at an address of its own (tokens that move together
      after pruning).

    The memory is modelled as an array (banks, words, segments) of unsigned segments.

    Parameters
    ----------
    banks : memories side by side.
    words : words of each.
    width : bits of a word.
    segment : bits of the parts of a word that can be written on their own.

    Source: ours, for the row-wise dot products of Wang and Chang (arXiv:2205.03998).
    """

    banks: int = 8
    words: int = 1024
    width: int = 64
    segment: int = 8

    def __post_init__(self):
        integer("banks", self.banks, 1, 256)
        integer("words", self.words, 2, 1 << 20)
        integer("width", self.width, 1, 4096)
        integer("segment", self.segment, 1, self.width)
        require(self.width % self.segment == 0,
                f"width must be a multiple of segment {self.segment}, not {self.width}")

    @property
    def segments(self) -> int:
        """Parts of a word that can be written on their own."""
        return self.width // self.segment

    @property
    def bits(self) -> int:
        """Bits of memory."""
        return self.banks * self.words * self.width

    def empty(self) -> Integers:
        """Return a memory of zeros; segments of 63 bits and more are Python integers."""
        kind = np.int64 if self.segment < 63 else object
        return np.zeros((self.banks, self.words, self.segments), dtype=kind)

    def place(self, token: ArrayLike, word: ArrayLike, base: int,
              stride: int) -> tuple[Integers, Integers]:
        """Return bank and address of word ``word`` of token ``token``; the two broadcast."""
        token, word = np.broadcast_arrays(integers(token), integers(word))
        return token % self.banks, base + token // self.banks * stride + word

    def size(self, tokens: int, stride: int) -> int:
        """Return the addresses that a matrix of ``tokens`` tokens takes."""
        return ceil_div(tokens, self.banks) * stride

    def gather(self, memory: Integers, base: int, stride: int, tokens: int, words: int) -> Integers:
        """Return ``words`` words of each of ``tokens`` tokens, as (tokens, words * segments)."""
        place = self.place(np.arange(tokens)[:, None], np.arange(words), base, stride)
        return memory[place].reshape(tokens, words * self.segments)

    def scatter(self, memory: Integers, base: int, stride: int, rows: ArrayLike) -> None:
        """Write ``rows`` (tokens, words * segments) where :meth:`gather` finds them."""
        rows = self._segments(rows)
        rows = rows.reshape(len(rows), -1, self.segments)
        tokens, words = rows.shape[:2]
        memory[self.place(np.arange(tokens)[:, None], np.arange(words), base, stride)] = rows

    def block(self, memory: Integers, address: int) -> Integers:
        """Return a view of the block at ``address``, (banks, segments): one token per row."""
        return memory[:, address]

    def write(self, memory: Integers, enable: ArrayLike, address: ArrayLike, data: ArrayLike,
              segments: ArrayLike) -> None:
        """Write as the port does in one cycle.

        ``enable`` (banks) and ``segments`` (segments) are 0 or 1, ``address`` (banks), ``data``
        (banks, segments).
        """
        for bank in np.flatnonzero(enable):
            word = memory[bank, integers(address)[bank]]
            word[:] = np.where(segments, self._segments(data)[bank], word)

    def _segments(self, values: ArrayLike) -> Integers:
        """Return ``values`` as the memory keeps them; floats are refused."""
        return integers(values) if self.segment < 63 else np.asarray(values, dtype=object)
