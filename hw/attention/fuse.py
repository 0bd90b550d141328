# SPDX-License-Identifier: Apache-2.0
"""One row of many: a sum of weighted rows, requantised."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.fuse import FuseSpec
from golden.importance import ImportanceSpec
from golden.validate import choice
from hw.arith.product import product as multiply
from hw.arith.requant import Requant


class Fuser(wiring.Component):
    """Add up rows, each times its weight, and give the sum, as :meth:`FuseSpec.compute` says.

    ::

        i --> * weight --> + --> sums --> requantise --> collect --> o
                           ^-------+     (an element      (a word)
                                          per cycle)

    Area with 8 lanes, 200 tokens and a width of 768: 27.2 kGE, with ``booth`` 24.3, of which 2.3
    are registers and 5.0 the requantiser; and a memory of 30,720 bits.

    Parameters
    ----------
    spec : FuseSpec
        What to compute.
    multiplier : str
        See :func:`~hw.arith.product.product`.

    Members
    -------
    start : ``In(1)``
        Forget all rows; only when nothing is on its way.
    mul, shift : ``In(16)``, ``In(6)``
        Of the requantisation; constant while the sum is given.
    i : ``In(stream.Signature(StructLayout))``
        ``lanes`` signed 16-bit ``x``, the ``weight`` of the row, and ``last`` in its last word.
        Ready unless the word before it was the same one of its row.
    finish : ``In(1)``
        One cycle, with the last row's last word or behind it: give the sum.
    o : ``Out(stream.Signature(StructLayout))``
        The sum: ``x``, and ``last``.
    """

    def __init__(self, spec: FuseSpec, *, multiplier: str = "inferred"):
        choice("multiplier", multiplier, ("inferred", "booth"))
        self.spec = spec
        self._multiplier = multiplier
        lanes = data.ArrayLayout(signed(spec.WIDTH), spec.lanes)
        super().__init__({
            "start": In(1), "mul": In(16), "shift": In(6), "finish": In(1),
            "i": In(stream.Signature(data.StructLayout({
                "x": lanes, "weight": ImportanceSpec.WIDTH, "last": 1}))),
            "o": Out(stream.Signature(data.StructLayout({"x": lanes, "last": 1}))),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        m.submodules.sums = sums = Memory(
            shape=data.ArrayLayout(signed(spec.acc_width), spec.lanes), depth=spec.max_words,
            init=[], attrs={"no_rw_check": "1"})
        m.submodules.requant = requant = Requant(spec.requant, multiplier=self._multiplier)
        read, write = sums.read_port(), sums.write_port()

        # Add rows: read, add and write back a cycle later
        word = Signal(range(spec.max_words), reset_less=True)
        end = Signal.like(word)  # the last of a row
        fresh = Signal(reset_less=True)  # no row has been added
        take = Signal()
        adding = Signal()
        adding_fresh = Signal(reset_less=True)
        adding_word = Signal.like(word)
        given = self.i.payload
        m.d.comb += [
            self.i.ready.eq(~(adding & (adding_word == word))),
            take.eq(self.i.valid & self.i.ready),
            write.en.eq(adding), write.addr.eq(adding_word),
        ]
        m.d.sync += [adding.eq(take), adding_word.eq(word), adding_fresh.eq(fresh)]
        for lane in range(spec.lanes):
            product = Signal(signed(2 * spec.WIDTH), name=f"product_{lane}", reset_less=True)
            with m.If(take):
                m.d.sync += product.eq(multiply(m, f"weighted_{lane}", given.x[lane], given.weight,
                                                self._multiplier))
            m.d.comb += write.data[lane].eq(Mux(adding_fresh, 0, read.data[lane]) + product)
        with m.If(self.start):
            m.d.sync += [word.eq(0), fresh.eq(1)]
        with m.Elif(take):
            m.d.sync += word.eq(word + 1)
            with m.If(given.last):
                m.d.sync += [word.eq(0), end.eq(word), fresh.eq(0)]

        # Give the sum: a word is read while the last element of the one before goes
        giving = Signal()  # words are left to be read
        loaded = Signal()
        lane = Signal(range(spec.lanes))
        fed = Signal()
        ask = Signal()
        m.d.comb += [
            requant.i.valid.eq(loaded),
            requant.i.payload.acc[0].eq(read.data[lane]),
            requant.i.payload.mul[0].eq(self.mul), requant.i.payload.shift[0].eq(self.shift),
            fed.eq(loaded & requant.i.ready),
            ask.eq(giving & ~adding & (~loaded | (fed & (lane == spec.lanes - 1)))),
            read.en.eq(take | ask), read.addr.eq(word),
        ]
        with m.If(self.finish):
            m.d.sync += giving.eq(1)
        with m.If(fed):
            m.d.sync += lane.eq(lane + 1)
            with m.If(lane == spec.lanes - 1):
                m.d.sync += loaded.eq(0)
        with m.If(ask):
            m.d.sync += [loaded.eq(1), word.eq(word + 1)]
            with m.If(word == end):
                m.d.sync += giving.eq(0)

        # Collect words
        filled = Signal(range(spec.lanes))
        full = Signal()
        out = Signal.like(word)
        m.d.comb += [
            requant.o.ready.eq(~full | self.o.ready),
            self.o.valid.eq(full), self.o.payload.last.eq(out == end),
        ]
        collected = Signal(spec.WIDTH * spec.lanes, reset_less=True)
        m.d.comb += self.o.payload.x.as_value().eq(collected)
        with m.If(full & self.o.ready):
            m.d.sync += [full.eq(0), out.eq(out + 1)]
        with m.If(requant.o.valid & requant.o.ready):
            m.d.sync += [collected.eq(Cat(collected[spec.WIDTH:], requant.o.payload[0])),
                         filled.eq(filled + 1)]
            with m.If(filled == spec.lanes - 1):
                m.d.sync += full.eq(1)
        with m.If(self.start):
            m.d.sync += out.eq(0)
        return m
