# SPDX-License-Identifier: Apache-2.0
"""Parameters of the row-wise core, and what follows from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from golden.activation import ActivationKind, ActivationSpec
from golden.fixed import ceil_div, signed_width
from golden.fuse import FuseSpec
from golden.importance import ImportanceSpec
from golden.layernorm import LayerNormSpec
from golden.mac import MacSpec
from golden.requant import RequantSpec
from golden.softmax import SoftmaxSpec
from golden.topk import TopKSpec
from golden.validate import choice, integer, power_of_two, require

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class RowwiseSpec:
    """An array of ``rows`` tokens x ``columns`` results x ``depth`` contraction, and its buffers.

    ================  ==============================================  =======================
    buffer            one word                                        holds
    ================  ==============================================  =======================
    activation        ``rows`` banks x ``word_bytes``: a token tile   row operands: patches,
                                                                      normalised rows,
                                                                      queries, hidden units
    residual          ``columns`` x 16 bit of one token               residual stream, logits
    key               ``columns`` banks x ``word_bytes``              keys of one head
    value             ``depth`` banks x ``columns`` bytes             values of one head
    weight            ``columns`` x ``depth`` bytes                   a ring of weight tiles
    ================  ==============================================  =======================

    Token ``t`` of a tensor lies in bank ``t mod banks``, at
    ``base + (t // banks) * stride + word``. ``word_bytes = max(columns, depth)``, so that a result
    of ``columns`` numbers and an operand of ``depth`` numbers are both an aligned part of a word.

    Parameters
    ----------
    rows, columns, depth : array geometry, powers of two; ``rows * columns * depth`` multipliers.
    memory_bytes : bytes per beat of the external memory streams, a power of two.
    activation_bytes, residual_bytes, key_bytes, value_bytes, weight_bytes : buffer sizes.
    weight_tiles : column tiles whose bias and scale can wait in the ring.
    max_keys : longest row of scores.
    max_width : longest row of LayerNorm.
    max_contraction : longest sum of products.
    table_width : index bits of the activation table (GELU).
    index_bits : index bits of the softmax reciprocal.
    queue_depth : operations accepted ahead of execution.
    multiplier : as in :class:`~golden.mac.MacSpec`: ``inferred`` for FPGAs, ``booth`` for gates.
    pruning : whose attention says how important a token is: ``class`` the first token's, ``column``
        that of all tokens; ``none`` builds no token pruning.
    fuse : whether tokens that leave can become one (FUSE).
    skip_words : words of a block of hidden units that is skipped when it is 0 for all rows of a
        tile, a power of two; 0 builds no skipping.
    """

    rows: int = 8
    columns: int = 8
    depth: int = 8
    memory_bytes: int = 16
    activation_bytes: int = 79872
    residual_bytes: int = 76032
    key_bytes: int = 12800
    value_bytes: int = 12800
    weight_bytes: int = 24 * KIB
    weight_tiles: int = 16
    max_keys: int = 200
    max_width: int = 768
    max_contraction: int = 3072
    table_width: int = 10
    index_bits: int = 8
    queue_depth: int = 4
    multiplier: str = "booth"
    pruning: str = "class"
    skip_words: int = 1
    fuse: bool = False

    accumulate: ClassVar[str | None] = None
    """Each block's attention is that of itself."""
    rules: ClassVar[tuple[str, ...]] = ("threshold", "mean", "topk")
    """How the tokens that stay can be chosen, as the command line calls it; the default first."""

    def __post_init__(self):
        for name in ("rows", "columns", "depth"):
            power_of_two(name, getattr(self, name), 1, 64)
        require(self.columns >= 2 and self.depth >= 2,
                f"columns and depth must be at least 2, not {self.columns} and {self.depth}")
        power_of_two("memory_bytes", self.memory_bytes, 4, 128)
        limit = min(2 * self.columns, self.rows * self.word_bytes)  # words are whole beats
        require(self.memory_bytes <= limit,
                f"memory_bytes must be at most {limit} with rows {self.rows}, columns "
                f"{self.columns} and depth {self.depth}, not {self.memory_bytes}")
        for name, block in self.block_bytes.items():
            size = getattr(self, f"{name}_bytes")
            integer(f"{name}_bytes", size, 2 * block, 65535 * block)
            require(size % block == 0,
                    f"{name}_bytes must be a multiple of {block} (one word), not {size}")
        power_of_two("weight_tiles", self.weight_tiles, 2, 1024)
        integer("max_keys", self.max_keys, 2, 4096)
        integer("max_width", self.max_width, 1, 4096)
        integer("max_contraction", self.max_contraction, self.depth, 65535)
        require(self.max_contraction >= self.max_keys,
                f"max_contraction must be at least max_keys {self.max_keys}, "
                f"not {self.max_contraction}")
        integer("table_width", self.table_width, 8, 12)
        integer("index_bits", self.index_bits, 1, 10)
        power_of_two("queue_depth", self.queue_depth, 2, 16)
        choice("multiplier", self.multiplier, ("inferred", "booth"))
        choice("pruning", self.pruning, ("none", *ImportanceSpec.SOURCES))
        choice("skip_words", self.skip_words, (0, 1, 2, 4, 8, 16))
        choice("fuse", self.fuse, (False, True))
        require(not self.fuse or self.pruning != "none",
                "fuse must be False with pruning none, not True")
        assert self.mac and self.requant and self.activation  # their rules

    @property
    def macs(self) -> int:
        """Multipliers of the array."""
        return self.rows * self.columns * self.depth

    @property
    def word_bytes(self) -> int:
        """Bytes of one token in one word of the activation and key buffers."""
        return max(self.columns, self.depth)

    @property
    def block_bytes(self) -> dict[str, int]:
        """Bytes of one word of each buffer, all banks together."""
        return {"activation": self.rows * self.word_bytes, "residual": 2 * self.columns,
                "key": self.columns * self.word_bytes, "value": self.depth * self.columns,
                "weight": self.columns * self.depth}

    def words(self, buffer: str) -> int:
        """Return the number of words of a buffer."""
        return getattr(self, f"{buffer}_bytes") // self.block_bytes[buffer]

    @property
    def memory_bits(self) -> dict[str, int]:
        """Bits of each on-chip memory."""
        key_words = ceil_div(self.max_keys, self.word_bytes)
        return {
            **{name: 8 * getattr(self, f"{name}_bytes") for name in self.block_bytes},
            "scale": self.weight_tiles * self.columns * 54,
            "score": 2 * self.rows * self.softmax.max_words * self.columns * 8,
            "exponent": 2 * self.rows * key_words * self.word_bytes * 8,
            "exponent table": self.columns * 256 * 8,
            "activation table": self.columns * (8 << self.table_width),
            **{f"norm {name}": bits for name, bits in self.norm.memory_bits.items()},
            **({"importance": self.importance.memory_bits["sums"],
                "watched rows": self.importance.memory_bits["rows"],
                "selection": self.topk.memory_bits,
                "kept tokens": self.max_keys * (self.max_keys - 1).bit_length()}
               if self.pruning != "none" else {}),
            **({"weights": self.max_keys * self.importance.WIDTH,
                "fused row": self.fuser.memory_bits} if self.fuse else {}),
            **({"list": self.words("activation") * self.block_width,
                "list length": self.groups * (self.length_width + (self.block_tiles > 1))}
               if self.skip_words else {}),
        }

    @property
    def groups(self) -> int:
        """Row groups of the longest tensor whose blocks can be skipped."""
        return ceil_div(self.max_keys, self.rows)

    @property
    def block_width(self) -> int:
        """Bits of the number of a block of hidden units."""
        most = ceil_div(self.max_contraction, max(1, self.skip_words) * self.word_bytes)
        return max(1, (most - 1).bit_length())

    @property
    def block_units(self) -> int:
        """Hidden units of a block that can be skipped; 0 where nothing can."""
        return self.skip_words * self.word_bytes

    @property
    def block_steps(self) -> int:
        """Steps of the array for one block of hidden units."""
        return self.block_units // self.depth

    @property
    def block_tiles(self) -> int:
        """Column tiles of one block of hidden units."""
        return self.block_units // self.columns

    @property
    def length_width(self) -> int:
        """Bits of the length of a list: of any that fits beside the activation buffer."""
        return max(self.block_width + 1, self.words("activation").bit_length())

    @cached_property
    def importance(self) -> ImportanceSpec:
        """How the importance of tokens is accumulated."""
        return ImportanceSpec(max_keys=self.max_keys, lanes=self.columns, source=self.pruning,
                              sum_width=self.softmax.sum_width, index_bits=self.index_bits)

    @cached_property
    def topk(self) -> TopKSpec:
        """Who chooses the tokens that stay."""
        return TopKSpec(n=self.max_keys, width=self.importance.WIDTH, lanes=1, digit=2, buffers=1)

    @cached_property
    def fuser(self) -> FuseSpec:
        """What makes one token of those that leave."""
        return FuseSpec(lanes=self.columns, max_tokens=self.max_keys, max_width=self.max_width)

    def prune_cycles(self, tokens: int, rule: int) -> int:
        """Return the cycles of a PRUNE among so many tokens, from their importance on."""
        return tokens + 2 + self.topk.cycles(tokens, rule)

    @cached_property
    def mac(self) -> MacSpec:
        """The array; row operands are signed or unsigned 8 bit, so 9 bit signed."""
        largest = self.max_contraction << 15
        return MacSpec(rows=self.rows, columns=self.columns, depth=self.depth, a_width=9, b_width=8,
                       acc_width=signed_width(-largest, largest),
                       max_contraction=self.max_contraction, multiplier=self.multiplier)

    @cached_property
    def requant(self) -> RequantSpec:
        """The requantiser behind the array: one row of a tile per cycle."""
        return RequantSpec(lanes=self.columns)

    @cached_property
    def activation(self) -> ActivationSpec:
        """The activation unit behind the requantiser."""
        return ActivationSpec(lanes=self.columns, table_width=self.table_width,
                              load_entries=self.memory_bytes,
                              kinds=(ActivationKind.NONE, ActivationKind.RELU,
                                     ActivationKind.TABLE))

    @cached_property
    def softmax(self) -> SoftmaxSpec:
        """The softmax unit."""
        return SoftmaxSpec(rows=self.rows, lanes=self.columns, max_keys=self.max_keys,
                           index_bits=self.index_bits, load_entries=self.memory_bytes)

    @cached_property
    def norm(self) -> LayerNormSpec:
        """The LayerNorm unit."""
        return LayerNormSpec(lanes=self.columns, max_width=self.max_width, buffer_rows=1)


PRESETS: dict[str, RowwiseSpec] = {
    "tiny": RowwiseSpec(rows=4, columns=4, depth=4, memory_bytes=8, activation_bytes=64 * KIB,
                        residual_bytes=52 * KIB, key_bytes=8 * KIB, value_bytes=8 * KIB,
                        weight_bytes=8 * KIB, weight_tiles=32, max_width=256,
                        multiplier="inferred"),
    "paper": RowwiseSpec(),
    "ecp5": RowwiseSpec(rows=4, columns=4, depth=8, memory_bytes=8, activation_bytes=32 * KIB,
                        residual_bytes=16 * KIB, key_bytes=4 * KIB, value_bytes=4 * KIB,
                        weight_bytes=8 * KIB, max_keys=128, max_width=256,
                        max_contraction=1024, multiplier="inferred"),
}
"""``tiny`` simulates in seconds; ``paper`` has the 512 MACs of Hsiung and Chang and fits DeiT-Tiny
in their 232 KB, larger ones with external memory; ``ecp5`` is sized for the multipliers and block
RAM of an ECP5-85F."""
