# SPDX-License-Identifier: Apache-2.0
"""A serial line: bytes of 8 bits between a start bit and a stop bit, without parity."""

from dataclasses import dataclass

from golden.validate import integer


@dataclass(frozen=True, kw_only=True)
class UartSpec:
    """A line that is high when idle; a byte is a low bit, 8 bits from the lowest, a high bit.

    Parameters
    ----------
    divisor : clock cycles of a bit. The other side may be off by 4 % of a bit, less with few
        cycles: a bit is sampled up to one and a half cycles from its middle.
    """

    divisor: int = 25

    BITS = 10
    """Bits of a byte on the line."""

    def __post_init__(self):
        integer("divisor", self.divisor, 4, 65535)

    def levels(self, content: bytes) -> list[int]:
        """Return the level of the line in each cycle, from the first start bit on."""
        return [bit for one in content for n in range(self.BITS)
                for bit in [(one << 1 | 1 << 9) >> n & 1] * self.divisor]

    def cycles(self, count: int) -> int:
        """Return the cycles that so many bytes take on the line."""
        return count * self.BITS * self.divisor
