# SPDX-License-Identifier: Apache-2.0
"""The local memory of a channel, and the way of what is written to one of them or outside."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import LOCAL, SpattenSpec
from hw.contract import REQUEST, response, write_beat
from hw.spatten.layouts import bits, load, local_write, write_request
from hw.stream import Queue


def is_local(spec: SpattenSpec, address: Value) -> Value:
    """Return whether a byte address is that of a local memory."""
    return address[(LOCAL * spec.memory_bytes).bit_length() - 1]


def place(spec: SpattenSpec, address: Value) -> Value:
    """Return the beat of a local byte address; its top bit is set if there is none.

    A request that begins inside and ends outside counts up to that bit.
    """
    size = spec.local.bit_length() - 1
    top = (LOCAL * spec.memory_bytes).bit_length() - 1
    beat = (spec.memory_bytes - 1).bit_length()
    return Cat(address[beat:beat + size], address[beat + size:top].any() | address[top + 1:].any())


def _check(spec: SpattenSpec) -> None:
    if not isinstance(spec, SpattenSpec):
        raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
    if not spec.local:
        raise ValueError("spec must be one with local memories, not one without")


class LocalMemory(wiring.Component):
    """Answer a channel's requests for local beats; pass the others on; load beats from outside.

    Beats come in the order of the requests: after beats of one side, a request to the other waits
    until they have been taken. ``response.ready`` reaches the memory's enable, and ``ready`` of the
    streams outside, combinationally.

    Latency: 2 cycles from a request to its first beat; none for what passes. Throughput: a beat per
    cycle, also with requests of one beat, as long as they go to the same side.

    Cost with 64 lanes and 1,024 beats: 2.4 kGE, beside 262,144 bits of memory.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    request : ``In(stream.Signature(REQUEST))``, response : ``Out(stream.Signature(\
response(spec)))``
        The channel's. At most ``spec.outstanding`` beats are owed, and a request has fewer than
        ``spec.local``. Local beats beyond the end have ``error``.
    outer_request, outer_response : the same, of the memory outside.
    write : ``In(Signature({"valid": Out(1), "payload": Out(local_write(spec))}))``
        Always accepted; not while a load is under way.
    load : ``In(stream.Signature(load(spec)))``
        Beats to be copied from outside, with one request; only while the channel owes none and
        asks for none. Beats with errors are copied, too.
    loaded : ``Out(stream.Signature(1))``
        The end of each load; 1: one of the beats had an error, or ``source`` is itself local.
    loading : ``Out(1)``
        Beats of a load are owed.
    """

    LATENCY = 2

    def __init__(self, spec: SpattenSpec):
        _check(spec)
        self._spec = spec
        super().__init__({
            "request": In(stream.Signature(REQUEST)),
            "response": Out(stream.Signature(response(spec))),
            "outer_request": Out(stream.Signature(REQUEST)),
            "outer_response": In(stream.Signature(response(spec))),
            "write": In(wiring.Signature({"valid": Out(1), "payload": Out(local_write(spec))})),
            "load": In(stream.Signature(load(spec))),
            "loaded": Out(stream.Signature(1)),
            "loading": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, asked, came = self._spec, self.request.payload, self.outer_response
        m.submodules.memory = memory = Memory(shape=8 * spec.memory_bytes, depth=spec.local,
                                              init=[], attrs={"no_rw_check": "1"})
        write, read = memory.write_port(), memory.read_port()

        # Local requests: the one whose beats are read, and the beat that was read
        owed = Signal(range(spec.outstanding + 1))  # beats from outside
        active = Signal()
        at = Signal(bits(spec.local) + 1, reset_less=True)
        left = Signal(16, reset_less=True)  # beats behind the next one
        there = Signal()
        beyond = Signal(reset_less=True)
        mine = Signal()
        step = Signal()  # the next beat is read
        take = Signal()
        out = self.response
        m.d.comb += [
            mine.eq(is_local(spec, asked.address)),
            step.eq(active & (~there | out.ready)),
            take.eq(self.request.valid & mine & (owed == 0) & (~active | step & (left == 0))),
            read.addr.eq(at), read.en.eq(step),
        ]
        m.d.sync += [active.eq(take | active & ~(step & (left == 0))),
                     there.eq(step | there & ~out.ready)]
        with m.If(take):
            m.d.sync += [at.eq(place(spec, asked.address)), left.eq(asked.beats - 1)]
        with m.Elif(step):
            m.d.sync += [at.eq(Cat((at + 1)[:-2], (at + 1)[-2] | at[-1])), left.eq(left - 1)]
        with m.If(step):
            m.d.sync += beyond.eq(at[-1])

        # A load: its request, then its beats
        wanted = Signal()  # its request is to be sent
        loading = Signal()
        source = Signal(27, reset_less=True)
        target = Signal(bits(spec.local), reset_less=True)
        missing = Signal(16, reset_less=True)
        ended = Signal()
        failed = Signal(reset_less=True)
        copy = Signal()
        m.d.comb += [
            self.load.ready.eq(~loading & ~ended),
            copy.eq(loading & came.valid),
            self.loaded.valid.eq(ended), self.loaded.payload.eq(failed),
            self.loading.eq(loading),
            write.en.eq(copy | self.write.valid),
            write.addr.eq(Mux(loading, target, self.write.payload.address)),
            write.data.eq(Mux(loading, came.payload.data, self.write.payload.data)),
        ]
        with m.If(ended & self.loaded.ready):
            m.d.sync += ended.eq(0)
        with m.If(self.load.valid & self.load.ready):
            inner = self.load.payload.source[LOCAL.bit_length() - 1]
            m.d.sync += [loading.eq(~inner), wanted.eq(~inner), ended.eq(inner), failed.eq(inner),
                         source.eq(self.load.payload.source),
                         target.eq(self.load.payload.target), missing.eq(self.load.payload.beats)]
        with m.If(wanted & self.outer_request.ready):
            m.d.sync += wanted.eq(0)
        with m.If(copy):
            m.d.sync += [target.eq(target + 1), missing.eq(missing - 1),
                         failed.eq(failed | came.payload.error)]
            with m.If(missing == 1):
                m.d.sync += [loading.eq(0), ended.eq(1)]

        # What goes outside, and what comes back
        passes = Signal()
        request = self.outer_request
        m.d.comb += [
            passes.eq(self.request.valid & ~mine & ~active & ~there & ~loading),
            self.request.ready.eq(take | passes & request.ready),
            request.valid.eq(wanted | passes), request.payload.eq(asked),
            out.valid.eq(there | came.valid & ~loading),
            came.ready.eq(loading | out.ready & ~there),
            out.payload.data.eq(Mux(there, read.data, came.payload.data)),
            out.payload.error.eq(Mux(there, beyond, came.payload.error)),
        ]
        with m.If(wanted):
            m.d.comb += [request.payload.address.eq(source * spec.memory_bytes),
                         request.payload.beats.eq(missing)]
        m.d.sync += owed.eq(owed + Mux(passes & request.ready, asked.beats, 0)
                            - (came.valid & came.ready & ~loading))
        return m


class WriteRouter(wiring.Component):
    """Bring writes to the local memories or outside, and answer them in their order.

    Requests to one side wait until all to the other have been answered, and a request outside
    leaves as it comes; its data follow when it is their turn. Throughput: a beat per cycle; up to
    ``LOCAL_WRITES`` local requests wait for their responses to be taken, and ``OUTER_WRITES``
    others. ``ready`` outside reaches ``ready`` inside combinationally. Cost as ``paper``: 2.9 kGE.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    request : ``In(stream.Signature(write_request(spec)))``, data : ``In(stream.Signature(\
write_beat(spec)))``, response : ``Out(stream.Signature(1))``
        A request has fewer beats than ``spec.local``. Of a local one a response of 1 says that a
        beat lay beyond the end; that was not written.
    outer_request, outer_data, outer_response : the same, of the memory outside.
    write : ``Out(Signature({"valid": Out(1), "payload": Out(local_write(spec))})).array(channels)``
        A cycle after the beat was taken.
    """

    LOCAL_WRITES = 4
    OUTER_WRITES = 31

    def __init__(self, spec: SpattenSpec):
        _check(spec)
        self._spec = spec
        super().__init__({
            "request": In(stream.Signature(write_request(spec))),
            "data": In(stream.Signature(write_beat(spec))),
            "response": Out(stream.Signature(1)),
            "outer_request": Out(stream.Signature(write_request(spec))),
            "outer_data": Out(stream.Signature(write_beat(spec))),
            "outer_response": In(stream.Signature(1)),
            "write": Out(wiring.Signature({
                "valid": Out(1), "payload": Out(local_write(spec))})).array(spec.channels),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, asked, i = self._spec, self.request.payload, self.data
        m.submodules.routes = routes = Queue(depth=self.LOCAL_WRITES, shape=data.StructLayout({
            "local": 1, "channel": bits(spec.channels), "place": bits(spec.local) + 1}))
        m.submodules.answers = answers = Queue(depth=self.LOCAL_WRITES, shape=1)
        inside = Signal(range(self.LOCAL_WRITES + 1))  # requests without a response
        outside = Signal(range(self.OUTER_WRITES + 1))
        mine = Signal()
        takes = Signal()  # a local request
        passes = Signal()
        leaves = Signal()
        answered = Signal()
        m.d.comb += [
            mine.eq(is_local(spec, asked.address)),
            takes.eq(self.request.valid & mine & routes.i.ready & (outside == 0)
                     & (inside != self.LOCAL_WRITES)),
            passes.eq(self.request.valid & ~mine & routes.i.ready & (inside == 0)
                      & (outside != self.OUTER_WRITES)),
            leaves.eq(passes & self.outer_request.ready),
            self.outer_request.valid.eq(passes), self.outer_request.payload.eq(asked),
            self.request.ready.eq(takes | leaves),
            routes.i.valid.eq(takes | leaves), routes.i.payload.local.eq(mine),
            routes.i.payload.channel.eq(asked.channel),
            routes.i.payload.place.eq(place(spec, asked.address)),
            self.response.valid.eq(answers.o.valid | self.outer_response.valid),
            self.response.payload.eq(Mux(answers.o.valid, answers.o.payload,
                                         self.outer_response.payload)),
            answers.o.ready.eq(self.response.ready),
            self.outer_response.ready.eq(self.response.ready & ~answers.o.valid),
            answered.eq(self.response.valid & self.response.ready),
        ]
        m.d.sync += [inside.eq(inside + takes - (answered & answers.o.valid)),
                     outside.eq(outside + leaves - (answered & ~answers.o.valid))]

        route = routes.o.payload
        count = Signal(bits(spec.local) + 1)  # beats of the request that were taken
        at = Signal.like(count)
        beat = Signal()
        failed = Signal()
        writes = Signal(spec.channels)
        beyond = Signal()
        register = Signal(local_write(spec), reset_less=True)
        m.d.comb += [
            at.eq(route.place + count),
            beyond.eq(route.place[-1] | at[-1]),
            i.ready.eq(routes.o.valid & (route.local | self.outer_data.ready)),
            self.outer_data.valid.eq(i.valid & routes.o.valid & ~route.local),
            self.outer_data.payload.eq(i.payload),
            beat.eq(i.valid & i.ready),
            routes.o.ready.eq(i.valid & i.payload.last & (route.local | self.outer_data.ready)),
            answers.i.valid.eq(beat & i.payload.last & route.local),
            answers.i.payload.eq(failed | beyond),
        ]
        with m.If(beat):
            m.d.sync += [count.eq(Mux(i.payload.last, 0, count + 1)),
                         failed.eq(~i.payload.last & (failed | beyond)),
                         register.address.eq(at), register.data.eq(i.payload.data)]
        m.d.sync += writes.eq(Mux(beat & route.local & ~beyond, 1 << route.channel, 0))
        m.d.comb += [one.valid.eq(writes[n]) for n, one in enumerate(self.write)]
        m.d.comb += [one.payload.eq(register) for one in self.write]
        return m
