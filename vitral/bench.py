# SPDX-License-Identifier: Apache-2.0
"""Measure the row-wise design again, and set it beside what its paper says.

``python -m vitral.bench [--only NAME] [--quick] [--again] [--list] [-o DIR]`` runs a list of
commands and writes ``rowwise.json`` and ``rowwise.md``. What was measured before with the same
sources is kept, also where a run was interrupted.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golden.rowwise.spec import PRESETS, RowwiseSpec
from vitral.files import check_output, write
from vitral.progress import Progress
from vitral.record import LOST
from vitral.usage import UsageError

__all__ = ["ENTRIES", "Entry", "Row", "main", "markdown", "source"]

ROOT = Path(__file__).resolve().parent.parent
PAPER = {"MACs": 512, "kGE": 496.4, "kGE per MAC": 0.97, "KB": 232, "GOPS": 1024,
         "operations saved": 61.5, "FFN2 weights saved": 59.3, "accuracy lost": 2.0}
"""What the abstract of Hsiung and Chang says, at 1 GHz in 28 nm; multipliers and kGE per multiplier
follow from it. Which network it means is not known."""
OTHERS = "HG-PIPE 96.8, ITA 73.6, MASE 97.9"
"""Utilisations in %, as their authors say."""
Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One figure: ours, and the paper's if it has one."""

    name: str
    value: float | str | None
    unit: str = ""
    paper: float | str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One command, and the figures that follow from the JSON that it prints.

    Parameters
    ----------
    name : of the entry.
    module, arguments : the command ``python -m MODULE ARGUMENTS``.
    rows : from the result, and the results of all entries so far by name, to figures.
    slow : takes more than some minutes.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    rows: Callable[[Any, Results], Iterator[Row]]
    slow: bool = False

    @property
    def command(self) -> str:
        """The command as a user types it."""
        return shlex.join(["python", "-m", self.module, *self.arguments])


