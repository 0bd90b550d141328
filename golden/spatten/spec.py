# SPDX-License-Identifier: Apache-2.0
"""Parameters of the SpAtten core, and what follows from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from golden.activation import ActivationKind, ActivationSpec
from golden.fixed import ceil_div
from golden.fuse import FuseSpec
from golden.layernorm import LayerNormSpec
from golden.reciprocal import ReciprocalSpec
from golden.requant import RequantSpec
from golden.topk import TopKSpec
from golden.validate import integer, power_of_two, require

LSB_BITS = 4
"""Bits of a key that are fetched only if the softmax is flat."""

ADDRESS_BITS = 27
"""Of the address of a beat."""

LOCAL = 1 << ADDRESS_BITS - 1
"""Beats from this address on are those of a channel's local memory."""


@dataclass(frozen=True, kw_only=True)
class SpattenSpec:
    """``channels`` memory channels, each with an engine of ``lanes`` multipliers behind it.

    Keys and values lie in memory in planes of 4 bits: one beat is 4 bits of each of the ``lanes``
    numbers of a vector, and takes an engine one cycle, whatever it is for. So an engine is
    never slower than its channel, and only sums travel between channels.

    Token ``t`` belongs to lane ``t mod channels``, row ``t div channels``; which channel has a
    lane's data changes from one pair of heads to the next (*rotation*), which evens out the load.

    Parameters
    ----------
    channels : memory channels, a power of two.
    lanes : multipliers of a channel, 12 x 4 bit; the width of a head. A beat has ``lanes / 2``
        bytes.
    max_tokens : tokens of the longest cache, a multiple of ``channels``.
    max_heads : heads of a layer, even.
    pairs : pairs of heads whose keys can be under way at the same time, a power of two.
    score_rows : rows of scores (of one key per channel) that can wait, a power of two.
    selectors : vectors of probabilities from which values are chosen at the same time.
    value_queue : values per channel that can wait for their fetch, a power of two.
    prune_lanes : tokens that are compared at the same time when some leave, a power of two, at
        least ``channels``.
    output_queue : outputs per channel that can wait to be added up, a power of two.
    outstanding : beats that a channel can owe.
    index_bits : index bits of the softmax reciprocal.
    local : beats of each channel's local memory, a power of two. With 0 there is none, and the core
        does attention of generation alone; else whole networks run, what they keep lying there.
    max_width : elements of the widest row that is normalised.
    table_width : index bits of the activation's table.
    fuse : whether tokens that leave can become one (FUSE), with local memories.
    """

    channels: int = 16
    lanes: int = 64
    max_tokens: int = 1024
    max_heads: int = 16
    pairs: int = 8
    score_rows: int = 256
    selectors: int = 4
    value_queue: int = 128
    prune_lanes: int = 32
    output_queue: int = 8
    outstanding: int = 64
    index_bits: int = 8
    local: int = 0
    max_width: int = 384
    table_width: int = 10
    fuse: bool = False

    QUERY_BITS = 12
    OUTPUT_BITS = 12
    PROBABILITY_BITS = 12
    DISTANCE_BITS = 9
    OCTAVE_BITS = 5
    """A distance to the row's greatest score counts ``2**-5`` octaves."""
    STEP_BITS = 14
    """Bits of a distance before its multiplication by ``score_mul / 2**9``."""
    IMPORTANCE_BITS = 32
    SELECT_BITS = 16
    """Bits of an importance when tokens or heads are chosen."""
    WEIGHT_PLANES = 2
    MAX_INPUTS = 48
    """Vectors of a LINEAR's inputs: what a score has bits for."""
    pruning: ClassVar[str] = "column"
    """Whose attention says how important a token is, if a network does not say."""
    rules: ClassVar[tuple[str, ...]] = ("topk", "threshold", "mean")
    """How the tokens that stay can be chosen, as the command line calls it; the default first."""
    accumulate: ClassVar[str | None] = "cumulative"
    """What importance becomes when some were chosen, if a network does not say."""
    skip_words: ClassVar[int] = 0

    def __post_init__(self):
        power_of_two("channels", self.channels, 1, 32)
        power_of_two("lanes", self.lanes, 8, 128)
        integer("max_tokens", self.max_tokens, 2 * self.channels, 4096)
        require(self.max_tokens % self.channels == 0,
                f"max_tokens must be a multiple of channels {self.channels}, not {self.max_tokens}")
        integer("max_heads", self.max_heads, 2, 64)
        require(self.max_heads % 2 == 0, f"max_heads must be even, not {self.max_heads}")
        power_of_two("pairs", self.pairs, 2, 16)
        power_of_two("score_rows", self.score_rows, 2, 8192)
        require(self.score_rows >= 2 * self.rows,
                f"score_rows must be at least {2 * self.rows} (two vectors of max_tokens / "
                f"channels rows), not {self.score_rows}")
        integer("selectors", self.selectors, 1, 16)
        power_of_two("value_queue", self.value_queue, 4, 4096)
        power_of_two("prune_lanes", self.prune_lanes, self.channels, 64)
        require(self.max_tokens % self.prune_lanes == 0,
                f"max_tokens must be a multiple of prune_lanes {self.prune_lanes}, not "
                f"{self.max_tokens}")
        power_of_two("output_queue", self.output_queue, 2, 16)
        integer("outstanding", self.outstanding, 8, 256)
        integer("index_bits", self.index_bits, 1, 10)
        _ = self.select, self.prune, self.reciprocal, self.requant
        integer("max_width", self.max_width, 1, 4096)
        integer("table_width", self.table_width, 8, 12)
        require(self.local > 0 or not self.fuse, "fuse must be False with local 0, not True")
        if self.local:
            power_of_two("local", self.local, 16, 8192)
            require(max(16, 2 * self.channels) <= self.lanes <= 64,
                    f"lanes must be from {max(16, 2 * self.channels)} to 64 (what addresses have "
                    f"bits for) with local memories, not {self.lanes}")
            require(self.max_tokens >= self.lanes,
                    f"max_tokens must be at least the lanes {self.lanes} with local memories, not "
                    f"{self.max_tokens}")
            _ = self.norm, self.activation, self.linear_requant, self.fuser

    @property
    def macs(self) -> int:
        """Multipliers of 12 x 4 bit."""
        return self.channels * self.lanes

    @property
    def memory_bytes(self) -> int:
        """Bytes of a beat of one channel."""
        return self.lanes // 2

    @property
    def rows(self) -> int:
        """Tokens of a lane."""
        return self.max_tokens // self.channels

    @property
    def vector_beats(self) -> int:
        """Beats of a vector of 16-bit numbers: a query, an output."""
        return 2 * self.lanes // self.memory_bytes

    @property
    def sharing(self) -> int:
        """Narrow heads that can share a vector: 2, or 1 where one selector could not hold both."""
        return min(2, self.selectors)

    @property
    def low_jobs(self) -> int:
        """Heads whose low bits can be under way: all of the pairs that can.

        A channel can keep the ends of as many: its engine must not wait for the row unit while that
        waits for values to be fetched.
        """
        return 2 * self.pairs

    @property
    def acc_bits(self) -> int:
        """Bits of a score: 12 x 16 bit, ``lanes`` products.

        With local memories one more, for those of 12 x 12 bit of all inputs of a LINEAR.
        """
        return self.QUERY_BITS + 16 + (self.lanes - 1).bit_length() + bool(self.local)

    @property
    def sum_bits(self) -> int:
        """Bits of a row's sum of exponents."""
        return self.PROBABILITY_BITS + (self.max_tokens - 1).bit_length()

    @property
    def value_bits(self) -> int:
        """Bits of one channel's part of an output, before requantisation."""
        return self.PROBABILITY_BITS + 12 + (self.rows - 1).bit_length()

    @cached_property
    def select(self) -> TopKSpec:
        """Who chooses the values of a row: by distance, absent keys being 0."""
        return TopKSpec(n=self.max_tokens, width=self.DISTANCE_BITS + 1, lanes=self.channels,
                        digit=5, buffers=1, threshold=False, mask=True)

    @cached_property
    def prune(self) -> TopKSpec:
        """Who chooses the tokens and heads that stay."""
        return TopKSpec(n=max(self.max_tokens, self.max_heads), width=self.SELECT_BITS,
                        lanes=self.prune_lanes, digit=4, buffers=1, absent=True, mask=True)

    @cached_property
    def reciprocal(self) -> ReciprocalSpec:
        """The reciprocal of a row's sum."""
        return ReciprocalSpec(sum_width=self.sum_bits, index_bits=self.index_bits)

    @cached_property
    def requant(self) -> RequantSpec:
        """The requantiser of outputs."""
        return RequantSpec(lanes=max(1, self.lanes // 8), out_width=self.OUTPUT_BITS,
                           acc_width=self.value_bits + (self.channels - 1).bit_length())

    @property
    def linear_lanes(self) -> int:
        """Outputs of a linear layer that are requantised at the same time."""
        return min(self.channels, self.memory_bytes // 8)

    @cached_property
    def linear_requant(self) -> RequantSpec:
        """The requantiser of linear layers."""
        return RequantSpec(lanes=self.linear_lanes)

    @cached_property
    def activation(self) -> ActivationSpec:
        """The activation of linear layers."""
        return ActivationSpec(lanes=self.linear_lanes, table_width=self.table_width,
                              load_entries=self.memory_bytes,
                              kinds=(ActivationKind.RELU, ActivationKind.TABLE))

    @cached_property
    def norm(self) -> LayerNormSpec:
        """Who normalises rows: as many elements at the same time as a beat has of constants."""
        return LayerNormSpec(lanes=self.memory_bytes // 4, max_width=self.max_width)

    @cached_property
    def fuser(self) -> FuseSpec:
        """What adds up the rows of tokens that leave: as many elements at the same time as a beat
        has of them, of whole vectors."""
        return FuseSpec(lanes=self.memory_bytes // 2, max_tokens=self.max_tokens,
                        max_width=ceil_div(self.max_width, self.lanes) * self.lanes)

    @property
    def constant_words(self) -> int:
        """Beats of constants on chip: 8 bytes for an output, or 4 for an element of a NORM."""
        return max(ceil_div(8 * self.max_tokens, self.memory_bytes),
                   ceil_div(4 * self.max_width, self.memory_bytes))

    @property
    def table_words(self) -> int:
        """Beats of the activation's table."""
        return (1 << self.table_width) // self.memory_bytes

    @property
    def importance_words(self) -> int:
        """Beats of the importance of all tokens, 4 bytes each."""
        return ceil_div(4 * self.max_tokens, self.memory_bytes)

    @property
    def memory_bits(self) -> dict[str, int]:
        """Bits of each on-chip memory."""
        c = self.channels
        row = (self.rows - 1).bit_length()
        encoder = {
            "local": 8 * c * self.local * self.memory_bytes,
            "constants": 8 * self.constant_words * self.memory_bytes,
            "activation": self.activation.table_spec.memory_bits,
            "norm": sum(self.norm.memory_bits.values()),
        } if self.local else {}
        encoder |= {"fused row": self.fuser.memory_bits} if self.fuse else {}
        return encoder | {
            "query": c * self.pairs * 2 * self.lanes * self.QUERY_BITS,
            "score": c * self.score_rows * 2 * self.acc_bits,
            "exponent": self.selectors * self.rows * c * (self.PROBABILITY_BITS + row + 1),
            "mate": (self.sharing - 1) * self.rows * c * (self.PROBABILITY_BITS + 1),
            "selection": self.selectors * self.select.memory_bits,
            "token list": c * self.rows * row,
            "importance": self.max_tokens * self.IMPORTANCE_BITS,
            "pruning": self.prune.memory_bits,
            "value queue": c * self.value_queue * (
                row + self.sharing * self.PROBABILITY_BITS + 1),
            "output": c * self.output_queue * self.lanes * self.value_bits,
        }


def planes(bits: int) -> tuple[int, bool]:
    """Return how a number of ``bits`` bits is stored: planes of 4 bits, and whether one of 2."""
    require(bits in (4, 6, 8, 10, 12), f"bits must be 4, 6, 8, 10 or 12, not {bits}")
    return bits // 4, bits % 4 == 2


def key_beats(bits: int, heads: int = 2) -> int:
    """Return the beats of a key of one head, or of two together, which share a plane of 2 bits."""
    whole, half = planes(bits)
    return heads * whole + half


def value_planes(bits: int) -> int:
    """Return the beats of a value."""
    return ceil_div(bits, 4)


PRESETS: dict[str, SpattenSpec] = {
    "tiny": SpattenSpec(channels=2, lanes=16, max_tokens=64, max_heads=4, pairs=2, score_rows=64,
                        selectors=1, value_queue=16, prune_lanes=4, output_queue=2, outstanding=16,
                        local=2048, max_width=64),
    "paper": SpattenSpec(local=1024),
    "paper-1/8": SpattenSpec(channels=2, score_rows=2048, selectors=2, value_queue=1024,
                             prune_lanes=16, output_queue=4, local=8192),
    "ecp5": SpattenSpec(channels=2, lanes=32, max_tokens=256, max_heads=8, pairs=4, score_rows=256,
                        selectors=1, value_queue=64, prune_lanes=4, output_queue=2, outstanding=32,
                        local=8192, max_width=256),
}
"""``paper`` and ``paper-1/8`` have as many multipliers (1024, 128) and as much memory bandwidth
(512 and 64 bytes per cycle) as the configurations of Wang et al.; theirs have 12 x 12 bit, and half
of them is for keys, half for values."""
