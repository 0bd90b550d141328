# SPDX-License-Identifier: Apache-2.0
"""Measure the designs again, and set each beside what its paper says.

``python -m vitral.bench [DESIGN] [--only NAME] [--quick] [--again] [--list] [-o DIR]`` runs a list
of commands for each design and writes ``DESIGN.json`` and ``DESIGN.md``. What was measured before
with the same sources is kept, also where a run was interrupted.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitral.benches.entry import Entry, Suite
from vitral.files import check_output, write
from vitral.progress import Progress
from vitral.usage import UsageError

__all__ = ["main", "markdown", "source", "suites"]

ROOT = Path(__file__).resolve().parent.parent
OWN = {Path(__file__).resolve(), *(ROOT / "vitral" / "benches").glob("*.py")}
"""Files on which no command depends."""
def source() -> str:
    """Return a hash of all that the commands' results depend on."""
    digest = hashlib.sha256()
    for room in ("golden", "hw", "sim", "vitral", "models"):
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and path.suffix != ".pyc" and path not in OWN:
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


def markdown(suite: Suite, done: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as Markdown: by entry, what else the design has to say, the commands."""
    lines = [f"# {suite.title}", "", *suite.about, "",
             "| measured | figure | ours | paper | unit | |",
             "| --- | --- | --- | --- | --- | --- |"]
    for name, one in done.items():
        for row in one.get("figures", []):
            paper = "" if row["paper"] is None else show(row["paper"])
            lines.append(f"| {name} | {row['name']} | {show(row['value'])} | {paper} | "
                         f"{row['unit']} | {row['note']} |")
        if "failed" in one:
            lines.append(f"| {name} | not measured | | | | {one['failed'].replace('|', '/')} |")
    lines += suite.more(done)
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


def suites() -> dict[str, Suite]:
    """Return what there is to measure, by design."""
    from vitral.benches import rowwise, spatten

    return {suite.design: suite for suite in (rowwise.SUITE, spatten.SUITE)}


def main(arguments: Sequence[str] | None = None,
         known: Mapping[str, Suite] | None = None) -> int:
    """Run the command line; return the exit code."""
    known = suites() if known is None else known
    parser = argparse.ArgumentParser(
        prog="python -m vitral.bench",
        description="Measure the designs, beside the figures of their papers.")
    parser.add_argument("design", nargs="*", metavar="DESIGN",
                        help=f"only this one; default: {', '.join(known)}")
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help="measure this entry alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    parser.add_argument("--again", action="store_true",
                        help="measure what was measured with these sources, too")
    parser.add_argument("--list", action="store_true", help="print the entries and their commands")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bench"), metavar="DIR",
                        help="default: build/bench")
    options = parser.parse_args(arguments)
    for name in options.design:
        if name not in known:
            parser.error(f"DESIGN must be one of {', '.join(known)}, not {name!r}")
    chosen = [known[name] for name in options.design or known]
    names = [entry.name for suite in chosen for entry in suite.entries]
    for name in options.only:
        if name not in names:
            parser.error(f"--only must be one of {'; '.join(names)}, not {name!r}")
    if options.list:
        for suite in chosen:
            for entry in suite.entries:
                print(f"{entry.name}{' (slow)' * entry.slow}: {entry.command}")
        return 0
    before = []
    for suite in chosen:  # all are looked at before the first is measured
        table, text = (options.output / f"{suite.design}.{suffix}" for suffix in ("json", "md"))
        try:
            options.output.mkdir(parents=True, exist_ok=True)
            for path in (table, text):
                check_output(path)
            before.append(json.loads(table.read_text())["entries"] if table.exists() else {})
        except (UsageError, OSError, ValueError, KeyError) as error:
            parser.error(f"{table} must be a file of an earlier run, or none: {error}")
    bad = False
    for suite, old in zip(chosen, before, strict=True):
        wanted = [entry for entry in suite.entries if not (options.quick and entry.slow)
                  and (not options.only or entry.name in options.only)]
        if wanted:
            try:
                bad |= _measure(suite, wanted, old, options)
            except KeyboardInterrupt:
                print(file=sys.stderr)
                return 130
    return 1 if bad else 0


def _measure(suite: Suite, wanted: Sequence[Entry], before: Mapping[str, Any],
             options: argparse.Namespace) -> bool:
    """Measure what is wanted and not known, and write the files; return whether some failed."""
    table, text = (options.output / f"{suite.design}.{suffix}" for suffix in ("json", "md"))
    state, bad, progress = source(), False, Progress()
    done = {entry.name: before[entry.name] for entry in suite.entries if entry.name in before and
            not (options.again and entry in wanted) and "result" in before[entry.name] and
            (before[entry.name]["source"], before[entry.name]["command"]) == (state, entry.command)}
    for number, entry in enumerate(wanted, 1):
        if entry.name in done:
            continue
        progress.step(f"{number} of {len(wanted)}, {entry.name}")
        try:
            done[entry.name] = {"command": entry.command, "source": state,
                                **measure(entry, progress)}
        finally:
            progress.close()
        bad |= "failed" in done[entry.name]
        said = done[entry.name].get("failed", "done")
        print(f"{entry.name}: {said} ({done[entry.name]['seconds']:.0f} s)", file=sys.stderr)
        save(suite, done, table, text)
    save(suite, done, table, text)
    print(text.read_text(), end="")
    return bad


def save(suite: Suite, done: dict[str, dict[str, Any]], table: Path, text: Path) -> None:
    """Write what has been measured so far, in the order of the list."""
    ordered = {entry.name: done[entry.name] for entry in suite.entries if entry.name in done}
    figures(ordered, suite.entries)
    write(table, (json.dumps({"paper": suite.paper, "entries": ordered}, indent=2)
                  + "\n").encode())
    write(text, markdown(suite, ordered).encode())


if __name__ == "__main__":
    sys.exit(main())
