# SPDX-License-Identifier: Apache-2.0
"""Operations of whole networks: LINEAR, NORM, LOAD, FUSE."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.operation import Opcode
from golden.spatten.operation import Target
from golden.spatten.spec import SpattenSpec
from golden.validate import require
from hw.contract import write_beat
from hw.spatten.dispatch import OPERATION
from hw.spatten.fuse import Fuse
from hw.spatten.layouts import (
    bits,
    fetch,
    fetched,
    job,
    load,
    score,
    scored,
    token_amount,
    weigh,
    write_request,
)
from hw.spatten.linear import Linear
from hw.spatten.norm import Norm
from hw.spatten.reader import Reader
from hw.spatten.walk import Walk
from hw.spatten.writer import Writer


class Encoder(wiring.Component):
    """Execute LINEAR, NORM, LOAD and FUSE, one after the other, as the emulator does.

    ::

        op --+--> Linear ---------+--> vectors, numbers --> Writer --> writes
             |                    |
             +--> Walk --> Norm --+
             |      +----> Fuse --+
             |                    |
             +--> LOAD -----------+--> requests --> Reader --> fetch ~~> fetched
                    |
                    +--> constants, table, importance

    An operation is executed while it is offered, and taken when all its writes have been answered;
    then it is ``done``. One without a token, or ``by_head`` without a head that is left, does
    nothing. After an error the operation goes on; what it wrote is undefined. Beats that are read
    but that nobody asked for, behind the last one of a LOAD, cannot be an error.

    A LOAD of constants or table takes a beat per cycle, one of importance a token, the others what
    :class:`~hw.spatten.norm.Norm` and :class:`~hw.spatten.linear.Linear` say; each operation 4
    cycles more, and the latencies of its last read and write.

    Cost: 123.9 kGE as ``paper``, 20.5 of it registers, beside 139,030 bits of memory; 43.3 as
    ``tiny``, of which LayerNorm is 20.9, LINEAR 16.1.

    Parameters
    ----------
    spec : SpattenSpec
        With local memories.

    Members
    -------
    op : ``In(stream.Signature(OPERATION))``
        One of the three that was found good. It may begin when nothing else is under way.
    heads, pruned, tokens : ``In(spec.max_heads)``, ``In(1)``, ``In(spec.max_tokens)``
        What PRUNE left; constant during an operation.
    busy : ``Out(1)``
        An operation is under way: nothing is offered otherwise.
    done : ``Out(stream.Signature(1))``
        The end of the operation that was taken; 1: something was wrong with a beat or a write.
    fetch : ``Out(stream.Signature(fetch(spec)))``, fetch_channel : ``Out``
    fetched : ``In(Signature({"valid": Out(1), "payload": Out(fetched(spec))}))``
        What the channels give, broadcast.
    job : ``Out(stream.Signature(job(spec)))``
        For all channels.
    scored : ``In(stream.Signature(scored(spec))).array(channels)``
    read_enable, read_address : ``Out``; read_data : ``In(ArrayLayout(score(spec), channels))``
        The score memories, a cycle later.
    write_request, write_data, write_response
        See :class:`~hw.spatten.writer.Writer`.
    load : ``Out(stream.Signature(load(spec)))``
        For all channels.
    loaded : ``In(stream.Signature(1)).array(channels)``
        The end of each channel's; 1: an error.
    importance : ``Out(token_amount(spec))``
        What a LOAD makes the importance of tokens.
    gone, weigh, back : with ``spec.fuse``, see :class:`~hw.spatten.prune.PruneUnit`.
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        require(spec.local > 0, f"local must be at least 16, not {spec.local}")
        self._spec = spec
        super().__init__({
            "op": In(stream.Signature(OPERATION)),
            "heads": In(spec.max_heads),
            "pruned": In(1),
            "tokens": In(spec.max_tokens),
            "busy": Out(1),
            "done": Out(stream.Signature(1)),
            "fetch": Out(stream.Signature(fetch(spec))),
            "fetch_channel": Out(bits(spec.channels)),
            "fetched": In(wiring.Signature({"valid": Out(1), "payload": Out(fetched(spec))})),
            "job": Out(stream.Signature(job(spec))),
            "scored": In(stream.Signature(scored(spec))).array(spec.channels),
            "read_enable": Out(1),
            "read_address": Out(bits(spec.score_rows)),
            "read_data": In(data.ArrayLayout(score(spec), spec.channels)),
            "write_request": Out(stream.Signature(write_request(spec))),
            "write_data": Out(stream.Signature(write_beat(spec))),
            "write_response": In(stream.Signature(1)),
            "load": Out(stream.Signature(load(spec))),
            "loaded": In(stream.Signature(1)).array(spec.channels),
            "importance": Out(token_amount(spec)),
        } | ({"gone": In(spec.max_tokens), "weigh": Out(weigh(spec)),
              "back": Out(wiring.Signature({"valid": Out(1), "token": Out(bits(spec.max_tokens))}))}
             if spec.fuse else {}))

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, op = self._spec, self.op.payload
        m.submodules.walk = walk = Walk(spec, 2)
        m.submodules.norm = norm = Norm(spec)
        m.submodules.linear = linear = Linear(spec)
        m.submodules.reader = reader = Reader(spec)
        m.submodules.writer = writer = Writer(spec)
        m.submodules.constants = constants = Memory(
            shape=8 * spec.memory_bytes, depth=spec.constant_words, init=[],
            attrs={"no_rw_check": "1"})
        read, write = constants.read_port(), constants.write_port()
        connect(m, flipped(self.fetched), reader.fetched)
        connect(m, flipped(self.fetched), linear.fetched)
        connect(m, linear.job, flipped(self.job))
        for mine, its in zip(self.scored, linear.scored):
            connect(m, flipped(mine), its)
        for name in ("request", "data"):
            connect(m, getattr(writer, f"write_{name}"), flipped(getattr(self, f"write_{name}")))
        connect(m, flipped(self.write_response), writer.write_response)
        m.d.comb += [
            walk.tokens.eq(op.tokens), walk.dense.eq(op.dense), walk.pruned.eq(self.pruned),
            walk.mask.eq(self.tokens), walk.rotation.eq(op.rotation),
            walk.base[0].eq(op.query), walk.stride[0].eq(op.query_stride),
            walk.base[1].eq(op.output), walk.stride[1].eq(op.output_stride),
            norm.inputs.eq(op.inputs), norm.count.eq(op["count"]),
            norm.constant.eq(op.constant), norm.shift.eq(op.shift),
            norm.constants.data.eq(read.data), linear.constant_data.eq(read.data),
            linear.op.payload.eq(op), linear.heads.eq(self.heads),
            linear.pruned.eq(self.pruned), linear.tokens.eq(self.tokens),
            self.read_enable.eq(linear.read_enable), self.read_address.eq(linear.read_address),
            linear.read_data.eq(self.read_data),
        ]
        self._fetch(m, reader, linear)
        fuses = Signal()
        m.d.comb += [fuses.eq((op.opcode == Opcode.FUSE) & spec.fuse),
                     norm.token.valid.eq(walk.o.valid & ~fuses),
                     norm.token.payload.eq(walk.o.payload), walk.o.ready.eq(norm.token.ready)]
        fuse = self._fuse(m, walk, fuses) if spec.fuse else None
        with m.If(op.opcode == Opcode.LINEAR):
            connect(m, linear.vector, writer.vector)
            connect(m, linear.o, writer.i)
            m.d.comb += [read.en.eq(linear.constant_enable),
                         read.addr.eq(linear.constant_address)]
        if fuse:
            with m.Elif(fuses):
                connect(m, fuse.vector, writer.vector)
                connect(m, fuse.o, writer.i)
        with m.Else():
            connect(m, norm.vector, writer.vector)
            connect(m, norm.o, writer.i)
            m.d.comb += [read.en.eq(norm.constants.enable), read.addr.eq(norm.constants.address)]

        # What a LOAD reads that is not for the local memories: whole vectors, the last of which
        # may be cut; importance goes on number by number
        asked = Signal(17, reset_less=True)
        came = Signal(17, reset_less=True)
        beat, o = Signal(), reader.o.payload
        loads = Signal()
        wanted = Signal()
        numbers = spec.memory_bytes // 4  # of a beat of importance
        number = Signal(range(numbers))
        token = Signal(range(spec.importance_words * numbers))
        important = Signal()
        taken = Signal()
        m.d.comb += [
            wanted.eq(came < op["count"]),
            important.eq(beat & (op.target == Target.IMPORTANCE)),
            token.eq(Cat(number, (op.constant + came)[:len(token) - len(number)])),
            self.importance.valid.eq(important & (token < spec.max_tokens)),
            self.importance.token.eq(token),
            self.importance.amount.eq(o.numbers.as_value().word_select(number, 32)),
            taken.eq(reader.o.valid & (~important | (number == numbers - 1))),
            beat.eq(loads & reader.o.valid & wanted),
            write.en.eq(beat & (op.target == Target.CONSTANTS)),
            write.addr.eq(op.constant + came), write.data.eq(o.numbers),
            linear.load.valid.eq(beat & (op.target == Target.TABLE)),
            linear.load.payload.address.eq(op.constant + came),
            linear.load.payload.entries.as_value().eq(o.numbers),
        ]
        with m.If(loads):
            m.d.comb += [
                reader.request.valid.eq(asked < op["count"]),
                reader.request.payload.channel.eq(op.rotation & spec.channels - 1),
                reader.request.payload.beat.eq(op.key + asked),
                reader.o.ready.eq(taken),
            ]
            m.d.sync += [
                asked.eq(asked + Mux(reader.request.valid & reader.request.ready,
                                     spec.vector_beats, 0)),
                came.eq(came + taken), number.eq(number + important)]
        with m.Else():
            m.d.sync += [asked.eq(0), came.eq(0)]
            with m.If(op.opcode == Opcode.LINEAR):
                connect(m, linear.request, reader.request)
                connect(m, reader.o, linear.residual)
            if fuse:
                with m.Elif(fuses):
                    connect(m, fuse.request, reader.request)
                    connect(m, reader.o, fuse.beat)
            with m.Else():
                connect(m, norm.request, reader.request)
                connect(m, reader.o, norm.beat)

        # One operation after the other
        error = Signal()
        ended = Cat(one.valid for one in self.loaded).all()
        m.d.comb += [
            self.load.payload.source.eq(op.key), self.load.payload.target.eq(op.output),
            self.load.payload.beats.eq(op["count"]),
            self.done.payload.eq(error | writer.error),
        ]
        with m.If(norm.error | beat & o.error | (fuse.error if fuse else 0)):
            m.d.sync += error.eq(1)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += writer.clear.eq(1)
                m.d.sync += error.eq(0)
                with m.If(self.op.valid):
                    with m.If(op.opcode == Opcode.NORM):
                        m.d.comb += [walk.start.eq(1), norm.start.eq(1)]
                        m.next = "NORM"
                    if fuse:
                        with m.Elif(fuses):
                            m.d.comb += [walk.start.eq(1), fuse.start.eq(1)]
                            m.next = "FUSE"
                    with m.Elif(op.opcode == Opcode.LINEAR):
                        m.next = "LINEAR"
                    with m.Elif(op.target == Target.LOCAL):
                        m.next = "LOAD"
                    with m.Else():
                        m.next = "LOAD_HERE"
            with m.State("NORM"):
                with m.If(~walk.busy & ~norm.busy):
                    m.next = "END"
            if fuse:
                with m.State("FUSE"):
                    with m.If(~walk.busy & ~fuse.busy):
                        m.next = "END"
            with m.State("LINEAR"):
                m.d.comb += [linear.op.valid.eq(1), linear.finished.ready.eq(1)]
                with m.If(linear.finished.valid):
                    m.d.sync += error.eq(linear.finished.payload)
                    m.next = "END"
            with m.State("LOAD"):
                m.d.comb += self.load.valid.eq(1)
                with m.If(self.load.ready):
                    m.next = "LOADED"
            with m.State("LOADED"):
                m.d.comb += [one.ready.eq(ended) for one in self.loaded]
                with m.If(ended):
                    m.d.sync += error.eq(Cat(one.payload for one in self.loaded).any())
                    m.next = "END"
            with m.State("LOAD_HERE"):
                m.d.comb += loads.eq(1)
                with m.If(~wanted & (came == asked)):
                    m.next = "END"
            with m.State("END"):
                with m.If(writer.idle):
                    m.d.comb += self.op.ready.eq(1)
                    if fuse:
                        m.d.comb += self.back.valid.eq(fuses & ~walk.none)
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready):
                    m.next = "IDLE"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m

    def _fuse(self, m: Module, walk: Walk, fuses: Signal) -> Fuse:
        """Add what fuses the tokens that left, and show these to the walk."""
        op = self.op.payload
        m.submodules.fuse = fuse = Fuse(self._spec)
        m.d.comb += [
            fuse.inputs.eq(op.inputs), fuse.mul.eq(op.mul), fuse.shift.eq(op.shift),
            fuse.importance_shift.eq(op.importance_shift),
            fuse.token.payload.eq(walk.o.payload), self.back.token.eq(fuse.first),
        ]
        connect(m, fuse.weigh, flipped(self.weigh))
        with m.If(fuses):
            m.d.comb += [
                walk.dense.eq(0), walk.pruned.eq(1), walk.mask.eq(self.gone),
                walk.limit.eq(op.tokens),
                fuse.token.valid.eq(walk.o.valid), walk.o.ready.eq(fuse.token.ready),
            ]
        return fuse

    def _fetch(self, m: Module, reader: Reader, linear: Linear) -> None:
        """Give the fetches of both; who was offered and not taken stays."""
        kept = Signal()  # the linear layer's is offered
        inputs = Signal()
        m.d.comb += inputs.eq(kept | ~reader.fetch.valid)
        m.d.sync += kept.eq(inputs & linear.fetch.valid & ~self.fetch.ready)
        with m.If(inputs):
            connect(m, linear.fetch, flipped(self.fetch))
            m.d.comb += self.fetch_channel.eq(linear.fetch_channel)
        with m.Else():
            connect(m, reader.fetch, flipped(self.fetch))
            m.d.comb += self.fetch_channel.eq(reader.fetch_channel)
