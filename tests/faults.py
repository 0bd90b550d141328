# SPDX-License-Identifier: Apache-2.0
"""A fault campaign: everything that can go wrong around a chip, again and again.

``python -m tests.faults --chip spatten --programs 2000 --seed 1`` (``make faults``); the chips are
those of :mod:`tests.fault_chips`. Each time one gets a program that is corrupt, or a good one while
its bus fails, pauses, or the host aborts or resets it, under random latency and stalls; then the
good program. Required each time:

- the run ends, within ``LIMIT`` cycles, and the bus owes nothing then;
- no rule of AXI is broken, as :data:`sim.chip.RULES` has them;
- code and index of the failing operation are the golden model's, where data do not decide them;
- no byte changes but in the destinations of operations that were valid and not behind the failure,
  and none outside the protection window whatever happens;
- the good program, right after it, is bit-exact.
"""

import argparse
import json
import pathlib
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from golden.fixed import ceil_div
from golden.operation import DESCRIPTOR_BYTES, Opcode, Status
from golden.shell import PAGE, Code
from hw.shell.chip import Chip
from sim.chip import MEMORY, RULES, ChipSimulation
from tests.fault_chips import CHIPS, FaultChip
from vitral.driver import AbortedError, Driver, LateError, RunError
from vitral.driver.simulation import PERIOD, SimulatedTransport

LIMIT = 3_000_000
"""Cycles within which every run must end."""
GUARD = 4 * PAGE
"""Memory before and behind the window that must stay as it is."""
KINDS = ("bits", "words", "truncated", "outside", "shapes", "bus errors", "pauses", "abort",
         "soft reset", "hard reset")


@dataclass
class Tally:
    """What came of one kind of fault."""

    programs: int = 0
    codes: Counter = field(default_factory=Counter)
    cycles: int = 0
    failures: list[str] = field(default_factory=list)


