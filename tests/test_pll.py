# SPDX-License-Identifier: Apache-2.0
"""Which clocks can be made of which."""

from fractions import Fraction

import pytest

from golden.pll import MHZ, PllSpec


@pytest.mark.parametrize(("reference", "frequency"), [
    (25, 25), (25, 30), (25, 32), (25, 37.5), (25, 100), (25, 3.125), (25, 400), (12, 48),
    (100, 33), (8.5, 20)])
def test_dividers_make_the_clock(reference, frequency):
    """What is told is what the dividers make, and nothing leaves its range."""
    if reference < 10:
        with pytest.raises(ValueError, match="^reference must be an integer from 10000000 to "):
            PllSpec(frequency=int(frequency * MHZ), reference=int(reference * MHZ))
        return
    spec = PllSpec(frequency=int(frequency * MHZ), reference=int(reference * MHZ))
    reference_by, vco_by, output_by = spec.dividers
    assert all(1 <= one <= 128 for one in spec.dividers)
    detector = Fraction(int(reference * MHZ), reference_by)
    assert detector >= 10 * MHZ and 400 * MHZ <= detector * vco_by <= 800 * MHZ
    assert spec.oscillator == detector * vco_by and spec.made == spec.oscillator / output_by
    assert abs(spec.made / spec.frequency - 1) <= Fraction(1, 1000)


def test_nothing_comes_nearer():
    """All dividers, one by one."""
    made = {Fraction(25 * MHZ * vco_by, reference_by * output_by)
            for reference_by in (1, 2) for vco_by in range(1, 129) for output_by in range(1, 129)
            if 400 <= 25 * vco_by / reference_by <= 800}
    for frequency in range(20_000_000, 60_000_000, 1_234_567):
        nearest = min(abs(one - frequency) for one in made)
        if nearest <= Fraction(frequency, 1000):
            assert abs(PllSpec(frequency=frequency).made - frequency) == nearest
        else:
            with pytest.raises(ValueError, match="^frequency must be one that 25 MHz can be made"):
                PllSpec(frequency=frequency)


@pytest.mark.parametrize(("frequency", "sentence"), [
    (3_000_000, "frequency must be an integer from 3125000 to 400000000, not 3000000"),
    (48_000_000, ("frequency must be one that 25 MHz can be made into, not 48 MHz; the nearest is "
     "48.0769 MHz")),
])
def test_refuses(frequency, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        PllSpec(frequency=frequency)
