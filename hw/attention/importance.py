# SPDX-License-Identifier: Apache-2.0
"""The importance of tokens: probabilities of softmax, added up key by key."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory, ReadPort, WritePort
from amaranth.lib.wiring import In, Out

from golden.importance import ImportanceSpec
from hw.stream import Queue


def row_layout(spec: ImportanceSpec) -> data.StructLayout:
    """Return what must be known of a row of exponents."""
    return data.StructLayout({
        "keys": spec.max_keys.bit_length(), "start": 1, "counts": 1, "final": 1})


class Importance(wiring.Component):
    """Add rows of exponents, each with its reciprocal, as :meth:`ImportanceSpec.add` says.

    ::

        i --> row memory --> * r --> >> 3 + k --> + --> sums --> read
                             found ---^           ^-------+

    Exponents wait in the row memory for the reciprocal of their sum. Then the row is added, which
    takes ``spec.cycles(keys)`` from ``found`` on. For ``class``, of which each head has one row,
    that is key by key, with a multiplier of one bit per cycle; the next row is accepted when it has
    been done. For ``column`` it is a word per cycle, as fast as rows come, and there is room for
    two of the longest, up to ``ROWS`` of them.

    ==================================  ======  =========  ===========
    area                                 kGE    registers  memory bits
    ==================================  ======  =========  ===========
    class, 200 keys                      1.40    0.33         4,800
    column, 200 keys, 8 lanes           17.08    2.43         8,000
    ==================================  ======  =========  ===========

    Parameters
    ----------
    spec : ImportanceSpec
        What to compute.

    Members
    -------
    i : ``In(stream.Signature(StructLayout({"exponents": ..., "last": 1})))``
        ``ArrayLayout(unsigned(8), lanes)``: a word of a row; the row's last one.
    row : ``In(row_layout(spec))``
        Its keys; whether it replaces what was there, whether its
        exponents count at all, and whether ``done`` follows it; constant from its first word to its
        last.
    found : ``In(StructLayout({"valid": 1, "reciprocal": 17, "exponent": ...}))``
        ``r`` and ``k`` of a row, in the order of rows; after its last word.
    done : ``Out(1)``
        One cycle: a final row has been added.
    read : ``en``, ``addr``, ``data``
        The importance of a key, a cycle later; only while no row is there.

    Source
    ------
    See :class:`~golden.importance.ImportanceSpec`; the arithmetic unit is ours.
    """

    def __init__(self, spec: ImportanceSpec):
        if not isinstance(spec, ImportanceSpec):
            raise TypeError(f"spec must be an ImportanceSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "exponents": data.ArrayLayout(unsigned(8), spec.lanes),
                "last": 1,
            }))),
            "row": In(row_layout(spec)),
            "found": In(data.StructLayout({
                "valid": 1, "reciprocal": 17, "exponent": spec.reciprocal.exponent_width})),
            "done": Out(1),
            "read": In(wiring.Signature({
                "en": Out(1), "addr": Out(range(spec.max_keys)), "data": In(spec.WIDTH)})),
        })

    @property
    def spec(self) -> ImportanceSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        lanes, parallel = spec.lanes, spec.parallel
        m.submodules.rows = rows = Memory(shape=unsigned(8 * lanes), depth=spec.row_words, init=[])
        write, read = rows.write_port(), rows.read_port()
        last = spec.row_words - 1

        # Rows that arrive
        first = Signal(init=1)
        accept = Signal()
        write_at = Signal(range(spec.row_words))
        used = Signal()  # a word of it is free again
        arrived = Signal()
        m.d.comb += [
            accept.eq(self.i.valid & self.i.ready),
            arrived.eq(accept & self.i.payload.last),
            write.en.eq(accept), write.addr.eq(write_at), write.data.eq(self.i.payload.exponents),
        ]
        with m.If(accept):
            m.d.sync += [first.eq(self.i.payload.last),
                         write_at.eq(Mux(write_at == last, 0, write_at + 1))]

        # The row that is added
        row = Signal(row_layout(spec))
        found = Signal(data.StructLayout({
            "reciprocal": 17, "exponent": spec.reciprocal.exponent_width}))
        adding = Signal()  # its keys are read
        step = Signal()  # to the next key, or word of keys
        ended = Signal()  # that was the row's last
        if spec.source == "class":
            pending = Signal()
            m.d.comb += self.i.ready.eq(~first | ~pending)
            with m.If(accept & first):
                m.d.sync += [pending.eq(1), row.eq(self.row)]
            with m.If(self.found.valid):
                m.d.sync += [adding.eq(1), found.reciprocal.eq(self.found.reciprocal),
                             found.exponent.eq(self.found.exponent)]
            with m.Elif(ended):
                m.d.sync += adding.eq(0)
            with m.If(self.done):
                m.d.sync += [pending.eq(0), write_at.eq(0)]
        else:
            m.submodules.settings = settings = Queue(shape=self.row.shape(), depth=spec.ROWS)
            m.submodules.factors = factors = Queue(shape=found.shape(), depth=spec.ROWS)
            level = Signal(range(spec.row_words + 1))
            waiting = Signal(range(spec.ROWS + 1))
            m.d.sync += [level.eq(level + accept - used),
                         waiting.eq(waiting + (accept & first) - ended)]
            m.d.comb += [
                self.i.ready.eq((level != spec.row_words)
                                & (~first | (waiting != spec.ROWS))),
                settings.i.valid.eq(arrived), settings.i.payload.eq(self.row),
                factors.i.valid.eq(self.found.valid),
                factors.i.payload.reciprocal.eq(self.found.reciprocal),
                factors.i.payload.exponent.eq(self.found.exponent),
                settings.o.ready.eq(ended), factors.o.ready.eq(ended),
                row.eq(settings.o.payload), found.eq(factors.o.payload),
            ]
            m.d.sync += adding.eq(factors.o.valid & ~ended)

        sums_shape = data.ArrayLayout(unsigned(spec.sum_bits), parallel)
        m.submodules.sums = sums = Memory(shape=sums_shape, depth=spec.sum_words, init=[])
        ports = sums.write_port(), sums.read_port()
        key = Signal(range(spec.max_keys))
        end = Signal(len(key) + 1)
        m.d.comb += [end.eq(key + parallel), ended.eq(adding & step & (end >= row["keys"]))]
        with m.If(adding & step):
            m.d.sync += key.eq(Mux(ended, 0, end))
        if spec.source == "class":
            self._serial(m, read, *ports, key, row, found, adding, step, ended)
        else:
            self._parallel(m, read, *ports, key, row, found, adding, ended)
            m.d.comb += [step.eq(1), used.eq(adding)]
        return m

    def _serial(self, m: Module, read: ReadPort, sums_write: WritePort, sums_read: ReadPort,
                key: Signal, row: Any, found: Any, adding: Signal, step: Signal,
                ended: Signal) -> None:
        """Add key after key: read, multiply bit by bit, round, write."""
        spec = self._spec
        lane = key[:(spec.lanes - 1).bit_length()]
        phase = Signal(range(spec.SERIAL))
        product = Signal(25, reset_less=True)
        total = Signal(spec.sum_bits + 1)
        m.d.comb += [
            step.eq(phase == spec.SERIAL - 1),
            read.en.eq(adding), read.addr.eq(key >> len(lane)),
            sums_read.en.eq(adding & (phase == 0) | self.read.en),
            sums_read.addr.eq(Mux(adding, key, self.read.addr)),
            self.read.data.eq(sums_read.data[0]),
            total.eq(Mux(row.start, 0, sums_read.data[0]) + product[:spec.WIDTH]),
            sums_write.en.eq(adding & step), sums_write.addr.eq(key),
            sums_write.data[0].eq(total[:-1] | total[-1].replicate(spec.sum_bits)),
            self.done.eq(ended & row.final),
        ]
        with m.If(adding):
            m.d.sync += phase.eq(Mux(step, 0, phase + 1))
        with m.If(phase == 1):
            m.d.sync += product.eq(Mux(row.counts, read.data.word_select(lane, 8), 0))
        with m.Elif(phase == spec.SERIAL - 2):
            m.d.sync += product.eq(_rounded(product, found.exponent, spec.WIDTH))
        with m.Else():
            m.d.sync += product.eq(Cat(product[1:8],
                                       product[8:] + Mux(product[0], found.reciprocal, 0)))

    def _parallel(self, m: Module, read: ReadPort, sums_write: WritePort, sums_read: ReadPort,
                  key: Signal, row: Any, found: Any, adding: Signal, ended: Signal) -> None:
        """Add a word of keys per cycle: read; multiply; shift; add and write."""
        spec = self._spec
        lanes, last = spec.lanes, spec.row_words - 1
        read_at = Signal(range(spec.row_words))
        m.d.comb += [read.en.eq(adding), read.addr.eq(read_at)]
        with m.If(adding):
            m.d.sync += read_at.eq(Mux(read_at == last, 0, read_at + 1))

        def stages(name: str, value: Value, count: int) -> list[Value]:
            """Return a value as it was 0 to ``count`` cycles ago."""
            result = [value]
            for number in range(1, count + 1):
                result.append(Signal.like(value, name=f"{name}_{number}"))
                m.d.sync += result[-1].eq(result[-2])
            return result

        shift = (lanes - 1).bit_length()
        valid = stages("valid", adding, 3)
        address = stages("address", key >> shift, 3)
        ends = stages("ends", ended & row.final, 3)[-1]
        reciprocal = stages("reciprocal", found.reciprocal, 1)[-1]
        exponent = stages("exponent", found.exponent, 2)[-1]
        start = stages("start", row.start, 3)[-1]
        counts = stages("counts", row.counts, 1)[-1]
        held = stages("held", Cat(key + n < row["keys"] for n in range(lanes)), 3)[-1]
        where = stages("lane", self.read.addr[:shift], 1)[-1]
        m.d.comb += [
            sums_read.en.eq(valid[2] | self.read.en),
            sums_read.addr.eq(Mux(valid[2], address[2], self.read.addr >> shift)),
            self.read.data.eq(sums_read.data.as_value().word_select(where, spec.sum_bits)
                              >> spec.shift),
            sums_write.en.eq(valid[3]), sums_write.addr.eq(address[3]), self.done.eq(ends),
        ]
        for n in range(lanes):
            product = Signal(25, name=f"product_{n}", reset_less=True)
            rounded = Signal(spec.WIDTH, name=f"rounded_{n}", reset_less=True)
            total = Signal(spec.sum_bits + 1, name=f"total_{n}")
            p, old = read.data.word_select(n, 8), sums_read.data[n]
            m.d.sync += [product.eq(Mux(counts, p, 0) * reciprocal),
                         rounded.eq(_rounded(product, exponent, spec.WIDTH))]
            m.d.comb += [
                total.eq(Mux(start, 0, old) + rounded),
                sums_write.data[n].eq(
                    Mux(held[n], total[:-1] | total[-1].replicate(spec.sum_bits), old)),
            ]


def _rounded(product: Value, exponent: Value, width: int) -> Value:
    """Return ``round(product / 2**(3 + exponent))``, which is at most 2**15.

    That is so because an exponent ``p`` is a part of the sum: ``p < 2**(exponent + 1)``.
    """
    return ((product[2:] >> exponent)[:width + 1] + 1) >> 1
