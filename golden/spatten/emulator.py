# SPDX-License-Identifier: Apache-2.0
"""What the SpAtten core computes: programs executed operation by operation, in integers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from golden.activation import ActivationKind
from golden.fixed import Integers, ceil_div, product, saturate
from golden.operation import BusError, Completion, Opcode, Status
from golden.spatten.attention import chosen, distances, exponents, output, probabilities
from golden.spatten.memory import Bytes, Memory, Places
from golden.spatten.operation import (
    LAYOUT,
    Activation,
    Rescale,
    Subject,
    Target,
    check,
    constants,
)
from golden.spatten.spec import LOCAL, LSB_BITS, SpattenSpec
from golden.topk import Rule


@dataclass(frozen=True)
class Work:
    """What an operation had to do, as far as its descriptor does not say.

    ``rows`` are the tokens that it computed (PRUNE of tokens: that stay), ``keys`` those that an
    ATTEND attended to (PRUNE: that it chose from), ``inputs`` the vectors that a LINEAR multiplied
    of each, or the heads that attended, ``low`` the queries that fetched low bits. ``beats`` are
    those of the channel that read most, with the weights of a LINEAR as often as they are
    multiplied.
    """

    rows: int = 0
    keys: int = 0
    inputs: int = 0
    low: int = 0
    beats: int = 0
    status: Status = Status.OK
    blocks: None = None


LINEAR_CONSTANT = np.dtype([("bias", "<i4"), ("mul", "<u2"), ("shift", "u1"), ("zero", "u1")])
"""What a LINEAR must know of each output; of ``shift`` 6 bits count."""


@dataclass(frozen=True)
class Row:
    """What one query of an ATTEND did: keys and values that it fetched, whether low bits, too."""

    token: int
    head: int
    keys: int
    values: int
    low: bool


def digits(planes: Integers) -> Integers:
    """Return numbers of planes of 4 bits (..., planes, lanes), the first of which has the sign."""
    top = 8 << 4 * (planes.shape[-2] - 1)
    number = planes[..., 0, :]
    for plane in range(1, planes.shape[-2]):
        number = number << 4 | planes[..., plane, :]
    return (number ^ top) - top


def narrow(vector: Integers) -> Integers:
    """Return the low 12 bits of numbers, signed: those above are not looked at."""
    top = 1 << SpattenSpec.QUERY_BITS - 1
    return (vector & 2 * top - 1 ^ top) - top


@dataclass
class Emulator:
    """The core's state, and its external memory.

    Parameters
    ----------
    spec : SpattenSpec
    memory : uint8, (beats of a channel, channels, bytes of a beat): byte ``b`` of beat ``n`` of
        channel ``c`` has the address ``(n * channels + c) * bytes + b`` in the whole. Accesses
        beyond its end are bus errors.

    ``work`` has an entry for each operation so far, and ``rows`` a list with one for each query of
    an ATTEND; ``kept`` are the tokens that each PRUNE of tokens left.
    """

    spec: SpattenSpec
    memory: Bytes
    places: Memory = field(init=False)
    constants: Bytes = field(init=False)
    table: Integers = field(init=False)
    pruned: bool = field(init=False)
    tokens: NDArray[np.bool_] = field(init=False)
    heads: NDArray[np.bool_] = field(init=False)
    token_importance: Integers = field(init=False)
    head_importance: Integers = field(init=False)
    rows: list[list[Row]] = field(init=False, default_factory=list)
    kept: list[Integers] = field(init=False, default_factory=list)
    work: list[Work] = field(init=False, default_factory=list)

    def __post_init__(self):
        spec = self.spec
        self.places = Memory(spec, self.memory)
        self.constants = np.zeros((spec.constant_words, spec.memory_bytes), np.uint8)
        self.table = np.zeros(1 << spec.table_width, np.int64)
        self._failed = False
        self._clear()

    def _clear(self) -> None:
        self.pruned = False  # whether tokens were chosen since the last HALT
        self.tokens = np.ones(self.spec.max_tokens, bool)
        self.heads = np.ones(self.spec.max_heads, bool)
        self.token_importance = np.zeros(self.spec.max_tokens, np.int64)
        self.head_importance = np.zeros(self.spec.max_heads, np.int64)

    @property
    def bytes_read(self) -> int:
        """Bytes read from external memory."""
        return self.places.bytes_read

    @property
    def bytes_written(self) -> int:
        """Bytes written to external memory."""
        return self.places.bytes_written

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
            self.work.append(Work())
            return Completion(op["tag"], Status.OK)
        status = Status.SKIPPED if self._failed else check(self.spec, op)
        work, before = Work(), self.places.beats.copy()
        if status == Status.OK:
            try:
                work = {Opcode.ATTEND: self._attend, Opcode.PRUNE: self._prune,
                 Opcode.LINEAR: self._linear, Opcode.NORM: self._norm,
                 Opcode.LOAD: self._load}[Opcode(op["opcode"])](op)
            except BusError:
                status = Status.BUS_ERROR
        self._failed = status != Status.OK
        beats = int((self.places.beats - before).max())
        self.work.append(replace(work, beats=beats, status=status))
        return Completion(op["tag"], status)

    # Operations

    def _live(self, op: Mapping[str, int]) -> Integers:
        """Return the tokens of an operation."""
        return (np.arange(op["tokens"]) if op["dense"] or not self.pruned
                else np.flatnonzero(self.tokens))

    def _place(self, op: Mapping[str, int], name: str, token: Places, vector: int,
               beats: int) -> tuple[Places, Places]:
        """Return channel and first beat of a vector of each token."""
        channels = self.spec.channels
        return ((token + op["rotation"] + vector // 2) % channels,
                op[name] + token // channels * op[f"{name}_stride"] + vector * beats)

    def _attend(self, op: Mapping[str, int]) -> Work:
        spec = self.spec
        live = self._live(op)
        lane, row = live % spec.channels, live // spec.channels
        position = np.zeros(len(live), np.int64)  # in the list of its lane
        for number in range(spec.channels):
            position[lane == number] = np.arange((lane == number).sum())
        places = position * spec.channels + lane
        queries = live[live < op["count"]] if op["count"] else np.zeros(1, np.int64)
        for pair in range(ceil_div(op["heads"], 2)):
            heads = [head for head in (2 * pair, 2 * pair + 1)
                     if head < op["heads"] and self.heads[head]]
            if not heads:
                continue
            turn = pair // 2 if op["narrow"] else pair
            channel = (lane + op["rotation"] + turn) % spec.channels
            whole, half = op["key_planes"], op["key_half"]
            if op["narrow"]:
                first = op["key"] + row * op["key_stride"] + pair * whole
                key = digits(self.places.nibbles(channel, first, whole, len(queries))) << LSB_BITS
                self._heads(op, queries, heads, channel, live, row, places, key)
                continue
            # planes of the even head, the shared one, planes of the odd head
            first = op["key"] + row * op["key_stride"] + pair * (2 * whole + half)
            data = self.places.nibbles(channel, first + (heads[0] % 2) * whole,
                                       len(heads) * whole + half, len(queries))
            shared = data[:, whole * (1 - heads[0] % 2)] if half else None
            for head in heads:
                parts = data[:, -whole:] if head % 2 else data[:, :whole]
                parts = digits(parts) << LSB_BITS + 2 * half
                if shared is not None:
                    parts += (shared & 3 if head % 2 else shared >> 2) << LSB_BITS
                self._heads(op, queries, [head], channel, live, row, places, parts)
        return Work(len(queries), len(live), int(self.heads[:op["heads"]].sum()),
                    sum(row.low for row in self.rows[-1]))

    def _heads(self, op: Mapping[str, int], tokens: Integers, heads: list[int], channel: Integers,
               live: Integers, row: Integers, places: Integers, key: Integers) -> None:
        """Attend with the queries of the heads of a vector; ``key`` (keys, lanes) lacks its low
        bits, which all of them get if one needs them."""
        spec, beats = self.spec, self.spec.vector_beats
        vector = heads[0] // 2 if op["narrow"] else heads[0]
        query = narrow(self.places.vectors(*self._place(op, "query", tokens, vector, beats)))
        size = spec.lanes // 2 if op["narrow"] else spec.lanes
        parts = [slice(first, first + size) for first in (
            head % 2 * size if op["narrow"] else 0 for head in heads)]

        def weigh(query: Integers, key: Integers) -> tuple[Integers, Integers]:
            distance = np.stack([
                distances(spec, product(query[:, part], key[:, part].T), op["score_shift"],
                          op["score_mul"]) for part in parts])
            return distance, exponents(spec, distance)

        distance, exponent = weigh(query, key)  # (heads, queries, keys)
        low = (exponent.sum(-1) > op["limit"]).any(0)
        if low.any():
            first = op["key_low"] + row * op["key_low_stride"] + vector
            key = key + self.places.nibbles(channel, first, 1, int(low.sum()))[:, 0]
            distance[:, low], exponent[:, low] = weigh(query[low], key)
        total = exponent.sum(-1)
        keep = chosen(spec, distance, places, op["values"])
        wanted = keep.any(0)  # by any of the heads
        fetched = wanted.any(0)
        first = op["value"] + row[fetched] * op["value_stride"] + vector * op["value_planes"]
        value = digits(self.places.nibbles(channel[fetched], first, op["value_planes"],
                                           wanted.sum(0)[fetched]))
        y = np.zeros_like(query)
        for n, part in enumerate(parts):
            y[:, part] = output(spec, (exponent[n] * keep[n])[:, fetched], value[:, part],
                                total[n], op["mul"], op["shift"])
        self.places.store_vectors(*self._place(op, "output", tokens, vector, beats), y)
        adds = tokens == 0 if op["class_row"] else np.ones(len(tokens), bool)
        for n, (head, part) in enumerate(zip(heads, parts, strict=True)):
            if op["accumulate"]:
                p = probabilities(spec, exponent[n, adds], total[n, adds, None])
                most = spec.IMPORTANCE_BITS
                self.token_importance[live] = saturate(self.token_importance[live] + p.sum(0),
                                                       most, signed=False)
                self.head_importance[head] = saturate(
                    self.head_importance[head] + np.abs(y[adds, part]).sum(), most, signed=False)
            self.rows[-1] += [
                Row(int(token), head, len(live), int(values), bool(flat))
                for token, values, flat in zip(tokens, keep[n].sum(-1), low, strict=True)]

    def _constants(self, op: Mapping[str, int], kind: np.dtype) -> NDArray:
        """Return the constants of an operation."""
        words = self.constants[op["constant"]:][:constants(self.spec, op)]
        return words.reshape(-1).view(kind)

    def _linear(self, op: Mapping[str, int]) -> Work:
        """Multiply rows by a matrix whose rows lie in memory as keys do."""
        spec, live, planes = self.spec, self._live(op), self.spec.WEIGHT_PLANES
        size = op["outputs"] * spec.lanes
        left = self.heads[::2] | self.heads[1::2] if op["narrow"] else self.heads
        inputs = [n for n in range(op["inputs"]) if not op["by_head"] or left[n]]
        if not inputs:
            return Work()
        total = np.zeros((len(live), size), np.int64)
        lane, row = np.arange(size) % spec.channels, np.arange(size) // spec.channels
        for n in inputs:
            where = self._place({**op, "rotation": 0}, "query", live, n, spec.vector_beats)
            x = narrow(self.places.vectors(*where))
            first = op["key"] + row * op["key_stride"] + n * planes
            weight = digits(self.places.nibbles(lane, first, planes, len(live)))
            total += product(x, weight.T)
        constant = self._constants(op, LINEAR_CONSTANT)[:size]
        y = spec.linear_requant.compute(saturate(total + constant["bias"], 32), constant["mul"],
                                        constant["shift"] & 63)
        match op["activation"]:
            case Activation.CLIP:
                y = saturate(y, spec.QUERY_BITS)
            case Activation.RELU:
                y = spec.activation.compute(y, ActivationKind.RELU)
            case Activation.TABLE:
                y = spec.activation.compute(y, ActivationKind.TABLE, table=self.table)
        for n, numbers in enumerate(np.split(y, op["outputs"], -1)):
            if op["planes"]:
                self._store_planes(op, live, n, numbers)
                continue
            where = self._place(op, "output", live, n, spec.vector_beats)
            if op["residual"]:
                numbers = saturate(self.places.vectors(*where) + numbers, 16)
            self.places.store_vectors(*where, numbers)
        return Work(len(live), inputs=len(inputs))

    def _store_planes(self, op: Mapping[str, int], live: Integers, vector: int,
                      numbers: Integers) -> None:
        """Store numbers in planes of 4 bits, saturated: all but the last, and the last."""
        bits = 4 * op["value_planes"]
        numbers = saturate(numbers, bits)
        for plane in range(op["value_planes"] - 1):
            channel, first = self._place(op, "output", live, vector, op["output_step"])
            self.places.store_plane(channel, first + plane, numbers >> bits - 4 * plane - 4 & 15)
        self.places.store_plane(*self._place(op, "key_low", live, vector, op["low_step"]),
                                numbers & 15)

    def _norm(self, op: Mapping[str, int]) -> Work:
        """Normalise rows of 16-bit numbers."""
        spec, live = self.spec, self._live(op)
        rows = np.concatenate([
            self.places.vectors(*self._place(op, "query", live, n, spec.vector_beats))
            for n in range(op["inputs"])], -1)
        gamma, beta = self._constants(op, np.dtype("<i2")).reshape(-1, 2)[:op["count"]].T
        y = np.zeros_like(rows)
        y[:, :op["count"]] = spec.norm.compute(rows[:, :op["count"]], gamma.astype(np.int64),
                                               beta.astype(np.int64), op["shift"])
        for n, numbers in enumerate(np.split(y, op["inputs"], -1)):
            self.places.store_vectors(*self._place(op, "output", live, n, spec.vector_beats),
                                      numbers)
        return Work(len(live))

    def _load(self, op: Mapping[str, int]) -> Work:
        """Bring beats of external memory to the chip."""
        channels = np.arange(self.spec.channels)
        one = np.int64(op["rotation"] % self.spec.channels)
        match op["target"]:
            case Target.LOCAL:
                if op["key"] & LOCAL:
                    raise BusError(f"beat {op['key']} to be loaded is not outside")
                data = self.places.read(channels, np.full_like(channels, op["key"]), op["count"])
                self.places.write(channels, np.full_like(channels, op["output"]), data)
            case Target.CONSTANTS:
                self.constants[op["constant"]:][:op["count"]] = self.places.read(
                    one, np.int64(op["key"]), op["count"])
            case Target.TABLE:
                size = self.spec.memory_bytes
                data = self.places.read(one, np.int64(op["key"]), op["count"])
                self.table[op["constant"] * size:][:op["count"] * size] = data.reshape(-1).view(
                    np.int8)
        return Work()

    def _prune(self, op: Mapping[str, int]) -> Work:
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
        if not heads:
            self.kept.append(np.flatnonzero(live))
        self.pruned |= not heads
        match op["rescale"]:
            case Rescale.SHIFT:
                importance >>= op["rescale_shift"]
            case Rescale.DECAY:
                importance -= importance >> op["rescale_shift"]
            case Rescale.CLEAR:
                importance[:] = 0
        return Work(int(live.sum()), int(candidates.sum()))
