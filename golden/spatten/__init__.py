# SPDX-License-Identifier: Apache-2.0
"""The SpAtten core: attention whose keys and values are chosen while they are fetched.

Source: Wang, Zhang, Han, "SpAtten: Efficient Sparse Attention Architecture with Cascade Token and
Head Pruning", HPCA 2021, arXiv:2012.09852. The algorithm is theirs, the hardware is not: see
``docs/spatten.md``.
"""
