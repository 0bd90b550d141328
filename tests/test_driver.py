# SPDX-License-Identifier: Apache-2.0
"""Drivers: Python through mapped files, C on the simulated chip; the description they share."""

import ctypes
import json
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from golden.operation import Opcode
from golden.registers import BitField, Register, RegisterMap
from golden.shell import IDENTITY, Access, Cause, Code
from sim.chip import MEMORY
from tests.copy_core import LAYOUT
from tests.test_chip import HALT, PROGRAM, SECOND, SIZE, bench, chip, copy, operation, put
from vitral.cli import main
from vitral.driver import (
    Driver,
    LateError,
    MalformedError,
    RefusedError,
    RunError,
    WrongChipError,
)
from vitral.driver.mapped import MappedTransport
from vitral.header import documentation, header

ROOT = Path(__file__).parents[1]
BASE = 0x80000000


class Pretender(threading.Thread):
    """A chip in two files: it does LOAD and STORE of the copy core, whatever the registers say."""

    def __init__(self, folder: Path, registers: RegisterMap):
        super().__init__(daemon=True)
        self.registers, self.over = registers, threading.Event()
        self.words = np.memmap(folder / "registers", "<u4", "w+", shape=1024)
        self.memory = np.memmap(folder / "memory", np.uint8, "w+", shape=SIZE)
        for one in registers.registers:
            self.put(one.name, one.reset)

    def put(self, name: str, value: int) -> None:
        one = self.registers[name]
        for word in range(one.width // 32):
            self.words[one.offset // 4 + word] = value >> 32 * word & 0xFFFFFFFF

    def get(self, name: str) -> int:
        return int(self.words[self.registers[name].offset // 4])

    def run(self):
        while not self.over.wait(1e-3):
            if self.get("control") & 1:
                self.put("status", 1)
                self.put("control", 0)
                at, where = self.get("program"), None
                assert self.get("window_base") == BASE
                for n in range(self.get("operations")):
                    op = LAYOUT.unpack(self.memory[at + 64 * n:at + 64 * n + 64].tobytes())
                    if op["opcode"] == Opcode.LOAD:
                        where = op["address"]
                    elif op["opcode"] == Opcode.STORE:
                        copy(self.memory, 8, (where, op["beats"]), (op["address"], op["beats"]))
                    elif op["opcode"] != Opcode.HALT:
                        self.put("operation_index", n)
                        self.put("status", Code.BAD_SHAPE << 8)
                        break
                    self.put("completed", n + 1)
                else:
                    self.put("counter_cycles", 0x123456789A)
                    self.put("status", 0)


@pytest.fixture
def pretender(tmp_path):
    """A pretending chip in files."""
    one = Pretender(tmp_path, chip().registers)
    one.start()
    yield one
    one.over.set()
    one.join()


class Patient(MappedTransport):
    """One that waits for a pretender to see a command, as hardware does in a cycle."""

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        while offset == 0x14 and value == 1 and self.read(offset):
            time.sleep(1e-3)


def mapped(folder: Path, **options) -> MappedTransport:
    return Patient(folder / "registers", folder / "memory", base=BASE, size=SIZE, **options)


def test_mapped_files(pretender, tmp_path):
    """The driver runs programs through files that are mapped as /dev/mem would be."""
    data = np.random.default_rng(2).integers(0, 256, 800).astype(np.uint8).tobytes()
    with mapped(tmp_path) as transport:
        driver = Driver(transport, pretender.registers)
        driver.window(BASE, SIZE)
        driver.load(8, data)
        driver.load(PROGRAM, b"".join([
            operation(Opcode.LOAD, beats=100, address=8),
            operation(Opcode.STORE, beats=100, address=0x1000), HALT, operation(77)]))
        done = driver.run(PROGRAM, 3, timeout=10)
        assert done.completed == 3 and done.counters["cycles"] == 0x123456789A
        assert driver.dump(0x1000, 800) == data
        with pytest.raises(MalformedError) as caught:
            driver.run(PROGRAM, 4, timeout=10)
        assert (caught.value.code, caught.value.index) == (Code.BAD_SHAPE, 3)
        for address in (-1, SIZE - 7):
            with pytest.raises(ValueError, match="^memory must hold 8 bytes at"):
                driver.dump(address, 8)
        pretender.put("status", 1)  # for ever
        begin = time.monotonic()
        with pytest.raises(LateError, match=r"^the chip must end within 0\.05 s, but is busy"):
            driver.abort(0.05)
        assert time.monotonic() - begin < 5
    with pytest.raises(FileNotFoundError):
        mapped(tmp_path / "nowhere")


def test_interrupt_of_uio(pretender, tmp_path):
    """Waiting writes to the device, which lets an interrupt through, and ends when one comes."""
    ours, device = socket.socketpair()
    with mapped(tmp_path, interrupt=True) as transport, ours, device:
        file, transport._device = transport._device, device.fileno()
        begin = time.monotonic()
        transport.wait(0.05)
        assert time.monotonic() - begin >= 0.05
        assert ours.recv(4) == (1).to_bytes(4, "little")
        ours.send((7).to_bytes(4, "little"))
        transport.wait(60)
        assert time.monotonic() - begin < 30
        transport._device = file


@pytest.mark.parametrize(("name", "value", "sentence"), [
    ("identity", 0, rf"a Vitral chip must say {IDENTITY:#x} at offset 0, not 0x0"),
    ("version", 0x20000, r"version of the registers must be 1\.0, not 2\.0"),
    ("config_hash", 5, r"configuration of the chip must be \w{16}, not 0{15}5: it was built .*"),
])
def test_wrong_chip(name, value, sentence, pretender, tmp_path):
    pretender.put(name, value)
    with mapped(tmp_path) as transport, pytest.raises(WrongChipError, match=f"^{sentence}$"):
        Driver(transport, pretender.registers)


@pytest.mark.parametrize(("code", "more", "sentence"), [
    (Code.BAD_OPCODE, {}, "operation 3 at 0xc0 is none that this core has"),
    (Code.BAD_SHAPE, {}, "operation 3 at 0xc0 has a size .*, or is misaligned"),
    (Code.OUT_OF_RANGE, {}, "operation 3 at 0xc0 goes beyond the end of a buffer"),
    (Code.BUS_ERROR, dict(cause=Cause.SLVERR, access=Access.WRITE, fault_address=64),
     r"operation 3 at 0xc0 failed, because a write at 0x40 was answered .* \(SLVERR\)"),
    (Code.FETCH, dict(cause=Cause.DECERR, access=Access.FETCH, fault_address=192),
     r"operation 3 at 0xc0 could not be read, because 0xc0 leads to no memory \(DECERR\)"),
    (Code.ABORTED, {}, "the run was aborted after 3 operations"),
])
def test_sentences(code, more, sentence):
    assert re.fullmatch(sentence, str(RunError(code=code, index=3, address=192, **more)))


HOOKS = """
#include <stdint.h>
extern uint32_t (*host_read)(uint32_t offset);
extern void (*host_write)(uint32_t offset, uint32_t value);
#define VITRAL_READ(chip, offset) ((void)(chip), host_read(offset))
#define VITRAL_WRITE(chip, offset, value) ((void)(chip), host_write(offset, value))
"""


def test_c_drives_the_simulated_chip(tmp_path):
    """The bare metal example, compiled with the generated header, drives the RTL."""
    device = chip()
    (tmp_path / "chip.h").write_text(header("chip", device.registers, "0" * 64))
    (tmp_path / "hooks.h").write_text(HOOKS)
    (tmp_path / "hooks.c").write_text('#include "hooks.h"\nuint32_t (*host_read)(uint32_t);\n'
                                      "void (*host_write)(uint32_t, uint32_t);\n")
    subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC",
         "-include", "hooks.h", '-DCHIP_HEADER="chip.h"', "-I.", "-o", "host.so", "hooks.c",
         str(ROOT / "examples" / "baremetal.c")], cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "host.so"))
    library.cycles.restype = ctypes.c_uint64
    with bench(device, tmp_path / "run") as (driver, simulation, memory):
        def write(offset, value):
            driver.transport.write(offset, value)

        read = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32)(driver.transport.read)
        store = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32)(write)
        ctypes.c_void_p.in_dll(library, "host_read").value = ctypes.cast(
            read, ctypes.c_void_p).value
        ctypes.c_void_p.in_dll(library, "host_write").value = ctypes.cast(
            store, ctypes.c_void_p).value
        put(driver, memory, [operation(Opcode.LOAD, beats=20, request=20),
                             operation(Opcode.STORE, beats=20, request=20, address=0x800), HALT])
        assert library.run_image(0, MEMORY, SIZE, PROGRAM, 0) == Code.OK
        copy(memory, 8, (0, 20), (0x800, 20))
        np.testing.assert_array_equal(simulation.dump(MEMORY, SIZE), memory)
        assert library.cycles(0) == driver.read("counter_cycles") > 0
        logits = memory[0x800:0x814].tobytes()
        assert library.largest(logits, 10) == np.frombuffer(logits, "<i2").argmax()
        assert library.run_image(0, MEMORY, SIZE, SIZE, 1) == Code.FETCH
        put(driver, memory, [operation(Opcode.LOAD)])
        assert library.run_image(0, MEMORY, SIZE, PROGRAM, 1) == Code.BAD_SHAPE
        with pytest.raises(MalformedError):
            driver.wait(SECOND)


