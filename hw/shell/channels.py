# SPDX-License-Identifier: Apache-2.0
"""A core with several memory channels, behind the one port that the shell has."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.channels import ADDRESS_BITS, ChannelsSpec, JoinedSpec
from golden.operation import DESCRIPTOR_BYTES
from hw.contract import COMPLETION, REQUEST, response, write_beat
from hw.shell.layouts import log2
from hw.stream import Arbiter, Queue


def channel_request(spec: ChannelsSpec) -> data.StructLayout:
    """A write of consecutive beats of one channel."""
    return data.StructLayout({"channel": max(1, (spec.channels - 1).bit_length()), "address": 32,
                              "beats": 16})


def piece(spec: ChannelsSpec) -> data.StructLayout:
    """Beats of one stripe, from a beat of the channel; ``end`` of their request."""
    return data.StructLayout({"beat": 32 - log2(spec.memory_bytes),
                              "beats": log2(spec.stripe) + 1, "end": 1})


class Cutter(wiring.Component):
    """Cut requests where stripes end. Latency: 1 cycle. Throughput: 1 piece per cycle.

    Members
    -------
    i : requests of one channel.
    o : their pieces.
    """

    def __init__(self, spec: ChannelsSpec):
        self._spec = spec
        super().__init__({"i": In(stream.Signature(REQUEST)),
                          "o": Out(stream.Signature(piece(spec)))})

    def elaborate(self, platform):
        m = Module()
        stripe, out = self._spec.stripe, self.o.payload
        beat = Signal(out.beat.shape(), reset_less=True)
        left = Signal(16)
        until = Signal(range(stripe + 1))
        m.d.comb += [
            until.eq(stripe - beat[:log2(stripe)]),
            self.o.valid.eq(left != 0),
            out.beat.eq(beat), out.end.eq(left <= until), out.beats.eq(Mux(out.end, left, until)),
            self.i.ready.eq((left == 0) | (self.o.ready & out.end)),
        ]
        with m.If(self.i.ready):
            m.d.sync += [beat.eq(self.i.payload.address[log2(self._spec.memory_bytes):]),
                         left.eq(Mux(self.i.valid, self.i.payload.beats, 0))]
        with m.Elif(self.o.ready):
            m.d.sync += [beat.eq(beat + out.beats), left.eq(left - out.beats)]
        return m


class Joiner(wiring.Component):
    """Bring the reads of many channels, and writes to them, to one memory.

    ::

        request[n] --> Cutter, credit --+
                                        +--> Arbiter --> read_request
                                                |
        response[n] <-- Queue <----- order of the pieces <-- read_data

        channel_write --> Cutter --> write_request;   one response for all pieces of a request

    Where beats lie on the bus is :class:`~golden.channels.ChannelsSpec`'s to say. Channels take
    turns, piece by piece. A piece is asked for only when the queue of its channel has room for all
    of it: the memory is never kept waiting, and no channel by another that does not take its beats,
    as an engine may that waits for what others have to compute. Errors go where the beats go.

    A read takes ``READ_LATENCY`` cycles longer than the memory. Throughput: a beat per cycle, and a
    piece per cycle each way. A channel alone has ``depth`` beats per time from request to beat.

    Cost with 2 channels of 8 bytes and a depth of 64: 5.5 kGE, and 8,544 bits of memory.

    Parameters
    ----------
    spec : ChannelsSpec

    Members
    -------
    request, response : the channels': reads, and their beats in order.
    channel_write, channel_data, channel_response : writes, with the number of their channel.
    read_request, read_data, write_request, write_data, write_response : the port, see
        :mod:`hw.contract`.
    """

    READ_LATENCY = 3
    ORDER = 16
    """Pieces under way, each way."""

    def __init__(self, spec: ChannelsSpec):
        if not isinstance(spec, ChannelsSpec):
            raise TypeError(f"spec must be a ChannelsSpec, not {spec!r}")
        self.spec = spec
        super().__init__({
            "request": In(stream.Signature(REQUEST)).array(spec.channels),
            "response": Out(stream.Signature(response(spec))).array(spec.channels),
            "channel_write": In(stream.Signature(channel_request(spec))),
            "channel_data": In(stream.Signature(write_beat(spec))),
            "channel_response": Out(stream.Signature(1)),
            **port(spec),
        })

    def elaborate(self, platform):
        m = Module()
        self._reads(m)
        self._writes(m)
        return m

    def _place(self, m: Module, name: str, channel: Value, beat: Value) -> Value:
        """Return the bus address of a beat; of one beyond 4 GB, that of the last below."""
        spec = self.spec
        low, size = log2(spec.stripe), log2(spec.memory_bytes)
        place = Cat(beat[:low], beat[low:] * spec.channels + channel)
        address = Signal(ADDRESS_BITS, name=f"{name}_address")
        m.d.comb += address.eq(Cat(Const(0, size), Mux(
            place[ADDRESS_BITS - size:].any(), ~Const(0, ADDRESS_BITS - size), place)))
        return address

    def _reads(self, m: Module) -> None:
        spec, layout = self.spec, piece(self.spec)
        m.submodules.arbiter = arbiter = Arbiter(shape=layout, inputs=spec.channels)
        m.submodules.order = order = Queue(depth=self.ORDER, shape=data.StructLayout({
            "channel": arbiter.o.payload.source.shape(), "beats": layout["beats"].shape}))
        asked, chosen, head = self.read_request, arbiter.o.payload, order.o.payload
        m.d.comb += [
            asked.valid.eq(arbiter.o.valid & order.i.ready),
            order.i.valid.eq(arbiter.o.valid & asked.ready),
            arbiter.o.ready.eq(order.i.ready & asked.ready),
            asked.payload.address.eq(self._place(m, "read", chosen.source, chosen.payload.beat)),
            asked.payload.beats.eq(chosen.payload.beats),
            order.i.payload.channel.eq(chosen.source),
            order.i.payload.beats.eq(chosen.payload.beats),
        ]

        came = Signal()
        count = Signal(layout["beats"].shape)  # beats of the piece at the head that came
        m.d.comb += [
            self.read_data.ready.eq(order.o.valid),
            came.eq(self.read_data.valid & order.o.valid),
            order.o.ready.eq(came & (count == head.beats - 1)),
        ]
        with m.If(came):
            m.d.sync += count.eq(Mux(order.o.ready, 0, count + 1))
        for n in range(spec.channels):
            m.submodules[f"cutter_{n}"] = cutter = Cutter(spec)
            m.submodules[f"beats_{n}"] = beats = Queue(shape=response(spec), depth=spec.depth)
            connect(m, flipped(self.request[n]), cutter.i)
            connect(m, beats.o, flipped(self.response[n]))
            room = Signal(range(spec.depth + 1), init=spec.depth, name=f"room_{n}")
            fits, offer = Signal(name=f"fits_{n}"), arbiter.i[n]
            m.d.comb += [
                fits.eq(cutter.o.payload.beats <= room),
                offer.valid.eq(cutter.o.valid & fits), offer.payload.eq(cutter.o.payload),
                cutter.o.ready.eq(offer.ready & fits),
                beats.i.valid.eq(came & (head.channel == n)),
                beats.i.payload.eq(self.read_data.payload),
            ]
            m.d.sync += room.eq(room - Mux(offer.valid & offer.ready, offer.payload.beats, 0)
                                + (beats.o.valid & beats.o.ready))

    def _writes(self, m: Module) -> None:
        spec, asked = self.spec, self.channel_write
        m.submodules.write_cutter = cutter = Cutter(spec)
        m.submodules.lengths = lengths = Queue(
            depth=self.ORDER, shape=data.StructLayout({"beats": piece(spec)["beats"].shape}))
        m.submodules.ends = ends = Queue(depth=self.ORDER, shape=1)
        channel = Signal(asked.payload.channel.shape(), reset_less=True)
        cut, room = cutter.o.payload, lengths.i.ready & ends.i.ready
        taken = Signal()
        m.d.comb += [
            cutter.i.valid.eq(asked.valid), asked.ready.eq(cutter.i.ready),
            cutter.i.payload.address.eq(asked.payload.address),
            cutter.i.payload.beats.eq(asked.payload.beats),
            self.write_request.valid.eq(cutter.o.valid & room),
            cutter.o.ready.eq(self.write_request.ready & room),
            self.write_request.payload.address.eq(self._place(m, "write", channel, cut.beat)),
            self.write_request.payload.beats.eq(cut.beats),
            taken.eq(cutter.o.valid & cutter.o.ready),
            lengths.i.valid.eq(taken), lengths.i.payload.beats.eq(cut.beats),
            ends.i.valid.eq(taken), ends.i.payload.eq(cut.end),
        ]
        with m.If(asked.ready):
            m.d.sync += channel.eq(asked.payload.channel)

        beat = Signal()
        count = Signal(cut.beats.shape())
        m.d.comb += [
            self.write_data.valid.eq(self.channel_data.valid & lengths.o.valid),
            self.channel_data.ready.eq(self.write_data.ready & lengths.o.valid),
            self.write_data.payload.data.eq(self.channel_data.payload.data),
            self.write_data.payload.last.eq(count == lengths.o.payload.beats - 1),
            beat.eq(self.write_data.valid & self.write_data.ready),
            lengths.o.ready.eq(beat & self.write_data.payload.last),
        ]
        with m.If(beat):
            m.d.sync += count.eq(Mux(lengths.o.ready, 0, count + 1))

        failed = Signal()
        answered = Signal()
        told, end = self.write_response, ends.o.payload
        m.d.comb += [
            self.channel_response.valid.eq(told.valid & ends.o.valid & end),
            self.channel_response.payload.eq(failed | told.payload),
            answered.eq(ends.o.valid & (~end | self.channel_response.ready)),
            told.ready.eq(answered), ends.o.ready.eq(answered & told.valid),
        ]
        with m.If(told.valid & told.ready):
            m.d.sync += failed.eq(~end & (failed | told.payload))


def port(spec: ChannelsSpec) -> dict[str, wiring.Member]:
    """Return the members of a core's one memory port."""
    return {
        "read_request": Out(stream.Signature(REQUEST)),
        "read_data": In(stream.Signature(response(spec))),
        "write_request": Out(stream.Signature(REQUEST)),
        "write_data": Out(stream.Signature(write_beat(spec))),
        "write_response": In(stream.Signature(1)),
    }


