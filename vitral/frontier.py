# SPDX-License-Identifier: Apache-2.0
"""Accuracy against savings: one network, pruned and skipped more and more.

``python -m vitral.frontier [MODEL] [--images N] [--preset P] [-o DIR]`` writes ``frontier.json``,
``frontier.md`` and ``frontier.png``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golden.topk import Rule
from models.zoo import MODELS, Model, model
from vitral.designs import design
from vitral.estimate import predict_images
from vitral.files import check_output, write
from vitral.progress import Progress
from vitral.quantise import integer_images
from vitral.record import left_out
from vitral.sparse import Sparsity, quantised
from vitral.usage import UsageError, refusing

__all__ = ["PAPER", "Point", "main", "measure", "points", "settings"]

PAPER = {"macs_saved": 0.615, "ffn2_reads_saved": 0.593, "points_lost": 2.0}
"""What Hsiung and Chang say of their network, which is not known: fewer operations, fewer FFN2
weights, and an upper limit of the accuracy lost, in points."""
PREDICTED = 24
"""Images whose cycles are predicted: the first ones."""
SCALES = (1.4, 1.0, 0.8, 0.6, 0.4)
"""Parts that stay, as multiples of those that the network was trained for."""
LEVELS = (2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting, measured.

    Parameters
    ----------
    name : what is left out.
    correct, images : held-out images classified correctly, of how many.
    tokens : tokens that come to each block's FFN, mean over the images.
    macs : executed multiplications per image.
    ffn2_reads : weight words read for the second FFN layers, over those of the dense network.
    blocks_skipped : part of the blocks of the tokens left that was skipped.
    cycles : predicted per image, mean over the first images.
    """

    name: str
    rule: str
    keep: Mapping[str, float]
    skip: int | None
    correct: int
    images: int
    tokens: Sequence[float]
    macs: float
    ffn2_reads: float
    blocks_skipped: float
    cycles: float


def settings(entry: Model) -> list[tuple[str, Sparsity]]:
    """Return the settings to compare, by name; the first is the dense network."""
    exact = 0 if entry.activation == "relu" else None

    def part(scale: float) -> dict[int, float]:
        return {block: min(1.0, keep * scale) for block, keep in entry.prune.items()}

    result = [("dense", Sparsity(keep={}))]
    if exact is not None:
        result.append(("skip exact", Sparsity(keep={}, level=exact)))
    result += [(f"prune x {scale:g}, {rule.name.lower()}",
                Sparsity(keep=part(scale), rule=rule, level=exact))
               for scale in SCALES if entry.prune
               for rule in ((Rule.THRESHOLD, Rule.MEAN, Rule.TOPK) if scale == 1 else
                            (Rule.THRESHOLD,))]
    result += [(f"prune x 1, skip up to {level}", Sparsity(keep=part(1), level=level))
               for level in LEVELS if exact is not None]
    return result


def measure(entry: Model, preset: str, name: str, sparsity: Sparsity, images: int | None,
            tell: Callable[[str], None] = lambda text: None) -> Point:
    """Run the first images (all: None) of a model in the golden emulator."""
    rowwise = design("rowwise")
    spec = rowwise.spec(preset)
    with refusing():
        network = quantised(entry.float_vit(), entry.images("calibration"), sparsity, spec)
        program = rowwise.compile(network, spec)
    pixels, labels = integer_images(network, entry.images()[:images]), entry.labels()
    assert labels is not None, f"{entry.name} must have labels"
    work, correct, steps = [], 0, len(program.steps)
    for index in range(len(pixels)):
        tell(f"{name}: image {index + 1} of {len(pixels)}")
        emulator = rowwise.emulator(spec, program.memory(pixels[index:index + 1]))
        emulator.run(program.operations(0))
        work += emulator.work
        correct += int(program.logits(emulator.memory).argmax() == labels[index])
    some = min(PREDICTED, len(pixels))
    cycles = predict_images(rowwise, spec, program, some, 64, work[:some * steps])
    left = left_out(program, sparsity, work)
    return Point(name=name, rule=sparsity.rule.name.lower(),
                 keep={str(block): part for block, part in sparsity.keep.items()},
                 skip=sparsity.level, correct=correct, images=len(pixels), tokens=left["tokens"],
                 macs=left["macs_executed"], ffn2_reads=left["ffn2_reads"] or 1.0,
                 blocks_skipped=left["blocks_skipped"] or 0.0, cycles=cycles.total / some)


