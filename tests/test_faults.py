# SPDX-License-Identifier: Apache-2.0
"""A short fault campaign; ``make faults`` runs the long one."""

import pytest

from golden.shell import Code
from tests.faults import KINDS, Campaign, campaign, table


def test_short_campaign(tmp_path):
    """A few of each kind, without a failure; the kinds do what they are called."""
    tallies = campaign(4 * len(KINDS), 5, directory=tmp_path)
    print(table(tallies))
    assert [text for one in tallies.values() for text in one.failures] == []
    assert all(one.programs == 4 for one in tallies.values())
    assert tallies["pauses"].codes == {"OK": 4}
    assert tallies["hard reset"].codes == tallies["soft reset"].codes == {"ABORTED": 4}
    assert set(tallies["bus errors"].codes) <= {"OK", "BUS_ERROR", "FETCH"}
    assert tallies["outside"].codes["OK"] < 4
    assert sum(one.codes["ABORTED"] for one in tallies.values()) > 8  # some aborts came in time


@pytest.mark.parametrize(("spoil", "complaint"), [
    ("write", "bytes were written that are no destination"),
    ("code", "the run must end with OK of operation 0, not with BAD_SHAPE of 3"),
])
def test_a_fault_is_seen(spoil, complaint):
    """What the campaign would say of a chip that writes where it must not, or reports nonsense."""
    one = Campaign(3)
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
