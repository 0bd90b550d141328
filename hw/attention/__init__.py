# SPDX-License-Identifier: Apache-2.0
"""Attention between its two matrix products."""
