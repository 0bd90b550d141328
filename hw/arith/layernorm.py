# SPDX-License-Identifier: Apache-2.0
"""LayerNorm: the moments of a row, its constants, and its normalisation, row behind row."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory, ReadPort
from amaranth.lib.wiring import In, Out

from golden.fixed import Integers
from golden.layernorm import LayerNormSpec
from golden.validate import choice
from hw.arith.product import product as multiply
from hw.arith.saturate import clip, differs, saturate

CHUNK = 14
"""Bits of the pieces in which long factors go through the shared multiplier."""

UNCHECKED = {"no_rw_check": "1"}
"""No word is written in the cycle in which it is read: Yosys need not add logic for that case."""


class RowConstants(wiring.Component):
    """Turn the moments of a row into the constants that normalise it, with one multiplier.

    An element becomes ``z = ((x * a << guard) + bias) >> shift``: steps 1 to 3 of
    :class:`~golden.layernorm.LayerNormSpec`, and step 4 with everything in ``bias`` that is the
    same for all elements, rounding included. A row of equal elements gets ``a`` and ``bias`` 0.

    ``v`` and ``bias`` are sums of products of pieces, lowest pieces first: ``total`` adds up the
    products of one weight, then its lowest bits retire to ``low`` and the next weight begins.

    ====== =================================== ================================
    step   product that is formed              what else is ready at the end
    ====== =================================== ================================
    0 - 5  pieces of ``width * S2``, ``S1**2``
    6                                          ``v``
    7, 8                                       its leading one, the segment
    9      ``drop`` of the segment
    10                                         ``r``
    11     ``width * r``
    12     ``S1 * r``, low piece               ``a``, and what it was rounded by
    13     ``x0 *`` what ``a`` was rounded by
    14     ``S1 * r``, high piece              ``a`` may leave, a row may enter
    (0)                                        ``bias``, in step 0 of the next row
    ====== =================================== ================================

    Members
    -------
    width : ``In(unsigned(spec.count_width))``
        Elements of a row; constant while rows are in flight.
    i : ``In(stream.Signature(StructLayout))`` of ``s1``, ``s2`` and ``x0``
        Moments and first element. Rows follow each other at ``spec.ROW_CYCLES``.
    soon : ``Out(1)``
        Whether ``i.ready`` is or will be high in the next cycle, if nothing is taken in this one.
    o : ``Out(stream.Signature(15))``
        ``a``: offered ``spec.ROW_CYCLES`` after the moments were taken. Its value stays for at
        least 10 cycles after it was taken.
    follow : ``In(1)``
        Load ``bias`` and ``shift`` of the row whose ``a`` was taken, 2 cycles ago at least.
    bias, shift : ``Out(signed(32 + guard))``, ``Out(5)``
    """

    def __init__(self, spec: LayerNormSpec):
        self._spec = spec
        self.bits = max(spec.count_width, 4)  # the width is normalised to these
        self.guard = self.bits // 2 - 1  # fraction bits of bias: as the least sigma needs them
        self.sum_width = spec.IN_WIDTH + self.bits
        super().__init__({
            "width": In(unsigned(spec.count_width)),
            "i": In(stream.Signature(data.StructLayout({
                "s1": signed(self.sum_width),
                "s2": unsigned(spec.square_width),
                "x0": signed(spec.IN_WIDTH),
            }))),
            "soon": Out(1),
            "o": Out(stream.Signature(unsigned(15))),
            "follow": In(1),
            "bias": Out(signed(32 + self.guard)),
            "shift": Out(unsigned(5)),
        })

    def elaborate(self, platform):
        m = Module()
        spec, bits = self._spec, self.bits
        full = Signal()  # moments are here that are still needed
        step = Signal(spec.ROW_CYCLES, init=1)  # one bit for each
        hold = Signal()  # only step 1 waits: a row in step 2 goes through
        final = Signal()
        tail = Signal()
        a_due = Signal()  # the last row's constants did not leave yet
        bias_due = Signal()
        m.d.comb += [
            final.eq(step[-1]),
            self.i.ready.eq(~full | final),
            self.soon.eq(~full | step[-2:].any()),
            self.o.valid.eq(final | a_due),
            hold.eq(step[1] & bias_due & ~self.follow),
        ]
        m.d.sync += [
            tail.eq(final),
            a_due.eq(self.o.valid & ~self.o.ready),
            bias_due.eq(final | bias_due & ~self.follow),
        ]
        with m.If(full & ~hold):
            m.d.sync += step.eq(step.rotate_left(1))

        # The width with its leading one on top: the row is taken for 2**copies rows like it.
        levels = (bits - 1).bit_length()
        padded = Cat(C(0, (1 << levels) - 1), self.width, C(0, bits - spec.count_width))
        upper, moves = self._normalise(m, "width", padded, range(levels))
        scale = Signal.like(upper, reset_less=True)
        copies = Signal.like(moves, reset_less=True)
        m.d.sync += [scale.eq(upper), copies.eq(moves)]
        s1 = Signal(signed(self.sum_width), reset_less=True)
        s2 = Signal(spec.square_width, reset_less=True)
        x0 = Signal(signed(spec.IN_WIDTH), reset_less=True)
        with m.If(self.i.ready):
            m.d.sync += full.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += [s1.eq(self.i.payload.s1), s2.eq(self.i.payload.s2),
                             x0.eq(self.i.payload.x0)]
        with m.Elif(step[7]):
            m.d.sync += s1.eq(s1 << copies)
        s1_low, s1_high = s1[:CHUNK], s1[CHUNK:].as_signed()

        # The multiplier and the sum of its products.
        left = Signal(signed(16))
        right = Signal(signed(max(15, self.sum_width - CHUNK + 1)))
        product = Signal(signed(len(left) + len(right) - 1), reset_less=True)
        total = Signal(signed(32), reset_less=True)
        low = Signal(2 * CHUNK, reset_less=True)
        negative = Signal()
        retire = Signal()
        half = Signal(5, reset_less=True)  # of bias, the bit that is half a step of z
        m.d.comb += [negative.eq(tail | step[2] | step[4] | step[6] | step[13]),
                     retire.eq(tail | step[3] | step[5])]
        base = Mux(step[1], 0, Mux(step[13], C(1) << half, Mux(retire, total >> CHUNK, total)))
        flip = negative.replicate(len(product)).as_signed()
        with m.If(~hold):
            m.d.sync += product.eq(left * right)
            with m.If(tail | step[1:7].any() | step[13:].any()):
                m.d.sync += total.eq(base + (product ^ flip) + negative)
            with m.If(retire):
                m.d.sync += low.eq(Cat(low[CHUNK:], total[:CHUNK]))

        # v, its leading pair of bits moved to the top, and the segment of the table.
        levels = ((spec.variance_width + 1) // 2 - 1).bit_length()
        v = Cat(C(0, 14), Cat(low, total)[:spec.variance_width])
        v = Cat(v, C(0, (2 << levels) + 14 - len(v)))
        coarse, coarse_moves = self._normalise(m, "coarse", v, range(2, levels), 2)
        kept = Signal(len(coarse), reset_less=True)
        kept_moves = Signal(levels - 2, reset_less=True)
        mantissa, fine_moves = self._normalise(m, "fine", kept, range(2), 2)
        varies = Signal(reset_less=True)  # v is not 0
        value = Signal(15, reset_less=True)
        drop = Signal(9, reset_less=True)
        place = Signal(9, reset_less=True)  # in the segment
        r = Signal(15, reset_less=True)
        with m.If(step[7]):
            m.d.sync += [kept.eq(coarse), kept_moves.eq(coarse_moves)]
        with m.If(step[8]):
            m.d.sync += [entry.eq(self._look_up(column, mantissa[9:]))
                         for entry, column in zip((value, drop), spec.segments)]
            m.d.sync += [varies.eq(mantissa[14:].any()), place.eq(mantissa[:9]),
                         half.eq((1 << levels) + 1 + copies - Cat(fine_moves, kept_moves))]
        with m.If(step[10]):
            m.d.sync += r.eq(value - (product >> 9))

        # width * r has 15 + bits bits, of which a takes 15, rounded.
        high = Signal()
        cut = Signal(15)
        rest = Signal(bits)
        up = Signal()
        a = Signal(15, reset_less=True)
        error = Signal(signed(bits + 1), reset_less=True)
        kept_high = Signal(reset_less=True)
        m.d.comb += [
            high.eq(product[bits + 14]),
            cut.eq(Mux(high, product[bits:], product[bits - 1:])),
            rest.eq(Mux(high, product[:bits], product[:bits - 1])),
            up.eq(Mux(high, product[bits - 1], product[bits - 2]) & ~cut.all()),
        ]
        with m.If(step[12]):
            m.d.sync += [a.eq(cut + up), kept_high.eq(high),
                         error.eq(rest - Mux(up, Mux(high, 1 << bits, 1 << bits - 1), 0))]

        m.d.comb += [
            left.eq(self._select(step, {
                (0,): s2[:CHUNK], (2,): s2[CHUNK:2 * CHUNK], (4,): s2[2 * CHUNK:],
                (1, 3): s1_low, (5,): s1_high, (9,): place, (11, 12, 14): r, (13,): x0,
            })),
            right.eq(self._select(step, {
                (0, 2, 4): self.width, (1, 12): s1_low, (3,): s1_high << 1, (5, 14): s1_high,
                (9,): drop, (11,): scale, (13,): error,
            })),
        ]

        whole = Cat(low[CHUNK:], total)
        dropped = bits - 1 - self.guard
        bias = Signal.like(self.bias, reset_less=True)
        shift = Signal.like(self.shift, reset_less=True)
        m.d.comb += [self.o.payload.eq(Mux(varies, a, 0)), self.bias.eq(bias),
                     self.shift.eq(shift)]
        with m.If(self.follow):
            m.d.sync += [
                bias.eq(Mux(varies, Mux(kept_high, whole[dropped + 1:], whole[dropped:]), 0)),
                shift.eq(half + self.guard + 2 - bits - kept_high),
            ]
        return m

    @staticmethod
    def _normalise(m: Module, name: str, x: Value, levels: range,
                   unit: int = 1) -> tuple[Value, Value]:
        """Move ``x`` up by steps of ``unit * 2**level`` bits while its top is zero.

        Return its upper bits, as many as are left when every level cuts off a step, and which
        levels moved it.
        """
        moves = []
        for level in reversed(levels):
            step = unit << level
            move = Signal(name=f"{name}_move_{step}")
            moved = Signal(len(x) - step, name=f"{name}_moved_{step}")
            m.d.comb += [move.eq(~x[-step:].any()), moved.eq(Mux(move, x[:-step], x[step:]))]
            moves.insert(0, move)
            x = moved
        return x, Cat(*moves)

    @staticmethod
    def _select(step: Signal, values: dict[tuple[int, ...], Value]) -> Value:
        """Return the value of this step, 0 in a step that has none."""
        return reduce(or_, (Mux(Cat(step[n] for n in steps).any(), value, 0)
                            for steps, value in values.items()))

    @staticmethod
    def _look_up(column: Integers, index: Value) -> Value:
        """Return entry ``index - 32`` of a column, bit by bit, as truth tables of ``index``."""
        tables = (sum(int(entry >> bit & 1) << row for row, entry in enumerate(column, 32))
                  for bit in range(int(column.max()).bit_length()))
        return Cat(*(C(table, 128).bit_select(index, 1) for table in tables))


class LayerNorm(wiring.Component):
    """Normalise rows, as :meth:`LayerNormSpec.compute` says, one word in and one out per cycle.

    ::

        i --+--> row memory --------> x * a --> + bias, >> --> z * gamma + beta --> >>, sat --> o
            |                           ^           ^              ^
            +--> S1, S2 --> RowConstants            parameter memories

    While a row is normalised, the next one is received and its constants are computed. Without
    stalls on either side a row's first word leaves ``words + LATENCY`` cycles after it came, and
    rows follow each other at ``max(words, ROW_CYCLES)``, where ``words = ceil(width / lanes)``:
    :meth:`LayerNormSpec.cycles` is exact.

    ====================== ================ ================
    ..                     8 lanes, 256     4 lanes, 256
    ====================== ================ ================
    logic                  61.4 kGE         34.7 kGE
    the same with booth    59.1 kGE
    of it registers        7.3 kGE          4.8 kGE
    row memory             12,288 bits      12,288 bits
    parameter memories     8,192 bits       8,192 bits
    ====================== ================ ================

    Squares are sums of partial products with ``booth``, else multiplications: an ECP5 then needs 3
    multipliers for a lane, and one.

    Parameters
    ----------
    spec : LayerNormSpec
    multiplier : str
        See :func:`~hw.arith.product.product`.

    Members
    -------
    width : ``In(unsigned(spec.count_width))``
        Elements of a row, 1 to ``max_width``.
    shift : ``In(unsigned(6))``
        12 plus the fraction bits of gamma and beta, 12 to 27.
    load : ``In(stream.Signature(StructLayout))``
        ``address`` in ``range(max_words)``, and ``lanes`` signed 16-bit ``gamma`` and ``beta`` of
        that word of a row; always ready.
    i : ``In(stream.Signature(StructLayout))``
        ``lanes`` signed 16-bit ``x``, and ``last`` in a row's last word. Unused lanes hold 0.
    o : ``Out(stream.Signature(StructLayout))``
        ``lanes`` signed 8-bit ``y``, and ``last``. An unused lane gives what its ``beta`` says, 0
        if that is 0.

    ``width``, ``shift`` and the parameters stay the same from a row's first word until its last
    result, and so for all rows in flight, which are of ``ceil(width / lanes)`` words each.
    """

    def __init__(self, spec: LayerNormSpec, *, multiplier: str = "inferred"):
        choice("multiplier", multiplier, ("inferred", "booth"))
        if not isinstance(spec, LayerNormSpec):
            raise TypeError(f"spec must be a LayerNormSpec, not {spec!r}")
        self._spec = spec
        self._multiplier = multiplier
        parameters = data.ArrayLayout(signed(spec.PARAMETER_WIDTH), spec.lanes)
        super().__init__({
            "width": In(unsigned(spec.count_width)),
            "shift": In(unsigned(6)),
            "load": In(stream.Signature(data.StructLayout({
                "address": range(spec.max_words), "gamma": parameters, "beta": parameters,
            }))),
            "i": In(stream.Signature(data.StructLayout({
                "x": data.ArrayLayout(signed(spec.IN_WIDTH), spec.lanes), "last": 1,
            }))),
            "o": Out(stream.Signature(data.StructLayout({
                "y": data.ArrayLayout(signed(spec.OUT_WIDTH), spec.lanes), "last": 1,
            }))),
        })

    @property
    def spec(self) -> LayerNormSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec = self._spec
        m.submodules.constants = constants = RowConstants(spec)
        m.submodules.rows = rows = Memory(
            shape=data.ArrayLayout(signed(spec.IN_WIDTH), spec.lanes), depth=spec.buffer_words,
            init=[], attrs=UNCHECKED)
        write = rows.write_port()
        write_at = Signal(range(spec.buffer_words))
        accept = Signal()
        read = Signal()
        end = Signal(range(spec.max_words), reset_less=True)  # the place of a row's last word
        m.d.comb += [
            constants.width.eq(self.width),
            accept.eq(self.i.valid & self.i.ready),
            write.addr.eq(write_at),
            write.data.eq(self.i.payload.x),
            write.en.eq(accept),
            self.load.ready.eq(1),
        ]
        with m.If(accept):
            m.d.sync += write_at.eq(self._next(write_at, spec.buffer_words))
        self._receive(m, constants, accept, read, end)
        self._normalise(m, constants, rows.read_port(), read, end)
        return m

    @staticmethod
    def _next(address: Signal, depth: int) -> Value:
        """Return the address behind ``address`` in a circular memory."""
        return Mux(address == depth - 1, 0, address + 1)

    def _receive(self, m: Module, constants: RowConstants, accept: Signal, read: Signal,
                 end: Signal) -> None:
        """Let words in, and add up the moments of their rows."""
        spec = self._spec
        x, last = self.i.payload.x, self.i.payload.last
        level = Signal(range(spec.buffer_words + 1))  # words in the row memory
        waiting = Signal(2)  # whole rows whose moments were not taken yet
        take = Signal()
        first = Signal(init=1)
        place = Signal(range(spec.max_words))
        m.d.comb += [
            take.eq(constants.i.valid & constants.i.ready),
            # A row's moments must be taken before those of the next one reach the registers.
            self.i.ready.eq((level != spec.buffer_words)
                            & ((waiting == 0) | (waiting == 1) & constants.soon)),
        ]
        m.d.sync += [level.eq(level + accept - read), waiting.eq(waiting + (accept & last) - take)]
        with m.If(accept):
            m.d.sync += [first.eq(last), place.eq(Mux(last, 0, place + 1))]
            with m.If(last):
                m.d.sync += end.eq(place)

        squares = [Signal(2 * spec.IN_WIDTH - 1, name=f"square_{lane}", reset_less=True)
                   for lane in range(spec.lanes)]
        total = Signal(signed(spec.IN_WIDTH + spec.lanes.bit_length()), reset_less=True)
        lead = Signal(signed(spec.IN_WIDTH), reset_less=True)
        summed = Signal()  # a word is in these registers
        summed_first = Signal(reset_less=True)
        summed_last = Signal(reset_less=True)
        m.d.sync += [summed.eq(accept), summed_first.eq(first), summed_last.eq(last), lead.eq(x[0]),
                     total.eq(sum(x[lane] for lane in range(spec.lanes)))]
        m.d.sync += [square.eq(self._square(x[lane])) for lane, square in enumerate(squares)]

        moments = constants.i.payload
        complete = Signal()
        s1 = Signal.like(moments.s1, reset_less=True)
        s2 = Signal.like(moments.s2, reset_less=True)
        x0 = Signal.like(moments.x0, reset_less=True)
        m.d.comb += [constants.i.valid.eq(complete), moments.s1.eq(s1), moments.s2.eq(s2),
                     moments.x0.eq(x0)]
        with m.If(take):
            m.d.sync += complete.eq(0)
        with m.If(summed):
            m.d.sync += [
                s1.eq(Mux(summed_first, 0, s1) + total),
                s2.eq(Mux(summed_first, 0, s2) + sum(squares)),
                complete.eq(summed_last),
            ]
            with m.If(summed_first):
                m.d.sync += x0.eq(lead)

    def _square(self, x: Value) -> Value:
        """Return ``x**2``; for gates, as a sum of what its bits contribute: 2/3 of a multiplier.

        A pair of different bits counts once, twice as much. With ``s`` the sign and ``u`` the
        other bits, inverted if ``s``, ``x**2 = u**2 + s * (2 * u + 1)``.
        """
        if self._multiplier == "inferred":
            return x * x
        u = x[:-1] ^ x[-1].replicate(len(x) - 1)
        rows = (Cat(u[n], C(0, 1), u[n + 1:] & u[n].replicate(len(u) - n - 1)) << 2 * n
                for n in range(len(u)))
        return sum(rows, Cat(C(1, 1), u) & x[-1].replicate(len(x)))

    def _normalise(self, m: Module, constants: RowConstants, rows: ReadPort, read: Signal,
                   end: Signal) -> None:
        """Read each row as soon as its constants are there, and give it out normalised."""
        spec = self._spec
        stages = 6  # row memory; x; times a; plus bias, shift; times gamma plus beta; shift
        advance = Signal()
        valid = Signal(stages)
        last = Signal(stages)
        begin = Signal()
        begun = Signal(2)  # a row began to be read one and two words ago
        reading = Signal()
        read_at = Signal(range(spec.buffer_words))
        places = [Signal(range(spec.max_words), name=f"place_{stage}", reset_less=stage > 0)
                  for stage in range(4)]
        at_end = Signal()
        a = Signal(15, reset_less=True)
        m.d.comb += [
            advance.eq(~valid[-1] | self.o.ready),
            self.o.valid.eq(valid[-1]),
            self.o.payload.last.eq(last[-1]),
            constants.o.ready.eq(advance & ~reading),
            constants.follow.eq(advance & begun[1]),
            begin.eq(constants.o.valid & ~reading),
            read.eq(advance & (reading | begin)),
            at_end.eq(places[0] == end),
            rows.addr.eq(read_at),
            rows.en.eq(advance),
        ]
        with m.If(read):
            m.d.sync += [
                reading.eq(~at_end),
                places[0].eq(Mux(at_end, 0, places[0] + 1)),
                read_at.eq(self._next(read_at, spec.buffer_words)),
            ]
        with m.If(advance):
            m.d.sync += [valid.eq(Cat(read, valid)), last.eq(Cat(at_end, last)),
                         begun.eq(Cat(begin, begun))]
            m.d.sync += [later.eq(sooner) for sooner, later in zip(places, places[1:])]
            with m.If(begun[0]):
                m.d.sync += a.eq(constants.o.payload)

        gammas = self._parameter(m, "gamma", places[2], advance)
        betas = self._parameter(m, "beta", places[3], advance)
        fraction = Signal(4)  # bits of gamma and beta
        m.d.comb += fraction.eq(self.shift - spec.Z_FRACTION)
        dropped = spec.Z_FRACTION - 1  # bits that no rounding looks at
        for lane in range(spec.lanes):
            x = Signal(signed(spec.IN_WIDTH), name=f"x_{lane}", reset_less=True)
            product = Signal(signed(31), name=f"product_{lane}", reset_less=True)
            biased = Signal.like(constants.bias, name=f"biased_{lane}")
            z = Signal(signed(spec.z_width), name=f"z_{lane}", reset_less=True)
            gamma = Signal(signed(spec.PARAMETER_WIDTH), name=f"gamma_{lane}", reset_less=True)
            scaled = Signal(signed(spec.z_width + spec.PARAMETER_WIDTH + 1 - dropped),
                            name=f"scaled_{lane}", reset_less=True)
            y = Signal(signed(spec.OUT_WIDTH), name=f"y_{lane}", reset_less=True)
            m.d.comb += [
                biased.eq((product << constants.guard) + constants.bias),
                self.o.payload.y[lane].eq(y),
            ]
            with m.If(advance):
                m.d.sync += [
                    x.eq(rows.data[lane]),
                    product.eq(multiply(m, f"scaled_x_{lane}", x, a, self._multiplier)),
                    z.eq(self._window(m, biased, constants.shift, lane)),
                    gamma.eq(gammas[lane]),
                    scaled.eq(multiply(m, f"scaled_z_{lane}", z, gamma, self._multiplier,
                                       plus=(spec.Z_FRACTION, betas[lane])) >> dropped),
                    y.eq(self._round(m, scaled, fraction, lane)),
                ]

    def _parameter(self, m: Module, name: str, place: Signal, enable: Signal) -> Any:
        """Return what the memory of a parameter gives, a cycle after ``place``."""
        incoming = self.load.payload[name]
        memory = Memory(shape=incoming.shape(), depth=self._spec.max_words, init=[],
                        attrs=UNCHECKED)
        m.submodules[name] = memory
        write, port = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.addr.eq(self.load.payload.address),
            write.data.eq(incoming),
            write.en.eq(self.load.valid),
            port.addr.eq(place),
            port.en.eq(enable),
        ]
        return port.data

    def _window(self, m: Module, x: Signal, shift: Value, lane: int) -> Value:
        """Return ``x >> shift`` in ``z_width`` bits, which it is known to fit.

        Each step of the shift keeps only what the finer ones can still bring into the result.
        """
        for k in reversed(range(len(shift))):
            step = 1 << k
            moved = Signal(signed(min(len(x), self._spec.z_width + step - 1)),
                           name=f"window_{lane}_{step}")
            m.d.comb += moved.eq(Mux(shift[k], x >> step, x))
            x = moved
        return x

    def _round(self, m: Module, x: Signal, shift: Value, lane: int) -> Value:
        """Return ``x / 2**(shift + 1)``, rounded half up and saturated.

        Bits that no finer step brings into the result must repeat the sign.
        """
        width, sign = self._spec.OUT_WIDTH + 1, x[-1]
        lost = Signal(len(shift) + 1, name=f"lost_{lane}")
        for k in reversed(range(len(shift))):
            step = 1 << k
            moved = Signal(signed(min(len(x), width + step)), name=f"moved_{lane}_{step}")
            beyond = x[len(moved):]
            m.d.comb += [
                moved.eq(Mux(shift[k], x >> step, x)),
                lost[k].eq(differs(beyond[step:], sign) | ~shift[k] & differs(beyond[:step], sign)),
            ]
            x = moved
        m.d.comb += lost[-1].eq(differs(x[width - 1:], sign))
        rounded = Signal(signed(width), name=f"rounded_{lane}")
        window = clip(x[:width - 1], lost.any(), sign)
        m.d.comb += rounded.eq((window >> 1) + window[0])
        return saturate(rounded, width - 1)
