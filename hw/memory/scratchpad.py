# SPDX-License-Identifier: Apache-2.0
"""The banked on-chip memory."""

from amaranth.hdl import Module, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.scratchpad import ScratchpadSpec


class Scratchpad(wiring.Component):
    """Banked memory: reads a word of every bank at one address, writes each bank at its own.

    Where data lies, and why no access meets a bank twice, is told by :class:`ScratchpadSpec`.
    Data appear one cycle after ``enable`` and stay until the next one. A word that is read in the
    cycle in which it is written must not be used: simulators show the old one, but synthesis may
    take any memory with a read and a write port (``no_rw_check`` tells Yosys, which would otherwise
    build the old word out of 150 flip-flops and LUTs per bank on an ECP5). Each bank is a module of
    its own, for a memory macro to replace. Cost: ``spec.bits`` bits of memory.

    Parameters
    ----------
    spec : ScratchpadSpec

    Members
    -------
    read.enable : ``In(1)``
    read.address : ``In(range(spec.words))``
    read.data : ``Out(ArrayLayout(spec.width, spec.banks))``
    write.enable : ``In(spec.banks)``
        One bit per bank.
    write.address : ``In(ArrayLayout(range(spec.words), spec.banks))``
    write.data : ``In(ArrayLayout(spec.width, spec.banks))``
    write.segments : ``In(spec.segments)``
        The segments that are written, the same in every bank.
    """

    LATENCY = 1

    def __init__(self, spec: ScratchpadSpec):
        if not isinstance(spec, ScratchpadSpec):
            raise TypeError(f"spec must be a ScratchpadSpec, not {spec!r}")
        self._spec = spec
        words = data.ArrayLayout(unsigned(spec.width), spec.banks)
        super().__init__({
            "read": Out(wiring.Signature({
                "enable": In(1),
                "address": In(range(spec.words)),
                "data": Out(words),
            })),
            "write": Out(wiring.Signature({
                "enable": In(spec.banks),
                "address": In(data.ArrayLayout(range(spec.words), spec.banks)),
                "data": In(words),
                "segments": In(spec.segments),
            })),
        })

    @property
    def spec(self) -> ScratchpadSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        for n in range(spec.banks):
            m.submodules[f"bank_{n}"] = bank = Memory(
                shape=unsigned(spec.width), depth=spec.words, init=[], attrs={"no_rw_check": "1"})
            write_port, read_port = bank.write_port(granularity=spec.segment), bank.read_port()
            enable = self.write.enable[n].replicate(spec.segments)
            m.d.comb += [
                write_port.en.eq(enable & self.write.segments),
                write_port.addr.eq(self.write.address[n]),
                write_port.data.eq(self.write.data[n]),
                read_port.en.eq(self.read.enable),
                read_port.addr.eq(self.read.address),
                self.read.data[n].eq(read_port.data),
            ]
        return m
