# SPDX-License-Identifier: Apache-2.0
"""The ``vitral`` command.

Exit codes: 0 done, 1 the bits differ or a simulation failed, 2 refused, 130 interrupted.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vitral.boards import BAUD, BUS, CLOCK, LATENCY, MEMORY, PRESET, SEED
from vitral.usage import UsageError

__all__ = ["main"]


class Parser(argparse.ArgumentParser):
    """Complain in one sentence; ``main`` prints it."""

    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see {self.prog} --help)")


def at_least(low: int, high: int = 1_000_000):
    """Return a reader of integers from ``low`` to ``high``."""
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {low}, not {text!r}")
        if value > high:
            raise argparse.ArgumentTypeError(f"must be an integer of at most {high}, not {text!r}")
        return value
    return read


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(prog="vitral", description="Vision-Transformer accelerators: Verilog, simulation, "
                 "bit-exact golden models.")
    top.add_argument("--version", action="version", version=f"vitral {version('vitral')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, action: Any, text: str) -> Parser:
        one = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        one.set_defaults(action=action)
        return one

    def configuration(one: Parser) -> None:
        one.add_argument("--preset", metavar="P", help="default: paper, or ecp5 for a board")
        one.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                         dest="settings", help="change a parameter of the preset; may be repeated")

    def shell(one: Parser) -> None:
        one.add_argument("--bus", type=int, choices=(32, 64, 128, 256), metavar="BITS",
                         help="of a chip: width of its AXI4 master, 32, 64, 128 or 256; default: "
                         "128, or 64 on a board")

    def serial(one: Parser) -> None:
        one.add_argument("--memory", type=at_least(4, 1 << 18), metavar="KB",
                         help="of a board: its memory; default: 256")
        one.add_argument("--baud", type=at_least(1, 100_000_000), metavar="N",
                         help="of a board: bits per second of its serial line; default: 1000000")

    def network(one: Parser) -> None:
        one.add_argument("model", nargs="?", metavar="MODEL",
                         help="see vitral list")
        one.add_argument("--on", required=True, metavar="DESIGN", dest="design")
        configuration(one)
        one.add_argument("--weights", type=Path, metavar="FILE.safetensors",
                         help="your own ViT or DeiT instead, under timm's or Hugging Face's names")
        one.add_argument("--heads", type=at_least(1), metavar="H",
                         help="its attention heads; default: width / 64")
        one.add_argument("--activation", choices=("gelu", "relu"), help="default: gelu")
        one.add_argument("--prune", metavar="off|BLOCK:PART,...",
                         help="patches that stay after the attention of a block; default: what the "
                         "network was trained for")
        one.add_argument("--rule", choices=("threshold", "mean", "topk"),
                         help="by which they are chosen; default: threshold, or topk on spatten")
        one.add_argument("--source", choices=("class", "column", "external"),
                         help="whose attention says how important a token is, or that --scores do; "
                         "spatten, default: column")
        one.add_argument("--accumulate", choices=("cumulative", "clear", "average"),
                         help="what importance becomes when some were chosen: it stays, is 0, or "
                         "half of it; spatten, default: cumulative")
        one.add_argument("--values", type=float, metavar="PART",
                         help="part of the tokens left whose values a query fetches; spatten")
        one.add_argument("--confident", type=float, metavar="P",
                         help="greatest probability from which on the high bits of the keys do; "
                         "spatten, default: low bits for every query")
        one.add_argument("--heads-left", metavar="BLOCK:HEADS,...",
                         help="heads that stay behind the attention of a block; spatten")
        one.add_argument("--fuse", action="store_true",
                         help="make one token of those that leave; for a core with fuse")
        one.add_argument("--skip", metavar="off|exact|LEVEL",
                         help="blocks of hidden units up to LEVEL count as 0; default: exact with "
                         "ReLU")
        one.add_argument("--latency", type=at_least(1), metavar="CYCLES",
                         help="of a read of external memory; default: 64, or that of a board")
        one.add_argument("--json", type=Path, metavar="FILE",
                         help="write the result; - to print it")

    command("list", list_, "list designs, presets, models and boards")
    one = command("verilog", verilog, "write a design as Verilog, with a description in JSON")
    one.add_argument("design", metavar="DESIGN")
    configuration(one)
    one.add_argument("--level", choices=("core", "chip"), default="core",
                     help="the core alone, or with AXI ports, and a C header; default: core")
    shell(one)
    one.add_argument("--name", help="of the top module; default: DESIGN_PRESET, or "
                     "DESIGN_PRESET_chip")
    one.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="default: .")
    one = command("bitstream", bitstream, "build the bitstream of a board, with Yosys and nextpnr")
    one.add_argument("design", metavar="DESIGN")
    configuration(one)
    shell(one)
    one.add_argument("--board", required=True, metavar="BOARD", help="see vitral list")
    one.add_argument("--clock", type=float, default=CLOCK, metavar="MHZ",
                     help=f"of the chip; default: {CLOCK:g}")
    serial(one)
    one.add_argument("--seed", type=at_least(0), default=SEED, metavar="N",
                     help=f"of the placement; default: {SEED}")
    one.add_argument("--keep", action="store_true",
                     help="write the bitstream even if it is too slow for its clock")
    one.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="default: .")
    one = command("run", run, "run a network on a design, in the golden model or as RTL")
    network(one)
    one.add_argument("--engine", choices=("golden", "rtl"), default="golden",
                     help="rtl: simulate, and compare with golden; default: golden")
    one.add_argument("--simulator", choices=("verilator", "icarus"), default="verilator",
                     help="default: verilator")
    one.add_argument("--level", choices=("core", "chip"), default="core",
                     help="with --engine rtl: the core alone, or in its shell, by the driver; "
                     "default: core")
    shell(one)
    one.add_argument("--stalls", type=at_least(0, 95), default=0, metavar="PERCENT",
                     help="of a chip's bus: how often each channel is delayed; default: 0")
    one.add_argument("--seed", type=at_least(0), default=2026, metavar="N",
                     help="of these delays; default: 2026")
    one.add_argument("--inputs", type=Path, metavar="FILE.npy",
                     help="your own images, float (images, channels, height, width)")
    one.add_argument("--labels", type=Path, metavar="FILE.npy", help="their classes, if known")
    one.add_argument("--calibration", type=Path, metavar="FILE.npy",
                     help="images that the scales are fitted to; default: the inputs")
    one.add_argument("--scores", type=Path, metavar="FILE.npy",
                     help="importance of the tokens, (images, blocks of --prune, tokens), for "
                     "--source external; spatten")
    one.add_argument("--images", type=at_least(1), metavar="N",
                     help="only the first N; default: 16 of a shipped model, all of --inputs")
    one.add_argument("--trace", action="store_true",
                     help="store every intermediate result in memory, so that it is compared too")
    one.add_argument("--outputs", type=Path, metavar="FILE.npy", help="write the logits, float")
    one.add_argument("--timeline", type=Path, metavar="FILE.png",
                     help="draw what the core does over time; .svg and .pdf too")
    one.add_argument("--survivors", type=Path, metavar="FILE.png",
                     help="draw which patches of the first image are left after each block; .svg "
                     "and .pdf too; spatten")
    one.add_argument("--board", metavar="BOARD",
                     help="run on a board, see vitral list; simulated: on one in simulation")
    one.add_argument("--port", metavar="DEVICE", help="its serial port, such as /dev/ttyUSB0")
    serial(one)
    one = command("trace", trace, "run attention by a trace of which keys and values were fetched")
    one.add_argument("file", type=Path, metavar="FILE.csv", help="or .csv.gz; see docs/trace.md")
    one.add_argument("--on", required=True, metavar="DESIGN", dest="design")
    configuration(one)
    one.add_argument("--engine", choices=("golden", "rtl"), default="golden",
                     help="rtl: simulate, and compare with golden; default: golden")
    one.add_argument("--simulator", choices=("verilator", "icarus"), default="verilator",
                     help="default: verilator")
    one.add_argument("--dense", action="store_true",
                     help="fetch all keys and values in full width instead: the baseline")
    one.add_argument("--iterations", type=at_least(1), metavar="N", help="only the first N tokens")
    one.add_argument("--seed", type=at_least(0), default=2026, metavar="N",
                     help="of the random tensors; default: 2026")
    one.add_argument("--latency", type=at_least(1), default=30, metavar="CYCLES",
                     help="of a read of external memory; default: 30")
    one.add_argument("--json", type=Path, metavar="FILE",
                     help="write the result; - to print it")
    one.add_argument("--waterfall", type=Path, metavar="FILE.png",
                     help="draw how many bytes each kind of pruning saves; .svg and .pdf too")
    one = command("estimate", estimate, "estimate cycles, utilisation and traffic, without running")
    network(one)
    one.add_argument("--images", type=at_least(1, 10_000), default=1, metavar="N",
                     help="default: 1")
    return top


def defaults(options: argparse.Namespace) -> None:
    """Fill in what depends on whether there is a board."""
    board = getattr(options, "board", None) is not None
    for name, value in (("preset", PRESET if board else "paper"), ("bus", BUS if board else 128),
                        ("latency", LATENCY if board else 64)):
        if getattr(options, name, value) is None:
            setattr(options, name, value)


def list_(_: argparse.Namespace) -> int:
    """Print what there is."""
    from vitral.listing import listing

    print(listing())
    return 0


def verilog(options: argparse.Namespace) -> int:
    """Write Verilog."""
    from golden.shell import ShellSpec
    from vitral.designs import design
    from vitral.verilog import verilog

    shell = ShellSpec(data_width=options.bus) if options.level == "chip" else None
    print(*verilog(design(options.design), options.preset, options.settings, options.name,
                   options.output, shell), sep="\n")
    return 0


def board_setup(options: argparse.Namespace, **more: Any) -> Any:
    """Return the board that is asked for."""
    from golden.board import MemorySpec
    from golden.shell import ShellSpec
    from vitral.boards import BoardSetup
    from vitral.usage import refusing

    with refusing():
        return BoardSetup(
            board=options.board, shell=ShellSpec(data_width=options.bus), **more,
            memory=MemorySpec(size=(options.memory or MEMORY) << 10), baud=options.baud or BAUD)


def bitstream(options: argparse.Namespace) -> int:
    """Build a bitstream."""
    from golden.pll import MHZ, PllSpec
    from vitral.bitstream import Failure, bitstream
    from vitral.designs import design
    from vitral.progress import Progress
    from vitral.usage import refusing

    with refusing():
        clock = PllSpec(frequency=round(options.clock * MHZ))
    setup = board_setup(options, clock=clock)
    progress = Progress()
    try:
        lines = bitstream(design(options.design), options.preset, options.settings, setup,
                          seed=options.seed, keep=options.keep, folder=options.output,
                          progress=progress)
    except Failure as failure:
        progress.close()
        print(f"vitral: {failure}", file=sys.stderr)
        return 1
    finally:
        progress.close()
    print(*lines, sep="\n")
    return 0


def check_outputs(*paths: Path | None) -> None:
    """Require that what will be written can be."""
    from vitral.files import check_output

    named = [path for path in paths if path is not None and path != Path("-")]
    for path in named:
        check_output(path)
    if len({path.resolve() for path in named}) < len(named):
        raise UsageError(f"outputs must be different files, not twice {named[0]}")


def check_options(options: argparse.Namespace, on: Any) -> None:
    """Refuse options that a design does not have."""
    from vitral.designs import DESIGNS

    for name in sorted({name for one in DESIGNS.values() for name in one.options}):
        if getattr(options, name, None) not in (None, False) and name not in on.options:
            raise UsageError(f"--{name.replace('_', '-')} must be left out for {on.name}, which "
                             "has nothing of the kind")


def board_connection(options: argparse.Namespace) -> Any:
    """Return the way to the board that is asked for."""
    from vitral.board_run import connect, simulated
    from vitral.boards import SIMULATED

    if (options.engine, options.level, options.timeline) != ("golden", "core", None):
        raise UsageError("--board must go without --engine rtl, --level chip and --timeline: it "
                         "runs on the board")
    if (options.board == SIMULATED) != (options.port is None):
        raise UsageError("--port must be left out for a simulated board" if options.port else
                         "--port must name the serial port of the board, such as /dev/ttyUSB0")
    return simulated(options.simulator) if options.port is None else connect(options.port)


def check_simulator(options: argparse.Namespace) -> None:
    """Require the simulator of ``--engine rtl``, or of a board, before long work begins."""
    from sim import tools
    from vitral.boards import SIMULATED

    if options.engine == "rtl" or getattr(options, "board", None) == SIMULATED:
        try:
            getattr(tools, options.simulator)()
        except tools.MissingToolError as error:
            raise UsageError(str(error)) from error


def report(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Print the summary, or the result itself for ``--json -``; write ``--json FILE``."""
    from vitral.files import write

    plain = json.dumps(result, indent=2) + "\n"
    if options.json == Path("-"):
        print(plain, end="")
        return
    if options.json is not None:
        write(options.json, plain.encode())
    print(text)


