# SPDX-License-Identifier: Apache-2.0
"""A measurement: a command, and the figures that follow from what it prints."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Entry", "Results", "Row", "Suite"]

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One figure: ours, and the paper's if it has one."""

    name: str
    value: float | str | None
    unit: str = ""
    paper: float | str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One command, and the figures that follow from the JSON that it prints.

    Parameters
    ----------
    name : of the entry.
    module, arguments : the command ``python -m MODULE ARGUMENTS``.
    rows : from the result, and the results of all entries so far by name, to figures.
    slow : takes more than some minutes.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    rows: Callable[[Any, Results], Iterator[Row]]
    slow: bool = False

    @property
    def command(self) -> str:
        """The command as a user types it."""
        return shlex.join(["python", "-m", self.module, *self.arguments])


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is measured of one design.

    ``paper`` are the paper's figures, ``about`` lines that say what they are; ``more`` returns
    further lines from what was measured.
    """

    design: str
    title: str
    about: Sequence[str]
    paper: Mapping[str, Any]
    entries: Sequence[Entry]
    more: Callable[[Mapping[str, Mapping[str, Any]]], list[str]] = lambda done: []
