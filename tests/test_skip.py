# SPDX-License-Identifier: Apache-2.0
"""Blocks of hidden units that are skipped: RTL against the emulator, and what it saves."""

import dataclasses

import numpy as np
import pytest

from golden.activation import ActivationKind
from golden.fixed import ceil_div
from golden.operation import Opcode, Status, Wait
from golden.requant import RequantSpec
from golden.rowwise.cycles import predict
from golden.rowwise.emulator import Emulator
from golden.rowwise.operation import LAYOUT, SCALE_BYTES, Place
from sim.core import simulate
from tests.networks import random_vit
from tests.test_rowwise import GEOMETRIES, NETWORKS, SMALL, patched
from tests.test_rowwise import check as check_run
from vitral.compile.rowwise import compile

SPECS = {f"{name} {words}": dataclasses.replace(GEOMETRIES[name], skip_words=words)
         for name, words in (("2x4x4", 1), ("2x4x4", 2), ("2x2x8", 1), ("1x8x4", 1), ("1x8x4", 2),
                             ("8x4x2", 1), ("8x4x2", 4), ("2x2x8", 2))}


class Builder:
    """A program by hand: fc1 makes any hidden units at all, fc2 multiplies them."""

    def __init__(self, spec, seed):
        self.spec, self.random = spec, np.random.default_rng(seed)
        self.memory = bytearray()
        self.operations = []

    def put(self, data):
        """Append to the memory; return the address."""
        address = len(self.memory)
        self.memory += bytes(data)
        self.memory += bytes(-len(self.memory) % 256)
        return address

    def operation(self, **fields):
        self.operations.append(LAYOUT.pack(
            dict.fromkeys(LAYOUT.fields, 0) | {"tag": len(self.operations)} | fields))

    def stream(self, weight, bias):
        """Return the weight stream of a layer that neither scales nor rounds."""
        spec = self.spec
        mul, shift = (int(one) for one in RequantSpec().factors(1.0))
        steps = weight.shape[0] // spec.depth
        data = b""
        for first in range(0, weight.shape[1], spec.columns):
            scale = np.zeros((spec.columns, SCALE_BYTES), np.uint8)
            scale[:, :4] = bias[first:first + spec.columns, None].astype("<i4").view(np.uint8)
            scale[:, 4:6] = np.frombuffer(np.uint16(mul).tobytes(), np.uint8)
            scale[:, 6] = shift
            tile = weight[:, first:first + spec.columns].reshape(steps, spec.depth, spec.columns)
            data += scale.tobytes() + tile.transpose(0, 2, 1).astype(np.int8).tobytes()
        return data

    def hidden(self, rows, blocks, density, high=128):
        """Return random hidden units; row tile ``t`` has a share ``density[t]`` of blocks not 0."""
        spec = self.spec
        size = spec.skip_words * spec.word_bytes
        units = np.zeros((rows, blocks, size), np.int64)
        for t in range(ceil_div(rows, spec.rows)):
            for block in np.flatnonzero(self.random.random(blocks) < density[t]):
                row = self.random.integers(t * spec.rows, min(rows, (t + 1) * spec.rows))
                units[row, block, self.random.integers(size)] = self.random.integers(1, high)
                if self.random.random() < 0.5:
                    part = units[t * spec.rows:(t + 1) * spec.rows, block]
                    part[:] = self.random.integers(-20, high, part.shape)
        return units.reshape(rows, -1)

    def ffn(self, units, columns, *, level=0, first_row=0, group=(None, None), detect=1, skip=1,
            place=Place.RESIDUAL, wait=Wait.ROWS, load=True):
        """Make hidden units behind word 0, multiply them with a random matrix, store all."""
        spec, random = self.spec, self.random
        rows, word = len(units), spec.word_bytes
        inner = max(word, ceil_div(rows, word) * word)
        source = np.zeros((ceil_div(first_row + rows, spec.rows) * spec.rows, inner), np.int64)
        source[first_row + np.arange(rows), np.arange(rows)] = 1
        words = inner // word
        base = units.shape[1] // word * ceil_div(spec.max_keys, spec.rows)
        blocks = source.reshape(-1, spec.rows, words, word).transpose(0, 2, 1, 3)
        if load:
            self.operation(opcode=Opcode.LOAD, place=Place.ACTIVATION, keys=blocks[..., 0, 0].size,
                           target=base, wait=Wait.ALL,
                           address=self.put(blocks.astype(np.uint8).tobytes()))
        weight = np.zeros((inner, units.shape[1]), np.int64)
        weight[:rows] = units
        tiles = units.shape[1] // spec.columns
        stride = units.shape[1] // word
        self.operation(
            opcode=Opcode.LINEAR, wait=Wait.ALL, place=Place.ACTIVATION, rows=rows,
            activation=ActivationKind.RELU, source=base, source_stride=words,
            source_row=first_row, target_row=first_row, target=0, target_stride=stride,
            columns=tiles, depth=inner // spec.depth, group=group[0] or min(tiles, 2),
            level=level, detect=detect,
            address=self.put(self.stream(weight, np.zeros(units.shape[1], np.int64))))
        matrix = random.integers(-128, 128, (units.shape[1], columns * spec.columns))
        self.operation(
            opcode=Opcode.LINEAR, wait=wait, place=place, rows=rows, source_row=first_row,
            unsigned=1, source_stride=stride, target_row=first_row, target=0,
            target_stride=columns, columns=columns, depth=units.shape[1] // spec.depth,
            group=group[1] or 1, skip=skip,
            address=self.put(self.stream(matrix, random.integers(-99, 99, matrix.shape[1]))))

    def store(self, place, words):
        """Store what is in the words of a buffer from 0 on."""
        size = words * self.spec.block_bytes[place.name.lower()]
        self.operation(opcode=Opcode.STORE, place=place, keys=words, wait=Wait.ALL,
                       address=self.put(bytes(size)))

    def done(self):
        """Return memory and operations."""
        self.operation(opcode=Opcode.HALT, wait=Wait.ALL)
        return np.frombuffer(bytes(self.memory), np.uint8).copy(), self.operations


