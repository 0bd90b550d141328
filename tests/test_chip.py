# SPDX-License-Identifier: Apache-2.0
"""The shell around a core that only moves memory: every width, and whatever goes wrong."""

from contextlib import contextmanager

import numpy as np
import pytest

from golden.operation import Opcode
from golden.shell import IDENTITY, Access, Cause, Code, ShellSpec
from golden.spatten.spec import PRESETS
from hw.shell.chip import Chip
from hw.spatten.core import SpattenCore
from sim.chip import MEMORY, ChipSimulation, emitted
from sim.runner import run
from tests import verilog
from tests.copy_core import LAYOUT, CopyCore, CopySpec
from tests.simulators import need
from vitral.driver import (
    AbortedError,
    Driver,
    FetchError,
    LateError,
    MalformedError,
    MemoryAccessError,
    RefusedError,
    WrongChipError,
)
from vitral.driver.simulation import SimulatedTransport

SIZE = 1 << 16
PROGRAM = 0xF000
WIDTHS = {  # bytes of a core beat, bits of the bus
    "8x64": (8, 64), "16x128": (16, 128), "4x256": (4, 256), "64x32": (64, 32), "8x128": (8, 128),
}
SECOND = 1.0


def chip(name: str = "8x128", words: int = 512, **options) -> Chip:
    memory_bytes, data_width = WIDTHS[name]
    return Chip(CopyCore(CopySpec(memory_bytes=memory_bytes, words=words)),
                ShellSpec(data_width=data_width, **options))


@contextmanager
def bench(device: Chip, directory, **settings):
    """Simulate a chip with random contents of memory; yield driver, simulation and contents."""
    with ChipSimulation(device, size=SIZE, directory=directory, **settings) as simulation:
        driver = Driver(SimulatedTransport(simulation), device.registers)
        memory = np.random.default_rng(7).integers(0, 256, SIZE).astype(np.uint8)
        simulation.load(MEMORY, memory)
        driver.window(MEMORY, SIZE)
        yield driver, simulation, memory


def operation(opcode, *, tag=0, beats=0, request=1, address=0) -> bytes:
    return LAYOUT.pack(dict(opcode=opcode, tag=tag, beats=beats, request=request, address=address))


HALT = operation(Opcode.HALT)


def put(driver, memory, operations, at=PROGRAM):
    """Load a program, into the copy of the memory too."""
    program = b"".join(operations)
    driver.load(at, program)
    memory[at:at + len(program)] = np.frombuffer(program, np.uint8)


def copy(memory, beat, load, store):
    """Do what LOAD and STORE do: (address, beats)."""
    data = memory[load[0]:load[0] + load[1] * beat].copy()
    memory[store[0]:store[0] + store[1] * beat] = data[:store[1] * beat]


