# SPDX-License-Identifier: Apache-2.0
"""What all pictures share: formats, colours that everybody can tell apart, the same bytes."""

import io
from pathlib import Path
from typing import Any

from vitral.usage import UsageError

__all__ = ["BLUE", "GREEN", "GREY", "LIGHT", "ORANGE", "PINK", "RED", "SKY", "STYLE", "SUFFIXES",
           "YELLOW", "check_picture", "rendered"]

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, and shades of grey
BLUE, SKY, GREEN, YELLOW = "#0072B2", "#56B4E9", "#009E73", "#F0E442"
ORANGE, RED, PINK, GREY, LIGHT = "#E69F00", "#D55E00", "#CC79A7", "#8C8C8C", "#DADADA"
STYLE: Any = {"svg.hashsalt": "vitral", "font.size": 12, "axes.linewidth": 0.8,
         "axes.spines.top": False, "axes.spines.right": False}


def check_picture(path: Path | None, option: str) -> None:
    """Require, before long work, that a picture of that name can be drawn; None: none is."""
    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{option} must name a file that ends in {', '.join(SUFFIXES)}, not "
                         f"{path.name!r}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(f"matplotlib must be installed for {option}: "
                         "pip install 'vitral[plots]'") from None


def rendered(figure: Any, path: Path) -> bytes:
    """Return a figure in the format that ``path`` ends in, without the date."""
    file, kind = io.BytesIO(), path.suffix.lower()[1:]
    figure.savefig(file, format=kind, metadata={
        "png": {"Software": None}, "svg": {"Date": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}[kind])
    return file.getvalue()
