# SPDX-License-Identifier: Apache-2.0
"""``vitral run --board`` and ``vitral bitstream``, against a port that a model answers."""

import contextlib
import json
import os
import pty
import re
import sys
import threading
import tty
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from golden.bridge import BridgeModel, BridgeSpec, Reply
from golden.rowwise.emulator import Emulator
from golden.rowwise.spec import PRESETS
from golden.shell import Code
from hw.emit import Emitted, parameters_of
from tests.networks import random_vit
from tests.test_reference_vit import checkpoint
from vitral import bitstream as tool
from vitral.board_run import line_cycles, run_board
from vitral.boards import BoardSetup
from vitral.cli import main
from vitral.compile.rowwise import compile
from vitral.designs import design
from vitral.driver.serial import SerialTransport
from vitral.progress import Progress

SHAPE = (8, 2, 1, 12, 1, 3, 20, 10)  # as tests.test_cli has it
BASE = 0x40000000


class ModelBoard:
    """A board as its host sees it: the bridge's model, the registers, the core's emulator.

    ``spoil`` makes the core write a wrong byte.
    """

    def __init__(self, preset="tiny", size=256 << 10, spoil=False):
        self.spec, setup = PRESETS[preset], BoardSetup()
        self.registers = setup.chip(design("rowwise"), self.spec).registers
        self.memory, self.spoil = np.zeros(size, np.uint8), spoil
        self.values = {one.offset + 4 * n: one.reset >> 32 * n & 0xFFFFFFFF
                       for one in self.registers.registers for n in range(one.width // 32)}
        self.bridge = BridgeModel(BridgeSpec(), self.access)
        self.waiting, self.bytes = b"", 0

    def access(self, memory, write, address, value):
        if memory:
            at = address - BASE
            if not 0 <= at < len(self.memory):
                return Reply.DECERR, 0
            word = self.memory[at:at + 4].view("<u4")
            if write:
                word[0] = value
            return Reply.OK, int(word[0])
        if address not in self.values:
            return Reply.SLVERR, 0
        if write and address == self.registers["control"].offset:
            if value & 1:
                self.execute()
        elif write:
            self.values[address] = value
        return Reply.OK, self.values[address]

    def execute(self):
        """Run a program, as the chip would."""
        value = {name: self.values[self.registers[name].offset]
                 for name in ("program", "operations")}
        code = self.memory[value["program"]:][:64 * value["operations"]].tobytes()
        programs = [code[at:at + 64] for at in range(0, len(code), 64)]
        completions = Emulator(self.spec, self.memory).run(programs)
        if self.spoil:
            self.memory[value["program"] - 128:value["program"] - 64] ^= 1
        failed = [n for n, one in enumerate(completions) if one.status]
        code = completions[failed[0]].status if failed else Code.OK
        self.values[self.registers["status"].offset] = int(code) << 8
        self.values[self.registers["completed"].offset] = len(completions)
        self.values[self.registers["counter_cycles"].offset] = 1000 + len(completions)

    def write(self, content):
        self.bytes += len(content)
        self.waiting += self.bridge.take(content)
        return len(content)

    def read(self, count):
        found, self.waiting = self.waiting[:count], self.waiting[count:]
        self.bytes += len(found)
        return found


@contextlib.contextmanager
def terminal(board):
    """Serve a board at a pseudo-terminal; yield its name."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)

    def serve():
        with contextlib.suppress(OSError):
            while content := os.read(ours, 4096):
                board.write(content)
                answer, board.waiting = board.waiting, b""
                while answer:
                    answer = answer[os.write(ours, answer):]

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield os.ttyname(theirs)
    finally:
        os.close(theirs)
        os.close(ours)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The arguments of a small network, which is quantised in no time."""
    folder = tmp_path_factory.mktemp("own")
    save_file(checkpoint(*SHAPE), folder / "w.safetensors")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(3, 1, 8, 8)))
    np.save(folder / "y.npy", np.array([3, 1, 4]))
    return ["run", "--on", "rowwise", "--preset", "tiny", "--heads", "3", "--weights",
            str(folder / "w.safetensors"), "--inputs", str(folder / "x.npy"), "--labels",
            str(folder / "y.npy")]


