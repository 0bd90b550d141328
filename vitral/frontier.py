# SPDX-License-Identifier: Apache-2.0
"""Accuracy against savings: one network of which more and more is left out.

``python -m vitral.frontier [MODEL] [--on DESIGN] [--images N] [--preset P] [--jobs N] [-o DIR]``
writes ``frontier.json``, ``frontier.md`` and ``frontier.png``. What a design can leave out, and
what it saves, is in ``vitral/frontiers``.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.zoo import MODELS, Model, model
from vitral.designs import design
from vitral.estimate import predict_images
from vitral.files import check_output, write
from vitral.frontiers import rowwise, spatten
from vitral.frontiers.entry import Frontier, Measured, picture
from vitral.progress import Progress
from vitral.quantise import integer_images
from vitral.sparse import Sparsity, quantised
from vitral.usage import UsageError, refusing

__all__ = ["FRONTIERS", "main", "measure", "points", "table"]

FRONTIERS = {one.design: one for one in (rowwise.FRONTIER, spatten.FRONTIER)}
PREDICTED = 24
"""Images whose cycles are predicted: the first ones."""


def measure(frontier: Frontier, entry: Model, preset: str, name: str, sparsity: Sparsity,
            images: int | None, tell: Callable[[str], None] = lambda text: None) -> Any:
    """Run the first images (all: None) of a model in the golden emulator; return the point."""
    on = design(frontier.design)
    spec = on.spec(preset)
    with refusing():
        network = quantised(entry.float_vit(), entry.images("calibration"), sparsity, spec)
        program = on.compile(network, spec, sparsity)
    pixels, labels = integer_images(network, entry.images()[:images]), entry.labels()
    assert labels is not None, f"{entry.name} must have labels"
    work, attention, correct, steps = [], [], 0, len(program.steps)
    for index in range(len(pixels)):
        tell(f"{name}: image {index + 1} of {len(pixels)}")
        emulator = on.emulator(spec, program.memory(pixels[index:index + 1]))
        emulator.run(program.operations(0))
        work += emulator.work
        attention.append(on.attention(emulator, program.steps))
        correct += int(program.logits(emulator.memory.reshape(-1)).argmax() == labels[index])
    some = min(PREDICTED, len(pixels))
    cycles = predict_images(on, spec, program, some, 64, work[:some * steps])
    return frontier.point(Measured(
        name=name, sparsity=sparsity, program=program, work=work, attention=attention,
        correct=correct, images=len(pixels), cycles=cycles.total / some))


def measure_named(design: str, model_name: str, *rest: Any) -> Any:
    """Measure in a process of its own, to which names are sent in place of functions."""
    return measure(FRONTIERS[design], model(model_name), *rest)


def points(frontier: Frontier, entry: Model, preset: str, images: int | None,
           tell: Callable[[str], None], jobs: int = 1) -> list[Any]:
    """Measure every setting of a model, ``jobs`` of them at the same time."""
    settings = frontier.settings(entry)
    jobs = min(jobs, len(settings))
    if jobs == 1:
        return [measure(frontier, entry, preset, name, one, images, tell)
                for name, one in settings]
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(measure_named, frontier.design, entry.name, preset, name, one,
                               images) for name, one in settings]
        for done, future in enumerate(as_completed(waiting), 1):
            future.result()
            tell(f"{done} of {len(settings)} settings")
        return [future.result() for future in waiting]


def table(frontier: Frontier, measured: Sequence[Any]) -> str:
    """Return the points as Markdown; savings are those over the first point, the dense network."""
    dense = measured[0]
    titles = ("setting", "correct", "points lost", *(title for title, _ in frontier.columns))
    rows = [(one.name, f"{one.correct} of {one.images}",
             f"{(dense.correct - one.correct) / one.images * 100:.2f}",
             *(text(one, dense) for _, text in frontier.columns)) for one in measured]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in (*rows, *frontier.paper)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="vitral.frontier",
                                     description="Accuracy against savings of one network.")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: " + ", ".join(
        f"{one.model} on {name}" for name, one in FRONTIERS.items()))
    parser.add_argument("--on", choices=tuple(FRONTIERS), default="rowwise", dest="design",
                        help="default: rowwise")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--preset", default="paper", metavar="P", help="default: paper")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
                        help="settings that are measured at the same time; default: as many as "
                        "the machine has processors")
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR",
                        help="default: .")
    parser.add_argument("--json", action="store_true",
                        help="print the points as JSON in place of the table")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        parser.error(f"--images must be at least 1, not {options.images}")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    labelled = [name for name, entry in MODELS.items() if entry.accuracy is not None]
    frontier = FRONTIERS[options.design]
    name = options.model or frontier.model
    if name not in labelled:
        parser.error(f"MODEL must be one of {', '.join(labelled)}, not {name!r}")
    progress = Progress()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for suffix in ("json", "md", "png"):
            check_output(options.output / f"frontier.{suffix}")
        progress.step(f"measuring {name}")
        measured = points(frontier, model(name), options.preset, options.images,
                          progress.show, options.jobs)
    except (UsageError, OSError) as error:
        parser.error(str(error))
    finally:
        progress.close()
    text = table(frontier, measured)
    plain = json.dumps([asdict(one) for one in measured], indent=2) + "\n"
    write(options.output / "frontier.json", plain.encode())
    write(options.output / "frontier.md", text.encode())
    try:
        picture(frontier, name, measured, options.output / "frontier.png")
    except ImportError:
        print("vitral.frontier: matplotlib must be installed for the picture: "
              "pip install 'vitral[plots]'", file=sys.stderr)
    print(plain if options.json else text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
