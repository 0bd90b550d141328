# SPDX-License-Identifier: Apache-2.0
"""LOAD and STORE: consecutive words of a buffer from and to external memory."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden.operation import Opcode
from golden.rowwise.cycles import AHEAD, BURST
from golden.rowwise.operation import Place
from golden.rowwise.spec import RowwiseSpec
from hw.contract import REQUEST, response, write_beat
from hw.rowwise.layouts import OPERATION, PROGRESS, log2

READ_AHEAD = 3
"""Words of the residual buffer on their way to memory: being read, waiting, leaving."""


class Mover(wiring.Component):
    """Execute LOAD and STORE.

    A word of the activation buffer is a block of all banks, so that LOAD writes at the rate of the
    memory: one beat per cycle, up to a latency of some ``AHEAD`` cycles; more requests under way
    would only delay the other reader. STORE takes ``beats + 3`` cycles for a word of the activation
    buffer, whose port it takes from the array for one of them. Words of the residual buffer, read
    when nobody else does, leave at one beat per cycle if they have one beat, and otherwise take
    ``beats + 1`` cycles.

    Members
    -------
    start, op, id : begin an operation; only while ``busy`` is 0.
    read_request, read_data : LOAD.
    write_request, write_data, write_response : STORE; one response for each request.
    activation_write, residual_write : ``valid`` until the cycle of ``ready``.
    activation_read, residual_read : STORE; ``data`` comes the cycle after ``enable`` and ``ready``.
    progress : how far a LOAD has come, in words of its buffer: those below the address ``limit``;
        whether one of its accesses failed (``error``, with ``done``).
    is_block : the words are those of the activation buffer.
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        block = 8 * spec.block_bytes["activation"]

        def write(name, width):
            return Out(wiring.Signature({
                "valid": Out(1), "address": Out(range(spec.words(name))), "data": Out(width),
                "ready": In(1)}))

        def read(name, width):
            return Out(wiring.Signature({
                "enable": Out(1), "address": Out(range(spec.words(name))), "data": In(width),
                "ready": In(1)}))

        super().__init__({
            "start": In(1), "op": In(OPERATION), "id": In(1), "busy": Out(1),
            "progress": Out(PROGRESS), "is_block": Out(1),
            "read_request": Out(stream.Signature(REQUEST)),
            "read_data": In(stream.Signature(response(spec))),
            "write_request": Out(stream.Signature(REQUEST)),
            "write_data": Out(stream.Signature(write_beat(spec))),
            "write_response": In(stream.Signature(1)),
            "activation_write": write("activation", block),
            "residual_write": write("residual", 16 * spec.columns),
            "activation_read": read("activation", block),
            "residual_read": read("residual", 16 * spec.columns),
        })

    def elaborate(self, platform):
        m = Module()
        spec, beat_bits = self.spec, 8 * self.spec.memory_bytes
        block_bits = 8 * spec.block_bytes["activation"]
        token_bits = 16 * spec.columns
        block_beats, token_beats = block_bits // beat_bits, token_bits // beat_bits

        is_block = self.is_block

        address = Signal(32, reset_less=True)  # of the next request
        ask_left = Signal(16 + log2(block_beats) + 1, reset_less=True)  # beats to ask for
        some_left = Signal()
        run = Signal.like(ask_left, reset_less=True)  # beats of a run
        run_left = Signal.like(ask_left, reset_less=True)
        skip = Signal.like(ask_left, reset_less=True)  # beats that are left out behind it
        run_ends = Signal()
        ahead = Signal(range(AHEAD + BURST + 1))  # beats asked for that have not come
        words_left = Signal(16, reset_less=True)
        at = Signal(16, reset_less=True)  # word address
        # Beats have their places in the buffer, those of a word the last ones; so what is sent or
        # taken, which is known late, moves none of them
        quick = token_beats == 1  # then it can be a queue of READ_AHEAD tokens
        lanes = max(block_beats, token_beats, READ_AHEAD * quick)
        buffer = [Signal(beat_bits, name=f"buffer_{n}", reset_less=True) for n in range(lanes)]
        lane = Signal(range(max(lanes, 2)), reset_less=True)
        first_lane = Signal.like(lane, reset_less=True)
        put = Signal.like(lane, reset_less=True)  # of the queue, where the next token goes
        last_lane = Signal()
        next_lane = Signal.like(lane)
        m.d.comb += [last_lane.eq(lane == lanes - 1),
                     next_lane.eq(Mux(last_lane, first_lane, lane + 1))]
        full = Signal()
        chunk = Signal(range(BURST + 1))
        loading = Signal()
        m.d.comb += [
            chunk.eq(Mux(run_ends, run_left, BURST)),
            run_ends.eq(run_left <= BURST),
            self.progress.limit.eq(Mux(loading, at, 0)),
            self.read_request.payload.address.eq(address),
            self.read_request.payload.beats.eq(chunk),
            self.write_request.payload.address.eq(address),
            self.write_request.payload.beats.eq(chunk),
            self.activation_write.address.eq(at), self.residual_write.address.eq(at),
            self.activation_write.data.eq(Cat(buffer)[-block_bits:]),
            self.residual_write.data.eq(Cat(buffer)[-token_bits:]),
            self.activation_read.address.eq(at), self.residual_read.address.eq(at),
            self.write_data.payload.data.eq(Array(buffer)[lane]),
            self.progress.done_id.eq(self.progress.id),
        ]
        m.d.sync += self.progress.done.eq(0)

        asked = ((self.read_request.valid & self.read_request.ready)
                 | (self.write_request.valid & self.write_request.ready))
        with m.If(asked):
            more = Signal.like(ask_left)  # behind the run
            m.d.comb += more.eq(ask_left - run_left)
            m.d.sync += [
                ask_left.eq(ask_left - chunk), some_left.eq(~run_ends | (ask_left != run_left)),
                run_left.eq(run_left - chunk),
                address.eq(address + ((chunk + Mux(run_ends, skip, 0)) << log2(spec.memory_bytes))),
            ]
            with m.If(run_ends):
                m.d.sync += run_left.eq(Mux(more < run, more, run))

        reading = self.read_request.valid & self.read_request.ready
        m.d.sync += ahead.eq(ahead + Mux(reading, chunk, 0)
                             - (self.read_data.valid & self.read_data.ready))

        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                with m.If(self.start):
                    block = self.op.place == Place.ACTIVATION

                    def beats(words):
                        return Mux(block, words << log2(block_beats), words << log2(token_beats))

                    first = Mux((self.op.width == 0) | (self.op.width > self.op["keys"]),
                                self.op["keys"], self.op.width)
                    m.d.sync += [
                        is_block.eq(block), some_left.eq(1), address.eq(self.op.address),
                        words_left.eq(self.op["keys"]), at.eq(self.op.target), full.eq(0),
                        self.progress.error.eq(0), self.progress.id.eq(self.id),
                        ask_left.eq(beats(self.op["keys"])), run_left.eq(beats(first)),
                        run.eq(beats(first)), skip.eq(beats(self.op.target_stride)),
                        loading.eq(self.op.opcode == Opcode.LOAD),
                    ]
                    begin = Signal.like(lane)
                    m.d.comb += begin.eq(Mux(block, lanes - block_beats, lanes - token_beats))
                    m.d.sync += [lane.eq(begin), first_lane.eq(begin)]
                    with m.If(self.op.opcode == Opcode.LOAD):
                        m.next = "LOAD"
                    with m.Else():
                        if quick:
                            with m.If(~block):
                                for place in (lane, first_lane, put):
                                    m.d.sync += place.eq(lanes - READ_AHEAD)
                        m.next = "REQUEST"

            with m.State("LOAD"):
                wrote = Signal()
                m.d.comb += [
                    self.read_request.valid.eq(some_left & (ahead <= AHEAD)),
                    self.activation_write.valid.eq(full & is_block),
                    self.residual_write.valid.eq(full & ~is_block),
                    wrote.eq(full & Mux(is_block, self.activation_write.ready,
                                        self.residual_write.ready)),
                    self.read_data.ready.eq(~full | wrote),
                ]
                with m.If(wrote):
                    m.d.sync += [full.eq(0), at.eq(at + 1), words_left.eq(words_left - 1)]
                    with m.If(words_left == 1):
                        m.d.sync += self.progress.done.eq(1)
                        m.next = "IDLE"
                # What is taken is known late; that a place is free, early: it is filled in any case
                for n, part in enumerate(buffer):
                    with m.If((lane == n) & ((n != first_lane) | ~full | wrote)):
                        m.d.sync += part.eq(self.read_data.payload.data)
                with m.If(self.read_data.valid & self.read_data.ready):
                    m.d.sync += [lane.eq(next_lane), full.eq(last_lane)]
                    with m.If(self.read_data.payload.error):
                        m.d.sync += self.progress.error.eq(1)

            unread = Signal.like(chunk, reset_less=True)
            with m.State("REQUEST"):
                left = Signal(range(BURST + 1), reset_less=True)  # beats of the request to send
                m.d.comb += self.write_request.valid.eq(1)
                with m.If(self.write_request.ready):
                    m.d.sync += left.eq(chunk)
                    m.next = "SEND"
                    with m.If(~full):
                        m.next = "READ"
                    if quick:
                        with m.If(~is_block):
                            m.d.sync += unread.eq(chunk)
                            m.next = "STREAM"
            if quick:
                with m.State("STREAM"):
                    level = Signal(range(READ_AHEAD + 1))
                    coming = Signal()
                    read = Signal()
                    sent = Signal()
                    m.d.comb += [
                        self.residual_read.enable.eq((unread != 0) & (level + coming < READ_AHEAD)),
                        read.eq(self.residual_read.enable & self.residual_read.ready),
                        self.write_data.valid.eq(level != 0),
                        self.write_data.payload.last.eq(left == 1),
                        sent.eq(self.write_data.valid & self.write_data.ready),
                    ]
                    m.d.sync += [coming.eq(read), left.eq(left - sent),
                                 level.eq(level + coming - sent)]
                    with m.If(read):  # known late: not the carry of an adder
                        m.d.sync += [at.eq(at + 1), unread.eq(unread - 1)]
                    with m.If(sent):
                        m.d.sync += lane.eq(next_lane)
                    with m.If(coming):
                        m.d.sync += put.eq(Mux(put == lanes - 1, lanes - READ_AHEAD, put + 1))
                    for n in range(lanes - READ_AHEAD, lanes):
                        with m.If(coming & (put == n)):
                            m.d.sync += buffer[n].eq(self.residual_read.data)
                    with m.If(sent & (left == 1)):
                        m.next = "RESPONSE"
            with m.State("READ"):
                m.d.comb += [self.activation_read.enable.eq(is_block),
                             self.residual_read.enable.eq(~is_block)]
                with m.If(Mux(is_block, self.activation_read.ready, self.residual_read.ready)):
                    m.d.sync += at.eq(at + 1)
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.sync += full.eq(1)
                with m.If(is_block):
                    m.d.sync += Cat(buffer)[-block_bits:].eq(self.activation_read.data)
                with m.Else():
                    m.d.sync += Cat(buffer)[-token_bits:].eq(self.residual_read.data)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [self.write_data.valid.eq(1),
                             self.write_data.payload.last.eq(left == 1),
                             # at once the next word; if this one is not taken, again
                             self.residual_read.enable.eq(~is_block & last_lane)]
                with m.If(self.write_data.ready):
                    m.d.sync += [lane.eq(next_lane), left.eq(left - 1)]
                    with m.If(last_lane):
                        m.d.sync += full.eq(0)
                        m.next = "READ"
                        with m.If(~is_block & self.residual_read.ready & (left != 1)):
                            m.d.sync += at.eq(at + 1)
                            m.next = "TAKE"
                    with m.If(left == 1):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += self.write_response.ready.eq(1)
                with m.If(self.write_response.valid):
                    with m.If(self.write_response.payload):
                        m.d.sync += self.progress.error.eq(1)
                    with m.If(some_left):
                        m.next = "REQUEST"
                    with m.Else():
                        m.d.sync += self.progress.done.eq(1)
                        m.next = "IDLE"
        return m