class Joined(wiring.Component):
    """A core with the ports of :class:`~hw.spatten.core.SpattenCore`, and a :class:`Joiner`.

    Parameters
    ----------
    core : the core; its ``spec`` has ``channels`` and ``memory_bytes``.
    channels : ChannelsSpec

    Members: those of a core for :class:`~hw.shell.chip.Chip`.
    """

    def __init__(self, core: Any, channels: ChannelsSpec):
        self.core = core
        self.spec = JoinedSpec(core=core.spec, channels=channels)
        super().__init__({
            "operation": In(stream.Signature(8 * DESCRIPTOR_BYTES)),
            "completion": Out(stream.Signature(COMPLETION)),
            "counters": Out(core.counters.shape()),
            **port(channels),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self.core
        m.submodules.join = join = Joiner(self.spec.channels)
        connect(m, flipped(self.operation), core.operation)
        connect(m, core.completion, flipped(self.completion))
        m.d.comb += self.counters.eq(core.counters)
        for n in range(self.spec.channels.channels):
            connect(m, core.request[n], join.request[n])
            connect(m, join.response[n], core.response[n])
        connect(m, core.write_request, join.channel_write)
        connect(m, core.write_data, join.channel_data)
        connect(m, join.channel_response, core.write_response)
        connect(m, join.read_request, flipped(self.read_request))
        connect(m, flipped(self.read_data), join.read_data)
        for name in ("write_request", "write_data"):
            connect(m, getattr(join, name), flipped(getattr(self, name)))
        connect(m, flipped(self.write_response), join.write_response)
        return m
