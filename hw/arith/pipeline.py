# SPDX-License-Identifier: Apache-2.0
"""The control of a pipeline between two streams."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal


def pipeline(m: Module, i: Any, o: Any, stages: int) -> Signal:
    """Carry ``valid`` from stream ``i`` to stream ``o`` through ``stages`` registers.

    Return ``advance``: each data register of the pipeline loads exactly when it is 1, and the last
    one drives ``o.payload``. The pipeline stops as a whole, when its last stage is refused;
    ``o.ready`` reaches ``i.ready`` combinationally. Latency: ``stages`` cycles. Throughput: 1
    payload per cycle.
    """
    valid = Signal(stages)
    advance = Signal()
    m.d.comb += [advance.eq(~valid[-1] | o.ready), i.ready.eq(advance), o.valid.eq(valid[-1])]
    with m.If(advance):
        m.d.sync += valid.eq(Cat(i.valid, valid))
    return advance
