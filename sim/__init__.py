# SPDX-License-Identifier: Apache-2.0
"""Simulate the emitted Verilog: benches, drivers, memory models and the runner."""
