# SPDX-License-Identifier: Apache-2.0
"""Serial lines and the bridge: RTL against the models, frames, parameters."""

from dataclasses import asdict

import pytest

from golden.bridge import Answer, BridgeModel, BridgeSpec, Command, Reply, Request, checksum
from golden.uart import UartSpec
from hw.board.bridge import Bridge
from hw.board.uart import Receiver, Transmitter
from hw.emit import emit
from sim.runner import run
from tests import verilog
from tests.simulators import need

FAST = BridgeSpec(uart=UartSpec(divisor=4), buffer_bytes=64, timeout=400, queue=64)


@pytest.mark.parametrize("divisor", [4, 5, 25])
@pytest.mark.parametrize("simulator", ["verilator", "icarus"])
def test_uart(simulator, divisor, tmp_path):
    need(simulator)
    spec = UartSpec(divisor=divisor)
    run(Receiver(spec), bench="sim.bench_uart", simulator=simulator, tests=1, testcase="receives",
        directory=tmp_path / "receiver")
    run(Transmitter(spec), bench="sim.bench_uart", simulator=simulator, tests=2, testcase="sends",
        directory=tmp_path / "transmitter")


@pytest.mark.parametrize(("simulator", "spec", "events"), [
    ("verilator", FAST, 500),
    ("icarus", FAST, 60),
    ("verilator", BridgeSpec(uart=UartSpec(divisor=7), buffer_bytes=1024, timeout=1000, queue=8),
     60),
], ids=["fast", "icarus", "large"])
def test_bridge_equals_model(simulator, spec, events, tmp_path):
    need(simulator)
    result = run(Bridge(spec), bench="sim.bench_bridge", simulator=simulator, tests=2,
                 parameters={"spec": asdict(spec), "events": events}, directory=tmp_path)
    for statuses in result.report.values():
        assert statuses["OK"] >= events // 3
    if events == 500:  # every way to be answered
        assert all(min(statuses.values()) > 0 for statuses in result.report.values())


@pytest.mark.parametrize("component", [Bridge(FAST), Bridge(BridgeSpec())], ids=["fast", "default"])
def test_verilog(component, tmp_path):
    verilog.check(emit(component, name="bridge").verilog, "bridge", tmp_path)


def test_frames():
    """What is in docs/chip.md, byte by byte; and what an answer must have."""
    assert checksum(b"123456789") == b"\x29\xb1"  # the check value of this CRC
    one = Request(command=Command.WRITE_REGISTER, tag=7, address=0x14, count=4, data=b"\1\0\0\0")
    body = bytes.fromhex("01 07 14000000 0400 01000000")
    assert one.encode() == b"V" + body + checksum(body)
    answer = Answer(tag=7, status=Reply.OK, data=b"abcd")
    frame = answer.encode()
    assert frame[:5] == b"V\x07\x00\x04\x00" and Answer.decode(frame[1:]) == answer
    for broken, sentence in ((frame[1:-1], "^checksum must be [0-9a-f]{4}, not "),
                             (b"V", "^an answer must have at least 6 bytes, not 1$")):
        with pytest.raises(ValueError, match=sentence):
            Answer.decode(broken)
    for body, sentence in ((b"\0\x08\0\0", "^status must be at most 7, not 8$"),
                           (b"\0\0\4\0", "^count must be 0, not 4$")):
        with pytest.raises(ValueError, match=sentence):
            Answer.decode(body + checksum(body))


def test_model_ends_each_request_once():
    """All ways of a request to end, and that nothing is accessed in those that are broken."""
    seen = []

    def access(memory, write, address, value):
        seen.append((memory, write, address, value))
        return (Reply.DECERR, 0) if address == 8 else (Reply.OK, 0x11223344)

    model = BridgeModel(FAST, access)
    read = Request(command=Command.READ_MEMORY, tag=3, address=0, count=8).encode()

    def told(frame):
        one = Answer.decode(frame[1:])
        return one.tag, one.status, one.data

    assert told(model.take(b"noise" + read)) == (3, Reply.OK, bytes.fromhex("4433221144332211"))
    assert seen == [(True, False, 0, 0), (True, False, 4, 0)]
    write = Request(command=Command.WRITE_REGISTER, tag=4, address=4, count=12,
                    data=bytes(range(12))).encode()
    assert told(model.take(write)) == (4, Reply.DECERR, b"")
    assert seen[2:] == [(False, True, 4, 0x03020100), (False, True, 8, 0x07060504)]
    for frame, tag, status in (
            (read[:-1] + b"x", 3, Reply.CHECKSUM), (read[:-1], 3, Reply.TIMEOUT),
            (read[:2], 0, Reply.TIMEOUT), (b"V\x04\x09" + bytes(6), 9, Reply.COMMAND),
            (b"V\x02\x09" + bytes(6), 9, Reply.SHAPE)):
        assert model.take(frame) == b""
        assert told(model.silence()) == (tag, status, b"")
        assert model.silence() == b""
    model.take(read[:5])
    model.spoil()
    assert model.take(read) == b"" and told(model.silence()) == (3, Reply.LINE, b"")
    assert len(seen) == 4
    assert [one for one in Reply if not one.untouched] == [Reply.OK, Reply.SLVERR, Reply.DECERR]


@pytest.mark.parametrize(("make", "kind", "sentence"), [
    (lambda: UartSpec(divisor=3), ValueError,
     "divisor must be an integer from 4 to 65535, not 3"),
    (lambda: UartSpec(divisor=4.0), TypeError,  # pyright: ignore[reportArgumentType]
     "divisor must be an integer from 4 to 65535, not 4.0"),
    (lambda: BridgeSpec(buffer_bytes=1000), ValueError,
     "buffer_bytes must be a power of two, not 1000"),
    (lambda: BridgeSpec(timeout=999), ValueError,
     "timeout must be an integer from 1000 to 4294967295, not 999"),
    (lambda: BridgeSpec(queue=4), ValueError, "queue must be an integer from 8 to 4096, not 4"),
])
def test_refuses(make, kind, sentence):
    with pytest.raises(kind, match=f"^{sentence}$"):
        make()
