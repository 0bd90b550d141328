# SPDX-License-Identifier: Apache-2.0
"""Traces of attention during generation: which keys and values a model fetched.

A trace is a CSV file (``.csv`` or ``.csv.gz``) in the format of the SpAtten authors' workloads,
with a row for each generated token, layer and head, and perhaps a last line with the name of its
configuration. It says how many keys and values were fetched and in how many bits, not which; so the
tensors here are random, made such that the core, choosing by itself, chooses as many.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Integers, ceil_div
from golden.operation import Opcode, Status
from golden.spatten.attention import distances, exponents
from golden.spatten.emulator import Emulator
from golden.spatten.operation import LAYOUT, LIMIT_BITS, Rescale
from golden.spatten.spec import LSB_BITS, SpattenSpec, key_beats, planes, value_planes
from golden.topk import Rule
from vitral.compile.spatten import limit
from vitral.usage import UsageError

__all__ = ["Layer", "Workload", "layers", "reduction", "workload"]

COLUMNS = (
    "iteration_id", "layer_id", "head_id", "embedding_length_D", "sentence_length_L",
    "key_fetch_num", "quant_key_bit", "auto_requant_thres", "if_requant", "auto_requant_incre",
    "value_fetch_num", "quant_value_bit", "if_accumulate_importance",
    "if_rescale_previous_importance", "if_topk", "topk")
STATIC = 12
"""Bits of a key where the trace says -1: not quantised further."""
STATIC_VALUE = 8
NEVER = (1 << LIMIT_BITS) - 1
FLAT, PEAKED = 1 / 24, 1.0
"""Scale of the queries of rows that need the low bits, and of the others."""
RESCALE_SHIFT = 1
"""By which "rescale" divides, of which neither paper nor traces say more."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The rows of one layer and one generated token.

    ``low`` says of each head whether the low bits of its keys were fetched, ``limit`` is the sum of
    exponents beyond which they are. ``left`` is how many tokens stay when the layer is done, None
    where none leave; ``restart``: chosen from all tokens, not only from those that were left.
    """

    line: int
    iteration: int
    layer: int
    width: int
    tokens: int
    keys: int
    values: int
    key_bits: int
    value_bits: int
    low: tuple[bool, ...]
    limit: int
    accumulate: bool
    left: int | None
    restart: bool

    @property
    def heads(self) -> int:
        """The heads that take part."""
        return len(self.low)

    def bytes_read(self, spec: SpattenSpec) -> int:
        """Return the bytes that the core reads: whole beats, queries included."""
        pairs, single = divmod(self.heads, 2)
        beats = self.keys * (pairs * key_beats(self.key_bits)
                             + single * key_beats(self.key_bits, 1) + sum(self.low))
        beats += self.heads * (min(self.values, self.keys) * value_planes(self.value_bits)
                               + spec.vector_beats)
        return beats * spec.memory_bytes


def layers(path: Path) -> list[Layer]:
    """Read a trace; ``UsageError`` with the line of a row that is malformed."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        why = getattr(error, "strerror", None) or "it is no text, or no gzip file"
        raise UsageError(f"cannot read {path}: {why}") from error
    reader = csv.reader(io.StringIO(text))
    names = [name.strip() for name in next(reader, [])]
    for name in COLUMNS:
        if name not in names:
            raise UsageError(f"{path}:1: trace must have a column {name}")
    rows = []
    for cells in reader:
        if rows and not any(cell.strip() for cell in cells[1:]):
            if any(cell.strip() for line in reader for cell in line):
                raise UsageError(f"{path}:{reader.line_num}: row must not stand behind the name of "
                                 "the configuration")
        elif any(cell.strip() for cell in cells):
            if len(cells) != len(names):
                raise UsageError(f"{path}:{reader.line_num}: row must have {len(names)} cells, not "
                                 f"{len(cells)}")
            rows.append(_Row(path, reader.line_num, dict(zip(names, cells, strict=True))))
    if not rows:
        raise UsageError(f"{path}: trace must have at least one row")
    result: list[Layer] = []
    for _, group in groupby(rows, lambda row: (row["iteration_id"], row["layer_id"])):
        result.append(_layer(list(group), result))
    return result


