# SPDX-License-Identifier: Apache-2.0
"""Which values a row of attention needs: selectors, and the exponents that wait for them."""

from amaranth.hdl import Array, C, Cat, Module, Mux, ResetInserter, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from hw.select.topk import TopK
from hw.spatten.layouts import bits


def keys_layout(spec: SpattenSpec) -> data.StructLayout:
    """Return what is known of a row of keys, by channel, when its scores are read."""
    return data.StructLayout({
        "row": data.ArrayLayout(unsigned(bits(spec.rows)), spec.channels),
        "there": spec.channels})


def order_signature(spec: SpattenSpec) -> wiring.Signature:
    """Return how it is said whose rows leave: of which selector, if of any."""
    return wiring.Signature({"valid": Out(1), "selector": Out(bits(spec.selectors))})


def row_signature(spec: SpattenSpec) -> wiring.Signature:
    """Return a row that leaves: which lanes' values are wanted, and its keys by channel."""
    return wiring.Signature({
        "valid": Out(1), "take": In(1), "first": Out(1), "last": Out(1),
        "wanted": Out(spec.channels), "keys": Out(keys_layout(spec)),
        "exponents": Out(_exponents(spec))})


def again_signature(spec: SpattenSpec) -> wiring.Signature:
    """Return how a row is read without its leaving: keys and exponents come in the next cycle."""
    return wiring.Signature({
        "selector": Out(bits(spec.selectors)), "place": Out(bits(spec.rows)),
        "keys": In(keys_layout(spec)), "exponents": In(_exponents(spec))})


def _exponents(spec: SpattenSpec) -> data.ArrayLayout:
    return data.ArrayLayout(unsigned(spec.PROBABILITY_BITS), spec.channels)


class Choice(wiring.Component):
    """Choose the nearest keys of several vectors at a time, and remember their exponents.

    A vector's rows are written as they come, scores by lane to the selector named, exponents and
    token rows, by channel, to a memory. The vectors named at ``order`` leave row by row.

    Latency: ``spec.select.find_cycles(n)`` cycles from the last scores to the first row, and one
    for each further row. Throughput: a row per cycle in, one out.

    Parameters
    ----------
    spec : SpattenSpec

    Members
    -------
    keys : ``In(Signature({"valid", "selector", "place", "row": keys_layout(spec)}))``
        Which keys row ``place`` of a selector's vector has: stored.
    load : ``In(Signature({"valid", "selector", "place", "last", "rows", "values", "scores", \
"exponents"}))``
        Row ``place`` of a vector of ``rows`` rows, of which ``values`` values are wanted: scores
        by lane, ``2**9 - distance``, and 0 where no key is; exponents by channel. Rows come in
        order, and only to a selector that is free.
    discard : ``In(selectors)``
        Forget the vectors of these selectors: all their rows have come, and none has left.
    order : ``In(order_signature(spec))``
        Whose rows leave; changes after the last row was taken, and then there is a cycle without
        ``take``.
    again : ``In(again_signature(spec))``
        Rows that have come and not yet left.
    o : ``Out(row_signature(spec))``
    """

    def __init__(self, spec: SpattenSpec):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        self._spec = spec
        number, place = bits(spec.selectors), bits(spec.rows)
        scores = data.ArrayLayout(unsigned(spec.select.width), spec.channels)
        super().__init__({
            "keys": In(wiring.Signature({
                "valid": Out(1), "selector": Out(number), "place": Out(place),
                "row": Out(keys_layout(spec))})),
            "load": In(wiring.Signature({
                "valid": Out(1), "selector": Out(number), "place": Out(place), "last": Out(1),
                "rows": Out(bits(spec.rows + 1)), "values": Out(16), "scores": Out(scores),
                "exponents": Out(_exponents(spec))})),
            "discard": In(spec.selectors),
            "order": In(order_signature(spec)),
            "again": In(again_signature(spec)),
            "o": Out(row_signature(spec)),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, load, o = self._spec, self.load, self.o
        select, depth = spec.select, spec.selectors * spec.rows
        m.submodules.keys = keys = Memory(
            shape=keys_layout(spec), depth=depth, init=[], attrs={"no_rw_check": "1"})
        m.submodules.exponents = exponents = Memory(
            shape=load.exponents.shape(), depth=depth, init=[], attrs={"no_rw_check": "1"})
        keys_write, keys_read = keys.write_port(), keys.read_port()
        exponents_write, exponents_read = exponents.write_port(), exponents.read_port()
        keys_again, exponents_again = keys.read_port(), exponents.read_port()
        again_at = Signal(range(depth))
        m.d.comb += [
            again_at.eq(self.again.selector * spec.rows + self.again.place),
            keys_again.addr.eq(again_at), exponents_again.addr.eq(again_at),
            keys_again.en.eq(1), exponents_again.en.eq(1),
            self.again.keys.eq(keys_again.data), self.again.exponents.eq(exponents_again.data),
        ]
        row = Signal(range(spec.rows))  # that leaves next
        read_at = Signal(range(depth))
        m.d.comb += [
            keys_write.en.eq(self.keys.valid),
            keys_write.addr.eq(self.keys.selector * spec.rows + self.keys.place),
            keys_write.data.eq(self.keys.row),
            exponents_write.en.eq(load.valid),
            exponents_write.addr.eq(load.selector * spec.rows + load.place),
            exponents_write.data.eq(load.exponents),
            read_at.eq(self.order.selector * spec.rows + row + o.take),
            keys_read.addr.eq(read_at), exponents_read.addr.eq(read_at),
            keys_read.en.eq(1), exponents_read.en.eq(1),
            o.keys.eq(keys_read.data), o.exponents.eq(exponents_read.data),
            o.first.eq(row == 0),
        ]
        with m.If(o.take):
            m.d.sync += row.eq(Mux(o.last, 0, row + 1))

        value = Signal(select.value_width)
        top = load.values[select.value_width:].any()
        m.d.comb += value.eq(load.values[:select.value_width]
                             | top.replicate(select.value_width))
        outputs = []
        for number in range(spec.selectors):
            selector = TopK(select)
            forget = Signal(name="forget")
            m.submodules[f"selector_{number}"] = ResetInserter(forget)(selector)
            here = self.order.valid & (self.order.selector == number)
            m.d.comb += [
                forget.eq(self.discard[number]),
                selector.setting.n.eq(Cat(C(0, (spec.channels - 1).bit_length()), load.rows)),
                selector.setting.value.eq(value),
                selector.i.valid.eq(load.valid & (load.selector == number)),
                selector.i.payload.scores.eq(load.scores),
                selector.i.payload.last.eq(load.last),
                selector.o.ready.eq(here & o.take),
            ]
            outputs.append(Cat(here & selector.o.valid, selector.o.payload.last,
                               selector.o.payload.mask))
        m.d.comb += Cat(o.valid, o.last, o.wanted).eq(Array(outputs)[self.order.selector])
        return m
