# SPDX-License-Identifier: Apache-2.0
"""The SpAtten core: channels with their engines, and what ties them together."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.operation import DESCRIPTOR_BYTES
from golden.spatten.spec import SpattenSpec
from hw.contract import COMPLETION, COUNTER_BITS, REQUEST, response, write_beat
from hw.share import shared
from hw.spatten.channel import Channel
from hw.spatten.dispatch import Dispatcher
from hw.spatten.encoder import Encoder
from hw.spatten.layouts import fetched, write_request
from hw.spatten.local import LocalMemory, WriteRouter
from hw.spatten.output import OutputUnit
from hw.spatten.prune import PruneUnit
from hw.spatten.rows import RowUnit
from hw.stream import Arbiter

COUNTERS = ("cycles", "active", "beats_read", "beats_written", "owed", "free", "additions", "local")
"""Free-running counters: cycles; those with an operation under way; beats that came from outside,
of all channels, and that went there. Of the channels' active cycles, so ``active * channels``, each
is one of ``beats_read``, ``local`` (a beat came from the local memory), ``owed`` (none came, but
some were asked for), ``free`` (none was asked for). ``additions`` are rows of probabilities that
were added to the importance."""


def either(m: Module, name: str, second: Value, one: Any, other: Any) -> Any:
    """Return a stream that is ``other`` under ``second``, else ``one``; both are outputs."""
    chosen: Any = stream.Signature(one.payload.shape()).create(path=(name,))
    m.d.comb += [
        chosen.valid.eq(Mux(second, other.valid, one.valid)), chosen.payload.eq(one.payload),
        one.ready.eq(chosen.ready & ~second), other.ready.eq(chosen.ready & second),
    ]
    with m.If(second):
        m.d.comb += chosen.payload.eq(other.payload)
    return chosen


def either_way(m: Module, second: Value, source: Any, one: Any, other: Any) -> None:
    """Bring a stream to ``other`` under ``second``, else to ``one``."""
    m.d.comb += [
        one.valid.eq(source.valid & ~second), one.payload.eq(source.payload),
        other.valid.eq(source.valid & second), other.payload.eq(source.payload),
        source.ready.eq(Mux(second, other.ready, one.ready)),
    ]


class SpattenCore(wiring.Component):
    """Execute programs of SpAtten operations, as :class:`golden.spatten.emulator.Emulator` does.

    ::

        operation -> Dispatcher --jobs--> Channels --scores--> RowUnit --values--> Channels
                         ^  queries <--^   |  ^ tokens            |                    |
                         |                 |  +--- PruneUnit <----+ probabilities      | parts
        completion <-----+                 |          ^ |outputs|                      v
                         memory channels <-+          +----------------------- OutputUnit -> memory

    With local memories, one lies between each channel and its memory outside; an
    :class:`~hw.spatten.encoder.Encoder` gives jobs and fetches in place of the dispatcher, and
    takes scores in place of the row unit, while it executes LINEAR, NORM and LOAD; and writes go to
    the local memories or outside.

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
        channels = [Channel(spec, None) for _ in range(spec.channels)]
        for index, channel in enumerate(channels):
            m.submodules[f"channel_{index}"] = shared(channel, "channel")
            m.d.comb += channel.index.eq(index)

        connect(m, flipped(self.operation), dispatcher.operation)
        connect(m, dispatcher.completion, flipped(self.completion))
        connect(m, dispatcher.pair, rows.pair)
        connect(m, dispatcher.prune, prune.op)
        connect(m, output.done, dispatcher.done)
        connect(m, rows.result, output.result)
        m.d.comb += [
            dispatcher.heads.eq(prune.heads), dispatcher.pruned.eq(prune.pruned),
            dispatcher.tokens.eq(prune.tokens),
            dispatcher.rows.eq(prune.rows), dispatcher.pruned_now.eq(prune.done),
            dispatcher.clearing.eq(prune.busy), prune.clear.eq(dispatcher.clear),
            dispatcher.release.eq(rows.released), dispatcher.adding.eq(rows.adding),
            output.drop.eq(dispatcher.drop),
        ]
        connect(m, rows.addition, prune.addition)
        connect(m, output.head, prune.head)

        # Who gives jobs and fetches, takes scores, and writes
        encoder, memories, encoding = None, [], Signal()
        fetch, fetch_channel, job = dispatcher.fetch, dispatcher.fetch_channel, dispatcher.job
        scored = list(rows.scored)
        if spec.local:
            m.submodules.encoder = encoder = Encoder(spec)
            memories = [LocalMemory(spec) for _ in channels]
            self._encoder(m, encoder, dispatcher, prune, queries, memories)
            self._writes(m, encoding, output, encoder, memories)
            m.d.comb += encoding.eq(encoder.busy)
            fetch_channel = Mux(encoding, encoder.fetch_channel, fetch_channel)
            fetch = either(m, "fetch", encoding, fetch, encoder.fetch)
            job = either(m, "job", encoding, job, encoder.job)
        else:
            connect(m, output.write_request, flipped(self.write_request))
            connect(m, output.write_data, flipped(self.write_data))
            connect(m, flipped(self.write_response), output.write_response)

        # Jobs for all channels: those of the row unit first, which a pair waits for
        low = Signal()
        take = Signal()
        m.d.comb += [
            low.eq(rows.low.valid),
            take.eq(Cat(channel.job.ready for channel in channels).all()),
            rows.low.ready.eq(take), job.ready.eq(take & ~low),
        ]
        there = take & (low | job.valid)
        given = Cat(channel.task.ready for channel in channels).all()
        m.d.comb += rows.task.ready.eq(given)
        for index, channel in enumerate(channels):
            m.d.comb += [
                channel.job.valid.eq(there), channel.job.payload.eq(job.payload),
                channel.task.valid.eq(rows.task.valid & given),
                channel.task.payload.eq(rows.task.payload),
                channel.tokens.eq(prune.tokens),
                channel.fetch.valid.eq(fetch.valid & (fetch_channel == index)),
                channel.fetch.payload.eq(fetch.payload),
                channel.query.valid.eq(queries.o.valid),
                channel.query.payload.eq(queries.o.payload.payload),
                channel.read_enable.eq(rows.read_enable),
                channel.read_address.eq(rows.read_address),
                rows.read_data[index].eq(channel.read_data),
            ]
            with m.If(low):
                m.d.comb += channel.job.payload.eq(rows.low.payload)
            with m.If(fetch_channel == index):
                m.d.comb += fetch.ready.eq(channel.fetch.ready)
            if encoder:
                with m.If(encoding):
                    m.d.comb += [channel.read_enable.eq(encoder.read_enable),
                                 channel.read_address.eq(encoder.read_address)]
                m.d.comb += encoder.read_data[index].eq(channel.read_data)
                either_way(m, encoding, channel.scored, scored[index], encoder.scored[index])
                memory = memories[index]
                m.submodules[f"local_{index}"] = shared(memory, "local")
                connect(m, channel.request, memory.request)
                connect(m, memory.response, channel.response)
                connect(m, memory.outer_request, flipped(self.request[index]))
                connect(m, flipped(self.response[index]), memory.outer_response)
            else:
                connect(m, channel.scored, scored[index])
                connect(m, channel.request, flipped(self.request[index]))
                connect(m, flipped(self.response[index]), channel.response)
            connect(m, channel.fetched, queries.i[index])
            connect(m, channel.scored_low, rows.scored_low[index])
            connect(m, rows.wanted[index], channel.wanted)
            connect(m, channel.part, output.part[index])
        m.d.comb += [
            queries.o.ready.eq(1),
            dispatcher.fetched.eq(queries.o.valid & ~encoding),
            dispatcher.fetched_slot.eq(queries.o.payload.payload.slot),
            dispatcher.fetched_error.eq(queries.o.payload.payload.error),
        ]
        self._count(m, dispatcher, channels, memories, rows)
        return m

    def _encoder(self, m, encoder, dispatcher, prune, queries, memories):
        """Tie the encoder to all but the channels and the writes."""
        connect(m, dispatcher.encode, encoder.op)
        connect(m, encoder.done, dispatcher.encoded)
        loaded = Signal()  # all can take a load
        m.d.comb += [
            encoder.heads.eq(prune.heads), encoder.pruned.eq(prune.pruned),
            encoder.tokens.eq(prune.tokens),
            prune.load.valid.eq(encoder.importance.valid),
            prune.load.token.eq(encoder.importance.token),
            prune.load.amount.eq(encoder.importance.amount),
            encoder.fetched.valid.eq(queries.o.valid),
            encoder.fetched.payload.eq(queries.o.payload.payload),
            loaded.eq(Cat(memory.load.ready for memory in memories).all()),
            encoder.load.ready.eq(loaded),
        ]
        if self.spec.fuse:
            m.d.comb += [
                encoder.gone.eq(prune.gone), prune.back.valid.eq(encoder.back.valid),
                prune.back.token.eq(encoder.back.token)]
            connect(m, encoder.weigh, prune.weigh)
        for index, memory in enumerate(memories):
            m.d.comb += [memory.load.valid.eq(encoder.load.valid & loaded),
                         memory.load.payload.eq(encoder.load.payload)]
            connect(m, memory.loaded, encoder.loaded[index])

    def _writes(self, m, encoding, output, encoder, memories):
        """Bring the writes of the output unit and of the encoder to where they belong."""
        m.submodules.router = router = WriteRouter(self.spec)
        request = either(m, "either_request", encoding, output.write_request,
                         encoder.write_request)
        beat = either(m, "either_data", encoding, output.write_data, encoder.write_data)
        either_way(m, encoding, router.response, output.write_response, encoder.write_response)
        for mine, its in ((request, router.request), (beat, router.data)):
            m.d.comb += [its.valid.eq(mine.valid), its.payload.eq(mine.payload),
                         mine.ready.eq(its.ready)]
        connect(m, router.outer_request, flipped(self.write_request))
        connect(m, router.outer_data, flipped(self.write_data))
        connect(m, flipped(self.write_response), router.outer_response)
        for index, memory in enumerate(memories):
            connect(m, router.write[index], memory.write)

    def _count(self, m, dispatcher, channels, memories, rows):
        active = Signal()
        came, local, free = (Signal(range(self.spec.channels + 1), name=name)
                             for name in ("came", "came_local", "free"))
        outer = [response.valid & response.ready for response in self.response]
        inner = [channel.beat & ~beat for channel, beat in zip(channels, outer) if memories]
        loading = [memory.loading for memory in memories] or [0] * len(channels)
        m.d.sync += [
            active.eq(dispatcher.active),
            came.eq(sum(outer)),
            local.eq(sum(inner)),
            free.eq(sum(~(channel.beat | beat | channel.owing | load) & dispatcher.active
                        for channel, beat, load in zip(channels, outer, loading))),
        ]
        wrote = self.write_data.valid & self.write_data.ready
        steps = {"cycles": 1, "active": active, "beats_read": came, "beats_written": wrote,
                 "free": free, "additions": rows.addition.valid, "local": local}
        m.d.comb += self.counters.owed.eq(
            self.counters.active * self.spec.channels - self.counters.beats_read
            - self.counters.local - self.counters.free)
        for name, step in steps.items():
            m.d.sync += self.counters[name].eq(self.counters[name] + step)
