# SPDX-License-Identifier: Apache-2.0
"""The table and the picture of accuracy against savings."""

from dataclasses import replace

import pytest

from golden.topk import Rule
from models.zoo import model
from vitral.frontier import Point, main, measure, picture, settings, table
from vitral.sparse import Sparsity

ENTRY = replace(model("digits"), prune={0: 0.5, 2: 0.5})


def test_what_leaves_is_saved(tmp_path):
    dense, pruned = (measure(model("digits"), "tiny", name, one, 6) for name, one in (
        ("dense", Sparsity(keep={})), ("half", Sparsity(keep={0: 0.5}, rule=Rule.TOPK))))
    assert dense.images == 6
    assert dense.macs == 3_495_040
    assert dense.ffn2_reads == 1
    assert pruned.tokens == [9, 9, 9, 9]
    assert pruned.macs < 0.7 * dense.macs
    assert pruned.cycles < 0.75 * dense.cycles
    text = table([dense, pruned])
    assert f"{1 - pruned.macs / dense.macs:.1%}" in text
    pytest.importorskip("matplotlib")
    picture("digits", [dense, pruned], tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_setting_is_the_dense_network():
    names = [name for name, _ in settings(ENTRY)]
    assert names[0] == "dense"
    assert len(names) == len(set(names))
    assert settings(ENTRY)[0][1] == Sparsity(keep={})
    assert all(one.level is None for _, one in settings(ENTRY))  # GELU
    relu = [one for _, one in settings(replace(ENTRY, activation="relu"))]
    assert {one.level for one in relu} >= {None, 0, 8}


@pytest.mark.parametrize("arguments", [["deit-tiny"], ["nothing"], ["digits", "--images", "0"]])
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "must be" in capsys.readouterr().err


def test_savings_are_over_the_first_point():
    first = Point(name="dense", rule="topk", keep={}, skip=None, correct=90, images=100, tokens=[5],
                  macs=1000, ffn2_reads=1, blocks_skipped=0, cycles=500)
    second = replace(first, name="less", correct=88, macs=250, ffn2_reads=0.4, cycles=300)
    row = "| less | 88 of 100 | 2.00 | 5 | 75.0% | 60.0% | 0.0% | 40.0% |"
    assert row in table([first, second])
