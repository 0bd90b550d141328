# SPDX-License-Identifier: Apache-2.0
"""The SpAtten core's specification against real numbers, and against simpler integers."""

from dataclasses import replace

import numpy as np
import pytest

from golden.fixed import product
from golden.operation import Opcode, Status
from golden.reference.spatten import Cascade
from golden.spatten.attention import distances, exponents, probabilities
from golden.spatten.emulator import Emulator
from golden.spatten.operation import LAYOUT, Rescale, Subject
from golden.spatten.spec import LSB_BITS, PRESETS, SpattenSpec, key_beats, value_planes
from tests.spatten_memory import Tensors

TINY = PRESETS["tiny"]
SPECS = {
    "tiny": TINY,
    "one channel": replace(TINY, channels=1, prune_lanes=1, score_rows=128),
    "wide": SpattenSpec(channels=4, lanes=64, max_tokens=96, max_heads=8, pairs=4, score_rows=64,
                        selectors=2, value_queue=16, prune_lanes=8),
}
SHARED = {**SPECS, "narrow": replace(TINY, selectors=2)}
HALT = LAYOUT.pack({"opcode": Opcode.HALT})


def prepared(spec, seed=0, **shape):
    random = np.random.default_rng(seed)
    tensors = Tensors(spec, random, **{"heads": 3, "tokens": 41, "key_bits": 6, "value_bits": 8,
                                       "rotation": 3, **shape})
    memory = random.integers(0, 256, (tensors.end, spec.channels, spec.memory_bytes)).astype(
        np.uint8)
    tensors.write(memory)
    return tensors, Emulator(spec, memory)


def octaves(tensors, op):
    """Return what a unit of a score is in octaves, and what a unit of an output is."""
    fields = LAYOUT.unpack(op)
    unit = fields["score_mul"] / 2**9 / 2**fields["score_shift"] / 2**SpattenSpec.OCTAVE_BITS
    return unit, fields["mul"] / 2**fields["shift"]


@pytest.mark.parametrize("value_bits", [4, 8, 12])
@pytest.mark.parametrize("values", [11, 64])
@pytest.mark.parametrize(("name", "key_bits"), [
    (name, bits) for name in SHARED for bits in (4, 6, 8, 10, 12)
    if name != "narrow" or not bits % 4])
def test_a_cascade_is_that_of_real_numbers(name, values, key_bits, value_bits):
    """Three layers of attention between which tokens and heads leave.

    With all values, outputs are those of real numbers; with some, they may differ by a value that
    is as near as the one that was chosen, within 1/32 octave.
    """
    spec, narrow = SHARED[name], name == "narrow"
    tensors, core = prepared(spec, heads=4, key_bits=key_bits, value_bits=value_bits, peaked=0.3,
                             narrow=narrow)
    threshold = 0.3
    limit = int(4095 / threshold)
    op = tensors.operation(values=values, limit=limit)
    unit, scale = octaves(tensors, op)
    real = Cascade.of(tensors.tokens, tensors.heads)
    high = tensors.key >> LSB_BITS << LSB_BITS
    for tokens, heads in ((30, 3), (19, 2), (1, 1)):
        assert core.step(op).status == Status.OK
        wanted = real.attend(tensors.query * unit * np.log(2), high, tensors.key - high,
                             tensors.value, values=values, threshold=threshold,
                             sharing=1 + narrow)
        rows = {row.head: row for row in core.rows[-1]}
        assert list(rows) == list(wanted) == list(real.heads)
        assert {head: row.low for head, row in rows.items()} == {
            head: low for head, (_, low) in wanted.items()}
        outputs = tensors.outputs(core.memory)
        top = np.abs(tensors.value).max()
        error = max(np.abs(outputs[head] - (y * scale)).max() / (top * scale)
                    for head, (y, _) in wanted.items())
        difference = np.abs(core.token_importance[:tensors.tokens] / 4096 - real.token_importance)
        print(f"{name}, keys {key_bits}+4, {values} values of {value_bits} bits: outputs off by "
              f"{error:.2%} of the greatest value, importance by {difference.max():.4f}")
        assert error < (0.01 if values > tokens else 0.08) and difference.max() < 0.03
        real.token_importance = core.token_importance[:tensors.tokens] / 4096
        real.head_importance = core.head_importance[:tensors.heads].astype(float)
        real.prune_tokens(tokens)
        real.prune_heads(heads)
        prune = {"opcode": Opcode.PRUNE, "tokens": tensors.tokens, "heads": tensors.heads}
        assert core.step(LAYOUT.pack({**prune, "level": tokens})).status == Status.OK
        assert core.step(LAYOUT.pack({**prune, "level": heads, "subject": Subject.HEADS})
                         ).status == Status.OK
        np.testing.assert_array_equal(np.flatnonzero(core.tokens), real.tokens)
        np.testing.assert_array_equal(np.flatnonzero(core.heads), real.heads)


