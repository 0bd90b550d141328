# SPDX-License-Identifier: Apache-2.0
"""Outputs of the SpAtten core: added up over the channels, requantised, written."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.arith.reciprocal import Reciprocal
from hw.arith.requant import Requant
from hw.array.line import tree
from hw.contract import write_beat
from hw.spatten.layouts import DONE, head_amount, part, result, write_request
from hw.spatten.pick import pick
from hw.stream.queue import Queue


def task_layout(spec: SpattenSpec) -> data.StructLayout:
    """A result whose factor is known."""
    fields = {name: field.shape for name, field in result(spec) if name not in ("total", "mul")}
    return data.StructLayout(fields | {"factor": 16})


class OutputUnit(wiring.Component):
    """Add up the channels' parts of outputs, requantise and write them.

    ::

        result --> reciprocal --> factor, shift
                                       |
        parts ----> slice, adders --> requantise --> beats --> write_data
                                         +---------> magnitudes --> head

    A task is an output: a result, or one for each of its halves, and one part of each channel. It
    goes through in ``SLICES`` slices of ``spec.requant.lanes`` numbers, all channels at the same
    time, so that what lies between the parts and the memory is that narrow. While a result is cut,
    the factor of the next is computed. The arithmetic never stops: a task begins only when the
    queue of beats has room for all of its own.

    What a task with an error would give is not written and does not count for its head. The same
    goes for tasks under ``drop``.

    Latency, nothing stalling: ``LATENCY + stages`` cycles from the last of the parts to the first
    beat, ``stages`` being 1, or 2 for more than 16 channels; ``PREPARE`` more from the result.
    Throughput: a task per ``SLICES`` cycles. Up to ``WRITES`` writes can be under way.

    Cost as ``paper``: 111.2 kGE, of which 36 are the requantisers; most of the others choose the
    slices and add them up. 1,544 bits of memory.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    result : ``In(stream.Signature(result(spec)))``, part : ``In(stream.Signature(part(spec)))\
.array(spec.channels)``
        Tasks in their order; those of an operation follow each other, and end with ``last``. All of
        a task are taken in the cycle of its last slice, the result before.
    drop : ``In(1)``
        Looked at when a task begins.
    write_request : ``Out(stream.Signature(write_request(spec)))``, \
