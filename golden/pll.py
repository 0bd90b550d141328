# SPDX-License-Identifier: Apache-2.0
"""The clock generator of an ECP5, EHXPLLL: which dividers make a clock of another."""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from golden.validate import integer, require

MHZ = 1_000_000


class Dividers(NamedTuple):
    """``vco = reference / reference_by * vco_by``, ``output = vco / output_by``."""

    reference_by: int
    vco_by: int
    output_by: int


@dataclass(frozen=True, kw_only=True)
class PllSpec:
    """A clock made of another one.

    The oscillator runs at the frequency of the phase detector times ``vco_by``: its first output,
    divided by that, is fed back. The second output is the clock. Limits are those of the ECP5's
    data sheet (FPGA-DS-02012, sysCLOCK PLL timing).

    Parameters
    ----------
    frequency : Hz that are wanted. What is made differs by 0.1 % at most: see :attr:`made`.
    reference : Hz of the clock that there is.
    """

    frequency: int
    reference: int = 25 * MHZ

    REFERENCE = (10 * MHZ, 400 * MHZ)
    DETECTOR = (10 * MHZ, 400 * MHZ)
    OSCILLATOR = (400 * MHZ, 800 * MHZ)
    OUTPUT = (3_125_000, 400 * MHZ)
    DIVIDER = 128
    """Largest divider."""
    TOLERANCE = Fraction(1, 1000)

    def __post_init__(self):
        integer("reference", self.reference, *self.REFERENCE)
        integer("frequency", self.frequency, *self.OUTPUT)
        off = abs(self.made / self.frequency - 1)
        require(off <= self.TOLERANCE,
                f"frequency must be one that {self.reference / MHZ:g} MHz can be made into, not "
                f"{self.frequency / MHZ:g} MHz; the nearest is {float(self.made / MHZ):.6g} MHz")

    @property
    def dividers(self) -> Dividers:
        """What comes nearest to the frequency; of equals, that with the fastest oscillator."""
        best, choice = None, None
        for reference_by in range(1, self.DIVIDER + 1):
            detector = Fraction(self.reference, reference_by)
            if not self.DETECTOR[0] <= detector <= self.DETECTOR[1]:
                continue
            for vco_by in range(1, self.DIVIDER + 1):
                vco = detector * vco_by
                if not self.OSCILLATOR[0] <= vco <= self.OSCILLATOR[1]:
                    continue
                near = vco / self.frequency
                for output_by in {int(near), int(near) + 1}:
                    made = vco / output_by if 1 <= output_by <= self.DIVIDER else 0
                    if not self.OUTPUT[0] <= made <= self.OUTPUT[1]:
                        continue
                    key = (abs(made - self.frequency), -vco, reference_by)
                    if best is None or key < best:
                        best, choice = key, Dividers(reference_by, vco_by, output_by)
        assert choice is not None  # every reference has an oscillator, every oscillator an output
        return choice

    @property
    def oscillator(self) -> Fraction:
        """Hz of the oscillator."""
        reference_by, vco_by, _ = self.dividers
        return Fraction(self.reference, reference_by) * vco_by

    @property
    def made(self) -> Fraction:
        """Hz of the clock."""
        return self.oscillator / self.dividers.output_by
