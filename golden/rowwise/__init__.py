# SPDX-License-Identifier: Apache-2.0
"""The row-wise core: parameters, operations, emulator, cycle model.

Source: Hsiung and Chang, TCAS-I 2025 (arXiv:2510.14393) for the idea of the accelerator and its
budget; Wang and Chang, AICAS 2022 (arXiv:2205.03998) for the row-wise dot product. The
micro-architecture is ours: only the abstract of the former is public.
"""
