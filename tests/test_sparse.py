# SPDX-License-Identifier: Apache-2.0
"""Tokens that leave and blocks that are skipped: specification, compiler, command line."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from golden.activation import ActivationKind
from golden.importance import ImportanceSpec
from golden.operation import Opcode, Status
from golden.prune import Prune, Skip
from golden.reference.vit import FloatVit
from golden.rowwise.emulator import Emulator
from golden.rowwise.spec import PRESETS
from golden.softmax import SoftmaxSpec
from golden.topk import Rule
from tests.networks import random_vit
from tests.test_reference_vit import checkpoint
from vitral.cli import main
from vitral.compile.rowwise import compile
from vitral.quantise import integer_images, quantise
from vitral.sparse import plan, static_work

TINY = PRESETS["tiny"]
SHAPE: dict[str, Any] = dict(image=6, patch=2, dim=22, depth=3, heads=2, head_dim=9, hidden=50,
                             classes=7, activation=ActivationKind.RELU)


def sparse_vit(spec, prune, level=0, shift=6):
    """Return a random network with many zeros behind its ReLU."""
    network = random_vit(3, **SHAPE)
    blocks = tuple(replace(block, fc1=replace(block.fc1, bias=block.fc1.bias - (shift << 13)))
                   for block in network.blocks)
    return replace(network, blocks=blocks, prune=prune, source=spec.pruning, skip=Skip(
        rows=spec.rows, channels=spec.skip_words * spec.word_bytes, level=level))


def emulate(program, spec, pixels):
    emulator = Emulator(spec, program.memory(pixels))
    for image in range(len(pixels)):
        ends = emulator.run(program.operations(image))
        assert all(end.status == Status.OK for end in ends)
    return emulator


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(-128, 128, (2, 1, 6, 6))


@pytest.mark.parametrize("rows, columns, depth", [(4, 4, 4), (1, 8, 4), (8, 4, 2), (2, 2, 8)])
@pytest.mark.parametrize("rule, level", [(Rule.TOPK, 5), (Rule.THRESHOLD, 1700), (Rule.MEAN, 250)])
@pytest.mark.parametrize("source, words, zero", [("class", 1, 0), ("column", 2, 30)])
@pytest.mark.parametrize("fuse", [False, True])
def test_a_program_computes_what_the_network_does(rows, columns, depth, rule, level, source, words,
                                                  zero, fuse, pixels):
    spec = replace(TINY, rows=rows, columns=columns, depth=depth, memory_bytes=4, skip_words=words,
                   pruning=source, fuse=fuse)
    if source == "column" and rule == Rule.THRESHOLD:
        level = 64
    network = sparse_vit(spec, {0: Prune(rule, level, fuse), 2: Prune(Rule.TOPK, 2, fuse)}, zero)
    program = compile(network, spec, trace=True)
    emulator = emulate(program, spec, pixels)
    assert not program.differences(emulator.memory, pixels)
    seen: dict[str, list[Any]] = {}
    network.forward(pixels, lambda name, array: seen.setdefault(name, []).append(array[0]))
    steps = len(program.steps)
    for image in range(len(pixels)):
        work = dict(zip(program.names, emulator.work[image * steps:]))
        for block in (0, 2):
            kept = len(seen[f"blocks.{block}.kept"][image])
            assert work[f"blocks.{block}.prune"].rows == kept
            left = work[f"blocks.{block}.prune"].keys - kept
            assert work[f"blocks.{block}.norm2"].rows == kept + (fuse and left > 0)
        hidden = seen["blocks.1.hidden"][image]
        assert network.skip and work["blocks.1.fc2"].blocks == tuple(
            network.skip.listed(hidden).sum(1))
    executed = program.executed(emulator.work)
    assert 0 < executed < 2 * program.macs


@pytest.mark.parametrize("rows, columns, depth", [(4, 4, 4), (8, 8, 8), (2, 8, 4)])
def test_skipping_zeros_changes_no_bit(rows, columns, depth, pixels):
    spec = replace(TINY, rows=rows, columns=columns, depth=depth)
    network = sparse_vit(spec, {})
    program, dense = (compile(one, spec, trace=True) for one in
                      (network, replace(network, skip=None)))
    skipping, all_of_it = emulate(program, spec, pixels), emulate(dense, spec, pixels)
    for ours, theirs in zip((*program.captures, program.output), (*dense.captures, dense.output)):
        for image in range(len(pixels)):
            np.testing.assert_array_equal(program.read(skipping.memory, ours, image),
                                          dense.read(all_of_it.memory, theirs, image))
    assert program.executed(skipping.work) < dense.executed(all_of_it.work) == 2 * dense.macs


def test_the_multiplications_are_counted_exactly():
    """Of a hand-made case: 3 tokens left, so 1 row tile of 4 rows, with 1 of 2 blocks."""
    spec = replace(TINY, skip_words=1)
    network = sparse_vit(spec, {0: Prune(Rule.TOPK, 3)})
    program = compile(network, spec)
    work = static_work(program)
    index = program.names.index("blocks.1.fc2")
    step = program.steps[index]
    assert work[index].rows == 3
    assert step.executed(work[index]) == 3 * 50 * 22
    assert step.blocks == 13
    assert step.executed(replace(work[index], blocks=(5,))) == 3 * 50 * 22 * 5 // 13
    attend = program.names.index("blocks.1.heads.0.attend")
    assert program.steps[attend].executed(work[attend]) == 2 * 3 * 3 * 9


def test_without_a_reason_nothing_leaves(pixels):
    network = random_vit(3, **SHAPE)
    expected = network.forward(pixels)
    for prune in (Prune(Rule.THRESHOLD, 0), Prune(Rule.TOPK, 10), Prune(Rule.MEAN, 0),
                  Prune(Rule.THRESHOLD, 0, True), Prune(Rule.TOPK, 10, True)):
        same = replace(network, prune=dict.fromkeys(range(3), prune))
        np.testing.assert_array_equal(same.forward(pixels), expected)


def test_who_leaves_the_last_block_does_not_matter(pixels):
    network = random_vit(3, **SHAPE)
    fewer = replace(network, prune={2: Prune(Rule.TOPK, 1)})
    np.testing.assert_array_equal(fewer.forward(pixels), network.forward(pixels))


def test_importance_is_the_attention_of_the_class_token():
    random = np.random.default_rng(2)
    spec = SoftmaxSpec(max_keys=50)
    for source in ImportanceSpec.SOURCES:
        one = ImportanceSpec(max_keys=50, source=source, sum_width=spec.sum_width)
        sums, exact = np.zeros(50, np.int64), np.zeros(50)
        for _ in range(3):
            scores = random.integers(-128, 128, (50, 50))
            exponents = spec.exponents(scores, spec.table(0.03))
            sums = one.add(sums, exponents)
            rows = exponents[:1] if source == "class" else exponents
            exact += (rows / rows.sum(1, keepdims=True)).sum(0)
        found = one.importance(sums) / 2.0**(one.FRACTION - one.shift)
        step = 2.0**-(one.FRACTION - one.shift)
        assert np.abs(found - exact).max() < 3 * exact.max() * 2**-9 + 3 * step
        assert one.level(float(exact[7])) == pytest.approx(exact[7] / step, abs=0.5)


def test_float_and_integer_networks_keep_nearly_the_same_tokens():
    network = FloatVit(checkpoint(32, 4, 1, 32, 3, 2, 64, 10), heads=2, activation="relu")
    images = np.random.default_rng(0).uniform(-1, 1, (6, 1, 32, 32))
    keep = {0: 0.5, 1: 0.5}
    for rule in Rule:
        prune = plan(network, images, keep, rule, "class")
        kept: dict[str, list[Any]] = {}
        network.forward(images, lambda name, array, kept=kept: kept.setdefault(
            name, []).append(array[0]), prune=prune)
        counts = [len(one) - 1 for one in kept["blocks.0.kept"]]
        assert sum(counts) / 6 == pytest.approx(32, abs=0.5)
        counts = [len(one) - 1 for one in kept["blocks.1.kept"]]
        assert sum(counts) / 6 == pytest.approx(16, abs=0.5)
        integer = quantise(network, images, prune=prune)
        found: list[Any] = []
        integer.forward(integer_images(integer, images), lambda name, array, found=found:
                        found.append(array[0]) if name == "blocks.0.kept" else None)
        for ours, theirs in zip(kept["blocks.0.kept"], found, strict=True):
            assert len(set(ours.tolist()) ^ set(theirs.tolist())) <= 6


@pytest.mark.parametrize("source", ImportanceSpec.SOURCES)
def test_float_and_integer_networks_fuse_nearly_the_same_token(source):
    network = FloatVit(checkpoint(32, 4, 1, 32, 3, 2, 64, 10), heads=2, activation="relu")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 1, 32, 32))
    prune = plan(network, images, {0: 0.5, 1: 0.3, 2: 0}, Rule.TOPK, source, fuse=True)
    assert prune == {0: Prune(Rule.TOPK, 33, True), 1: Prune(Rule.TOPK, 11, True),
                     2: Prune(Rule.TOPK, 1)}     # 64 patches, 32 + 1 of them, 10 + 1 of those
    seen: dict[str, list[Any]] = {}
    network.forward(images, lambda name, array: seen.setdefault(name, []).append(array),
                    prune=prune, source=source)
    integer = quantise(network, images, prune=prune, source=source)
    found: dict[str, list[Any]] = {}
    integer.forward(integer_images(integer, images),
                    lambda name, array: found.setdefault(name, []).append(array))
    assert [one.shape[1] for one in (seen["blocks.1.residual1"][0], found["blocks.1.residual1"][0],
                                     found["blocks.2.residual1"][0])] == [34, 34, 12]

    def fused(one: dict[str, list[Any]], kept: dict[str, list[Any]], at: str, image: int,
              step: float, scale: Any) -> Any:
        """The definition, spelled out."""
        weights = one[f"{at}.importance"][image][0] * step / (130 if source == "column" else 2)
        weights[kept[f"{at}.kept"][image][0]] = 0
        return weights @ (one[f"{at}.residual1"][image][0] * scale)

    def close(ours: Any, exact: Any, limit: float) -> bool:
        return np.abs(ours - exact).mean() < limit * np.abs(exact).mean()

    step = 2.0**-(6 if source == "column" else 14)
    for image, at in ((image, f"blocks.{block}") for image in range(len(images))
                      for block in range(2)):
        scale = integer.scales[f"{at}.fused"]
        ours, theirs = found[f"{at}.fused"][image][0, 0] * scale, seen[f"{at}.fused"][image][0, 0]
        assert close(theirs, fused(seen, seen, at, image, 1, 1), 1e-12)
        assert close(ours, fused(found, found, at, image, step, scale), 0.01)
        if at == "blocks.0":    # behind it the two have not kept quite the same
            assert close(ours, fused(seen, found, at, image, 1, 1), 0.12)


def test_a_core_refuses_what_it_cannot_leave_out():
    spec = replace(TINY, pruning="none", skip_words=0)
    network = random_vit(3, **SHAPE)
    with pytest.raises(ValueError, match="pruning must be class in the core"):
        compile(replace(network, prune={0: Prune(Rule.TOPK, 3)}), spec)
    fusing = replace(network, prune={0: Prune(Rule.TOPK, 3), 1: Prune(Rule.TOPK, 3, True)})
    with pytest.raises(ValueError, match="fuse must be True in the core for this network, which "
                                         "fuses the tokens that leave block 1, not False"):
        compile(fusing, TINY)
    with pytest.raises(ValueError, match="fuse must be False with pruning none, not True"):
        replace(spec, fuse=True)
    with pytest.raises(ValueError, match="fuse must be one of False, True, not 'yes'"):
        replace(TINY, fuse="yes")
    with pytest.raises(ValueError, match="skip_words must be at least 1"):
        compile(replace(network, skip=Skip(rows=4, channels=4)), spec)
    with pytest.raises(ValueError, match="must be 4 tokens of 4 units in this core"):
        compile(replace(network, skip=Skip(rows=8, channels=4)), TINY)
    program = compile(network, spec)
    assert all(step.fields["opcode"] != Opcode.PRUNE for step in program.steps)


@pytest.mark.parametrize("options, sentence", [
    (["--prune", "half"], "--prune must be off or BLOCK:PART"),
    (["--prune", "0:-0.1"], "--prune must be off or BLOCK:PART"),
    (["--prune", "0:1.5"], "--prune must be off or BLOCK:PART"),
    (["--prune", "0:.5,0:.4"], "--prune must name block 0 once"),
    (["--prune", "4:0.5"], "block to prune must be"),
    (["--prune", "0:0.5", "--set", "pruning=none"], "--prune must be off for a core"),
    (["--prune", "0:0.5", "--fuse"], "--fuse must be left out for a core with fuse false"),
    (["--set", "fuse=true", "--fuse"], "--fuse must be left out where no token leaves"),
    (["--set", "fuse=1"], "fuse must be one of true, false, not '1'"),
    (["--set", "fuse=true", "--set", "pruning=none"], "fuse must be False with pruning none"),
    (["--skip", "exact"], "--skip must be off for a network without ReLU"),
    (["--skip", "300"], "--skip must be off, exact or a level"),
    (["--skip", "-1"], "--skip"),
    (["--rule", "best"], "--rule"),
])
def test_wrong_wishes_are_one_sentence(options, sentence, capsys):
    command = ["estimate", "digits", "--on", "rowwise", "--preset", "tiny", *options]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
