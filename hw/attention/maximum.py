# SPDX-License-Identifier: Apache-2.0
"""Exact row maxima of tiles of scores, found while the scores arrive."""

from collections.abc import Callable, Sequence
from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.softmax import SoftmaxSpec


def fold(m: Module, name: str, terms: Sequence[Value], combine: Callable[[Value, Value], Value],
         *, layers: int, mark: Any, enable: Value | None = None) -> tuple[Value, list[Any]]:
    """Combine ``terms`` pairwise until one is left, with registers after each ``layers`` layers.

    Return what is left, with fewer than ``layers`` layers of logic before it, and the view
    ``mark`` at each register on the way: first as it came, last as it belongs to the result.
    Registers load while ``enable`` is 1. Latency: ``ceil(log2(len(terms))) // layers`` cycles.
    """
    enable = C(1) if enable is None else enable
    marks = [mark]
    layer = 0
    while len(terms) > 1:
        layer += 1
        stage = layer % layers == 0
        later = []
        for place in range(0, len(terms), 2):
            value = combine(*terms[place:place + 2]) if place + 1 < len(terms) else terms[place]
            term = Signal(value.shape(), name=f"{name}_{layer}_{place // 2}", reset_less=stage)
            with m.If(enable if stage else C(1)):
                m.d["sync" if stage else "comb"] += term.eq(value)
            later.append(term)
        if stage:
            copy = Signal(mark.shape(), name=f"{name}_mark_{layer}")
            with m.If(enable):
                m.d.sync += copy.eq(marks[-1])
            marks.append(copy)
        terms = later
    return terms[0], marks


class RowMaximum(wiring.Component):
    """Keep the maxima of the rows of two tiles: of the one that arrives, and of the one before.

    A tree of two layers per cycle finds the maximum of a word. The maxima of each slot are a ring
    of ``rows`` registers that turns by one for each word that arrives, and for each row that is
    done with: there is nothing to address. Cost: ``2 * rows`` bytes of flip-flops, and ``lanes``
    comparators.

    Latency: a word counts in ``maximum`` after ``1 + ceil(log2(lanes)) // 2`` cycles.
    Throughput: 1 word per cycle, always ready. Area: 1.55 kGE for 8 rows and 8 lanes.

    Parameters
    ----------
    spec : SoftmaxSpec
        Its ``rows`` and ``lanes``.

    Members
    -------
    scores : ``In(ArrayLayout(signed(8), lanes))``
        A word of scores.
    mask : ``In(lanes)``
        The lanes that count; lane 0 always does.
    mark : ``In(StructLayout({"valid": 1, "slot": 1, "first": 1, "last": 1}))``
        There is a word, for this slot; it is the first of its row, the last of its tile.
    complete : ``Out(2)``
        By slot: from two cycles later on, ``maximum`` is that of row 0 of a complete tile. Given
        together with the tile's last word for up to 8 lanes.
    maximum : ``Out(ArrayLayout(signed(8), 2))``
        By slot: of the row whose turn it is.
    turn : ``In(2)``
        By slot: the next row's turn begins in the next cycle. A slot's last turn may fall into
        the cycle in which the first word of its next tile arrives, not later.
    """

    def __init__(self, spec: SoftmaxSpec):
        if not isinstance(spec, SoftmaxSpec):
            raise TypeError(f"spec must be a SoftmaxSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "scores": In(data.ArrayLayout(signed(spec.SCORE_WIDTH), spec.lanes)),
            "mask": In(spec.lanes),
            "mark": In(data.StructLayout({"valid": 1, "slot": 1, "first": 1, "last": 1})),
            "complete": Out(2),
            "maximum": Out(data.ArrayLayout(signed(spec.SCORE_WIDTH), 2)),
            "turn": In(2),
        })

    @property
    def spec(self) -> SoftmaxSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, width = self._spec, self._spec.SCORE_WIDTH
        # A flipped sign bit makes comparisons unsigned; above it, lanes that count beat the others.
        word, marks = fold(
            m, "maximum",
            [Cat(score[:-1], ~score[-1], counts)
             for score, counts in zip(self.scores, self.mask, strict=True)],
            lambda a, b: Mux(a > b, a, b), layers=2, mark=self.mark)
        word = word[:width]
        early = marks[max(0, len(marks) - 2)]
        m.d.comb += self.complete.eq(by_slot(early.slot, early.valid & early.last))

        now = marks[-1]
        rings = [Signal(width * spec.rows, name=f"ring_{slot}", reset_less=True)
                 for slot in range(2)]
        before = Signal(width)
        after = Signal(width)
        m.d.comb += [
            before.eq(Mux(now.slot, rings[1][:width], rings[0][:width])),
            after.eq(Mux(now.first | (word > before), word, before)),
        ]
        turn = self.turn | by_slot(now.slot, now.valid)
        for slot, ring in enumerate(rings):
            m.d.comb += self.maximum[slot].eq(Cat(ring[:width - 1], ~ring[width - 1]))
            with m.If(turn[slot]):
                m.d.sync += ring.eq(Cat(ring[width:], after))
        return m


def by_slot(slot: Value, event: Value) -> Value:
    """Return ``event`` as one bit of two, that of its ``slot``."""
    return Cat(event & ~slot, event & slot)
