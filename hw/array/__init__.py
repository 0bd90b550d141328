# SPDX-License-Identifier: Apache-2.0
"""The MAC array and its lines."""

from hw.array.array import MacArray, step_layout, tile_layout
from hw.array.line import MacLine

__all__ = ["MacArray", "MacLine", "step_layout", "tile_layout"]
