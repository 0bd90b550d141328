# SPDX-License-Identifier: Apache-2.0
"""The emulator of the row-wise core: operations against plain loops, refusals, bus errors."""

import math
from dataclasses import replace

import numpy as np
import pytest

from golden.operation import DESCRIPTOR_BYTES, Opcode, Status, Wait
from golden.rowwise.cycles import predict
from golden.rowwise.emulator import Emulator
from golden.rowwise.operation import LAYOUT, Place, check
from golden.rowwise.spec import PRESETS, RowwiseSpec
from golden.softmax import SoftmaxSpec
from golden.topk import Rule
from tests.networks import random_vit
from vitral.compile.rowwise import compile

SPECS = {
    **PRESETS,
    "one row": RowwiseSpec(rows=1, columns=2, depth=8, memory_bytes=4, activation_bytes=4096,
                           residual_bytes=4096, key_bytes=1024, value_bytes=1024,
                           weight_bytes=1024, weight_tiles=8),
    "wide": RowwiseSpec(rows=2, columns=8, depth=2, memory_bytes=8, activation_bytes=8192,
                        residual_bytes=4096, key_bytes=2048, value_bytes=2048, weight_bytes=2048,
                        weight_tiles=8),
}
PRUNE = {"opcode": Opcode.PRUNE, "rows": 3}
HALT = LAYOUT.pack({"opcode": Opcode.HALT, "tag": 77})
LINEAR = {"opcode": Opcode.LINEAR, "place": Place.ADD, "rows": 3, "columns": 1, "depth": 1,
          "group": 1, "source_stride": 1, "target_stride": 1}
ATTEND = {"opcode": Opcode.ATTEND, "rows": 3, "columns": 1, "depth": 1, "keys": 3,
          "source_stride": 1, "target": 8, "target_stride": 1}
NORM = {"opcode": Opcode.NORM, "rows": 3, "width": 4, "source_stride": 1, "target_stride": 1,
        "shift": 20}
LOAD = {"opcode": Opcode.LOAD, "keys": 2}
STORE = {"opcode": Opcode.STORE, "keys": 2, "place": Place.RESIDUAL}


def emulator(spec, memory_bytes=4096, seed=0):
    """Return a core whose memory and buffers hold random numbers."""
    random = np.random.default_rng(seed)
    core = Emulator(spec, random.integers(0, 256, memory_bytes).astype(np.uint8))
    for name in ("activation", "key", "value"):
        buffer = getattr(core, name)
        buffer[:] = random.integers(0, 256, buffer.shape)
    core.residual[:] = random.integers(-32768, 32768, core.residual.shape)
    return core


def contents(core):
    """Return a copy of everything that an operation can change."""
    return [part.copy() for part in (core.memory, core.activation, core.residual, core.key,
                                     core.value)]


def half_up(value, shift):
    return math.floor(value / 2**shift + 0.5)


def clip(value, width):
    return max(-1 << (width - 1), min((1 << (width - 1)) - 1, value))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("place", [Place.ACTIVATION, Place.RESIDUAL, Place.ADD, Place.KEY,
                                   Place.VALUE])
