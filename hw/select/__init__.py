# SPDX-License-Identifier: Apache-2.0
"""Selection of the best of many scores."""

from hw.select.compact import ZeroEliminator
from hw.select.topk import TopK

__all__ = ["TopK", "ZeroEliminator"]