def test_documentation_is_the_description():
    """The table of docs/chip.md; `python -m vitral.header` prints it."""
    assert documentation() in (ROOT / "docs" / "chip.md").read_text()


def test_verilog_of_a_chip(tmp_path, capsys):
    """The description beside the Verilog has the registers; the header says the same."""
    settings = [f"{name}=128" for name in ("activation_bytes", "residual_bytes", "key_bytes",
                                           "value_bytes", "weight_bytes")]
    settings += ["rows=2", "columns=2", "depth=2", "memory_bytes=4", "max_keys=16", "max_width=16",
                 "max_contraction=64", "table_width=8", "index_bits=2"]
    command = ["verilog", "rowwise", "--preset", "tiny", "--level", "chip", "--bus", "64"]
    command += [word for one in settings for word in ("--set", one)]
    assert main([*command, "-o", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"rowwise_tiny_custom_chip.{kind}" for kind in ("h", "json", "v")]
    about = json.loads((tmp_path / "rowwise_tiny_custom_chip.json").read_text())
    text = (tmp_path / "rowwise_tiny_custom_chip.h").read_text()
    assert about["parameters"]["shell"]["data_width"] == 64
    for one in about["registers"]:
        assert f"#define VITRAL_{one['name'].upper()} {one['offset']:#x}u" in text
    defined = dict(re.findall(r"^#define (VITRAL_\w+) (0x\w+?)u(?:ll)?\b", text, re.MULTILINE))
    known = {one["name"]: one for one in about["registers"]}
    assert int(defined["VITRAL_CONFIG_HASH_RESET"], 16) == known["config_hash"]["reset"] > 1 << 32
    assert int(defined["VITRAL_STATUS_CODE_FETCH"], 16) == Code.FETCH
    widths = {port["name"]: port["width"] for port in about["ports"]}
    assert widths["m_axi_wdata"] == 64 and widths["s_axil_awaddr"] == 12


def test_map_wrong():
    field = BitField(name="a", offset=4, width=30, doc="")
    with pytest.raises(ValueError, match="^field a must lie free inside b, not at bit 4$"):
        Register(name="b", offset=0, access="read", doc="", fields=(field,))
    with pytest.raises(ValueError, match="^offset must be a multiple of 4, not 2$"):
        Register(name="b", offset=2, access="read", doc="")
    with pytest.raises(ValueError, match="^access must be one of read, .*, not 'rw'$"):
        Register(name="b", offset=0, access="rw", doc="")
    with pytest.raises(ValueError, match="^width must be one of 32, not 64$"):
        Register(name="b", offset=0, access="write", width=64, doc="")
    one = Register(name="b", offset=0, access="read", width=64, doc="")
    two = Register(name="c", offset=4, access="read", doc="")
    with pytest.raises(ValueError, match="^offset of c must be at least 0x8, not 0x4$"):
        RegisterMap(registers=(one, two), address_width=12)


def test_refusals_are_errors(tmp_path):
    with bench(chip(), tmp_path) as (driver, _, _):
        with pytest.raises(RefusedError, match="^register 0x800 must exist, but its read was "):
            driver.transport.read(0x800)
        with pytest.raises(ValueError, match="^window must be whole pages of 4096 bytes below"):
            driver.window(MEMORY + 4, SIZE)
        with pytest.raises(ValueError, match="^program must lie at a multiple of 64, not 0x20$"):
            driver.start(32)
