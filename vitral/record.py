# SPDX-License-Identifier: Apache-2.0
"""The result of a run or an estimate: a dictionary with always the same keys, and its summary.

``docs/json.md`` explains each key; a key that does not apply is None, never missing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

from golden.fixed import ceil_div
from golden.rowwise.emulator import Work
from vitral.compile import Program
from vitral.designs import DESIGNS, Design
from vitral.sparse import Sparsity

__all__ = ["KEYS", "profile", "record", "summary"]

KEYS = (
    "model", "design", "preset", "parameters", "engine", "simulator", "level", "board", "shell",
    "stalls", "seed", "trace", "latency", "images",
    "prune", "skip", "correct", "accuracy", "predictions", "labels", "bit_exact",
    "cycles_per_image", "cycles_predicted", "macs_per_image", "macs_executed", "tokens",
    "blocks_skipped", "ffn2_reads", "heads", "values_fetched", "low_fetched", "utilisation",
    "lost", "bytes_read", "bytes_written", "counters", "profile", "seconds", "cycles_per_second",
    "images_per_second",
)
LISTED = 32
"""Most images that the summary lists one by one; of more, only those that went wrong."""


def profile(program: Program, work: Sequence[Work],
            completions: Iterable[int]) -> dict[str, dict[str, float]]:
    """Return operations, executed MACs and cycles of one image by kind of operation.

    ``completions`` are the cycles at which the operations of all images were reported, ``work`` is
    what they had to do; each operation is charged with the cycles since the one before it. MACs
    and cycles are means over the images.
    """
    steps, completions = program.steps, list(completions)
    images = len(completions) // len(steps)
    kinds: dict[str, dict[str, float]] = {}
    for step in steps:
        entry = kinds.setdefault(kind(step.name), {"operations": 0, "macs": 0, "cycles": 0})
        entry["operations"] += 1
    for n, (before, cycle, one) in enumerate(zip([0, *completions], completions, work)):
        entry = kinds[kind(steps[n % len(steps)].name)]
        entry["cycles"] += (cycle - before) / images
        entry["macs"] += steps[n % len(steps)].executed(one) / images
    for entry in kinds.values():
        entry |= {name: round(entry[name], 3) for name in ("macs", "cycles")}
        if entry["macs"] == int(entry["macs"]):
            entry["macs"] = int(entry["macs"])
    return kinds


def left_out(program: Program, sparsity: Sparsity, work: Sequence[Work]) -> dict[str, Any]:
    """Return what was pruned and skipped, as means over the images."""
    steps, network = program.steps, program.network
    images = len(work) // len(steps)
    read = whole = live = 0
    tokens = {index: network.tokens for index in range(len(network.blocks))}
    for index in network.prune:
        n = program.names.index(f"blocks.{index}.prune")
        fuses = network.prune[index].fuse
        mean = sum(one.rows + (fuses and one.rows < one.keys)
                   for one in work[n::len(steps)]) / images
        tokens |= {later: mean for later in tokens if later >= index}
    for n, one in enumerate(work):
        step = steps[n % len(steps)]
        if step.blocks:
            tiles, columns = ceil_div(one.rows, step.tile), step.fields["columns"]
            read += columns * (tiles * step.blocks if one.blocks is None else sum(one.blocks))
            live += columns * tiles * step.blocks
            whole += columns * ceil_div(step.fields["rows"], step.tile) * step.blocks
    prune = {"rule": sparsity.rule.name.lower(), "source": sparsity.source or network.source,
             "accumulate": sparsity.accumulate,
             "keep": {str(block): part for block, part in sorted(sparsity.keep.items())},
             "fuse": sparsity.fuse,
             "level": {str(block): steps[program.names.index(f"blocks.{block}.prune")].fields[
                 "level"] for block in sorted(network.prune)}}
    return {
        "prune": prune if network.prune else None,
        "skip": None if network.skip is None else network.skip.level,
        "macs_executed": round(program.executed(work) / images, 3),
        "tokens": [round(tokens[index], 3) for index in sorted(tokens)],
        "blocks_skipped": round(1 - read / live, 6) if live else None,
        "ffn2_reads": round(read / whole, 6) if whole else None,
    }


def kind(name: str) -> str:
    """Return the last word of an operation's name that is not a number."""
    return re.sub(r"(\.\d+)+$", "", name).rpartition(".")[2]


def record(*, design: Design, spec: Any, program: Program, images: int, cycles: int | None,
           predicted: int, sparsity: Sparsity, work: Sequence[Work], completions: Iterable[int],
           counters: Mapping[str, Any], **known: Any) -> dict[str, Any]:
    """Return the result: what is given, what follows from it, and None for the rest.

    ``cycles`` are those of the simulation, ``predicted`` those of the cycle model, of all images;
    ``work`` and ``completions`` of each operation of each image.
    """
    per_image = (predicted if cycles is None else cycles) / images
    known |= left_out(program, sparsity, work)
    completions = list(completions)
    known |= {
        "design": design.name, "parameters": asdict(spec), "images": images,
        "profile": profile(program, work, completions),
        "cycles_per_image": None if cycles is None else round(cycles / images, 3),
        "cycles_predicted": round(predicted / images, 3), "macs_per_image": program.macs,
        "utilisation": round(known["macs_executed"] / (per_image * design.losses.rate(spec)), 6),
        "lost": design.losses.of_image(spec, program, work, completions, counters),
        "counters": dict(counters),
    }
    if known.get("predictions") and known.get("labels"):
        pairs = zip(known["predictions"], known["labels"], strict=True)
        known["correct"] = sum(chosen == label for chosen, label in pairs)
        known["accuracy"] = known["correct"] / images
    unknown = known.keys() - KEYS
    assert not unknown, f"keys must be part of the contract, not {unknown}"
    return {key: known.get(key) for key in KEYS}


