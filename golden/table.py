# SPDX-License-Identifier: Apache-2.0
"""A look-up table that is loaded at run time, read by several lanes at once."""

from dataclasses import dataclass

from numpy.typing import ArrayLike

from golden.fixed import Integers, integers
from golden.validate import integer, power_of_two, require


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """``value[lane] = table[index[lane]]``, one cycle later; entries are raw bits.

    Parameters
    ----------
    depth : entries, a power of two.
    width : bits of an entry.
    lanes : indices per cycle; each lane has its own copy of the memory.
    load_entries : entries that are written at once, a power of two; also the width of the memory.
    """

    depth: int = 256
    width: int = 8
    lanes: int = 8
    load_entries: int = 8

    LATENCY = 1

    def __post_init__(self):
        power_of_two("depth", self.depth, 2, 65536)
        integer("width", self.width, 1, 64)
        integer("lanes", self.lanes, 1, 1024)
        power_of_two("load_entries", self.load_entries)
        require(self.load_entries <= self.depth,
                f"load_entries must be at most depth {self.depth}, not {self.load_entries}")

    @property
    def index_width(self) -> int:
        """Unsigned bits of an index."""
        return (self.depth - 1).bit_length()

    @property
    def words(self) -> int:
        """Words of the memory, and payloads of a whole load."""
        return self.depth // self.load_entries

    @property
    def address_width(self) -> int:
        """Unsigned bits of a word's address; 1 where there is but one word."""
        return max(1, (self.words - 1).bit_length())

    @property
    def memory_bits(self) -> int:
        """Bits of all copies."""
        return self.lanes * self.depth * self.width

    def load(self, table: ArrayLike) -> Integers:
        """Return the words that load ``table``, shape (words, load_entries), by address.

        Entries are cut to ``width`` bits: negative ones become their two's complement.
        """
        table = integers(table)
        require(table.shape == (self.depth,),
                f"table must have shape ({self.depth},), not {table.shape}")
        return (table & ((1 << self.width) - 1)).reshape(self.words, self.load_entries)

    def compute(self, index: ArrayLike, table: ArrayLike) -> Integers:
        """Return the entries at ``index``, as raw bits."""
        return self.load(table).ravel()[integers(index)]
