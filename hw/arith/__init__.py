# SPDX-License-Identifier: Apache-2.0
"""Compute element by element: requantise, look up, activate, take reciprocals."""
