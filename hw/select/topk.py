# SPDX-License-Identifier: Apache-2.0
"""Selection of the best of many scores: storage, one of three engines, filter, compaction."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.topk import Rule, TopKSpec
from hw.select.bitserial import BitSerial
from hw.select.filter import Filter, beat_layout
from hw.select.mean import MeanThreshold
from hw.select.quickselect import QuickSelect
from hw.select.radix import Radix

ENGINES = {"radix": Radix, "bitserial": BitSerial, "quickselect": QuickSelect}


class _Vector:
    """The registers that describe a vector: its setting, a row of it, and its last row."""

    def __init__(self, spec: TopKSpec, name: str):
        self.setting: Any = Signal(setting_layout(spec), name=f"{name}_setting", reset_less=True)
        self.row = Signal(range(spec.rows), name=f"{name}_row")
        self.last_row = Signal(range(spec.rows), name=f"{name}_last_row", reset_less=True)


def setting_layout(spec: TopKSpec) -> data.StructLayout:
    """Return the layout of what is asked of a vector."""
    return data.StructLayout({
        "n": unsigned(spec.count_width),
        "rule": unsigned(2),
        "value": unsigned(spec.value_width),
        "protected": unsigned(2),
    })


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
    last beat. Throughput: a row per cycle in, a row per cycle out; ``spec.period(n)`` cycles per
    vector. ``i.ready`` comes from registers; ``o`` does, too.

    =======================================================  ======  =========  ===========
    area                                                      kGE    registers  memory bits
    =======================================================  ======  =========  ===========
    n 197, width 12, lanes 16                                18.86    4.66         4,992
    the same, buffers 1                                      15.06    3.58         2,496
    the same, buffers 1, threshold False                     11.85    3.27         2,496
    the same, engine "quickselect"                           23.06    5.53         7,488
    the same, engine "bitserial"                             32.36   14.19         2,496
    n 200, width 16, lanes 1, digit 4, buffers 1              3.96    1.48         3,200
    the same, digit 2                                         2.99    1.02         3,200
    the same, digit 1                                         2.86    0.97         3,200
    the same, digit 2, threshold False                        1.72    0.73         3,200
    =======================================================  ======  =========  ===========

    Parameters
    ----------
    spec : TopKSpec
        What to select from.

    Members
    -------
    setting : ``In(StructLayout({"n": ..., "rule": 2, "value": ..., "protected": 2}))``
        ``unsigned(spec.count_width)``, ``Rule``, ``unsigned(spec.value_width)``: entries of the
        vector, at least 1, and what is selected; sampled with the first beat of each vector.
        Without ``spec.threshold`` the rule does not matter.
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
    the engine of :class:`~hw.select.quickselect.QuickSelect`. Thresholds: HeatViT and LTP (Kim et
    al., KDD 2022).
    """

    def __init__(self, spec: TopKSpec):
        if not isinstance(spec, TopKSpec):
            raise TypeError(f"spec must be a TopKSpec, not {spec!r}")
        self._spec = spec
        scores = data.ArrayLayout(unsigned(spec.width), spec.lanes)
        super().__init__({
            "setting": In(setting_layout(spec)),
            "i": In(stream.Signature(data.StructLayout({"scores": scores, "last": 1}))),
            "o": Out(stream.Signature(beat_layout(spec))),
        })

    @property
    def spec(self) -> TopKSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        m.submodules.engine = engine = ENGINES[spec.engine](spec)
        m.submodules.filter = filter_ = Filter(spec)
        m.submodules.scores = memory = Memory(
            shape=unsigned(spec.lanes * spec.width), depth=spec.buffers * spec.rows, init=[],
            attrs={"no_rw_check": "1", "ram_style": "distributed"})  # block RAM is slow to answer
        connect(m, filter_.o, flipped(self.o))
        current = _Vector(spec, "current")  # the vector that is selected
        loading = current if spec.buffers == 1 else _Vector(spec, "loading")
        slot = Signal()  # of the two in memory, where the current vector is
        pending = Signal()  # a vector is loaded, and its selection has not begun
        idle = Signal(init=1)  # no vector is selected
        finished = Signal()  # its last row has left the memory
        take = Signal()  # the selection of a vector begins
        begin = Signal()  # the cycle after
        emit = Signal()  # the threshold stands from the next cycle on: read the survivors
        m.d.comb += take.eq(pending & (idle | finished))
        m.d.sync += [idle.eq((idle | finished) & ~take), begin.eq(take)]
        with m.If(take):
            m.d.sync += [pending.eq(0), slot.eq(~slot)]
            if spec.buffers == 2:
                m.d.sync += [current.setting.eq(loading.setting),
                             current.last_row.eq(loading.last_row)]

        ready = ~pending & (idle if spec.buffers == 1 else engine.ready)
        loads, rule = self._load(m, memory, loading, ~slot, ready, pending, engine)
        m.d.comb += [
            engine.start.eq(take),
            engine.keep.eq(self._keep(loading.setting)),
            engine.load.valid.eq(loads),
            emit.eq(engine.done),
            filter_.threshold.eq(engine.threshold),
            filter_.equals.eq(engine.equals),
        ]
        if spec.threshold:
            m.submodules.mean = mean = MeanThreshold(spec)
            setting = current.setting
            is_mean, is_threshold = setting.rule == Rule.MEAN, setting.rule == Rule.THRESHOLD
            m.d.comb += [
                engine.start.eq(take & (loading.setting.rule == Rule.TOPK)),
                engine.load.valid.eq(loads & (rule == Rule.TOPK)),
                mean.load.eq(engine.load),
                mean.load.valid.eq(loads & (rule == Rule.MEAN)),
                mean.start.eq(begin & is_mean),
                mean.value.eq(setting.value),
                mean.count.eq(self._present(m, loads, loading, engine) if spec.absent else
                              setting.n - setting.protected),
                emit.eq(engine.done | mean.done | begin & is_threshold),
                filter_.every.eq(is_threshold | is_mean & mean.exact),
            ]
            with m.If(is_mean):
                m.d.comb += [filter_.threshold.eq(mean.threshold), filter_.equals.eq(0)]
            with m.Elif(is_threshold):
                m.d.comb += filter_.threshold.eq(setting.value)
        self._read(m, memory, current, slot, emit, finished, engine, filter_)
        return m

    def _present(self, m: Module, loads: Value, vector: _Vector, engine: Any) -> Value:
        """Return how many of a vector's entries are there and not protected, once it is loaded."""
        spec, scores = self._spec, self.i.payload.scores
        count = Signal(spec.count_width)
        there = [scores[lane].any() & engine.load.mask[lane] for lane in range(spec.lanes)]
        with m.If(loads):
            m.d.sync += count.eq(Mux(vector.row == 0, 0, count) + sum(there))
        return count

    def _keep(self, setting: Any) -> Value:
        """Return how many of the entries that are not protected top-k keeps."""
        width = self._spec.count_width
        low, many = setting.value[:width], setting.value[width:].any()
        more = (low | many.replicate(width)) - setting.protected
        return more[:width] & ~more[-1].replicate(width)

    def _entries(self, setting: Any, last: Value) -> Value:
        """Return which lanes of a row hold entries."""
        lanes, tail = self._spec.lanes, setting.n[:(self._spec.lanes - 1).bit_length()]
        table = [C(1 | -1 << lane + 1 & (1 << lanes) - 1, lanes) for lane in range(lanes)]
        return Cat(~last | ones.bit_select(tail, 1) for ones in table)

    def _protected(self, setting: Any, row: Value) -> Value:
        """Return which lanes of a row, if they hold entries, hold protected ones."""
        lanes, most = self._spec.lanes, min(self._spec.PROTECTED, self._spec.n)
        return Cat(
            Cat((row == place // lanes) & (setting.protected > place)
                for place in range(lane, most, lanes)).any()
            for lane in range(lanes))

    def _place(self, slot: Value, row: Value) -> Value:
        """Return the address of a row in memory."""
        return row if self._spec.buffers == 1 else Mux(slot, self._spec.rows, 0) + row

    def _load(self, m: Module, memory: Memory, vector: _Vector, slot: Value, ready: Value,
              pending: Signal, engine: Any) -> tuple[Value, Value]:
        """Store the rows of a vector and show them to the engine; return when, and its rule."""
        write = memory.write_port()
        first = Signal(init=1)
        loads = Signal()
        now: Any = Signal(setting_layout(self._spec))
        last = self.i.payload.last
        m.d.comb += [
            now.eq(vector.setting),
            self.i.ready.eq(ready),
            loads.eq(self.i.valid & self.i.ready),
            write.en.eq(loads),
            write.addr.eq(self._place(slot, vector.row)),
            write.data.eq(self.i.payload.scores),
            engine.load.last.eq(last),
            engine.load.mask.eq(self._entries(now, last) & ~self._protected(now, vector.row)),
            engine.load.scores.eq(self.i.payload.scores),
        ]
        with m.If(first):
            m.d.comb += now.eq(self.setting)
        with m.If(loads):
            m.d.sync += [first.eq(last), vector.row.eq(vector.row + 1)]
            with m.If(first):
                m.d.sync += vector.setting.eq(self.setting)
            with m.If(last):
                m.d.sync += [pending.eq(1), vector.last_row.eq(vector.row), vector.row.eq(0)]
        return loads, now.rule

    def _read(self, m: Module, memory: Memory, vector: _Vector, slot: Value, emit: Value,
              finished: Value, engine: Any, filter_: Any) -> None:
        """Read all rows: at ``engine.scan`` for the engine, at ``emit`` for the filter."""
        read = memory.read_port()
        reading = Signal()
        emitting = Signal()  # for the filter
        valid = Signal()  # a row was read, and has not been taken
        last = Signal()
        taken = Signal()
        protected = Signal(self._spec.lanes)
        entries = self._entries(vector.setting, last)
        m.d.comb += [
            taken.eq(~emitting | filter_.row_ready),
            read.en.eq(emit | engine.scan | reading & taken),
            read.addr.eq(self._place(slot, vector.row)),
            finished.eq(emitting & valid & last & taken),
            engine.row.valid.eq(valid & ~emitting),
            filter_.row.valid.eq(valid & emitting),
            filter_.exempt.eq(entries & protected),
        ]
        for row in (engine.row, filter_.row):
            m.d.comb += [row.last.eq(last), row.mask.eq(entries & ~protected),
                         row.scores.eq(read.data)]
        m.d.sync += emitting.eq(emit | emitting & ~finished)
        with m.If(read.en):
            m.d.sync += [valid.eq(1), last.eq(0), reading.eq(1),
                         protected.eq(self._protected(vector.setting, vector.row)),
                         vector.row.eq(vector.row + 1)]
            with m.If(vector.row == vector.last_row):
                m.d.sync += [last.eq(1), reading.eq(0), vector.row.eq(0)]
        with m.Elif(taken):
            m.d.sync += valid.eq(0)
