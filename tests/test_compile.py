# SPDX-License-Identifier: Apache-2.0
"""Programs: the emulator gives the network's bits, waits suffice, refusals name the buffer."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from golden.activation import ActivationKind
from golden.fixed import ceil_div
from golden.operation import Opcode, Status, Wait
from golden.prune import Prune, Skip
from golden.rowwise.emulator import Emulator
from golden.rowwise.operation import CHOICES, LAYOUT, Place, check, sections
from golden.rowwise.spec import PRESETS, RowwiseSpec
from golden.topk import Rule
from golden.vit import IntegerVit
from tests.networks import random_vit
from vitral.compile.rowwise import compile

KIND = ActivationKind


def geometry(rows, columns, depth, memory_bytes, **sizes):
    """A spec of any geometry; buffers hold as many words as named, enough by default."""
    word = max(columns, depth)
    block = {"activation": rows * word, "residual": 2 * columns, "key": columns * word,
             "value": depth * columns, "weight": columns * depth}
    words = dict(activation=4096, residual=4096, key=512, value=512, weight=512) | {
        name: sizes.pop(name) for name in list(sizes) if name in block}
    return RowwiseSpec(rows=rows, columns=columns, depth=depth, memory_bytes=memory_bytes,
                       **{f"{name}_bytes": words[name] * block[name] for name in block}, **sizes)


SPECS = {
    "tiny": PRESETS["tiny"],
    "ecp5": PRESETS["ecp5"],
    "columns below depth": geometry(4, 2, 8, 4),
    "columns above depth": geometry(2, 8, 2, 4),
    "one row": geometry(1, 4, 4, 4, weight_tiles=4),
    "sixteen rows": geometry(16, 4, 2, 8, index_bits=6, table_width=8),
    "wide": geometry(2, 16, 32, 32),
}
NETS = {
    "even": dict(dim=16, heads=2, head_dim=8, hidden=32, depth=2),
    "odd": dict(image=15, patch=5, channels=3, dim=36, heads=3, head_dim=12, hidden=50, classes=7,
                depth=1),
    "prime": dict(image=9, patch=3, dim=13, heads=2, head_dim=5, hidden=17, classes=3, depth=2,
                  activation=KIND.RELU),
    "smallest": dict(image=1, patch=1, dim=2, heads=1, head_dim=1, hidden=1, classes=1, depth=1,
                     activation=KIND.NONE),
    "linear": dict(image=6, patch=2, channels=2, dim=20, heads=1, head_dim=20, hidden=70,
                   classes=11, depth=1, activation=KIND.NONE),
    "distilled": dict(image=8, patch=4, dim=12, heads=2, head_dim=6, hidden=90, classes=45,
                      depth=1, prefix=2),
}


def network(name, spec, **changes) -> IntegerVit:
    return random_vit(len(name), **{"table_width": spec.table_width, "index_bits": spec.index_bits,
                                    **NETS[name], **changes})


def pixels(net, count=2):
    return np.random.default_rng(count).integers(
        -128, 128, (count, net.channels, net.image, net.image))


def execute(program, spec, images):
    """Run every image; return the emulator."""
    core = Emulator(spec, program.memory(images))
    for index in range(len(images)):
        ends = core.run(program.operations(index))
        assert [end.status for end in ends] == [Status.OK] * len(ends)
        assert [end.tag for end in ends] == list(range(len(program.names)))
    return core


def steps(program, prefix):
    return [step for step in program.steps if step.name.startswith(prefix)]


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("net_name", NETS)
@pytest.mark.parametrize("spec_name", SPECS)
def test_the_emulator_equals_the_network(spec_name, net_name, trace):
    spec = SPECS[spec_name]
    net = network(net_name, spec)
    program = compile(net, spec, trace=trace)
    images = pixels(net)
    core = execute(program, spec, images)
    assert program.differences(core.memory, images) == []
    logits = net.forward(images)
    for index in range(2):
        np.testing.assert_array_equal(program.logits(core.memory, index), logits[index])
    assert program.macs == net.macs <= core.macs // 2
    assert {"opcode": 0, "tag": len(program.steps) - 1}.items() <= LAYOUT.unpack(
        program.operations()[-1]).items()
    verify_waits(program, spec)
    verify_stream(program, spec)


def test_a_trace_shows_every_intermediate_that_a_store_reaches():
    net = network("odd", PRESETS["tiny"], depth=2)
    program = compile(net, PRESETS["tiny"], trace=True)
    names = [capture.name for capture in program.captures]
    assert names == ["embed", *(f"blocks.{index}.{name}" for index in range(2) for name in (
        "norm1", "q", "q", "q", "attn", "residual1", "norm2", "hidden", "residual2")), "norm"]
    images = pixels(net, 1)
    memory = execute(program, PRESETS["tiny"], images).memory
    for capture in (*program.captures, program.output):     # and notices each one that is wrong
        start = program.image_address(0) + capture.offset
        memory[start:start + capture.size] ^= 1
        assert len(program.differences(memory, images)) == 1
        memory[start:start + capture.size] ^= 1
    assert program.differences(memory, images) == []


@pytest.mark.parametrize("leave", ["none", "prune", "fuse"])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize(("words", "channels", "patch_parts", "hidden_parts"), [
    (52, 40, 4, 3), (70, 40, 4, 2), (84, 40, 4, 2), (110, 70, 4, 1), (165, 40, 2, 1),
    (186, 40, 1, 1), (88, 22, 2, 2), (100, 32, 3, 1), (66, 23, 4, 3),
])
def test_small_buffers_divide_the_rows(words, channels, patch_parts, hidden_parts, trace, leave):
    """17 tokens of dim 16, patches of 4 * channels, FFN 64 and 4 rows by 4 bytes in a word."""
    spec = replace(geometry(4, 4, 4, 8, activation=words, residual=68, key=20, value=20, weight=70),
                   fuse=leave == "fuse")
    net = random_vit(5, dim=16, heads=2, head_dim=4, hidden=64, depth=2, channels=channels)
    if leave != "none":
        net = replace(net, prune={0: Prune(Rule.TOPK, 9, spec.fuse)})
    program = compile(net, spec, trace=trace)
    images = pixels(net)
    assert program.differences(execute(program, spec, images).memory, images) == []
    verify_waits(program, spec)
    verify_stream(program, spec)
    hidden = [step.fields["rows"] for step in steps(program, "blocks.0.fc1")]
    patches = [step.fields["rows"] for step in steps(program, "patch_embed")
               if step.fields["opcode"] == Opcode.LINEAR]
    assert (len(patches), len(hidden)) == (patch_parts, hidden_parts)
    assert (sum(patches), sum(hidden)) == (16, 17)
    assert max(hidden) - min(hidden) <= 2 * spec.rows
    assert max(patches) - min(patches) <= spec.rows


SPILLS = {    # words of the buffers, the network, and the rows of the parts between attentions
    "in two slots": (dict(activation=29, residual=40), dict(), [4, 4, 4, 4, 1]),
    "in larger slots": (dict(activation=29, residual=64), dict(hidden=20), [4, 8, 5]),
    "kept whole": (dict(activation=32, residual=40), dict(), [4, 4, 4, 4, 1]),
    "longer parts": (dict(activation=42, residual=128), dict(hidden=24), [8, 9]),
    "many heads": (dict(activation=69, residual=65), dict(dim=13, heads=5, head_dim=7), [4, 8, 5]),
    "distilled": (dict(activation=44, residual=64), dict(prefix=2), [4, 8, 6]),
    "ReLU": (dict(activation=48, residual=65), dict(activation=KIND.RELU, hidden=41), [4, 8, 5]),
}


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("name", SPILLS)
def test_what_no_buffer_holds_stays_in_memory(name, trace):
    words, shape, wanted = SPILLS[name]
    net = random_vit(2, **{"dim": 16, "heads": 3, "head_dim": 8, "depth": 2, "hidden": 32, **shape})
    spec = geometry(4, 4, 4, 8, **words)
    if name == "ReLU":
        net = replace(net, skip=Skip(rows=4, channels=4, level=3))
    program = compile(net, spec, trace=trace)
    images = pixels(net)
    core = execute(program, spec, images)
    assert program.differences(core.memory, images) == []
    verify_waits(program, spec)
    stores = steps(program, "blocks.0.residual")
    assert stores, "it fits without"
    parts = [step.fields["rows"] for step in steps(program, "blocks.0.fc1")]
    assert sum(parts) == net.tokens and parts == wanted
    names = {capture.name for capture in program.captures} - {"norm_dist"}
    assert names == ({"embed", "norm", *(f"blocks.{n}.{one}" for n in range(2) for one in
                                         ("attn", "residual2"))} if trace else set())


@pytest.mark.parametrize(("image", "words"), [(2, 17), (4, 24), (8, 52), (8, 66), (8, 84)])
def test_a_distillation_token_has_its_own_head(image, words):
    """3, 6 and 18 tokens of 4 rows: its row is normalised where no later part still reads."""
    spec = geometry(4, 4, 4, 8, activation=words)
    net = random_vit(5, image=image, dim=16, heads=2, head_dim=4, hidden=32, depth=2, prefix=2,
                     classes=70)
    program = compile(net, spec, trace=True)
    verify_waits(program, spec)
    verify_stream(program, spec)
    images = pixels(net)
    assert program.differences(execute(program, spec, images).memory, images) == []
    names = [step.name for step in compile(net, spec).steps[-6:]]
    assert names == ["norm", "norm_dist", "head", "head_dist", "logits.store", "halt"]
    seen = {}
    net.forward(images, seen.__setitem__)
    assert (seen["norm"] != seen["norm_dist"]).any()
    np.testing.assert_array_equal(
        seen["logits"], (seen["head"] + seen["head_dist"]).clip(-32768, 32767))
    assert program.macs == net.macs
    alone = replace(net, head_dist=None)    # the token works in the blocks, its head is left out
    program = compile(alone, spec)
    verify_waits(program, spec)
    assert program.differences(execute(program, spec, images).memory, images) == []
    assert (alone.forward(images) != net.forward(images)).any()


@pytest.mark.parametrize("depth", [4, 8])
def test_column_groups_fit_twice_and_waste_least(depth):
    spec = geometry(4, 4, depth, 8, weight=96, weight_tiles=16)
    net = random_vit(1, dim=36, heads=3, head_dim=12, hidden=100, depth=1)
    for step in compile(net, spec).steps:
        fields = step.fields
        if fields["opcode"] != Opcode.LINEAR:
            continue
        columns, group = fields["columns"], fields["group"]
        most = min(96 // (2 * fields["depth"]), 8, columns)
        assert 1 <= group <= most
        passes = ceil_div(columns, group)
        assert passes == ceil_div(columns, most)              # no more passes than need be
        assert group == 1 or ceil_div(columns, group - 1) > passes    # and these filled best


def test_one_tile_of_weights_is_enough():
    spec = geometry(4, 4, 4, 8, weight=16)
    net = random_vit(1, dim=16, heads=1, head_dim=16, hidden=64, depth=1)
    program = compile(net, spec)
    assert {step.fields["group"] for step in program.steps if "group" in step.fields} == {1, 2, 4}
    images = pixels(net)
    assert program.differences(execute(program, spec, images).memory, images) == []


def test_the_weight_stream_is_what_the_array_eats():
    """Byte by byte: scales of a tile, then for each step columns of ``depth`` weights."""
    spec = geometry(4, 2, 4, 4)
    net = network("odd", spec)
    program = compile(net, spec)
    layer = net.blocks[0].fc1
    (step,) = steps(program, "blocks.0.fc1")
    data = np.frombuffer(program.weights, np.uint8)[step.fields["address"]:]
    table, data = data[:1 << spec.table_width], data[1 << spec.table_width:]
    assert step.fields["table"] == 1
    np.testing.assert_array_equal(table.view(np.int8), net.blocks[0].table)
    assert step.fields["columns"] == 26    # 50 units, padded to words of 4 bytes
    for tile in range(26):
        for c in range(2):
            column = 2 * tile + c
            inside = column < 50
            scale, data = data[:8], data[8:]
            assert scale[:4].view("<i4")[0] == (layer.bias[column] if inside else 0)
            assert scale[4:6].view("<u2")[0] == (layer.mul[column] if inside else 0)
            assert scale[6] == (layer.shift[column] if inside else 0) and scale[7] == 0
        for step_index in range(9):
            word, data = data[:8].view(np.int8), data[8:]
            for c in range(2):
                for k in range(4):
                    column, row = 2 * tile + c, 4 * step_index + k
                    assert word[4 * c + k] == (layer.weight[row, column] if column < 50 else 0)


def test_tables_are_loaded_once():
    net = network("even", PRESETS["tiny"], depth=1)
    twice = replace(net, blocks=net.blocks * 2)
    program = compile(twice, PRESETS["tiny"])
    assert [step.fields["table"] for step in program.steps if ".fc1" in step.name] == [1, 0]
    assert [step.fields["table"] for step in program.steps if ".attend" in step.name] == [
        1, 0, 1, 0]
    images = pixels(twice)
    core = execute(program, PRESETS["tiny"], images)
    assert program.differences(core.memory, images) == []


def test_images_lie_one_behind_the_other():
    net = network("prime", PRESETS["tiny"])
    program = compile(net, PRESETS["tiny"])
    images = pixels(net, 3)
    patches = net.patches(images)
    assert program.memory_bytes(3) == len(program.weights) + 3 * program.image_bytes
    assert program.place_input(images[1]) == program.place_input(patches[1])
    assert len(program.place_input(images[1])) == program.input_bytes
    core = execute(program, PRESETS["tiny"], images)
    np.testing.assert_array_equal(
        [program.logits(core.memory, index) for index in range(3)], net.forward(patches))
    with pytest.raises(ValueError, match=r"^patches must have shape \(9, 9\), not \(9, 8\)$"):
        program.place_input(patches[0][:, :8])
    with pytest.raises(ValueError, match=r"^image_index must be an integer of at least 0, not -1$"):
        program.operations(-1)
    with pytest.raises(ValueError, match=r"^memory must end below 4 GiB, not at \d+$"):
        program.operations(1 << 30)


def test_compiling_is_deterministic():
    one, two = (compile(network("odd", PRESETS["tiny"]), PRESETS["tiny"]) for _ in range(2))
    assert one.weights == two.weights and one.operations(3) == two.operations(3)


Refusals = dict[str, tuple[dict[str, Any], str]]    # changes of network and core, the sentence
REFUSALS: Refusals = {
    "residual": (dict(residual=31), ("residual buffer must hold 256 bytes for two row groups of 16 "
                 "elements, has 248")),
    "patch rows": (dict(residual=39), ("residual buffer must hold 320 bytes for two row groups and "
                   "2 tokens of 16 elements, has 312")),
    "pruned": (dict(residual=67, prune=True), ("residual buffer must hold 544 bytes for 17 tokens "
               "of 16 elements, has 536; only a network without pruning (--prune off) can have "
               "its tensors in external memory")),
    "query": (dict(activation=17), ("activation buffer must hold 288 bytes for a query of 17 "
              "tokens and two row groups of normalised rows, has 272")),
    "hidden": (dict(activation=36, hidden=130), ("activation buffer must hold 592 bytes for one "
               "row group of normalised rows, of the outputs of 2 heads and of 130 hidden units, "
               "has 576")),
    "patches": (dict(activation=89, residual=50, channels=45), ("activation buffer must hold 1440 "
                "bytes for two row groups of patches of 180 bytes, has 1424")),
    "keys": (dict(key=9), "key buffer must hold 160 bytes for the keys of 17 tokens, has 144"),
    "values": (dict(value=9), ("value buffer must hold 160 bytes for the values of 17 tokens, "
               "has 144")),
    "weights": (dict(weight=7), ("weight buffer must hold 128 bytes for one column tile of "
                "blocks.0.fc2, has 112")),
    "logits": (dict(residual=68, classes=273), ("residual buffer must hold 552 bytes for 273 "
               "logits, has 544")),
    "fan-in": (dict(max_contraction=28), ("inputs of blocks.0.fc2 must be at most max_contraction "
               "28 with their padding, not 32")),
    "tokens": (dict(max_keys=16), "tokens must be at most max_keys 16, not 17"),
    "width": (dict(max_width=15), "width must be at most max_width 15, not 16"),
    "index bits": (dict(index_bits=7), "index_bits must be 7 as in the core, not 8"),
    "table": (dict(table_width=9), ("table of block 0 must have 512 entries as in the core, not "
              "1024")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_what_does_not_fit(name):
    changes, sentence = REFUSALS[name]
    mine = {"hidden", "classes", "channels"} & changes.keys()
    net = random_vit(1, dim=16, heads=2, head_dim=8, depth=1, **{"hidden": 32, **{
        key: changes[key] for key in mine}})
    if "prune" in changes:
        net = replace(net, prune={0: Prune(level=8, rule=Rule.TOPK)})
    spec = geometry(4, 4, 4, 8, **{"max_keys": 20, **{
        key: value for key, value in changes.items() if key not in mine | {"prune"}}})
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        compile(net, spec)


def test_refuses_a_distilled_network_without_room_for_its_second_token():
    net = random_vit(5, image=2, dim=16, heads=1, head_dim=4, hidden=4, depth=1, prefix=2)
    with pytest.raises(ValueError, match="activation buffer must hold 144 bytes"):
        compile(net, geometry(4, 4, 4, 8, activation=7))
    assert len(compile(net, geometry(4, 4, 4, 8, activation=8)).steps) == 18


# What must hold for every program

def verify_stream(program, spec):
    """Weight streams follow each other without gaps, in the order in which they are first used."""
    end = 0
    for step in program.steps:
        op = {name: 0 for name in LAYOUT.names} | dict(step.fields)
        assert check(spec, op) == Status.OK
        if op["opcode"] == Opcode.LOAD and step.segment == "weights":
            size = op["keys"] * spec.block_bytes["residual"]
        else:
            size = sum(size for _, size in sections(spec, op))
        if not size or step.segment == "image":
            continue
        assert op["address"] % spec.memory_bytes == 0 == size % spec.memory_bytes
        if op["address"] + size <= end:
            assert ".fc" in step.name or "patch_embed" in step.name    # used again
            continue
        assert op["address"] == end
        end += size
    assert end == len(program.weights)


def accesses(op, spec):
    """Return what an operation reads and writes: {(buffer, word, bank): row}."""
    reads, writes = {}, {}
    word, whole = spec.word_bytes, -1

    def touch(into, buffer, banks, base, stride, first, rows, words, row0=0):
        for i in range(rows):
            group, bank = divmod(first + i, banks)
            for w in range(words):
                into[buffer, base + group * stride + w, bank] = row0 + i

    source = (op["source"], op["source_stride"], op["source_row"], op["rows"])
    target = (op["target"], op["target_stride"], op["target_row"], op["rows"])
    read = ceil_div(op["depth"] * spec.depth, word)
    written = ceil_div(op["columns"] * spec.columns, word)
    match op["opcode"]:
        case Opcode.LINEAR:
            touch(reads, "activation", spec.rows, *source, read, op["source_row"])
            place = Place(op["place"])
            match place:
                case Place.ACTIVATION:
                    touch(writes, "activation", spec.rows, *target, written, op["target_row"])
                case Place.RESIDUAL | Place.ADD:
                    touch(writes, "residual", 1, *target, op["columns"], op["target_row"])
                    if place == Place.ADD:
                        reads |= writes
                case Place.KEY:
                    touch(writes, "key", spec.columns, *target, written, op["target_row"])
                case Place.VALUE:
                    touch(writes, "value", spec.depth, *target, op["columns"], op["target_row"])
        case Opcode.ATTEND:
            touch(reads, "activation", spec.rows, *source, read, op["source_row"])
            touch(reads, "key", spec.columns, op["key"], read, 0, op["keys"], read, whole)
            touch(reads, "value", spec.depth, op["value"], op["columns"], 0, op["keys"],
                  op["columns"], whole)
            touch(writes, "activation", spec.rows, *target, written, op["target_row"])
        case Opcode.NORM:
            words = ceil_div(op["width"], spec.columns)
            touch(reads, "residual", 1, *source, words, op["source_row"])
            touch(writes, "activation", spec.rows, *target, ceil_div(words * spec.columns, word),
                  op["target_row"])
            if op["gather"]:    # row r is read, and has moved up, when r rows have been passed
                touch(writes, "residual", 1, *source, words, op["source_row"])
        case Opcode.LOAD | Opcode.STORE:
            into = writes if op["opcode"] == Opcode.LOAD else reads
            for w in range(op["target"], op["target"] + op["keys"]):
                if op["place"] == Place.ACTIVATION:
                    into.update({("activation", w, bank): whole for bank in range(spec.rows)})
                else:
                    into["residual", w, 0] = whole
    return reads, writes


def verify_waits(program, spec):
    """Whatever the engines' speeds, no operation overtakes one that it conflicts with.

    Three engines (array; NORM; LOAD and STORE) work at the same time, each in order. Operations
    start in order, and the array starts one when it has read all rows of the one before; it writes,
    and adds to the residual stream, in order. The two other engines do one operation at a time.
    What is known when operation j starts: everything before an earlier ALL or STORE is complete,
    and what another NORM, LOAD or STORE that has started had before it in its engine; with ROWS on
    an array operation, so are the array operations before that; what an array operation followed
    row by row has produced those rows when the next one starts. A LOAD is followed word by word
    into the buffer that the operation reads; another is complete when the operation begins.
    PRUNE and FUSE keep what they choose and the importance to themselves, and others are ordered as
    if they were not there. The others are taken as if all tokens stayed.
    """
    engine = {Opcode.LINEAR: "array", Opcode.ATTEND: "array", Opcode.NORM: "norm",
              Opcode.LOAD: "move", Opcode.STORE: "move"}
    steps = [step for step in program.steps[:-1] if step.fields["opcode"] not in CHOICES]
    ops = [{name: 0 for name in LAYOUT.names} | dict(step.fields) for step in steps]
    engines = [engine[Opcode(op["opcode"])] for op in ops]
    touched = [accesses(op, spec) for op in ops]
    complete = 0                # operations before this index are complete
    newest = {"norm": 0, "move": 0}    # and of these engines all before this one
    loaded: set[int] = set()    # LOADs that an array operation has read to their end
    rows_done: dict[int, int] = {}    # of an unfinished NORM: rows an array operation has consumed
    for j, op in enumerate(ops):
        name, mine = steps[j].name, engines[j]
        if op["wait"] == Wait.ALL or op["opcode"] == Opcode.STORE:
            complete = j
        follows = j - 1 if op["wait"] == Wait.ROWS else None
        assert follows is None or op["opcode"] in (Opcode.LINEAR, Opcode.NORM), name
        if follows is not None and engines[follows] == "move" and not (
                ops[follows]["opcode"] == Opcode.LOAD and ops[follows]["place"] == (
                    Place.RESIDUAL if mine == "norm" else Place.ACTIVATION)):
            complete = j
        reads, writes = touched[j]
        for i in range(complete, j):
            other = engines[i]
            if other == mine != "array" or i < newest.get(other, 0) or (
                    mine == "array" and i in loaded):
                continue
            if i == follows and other == "move":
                assert not writes.keys() & touched[i][1].keys(), name
                continue        # it may read all that is loaded
            if (op["wait"] == Wait.ROWS and engines[j - 1] == "array" == other and
                    i < j - 1):
                continue        # complete when the first row of operation j - 1 is
            before_reads, before_writes = touched[i]
            for where in writes.keys() & (before_reads.keys() | before_writes.keys()):
                if other == mine:
                    break
                # a row is complete before another, or it, moves to its place
                if i == follows and op["gather"] and before_writes.get(where) == writes[where]:
                    continue
                # the array may overwrite residual rows that an unfinished NORM has passed
                passed = rows_done.get(i, 0)
                if op["wait"] == Wait.ROWS and i == j - 1:
                    passed = op["source_row"] + writes[where] - op["target_row"] + 1
                moved = ops[i]["gather"] and where[0] == "residual"
                assert (mine == "array" and where in before_reads.keys() and
                        (moved or where not in before_writes.keys()) and
                        0 <= before_reads[where] < passed), f"{name} overwrites {where} of {i}"
            for where in reads.keys() & before_writes.keys():
                if other == mine and where[0] == "residual":
                    continue
                row = before_writes[where]
                behind = i == follows and reads[where] == row >= 0
                consumed = mine == "array" and 0 <= row < rows_done.get(i, 0)
                assert behind or consumed, f"{name} reads {where} of {steps[i].name} too early"
        if mine == "array" and op["wait"] == Wait.ROWS and engines[j - 1] == "norm":
            rows_done[j - 1] = op["source_row"] + op["rows"]
        if mine != "array":
            newest[mine] = j
        elif follows is not None and engines[follows] == "move":
            assert {where[:2] for where in touched[follows][1]} <= {where[:2] for where in reads}
            loaded.add(follows)


def test_the_check_of_waits_finds_faults():
    """Each wait that is weakened is noticed, unless nothing depends on it."""
    spec = geometry(4, 4, 4, 8, activation=84, residual=68, key=20, value=20)
    net = random_vit(5, dim=16, heads=2, head_dim=4, hidden=64, depth=1, patch=2, channels=40)
    program = compile(net, spec)
    verify_waits(program, spec)
    missed = []
    for index, step in enumerate(program.steps[:-1]):
        for weaker in range(int(step.fields["wait"])):
            fields = {**step.fields, "wait": weaker}
            broken = replace(program, steps=(*program.steps[:index], replace(step, fields=fields),
                                             *program.steps[index + 1:]))
            try:
                verify_waits(broken, spec)
            except AssertionError:
                continue
            missed.append((step.name, Wait(weaker).name))
    # the last NORM needs row 0 alone, which the first of two parts has completed long ago; a STORE
    # waits for everything whatever it says
    assert missed == [("norm", "NONE"), ("logits.store", "NONE")]
