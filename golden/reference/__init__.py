# SPDX-License-Identifier: Apache-2.0
"""Float models, numpy only: the references that measure the accuracy of the integer ones."""
