# SPDX-License-Identifier: Apache-2.0
"""What `python -m vitral.bench` measures of each design."""
