# SPDX-License-Identifier: Apache-2.0
"""What the row-wise core computes: programs executed operation by operation, in integers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from golden.activation import ActivationKind
from golden.fixed import Integers, ceil_div, product, saturate
from golden.operation import BusError, Completion, Opcode, Status
from golden.rowwise.operation import (
    LAYOUT,
    LIVE,
    NORM_BYTES,
    SCALE_BYTES,
    Importance,
    Place,
    check,
    live_rows,
    runs,
    sections,
)
from golden.rowwise.spec import RowwiseSpec
from golden.topk import Rule

Bytes = NDArray[np.uint8]

TOKENS = 65535
"""The token count after a HALT: it cuts nothing."""


def signed(data: Bytes) -> Integers:
    """Return bytes as signed 8-bit numbers."""
    return data.view(np.int8).astype(np.int64)


def unsigned(numbers: Integers) -> Bytes:
    """Return the low 8 bits of each number."""
    return (numbers & 255).astype(np.uint8)


def wrap(numbers: Integers, width: int) -> Integers:
    """Reduce to ``width`` bits, two's complement."""
    half = 1 << (width - 1)
    return ((numbers + half) & ((1 << width) - 1)) - half


@dataclass(frozen=True)
class Work:
    """What an operation had to do, as far as its descriptor does not say.

    ``rows`` are those that it computed (PRUNE and FUSE: the tokens that stay), ``keys`` those of an
    ATTEND (PRUNE and FUSE: the tokens they chose from); ``blocks`` counts the blocks that a LINEAR
    with ``skip`` multiplied, by row tile; ``status`` is that of its completion.
    """

    rows: int
    keys: int = 0
    blocks: tuple[int, ...] | None = None
    status: Status = Status.OK