def speed(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield what a run or an estimate says of cycles."""
    spec = RowwiseSpec(**found["parameters"])
    cycles = found["cycles_per_image"] or found["cycles_predicted"]
    paper = spec == PRESETS["paper"]
    if found["bit_exact"] is not None:
        yield Row("RTL equals the golden model", "yes" if found["bit_exact"] else "NO")
        yield Row("cycles per image", found["cycles_per_image"])
    yield Row("cycles per image, predicted", found["cycles_predicted"])
    yield Row("utilisation", round(100 * found["utilisation"], 2), "%", note=OTHERS)
    yield Row("multipliers", spec.macs, paper=PAPER["MACs"] if paper else None)
    yield Row("at 1 GHz: images per second", round(1e9 / cycles, 1))
    yield Row("at 1 GHz: operations", round(2 * found["macs_executed"] / cycles, 1), "GOPS",
              paper=f"{PAPER['GOPS']:,} at most" if paper else None)
    yield Row("bytes read per image", round(found["bytes_read"] / found["images"]))
    if found["accuracy"] is not None:
        yield Row("classified correctly", f"{found['correct']} of {found['images']}")


def savings(dense: str) -> Callable[[Any, Results], Iterator[Row]]:
    """Return the rows of a run that leaves something out, compared with the run ``dense``."""
    def rows(found: Mapping[str, Any], results: Results) -> Iterator[Row]:
        yield from speed(found, results)
        executed = found["macs_executed"] / found["macs_per_image"]
        yield Row("operations saved", round(100 * (1 - executed), 2), "%",
                  PAPER["operations saved"])
        if found["ffn2_reads"] is not None:
            yield Row("FFN2 weights not read", round(100 * (1 - found["ffn2_reads"]), 2), "%",
                      PAPER["FFN2 weights saved"])
        whole = results.get(dense)
        if whole is None:
            return
        before, after = (one["cycles_per_image"] or one["cycles_predicted"]
                         for one in (whole, found))
        yield Row("times faster than dense", round(before / after, 3))
        if whole["images"] == found["images"] and found["accuracy"] is not None:
            lost = 100 * (whole["accuracy"] - found["accuracy"])
            yield Row("accuracy lost", round(lost, 2), "points", f"< {PAPER['accuracy lost']:g}")
    return rows


def memories(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield the size of each memory of a core."""
    bits = RowwiseSpec(**found["parameters"]).memory_bits
    for name, size in bits.items():
        yield Row(name, round(size / 8192, 3), "KB")
    yield Row("all memories", round(sum(bits.values()) / 8192, 3), "KB", PAPER["KB"],
              "of 1024 bytes")


def areas(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield the gates of a core, and of each of its modules that takes 1 % of them."""
    kge = found["kge"]
    yield Row("logic", kge, "kGE", PAPER["kGE"], "theirs in 28 nm; ours without memories")
    yield Row("logic per multiplier", round(kge / PAPER["MACs"], 3), "kGE", PAPER["kGE per MAC"])
    yield Row("of it registers", found["register_kge"], "kGE")
    for name, part in sorted(found["by_module"].items(), key=lambda item: -item[1]["own_kge"]):
        if part["own_kge"] >= kge / 100:
            yield Row(f"{name} ({part['instances']})", part["own_kge"], "kGE")


def device(found: Mapping[str, Any], _: Results) -> Iterator[Row]:
    """Yield what a core takes of an FPGA."""
    for key, name in (("lut", "LUT"), ("ff", "FF"), ("dsp", "DSP (MULT18X18D)"),
                      ("ebr", "EBR (DP16KD)")):
        total = found["available"][key]
        yield Row(name, found[key], f"of {total:,}")
    yield Row("Fmax", found["fmax_mhz"], "MHz", note=f"speed grade {found['speed']}")


def accuracies(found: Sequence[Mapping[str, Any]], _: Results) -> Iterator[Row]:
    """Yield what quantisation costs each network."""
    for one in found:
        for key, name in (("float_correct", "float"), ("integer_correct", "integer"),
                          ("agreement", "both agree")):
            if one.get(key) is not None:
                yield Row(f"{one['model']}, {name}", f"{one[key]} of {one['images']}")


def run(name: str, arguments: str, *, command: str = "run", slow: bool = False,
        rows: Callable[[Any, Results], Iterator[Row]] = speed) -> Entry:
    """Return the entry of a ``vitral run`` or ``vitral estimate``."""
    return Entry(name=name, module="vitral.cli", rows=rows, slow=slow, arguments=(
        command, *arguments.split(), "--on", "rowwise", "--json", "-"))


SMALL = " ".join(f"--set {one}" for one in (
    "activation_bytes=166400", "residual_bytes=151296", "max_width=384"))
BASE = " ".join(f"--set {one}" for one in (
    "activation_bytes=320000", "residual_bytes=302592", "weight_bytes=98304", "max_width=768"))
RELU = "digits-197-relu --preset paper"
OFF = "--prune off --skip off"
ENTRIES = (
    run("digits, tiny", "digits --preset tiny --engine rtl --images 16"),
    run("digits, paper", "digits --preset paper --engine rtl --images 16"),
    run("digits, ecp5", "digits --preset ecp5 --engine rtl --images 16"),
    run("digits-197, tiny", "digits-197 --preset tiny --engine rtl --images 1"),
    run("digits-197, paper", "digits-197 --preset paper --engine rtl --images 1"),
    run("deit-tiny, paper", "deit-tiny --preset paper --engine rtl --images 1", slow=True),
    run("deit-small, paper", "deit-small --preset paper", command="estimate"),
    run("deit-base, paper", "deit-base --preset paper", command="estimate", slow=True),
    run("deit-small, enlarged", f"deit-small --preset paper {SMALL}", command="estimate"),
    run("deit-base, enlarged", f"deit-base --preset paper {BASE}", command="estimate", slow=True),
    run("dense, RTL", f"{RELU} {OFF} --engine rtl --images 4", slow=True),
    run("pruned and skipped, RTL", f"{RELU} --engine rtl --images 4", rows=savings("dense, RTL"),
        slow=True),
    run("dense, all images", f"{RELU} {OFF} --images 360", slow=True),
    run("pruned and skipped, all images", f"{RELU} --images 360",
        rows=savings("dense, all images"), slow=True),
    Entry(name="accuracy", module="vitral.accuracy", arguments=("--json", "-"), rows=accuracies,
          slow=True),
    run("memories, paper", "digits --preset paper", command="estimate", rows=memories),
    Entry(name="area, paper", module="vitral.area", rows=areas, slow=True,
          arguments=("hw.rowwise.core:RowwiseCore", "--json")),
    Entry(name="ECP5, ecp5", module="vitral.fpga", rows=device, slow=True,
          arguments=("hw.rowwise.core:RowwiseCore", "--preset", "ecp5", "--json")),
)


def source() -> str:
    """Return a hash of all that the commands' results depend on."""
    digest = hashlib.sha256()
    for room in ("golden", "hw", "sim", "vitral", "models"):
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and path.suffix != ".pyc" and path != Path(__file__).resolve():
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def measure(entry: Entry, progress: Progress) -> dict[str, Any]:
    """Run an entry's command; return its ``result``, or how it ``failed``, and the ``seconds``."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vitral-bench-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with out.open("w") as stdout, err.open("w") as stderr, subprocess.Popen(
                [sys.executable, "-m", entry.module, *entry.arguments], stdout=stdout,
                stderr=stderr, cwd=ROOT) as process:
            try:
                while process.poll() is None:
                    time.sleep(0.2)
                    progress.show(last_line(err))
            except BaseException:
                process.kill()
                raise
        seconds = round(time.monotonic() - begin, 1)
        if process.returncode:
            said = last_line(err) or f"exit code {process.returncode}"
            return {"failed": said, "seconds": seconds}
        return {"result": json.loads(out.read_text()), "seconds": seconds}


def last_line(path: Path) -> str:
    """Return the last line that a command has written."""
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def markdown(done: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as Markdown: by entry, and where the cycles of each run go."""
    lines = ["# The row-wise design, measured", "",
             "The paper's figures are those of its abstract, or follow from it (28 nm, 1 GHz); its",
             "network is not known.", "",
             "| measured | figure | ours | paper | unit | |",
             "| --- | --- | --- | --- | --- | --- |"]
    for name, one in done.items():
        for row in one.get("figures", []):
            paper = "" if row["paper"] is None else show(row["paper"])
            lines.append(f"| {name} | {row['name']} | {show(row['value'])} | {paper} | "
                         f"{row['unit']} | {row['note']} |")
        if "failed" in one:
            lines.append(f"| {name} | not measured | | | | {one['failed'].replace('|', '/')} |")
    runs = {name: one["result"] for name, one in done.items()
            if "lost" in one.get("result", {}) and any(
                row["name"] == "utilisation" for row in one["figures"])}
    if runs:
        lines += ["", "Where the cycles of the array go, in % of all cycles:", "",
                  "| run | " + " | ".join(LOST) + " | useful |",
                  "| --- |" + " --- |" * (len(LOST) + 1)]
        for name, found in runs.items():
            cycles = found["cycles_per_image"] or found["cycles_predicted"]
            parts = [f"{100 * found['lost'][cause] / cycles:.2f}" for cause in LOST]
            lines.append(f"| {name} | " + " | ".join(parts) +
                         f" | {100 * found['utilisation']:.2f} |")
    lines += ["", "| measured | by | seconds |", "| --- | --- | --- |"]
    lines += [f"| {name} | `{one['command']}` | {one['seconds']:,} |" for name, one in done.items()]
    return "\n".join(lines) + "\n"


def show(value: Any) -> str:
    """Return a figure for a reader."""
    return "not known" if value is None else value if isinstance(value, str) else f"{value:,}"


def figures(done: Mapping[str, dict[str, Any]], entries: Sequence[Entry]) -> None:
    """Work out the figures of what has been measured."""
    results = {name: one["result"] for name, one in done.items() if "result" in one}
    for entry in entries:
        if entry.name in results:
            done[entry.name]["figures"] = [
                vars(row) for row in entry.rows(results[entry.name], results)]


def main(arguments: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vitral.bench",
        description="Measure the row-wise design, beside the figures of its paper.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help="measure this entry alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    parser.add_argument("--again", action="store_true",
                        help="measure what was measured with these sources, too")
    parser.add_argument("--list", action="store_true", help="print the entries and their commands")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bench"), metavar="DIR",
                        help="default: build/bench")
    options = parser.parse_args(arguments)
    names = [entry.name for entry in entries]
    for name in options.only:
        if name not in names:
            parser.error(f"--only must be one of {'; '.join(names)}, not {name!r}")
    if options.list:
        for entry in entries:
            print(f"{entry.name}{' (slow)' * entry.slow}: {entry.command}")
        return 0
    table, text = (options.output / f"rowwise.{suffix}" for suffix in ("json", "md"))
    progress = Progress()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for path in (table, text):
            check_output(path)
        before = json.loads(table.read_text())["entries"] if table.exists() else {}
    except (UsageError, OSError, ValueError, KeyError) as error:
        parser.error(f"{table} must be a file of an earlier run, or none: {error}")
    state, bad = source(), False
    wanted = [entry for entry in entries if not (options.quick and entry.slow)
              and (not options.only or entry.name in options.only)]
    done = {entry.name: before[entry.name] for entry in entries if entry.name in before and
            not (options.again and entry in wanted) and "result" in before[entry.name] and
            (before[entry.name]["source"], before[entry.name]["command"]) == (state, entry.command)}
    for number, entry in enumerate(wanted, 1):
        if entry.name in done:
            continue
        progress.step(f"{number} of {len(wanted)}, {entry.name}")
        try:
            done[entry.name] = {"command": entry.command, "source": state,
                                **measure(entry, progress)}
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
        finally:
            progress.close()
        bad |= "failed" in done[entry.name]
        said = done[entry.name].get("failed", "done")
        print(f"{entry.name}: {said} ({done[entry.name]['seconds']:.0f} s)", file=sys.stderr)
        save(done, entries, table, text)
    save(done, entries, table, text)
    print(text.read_text(), end="")
    return 1 if bad else 0


def save(done: dict[str, dict[str, Any]], entries: Sequence[Entry], table: Path,
         text: Path) -> None:
    """Write what has been measured so far, in the order of the list."""
    ordered = {entry.name: done[entry.name] for entry in entries if entry.name in done}
    figures(ordered, entries)
    write(table, (json.dumps({"paper": PAPER, "entries": ordered}, indent=2) + "\n").encode())
    write(text, markdown(ordered).encode())


if __name__ == "__main__":
    sys.exit(main())
