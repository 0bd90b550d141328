# SPDX-License-Identifier: Apache-2.0
"""What passes between the blocks of the SpAtten core, and between the core and the world."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from golden.spatten.operation import LIMIT_BITS
from golden.spatten.spec import SpattenSpec


def bits(values: int) -> int:
    """Return the bits of a number below ``values``; at least 1."""
    return max(1, (values - 1).bit_length())


def write_request(spec: SpattenSpec) -> data.StructLayout:
    """A write of consecutive beats of one channel."""
    return data.StructLayout({"channel": bits(spec.channels), "address": 32, "beats": 16})


def fetch(spec: SpattenSpec) -> data.StructLayout:
    """A request for a vector of 16-bit numbers; all but ``beat`` comes back with its beats.

    It is a query, for a slot of the query memories, or, with ``unit``, one that the
    :class:`~hw.spatten.reader.Reader` wants, in a slot of its own.
    """
    return data.StructLayout({"beat": 27, "slot": bits(spec.pairs), "odd": 1, "unit": 1})


def fetched(spec: SpattenSpec) -> data.StructLayout:
    """One beat of a vector, for the query memories of all channels or (``unit``) the reader."""
    return data.StructLayout({"data": 8 * spec.memory_bytes, "slot": bits(spec.pairs), "odd": 1,
                              "unit": 1, "part": bits(spec.vector_beats), "error": 1})


def job(spec: SpattenSpec) -> data.StructLayout:
    """Scores of a pair of heads, or of one; the same for all channels.

    ``low``: add the products of the low bits, of one head, to the scores that lie there. ``add``:
    of an even (bit 0) or odd head that takes part, add the products to the scores that lie there;
    scores of heads that do not take part stay, if any bit is set. ``base``
    is the first row of the score memory, whose rows follow each other modulo its size. ``beat`` is
    that of token row 0 (of the first head that takes part). ``narrow``: the heads share a vector,
    whose query lies in the even memory; low bits are those of both.
    """
    return data.StructLayout({
        "slot": bits(spec.pairs), "even": 1, "odd": 1, "low": 1, "add": 2,
        "base": bits(spec.score_rows), "beat": 27, "stride": 16, "planes": 2, "half": 1,
        "narrow": 1, "dense": 1, "tokens": bits(spec.max_tokens + 1), "turn": bits(spec.channels)})


def scored(spec: SpattenSpec) -> data.StructLayout:
    """A channel's end of a job: how many keys it had, the greatest score of each head.

    Without keys ``even`` and ``odd`` are the least number. A ``low`` job has its head's in the
    field of that head; the other does not matter.
    """
    return data.StructLayout({"even": signed(spec.acc_bits), "odd": signed(spec.acc_bits),
                              "keys": bits(spec.rows + 1), "error": 1})


def score(spec: SpattenSpec) -> data.StructLayout:
    """A word of a channel's score memory: the scores of one key, and its token row."""
    return data.StructLayout({"even": signed(spec.acc_bits), "odd": signed(spec.acc_bits),
                              "row": bits(spec.rows)})


def task(spec: SpattenSpec) -> data.StructLayout:
    """Values of a vector, the same for all channels; ``beat`` is that of token row 0."""
    return data.StructLayout({"beat": 27, "stride": 16, "planes": 2})


def wanted(spec: SpattenSpec) -> data.StructLayout:
    """A value that a channel must fetch, and its exponents; or, with ``end``, the end of a task."""
    return data.StructLayout({"row": bits(spec.rows), "exponents": exponents(spec), "end": 1})


def exponents(spec: SpattenSpec) -> data.ArrayLayout:
    """What the parts of a value vector are multiplied by: its halves, where heads can share it."""
    return data.ArrayLayout(unsigned(spec.PROBABILITY_BITS), spec.sharing)


def part(spec: SpattenSpec) -> data.StructLayout:
    """A channel's part of an output."""
    return data.StructLayout({"sums": data.ArrayLayout(signed(spec.value_bits), spec.lanes),
                              "error": 1})


