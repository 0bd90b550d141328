# SPDX-License-Identifier: Apache-2.0
"""LOAD and STORE: consecutive words between external memory and a buffer."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.operation import Opcode
from golden.rowwise.cycles import AHEAD, BURST
from golden.rowwise.operation import Place
from golden.rowwise.spec import RowwiseSpec
from hw.rowwise.layouts import OPERATION, PROGRESS, REQUEST, log2, response


def write_beat(spec: RowwiseSpec) -> data.StructLayout:
    """One beat written to memory; ``last`` ends its request."""
    return data.StructLayout({"data": 8 * spec.memory_bytes, "last": 1})


class Mover(wiring.Component):
    """Execute LOAD and STORE.

    A word of the activation buffer is a block of all banks, so that LOAD writes at the rate of the
    memory: one beat per cycle, up to a latency of some ``AHEAD`` cycles; more requests under way
    would only delay the other reader. STORE takes ``beats + 2`` cycles for a word of ``beats``
    beats.

    Members
    -------
    start, op, id : begin an operation; only while ``busy`` is 0.
    read_request, read_data : LOAD.
    write_request, write_data, write_response : STORE; one response for each request.
    activation_write, residual_write : ``valid`` until the cycle of ``ready``.
    activation_read, residual_read : granted in the same cycle; only STORE reads, and it runs alone.
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
                "enable": Out(1), "address": Out(range(spec.words(name))), "data": In(width)}))

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

        place = Signal(3, reset_less=True)
        is_block = self.is_block
        m.d.comb += is_block.eq(place == Place.ACTIVATION)
        last_beat = Signal(range(max(block_beats, token_beats, 2)))
        m.d.comb += last_beat.eq(Mux(is_block, block_beats - 1, token_beats - 1))

        address = Signal(32, reset_less=True)  # of the next request
        ask_left = Signal(16 + log2(block_beats) + 1, reset_less=True)  # beats to ask for
        ahead = Signal(range(AHEAD + BURST + 1))  # beats asked for that have not come
        words_left = Signal(16, reset_less=True)
        at = Signal(16, reset_less=True)  # word address
        beat = Signal.like(last_beat)
        buffer = Signal(max(block_bits, token_bits), reset_less=True)
        full = Signal()
        chunk = Signal(range(BURST + 1))
        m.d.comb += [
            chunk.eq(Mux(ask_left > BURST, BURST, ask_left)),
            self.read_request.payload.address.eq(address),
            self.read_request.payload.beats.eq(chunk),
            self.write_request.payload.address.eq(address),
            self.write_request.payload.beats.eq(chunk),
            self.activation_write.address.eq(at), self.residual_write.address.eq(at),
            self.activation_write.data.eq(buffer[-block_bits:]),
            self.residual_write.data.eq(buffer[-token_bits:]),
            self.activation_read.address.eq(at), self.residual_read.address.eq(at),
            self.write_data.payload.data.eq(buffer[:beat_bits]),
            self.progress.done_id.eq(self.progress.id),
        ]
        m.d.sync += self.progress.done.eq(0)

        asked = ((self.read_request.valid & self.read_request.ready)
                 | (self.write_request.valid & self.write_request.ready))
        with m.If(asked):
            m.d.sync += [ask_left.eq(ask_left - chunk),
                         address.eq(address + (chunk << log2(spec.memory_bytes)))]

        reading = self.read_request.valid & self.read_request.ready
        m.d.sync += ahead.eq(ahead + Mux(reading, chunk, 0)
                             - (self.read_data.valid & self.read_data.ready))

        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                with m.If(self.start):
                    block = self.op.place == Place.ACTIVATION
                    m.d.sync += [
                        place.eq(self.op.place), address.eq(self.op.address),
                        words_left.eq(self.op["keys"]), at.eq(self.op.target), beat.eq(0),
                        full.eq(0), self.progress.error.eq(0), self.progress.id.eq(self.id),
                        ask_left.eq(Mux(block, self.op["keys"] << log2(block_beats),
                                        self.op["keys"] << log2(token_beats))),
                    ]
                    with m.If(self.op.opcode == Opcode.LOAD):
                        m.next = "LOAD"
                    with m.Else():
                        m.next = "REQUEST"

            with m.State("LOAD"):
                wrote = Signal()
                m.d.comb += [
                    self.progress.limit.eq(at),
                    self.read_request.valid.eq((ask_left != 0) & (ahead <= AHEAD)),
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
                with m.If(self.read_data.valid & self.read_data.ready):
                    m.d.sync += [
                        buffer.eq(Cat(buffer, self.read_data.payload.data)[beat_bits:]),
                        beat.eq(Mux(beat == last_beat, 0, beat + 1)), full.eq(beat == last_beat),
                    ]
                    with m.If(self.read_data.payload.error):
                        m.d.sync += self.progress.error.eq(1)

            with m.State("REQUEST"):
                left = Signal(range(BURST + 1), reset_less=True)  # beats of the request to send
                m.d.comb += self.write_request.valid.eq(1)
                with m.If(self.write_request.ready):
                    m.d.sync += left.eq(chunk)
                    m.next = "SEND"
                    with m.If(~full):
                        m.next = "READ"
            with m.State("READ"):
                m.d.comb += [self.activation_read.enable.eq(is_block),
                             self.residual_read.enable.eq(~is_block)]
                m.d.sync += at.eq(at + 1)
                m.next = "TAKE"
            with m.State("TAKE"):
                m.d.sync += [buffer.eq(Mux(is_block, self.activation_read.data,
                                           self.residual_read.data)), full.eq(1)]
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [self.write_data.valid.eq(1),
                             self.write_data.payload.last.eq(left == 1)]
                with m.If(self.write_data.ready):
                    m.d.sync += [buffer.eq(buffer >> beat_bits), left.eq(left - 1),
                                 beat.eq(beat + 1)]
                    with m.If(beat == last_beat):
                        m.d.sync += [beat.eq(0), full.eq(0)]
                        m.next = "READ"
                    with m.If(left == 1):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += self.write_response.ready.eq(1)
                with m.If(self.write_response.valid):
                    with m.If(self.write_response.payload):
                        m.d.sync += self.progress.error.eq(1)
                    with m.If(ask_left != 0):
                        m.next = "REQUEST"
                    with m.Else():
                        m.d.sync += self.progress.done.eq(1)
                        m.next = "IDLE"
        return m
