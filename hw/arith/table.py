# SPDX-License-Identifier: Apache-2.0
"""A look-up table that is loaded at run time."""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.table import TableSpec


class Table(wiring.Component):
    """Look up ``lanes`` indices per cycle, as :meth:`TableSpec.compute` says.

    One memory per lane, ``load_entries`` entries wide, all written at once; the low bits of the
    index choose within the word that was read. Entries are zero until loaded. A word that is read
    in the cycle in which it is written gives its old or its new entries.

    Latency: 1 cycle. Throughput: 1 read of each lane and 1 written word per cycle.

    ===================================  ======  ===========
    area                                  kGE    memory bits
    ===================================  ======  ===========
    8 lanes, 256 x 8, words of 8          1.21        16,384
    8 lanes, 1024 x 8, words of 4         0.57        65,536
    ===================================  ======  ===========

    Parameters
    ----------
    spec : TableSpec
        What to build.

    Members
    -------
    load : ``In(stream.Signature(Table.load_shape(spec)))``
        A word: its ``address`` and its ``entries``, lowest index first. Always ready.
    index : ``In(ArrayLayout(unsigned(index_width), lanes))``
    enable : ``In(1)``
        Look up; without it ``value`` stays.
    value : ``Out(ArrayLayout(unsigned(width), lanes))``
        Entries of the last cycle's indices.
    """

    LATENCY = TableSpec.LATENCY

    def __init__(self, spec: TableSpec):
        if not isinstance(spec, TableSpec):
            raise TypeError(f"spec must be a TableSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "load": In(stream.Signature(self.load_shape(spec))),
            "index": In(data.ArrayLayout(unsigned(spec.index_width), spec.lanes)),
            "enable": In(1),
            "value": Out(data.ArrayLayout(unsigned(spec.width), spec.lanes)),
        })

    @staticmethod
    def load_shape(spec: TableSpec) -> data.StructLayout:
        """Return the payload of ``load``."""
        return data.StructLayout({
            "address": unsigned(spec.address_width),
            "entries": data.ArrayLayout(unsigned(spec.width), spec.load_entries),
        })

    @property
    def spec(self) -> TableSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        word = data.ArrayLayout(unsigned(spec.width), spec.load_entries)
        below = spec.load_entries.bit_length() - 1  # index bits within a word
        m.d.comb += self.load.ready.eq(1)
        for lane in range(spec.lanes):
            memory = Memory(shape=word, depth=spec.words, init=[])
            m.submodules[f"memory_{lane}"] = memory
            write = memory.write_port()
            read = memory.read_port()
            place = Signal(below, name=f"place_{lane}", reset_less=True)
            m.d.comb += [
                write.addr.eq(self.load.payload.address),
                write.data.eq(self.load.payload.entries),
                write.en.eq(self.load.valid),
                read.addr.eq(self.index[lane] >> below),
                read.en.eq(self.enable),
                self.value[lane].eq(read.data[place]),
            ]
            with m.If(self.enable):
                m.d.sync += place.eq(self.index[lane])
        return m
