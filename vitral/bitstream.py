# SPDX-License-Identifier: Apache-2.0
"""A bitstream: a design with memory and a serial line on the pins of a board."""

import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from golden.pll import MHZ
from models.zoo import model
from vitral.board_run import line_cycles, places
from vitral.boards import BOARDS, LATENCY, BoardSetup
from vitral.designs import Design
from vitral.estimate import compiled
from vitral.files import check_folder
from vitral.files import write as write_file
from vitral.fpga import available, route, run_tool, synthesize
from vitral.progress import Progress
from vitral.sparse import Sparsity
from vitral.usage import UsageError, refusing

__all__ = ["Failure", "bitstream"]

EBR_BYTES = 2048
"""Bytes of a block RAM, without its parity bits."""
CELLS = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "ebr": "EBR"}
MODEL = "digits"
"""Whose images per second are told."""


_STEP = re.compile(r"(?:[\d.]+ (?=Executing )|Info: +(?=[A-Z]\w+ing |at iteration))(.*)")


class Failure(Exception):
    """Say in one sentence what a build did not reach."""


class Watched:
    """A log that also shows how far a tool has come: its last line that begins a step."""

    def __init__(self, file: TextIO, progress: Progress):
        self._file, self._progress, self._step = file, progress, ""

    def write(self, text: str) -> None:
        """Take a line."""
        self._file.write(text)
        if found := _STEP.match(text):
            self._step = found[1].strip()[:60]
        self._progress.show(self._step)

    def flush(self) -> None:
        """Have the lines on disk."""
        self._file.flush()


def bitstream(design: Design, preset: str, settings: Sequence[str], setup: BoardSetup, *,
              seed: int, keep: bool, folder: Path, progress: Progress) -> list[str]:
    """Build a bitstream; return what came of it, line by line.

    Writes ``NAME.v``, ``.lpf``, ``.bit``, ``.json`` and the logs ``NAME_yosys.log`` and
    ``NAME_nextpnr.log``, as ``docs/command-line.md`` says.

    Parameters
    ----------
    setup : the board and what surrounds the core on it.
    seed : of the placement.
    keep : write the bitstream of a design that is too slow for its clock, too.

    Raises
    ------
    Failure
        If it does not fit, or is too slow for its clock: then there is no bitstream.
    """
    from hw.board.top import Board
    from hw.board.ulx3s import Ulx3s, constraints, platform
    from hw.emit import emit

    device = BOARDS[setup.board]
    have, spec = available(device), design.spec(preset, settings)
    if setup.memory.size > have["ebr"] * EBR_BYTES:
        raise UsageError(f"--memory must be at most {have['ebr'] * EBR_BYTES >> 10} KB, all the "
                         f"block RAM of {setup.board}, not {setup.memory.size >> 10}")
    name = re.sub(r"\W", "_", f"{design.name}_{preset}{'_custom' * bool(settings)}_{setup.board}")
    check_folder(folder)
    progress.step("writing Verilog")
    chip = setup.chip(design, spec)
    with refusing():
        try:
            pins = constraints(setup.board)
        except ModuleNotFoundError:
            raise UsageError("amaranth-boards must be installed for the pins of a board: "
                             "pip install 'vitral[fpga]'") from None
        emitted = emit(Ulx3s(Board(chip, setup.spec), setup.clock), name=name, parameters={
            "chip": chip.spec, "board": setup.spec, "clock": setup.clock})
    folder.mkdir(parents=True, exist_ok=True)
    paths = {end: folder / f"{name}{end}" for end in
             (".v", ".lpf", ".bit", ".json", "_yosys.log", "_nextpnr.log")}
    with refusing(str(folder), verb="write to"):
        for path in paths.values():
            path.unlink(missing_ok=True)
    write_file(paths[".v"], emitted.verilog.encode())
    write_file(paths[".lpf"], pins.encode())
    made = float(setup.clock.made) / MHZ
    about: dict[str, Any] = {
        **{key: emitted.description[key] for key in ("name", "parameters", "config_hash", "ports",
                                                     "tools")},
        "design": design.name, "preset": preset, "board": setup.board,
        "clock_mhz": round(made, 6), "baud": round(made * MHZ / setup.spec.bridge.uart.divisor, 1),
        "registers": chip.registers.plain(), "macs": spec.macs, "available": have}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vitral-bitstream-") as place:
        work = Path(place)
        (work / "board.lpf").write_text(pins)
        with paths["_yosys.log"].open("w") as log:
            progress.step("mapping with Yosys")
            used = synthesize(emitted, work, Watched(log, progress))
        lacking = [key for key in CELLS if used[key] > have[key]]
        if lacking:
            key = lacking[0]
            raise Failure(f"{setup.board} must have {used[key]:,} {CELLS[key]} for this design, "
                          f"but has {have[key]:,}")
        with paths["_nextpnr.log"].open("w") as log:
            progress.step("placing and routing with nextpnr")
            used = route(work, [
                f"--{device}", "--package", platform(setup.board).package.replace("BG", "CABGA"),
                "--speed", platform(setup.board).speed, "--lpf", "board.lpf", "--textcfg",
                "board.config", "--seed", str(seed)], Watched(log, progress))
        reached = used["fmax_mhz"]
        met = reached is not None and reached >= made
        about |= {"used": used, "seed": seed, "met": met, "model": speed(design, spec, setup),
                  "seconds": round(time.monotonic() - begin, 1)}
        write_file(paths[".json"], (json.dumps(about, indent=2) + "\n").encode())
        if met or keep:
            progress.step("packing")
            run_tool("yowasp-ecppack", ["--compress", "board.config", "board.bit"], work)
            write_file(paths[".bit"], (work / "board.bit").read_bytes())
    if not met and not keep:
        raise Failure(f"the clock must reach {made:g} MHz, but its longest path allows "
                      f"{reached} MHz; no bitstream was written (see {paths['.json']})")
    return summary(about, [paths[end] for end in (".bit", ".json", ".v", ".lpf", "_yosys.log",
                                                  "_nextpnr.log")])


