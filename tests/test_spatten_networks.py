# SPDX-License-Identifier: Apache-2.0
"""Whole networks on the SpAtten core: its operations, the compiler, the cycle model, refusals."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from golden.operation import Opcode, Status
from golden.prune import Prune
from golden.reference.vit import FloatVit
from golden.spatten.cycles import predict, static_work
from golden.spatten.emulator import LINEAR_CONSTANT, Emulator
from golden.spatten.operation import LAYOUT, Activation, Subject, Target
from golden.spatten.spec import LOCAL, PRESETS, SpattenSpec
from golden.topk import Rule
from golden.vit import LinearLayer, NormLayer
from models.zoo import model
from tests.networks import random_vit
from tests.test_reference_vit import checkpoint
from vitral.cli import main
from vitral.compile.spatten import Choices, compile
from vitral.quantise import integer_images, quantise

SPEC = SpattenSpec(channels=4, lanes=16, max_tokens=64, max_heads=4, pairs=2, score_rows=32,
                   selectors=1, value_queue=16, prune_lanes=4, output_queue=2, outstanding=16,
                   local=512, max_width=64)
SMALL = dict(image=8, patch=2, channels=1, dim=36, depth=2, heads=3, hidden=40, classes=7)


def core(spec=SPEC, beats=600):
    """A core whose memory is 0."""
    return Emulator(spec, np.zeros((beats, spec.channels, spec.memory_bytes), np.uint8))


def step(emulator, opcode, status=Status.OK, **fields):
    """Execute an operation."""
    found = emulator.step(LAYOUT.pack({"opcode": opcode, **fields}))
    assert found.status == status
    return emulator.work[-1]


def put(emulator, first, rows, rotation=0):
    """Write rows of 16-bit numbers, vector by vector, where the page says."""
    spec = emulator.spec
    for token, row in enumerate(rows):
        for n, vector in enumerate(np.asarray(row, "<i2").reshape(-1, spec.lanes)):
            beat = first + token // spec.channels * len(row) // spec.lanes * 4 + 4 * n
            emulator.memory[beat:beat + 4, (token + rotation + n // 2) % spec.channels] = \
                vector.view(np.uint8).reshape(4, -1)


def got(emulator, first, tokens, vectors, rotation=0):
    """Read what a result should be."""
    spec, rows = emulator.spec, []
    for token in range(tokens):
        beats = [emulator.memory[first + (token // spec.channels * vectors + n) * 4:][:4,
                                 (token + rotation + n // 2) % spec.channels]
                 for n in range(vectors)]
        rows.append(np.concatenate([beat.reshape(-1).view("<i2") for beat in beats]))
    return np.array(rows, np.int64)


def constants(emulator, first, data):
    """Put constants in memory, channel 0, and load them."""
    data = np.frombuffer(data + bytes(-len(data) % emulator.spec.memory_bytes), np.uint8)
    beats = data.reshape(-1, emulator.spec.memory_bytes)
    emulator.memory[first:first + len(beats), 0] = beats
    step(emulator, Opcode.LOAD, target=Target.CONSTANTS, key=first, count=len(beats))


def weights(emulator, first, weight):
    """Put weights (inputs, outputs) of 8 bits in memory, number by number, and load them."""
    spec, (inputs, outputs) = emulator.spec, weight.shape
    vectors = inputs // spec.lanes
    for o in range(outputs):
        for i in range(inputs):
            vector, lane = divmod(i, spec.lanes)
            beat = first + o // spec.channels * 2 * vectors + 2 * vector
            for plane, nibble in enumerate((weight[i, o] >> 4 & 15, weight[i, o] & 15)):
                emulator.memory[beat + plane, o % spec.channels, lane // 2] |= \
                    int(nibble) << lane % 2 * 4
    step(emulator, Opcode.LOAD, target=Target.LOCAL, key=first, output=LOCAL + 256,
         count=outputs // spec.channels * 2 * vectors)


def layer(random, inputs, outputs):
    return LinearLayer(weight=random.integers(-128, 128, (inputs, outputs)),
                       bias=random.integers(-9999, 9999, outputs),
                       mul=random.integers(1, 65536, outputs),
                       shift=random.integers(18, 26, outputs))


def packed(one):
    """The constants of a layer."""
    data = np.zeros(one.outputs, LINEAR_CONSTANT)
    for name in ("bias", "mul", "shift"):
        data[name] = getattr(one, name)
    return data.tobytes()


@pytest.mark.parametrize("rotation", [0, 3])
@pytest.mark.parametrize("activation", Activation)
def test_a_linear_layer_is_that_of_the_network(activation, rotation):
    random, emulator = np.random.default_rng(1), core()
    one, x = layer(random, 48, 32), random.integers(-128, 128, (9, 48))
    put(emulator, 0, x)
    old = random.integers(-30000, 30000, (9, 32))
    put(emulator, 60, old, rotation)
    constants(emulator, 200, packed(one))
    weights(emulator, 300, one.weight)
    table = random.integers(-128, 128, 1 << SPEC.table_width)
    beats = table.astype(np.int8).view(np.uint8).reshape(-1, SPEC.memory_bytes)
    emulator.memory[400:400 + len(beats), 0] = beats
    step(emulator, Opcode.LOAD, target=Target.TABLE, key=400, count=len(beats))
    before = np.zeros((9, 32), np.int64)
    for residual in (0, 1):
        work = step(emulator, Opcode.LINEAR, tokens=9, inputs=3, outputs=2, query=0,
                    query_stride=12, output=60, output_stride=8, key=LOCAL + 256, key_stride=6,
                    activation=activation, residual=residual, rotation=rotation)
        assert (work.rows, work.inputs) == (9, 3)
        y = one.compute(x)
        y = {Activation.NONE: y, Activation.CLIP: y.clip(-2048, 2047),
             Activation.RELU: y.clip(0, 255),
             Activation.TABLE: table[y.clip(-512, 511) + 512]}[activation]
        np.testing.assert_array_equal(got(emulator, 60, 9, 2, rotation),
                                      (y + before).clip(-32768, 32767) if residual else y)
        before = y


def test_sums_saturate_only_at_the_end():
    one = LinearLayer(weight=np.full((256, 16), -128), bias=np.zeros(16, int),
                      mul=np.full(16, 65535), shift=np.full(16, 32))
    big = replace(SPEC, local=1024)
    emulator = core(big, 1200)
    put(emulator, 0, np.full((1, 256), -2048))
    constants(emulator, 200, packed(one))
    weights(emulator, 300, one.weight)
    step(emulator, Opcode.LINEAR, tokens=1, inputs=16, outputs=1, query=0, query_stride=64,
         output=100, key=LOCAL + 256, key_stride=32)
    assert (got(emulator, 100, 1, 1) == round(2048 * 128 * 256 * 65535 / 2**32)).all()
    assert SPEC.acc_bits >= (2048 * 4096 * 16 * SPEC.lanes).bit_length()  # a score holds that


def test_a_norm_is_that_of_the_network():
    random, emulator = np.random.default_rng(2), core()
    x = np.zeros((6, 48), np.int64)
    x[:, :37] = random.integers(-20000, 20000, (6, 37))
    norm = NormLayer(gamma=random.integers(-9000, 9000, 37), beta=random.integers(-900, 900, 37),
                     shift=20)
    put(emulator, 0, x)
    constants(emulator, 200, np.stack([norm.gamma, norm.beta], 1).astype("<i2").tobytes())
    step(emulator, Opcode.NORM, tokens=6, inputs=3, count=37, query=0, query_stride=12, output=60,
         output_stride=12, shift=20)
    y = got(emulator, 60, 6, 3)
    np.testing.assert_array_equal(y[:, :37], norm.compute(x[:, :37]))
    assert not y[:, 37:].any()


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("limit", [0, 6000, (1 << 24) - 1])
def test_many_queries_attend_as_one_by_one(limit, pruned):
    """Queries, keys and values that LINEARs wrote; the same as one ATTEND for each query."""
    random, emulator = np.random.default_rng(3), core()
    tokens, heads = 14, 3
    x = random.integers(-128, 128, (tokens, 16))
    put(emulator, 0, x)
    for first, planes in ((LOCAL, 0), (LOCAL + 60, 1), (LOCAL + 90, 2)):
        one = layer(random, 16, 48)
        one = replace(one, shift=np.full(48, 18 if not planes else 22))
        emulator.memory[200:] = 0
        constants(emulator, 200, packed(one))
        weights(emulator, 300, one.weight)
        low = {1: LOCAL + 75, 2: LOCAL + 91}.get(planes, 0)
        step(emulator, Opcode.LINEAR, tokens=tokens, inputs=1, outputs=heads, query=0,
             query_stride=4, output=first, output_stride=heads * (planes or 4), key=LOCAL + 256,
             key_stride=2, activation=Activation.CLIP, planes=planes > 0, value_planes=2,
             output_step=planes or 4, key_low=low, key_low_stride=heads * planes, low_step=planes)
    attend: dict[str, Any] = dict(
        heads=heads, tokens=tokens, values=5, key_planes=1, value_planes=2, accumulate=1,
        limit=limit, score_shift=9, score_mul=200, mul=40000, shift=14, query=LOCAL,
        query_stride=heads * 4, key=LOCAL + 60, key_stride=heads, key_low=LOCAL + 75,
        key_low_stride=heads, value=LOCAL + 90, value_stride=heads * 2, output_stride=heads * 4)
    if pruned:
        step(emulator, Opcode.ATTEND, **attend, count=tokens, output=60)
        step(emulator, Opcode.PRUNE, tokens=tokens, level=7, protected=1, importance_shift=4)
    step(emulator, Opcode.ATTEND, **attend, count=tokens, output=60)
    together, importance = got(emulator, 60, tokens, heads), emulator.token_importance.copy()
    live = np.flatnonzero(emulator.tokens[:tokens])
    assert len(live) == (7 if pruned else tokens)
    seen = {row.token for row in emulator.rows[-1]}
    assert seen == set(live.tolist())
    lows = np.mean([row.low for row in emulator.rows[-1]])
    assert lows == 1 if limit == 0 else lows == 0 if limit > 6000 else 0 < lows < 1
    emulator.token_importance[:] = 0
    for token in live:  # in generation the query of token 0 has its place
        for n in range(heads):
            place = dict(channel=(token + n // 2) % 4)
            beats = emulator.places.local[token // 4 * heads * 4 + 4 * n:][:4, place["channel"]]
            emulator.memory[4 * n:4 * n + 4, n // 2 % 4] = beats
        step(emulator, Opcode.ATTEND, **{**attend, "query": 0, "output": 120})
        np.testing.assert_array_equal(got(emulator, 120, 1, heads)[0], together[token])
    if not pruned:
        np.testing.assert_array_equal(emulator.token_importance, importance)


def test_only_the_class_token_adds_to_importance_if_asked():
    for class_row in (0, 1):
        emulator = core()
        put(emulator, 0, np.random.default_rng(4).integers(-99, 99, (8, 16)))
        step(emulator, Opcode.ATTEND, heads=1, tokens=8, count=8, values=8, key_planes=1,
             value_planes=1, accumulate=1, class_row=class_row, score_mul=1, query=0,
             query_stride=4, key=20, key_stride=1, value=30, value_stride=1, output=40,
             output_stride=4)
        assert emulator.token_importance[:8].sum() == pytest.approx(
            4096 * (1 if class_row else 8), rel=0.01)


def test_pairs_of_narrow_heads_count_while_one_is_left():
    random, emulator = np.random.default_rng(5), core()
    one, x = layer(random, 32, 16), random.integers(-128, 128, (5, 32))
    put(emulator, 0, x)
    constants(emulator, 200, packed(one))
    weights(emulator, 300, one.weight)
    emulator.head_importance[:4] = 5, 1, 0, 0
    for level, inputs in ((3, 2), (1, 1), (0, 0)):
        step(emulator, Opcode.PRUNE, subject=Subject.HEADS, heads=4, level=level)
        work = step(emulator, Opcode.LINEAR, tokens=5, inputs=2, outputs=1, query=0,
                    query_stride=8, output=60, output_stride=4, key=LOCAL + 256, key_stride=4,
                    by_head=1, narrow=1)
        assert work.inputs == inputs
        if inputs:
            x[:, 16 * inputs:] = 0
            np.testing.assert_array_equal(got(emulator, 60, 5, 1), one.compute(x))


def test_heads_that_left_do_not_count():
    random, emulator = np.random.default_rng(5), core()
    one, x = layer(random, 48, 16), random.integers(-128, 128, (5, 48))
    put(emulator, 0, x)
    constants(emulator, 200, packed(one))
    weights(emulator, 300, one.weight)
    emulator.head_importance[:3] = 5, 1, 9
    step(emulator, Opcode.PRUNE, subject=Subject.HEADS, heads=3, level=2)
    step(emulator, Opcode.LINEAR, tokens=5, inputs=3, outputs=1, query=0, query_stride=12,
         output=60, output_stride=4, key=LOCAL + 256, key_stride=6, by_head=1)
    x[:, 16:32] = 0
    np.testing.assert_array_equal(got(emulator, 60, 5, 1), one.compute(x))
    step(emulator, Opcode.PRUNE, subject=Subject.HEADS, heads=3, level=0)
    before = emulator.memory.copy()
    work = step(emulator, Opcode.LINEAR, tokens=5, inputs=3, outputs=1, query=0, query_stride=12,
                output=60, output_stride=4, key=LOCAL + 256, key_stride=6, by_head=1)
    assert work.rows == 0 and (emulator.memory == before).all()


LINEAR = dict(opcode=Opcode.LINEAR, tokens=4, inputs=1, outputs=1, output=40, output_stride=4)
NORM = dict(opcode=Opcode.NORM, tokens=4, inputs=2, count=20)
LOAD = dict(opcode=Opcode.LOAD, output=LOCAL, count=3)
REFUSED = {
    "no local memory": (LINEAR, dict(local=0), Status.BAD_OPCODE),
    "no tokens": (LINEAR | dict(tokens=0), {}, Status.BAD_SHAPE),
    "no inputs": (LINEAR | dict(inputs=0), {}, Status.BAD_SHAPE),
    "inputs": (LINEAR | dict(inputs=17), {}, Status.BAD_SHAPE),
    "outputs": (LINEAR | dict(outputs=5), {}, Status.BAD_SHAPE),
    "heads": (LINEAR | dict(inputs=5, by_head=1), {}, Status.BAD_SHAPE),
    "pairs": (LINEAR | dict(inputs=3, by_head=1, narrow=1), {}, Status.BAD_SHAPE),
    "planes": (LINEAR | dict(planes=1), {}, Status.BAD_SHAPE),
    "residual planes": (LINEAR | dict(planes=1, value_planes=2, residual=1), {}, Status.BAD_SHAPE),
    "constants": (LINEAR | dict(constant=63), {}, Status.OUT_OF_RANGE),
    "short row": (NORM | dict(count=16), {}, Status.BAD_SHAPE),
    "long row": (NORM | dict(count=33), {}, Status.BAD_SHAPE),
    "wide row": (NORM | dict(inputs=5, count=65), {}, Status.BAD_SHAPE),
    "target": (LOAD | dict(target=3), {}, Status.BAD_OPCODE),
    "nothing": (LOAD | dict(count=0), {}, Status.BAD_SHAPE),
    "beyond": (LOAD | dict(output=LOCAL + 510), {}, Status.OUT_OF_RANGE),
    "not local": (LOAD | dict(output=7), {}, Status.OUT_OF_RANGE),
    "table": (LOAD | dict(target=Target.TABLE, constant=126), {}, Status.OUT_OF_RANGE),
    "queries": (dict(opcode=Opcode.ATTEND, heads=1, tokens=4, key_planes=1, value_planes=1,
                     count=65), {}, Status.BAD_SHAPE),
    "read beyond": (LINEAR | dict(query=LOCAL + 512), {}, Status.BUS_ERROR),
    "write beyond": (LINEAR | dict(output=599), {}, Status.BUS_ERROR),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_operations_fail_and_the_next_program_runs(name):
    fields, changes, status = REFUSED[name]
    emulator = core(replace(SPEC, **changes))
    before = emulator.memory.copy()
    opcode = fields["opcode"]
    rest = {key: value for key, value in fields.items() if key != "opcode"}
    step(emulator, opcode, status, **rest)
    if status != Status.BUS_ERROR:
        assert (emulator.memory == before).all()
    step(emulator, Opcode.PRUNE, Status.SKIPPED, tokens=4)
    step(emulator, Opcode.HALT)
    step(emulator, Opcode.PRUNE, tokens=4, level=2)


# Whole networks

def run(network, spec, pixels, choices=None):
    """Emulate images; return logits, emulator and program."""
    program = compile(network, spec, choices=choices)
    memory = program.memory(pixels).reshape(-1, spec.channels, spec.memory_bytes)
    emulator = Emulator(spec, memory)
    for n in range(len(pixels)):
        for found, one in zip(emulator.run(program.operations(n)), program.steps, strict=True):
            assert found.status == Status.OK, one.name
    flat = emulator.memory.reshape(-1)
    return np.stack([program.logits(flat, n) for n in range(len(pixels))]), emulator, program


def small(activation="gelu", **changes):
    """A random float network, its integer one, and images of it."""
    sizes: dict[str, Any] = SMALL | changes
    tensors, heads = checkpoint(**sizes), sizes["heads"]
    network = FloatVit(tensors, heads=heads, activation=activation)
    images = np.random.default_rng(6).uniform(
        -1, 1, (4, network.channels, network.image, network.image))
    return network, quantise(network, images), images


@pytest.mark.parametrize("changes", [{}, dict(dim=60, heads=4, hidden=130, classes=40),
                                     dict(channels=3, patch=4, dim=16, heads=1, hidden=16)])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_network_comes_near_its_integers_and_floats(changes, activation):
    network, integer, images = small(activation, **changes)
    pixels = integer_images(integer, images)
    found, _, _ = run(integer, SPEC, pixels)
    wanted, real = integer.forward(pixels), network.forward(images)
    scale = float(np.asarray(integer.scales["logits"]))
    error = np.linalg.norm(found * scale - real) / np.linalg.norm(real)
    other = np.linalg.norm(wanted * scale - real) / np.linalg.norm(real)
    print(f"relative error {error:.4f}, of the network with 8-bit attention {other:.4f}")
    assert error < 0.04


@pytest.mark.parametrize("changes", [
    dict(dim=48, heads=4), dict(dim=36, heads=3), dict(dim=36, heads=2), dict(dim=16, heads=1)])
@pytest.mark.parametrize("confident", [0, 2])
def test_narrow_heads_share_vectors_and_nothing_else_changes(changes, confident):
    """The logits are those of heads in vectors of their own, also if one of a pair has left."""
    _, integer, images = small(**changes)
    heads, pixels = changes["heads"], integer_images(integer, images[:1])
    integer = replace(integer, source="column", prune={0: Prune(Rule.TOPK, 11)})
    found = []
    for selectors in (1, 2):
        spec = replace(SPEC, lanes=32, local=1024, selectors=selectors)
        logits, emulator, program = run(integer, spec, pixels, Choices(
            values=0.7, confident=confident, heads={0: max(1, heads - 1)}))
        narrow = {step.fields["narrow"] for step in program.steps if "narrow" in step.fields}
        found.append((logits, sum(one.beats for one in emulator.work), narrow))
    shares = 2 * changes["dim"] // heads <= 32 and heads > 1
    assert found[0][2] == {0} and found[1][2] == {int(shares)}
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[1][1] < found[0][1] if shares else found[1][1] == found[0][1]


def test_digits_are_classified_with_tokens_heads_values_and_bits_left_out():
    entry, spec = model("digits"), PRESETS["tiny"]
    integer = quantise(entry.float_vit(), entry.images("calibration"))
    integer = replace(integer, source="column", prune={1: Prune(Rule.TOPK, 9)})
    pixels = integer_images(integer, entry.images()[:24])
    dense, full, _ = run(replace(integer, prune={}), spec, pixels)
    found, sparse, program = run(integer, spec, pixels, Choices(values=0.5, confident=0.2,
                                                                heads={1: 3}))
    labels = entry.labels("held_out")
    assert labels is not None
    labels = labels[:24]
    assert (dense.argmax(1) == labels).all() and (found.argmax(1) == labels).sum() >= 23
    assert all(len(kept) == 9 and kept[0] == 0 for kept in sparse.kept)
    assert sum(one.beats for one in sparse.work) < 0.75 * sum(one.beats for one in full.work)
    assert program.executed(sparse.work) < 0.75 * program.macs * len(pixels)
    assert full.bytes_read == sparse.bytes_read  # of weights and images alone


def test_the_cycle_model_knows_static_work():
    _, integer, images = small()
    integer = replace(integer, source="column", prune={0: Prune(Rule.TOPK, 6)})
    _, emulator, program = run(integer, SPEC, integer_images(integer, images[:1]))
    operations = program.operations()
    known = static_work(SPEC, operations)
    assert [(one.rows, one.keys, one.inputs) for one in known] == [
        (one.rows, one.keys, one.inputs) for one in emulator.work]
    measured = predict(SPEC, operations, work=emulator.work)
    estimated = predict(SPEC, operations, work=known)
    assert estimated.cycles == pytest.approx(measured.cycles, rel=0.05)
    assert measured.counters["beats_read"] * SPEC.memory_bytes == emulator.bytes_read


@pytest.mark.parametrize("changes, message", [
    (dict(local=0), "local must be above 0"),
    (dict(local=64), "local must be at least"),
    (dict(max_tokens=16), "tokens must be at most max_tokens 16, not 17"),
    (dict(max_width=32), "width must be at most max_width 32, not 36"),
    (dict(index_bits=7), "index_bits must be 7"),
    (dict(table_width=9), "table of block 0 must have 512 entries"),
    (dict(max_heads=2), "heads must be at most max_heads 2, not 3"),
])
def test_a_network_that_does_not_fit_is_refused(changes, message):
    _, integer, _ = small()
    with pytest.raises(ValueError, match=message):
        compile(integer, replace(SPEC, **changes))


def test_what_the_core_cannot_do_is_refused():
    _, integer, _ = small()
    for network, message in (
            (replace(integer, prune={0: Prune(Rule.THRESHOLD, 9)}), "rule must be topk"),
            (replace(integer, prune={0: Prune(Rule.TOPK, 9, True)}), "fuse must be False"),
            (random_vit(1), "scales must have"),
            (random_vit(1, prefix=2), "head_dist must be None"),
            (random_vit(1, heads=1, head_dim=20), "heads must be at most the lanes 16 wide"),
            (random_vit(1, hidden=300, dim=32), "hidden units must be at most 256")):
        with pytest.raises(ValueError, match=message):
            compile(network, SPEC)
    with pytest.raises(ValueError, match="heads of block 2"):
        compile(integer, SPEC, choices=Choices(heads={2: 1}))
    with pytest.raises(ValueError, match="values must be above 0"):
        Choices(values=0)


def test_the_command_line_runs_and_refuses(tmp_path, capsys):
    path = tmp_path / "result.json"
    common = ["--on", "spatten", "--preset", "tiny", "--json", str(path)]
    assert main(["run", "digits", *common, "--images", "2", "--prune", "0:0.5", "--values", "0.5",
                 "--confident", "0.2", "--heads-left", "1:3"]) == 0
    found = json.loads(path.read_text())
    assert found["heads"] == [4, 4, 3, 3] and found["tokens"] == [9, 9, 9, 9]
    assert 0 < found["low_fetched"] < 1 and 0 < found["values_fetched"] < 1
    useful = found["macs_executed"] / (PRESETS["tiny"].macs / 2)
    assert sum(found["lost"].values()) == pytest.approx(found["cycles_predicted"] - useful)
    assert main(["estimate", "digits", *common]) == 0
    assert json.loads(path.read_text())["macs_executed"] == found["macs_per_image"]
    capsys.readouterr()
    for arguments, message in (
            (["--rule", "mean"], "--rule must be one of topk, not 'mean'"),
            (["--trace"], "--trace must be left out for spatten"),
            (["--fuse"], "--fuse must be left out for spatten"),
            (["--values", "2"], "values must be above 0 and at most 1, not 2.0"),
            (["--heads-left", "0"], "--heads-left must be BLOCK:HEADS"),
            (["--heads-left", "9:1"], "heads of block 9")):
        assert main(["run", "digits", *common, "--images", "1", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["run", "digits", "--on", "rowwise", "--preset", "tiny", "--images", "1",
                 "--confident", "0.5"]) == 2
    assert "--confident must be left out for rowwise" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["class", "column"])
def test_importance_is_compared_as_finely_as_it_adds_up(source):
    _, integer, _ = small()
    heads = len(integer.blocks[0].heads)
    integer = replace(integer, source=source, prune={n: Prune(Rule.TOPK, 6) for n in range(2)})
    steps = {step.name: step.fields for step in compile(integer, SPEC).steps}
    top = 1 << SPEC.SELECT_BITS
    for block in range(2):
        # all attention of the class token, or 16 times the mean of all tokens'
        most = (1 if source == "class" else 16) * heads * (block + 1) << SPEC.PROBABILITY_BITS
        shift = steps[f"blocks.{block}.prune"]["importance_shift"]
        assert most >> shift < top and (not shift or most >> shift >= top // 4)
