# SPDX-License-Identifier: Apache-2.0
"""Selection of the best of many scores: storage, one of three engines, filter, compaction."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.topk import Rule, TopKSpec
from hw.select.compact import ZeroEliminator, ranks
from hw.select.mean import MeanThreshold
from hw.select.radix import Radix

ENGINES = {"radix": Radix}


class TopK(wiring.Component):
    """Keep the best entries of vectors of scores, as :meth:`TopKSpec.select` says.

    ::

        i --+--> score memory --> filter --> zero eliminator --> o
            |       |  ^            ^
            |       v  | scan       | threshold, how many equal to it
            +---> engine -----------+

    An engine finds the score down to which entries are kept and how many of those that equal it;
    a threshold or a mean takes its place under the other rules. Then the vector is read once more,
    row by row, and what stays leaves in its order.

    Latency, nothing stalling: ``spec.find_cycles(n, rule)`` cycles from a vector's last scores to
    the beat of its first row, and one more for each further row; ``spec.cycles(n, rule)`` to the
    last beat. Throughput: a row per cycle in, a row per cycle out.

    Parameters
    ----------
    spec : TopKSpec
        What to select from.

    Members
    -------
    setting : ``In(StructLayout({"n": ..., "rule": 2, "value": ..., "protected": 2}))``
        ``unsigned(spec.count_width)``, ``Rule``, ``unsigned(spec.value_width)``: entries of the
        vector, at least 1, and what is selected; sampled with the first beat of each vector.
    i : ``In(stream.Signature(StructLayout({"scores": ..., "last": 1})))``
        ``ArrayLayout(unsigned(spec.width), spec.lanes)``: a row of scores; lanes beyond ``n`` do
        not matter. ``last`` goes with row ``ceil(n / lanes)``.
    o : ``Out(stream.Signature(StructLayout({"indices": ..., "scores": ..., "count": ..., \
"total": ..., "last": 1})))``
        ``ArrayLayout(unsigned(spec.index_width), spec.lanes)``, ``ArrayLayout(unsigned(\
spec.width), spec.lanes)``, ``range(spec.lanes + 1)``, ``unsigned(spec.count_width)``: the
        survivors of a row in the lowest ``count`` lanes; the other lanes do not matter. A row
        without survivors gives a beat only if it is the vector's last. ``total`` are the survivors
        up to and with this beat: with ``last``, of the vector. With ``spec.mask`` every row gives a
        beat, which has the lanes that stay in ``mask``, too.

    Source
    ------
    Wang, Zhang, Han, "SpAtten", HPCA 2021 (arXiv:2012.09852), section IV-B: filter, compaction, and
    the engine of :class:`~hw.select.quickselect.QuickSelect`.
    """

    def __init__(self, spec: TopKSpec):
        if not isinstance(spec, TopKSpec):
            raise TypeError(f"spec must be a TopKSpec, not {spec!r}")
        self._spec = spec
        scores = data.ArrayLayout(unsigned(spec.width), spec.lanes)
        super().__init__({
            "setting": In(data.StructLayout({
                "n": unsigned(spec.count_width),
                "rule": unsigned(2),
                "value": unsigned(spec.value_width),
                "protected": unsigned(2),
            })),
            "i": In(stream.Signature(data.StructLayout({"scores": scores, "last": 1}))),
            "o": Out(stream.Signature(data.StructLayout({
                "indices": data.ArrayLayout(unsigned(spec.index_width), spec.lanes),
                "scores": scores,
                "count": range(spec.lanes + 1),
                "total": unsigned(spec.count_width),
                "last": 1,
            } | ({"mask": spec.lanes} if spec.mask else {})))),
        })

    @property
    def spec(self) -> TopKSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        m.submodules.engine = engine = ENGINES[spec.engine](spec)
        setting = Signal(self.setting.shape(), reset_less=True)  # of the vector that is selected
        last_row = Signal(range(spec.rows), reset_less=True)
        slot = Signal()  # of the two vectors in memory, the one that is selected
        idle = Signal(init=1)  # no vector is selected
        finished = Signal()  # the last row of one has left the memory
        take = Signal()  # the selection of a vector begins
        begin = Signal()  # the cycle after
        emit = Signal()  # the threshold stands from the next cycle on: read the survivors
        coming = self._load(m, engine, setting, last_row, slot, idle, take, finished)

        of_rule = {rule: Signal(name=f"is_{rule.name.lower()}") for rule in Rule}
        for rule, one in of_rule.items():
            only = rule == Rule.TOPK and not spec.threshold
            m.d.comb += one.eq(1 if only else setting.rule == rule)
        m.d.sync += [idle.eq((idle | finished) & ~take), begin.eq(take)]
        m.d.comb += [
            engine.start.eq(take & (coming.rule == Rule.TOPK)),
            engine.keep.eq(self._keep(coming)),
        ]
        threshold, equals, every = engine.threshold, engine.equals, C(0)
        starts = engine.done
        if spec.threshold:
            m.submodules.mean = mean = MeanThreshold(spec)
            is_mean, is_threshold = of_rule[Rule.MEAN], of_rule[Rule.THRESHOLD]
            m.d.comb += [
                Value.cast(mean.load).eq(engine.load),
                mean.load.valid.eq(self.i.valid & self.i.ready & (self._now.rule == Rule.MEAN)),
                mean.start.eq(begin & is_mean),
                mean.value.eq(setting.value),
                mean.count.eq(Mux(setting.n > setting.protected, setting.n - setting.protected, 0)),
            ]
            threshold = Mux(is_threshold, setting.value[:spec.width],
                            Mux(is_mean, mean.threshold, threshold))
            every = is_threshold | is_mean & mean.exact
            equals = Mux(is_mean, 0, equals)
            starts = starts | mean.done | begin & is_threshold
        m.d.comb += emit.eq(starts)
        self._emit(m, engine, setting, last_row, slot, emit, finished, threshold, equals, every)
        return m

    def _keep(self, setting: Any) -> Value:
        """Return how many of the entries that are not protected top-k keeps."""
        spec = self._spec
        more = setting.value - setting.protected
        keep = Mux(more[-1], 0, more[:spec.count_width])
        if spec.value_width > spec.count_width:
            many = ~more[-1] & more[spec.count_width:-1].any()
            keep = keep | many.replicate(spec.count_width)
        return keep

    def _counting(self, setting: Any, row: Value, last: Value) -> tuple[Value, Value]:
        """Return which lanes of a row hold entries, and which of these are protected."""
        spec = self._spec
        lanes, tail = spec.lanes, setting.n[:(spec.lanes - 1).bit_length()]
        held = Cat(
            ~last | C(1 | -1 << lane + 1 & (1 << lanes) - 1, lanes).bit_select(tail, 1)
            for lane in range(lanes))
        first = Cat(
            Cat((row == place // lanes) & (setting.protected > place)
                for place in range(lane, min(spec.PROTECTED, spec.n), lanes)).any()
            for lane in range(lanes))
        return held, held & first

    def _load(self, m: Module, engine: Any, setting: Any, last_row: Signal, slot: Signal,
              idle: Signal, take: Signal, finished: Signal) -> Any:
        """Store the rows of a vector and show them to the engine; return the vector's setting."""
        spec = self._spec
        m.submodules.scores = self._scores = scores = Memory(
            shape=unsigned(spec.lanes * spec.width), depth=spec.buffers * spec.rows, init=[],
            attrs={"no_rw_check": "1"})
        write = scores.write_port()
        row = Signal(range(spec.rows))
        first = Signal(init=1)
        pending = Signal()  # a vector is complete, and its selection has not begun
        accept = Signal()
        held = setting if spec.buffers == 1 else Signal.like(setting)
        self._now = now = Signal(self.setting.shape())
        m.d.comb += [
            Value.cast(now).eq(Mux(first, self.setting, held)),
            self.i.ready.eq(~pending & (idle if spec.buffers == 1 else engine.ready)),
            accept.eq(self.i.valid & self.i.ready),
            take.eq(pending & (idle | finished)),
            write.en.eq(accept),
            write.addr.eq(self._place(~slot, row)),
            write.data.eq(self.i.payload.scores),
        ]
        entries, protected = self._counting(now, row, self.i.payload.last)
        m.d.comb += [
            engine.load.valid.eq(accept & (now.rule == Rule.TOPK)),
            engine.load.last.eq(self.i.payload.last),
            engine.load.mask.eq(entries & ~protected),
            engine.load.scores.eq(self.i.payload.scores),
        ]
        with m.If(accept):
            m.d.sync += [Value.cast(held).eq(now), first.eq(self.i.payload.last)]
            with m.If(self.i.payload.last):
                m.d.sync += pending.eq(1)
            with m.Else():
                m.d.sync += row.eq(row + 1)
        with m.If(take):
            m.d.sync += [pending.eq(0), row.eq(0), last_row.eq(row), slot.eq(~slot)]
            if spec.buffers == 2:
                m.d.sync += Value.cast(setting).eq(held)
        return held

    def _place(self, slot: Value, row: Value) -> Value:
        """Return the address of a row in memory."""
        spec = self._spec
        return row if spec.buffers == 1 else Mux(slot, spec.rows, 0) + row

    def _emit(self, m: Module, engine: Any, setting: Any, last_row: Signal, slot: Signal,
              emit: Signal, finished: Signal, threshold: Value, equals: Value,
              every: Value) -> None:
        """Read a vector, for the engine or for the last time, and let pass what stays."""
        spec = self._spec
        read = self._scores.read_port()
        address = Signal(range(spec.rows))
        reading = Signal()
        emitting = Signal()  # the last time
        fresh = Signal()  # with its first row
        row = Signal(data.StructLayout({"valid": 1, "last": 1, "number": range(spec.rows)}))
        move = Signal()  # the row that was read is taken
        start = emit | engine.scan
        m.d.comb += [
            read.en.eq(start | reading & move),
            read.addr.eq(self._place(slot, address)),
            finished.eq(emitting & row.valid & row.last & move),
        ]
        with m.If(read.en):
            m.d.sync += [row.valid.eq(1), row.last.eq(address == last_row), row.number.eq(address)]
            with m.If(address == last_row):
                m.d.sync += [address.eq(0), reading.eq(0)]
            with m.Else():
                m.d.sync += [address.eq(address + 1), reading.eq(1)]
        with m.Elif(move):
            m.d.sync += row.valid.eq(0)
        m.d.sync += [emitting.eq(emit | emitting & ~finished),
                     fresh.eq(emit | fresh & ~move)]

        entries, protected = self._counting(setting, row.number, row.last)
        scores = data.View(data.ArrayLayout(unsigned(spec.width), spec.lanes), read.data)
        m.d.comb += [
            engine.row.valid.eq(row.valid & ~emitting),
            engine.row.last.eq(row.last),
            engine.row.mask.eq(entries & ~protected),
            engine.row.scores.eq(read.data),
        ]

        # First stage: compare.
        kept = Signal(data.StructLayout({
            "above": spec.lanes, "equal": spec.lanes, "last": 1, "number": range(spec.rows),
            "scores": scores.shape()}), reset_less=True)
        kept_valid = Signal()
        left = Signal(spec.count_width)
        kept_ready = Signal()
        out_ready = Signal()
        m.d.comb += [kept_ready.eq(~kept_valid | out_ready), move.eq(~emitting | kept_ready)]
        level = Signal(spec.width)
        m.d.comb += level.eq(threshold)
        equal = Signal(spec.lanes)
        above = Signal(spec.lanes)
        for lane in range(spec.lanes):
            m.d.comb += [equal[lane].eq(scores[lane] == level),
                         above[lane].eq((scores[lane] > level) | equal[lane] & every)]

        # Second stage: of the equal ones the first that are left, then to the front.
        keep = Signal(spec.lanes)
        order, equal_count = ranks(m, "equal", kept.equal)
        m.d.comb += keep.eq(Cat(
            over | same & (rank < left) for over, same, rank in zip(kept.above, kept.equal, order)))
        lane_width = (spec.lanes - 1).bit_length()
        item = data.StructLayout({"score": spec.width, "lane": lane_width})
        m.submodules.eliminator = eliminator = ZeroEliminator(lanes=spec.lanes, shape=item)
        m.d.comb += eliminator.keep.eq(keep)
        for lane in range(spec.lanes):
            m.d.comb += [eliminator.i[lane].score.eq(kept.scores[lane]),
                         eliminator.i[lane].lane.eq(lane)]
        out = Signal(self.o.payload.shape().members["total"], name="total")
        beat = Signal(data.StructLayout({
            "items": eliminator.o.shape(), "count": range(spec.lanes + 1), "last": 1,
            "number": range(spec.rows)} | ({"mask": spec.lanes} if spec.mask else {})))
        total_from = Signal.like(out)
        m.d.comb += [out_ready.eq(~self.o.valid | self.o.ready),
                     total_from.eq(Mux(beat.last, 0, out))]
        valid = Signal()
        with m.If(kept_ready):
            m.d.sync += kept_valid.eq(emitting & row.valid)
            with m.If(emitting & row.valid):
                m.d.sync += [
                    kept.above.eq(entries & (protected | above)),
                    kept.equal.eq(entries & ~protected & equal),
                    kept.last.eq(row.last), kept.number.eq(row.number), kept.scores.eq(scores)]
        with m.If(move & fresh):
            m.d.sync += left.eq(equals)
        with m.Elif(kept_valid & out_ready):
            m.d.sync += left.eq(Mux(equal_count < left, left - equal_count, 0))
        with m.If(out_ready):
            m.d.sync += valid.eq(kept_valid & (C(1) if spec.mask else keep.any() | kept.last))
            with m.If(kept_valid):
                m.d.sync += [
                    beat.items.eq(eliminator.o), beat.count.eq(eliminator.count),
                    beat.last.eq(kept.last), beat.number.eq(kept.number),
                    out.eq(total_from + eliminator.count)]
                if spec.mask:
                    m.d.sync += beat.mask.eq(keep)
        m.d.comb += [self.o.valid.eq(valid), self.o.payload.count.eq(beat.count),
                     self.o.payload.last.eq(beat.last), self.o.payload.total.eq(out)]
        if spec.mask:
            m.d.comb += self.o.payload.mask.eq(beat.mask)
        for lane in range(spec.lanes):
            m.d.comb += [self.o.payload.scores[lane].eq(beat.items[lane].score),
                         self.o.payload.indices[lane].eq(
                             Cat(beat.items[lane].lane, beat.number))]