@pytest.fixture
def run(own):
    return lambda *arguments: main([*own, "--board", "ulx3s-85f", *map(str, arguments)])


@pytest.fixture
def refused(run, capsys):
    """Return the one sentence with which the command line refuses."""
    def call(*arguments):
        assert run(*arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        return err.strip().removeprefix("vitral: ")
    return call


@pytest.fixture
def serial():
    """Use pyserial, with little patience."""
    return pytest.importorskip("serial")


def test_images_on_a_board(serial, run, capsys):
    with terminal(ModelBoard()) as port:
        assert run("--port", port, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["engine"], found["level"], found["board"]) == ("board", "board", "ulx3s-85f")
    assert found["bit_exact"] and found["images"] == 3 and found["images_per_second"] > 0
    assert found["simulator"] is None and found["cycles_per_image"] > 1000


def test_a_wrong_bit_is_told(serial, run, capsys):
    with terminal(ModelBoard(spoil=True)) as port:
        assert run("--port", port) == 1
    out, err = capsys.readouterr()
    assert "bit exact         NO" in out and "images per second" in out
    assert "memory must equal the golden model's, but " in err


def test_another_bitstream(serial, refused):
    board = ModelBoard("ecp5")
    with terminal(board) as port:
        sentence = refused("--port", port)
    ours = ModelBoard("tiny").registers["config_hash"].reset
    there = board.registers["config_hash"].reset
    assert sentence.startswith(
        f"configuration of the chip must be {ours:016x}, not {there:016x}: it was built for")


def test_no_answer(serial, refused, monkeypatch):
    class Deaf(ModelBoard):
        def write(self, content):
            return len(content)

    monkeypatch.setattr("vitral.board_run.open_port", lambda name, baud: serial.Serial(
        name, baud, timeout=0.02))
    with terminal(Deaf()) as port:
        sentence = refused("--port", port)
    assert re.match(r"a board must answer READ_REGISTER at 0x0, but nothing came: is it", sentence)


def test_a_run_that_fails(serial, run, capsys):
    """In the middle of a run that is a failure, not a refusal."""
    class Leaving(ModelBoard):
        def execute(self):
            self.values[self.registers["status"].offset] = int(Code.ABORTED) << 8

    with terminal(Leaving()) as port:
        assert run("--port", port) == 1
    assert "vitral: image 0: the run was aborted" in capsys.readouterr().err


def test_no_port(serial, refused, tmp_path, monkeypatch):
    assert refused("--port", tmp_path / "none").endswith(
        "must open, but there is none of that name; is the board plugged in?")
    monkeypatch.setitem(sys.modules, "serial", None)
    assert refused("--port", "x").startswith("pyserial must be installed to reach a board")


@pytest.mark.parametrize(("arguments", "sentence"), [
    ([], "--port must name the serial port of the board, such as /dev/ttyUSB0"),
    (["--port", "x", "--engine", "rtl"], "--board must go without --engine rtl, .*"),
    (["--port", "x", "--memory", 4], ("the board's memory must hold .*,... bytes .weights .*, "
     "image .*, program .*, has 4,096")),
    (["--port", "x", "--baud", 100], "baud must be an integer from 1200 to 3000000, not 100"),
])
def test_refuses(arguments, sentence, refused):
    assert re.fullmatch(sentence, refused(*arguments))


def test_refuses_without_a_board(own, capsys):
    assert main([*own, "--port", "x"]) == 2
    assert capsys.readouterr().err == "vitral: --port, --memory and --baud must go with --board\n"
    assert main([*own, "--board", "arty", "--port", "x"]) == 2
    assert capsys.readouterr().err.startswith("vitral: board must be one of ulx3s-85f, ")


def test_the_line_takes_what_is_told():
    """Each byte that goes over the line for an image is in ``line_cycles``."""
    on, setup, spec = design("rowwise"), BoardSetup(), PRESETS["tiny"]
    program = compile(random_vit(2, depth=1, dim=12, heads=2, head_dim=6, hidden=20), spec)
    pixels = np.random.default_rng(1).integers(-128, 128, (3, 1, 8, 8))
    spent = []
    for images in (1, 3):
        board = ModelBoard()

        @contextlib.contextmanager
        def connection(*_, board=board):
            yield SerialTransport(board)

        done = run_board(on, spec, setup, program, pixels[:images], connection,
                         progress=Progress())
        assert done.complaint is None and len(done.cycles) == images
        golden = on.emulator(spec, program.memory(pixels[:images]))
        for n in range(images):
            golden.run(program.operations(n))
        np.testing.assert_array_equal(done.memory, golden.memory)
        spent.append(board.bytes)
    bridge = setup.spec.bridge
    line = line_cycles(program, bridge, len(on.counters()))
    assert (spent[1] - spent[0]) // 2 * bridge.uart.cycles(1) == line


BITSTREAM = ["bitstream", "rowwise", "--board", "ulx3s-85f"]


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--clock", "48"], "frequency must be one that 25 MHz can be made into, not 48 MHz; .*"),
    (["--clock", "1000"], "frequency must be an integer from 3125000 to 400000000, not 1000000000"),
    (["--baud", "2000000", "--clock", "27"], ("baud must be .* divide it within 2 %, not 2000000, "
     "of which each takes 13.5 cycles at 27 MHz")),
    (["--memory", "512"], ("--memory must be at most 416 KB, all the block RAM of ulx3s-85f, not "
     "512")),
    (["--board", "ulx3s-99f"], "board must be one of ulx3s-85f, .*, not 'ulx3s-99f'"),
    (["--memory", "6"], "size must be a multiple of 4096, not 6144"),
])
def test_bitstream_refuses(arguments, sentence, capsys, tmp_path):
    assert main([*BITSTREAM, *arguments, "-o", str(tmp_path / "new")]) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(f"vitral: {sentence}\n", err) and out == ""
    assert not (tmp_path / "new").exists()


