# SPDX-License-Identifier: Apache-2.0
"""The scratchpad: where data lie, refusals, and RTL against golden."""

import numpy as np
import pytest

from golden.scratchpad import ScratchpadSpec
from hw.memory import Scratchpad
from sim.runner import run

SPECS = [
    ScratchpadSpec(banks=3, words=21, width=24, segment=8),
    ScratchpadSpec(banks=4, words=32, width=64, segment=16),
    ScratchpadSpec(banks=1, words=10, width=80, segment=80),
    ScratchpadSpec(banks=5, words=16, width=7, segment=7),
]


def test_place():
    spec = ScratchpadSpec(banks=8, words=256)
    bank, address = spec.place(np.arange(20), 2, base=100, stride=6)
    np.testing.assert_array_equal(bank, np.arange(20) % 8)
    np.testing.assert_array_equal(address, [102] * 8 + [108] * 8 + [114] * 4)
    assert spec.size(20, 6) == 18 and spec.bits == 8 * 256 * 64


def test_blocks_are_operands():
    """The three operands of a row-wise core, each one block."""
    spec, rng = ScratchpadSpec(banks=4, words=64, width=32), np.random.default_rng(3)
    memory = spec.empty()
    values = rng.integers(0, 256, (11, 12))  # tokens, channels: three words of four
    spec.scatter(memory, 5, 7, values)
    np.testing.assert_array_equal(spec.gather(memory, 5, 7, 11, 3), values)
    np.testing.assert_array_equal(spec.gather(memory, 5, 7, 6, 2), values[:6, :8])
    block = spec.block(memory, 5 + 1 * 7 + 2)
    np.testing.assert_array_equal(block, values[4:8, 8:12])  # rows, or keys, by numbers
    np.testing.assert_array_equal(block.T[1], values[4:8, 9])  # one channel of four values
    block[:] = 0
    assert not spec.gather(memory, 5, 7, 8, 3)[4:8, 8:].any()  # a view
    assert np.count_nonzero(memory) == np.count_nonzero(values) - np.count_nonzero(values[4:8, 8:])


def test_no_bank_twice():
    """Any ``banks`` neighbouring tokens lie in different banks, at whatever words."""
    spec, rng = ScratchpadSpec(banks=7, words=500), np.random.default_rng(4)
    for first in range(30):
        bank, _ = spec.place(np.arange(first, first + 7), rng.integers(0, 9, 7), 3, 9)
        assert len(set(bank.tolist())) == 7
    places = {(int(b), int(a)) for b, a in np.stack(
        spec.place(np.arange(40)[:, None], np.arange(9), 3, 9), -1).reshape(-1, 2)}
    assert len(places) == 40 * 9  # no two words in one place


@pytest.mark.parametrize("arguments, message", [
    ({"banks": 0}, "banks must be an integer from 1 to 256, not 0"),
    ({"words": 1}, "words must be an integer from 2 to 1048576, not 1"),
    ({"segment": 65}, "segment must be an integer from 1 to 64, not 65"),
    ({"width": 60}, "width must be a multiple of segment 8, not 60"),
])
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ScratchpadSpec(**arguments)


def test_refuses_other_kinds():
    with pytest.raises(TypeError, match=r"^words must be an integer from 2 to 1048576, not '16'$"):
        ScratchpadSpec(words="16")  # type: ignore[arg-type]
    spec = ScratchpadSpec(words=16)
    with pytest.raises(TypeError):
        spec.scatter(spec.empty(), 0, 1, np.full((3, 8), 0.5))
    with pytest.raises(TypeError, match=r"^spec must be a ScratchpadSpec, not 8$"):
        Scratchpad(8)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rtl_equals_golden(spec, tmp_path):
    run(Scratchpad(spec), bench="sim.bench_scratchpad", tests=2, directory=tmp_path)


def test_rtl_equals_golden_icarus(tmp_path):
    run(Scratchpad(SPECS[0]), bench="sim.bench_scratchpad", simulator="icarus", tests=2,
        directory=tmp_path)
