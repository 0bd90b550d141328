# SPDX-License-Identifier: Apache-2.0
"""A bridge between a line with good, broken and random frames and a memory: all as the model."""

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge, Timer

from golden.bridge import (
    HEAD,
    SYNC,
    WORD,
    BridgeModel,
    BridgeSpec,
    Command,
    Reply,
    Request,
    checksum,
)
from hw.board.bridge import ACCESS, RESULT
from hw.emit import from_plain
from sim.bench import parameters, report, rng, start
from sim.serial import Line
from sim.stream import pack

WORDS = 256


class Space:
    """Registers and memory of WORDS words each, from 0; those at multiples of 31 are refused."""

    def __init__(self):
        self.words, self.accesses = {}, 0

    def access(self, memory, write, address, value):
        """Return response and value."""
        self.accesses += 1
        if address >= WORDS * WORD:
            return Reply.DECERR, 0
        if address // WORD % 31 == 30:
            return Reply.SLVERR, 0
        if write:
            self.words[memory, address] = value
            return Reply.OK, 0
        return Reply.OK, self.words.get((memory, address), address * 0x01234567 % (1 << 32))


def request(random, spec, *, command=None, most=None):
    """Return a random request; some lead to refusals."""
    command = Command(int(random.integers(4))) if command is None else command
    most = spec.buffer_bytes // WORD if most is None else most
    count = WORD * int(random.choice([1, 2, int(random.integers(1, most + 1)), most]))
    address = WORD * int(random.integers(0, WORDS)) + int(random.random() < 0.02) * 0xFFFFFC00
    data = bytes(random.integers(0, 256, count * command.writes).tolist())
    return Request(command=command, tag=int(random.integers(256)), address=address, count=count,
                   data=data)


def shapeless(random, spec):
    """Return a frame, with a right checksum, of a request that there is not."""
    good = request(random, spec)
    command, address, count = ((good.command, good.address, good.count) if random.random() < 0.5
                               else (Command.READ_MEMORY, 0, WORD))
    byte = int(random.integers(4, 256))
    match random.integers(4):
        case 0:
            address += int(random.integers(1, WORD))
        case 1:
            count = int(random.choice([0, WORD - 1, spec.buffer_bytes + WORD, 0xFFFC]))
        case 2:
            command = byte
        case _:
            command, count = byte, 0
    head = HEAD.pack(command, good.tag, address, count)
    return bytes([SYNC]) + head + good.data + checksum(head + good.data)


def events(random, spec, count):
    """Yield (what, bytes): ``send`` them, ``spoil`` one, ``silence``, ``wait`` for answers."""
    for _ in range(count):
        frame = request(random, spec).encode()
        match random.integers(9):
            case 0 | 1:
                yield "send", frame
            case 2:  # without waiting for the answers
                for _ in range(5):
                    yield "send", request(random, spec, most=4, command=Command(
                        int(random.choice([1, 3])))).encode()
            case 3:
                yield "send", bytes(random.integers(0, 256, int(random.integers(1, 60))).tolist())
                yield "silence", b""
            case 4:
                yield "send", frame[:int(random.integers(1, len(frame)))]
                yield "silence", b""
            case 5:
                at = int(random.integers(len(frame)))
                yield "send", bytes(one ^ (n == at) << int(random.integers(8))
                                    for n, one in enumerate(frame))
                yield "silence", b""
            case 6:
                at = int(random.integers(len(frame)))
                yield "send", frame[:at]
                yield "spoil", frame[at:at + 1]
                yield "send", frame[at + 1:]
                yield "silence", b""
            case 7:
                yield "send", shapeless(random, spec)
                yield "silence", b""
            case _:
                yield "send", frame[:-1]
                yield "pause", b""
                yield "send", frame[-1:]
        yield "wait", b""


@cocotb.test(timeout_time=200, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.6])
async def equals_golden(dut, stall):
    settings = parameters()
    spec = from_plain(BridgeSpec, settings["spec"])
    random, random_serve = rng(int(stall * 10)), rng(100)
    await start(dut)
    line = Line(dut, spec.uart)
    real, ideal = Space(), Space()
    model = BridgeModel(spec, ideal.access)

    async def serve():
        """Carry out one access after the other; what is offered must stay."""
        dut.access__ready.value = dut.result__valid.value = 0
        while True:
            if not int(dut.access__valid.value):
                await RisingEdge(dut.access__valid)
            await ClockCycles(dut.clk, 1)  # all has settled when the next edge comes
            offered = int(dut.access__payload.value)
            for _ in range(int(random_serve.geometric(1 - stall)) - 1):
                await ClockCycles(dut.clk, 1)
            dut.access__ready.value = 1
            await ClockCycles(dut.clk, 1)
            assert int(dut.access__valid.value) and int(dut.access__payload.value) == offered
            dut.access__ready.value = 0
            one = ACCESS.from_bits(offered)
            response, value = real.access(bool(one.memory), bool(one.write), one.address, one.data)
            await ClockCycles(dut.clk, int(random_serve.geometric(1 - stall)))
            dut.result__payload.value = pack(RESULT, {"data": value, "response": response})
            dut.result__valid.value = 1
            await ClockCycles(dut.clk, 1)
            assert int(dut.result__ready.value)  # it waits for nothing else
            dut.result__valid.value = 0
            await ClockCycles(dut.clk, 1)

    cocotb.start_soon(serve())
    await ClockCycles(dut.clk, 2 * spec.uart.cycles(1))  # the low of before was a start bit
    expected, statuses = bytearray(), dict.fromkeys(Reply, 0)
    longest = spec.cycles(spec.buffer_bytes, spec.buffer_bytes) + 20 * spec.buffer_bytes

    def answered(frame):
        expected.extend(frame)
        if frame:
            statuses[Reply(frame[2])] += 1

    async def settle():
        assert await line.until(len(expected), 5 * longest), (
            f"the bridge must have answered {len(expected)} bytes, not {len(line.received)}")
        assert line.received == expected

    for what, content in events(random, spec, settings["events"]):
        if what == "send":
            await line.send(content)
            for one in content:  # several requests may be inside
                answered(model.take(bytes([one])))
        elif what == "spoil":
            await line.send(content, stop=0)
            answered(model.spoil())
        elif what == "pause":
            await Timer(10 * (spec.timeout - spec.uart.cycles(3)), "ns")
        elif what == "silence":
            await settle()
            await Timer(10 * (spec.timeout + spec.uart.cycles(2)), "ns")
            answered(model.silence())
        else:
            await settle()
    # It may lose what it cannot keep, but is there again after silence
    for _ in range(20):
        await line.send(Request(command=Command.READ_MEMORY, tag=1, address=0,
                                count=4 * WORD).encode())
    before = -1
    while before != len(line.received):
        before = len(line.received)
        await Timer(10 * (spec.timeout + longest), "ns")
    line.received.clear()
    expected.clear()
    last = Request(command=Command.READ_REGISTER, tag=77, address=0, count=WORD).encode()
    await line.send(last)
    answered(model.take(last))
    await settle()
    assert real.words == ideal.words
    report(**{f"statuses_{int(10 * stall)}": {one.name: n for one, n in statuses.items()}})
