# SPDX-License-Identifier: Apache-2.0
"""LayerNorm: moments of a row, its constants, and its normalisation, row behind row."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.layernorm import LayerNormSpec
from hw.arith.saturate import clip, differs, saturate

CHUNK = 14
"""Bits by which long factors are cut for the shared multiplier."""

UNCHECKED = {"no_rw_check": 1}
"""No address is written in the cycle in which it is read: spare Yosys the logic for that case."""


class RowConstants(wiring.Component):
    """Turn the moments of a row into the constants that normalise it, with one multiplier.

    An element becomes ``z = ((x * a << guard) + bias) >> shift``: steps 1 to 3 of
    :class:`~golden.layernorm.LayerNormSpec`, and step 4 with everything in ``bias`` that is the
    same for all elements, the rounding too. A row of equal elements gets ``a`` and ``bias`` 0.

    ``v`` and ``bias`` are sums of products of ``CHUNK``-bit parts, lowest parts first: ``total``
    adds up those of one weight, and its lowest bits retire to ``low`` before the next weight.

    ====== ================================= ==============================
    step   the multiplier's product          what happens to earlier ones
    ====== ================================= ==============================
    0 - 5  ``width * S2`` and ``S1**2``      ``total`` sums up from step 1
    6                                        ``v`` is complete
    7, 8                                     ``v`` is normalised to ``m``
    9      slope of the segment
    10     ``width * r``                     ``r``
    11     ``S1 * r``, low part              ``a`` and what was rounded off
    12     ``x0`` times what was rounded off ``total`` sums up from here
    13     ``S1 * r``, high part             another row may come in
    14, 15 (steps 0 and 1 of the next row)   ``a``, then ``bias`` go out
    ====== ================================= ==============================

    Members
    -------
    width : ``In(unsigned(spec.count_width))``, constant while rows are in flight.
    i : ``In(stream.Signature(StructLayout))`` of ``s1``, ``s2`` and ``x0``; ``i.valid`` to
        ``o.valid`` takes ``LATENCY`` cycles, rows follow each other at ``spec.ROW_CYCLES``.
    soon : ``Out(1)``
        Whether ``i.ready`` will be high in the next cycle, if nothing is taken in this one.
    o : ``Out(stream.Signature(15))``: ``a``.
    follow : ``In(1)``
        Take ``bias`` and ``shift``: after each transfer of ``o``, the first high ``follow``
        renews them in the next cycle.
    bias, shift : ``Out(signed(spec.product_width))``, ``Out(5)``.
    """

    LATENCY = 15

    def __init__(self, spec: LayerNormSpec):
        self._spec = spec
        self.bits = max(spec.count_width, 4)  # the width is normalised to these
        self.guard = self.bits // 2 - 1  # fraction bits of bias: enough for the least sigma
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
        s1 = Signal(signed(self.sum_width), reset_less=True)
        s2 = Signal(spec.square_width, reset_less=True)
        x0 = Signal(signed(spec.IN_WIDTH), reset_less=True)
        step = Signal(range(spec.ROW_CYCLES))
        final = Signal()
        tail = Signal()  # the cycle after the final step completes the bias
        a_due = Signal()  # the last row's constants did not go out yet
        bias_due = Signal()
        hold = Signal()  # only step 1 waits: a row at step 2 goes through
        m.d.comb += [
            final.eq(step == spec.ROW_CYCLES - 1),
            self.i.ready.eq(~full | final),
            self.soon.eq(~full | (step >= spec.ROW_CYCLES - 2)),
            self.o.valid.eq(final | a_due),
            hold.eq((step == 1) & bias_due & ~self.follow),
        ]
        m.d.sync += [
            tail.eq(final),
            a_due.eq(self.o.valid & ~self.o.ready),
            bias_due.eq(final | bias_due & ~self.follow),
        ]
        with m.If(final):
            m.d.sync += step.eq(0)
        with m.Elif(full & ~hold):
            m.d.sync += step.eq(step + 1)

        # The width with its leading one on top; the row is taken for 2**zeros copies of itself.
        levels = (bits - 1).bit_length()
        padded = Cat(C(0, (1 << levels) - 1), self.width, C(0, bits - spec.count_width))
        scale, zeros = self._normalise(m, "width", padded, range(levels))
        with m.If(self.i.ready):
            m.d.sync += full.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += [s1.eq(self.i.payload.s1), s2.eq(self.i.payload.s2),
                             x0.eq(self.i.payload.x0)]
        with m.Elif(step == 7):
            m.d.sync += s1.eq(s1 << zeros)

        a = Signal(signed(16))
        b = Signal(signed(max(15, self.sum_width - CHUNK + 1)))
        product = Signal(signed(len(a) + len(b) - 1), reset_less=True)
        total = Signal(signed(32), reset_less=True)
        low = Signal(2 * CHUNK, reset_less=True)
        negative = Signal()
        retire = Signal()
        start = Signal()
        seed = Signal(signed(32))
        m.d.comb += [
            negative.eq(tail | (step == 2) | (step == 4) | (step == 6) | (step == 13)),
            retire.eq(tail | (step == 3) | (step == 5)),
            start.eq((step == 1) | (step == 13)),
        ]
        flip = negative.replicate(len(product)).as_signed()
        base = Mux(start, seed, Mux(retire, total >> CHUNK, total))
        with m.If(~hold):
            m.d.sync += product.eq(a * b)
            with m.If(tail | ((step >= 1) & (step <= 6)) | (step >= 13)):
                m.d.sync += total.eq(base + (product ^ flip) + negative)
            with m.If(retire):
                m.d.sync += low.eq(Cat(low[CHUNK:], total[:CHUNK]))

        # v: its leading pair of bits goes to the top, in two steps.
        levels = ((spec.variance_width + 1) // 2 - 1).bit_length()
        v = Cat(C(0, 14), Cat(low, total)[:spec.variance_width])
        v = Cat(v, C(0, (2 << levels) + 14 - len(v)))
        coarse, zeros_coarse = self._normalise(m, "coarse", v, range(2, levels), 2)
        kept = Signal(len(coarse), reset_less=True)
        kept_zeros = Signal(levels - 2, reset_less=True)
        fine, zeros_fine = self._normalise(m, "fine", kept, range(2), 2)
        varies = Signal(reset_less=True)  # v is not 0
        value = Signal(15, reset_less=True)
        drop = Signal(9, reset_less=True)
        along = Signal(9, reset_less=True)  # place in the segment
        half = Signal(5, reset_less=True)  # the place of the bit that is half a step of z
        with m.If(step == 7):
            m.d.sync += [kept.eq(coarse), kept_zeros.eq(zeros_coarse)]
        with m.If(step == 8):
            m.d.sync += [varies.eq(fine[14:].any()), along.eq(fine[:9]),
                         half.eq((1 << levels) + 1 + zeros - Cat(zeros_fine, kept_zeros))]
            m.d.sync += [entry.eq(self._look_up(column, fine[9:]))
                         for entry, column in zip((value, drop), spec.segments)]

        r = Signal(15, reset_less=True)
        with m.If(step == 10):
            m.d.sync += r.eq(value - (product >> 9))

        # product is width * r: bits + 15 bits, of which the upper 15 are wanted.
        high = Signal()
        a_cut = Signal(15)
        odd = Signal()
        rest = Signal(bits)
        m.d.comb += [
            high.eq(product[bits + 14]),
            a_cut.eq(Mux(high, product[bits:], product[bits - 1:])),
            rest.eq(Mux(high, product[:bits], product[:bits - 1])),
            odd.eq(Mux(high, product[bits - 1], product[bits - 2]) & ~a_cut.all()),
        ]
        multiplier = Signal(15, reset_less=True)
        error = Signal(signed(bits + 1), reset_less=True)
        high_kept = Signal(reset_less=True)
        with m.If(step == 12):
            m.d.sync += [
                multiplier.eq(a_cut + odd),
                error.eq(rest - Mux(odd, Mux(high, 1 << bits, 1 << bits - 1), 0)),
                high_kept.eq(high),
            ]
        s1_low, s1_high = s1[:CHUNK], s1[CHUNK:].as_signed()
        with m.Switch(step):
            for number, (left, right) in {
                0: (s2[:CHUNK], self.width),
                1: (s1_low, s1_low),
                2: (s2[CHUNK:2 * CHUNK], self.width),
                3: (s1_low, s1_high << 1),
                4: (s2[2 * CHUNK:], self.width),
                5: (s1_high, s1_high),
                9: (along, drop),
                11: (r, scale),
                12: (r, s1_low),
                13: (x0, error),
                14: (r, s1_high),
            }.items():
                with m.Case(number):
                    m.d.comb += [a.eq(left), b.eq(right)]
        with m.If(step == 13):
            m.d.comb += seed.eq(C(1) << half)

        offset = bits - 1 - self.guard
        whole = Cat(low[CHUNK:], total)
        bias = Signal.like(self.bias, reset_less=True)
        shift = Signal.like(self.shift, reset_less=True)
        m.d.comb += [
            self.o.payload.eq(Mux(varies, multiplier, 0)),
            self.bias.eq(bias),
            self.shift.eq(shift),
        ]
        with m.If(self.follow):
            m.d.sync += [
                bias.eq(Mux(varies, Mux(high_kept, whole[offset + 1:], whole[offset:]), 0)),
                shift.eq(half + self.guard + 2 - bits - high_kept),
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
    def _look_up(column, index: Value) -> Value:
        """Return entry ``index - 32`` of a column, bit by bit, as truth tables of ``index``."""
        width = int(max(column)).bit_length()
        tables = (sum(int(entry >> bit & 1) << row + 32 for row, entry in enumerate(column))
                  for bit in range(width))
        return Cat(*(C(table, 128).bit_select(index, 1) for table in tables))


class LayerNorm(wiring.Component):
    """Normalise rows, as :meth:`LayerNormSpec.compute` says."""

    def __init__(self, spec: LayerNormSpec):
        if not isinstance(spec, LayerNormSpec):
            raise TypeError(f"spec must be a LayerNormSpec, not {spec!r}")
        self._spec = spec
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
        row_shape = data.ArrayLayout(signed(spec.IN_WIDTH), spec.lanes)
        m.submodules.rows = rows = Memory(shape=row_shape, depth=spec.buffer_words, init=[],
                                        attrs=UNCHECKED)
        accept = Signal()
        read = Signal()
        final = Signal(range(spec.max_words), reset_less=True)  # the place of a row's last word
        m.d.comb += [constants.width.eq(self.width), accept.eq(self.i.valid & self.i.ready)]
        self._receive(m, constants, accept, read, final)

        write = rows.write_port()
        write_at = Signal(range(spec.buffer_words))
        m.d.comb += [write.addr.eq(write_at), write.data.eq(self.i.payload.x), write.en.eq(accept)]
        with m.If(accept):
            m.d.sync += write_at.eq(Mux(write_at == spec.buffer_words - 1, 0, write_at + 1))
        self._normalise(m, constants, rows.read_port(), read, final)
        return m

    def _receive(self, m: Module, constants: RowConstants, accept: Signal, read: Signal,
                 final: Signal) -> None:
        """Let words in, and add up the moments of their rows."""
        spec = self._spec
        x, last = self.i.payload.x, self.i.payload.last
        level = Signal(range(spec.buffer_words + 1))  # words in the row memory
        waiting = Signal(2)  # whole rows whose moments still go to the row constants
        take = Signal()
        first = Signal(init=1)
        place = Signal(range(spec.max_words))
        m.d.comb += [
            take.eq(constants.i.valid & constants.i.ready),
            # The moments of a row are gone before those of the next one begin to come.
            self.i.ready.eq((level != spec.buffer_words)
                            & ((waiting == 0) | (waiting == 1) & constants.soon)),
        ]
        m.d.sync += [level.eq(level + accept - read), waiting.eq(waiting + (accept & last) - take)]
        with m.If(accept):
            m.d.sync += [first.eq(last), place.eq(Mux(last, 0, place + 1))]
            with m.If(last):
                m.d.sync += final.eq(place)

        squares = [Signal(2 * spec.IN_WIDTH - 1, name=f"square_{lane}", reset_less=True)
                   for lane in range(spec.lanes)]
        total = Signal(signed(spec.IN_WIDTH + spec.lanes.bit_length()), reset_less=True)
        lead = Signal(signed(spec.IN_WIDTH), reset_less=True)
        summed = Signal()
        summed_first = Signal(reset_less=True)
        summed_last = Signal(reset_less=True)
        complete = Signal()
        moments = constants.i.payload
        s1 = Signal.like(moments.s1, reset_less=True)
        s2 = Signal.like(moments.s2, reset_less=True)
        x0 = Signal.like(moments.x0, reset_less=True)
        m.d.sync += [summed.eq(accept), summed_first.eq(first), summed_last.eq(last),
                     total.eq(sum(x[lane] for lane in range(spec.lanes)))]
        m.d.sync += [square.eq(self._square(x[lane])) for lane, square in enumerate(squares)]
        with m.If(accept & first):
            m.d.sync += lead.eq(x[0])
        with m.If(take):
            m.d.sync += complete.eq(0)
        with m.If(summed):
            m.d.sync += [
                s1.eq(Mux(summed_first, 0, s1) + total),
                s2.eq(Mux(summed_first, 0, s2) + sum(squares)),
                x0.eq(lead),
                complete.eq(summed_last),
            ]
        m.d.comb += [constants.i.valid.eq(complete), moments.s1.eq(s1), moments.s2.eq(s2),
                     moments.x0.eq(x0)]

    @staticmethod
    def _square(x: Value) -> Value:
        """Return ``x**2`` as a sum of what the bits of ``x`` contribute: 2/3 of a multiplier.

        A pair of different bits counts once, twice as much. With ``s`` the sign and ``u`` the
        other bits, inverted if ``s``, ``x**2 = u**2 + s * (2 * u + 1)``.
        """
        u = x[:-1] ^ x[-1].replicate(len(x) - 1)
        rows = (Cat(u[n], C(0, 1), u[n + 1:] & u[n].replicate(len(u) - n - 1)) << 2 * n
                for n in range(len(u)))
        return sum(rows, Cat(C(1, 1), u) & x[-1].replicate(len(x)))

    def _normalise(self, m: Module, constants: RowConstants, rows, read: Signal,
                   final: Signal) -> None:
        """Read a row as soon as its constants are there, and give it out."""
        spec = self._spec
        advance = Signal()
        stages = 6  # row memory; its register; times a; shift; times gamma; shift and round
        valid = Signal(stages)
        last = Signal(stages)
        reading = Signal()
        read_at = Signal(range(spec.buffer_words))
        places = [Signal(range(spec.max_words), name=f"place_{stage}", reset_less=stage > 0)
                  for stage in range(4)]
        end = Signal()
        a = Signal(15, reset_less=True)
        started = Signal(2)  # a row began to be read one and two words ago
        m.d.comb += [
            advance.eq(~valid[-1] | self.o.ready),
            self.o.valid.eq(valid[-1]),
            self.o.payload.last.eq(last[-1]),
            constants.follow.eq(advance & started[1]),
            constants.o.ready.eq(advance & ~reading),
            read.eq(advance & (reading | constants.o.valid)),
            end.eq(places[0] == final),
            rows.addr.eq(read_at),
            rows.en.eq(advance),
        ]
        with m.If(read):
            m.d.sync += [
                reading.eq(~end),
                places[0].eq(Mux(end, 0, places[0] + 1)),
                read_at.eq(Mux(read_at == spec.buffer_words - 1, 0, read_at + 1)),
            ]
        with m.If(advance):
            m.d.sync += [valid.eq(Cat(read, valid)), last.eq(Cat(end, last)),
                         started.eq(Cat(constants.o.valid & ~reading, started))]
            with m.If(started[0]):
                m.d.sync += a.eq(constants.o.payload)
            m.d.sync += [later.eq(sooner) for sooner, later in zip(places, places[1:])]

        parameters = {}
        for name, place in (("gamma", places[2]), ("beta", places[3])):
            incoming = self.load.payload[name]
            memory = Memory(shape=incoming.shape(), depth=spec.max_words, init=[],
                            attrs=UNCHECKED)
            m.submodules[name] = memory
            write, port = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.addr.eq(self.load.payload.address),
                write.data.eq(incoming),
                write.en.eq(self.load.valid),
                port.addr.eq(place),
                port.en.eq(advance),
            ]
            parameters[name] = port.data
        m.d.comb += self.load.ready.eq(1)

        fraction = Signal(4)  # of gamma and beta
        m.d.comb += fraction.eq(self.shift - spec.Z_FRACTION)
        dropped = spec.Z_FRACTION - 1  # no rounding ever reaches the bits below
        for lane in range(spec.lanes):
            x = Signal(signed(spec.IN_WIDTH), name=f"x_{lane}", reset_less=True)
            gamma = Signal(signed(spec.PARAMETER_WIDTH), name=f"gamma_{lane}", reset_less=True)
            product = Signal(signed(31), name=f"product_{lane}", reset_less=True)
            z = Signal(signed(spec.z_width), name=f"z_{lane}", reset_less=True)
            scaled = Signal(signed(spec.z_width + spec.PARAMETER_WIDTH + 1 - dropped),
                            name=f"scaled_{lane}", reset_less=True)
            y = Signal(signed(spec.OUT_WIDTH), name=f"y_{lane}", reset_less=True)
            biased = Signal.like(constants.bias, name=f"biased_{lane}")
            m.d.comb += [
                biased.eq((product << constants.guard) + constants.bias),
                self.o.payload.y[lane].eq(y),
            ]
            with m.If(advance):
                m.d.sync += [
                    x.eq(rows.data[lane]),
                    product.eq(a * x),
                    z.eq(self._window(m, biased, constants.shift, lane)),
                    gamma.eq(parameters["gamma"][lane]),
                    scaled.eq((z * gamma >> dropped) + (parameters["beta"][lane] << 1)),
                    y.eq(self._round(m, scaled, fraction, lane)),
                ]

    def _window(self, m: Module, x: Signal, shift: Value, lane: int) -> Value:
        """Return ``x >> shift``, of which the upper bits are known to repeat the sign."""
        for k in reversed(range(len(shift))):
            width = min(len(x), self._spec.z_width + (1 << k) - 1)
            moved = Signal(signed(width), name=f"window_{lane}_{1 << k}")
            m.d.comb += moved.eq(Mux(shift[k], x >> (1 << k), x))
            x = moved
        return x

    def _round(self, m: Module, x: Signal, shift: Value, lane: int) -> Value:
        """Return ``x / 2**(shift + 1)``, rounded half up and saturated.

        Each step of the shift keeps only what the later ones can still bring into the result.
        """
        width, sign = self._spec.OUT_WIDTH + 1, x[-1]
        lost = Signal(len(shift) + 1, name=f"lost_{lane}")
        for k in reversed(range(len(shift))):
            step = 1 << k
            moved = Signal(signed(min(len(x), width + step)), name=f"fine_{lane}_{step}")
            m.d.comb += [
                moved.eq(Mux(shift[k], x >> step, x)),
                lost[k].eq(differs(x[len(moved) + step:], sign)
                           | ~shift[k] & differs(x[len(moved):len(moved) + step], sign)),
            ]
            x = moved
        m.d.comb += lost[-1].eq(differs(x[width - 1:], sign))
        window = clip(x[:width - 1], lost.any(), sign)
        rounded = Signal(signed(width), name=f"rounded_{lane}")
        m.d.comb += rounded.eq((window >> 1) + window[0])
        return saturate(rounded, width - 1)