@pytest.fixture
def tools(monkeypatch):
    """Stand-ins of what takes long; ``found`` is what the tools find."""
    def emit(component, *, name, parameters):
        return Emitted(name=name, verilog="module\n", description={
            "name": name, "parameters": parameters_of(SimpleNamespace(spec=parameters)),
            "config_hash": "", "ports": [], "tools": {}})

    spent = []
    monkeypatch.setattr("hw.emit.emit", emit)
    monkeypatch.setattr(tool, "compiled", lambda *one, compiled=tool.compiled, **more: (
        spent or spent.append(compiled(*one, **more)) or spent)[0])
    found = {"lut": 5, "ff": 4, "dsp": 3, "ebr": 2, "fmax_mhz": 53.1,
             "paths": [{"from": "a", "to": "b", "ns": 37.7, "logic_ns": 17.1}]}
    monkeypatch.setattr(tool, "synthesize", lambda design, work, log: found)
    monkeypatch.setattr(tool, "route", lambda work, options, log: found)
    monkeypatch.setattr(tool, "run_tool", lambda name, arguments, work: (
        work / arguments[-1]).write_bytes(b"bits"))
    return found


def test_bitstream_is_described(tools, capsys, tmp_path):
    pytest.importorskip("amaranth_boards")
    command = [*BITSTREAM, "--preset", "tiny", "-o", str(tmp_path)]
    assert main([*command, "--clock", "53.125"]) == 1  # 0.025 MHz too much
    assert capsys.readouterr().err.startswith(
        "vitral: the clock must reach 53.125 MHz, but its longest path allows 53.1 MHz; no ")
    assert not list(tmp_path.glob("*.bit"))
    assert main([*command, "--clock", "53.125", "--keep"]) == 0
    assert "TOO SLOW" in capsys.readouterr().out
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "LUT            5 of 83,640" in out and "MACs          64" in out
    name = "rowwise_tiny_ulx3s_85f"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name + end for end in (".bit", ".json", ".lpf", ".v", "_nextpnr.log", "_yosys.log"))
    about = json.loads((tmp_path / f"{name}.json").read_text())
    assert about["met"] and about["clock_mhz"] == 50 and about["baud"] == 1e6
    assert about["model"]["images_per_second"] == round(50e6 / about["model"]["cycles"], 1)
    assert about["registers"]
    tools["ebr"] = 300
    assert main(command) == 1
    assert capsys.readouterr().err == (
        "vitral: ulx3s-85f must have 300 EBR for this design, but has 208\n")
    assert not (tmp_path / f"{name}.bit").exists()
