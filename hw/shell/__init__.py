# SPDX-License-Identifier: Apache-2.0
"""What makes a chip of any core: AXI4-Lite registers, program fetch, AXI4 master.

Two domains share one clock. ``run`` is in reset whenever no run is under way: the core, and all of
the shell that a run leaves something in. ``sync`` keeps registers, results, and what the bus has
been promised: an abort resets ``run``, and the bus side then finishes what it began.
"""
