# SPDX-License-Identifier: Apache-2.0
"""Components that a design has many of, elaborated once."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

__all__ = ["shared", "sharing"]

Pending = dict[str, wiring.Component]
_emitting: ContextVar[tuple[str, Pending] | None] = ContextVar("emitting", default=None)


@contextmanager
def sharing(prefix: str) -> Iterator[Pending]:
    """Collect the components of which :func:`shared` makes instances meanwhile, by module name."""
    pending: Pending = {}
    token = _emitting.set((prefix, pending))
    try:
        yield pending
    finally:
        _emitting.reset(token)


class shared(Elaboratable):
    """Stand for a component that equals all others with the same ``key``.

    Its ports are used as ever. When Verilog is emitted, only the first of them is elaborated, as a
    module of which the others are instances: that is quicker. Elsewhere it is the component itself.
    It must have a clock and a reset, and no other domain.
    """

    def __init__(self, component: wiring.Component, key: str):
        self._component, self._key = component, key

    def elaborate(self, platform) -> Any:
        emitting, component = _emitting.get(), self._component
        if emitting is None:
            return component
        prefix, pending = emitting
        name = f"{prefix}.{self._key}"
        pending.setdefault(name, component)
        component._MustUse__used = True  # or Amaranth warns that it is not elaborated
        ports = {}
        for path, member, value in component.signature.flatten(component):
            way = "i" if member.flow == In else "o"
            ports[f"{way}_{'__'.join(map(str, path))}"] = Value.cast(value)
        return Instance(name, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