def pair(spec: SpattenSpec) -> data.StructLayout:
    """What the row unit must know of a pair of heads whose scores are under way.

    The fields behind ``base`` are those of the operation, which ``op`` names; ``value`` and
    ``output`` are beats of the even head, ``key_low`` of the even head and token row 0. ``heads``
    of a vector that is not there are not ``even`` or ``odd``. ``last``: of its operation. ``turn``
    is that of the keys, ``own`` the channel of query and output. With ``narrow`` the heads share
    vectors, and all beats are those of both.
    """
    return data.StructLayout({
        "slot": bits(spec.pairs), "even": 1, "odd": 1, "base": bits(spec.score_rows),
        "turn": bits(spec.channels), "own": bits(spec.channels),
        "pair": bits(spec.max_heads // 2), "op": 2, "last": 1, "narrow": 1, "dense": 1,
        "tokens": bits(spec.max_tokens + 1),
        "values": 16, "limit": LIMIT_BITS, "score_shift": 5, "score_mul": 8, "accumulate": 1,
        "key_low": 27, "key_low_stride": 16, "value": 27, "value_stride": 16, "value_planes": 2,
        "output": 27, "mul": 16, "shift": 6, "error": 1})


def result(spec: SpattenSpec) -> data.StructLayout:
    """What the output unit must know of a task, in the order of the tasks.

    ``total`` is the row's sum of exponents. ``last``: of its operation. A task whose halves are
    those of two heads has two results: the first one only ``begins`` it, the second one ``ends``
    it; their errors are the same.
    """
    return data.StructLayout({
        "total": spec.sum_bits, "mul": 16, "shift": 6, "channel": bits(spec.channels),
        "output": 27, "head": bits(spec.max_heads), "accumulate": 1, "op": 2, "last": 1,
        "begins": 1, "ends": 1, "error": 1})


def addition(spec: SpattenSpec) -> data.StructLayout:
    """Probabilities for the importance of tokens, by lane; lanes that are not ``there`` have
    none."""
    c = spec.channels
    return data.StructLayout({
        "row": data.ArrayLayout(unsigned(bits(spec.rows)), c),
        "probability": data.ArrayLayout(unsigned(spec.PROBABILITY_BITS), c), "there": c})


def adding(spec: SpattenSpec) -> wiring.Signature:
    """Additions, which always are accepted."""
    return wiring.Signature({"valid": Out(1), "payload": Out(addition(spec))})


def head_amount(spec: SpattenSpec) -> wiring.Signature:
    """What a task adds to the importance of its head: the sum of the magnitudes of its output."""
    most = spec.lanes << spec.OUTPUT_BITS - 1
    return wiring.Signature({"valid": Out(1), "head": Out(bits(spec.max_heads)),
                             "amount": Out(bits(most + 1))})


DONE = data.StructLayout({"op": 2, "error": 1})
"""An operation whose outputs are in memory; ``error``: something was wrong with one of them."""


def prune(spec: SpattenSpec) -> data.StructLayout:
    """A PRUNE: the fields of its descriptor; ``count`` are its tokens or heads, at least 1."""
    return data.StructLayout({
        "subject": 1, "count": bits(max(spec.max_tokens, spec.max_heads) + 1), "dense": 1,
        "newest": 1, "rule": 1, "level": 16, "protected": 2, "importance_shift": 5,
        "rescale": 2, "rescale_shift": 5})


def vector_at(spec: SpattenSpec) -> data.StructLayout:
    """Where a vector of 16-bit numbers lies: ``spec.vector_beats`` beats from ``beat`` on."""
    return data.StructLayout({"channel": bits(spec.channels), "beat": 27})


def numbers(spec: SpattenSpec) -> data.ArrayLayout:
    """The numbers of a beat of a vector."""
    return data.ArrayLayout(signed(16), spec.memory_bytes // 2)


def vector_beat(spec: SpattenSpec) -> data.StructLayout:
    """A beat of a vector that was read."""
    return data.StructLayout({"numbers": numbers(spec), "error": 1})


def destination(spec: SpattenSpec) -> data.StructLayout:
    """Where a vector goes: as it is from ``beat`` on, or in ``planes``, if they are not 0.

    Then the upper planes lie from ``beat`` on, one less than ``planes``, and the last one at
    ``low``; a beat each, of numbers that saturate to 4 bits a plane.
    """
    return data.StructLayout({"channel": bits(spec.channels), "beat": 27, "low": 27, "planes": 2})


def walked(spec: SpattenSpec, addresses: int) -> data.StructLayout:
    """A token that takes part: the channel of its first vector, beats of its row, ``last`` one."""
    return data.StructLayout({"token": bits(spec.max_tokens), "channel": bits(spec.channels),
                              "beat": data.ArrayLayout(27, addresses), "last": 1})


def load(spec: SpattenSpec) -> data.StructLayout:
    """Beats that a channel copies from its external memory to its local one."""
    return data.StructLayout({"source": 27, "target": bits(max(2, spec.local)), "beats": 16})


def local_write(spec: SpattenSpec) -> data.StructLayout:
    """A beat for a local memory."""
    return data.StructLayout({"address": bits(max(2, spec.local)), "data": 8 * spec.memory_bytes})
