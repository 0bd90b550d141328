# SPDX-License-Identifier: Apache-2.0
"""Linear layers on the engines of the SpAtten core: LINEAR."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.spatten.spec import SpattenSpec
from hw.arith.table import Table
from hw.spatten.collect import Collector
from hw.spatten.dispatch import OPERATION
from hw.spatten.feed import ADDRESSES, Feeder, place
from hw.spatten.layouts import (
    bits,
    destination,
    fetch,
    fetched,
    job,
    numbers,
    score,
    scored,
    vector_at,
    vector_beat,
)
from hw.spatten.walk import Walk
from hw.stream import Queue


class Linear(wiring.Component):
    """Multiply the vectors of tokens by a matrix whose rows lie in memory as keys do.

    ::

        op --> Walk --> Feeder --> fetch, job ~~> scored --> Collector --> o
                          |                                     ^
                          +--> vectors of outputs --> request ~~> residual
                                      +-------------------------------------> vector

    Output ``n`` is a key of 8 bits in channel ``n mod channels``, row ``n div channels``; pairs of
    input vectors are pairs of heads, whose products add up in the score memories. Inputs are
    fetched ``spec.pairs`` pairs ahead, and the rows of one token are collected while those of the
    next are computed.

    An operation without a token or an input, ``by_head`` and no head left, does nothing. After an
    error it goes on; what it wrote is undefined.

    Throughput: a token takes the longer of ``rows * beats`` cycles of the engines, 4 beats for each
    pair of inputs and 2 for a single one, and ``rows * channels / linear_lanes`` of the collector,
    with ``rows = outputs * lanes / channels``. Before the first pass some 25 cycles, behind the
    last those that collect it, and 10. Where fewer than three tokens fit into ``score_rows``, the
    engines wait some 7 cycles for the collector at each.

    ==================================  ======  =========  ===========
    area                                 kGE    registers  memory bits
    ==================================  ======  =========  ===========
    ``paper``: 4 outputs at a time      45.53   8.28            34,302
    ``paper-1/8``: 2                    29.53   6.41            17,861
    ``tiny``: 1                         15.85   4.29             8,467
    ==================================  ======  =========  ===========

    Of the first, 18.5 kGE are the requantisers, 12 the rest of the collector, 4 the walk.

    Parameters
    ----------
    spec : SpattenSpec
        With local memories.

    Members
    -------
    op : ``In(stream.Signature(OPERATION))``
        A LINEAR. It begins when it is offered, and is taken with ``finished``.
    heads, pruned, tokens : ``In(spec.max_heads)``, ``In(1)``, ``In(spec.max_tokens)``
        What PRUNE left. Constant during an operation.
    fetch, fetch_channel : ``Out(stream.Signature(fetch(spec)))``, ``Out(bits(channels))``
        Inputs, please, and from which channel.
    fetched : ``In(Signature({"valid": Out(1), "payload": Out(fetched(spec))}))``
        What all channels get; beats for ``unit`` are not looked at.
    job : ``Out(stream.Signature(job(spec)))``
        For all channels.
    scored : ``In(stream.Signature(scored(spec))).array(channels)``
        Taken from all channels together.
    read_enable : ``Out(1)``, read_address : ``Out(range(score_rows))``
    read_data : ``In(ArrayLayout(score(spec), channels))``
        The score memories, a cycle after their address, and until the next.
    constant_enable, constant_address : ``Out``, constant_data : ``In(8 * memory_bytes)``
        The memory of constants, likewise.
    load : ``In(stream.Signature(Table.load_shape(spec.activation.table_spec)))``
        The activation's table, ``memory_bytes`` entries at a time; always ready.
    request : ``Out(stream.Signature(vector_at(spec)))``
    residual : ``In(stream.Signature(vector_beat(spec)))``
        Vectors, please, and their beats.
    vector : ``Out(stream.Signature(destination(spec)))``
    o : ``Out(stream.Signature(numbers(spec)))``
        Where vectors go, ahead of their numbers, ``vector_beats`` beats each.
    finished : ``Out(stream.Signature(1))``
        All vectors and numbers of the operation were taken; 1: there was an error.
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "op": In(stream.Signature(OPERATION)),
            "heads": In(spec.max_heads),
            "pruned": In(1),
            "tokens": In(spec.max_tokens),
            "fetch": Out(stream.Signature(fetch(spec))),
            "fetch_channel": Out(bits(spec.channels)),
            "fetched": In(wiring.Signature({"valid": Out(1), "payload": Out(fetched(spec))})),
            "job": Out(stream.Signature(job(spec))),
            "scored": In(stream.Signature(scored(spec))).array(spec.channels),
            "read_enable": Out(1),
            "read_address": Out(bits(spec.score_rows)),
            "read_data": In(data.ArrayLayout(score(spec), spec.channels)),
            "constant_enable": Out(1),
            "constant_address": Out(bits(spec.constant_words)),
            "constant_data": In(8 * spec.memory_bytes),
            "load": In(stream.Signature(Table.load_shape(spec.activation.table_spec))),
            "request": Out(stream.Signature(vector_at(spec))),
            "residual": In(stream.Signature(vector_beat(spec))),
            "vector": Out(stream.Signature(destination(spec))),
            "o": Out(stream.Signature(numbers(spec))),
            "finished": Out(stream.Signature(1)),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, op = self._spec, self.op.payload
        m.submodules.walk = walk = Walk(spec, len(ADDRESSES))
        m.submodules.feed = feed = Feeder(spec)
        m.submodules.collect = collect = Collector(spec)
        m.submodules.places = places = Queue(shape=place(spec), depth=spec.pairs + 3)
        m.submodules.vectors = vectors = Queue(shape=destination(spec), depth=spec.pairs)
        connect(m, walk.o, feed.token)
        connect(m, feed.place, places.i)
        connect(m, feed.o, collect.token)
        for part, names in ((feed, ("fetch", "fetched", "job")),
                            (collect, ("load", "residual", "o"))):
            for name in names:
                connect(m, flipped(getattr(self, name)), getattr(part, name))
        for mine, its in zip(self.scored, feed.scored):
            connect(m, flipped(mine), its)
        connect(m, vectors.o, flipped(self.vector))

        inputs = Signal(spec.MAX_INPUTS)
        enable = Signal()
        for n in range(spec.MAX_INPUTS):
            left = self.heads[n] if n < spec.max_heads else 0
            either = self.heads[2 * n:2 * n + 2].any() if n < spec.max_heads // 2 else 0
            m.d.comb += inputs[n].eq((op.inputs > n)
                                      & (~op.by_head | Mux(op.narrow, either, left)))
        m.d.comb += [
            walk.tokens.eq(op.tokens), walk.dense.eq(op.dense), walk.pruned.eq(self.pruned),
            walk.mask.eq(self.tokens),
            *(walk.base[n].eq(op[name]) for n, name in enumerate(ADDRESSES)),
            *(walk.stride[n].eq(op[f"{name}_stride"]) for n, name in enumerate(ADDRESSES)),
            feed.op.eq(op), feed.inputs.eq(inputs), feed.enable.eq(enable),
            feed.freed.eq(collect.freed), self.fetch_channel.eq(feed.fetch_channel),
            collect.op.eq(op),
            collect.parities.eq(Cat(inputs[n::2].any() for n in range(2))),
            self.read_enable.eq(collect.read_enable), self.read_address.eq(collect.read_address),
            collect.read_data.eq(self.read_data),
            self.constant_enable.eq(collect.constant_enable),
            self.constant_address.eq(collect.constant_address),
            collect.constant_data.eq(self.constant_data),
        ]
        self._place(m, places.o, vectors.i)

        error = Signal()
        m.d.comb += self.finished.payload.eq(error)
        with m.If(feed.error | collect.error):
            m.d.sync += error.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += error.eq(0)
                with m.If(self.op.valid):
                    m.d.comb += walk.start.eq(inputs.any())
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += enable.eq(1)
                # the last vector is in its queue long before its numbers are known
                with m.If(~(walk.busy | feed.busy | collect.busy | vectors.o.valid)):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += [self.finished.valid.eq(1), self.op.ready.eq(self.finished.ready)]
                with m.If(self.finished.ready):
                    m.next = "IDLE"
        return m

    def _place(self, m: Module, places: Any, vectors: Any) -> None:
        """Say where the vectors of each token go, and ask for what lies there."""
        spec, op, o = self._spec, self.op.payload, vectors.payload
        active = Signal()
        asked = Signal()
        at: Any = Signal(place(spec), reset_less=True)
        number = Signal(range(spec.max_tokens // spec.lanes + 1))
        m.d.comb += [
            places.ready.eq(~active),
            self.request.valid.eq(active & op.residual & ~asked),
            self.request.payload.channel.eq(at.channel), self.request.payload.beat.eq(at.beat),
            vectors.valid.eq(active & (asked | ~op.residual)),
            o.channel.eq(at.channel), o.beat.eq(at.beat), o.low.eq(at.low),
            o.planes.eq(Mux(op.planes, op.value_planes, 0)),
        ]
        with m.If(~active):
            m.d.sync += [active.eq(places.valid), at.eq(places.payload), number.eq(0),
                         at.channel.eq(places.payload.channel + op.rotation & spec.channels - 1)]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += asked.eq(1)
        with m.If(vectors.valid & vectors.ready):
            m.d.sync += [
                asked.eq(0), number.eq(number + 1), active.eq(number + 1 != op.outputs),
                at.channel.eq(at.channel + number[0] & spec.channels - 1),
                at.low.eq(at.low + op.low_step),
                at.beat.eq(at.beat + Mux(op.planes, op.output_step, spec.vector_beats)),
            ]
