# SPDX-License-Identifier: Apache-2.0
"""Softmax between two matrix products: row maxima, exponents, sums and factors."""

from operator import add
from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory, ReadPort, WritePort
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.softmax import SoftmaxSpec
from hw.arith.reciprocal import Reciprocal
from hw.arith.table import Table
from hw.attention.maximum import RowMaximum, by_slot, fold

WATCH = data.StructLayout({"first": 1, "all": 1, "tag": 1})
"""Which rows of a tile are watched, and a bit that says whose they are."""

MARK = data.StructLayout({"valid": 1, "start": 1, "row_end": 1, "watched": 1, "tag": 1})
"""What goes with a word of the exponent pass: it is one, its tile's first, its row's last, and its
row is watched."""


class Softmax(wiring.Component):
    """Turn tiles of scores into exponents and factors, as :meth:`SoftmaxSpec.compute` says.

    ::

        i --+-> score memory, 2 slots --> max - score --> table --> mask --+--> o
            |                               ^                              |
            +-> row maxima, 2 slots --------+        o_factor <-- 1/x <-- sum

    While one tile arrives in a slot, the exponent pass reads the other one row by row. It starts
    as soon as a tile is complete, and goes on to the next tile without a gap if that is complete.
    A slot is free again from the cycle after its last word was read.

    Latency, nothing stalling: ``spec.latency`` cycles from a tile's last score to its first
    exponent (5 for up to 8 lanes, 6 for up to 32), 1 exponent word per cycle, and
    ``spec.factor_latency`` cycles from a row's last exponent to its factor (6 for 8 to 32 lanes).
    ``spec.cycles(keys, tiles)`` in all. Throughput: 1 word per cycle; equal tiles of up to 8 lanes
    that arrive without a pause are never stalled.

    ``i.ready`` and ``free`` come from registers. The exponent pass stops as a whole when ``o`` or
    ``o_factor`` stops; ``o.ready`` and ``o_factor.ready`` reach all its registers. A factor
    that is not taken stops ``o`` soon after the next row; no factor waits for later exponents.

    ==============================  ======  =========  ===========
    area                             kGE    registers  memory bits
    ==============================  ======  =========  ===========
    rows 8, lanes 8, 200 keys       10.04    2.71        41,984
    rows 16, lanes 16, 200 keys     14.79    4.21        86,016
    rows 1, lanes 8, 200 keys        9.41    2.44        19,584
    ==============================  ======  =========  ===========

    Of the first, 3.60 kGE are the reciprocal, 1.55 the row maxima, 1.21 the table's selection.
    Its slowest path allows 100 MHz on an ECP5 (speed grade 6, between registers, three seeds).

    Parameters
    ----------
    spec : SoftmaxSpec
        What to compute.

    Members
    -------
    keys : ``In(range(max_keys + 1))``
        Scores of a row, 1 to ``max_keys``; sampled with the first score word of a tile.
    mul : ``In(16)``
        The layer's factor for the reciprocal; sampled with the first score word of a tile.
    load : ``In(stream.Signature(Table.load_shape(spec.table_spec)))``
        A word of the exponent table. Always ready. To be left alone from a tile's last score to
        its last exponent.
    i : ``In(stream.Signature(ArrayLayout(signed(8), lanes)))``
        Scores: for each column of ``lanes`` keys, a word of each row. Lanes beyond the keys do not
        matter. Not ready while both slots hold tiles that have not been read.
    free : ``Out(1)``
        A slot is free for a tile that has not begun: who starts it now is not stopped in it. A
        tile begins with its first word that is accepted.
    o : ``Out(stream.Signature(StructLayout({"exponents": ..., "row": ..., "word": ..., \
"last": 1})))``
        ``ArrayLayout(unsigned(8), lanes)``, ``range(rows)``, ``range(max_words)``: the exponents
        of a word of a row, row by row, and whether they are the tile's last ones.
    o_factor : ``Out(stream.Signature(StructLayout({"row": ..., "factor": ..., \
"exponent": ..., "last": 1})))``
        ``range(rows)``, ``unsigned(16)``, ``unsigned(exponent_width)``: ``F`` and ``k`` of a row,
        offered once the row's last exponents were accepted, and whether it is the tile's last row.
    watch : ``In(WATCH)``
        Whether somebody wants to know the probabilities of the tile's first row, or of all its
        rows; sampled with the first score word of a tile.
    watched : ``Out(MARK)``
        With a word that is offered at ``o``: ``watched``, ``tag``, and ``row_end``.
    found : ``Out(StructLayout({"valid": 1, "reciprocal": 17, "exponent": ...}))``
        ``r`` and ``k`` of each row that is watched, for one cycle, after its last exponents.

    Source
    ------
    ``docs/numbers.md``; the normalisation is deferred as in Milakov and Gimelshein
    (arXiv:1805.02867), with one exact maximum per row in place of a running one.
    """

    def __init__(self, spec: SoftmaxSpec):
        if not isinstance(spec, SoftmaxSpec):
            raise TypeError(f"spec must be a SoftmaxSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "keys": In(unsigned(spec.max_keys.bit_length())),
            "mul": In(unsigned(spec.reciprocal.mul_width)),
            "load": In(stream.Signature(Table.load_shape(spec.table_spec))),
            "i": In(stream.Signature(data.ArrayLayout(signed(spec.SCORE_WIDTH), spec.lanes))),
            "free": Out(1),
            "o": Out(stream.Signature(data.StructLayout({
                "exponents": data.ArrayLayout(unsigned(spec.EXPONENT_WIDTH), spec.lanes),
                "row": range(spec.rows),
                "word": range(spec.max_words),
                "last": 1,
            }))),
            "o_factor": Out(stream.Signature(data.StructLayout({
                "row": range(spec.rows),
                "factor": unsigned(spec.reciprocal.FACTOR_WIDTH),
                "exponent": unsigned(spec.reciprocal.exponent_width),
                "last": 1,
            }))),
            "watch": In(WATCH),
            "watched": Out(MARK),
            "found": Out(data.StructLayout({
                "valid": 1,
                "reciprocal": 17,
                "exponent": spec.reciprocal.exponent_width,
            })),
        })

    @property
    def spec(self) -> SoftmaxSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        word = data.ArrayLayout(signed(spec.SCORE_WIDTH), spec.lanes)
        m.submodules.scores = scores = Memory(shape=word, depth=spec.score_words, init=[])
        m.submodules.maximum = maximum = RowMaximum(spec)
        m.submodules.reciprocal = reciprocal = Reciprocal(spec.reciprocal)
        settings = Signal(data.ArrayLayout(data.StructLayout({
            "keys": self.keys.shape(), "mul": self.mul.shape(), "watch": WATCH}), 2),
            reset_less=True)
        full = Signal(2)  # by slot: holds a whole tile, of which not all has been read
        readable = Signal(2)  # by slot: full, and the row maxima will be there in time
        released = Signal(2)
        m.d.sync += [
            full.eq((full | by_slot(maximum.mark.slot, maximum.mark.last)) & ~released),
            readable.eq((readable | maximum.complete) & ~released),
        ]
        self._fill(m, scores.write_port(), maximum, settings, full)

        move = Signal()  # the exponent pass advances by a word
        sum_move = Signal()  # the summation does; it also goes on while the exponents are stuck
        read = scores.read_port()
        mark, mask, slot = self._read(m, read, settings, readable, released, move)
        marks, exponents = self._exponents(m, read, maximum, mark, mask, slot, move)
        sum_marks = self._sums(m, reciprocal, marks[-1], exponents, move, sum_move)
        steps = [*((move, mark) for mark in marks[:-1]), *((sum_move, mark) for mark in sum_marks)]
        self._factors(m, reciprocal, steps, settings)
        return m

    def _fill(self, m: Module, write: WritePort, maximum: RowMaximum, settings: Any,
              full: Signal) -> None:
        """Store scores in their order of arrival, and show them to the row maximum."""
        spec = self._spec
        slot = Signal()
        address = Signal(range(spec.score_words))
        row = Signal(range(spec.rows))
        start = Signal(init=1)
        first_column = Signal(init=1)
        keys = Signal.like(self.keys, reset_less=True)  # of this column and the later ones
        keys_left = Signal.like(self.keys)
        accept = Signal()
        column_end = Signal()
        end = Signal()
        mask, last_column = self._split(keys_left)
        m.d.comb += [
            keys_left.eq(Mux(start, self.keys, keys)),
            column_end.eq(row == spec.rows - 1),
            end.eq(column_end & last_column),
            self.free.eq(~full.bit_select(slot ^ ~start, 1)),
            self.i.ready.eq(~full.bit_select(slot, 1)),
            accept.eq(self.i.valid & self.i.ready),
            write.en.eq(accept),
            write.addr.eq(address),
            write.data.eq(self.i.payload),
            maximum.scores.eq(self.i.payload),
            maximum.mask.eq(mask),
            maximum.mark.valid.eq(accept),
            maximum.mark.slot.eq(slot),
            maximum.mark.first.eq(first_column),
            maximum.mark.last.eq(accept & end),
        ]
        with m.If(accept):
            m.d.sync += [address.eq(address + 1), row.eq(row + 1), keys.eq(keys_left),
                         start.eq(end)]
            with m.If(start):
                m.d.sync += [settings[slot].keys.eq(self.keys), settings[slot].mul.eq(self.mul),
                             settings[slot].watch.eq(self.watch)]
            with m.If(column_end):
                m.d.sync += [row.eq(0), keys.eq(keys_left - spec.lanes), first_column.eq(0)]
            with m.If(end):
                m.d.sync += [first_column.eq(1), slot.eq(~slot), address.eq(self._base(~slot))]

    def _base(self, slot: Value) -> Value:
        """Return the address of the slot's first word."""
        return Mux(slot, self._spec.score_words // 2, 0)

    def _split(self, keys_left: Value) -> tuple[Value, Value]:
        """Return the lanes that hold one of the keys left, and whether no more are left then.

        By small truth tables: comparators become carry chains, ahead of those of the maximum.
        """
        lanes = self._spec.lanes
        low = keys_left[:lanes.bit_length()]
        more = [C(-1 << number + 1, 1 << len(low)).bit_select(low, 1)
                | keys_left[len(low):].any() for number in range(lanes + 1)]
        return Cat(more[:lanes]), ~more[lanes]

    def _read(self, m: Module, read: ReadPort, settings: Any, readable: Signal,
              released: Signal, move: Signal) -> tuple[Any, Value, Signal]:
        """Read readable slots row by row; return mark, mask and slot of the word being read."""
        spec = self._spec
        slot = Signal()
        address = Signal(range(spec.score_words))
        row_address = Signal(range(spec.score_words))
        row = Signal(range(spec.rows))
        start = Signal(init=1)
        first_word = Signal(init=1)
        keys = Signal.like(self.keys, reset_less=True)  # of this word and the later ones
        keys_left = Signal.like(self.keys)
        step = Signal()
        end = Signal()
        mark = Signal(MARK)
        mask, row_end = self._split(keys_left)
        watch = settings[slot].watch
        m.d.comb += [
            keys_left.eq(Mux(first_word, settings[slot].keys, keys)),
            mark.valid.eq(readable.bit_select(slot, 1)),
            mark.start.eq(start),
            mark.row_end.eq(row_end),
            mark.watched.eq(watch.all | watch.first & (row == 0)),
            mark.tag.eq(watch.tag),
            step.eq(mark.valid & move),
            end.eq(mark.row_end & (row == spec.rows - 1)),
            released.eq(by_slot(slot, step & end)),
            read.en.eq(step),
            read.addr.eq(address),
        ]
        with m.If(step):
            m.d.sync += [address.eq(address + spec.rows), keys.eq(keys_left - spec.lanes),
                         first_word.eq(mark.row_end), start.eq(end)]
            with m.If(mark.row_end):
                m.d.sync += [address.eq(row_address + 1), row_address.eq(row_address + 1),
                             row.eq(row + 1)]
            with m.If(end):
                m.d.sync += [address.eq(self._base(~slot)), row_address.eq(self._base(~slot)),
                             row.eq(0), slot.eq(~slot)]
        return mark, mask, slot

    def _exponents(self, m: Module, read: ReadPort, maximum: RowMaximum, mark: Any,
                   mask: Value, slot: Signal, move: Signal) -> tuple[list[Any], Any]:
        """Subtract, look up and mask; return the marks of all stages, and the exponents."""
        spec = self._spec
        m.submodules.table = table = Table(spec.table_spec)
        connect(m, flipped(self.load), table.load)
        marks = [Signal(MARK, name=f"mark_{stage}")
                 for stage in ("scores", "index", "value", "exponents")]
        masks = [Signal(spec.lanes, name=f"mask_{stage}", reset_less=True)
                 for stage in ("scores", "index", "value")]
        scores_slot = Signal()
        fresh = Signal()  # the scores have just been read, and their maximum is still in its place
        highest = Signal(signed(spec.SCORE_WIDTH))
        held = Signal(signed(spec.SCORE_WIDTH), reset_less=True)
        index = Signal(table.index.shape(), reset_less=True)
        exponents = Signal(table.value.shape(), reset_less=True)
        m.d.comb += [
            highest.eq(Mux(fresh, maximum.maximum[scores_slot], held)),
            maximum.turn.eq(by_slot(scores_slot, fresh & marks[0].valid & marks[0].row_end)),
            table.index.eq(index),
            table.enable.eq(move),
        ]
        m.d.sync += [fresh.eq(move), held.eq(highest)]
        with m.If(move):
            m.d.sync += [later.eq(sooner) for sooner, later in zip([mark, *marks], marks)]
            m.d.sync += [later.eq(sooner) for sooner, later in zip([mask, *masks], masks)]
            m.d.sync += scores_slot.eq(slot)
            for lane in range(spec.lanes):
                m.d.sync += [
                    index[lane].eq(highest - read.data[lane]),
                    exponents[lane].eq(Mux(masks[-1][lane], table.value[lane], 0)),
                ]
        return [mark, *marks], exponents

    def _sums(self, m: Module, reciprocal: Reciprocal, mark: Any, exponents: Any,
              move: Signal, sum_move: Signal) -> list[Any]:
        """Send exponents out, and sum those that were taken; return the marks of all stages."""
        spec = self._spec
        row = Signal(range(spec.rows))
        word = Signal(range(spec.max_words))
        taken = Signal()  # the word was accepted, but cannot be summed yet
        leaving = Signal(MARK)
        m.d.comb += [
            self.o.valid.eq(mark.valid & ~taken),
            self.o.payload.exponents.eq(exponents),
            self.o.payload.row.eq(row),
            self.o.payload.word.eq(word),
            self.o.payload.last.eq(mark.row_end & (row == spec.rows - 1)),
            self.watched.eq(mark),
            leaving.eq(mark),
            leaving.valid.eq(mark.valid & (taken | self.o.ready)),
            move.eq((leaving.valid | ~mark.valid) & sum_move),
        ]
        m.d.sync += taken.eq(leaving.valid & ~sum_move)
        with m.If(leaving.valid & sum_move):
            m.d.sync += word.eq(word + 1)
            with m.If(mark.row_end):
                m.d.sync += [word.eq(0), row.eq(Mux(self.o.payload.last, 0, row + 1))]

        total, marks = fold(m, "sum", [exponents[lane] for lane in range(spec.lanes)], add,
                            layers=3, mark=leaving, enable=sum_move)
        row_sum = Signal(spec.sum_width, reset_less=True)
        row_start = Signal(init=1)
        row_valid = Signal()
        row_watched = Signal()
        now = marks[-1]
        m.d.comb += [
            sum_move.eq(~row_valid | reciprocal.i.ready),
            reciprocal.i.valid.eq(row_valid),
            reciprocal.i.payload.sum.eq(row_sum),
            reciprocal.watch.eq(row_watched),
            self.found.eq(reciprocal.found),
        ]
        with m.If(sum_move):
            m.d.sync += [row_valid.eq(now.valid & now.row_end), row_watched.eq(now.watched)]
            with m.If(now.valid):
                m.d.sync += [row_sum.eq(Mux(row_start, 0, row_sum) + total),
                             row_start.eq(now.row_end)]
        return marks

    def _factors(self, m: Module, reciprocal: Reciprocal, steps: list[tuple[Signal, Any]],
                 settings: Any) -> None:
        """Bring the tile's ``mul`` to the reciprocal, and send the factors out.

        A tile's first word is at least ``rows`` steps ahead of that of the next tile, or of
        whatever overwrites its slot: it need not leave a copy of ``mul`` at every step.
        """
        spec = self._spec
        slot = Signal()
        mul = settings[slot].mul
        for number, (move, mark) in enumerate(steps, start=1):
            if number % spec.rows == 0 or number == len(steps):
                copy = Signal.like(self.mul, name=f"mul_{number}", reset_less=True)
                with m.If(move & mark.valid & mark.start):
                    m.d.sync += copy.eq(mul)
                    if number <= spec.rows:
                        m.d.sync += slot.eq(~slot)
                mul = copy
        row = Signal(range(spec.rows))
        m.d.comb += [
            reciprocal.i.payload.mul.eq(mul),
            self.o_factor.valid.eq(reciprocal.o.valid),
            reciprocal.o.ready.eq(self.o_factor.ready),
            self.o_factor.payload.factor.eq(reciprocal.o.payload.factor),
            self.o_factor.payload.exponent.eq(reciprocal.o.payload.exponent),
            self.o_factor.payload.row.eq(row),
            self.o_factor.payload.last.eq(row == spec.rows - 1),
        ]
        with m.If(self.o_factor.valid & self.o_factor.ready):
            m.d.sync += row.eq(Mux(self.o_factor.payload.last, 0, row + 1))
