# SPDX-License-Identifier: Apache-2.0
"""Ship the small trained networks, and the scripts that train them."""
