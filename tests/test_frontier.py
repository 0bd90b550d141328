# SPDX-License-Identifier: Apache-2.0
"""Tables and pictures of accuracy against savings."""

import json
from dataclasses import replace

import pytest

from golden.topk import Rule
from models.zoo import model
from vitral.frontier import FRONTIERS, main, measure, table
from vitral.frontiers import spatten
from vitral.frontiers.entry import picture
from vitral.frontiers.rowwise import FRONTIER, Point, settings
from vitral.sparse import Sparsity

ENTRY = replace(model("digits"), prune={0: 0.5, 2: 0.5})


def test_what_leaves_is_saved(tmp_path):
    dense, pruned = (measure(FRONTIER, model("digits"), "tiny", name, one, 6) for name, one in (
        ("dense", Sparsity(keep={})), ("half", Sparsity(keep={0: 0.5}, rule=Rule.TOPK))))
    assert dense.images == 6
    assert dense.macs == 3_495_040
    assert dense.ffn2_reads == 1
    assert pruned.tokens == [9, 9, 9, 9]
    assert pruned.macs < 0.7 * dense.macs
    assert pruned.cycles < 0.75 * dense.cycles
    text = table(FRONTIER, [dense, pruned])
    assert f"{1 - pruned.macs / dense.macs:.1%}" in text
    pytest.importorskip("matplotlib")
    picture(FRONTIER, "digits", [dense, pruned], tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_setting_is_the_dense_network():
    names = [name for name, _ in settings(ENTRY)]
    assert names[0] == "dense"
    assert len(names) == len(set(names))
    assert settings(ENTRY)[0][1] == Sparsity(keep={})
    assert all(one.level is None for _, one in settings(ENTRY))  # GELU
    relu = [one for _, one in settings(replace(ENTRY, activation="relu"))]
    assert {one.level for one in relu} >= {None, 0, 8}


@pytest.mark.parametrize("arguments", [["deit-tiny"], ["nothing"], ["digits", "--images", "0"],
                                       ["digits", "--jobs", "0"]])
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
    assert row in table(FRONTIER, [first, second])


def test_spatten_leaves_out_what_is_asked_for(tmp_path):
    wanted = dict(spatten.settings(model("digits")))
    chosen = [wanted["dense"], wanted["tokens 0:0.5,2:0.5, by the class token"],
              wanted["heads 1:3"], wanted["values 0.25"], wanted["bits, confident from 0"]]
    found = [measure(spatten.FRONTIER, model("digits"), "tiny", name, one, 3)
             for name, one in zip(("dense", "tokens", "heads", "values", "bits"), chosen)]
    dense, tokens, heads, values, bits = found
    assert (dense.tokens, dense.heads, dense.tokens_kept) == ([17] * 4, [4] * 4, 1)
    assert (dense.values_fetched, dense.low_fetched, dense.source) == (1, 1, "column")
    assert (tokens.tokens, tokens.source) == ([9, 9, 5, 5], "class")
    assert tokens.tokens_kept == pytest.approx(28 / 68, abs=1e-6)
    assert tokens.macs < 0.6 * dense.macs and tokens.cycles < 0.7 * dense.cycles
    assert heads.heads == [4, 4, 3, 3]
    # in two blocks a quarter of the attention and of the projection behind it
    assert dense.macs - heads.macs == 2 * (2 * 17 * 17 * 64 + 17 * 64 * 64) // 4
    assert values.values_fetched == pytest.approx(4 / 17, abs=1e-6)
    assert bits.low_fetched == 0
    assert all(one.beats < dense.beats and one.images == 3 for one in found[1:])
    text = table(spatten.FRONTIER, found).splitlines()
    assert all(line.count("|") == text[0].count("|") for line in text)
    assert f"| 9 9 5 5 | 41.2% | 4 4 4 4 | 100.0% | 100.0% | {tokens.beats / dense.beats:.1%} |" \
        in text[3]
    pytest.importorskip("matplotlib")
    picture(spatten.FRONTIER, "digits", found, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["digits", "digits-197"])
def test_every_setting_of_spatten_fits_the_network(name):
    entry = model(name)
    found = spatten.settings(entry)
    assert found[0] == ("dense", Sparsity(keep={}, rule=Rule.TOPK))
    assert len(dict(found)) == len(found)
    depth = entry.float_vit().depth
    for _, one in found:
        assert all(block < depth for block in (*one.keep, *one.choices.heads))
        assert all(0 < count <= entry.heads for count in one.choices.heads.values())
    assert found[-1][1].keep and found[-1][1].choices.heads and found[-1][1].choices.values < 1


def test_the_command_writes_three_files(tmp_path, capsys, monkeypatch):
    few = replace(spatten.FRONTIER, settings=lambda entry: spatten.settings(entry)[:2])
    monkeypatch.setitem(FRONTIERS, "spatten", few)
    assert main(["digits", "--on", "spatten", "--preset", "tiny", "--images", "1",
                 "--jobs", "2", "-o", str(tmp_path / "new"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in printed] == ["dense", "tokens 1:0.5"]
    assert json.loads((tmp_path / "new" / "frontier.json").read_text()) == printed
    assert "| dense | 1 of 1 | 0.00 |" in (tmp_path / "new" / "frontier.md").read_text()