def run(options: argparse.Namespace) -> int:
    """Run a network."""
    import numpy as np

    from golden.shell import ShellSpec
    from vitral import survivors, timeline
    from vitral.chip_run import Setup
    from vitral.designs import design
    from vitral.files import write
    from vitral.pictures import check_picture
    from vitral.progress import Progress
    from vitral.record import summary
    from vitral.run import run
    from vitral.task import task

    on = design(options.design, runs="network")
    check_options(options, on)
    spec = on.spec(options.preset, options.settings)
    if options.outputs == Path("-"):
        raise UsageError("--outputs must name a file, not '-'")
    check_outputs(options.json, options.outputs, options.timeline, options.survivors)
    check_picture(options.timeline, "--timeline")
    check_picture(options.survivors, "--survivors")
    chip = board = None
    if options.board is not None:
        board = board_setup(options), board_connection(options)
    elif (options.port, options.memory, options.baud) != (None, None, None):
        raise UsageError("--port, --memory and --baud must go with --board")
    if options.level == "chip":
        if options.engine != "rtl" or options.timeline is not None:
            raise UsageError("--level chip must go with --engine rtl and without --timeline")
        chip = Setup(shell=ShellSpec(data_width=options.bus), stalls=options.stalls,
                     seed=options.seed)
    check_simulator(options)
    progress = Progress()
    try:
        asked = task(options, spec)
        if options.survivors is not None and not asked.sparsity.keep:
            raise UsageError("--survivors must be left out where no token leaves: --prune names "
                             "none")
        done = run(on, options.preset, spec, asked, engine=options.engine,
                   simulator=options.simulator, trace=options.trace, latency=options.latency,
                   progress=progress, timeline=options.timeline is not None, chip=chip,
                   board=board)
    finally:
        progress.close()
    if options.outputs is not None:
        array = io.BytesIO()
        np.save(array, done.logits)
        write(options.outputs, array.getvalue())
    if options.timeline is not None and done.activity is not None:
        write(options.timeline, timeline.draw(options.timeline, done.activity, done.program,
                                              done.ends, done.result))
    if options.survivors is not None:
        write(options.survivors, survivors.draw(
            options.survivors, asked.images[0], done.program.network, done.kept, done.result))
    report(options, done.result, summary(done.result, cycles=done.cycles))
    for complaint in done.complaints:
        print(f"vitral: {complaint}", file=sys.stderr)
    return 1 if done.complaints else 0


