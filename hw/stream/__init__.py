# SPDX-License-Identifier: Apache-2.0
"""Parts that every stream is built from: slice, queue, width converter, arbiter."""

from hw.stream.arbiter import Arbiter
from hw.stream.queue import Queue
from hw.stream.slice import Slice
from hw.stream.width import WidthConverter

__all__ = ["Arbiter", "Queue", "Slice", "WidthConverter"]
