# SPDX-License-Identifier: Apache-2.0
"""The operations of the SpAtten core: descriptor fields, and the rules that they must obey."""

from collections.abc import Mapping
from enum import IntEnum

from golden.fixed import ceil_div
from golden.operation import Layout, Opcode, Status
from golden.spatten.spec import LOCAL, SpattenSpec
from golden.topk import Rule

LIMIT_BITS = 24
"""Bits of the greatest sum of exponents with which the low bits of the keys are not needed."""


class Subject(IntEnum):
    """What a PRUNE chooses from."""

    TOKENS = 0
    HEADS = 1


class Rescale(IntEnum):
    """What a PRUNE does with all importances of its kind when it has chosen."""

    KEEP = 0
    SHIFT = 1
    """``s >> rescale_shift``: what came before counts less."""
    DECAY = 2
    """``s - (s >> rescale_shift)``: an exponential average."""
    CLEAR = 3


class Activation(IntEnum):
    """What a LINEAR does with its requantised sums of 16 bits."""

    NONE = 0
    CLIP = 1
    """Saturates to the 12 bits of a query."""
    RELU = 2
    """``clip(x, 0, 255)``."""
    TABLE = 3
    """Signed 8 bits of the table that was loaded, as :class:`golden.activation.ActivationSpec`."""


class Target(IntEnum):
    """Where a LOAD brings its beats."""

    LOCAL = 0
    """Every channel from its external memory to its local one."""
    CONSTANTS = 1
    """From one channel to the constants of LINEAR and NORM."""
    TABLE = 2
    """From one channel to the activation's table, ``memory_bytes`` entries a beat."""


LAYOUT = Layout.of(
    opcode=(0, 8),  # Opcode
    tag=(2, 16),  # returned with the completion
    # ATTEND: one query of each head that is left, or one of each head and token
    heads=(4, 8),
    narrow=(5, 1),  # two heads share a vector. LINEAR: an input `by_head` is that of two
    tokens=(6, 16),  # where all count: so many. PRUNE: those from which it chooses
    values=(8, 16),  # values that are fetched for each head, at most
    key_planes=(10, 2),  # 1 to 3 planes of 4 bits
    key_half=(10.25, 1),  # and one of 2 bits, shared by two heads
    value_planes=(10.5, 2),  # 1 to 3
    dense=(10.75, 1),  # all tokens, not those that PRUNE left; PRUNE: choose from all
    accumulate=(10.875, 1),  # add to the importance of tokens and heads
    rotation=(11, 8),  # LINEAR: of the outputs alone
    limit=(12, LIMIT_BITS),  # sum of exponents above which the low bits are fetched
    score_shift=(15, 5),  # of a distance, before its multiplication
    score_mul=(16, 8),  # times 2**-9: octaves / 2**5
    shift=(17, 6),  # exponent of the output's scale
    mul=(18, 16),  # multiplier of the output's scale
    query=(20, 32),  # beats, counted in a channel: first query
    key=(24, 32),  # token row 0, heads 0 and 1
    key_low=(28, 32),  # low bits, token row 0, head 0
    value=(32, 32),  # token row 0, head 0
    output=(36, 32),
    key_stride=(40, 16),  # beats from one token row to the next
    key_low_stride=(42, 16),
    value_stride=(44, 16),
    # PRUNE
    level=(46, 16),  # Rule.TOPK: how many stay; else what an importance is compared with
    subject=(48, 1),  # Subject
    newest=(48.125, 1),  # the last token stays
    rule=(48.25, 2),  # Rule
    protected=(48.5, 2),  # first tokens that stay, at least 1
    rescale=(48.75, 2),  # Rescale
    importance_shift=(49, 5),  # importance >> this is compared
    rescale_shift=(50, 5),
    # LINEAR, NORM: vectors of `lanes` numbers to a token
    inputs=(51, 8),
    outputs=(52, 8),
    activation=(53, 2),  # Activation
    planes=(53.25, 1),  # results go out as planes of 4 bits, not as 16-bit numbers
    residual=(53.375, 1),  # added to what lies at the output
    by_head=(53.5, 1),  # an input is that of a head, and counts if the head is left
    class_row=(53.625, 1),  # ATTEND: only token 0 adds to importance
    target=(53.75, 2),  # LOAD: Target
    query_stride=(54, 16),  # beats from one token row to the next: of queries or inputs,
    output_stride=(56, 16),  # and of outputs
    count=(58, 16),  # ATTEND: tokens with queries; LOAD: beats; NORM: elements of a row
    constant=(60, 16),  # first beat of the constants; LOAD: of constants or table
    output_step=(62, 4),  # beats from one vector to the next of the upper planes,
    low_step=(62.5, 4),  # and of the last one
)
"""The descriptor. Offsets are bytes; an eighth of a byte stands for a bit."""


