# SPDX-License-Identifier: Apache-2.0
"""The row-wise core: decoder, weight fetcher, feeder, collector, norm and move engines."""

from hw.rowwise.core import RowwiseCore

__all__ = ["RowwiseCore"]