def trace(options: argparse.Namespace) -> int:
    """Run a trace."""
    from vitral.designs import design
    from vitral.files import write
    from vitral.pictures import check_picture
    from vitral.progress import Progress
    from vitral.trace import layers
    from vitral.trace_run import run, summary
    from vitral.waterfall import draw

    on = design(options.design, runs="trace")
    spec = on.spec(options.preset, options.settings)
    check_outputs(options.json, options.waterfall)
    check_picture(options.waterfall, "--waterfall")
    check_simulator(options)
    progress = Progress()
    try:
        result = run(layers(options.file), spec, name=options.file.name, design=on.name,
                     preset=options.preset, engine=options.engine, simulator=options.simulator,
                     full=options.dense, iterations=options.iterations, seed=options.seed,
                     latency=options.latency, progress=progress)
    finally:
        progress.close()
    if options.waterfall is not None:
        write(options.waterfall, draw(options.waterfall, result))
    report(options, result, summary(result))
    if result["bit_exact"] is False:
        print("vitral: memory or completions must equal the golden model's, but differ",
              file=sys.stderr)
        return 1
    return 0


def estimate(options: argparse.Namespace) -> int:
    """Estimate a network."""
    from vitral.designs import design
    from vitral.estimate import estimate
    from vitral.record import summary
    from vitral.task import float_network, wanted

    on = design(options.design, runs="network")
    check_options(options, on)
    spec = on.spec(options.preset, options.settings)
    check_outputs(options.json)
    name, network = float_network(options)
    result = estimate(on, options.preset, spec, name, network, wanted(options, spec, network),
                      images=options.images, latency=options.latency)
    report(options, result, summary(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        options = parser().parse_args(argv)
        defaults(options)
        status = options.action(options)
        sys.stdout.flush()  # here, where a closed pipe is caught, and not at exit
        return status
    except UsageError as error:
        print(f"vitral: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "SimulationError":  # known only once sim is imported
            raise
        print(f"vitral: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
