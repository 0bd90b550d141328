# SPDX-License-Identifier: Apache-2.0
"""Activation functions on a wide pre-activation: identity, ReLU, table (GELU), Hardswish."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike

from golden.fixed import Integers, bounds, integers, round_shift, saturate
from golden.requant import RequantSpec
from golden.table import TableSpec
from golden.validate import choice, integer, power_of_two, require


class ActivationKind(IntEnum):
    """What is done between the requantiser and the store."""

    NONE = 0
    RELU = 1
    TABLE = 2
    HARDSWISH = 3


def gelu(x: float) -> float:
    """Return the exact GELU (erf form)."""
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


def hardswish(x: float) -> float:
    """Return ``x * relu6(x + 3) / 6``."""
    return x * min(max(x + 3.0, 0.0), 6.0) / 6.0


@dataclass(frozen=True, kw_only=True)
class ActivationSpec:
    """From a requantised pre-activation to an 8-bit activation, ``lanes`` at a time.

    ============  ======================================================  =================
    kind          result                                                  stored
    ============  ======================================================  =================
    ``NONE``      ``sat(q, width)``                                       signed
    ``RELU``      ``clip(q, 0, 2**width - 1)``                            unsigned
    ``TABLE``     ``table[sat(q, table_width) + 2**(table_width - 1)]``   signed
    ``HARDSWISH`` ``sat(requant(p * clip(p + c3, 0, 2*c3)), width)``      signed
    ============  ======================================================  =================

    with ``p = sat(q, hardswish_width)`` and ``c3 = round(3 / scale)``.

    Parameters
    ----------
    lanes : activations per payload.
    in_width : signed bits of the incoming pre-activation ``q`` (what the requantiser gives).
    width : bits of the result.
    table_width : bits of the table's index; with 10, 3 to 4 % of GELU's 8-bit results differ by 1
        from those of an unquantised pre-activation, with 8, 13 to 14 %.
    hardswish_width : bits of Hardswish's pre-activation; with 12, 1 to 1.5 % differ, with 8, 13 to
        17 %.
    load_entries : table entries that are written at once, a power of two.
    kinds : the functions that are built; one that is not built is refused by the compiler.

    Source: measurements on GELU and Hardswish in ``docs/numbers.md``; exact quadratic Hardswish
    after Howard et al., ICCV 2019 (arXiv:1905.02244).
    """

    lanes: int = 8
    in_width: int = 16
    width: int = 8
    table_width: int = 10
    hardswish_width: int = 12
    load_entries: int = 8
    kinds: tuple[ActivationKind, ...] = (
        ActivationKind.NONE, ActivationKind.RELU, ActivationKind.TABLE, ActivationKind.HARDSWISH)

    def __post_init__(self):
        integer("lanes", self.lanes, 1, 1024)
        integer("in_width", self.in_width, 4, 32)
        integer("width", self.width, 2, 16)
        integer("table_width", self.table_width, 4, min(14, self.in_width))
        integer("hardswish_width", self.hardswish_width, 4, min(16, self.in_width))
        power_of_two("load_entries", self.load_entries, 1, 1 << self.table_width)
        try:
            kinds = tuple(dict.fromkeys(ActivationKind(kind) for kind in self.kinds))
        except ValueError:
            raise ValueError(f"kinds must be activation kinds, not {self.kinds!r}") from None
        if not kinds:
            raise ValueError(f"kinds must be activation kinds, not {self.kinds!r}")
        object.__setattr__(self, "kinds", kinds)

    @property
    def table_spec(self) -> TableSpec:
        """The table of TABLE."""
        return TableSpec(depth=1 << self.table_width, width=self.width, lanes=self.lanes,
                         load_entries=self.load_entries)

    @property
    def hardswish_requant(self) -> RequantSpec:
        """The requantiser of ``p * t`` in Hardswish, through which the other results pass, too."""
        acc_width = max(2 * self.hardswish_width + 1, self.width)
        return RequantSpec(lanes=self.lanes, acc_width=acc_width, out_width=self.width)

    @property
    def latency(self) -> int:
        """Cycles from ``i`` to ``o``, the same for all kinds that are built together."""
        return 2 + (RequantSpec.LATENCY if ActivationKind.HARDSWISH in self.kinds else 0)

    def cycles(self, payloads: int) -> int:
        """Return the cycles from the first payload in to the last one out, nothing stalling."""
        return payloads + self.latency

    def table(self, function: Callable[[float], float], in_scale: float,
              out_scale: float) -> Integers:
        """Return the ``2**table_width`` entries of ``function``, exact for each index.

        ``in_scale`` and ``out_scale`` are the real values of one step of index and entry.
        """
        low, high = bounds(self.table_width)
        exact = [function(q * in_scale) / out_scale for q in range(low, high + 1)]
        rounded = np.floor(np.array(exact) + 0.5)
        return np.clip(rounded, *bounds(self.width)).astype(np.int64)

    def compute(self, q: ArrayLike, kind: ActivationKind, *, table: ArrayLike | None = None,
                c3: int = 0, mul: int = 0, shift: int = 0) -> Integers:
        """Apply ``kind``; ``table`` for TABLE; ``c3`` (2 to hardswish_width bits), ``mul`` and
        ``shift`` for HARDSWISH."""
        q, kind = integers(q), ActivationKind(kind)
        choice("kind", kind.name, [built.name for built in self.kinds])
        match kind:
            case ActivationKind.NONE:
                return saturate(q, self.width)
            case ActivationKind.RELU:
                return saturate(q, self.width, signed=False)
            case ActivationKind.TABLE:
                index = saturate(q, self.table_width) + (1 << (self.table_width - 1))
                entries = integers(np.zeros(0, np.int64) if table is None else table)
                require(entries.shape == (1 << self.table_width,),
                        f"table must have shape ({1 << self.table_width},), not {entries.shape}")
                return entries[index]
            case ActivationKind.HARDSWISH:
                p = saturate(q, self.hardswish_width)
                product = p * np.clip(p + c3, 0, 2 * c3)
                return saturate(round_shift(product * mul, shift), self.width)
