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
         for name, words in (("2x4x4", 1), ("2x2x8", 1), ("1x8x4", 1), ("8x4x2", 1), ("2x2x8", 2),
                             ("1x8x4", 2), ("8x4x2", 4))}


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

    def ffn(self, units, columns, *, level=0, first_row=0, group=(None, None), detect=1,
            place=Place.RESIDUAL, wait=Wait.ROWS, behind=0):
        """LOAD, make hidden units from word 0 on, multiply them with a random matrix."""
        spec, random = self.spec, self.random
        rows, word = len(units), spec.word_bytes
        inner = max(word, ceil_div(rows, word) * word)
        source = np.zeros((ceil_div(first_row + rows, spec.rows) * spec.rows, inner), np.int64)
        source[first_row + np.arange(rows), np.arange(rows)] = 1
        words = inner // word
        base = units.shape[1] // word * ceil_div(first_row + rows, spec.rows) + behind
        blocks = source.reshape(-1, spec.rows, words, word).transpose(0, 2, 1, 3)
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
            group=group[1] or 1, skip=1,
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
    """Return a program with lists of all lengths, thresholds, and passes of all kinds."""
    b = Builder(spec, seed)
    size = spec.skip_words * spec.word_bytes
    most = min(spec.max_contraction, spec.words("weight") * spec.depth) // size
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
    if not any(stalls):
        predicted = predict(spec, operations, work=work)
        print(f"{name}: {result.cycles[-1]} cycles, predicted {predicted.cycles}")
        assert predicted.cycles == pytest.approx(result.cycles[-1], rel=0.005)
        for counter in ("busy", "beats_read", "weight_reads", "steps_skipped"):
            assert predicted.counters[counter] == result.counters[-1][counter], counter


def test_parts(tmp_path):
    """Hidden units of the next rows take the place of those that the last operation reads."""
    spec = SMALL
    b = Builder(spec, 2)
    for part in range(3):
        b.ffn(b.hidden(8, 16, [0.9 - 0.4 * part] * 4), 3, first_row=8 * part, behind=200)
    loads, makes, uses = b.operations[::3], b.operations[1::3], b.operations[2::3]
    b.operations = loads
    for make, use in zip(makes, uses, strict=True):
        b.operations += [patched(make, wait=Wait.ALL if make is makes[0] else Wait.NONE), use]
    b.store(Place.RESIDUAL, 3 * 24)
    result, work = run(spec, *b.done(), tmp_path)
    assert all(one.status == Status.OK for one in result.completions)
    assert len({one.blocks for one in work if one.blocks}) == 3


def test_stale_lists(tmp_path):
    """Lists that another operation left, or none, or longer ones: cut to what there is."""
    spec = SMALL
    b = Builder(spec, 3)
    for detect, blocks, density in ((0, 9, 1.0), (1, 30, 0.8), (0, 7, 1.0), (0, 30, 0.5),
                                    (1, 5, 0.5), (0, 30, 1.0), (0, 1, 1.0)):
        b.ffn(b.hidden(8, blocks, [density] * 4), 2, detect=detect)
        b.store(Place.RESIDUAL, 16)
    result, work = run(spec, *b.done(), tmp_path)
    assert all(one.status == Status.OK for one in result.completions)
    assert next(one.blocks for one in work if one.blocks) == (0,) * 4


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "spill"])
def test_network(name, tmp_path):
    """A whole network that skips what is 0 is the dense network, and the cycle model knows it."""
    spec, shape = GEOMETRIES[name], NETWORKS[name]
    size = spec.skip_words * spec.word_bytes
    shape = shape | {"hidden": ceil_div(shape["hidden"], size) * size,
                     "activation": ActivationKind.RELU}
    network = random_vit(4, **shape)
    network = dataclasses.replace(network, blocks=tuple(  # most hidden units are 0
        dataclasses.replace(one, fc1=dataclasses.replace(
            one.fc1, bias=one.fc1.bias - 30000 * (np.arange(len(one.fc1.bias)) // size % 3 > 0)))
        for one in network.blocks))
    compiled = compile(network, spec, trace=False)
    pixels = np.random.default_rng(5).integers(
        -128, 128, (1, shape.get("channels", 1), shape["image"], shape["image"]))
    memory, dense = compiled.memory(pixels), compiled.operations(0)
    sparse, skips = [], 0
    for one in dense:
        op = LAYOUT.unpack(one)
        makes = op["opcode"] == Opcode.LINEAR and op["activation"] == ActivationKind.RELU
        sparse.append(patched(one, detect=makes, skip=skips))
        skips = makes
    result, work = run(spec, memory, sparse, tmp_path)
    assert all(one.status == Status.OK for one in result.completions)
    after = memory.copy()
    Emulator(spec, after).run(dense)
    np.testing.assert_array_equal(result.memory, after)
    predicted = predict(spec, sparse, work=work)
    print(f"{name}: {result.cycles[-1]} cycles, predicted {predicted.cycles}, "
          f"{result.counters[-1]['steps_skipped']} steps skipped")
    assert result.counters[-1]["steps_skipped"] > 0
    assert predicted.cycles == pytest.approx(result.cycles[-1], rel=0.015)
    took, expected = ([ends[n] - ends[n - 1] for n, one in enumerate(work) if one.blocks]
                      for ends in (result.cycles, predicted.completions))
    assert expected == pytest.approx(took, rel=0.005)
    for counter in ("busy", "weight_reads", "steps_skipped"):
        assert predicted.counters[counter] == result.counters[-1][counter], counter


def test_faults(tmp_path):
    """Programs with random bits flipped end as the emulator says and touch what it touches."""
    spec = SMALL
    rng = np.random.default_rng(12)
    memory, good = program(spec, 1)
    memory = np.concatenate([memory, rng.integers(0, 256, 1 << 16).astype(np.uint8)])
    operations = []
    for _ in range(80):
        bad = [bytearray(one) for one in good]
        for _ in range(rng.integers(1, 4)):
            bit = rng.integers(8 * 50)
            bad[rng.integers(len(bad) - 1)][bit // 8] ^= 1 << bit % 8
        for one in bad:
            fields = LAYOUT.unpack(bytes(one))
            operations.append(patched(
                bytes(one), wait=max(fields["wait"], Wait.ALL), live=0, gather=0, importance=0,
                opcode=min(fields["opcode"], Opcode.STORE), address=fields["address"] % (1 << 16)))
    result, _ = run(spec, memory, operations + good, tmp_path)
    assert {Status.OK, Status.BAD_OPCODE, Status.BAD_SHAPE} <= {
        one.status for one in result.completions}


def test_not_built(tmp_path):
    """Without skipping there is nothing of it, and operations that ask for it are refused."""
    spec = dataclasses.replace(SMALL, skip_words=0)
    assert "list" not in spec.memory_bits
    memory, operations = program(SMALL)
    result, _ = run(spec, memory, operations, tmp_path)
    assert Status.BAD_OPCODE in {one.status for one in result.completions}
