# SPDX-License-Identifier: Apache-2.0
"""A board through its serial pins, and the transport against a model of the bridge."""

import errno
import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest

from golden.board import BoardSpec, MemorySpec
from golden.bridge import Answer, BridgeModel, BridgeSpec, Command, Reply, Request
from golden.operation import Opcode
from golden.pll import PllSpec
from golden.rowwise.spec import PRESETS
from golden.shell import Access, Cause, ShellSpec
from golden.uart import UartSpec
from hw.board.top import Board
from hw.board.ulx3s import Ulx3s, constraints, platform
from hw.emit import emit
from hw.shell.chip import Chip
from sim.board import SimulatedPort
from tests import verilog
from tests.networks import random_vit
from tests.simulators import need
from tests.test_chip import HALT, chip, copy, operation
from vitral.boards import BOARDS
from vitral.compile.rowwise import compile
from vitral.designs import design
from vitral.driver import Driver, FetchError, MemoryAccessError, RefusedError
from vitral.driver.serial import (
    GarbledError,
    PortError,
    SerialTransport,
    SilentError,
    open_port,
)

BRIDGE = BridgeSpec(uart=UartSpec(divisor=4), buffer_bytes=256, timeout=400)
SIZE = 0x1000
BASE = 0x40000000
PROGRAM = 0xE00
SECOND = 1.0


def board(name):
    return Board(chip(name, words=256), BoardSpec(memory=MemorySpec(size=SIZE, base=BASE),
                                                  bridge=BRIDGE))


@contextmanager
def bench(design, directory, **options):
    """Simulate a board with random contents of memory; yield driver, port and contents."""
    with SimulatedPort(design, BRIDGE, directory=directory, **options) as port:
        transport = SerialTransport(port, buffer_bytes=BRIDGE.buffer_bytes, poll=1e-5,
                                    clock=port.time, sleep=port.sleep)
        driver = Driver(transport, design.chip.registers)
        driver.window(BASE, SIZE)
        memory = np.random.default_rng(7).integers(0, 256, SIZE).astype(np.uint8)
        driver.load(0, memory.tobytes())
        yield driver, port, memory


def put(driver, memory, operations):
    program = b"".join(operations)
    driver.load(PROGRAM, program)
    memory[PROGRAM:PROGRAM + len(program)] = np.frombuffer(program, np.uint8)


@pytest.mark.parametrize(("simulator", "name", "beat"), [
    ("verilator", "8x64", 8), ("verilator", "64x32", 64), ("icarus", "8x128", 8)])
