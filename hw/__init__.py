# SPDX-License-Identifier: Apache-2.0
"""Implement the specifications of :mod:`golden` as Amaranth components."""
