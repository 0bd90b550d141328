# SPDX-License-Identifier: Apache-2.0
"""Traces: what is refused, what a program of one does, and the command."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from golden.spatten.spec import PRESETS, SpattenSpec
from vitral.cli import main
from vitral.trace import COLUMNS, layers, reduction, workload

SPEC = replace(PRESETS["tiny"], max_tokens=96, score_rows=128)
HEADS = 3


def rows(tokens=60, iterations=2):
    """Return a trace of three layers: all tokens, half of them, a quarter; then half of all."""
    result, live = [], tokens
    for iteration in range(iterations):
        length = tokens + iteration
        for layer, (keep, bits) in enumerate(((None, 6), (tokens // 2, 8), (tokens // 4, 6))):
            keys = length if keep is None and not iteration else live if keep is None else keep
            live = (tokens // 2, tokens // 4, tokens // 2 + 1)[layer]
            for head in range(HEADS):
                last = head == HEADS - 1
                result.append({
                    "iteration_id": iteration, "layer_id": layer, "head_id": head,
                    "embedding_length_D": 16.0, "sentence_length_L": length,
                    "key_fetch_num": keys, "quant_key_bit": bits, "auto_requant_thres": 0.1,
                    "if_requant": head == 1 and layer < 2, "auto_requant_incre": 4,
                    "value_fetch_num": keys // 4, "quant_value_bit": 6,
                    "if_accumulate_importance": True,
                    "if_rescale_previous_importance": last and layer == 2,
                    "if_topk": last, "topk": live if last else -1})
    return result


def text(lines, end=""):
    return "\n".join([",".join(COLUMNS), *(",".join(str(row[name]) for name in COLUMNS)
                                           for row in lines)]) + "\n" + end


def written(tmp_path, lines, end="", name="t.csv"):
    path = tmp_path / name
    data = text(lines, end).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_trace_is_what_the_core_does(name, tmp_path):
    trace = layers(written(tmp_path, rows(), "configs/x.yml,,,,\n\n", name))
    assert [one.keys for one in trace] == [60, 30, 15, 31, 30, 15]
    work = workload(trace, SPEC)
    done = [row for row in work.emulator.rows if row]
    assert [[(row.keys, row.values, row.low) for row in each] for each in done] == [
        [(one.keys, one.values, low) for low in one.low] for one in trace]
    assert work.emulator.bytes_read == sum(one.bytes_read(SPEC) for one in trace)
    again = workload(trace, SPEC)
    np.testing.assert_array_equal(work.memory, again.memory)
    assert work.operations == again.operations
    steps = list(reduction(trace, SPEC).values())
    assert steps[0] == 8 * 16 * HEADS * (60 * 3 + 61 * 3)
    assert steps[0] > steps[1] > steps[2] > steps[3] > steps[4] < steps[5]


@pytest.mark.parametrize(("which", "changes", "sentence"), [
    ([0], dict(key_fetch_num="many"), "2: key_fetch_num must be a number, not 'many'"),
    ([0], dict(key_fetch_num=1.5), "2: key_fetch_num must be a whole number, not '1.5'"),
    ([0], dict(key_fetch_num=61), "2: key_fetch_num must be from 1 to 60, not '61'"),
    ([0], dict(key_fetch_num="nan"), "2: key_fetch_num must be a number below 1e9, not 'nan'"),
    ([1], dict(key_fetch_num=59),
     "3: key_fetch_num must be 60, as for the layer's other heads, not '59'"),
    ([2], dict(head_id=1), "4: head_id must be more than 1, the one before, not '1'"),
    ([8], dict(layer_id=1),
     "10: layer_id must be that of a row behind iteration 0, layer 2, not '1'"),
    ([3, 4, 5], dict(quant_key_bit=7), "5: quant_key_bit must be 4, 6, 8, 10, 12 or -1, not '7'"),
    ([4], dict(if_requant="maybe"), "6: if_requant must be True or False, not 'maybe'"),
    ([1], dict(auto_requant_incre=2),
     "3: auto_requant_incre must be 4, the low bits that a core has, not '2'"),
    ([2], dict(topk=0), "4: topk must be from 1 to 61, not '0'"),
    ([0, 1, 2], dict(sentence_length_L=0), "2: sentence_length_L must be from 1 to 65535, not '0'"),
])
def test_refuses_a_row_with_its_line(which, changes, sentence, tmp_path, capsys):
    lines = rows()
    for row in which:
        lines[row] |= changes
    path = written(tmp_path, lines)
    assert main(["trace", str(path), "--on", "spatten"]) == 2
    assert capsys.readouterr().err == f"vitral: {path}:{sentence}\n"


@pytest.mark.parametrize(("data", "sentence"), [
    (b"", ":1: trace must have a column iteration_id"),
    (b"a,b\n1,2\n", ":1: trace must have a column iteration_id"),
    (text([]).encode(), ": trace must have at least one row"),
    (text([]).encode() + b"1,2\n", ":2: row must have 16 cells, not 2"),
    (text(rows(), "x,,\n1,2\n").encode(),
     ":21: row must not stand behind the name of the configuration"),
    (b"\xff\xfe", None),
])
def test_refuses_a_file(data, sentence, tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    assert main(["trace", str(path), "--on", "spatten"]) == 2
    error = capsys.readouterr().err
    assert error == (f"vitral: cannot read {path}: it is no text, or no gzip file\n"
                     if sentence is None else f"vitral: {path}{sentence}\n")


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["no.csv", "--on", "spatten"], "cannot read no.csv: No such file or directory"),
    (["T", "--on", "rowwise"], "design must be one that runs a trace, spatten, not 'rowwise'"),
    (["T", "--on", "spatten", "--preset", "tiny"],
     "line 8: sentence_length_L must be at most 64 for this core, not 90"),
    (["T", "--on", "spatten", "--preset", "paper"],
     "line 2: embedding_length_D must be 64 for this core, not 16"),
    (["T", "--on", "spatten", "--json", "no/x"], r"cannot write \S+: its folder does not exist"),
    (["T", "--on", "spatten", "--iterations", "0"],
     "argument --iterations: must be an integer of at least 1, not '0' .*"),
])
def test_refuses(arguments, sentence, tmp_path, capsys):
    lines = rows(tokens=60)
    for row in lines[6:9]:
        row |= {"sentence_length_L": 90}
    path = written(tmp_path, lines)
    assert main(["trace", *[str(path) if word == "T" else word for word in arguments]]) == 2
    out, error = capsys.readouterr()
    assert out == "" and re.fullmatch(f"vitral: {sentence}\n", error), error


def test_a_key_count_that_does_not_follow(tmp_path, capsys):
    lines = rows()
    for row in lines[3:6]:
        row |= {"key_fetch_num": 29}
    path = written(tmp_path, lines)
    options = ["--on", "spatten", "--preset", "tiny"]
    assert main(["trace", str(path), *options]) == 2
    assert capsys.readouterr().err == (
        "vitral: line 5: key_fetch_num must be 30, the tokens that are left there, not 29\n")


def test_the_command_writes_json(tmp_path, capsys):
    path = written(tmp_path, rows())
    target = tmp_path / "r.json"
    options = ["--on", "spatten", "--preset", "tiny", "--json", str(target)]
    assert main(["trace", str(path), *options]) == 0
    result = json.loads(target.read_text())
    contract = (Path(__file__).parents[1] / "docs/json.md").read_text().partition("## Traces")[2]
    assert sorted(result) == sorted(re.findall(r"^\| `(\w+)` \|", contract, re.MULTILINE))
    assert result["bytes_read"] == result["bytes_expected"] and result["cycles"] is None
    assert result["rows"] == 18 and result["rows_low"] == 4 and result["iterations"] == 2
    assert "18 of 2 tokens; 4 needed" in capsys.readouterr().out
    assert main(["trace", str(path), *options, "--dense", "--iterations", "1"]) == 0
    dense = json.loads(target.read_text())
    assert dense["keys"] == dense["values"] == 9 * 60 and dense["rows_low"] == 0


SHARED = Path(__file__).parents[2] / "shared/data/spatten_gpt2_small_wikitext2.csv.gz"


@pytest.mark.skipif(not SHARED.exists(), reason="the authors' trace is not here")
def test_the_authors_trace():
    trace = layers(SHARED)
    assert sum(one.heads for one in trace) == 4608 and sum(sum(one.low) for one in trace) == 323
    work = workload(trace[:60], SpattenSpec())
    assert work.emulator.bytes_read == sum(one.bytes_read(SpattenSpec()) for one in trace[:60])
