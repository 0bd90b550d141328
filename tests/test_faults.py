# SPDX-License-Identifier: Apache-2.0
"""A short fault campaign; ``make faults`` runs the long one."""

import numpy as np
import pytest

from golden.operation import Opcode
from golden.rowwise.operation import LAYOUT
from golden.shell import Code
from sim.chip import ChipSimulation
from tests.fault_chips import CHIPS
from tests.faults import GUARD, KINDS, Campaign, campaign, table


@pytest.mark.parametrize("name", CHIPS)
def test_short_campaign(name, tmp_path):
    """A few of each kind, without a failure; the kinds do what they are called."""
    tallies = campaign(name, 4 * len(KINDS), 5, directory=tmp_path)
    print(table(tallies))
    assert [text for one in tallies.values() for text in one.failures] == []
    assert all(one.programs == 4 for one in tallies.values())
    assert tallies["pauses"].codes == {"OK": 4}
    assert tallies["hard reset"].codes == tallies["soft reset"].codes == {"ABORTED": 4}
    assert set(tallies["bus errors"].codes) <= {"OK", "BUS_ERROR", "FETCH"}
    assert tallies["outside"].codes["OK"] < 4
    assert sum(one.codes["ABORTED"] for one in tallies.values()) > 8  # some aborts came in time


def test_nothing_behind_a_failure_is_executed(tmp_path):
    """Not even behind a HALT that the core has taken in before it reports the failure."""
    one = Campaign(1, CHIPS["rowwise-2x4x4"]())
    chip = one.chip.chip()
    with ChipSimulation(chip, size=one.size + 2 * GUARD, directory=tmp_path) as simulation:
        one.begin(simulation, chip)
        stores = [n for n, op in enumerate(one.good) if op[0] == Opcode.STORE]
        assert stores[1:5] == [5, 7, 12, 16]
        program = list(one.good)
        program[5] = LAYOUT.pack(dict(opcode=77))
        for n in (6, 8, 9, 10, 11):
            program[n] = one.good[-1]  # HALT
        window = one.initial.copy()
        window[one.bad_at:one.bad_at + 64 * len(program)] = np.frombuffer(
            b"".join(program), np.uint8)
        one.load(window)
        code, index, complaints = one.suffer("words", len(program))
        assert (code, index, complaints) == (Code.BAD_OPCODE, 5, [])
        after, touched = one.dump()
        assert touched + one.judge("words", window, after, len(program), code, index) == []


@pytest.mark.parametrize(("spoil", "complaint"), [
    ("write", "bytes were written that are no destination"),
    ("code", "the run must end with OK of operation 0, not with BAD_SHAPE of 3"),
])
def test_a_fault_is_seen(spoil, complaint):
    """What the campaign would say of a chip that writes where it must not, or reports nonsense."""
    one = Campaign(3, CHIPS["rowwise-2x4x4"]())
    after = one.expected.copy()
    window = one.initial.copy()
    operations = len(one.good)
    window[one.bad_at:one.bad_at + 64 * operations] = one.initial[one.good_at:one.bad_at]
    after[one.bad_at:] = window[one.bad_at:]
    assert one.judge("bits", window, after, operations, Code.OK, 0) == []
    if spoil == "write":
        after[one.good_at] ^= 1
    code, index = (Code.BAD_SHAPE, 3) if spoil == "code" else (Code.OK, 0)
    complaints = one.judge("bits", window, after, operations, code, index)
    assert any(complaint in text for text in complaints)
