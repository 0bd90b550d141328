# SPDX-License-Identifier: Apache-2.0
"""Say how far long work has come, on standard error."""

import sys
import time

__all__ = ["Progress"]


class Progress:
    """One line that is written over on a terminal; elsewhere a line every ``period`` seconds.

    ``step(name)`` begins a kind of work, ``show(text)`` says how far it has come, ``close()`` wipes
    the line. Work that is over within a period is never mentioned, except on a terminal.
    """

    def __init__(self, *, period: float = 10.0):
        self.terminal = sys.stderr.isatty()
        self.period = 0.1 if self.terminal else period
        self.width = 0
        self.name = ""
        self.begin = self.last = time.monotonic()

    def step(self, name: str) -> None:
        """Begin a kind of work."""
        self.name = name
        self.begin = self.last = time.monotonic()
        self.show("", now=self.terminal)

    def show(self, text: str, *, now: bool = False) -> None:
        """Show how far the work has come, unless the last line is too young."""
        if not now and time.monotonic() - self.last < self.period:
            return
        self.last = time.monotonic()
        line = f"{self.name}{': ' * bool(text)}{text} ({self.last - self.begin:.0f} s)"
        if self.terminal:
            print(f"\r{line:<{self.width}}", end="", file=sys.stderr, flush=True)
            self.width = len(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal's line empty."""
        if self.terminal and self.width:
            print(f"\r{'':<{self.width}}\r", end="", file=sys.stderr, flush=True)
            self.width = 0
