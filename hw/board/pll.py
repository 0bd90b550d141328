# SPDX-License-Identifier: Apache-2.0
"""The clock generator of an ECP5."""

from amaranth.hdl import Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden.pll import MHZ, PllSpec


class Pll(wiring.Component):
    """Make a clock of another: an EHXPLLL with the dividers of :class:`~golden.pll.PllSpec`.

    Members
    -------
    i : the clock that there is.
    o : the clock that is made.
    locked : whether it has its frequency; belongs to no clock.
    """

    def __init__(self, spec: PllSpec):
        self.spec = spec
        super().__init__({"i": In(1), "o": Out(1), "locked": Out(1)})

    def elaborate(self, platform):
        m = Module()
        reference_by, vco_by, output_by = self.spec.dividers
        detector = self.spec.reference / reference_by / MHZ
        feedback = Signal()
        settings = {"CLKI_DIV": reference_by, "CLKFB_DIV": 1, "FEEDBK_PATH": "CLKOP",
                    "PLLRST_ENA": "DISABLED", "INTFB_WAKE": "DISABLED",
                    "STDBY_ENABLE": "DISABLED", "DPHASE_SOURCE": "DISABLED"}
        for name, letter, by in (("CLKOP", "A", vco_by), ("CLKOS", "B", output_by)):
            settings |= {f"{name}_ENABLE": "ENABLED", f"{name}_DIV": by,
                         f"{name}_CPHASE": by - 1, f"{name}_FPHASE": 0,
                         f"OUTDIVIDER_MUX{letter}": f"DIV{letter}"}
        attributes = {  # the last four: filter and charge pump, as Project Trellis sets them
            "FREQUENCY_PIN_CLKI": f"{self.spec.reference / MHZ:g}",
            "FREQUENCY_PIN_CLKOP": f"{detector:g}",
            "FREQUENCY_PIN_CLKOS": f"{float(self.spec.made) / MHZ:.6g}",
            "ICP_CURRENT": "12", "LPF_RESISTOR": "8", "MFG_ENABLE_FILTEROPAMP": "1",
            "MFG_GMCREF_SEL": "2"}
        low = ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PLLWAKESYNC", "ENCLKOP", "ENCLKOS")
        high = ("PHASEDIR", "PHASESTEP", "PHASELOADREG")
        m.submodules.pll = Instance(
            "EHXPLLL", **{f"p_{name}": value for name, value in settings.items()},
            **{f"a_{name}": value for name, value in attributes.items()},
            **{f"i_{name}": 0 for name in low}, **{f"i_{name}": 1 for name in high},
            i_CLKI=self.i, i_CLKFB=feedback, o_CLKOP=feedback, o_CLKOS=self.o, o_LOCK=self.locked)
        return m