def group_limit(spec, depth):
    """Return the most column tiles that may share a pass."""
    return min(spec.weight_tiles, spec.words("weight") // depth)


def program(spec, seed=0):
    """Return a program with lists of all lengths: empty and full ones, parts, thresholds, groups."""
    b = Builder(spec, seed)
    size = spec.skip_words * spec.word_bytes
    most = spec.max_contraction // size
    rows = min(9, spec.max_keys - spec.rows)
    tiles = ceil_div(rows, spec.rows)
    for density, blocks, columns, level in (
            ([0.5] * tiles, most // 2, 3, 0), ([0.0] * tiles, 3, 2, 0), ([1.0] * tiles, most, 3, 0),
            ([1.0, 0.0] * tiles, most - 1, 2, 0), (b.random.random(tiles), most, 3, 40),
            ([0.05] * tiles, most, 2, 0), ([0.3] * tiles, 1, 1, 300)):
        units = b.hidden(rows, blocks, density)
        first = spec.rows if level == 40 else 0
        depth = units.shape[1] // spec.depth
        fit = group_limit(spec, depth)
        b.ffn(units, columns, level=level, first_row=first, place=Place.ADD if level else
              Place.RESIDUAL, group=(3 if level else None, min(fit, columns if blocks > 1 else 1)))
        b.store(Place.RESIDUAL, columns * (first + rows))
    b.store(Place.ACTIVATION, 8)
    return b.done()


def run(spec, memory, operations, directory, **options):
    """Require RTL and emulator to agree; return the run and the emulator's work."""
    result = simulate(spec, memory, operations, quiet_cycles=50_000, directory=directory, **options)
    check_run(result, spec, memory, operations)
    emulator = Emulator(spec, memory.copy())
    emulator.run(operations)
    return result, emulator.work


@pytest.mark.parametrize("stalls", [(0, 0, 0, 0), (90, 90, 90, 90)], ids=["free", "stalls"])
@pytest.mark.parametrize("name", SPECS)
def test_blocks(name, stalls, tmp_path):
    """Lists of very different lengths, thresholds, blocks over several groups of column tiles."""
    spec = SPECS[name]
    memory, operations = program(spec)
    result, work = run(spec, memory, operations, tmp_path, stalls=stalls)
    assert all(one.status == Status.OK for one in result.completions)
    lengths = {length for one in work for length in one.blocks or ()}
    assert {0, 1} <= lengths and len(lengths) > 4
