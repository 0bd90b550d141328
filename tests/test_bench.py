# SPDX-License-Identifier: Apache-2.0
"""The bench runs commands that exist, keeps what it has, and says what failed."""

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from vitral import bench
from vitral.bench import main, markdown, suites
from vitral.benches import rowwise, spatten
from vitral.benches.entry import Entry, Row, Suite
from vitral.cli import main as vitral
from vitral.cli import parser
from vitral.designs import DESIGNS
from vitral.frontiers.spatten import Point
from vitral.losses import ROWWISE, SPATTEN
from vitral.record import KEYS


def prints(value, name="one", **options):
    """Return an entry whose command prints a value."""
    return Entry(name=name, module="json.tool", arguments=(str(value),), **{
        "rows": lambda found, results: iter([Row("sum", sum(found), "things", 7, "as | it is")]),
        **options})


@pytest.fixture
def numbers(tmp_path):
    (tmp_path / "numbers").write_text("[1, 2]")
    return tmp_path / "numbers"


def suite(*entries):
    return {"rowwise": Suite(design="rowwise", title="", about=(), paper={}, entries=entries)}


@pytest.mark.parametrize("design", suites())
def test_every_entry_is_a_command_that_prints_json(design):
    entries = suites()[design].entries
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert hasattr(importlib.import_module(entry.module), "main")
        assert "--json" in entry.arguments
        if entry.module == "vitral.cli":
            options = parser().parse_args(entry.arguments)
            assert (options.json, options.design) == (Path("-"), design)
            assert options.preset in DESIGNS[design].presets
        assert shlex.split(entry.command)[3:] == list(entry.arguments)


def test_figures_stand_beside_the_papers(numbers, tmp_path, capsys):
    known = suite(prints(numbers))
    assert main(["-o", str(tmp_path / "new" / "out")], known) == 0
    text = (tmp_path / "new" / "out" / "rowwise.md").read_text()
    assert capsys.readouterr().out == text
    assert "| one | sum | 3 | 7 | things |" in text
    table = json.loads((tmp_path / "new" / "out" / "rowwise.json").read_text())
    one = table["entries"]["one"]
    assert one["result"] == [1, 2]
    assert one["command"] == f"python -m json.tool {numbers}"
    assert one["figures"] == [
        {"name": "sum", "value": 3, "unit": "things", "paper": 7, "note": "as | it is"}]
    assert f"| one | `{one['command']}` | {one['seconds']:,} |" in text


def test_what_is_known_is_kept(numbers, tmp_path, monkeypatch, capsys):
    def measured(*options):
        """Return the names of the entries that were measured."""
        assert main(["-o", str(tmp_path), *options], suite(*entries)) == 0
        return re.findall(r"^(\w+): done", capsys.readouterr().err, re.MULTILINE)

    entries = [prints(numbers), prints(numbers, "two", slow=True)]
    assert measured("--quick") == ["one"]
    assert measured() == ["two"]
    assert measured() == []
    assert measured("--only", "two") == []
    assert measured("--only", "two", "--again") == ["two"]
    assert list(json.loads((tmp_path / "rowwise.json").read_text())["entries"]) == ["one", "two"]
    assert measured("--again", "--quick") == ["one"]
    monkeypatch.setattr(bench, "source", lambda: "others")
    assert measured() == ["one", "two"]
    entries[0] = prints(tmp_path / "numbers", rows=lambda found, results: iter([]))
    assert measured() == []  # only the figures change
    assert "| one | sum" not in (tmp_path / "rowwise.md").read_text()


