# SPDX-License-Identifier: Apache-2.0
"""The SpAtten core, see :mod:`golden.spatten` and ``docs/spatten.md``."""
