# SPDX-License-Identifier: Apache-2.0
"""What makes a board of a chip: memory of its own, and a serial line for a host."""
