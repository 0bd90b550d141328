# SPDX-License-Identifier: Apache-2.0
"""Tokens that leave, or become one: RTL against the emulator, in networks and in odd programs."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from golden.operation import Opcode, Status, Wait
from golden.prune import Prune
from golden.rowwise.cycles import predict
from golden.rowwise.emulator import Emulator
from golden.rowwise.operation import LAYOUT, LIVE
from golden.rowwise.spec import RowwiseSpec
from golden.topk import Rule
from sim.core import emitted, simulate
from tests.networks import random_vit
from tests.test_rowwise import GEOMETRIES, NETWORKS, SMALL, check, patched
from vitral.compile.rowwise import compile

COLUMN = dataclasses.replace(SMALL, pruning="column")
FUSE = dataclasses.replace(SMALL, fuse=True)
FUSING = {name: dataclasses.replace(
    GEOMETRIES[name], fuse=True, pruning="column" if name in ("2x2x8", "8x4x2") else "class")
    for name in GEOMETRIES if name != "spill"}
RULES = {
    "topk": {0: Prune(Rule.TOPK, 6), 1: Prune(Rule.TOPK, 3)},
    "mean": {0: Prune(Rule.MEAN, 256)},
    "threshold": {0: Prune(Rule.THRESHOLD, 3000), 1: Prune(Rule.THRESHOLD, 2500)},
    "one": {0: Prune(Rule.TOPK, 1)},
    "all": {0: Prune(Rule.TOPK, 200), 1: Prune(Rule.THRESHOLD, 0)},
}


def network(name: str, prune: dict[int, Prune], *, trace: bool, spec: RowwiseSpec | None = None,
            images: int = 1, **changes: int):
    """Return the program of a random network that prunes, its memory, and its operations.

    A core that can fuses the tokens that leave.
    """
    spec = spec or GEOMETRIES[name]
    shape = {**NETWORKS[name], "depth": 2, **changes}
    prune = {block: dataclasses.replace(one, fuse=spec.fuse) for block, one in prune.items()}
    vit = dataclasses.replace(random_vit(3, **shape), prune=prune, source=spec.pruning)
    program = compile(vit, spec, trace=trace)
    pixels = np.random.default_rng(5).integers(
        -128, 128, (images, shape.get("channels", 1), shape["image"], shape["image"]))
    return program, program.memory(pixels), [
        one for n in range(images) for one in program.operations(n)]


def work(spec: RowwiseSpec, memory, operations: Sequence[bytes]):
    """Return what the emulator had to do for each operation."""
    emulator = Emulator(spec, memory.copy())
    emulator.run(operations)
    return emulator.work


def join(programs):
    """Return the memory and the operations of programs one after the other."""
    memories, operations, base = [], [], 0
    for memory, program in programs:
        operations += [patched(one, address=LAYOUT.unpack(one)["address"] + base)
                       for one in program]
        memories += [memory, np.zeros(-len(memory) % 64, np.uint8)]
        base += len(memory) + len(memories[-1])
    return np.concatenate(memories), operations


def run(spec: RowwiseSpec, memory, operations, directory, **settings):
    """Run operations on the RTL and require what the emulator says."""
    result = simulate(spec, memory, operations, quiet_cycles=100_000, directory=directory,
                      **settings)
    check(result, spec, memory, operations)
    return result


def where(operations: Sequence[bytes], *opcodes: Opcode) -> list[int]:
    return [n for n, one in enumerate(operations) if one[0] in opcodes]


@pytest.mark.parametrize("stalls", [(0, 0, 0, 0), (90, 90, 90, 90)], ids=["free", "stalls"])
@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "spill"])
def test_network(name, stalls, tmp_path):
    """Whole networks that prune by each rule, with and without their intermediates."""
    spec = GEOMETRIES[name]
    memory, operations = join(network(name, prune, trace=trace)[1:]
                              for prune in RULES.values() for trace in (True, False))
    result = run(spec, memory, operations, tmp_path, stalls=stalls)
    assert all(one.status == Status.OK for one in result.completions)
    left = {one.rows for one, op in zip(work(spec, memory, operations), operations, strict=True)
            if op[0] == Opcode.PRUNE}
    assert len(left) >= 4 and 1 in left


@pytest.mark.parametrize("stalls", [(0, 0, 0, 0), (90, 90, 90, 90)], ids=["free", "stalls"])
@pytest.mark.parametrize("name", FUSING)
def test_fused_network(name, stalls, tmp_path):
    """Those that leave become one token; in one network rows are a single word."""
    spec = FUSING[name]
    memory, operations = join([
        *(network(name, prune, trace=trace, spec=spec)[1:]
          for prune in RULES.values() for trace in (True, False)),
        network(name, RULES["topk"], trace=True, spec=spec, dim=spec.columns)[1:]])
    result = run(spec, memory, operations, tmp_path, stalls=stalls)
    assert all(one.status == Status.OK for one in result.completions)
    left = {(one.rows == one.keys, one.rows == 1)
            for one, op in zip(work(spec, memory, operations), operations, strict=True)
            if op[0] == Opcode.FUSE}
    assert left == {(True, False), (False, True), (False, False)}


@pytest.mark.parametrize("stalls", [(0, 0, 0, 0), (90, 90, 90, 90)], ids=["free", "stalls"])
def test_column(stalls, tmp_path):
    """Importance from all rows of all heads."""
    memory, operations = join(network("2x4x4", prune, trace=trace, spec=COLUMN)[1:]
                              for prune in RULES.values() for trace in (True, False))
    run(COLUMN, memory, operations, tmp_path, stalls=stalls)


def with_prunes(operations: Sequence[bytes], rng: np.random.Generator,
                fuse: bool = False) -> list[bytes]:
    """Return a program with PRUNE at odd places, behind which everything is live.

    With ``fuse`` some of them are FUSE, and NORM has odd rows.
    """
    operations = list(operations)
    result: list[bytes] = []
    places = set(rng.choice(len(operations) - 1, int(rng.integers(1, 6)), replace=False).tolist())
    live = False
    for n, one in enumerate(operations):
        op = LAYOUT.unpack(one)
        if n in places:
            for _ in range(int(rng.integers(1, 3))):
                rule = int(rng.integers(3))
                level = (int(rng.integers(1, 11)), int(rng.integers(5000)),
                         int(rng.integers(400)))[rule]
                result.append(LAYOUT.pack({
                    "opcode": Opcode.PRUNE + bool(fuse and rng.integers(4)),
                    "tag": int(rng.integers(1 << 16)), "rule": rule, "level": level,
                    "rows": int(rng.integers(1, 12)), "live": int(rng.integers(2)),
                    "protected": int(rng.integers(4)), "token": int(rng.integers(20)),
                    "wait": int(rng.choice([0, 0, 0, 1, 2]))}))
            live = True
        if op["opcode"] in LIVE:
            op |= {"live": live, "gather": live and op["opcode"] == Opcode.NORM
                   and bool(rng.integers(2)), "token": op["token"] if live else 0}
        if op["opcode"] == Opcode.NORM and fuse and live:
            op |= {"score_mul": int(rng.integers(1 << 16)), "score_shift": int(rng.integers(64))}
            if not rng.integers(3):
                op["rows"] = int(rng.integers(1, op["rows"] + 1))
                op["source_row"] = int(rng.integers(0, 11 - op["rows"]))
        if op["opcode"] == Opcode.ATTEND:
            op["importance"] = int(rng.integers(3))
        result.append(LAYOUT.pack(op))
    return result


def in_parts(program, operations: Sequence[bytes], size: int = 4) -> list[bytes]:
    """Return a program whose fc1 and fc2 take turns on groups of rows, as with a small buffer."""
    result, names = [], program.names
    table = 1 << SMALL.table_width
    for n, one in enumerate(operations):
        if names[n].endswith("fc2"):
            continue
        if not names[n].endswith("fc1"):
            result.append(one)
            continue
        pair = [LAYOUT.unpack(one) for one in operations[n:n + 2]]
        for first in range(0, pair[0]["rows"], size):
            rows = {"rows": min(size, pair[0]["rows"] - first), "source_row": first,
                    "target_row": first, "token": first}
            for op in pair:
                again = bool(first and op["table"])
                result.append(LAYOUT.pack(op | rows | {
                    "wait": Wait.ALL if first and op is pair[0] else op["wait"],
                    "table": op["table"] and not again,
                    "address": op["address"] + again * table}))
    return result


@pytest.mark.parametrize("stalls", [(0, 0, 0, 0), (60, 60, 60, 60)], ids=["free", "stalls"])
@pytest.mark.parametrize("spec", [SMALL, FUSE], ids=["prune", "fuse"])
def test_odd_places(spec, stalls, tmp_path):
    """PRUNE anywhere and several times, parts that vanish, stale importance: nothing hangs."""
    rng = np.random.default_rng(17)
    programs = []
    for _ in range(36 if spec.fuse else 12):
        program, memory, operations = network("2x4x4", {}, trace=False)
        programs.append((memory, with_prunes(in_parts(program, operations), rng, spec.fuse)))
    memory, operations = join(programs)
    result = run(spec, memory, operations, tmp_path, stalls=stalls)
    assert all(one.status == Status.OK for one in result.completions)
    done = work(spec, memory, operations)
    assert any(not one.rows and op[0] == Opcode.LINEAR and LAYOUT.unpack(op)["token"]
               for one, op in zip(done, operations, strict=True))


@pytest.mark.parametrize("spec", [SMALL, FUSE], ids=["prune", "fuse"])
def test_corrupted_programs(spec, tmp_path):
    """Random bits flipped, in the new fields above all: what the emulator says, and no hang."""
    rng = np.random.default_rng(23)
    _, memory, good = network("2x4x4", RULES["topk"], trace=True, spec=spec)
    memory = np.concatenate([memory, rng.integers(0, 256, 1 << 16).astype(np.uint8)])
    operations = []
    for _ in range(50):
        program = [bytearray(one) for one in with_prunes(good, rng, spec.fuse)]
        for _ in range(rng.integers(0, 4)):
            bit = rng.integers(8 * 44, 8 * 49) if rng.integers(3) else rng.integers(8 * 42)
            program[rng.integers(len(program) - 1)][bit // 8] ^= 1 << bit % 8
        for one in program:
            fields = LAYOUT.unpack(bytes(one))
            token = fields["token"] % 8 if rng.integers(4) else fields["token"]
            operations.append(patched(bytes(one), wait=max(fields["wait"], Wait.ALL), token=token,
                                      live=int(fields["live"] and rng.integers(8) > 0),
                                      address=fields["address"] % (1 << 15)))
    operations += good
    result = run(spec, memory, operations, tmp_path)
    assert len({one.status for one in result.completions}) >= 4


@pytest.mark.parametrize("spec", [SMALL, FUSE], ids=["prune", "fuse"])
def test_malformed_operation(spec, tmp_path):
    """What PRUNE and the fields that came with it refuse; the core without it refuses it whole."""
    _, memory, good = network("2x4x4", RULES["topk"], trace=True, spec=spec)
    prune = where(good, Opcode.PRUNE, Opcode.FUSE)[0]
    attend = where(good, Opcode.ATTEND)[-1]
    gather = next(n for n in where(good, Opcode.NORM) if LAYOUT.unpack(good[n])["gather"])
    linear = where(good, Opcode.LINEAR)[-2]
    faults = [
        (prune, dict(rule=3), Status.BAD_OPCODE), (prune, dict(wait=3), Status.BAD_OPCODE),
        (prune, dict(rows=0), Status.BAD_SHAPE), (prune, dict(rows=25), Status.BAD_SHAPE),
        (prune, dict(opcode=8 if spec.fuse else Opcode.FUSE), Status.BAD_OPCODE),
        (attend, dict(importance=3), Status.BAD_OPCODE),
        (gather, dict(live=0), Status.BAD_OPCODE), (gather, dict(token=20), Status.BAD_SHAPE),
        (linear, dict(live=1, token=15), Status.BAD_SHAPE),
        (attend, dict(live=1, token=65535), Status.BAD_SHAPE),
    ]
    operations, expected = [], []
    for n, fields, status in faults:
        operations += [*good[:n], patched(good[n], **fields), *good[n + 1:]]
        expected += [*[Status.OK] * n, status, *[Status.SKIPPED] * (len(good) - n - 2), Status.OK]
    harmless = [patched(one, address=5, place=7, live=1, token=99) if n == prune else one
                for n, one in enumerate(good)]
    operations += harmless
    expected += [Status.OK] * len(good)
    result = run(spec, memory, operations, tmp_path)
    assert [one.status for one in result.completions] == expected


def test_core_without_pruning(tmp_path):
    """It refuses PRUNE, importance and gather, takes live, and has none of the memories."""
    spec = dataclasses.replace(SMALL, pruning="none")
    _, memory, good = network("2x4x4", RULES["topk"], trace=True)
    plain = [patched(one, importance=0, gather=0) for one in good if one[0] != Opcode.PRUNE]
    programs = [plain, [patched(one, importance=0) for one in good], good,
                [one for one in good if one[0] != Opcode.PRUNE], plain]
    gathers = [patched(one, importance=0) for one in good if one[0] != Opcode.PRUNE]
    operations = [one for program in [*programs, gathers] for one in program]
    result = run(spec, memory, operations, tmp_path)
    assert {one.status for one in result.completions} == {
        Status.OK, Status.BAD_OPCODE, Status.SKIPPED}


@pytest.mark.parametrize("stalls", [(0, 0, 0, 0), (60, 60, 60, 60)], ids=["free", "stalls"])
@pytest.mark.parametrize("spec", [SMALL, FUSE], ids=["prune", "fuse"])
def test_bus_errors(spec, stalls, tmp_path):
    """A failed access anywhere in a program that prunes is reported, and the next one runs."""
    program, memory, operations = network("2x4x4", RULES["topk"], trace=False, spec=spec)
    good = in_parts(program, operations)
    size = len(program.weights)
    for n in range(6):
        bad = size * n // 6 // 8 * 8
        result = simulate(spec, memory, [*good, good[-1]], stalls=stalls, fault=(bad, bad + 8),
                          quiet_cycles=50_000, directory=tmp_path / str(n))
        statuses = [one.status for one in result.completions]
        if Status.BUS_ERROR in statuses:
            first = statuses.index(Status.BUS_ERROR)
            assert statuses == [*[Status.OK] * first, Status.BUS_ERROR,
                                *[Status.SKIPPED] * (len(good) - first - 2), Status.OK, Status.OK]
        else:  # it is read for no token that is left
            assert set(statuses) == {Status.OK}


@pytest.mark.parametrize("after", [1500, 1700, 1800, 2900, 3000, 3100, 4200])
@pytest.mark.parametrize("spec", [SMALL, FUSE], ids=["prune", "fuse"])
def test_reset_in_the_middle(spec, after, tmp_path):
    """A reset while tokens are gone, or chosen, or added up, brings them all back."""
    _, memory, good = network("2x4x4", RULES["topk"], trace=False, spec=spec)
    result = simulate(spec, memory, good + good, testcase="reset_in_the_middle",
                      settings={"reset_after": after, "again_from": len(good)}, directory=tmp_path)
    emulator = Emulator(spec, memory.copy())
    completions = emulator.run(good)
    assert result.completions[-len(good):] == completions
    np.testing.assert_array_equal(result.memory, emulator.memory)


@pytest.mark.parametrize("spec", [SMALL, COLUMN, dataclasses.replace(SMALL, pruning="none"),
                                  dataclasses.replace(SMALL, skip_words=0), FUSE,
                                  FUSING["2x2x8"]],
                         ids=["class", "column", "none", "no skipping", "fuse", "fuse 2x2x8"])
def test_memories(spec):
    """``memory_bits`` has every memory of the core but its queues, to the bit."""
    queues = ("rowwise_readers", "rowwise_route", "rowwise_tiles")
    bits = sum(one["width"] * one["depth"] * one["instances"]
               for one in emitted(spec).description["memories"]
               if one["writable"] and not one["module"].startswith(queues))
    assert bits == sum(spec.memory_bits.values())


def test_cycles_of_prune(tmp_path):
    """A PRUNE takes exactly as long as the model says, whatever its rule."""
    operations = [LAYOUT.pack({"opcode": Opcode.PRUNE, "rows": rows, "rule": rule, "level": 5})
                  for rows in (24, 10, 7, 2, 1) for rule in Rule]
    operations.append(LAYOUT.pack({"opcode": Opcode.HALT}))
    memory = np.zeros(64, np.uint8)
    result = run(SMALL, memory, operations, tmp_path)
    predicted = predict(SMALL, operations, work=work(SMALL, memory, operations))
    assert predicted.completions == result.cycles


@pytest.mark.parametrize("specs", [GEOMETRIES, FUSING], ids=["prune", "fuse"])
@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "spill"])
def test_cycles(name, specs, tmp_path):
    """The cycle model stays within 1.5 % on programs of a few thousand cycles."""
    spec = specs[name]
    for rule in ("topk", "mean", "threshold", "one"):
        _, memory, operations = network(name, RULES[rule], trace=False, images=2, spec=spec)
        result = run(spec, memory, operations, tmp_path / rule)
        predicted = predict(spec, operations, work=work(spec, memory, operations))
        print(f"{name} {rule}: {result.cycles[-1]} cycles, predicted {predicted.cycles}, without "
              f"pruning {predict(spec, operations).cycles}")
        assert predicted.cycles == pytest.approx(result.cycles[-1], rel=0.015)
        assert predicted.counters["busy"] == result.counters[-1]["busy"]
        assert predicted.counters["beats_read"] == result.counters[-1]["beats_read"]
