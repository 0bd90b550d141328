# SPDX-License-Identifier: Apache-2.0
"""Pictures of which patches are left, and of which bytes."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from models.zoo import model
from tests.test_trace import rows, written
from vitral.cli import main
from vitral.pictures import SUFFIXES
from vitral.survivors import visible
from vitral.waterfall import WORDS

pytest.importorskip("matplotlib")
RUN = ["run", "digits", "--on", "spatten", "--preset", "tiny", "--images", "1"]
STARTS = dict(zip(SUFFIXES, (b"\x89PNG", b"<?xml", b"%PDF")))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_survivors_have_a_panel_where_the_set_changes(suffix, tmp_path):
    path, again = tmp_path / f"s{suffix}", tmp_path / f"t{suffix}"
    for each in (path, again):
        assert main([*RUN, "--prune", "0:0.5,1:1,2:0.5", "--survivors", str(each)]) == 0
    assert path.read_bytes() == again.read_bytes()
    assert path.read_bytes().startswith(STARTS[suffix])
    if suffix == ".svg":
        text = re.findall(r"<!-- (.*?) -->", path.read_text())
        assert [one for one in text if "token" in one] == [
            "17 tokens", "9 tokens, 53%", "5 tokens, 29%",
            "digits on spatten: class 3 (label 3), tokens by column attention"]
        assert [one for one in text if one.startswith("after")] == ["after block 0",
                                                                    "after block 2"]


@pytest.mark.parametrize(("more", "sentence"), [
    (["--on", "rowwise", "--preset", "tiny"],
     "--survivors must be left out for rowwise, which has nothing of the kind"),
    ([], "--survivors must be left out where no token leaves: --prune names none"),
])
def test_survivors_are_refused_where_there_are_none(more, sentence, tmp_path, capsys):
    assert main([*RUN, *more, "--survivors", str(tmp_path / "s.png")]) == 2
    assert capsys.readouterr().err == f"vitral: {sentence}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[*RUN, "--survivors"], ["trace", "T", "--on", "spatten",
                                                               "--waterfall"]])
def test_other_formats_are_refused(arguments, tmp_path, capsys):
    assert main([*arguments, str(tmp_path / "x.gif")]) == 2
    assert capsys.readouterr().err == (f"vitral: {arguments[-1]} must name a file that ends in "
                                       ".png, .svg, .pdf, not 'x.gif'\n")


def test_the_digit_is_visible():
    image = model("digits").images()[0]
    shown = visible(image)
    assert shown.shape == (8, 8, 3) and shown.min() == 0 and shown.max() == 1
    np.testing.assert_array_equal(shown[..., 0].argmax(), image.argmax())
    coloured = np.random.default_rng(0).normal(size=(3, 4, 4))
    assert visible(coloured).shape == (4, 4, 3) and (visible(coloured) != visible(
        coloured)[..., :1]).any()
    assert (visible(np.zeros((1, 4, 4))) == 0).all()


def test_a_waterfall_has_a_bar_for_each_step(tmp_path, capsys):
    trace, path = written(tmp_path, rows()), tmp_path / "w.svg"
    options = ["--on", "spatten", "--preset", "tiny", "--waterfall", str(path)]
    assert main(["trace", str(trace), *options]) == 0
    text = re.findall(r"<!-- (.*?) -->", path.read_text())
    assert [one for one in text if one in WORDS.values()] == list(WORDS.values())
    table = capsys.readouterr().out.splitlines()[-7:]
    sizes = [float(re.findall(r"[\d,]{3,}", line)[0].replace(",", "")) for line in table]
    for before, now in pairwise(sizes):
        factor = f"÷ {before / now:.2f}" if now <= before else f"{now / before:.2f}"
        assert any(factor in one for one in text), factor
    assert main(["trace", str(trace), *options[:-1], str(Path(tmp_path / "w.png"))]) == 0
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
