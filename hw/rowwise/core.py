# SPDX-License-Identifier: Apache-2.0
"""The row-wise core: engines, buffers, and the arbitration of their ports."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.operation import DESCRIPTOR_BYTES, Opcode, Status
from golden.rowwise.operation import Importance
from golden.rowwise.spec import RowwiseSpec
from golden.scratchpad import ScratchpadSpec
from hw.array.array import MacArray
from hw.attention.softmax import Softmax
from hw.contract import COMPLETION, COUNTER_BITS, REQUEST, response, write_beat
from hw.memory.scratchpad import Scratchpad
from hw.rowwise.collect import Collector
from hw.rowwise.decode import Decoder
from hw.rowwise.feed import STALLS, Feeder
from hw.rowwise.fetch import FETCH, Fetcher, uses_stream
from hw.rowwise.layouts import (
    OPERATION,
    Engine,
    exponent_words,
    length_layout,
    log2,
)
from hw.rowwise.move import Mover
from hw.rowwise.normalise import Normaliser
from hw.rowwise.prune import Selector
from hw.rowwise.sequence import Sequencer
from hw.stream import Queue, Slice

COUNTERS = ("cycles", "busy", "stall_norm", *(f"stall_{name}" for name in STALLS), "stall_move",
            "stall_order", "idle", "beats_read", "beats_written", "weight_reads", "steps_skipped",
            "softmax", "norm")
"""Free-running counters, two cycles behind. Each cycle is one of: busy (a step was issued), one
of the stalls of a tile that was next (stall_norm where the rows it waits for are those of a NORM at
work, else stall_rows), stall_move (no tile, and a LOAD or STORE under way), stall_order (no tile,
although operations are under way or wait), idle. So these add up to ``cycles``. The others count
what was done: beats, words of weights read, steps that were skipped, words of exponents, words of
normalised rows."""


class RowwiseCore(wiring.Component):
    """Execute programs of row-wise operations, as :class:`golden.rowwise.emulator.Emulator` does.

    ::

        operation -> Decoder -+-> Fetcher ---> ring, scales, tables
                              +-> Sequencer -> Feeder -> MacArray -> Collector -> buffers
                                     |                      softmax <-+   +-> exponents -> Feeder
                                     +-------> Normaliser (LayerNorm)
                                     +-------> Mover (LOAD, STORE)
                                     +-------> Selector (importance, PRUNE)

    Throughput: ``rows * columns * depth`` multiplications per cycle, less what
    :func:`golden.rowwise.cycles.predict` counts.

    Members
    -------
    operation : ``In(stream.Signature(512))``
        Descriptors, see :data:`golden.rowwise.operation.LAYOUT`.
    completion : ``Out(stream.Signature(COMPLETION))``
        Tag and status of each operation, in order.
    read_request, read_data : requests for consecutive beats, and the beats, in order.
    write_request, write_data, write_response : writes, and a response (1: error) to each request.
    counters : ``Out(StructLayout)`` of 40-bit counters, see :data:`COUNTERS`.

    Source: see :mod:`golden.rowwise`.
    """

    def __init__(self, spec: RowwiseSpec):
        if not isinstance(spec, RowwiseSpec):
            raise TypeError(f"spec must be a RowwiseSpec, not {spec!r}")
        self.spec = spec
        super().__init__({
            "operation": In(stream.Signature(8 * DESCRIPTOR_BYTES)),
            "completion": Out(stream.Signature(COMPLETION)),
            "read_request": Out(stream.Signature(REQUEST)),
            "read_data": In(stream.Signature(response(spec))),
            "write_request": Out(stream.Signature(REQUEST)),
            "write_data": Out(stream.Signature(write_beat(spec))),
            "write_response": In(stream.Signature(1)),
            "counters": Out(data.StructLayout({name: COUNTER_BITS for name in COUNTERS})),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        m.submodules.decoder = decoder = Decoder(spec)
        m.submodules.sequencer = sequencer = Sequencer(spec)
        m.submodules.fetcher = fetcher = Fetcher(spec)
        m.submodules.feeder = feeder = Feeder(spec)
        m.submodules.array = array = MacArray(spec.mac)
        m.submodules.collector = collector = Collector(spec)
        m.submodules.softmax = softmax = Softmax(spec.softmax)
        m.submodules.normaliser = normaliser = Normaliser(spec)
        m.submodules.mover = mover = Mover(spec)

        self._operations(m, decoder, fetcher, sequencer)
        self._engines(m, sequencer, fetcher, feeder, collector, normaliser, mover)
        self._reads(m, fetcher, mover)
        connect(m, mover.write_request, flipped(self.write_request))
        connect(m, mover.write_data, flipped(self.write_data))
        connect(m, flipped(self.write_response), mover.write_response)
        connect(m, feeder.o, array.i)
        connect(m, array.o, collector.i)
        connect(m, feeder.tile, collector.tile)
        selector = None
        if spec.pruning != "none":
            m.submodules.selector = selector = Selector(spec)
            self._prune(m, selector, softmax, sequencer, collector, normaliser)
        self._softmax(m, softmax, sequencer, fetcher, feeder, collector, selector)
        self._weights(m, fetcher, feeder, collector, normaliser)
        self._buffers(m, feeder, collector, normaliser, mover)
        if spec.skip_words:
            self._lists(m, feeder, collector)
        self._count(m, sequencer, feeder, softmax, normaliser, mover)
        return m

    def _operations(self, m, decoder, fetcher, sequencer):
        """Decoded operations go to the fetcher and, through a queue, to the sequencer."""
        spec = self.spec
        m.submodules.pending = pending = Queue(shape=OPERATION, depth=spec.queue_depth)
        m.submodules.prefetch = prefetch = Queue(shape=FETCH, depth=spec.queue_depth)
        connect(m, flipped(self.operation), decoder.i)
        op = decoder.o.payload
        fetched = Signal()
        streamed = Signal()  # known long before it leaves; but a FUSE turns into a PRUNE only then
        m.d.sync += streamed.eq(uses_stream(op) | (op.opcode == Opcode.FUSE))
        m.d.comb += [
            fetched.eq(streamed & (op.status == Status.OK)),
            pending.i.payload.eq(op),
            *(prefetch.i.payload[name].eq(op[name]) for name in dict(FETCH) if name != "token"),
            prefetch.i.payload.token.eq(Mux(op.live, op.token[:spec.max_keys.bit_length()], 0)
                                        if spec.pruning != "none" else 0),
            pending.i.valid.eq(decoder.o.valid & (prefetch.i.ready | ~fetched)),
            prefetch.i.valid.eq(decoder.o.valid & fetched & pending.i.ready),
            decoder.o.ready.eq(pending.i.ready & (prefetch.i.ready | ~fetched)),
        ]
        connect(m, pending.o, sequencer.i)
        connect(m, prefetch.o, fetcher.i)
        connect(m, sequencer.completion, flipped(self.completion))

    def _engines(self, m, sequencer, fetcher, feeder, collector, normaliser, mover):
        """Starts out, progress back."""
        for n, engine in enumerate((feeder, normaliser, mover)):
            m.d.comb += [engine.start.eq(sequencer.start[n]), engine.op.eq(sequencer.op),
                         engine.id.eq(sequencer.id), sequencer.busy[n].eq(engine.busy)]
        m.d.comb += [normaliser.most.eq(sequencer.most), normaliser.pruned.eq(sequencer.pruned),
                     fetcher.settled.eq(sequencer.settled), fetcher.tokens.eq(sequencer.tokens),
                     sequencer.counted.eq(fetcher.counted)]
        m.d.comb += [feeder.skip.eq(sequencer.skip), feeder.chain.eq(sequencer.chain),
                     normaliser.chain.eq(sequencer.chain), feeder.collecting.eq(collector.busy)]
        array = sequencer.array  # the collector's, or the end of a skipped operation
        m.d.comb += [
            array.limit.eq(collector.progress.limit), array.id.eq(collector.progress.id),
            array.done.eq(collector.progress.done | feeder.skipped),
            array.done_id.eq(Mux(feeder.skipped, feeder.skipped_id, collector.progress.done_id)),
        ]
        for consumer in (feeder, normaliser):
            for name in ("limit", "id", "done", "done_id"):
                m.d.comb += getattr(consumer.array, name).eq(getattr(array, name))
        for port, source in ((sequencer.norm, normaliser), (feeder.norm, normaliser),
                             (sequencer.move, mover), (feeder.move, mover),
                             (normaliser.move, mover)):
            for name in ("limit", "id", "done", "done_id", "error"):
                m.d.comb += getattr(port, name).eq(getattr(source.progress, name))
        # what is loaded into the other buffer is complete when the LOAD is
        with m.If(mover.is_block):
            m.d.comb += normaliser.move.limit.eq(0)
        with m.Else():
            m.d.comb += feeder.move.limit.eq(0)
        m.d.comb += [
            sequencer.passed.eq(fetcher.passed), sequencer.loaded.eq(fetcher.loaded),
            fetcher.retired.eq(sequencer.retired), sequencer.error.eq(fetcher.error),
            sequencer.error_number.eq(fetcher.error_number),
            fetcher.error_clear.eq(sequencer.error_clear),
            collector.configs.eq(sequencer.configs), collector.started.eq(sequencer.start[0]),
            collector.started_id.eq(sequencer.id),
        ]

    def _reads(self, m, fetcher, mover):
        """Two readers share the read port, in turn; beats return in the order of the requests.

        Slices at each of them, not behind them, keep their states apart.
        """
        asked, given = [], []
        for name, request, beat in (("fetcher", fetcher.request, fetcher.data),
                                    ("mover", mover.read_request, mover.read_data)):
            m.submodules[f"{name}_requests"] = part = Slice(REQUEST)
            connect(m, request, part.i)
            asked.append(part.o)
            m.submodules[f"{name}_data"] = part = Slice(self.read_data.payload.shape())
            connect(m, part.o, beat)
            given.append(part.i)
        turn = Signal()  # who goes first: who did not last, or who has been offered
        source = Signal()
        offered = Signal()
        accepted = Signal()
        under_way = data.StructLayout({"mover": 1, "last_beat": 16})
        m.submodules.readers = readers = Queue(shape=under_way, depth=16)
        request = Signal(REQUEST)
        beats = Signal(16)
        taken = Signal()
        m.d.comb += [
            source.eq(Mux(turn, asked[1].valid, ~asked[0].valid)),
            offered.eq(asked[0].valid | asked[1].valid),
            accepted.eq(self.read_request.ready & readers.i.ready),
            *(one.ready.eq(accepted & (source == n)) for n, one in enumerate(asked)),
            request.eq(Mux(source, asked[1].payload, asked[0].payload)),
            self.read_request.valid.eq(offered & readers.i.ready),
            self.read_request.payload.eq(request),
            readers.i.valid.eq(offered & self.read_request.ready),
            readers.i.payload.mover.eq(source),
            readers.i.payload.last_beat.eq(request.beats - 1),
            *(one.valid.eq(self.read_data.valid & (readers.o.payload.mover == n))
              for n, one in enumerate(given)),
            *(one.payload.eq(self.read_data.payload) for one in given),
            self.read_data.ready.eq(Mux(readers.o.payload.mover, given[1].ready, given[0].ready)),
            taken.eq(self.read_data.valid & self.read_data.ready),
            readers.o.ready.eq(taken & (beats == readers.o.payload.last_beat)),
        ]
        with m.If(offered):
            m.d.sync += turn.eq(source ^ accepted)
        with m.If(taken):
            m.d.sync += beats.eq(Mux(readers.o.ready, 0, beats + 1))

    def _prune(self, m, selector, softmax, sequencer, collector, normaliser):
        """Exponents and their reciprocals to the importance; tokens kept to the normaliser."""
        word = softmax.o.payload
        op = sequencer.op
        m.d.comb += [
            selector.attend.eq(sequencer.start[0] & (op.opcode == Opcode.ATTEND)
                             & (op.importance != Importance.NONE)),
            selector.attend_id.eq(sequencer.id), selector.configs.eq(sequencer.configs),
            selector.score.eq(softmax.i.valid & softmax.i.ready),
            selector.score_id.eq(collector.score_id), softmax.watch.eq(selector.watch),
            selector.valid.eq(softmax.o.valid & softmax.o.ready),
            selector.exponents.eq(word.exponents), selector.last.eq(word.last),
            selector.watched.eq(softmax.watched), selector.found.eq(softmax.found),
            selector.start.eq(sequencer.start[Engine.SELECT]), selector.op.eq(op),
            sequencer.select.done.eq(selector.done), sequencer.select.tokens.eq(selector.tokens),
            selector.kept.addr.eq(normaliser.kept.addr),
            normaliser.kept.data.eq(selector.kept.data),
        ]
        if self.spec.fuse:
            m.d.comb += [
                normaliser.tokens.eq(sequencer.tokens), normaliser.fused.eq(selector.fused),
                normaliser.seen.eq(selector.seen), selector.weight.addr.eq(normaliser.weight.addr),
                normaliser.weight.data.eq(selector.weight.data),
            ]

    def _softmax(self, m, softmax, sequencer, fetcher, feeder, collector, selector):
        """Scores in, exponents into their double buffer, factors back to the collector."""
        spec = self.spec
        connect(m, collector.score, softmax.i)
        setting = sequencer.configs[collector.score_id]
        m.d.comb += [
            softmax.keys.eq(collector.score_keys),
            softmax.mul.eq(setting.mul),
            softmax.load.valid.eq(fetcher.exponent.valid),
            softmax.load.payload.address.eq(fetcher.exponent.address),
            softmax.load.payload.entries.eq(fetcher.exponent.entries),
        ]
        connect(m, softmax.o_factor, collector.factor)
        words = exponent_words(spec)
        parts = spec.word_bytes // spec.columns
        m.submodules.exponents = exponents = Scratchpad(ScratchpadSpec(
            banks=spec.rows, words=2 * words, width=8 * spec.word_bytes, segment=8 * spec.columns))
        slots = Signal(range(3), init=2)  # free slots
        slot = Signal()
        word = softmax.o.payload
        put = Signal()
        m.d.comb += [
            softmax.o.ready.eq((slots != 0) & (selector.ready if selector else 1)),
            put.eq(softmax.o.valid & softmax.o.ready),
            feeder.scored.eq(put & word.last), feeder.slot_ready.eq(collector.slot_ready),
        ]
        m.d.sync += slots.eq(slots - (put & word.last) + collector.slot_free)
        with m.If(put & word.last):
            m.d.sync += slot.eq(~slot)
        with m.If(put):
            m.d.comb += exponents.write.enable.eq(1 << word.row)
        # The parts of a word behind the one written get zeros: the end of a row is always clean
        part = word.word[:log2(parts)] if parts > 1 else 0
        lanes = word.exponents.as_value()
        for bank in range(spec.rows):
            m.d.comb += exponents.write.address[bank].eq(
                Mux(slot, words, 0) + (word.word >> log2(parts)))
            for p in range(parts):
                m.d.comb += exponents.write.data[bank][p * len(lanes):(p + 1) * len(lanes)].eq(
                    Mux(part == p, lanes, 0))
        m.d.comb += exponents.write.segments.eq(((1 << parts) - 1) << part)
        _read(m, feeder.exponent, exponents)

    def _weights(self, m, fetcher, feeder, collector, normaliser):
        """Ring, scales and tables: written by the fetcher, read by the engines."""
        spec = self.spec
        m.submodules.ring = ring = Memory(shape=8 * spec.block_bytes["weight"],
                                          depth=spec.words("weight"), init=[])
        m.submodules.scales = scales = Memory(shape=54 * spec.columns, depth=spec.weight_tiles,
                                              init=[])
        for memory, write, read in ((ring, fetcher.weight, feeder.weight),
                                    (scales, fetcher.scale, collector.scale)):
            write_port, read_port = memory.write_port(), memory.read_port()
            m.d.comb += [
                write_port.en.eq(write.en), write_port.addr.eq(write.addr),
                write_port.data.eq(write.data), read_port.en.eq(read.en),
                read_port.addr.eq(read.addr), read.data.eq(read_port.data),
            ]
        m.d.comb += [
            feeder.written.eq(fetcher.weight.en), fetcher.release.eq(feeder.release),
            fetcher.release_words.eq(feeder.release_words),
            collector.load.valid.eq(fetcher.activation.valid),
            collector.load.payload.address.eq(fetcher.activation.address),
            collector.load.payload.entries.eq(fetcher.activation.entries),
            *(getattr(normaliser.load, name).eq(getattr(fetcher.norm, name))
              for name in ("valid", "address", "gamma", "beta")),
        ]

    def _buffers(self, m, feeder, collector, normaliser, mover):
        """Activation, key, value and residual buffers. Collector before normaliser before mover."""
        spec, columns = self.spec, self.spec.columns
        word_bits, row_bits = 8 * spec.word_bytes, 8 * columns
        parts = spec.word_bytes // columns
        m.submodules.activation = activation = Scratchpad(ScratchpadSpec(
            banks=spec.rows, words=spec.words("activation"), width=word_bits, segment=row_bits))
        m.submodules.key = key = Scratchpad(ScratchpadSpec(
            banks=columns, words=spec.words("key"), width=word_bits, segment=row_bits))
        m.submodules.value = value = Scratchpad(ScratchpadSpec(
            banks=spec.depth, words=spec.words("value"), width=row_bits, segment=row_bits))
        _read(m, feeder.key, key)
        _read(m, feeder.value, value)
        m.d.comb += [
            activation.read.enable.eq(feeder.activation.enable | mover.activation_read.ready),
            activation.read.address.eq(Mux(mover.activation_read.ready,
                                           mover.activation_read.address,
                                           feeder.activation.address)),
            feeder.taken.eq(mover.activation_read.enable & ~mover.activation_read.ready),
            feeder.activation.data.eq(activation.read.data),
            mover.activation_read.data.eq(activation.read.data.as_value()),
        ]
        # A step that the feeder has issued is read in the next cycle: the mover's turn is after it
        m.d.sync += mover.activation_read.ready.eq(feeder.taken)
        _write_row(m, key, collector.key, spec.word_bytes // columns)
        _write_row(m, value, collector.value, 1)

        # Rows of collector and normaliser go side by side unless they meet in a bank or differ in
        # the part of the word; a block of the mover needs all banks.
        one, other, block = collector.activation, normaliser.activation, mover.activation_write
        meet = one.bank == other.bank
        if parts > 1:
            meet = meet | (one.segment != other.segment)
        m.d.comb += [
            normaliser.activation_free.eq(~(one.enable & meet)),
            block.ready.eq(~one.enable & ~other.enable),
        ]
        # Written a cycle later, which is early enough for a step issued when the rows are known to
        # be there
        write = activation.write
        port = Signal(data.StructLayout({name: getattr(write, name).shape()
                                         for name in ("address", "data", "segments")}),
                      reset_less=True)
        m.d.sync += [port.segments.eq(-1), write.enable.eq(0)]
        m.d.comb += [getattr(write, name).eq(port[name]) for name in dict(port.shape())]
        if parts > 1:
            with m.If(one.enable | other.enable):
                m.d.sync += port.segments.eq(1 << Mux(one.enable, one.segment, other.segment))
        for n in range(spec.rows):
            mine = Signal(name=f"collector_writes_{n}")
            its = Signal(name=f"normaliser_writes_{n}")
            m.d.comb += [
                mine.eq(one.enable & (one.bank == n)),
                its.eq(other.enable & (other.bank == n) & normaliser.activation_free),
            ]
            m.d.sync += [
                write.enable[n].eq(mine | its | (block.valid & block.ready)),
                port.address[n].eq(Mux(mine, one.address,
                                       Mux(its, other.address, block.address))),
                port.data[n].eq(Mux(mine, one.data.replicate(parts),
                                    Mux(its, other.data.replicate(parts),
                                        block.data.word_select(n, word_bits)))),
            ]

        m.submodules.residual = residual = Memory(shape=16 * columns, depth=spec.words("residual"),
                                                  init=[])
        read, write = residual.read_port(), residual.write_port()
        first, second, third = (collector.residual_read, normaliser.residual,
                                mover.residual_read)
        added, gathered, moved = (collector.residual_write, normaliser.moved,
                                  mover.residual_write)
        m.d.comb += [
            normaliser.residual_free.eq(~first.en), third.ready.eq(~first.en & ~second.en),
            read.en.eq(1),  # what is read when nobody asks is not looked at
            read.addr.eq(Mux(first.en, first.addr, Mux(second.en, second.addr, third.address))),
            first.data.eq(read.data), second.data.eq(read.data), third.data.eq(read.data),
            normaliser.moved_free.eq(~added.en),
            moved.ready.eq(~added.en & ~normaliser.moving),
            write.en.eq(added.en | gathered.en | moved.valid),
            write.addr.eq(Mux(added.en, added.addr,
                              Mux(gathered.en, gathered.addr, moved.address))),
            write.data.eq(Mux(added.en, added.data,
                              Mux(gathered.en, gathered.data, moved.data))),
        ]

    def _lists(self, m, feeder, collector):
        """Lists of the blocks that are not 0: written by the collector, read by the feeder."""
        spec = self.spec
        m.submodules.lists = lists = Memory(shape=spec.block_width, depth=spec.words("activation"),
                                            init=[])
        m.submodules.lengths = lengths = Memory(shape=length_layout(spec), depth=spec.groups,
                                                init=[])
        for memory, write, reads in ((lists, collector.entry, (feeder.entry,)),
                                     (lengths, collector.put, (feeder.length, collector.length))):
            write_port = memory.write_port()
            m.d.comb += [write_port.en.eq(write.en), write_port.addr.eq(write.addr),
                         write_port.data.eq(write.data)]
            for read in reads:
                read_port = memory.read_port()
                m.d.comb += [read_port.en.eq(read.en), read_port.addr.eq(read.addr),
                             read.data.eq(read_port.data)]

    def _count(self, m, sequencer, feeder, softmax, normaliser, mover):
        """Say of each cycle what it was."""
        counters = self.counters

        def earlier(name, event):
            seen = Signal.like(Value.cast(event), name=f"seen_{name}")
            m.d.sync += seen.eq(event)
            return seen

        # A cycle later: what it was; another one later it is counted
        issued, stall = earlier("issued", feeder.issued), earlier("stall", feeder.stall)
        normed, moves = earlier("normed", feeder.normed), earlier("moves", mover.busy)
        active = earlier("active", sequencer.active)
        stalls = dict(zip(STALLS, stall))
        rows = stalls.pop("rows")
        nothing = Signal()
        running = earlier("running", 1)
        m.d.comb += nothing.eq(running & ~issued & (stall == 0))
        events = {
            "cycles": running, "busy": issued,
            "stall_norm": rows & normed, "stall_rows": rows & ~normed,
            **{f"stall_{name}": stall for name, stall in stalls.items()},
            "stall_move": nothing & moves,
            "stall_order": nothing & ~moves & active,
            "idle": nothing & ~moves & ~active,
            **{name: earlier(name, event) for name, event in {
                "beats_read": self.read_data.valid & self.read_data.ready,
                "beats_written": self.write_data.valid & self.write_data.ready,
                "weight_reads": feeder.weight.en,
                **({"steps_skipped": feeder.steps_skipped} if self.spec.skip_words else {}),
                "softmax": softmax.o.valid & softmax.o.ready,
                "norm": normaliser.activation.enable & normaliser.activation_free,
            }.items()},
        }
        for name, event in events.items():
            m.d.sync += counters[name].eq(counters[name] + earlier(f"event_{name}", event))


def _read(m, port, scratchpad):
    m.d.comb += [scratchpad.read.enable.eq(port.enable), scratchpad.read.address.eq(port.address),
                 port.data.eq(scratchpad.read.data)]


def _write_row(m, scratchpad, port, parts):
    with m.If(port.enable):
        m.d.comb += [scratchpad.write.enable.eq(1 << port.bank),
                     scratchpad.write.segments.eq(1 << port.segment if parts > 1 else 1)]
    for n in range(scratchpad.spec.banks):
        m.d.comb += [scratchpad.write.address[n].eq(port.address),
                     scratchpad.write.data[n].eq(port.data.replicate(parts))]

