# SPDX-License-Identifier: Apache-2.0
"""The MAC array: a grid of lines with broadcast operands."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.mac import MacSpec
from hw.array.line import MacLine, column_layout, prepare


def step_layout(spec: MacSpec) -> data.StructLayout:
    """Return the payload that enters an array: a step's operands and what to do with them."""
    fields = {
        "a": data.ArrayLayout(data.ArrayLayout(signed(spec.a_width), spec.depth), spec.rows),
        "b": data.ArrayLayout(data.ArrayLayout(signed(spec.b_width), spec.depth), spec.columns),
        "first": spec.groups,
        "last": spec.groups,
        "enable": spec.groups,
    }
    return data.StructLayout(fields | ({"lanes": 1} if len(spec.modes) == 2 else {}))


def tile_layout(spec: MacSpec) -> data.StructLayout:
    """Return the payload that leaves an array: all its accumulators."""
    line = data.ArrayLayout(signed(spec.acc_width), spec.accumulators)
    return data.StructLayout({"acc": data.ArrayLayout(data.ArrayLayout(line, spec.columns),
                                                      spec.rows)})


class MacArray(wiring.Component):
    """Multiply and accumulate on a grid of lines, as :meth:`MacSpec.dot` and ``lanes`` say.

    One step per cycle: row operand ``a[r]`` meets column operand ``b[c]`` in line (r, c), through
    registers for operands, products, sums and accumulators (``booth``: operands, digits, sums,
    accumulators; lanes alone: operands twice, products, accumulators). ``LATENCY`` cycles after a
    group's ``last`` step its accumulators are offered. They *are* the payload: with ``o.ready`` at
    1 it is there for one cycle, and the next step may change it in the following one, so tiles
    follow one another without a gap. An offer that is not taken stops the whole array; ``i.ready``
    follows ``o.ready`` combinationally.

    With ``booth`` the registers keep what they hold only while a tile waits: a cycle without a step
    passes as a step of zeros. Where ``o.ready`` is always 1 they have no enables at all.

    ``n`` steps take ``n + LATENCY`` cycles when nothing stalls. Area with ``depth`` 8, numbers of 9
    and 8 bits, and accumulators of 28, operand registers included:

    ==============================  =====  =========  =======
    built                             kGE  registers  per MAC
    ==============================  =====  =========  =======
    booth, 4 x 4 lines               73.2        8.8     0.57
    booth, 8 x 8 lines              271.4       24.2     0.53
    inferred, 4 x 4 lines           104.8       15.2     0.82
    inferred, 8 x 8 lines           410.2       55.8     0.80
    lanes alone, 4 x 4 lines        140.4       29.7     1.10
    both modes, split, 4 x 4 lines  168.4       37.1     1.32
    ==============================  =====  =========  =======

    On an ECP5-85F, 4 x 4 inferred lines take 128 multipliers, 6,200 LUTs and 3,600 flip-flops, and
    run at 81 MHz with accumulators of 32 bits.

    Parameters
    ----------
    spec : MacSpec

    Members
    -------
    i : ``In(stream.Signature(step_layout(spec)))``
        ``a[r][k]``, ``b[c][k]``, and one bit per group of rows: ``enable`` (else the group keeps
        its accumulators, whatever else the step says), ``first`` (start a new sum), ``last`` (offer
        it). ``lanes``, if both modes are built, selects lanes mode.
    split : ``In(range(spec.rows + 1))``, if splittable
        Rows of group 0, the first ones; read with each step.
    o : ``Out(stream.Signature(tile_layout(spec)))``, or two of them (``.array(2)``) if splittable
        ``acc[r][c][k]``; in dot mode ``k`` is 0. ``o[g]`` carries all rows, of which those of group
        ``g`` are its payload.
    """

    LATENCY = MacSpec.LATENCY

    def __init__(self, spec: MacSpec):
        if not isinstance(spec, MacSpec):
            raise TypeError(f"spec must be a MacSpec, not {spec!r}")
        self._spec = spec
        tile = Out(stream.Signature(tile_layout(spec)))
        members = {
            "i": In(stream.Signature(step_layout(spec))),
            "o": tile.array(2) if spec.splittable else tile,
        }
        if spec.splittable:
            members["split"] = In(range(spec.rows + 1))
        super().__init__(members)

    @property
    def spec(self) -> MacSpec:
        """What is implemented."""
        return self._spec

    def elaborate(self, platform):
        m = Module()
        spec, step = self._spec, self.i.payload
        outputs = list(self.o) if spec.splittable else [self.o]
        full = Signal(spec.groups)  # the groups whose tile is offered
        move = Signal()
        valid = Signal(3)
        stages = Signal(4)  # the registers that take a step in: operands, ..., accumulators
        # Booth: what is no step passes as one of zeros, so that registers only keep what they hold
        # when a tile waits. Where none ever does, that saves a multiplexer per bit.
        gated = spec.multiplier == "booth"
        m.d.comb += [
            move.eq(~(full & ~Cat(o.ready for o in outputs)).any()),
            self.i.ready.eq(move),
            stages.eq((-1 if gated else Cat(self.i.valid, valid)) & move.replicate(4)),
        ]

        # What to do with the step in each stage.
        words = {name: step[name] for name in ("first", "last", "enable")}
        if spec.splittable:
            words["split"] = self.split
        if len(spec.modes) == 2:
            words["lanes"] = step.lanes
        layout = data.StructLayout({name: word.shape() for name, word in words.items()})
        control = [Signal(layout, name=f"control_{n}", reset_less=True) for n in range(3)]
        for n, source in enumerate([Cat(words.values()), *control[:2]]):
            with m.If(stages[n]):
                m.d.sync += Value.cast(control[n]).eq(Value.cast(source))
        now = control[2]
        with m.If(move):
            m.d.sync += [
                valid.eq(Cat(self.i.valid, valid)),
                full.eq(valid[2].replicate(spec.groups) & now.last & now.enable),
            ]
        with m.Else():
            m.d.sync += full.eq(full & ~Cat(o.ready for o in outputs))

        def own(words, name, row):
            """Return the bit of a row's group."""
            group = row >= words.split if spec.splittable else 0
            return words[name].bit_select(group, 1)

        # Operands: one row of registers if products and sums have one each, else two.
        a, b = list(step.a), list(step.b)
        last = 0 if spec.multiplier == "inferred" and "dot" in spec.modes else 1
        for n in range(last + 1):
            layout = column_layout(spec) if n == last else b[0].shape()
            row = [Signal(x.shape(), name=f"a_{n}_{r}", reset_less=True) for r, x in enumerate(a)]
            column = [Signal(layout, name=f"b_{n}_{c}", reset_less=True) for c in range(len(b))]
            if gated and n == last:
                a = [Mux(valid[0] & own(control[0], "enable", r), Value.cast(x), 0)
                     for r, x in enumerate(a)]
            with m.If(stages[n]):
                m.d.sync += [Value.cast(x).eq(y) for x, y in zip(row, a, strict=True)]
                m.d.sync += [Value.cast(x).eq(prepare(spec, y) if n == last else Value.cast(y))
                             for x, y in zip(column, b, strict=True)]
            a, b = row, column

        for r in range(spec.rows):
            enable = own(now, "enable", r)
            first = Signal(name=f"first_{r}")
            accumulate = Signal(name=f"accumulate_{r}")
            m.d.comb += [
                first.eq(own(now, "first", r) & (valid[2] & enable if gated else 1)),
                accumulate.eq(stages[3] & (1 if gated else enable)),
            ]
            for c in range(spec.columns):
                m.submodules[f"line_{r}_{c}"] = line = MacLine(spec)
                m.d.comb += [
                    line.a.eq(a[r]),
                    line.b.eq(b[c]),
                    line.multiply.eq(stages[1]),
                    line.add.eq(stages[2]),
                    line.accumulate.eq(accumulate),
                    line.first.eq(first),
                ]
                if "lanes" in words:
                    m.d.comb += [line.lanes.eq(control[1].lanes),
                                 line.accumulate_lanes.eq(accumulate & now.lanes)]
                for o in outputs:
                    m.d.comb += o.payload.acc[r][c].eq(line.acc)
        m.d.comb += [o.valid.eq(full[g]) for g, o in enumerate(outputs)]
        return m