def speed(design: Design, spec: Any, setup: BoardSetup) -> dict[str, Any] | None:
    """Return how fast :data:`MODEL` is by the cycle model; None if it does not fit."""
    try:
        program, _, cycles = compiled(
            design, spec, model(MODEL).float_vit(), Sparsity(keep={}), images=1,
            latency=LATENCY)
    except UsageError:
        return None
    if places(program)[1] > setup.memory.size:
        return None
    one = cycles.total
    line = line_cycles(program, setup.spec.bridge, len(design.counters()))
    clock = float(setup.clock.made)
    return {"name": MODEL, "cycles": one, "line_cycles": line,
            "images_per_second": round(clock / one, 1),
            "images_per_second_with_line": round(clock / (one + line), 1)}


def summary(about: dict[str, Any], paths: Sequence[Path]) -> list[str]:
    """Return the result for a reader."""
    used, have, fast = about["used"], about["available"], about["model"]
    shell = about["parameters"]["chip"]["shell"]
    memory = about["parameters"]["board"]["memory"]
    title = (f"{about['design']} {about['preset']} on {about['board']}, "
             f"{shell['data_width']}-bit bus, {memory['size'] >> 10} KB of memory")
    clock = (f"clock   {about['clock_mhz']:>8g} MHz; the longest path allows {used['fmax_mhz']} "
             f"MHz{'' if about['met'] else ', TOO SLOW'}")
    lines = [title, ""]
    lines += [f"{word:<8}{used[key]:>8,} of {have[key]:,}, {used[key] / have[key]:.1%}"
              for key, word in CELLS.items()]
    lines += [clock, f"MACs    {about['macs']:>8,}"]
    if fast is not None:
        lines.append(f"{fast['name']:<8}{fast['images_per_second']:>8,} images/s, "
                     f"{fast['cycles']:,} cycles each; {fast['images_per_second_with_line']:,} "
                     f"with the line at {about['baud']:,.0f} bit/s")
    for path in used["paths"]:
        lines.append(f"path    {path['ns']:>8} ns, {path['logic_ns']} of them logic, from "
                     f"{path['from']} to {path['to']}")
    return [*lines, "", *(str(path) for path in paths if path.exists())]