def constants(spec: SpattenSpec, op: Mapping[str, int]) -> int:
    """Return the beats of constants that a LINEAR or NORM reads."""
    size = 4 * op["count"] if op["opcode"] == Opcode.NORM else 8 * op["outputs"] * spec.lanes
    return ceil_div(size, spec.memory_bytes)


def check(spec: SpattenSpec, op: Mapping[str, int]) -> Status:
    """Return OK, or why the core refuses the operation before touching anything."""
    opcode = op["opcode"]
    tokens_fit = 0 < op["tokens"] <= spec.max_tokens
    match opcode:
        case Opcode.HALT:
            return Status.OK
        case Opcode.ATTEND:
            if not (0 < op["heads"] <= spec.max_heads and tokens_fit
                    and op["count"] <= (spec.max_tokens if spec.local else 0)
                    and op["key_planes"] and op["value_planes"]
                    and op["key_planes"] + op["key_half"] <= 3
                    and not (op["narrow"] and (op["key_half"] or spec.sharing < 2))):
                return Status.BAD_SHAPE
            return Status.OK
        case Opcode.PRUNE:
            if op["rule"] > Rule.THRESHOLD:
                return Status.BAD_OPCODE
            heads = op["subject"] == Subject.HEADS
            most = op["heads"] if heads else op["tokens"]
            if not 0 < most <= (spec.max_heads if heads else spec.max_tokens):
                return Status.BAD_SHAPE
            return Status.OK
        case (Opcode.LINEAR | Opcode.NORM | Opcode.LOAD) if spec.local:
            pass
        case _:
            return Status.BAD_OPCODE
    if opcode == Opcode.LOAD:
        if op["target"] > Target.TABLE:
            return Status.BAD_OPCODE
        first, room = {
            Target.LOCAL: (op["output"] - LOCAL, spec.local),
            Target.CONSTANTS: (op["constant"], spec.constant_words),
            Target.TABLE: (op["constant"], spec.table_words),
        }[Target(op["target"])]
        if not op["count"]:
            return Status.BAD_SHAPE
        return Status.OK if 0 <= first <= room - op["count"] else Status.OUT_OF_RANGE
    shape = tokens_fit and 0 < op["inputs"] <= spec.MAX_INPUTS
    if opcode == Opcode.NORM:
        shape = (shape and spec.norm.Z_FRACTION <= op["shift"] <= spec.norm.MAX_SHIFT
                 and (op["inputs"] - 1) * spec.lanes < op["count"] <= min(
                     spec.max_width, op["inputs"] * spec.lanes))
    else:
        shape = (shape and 0 < op["outputs"] * spec.lanes <= spec.max_tokens
                 and not (op["by_head"] and op["inputs"] << op["narrow"] > spec.max_heads)
                 and not (op["planes"] and (op["residual"] or not op["value_planes"])))
    if not shape:
        return Status.BAD_SHAPE
    fits = op["constant"] + constants(spec, op) <= spec.constant_words
    return Status.OK if fits else Status.OUT_OF_RANGE
