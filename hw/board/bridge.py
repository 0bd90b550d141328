# SPDX-License-Identifier: Apache-2.0
"""Requests from a serial line, carried out and answered."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC16_IBM_3740
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect

from golden.bridge import ANSWER_HEAD, HEAD, SUM, SYNC, WORD, BridgeSpec, Command, Reply
from hw.board.uart import RECEIVED, Receiver, Transmitter
from hw.shell.layouts import log2
from hw.stream import Queue

ACCESS = data.StructLayout({"address": 32, "data": 32, "write": 1, "memory": 1})
"""Access to a word of registers or memory."""
RESULT = data.StructLayout({"data": 32, "response": 2})
"""What was read, and AXI's response."""


class Bridge(wiring.Component):
    """Carry out the requests of :mod:`golden.bridge`, as :class:`~golden.bridge.BridgeModel` does.

    One access is under way at a time; the answer to a request begins when its last has ended, or
    when the line is silent after a broken one. Latency: ``WORD_CYCLES`` cycles and the access for
    each word, and some 8 of the request. Whatever comes in, the bridge is ready for a request
    when the line has been silent for ``timeout`` cycles and what it had to answer is sent. Cost:
    ``buffer_bytes`` of memory.

    Members
    -------
    rx, tx : the line.
    access, result : accesses, and one result for each.
    """

    def __init__(self, spec: BridgeSpec):
        self.spec = spec
        super().__init__({
            "rx": In(1), "tx": Out(1),
            "access": Out(stream.Signature(ACCESS)), "result": In(stream.Signature(RESULT)),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        words = spec.buffer_bytes // WORD
        m.submodules.receiver = receiver = Receiver(spec.uart)
        m.submodules.transmitter = transmitter = Transmitter(spec.uart)
        m.submodules.queue = queue = Queue(shape=RECEIVED, depth=spec.queue)
        m.submodules.sum_in = sum_in = CRC16_IBM_3740(data_width=8).create()
        m.submodules.sum_out = sum_out = CRC16_IBM_3740(data_width=8).create()
        m.submodules.buffer = buffer = Memory(shape=32, depth=words, init=[])
        write, read = buffer.write_port(granularity=8), buffer.read_port()
        connect(m, receiver.o, queue.i)

        head = Signal(data.StructLayout({"command": 8, "tag": 8, "address": 32, "count": 16}))
        tag = Signal(8)
        status = Signal(range(max(Reply) + 1))
        count = Signal(16)  # bytes that are answered
        front = Signal(8 * (1 + ANSWER_HEAD.size))
        n = Signal(16)  # bytes of a part of the frame, or of the accesses
        silent = Signal(range(spec.timeout))
        byte = queue.o.payload.data
        bad = Signal()
        good = Signal()
        late = Signal()
        writes = head.command[0]
        whole = Signal()
        crc = Signal(16)
        word = Signal(32, reset_less=True)  # of the buffer, whose own output is slow
        send = transmitter.i
        sent = Signal()
        m.d.comb += [
            self.tx.eq(transmitter.o), receiver.i.eq(self.rx),
            bad.eq(queue.o.valid & queue.o.ready & queue.o.payload.error),
            good.eq(queue.o.valid & queue.o.ready & ~queue.o.payload.error),
            late.eq((silent == spec.timeout - 1) & ~queue.o.valid),
            whole.eq(sum_in.match_detected),  # pyright: ignore[reportArgumentType]
            crc.eq(sum_out.crc),  # pyright: ignore[reportArgumentType]
            sum_in.data.eq(byte), sum_in.valid.eq(good),
            sent.eq(send.valid & send.ready),
            sum_out.data.eq(send.payload),
            write.addr.eq(n[log2(WORD):]), read.addr.eq(n[log2(WORD):]),
            write.data.eq(byte.replicate(WORD)),
            self.access.payload.address.eq(head.address + n),
            self.access.payload.data.eq(word), self.access.payload.write.eq(writes),
            self.access.payload.memory.eq(head.command[1]),
        ]
        m.d.comb += front.eq(Cat(Const(SYNC, 8), tag, status,
                                 Const(0, 8 - len(status)), count))
        m.d.sync += word.eq(read.data)
        m.d.sync += silent.eq(Mux(queue.o.ready & ~queue.o.valid, silent + 1, 0))

        def fail(why):
            m.d.sync += status.eq(why)
            m.next = "DROP"

        def broken():
            """End a request whose bytes are broken, or do not come."""
            with m.If(bad):
                fail(Reply.LINE)
            with m.Elif(late):
                m.d.sync += [status.eq(Reply.TIMEOUT), n.eq(0)]
                m.next = "ANSWER"

        with m.FSM():
            with m.State("HUNT"):
                m.d.comb += [queue.o.ready.eq(1), sum_in.start.eq(1), sum_in.valid.eq(0),
                             sum_out.start.eq(1)]
                m.d.sync += [silent.eq(0), n.eq(0), tag.eq(0), count.eq(0), status.eq(Reply.OK)]
                with m.If(good & (byte == SYNC)):
                    m.next = "HEAD"
            with m.State("HEAD"):
                m.d.comb += queue.o.ready.eq(1)
                broken()
                with m.If(good):
                    m.d.sync += [head.eq(Cat(head.as_value()[8:], byte)), n.eq(n + 1)]
                    with m.If(n == 1):
                        m.d.sync += tag.eq(byte)
                    with m.If(n == HEAD.size - 1):
                        m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += n.eq(0)
                with m.If(head.command > max(Command)):
                    fail(Reply.COMMAND)
                with m.Elif(((head.address | head.count) % WORD != 0) | (head.count == 0)
                            | (head.count > spec.buffer_bytes)):
                    fail(Reply.SHAPE)
                with m.Elif(writes):
                    m.next = "DATA"
                with m.Else():
                    m.next = "SUM"
            with m.State("DATA"):
                m.d.comb += queue.o.ready.eq(1)
                broken()
                with m.If(good):
                    m.d.comb += write.en.eq(1 << n[:log2(WORD)])
                    m.d.sync += n.eq(n + 1)
                    with m.If(n == head.count - 1):
                        m.d.sync += n.eq(0)
                        m.next = "SUM"
            with m.State("SUM"):
                m.d.comb += queue.o.ready.eq(1)
                broken()
                with m.If(good):
                    m.d.sync += n.eq(n + 1)
                    with m.If(n == SUM.size - 1):
                        m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += n.eq(0)
                with m.If(whole):
                    m.next = "FETCH"
                with m.Else():
                    fail(Reply.CHECKSUM)
            with m.State("FETCH"):
                m.next = "HOLD"
            with m.State("HOLD"):
                m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += self.access.valid.eq(1)
                with m.If(self.access.ready):
                    m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += [self.result.ready.eq(1), write.data.eq(self.result.payload.data)]
                with m.If(self.result.valid):
                    m.d.comb += write.en.eq((~writes).replicate(WORD))
                    m.d.sync += n.eq(n + WORD)
                    m.next = "FETCH"
                    with m.If(self.result.payload.response[1]):  # SLVERR, DECERR
                        m.d.sync += [status.eq(self.result.payload.response), n.eq(0)]
                        m.next = "ANSWER"
                    with m.Elif(n == head.count - WORD):
                        m.d.sync += [count.eq(Mux(writes, 0, head.count)), n.eq(0)]
                        m.next = "ANSWER"
            with m.State("DROP"):
                m.d.comb += queue.o.ready.eq(1)
                with m.If(late):
                    m.d.sync += n.eq(0)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += [send.valid.eq(1), sum_out.valid.eq(sent & (n != 0)),
                             send.payload.eq(front.word_select(n[:3], 8))]
                with m.If(sent):
                    m.d.sync += n.eq(n + 1)
                    with m.If(n == ANSWER_HEAD.size):
                        m.d.sync += n.eq(0)
                        m.next = "END"
                        with m.If(count != 0):
                            m.next = "READ"
            with m.State("READ"):
                m.next = "PICK"
            with m.State("PICK"):
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [send.valid.eq(1), sum_out.valid.eq(sent),
                             send.payload.eq(word.word_select(n[:log2(WORD)], 8))]
                with m.If(sent):
                    m.d.sync += n.eq(n + 1)
                    m.next = "READ"
                    with m.If(n == count - 1):
                        m.d.sync += n.eq(0)
                        m.next = "END"
            with m.State("END"):
                m.d.comb += [send.valid.eq(1),
                             send.payload.eq(crc.word_select(~n[0], 8))]
                with m.If(sent):
                    m.d.sync += n.eq(n + 1)
                    with m.If(n == SUM.size - 1):
                        m.next = "HUNT"
        return m