class _Row:
    """A row of the file; complains with its line."""

    def __init__(self, path: Path, line: int, cells: dict[str, str]):
        self._where, self.line, self._cells = f"{path}:{line}", line, cells

    def refuse(self, name: str, rule: str) -> UsageError:
        return UsageError(f"{self._where}: {name} must be {rule}, not "
                          f"{self._cells[name].strip()!r}")

    def number(self, name: str) -> float:
        try:
            value = float(self._cells[name])
        except ValueError:
            raise self.refuse(name, "a number") from None
        if not abs(value) < 1e9:
            raise self.refuse(name, "a number below 1e9")
        return value

    def __getitem__(self, name: str) -> int:
        value = self.number(name)
        if value != int(value):
            raise self.refuse(name, "a whole number")
        return int(value)

    def within(self, name: str, low: int, high: int) -> int:
        value = self[name]
        if not low <= value <= high:
            raise self.refuse(name, f"from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        text = self._cells[name].strip().lower()
        if text not in ("true", "false", "0", "1"):
            raise self.refuse(name, "True or False")
        return text in ("true", "1")

    def bits(self, name: str, static: int) -> int:
        value = self[name]
        if value not in (-1, 4, 6, 8, 10, 12):
            raise self.refuse(name, "4, 6, 8, 10, 12 or -1")
        return static if value == -1 else value


def _layer(rows: list[_Row], before: Sequence[Layer]) -> Layer:
    first = rows[0]
    last = before[-1] if before else None
    place = first.within("iteration_id", 0, 10**6), first.within("layer_id", 0, 10**4)
    if last and place <= (last.iteration, last.layer):
        raise first.refuse("layer_id", "that of a row behind iteration "
                           f"{last.iteration}, layer {last.layer}")
    length = first.within("sentence_length_L", 1, 65535)
    keys = first.within("key_fetch_num", 1, length)
    shared = ("embedding_length_D", "sentence_length_L", "key_fetch_num", "quant_key_bit",
              "value_fetch_num", "quant_value_bit")
    head = -1
    for row in rows:
        for name in shared:
            if row[name] != first[name]:
                raise row.refuse(name, f"{first[name]}, as for the layer's other heads")
        if row["head_id"] <= head:
            raise row.refuse("head_id", f"more than {head}, the one before")
        head = row["head_id"]
    key_bits = first.bits("quant_key_bit", STATIC)
    threshold = first.number("auto_requant_thres")
    low = tuple(row.flag("if_requant") for row in rows)
    progressive = threshold > 0
    for row, wanted in zip(rows, low, strict=True):
        if wanted and row["auto_requant_incre"] != LSB_BITS:
            raise row.refuse("auto_requant_incre", f"{LSB_BITS}, the low bits that a core has")
        if wanted and (not progressive or keys * threshold <= 1.25):
            raise row.refuse("if_requant", "False with so few keys or no auto_requant_thres: no "
                             "row of them is that flat")
    end = rows[-1]
    left = end.within("topk", 1, length + 1) if end.flag("if_topk") else None
    return Layer(
        line=first.line, iteration=place[0], layer=place[1],
        width=first.within("embedding_length_D", 1, 4096), tokens=length, keys=keys,
        values=first.within("value_fetch_num", 0, length), key_bits=key_bits,
        value_bits=first.bits("quant_value_bit", STATIC_VALUE), low=low,
        limit=limit(threshold)
        if progressive else NEVER,
        accumulate=first.flag("if_accumulate_importance"), left=left,
        restart=left is not None and (left > keys or
                                      end.flag("if_rescale_previous_importance")))


def dense(trace: Sequence[Layer]) -> list[Layer]:
    """Return the trace without any pruning: all keys and values, keys of 12 bits."""
    return [replace(one, keys=one.tokens, values=one.tokens, key_bits=STATIC,
                    value_bits=STATIC_VALUE, low=(False,) * one.heads, limit=NEVER,
                    accumulate=False, left=None, restart=False) for one in trace]


def reduction(trace: Sequence[Layer], spec: SpattenSpec) -> dict[str, float]:
    """Return the bytes of keys and values, step by step from dense 32-bit numbers to the trace."""
    width = spec.lanes
    cells = np.array([[one.heads * one.tokens, one.heads * one.keys,
                       one.heads * min(one.values, one.keys)] for one in trace]).sum(0) * width
    low = sum(one.keys * sum(one.low) for one in trace) * width
    key = sum(one.heads * one.keys * one.key_bits for one in trace) * width
    value = sum(one.heads * min(one.values, one.keys) * one.value_bits for one in trace) * width
    return {
        "dense, 32 bit": cells[0] * 8.0, "dense, 12 bit": cells[0] * 3.0,
        "tokens": cells[1] * 3.0, "values": (cells[1] + cells[2]) * 1.5,
        "high bits": (key + value) / 8, "low bits": (key + value + low * LSB_BITS) / 8,
        "moved": float(sum(one.bytes_read(spec) for one in trace)),
    }


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A trace as a program: the memory before and after, operations, and what the rows did."""

    memory: NDArray[np.uint8]
    operations: list[bytes]
    emulator: Emulator


@dataclass(frozen=True)
class _Places:
    """Where the tensors of a layer lie, in beats of a channel."""

    key: int
    key_low: int
    value: int
    rotation: int
    key_stride: int
    key_low_stride: int
    value_stride: int


class _Cache:
    """The random keys and values of all layers, in memory and as integers."""

    def __init__(self, spec: SpattenSpec, trace: Sequence[Layer], random: np.random.Generator):
        self.spec = spec
        tokens = max(one.tokens for one in trace)
        self.shapes: dict[int, tuple[int, int, int]] = {}
        for one in trace:
            shape = one.heads, one.key_bits, one.value_bits
            old = self.shapes.setdefault(one.layer, shape)
            if old[1:] != shape[1:]:
                raise UsageError(f"line {one.line}: layer {one.layer} must have keys and values of "
                                 f"{old[1]} and {old[2]} bits, as before, not {shape[1]} and "
                                 f"{shape[2]}")
            self.shapes[one.layer] = max(old, shape)
        self.rows = ceil_div(tokens, spec.channels)
        self.places: dict[int, _Places] = {}
        self.keys: dict[int, Integers] = {}
        self.beats = 0
        parts = []
        turn = 0
        for layer, (heads, key_bits, value_bits) in self.shapes.items():
            pairs = ceil_div(heads, 2)
            sizes = (pairs * key_beats(key_bits), heads, heads * value_planes(value_bits))
            first = [self.beats + self.rows * sum(sizes[:n]) for n in range(3)]
            self.places[layer] = _Places(
                key=first[0], key_low=first[1], value=first[2], rotation=turn % spec.channels,
                key_stride=sizes[0], key_low_stride=sizes[1], value_stride=sizes[2])
            self.beats += self.rows * sum(sizes)
            shape = (tokens, heads, spec.lanes)
            top = 1 << key_bits + LSB_BITS - 1
            key = self.keys[layer] = random.integers(-top, top, shape)
            value = random.integers(-1 << value_bits - 1, 1 << value_bits - 1, shape)
            parts.append((layer, key, value))
            turn += pairs
        self.memory = np.zeros((self.beats, spec.channels, spec.memory_bytes), np.uint8)
        for layer, key, value in parts:
            self._write(layer, key, value)

    def _write(self, layer: int, key: Integers, value: Integers) -> None:
        places, (heads, bits, value_bits) = self.places[layer], self.shapes[layer]
        whole, half = planes(bits)
        high, low = key >> LSB_BITS, key & (1 << LSB_BITS) - 1
        pair = 2 * whole + half
        for head in range(heads):
            first = places.key + head // 2 * pair + head % 2 * (whole + half)
            for plane in range(whole):
                self._put(first + plane, places.key_stride, head, places,
                          high[:, head] >> 4 * (whole - 1 - plane) + 2 * half)
            if half and head % 2 == 0:
                other = high[:, head + 1] & 3 if head + 1 < heads else 0
                self._put(first + whole, places.key_stride, head, places,
                          (high[:, head] & 3) << 2 | other)
            self._put(places.key_low + head, places.key_low_stride, head, places, low[:, head])
            count = value_planes(value_bits)
            for plane in range(count):
                self._put(places.value + head * count + plane, places.value_stride, head, places,
                          value[:, head] >> 4 * (count - 1 - plane))

    def _put(self, first: int, stride: int, head: int, places: _Places, plane: Integers) -> None:
        """Write 4 bits of each element of a vector of each token."""
        spec, token = self.spec, np.arange(len(plane))
        nibbles = (plane & 15).astype(np.uint8)
        self.memory[first + token // spec.channels * stride,
                    (token + places.rotation + head // 2) % spec.channels] = (
                        nibbles[:, ::2] | nibbles[:, 1::2] << 4)


def workload(trace: Sequence[Layer], spec: SpattenSpec, seed: int = 2026) -> Workload:
    """Make memory and operations of a trace, and run them on the golden model.

    ``UsageError`` where the core is too small, or where a row does not follow from those before.
    """
    for one in trace:
        if one.width != spec.lanes:
            raise UsageError(f"line {one.line}: embedding_length_D must be {spec.lanes} for this "
                             f"core, not {one.width}")
        for name, value, most in (("sentence_length_L", one.tokens, spec.max_tokens),
                                  ("heads of a layer", one.heads, spec.max_heads)):
            if value > most:
                raise UsageError(f"line {one.line}: {name} must be at most {most} for this core, "
                                 f"not {value}")
    random = np.random.default_rng(seed)
    cache = _Cache(spec, trace, random)
    area = ceil_div(max(one.heads for one in trace), 2) * 2 * spec.vector_beats
    size = cache.beats + 2 * area * len(trace)
    before = np.concatenate([cache.memory, np.zeros((size - cache.beats, *cache.memory.shape[1:]),
                                                    np.uint8)])
    core = Emulator(spec, before.copy())
    operations = list(_operations(trace, spec, cache, area, before, core, random))
    return Workload(memory=before, operations=operations, emulator=core)


def _operations(trace: Sequence[Layer], spec: SpattenSpec, cache: _Cache, area: int,
                before: NDArray[np.uint8], core: Emulator,
                random: np.random.Generator) -> Iterator[bytes]:
    def execute(**fields: int) -> bytes:
        operation = LAYOUT.pack({**fields, "tag": len(core.rows) & 0xFFFF})
        end = core.step(operation)
        assert end.status == Status.OK, end
        return operation

    left = None  # tokens that the last PRUNE left
    for number, one in enumerate(trace):
        dense = one.keys == one.tokens
        if not dense and one.keys != left:
            raise UsageError(f"line {one.line}: key_fetch_num must be "
                             f"{one.tokens if left is None else left}, the tokens that are left "
                             f"there, not {one.keys}")
        places = cache.places[one.layer]
        op = {"opcode": Opcode.ATTEND, "heads": one.heads, "tokens": one.tokens,
              "values": one.values, "key_planes": planes(one.key_bits)[0],
              "key_half": planes(one.key_bits)[1], "value_planes": value_planes(one.value_bits),
              "dense": dense, "accumulate": one.accumulate, "rotation": places.rotation,
              "limit": one.limit, "score_shift": one.key_bits + 6, "score_mul": 128, "mul": 32768,
              "shift": 3 + one.value_bits, "query": cache.beats + 2 * area * number,
              "output": cache.beats + 2 * area * number + area,
              **{name: getattr(places, name) for name in (
                  "key", "key_low", "value", "key_stride", "key_low_stride", "value_stride")}}
        live = np.arange(one.tokens) if dense or not core.pruned else np.flatnonzero(core.tokens)
        for head, low in enumerate(one.low):
            query = _query(spec, cache.keys[one.layer][live, head], one, low, op, random)
            first = op["query"] + head * spec.vector_beats
            channel = (places.rotation + head // 2) % spec.channels
            for memory in (before, core.memory):
                memory[first:first + spec.vector_beats, channel] = query.astype("<i2").view(
                    np.uint8).reshape(spec.vector_beats, spec.memory_bytes)
        yield execute(**op)
        if one.left is not None:
            following = trace[number + 1] if number + 1 < len(trace) else one
            left = min(one.left, following.tokens if one.restart else one.keys)
            yield execute(opcode=Opcode.PRUNE, tokens=following.tokens, level=left,
                          rule=Rule.TOPK, dense=one.restart, newest=one.restart,
                          importance_shift=4,
                          rescale=Rescale.SHIFT if one.restart else Rescale.KEEP,
                          rescale_shift=RESCALE_SHIFT)
    yield execute(opcode=Opcode.HALT)


def _query(spec: SpattenSpec, key: Integers, one: Layer, low: bool, op: dict[str, Any],
           random: np.random.Generator) -> Integers:
    """Draw a query with which the low bits are needed, or not."""
    high = key >> LSB_BITS << LSB_BITS
    top = 1 << spec.QUERY_BITS - 1
    for _ in range(100):
        query = (random.uniform(-top, top, spec.lanes) * (FLAT if low else PEAKED)).astype(np.int64)
        distance = distances(spec, high @ query, op["score_shift"], op["score_mul"])
        if (int(exponents(spec, distance).sum()) > one.limit) == low:
            return query
    raise UsageError(f"line {one.line}: if_requant must be {not low} for {one.keys} keys: no query "
                     "was found that is otherwise")
