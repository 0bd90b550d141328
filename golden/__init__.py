# SPDX-License-Identifier: Apache-2.0
"""Specify every block: validated parameters and bit-exact integer models, in numpy alone."""