def summary(result: Mapping[str, Any], *, cycles: Iterable[int] | None = None) -> str:
    """Return the result for a reader; ``cycles`` of each image, where they were measured."""
    images, design = result["images"], DESIGNS[result["design"]]
    array = f"{design.array(SimpleNamespace(**result['parameters']))} {design.unit}"
    engine = {"golden": "golden emulator", "rtl": f"RTL under {result['simulator']}",
              "estimate": "estimate", "board": result["board"]}[result["engine"]]
    if result["simulator"] and result["board"]:
        engine = f"board simulated by {result['simulator']}"
    if result["shell"] is not None:
        engine = f"chip with a {result['shell']['data_width']}-bit bus, {engine}"
    where = f"{result['design']} {result['preset']} ({array})"
    lines = [f"{result['model']} on {where}, {engine}, {images} image{'s' * (images != 1)}", ""]
    if result["predictions"]:
        lines += [*listing(result, None if cycles is None else list(cycles)), ""]
    if result["accuracy"] is not None:
        lines.append(f"accuracy          {result['correct']} of {images}, "
                     f"{result['accuracy']:.2%}")
    if result["bit_exact"] is not None:
        lines.append("bit exact         " + (
            "yes, memory and completions equal the golden model's" if result["bit_exact"] else
            "NO: memory or completions differ from the golden model's"))
    if result["cycles_per_image"] is not None:
        off = result["cycles_predicted"] / result["cycles_per_image"] - 1
        lines.append(f"cycles per image  {result['cycles_per_image']:,.1f}; predicted "
                     f"{result['cycles_predicted']:,.1f} ({off:+.2%})")
    else:
        lines.append(f"cycles per image  {result['cycles_predicted']:,.1f} predicted")
    lines.append(f"utilisation       {result['utilisation']:.1%}, "
                 f"{result['macs_per_image']:,} MACs per image")
    executed, dense = result["macs_executed"], result["macs_per_image"]
    if executed < dense:
        lines[-1] += f", {executed:,.0f} executed ({executed / dense - 1:.1%})"
    if result["prune"] is not None:
        counts = " ".join(f"{count:.0f}" for count in result["tokens"])
        lines.append(f"tokens left       {counts}, block by block (by {result['prune']['rule']})")
    if result["skip"] is not None and result["engine"] != "estimate":
        lines.append(f"FFN2              {result['blocks_skipped']:.1%} of the blocks skipped, "
                     f"{1 - result['ffn2_reads']:.1%} fewer weight reads than dense")
    if result["values_fetched"] is not None:
        heads = " ".join(f"{count:.0f}" for count in result["heads"])
        lines.append(f"heads left        {heads}, block by block")
        lines.append(f"attention         {result['values_fetched']:.1%} of the values, low bits of "
                     f"the keys for {result['low_fetched']:.1%} of the queries")
    lines.append(f"memory traffic    {result['bytes_read'] / images:,.0f} bytes read, "
                 f"{result['bytes_written'] / images:,.0f} written per image")
    if result["cycles_per_second"] is not None:
        lines.append(f"simulation        {result['seconds']:,.1f} s, "
                     f"{result['cycles_per_second']:,.0f} cycles/s")
    if result["images_per_second"] is not None:
        lines.append(f"images per second {result['images_per_second']:,.1f}, serial line included")
    lines += ["", *losses(result)]
    if result["engine"] == "estimate":
        lines += ["", *shares(result)]
    return "\n".join(lines)


def listing(result: Mapping[str, Any], cycles: list[int] | None) -> list[str]:
    """Return the table of images."""
    labels = result["labels"] or [None] * result["images"]
    lines = ["image  predicted" + "  label" * (result["labels"] is not None) +
             f"{'cycles':>12}" * (cycles is not None)]
    for n, (chosen, label) in enumerate(zip(result["predictions"], labels, strict=True)):
        if result["images"] > LISTED and (label is None or chosen == label):
            continue
        line = f"{n:>5}{chosen:>11}" + ("" if label is None else f"{label:>7}")
        line += "" if cycles is None else f"{cycles[n]:>12,}"
        lines.append(line + "  wrong" * (label is not None and chosen != label))
    if result["images"] > LISTED:
        lines[0] += "  (only those that are wrong)" if result["labels"] else "  (too many to list)"
    return lines


def losses(result: Mapping[str, Any]) -> list[str]:
    """Return the table of the cycles of one image that do no useful multiplication."""
    cycles = result["cycles_per_image"] or result["cycles_predicted"]
    row = "{:<54}{:>14}{:>8}"
    total = sum(result["lost"].values())
    lines = [row.format("cycles lost, per image", f"{total:,.1f}", f"{total / cycles:.1%}")]
    for name, text in DESIGNS[result["design"]].losses.causes.items():
        part = result["lost"][name]
        lines.append(row.format(f"  {text}", f"{part:,.1f}", f"{part / cycles:.1%}"))
    return lines


def shares(result: Mapping[str, Any]) -> list[str]:
    """Return the table of the kinds of operation, the costliest first."""
    row = "{:<13}{:>6}{:>15}{:>8}{:>13}{:>8}"
    lines = [row.format("operation", "count", "MACs", "", "cycles", "")]
    for name, entry in sorted(result["profile"].items(), key=lambda item: -item[1]["cycles"]):
        macs, cycles = entry["macs"], entry["cycles"]
        lines.append(row.format(name, entry["operations"], f"{macs:,}",
                                f"{macs / result['macs_executed']:.1%}" if macs else "",
                                f"{cycles:,.0f}", f"{cycles / result['cycles_predicted']:.1%}"))
    return lines
