# SPDX-License-Identifier: Apache-2.0
"""What a channel asks of its memory: the walk through a job's keys, addresses, order, tags."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.arith.pipeline import pipeline
from hw.contract import REQUEST
from hw.spatten.layouts import bits, exponents, fetch, job, task, wanted
from hw.stream import Queue

TASKS = 32
"""Tasks whose values can wait for their fetch."""


class Kind(enum.Enum, shape=2):
    """What the beats of a request are."""

    QUERY = 0
    KEY = 1
    LOW = 2
    VALUE = 3


def tag(spec: SpattenSpec) -> data.StructLayout:
    """What the engine must know of a request when its beats come: ``final`` + 1 of them.

    ``none``: there is no request, and no beat; a KEY or LOW then is a job without keys. ``flush``:
    before it, a task ended. ``first`` and ``last`` are of the keys of a job, ``place`` is the row
    of the score memory. ``unit`` and ``add`` are those of the fetch and of the job, and are there
    with local memories only; ``narrow`` is where heads can share a vector.
    """
    encoder = bool(spec.local)
    return data.StructLayout({
        "kind": Kind, "none": 1, "flush": 1, "first": 1, "last": 1, "final": 3, "planes": 2,
        "half": 1, "narrow": spec.sharing - 1, "even": 1, "odd": 1, "add": 2 * encoder,
        "unit": 1 * encoder, "slot": bits(spec.pairs), "place": bits(spec.score_rows),
        "row": bits(spec.rows), "exponents": exponents(spec)})


class Requester(wiring.Component):
    """Turn jobs, tasks and fetches into requests, at most one per cycle, and tags.

    Fetches go first, then the keys of a job (a new one is a low job, if there is any), then
    values; but those go before keys while their queues are three quarters full, so that the row
    unit, on which keys wait, seldom waits for them. They do not go at all while ``hold``.
    What goes first and does not fit into ``spec.outstanding`` is waited for, so nothing starves. A
    job is taken from its queue in the cycle in which the last key of its predecessor is requested.
    Latency: 2 cycles from the choice to the request; its tag leaves with the choice.

    The end of a task goes as ``flush`` with the next tag, or with a tag of its own if nothing else
    is there to be requested, or only the end of another task: so it seldom costs the engine a
    cycle. It takes a cycle of the queue of values: with values of a beat each, and no jobs, as many
    cycles pass without a request as tasks end.

    Parameters
    ----------
    spec : SpattenSpec
    index : number of the channel; None: a port says it.

    Members
    -------
    job, tokens, fetch, task, wanted, request : see :class:`~hw.spatten.channel.Channel`.
    tag : ``Out(stream.Signature(tag(spec)))``; in the order of the requests.
    beat : ``In(1)``; a beat of a response was accepted.
    hold : ``In(1)``; sums of tasks wait to be taken.
    owing : ``Out(1)``; some were asked for that have not come.
    """

    def __init__(self, spec: SpattenSpec, index: int | None = 0):
        self._spec, self._index = spec, index
        super().__init__({
            **({"index": In(bits(spec.channels))} if index is None else {}),
            "job": In(stream.Signature(job(spec))),
            "tokens": In(spec.max_tokens),
            "fetch": In(stream.Signature(fetch(spec))),
            "task": In(stream.Signature(task(spec))),
            "wanted": In(stream.Signature(wanted(spec))),
            "request": Out(stream.Signature(REQUEST)),
            "tag": Out(stream.Signature(tag(spec))),
            "owing": Out(1),
            "beat": In(1),
            "hold": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        m.submodules.tasks = tasks = Queue(shape=task(spec), depth=TASKS)
        m.submodules.wanted = values = Queue(shape=wanted(spec), depth=spec.value_queue)
        wiring.connect(m, wiring.flipped(self.task), tasks.i)
        wiring.connect(m, wiring.flipped(self.wanted), values.i)

        # A request: who comes first, and whether it fits
        push = Signal()  # the tag is taken, and the request with it
        want = Signal()
        beats = Signal(3)
        operands = data.StructLayout(
            {"beat": 27, "stride": 16, "row": bits(spec.rows), "beats": 3})
        ask = stream.Signature(operands).create()
        out, own, value = self.tag.payload, values.o.payload, tasks.o.payload
        walk, key_done = self._walk(m)
        ended = Signal()  # the last tag that was not sent: a task has ended
        take_end = Signal()
        is_value = Signal()
        urgent = Signal()
        m.d.sync += urgent.eq((tasks.level >= 3 * TASKS // 4)
                              | (values.level >= 3 * spec.value_queue // 4))
        m.d.comb += [
            is_value.eq(values.o.valid & tasks.o.valid & ~own.end & ~self.hold),
            out.exponents.eq(own.exponents),
            out.flush.eq(ended),
            out.first.eq(walk.first),
            out.last.eq(walk.last),
            out.place.eq(walk.place),
            out.even.eq(walk.job.even),
            out.half.eq(walk.job.half),
            out.narrow.eq(walk.job.narrow),
            out.add.eq(walk.job.add),
            out.unit.eq(self.fetch.payload.unit),
        ]
        with m.If(self.fetch.valid):
            m.d.comb += [
                want.eq(1), out.kind.eq(Kind.QUERY), out.odd.eq(self.fetch.payload.odd),
                out.slot.eq(self.fetch.payload.slot), beats.eq(spec.vector_beats),
                ask.payload.beat.eq(self.fetch.payload.beat), self.fetch.ready.eq(push),
            ]
        with m.Elif(walk.active & ~(urgent & is_value)):
            both = walk.job.even & walk.job.odd
            if spec.sharing > 1:
                both &= ~walk.job.narrow
            m.d.comb += [
                want.eq(1), out.kind.eq(Mux(walk.job.low, Kind.LOW, Kind.KEY)),
                out.none.eq(walk.none), out.odd.eq(walk.job.odd), out.slot.eq(walk.job.slot),
                out.planes.eq(walk.job.planes), out.row.eq(walk.row),
                beats.eq(Mux(walk.job.low, 1, (walk.job.planes << both) + walk.job.half)),
                ask.payload.beat.eq(walk.job.beat), ask.payload.stride.eq(walk.job.stride),
                key_done.eq(push),
            ]
        with m.Else():
            m.d.comb += [
                want.eq(is_value | ended), out.kind.eq(Kind.VALUE), out.none.eq(~is_value),
                out.planes.eq(value.planes), out.row.eq(own.row), beats.eq(value.planes),
                ask.payload.beat.eq(value.beat), ask.payload.stride.eq(value.stride),
            ]
            with m.If(is_value):
                m.d.comb += values.o.ready.eq(push)
        with m.If(take_end):
            m.d.comb += [values.o.ready.eq(1), tasks.o.ready.eq(1)]
        m.d.comb += take_end.eq(values.o.valid & tasks.o.valid & own.end & ~self.hold
                                 & (~ended | push))
        m.d.sync += ended.eq(take_end | ended & ~push)

        owed = Signal(range(spec.outstanding + 1))
        fits = Signal()
        m.d.comb += [
            fits.eq(out.none | ask.ready & (owed + beats <= spec.outstanding)),
            self.tag.valid.eq(want & fits),
            push.eq(self.tag.valid & self.tag.ready),
            ask.valid.eq(push & ~out.none),
            ask.payload.row.eq(Mux(out.kind == Kind.QUERY, 0, out.row)),
            ask.payload.beats.eq(beats),
            out.final.eq(beats - 1),
        ]
        m.d.comb += self.owing.eq(owed != 0)
        m.d.sync += owed.eq(owed + Mux(ask.valid, beats, 0) - self.beat)

        advance = pipeline(m, ask, self.request, 2)
        now = Signal(operands, reset_less=True)
        request = Signal(REQUEST, reset_less=True)
        m.d.comb += self.request.payload.eq(request)
        with m.If(advance):
            m.d.sync += [
                now.eq(ask.payload),
                request.address.eq((now.beat + now.row * now.stride) * spec.memory_bytes),
                request.beats.eq(now.beats),
            ]
        return m

    def _walk(self, m: Module):
        """Walk through the lane's tokens; return the key to be requested, and when it was."""
        spec = self._spec
        layout = job(spec)
        m.submodules.normal = normal = Queue(shape=layout, depth=spec.pairs)
        m.submodules.low = low = Queue(shape=layout, depth=spec.low_jobs)
        room = Signal()
        m.d.comb += [
            room.eq(normal.i.ready & low.i.ready),
            self.job.ready.eq(room),
            normal.i.valid.eq(self.job.valid & room & ~self.job.payload.low),
            low.i.valid.eq(self.job.valid & room & self.job.payload.low),
            normal.i.payload.eq(self.job.payload),
            low.i.payload.eq(self.job.payload),
        ]
        done = Signal()  # this key is requested
        load = Signal()  # the next job is taken
        chosen = Signal(layout)
        walk = Signal(data.StructLayout({
            "active": 1, "job": layout, "first": 1, "last": 1, "none": 1,
            "row": bits(spec.rows), "place": bits(spec.score_rows)}))
        active = Signal()
        first = Signal(reset_less=True)
        now = Signal(layout, reset_less=True)
        column = Signal(spec.rows, reset_less=True)  # keys that are left
        lowest = Signal(spec.rows)
        rest = Signal(spec.rows)
        m.d.comb += [
            lowest.eq(column & -column),
            rest.eq(column & ~lowest),
            walk.active.eq(active),
            walk.job.eq(now),
            walk.first.eq(first),
            walk.place.eq(now.base),
            walk.last.eq(~rest.any()),
            walk.none.eq(~column.any()),
            walk.row.eq(Cat(
                Cat(lowest[i] for i in range(spec.rows) if i >> n & 1).any()
                for n in range(bits(spec.rows)))),
            load.eq((~active | done & walk.last) & (normal.o.valid | low.o.valid)),
            low.o.ready.eq(load),
            normal.o.ready.eq(load & ~low.o.valid),
            Value.cast(chosen).eq(Mux(low.o.valid, low.o.payload, normal.o.payload)),
        ]
        with m.If(load):
            m.d.sync += [active.eq(1), now.eq(chosen), first.eq(1),
                         column.eq(self._column(m, chosen))]
        with m.Elif(done):
            m.d.sync += [active.eq(~walk.last), first.eq(0), column.eq(rest),
                         now.base.eq(now.base + 1)]
        return walk, done

    def _column(self, m: Module, chosen) -> Value:
        """Return which rows of this channel's lane hold keys of a job."""
        spec, c = self._spec, self._spec.channels
        places, index = (c - 1).bit_length(), self.index if self._index is None else self._index
        lane = Signal(bits(c))
        count = Signal(range(spec.rows + 1))
        left = Array(Cat(self.tokens[n::c]) for n in range(c))
        m.d.comb += [
            lane.eq((index - chosen.turn)[:places] if places else Const(0)),
            count.eq(chosen.tokens + (c - 1) - lane >> places),
        ]
        return Mux(chosen.dense, Cat(n < count for n in range(spec.rows)), left[lane])
