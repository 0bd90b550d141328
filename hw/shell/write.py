# SPDX-License-Identifier: Apache-2.0
"""Writes: bursts and their beats out, one response for each request of the core."""

from amaranth.hdl import DomainRenamer, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.shell import Cause, ShellSpec
from hw.contract import REQUEST
from hw.shell.layouts import BURST, FAULT, TASK, WINDOW, cause_of, log2
from hw.shell.split import Splitter
from hw.stream import Queue, Slice


class Writer(wiring.Component):
    """Write for the core.

    Beats of the core are joined into beats of the bus, with strobes where not all of one is
    written, or cut. Throughput: 1 beat per cycle of whichever is the narrower. A request outside
    the window has its beats taken and dropped. While ``stop`` is on, no burst is begun, and what
    is missing of those under way is sent with strobes of 0.

    Members
    -------
    request, data, response : the core's, see :mod:`hw.contract`.
    aw, w, b : the bus.
    window : what may be accessed.
    stop : ``run`` is being reset.
    idle : no burst is under way.
    fault : a request failed.
    """

    def __init__(self, shell: ShellSpec, memory_bytes: int):
        self._shell = shell
        self._memory_bytes = memory_bytes
        beat = data.StructLayout({"data": shell.data_width, "strobe": shell.bus_bytes, "last": 1})
        super().__init__({
            "request": In(stream.Signature(REQUEST)),
            "data": In(stream.Signature(data.StructLayout({"data": 8 * memory_bytes, "last": 1}))),
            "response": Out(stream.Signature(1)),
            "aw": Out(stream.Signature(BURST)),
            "w": Out(stream.Signature(beat)),
            "b": In(stream.Signature(2)),
            "window": In(WINDOW),
            "stop": In(1),
            "idle": Out(1),
            "fault": Out(FAULT),
        })

    def elaborate(self, platform):
        m = Module()
        shell, width = self._shell, 8 * self._memory_bytes
        in_run = DomainRenamer("run")
        m.submodules.splitter = splitter = in_run(Splitter(shell, self._memory_bytes))
        m.submodules.queue = queue = in_run(Queue(shape=TASK, depth=shell.requests))
        m.submodules.tasks = tasks = in_run(Slice(TASK))  # for the sake of the clock
        m.submodules.ask = ask = Slice(BURST)
        m.submodules.bursts = bursts = Queue(shape=8, depth=4)
        m.submodules.send = send = Slice(self.w.payload.shape())
        m.submodules.responses = responses = Slice(2)
        outcome = data.StructLayout({"address": 32, "end": 1, "bad": 1})
        m.submodules.outcomes = outcomes = in_run(Queue(shape=outcome, depth=shell.requests))
        connect(m, splitter.task, queue.i)
        connect(m, queue.o, tasks.i)
        connect(m, flipped(self.window), splitter.window)
        connect(m, ask.o, flipped(self.aw))
        connect(m, send.o, flipped(self.w))
        connect(m, flipped(self.b), responses.i)

        # What the bus has been promised
        under_way = Signal(range(shell.requests + 16))
        begun = Signal()
        ended = Signal()
        room = Signal()
        m.d.comb += [
            splitter.i.valid.eq(self.request.valid),
            splitter.i.payload.payload.eq(self.request.payload),
            self.request.ready.eq(splitter.i.ready),
            room.eq(ask.i.ready & bursts.i.ready & ~self.stop),
            splitter.burst.ready.eq(room),
            begun.eq(splitter.burst.valid & room),
            ask.i.valid.eq(begun), ask.i.payload.eq(splitter.burst.payload),
            bursts.i.valid.eq(begun), bursts.i.payload.eq(splitter.burst.payload.length),
            ended.eq(responses.o.valid & responses.o.ready),
            self.idle.eq(under_way == 0),
        ]
        m.d.sync += under_way.eq(under_way + begun - ended)

        # Beats: ``count`` of the core's beats of the task at the head have been taken
        task = tasks.o.payload
        count = Signal(16)
        take = Signal()  # a beat of the core
        final = Signal()
        whole = Signal()  # with it, a beat of the bus is complete
        put = Signal()  # a beat of the bus
        can_put = Signal()
        sent = Signal(8)  # beats of the burst at the head
        word = Signal(shell.data_width)
        strobe = Signal(shell.bus_bytes)
        offered = Signal()
        m.d.comb += [
            offered.eq(tasks.o.valid & self.data.valid & ~self.stop),
            final.eq(count == task.last_beat),
            can_put.eq(send.i.ready & bursts.o.valid & outcomes.i.ready),
        ]
        if width <= shell.data_width:
            lanes = shell.data_width // width
            lane = Signal(range(lanes))
            at = log2(self._memory_bytes)
            earlier = Signal(shell.data_width, reset_less=True)
            earlier_strobe = Signal(shell.bus_bytes)
            ours = Signal(shell.bus_bytes)
            m.d.comb += [
                lane.eq(task.address[at:at + log2(lanes)] + count),
                whole.eq((lane == lanes - 1) | final),
                take.eq(offered & Mux(task.bad, outcomes.i.ready, ~whole | can_put)),
                put.eq(take & whole & ~task.bad),
                ours.eq(((1 << self._memory_bytes) - 1) << (lane << at)),
                strobe.eq(earlier_strobe | ours), word.eq(earlier),
            ]
            for n in range(lanes):
                with m.If(lane == n):
                    m.d.comb += word[n * width:(n + 1) * width].eq(self.data.payload.data)
            with m.If(take):
                m.d.run += [earlier.eq(word),
                            earlier_strobe.eq(Mux(whole | task.bad, 0, strobe))]
        else:
            parts = width // shell.data_width
            part = Signal(range(parts))
            m.d.comb += [
                whole.eq(part == parts - 1),
                take.eq(offered & Mux(task.bad, outcomes.i.ready, whole & can_put)),
                put.eq(offered & ~task.bad & can_put),
                strobe.eq(~0),
                word.eq(self.data.payload.data.word_select(part, shell.data_width)),
            ]
            with m.If(put):
                m.d.run += part.eq(part + 1)
        done = Signal()  # the last beat of the request
        m.d.comb += [
            done.eq(take & final),
            self.data.ready.eq(take),
            tasks.o.ready.eq(done),
            send.i.valid.eq(Mux(self.stop, bursts.o.valid, put)),
            send.i.payload.data.eq(word),
            send.i.payload.strobe.eq(Mux(self.stop, 0, strobe)),
            send.i.payload.last.eq(sent == bursts.o.payload),
            bursts.o.ready.eq(send.i.valid & send.i.ready & send.i.payload.last),
            outcomes.i.valid.eq(Mux(task.bad, done, put & send.i.payload.last)),
            outcomes.i.payload.address.eq(task.address),
            outcomes.i.payload.end.eq(done), outcomes.i.payload.bad.eq(task.bad),
        ]
        with m.If(take):
            m.d.run += count.eq(Mux(final, 0, count + 1))
        with m.If(send.i.valid & send.i.ready):
            m.d.sync += sent.eq(Mux(send.i.payload.last, 0, sent + 1))

        # Responses: one of the bus for each burst, one of ours for each request
        outcome = outcomes.o.payload
        failed = Signal()
        fails = Signal()
        ready = Signal()
        there = Signal()
        cause = cause_of(m, responses.o.payload, "cause")
        m.d.comb += [
            there.eq(outcomes.o.valid & (outcome.bad | responses.o.valid)),
            fails.eq(outcome.bad | (cause != 0)),
            self.response.valid.eq(there & outcome.end),
            self.response.payload.eq(failed | fails),
            ready.eq(there & (~outcome.end | self.response.ready)),
            outcomes.o.ready.eq(ready),
            responses.o.ready.eq(self.stop | (ready & ~outcome.bad)),
            self.fault.valid.eq(ready & fails),
            self.fault.cause.eq(Mux(outcome.bad, Cause.WINDOW, cause)),
            self.fault.address.eq(outcome.address),
        ]
        with m.If(ready):
            m.d.run += failed.eq(~outcome.end & (failed | fails))
        return m
