# SPDX-License-Identifier: Apache-2.0
"""A memory channel of the SpAtten core, and the engine behind it."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.spatten.spec import SpattenSpec
from golden.validate import integer
from hw.contract import REQUEST, response
from hw.spatten.engine import Engine
from hw.spatten.layouts import (
    bits,
    fetch,
    fetched,
    job,
    part,
    score,
    scored,
    task,
    wanted,
)
from hw.spatten.request import Requester, tag
from hw.stream import Queue


class Channel(wiring.Component):
    """Fetch keys, values and queries from one memory; compute on them as fast as they come.

    A beat per cycle, of whatever kind, as long as results are taken, and beats are owed to cover
    the memory's latency: ``spec.outstanding`` less 6, the beats of the longest key. A cycle without
    a beat is lost where a job has no key here, and where a task without values ends while there is
    no job; with pairs of heads of 6 bits and 7 keys each, two at a time, and their values of 8
    bits, 95 to 97 of 100 accept a beat. Key and value beats that are accepted never wait: results
    have their place before.

    Latencies, nothing being in the way: ``REQUEST_LATENCY`` cycles from a job to its first request,
    ``SCORE_LATENCY`` from the last beat of a job to its end in ``scored`` (and a cycle less to the
    score in the memory), ``PART_LATENCY`` from the last beat of a task to its sums.

    =============================  =====
    area, ``paper`` preset           kGE
    =============================  =====
    64 lanes of values              43.2
    two trees of 64 products        19.0
    rest of the engine              12.7
    requests                         8.4
    tags                             0.8
    whole, flattened                80.9
    =============================  =====

    14.7 of it are registers; 59,504 bits of memory lie beside it.

    Scores are less than products of vectors by a constant that no distance shows: see
    :class:`~hw.spatten.engine.Engine`.

    Parameters
    ----------
    spec : SpattenSpec
    index : number of the channel, below ``spec.channels``; None: the port ``index`` says it.

    Members
    -------
    job : ``In(stream.Signature(job(spec)))``
        The same for all channels; this one has lane ``(index - turn) mod channels`` of it. The
        queries of a job must be here before.
    tokens : ``In(spec.max_tokens)``
        The tokens that are left; stable while a job is here that is not ``dense``.
    fetch : ``In(stream.Signature(fetch(spec)))``
    fetched : ``Out(stream.Signature(fetched(spec)))``
        ``fetched.ready`` reaches ``response.ready`` combinationally.
    query : ``In(Signature({"valid": Out(1), "payload": Out(fetched(spec))}))``
        A beat for the query memory; always accepted.
    request : ``Out(stream.Signature(REQUEST))``
    response : ``In(stream.Signature(response(spec)))``
        Beats in the order of the requests.
    scored, scored_low : ``Out(stream.Signature(scored(spec)))``
        Ends of jobs, in the order of the jobs. There is room for ``spec.pairs`` normal ones and
        twice as many low ones: what so many pairs can have.
    read_enable, read_address, read_data : read port of the score memory; data the cycle after.
    task : ``In(stream.Signature(task(spec)))``
    wanted : ``In(stream.Signature(wanted(spec)))``
        Values of the tasks, in their order; ``end`` after those of each.
    part : ``Out(stream.Signature(part(spec)))``
        A task's sums.
    beat : ``Out(1)``
        A beat of a response is accepted in this cycle.
    owing : ``Out(1)``
        Beats were asked for that have not come.
    """

    REQUEST_LATENCY = 4
    SCORE_LATENCY = 5
    PART_LATENCY = 4

    def __init__(self, spec: SpattenSpec, index: int | None = 0):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        if index is not None:
            integer("index", index, 0, spec.channels - 1)
        self._spec, self._index = spec, index
        super().__init__({
            **({"index": In(bits(spec.channels))} if index is None else {}),
            "job": In(stream.Signature(job(spec))),
            "tokens": In(spec.max_tokens),
            "fetch": In(stream.Signature(fetch(spec))),
            "fetched": Out(stream.Signature(fetched(spec))),
            "query": In(wiring.Signature({"valid": Out(1), "payload": Out(fetched(spec))})),
            "request": Out(stream.Signature(REQUEST)),
            "response": In(stream.Signature(response(spec))),
            "scored": Out(stream.Signature(scored(spec))),
            "scored_low": Out(stream.Signature(scored(spec))),
            "read_enable": In(1),
            "read_address": In(bits(spec.score_rows)),
            "read_data": Out(score(spec)),
            "task": In(stream.Signature(task(spec))),
            "wanted": In(stream.Signature(wanted(spec))),
            "part": Out(stream.Signature(part(spec))),
            "beat": Out(1),
            "owing": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        m.submodules.requester = requester = Requester(self._spec, self._index)
        if self._index is None:
            m.d.comb += requester.index.eq(self.index)
        m.submodules.engine = engine = Engine(self._spec)
        m.submodules.tags = tags = Queue(shape=tag(self._spec), depth=self._spec.outstanding)
        for name in ("job", "fetch", "task", "wanted"):
            connect(m, flipped(getattr(self, name)), getattr(requester, name))
        for name in ("fetched", "scored", "scored_low", "part"):
            connect(m, getattr(engine, name), flipped(getattr(self, name)))
        for name in ("response", "query"):
            connect(m, flipped(getattr(self, name)), getattr(engine, name))
        connect(m, requester.request, flipped(self.request))
        connect(m, requester.tag, tags.i)
        connect(m, tags.o, engine.tag)
        m.d.comb += [
            requester.tokens.eq(self.tokens),
            requester.beat.eq(engine.beat),
            requester.hold.eq(engine.hold),
            self.beat.eq(engine.beat),
            self.owing.eq(requester.owing),
            engine.read_enable.eq(self.read_enable),
            engine.read_address.eq(self.read_address),
            self.read_data.eq(engine.read_data),
        ]
        return m
