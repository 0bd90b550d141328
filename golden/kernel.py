# SPDX-License-Identifier: Apache-2.0
"""A small discrete-event kernel, for models of time."""

import heapq
from collections.abc import Callable, Generator

Process = Generator["int | Event", None, None]
"""Yields the cycle at which it goes on, or the event that it waits for."""


class Event:
    """Something that processes wait for; firing it resumes them all."""

    def __init__(self, kernel: "Kernel"):
        self._kernel = kernel
        self.waiting: list[Process] = []

    def fire(self) -> None:
        """Resume the waiting processes in this cycle."""
        waiting, self.waiting = self.waiting, []
        for process in waiting:
            self._kernel.resume(process, self._kernel.now)


class Kernel:
    """Run processes in the order of their cycles; in one cycle, in that of their resumption."""

    def __init__(self):
        self.now = 0
        self._order = 0
        self._heap: list[tuple[int, int, Process | Callable[[], None]]] = []

    def resume(self, process: Process | Callable[[], None], cycle: int) -> None:
        """Go on with a process, or call a function, at a cycle."""
        self._order += 1
        heapq.heappush(self._heap, (cycle, self._order, process))

    def run(self) -> None:
        """Run until nothing is left to do."""
        while self._heap:
            self.now, _, process = heapq.heappop(self._heap)
            if callable(process):
                process()
                continue
            try:
                request = next(process)
            except StopIteration:
                continue
            if isinstance(request, Event):
                request.waiting.append(process)
            else:
                self.resume(process, max(request, self.now))