def test_exponents_are_powers_of_two():
    spec = TINY
    distance = np.arange(512)
    error = np.abs(exponents(spec, distance) - 4095 * 2.0 ** (-distance / 32))
    print(f"exponents off by at most {error.max():.3f} of 4095")
    assert error.max() < 1.01 and exponents(spec, distance)[0] == 4095
    assert (np.diff(exponents(spec, distance)) <= 0).all()
    scores = np.array([1000, 1000 - (1 << 20), -(1 << 33)])
    np.testing.assert_array_equal(distances(spec, scores, 13, 128), [0, 32, 511])


@pytest.mark.parametrize("name", SPECS)
def test_probabilities_add_up_to_one(name):
    spec, random = SPECS[name], np.random.default_rng(1)
    for count in (1, 2, 17, spec.max_tokens):
        exponent = random.integers(0, 4096, count)
        exponent[0] = 4095
        p = probabilities(spec, exponent, int(exponent.sum()))
        assert p.max() <= 4095 and abs(p.sum() - 4096) <= count / 2 + 16


@pytest.mark.parametrize("name", SPECS)
def test_low_bits_are_fetched_where_they_are_needed(name):
    """Never with the greatest limit; always with 0: and then all is as with full keys at once."""
    spec = SPECS[name]
    tensors, core = prepared(spec)
    core.step(tensors.operation())
    high = core.bytes_read
    assert not any(row.low for row in core.rows[-1])
    static = tensors.outputs(core.memory)
    core.step(HALT)
    core.step(tensors.operation(limit=0))
    assert all(row.low for row in core.rows[-1])
    assert core.bytes_read - high == high + tensors.tokens * tensors.heads * spec.memory_bytes
    both, importance = tensors.outputs(core.memory), core.token_importance
    assert (both != static).any()

    whole = Tensors(spec, np.random.default_rng(0), heads=3, tokens=41, key_bits=10, value_bits=8,
                    rotation=3)
    whole.key, whole.value, whole.query = tensors.key << LSB_BITS, tensors.value, tensors.query
    memory = np.zeros((whole.end, spec.channels, spec.memory_bytes), np.uint8)
    whole.write(memory)
    other = Emulator(spec, memory)
    other.step(whole.operation())
    np.testing.assert_array_equal(whole.outputs(other.memory), both)
    np.testing.assert_array_equal(other.token_importance, importance)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("key_bits", [6, 8])
