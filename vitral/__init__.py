# SPDX-License-Identifier: Apache-2.0
"""Generate, run, measure and report from one command line."""
