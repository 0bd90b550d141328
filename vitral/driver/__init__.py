# SPDX-License-Identifier: Apache-2.0
"""Drive a chip: the same class in simulation, on Linux, and wherever a transport leads."""

from vitral.driver.driver import (
    AbortedError,
    ChipError,
    Driver,
    FetchError,
    LateError,
    MalformedError,
    MemoryAccessError,
    Outcome,
    RefusedError,
    RunError,
    Transport,
    WrongChipError,
)

__all__ = [
    "AbortedError", "ChipError", "Driver", "FetchError", "LateError", "MalformedError",
    "MemoryAccessError", "Outcome", "RefusedError", "RunError", "Transport", "WrongChipError",
]
