# SPDX-License-Identifier: Apache-2.0
"""A core that only moves memory: what a shell needs of a core, and nothing else."""

from dataclasses import dataclass

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.operation import DESCRIPTOR_BYTES, Layout, Opcode, Status
from hw.contract import COMPLETION, COUNTER_BITS, REQUEST, response, write_beat

LAYOUT = Layout.of(opcode=(0, 8), tag=(2, 16), beats=(4, 16), request=(6, 16), address=(8, 32))
"""LOAD, STORE: ``beats`` beats from or to ``address``, in requests of ``request``, all at once."""

NAMES = ("cycles", "beats_read", "beats_written")


@dataclass(frozen=True, kw_only=True)
class CopySpec:
    """``words`` beats of memory_bytes."""

    memory_bytes: int = 8
    words: int = 1024


class CopyCore(wiring.Component):
    """LOAD memory into a buffer, STORE it: always from its first word, one beat per cycle."""

    def __init__(self, spec: CopySpec):
        self.spec = spec
        super().__init__({
            "operation": In(stream.Signature(8 * DESCRIPTOR_BYTES)),
            "completion": Out(stream.Signature(COMPLETION)),
            "read_request": Out(stream.Signature(REQUEST)),
            "read_data": In(stream.Signature(response(spec))),
            "write_request": Out(stream.Signature(REQUEST)),
            "write_data": Out(stream.Signature(write_beat(spec))),
            "write_response": In(stream.Signature(1)),
            "counters": Out(data.StructLayout({name: COUNTER_BITS for name in NAMES})),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        m.submodules.memory = memory = Memory(
            shape=8 * spec.memory_bytes, depth=spec.words, init=[])
        write, read = memory.write_port(), memory.read_port()
        op = {name: self.operation.payload[one.offset:one.offset + one.width]
              for name, one in LAYOUT.fields.items()}
        asking = Signal(16)  # beats to ask for
        chunk = Signal(16)
        address = Signal(32)
        answers = Signal(16)  # requests without a response
        moved = Signal(range(spec.words + 1))
        left = Signal(16)  # of the request whose beats are sent
        failed = Signal()
        asked = Signal()
        m.d.comb += [
            chunk.eq(op["request"]),
            self.completion.payload.tag.eq(op["tag"]),
            asked.eq((self.read_request.valid & self.read_request.ready)
                     | (self.write_request.valid & self.write_request.ready)),
            write.data.eq(self.read_data.payload.data), write.addr.eq(moved),
            read.addr.eq(moved + (self.write_data.valid & self.write_data.ready)),
            self.write_data.payload.data.eq(read.data),
            self.write_data.payload.last.eq((left == 1) | (moved == op["beats"] - 1)),
        ]
        with m.If(asking < op["request"]):
            m.d.comb += chunk.eq(asking)
        for port in (self.read_request, self.write_request):
            m.d.comb += [port.payload.address.eq(address), port.payload.beats.eq(chunk)]
        with m.If(asked):
            m.d.sync += [asking.eq(asking - chunk), address.eq(address + chunk * spec.memory_bytes)]
        m.d.sync += [
            self.counters.cycles.eq(self.counters.cycles + 1),
            self.counters.beats_read.eq(
                self.counters.beats_read + (self.read_data.valid & self.read_data.ready)),
            self.counters.beats_written.eq(
                self.counters.beats_written + (self.write_data.valid & self.write_data.ready)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [asking.eq(op["beats"]), address.eq(op["address"]), moved.eq(0),
                             failed.eq(0), left.eq(op["request"])]
                with m.If(self.operation.valid):
                    with m.Switch(op["opcode"]):
                        with m.Case(Opcode.LOAD):
                            m.next = "LOAD"
                        with m.Case(Opcode.STORE):
                            m.next = "STORE"
                        with m.Case(Opcode.HALT):
                            m.next = "END"
                        with m.Default():
                            m.next = "REFUSE"
                    with m.If((op["opcode"] != Opcode.HALT)
                              & ((op["beats"] == 0) | (op["beats"] > spec.words)
                                 | (op["request"] == 0))):
                        m.next = "REFUSE"
            with m.State("LOAD"):
                m.d.comb += [self.read_request.valid.eq(asking != 0), self.read_data.ready.eq(1),
                             write.en.eq(self.read_data.valid)]
                with m.If(self.read_data.valid):
                    m.d.sync += moved.eq(moved + 1)
                    with m.If(self.read_data.payload.error):
                        m.d.sync += failed.eq(1)
                    with m.If(moved == op["beats"] - 1):
                        m.next = "END"
            with m.State("STORE"):
                m.d.comb += [self.write_request.valid.eq(asking != 0),
                             self.write_data.valid.eq(moved != op["beats"]),
                             self.write_response.ready.eq(1)]
                responded = self.write_response.valid
                m.d.sync += answers.eq(answers + asked - responded)
                with m.If(self.write_data.valid & self.write_data.ready):
                    m.d.sync += [moved.eq(moved + 1), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.d.sync += left.eq(op["request"])
                with m.If(responded & self.write_response.payload):
                    m.d.sync += failed.eq(1)
                with m.If((asking == 0) & (moved == op["beats"]) & (answers == 0)):
                    m.next = "END"
            for name, status in (("END", Status.BUS_ERROR), ("REFUSE", Status.BAD_SHAPE)):
                with m.State(name):
                    m.d.comb += self.completion.valid.eq(1)
                    with m.If(failed | (name == "REFUSE")):
                        m.d.comb += self.completion.payload.status.eq(status)
                    with m.If(self.completion.ready):
                        m.d.comb += self.operation.ready.eq(1)
                        m.next = "IDLE"
        return m
