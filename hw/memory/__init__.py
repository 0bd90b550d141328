# SPDX-License-Identifier: Apache-2.0
"""On-chip memory."""

from hw.memory.scratchpad import Scratchpad

__all__ = ["Scratchpad"]
