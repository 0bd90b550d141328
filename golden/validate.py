# SPDX-License-Identifier: Apache-2.0
"""Refuse bad parameters in one sentence: the name, the rule, the value."""

from collections.abc import Iterable


def integer(name: str, value: object, low: int, high: int | None = None) -> None:
    """Require an int in ``low..high``; ``TypeError`` for a wrong kind, ``ValueError`` outside."""
    rule = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be {rule}, not {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {rule}, not {value!r}")


def power_of_two(name: str, value: object, low: int = 1, high: int | None = None) -> None:
    """Require a power of two in ``low..high``."""
    integer(name, value, low, high)
    assert isinstance(value, int)
    if value & (value - 1):
        raise ValueError(f"{name} must be a power of two, not {value!r}")


def choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Require one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        words = ", ".join(str(one) for one in choices)
        raise ValueError(f"{name} must be one of {words}, not {value!r}")


def require(rule: bool, sentence: str) -> None:
    """Raise ``ValueError(sentence)`` unless ``rule`` holds: for checks between parameters."""
    if not rule:
        raise ValueError(sentence)