class Campaign:
    """The chip, its memory, the good program, and the dice."""

    driver: Driver

    def __init__(self, seed: int, chip: FaultChip):
        self.rng, self.chip = np.random.default_rng(seed), chip
        self.good, data = chip.good, chip.data
        self.good_at = ceil_div(len(data), DESCRIPTOR_BYTES) * DESCRIPTOR_BYTES
        self.bad_at = self.good_at + DESCRIPTOR_BYTES * len(self.good)
        most = self.bad_at + DESCRIPTOR_BYTES * (len(self.good) + 8)
        self.size = ceil_div(most, PAGE) * PAGE
        self.guards = [self.random_bytes(GUARD) for _ in range(2)]
        self.initial = self.random_bytes(self.size)
        self.initial[:len(data)] = data
        self.initial[self.good_at:self.bad_at] = np.frombuffer(b"".join(self.good), np.uint8)
        self.expected = self.initial.copy()
        self.expected[:len(data)] = chip.after
        self.beside = np.ones(self.size, bool)  # what the good program does not write
        for one in map(chip.layout.unpack, self.good):
            self.beside &= ~chip.targets(one, self.size)
        assert self.good_differs(self.expected) == []

    def begin(self, simulation: ChipSimulation, chip: Chip) -> None:
        """Meet the chip."""
        self.simulation = simulation
        self.driver = Driver(SimulatedTransport(simulation), chip.registers)
        self.simulation.change(allow_low=MEMORY + GUARD, allow_high=MEMORY + GUARD + self.size - 1)
        self.window()

    def random_bytes(self, count: int):
        return self.rng.integers(0, 256, count).astype(np.uint8)

    def window(self) -> None:
        """Let the chip see its memory."""
        self.driver.window(MEMORY + GUARD, self.size)

    def load(self, window) -> None:
        """Fill window and guards."""
        self.simulation.load(MEMORY, np.concatenate([self.guards[0], window, self.guards[1]]))

    def dump(self):
        """Return the window, and complaints about the guards."""
        memory = self.simulation.dump(MEMORY, self.size + 2 * GUARD)
        window = memory[GUARD:GUARD + self.size]
        intact = (np.array_equal(memory[:GUARD], self.guards[0])
                  and np.array_equal(memory[GUARD + self.size:], self.guards[1]))
        return window, [] if intact else ["memory outside the window was written"]

    # Programs

    def flip(self, program: list[bytes]) -> list[bytes]:
        """Flip some bits of used fields."""
        used = max(one.offset + one.width for one in self.chip.layout.fields.values())
        changed = [bytearray(one) for one in program]
        for _ in range(self.rng.integers(1, 5)):
            bit = int(self.rng.integers(used))
            changed[self.rng.integers(len(program))][bit // 8] ^= 1 << bit % 8
        return [bytes(one) for one in changed]

    def words(self, program: list[bytes]) -> list[bytes]:
        """Put random words in the place of some operations; some with an opcode that exists."""
        changed = list(program)
        for _ in range(self.rng.integers(1, 4)):
            word = self.random_bytes(DESCRIPTOR_BYTES)
            if self.rng.random() < 0.7:
                word[0] = self.rng.integers(len(Opcode))
            changed[self.rng.integers(len(program))] = word.tobytes()
        return changed

    def find(self, program: list[bytes], opcodes: tuple[Opcode, ...]) -> int:
        """Return the index of one operation of these kinds."""
        return int(self.rng.choice([n for n, one in enumerate(program) if one[0] in opcodes]))

    def patch(self, program: list[bytes], place: int, **fields: int) -> list[bytes]:
        """Change fields of an operation."""
        layout, changed = self.chip.layout, list(program)
        changed[place] = layout.pack(layout.unpack(program[place]) | fields)
        return changed

    def outside(self, program: list[bytes]) -> list[bytes]:
        """Send an access outside the window, or across its end."""
        chip = self.chip
        beat, end = chip.beat, self.size // chip.unit
        address = int(self.rng.choice([
            end, end - beat, end - 2 * beat, 2**32 - beat, 2**32 - GUARD, *chip.edges,
            int(self.rng.integers(2**32 // beat)) * beat]))
        place = self.find(program, tuple(chip.places))
        name = str(self.rng.choice(chip.places[Opcode(program[place][0])]))
        return self.patch(program, place, **{name: address})

    def shapes(self, program: list[bytes]) -> list[bytes]:
        """Make sizes zero, huge or odd."""
        fields = self.chip.layout.fields
        for _ in range(self.rng.integers(1, 4)):
            name = str(self.rng.choice(self.chip.sizes))
            top = 1 << fields[name].width
            value = int(self.rng.choice([0, 1, top - 1, top // 2, int(self.rng.integers(top))]))
            place = self.find(program, tuple(Opcode(one[0]) for one in program[:-1]))
            program = self.patch(program, place, **{name: value})
        return program

    def good_differs(self, after) -> list[str]:
        """Return complaints about what the good program left."""
        complaints = list(self.chip.differs(after[:len(self.chip.data)]))[:3]
        if (after != self.initial)[self.beside].any():
            complaints.append("memory beside its results was written")
        return complaints

    # One time

    def run(self, kind: str) -> tuple[str, int, list[str]]:
        """Do one thing of a kind, then run the good program; return code, cycles, complaints."""
        rng, simulation = self.rng, self.simulation
        program, operations, content = list(self.good), len(self.good), b""
        match kind:
            case "bits":
                program = self.flip(program)
            case "words":
                program = self.words(program)
            case "outside":
                program = self.outside(program)
            case "shapes":
                program = self.shapes(program)
            case "truncated":
                content = b"".join(program)
                content = content[:int(rng.integers(len(content)))]
                operations = int(rng.choice([0, len(program)]))
        window = self.initial.copy()
        content = content or b"".join(program)
        window[self.bad_at:self.bad_at + len(content)] = np.frombuffer(content, np.uint8)
        self.load(window)
        stall = int(rng.choice([0, 0, 60, 150]))
        pauses = kind == "pauses"
        simulation.change(
            stall_read=stall, stall_write=stall, stall_host=stall,
            latency=int(rng.choice([1, 20, 64, 300])),
            error_rate=int(rng.choice([100, 1000, 10000])) if kind == "bus errors" else 0,
            pause_rate=40 if pauses else 0, pause_cycles=int(rng.choice([100, 3000])) * pauses)
        code, index, complaints = self.suffer(kind, operations)
        cycles = self.driver.read("counter_cycles")
        complaints += self.owes_nothing()
        after, touched = self.dump()
        complaints += touched + self.judge(kind, window, after, operations, code, index)
        complaints += self.good_again()
        return code.name, cycles, complaints

    def suffer(self, kind: str, operations: int) -> tuple[Code, int, list[str]]:
        """Run the program at ``bad_at``, and perhaps interfere; return code, index, complaints."""
        driver = self.driver
        try:
            if kind not in ("abort", "soft reset", "hard reset"):
                driver.run(self.bad_at, operations, timeout=LIMIT * PERIOD)
                return Code.OK, 0, []
            driver.start(self.bad_at, operations)
            self.simulation.wait(int(self.rng.integers(1, self.chip.cycles)), interrupt=False)
            if kind == "hard reset":
                self.simulation.change(rst=1)
                self.simulation.change(rst=0)
            elif kind == "soft reset":
                driver.reset(LIMIT * PERIOD)
            else:
                driver.abort(LIMIT * PERIOD)
                driver.wait(LIMIT * PERIOD)
                return Code.OK, 0, []
            if driver.read("status") or driver.read("program"):
                return Code.ABORTED, 0, [f"a {kind} must leave reset values"]
            self.window()
            return Code.ABORTED, 0, []
        except AbortedError as error:
            return error.code, error.index, []
        except RunError as error:
            late = [] if error.address == self.bad_at + DESCRIPTOR_BYTES * error.index else [
                f"address must be that of operation {error.index}, not {error.address:#x}"]
            return error.code, error.index, late
        except LateError as error:
            self.simulation.change(rst=1)
            self.simulation.change(rst=0)
            self.window()
            return Code.ABORTED, 0, [str(error)]

    def owes_nothing(self) -> list[str]:
        """Return complaints about the bus."""
        seen = self.simulation.look("under_way", "violation")
        complaints = [f"{seen['under_way']} transactions were left"] if seen["under_way"] else []
        if seen["violation"]:
            complaints.append(f"AXI: it must hold that {RULES[seen['violation']]}")
        return complaints

    def judge(self, kind: str, window, after, operations: int, code: Code,
              index: int) -> list[str]:
        """Compare a run with what the golden model says of its descriptors."""
        program: list[bytes] = []
        at = self.bad_at
        while at + DESCRIPTOR_BYTES <= self.size and (len(program) < operations or not operations):
            program.append(window[at:at + DESCRIPTOR_BYTES].tobytes())
            at += DESCRIPTOR_BYTES
            if not operations and program[-1][0] == Opcode.HALT:
                break
        complete = len(program) == operations or not operations and (
            bool(program) and program[-1][0] == Opcode.HALT)
        chip = self.chip
        decoded = [chip.layout.unpack(one) for one in program]
        may = np.zeros(self.size, bool)  # have changed
        for n, op in enumerate(decoded):
            if chip.valid(op):
                may |= chip.targets(op, self.size)
            if code not in (Code.OK, Code.ABORTED) and n == index:
                break
        if may[self.bad_at:].any() or may[self.good_at:self.bad_at].any() and kind == "truncated":
            return []  # it may have changed itself: nobody knows what it was
        complaints = []
        wrong = np.flatnonzero((after != window) & ~may)
        if len(wrong):
            complaints.append(f"{len(wrong)} bytes were written that are no destination, the first "
                              f"at {wrong[0]:#x}")
        if code == Code.OK and kind in ("bus errors", "pauses", "abort"):
            complaints += [f"a good program ended with OK, but {text}" for text in
                           list(chip.differs(after[:len(chip.data)]))[:3]]
        if kind in ("bus errors", "abort", "soft reset", "hard reset") or not all(
                map(chip.decided, decoded)):
            return complaints
        # Which operation fails, and how, is a matter of descriptors alone
        expected: tuple[Code, int] = (Code.OK, 0) if complete else (Code.FETCH, len(program))
        step = chip.emulator(window.copy())
        for n, one in enumerate(program):
            status = step(one).status
            if status != Status.OK:
                expected = (Code(status), n)
                break
        if (code, index) != expected:
            complaints.append(f"the run must end with {expected[0].name} of operation "
                              f"{expected[1]}, not with {code.name} of {index}")
        return complaints

    def good_again(self) -> list[str]:
        """Run the good program, on a bus that behaves; return complaints."""
        self.simulation.change(error_rate=0, pause_rate=0, latency=20, stall_read=0, stall_write=0,
                               stall_host=0)
        self.load(self.initial)
        try:
            self.driver.run(self.good_at, len(self.good), timeout=LIMIT * PERIOD)
        except (RunError, LateError) as error:
            return [f"the good program behind it failed: {error}"]
        after, complaints = self.dump()
        complaints += [f"of the good program behind it {text}" for text in self.good_differs(after)]
        return complaints + self.owes_nothing()


def campaign(name: str, programs: int, seed: int, *, data_width: int | None = None,
             simulator: str = "verilator", directory: pathlib.Path | None = None,
             kinds: tuple[str, ...] = KINDS, progress: Any = None) -> dict[str, Tally]:
    """Run so many programs on the chip of a name, kinds in turn; return what came of each kind."""
    one = Campaign(seed, CHIPS[name]())
    chip = one.chip.chip(data_width)
    tallies = {kind: Tally() for kind in kinds}
    with ChipSimulation(chip, size=one.size + 2 * GUARD, simulator=simulator, seed=seed,
                        directory=directory) as simulation:
        one.begin(simulation, chip)
        for n in range(programs):
            kind = kinds[n % len(kinds)]
            code, cycles, complaints = one.run(kind)
            tally = tallies[kind]
            tally.programs += 1
            tally.codes[code] += 1
            tally.cycles = max(tally.cycles, cycles)
            tally.failures += [f"program {n} ({kind}): {text}" for text in complaints]
            if progress:
                progress(n + 1, tallies, tally.failures[-len(complaints):] if complaints else [])
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """Return the result for a reader."""
    names = [code.name for code in Code]
    row = "{:<12}{:>9}" + "".join(f"{{:>{len(name) + 2}}}" for name in names) + "{:>15}{:>10}"
    lines = [row.format("fault", "programs", *names, "longest, cyc.", "failures")]
    for kind, one in tallies.items():
        lines.append(row.format(kind, one.programs, *(one.codes[name] for name in names),
                                f"{one.cycles:,}", len(one.failures)))
    every = sum((one.codes for one in tallies.values()), Counter())
    lines.append(row.format(
        "all", sum(one.programs for one in tallies.values()), *(every[name] for name in names),
        f"{max(one.cycles for one in tallies.values()):,}",
        sum(len(one.failures) for one in tallies.values())))
    return "\n".join(lines)


def main() -> int:
    """Run a campaign from the command line; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Fault campaign of a chip.")
    parser.add_argument("--chip", choices=CHIPS, default=next(iter(CHIPS)))
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bus", type=int, help="width of the AXI4 master, if another")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these")
    parser.add_argument("--json", type=pathlib.Path, help="write the tallies")
    options = parser.parse_args()
    begin = time.monotonic()

    def progress(done, tallies, latest):
        for text in latest:
            print(text, file=sys.stderr, flush=True)
        if done % 50 == 0:
            failures = sum(len(one.failures) for one in tallies.values())
            print(f"{done} programs, {failures} failures, {time.monotonic() - begin:.0f} s",
                  file=sys.stderr, flush=True)

    tallies = campaign(options.chip, options.programs, options.seed, data_width=options.bus,
                       progress=progress, kinds=tuple(options.kind or KINDS))
    failures = [text for one in tallies.values() for text in one.failures]
    print(table(tallies))
    if options.json:
        options.json.write_text(json.dumps({
            kind: {"programs": one.programs, "codes": dict(one.codes), "cycles": one.cycles,
                   "failures": one.failures} for kind, one in tallies.items()}, indent=2) + "\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