def test_linear_equals_loops(name, place):
    spec = SPECS[name]
    rows, columns, depth = 5, 2, 3
    core = emulator(spec, 1 << 14)
    read = -(-depth * spec.depth // spec.word_bytes)
    # every place keeps a row in `stride` words; 7 is room enough for all
    op = {"opcode": Opcode.LINEAR, "place": place, "rows": rows, "columns": columns, "depth": depth,
          "group": 2, "source_row": spec.rows, "target_row": 3, "source": 2,
          "source_stride": read + 1, "target": 1, "target_stride": 7, "address": 128,
          "unsigned": place == Place.RESIDUAL}
    assert check(spec, LAYOUT.unpack(LAYOUT.pack(op))) == Status.OK
    tile = spec.columns * (8 + depth * spec.depth)
    stream = core.memory[128:128 + columns * tile].reshape(columns, tile)
    for column in range(columns * spec.columns):    # biases, multipliers and shifts that fit
        t, c = divmod(column, spec.columns)
        stream[t, 8 * c:8 * c + 8] = np.array(
            [(column * 9000 - 20000) & 255, (column * 9000 - 20000) >> 8 & 255, *(
                [255] * 2 if column * 9000 < 20000 else [0] * 2), 17, 200, 20 + column % 3, 99])
    before = contents(core)
    activation, old = before[1], before[2]
    assert core.step(LAYOUT.pack(op)).status == Status.OK
    assert core.macs == rows * columns * spec.columns * depth * spec.depth
    assert core.bytes_read == columns * tile
    changed = 0
    for i in range(rows):
        source, target = spec.rows + i, 3 + i
        for column in range(columns * spec.columns):
            t, c = divmod(column, spec.columns)
            acc = int(np.ascontiguousarray(stream[t, 8 * c:8 * c + 4]).view("<i4")[0])
            for j in range(depth * spec.depth):
                word = 2 + source // spec.rows * (read + 1) + j // spec.word_bytes
                a = int(activation[word, source % spec.rows, j % spec.word_bytes])
                a = a if op["unsigned"] or a < 128 else a - 256
                step, k = divmod(j, spec.depth)
                w = int(stream[t, 8 * spec.columns + (step * spec.columns + c) * spec.depth + k])
                acc += a * (w if w < 128 else w - 256)
            y = clip(half_up(acc * (17 + 200 * 256), 20 + column % 3), 16)
            if place in (Place.RESIDUAL, Place.ADD):
                word = 1 + target * 7 + t
                if place == Place.ADD:
                    y = clip(y + int(old[word, c]), 16)
                assert core.residual[word, c] == y
            else:
                y = clip(y, 8) & 255
                if place == Place.VALUE:
                    word, byte = 1 + target // spec.depth * 7 + t, c
                    found = core.value[word, target % spec.depth, byte]
                else:
                    banks = spec.rows if place == Place.ACTIVATION else spec.columns
                    buffer = core.activation if place == Place.ACTIVATION else core.key
                    word, byte = divmod(column, spec.word_bytes)
                    found = buffer[1 + target // banks * 7 + word, target % banks, byte]
                assert found == y
            changed += 1
    after = contents(core)
    different = sum(np.count_nonzero(new != was) for new, was in zip(after, before, strict=True))
    assert different <= changed    # and nothing else was written


@pytest.mark.parametrize("name", SPECS)
def test_attend_equals_loops(name):
    spec = SPECS[name]
    rows, keys, width = 5, 9, spec.word_bytes * 2
    core = emulator(spec)
    table = SoftmaxSpec.table(0.04)
    core.memory[64:320] = table
    columns = width // spec.columns
    op = {"opcode": Opcode.ATTEND, "rows": rows, "keys": keys, "columns": columns, "source": 3,
          "depth": width // spec.depth, "source_stride": 2, "target": 30, "target_stride": 3,
          "target_row": 1, "key": 1, "value": 2, "score_mul": 50000, "score_shift": 26,
          "mul": 40000, "shift": 15, "table": 1, "address": 64}
    signed = core.activation.view(np.int8).astype(int)
    key, value = core.key.view(np.int8).astype(int), core.value.view(np.int8).astype(int)
    assert core.step(LAYOUT.pack(op)).status == Status.OK
    assert core.bytes_read == 256
    for i in range(rows):
        query = [int(signed[3 + i // spec.rows * 2 + j // spec.word_bytes, i % spec.rows,
                            j % spec.word_bytes]) for j in range(width)]
        scores = [clip(half_up(50000 * sum(
            query[j] * int(key[1 + t // spec.columns * 2 + j // spec.word_bytes, t % spec.columns,
                               j % spec.word_bytes]) for j in range(width)), 26), 8)
            for t in range(keys)]
        exponents = [int(table[max(scores) - score]) for score in scores]
        factor, k = spec.softmax.reciprocal.compute(sum(exponents), 40000)
        for j in range(width):
            acc = sum(exponents[t] * int(value[2 + t // spec.depth * columns + j // spec.columns,
                                               t % spec.depth, j % spec.columns])
                      for t in range(keys))
            y = clip(half_up(acc * int(factor), 15 + int(k)), 8)
            target = 1 + i
            assert core.activation[30 + target // spec.rows * 3 + j // spec.word_bytes,
                                   target % spec.rows, j % spec.word_bytes] == y & 255


@pytest.mark.parametrize("name", SPECS)
def test_norm_equals_its_block_and_pads_with_zeros(name):
    spec = SPECS[name]
    width, rows = 2 * spec.columns - 1, 4
    core = emulator(spec)
    pairs = core.memory[:8 * spec.columns].view("<i2").reshape(-1, 2)
    x = core.residual[5 + np.arange(2, 2 + rows)[:, None] * 3 + np.arange(2)].reshape(rows, -1)
    expected = spec.norm.compute(x[:, :width], pairs[:width, 0].astype(int),
                                 pairs[:width, 1].astype(int), 20)
    op = {"opcode": Opcode.NORM, "rows": rows, "width": width, "source": 5, "source_stride": 3,
          "source_row": 2, "target": 1, "target_stride": 4, "shift": 20, "table": 1}
    before = core.activation.copy()
    assert core.step(LAYOUT.pack(op)).status == Status.OK
    for i in range(rows):
        words = core.activation[1 + i // spec.rows * 4:, i % spec.rows].ravel().view(np.int8)
        assert words[:width].tolist() == expected[i].tolist()
        assert words[width] == 0
    stored = rows * 2 * spec.columns
    assert np.count_nonzero(before != core.activation) <= stored
    # without parameters of its own, an operation uses those that came last
    again = core.activation.copy()
    core.activation[:] = before
    core.memory[:] = 0
    assert core.step(LAYOUT.pack({**op, "table": 0})).status == Status.OK
    np.testing.assert_array_equal(core.activation, again)


@pytest.mark.parametrize("source", ["class", "column"])
@pytest.mark.parametrize("name", SPECS)
def test_fuse_equals_loops(name, source):
    """The attention of one head, FUSE, and NORM: with all its rows, with fewer, and again."""
    spec = replace(SPECS[name], fuse=True, pruning=source)
    keys, columns = 11, spec.columns
    core = emulator(spec)
    core.memory[:256] = SoftmaxSpec.table(0.02)
    attend = {**ATTEND, "rows": keys, "keys": keys, "depth": spec.word_bytes // spec.depth,
              "score_mul": 40000, "score_shift": 28, "table": 1, "importance": 1, "target": 40}
    assert core.step(LAYOUT.pack(attend)).status == Status.OK
    importance = spec.importance.importance(core._importance[:keys]).tolist()
    fuse = {"opcode": Opcode.FUSE, "rows": keys, "rule": Rule.TOPK, "level": 4, "protected": 1}
    ranked = sorted(range(1, keys), key=lambda j: (-importance[j], j))
    kept = [0, *sorted(ranked[:3])]
    op = {**NORM, "rows": keys, "width": 2 * columns - 1, "source": 5, "source_stride": 3,
          "source_row": 2, "target_stride": 4, "live": 1, "gather": 1, "score_mul": 50000,
          "score_shift": 31 - spec.importance.shift}
    for rows in (keys, 4, 5, 7, 1):
        assert core.step(LAYOUT.pack(fuse)).status == Status.OK
        assert (core.work[-1].rows, core.work[-1].keys) == (4, keys)
        before = core.residual.copy()
        assert core.step(LAYOUT.pack({**op, "rows": rows})).status == Status.OK
        after = before.copy()
        read = [min(j, rows - 1) for j in kept[:rows]]
        for r, j in enumerate(read):
            at, to = 5 + (2 + j) * 3, 5 + (2 + r) * 3
            after[to:to + 2] = before[at:at + 2]
        if rows > 4:
            left = [j for j in range(rows) if j not in read]
            for word in range(2):
                for c in range(columns):
                    acc = sum(importance[j] * int(before[5 + (2 + j) * 3 + word, c]) for j in left)
                    after[5 + 6 * 3 + word, c] = clip(half_up(acc * 50000, op["score_shift"]), 16)
        np.testing.assert_array_equal(core.residual, after)
        assert core.work[-1].rows == min(5, rows)
        core.step(HALT)
    assert core.step(LAYOUT.pack({**fuse, "level": keys})).status == Status.OK
    before = core.residual.copy()
    assert core.step(LAYOUT.pack(op)).status == Status.OK     # none left
    np.testing.assert_array_equal(core.residual, before)
    assert core.work[-1].rows == keys


@pytest.mark.parametrize("place", [Place.ACTIVATION, Place.RESIDUAL])
@pytest.mark.parametrize("name", SPECS)
def test_load_and_store_are_inverse_and_count_bytes(name, place):
    spec = SPECS[name]
    core = emulator(spec)
    block = spec.block_bytes["activation" if place == Place.ACTIVATION else "residual"]
    base = 4 * spec.memory_bytes
    data = core.memory[base:base + 3 * block].copy()
    far = 2048
    program = [LAYOUT.pack({"opcode": opcode, "place": place, "keys": 3, "target": 2,
                            "address": address})
               for opcode, address in ((Opcode.LOAD, base), (Opcode.STORE, far))]
    assert [end.status for end in core.run(program)] == [Status.OK, Status.OK]
    np.testing.assert_array_equal(core.memory[far:far + 3 * block], data)
    assert (core.bytes_read, core.bytes_written) == (3 * block, 3 * block)
    if place == Place.ACTIVATION:
        np.testing.assert_array_equal(core.activation[2:5].ravel(), data)
    else:
        np.testing.assert_array_equal(core.residual[2:5].ravel(), data.view("<i2"))


@pytest.mark.parametrize(("op", "change", "status"), [
    (LINEAR, {"opcode": 7}, Status.BAD_OPCODE),
    (LINEAR, {"opcode": 255}, Status.BAD_OPCODE),
    (LINEAR, {"place": 5}, Status.BAD_OPCODE),
    (LINEAR, {"place": 7}, Status.BAD_OPCODE),
    (LINEAR, {"wait": 3}, Status.BAD_OPCODE),
    (LINEAR, {"activation": 3}, Status.BAD_OPCODE),
    (ATTEND, {"place": Place.ADD}, Status.BAD_OPCODE),
    (NORM, {"place": Place.RESIDUAL}, Status.BAD_OPCODE),
    (LOAD, {"place": Place.ADD}, Status.BAD_OPCODE),
    (STORE, {"place": Place.KEY}, Status.BAD_OPCODE),
    ({"opcode": Opcode.HALT}, {"wait": 3}, Status.BAD_OPCODE),
    (LINEAR, {"address": 4}, Status.BAD_SHAPE),
    (LINEAR, {"rows": 0}, Status.BAD_SHAPE),
    (LINEAR, {"columns": 0}, Status.BAD_SHAPE),
    (LINEAR, {"depth": 0}, Status.BAD_SHAPE),
    (LINEAR, {"group": 0}, Status.BAD_SHAPE),
    (LINEAR, {"group": 33}, Status.BAD_SHAPE),
    (LINEAR, {"source_row": 1}, Status.BAD_SHAPE),
    (LINEAR, {"depth": 769}, Status.BAD_SHAPE),
    (ATTEND, {"keys": 0}, Status.BAD_SHAPE),
    (ATTEND, {"keys": 201}, Status.BAD_SHAPE),
    (ATTEND, {"source_row": 2}, Status.BAD_SHAPE),
    (NORM, {"width": 0}, Status.BAD_SHAPE),
    (NORM, {"width": 769}, Status.BAD_SHAPE),
    (NORM, {"shift": 11}, Status.BAD_SHAPE),
    (NORM, {"shift": 28}, Status.BAD_SHAPE),
    (LOAD, {"keys": 0}, Status.BAD_SHAPE),
    (STORE, {"address": 1}, Status.BAD_SHAPE),
    (LINEAR, {"detect": 1}, Status.BAD_OPCODE),                        # not to ACTIVATION
    (LINEAR, {"place": Place.ACTIVATION, "detect": 1}, Status.BAD_OPCODE),  # without ReLU
    (LINEAR, {"skip": 1, "source_row": 200}, Status.BAD_SHAPE),
    (ATTEND, {"importance": 3}, Status.BAD_OPCODE),
    (PRUNE, {"rule": 3}, Status.BAD_OPCODE),
    (PRUNE, {"rows": 0}, Status.BAD_SHAPE),
    (PRUNE, {"rows": 201}, Status.BAD_SHAPE),
    (PRUNE, {"opcode": Opcode.FUSE}, Status.BAD_OPCODE),               # of a core without it
    (LINEAR, {"rows": 6657}, Status.OUT_OF_RANGE),
    (LINEAR, {"source": 4096}, Status.OUT_OF_RANGE),
    (LINEAR, {"source": 65535}, Status.OUT_OF_RANGE),
    (LINEAR, {"source_row": 65532, "source_stride": 65535}, Status.OUT_OF_RANGE),
    (LINEAR, {"depth": 3, "rows": 5}, Status.OUT_OF_RANGE),            # rows overlap
    (LINEAR, {"target": 6656}, Status.OUT_OF_RANGE),
    (LINEAR, {"target_row": 6655}, Status.OUT_OF_RANGE),
    (LINEAR, {"columns": 2}, Status.OUT_OF_RANGE),                     # wider than the stride
    (LINEAR, {"depth": 512, "group": 2, "source_stride": 512}, Status.OUT_OF_RANGE),
    (LINEAR, {"place": Place.KEY, "target": 512}, Status.OUT_OF_RANGE),
    (LINEAR, {"place": Place.VALUE, "target": 512}, Status.OUT_OF_RANGE),
    (ATTEND, {"key": 512}, Status.OUT_OF_RANGE),
    (ATTEND, {"value": 511, "keys": 5}, Status.OUT_OF_RANGE),
    (ATTEND, {"target": 4096}, Status.OUT_OF_RANGE),
    (NORM, {"source": 6654}, Status.OUT_OF_RANGE),
    (NORM, {"target": 4096}, Status.OUT_OF_RANGE),
    (LOAD, {"target": 4095}, Status.OUT_OF_RANGE),
    (STORE, {"target": 6655}, Status.OUT_OF_RANGE),
])
def test_a_malformed_operation_touches_nothing_and_the_next_program_runs(op, change, status):
    core = emulator(PRESETS["tiny"])
    before = contents(core)
    good = LAYOUT.pack({**op, "tag": 1})
    bad = LAYOUT.pack({**op, **change, "tag": 2})
    assert check(core.spec, LAYOUT.unpack(good)) == Status.OK
    ends = core.run([bad, good, LAYOUT.pack({**LOAD, "tag": 3})])
    assert [(end.tag, end.status) for end in ends] == [
        (2, status), (1, Status.OK if op["opcode"] == Opcode.HALT else Status.SKIPPED),
        (3, Status.OK if op["opcode"] == Opcode.HALT else Status.SKIPPED)]
    if op["opcode"] != Opcode.HALT:
        for new, was in zip(contents(core), before, strict=True):
            np.testing.assert_array_equal(new, was)
        assert (core.macs, core.bytes_read, core.bytes_written) == (0, 0, 0)
        ends = core.run([HALT, good])
        assert [(end.tag, end.status) for end in ends] == [(77, Status.OK), (1, Status.OK)]


@pytest.mark.parametrize("op", [LINEAR, {**ATTEND, "table": 1}, {**NORM, "table": 1}, LOAD, STORE])
def test_an_access_beyond_the_memory_is_a_bus_error(op):
    core = emulator(PRESETS["tiny"])
    memory = core.memory.copy()
    operations = [LAYOUT.pack({**op, "address": 4096}), LAYOUT.pack(NORM), HALT, LAYOUT.pack(NORM)]
    ends = core.run(operations)
    assert [end.status for end in ends] == [Status.BUS_ERROR, Status.SKIPPED, Status.OK, Status.OK]
    np.testing.assert_array_equal(core.memory, memory)
    failed = predict(core.spec, operations, work=core.work)
    fine = predict(core.spec, operations)
    assert failed.counters["norm"] < fine.counters["norm"]  # one of them was skipped


def test_no_descriptor_crashes_the_emulator():
    random = np.random.default_rng(5)
    core = emulator(PRESETS["tiny"])
    seen = set()
    for _ in range(4000):
        fields = {name: int(random.integers(0, 1 << min(field.width, random.integers(1, 17))))
                  for name, field in LAYOUT.fields.items()}
        fields["opcode"] = int(random.integers(0, 7))
        fields["source_row"] &= ~3
        fields["address"] &= ~7
        fields["columns"], fields["depth"] = fields["columns"] % 4, fields["depth"] % 4
        fields["rows"], fields["keys"] = fields["rows"] % 64, fields["keys"] % 64
        seen.add(core.step(LAYOUT.pack(fields)).status)
        core.step(HALT)
    assert seen == set(Status) - {Status.SKIPPED}
    noise = random.integers(0, 256, (500, DESCRIPTOR_BYTES)).astype(np.uint8)
    for descriptor in noise:
        core.step(descriptor.tobytes())


def test_tables_and_buffers_outlive_a_program():
    """The second image computes the same, whatever the first one left behind."""
    spec = PRESETS["tiny"]
    net = random_vit(3, depth=1)
    images = np.random.default_rng(3).integers(-128, 128, (2, 1, 8, 8))
    program = compile(net, spec)
    core = emulator(spec)
    core.memory = program.memory(images)
    for image in (1, 0, 1):
        assert {end.status for end in core.run(program.operations(image))} == {Status.OK}
    assert program.differences(core.memory, images) == []


def test_wait_modes_do_not_change_results():
    """The emulator executes one operation after the other: any wait is as good as the other."""
    core, other = emulator(PRESETS["tiny"]), emulator(PRESETS["tiny"])
    for one, wait in ((core, Wait.NONE), (other, Wait.ALL)):
        assert one.step(LAYOUT.pack({**NORM, "wait": wait})).status == Status.OK
    np.testing.assert_array_equal(core.activation, other.activation)


@pytest.mark.parametrize("place", [Place.ACTIVATION, Place.RESIDUAL])
def test_moves_leave_memory_out_between_their_runs(place):
    core = emulator(SPECS["tiny"])
    size = SPECS["tiny"].block_bytes["activation" if place == Place.ACTIVATION else "residual"]
    before = core.memory.copy()
    runs = [0, 1, 2, 5, 6, 7, 10]    # words of memory: runs of 3, 2 words left out, the last short
    fields = {"place": place, "keys": 7, "width": 3, "target_stride": 2, "address": 40 * size}
    load, store = ({**LOAD, **fields, "target": 9}, {**STORE, **fields, "target": 9,
                                                     "address": 20 * size})
    assert [one.status for one in core.run(map(LAYOUT.pack, (load, store)))] == [Status.OK] * 2
    words = before.reshape(-1, size)
    words[[20 + n for n in runs]] = words[[40 + n for n in runs]]
    np.testing.assert_array_equal(core.memory, words.ravel())
    assert core.bytes_read == core.bytes_written == 7 * size
    beyond = {**store, "target_stride": 4096}
    assert core.step(LAYOUT.pack(beyond)).status == Status.BUS_ERROR
    assert core.work[-1].status == Status.BUS_ERROR
    np.testing.assert_array_equal(core.memory, words.ravel())
