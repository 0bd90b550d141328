# SPDX-License-Identifier: Apache-2.0
"""Proofs, for all scores and settings of small vectors, all stalls, and from every reset state.

What leaves for a vector is what top-k means: as many entries as there should be, none of those
dropped better than one that is kept, equal ones by their index, in order, in time.
"""

import pytest
from amaranth.hdl import C, Cat, Module, Mux, ResetSignal, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.topk import Rule, TopKSpec
from hw.select import TopK, ZeroEliminator
from tests.proofs import assume, check, claim, needs_yosys

pytestmark = needs_yosys


class Contract(wiring.Component):
    """A selector whose vectors the solver chooses, and what must be true of the survivors.

    Parameters
    ----------
    spec : TopKSpec
    wrong : bool
        Claim that one more is kept than should be.
    """

    def __init__(self, spec, *, wrong=False):
        self.spec, self.wrong = spec, wrong
        part = TopK(spec)
        self.part = part
        super().__init__({
            "scores": In(data.ArrayLayout(unsigned(spec.width), spec.rows * spec.lanes)),
            "n": In(range(1, spec.n + 1)),
            "keep": In(spec.value_width),
            "protected": In(2),
            "offer": In(1),
            "o": Out(stream.Signature(part.o.payload.shape())),
        })

    def elaborate(self, platform):
        m = Module()
        spec, lanes, n = self.spec, self.spec.lanes, self.spec.n
        m.submodules.part = part = self.part
        wiring.connect(m, part.o, wiring.flipped(self.o))
        m.d.comb += assume(~ResetSignal())

        # One vector after the other; it stays until its last survivors have left.
        chosen = Cat(self.scores, self.n, self.keep, self.protected)
        before = Signal.like(chosen)
        busy = Signal()
        row = Signal(range(spec.rows + 1))
        takes, gives = part.i.valid & part.i.ready, self.o.valid & self.o.ready
        rows = (self.n + (lanes - 1)) >> (lanes - 1).bit_length()
        m.d.sync += before.eq(chosen)
        m.d.comb += [
            assume((self.n >= 1) & (self.n <= n)),
            assume(~busy | (before == chosen)),
            part.setting.n.eq(self.n),
            part.setting.rule.eq(Rule.TOPK),
            part.setting.value.eq(self.keep),
            part.setting.protected.eq(self.protected),
            part.i.valid.eq(self.offer & (row != rows)),
            part.i.payload.last.eq(row == rows - 1),
        ]
        waiting = Signal()  # the offer was not taken: it stays
        m.d.sync += waiting.eq(part.i.valid & ~part.i.ready)
        m.d.comb += assume(~waiting | self.offer)
        for lane in range(lanes):
            m.d.comb += part.i.payload.scores[lane].eq(
                self.scores.as_value().word_select(row * lanes + lane, spec.width))
        with m.If(takes):
            m.d.sync += [row.eq(row + 1), busy.eq(1)]

        # What has left so far, and with this beat.
        payload = self.o.payload
        kept = Signal(n)
        after = Signal(n)
        now = Signal(n)
        m.d.comb += [
            now.eq(sum((Mux(payload.count > lane, C(1, n) << payload.indices[lane], 0)
                        for lane in range(lanes)), C(0))),
            after.eq(kept | now),
        ]
        with m.If(self.o.valid):
            m.d.comb += [
                claim(row == rows),
                claim(payload.count <= lanes),
                claim((payload.count != 0) | payload.last),
                claim(payload.total == sum(after, C(0))),
                claim((kept & ((now & -now) - 1 | Mux(now.any(), 0, -1))) == kept),  # in order
            ]
            for lane in range(lanes):
                with m.If(payload.count > lane):
                    index = payload.indices[lane]
                    m.d.comb += [
                        claim(index < self.n),
                        claim(payload.scores[lane]
                              == self.scores.as_value().word_select(index, spec.width)),
                    ]
                    if lane:
                        m.d.comb += claim(index > payload.indices[lane - 1])
        with m.If(self.o.valid & payload.last):
            more = Mux(self.keep > self.protected, self.keep, self.protected)
            m.d.comb += claim(payload.total == Mux(more < self.n, more, self.n) + self.wrong)
            for a in range(n):
                for b in range(n):
                    better = ((self.scores[a] > self.scores[b])
                              | (self.scores[a] == self.scores[b]) & (a < b))
                    with m.If(after[a] & ~after[b] & (b < self.n) & (a >= self.protected)):
                        m.d.comb += claim(better)
            for a in range(min(n, spec.PROTECTED)):
                m.d.comb += claim(after[a] | (a >= self.protected) | (a >= self.n))
        with m.If(gives):
            m.d.sync += kept.eq(after)
            with m.If(payload.last):
                m.d.sync += [kept.eq(0), row.eq(0), busy.eq(0)]

        # An offer stays, and comes in time.
        held = Signal()
        held_payload = Signal.like(payload.as_value())
        late = Signal(range(spec.cycles(n) + 2))
        m.d.sync += [held.eq(self.o.valid & ~self.o.ready), held_payload.eq(payload)]
        m.d.comb += [
            claim(~held | self.o.valid & (payload.as_value() == held_payload)),
            claim(late <= spec.cycles(n)),
        ]
        with m.If((row == rows) & ~held):
            m.d.sync += late.eq(late + 1)
        with m.If(gives & payload.last):
            m.d.sync += late.eq(0)
        return m


SMALL = {"n": 3, "width": 2, "lanes": 2, "buffers": 1, "threshold": False}


@pytest.mark.parametrize("fields, steps", [
    pytest.param({"digit": 1}, 18, id="radix"),
    pytest.param({"digit": 2, "buffers": 2}, 14, id="radix_2"),
    pytest.param({"engine": "bitserial"}, 16, id="bitserial"),
    pytest.param({"engine": "quickselect", "n": 2}, 16, id="quickselect"),
])
def test_top_k(fields, steps, tmp_path):
    said = check(Contract(TopKSpec(**SMALL | fields)), tmp_path, steps=steps, bounded=True,
                 timeout=600)
    assert f"proved base case for {steps} steps: SUCCESS!" in said, said


def test_finds_a_fault(tmp_path):
    """A wrong claim is refuted, so that silence means something."""
    said = check(Contract(TopKSpec(**SMALL, digit=2), wrong=True), tmp_path, steps=14, bounded=True)
    assert "SAT temporal induction proof finished - model found for base case: FAIL!" in said, said


class Compaction(wiring.Component):
    """Zero elimination of items of one bit, followed from a lane that the solver chooses."""

    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__({"keep": In(lanes), "items": In(lanes), "lane": In(range(lanes))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.part = part = ZeroEliminator(lanes=self.lanes, shape=unsigned(1))
        rank = Signal(range(self.lanes + 1))
        m.d.comb += [
            part.keep.eq(self.keep), part.i.as_value().eq(self.items),
            rank.eq(sum((self.keep[n] & (n < self.lane) for n in range(self.lanes)), C(0))),
            claim(part.count == sum(self.keep, C(0))),
            claim(~self.keep.bit_select(self.lane, 1)
                  | (part.o.as_value().bit_select(rank, 1) == self.items.bit_select(self.lane, 1))),
        ]
        return m


@pytest.mark.parametrize("lanes", [2, 4, 16])
def test_compaction(lanes, tmp_path):
    said = check(Compaction(lanes), tmp_path, steps=1, bounded=True)
    assert "proved base case for 1 steps: SUCCESS!" in said, said