def test_what_fails_is_named_and_tried_again(numbers, tmp_path, capsys):
    entries = [prints(tmp_path / "missing"), prints(numbers, "two")]
    for _ in range(2):
        assert main(["-o", str(tmp_path)], suite(*entries)) == 1
        out, err = capsys.readouterr()
        assert re.search(r"^one: .*No such file", err, re.MULTILINE)
        assert re.search(r"^\| one \| not measured \| .*No such file", out, re.MULTILINE)
        assert "| two | sum | 3 |" in out


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--only", "x"], "--only must be one of one, not 'x'"),
    (["tpu"], "DESIGN must be one of rowwise, not 'tpu'"),
    (["-o", "numbers"], r".*rowwise.json must be a file of an earlier run, or none: .*"),
])
def test_refuses(arguments, sentence, numbers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(arguments, suite(prints(numbers)))
    assert re.search(f"error: {sentence}$", capsys.readouterr().err.strip())


def test_a_spoilt_file_is_not_overwritten(numbers, tmp_path, capsys):
    (tmp_path / "rowwise.json").write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        main(["-o", str(tmp_path)], suite(prints(numbers)))
    assert (tmp_path / "rowwise.json").read_text() == "{}"
    assert not (tmp_path / "rowwise.md").exists()


def test_list_names_the_commands(capsys):
    assert main(["--list"]) == 0
    assert "digits, tiny: python -m vitral.cli run digits --preset tiny" in capsys.readouterr().out


def test_a_run_and_its_savings(tmp_path, capsys):
    """Of the real result of a run, and one that leaves things out."""
    assert vitral(["run", "digits", "--on", "rowwise", "--preset", "tiny", "--images", "2",
                   "--json", "-"]) == 0
    dense = json.loads(capsys.readouterr().out)
    assert set(dense) == set(KEYS)
    less = dense | {"macs_executed": dense["macs_per_image"] / 4, "ffn2_reads": 0.4,
                    "cycles_predicted": dense["cycles_predicted"] / 2, "accuracy": 0.5}
    rows = {row.name: row for row in rowwise.savings("dense")(less, {"dense": dense})}
    assert (rows["operations saved"].value, rows["operations saved"].paper) == (75, 61.5)
    assert (rows["FFN2 weights not read"].value, rows["FFN2 weights not read"].paper) == (60, 59.3)
    assert (rows["times faster than dense"].value, rows["accuracy lost"].value) == (2, 50)
    assert rows["multipliers"].paper is None  # they are another core's
    entry = {"result": dense, "command": "x", "seconds": 1.5,
             "figures": [vars(row) for row in rowwise.speed(dense, {})]}
    text = markdown(rowwise.SUITE, {"run": entry})
    (line,) = re.findall(r"^\| run \| ([\d. |]+) \|$", text, re.MULTILINE)
    assert len(line.split(" | ")) == len(ROWWISE.causes) + 1
    assert sum(map(float, line.split(" | "))) == pytest.approx(100, abs=0.06)


def test_memories_add_up(capsys):
    assert vitral(["estimate", "digits", "--on", "rowwise", "--json", "-"]) == 0
    *parts, whole = rowwise.memories(json.loads(capsys.readouterr().out), {})
    assert sum(float(row.value or 0) for row in parts) == pytest.approx(whole.value, abs=0.01)
    assert whole.paper == 232


def test_area_and_device():
    found = {"kge": 400.0, "register_kge": 80.0, "by_module": {
        "small": {"instances": 1, "own_kge": 1.0}, "lane": {"instances": 64, "own_kge": 300.0}}}
    rows = list(rowwise.areas(found, {}))
    assert [(row.name, row.value, row.paper) for row in rows] == [
        ("logic", 400.0, 496.4), ("logic per multiplier", 0.781, 0.97),
        ("of it registers", 80.0, None), ("lane (64)", 300.0, None)]
    found = {"lut": 1, "ff": 2, "dsp": 3, "ebr": 4, "fmax_mhz": None, "speed": 6,
             "available": dict(lut=10, ff=20, dsp=30, ebr=40)}
    assert [row.value for row in rowwise.device(found, {})] == [1, 2, 3, 4, None]


def test_a_network_on_spatten_and_what_it_leaves_out(capsys):
    common = ["run", "digits", "--on", "spatten", "--preset", "tiny", "--images", "1", "--json",
              "-"]
    results = {}
    for name, more in (("dense", []), ("less", spatten.CHOICES.split())):
        assert vitral([*common, *more]) == 0
        results[name] = json.loads(capsys.readouterr().out)
    rows: dict[str, Any] = {row.name: row.value for row in spatten.savings("dense")(
        results["less"], results)}
    assert rows["multipliers"] == 32
    assert rows["tokens left, block by block"] == "9 9 5 5"
    assert rows["heads left, block by block"] == "4 4 4 3"
    assert 0 < rows["values fetched"] < 100 and 0 < rows["queries that needed low bits"] < 100
    assert rows["times faster than dense"] > 1.3 and rows["accuracy lost"] == 0
    entry = {"result": results["less"], "command": "x", "seconds": 1.5,
             "figures": [vars(row) for row in spatten.network(results["less"], {})]}
    (line,) = re.findall(r"^\| run \| ([\d. |]+) \|$", markdown(spatten.SUITE, {"run": entry}),
                         re.MULTILINE)
    assert len(line.split(" | ")) == len(SPATTEN.causes) + 1
    assert sum(map(float, line.split(" | "))) == pytest.approx(100, abs=0.06)


def test_the_frontier_says_how_few_tokens_do():
    dense = dict.fromkeys(Point.__dataclass_fields__, 1.0) | dict(
        name="dense", correct=1000, images=1000, heads=[4, 4])
    points = [dense, dense | dict(name="half", correct=995, tokens_kept=0.5, beats=0.6),
              dense | dict(name="few", correct=994, tokens_kept=0.2, heads=[4, 2])]
    *settings, least = spatten.frontier(points, {})
    assert [row.value for row in settings] == ["1000 of 1000", "995 of 1000", "994 of 1000"]
    assert "tokens kept 50.0%, heads 100.0%, beats 60.0%" in settings[1].note
    assert "heads 75.0%" in settings[2].note
    assert (least.value, least.unit) == (50, "%")


def test_modules_that_are_too_small_are_left_out():
    found = {"kge": 100.0, "register_kge": 9.0, "memory_bits": 64, "by_module": {
        "part": {"instances": 2, "own_kge": 60.0}, "crumb": {"instances": 1, "own_kge": 0.9}}}
    assert [row.name for row in spatten.gates(found, {})] == [
        "logic", "of it registers", "memory", "part (2)"]
    del found["by_module"]
    assert len(list(spatten.gates(found, {}))) == 3