def test_what_is_pruned_is_not_read(name, key_bits):
    """Bytes follow from what is left; and nothing changes with what lies in the place of others."""
    spec = SPECS[name]
    results = []
    for dirt in (0, 255):
        tensors, core = prepared(spec, heads=4, key_bits=key_bits)
        core.step(tensors.operation())
        core.step(LAYOUT.pack({"opcode": Opcode.PRUNE, "tokens": 41, "level": 9}))
        core.step(LAYOUT.pack({"opcode": Opcode.PRUNE, "subject": Subject.HEADS, "heads": 4,
                               "level": 3}))
        left = np.flatnonzero(core.tokens)
        heads = np.flatnonzero(core.heads)
        pairs = [int((heads // 2 == n).sum()) for n in range(2)]
        gone = Tensors(spec, np.random.default_rng(0), heads=4, tokens=41, key_bits=key_bits,
                       value_bits=8, rotation=3)
        gone.key[:], gone.value[:], gone.query[:] = dirt, dirt, dirt
        for name_, part in (("key", tensors.key), ("value", tensors.value)):
            getattr(gone, name_)[np.ix_(left, heads)] = part[np.ix_(left, heads)]
        gone.query[heads] = tensors.query[heads]
        gone.write(core.memory)
        before = core.bytes_read
        core.step(tensors.operation(values=4))
        beats = sum(key_beats(key_bits, count) for count in pairs if count) * 9
        beats += 3 * (4 * value_planes(8) + spec.vector_beats)
        assert core.bytes_read - before == beats * spec.memory_bytes
        results.append(tensors.outputs(core.memory)[heads])
    np.testing.assert_array_equal(*results)


def test_importance_is_rescaled():
    tensors, core = prepared(TINY)
    core.step(tensors.operation())
    old = core.token_importance.copy()
    for mode, wanted in ((Rescale.KEEP, old), (Rescale.SHIFT, old >> 2),
                         (Rescale.DECAY, (old >> 2) - (old >> 4)), (Rescale.CLEAR, 0 * old)):
        core.step(LAYOUT.pack({"opcode": Opcode.PRUNE, "tokens": 41, "level": 41,
                               "rescale": mode, "rescale_shift": 2}))
        np.testing.assert_array_equal(core.token_importance, wanted)


def test_all_tokens_may_be_chosen_from_again():
    tensors, core = prepared(TINY)
    prune = {"opcode": Opcode.PRUNE, "tokens": 41, "importance_shift": 3}
    core.step(tensors.operation())
    core.step(LAYOUT.pack({**prune, "level": 5}))
    five = core.tokens.copy()
    core.step(LAYOUT.pack({**prune, "level": 9}))
    np.testing.assert_array_equal(core.tokens, five)  # who has left stays away
    core.step(LAYOUT.pack({**prune, "level": 9, "dense": 1}))
    assert core.tokens.sum() == 9 and (core.tokens & five).sum() == 5
    core.step(LAYOUT.pack({**prune, "level": 3, "tokens": 42, "newest": 1, "dense": 1}))
    assert core.tokens[0] and core.tokens[41] and core.tokens.sum() == 3
    core.step(HALT)
    assert not core.pruned and core.tokens.all()


BAD = {
    "opcode": (dict(opcode=Opcode.FUSE), Status.BAD_OPCODE),
    "rule": (dict(opcode=Opcode.PRUNE, rule=2), Status.BAD_OPCODE),
    "no heads": (dict(heads=0), Status.BAD_SHAPE),
    "heads": (dict(heads=5), Status.BAD_SHAPE),
    "no tokens": (dict(tokens=0), Status.BAD_SHAPE),
    "tokens": (dict(tokens=65), Status.BAD_SHAPE),
    "no planes": (dict(key_planes=0), Status.BAD_SHAPE),
    "14 bits": (dict(key_planes=3, key_half=1), Status.BAD_SHAPE),
    "no value": (dict(value_planes=0), Status.BAD_SHAPE),
    "narrow, one selector": (dict(narrow=1), Status.BAD_SHAPE),
    "heads to prune": (dict(opcode=Opcode.PRUNE, subject=1, heads=5), Status.BAD_SHAPE),
    "tokens to prune": (dict(opcode=Opcode.PRUNE, tokens=0), Status.BAD_SHAPE),
    "query": (dict(query=1 << 20), Status.BUS_ERROR),
    "key": (dict(key=1 << 20), Status.BUS_ERROR),
    "key_low": (dict(key_low=1 << 20, limit=0), Status.BUS_ERROR),
    "value": (dict(value=1 << 20), Status.BUS_ERROR),
    "output": (dict(output=1 << 20), Status.BUS_ERROR),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_operation_fails_and_the_next_program_runs(name):
    fields, status = BAD[name]
    tensors, core = prepared(TINY, key_bits=8)
    good = tensors.operation()
    bad = LAYOUT.pack(LAYOUT.unpack(good) | {"tag": 7} | fields)
    ends = core.run([bad, good, HALT, good])
    assert [(end.tag, end.status) for end in ends] == [
        (7, status), (0, Status.SKIPPED), (0, Status.OK), (0, Status.OK)]


@pytest.mark.parametrize(("fields", "sentence"), [
    (dict(channels=3), "channels must be a power of two, not 3"),
    (dict(lanes=4), "lanes must be an integer from 8 to 128, not 4"),
    (dict(max_heads=3), "max_heads must be even, not 3"),
    (dict(max_tokens=1000), "max_tokens must be a multiple of channels 16, not 1000"),
    (dict(score_rows=64), r"score_rows must be at least 128 \(two vectors .*, not 64"),
    (dict(prune_lanes=8), "prune_lanes must be an integer from 16 to 64, not 8"),
])
def test_refuses_parameters(fields, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        SpattenSpec(**fields)


def test_products_are_whole_or_refused():
    """Up to the last sum below 2**53, odd ones among them."""
    a = np.array([[(1 << 26) - 1, -1], [-(1 << 26), 1]])
    b = np.array([[(1 << 26) - 1, 3], [1, -(1 << 25)]])
    np.testing.assert_array_equal(product(a, b), [
        [sum(int(a[i, k]) * int(b[k, j]) for k in range(2)) for j in range(2)] for i in range(2)])
    assert product(np.zeros((2, 0), int), np.zeros((0, 3), int)).tolist() == [[0] * 3] * 2
    with pytest.raises(ValueError, match=rf"^sums of products must be below 2\*\*53, not up to "
                       rf"{1 << 53}$"):
        product(a, b + (b > 9))
