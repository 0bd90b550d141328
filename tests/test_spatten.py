# SPDX-License-Identifier: Apache-2.0
"""The SpAtten core in RTL against the golden emulator: whole programs, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from golden.operation import Opcode, Status
from golden.spatten.emulator import Emulator
from golden.spatten.operation import LAYOUT, Rescale, Subject, Target
from golden.spatten.spec import LOCAL, PRESETS, SpattenSpec
from golden.topk import Rule
from sim.spatten import emitted, simulate
from tests import verilog
from tests.simulators import need
from tests.spatten_memory import Tensors
from tests.spatten_network import Network

TINY = PRESETS["tiny"]
SPECS = {
    "tiny": TINY,
    "one channel": replace(TINY, channels=1, lanes=8, prune_lanes=2, score_rows=128, selectors=2,
                           local=0),
    "four": SpattenSpec(channels=4, lanes=8, max_tokens=96, max_heads=6, pairs=4, score_rows=64,
                        selectors=3, value_queue=8, prune_lanes=8, output_queue=2, outstanding=8),
}
NETWORKS = {
    "tiny": TINY,
    "four": SpattenSpec(channels=4, lanes=16, max_tokens=72, max_heads=6, pairs=4, score_rows=64,
                        selectors=3, value_queue=8, prune_lanes=8, output_queue=2, outstanding=16,
                        local=2048, max_width=70, table_width=8, index_bits=6, fuse=True),
}
"""Cores with local memories."""
HALT = LAYOUT.pack({"opcode": Opcode.HALT, "tag": 0xBEEF})
STALLS = {"free": (0, 0, 0, 0), "stalls": (60, 60, 60, 60)}


def prune(**fields):
    return LAYOUT.pack({"opcode": Opcode.PRUNE, **fields})


def layer(spec, random, first, *, tokens=None, **fields):
    """Return the tensors of a random layer."""
    tokens = int(random.integers(1, spec.max_tokens + 1)) if tokens is None else tokens
    narrow = bool(spec.sharing > 1 and random.random() < 0.4)
    return Tensors(spec, random, first=first, narrow=narrow, **{
        "heads": int(random.integers(1, spec.max_heads + 1)), "tokens": tokens,
        "key_bits": int(random.choice([4, 8, 12] if narrow else [4, 6, 8, 10, 12])),
        "value_bits": int(random.choice([4, 8, 12])), "rotation": int(random.integers(0, 256)),
        "peaked": float(random.choice([0.05, 0.3, 1.0])), **fields})


def program(spec, seed, layers=4):
    """Return memory and operations: ATTENDs of all kinds, between which tokens and heads leave."""
    random = np.random.default_rng(seed)
    parts, operations, first = [], [], 0
    tokens = int(random.integers(spec.max_tokens // 2, spec.max_tokens))
    for number in range(layers):
        one = layer(spec, random, first, tokens=tokens)
        first = one.end
        parts.append(one)
        limit = int(random.choice([0, 4095 * 3, 4095 * 8, (1 << 24) - 1]))
        values = int(random.choice([0, 1, tokens // 4, tokens, 65535]))
        operations.append(one.operation(limit=limit, values=values, tag=number,
                                        dense=int(random.integers(0, 4) == 0),
                                        accumulate=int(random.integers(0, 4) != 0)))
        kind = random.integers(0, 4)
        if kind < 2:
            operations.append(prune(
                tokens=min(tokens + 1, spec.max_tokens), level=int(random.integers(1, tokens + 2)),
                newest=int(random.integers(0, 2)), dense=int(random.integers(0, 3) == 0),
                rule=Rule.TOPK if random.integers(0, 3) else Rule.THRESHOLD,
                protected=int(random.integers(0, 4)), importance_shift=int(random.integers(0, 6)),
                rescale=int(random.integers(0, 4)), rescale_shift=int(random.integers(0, 5))))
        if kind == 2:
            operations.append(prune(subject=Subject.HEADS, heads=spec.max_heads,
                                    level=int(random.integers(1, spec.max_heads + 1)),
                                    rescale=Rescale.KEEP, importance_shift=4))
    first += 64  # a token that was kept may lie one row beyond what was written
    memory = random.integers(0, 256, (first, spec.channels, spec.memory_bytes)).astype(np.uint8)
    for one in parts:
        one.write(memory)
    return memory, [*operations, HALT]


def compare(spec, memory, operations, tmp_path, **options):
    """Run in both; compare memory, completions and bytes; return both."""
    golden = Emulator(spec, memory.copy())
    ends = golden.run(operations)
    done = simulate(spec, memory, operations, directory=tmp_path, quiet_cycles=50_000, **options)
    assert done.completions == ends
    wrong = np.argwhere(done.memory != golden.memory)
    assert not len(wrong), f"{len(wrong)} bytes differ, first at {wrong[0]}"
    return golden, done


def check_counters(spec, counters, golden, exact=True):
    """Compare the beats of the memory outside; each cycle of a channel is counted once."""
    if exact:
        assert counters["beats_read"] * spec.memory_bytes == golden.bytes_read
    assert counters["beats_written"] * spec.memory_bytes == golden.bytes_written
    assert (counters["beats_read"] + counters["local"] + counters["owed"] + counters["free"]
            == counters["active"] * spec.channels)


@pytest.mark.parametrize("stalls", STALLS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SPECS)
def test_programs(name, seed, stalls, tmp_path):
    """Two programs in a row, the second with what the first left in memory."""
    spec = SPECS[name]
    memory, operations = program(spec, seed)
    golden, done = compare(spec, memory, operations + operations, tmp_path, stalls=STALLS[stalls])
    counters = done.counters[-1]
    check_counters(spec, counters, golden)
    assert not counters["local"]


def test_in_icarus(tmp_path):
    need("icarus")
    memory, operations = program(TINY, 7, layers=2)
    compare(TINY, memory, operations, tmp_path, simulator="icarus", stalls=STALLS["stalls"])


@pytest.mark.parametrize("stalls", STALLS)
@pytest.mark.parametrize("field", ["query", "key", "key_low", "value", "output"])
def test_bus_errors(field, stalls, tmp_path):
    """The operation that fails says so, nothing behind it is written, the next program runs."""
    random = np.random.default_rng(3)
    spec = SPECS["four"]
    first = layer(spec, random, 0, heads=5, tokens=50)
    second = layer(spec, random, first.end, heads=6, tokens=60)
    memory = np.zeros((second.end, spec.channels, spec.memory_bytes), np.uint8)
    first.write(memory)
    second.write(memory)
    bad = LAYOUT.pack(LAYOUT.unpack(second.operation(tag=5, limit=0)) | {field: 1 << 20})
    operations = [first.operation(tag=1), bad, second.operation(tag=2), first.operation(tag=3),
                  prune(tokens=50, level=3), HALT, second.operation(tag=9), HALT]
    golden = Emulator(spec, memory.copy())
    ends = golden.run(operations)
    assert [end.status for end in ends[:4]] == [Status.OK, Status.BUS_ERROR, Status.SKIPPED,
                                                Status.SKIPPED]
    done = simulate(spec, memory, operations, directory=tmp_path, quiet_cycles=50_000,
                    stalls=STALLS[stalls], limit=memory.shape[0] * spec.channels)
    assert done.completions == ends
    outputs = [tensors.outputs(one) for tensors in (first, second)
               for one in (done.memory, golden.memory)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[2], outputs[3])


def test_refused_operations(tmp_path):
    """Whatever is refused touches nothing."""
    random = np.random.default_rng(4)
    spec = SPECS["four"]
    tensors = layer(spec, random, 0, heads=4, tokens=40, key_bits=8)
    memory = np.zeros((tensors.end, spec.channels, spec.memory_bytes), np.uint8)
    tensors.write(memory)
    good = tensors.operation(tag=1)
    operations = []
    for fields in (dict(opcode=Opcode.LINEAR), dict(count=1), dict(opcode=Opcode.FUSE),
                   dict(opcode=255), dict(heads=0), dict(heads=7),
                   dict(tokens=0), dict(tokens=97), dict(key_planes=0), dict(value_planes=0),
                   dict(key_planes=3, key_half=1), dict(narrow=1, key_half=1),
                   dict(opcode=Opcode.PRUNE, rule=3), dict(opcode=Opcode.PRUNE, tokens=0),
                   dict(opcode=Opcode.PRUNE, subject=1, heads=0)):
        operations += [good, LAYOUT.pack(LAYOUT.unpack(good) | fields), good,
                       prune(tokens=40, level=2), HALT]
    compare(spec, memory, [*operations, good, HALT], tmp_path, stalls=STALLS["stalls"])


@pytest.mark.parametrize("after", [40, 130, 300, 500, 900])
def test_reset_in_the_middle(after, tmp_path):
    spec = SPECS["four"]
    memory, operations = program(spec, 11)
    golden = Emulator(spec, memory.copy())
    ends = golden.run(operations)
    done = simulate(spec, memory, operations + operations, testcase="reset_in_the_middle",
                    directory=tmp_path, quiet_cycles=50_000,
                    settings={"reset_after": after, "again_from": len(operations)})
    assert done.completions[-len(ends):] == ends
    np.testing.assert_array_equal(done.memory, golden.memory)


@pytest.mark.parametrize("stalls", STALLS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, seed, stalls, tmp_path):
    """All operations on random data, in local memories and outside."""
    spec = NETWORKS[name]
    outer = seed == 2  # then weights are read for each token, which the emulator does not count
    memory, operations = Network(spec, seed, outer_weights=outer).program(14)
    golden, done = compare(spec, memory, operations, tmp_path, stalls=STALLS[stalls])
    assert (golden.memory != memory).mean() > 0.1
    check_counters(spec, done.counters[-1], golden, exact=not outer)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_between_generation(name, tmp_path):
    """What was chosen for the one does not concern the other."""
    spec = NETWORKS[name]
    memory, operations = program(spec, 5, layers=2)
    network = Network(spec, 6, first=len(memory))
    behind, more = network.program(6)
    compare(spec, np.concatenate([memory, behind]), operations + more + operations, tmp_path,
            stalls=(20, 20, 20, 20))


def test_network_in_icarus(tmp_path):
    need("icarus")
    memory, operations = Network(TINY, 7).program(4)
    compare(TINY, memory, operations, tmp_path, simulator="icarus", stalls=STALLS["stalls"])


FAR = 1 << 20, LOCAL + 2048
"""Beats that are not there."""
WRONG = {
    "LOAD": ("load", "key", {}), "constants": ("load", "key", {"target": Target.CONSTANTS}),
    "table": ("load", "key", {"target": Target.TABLE}),
    "importance": ("load", "key", {"target": Target.IMPORTANCE}),
    "LINEAR inputs": ("linear", "query", {}), "LINEAR weights": ("linear", "key", {}),
    "LINEAR outputs": ("linear", "output", {"planes": 0, "residual": 0}),
    "LINEAR residual": ("linear", "output", {"planes": 0, "residual": 1}),
    "LINEAR low plane": ("linear", "key_low", {"planes": 1, "residual": 0, "value_planes": 2}),
    "NORM rows": ("norm", "query", {}), "NORM results": ("norm", "output", {}),
    "ATTEND queries": ("attend", "query", {"count": 20}),
    "ATTEND keys": ("attend", "key", {"count": 20}),
    "ATTEND low bits": ("attend", "key_low", {"count": 20, "limit": 0}),
    "ATTEND values": ("attend", "value", {"count": 20, "values": 20}),
    "ATTEND outputs": ("attend", "output", {"count": 20}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_network_bus_errors(wrong, tmp_path):
    """The operation that fails says so, nothing behind it is done, the next program runs."""
    spec = NETWORKS["four"]
    kind, field, fields = WRONG[wrong]
    network = Network(spec, 8)
    network.loads()
    network.end += network.size  # where it may write whatever it likes
    garbage = slice(network.end - network.size, network.end)
    fields = {"tokens": 50, "dense": 1, "output": garbage.start, "key_low": garbage.start} | fields
    for far in FAR:
        if kind == "load":
            network.add(Opcode.LOAD, **{
                "target": Target.LOCAL, "constant": 0, "count": 9} | fields | {
                    "output": LOCAL, "key": far})
        else:
            low = {"key_low": network.inputs} if kind == "attend" else {}
            getattr(network, kind)(**fields | low | {field: far})
        network.linear(output=network.end, tag=77)
        network.operations.append(HALT)
    network.loads()
    for one in (network.linear, network.attend, network.norm):
        network.end += network.size
        one(tokens=30, dense=1, output=network.end - network.size, residual=0, count=20,
            planes=0, inputs=2)
    memory, operations = network.memory(), [*network.operations, HALT]
    golden = Emulator(spec, memory.copy())
    ends = golden.run(operations)
    fails = [Status.BUS_ERROR, Status.SKIPPED, Status.OK]
    assert [end.status for end in ends] == [*[Status.OK] * 3, *fails, *fails, *[Status.OK] * 7]
    done = simulate(spec, memory, operations, directory=tmp_path, quiet_cycles=50_000,
                    limit=memory.shape[0] * spec.channels)
    assert done.completions == ends
    for core in (golden.memory, done.memory):
        core[garbage] = 0
    np.testing.assert_array_equal(done.memory, golden.memory)


REFUSED = {
    "LINEAR": ({"tokens": 0}, {"tokens": 73}, {"inputs": 0}, {"inputs": 49}, {"outputs": 0},
               {"outputs": 5}, {"by_head": 1, "inputs": 7, "narrow": 0},
               {"by_head": 1, "inputs": 4, "narrow": 1}, {"planes": 1, "residual": 1},
               {"planes": 1, "value_planes": 0}, {"outputs": 4, "constant": 81},
               {"outputs": 1, "constant": 0xFFFF}, {"query": 2 * LOCAL}, {"output": 1 << 31},
               {"key": 3 * LOCAL}, {"planes": 1, "key_low": 2 * LOCAL}),
    "NORM": ({"tokens": 0}, {"count": 0}, {"count": 16}, {"count": 33}, {"inputs": 5, "count": 71},
             {"inputs": 0}, {"shift": 11}, {"shift": 28}, {"constant": 129}, {"query": 4 * LOCAL},
             {"output": 2 * LOCAL}),
    "LOAD": ({"target": 3, "constant": 28}, {"count": 0}, {"output": 5}, {"output": LOCAL + 2040},
             {"output": 3 * LOCAL}, {"target": 1, "constant": 136}, {"target": 2, "constant": 24},
             {"target": 2, "constant": 0, "count": 33}, {"key": 2 * LOCAL}),
    "ATTEND": ({"count": 73}, {"heads": 7}, {"narrow": 1, "key_planes": 1, "key_half": 1},
               *({name: 2 * LOCAL} for name in ("query", "key", "key_low", "value", "output"))),
    "FUSE": ({"tokens": 0}, {"tokens": 73}, {"inputs": 0}, {"inputs": 6}, {"query": 2 * LOCAL},
             {"output": 1 << 31}),
}


def test_refused_network_operations(tmp_path):
    spec = NETWORKS["four"]
    network = Network(spec, 9)
    good = {
        "LINEAR": dict(tokens=20, dense=1, inputs=2, outputs=1, planes=0, residual=0, by_head=0,
                       value_planes=2, constant=3),
        "NORM": dict(tokens=20, inputs=2, count=30, constant=0),
        "LOAD": dict(target=Target.LOCAL, key=network.image, output=LOCAL, count=9, constant=0),
        "ATTEND": dict(tokens=20, count=3),
        "FUSE": dict(tokens=20, inputs=5),
    }
    network.loads()
    makers = {"LINEAR": network.linear, "NORM": network.norm, "ATTEND": network.attend,
              "LOAD": lambda **fields: network.add(Opcode.LOAD, **fields),
              "FUSE": lambda **fields: network.add(Opcode.FUSE, **fields)}
    for name, some in REFUSED.items():
        for fields in ({}, *some):
            makers[name](**good[name] | fields)
            network.operations.append(HALT)
    network.dump()
    memory, operations = network.memory(), [*network.operations, HALT]
    golden, _ = compare(spec, memory, operations, tmp_path)
    statuses = [end.status for end in golden.run(operations) if end.tag != 0xBEEF]
    refused = {status: statuses.count(status) for status in set(statuses)}
    assert refused == {Status.OK: 3 + 5 + 6, Status.BAD_SHAPE: 26,
                       Status.OUT_OF_RANGE: 10 + 4 + 2 + 1 + 5 + 2}


@pytest.mark.parametrize("after", [700, 3100, 3500, 4500])
def test_reset_in_a_network(after, tmp_path):
    spec = NETWORKS["four"]
    memory, operations = Network(spec, 10, again=True).program(8)
    golden = Emulator(spec, memory.copy())
    ends = golden.run(operations)
    done = simulate(spec, memory, operations + operations, testcase="reset_in_the_middle",
                    directory=tmp_path, quiet_cycles=50_000,
                    settings={"reset_after": after, "again_from": len(operations)})
    assert done.completions[-len(ends):] == ends
    np.testing.assert_array_equal(done.memory, golden.memory)


def test_verilog(tmp_path):
    """The emitted Verilog lints clean, has no latch or black box, and is always the same."""
    source = emitted(TINY).verilog
    verilog.check(source, "spatten", tmp_path)
    assert emitted.__wrapped__(TINY).verilog == source
