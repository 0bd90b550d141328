# SPDX-License-Identifier: Apache-2.0
"""The program: operations from memory to the core, and what came of them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.operation import DESCRIPTOR_BYTES, Opcode, Status
from golden.shell import Access, Cause, Code, ShellSpec
from hw.contract import COMPLETION, REQUEST
from hw.shell.layouts import FAULT, answer, log2
from hw.stream import Queue

RESULT = data.StructLayout({
    "code": Code, "cause": Cause, "access": Access, "index": 32, "fault": 32})
"""How a run ended."""


class Program(wiring.Component):
    """Fetch operations ahead, offer them to the core in order, and judge how the run ended.

    An operation that could not be read is not offered, and ends the run (FETCH); so does the first
    one that fails, with those offered by then behind it. Behind a HALT, at which a core forgets a
    failure, nothing is offered before everything up to it has completed; so what is behind a
    failure is never executed. What is fetched beyond the end of the program is not looked at. To be
    put into the domain ``run``: it begins after its reset.

    Cost: a descriptor in flip-flops and ``fetch`` more in a memory.

    Members
    -------
    first, operations : the registers ``program``, in descriptors, and ``operations``.
    request, data : reads; beats are always accepted.
    operation, completion : the core's.
    read_fault, write_fault : failed accesses of the core.
    completed : operations so far.
    over : the run has ended, and ``result`` says how.
    """

    def __init__(self, shell: ShellSpec, memory_bytes: int):
        self._shell = shell
        self._memory_bytes = memory_bytes
        super().__init__({
            "first": In(26), "operations": In(32),
            "request": Out(stream.Signature(REQUEST)),
            "data": In(stream.Signature(answer(memory_bytes))),
            "operation": Out(stream.Signature(8 * DESCRIPTOR_BYTES)),
            "completion": In(stream.Signature(COMPLETION)),
            "read_fault": In(FAULT), "write_fault": In(FAULT),
            "completed": Out(32),
            "over": Out(1),
            "result": Out(RESULT),
        })

    def elaborate(self, platform):
        m = Module()
        width = 8 * self._memory_bytes
        parts = DESCRIPTOR_BYTES // self._memory_bytes
        fetch = self._shell.fetch
        m.submodules.beats = beats = Queue(
            shape=answer(self._memory_bytes), depth=max(2, fetch * parts))
        connect(m, flipped(self.data), beats.i)

        # Ask ahead, as there is room
        asked = Signal(32)
        ahead = Signal(range(fetch + 1))  # descriptors asked for that have not left the queue
        ask = Signal()
        left = Signal()
        ending = Signal()  # nothing more is offered
        m.d.comb += [
            self.request.payload.address.eq(
                Cat(Const(0, log2(DESCRIPTOR_BYTES)), (self.first + asked)[:26])),
            self.request.payload.beats.eq(parts),
            ask.eq(self.request.valid & self.request.ready),
        ]
        m.d.sync += [asked.eq(asked + ask), ahead.eq(ahead + ask - left)]
        with m.If(self.request.ready | ~self.request.valid):
            m.d.sync += self.request.valid.eq(
                ~ending & (ahead + ask < fetch)
                & ((self.operations == 0) | (asked + ask != self.operations)))

        # Put a descriptor together and offer it
        descriptor = Signal(8 * DESCRIPTOR_BYTES, reset_less=True)
        part = Signal(range(parts))
        cause = Signal(Cause)
        issued = Signal(32)
        all_issued = Signal()  # as it was a cycle ago
        settled = Signal()  # so was this: what was issued has completed
        halted = Signal()
        barrier = Signal()  # a HALT has been offered
        unread = Signal()
        failed = Signal()
        status = Signal(Status)
        first = Signal(FAULT)  # failed access of the core
        index = Signal(32)
        m.d.comb += [
            ending.eq(halted | failed | unread | all_issued),
            self.operation.payload.eq(descriptor),
        ]
        m.d.sync += all_issued.eq((self.operations != 0) & (issued == self.operations))
        with m.FSM() as fsm:
            with m.State("COLLECT"):
                m.d.comb += beats.o.ready.eq(~ending)
                with m.If(beats.o.valid & ~ending):
                    word = beats.o.payload
                    m.d.sync += [
                        descriptor.eq(Cat(descriptor, word.data)[width:]),
                        part.eq(Mux(part == parts - 1, 0, part + 1)),
                    ]
                    with m.If(cause == Cause.NONE):
                        m.d.sync += cause.eq(word.cause)
                    with m.If(part == parts - 1):
                        m.d.comb += left.eq(1)
                        m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(ending):
                    m.next = "COLLECT"
                with m.Elif(cause != Cause.NONE):
                    m.d.sync += unread.eq(1)
                    m.next = "COLLECT"
                with m.Elif(~barrier | settled):
                    m.d.sync += barrier.eq(descriptor[:8] == Opcode.HALT)
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.operation.valid.eq(1)
                with m.If(self.operation.ready):
                    m.d.sync += [issued.eq(issued + 1),
                                 halted.eq((self.operations == 0)
                                           & (descriptor[:8] == Opcode.HALT))]
                    m.next = "COLLECT"

        # an operation just accepted is not among ``issued`` yet
        m.d.sync += settled.eq((issued == self.completed) & ~fsm.ongoing("OFFER"))

        # Completions and failed accesses: the first of each counts
        m.d.comb += self.completion.ready.eq(1)
        with m.If(self.completion.valid):
            m.d.sync += self.completed.eq(self.completed + 1)
            with m.If((self.completion.payload.status != Status.OK) & ~failed):
                m.d.sync += [failed.eq(1), status.eq(self.completion.payload.status),
                             index.eq(self.completed)]
        access = Signal(Access)
        with m.If(~first.valid):
            with m.If(self.write_fault.valid):
                m.d.sync += [first.eq(self.write_fault), access.eq(Access.WRITE)]
            with m.Elif(self.read_fault.valid):
                m.d.sync += [first.eq(self.read_fault), access.eq(Access.READ)]

        m.d.comb += self.over.eq(ending & settled & fsm.ongoing("COLLECT"))
        with m.If(failed):
            m.d.comb += [self.result.code.eq(status), self.result.index.eq(index)]
            with m.If(status == Status.BUS_ERROR):
                m.d.comb += [self.result.cause.eq(first.cause), self.result.access.eq(access),
                             self.result.fault.eq(first.address)]
        with m.Elif(unread):
            m.d.comb += [
                self.result.code.eq(Code.FETCH), self.result.index.eq(issued),
                self.result.cause.eq(cause), self.result.access.eq(Access.FETCH),
                self.result.fault.eq(
                    Cat(Const(0, log2(DESCRIPTOR_BYTES)), (self.first + issued)[:26])),
            ]
        return m
