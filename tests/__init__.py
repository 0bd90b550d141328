# SPDX-License-Identifier: Apache-2.0
"""Test every room; the files mirror the folders they test."""
