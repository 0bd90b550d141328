# SPDX-License-Identifier: Apache-2.0
"""The SpAtten core: channels with their engines, and what ties them together."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.operation import DESCRIPTOR_BYTES
from golden.spatten.spec import SpattenSpec
from hw.contract import COMPLETION, COUNTER_BITS, REQUEST, response, write_beat
from hw.spatten.channel import Channel
from hw.spatten.dispatch import Dispatcher
from hw.spatten.layouts import fetched, write_request
from hw.spatten.output import OutputUnit
from hw.spatten.prune import PruneUnit
from hw.spatten.rows import RowUnit
from hw.stream import Arbiter

COUNTERS = ("cycles", "active", "beats_read", "beats_written", "owed", "free", "additions")
"""Free-running counters: cycles; those with an operation under way; beats that came, of all
channels, and that left. Of the channels' active cycles, so ``active * channels``, each is one of
``beats_read``, ``owed`` (none came, but some were asked for), ``free`` (none was asked for).
``additions`` are rows of probabilities that were added to the importance."""


class SpattenCore(wiring.Component):
    """Execute programs of SpAtten operations, as :class:`golden.spatten.emulator.Emulator` does.

    ::

        operation -> Dispatcher --jobs--> Channels --scores--> RowUnit --values--> Channels
                         ^  queries <--^   |  ^ tokens            |                    |
                         |                 |  +--- PruneUnit <----+ probabilities      | parts
        completion <-----+                 |          ^ |outputs|                      v
                         memory channels <-+          +----------------------- OutputUnit -> memory

    Members
    -------
    operation : ``In(stream.Signature(512))``
        Descriptors, see :data:`golden.spatten.operation.LAYOUT`.
    completion : ``Out(stream.Signature(COMPLETION))``
        Tag and status of each operation, in order.
    request, response : of each channel: requests for consecutive beats, and the beats, in order.
    write_request, write_data, write_response : writes, and a response (1: error) to each request.
    counters : ``Out(StructLayout)`` of 40-bit counters, see :data:`COUNTERS`.

    Source: see :mod:`golden.spatten`.
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self.spec = spec
        super().__init__({
            "operation": In(stream.Signature(8 * DESCRIPTOR_BYTES)),
            "completion": Out(stream.Signature(COMPLETION)),
            "request": Out(stream.Signature(REQUEST)).array(spec.channels),
            "response": In(stream.Signature(response(spec))).array(spec.channels),
            "write_request": Out(stream.Signature(write_request(spec))),
            "write_data": Out(stream.Signature(write_beat(spec))),
            "write_response": In(stream.Signature(1)),
            "counters": Out(data.StructLayout({name: COUNTER_BITS for name in COUNTERS})),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        m.submodules.dispatcher = dispatcher = Dispatcher(spec)
        m.submodules.rows = rows = RowUnit(spec)
        m.submodules.output = output = OutputUnit(spec)
        m.submodules.prune = prune = PruneUnit(spec)
        m.submodules.queries = queries = Arbiter(shape=fetched(spec), inputs=spec.channels)
        channels = [Channel(spec, index) for index in range(spec.channels)]
        for index, channel in enumerate(channels):
            m.submodules[f"channel_{index}"] = channel

        connect(m, flipped(self.operation), dispatcher.operation)
        connect(m, dispatcher.completion, flipped(self.completion))
        connect(m, dispatcher.pair, rows.pair)
        connect(m, dispatcher.prune, prune.op)
        connect(m, output.done, dispatcher.done)
        connect(m, rows.result, output.result)
        connect(m, output.write_request, flipped(self.write_request))
        connect(m, output.write_data, flipped(self.write_data))
        connect(m, flipped(self.write_response), output.write_response)
        m.d.comb += [
            dispatcher.heads.eq(prune.heads), dispatcher.pruned.eq(prune.pruned),
            dispatcher.rows.eq(prune.rows), dispatcher.pruned_now.eq(prune.done),
            dispatcher.clearing.eq(prune.busy), prune.clear.eq(dispatcher.clear),
            dispatcher.release.eq(rows.released), dispatcher.adding.eq(rows.adding),
            output.drop.eq(dispatcher.drop),
        ]
        connect(m, rows.addition, prune.addition)
        connect(m, output.head, prune.head)

        # Jobs for all channels: those of the row unit first, which a pair waits for
        low = Signal()
        take = Signal()
        m.d.comb += [
            low.eq(rows.low.valid),
            take.eq(Cat(channel.job.ready for channel in channels).all()),
            rows.low.ready.eq(take), dispatcher.job.ready.eq(take & ~low),
        ]
        there = take & (low | dispatcher.job.valid)
        given = Cat(channel.task.ready for channel in channels).all()
        m.d.comb += rows.task.ready.eq(given)
        for index, channel in enumerate(channels):
            m.d.comb += [
                channel.job.valid.eq(there), channel.job.payload.eq(dispatcher.job.payload),
                channel.task.valid.eq(rows.task.valid & given),
                channel.task.payload.eq(rows.task.payload),
                channel.tokens.eq(prune.tokens),
                channel.fetch.valid.eq(dispatcher.fetch.valid
                                       & (dispatcher.fetch_channel == index)),
                channel.fetch.payload.eq(dispatcher.fetch.payload),
                channel.query.valid.eq(queries.o.valid),
                channel.query.payload.eq(queries.o.payload.payload),
                channel.read_enable.eq(rows.read_enable),
                channel.read_address.eq(rows.read_address),
                rows.read_data[index].eq(channel.read_data),
            ]
            with m.If(low):
                m.d.comb += channel.job.payload.eq(rows.low.payload)
            with m.If(dispatcher.fetch_channel == index):
                m.d.comb += dispatcher.fetch.ready.eq(channel.fetch.ready)
            connect(m, channel.request, flipped(self.request[index]))
            connect(m, flipped(self.response[index]), channel.response)
            connect(m, channel.fetched, queries.i[index])
            connect(m, channel.scored, rows.scored[index])
            connect(m, channel.scored_low, rows.scored_low[index])
            connect(m, rows.wanted[index], channel.wanted)
            connect(m, channel.part, output.part[index])
        m.d.comb += [
            queries.o.ready.eq(1),
            dispatcher.fetched.eq(queries.o.valid),
            dispatcher.fetched_slot.eq(queries.o.payload.payload.slot),
            dispatcher.fetched_error.eq(queries.o.payload.payload.error),
        ]
        self._count(m, dispatcher, channels, rows)
        return m

    def _count(self, m, dispatcher, channels, rows):
        active = Signal()
        came = Signal(range(self.spec.channels + 1))
        free = Signal.like(came)
        m.d.sync += [
            active.eq(dispatcher.active),
            came.eq(sum(channel.beat for channel in channels)),
            free.eq(sum(~channel.beat & ~channel.owing & dispatcher.active
                        for channel in channels)),
        ]
        wrote = self.write_data.valid & self.write_data.ready
        steps = {"cycles": 1, "active": active, "beats_read": came, "beats_written": wrote,
                 "free": free, "additions": rows.addition.valid}
        m.d.comb += self.counters.owed.eq(
            self.counters.active * self.spec.channels - self.counters.beats_read
            - self.counters.free)
        for name, step in steps.items():
            m.d.sync += self.counters[name].eq(self.counters[name] + step)
