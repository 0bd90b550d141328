# SPDX-License-Identifier: Apache-2.0
"""Compare each model in floats with its quantised self, on the images no training ever saw.

``python -m vitral.accuracy [MODEL ...] [--images N] [--json FILE]``
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.zoo import MODELS, Model, model
from vitral.files import check_output, write
from vitral.quantise import integer_images, quantise
from vitral.usage import UsageError

__all__ = ["Accuracy", "main", "measure", "table"]

BATCH = 12


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What quantisation costs one model.

    Parameters
    ----------
    model : its name.
    images : held-out images it was measured on.
    float_correct, integer_correct : of those, how many each network classifies correctly; None
        without labels.
    agreement : how many both classify alike.
    logit_error : relative L2 distance of the integer network's logits from the float ones.
    """

    model: str
    images: int
    float_correct: int | None
    integer_correct: int | None
    agreement: int
    logit_error: float


def measure(entry: Model, images: int | None = None) -> Accuracy:
    """Quantise a model with its calibration images, then run both on the first held-out ones."""
    network = entry.float_vit()
    integer = quantise(network, entry.images("calibration"))
    pixels, labels = entry.images("held_out")[:images], entry.labels("held_out")
    exact, logits = [], []
    for start in range(0, len(pixels), BATCH):
        batch = pixels[start:start + BATCH]
        exact.append(network.forward(batch))
        logits.append(integer.forward(integer_images(integer, batch)) * integer.scales["logits"])
    exact, logits = np.concatenate(exact), np.concatenate(logits)
    chosen, expected = logits.argmax(1), exact.argmax(1)
    return Accuracy(
        model=entry.name, images=len(pixels), **{
            f"{kind}_correct": None if labels is None else int((found == labels[:images]).sum())
            for kind, found in (("float", expected), ("integer", chosen))},
        agreement=int((chosen == expected).sum()),
        logit_error=float(np.linalg.norm(logits - exact) / np.linalg.norm(exact)))


def table(results: Sequence[Accuracy]) -> str:
    """Return the results as a table of text."""
    names = ("float", "integer", "agree")
    lines = [f"{'model':<16}{'images':>8}{''.join(map('{:>10}'.format, names))}{'logit error':>13}"]
    for one in results:
        parts = (f"{'-':>10}" if part is None else f"{part / one.images:>10.2%}" for part in
                 (one.float_correct, one.integer_correct, one.agreement))
        lines.append(f"{one.model:<16}{one.images:>8}{''.join(parts)}{one.logit_error:>13.2%}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="vitral.accuracy", description="Accuracy of models, float and integer.")
    parser.add_argument("models", nargs="*", metavar="MODEL",
                        help=f"of {', '.join(MODELS)}; default: those whose images have labels")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, - for the screen")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        parser.error(f"--images must be at least 1, not {options.images}")
    try:
        entries = [model(name) for name in options.models] or [
            entry for entry in MODELS.values() if entry.accuracy is not None]
    except ValueError as error:
        parser.error(str(error))
    if options.json and options.json != "-":
        try:
            check_output(Path(options.json))
        except UsageError as error:
            parser.error(str(error))
    results = []
    for entry in entries:
        start = time.monotonic()
        results.append(measure(entry, options.images))
        print(f"{entry.name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    text = json.dumps([asdict(one) for one in results], indent=2) + "\n"
    if options.json == "-":
        print(text, end="")
        return 0
    if options.json:
        write(Path(options.json), text.encode())
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