@dataclass
class Emulator:
    """The core's state, and its external memory.

    Buffers keep their contents from one program to the next, as in hardware. Every array is
    addressed as ``buffer[word, bank, byte]`` (``residual[word, element]``).

    Parameters
    ----------
    spec : RowwiseSpec
    memory : external memory, uint8; accesses beyond its end are bus errors.

    ``work`` has an entry for each operation so far: what a cycle model must know of the data.
    """

    spec: RowwiseSpec
    memory: Bytes
    activation: Bytes = field(init=False)
    residual: Integers = field(init=False)
    key: Bytes = field(init=False)
    value: Bytes = field(init=False)
    macs: int = field(init=False, default=0)
    bytes_read: int = field(init=False, default=0)
    bytes_written: int = field(init=False, default=0)
    work: list[Work] = field(init=False, default_factory=list)

    def __post_init__(self):
        spec, word = self.spec, self.spec.word_bytes
        self.activation = np.zeros((spec.words("activation"), spec.rows, word), np.uint8)
        self.residual = np.zeros((spec.words("residual"), spec.columns), np.int64)
        self.key = np.zeros((spec.words("key"), spec.columns, word), np.uint8)
        self.value = np.zeros((spec.words("value"), spec.depth, spec.columns), np.uint8)
        self._activation_table = np.zeros(1 << spec.table_width, np.int64)
        self._exponent_table = np.zeros(256, np.int64)
        self._gamma = np.zeros(spec.norm.max_words * spec.columns, np.int64)
        self._beta = self._gamma.copy()
        self._failed = False
        self._tokens, self._pruned = TOKENS, False
        self._importance = np.zeros(spec.max_keys, np.int64)
        self._kept = np.zeros(spec.max_keys, np.int64)
        self._fused: Integers | None = None  # importance of the tokens that the last FUSE saw
        self._lists = np.zeros(spec.words("activation"), np.int64)
        self._lengths = np.zeros(spec.groups, np.int64)

    def run(self, program: Iterable[bytes]) -> list[Completion]:
        """Execute descriptors in order; return their completions."""
        return [self.step(descriptor) for descriptor in program]

    def step(self, descriptor: bytes) -> Completion:
        """Execute one operation."""
        op = LAYOUT.unpack(descriptor)
        self.work.append(Work(0))
        if op["opcode"] == Opcode.HALT and check(self.spec, op) == Status.OK:
            self._failed = False
            self._tokens, self._pruned = TOKENS, False
            return Completion(op["tag"], Status.OK)
        status = Status.SKIPPED if self._failed else check(self.spec, op)
        if status == Status.OK:
            op["most"], op["rows"] = op["rows"], live_rows(op, self._tokens)
            if op["live"] and op["opcode"] == Opcode.ATTEND:
                op["keys"] = min(op["keys"], self._tokens)
            self.work[-1] = Work(op["rows"], op["keys"])
            try:
                if op["rows"] or op["opcode"] not in LIVE:
                    getattr(self, f"_{Opcode(op['opcode']).name.lower()}")(op)
            except BusError:
                status = Status.BUS_ERROR
        self._failed = status != Status.OK
        self.work[-1] = replace(self.work[-1], status=status)
        return Completion(op["tag"], status)

    # External memory

    def _read(self, address: int, count: int) -> Bytes:
        if count and address + count > len(self.memory):
            raise BusError(f"read of {count} bytes at {address:#x} is beyond the memory")
        self.bytes_read += count
        return self.memory[address:address + count]

    def _weights(self, op: Mapping[str, int]) -> list[tuple[str, Bytes]]:
        parts = list(sections(self.spec, op))
        stream = self._read(op["address"], sum(size for _, size in parts))
        ends = np.cumsum([size for _, size in parts])[:-1]
        return [(name, part) for (name, _), part in
                zip(parts, np.split(stream, ends), strict=True)] if parts else []

    def _load(self, op: Mapping[str, int]) -> None:
        data = np.concatenate([self._read(*run) for run in runs(self.spec, op)])
        where = slice(op["target"], op["target"] + op["keys"])
        if op["place"] == Place.ACTIVATION:
            self.activation[where] = data.reshape(self.activation[where].shape)
        else:
            self.residual[where] = data.view("<i2").reshape(self.residual[where].shape)

    def _store(self, op: Mapping[str, int]) -> None:
        places = list(runs(self.spec, op))
        for address, size in places:
            if address + size > len(self.memory):
                raise BusError(f"write of {size} bytes at {address:#x} is beyond the memory")
        where = slice(op["target"], op["target"] + op["keys"])
        data = (self.activation[where] if op["place"] == Place.ACTIVATION
                else self.residual[where].astype("<i2").view(np.uint8))
        data = data.ravel()
        for address, size in places:
            self.memory[address:address + size] = data[:size]
            data = data[size:]
            self.bytes_written += size

    # Rows of the banked buffers

    @staticmethod
    def _places(banks: int, base: int, stride: int, first: int, rows: int,
                words: int) -> tuple[Integers, Integers]:
        token = first + np.arange(rows)
        address = base + (token // banks * stride)[:, None] + np.arange(words)
        return address, (token % banks)[:, None]

    def _source(self, op: Mapping[str, int]) -> Bytes:
        """Return the source rows, ``depth`` steps wide."""
        width = op["depth"] * self.spec.depth
        rows = self.activation[self._places(
            self.spec.rows, op["source"], op["source_stride"], op["source_row"], op["rows"],
            ceil_div(width, self.spec.word_bytes))]
        return rows.reshape(op["rows"], -1)[:, :width]

    def _store_rows(self, buffer: Bytes, banks: int, op: Mapping[str, int], rows: Bytes) -> None:
        """Write rows of bytes; bytes of the last word beyond their width keep their value."""
        word = buffer.shape[2]
        places = self._places(banks, op["target"], op["target_stride"], op["target_row"], len(rows),
                              ceil_div(rows.shape[1], word))
        old = buffer[places].reshape(len(rows), -1)
        old[:, :rows.shape[1]] = rows
        buffer[places] = old.reshape(len(rows), -1, word)

    # Array operations

    def _linear(self, op: Mapping[str, int]) -> None:
        spec = self.spec
        columns, depth = op["columns"], op["depth"]
        tiles, scales = [], []
        for name, part in self._weights(op):
            if name == "activation table":
                self._activation_table = part.astype(np.int64)
            elif name == "scale":
                scales.append(part.reshape(spec.columns, SCALE_BYTES))
            else:
                tiles.append(signed(part).reshape(depth, spec.columns, spec.depth))
        weight = np.stack(tiles).transpose(1, 3, 0, 2).reshape(depth * spec.depth, -1)
        scale = np.concatenate(scales)
        bias = scale[:, :4].copy().view("<i4").astype(np.int64).ravel()
        mul = scale[:, 4:6].copy().view("<u2").astype(np.int64).ravel()
        shift = scale[:, 6].astype(np.int64) & 63
        source = self._source(op)
        rows = source.astype(np.int64) if op["unsigned"] else signed(source)
        if op["skip"]:
            rows = self._listed(op, rows)
        acc = wrap(product(rows, weight) + bias, 32)
        self.macs += rows.size * columns * spec.columns
        q = spec.requant.compute(acc, mul, shift)
        if op["place"] in (Place.RESIDUAL, Place.ADD):
            token = op["target_row"] + np.arange(len(q))
            words = op["target"] + (token * op["target_stride"])[:, None] + np.arange(columns)
            q = q.reshape(len(q), columns, spec.columns)
            if op["place"] == Place.ADD:
                q = saturate(self.residual[words] + q, 16)
            self.residual[words] = q
            return
        activates = op["place"] == Place.ACTIVATION
        kind = ActivationKind(op["activation"]) if activates else ActivationKind.NONE
        y = unsigned(spec.activation.compute(q, kind, table=self._activation_table))
        match op["place"]:
            case Place.ACTIVATION:
                self._store_rows(self.activation, spec.rows, op, y)
                if op["detect"]:
                    self._list(op, y)
            case Place.KEY:
                self._store_rows(self.key, spec.columns, op, y)
            case Place.VALUE:
                self._store_rows(self.value, spec.depth, op, y)

    def _groups(self, base: str, stride: str, row: str,
                op: Mapping[str, int]) -> Iterator[tuple[int, slice, int]]:
        """Yield, of each row tile, the number of its row group, its rows and its address."""
        rows = self.spec.rows
        for first in range(0, op["rows"], rows):
            group = (op[row] + first) // rows
            yield group, slice(first, min(first + rows, op["rows"])), op[base] + group * op[stride]

    def _list(self, op: Mapping[str, int], y: Bytes) -> None:
        """List, for each row tile, the blocks in which a number is above ``level``."""
        size = self.spec.block_units
        above = y.reshape(len(y), -1, size).max(-1) > op["level"]
        for group, rows, address in self._groups("target", "target_stride", "target_row", op):
            listed = np.flatnonzero(above[rows].any(0))
            self._lists[address:address + len(listed)] = listed
            self._lengths[group] = len(listed)

    def _listed(self, op: Mapping[str, int], rows: Integers) -> Integers:
        """Return the source rows with 0 in the place of blocks that are not in their lists."""
        size = self.spec.block_units
        count = rows.shape[1] // size
        result, done = np.zeros_like(rows), []
        for group, part, address in self._groups("source", "source_stride", "source_row", op):
            length = min(int(self._lengths[group]), count)
            for block in np.minimum(self._lists[address:address + length], count - 1):
                at = slice(block * size, (block + 1) * size)
                result[part, at] += rows[part, at]
            done.append(length)
        self.work[-1] = replace(self.work[-1], blocks=tuple(done))
        return result

    def _prune(self, op: Mapping[str, int]) -> None:
        """Choose the tokens that stay."""
        spec, count = self.spec, min(op["rows"], self._tokens)
        mask = spec.topk.select(spec.importance.importance(self._importance[:count]),
                                Rule(op["rule"]), op["level"], protected=max(1, op["protected"]))
        kept = np.flatnonzero(mask)
        self._kept[:len(kept)] = kept
        self._tokens, self._pruned, self._fused = len(kept), True, None
        self.work[-1] = Work(len(kept), count)

    def _fuse(self, op: Mapping[str, int]) -> None:
        """Choose the tokens that stay; one more stands for the others, if there are any."""
        self._prune(op)
        kept, count = self.work[-1].rows, self.work[-1].keys
        if kept < count:
            self._tokens += 1
            self._fused = self.spec.importance.importance(self._importance[:count])

    def _attend(self, op: Mapping[str, int]) -> None:
        spec, keys = self.spec, op["keys"]
        for _, part in self._weights(op):
            self._exponent_table = part.astype(np.int64)
        query = signed(self._source(op))
        width = query.shape[1]
        words = ceil_div(width, spec.word_bytes)
        key = signed(self.key[self._places(spec.columns, op["key"], words, 0, keys, words)]
                     .reshape(keys, -1)[:, :width])
        value = signed(self.value[self._places(spec.depth, op["value"], op["columns"], 0, keys,
                                               op["columns"])].reshape(keys, -1))
        scores = saturate(spec.requant.compute(product(query, key.T), op["score_mul"],
                                               op["score_shift"]), 8)
        exponents = spec.softmax.exponents(scores, self._exponent_table)
        if op["importance"]:
            sums = self._importance[:keys]
            self._importance[:keys] = spec.importance.add(
                sums if op["importance"] == Importance.ADD else np.zeros_like(sums), exponents,
                op["source_row"])
        # a table without a first entry can leave nothing but zeros: a result of 0 with any factor
        total = np.maximum(exponents.sum(-1), 1)
        factor, k = spec.softmax.reciprocal.compute(total, op["mul"])
        acc = product(exponents, value)
        shift = np.minimum(op["shift"] + k, 63)
        y = spec.requant.compute(acc, factor[:, None], shift[:, None])
        self.macs += query.size * keys + exponents.size * value.shape[1]
        self._store_rows(self.activation, spec.rows, op, unsigned(saturate(y, 8)))

    def _norm(self, op: Mapping[str, int]) -> None:
        spec, width, most = self.spec, op["width"], op["most"]
        words = ceil_div(width, spec.columns)
        for _, part in self._weights(op):
            pairs = part.view("<i2").astype(np.int64).reshape(-1, NORM_BYTES // 2)
            self._gamma[:len(pairs)], self._beta[:len(pairs)] = pairs.T
        row = op["source_row"] + np.arange(op["rows"])
        places = op["source"] + (row * op["source_stride"])[:, None] + np.arange(words)
        x = self.residual[places]
        if op["gather"] and self._pruned:
            weights = self._fused if op["rows"] == self._tokens else None
            kept = np.minimum(self._kept[:op["rows"] - (weights is not None)], most - 1)
            every = places[:1] + (np.arange(most) * op["source_stride"])[:, None]
            x = self.residual[every[kept]]
            if weights is not None:
                left = np.setdiff1d(np.arange(min(len(weights), most)), kept)
                fused = spec.fuser.compute(
                    self.residual[every[left]].reshape(len(left), -1), weights[left],
                    op["score_mul"], op["score_shift"])
                x = np.concatenate([x, fused.reshape(1, words, -1)])
            self.residual[places] = x
        x = x.reshape(op["rows"], -1)
        y = spec.norm.compute(x[:, :width], self._gamma[:width], self._beta[:width], op["shift"])
        padded = np.zeros_like(x)
        padded[:, :width] = y
        self._store_rows(self.activation, spec.rows, op, unsigned(padded))

