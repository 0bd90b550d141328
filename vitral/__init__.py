# SPDX-License-Identifier: Apache-2.0
"""Generate, run, measure and report from one command line."""

import os

# Products are small here: threads of BLAS would mostly wait for each other, the more the less cores
# are free. Numpy reads this when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
