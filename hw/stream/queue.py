# SPDX-License-Identifier: Apache-2.0
"""A typed first-in first-out queue."""

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.validate import integer


class Queue(wiring.Component):
    """Typed first-in first-out queue; no combinational path crosses it.

    Latency: 1 cycle. Throughput: 1 payload per cycle, at any depth. Cost: up to ``REGISTERS``
    payloads lie in flip-flops, and move up to the first, which is the output; a deeper queue is a
    memory of ``depth`` payloads, read one cycle ahead, and one payload of flip-flops for what is
    written into an empty queue. For 64 bits: 1.03 kGE with depth 2, 2.21 with 4, 0.74 with 16
    (1,024 bits of memory), 0.89 with 256 (16,384).

    Parameters
    ----------
    shape : shape of the payload.
    depth : payloads it holds, at least 2 (1 could not take and give in the same cycle).

    Members
    -------
    i : ``In(stream.Signature(shape))``
    o : ``Out(stream.Signature(shape))``
    level : ``Out(range(depth + 1))``
        Payloads inside.
    """

    LATENCY = 1
    REGISTERS = 4

    def __init__(self, *, shape: ShapeLike, depth: int):
        integer("depth", depth, 2, 65536)
        self._shape = shape
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        depth, width = self._depth, Shape.cast(self._shape).width
        write = Signal()
        read = Signal()
        m.d.comb += [
            self.i.ready.eq(self.level != depth),
            self.o.valid.eq(self.level != 0),
            write.eq(self.i.valid & self.i.ready),
            read.eq(self.o.valid & self.o.ready),
        ]
        m.d.sync += self.level.eq(self.level + write - read)

        incoming, outgoing = Value.cast(self.i.payload), Value.cast(self.o.payload)
        if depth <= self.REGISTERS:
            entries = [Signal(width, name=f"entry_{n}", reset_less=True) for n in range(depth)]
            m.d.comb += outgoing.eq(entries[0])
            for n, entry in enumerate(entries):
                behind = entries[n + 1] if n + 1 < depth else incoming
                # what lies in a free place does not matter: the last one is written in any case
                with m.If(self.i.ready if n == depth - 1 else read | (self.level <= n)):
                    m.d.sync += entry.eq(Mux(self.level > n + 1, behind, incoming))
            return m
        write_at = Signal(range(depth))
        read_at = Signal(range(depth))
        read_next = Signal(range(depth))
        m.d.comb += read_next.eq(Mux(read, Mux(read_at == depth - 1, 0, read_at + 1), read_at))
        m.d.sync += read_at.eq(read_next)
        with m.If(write):
            m.d.sync += write_at.eq(Mux(write_at == depth - 1, 0, write_at + 1))
        m.submodules.memory = memory = Memory(
            shape=width, depth=depth, init=[], attrs={"no_rw_check": "1"})
        write_port, read_port = memory.write_port(), memory.read_port()
        latest = Signal(width, reset_less=True)
        bypass = Signal()  # the head was written in the last cycle, in which it was also read
        m.d.comb += [
            write_port.addr.eq(write_at),
            write_port.data.eq(incoming),
            write_port.en.eq(write),
            read_port.addr.eq(read_next),
            read_port.en.eq(1),
            outgoing.eq(Mux(bypass, latest, read_port.data)),
        ]
        m.d.sync += bypass.eq(write & (write_at == read_next))
        with m.If(write):
            m.d.sync += latest.eq(incoming)
        return m
