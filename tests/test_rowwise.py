# SPDX-License-Identifier: Apache-2.0
"""The row-wise core: RTL against the emulator, on whole networks and on all that goes wrong."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from golden.activation import ActivationKind
from golden.operation import Opcode, Status, Wait
from golden.rowwise.cycles import predict
from golden.rowwise.emulator import Emulator
from golden.rowwise.operation import LAYOUT, sections
from golden.rowwise.spec import KIB, PRESETS, RowwiseSpec
from sim.core import CoreRun, emitted, simulate
from tests import verilog
from tests.networks import random_vit
from tests.simulators import need
from vitral.compile.rowwise import compile

SMALL = RowwiseSpec(
    rows=2, columns=4, depth=4, memory_bytes=8, activation_bytes=4 * KIB, residual_bytes=2 * KIB,
    key_bytes=KIB, value_bytes=KIB, weight_bytes=KIB, weight_tiles=8, max_keys=24, max_width=64,
    max_contraction=128)
GEOMETRIES = {
    "2x4x4": SMALL,
    "2x2x8": dataclasses.replace(SMALL, columns=2, depth=8, memory_bytes=4, queue_depth=2),
    "1x8x4": dataclasses.replace(SMALL, rows=1, columns=8, depth=4, memory_bytes=8,
                                 activation_bytes=2 * KIB, weight_bytes=640, weight_tiles=4),
    "8x4x2": dataclasses.replace(SMALL, rows=8, columns=4, depth=2, index_bits=6, table_width=9),
    "spill": dataclasses.replace(SMALL, activation_bytes=368, residual_bytes=384),
}
NETWORKS: dict[str, dict[str, Any]] = {  # nothing is a multiple of anything
    "2x4x4": dict(image=6, patch=2, dim=22, depth=1, heads=2, head_dim=9, hidden=50, classes=7),
    "2x2x8": dict(image=9, patch=3, dim=21, depth=1, heads=3, head_dim=5, hidden=37, classes=5,
                  activation=ActivationKind.RELU),
    "1x8x4": dict(image=6, patch=3, dim=30, depth=1, heads=1, head_dim=11, hidden=41, classes=9,
                  channels=3),
    "8x4x2": dict(image=8, patch=2, dim=18, depth=2, heads=2, head_dim=7, hidden=29, classes=3,
                  table_width=9, index_bits=6),
    "spill": dict(image=9, patch=3, channels=3, dim=22, depth=2, heads=3, head_dim=9, hidden=50,
                  classes=7),
}


def network(name: str, *, trace: bool, images: int = 1, spec: RowwiseSpec | None = None):
    """Return the program of a random network, its memory, and its operations."""
    spec = spec or GEOMETRIES[name]
    shape = NETWORKS[name]
    program = compile(random_vit(3, **shape), spec, trace=trace)
    pixels = np.random.default_rng(5).integers(
        -128, 128, (images, shape.get("channels", 1), shape["image"], shape["image"]))
    operations = [one for n in range(images) for one in program.operations(n)]
    return program, pixels, program.memory(pixels), operations


def emulate(spec, memory, operations):
    """Return completions and memory after the emulator has run the operations."""
    after = memory.copy()
    return Emulator(spec, after).run(operations), after


def check(run: CoreRun, spec, memory, operations):
    """Require the emulator's completions and every byte of its memory; and counters that add up."""
    completions, after = emulate(spec, memory, operations)
    assert run.completions == completions
    np.testing.assert_array_equal(run.memory, after)
    counters = run.counters[-1]
    parts = [value for name, value in counters.items()
             if name in ("busy", "idle") or name.startswith("stall_")]
    assert sum(parts) == counters["cycles"]


