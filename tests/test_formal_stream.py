# SPDX-License-Identifier: Apache-2.0
"""Proofs, for all inputs: streams keep order, lose and repeat nothing, and keep their offers.

The contract of a part is a component around it. Proofs of control go by induction and hold for
ever; those that follow a payload through the part are bounded, and hold for a number of cycles
from reset that is long enough to fill and empty it.
"""

import pytest
from amaranth.hdl import Cat, Module, Mux, ResetSignal, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.stream import WidthConverterSpec
from hw.stream import Arbiter, Queue, Slice, WidthConverter
from tests.proofs import assume, check, claim, needs_yosys

pytestmark = needs_yosys


class Contract(wiring.Component):
    """A part between ``i`` and ``o``, and what must be true of it.

    What a part does never depends on what it carries. So it is enough to send units of one bit, of
    which the solver sets one, at a moment of its choice: the one must come out once, ``ahead``
    units after it went in, and nothing else may.

    Parameters
    ----------
    part : component with ``i`` and ``o``.
    taken, given : units in a payload of ``i`` and of ``o``.
    limit : most units inside when it still accepts.
    follow : whether to follow the one.
    """

    def __init__(self, part, *, taken=1, given=1, limit, follow):
        self.part, self.taken, self.given = part, taken, given
        self.limit, self.follow = limit, follow
        super().__init__({"i": In(stream.Signature(taken)), "o": Out(stream.Signature(given))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.part = part = self.part
        connect(m, flipped(self.i), part.i)
        connect(m, part.o, flipped(self.o))
        m.d.comb += assume(~ResetSignal())
        takes, gives = self.i.valid & self.i.ready, self.o.valid & self.o.ready
        inside = Signal(range(self.limit + self.taken + 1))
        left = Signal.like(inside)
        m.d.comb += [
            left.eq(inside - Mux(gives, self.given, 0)),
            claim(inside <= self.limit + self.taken),
            claim(self.i.ready == (inside <= self.limit)),  # no deadlock, and no overflow
            claim(self.o.valid == (inside >= self.given)),  # latency 1, and no withdrawal
        ]
        m.d.sync += inside.eq(left + Mux(takes, self.taken, 0))
        if isinstance(part, Queue):
            m.d.comb += claim(part.level == inside)
        if self.follow:
            follow(m, takes, self.i.payload, self.o.valid, gives, self.o.payload, left)
        return m


def follow(m, takes, i, valid, gives, o, left):
    """Follow the single one in all that is taken, with ``left`` units before it."""
    sent = Signal()
    inside = Signal()
    ahead = Signal(len(left) + 1)
    with m.If(takes):
        m.d.comb += assume((i & (i - 1) == 0) & ~(sent & i.any()))
    with m.If(valid):
        m.d.comb += claim(o == Mux(inside, 1 << ahead, 0)[:len(o)])
    with m.If(gives):
        m.d.sync += [inside.eq(inside & (ahead >= len(o))), ahead.eq(ahead - len(o))]
    with m.If(takes & i.any()):
        m.d.sync += [sent.eq(1), inside.eq(1)]
        for n in range(len(i)):
            with m.If(i[n]):
                m.d.sync += ahead.eq(left + n)


class FairContract(wiring.Component):
    """An arbiter, and one of its inputs, which the solver chooses, followed through it."""

    def __init__(self, inputs):
        self.inputs = inputs
        self.part = Arbiter(shape=1, inputs=inputs)
        super().__init__(dict(self.part.signature.members) | {"chosen": In(range(inputs))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.part = part = self.part
        connect(m, part.o, flipped(self.o))
        for n in range(self.inputs):
            connect(m, flipped(self.i[n]), part.i[n])
        before = Signal.like(self.chosen)
        started = Signal()
        m.d.sync += [before.eq(self.chosen), started.eq(1)]
        m.d.comb += [assume(~ResetSignal()), assume(self.chosen < self.inputs),
                     assume(~started | (before == self.chosen))]

        takes = Signal(self.inputs)
        total = Signal(range(3))
        gives = self.o.valid & self.o.ready
        m.d.sync += total.eq(total + takes.any() - gives)
        m.d.comb += [
            takes.eq(Cat(port.valid & port.ready for port in self.i)),
            claim(sum(port.valid & port.ready for port in self.i) <= 1),
            claim(self.o.valid == (total != 0)),
            claim(takes.any() == (Cat(port.valid for port in self.i).any() & (total != 2))),
        ]

        offer = Signal()
        payload = Signal()
        for n, port in enumerate(self.i):
            with m.If(self.chosen == n):
                m.d.comb += [offer.eq(port.valid), payload.eq(port.payload)]
        mine = takes.bit_select(self.chosen, 1)
        waits = Signal()
        others = Signal(range(self.inputs + 1))  # granted while the chosen offer waits
        m.d.sync += waits.eq(offer & ~mine)
        m.d.comb += assume(~waits | offer)
        with m.If(mine | ~offer):
            m.d.sync += others.eq(0)
        with m.Elif(takes.any()):
            m.d.sync += others.eq(others + 1)
            m.d.comb += claim(others < self.inputs - 1)

        held = Signal()  # what is offered stays
        held_payload = Signal(len(self.o.payload.as_value()))
        m.d.sync += [held.eq(self.o.valid & ~self.o.ready), held_payload.eq(self.o.payload)]
        m.d.comb += claim(~held | (self.o.payload.as_value() == held_payload))

        own = self.o.payload.source == self.chosen
        inside = Signal(range(3))
        left = Signal(range(3))
        m.d.comb += [left.eq(inside - (gives & own)), claim(~(gives & own) | (inside != 0))]
        m.d.sync += inside.eq(left + mine)
        follow(m, mine, payload, self.o.valid & own, gives & own, self.o.payload.payload, left)
        return m


def queue(depth, **arguments):
    return Contract(Queue(shape=1, depth=depth), limit=depth - 1, **arguments)


def width(taken, given, **arguments):
    spec = WidthConverterSpec(in_width=taken, out_width=given)
    limit = spec.parts if taken < given else 1
    return Contract(WidthConverter(spec), taken=taken, given=given, limit=limit, **arguments)


@pytest.mark.parametrize("contract", [
    pytest.param(lambda: Contract(Slice(1), limit=1, follow=False), id="slice"),
    pytest.param(lambda: queue(3, follow=False), id="queue_3"),
    pytest.param(lambda: queue(16, follow=False), id="queue_16"),
])
def test_control_for_ever(contract, tmp_path):
    said = check(contract(), tmp_path, steps=6, bounded=False)
    assert "Induction step proven: SUCCESS!" in said, said


@pytest.mark.parametrize("contract, steps", [
    pytest.param(lambda: Contract(Slice(1), limit=1, follow=True), 20, id="slice"),
    pytest.param(lambda: queue(2, follow=True), 14, id="queue_2"),
    pytest.param(lambda: queue(3, follow=True), 12, id="queue_3"),
    pytest.param(lambda: queue(5, follow=True), 12, id="queue_5"),
    pytest.param(lambda: width(1, 3, follow=True), 18, id="join_3"),
    pytest.param(lambda: width(3, 1, follow=True), 18, id="cut_3"),
    pytest.param(lambda: FairContract(3), 14, id="arbiter_3"),
])
def test_payloads_from_reset(contract, steps, tmp_path):
    said = check(contract(), tmp_path, steps=steps, bounded=True)
    assert f"proved base case for {steps} steps: SUCCESS!" in said, said


def test_finds_a_fault(tmp_path):
    """A wrong claim about a good part is refuted, so that silence means something."""
    said = check(Contract(Slice(1), limit=2, follow=True), tmp_path, steps=8, bounded=True)
    assert "SAT temporal induction proof finished - model found for base case: FAIL!" in said, said
