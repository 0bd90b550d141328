# SPDX-License-Identifier: Apache-2.0
"""From the order of channels to that of lanes, and back."""

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value


def rotated(m: Module, name: str, values: Sequence[Value], turn: Value, *,
            back: bool = False) -> list[Value]:
    """Return by lane what is given by channel; with ``back`` by channel what is given by lane.

    Lane ``l`` is channel ``(l + turn) mod C``. ``C`` is a power of two; its logarithm is the number
    of layers of multiplexers. Combinational.
    """
    items, count = list(values), len(values)
    for bit in range((count - 1).bit_length()):
        step = count - (1 << bit) if back else 1 << bit
        later = []
        for place, item in enumerate(items):
            moved = Signal(item.shape(), name=f"{name}_{bit}_{place}")
            m.d.comb += moved.eq(Mux(turn[bit], items[(place + step) % count], item))
            later.append(moved)
        items = later
    return items
