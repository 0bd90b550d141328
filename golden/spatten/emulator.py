# SPDX-License-Identifier: Apache-2.0
"""What the SpAtten core computes: programs executed operation by operation, in integers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Integers, ceil_div, saturate
from golden.operation import BusError, Completion, Opcode, Status
from golden.spatten.attention import chosen, distances, exponents, output, probabilities
from golden.spatten.operation import LAYOUT, Rescale, Subject, check
from golden.spatten.spec import LSB_BITS, SpattenSpec
from golden.topk import Rule

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """What one head of an ATTEND did: keys and values that it fetched, whether low bits, too."""

    head: int
    keys: int
    values: int
    low: bool


def digits(planes: Integers) -> Integers:
    """Return numbers of planes of 4 bits (..., planes, lanes), the first of which has the sign."""
    top = 8 << 4 * (planes.shape[-2] - 1)
    weights = 16 ** np.arange(planes.shape[-2])[::-1]
    return (np.einsum("...pl,p->...l", planes, weights) ^ top) - top


@dataclass
class Emulator:
    """The core's state, and its external memory.

    Parameters
    ----------
    spec : SpattenSpec
    memory : uint8, (beats of a channel, channels, bytes of a beat): byte ``b`` of beat ``n`` of
        channel ``c`` has the address ``(n * channels + c) * bytes + b`` in the whole. Accesses
        beyond its end are bus errors.

    ``rows`` has, for each operation so far, an entry for each of its heads.
    """

    spec: SpattenSpec
    memory: Bytes
    pruned: bool = field(init=False)
    tokens: NDArray[np.bool_] = field(init=False)
    heads: NDArray[np.bool_] = field(init=False)
    token_importance: Integers = field(init=False)
    head_importance: Integers = field(init=False)
    bytes_read: int = field(init=False, default=0)
    bytes_written: int = field(init=False, default=0)
    rows: list[list[Row]] = field(init=False, default_factory=list)

    def __post_init__(self):
        self._failed = False
        self._clear()

    def _clear(self) -> None:
        self.pruned = False  # whether tokens were chosen since the last HALT
        self.tokens = np.ones(self.spec.max_tokens, bool)
        self.heads = np.ones(self.spec.max_heads, bool)
        self.token_importance = np.zeros(self.spec.max_tokens, np.int64)
        self.head_importance = np.zeros(self.spec.max_heads, np.int64)

    def run(self, program: Iterable[bytes]) -> list[Completion]:
        """Execute descriptors in order; return their completions."""
        return [self.step(descriptor) for descriptor in program]

    def step(self, descriptor: bytes) -> Completion:
        """Execute one operation."""
        op = LAYOUT.unpack(descriptor)
        self.rows.append([])
        if op["opcode"] == Opcode.HALT:
            self._failed = False
            self._clear()
            return Completion(op["tag"], Status.OK)
        status = Status.SKIPPED if self._failed else check(self.spec, op)
        if status == Status.OK:
            try:
                (self._attend if op["opcode"] == Opcode.ATTEND else self._prune)(op)
            except BusError:
                status = Status.BUS_ERROR
        self._failed = status != Status.OK
        return Completion(op["tag"], status)

    # External memory

    def _beats(self, channel: Integers, first: Integers, beats: int) -> Integers:
        """Return so many beats from ``first`` on, as 4-bit numbers: (..., beats, lanes)."""
        place = first[..., None] + np.arange(beats)
        if place.size and place.max() >= len(self.memory):
            raise BusError(f"read of beat {place.max()} is beyond the memory")
        data = self.memory[place, channel[..., None]].astype(np.int64)
        self.bytes_read += data.size
        return np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:-1], self.spec.lanes)

    def _vector(self, channel: int, first: int) -> Integers:
        """Return a vector of 16-bit numbers."""
        where = slice(first, first + self.spec.vector_beats)
        if where.stop > len(self.memory):
            raise BusError(f"read of beat {where.stop - 1} is beyond the memory")
        self.bytes_read += self.spec.vector_beats * self.spec.memory_bytes
        return self.memory[where, channel].reshape(-1).view("<i2").astype(np.int64)

    def _store(self, channel: int, first: int, vector: Integers) -> None:
        where = slice(first, first + self.spec.vector_beats)
        if where.stop > len(self.memory):
            raise BusError(f"write of beat {where.stop - 1} is beyond the memory")
        data = vector.astype("<i2").view(np.uint8).reshape(-1, self.spec.memory_bytes)
        self.memory[where, channel] = data
        self.bytes_written += data.size

    # Operations

    def _attend(self, op: Mapping[str, int]) -> None:
        spec = self.spec
        live = (np.arange(op["tokens"]) if op["dense"] or not self.pruned
                else np.flatnonzero(self.tokens))
        lane, row = live % spec.channels, live // spec.channels
        position = np.zeros(len(live), np.int64)  # in the list of its lane
        for number in range(spec.channels):
            position[lane == number] = np.arange((lane == number).sum())
        places = position * spec.channels + lane
        for pair in range(ceil_div(op["heads"], 2)):
            heads = [head for head in (2 * pair, 2 * pair + 1)
                     if head < op["heads"] and self.heads[head]]
            if not heads:
                continue
            turn = op["rotation"] + pair
            channel, own = (lane + turn) % spec.channels, turn % spec.channels
            whole, half = op["key_planes"], op["key_half"]
            count = len(heads) * whole + half
            # planes of the even head, the shared one, planes of the odd head
            first = op["key"] + row * op["key_stride"] + pair * (2 * whole + half)
            data = self._beats(channel, first + (heads[0] % 2) * whole, count)
            shared = data[:, whole * (1 - heads[0] % 2)] if half else None
            for head in heads:
                parts = data[:, -whole:] if head % 2 else data[:, :whole]
                parts = digits(parts) << LSB_BITS + 2 * half
                if shared is not None:
                    parts += (shared & 3 if head % 2 else shared >> 2) << LSB_BITS
                self._row(op, head, own, channel, live, row, places, parts)

    def _row(self, op: Mapping[str, int], head: int, own: int, channel: Integers, live: Integers,
             row: Integers, places: Integers, key: Integers) -> None:
        spec = self.spec
        top = 1 << spec.QUERY_BITS - 1  # the bits above are not looked at
        query = self._vector(own, op["query"] + head * spec.vector_beats)
        query = (query & 2 * top - 1 ^ top) - top
        distance = distances(spec, key @ query, op["score_shift"], op["score_mul"])
        exponent = exponents(spec, distance)
        low = int(exponent.sum()) > op["limit"]
        if low:
            first = op["key_low"] + row * op["key_low_stride"] + head
            key = key + self._beats(channel, first, 1)[:, 0]
            distance = distances(spec, key @ query, op["score_shift"], op["score_mul"])
            exponent = exponents(spec, distance)
        total = int(exponent.sum())
        keep = chosen(spec, distance, places, op["values"])
        planes = op["value_planes"]
        first = op["value"] + row[keep] * op["value_stride"] + head * planes
        value = digits(self._beats(channel[keep], first, planes))
        y = output(spec, exponent[keep], value, total, op["mul"], op["shift"])
        self._store(own, op["output"] + head * spec.vector_beats, y)
        if op["accumulate"]:
            most = spec.IMPORTANCE_BITS
            self.token_importance[live] = saturate(
                self.token_importance[live] + probabilities(spec, exponent, total), most,
                signed=False)
            self.head_importance[head] = saturate(
                self.head_importance[head] + np.abs(y).sum(), most, signed=False)
        self.rows[-1].append(Row(head, len(live), int(keep.sum()), low))

    def _prune(self, op: Mapping[str, int]) -> None:
        """Choose the tokens or heads that stay; rescale all importances of their kind."""
        spec, heads = self.spec, op["subject"] == Subject.HEADS
        count = op["heads"] if heads else op["tokens"]
        importance = self.head_importance if heads else self.token_importance
        live = self.heads if heads else self.tokens
        candidates = np.ones(count, bool) if op["dense"] else live[:count].copy()
        top = (1 << spec.SELECT_BITS) - 1
        scores = np.minimum(importance[:count] >> op["importance_shift"], top - 2) + 1
        if op["newest"]:
            scores[-1] = top
            candidates[-1] = True
        keep = spec.prune.select(np.where(candidates, scores, 0), Rule(op["rule"]), op["level"],
                                 protected=max(1, op["protected"]) if not heads
                                 else op["protected"])
        live[:] = False
        live[:count] = keep & candidates
        self.pruned |= not heads
        match op["rescale"]:
            case Rescale.SHIFT:
                importance >>= op["rescale_shift"]
            case Rescale.DECAY:
                importance -= importance >> op["rescale_shift"]
            case Rescale.CLEAR:
                importance[:] = 0