@pytest.mark.parametrize("stalls", [(0, 0, 0, 0), (90, 90, 90, 90)], ids=["free", "stalls"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_network(name, stalls, tmp_path):
    """Every intermediate of a whole network, at odd sizes and geometries, with stalls too."""
    spec = GEOMETRIES[name]
    _, _, memory, operations = network(name, trace=True, images=2)
    run = simulate(spec, memory, operations, stalls=stalls, quiet_cycles=50_000, directory=tmp_path)
    assert all(one.status == Status.OK for one in run.completions)
    check(run, spec, memory, operations)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_cycles(name, tmp_path):
    """The cycle model stays within 1.5 % on programs of a few thousand cycles."""
    spec = GEOMETRIES[name]
    _, _, memory, operations = network(name, trace=False, images=2)
    run = simulate(spec, memory, operations, quiet_cycles=50_000, directory=tmp_path)
    check(run, spec, memory, operations)
    predicted = predict(spec, operations)
    print(f"{name}: {run.cycles[-1]} cycles, predicted {predicted.cycles}")
    assert predicted.cycles == pytest.approx(run.cycles[-1], rel=0.015)
    assert predicted.counters["busy"] == run.counters[-1]["busy"]
    assert predicted.counters["beats_read"] == run.counters[-1]["beats_read"]
    assert predicted.counters["softmax"] == run.counters[-1]["softmax"]
    assert predicted.counters["norm"] == run.counters[-1]["norm"]
    for name, value in predicted.counters.items():  # every stall, too
        assert run.counters[-1][name] == pytest.approx(value, abs=0.015 * run.cycles[-1]), name


def test_one_row_tile(tmp_path):
    """Nothing follows rows that an earlier operation has completed, when all fit into one tile."""
    spec = GEOMETRIES["8x4x2"]
    shape: dict[str, Any] = NETWORKS["8x4x2"] | {"image": 4}
    program = compile(random_vit(3, **shape), spec)
    pixels = np.random.default_rng(5).integers(-128, 128, (2, 1, 4, 4))
    memory = program.memory(pixels)
    operations = [one for n in range(2) for one in program.operations(n)]
    run = simulate(spec, memory, operations, quiet_cycles=50_000, directory=tmp_path)
    check(run, spec, memory, operations)


def test_icarus(tmp_path):
    """The same Verilog, the same bits, in another simulator."""
    need("icarus")
    _, _, memory, operations = network("2x4x4", trace=True)
    design = emitted(SMALL)
    runs = [simulate(SMALL, memory, operations, design=design, simulator=simulator,
                     directory=tmp_path / simulator, sample=100)
            for simulator in ("verilator", "icarus")]
    for run in runs:
        check(run, SMALL, memory, operations)
    assert runs[0].cycles == runs[1].cycles and runs[0].counters == runs[1].counters
    assert runs[0].samples == runs[1].samples


def patched(descriptor: bytes, **fields: int) -> bytes:
    """Return a descriptor with some fields replaced."""
    return LAYOUT.pack(LAYOUT.unpack(descriptor) | fields)


def test_malformed_operation(tmp_path):
    """A bad operation ends with its status, its program is skipped, and the next one runs."""
    _, _, memory, good = network("2x4x4", trace=True)
    linear = next(n for n, one in enumerate(good) if one[0] == Opcode.LINEAR)
    attend = next(n for n, one in enumerate(good) if one[0] == Opcode.ATTEND)
    norm = next(n for n, one in enumerate(good) if one[0] == Opcode.NORM)
    store = next(n for n, one in enumerate(good) if one[0] == Opcode.STORE)
    faults = [
        (linear, dict(opcode=77), Status.BAD_OPCODE), (linear, dict(wait=3), Status.BAD_OPCODE),
        (linear, dict(place=6), Status.BAD_OPCODE), (linear, dict(activation=3), Status.BAD_OPCODE),
        (attend, dict(place=4), Status.BAD_OPCODE), (linear, dict(rows=0), Status.BAD_SHAPE),
        (linear, dict(columns=0), Status.BAD_SHAPE), (linear, dict(group=9), Status.BAD_SHAPE),
        (linear, dict(depth=200), Status.BAD_SHAPE), (linear, dict(source_row=1), Status.BAD_SHAPE),
        (linear, dict(address=3), Status.BAD_SHAPE), (attend, dict(keys=25), Status.BAD_SHAPE),
        (norm, dict(width=65), Status.BAD_SHAPE), (norm, dict(shift=11), Status.BAD_SHAPE),
        (norm, dict(shift=28), Status.BAD_SHAPE), (store, dict(keys=0), Status.BAD_SHAPE),
        (linear, dict(rows=65535), Status.OUT_OF_RANGE),
        (linear, dict(target=65535), Status.OUT_OF_RANGE),
        (linear, dict(target_stride=0, place=1), Status.OUT_OF_RANGE),
        (attend, dict(key=65535), Status.OUT_OF_RANGE),
        (attend, dict(value=250), Status.OUT_OF_RANGE),
        (norm, dict(source=65535), Status.OUT_OF_RANGE),
        (store, dict(keys=65535), Status.OUT_OF_RANGE),
        (store, dict(keys=2, address=2**32 - 8), Status.OUT_OF_RANGE),
    ]
    operations, expected = [], []
    for where, fields, status in faults:
        operations += [*good[:where], patched(good[where], **fields), *good[where + 1:]]
        expected += [*[Status.OK] * where, status, *[Status.SKIPPED] * (len(good) - where - 2),
                     Status.OK]
    operations += good
    expected += [Status.OK] * len(good)
    run = simulate(SMALL, memory, operations, quiet_cycles=50_000, directory=tmp_path)
    assert [one.status for one in run.completions] == expected
    check(run, SMALL, memory, operations)


def test_keys_and_values_are_not_activated(tmp_path):
    """An activation function is that of rows that go to the activation buffer, and of no others."""
    _, _, memory, good = network("2x4x4", trace=True)
    program = [patched(one, activation=ActivationKind.RELU) if one[0] == Opcode.LINEAR else one
               for one in good]
    run = simulate(SMALL, memory, program, quiet_cycles=50_000, directory=tmp_path)
    check(run, SMALL, memory, program)


def test_address_of_nothing(tmp_path):
    """The address of an operation without a weight stream is not looked at, wherever it leads."""
    _, _, memory, good = network("2x4x4", trace=True)
    program = [patched(one, address=1 << 24)
               if one[0] in (Opcode.ATTEND, Opcode.NORM) and not LAYOUT.unpack(one)["table"]
               else one for one in good]
    assert program != good
    run = simulate(SMALL, memory, program, quiet_cycles=50_000, directory=tmp_path)
    assert {one.status for one in run.completions} == {Status.OK}
    check(run, SMALL, memory, program)


def test_corrupted_programs(tmp_path):
    """Programs with random bits flipped end as the emulator says and touch what it touches."""
    rng = np.random.default_rng(11)
    _, _, memory, good = network("2x4x4", trace=True)
    memory = np.concatenate([memory, rng.integers(0, 256, 1 << 16).astype(np.uint8)])
    operations = []
    for _ in range(60):
        program = [bytearray(one) for one in good]
        for _ in range(rng.integers(1, 4)):
            bit = rng.integers(8 * 42)
            program[rng.integers(len(program) - 1)][bit // 8] ^= 1 << bit % 8
        for one in program:
            # Without the order that `wait` asks for, what an operation reads is undefined; reads
            # beyond the memory are another test's business.
            fields = LAYOUT.unpack(bytes(one))
            operations.append(patched(bytes(one), wait=max(fields["wait"], Wait.ALL),
                                      address=fields["address"] % (1 << 15)))
    operations += good
    run = simulate(SMALL, memory, operations, quiet_cycles=2_000_000, directory=tmp_path)
    check(run, SMALL, memory, operations)
    assert len({one.status for one in run.completions}) >= 4


@pytest.mark.parametrize("stalls", [(0, 0, 0, 0), (60, 60, 60, 60)], ids=["free", "stalls"])
def test_bus_errors(stalls, tmp_path):
    """A failed access is reported by its own operation, whatever was under way."""
    program, _, memory, good = network("2x4x4", trace=False)
    size = len(memory)
    bad = len(program.weights) // SMALL.memory_bytes // 2 * SMALL.memory_bytes
    run = simulate(SMALL, memory, good, stalls=stalls, fault=(bad, bad + 8),
                   directory=tmp_path / "read", quiet_cycles=50_000)
    statuses = [one.status for one in run.completions]
    first = statuses.index(Status.BUS_ERROR)
    assert statuses == [*[Status.OK] * first, Status.BUS_ERROR,
                        *[Status.SKIPPED] * (len(good) - first - 2), Status.OK]
    assert _stream_contains(good[first], bad)
    np.testing.assert_array_equal(run.memory, memory)  # the logits were not stored

    # Beyond the limit: the STORE of the logits fails; the program behind it is not concerned
    again = [patched(one, address=1 << 24) if one[0] == Opcode.STORE else one for one in good]
    run = simulate(SMALL, memory, again + good, stalls=stalls, limit=size,
                   directory=tmp_path / "write", quiet_cycles=50_000)
    statuses = [one.status for one in run.completions]
    assert statuses == [*[Status.OK] * (len(good) - 2), Status.BUS_ERROR,
                        *[Status.OK] * (len(good) + 1)]
    np.testing.assert_array_equal(run.memory, emulate(SMALL, memory, good)[1])


def _stream_contains(descriptor: bytes, address: int) -> bool:
    op = LAYOUT.unpack(descriptor)
    size = sum(part for _, part in sections(SMALL, op))
    return op["address"] <= address < op["address"] + size


@pytest.mark.parametrize("after", [40, 333, 1111, 2500, 4001])
def test_reset_in_the_middle(after, tmp_path):
    """A reset at any moment leaves a core that runs the next program."""
    program, pixels, memory, good = network("2x4x4", trace=True)
    run = simulate(SMALL, memory, good + good, testcase="reset_in_the_middle",
                   settings={"reset_after": after, "again_from": len(good)}, directory=tmp_path)
    completions, _ = emulate(SMALL, memory, good)
    assert run.completions[-len(good):] == completions
    assert program.differences(run.memory, pixels) == []  # beside them lies what was there before


def test_verilog(tmp_path):
    """The emitted Verilog lints clean, and synthesizes without a latch or a black box."""
    verilog.check(emitted(SMALL).verilog, "rowwise", tmp_path)


def test_presets():
    """The presets have the sizes that they promise."""
    assert PRESETS["tiny"].macs == 64 and PRESETS["paper"].macs == 512
    assert sum(PRESETS["paper"].memory_bits.values()) <= 8 * 232 * 1000