write_data : ``Out(stream.Signature(write_beat(spec)))``, \
write_response : ``In(stream.Signature(1))``
        One request of ``spec.vector_beats`` beats for each task: 16-bit numbers. The data of a
        request may come before it. A response is an error bit, in the order of the requests,
        and always taken.
    head : ``Out(head_amount(spec))``
        Of tasks with ``accumulate``, before the ``done`` of their operation.
    done : ``Out(stream.Signature(DONE))``
        All tasks of an operation have been written. No task of the next begins before it is taken.
    """

    SLICES = 8
    WRITES = 15
    PREPARE = Reciprocal.LATENCY + 1
    LATENCY = Requant.LATENCY + 2

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "result": In(stream.Signature(result(spec))),
            "part": In(stream.Signature(part(spec))).array(spec.channels),
            "drop": In(1),
            "write_request": Out(stream.Signature(write_request(spec))),
            "write_data": Out(stream.Signature(write_beat(spec))),
            "write_response": In(stream.Signature(1)),
            "head": Out(head_amount(spec)),
            "done": Out(stream.Signature(DONE)),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        parts = [self.part[channel] for channel in range(spec.channels)]
        m.submodules.requests = requests = Queue(depth=2, shape=data.StructLayout({
            "channel": self.result.payload.channel.shape(), "output": 27}))
        task: Any = Signal(task_layout(spec), reset_less=True)
        full = Signal()  # there is a task
        finished = Signal()  # it is cut, or skipped; or its half is
        self._prepare(m, task, full, finished)

        number = Signal(range(self.SLICES))
        begun = Signal()
        may_begin = Signal()
        go = Signal()
        broken = Signal()
        skip = Signal()
        write = Signal()  # a task begins that will be written
        cut = Signal()  # a slice goes to the adders
        m.d.comb += [
            begun.eq(number != 0),
            go.eq(full & Cat(one.valid for one in parts).all() & (begun | may_begin)),
            broken.eq(task.error | Cat(one.payload.error for one in parts).any()),
            skip.eq(~begun & (self.drop | broken | ~task.begins)),
            write.eq(go & ~begun & ~skip),
            cut.eq(go & ~skip),
            finished.eq(go & (skip | (number == self.SLICES - 1)
                              | ~task.ends & (number == self.SLICES // 2 - 1))),
            requests.i.valid.eq(write),
            requests.i.payload.channel.eq(task.channel),
            requests.i.payload.output.eq(task.output),
        ]
        m.d.comb += [one.ready.eq(finished & task.ends) for one in parts]
        with m.If(cut):
            m.d.sync += number.eq(number + 1)
        self._numbers(m, parts, task, number, cut)

        # Writes, and the end of an operation
        beats = spec.vector_beats
        room = Signal(range(2 * beats + 1), init=2 * beats)  # of the queue, for beats to come
        owed = Signal(range(self.WRITES + 1))  # responses
        closing = Signal()  # the last task of an operation has been cut
        error = Signal()
        op = Signal(2, reset_less=True)
        request, response = self.write_request, self.write_response
        m.d.comb += [
            may_begin.eq(~closing & (room >= beats) & requests.i.ready & (owed != self.WRITES)),
            request.valid.eq(requests.o.valid),
            requests.o.ready.eq(request.ready),
            request.payload.channel.eq(requests.o.payload.channel),
            request.payload.address.eq(requests.o.payload.output * spec.memory_bytes),
            request.payload.beats.eq(beats),
            response.ready.eq(1),
            self.done.valid.eq(closing & (owed == 0)),
            self.done.payload.op.eq(op),
            self.done.payload.error.eq(error),
        ]
        m.d.sync += [
            room.eq(room - Mux(write, beats, 0) + (self.write_data.valid & self.write_data.ready)),
            owed.eq(owed + write - response.valid),
        ]
        with m.If(self.done.valid & self.done.ready):
            m.d.sync += [closing.eq(0), error.eq(0)]
        with m.If(go & ~begun & broken | response.valid & response.payload):
            m.d.sync += error.eq(1)
        with m.If(finished & task.last):
            m.d.sync += [closing.eq(1), op.eq(task.op)]
        return m

    def _prepare(self, m: Module, task: Any, full: Signal, finished: Signal) -> None:
        """Compute the factor of the result that is offered, and take it when there is no task."""
        spec, arriving = self._spec, self.result.payload
        m.submodules.reciprocal = reciprocal = Reciprocal(spec.reciprocal)
        asked = Signal()
        take = Signal()
        shift = Signal(7)
        m.d.comb += [
            reciprocal.i.valid.eq(self.result.valid & ~asked),
            reciprocal.i.payload.sum.eq(arriving.total),
            reciprocal.i.payload.mul.eq(arriving.mul),
            reciprocal.o.ready.eq(take),
            take.eq(reciprocal.o.valid & (~full | finished)),
            self.result.ready.eq(take),
            shift.eq(arriving.shift + reciprocal.o.payload.exponent),
        ]
        with m.If(take):
            m.d.sync += [task[name].eq(arriving[name]) for name, _ in task.shape()
                         if name not in ("factor", "shift")]
            m.d.sync += [task.factor.eq(reciprocal.o.payload.factor),
                         task.shift.eq(shift[:6] | shift[6].replicate(6))]
        m.d.sync += [full.eq(take | full & ~finished),
                     asked.eq((asked | reciprocal.i.valid & reciprocal.i.ready) & ~take)]

    def _numbers(self, m: Module, parts: list[Any], task: Any, number: Signal,
                 cut: Signal) -> None:
        """Add up, requantise and pack slices."""
        spec, size = self._spec, self._spec.requant.lanes
        m.submodules.requant = requant = Requant(spec.requant)
        m.submodules.beats = beats = Queue(depth=2 * spec.vector_beats, shape=data.StructLayout({
            "numbers": data.ArrayLayout(signed(spec.OUTPUT_BITS), 2 * size), "last": 1}))
        chosen = Signal(self.SLICES)
        m.d.comb += chosen.eq(1 << number)
        lanes = [[pick([sums[n].as_unsigned() for n in range(lane, spec.lanes, size)],
                       chosen).as_signed() for lane in range(size)]
                 for sums in (part.payload.sums for part in parts)]
        factor, shift, stage = task.factor, task.shift, 0
        while not stage or len(lanes) > 1:
            stage += 1
            groups = [lanes[first:first + 16] for first in range(0, len(lanes), 16)]
            lanes = []
            for place, group in enumerate(groups):
                sums = [tree(column) for column in zip(*group)]
                held = [Signal(sums[n].shape(), name=f"sum_{stage}_{place}_{n}", reset_less=True)
                        for n in range(size)]
                m.d.sync += [one.eq(value) for one, value in zip(held, sums)]
                lanes.append(held)
            factor_held = Signal(16, name=f"factor_{stage}", reset_less=True)
            shift_held = Signal(6, name=f"shift_{stage}", reset_less=True)
            m.d.sync += [factor_held.eq(factor), shift_held.eq(shift)]
            factor, shift = factor_held, shift_held
        steps = Signal(stage + Requant.LATENCY)  # where slices are
        m.d.sync += steps.eq(Cat(cut, steps))
        m.d.comb += [requant.i.valid.eq(steps[stage - 1]), requant.o.ready.eq(1)]
        for n in range(size):
            i = requant.i.payload
            m.d.comb += [i.acc[n].eq(lanes[0][n]), i.mul[n].eq(factor), i.shift[n].eq(shift)]

        # The result of a task's last slice comes before the last slice of the next is cut.
        assert len(steps) < self.SLICES
        got, numbers = requant.o.valid, requant.o.payload
        place = Signal(range(self.SLICES))  # of the slice that comes
        low: Any = Signal(numbers.shape(), reset_less=True)
        half = Signal()  # the first half is one of its own
        counts = Signal(2)  # of the halves
        heads = [Signal(self.head.head.shape(), name=f"head_{part}", reset_less=True)
                 for part in range(2)]
        amount = Signal(self.head.amount.shape(), reset_less=True)
        middle, last = Signal(), Signal()  # of the slices
        told = Signal(2)
        sizes = [(one.as_unsigned() ^ one[-1].replicate(len(one))) + one[-1] for one in numbers]
        packed = beats.i.payload
        m.d.comb += [
            middle.eq(place == self.SLICES // 2 - 1), last.eq(place.all()),
            beats.i.valid.eq(got & place[0]),
            Value.cast(packed.numbers).eq(Cat(low, numbers)),
            packed.last.eq(last),
            self.write_data.valid.eq(beats.o.valid),
            beats.o.ready.eq(self.write_data.ready),
            self.write_data.payload.last.eq(beats.o.payload.last),
            self.write_data.payload.data.eq(Cat(
                Cat(one, one[-1].replicate(16 - len(one))) for one in beats.o.payload.numbers)),
            self.head.valid.eq(told.any()),
            self.head.head.eq(Mux(told[0], *heads)),
            self.head.amount.eq(amount),
        ]
        m.d.sync += told.eq(Cat(got & middle & half, got & last) & counts)
        with m.If(got):
            first = (place == 0) | (place == self.SLICES // 2) & half
            m.d.sync += [place.eq(place + 1), low.eq(numbers),
                         amount.eq(Mux(first, 0, amount) + tree(sizes))]
        with m.If(cut & (number == self.SLICES // 2 - 1)):
            m.d.sync += [half.eq(~task.ends), heads[0].eq(task.head),
                         counts[0].eq(task.accumulate)]
        with m.If(cut & (number == self.SLICES - 1)):
            m.d.sync += [heads[1].eq(task.head), counts[1].eq(task.accumulate)]