def test_programs_run_through_the_pins(simulator, name, beat, tmp_path):
    """The driver loads, runs, and reads back what must be there."""
    need(simulator)
    rng = np.random.default_rng(5)
    with bench(board(name), tmp_path, simulator=simulator) as (driver, _, memory):
        operations = []
        for _ in range(2):
            beats = int(rng.integers(1, PROGRAM // 2 // beat))
            places = [int(rng.integers(0, PROGRAM // beat - beats)) * beat for _ in range(2)]
            operations += [operation(opcode, beats=beats, request=max(1, beats // parts),
                                     address=place)
                           for opcode, place, parts in zip((Opcode.LOAD, Opcode.STORE), places,
                                                           (3, 5), strict=True)]
            copy(memory, beat, (places[0], beats), (places[1], beats))
        put(driver, memory, [*operations, HALT])
        assert driver.run(PROGRAM, timeout=SECOND).completed == len(operations) + 1
        assert driver.dump(0, SIZE) == memory.tobytes()
        # Any bytes can be written alone
        driver.load(0x101, b"abcdefg")
        memory[0x101:0x108] = np.frombuffer(b"abcdefg", np.uint8)
        assert driver.dump(0xFE, 13) == memory[0xFE:0x10B].tobytes()


@pytest.mark.parametrize(("name", "beat"), [("8x64", 8), ("64x32", 64)])
def test_memory_is_fast_and_has_an_end(name, beat, tmp_path):
    with bench(board(name), tmp_path) as (driver, _, memory):
        # Full rate: as many cycles as beats of the narrower side, and some for the way
        beats = min(PROGRAM // beat, 256)
        narrow = min(beat, 1 << driver.fields("capabilities")["bus_bytes"])
        for opcode in (Opcode.LOAD, Opcode.STORE):
            put(driver, memory, [operation(opcode, beats=beats, request=beats), HALT])
            cycles = driver.run(PROGRAM, timeout=SECOND).counters["cycles"]
            assert beats * beat // narrow < cycles < beats * beat // narrow + 100
        # Neither the chip nor the host gets beyond the end of the memory
        driver.window(BASE, 2 * SIZE)
        put(driver, memory, [operation(Opcode.LOAD, beats=2, request=1, address=SIZE - beat), HALT])
        with pytest.raises(MemoryAccessError) as caught:
            driver.run(PROGRAM, timeout=SECOND)
        assert (caught.value.cause, caught.value.access) == (Cause.DECERR, Access.READ)
        assert caught.value.fault_address == SIZE
        put(driver, memory, [operation(Opcode.STORE, beats=1, address=SIZE), HALT])
        with pytest.raises(MemoryAccessError, match=r"leads to no memory \(DECERR\)$"):
            driver.run(PROGRAM, timeout=SECOND)
        driver.window(BASE - SIZE, SIZE)
        with pytest.raises(FetchError):
            driver.run(PROGRAM, timeout=SECOND)
        with pytest.raises(ValueError, match="^memory must hold 4 bytes at 0x3ffff004, but the "):
            driver.dump(4, 4)
        with pytest.raises(RefusedError, match="^register 0x800 must exist, but its read was "):
            driver.transport.read(0x800)
        with pytest.raises(RefusedError, match="only read"):
            driver.write("identity", 0)


def test_garbage_on_the_pins(tmp_path):
    """The driver finds its way whatever was sent before, and however an answer ends."""
    with bench(board("8x64"), tmp_path) as (driver, port, memory):
        random = np.random.default_rng(11)
        for n in range(12):
            port.write(bytes(random.integers(0, 256, int(random.integers(1, 80))).tolist()))
            if n % 2:
                port.write(Request(command=Command.READ_MEMORY, tag=n, address=BASE,
                                   count=64).encode()[:int(random.integers(1, 11))])
            if n % 3 == 0:
                port.read(int(random.integers(1, 9)))
            assert driver.dump(8 * n, 40) == memory[8 * n:8 * n + 40].tobytes()
        assert driver.dump(0, SIZE) == memory.tobytes()


def test_verilog(tmp_path):
    verilog.check(emit(board("8x64"), name="board").verilog, "board", tmp_path)


def test_ulx3s_has_its_pins():
    """What place and route is given: a netlist with the board inside, and where its pins are."""
    pytest.importorskip("amaranth_boards.ulx3s")
    top = Ulx3s(board("8x64"), PllSpec(frequency=40_000_000))
    found = emit(top, name="ulx3s", parameters={})
    ports = {port["name"]: port["width"] for port in found.description["ports"]}
    assert ports == {"clk25": 1, "rx": 1, "tx": 1, "button": 1, "led": 8}
    assert "EHXPLLL #(" in found.verilog and ".CLKOS_DIV(32'd20)" in found.verilog
    for name, device in BOARDS.items():
        assert platform(name).device == f"LFE5U-{device[:2]}F"
        lines = constraints(name).splitlines()
        for line in ('LOCATE COMP "rx" SITE "M1";', 'LOCATE COMP "tx" SITE "L4";',
                     'LOCATE COMP "clk25" SITE "G2";', 'FREQUENCY PORT "clk25" 25 MHZ;',
                     'IOBUF PORT "button" IO_TYPE=LVCMOS33 PULLMODE=DOWN;'):
            assert line in lines
        assert sum(line.startswith("LOCATE") for line in lines) == sum(ports.values())


class ModelPort:
    """A port with a model of the bridge; ``fault`` changes what is sent and answered."""

    def __init__(self, fault=lambda n, request, answer: (request, answer)):
        self.space, self.log, self.fault = {}, [], fault
        self.model, self.waiting = BridgeModel(BRIDGE, self.access), b""

    def access(self, memory, write, address, value):
        self.log.append((memory, write, address))
        if address >= 0x1000:
            return Reply.SLVERR, 0
        if write:
            self.space[memory, address] = value
        return Reply.OK, self.space.get((memory, address), 0)

    def write(self, content):
        self.sent = getattr(self, "sent", 0) + 1
        request, _ = self.fault(self.sent, content, b"")
        answer = self.model.take(request)
        if len(request) < len(content) or not answer:
            answer += self.model.silence()
        self.waiting += self.fault(self.sent, content, answer)[1]

    def read(self, count):
        found, self.waiting = self.waiting[:count], self.waiting[count:]
        return found


def test_transport_against_the_model():
    port = ModelPort()
    transport = SerialTransport(port, buffer_bytes=BRIDGE.buffer_bytes)
    data = bytes(range(256)) * 3
    transport.load(0x21, data)
    assert transport.dump(0x21, len(data)) == data and transport.dump(0x20, 2) == b"\0\0"
    transport.load(0, b"")
    assert transport.dump(0, 0) == b""
    transport.write(0x14, 0xDEADBEEF)
    assert transport.read(0x14) == 0xDEADBEEF == port.space[False, 0x14]
    with pytest.raises(RefusedError):
        transport.write(0x1000, 1)
    with pytest.raises(ValueError, match="but the board answered SLVERR$"):
        transport.load(0xFFC, bytes(8))


@pytest.mark.parametrize("broken", [
    lambda request, answer: (request[:-1], answer),  # too short: TIMEOUT
    lambda request, answer: (request[:-1] + bytes([request[-1] ^ 1]), answer),  # CHECKSUM
    lambda request, answer: (b"V" + request, answer),  # out of step
    lambda request, answer: (request, b""),
    lambda request, answer: (request, answer[:-2]),
    lambda request, answer: (request, answer[:-1] + b"x"),
    lambda request, answer: (request, b"\xffV\xff\0\xff\xff" + answer[1:]),
], ids=["short", "checksum", "shifted", "none", "cut", "sum", "noise"])
def test_what_is_broken_is_asked_again(broken):
    """Once is healed; each time is an error that says so; a command is given only once."""
    def first(n, request, answer):
        return broken(request, answer) if n % 3 == 1 else (request, answer)

    transport = SerialTransport(ModelPort(first), buffer_bytes=BRIDGE.buffer_bytes)
    transport.load(0x40, bytes(range(200)))
    transport._tag = 3
    assert transport.dump(0x40, 200) == bytes(range(200))

    port = ModelPort(lambda n, request, answer: broken(request, answer))
    transport = SerialTransport(port, buffer_bytes=BRIDGE.buffer_bytes)
    with pytest.raises((SilentError, GarbledError)) as caught:
        transport.read(0x14)
    assert "READ_REGISTER at 0x14" in str(caught.value) and port.sent == 3
    port.log.clear()
    with pytest.raises((SilentError, GarbledError)):
        transport.write(0x14, 1)
    assert len(port.log) <= 1


def test_answers_to_others_are_skipped():
    stale = Answer(tag=200, status=Reply.OK, data=b"old!").encode()
    transport = SerialTransport(ModelPort(lambda n, request, answer: (request, stale + answer)))
    transport.load(0, b"new!")
    assert transport.dump(0, 4) == b"new!"


def test_ports_that_do_not_open(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "serial", None)
        with pytest.raises(PortError, match="^pyserial must be installed to reach a board: pip "):
            open_port("/dev/ttyUSB0", 115200)
    for number, words in ((errno.ENOENT, "there is none of that name; is the board plugged in"),
                          (errno.EACCES, "this user may not; .* dialout"),
                          (errno.EBUSY, "another program has it open"), (errno.EIO, "trouble")):
        def refuse(*_, number=number, **__):
            raise OSError(number, "trouble")

        monkeypatch.setitem(sys.modules, "serial", types.SimpleNamespace(Serial=refuse))
        with pytest.raises(PortError, match=f"^port /dev/ttyUSB0 must open, but .*{words}"):
            open_port("/dev/ttyUSB0", 115200)


def test_a_port_that_goes_away():
    class Gone:
        def write(self, content):
            raise OSError("device disconnected")

        read = write

    with pytest.raises(PortError, match="^the port must stay open, but device disconnected$"):
        SerialTransport(Gone()).read(0)


@pytest.mark.parametrize(("name", "value", "sentence"), [
    ("size", 4097, "size must be a multiple of 4096, not 4097"),
    ("size", 0, "size must be an integer from 4096 to 268435456, not 0"),
    ("base", 4, "base must be a multiple of 4096, not 4"),
    ("base", 0xFFFFF000, "base must leave room for size 0x40000 below 4 GB, not 0xfffff000"),
])
def test_refuses(name, value, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        MemorySpec(**{name: value})


def test_a_network_runs_through_the_pins(tmp_path):
    """A small transformer on the tiny core: after each image, memory is as the emulator says."""
    spec = PRESETS["tiny"]
    program = compile(random_vit(2, depth=1, dim=12, heads=2, head_dim=6, hidden=20), spec)
    pixels = np.random.default_rng(1).integers(-128, 128, (2, 1, 8, 8))
    emulator = design("rowwise").emulator(spec, program.memory(pixels))
    before = emulator.memory.tobytes()
    codes = [b"".join(program.operations(n)) for n in range(2)]
    at = -(-len(before) // 64) * 64
    size = -(-(at + max(map(len, codes))) // 4096) * 4096
    device = Board(Chip(design("rowwise").component(spec), ShellSpec(data_width=64)),
                   BoardSpec(memory=MemorySpec(size=size), bridge=BRIDGE))
    with SimulatedPort(device, BRIDGE, directory=tmp_path) as port:
        driver = Driver(SerialTransport(port, buffer_bytes=BRIDGE.buffer_bytes, poll=1e-5,
                                        clock=port.time, sleep=port.sleep), device.chip.registers)
        driver.window(BASE, size)
        driver.load(0, before)
        for n, code in enumerate(codes):
            driver.load(at, code)
            driver.run(at, len(code) // 64, timeout=SECOND)
            emulator.run(program.operations(n))
            assert driver.dump(0, len(before)) == emulator.memory.tobytes()
    assert emulator.memory.tobytes() != before
