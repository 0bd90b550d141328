# SPDX-License-Identifier: Apache-2.0
"""What ``python -m vitral.frontier`` compares on each design."""