def points(entry: Model, preset: str, images: int | None, tell: Callable[[str], None]) -> list:
    """Measure every setting of a model."""
    return [measure(entry, preset, name, one, images, tell) for name, one in settings(entry)]


def table(measured: Sequence[Point]) -> str:
    """Return the points as Markdown; savings are those over the first point, the dense network."""
    dense = measured[0]
    titles = ("setting", "correct", "points lost", "tokens by block", "MACs saved",
              "FFN2 weight reads saved", "blocks skipped", "cycles saved")
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for one in measured:
        lost = (dense.correct - one.correct) / one.images * 100
        lines.append(
            f"| {one.name} | {one.correct} of {one.images} | {lost:.2f} | "
            f"{' '.join(f'{count:.0f}' for count in one.tokens)} | {1 - one.macs / dense.macs:.1%} "
            f"| {1 - one.ffn2_reads:.1%} | {one.blocks_skipped:.1%} | "
            f"{1 - one.cycles / dense.cycles:.1%} |")
    lines.append(f"| Hsiung and Chang, network unknown |  | < {PAPER['points_lost']:g} |  | "
                 f"{PAPER['macs_saved']:.1%} | {PAPER['ffn2_reads_saved']:.1%} |  |  |")
    return "\n".join(lines) + "\n"


def picture(name: str, measured: Sequence[Point], path: Path) -> None:
    """Draw accuracy against multiplications and against weight reads saved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dense = measured[0]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, 2, sharey=True)
    savings = (("MACs saved", lambda one: 1 - one.macs / dense.macs, PAPER["macs_saved"]),
               ("FFN2 weight reads saved", lambda one: 1 - one.ffn2_reads,
                PAPER["ffn2_reads_saved"]))
    groups = (("tokens pruned, exact skipping", "o", "#0072b2", lambda one: not one.skip),
              ("skipping up to a level", "s", "#d55e00", lambda one: bool(one.skip)))
    for axis, (title, saving, paper) in zip(axes, savings):
        for label, mark, colour, belongs in groups:
            chosen = [one for one in measured if belongs(one)]
            axis.plot([100 * saving(one) for one in chosen],
                      [100 * one.correct / one.images for one in chosen], mark, color=colour,
                      label=label, markersize=7)
        limit = 100 * dense.correct / dense.images - PAPER["points_lost"]
        axis.axhline(limit, color="#999999", linestyle="--", linewidth=1)
        axis.plot([100 * paper], [limit], "*", color="#000000", markersize=13,
                  label="Hsiung and Chang: at most this loss")
        axis.set_xlabel(f"{title} (%)")
        axis.set_xlim(-3, 100)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"correct of {dense.images} held-out images (%)")
    axes[0].legend(loc="lower left", frameon=False)
    figure.suptitle(f"{name}: accuracy against savings over its dense self")
    with np.errstate(all="ignore"):
        canvas.print_figure(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="vitral.frontier",
                                     description="Accuracy against savings of one network.")
    parser.add_argument("model", nargs="?", default="digits-197-relu", metavar="MODEL")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--preset", default="paper", metavar="P", help="default: paper")
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR",
                        help="default: .")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        parser.error(f"--images must be at least 1, not {options.images}")
    labelled = [name for name, entry in MODELS.items() if entry.accuracy is not None]
    if options.model not in labelled:
        parser.error(f"MODEL must be one of {', '.join(labelled)}, not {options.model!r}")
    progress = Progress()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for suffix in ("json", "md", "png"):
            check_output(options.output / f"frontier.{suffix}")
        progress.step(f"measuring {options.model}")
        measured = points(model(options.model), options.preset, options.images, progress.show)
    except (UsageError, OSError) as error:
        parser.error(str(error))
    finally:
        progress.close()
    text = table(measured)
    write(options.output / "frontier.json",
          (json.dumps([asdict(one) for one in measured], indent=2) + "\n").encode())
    write(options.output / "frontier.md", text.encode())
    try:
        picture(options.model, measured, options.output / "frontier.png")
    except ImportError:
        print("vitral.frontier: matplotlib must be installed for the picture: "
              "pip install 'vitral[plots]'", file=sys.stderr)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
