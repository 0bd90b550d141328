# SPDX-License-Identifier: Apache-2.0
"""Reads: bursts out, beats back to who asked for them."""

from amaranth.hdl import Cat, DomainRenamer, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.shell import Cause, ShellSpec
from hw.contract import REQUEST
from hw.shell.layouts import BURST, FAULT, TASK, WINDOW, answer, cause_of, log2
from hw.shell.split import Splitter
from hw.stream import Arbiter, Queue, Slice


class Reader(wiring.Component):
    """Read for the core (input 0) and the program (input 1), in the order of their requests.

    Beats of the bus are cut into beats of the core, or joined. Throughput: 1 beat per cycle of
    whichever is the narrower. Latency: ``READ_LATENCY`` cycles besides the memory's,
    with the chip's register slices. Beats outside
    the window are answered in their turn, without the bus. While ``stop`` is on, no burst is begun,
    and the beats of those under way are taken and dropped.

    Members
    -------
    request, o : requests and their beats, of core and program.
    ar, r : the bus.
    window : what may be accessed.
    stop : ``run`` is being reset.
    idle : no burst is under way.
    fault : an access of the core failed.
    """

    def __init__(self, shell: ShellSpec, memory_bytes: int):
        self._shell = shell
        self._memory_bytes = memory_bytes
        beat = data.StructLayout({"data": shell.data_width, "response": 2, "last": 1})
        super().__init__({
            "request": In(stream.Signature(REQUEST)).array(2),
            "o": Out(stream.Signature(answer(memory_bytes))).array(2),
            "ar": Out(stream.Signature(BURST)),
            "r": In(stream.Signature(beat)),
            "window": In(WINDOW),
            "stop": In(1),
            "idle": Out(1),
            "fault": Out(FAULT),
        })

    def elaborate(self, platform):
        m = Module()
        shell, width = self._shell, 8 * self._memory_bytes
        in_run = DomainRenamer("run")
        m.submodules.arbiter = arbiter = in_run(Arbiter(shape=REQUEST, inputs=2))
        m.submodules.splitter = splitter = in_run(Splitter(shell, self._memory_bytes))
        m.submodules.queue = queue = in_run(Queue(shape=TASK, depth=shell.requests))
        m.submodules.tasks = tasks = in_run(Slice(TASK))  # for the sake of the clock
        m.submodules.ask = ask = Slice(BURST)
        m.submodules.beats = beats = Slice(self.r.payload.shape())
        for n in range(2):
            connect(m, flipped(self.request[n]), arbiter.i[n])
        connect(m, arbiter.o, splitter.i)
        connect(m, splitter.task, queue.i)
        connect(m, queue.o, tasks.i)
        connect(m, flipped(self.window), splitter.window)
        connect(m, ask.o, flipped(self.ar))
        connect(m, flipped(self.r), beats.i)

        # What the bus has been promised
        under_way = Signal(range(shell.READS + 1))
        room = Signal()
        begun = Signal()
        ended = Signal()
        m.d.comb += [
            room.eq((under_way != shell.READS) & ~self.stop),
            ask.i.valid.eq(splitter.burst.valid & room),
            ask.i.payload.eq(splitter.burst.payload),
            splitter.burst.ready.eq(ask.i.ready & room),
            begun.eq(ask.i.valid & ask.i.ready),
            ended.eq(beats.o.valid & beats.o.ready & beats.o.payload.last),
            self.idle.eq(under_way == 0),
        ]
        m.d.sync += under_way.eq(under_way + begun - ended)

        # Beats of the core: ``count`` of the task at the head have been delivered
        task = tasks.o.payload
        word = beats.o.payload
        count = Signal(16)
        ready = Signal()
        there = Signal()
        taken = Signal()
        final = Signal()
        pop = Signal()
        out = Signal(answer(self._memory_bytes))
        cause = cause_of(m, word.response, "cause")
        with m.If(task.bad):
            m.d.comb += [there.eq(1), out.cause.eq(Cause.WINDOW)]
        if width <= shell.data_width:
            lanes = shell.data_width // width
            lane = Signal(range(lanes))
            at = log2(self._memory_bytes)
            m.d.comb += [
                lane.eq(task.address[at:at + log2(lanes)] + count),
                out.data.eq(word.data.word_select(lane, width)),
                pop.eq(taken & ((lane == lanes - 1) | final)),
            ]
            with m.If(~task.bad):
                m.d.comb += [there.eq(beats.o.valid), out.cause.eq(cause)]
        else:
            parts = width // shell.data_width
            part = Signal(range(parts))
            low = Signal(width - shell.data_width, reset_less=True)
            before = Signal(2)
            m.d.comb += [out.data.eq(Cat(low, word.data)),
                         pop.eq(beats.o.valid & ((part != parts - 1) | taken))]
            with m.If(~task.bad):
                m.d.comb += [there.eq(beats.o.valid & (part == parts - 1)),
                             out.cause.eq(Mux(before == 0, cause, before))]
            with m.If(tasks.o.valid & ~task.bad & pop):
                m.d.run += [low.eq(Cat(low, word.data)[shell.data_width:]), part.eq(part + 1),
                            before.eq(Mux(part == parts - 1, 0, out.cause))]
        m.d.comb += [
            final.eq(count == task.last_beat),
            ready.eq(Mux(task.source, self.o[1].ready, self.o[0].ready)),
            taken.eq(tasks.o.valid & there & ready),
            tasks.o.ready.eq(taken & final),
            beats.o.ready.eq(self.stop | (tasks.o.valid & ~task.bad & pop)),
            *(self.o[n].payload.eq(out) for n in range(2)),
            *(self.o[n].valid.eq(tasks.o.valid & there & (task.source == n)) for n in range(2)),
            self.fault.valid.eq(taken & ~task.source & (out.cause != Cause.NONE)),
            self.fault.cause.eq(out.cause),
            self.fault.address.eq(task.address + (count << log2(self._memory_bytes))),
        ]
        with m.If(taken):
            m.d.run += count.eq(Mux(final, 0, count + 1))
        return m