@pytest.mark.parametrize(("name", "options"), [
    *((name, {}) for name in WIDTHS),
    ("8x128", dict(fetch=1, requests=2, burst_beats=1)),
    ("64x32", dict(fetch=1, requests=2, burst_beats=256)),
])
def test_copies_at_any_alignment(name, options, tmp_path):
    """Random copies, with and without stalls: every byte of the memory is as it must be."""
    beat, _ = WIDTHS[name]
    rng = np.random.default_rng(3)
    with bench(chip(name, **options), tmp_path) as (driver, simulation, memory):
        for stalls in ({}, dict(stall_read=90, stall_write=90, stall_host=90, latency=7,
                                pause_rate=200, pause_cycles=300)):
            simulation.change(**stalls)
            operations, most = [], min(500, 16384 // beat)
            for tag in range(12):
                beats = int(rng.choice([1, 2, 3, int(rng.integers(1, most)), most]))
                places = [int(rng.integers(0, (PROGRAM - beats * beat) // beat)) * beat
                          for _ in range(2)]
                requests = rng.integers(max(1, beats // 9), beats + 1, 2).tolist()
                operations += [
                    operation(opcode, tag=tag, beats=beats, request=request, address=place)
                    for opcode, place, request in zip((Opcode.LOAD, Opcode.STORE), places, requests,
                                                      strict=True)]
                copy(memory, beat, (places[0], beats), (places[1], beats))
            put(driver, memory, [*operations, HALT])
            done = driver.run(PROGRAM, timeout=SECOND)
            assert done.completed == len(operations) + 1
            assert done.counters["beats_read"] == done.counters["beats_written"] > 0
            np.testing.assert_array_equal(simulation.dump(MEMORY, SIZE), memory)
            assert simulation.look("under_way", "violation") == {"under_way": 0, "violation": 0}


def test_icarus(tmp_path):
    """The same in another simulator, to the cycle."""
    need("icarus")
    counters = []
    for simulator in ("verilator", "icarus"):
        with bench(chip(), tmp_path / simulator, simulator=simulator) as (driver, _, memory):
            put(driver, memory, [
                operation(Opcode.LOAD, beats=100, request=30, address=8),
                operation(Opcode.STORE, beats=90, request=50, address=0x808), HALT])
            counters.append(driver.run(PROGRAM, timeout=SECOND).counters)
            copy(memory, 8, (8, 100), (0x808, 90))
            assert driver.dump(0, SIZE) == memory.tobytes()
    assert counters[0] == counters[1]


@pytest.mark.parametrize("name", ["16x128", "64x32"])
def test_bus_is_busy(name, tmp_path):
    """At least 95 % of the cycles of a long transfer have a beat, in one request or in many."""
    beat, width = WIDTHS[name]
    beats = 32768 // beat
    with bench(chip(name, words=beats), tmp_path) as (driver, simulation, memory):
        for request in (beats, beats // 16):
            put(driver, memory, [operation(Opcode.LOAD, beats=beats, request=request, address=beat),
                                 operation(Opcode.STORE, beats=beats, request=request)])
            simulation.change(clear_marks=1)
            driver.start(PROGRAM, 2)
            simulation.wait(105, interrupt=False)  # until the program has come, but no data
            simulation.change(clear_marks=0)
            driver.wait(SECOND)
            marks = simulation.look("read_beats", "read_first", "read_last", "write_beats",
                                    "write_first", "write_last")
            assert marks["read_beats"] == marks["write_beats"] == 32768 * 8 // width
            read, written = (
                marks[f"{name}_beats"] / (marks[f"{name}_last"] - marks[f"{name}_first"] + 1)
                for name in ("read", "write"))
            print(f"{name}, requests of {request}: {read:.1%} read, {written:.1%} written")
            assert read >= 0.95 and written >= 0.95


def test_registers(tmp_path):
    """Constants, strobes, what is only read, what is nowhere, what is locked."""
    device = chip()
    registers = device.registers
    with bench(device, tmp_path, stall_host=100) as (driver, simulation, memory):
        for one in registers.registers:
            if one.name not in ("window_base", "window_limit"):
                assert driver.read(one.name) == one.reset, one.name
        limit, program, control = (registers[name].offset
                                   for name in ("window_limit", "program", "control"))
        assert driver.read("window_limit") == MEMORY + SIZE - 1
        assert simulation.write(program, 0x12345678, strobe=0b0101) == 0
        assert driver.read("program") == 0x00340040  # the low six bits are not there
        ends = [one.offset + one.width // 8 for one in registers.registers]
        for offset in (0x44, 0x80, ends[-1], 0xFFC):
            assert simulation.read(offset) == (2, 0) and simulation.write(offset, 1) == 2
        for name in ("identity", "status", "counter_cycles"):
            with pytest.raises(RefusedError, match="only read"):
                driver.write(name, 1)
        # A run that takes long, since the memory is slow
        simulation.change(latency=5000)
        put(driver, memory, [HALT])
        driver.start(PROGRAM)
        for offset, value in ((program, 0), (limit, 0), (control, 1)):
            assert simulation.write(offset, value) == 2
        assert driver.read("program") == PROGRAM and driver.read("window_limit") > 0
        with pytest.raises(LateError, match="^the chip must end within 1e-06 s, but is busy after"):
            driver.wait(1e-6)
        assert not simulation.wait(1)
        done = driver.wait(SECOND)
        assert done.completed == 1 and done.counters["cycles"] >= 5000
        assert driver.counters() == done.counters  # they stand still
        # Interrupts
        driver.start(PROGRAM)
        driver.write("interrupt_enable", 0)
        assert not simulation.wait(12_000)
        assert driver.read("interrupt_pending") == 1
        driver.write("interrupt_enable", 1)
        assert simulation.wait(1)
        driver.write("interrupt_pending", 2)
        assert driver.read("interrupt_pending") == 1
        driver.write("interrupt_pending", 1)
        assert driver.read("interrupt_pending") == 0 and not simulation.wait(1)
        driver.reset(SECOND)
        for one in registers.registers:
            assert driver.read(one.name) == one.reset, one.name


def test_another_chip_is_refused(tmp_path):
    """A driver for another configuration says so."""
    with bench(chip(), tmp_path) as (driver, _, _):
        other = chip(fetch=2).registers
        expected, found = other["config_hash"].reset, driver.registers["config_hash"].reset
        with pytest.raises(WrongChipError, match=f"must be {expected:016x}, not {found:016x}: it "):
            Driver(driver.transport, other)


def test_failures_are_told(tmp_path):
    """Each way to fail, its code and place; nothing outside the window is touched."""
    beat = 8
    with bench(chip(), tmp_path) as (driver, simulation, memory):
        window = 0x8000
        inside = operation(Opcode.LOAD, beats=9, request=9, address=0)

        def fails(kind, operations, *, at=0x7000, count=0, **expected):
            put(driver, memory, operations, at)
            with pytest.raises(kind) as caught:
                driver.run(at, count, timeout=SECOND)
            for name, value in expected.items():
                assert getattr(caught.value, name) == value, (name, str(caught.value))
            assert simulation.look("under_way", "violation") == {"under_way": 0, "violation": 0}
            return str(caught.value)

        driver.window(MEMORY, window)
        simulation.change(allow_high=MEMORY + window - 1)
        window_fault = dict(code=Code.BUS_ERROR, cause=Cause.WINDOW, index=1, address=0x7040)
        for address, beats in ((window - 8, 2), (window, 1), (0xFFFFFFF8, 2), (0xFFFFFFF8, 1)):
            message = fails(MemoryAccessError, [inside, operation(
                Opcode.LOAD, beats=beats, request=beats, address=address), HALT],
                access=Access.READ, fault_address=address, **window_fault)
            assert message == (f"operation 1 at 0x7040 failed, because a read at {address:#x} is "
                               "not inside the protection window")
            fails(MemoryAccessError, [inside, operation(
                Opcode.STORE, beats=beats, request=beats, address=address), HALT],
                access=Access.WRITE, fault_address=address, **window_fault)
        # of a transfer in several requests only what lies outside fails
        fails(MemoryAccessError, [operation(
            Opcode.LOAD, beats=40, request=10, address=window - 20 * beat), HALT],
            code=Code.BUS_ERROR, cause=Cause.WINDOW, index=0, fault_address=window)
        fails(MalformedError, [inside, operation(9), HALT], code=Code.BAD_SHAPE, index=1)
        fails(MalformedError, [operation(Opcode.LOAD)], code=Code.BAD_SHAPE, index=0)
        for at, count, index in ((window, 0, 0), (window - 128, 5, 2), (window - 64, 0, 1)):
            message = fails(FetchError, [inside] * 3, at=at, count=count, code=Code.FETCH,
                            index=index, cause=Cause.WINDOW, fault_address=window)
            assert message == (f"operation {index} at {window:#x} could not be read, because "
                               f"{window:#x} is not inside the protection window")
        # a program may end at the end of the window, though more would be fetched behind it
        put(driver, memory, [inside, HALT], window - 128)
        assert driver.run(window - 128, timeout=SECOND).completed == 2
        simulation.change(fault_low=MEMORY + 0x1000, fault_high=MEMORY + 0x1400)
        store = operation(Opcode.STORE, beats=9, request=3, address=0x1000 - 3 * beat)
        fails(MemoryAccessError, [inside, store, HALT], cause=Cause.SLVERR, access=Access.WRITE,
              fault_address=0x1000)
        copy(memory, beat, (0, 9), (0x1000 - 3 * beat, 3))
        fails(MemoryAccessError, [operation(Opcode.LOAD, beats=9, request=4, address=0xFF0), HALT],
              cause=Cause.SLVERR, access=Access.READ, fault_address=0x1000)
        simulation.change(allow_low=0, allow_high=0xFFFFFFFF)
        driver.window(0x10000000, SIZE)  # no memory there
        with pytest.raises(FetchError, match="^operation 0 at 0x7000 could not be read, because "
                                             r"0x7000 leads to no memory \(DECERR\)$"):
            driver.run(0x7000, timeout=SECOND)
        np.testing.assert_array_equal(simulation.dump(MEMORY, SIZE), memory)
        driver.window(MEMORY, SIZE)
        put(driver, memory, [inside, store, HALT])
        simulation.change(fault_low=0, fault_high=0)
        driver.run(PROGRAM, timeout=SECOND)
        copy(memory, beat, (0, 9), (0x1000 - 3 * beat, 9))
        np.testing.assert_array_equal(simulation.dump(MEMORY, SIZE), memory)


def test_window_without_a_page(tmp_path):
    """A window that ends before it begins, as after a reset, lets nothing in."""
    with bench(chip(), tmp_path) as (driver, simulation, memory):
        put(driver, memory, [HALT])
        for base, limit in ((MEMORY, 0xFFF), (MEMORY + 0x1000, MEMORY), (0xFFFFF000, 0)):
            driver.write("window_base", base)
            driver.write("window_limit", limit)
            with pytest.raises(FetchError, match="window"):
                driver.run(0, timeout=SECOND)
            assert simulation.look("read_beats") == {"read_beats": 0}


@pytest.mark.parametrize("name", ["8x128", "64x32"])
def test_abort_and_reset_at_any_moment(name, tmp_path):
    """The bus is drained, nothing but the destination is written, and the next run is right."""
    beat, _ = WIDTHS[name]
    rng = np.random.default_rng(19)
    beats = 4096 // beat
    with bench(chip(name), tmp_path, latency=20) as (driver, simulation, memory):
        copies = [operation(opcode, beats=beats, request=beats // parts, address=address + beat)
                  for parts in (1, 4) for opcode, address in
                  ((Opcode.LOAD, 0x1000), (Opcode.STORE, 0x3000))]
        put(driver, memory, [*copies, HALT])
        aborted = 0
        for n in range(40):
            stall = int(rng.choice([0, 100, 230]))
            simulation.change(stall_read=stall, stall_write=stall)
            driver.load(0x3000 + beat, memory[0x3000 + beat:][:4096].tobytes())
            driver.start(PROGRAM)
            simulation.wait(int(rng.integers(1, 3000)), interrupt=False)
            early = driver.read("status") & 1
            driver.reset(SECOND) if n % 4 == 3 else driver.abort(SECOND)
            assert simulation.look("under_way", "violation") == {"under_way": 0, "violation": 0}
            if n % 4 == 3:
                assert driver.read("program") == driver.read("status") == 0
                driver.window(MEMORY, SIZE)
            elif early and driver.fields("status")["code"] == Code.ABORTED:
                with pytest.raises(AbortedError, match="^the run was aborted after"):
                    driver.wait(SECOND)
                aborted += 1
            after = simulation.dump(MEMORY, SIZE)
            target = slice(0x3000 + beat, 0x4000 + beat)
            changed = after[target] != memory[target]
            np.testing.assert_array_equal(
                after[target][changed], memory[0x1000 + beat:0x2000 + beat][changed])
            after[target] = memory[target]
            np.testing.assert_array_equal(after, memory)
        assert aborted >= 10
        assert driver.run(PROGRAM, timeout=SECOND).completed == 5
        copy(memory, beat, (0x1000 + beat, beats), (0x3000 + beat, beats))
        np.testing.assert_array_equal(simulation.dump(MEMORY, SIZE), memory)


@pytest.mark.parametrize("name", WIDTHS)
def test_verilog(name, tmp_path):
    """The emitted Verilog lints clean, and synthesizes without a latch or a black box."""
    design = emitted(chip(name))
    verilog.check(design.verilog, "chip", tmp_path)
    ports = {port["name"] for port in design.description["ports"]}
    assert {"aclk", "aresetn", "irq", "s_axil_awaddr", "m_axi_rlast"} <= ports


def test_spec_wrong():
    with pytest.raises(ValueError, match="^data_width must be one of 32, 64, 128, 256, not 48$"):
        ShellSpec(data_width=48)
    with pytest.raises(ValueError, match="^burst_beats must be an integer from 1 to 128, not 256$"):
        ShellSpec(data_width=256, burst_beats=256)
    with pytest.raises(ValueError, match="^memory_bytes must be at most 64 in a chip, not 128$"):
        Chip(CopyCore(CopySpec(memory_bytes=128)), ShellSpec())
    with pytest.raises(ValueError, match="^core must have the ports of one for this shell, but "
                                         "SpattenCore has no read_request, read_data$"):
        Chip(SpattenCore(PRESETS["tiny"]), ShellSpec())


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_models_of_others(stall, tmp_path):
    """Master and memory of cocotbext-axi understand the chip as our bench does."""
    device, base = chip("16x128"), SIZE
    rng = np.random.default_rng(23)
    memory = rng.integers(0, 256, SIZE).astype(np.uint8)
    operations = [operation(Opcode.LOAD, beats=300, request=100, address=0xFF0),
                  operation(Opcode.STORE, beats=290, request=77, address=0x4010), HALT]
    program = np.frombuffer(b"".join(operations), np.uint8)
    memory[PROGRAM:PROGRAM + len(program)] = program
    at = {one.name: one.offset for one in device.registers.registers}
    write = {"window_base": base, "window_limit": base + SIZE - 1, "program": PROGRAM,
             "interrupt_enable": 7, "control": 1}
    done = run(device, name="chip", bench="sim.bench_axi", tests=1, directory=tmp_path,
               arrays={"memory": memory}, parameters={
                   "size": 2 * SIZE, "base": base, "stall": stall, "nowhere": 0x800,
                   "write": [[at[name], value] for name, value in write.items()],
                   "read": [at["identity"], at["status"], at["completed"]]})
    assert done.report == {"registers": [IDENTITY, Code.OK, 3], "refused": 2}
    copy(memory, 16, (0xFF0, 300), (0x4010, 290))
    np.testing.assert_array_equal(done.arrays["memory"][SIZE:], memory)
    assert not done.arrays["memory"][:SIZE].any()
