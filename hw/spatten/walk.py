# SPDX-License-Identifier: Apache-2.0
"""The tokens of an operation, one after the other, and where their rows lie."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.spatten.spec import SpattenSpec
from golden.validate import integer
from hw.spatten.layouts import bits, walked


class Walk(wiring.Component):
    """Give the tokens that take part in an operation, in order.

    Those are the tokens below ``tokens``, or those of ``mask``, wherever they are, if some were
    chosen and the operation is not ``dense``. The channel of token ``t`` is ``(t + rotation) mod
    channels``, its beats are ``base[i] + t div channels * stride[i]``.

    A token is offered when its successor has been found, or there is none: then it is the ``last``.
    Latency: 3 cycles from ``start`` to the first of two tokens of a row. Throughput: a token, or a
    row of tokens of which none takes part, per cycle.

    Cost with 3 addresses: 4.0 kGE as ``paper``, 2.2 as ``tiny``.

    Parameters
    ----------
    spec : SpattenSpec
    addresses : beats of a token, at least 1.

    Members
    -------
    start : ``In(1)``
        Only while not ``busy``. What follows must stay until ``busy`` is low again.
    tokens, dense, pruned : ``In``
        How many, if all count; all do; whether tokens were chosen.
    limit : ``In(range(max_tokens + 1))``
        Tokens from this one on do not take part; 0 if there is none.
    mask : ``In(max_tokens)``
        Those that were left.
    rotation : ``In(8)``
    base, stride : ``In(ArrayLayout(27, addresses))``, ``In(ArrayLayout(16, addresses))``
    o : ``Out(stream.Signature(walked(spec, addresses)))``
    busy : ``Out(1)``
        From ``start`` until the last token was taken, or it is known that there is none.
    none : ``Out(1)``
        No token took part: from the end of ``busy`` until the next ``start``.
    """

    def __init__(self, spec: SpattenSpec, addresses: int):
        if not isinstance(spec, SpattenSpec):
            raise TypeError(f"spec must be a SpattenSpec, not {spec!r}")
        integer("addresses", addresses, 1, 8)
        self._spec, self._addresses = spec, addresses
        super().__init__({
            "start": In(1),
            "tokens": In(range(spec.max_tokens + 1)),
            "dense": In(1),
            "pruned": In(1),
            "limit": In(range(spec.max_tokens + 1)),
            "mask": In(spec.max_tokens),
            "rotation": In(8),
            "base": In(data.ArrayLayout(unsigned(27), addresses)),
            "stride": In(data.ArrayLayout(unsigned(16), addresses)),
            "o": Out(stream.Signature(walked(spec, addresses))),
            "busy": Out(1),
            "none": Out(1),
        })

    @property
    def spec(self) -> SpattenSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, c, o = self._spec, self._spec.channels, self.o.payload
        everyone = Signal()
        end = Signal(range(spec.max_tokens + 1))  # tokens from here on do not take part
        most = Mux(everyone, self.tokens, spec.max_tokens)
        m.d.comb += [everyone.eq(self.dense | ~self.pruned),
                     end.eq(Mux((self.limit != 0) & (self.limit < most), self.limit, most))]

        # Rows: what is left of one, which lies at `at`, and the next
        row = Signal(range(spec.rows + 1), reset_less=True)
        here = Signal(bits(spec.rows), reset_less=True)
        at: Any = Signal(data.ArrayLayout(unsigned(27), self._addresses), reset_less=True)
        left = Signal(c)
        searching = Signal()
        room = Signal(range(spec.max_tokens + 1))  # tokens of the next row and of those behind it
        members = Signal(c)
        lowest = Signal(c)
        rest = Signal(c)
        held: Any = Signal(walked(spec, self._addresses), reset_less=True)
        full = Signal()  # `held` is a token,
        found = Signal()  # and `left` its successor
        taken = Signal()
        move = Signal()  # from `left` to `held`
        fetch = Signal()
        m.d.comb += [
            room.eq(end - row * c),
            members.eq(Cat((everyone | alive) & (room > lane)
                           for lane, alive in enumerate(self.mask.word_select(row, c)))),
            lowest.eq(left & -left),
            rest.eq(left & ~lowest),
            found.eq(left.any()),
            o.eq(held),
            o.last.eq(~found),
            self.o.valid.eq(full & (found | ~searching)),
            taken.eq(self.o.valid & self.o.ready),
            move.eq(found & (~full | taken)),
            fetch.eq(searching & (~found | move & ~rest.any())),
        ]
        with m.If(fetch):
            m.d.sync += [left.eq(members), here.eq(row), row.eq(row + 1), searching.eq(room > c)]
            for beat, base, stride in zip(at, self.base, self.stride):
                m.d.sync += beat.eq(Mux(row == 0, base, beat + stride))
        with m.Elif(move):
            m.d.sync += left.eq(rest)

        m.d.sync += full.eq(move | full & ~taken)
        place = Signal(bits(c))
        m.d.comb += place.eq(Cat(Cat(lowest[lane] for lane in range(c) if lane >> n & 1).any()
                                 for n in range(bits(c))))
        with m.If(move):
            m.d.sync += [held.token.eq(here * c + place), held.beat.eq(at),
                         held.channel.eq((place + self.rotation) & c - 1)]

        with m.If(self.start):
            m.d.sync += [searching.eq(1), row.eq(0), self.busy.eq(1), self.none.eq(0)]
        with m.Elif(~searching & ~found & (~full | taken)):
            m.d.sync += [self.busy.eq(0), self.none.eq(self.busy & ~full | self.none)]
        return m
