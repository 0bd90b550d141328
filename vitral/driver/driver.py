# SPDX-License-Identifier: Apache-2.0
"""Run programs on a chip, and say what happened."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from golden.operation import DESCRIPTOR_BYTES
from golden.registers import WORD, RegisterMap
from golden.shell import COUNTERS_AT, IDENTITY, PAGE, VERSION, Access, Cause, Code

MASK = (1 << WORD) - 1


class ChipError(RuntimeError):
    """Say why a chip did not do what was asked."""


class WrongChipError(ChipError):
    """There is no chip, or another one than expected."""


class RefusedError(ChipError):
    """A register was not accessible, because there is none or because the chip is busy."""


class LateError(ChipError):
    """The chip was still busy when the time was up."""


class RunError(ChipError):
    """A run did not end with OK.

    Attributes: ``code``, ``index`` of the operation and its ``address``; where memory was the
    reason, ``cause``, ``access`` and ``fault_address``. Addresses are relative to the window.
    """

    def __init__(self, *, code: Code, index: int, address: int, cause: Cause = Cause.NONE,
                 access: Access = Access.READ, fault_address: int = 0):
        self.code, self.index, self.address = code, index, address
        self.cause, self.access, self.fault_address = cause, access, fault_address
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        where = f"operation {self.index} at {self.address:#x}"
        memory = {
            Cause.WINDOW: "is not inside the protection window",
            Cause.SLVERR: "was answered with an error by the memory (SLVERR)",
            Cause.DECERR: "leads to no memory (DECERR)",
        }.get(self.cause, "failed")
        match self.code:
            case Code.BAD_OPCODE:
                return f"{where} is none that this core has"
            case Code.BAD_SHAPE:
                return f"{where} has a size that this core was not built for, or is misaligned"
            case Code.OUT_OF_RANGE:
                return f"{where} goes beyond the end of a buffer"
            case Code.BUS_ERROR:
                kind = "write" if self.access == Access.WRITE else "read"
                return f"{where} failed, because a {kind} at {self.fault_address:#x} {memory}"
            case Code.FETCH:
                return f"{where} could not be read, because {self.fault_address:#x} {memory}"
            case _:
                return f"the run was aborted after {self.index} operations"


class MalformedError(RunError):
    """An operation was refused before it touched anything."""


class MemoryAccessError(RunError):
    """An operation could not read or write memory; its destination is undefined."""


class FetchError(RunError):
    """The program could not be read."""


class AbortedError(RunError):
    """The run was aborted."""


ERRORS: Mapping[Code, type[RunError]] = {
    Code.BAD_OPCODE: MalformedError, Code.BAD_SHAPE: MalformedError,
    Code.OUT_OF_RANGE: MalformedError, Code.BUS_ERROR: MemoryAccessError, Code.FETCH: FetchError,
    Code.ABORTED: AbortedError,
}


class Transport(Protocol):
    """The way to a chip and to the memory that it shares with its host."""

    def read(self, offset: int) -> int:
        """Read a word of a register; :class:`RefusedError` where the chip refuses."""
        ...

    def read_words(self, offset: int, count: int) -> list[int]:
        """Read neighbouring words; likewise."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write a word of a register; likewise."""
        ...

    def load(self, address: int, data: bytes) -> None:
        """Fill memory from a bus address."""
        ...

    def dump(self, address: int, count: int) -> bytes:
        """Return memory from a bus address."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait for the interrupt for so long at most, or for a moment where there is none."""
        ...

    def time(self) -> float:
        """Return the chip's idea of time in seconds, from anywhere."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves: operations completed, and the core's counters from its start."""

    completed: int
    counters: dict[str, int]


class Driver:
    """A chip, for its host.

    Parameters
    ----------
    transport : the way to it.
    registers : its register map, as :attr:`hw.shell.chip.Chip.registers` has it. A chip of another
        configuration is refused (:class:`WrongChipError`).

    Addresses are relative to the window, as they are in programs.
    """

    def __init__(self, transport: Transport, registers: RegisterMap):
        self.transport, self.registers = transport, registers
        self._base = 0
        self.identify()

    def identify(self) -> None:
        """Require the chip that the register map describes."""
        identity, version = self.read("identity"), self.registers["version"]
        if identity != IDENTITY:
            raise WrongChipError(f"a Vitral chip must say {IDENTITY:#x} at offset 0, "
                                 f"not {identity:#x}")
        found = version.decode(self.read("version"))
        if found["major"] != VERSION[0] or found["minor"] < VERSION[1]:
            raise WrongChipError(f"version of the registers must be {VERSION[0]}.{VERSION[1]}, not "
                                 f"{found['major']}.{found['minor']}")
        expected, found = self.registers["config_hash"].reset, self.read("config_hash")
        if found != expected:
            raise WrongChipError(f"configuration of the chip must be {expected:016x}, not "
                                 f"{found:016x}: it was built for another core, shell or version")

    def read(self, name: str) -> int:
        """Return the value of a register."""
        one = self.registers[name]
        return sum(self.transport.read(one.offset + 4 * word) << WORD * word
                   for word in range(one.width // WORD))

    def fields(self, name: str) -> dict[str, int]:
        """Return the fields of a register."""
        return self.registers[name].decode(self.read(name))

    def write(self, name: str, value: int) -> None:
        """Write a register."""
        self.transport.write(self.registers[name].offset, value)

    def command(self, name: str) -> None:
        """Give a command: ``start``, ``abort``, ``reset``, ``snapshot``."""
        self.write("control", next(one.mask for one in self.registers["control"].fields
                                   if one.name == name))

    def window(self, base: int, size: int) -> None:
        """Let the chip access ``size`` bytes from bus address ``base``, and nothing else."""
        if base % PAGE or size % PAGE or not 0 < size <= (1 << 32) - base:
            raise ValueError(f"window must be whole pages of {PAGE} bytes below 4 GB, not {size} "
                             f"bytes at {base:#x}")
        self.write("window_base", base)
        self.write("window_limit", base + size - 1)
        self._base = base

    def load(self, address: int, data: bytes) -> None:
        """Fill memory: weights, inputs, program."""
        self.transport.load(self._base + address, data)

    def dump(self, address: int, count: int) -> bytes:
        """Return memory: outputs."""
        return self.transport.dump(self._base + address, count)

    def start(self, program: int, operations: int = 0) -> None:
        """Start a program; ``operations`` 0 means up to its first HALT."""
        if program % DESCRIPTOR_BYTES:
            raise ValueError(f"program must lie at a multiple of {DESCRIPTOR_BYTES}, "
                             f"not {program:#x}")
        events = self.registers["interrupt_pending"].writable
        self.write("interrupt_pending", events)
        self.write("interrupt_enable", events)
        self.write("program", program)
        self.write("operations", operations)
        self.command("start")

    def wait(self, timeout: float) -> Outcome:
        """Wait for the end of the run; raise what :data:`ERRORS` has for how it ended."""
        status = self._settle(timeout)
        self.write("interrupt_pending", self.registers["interrupt_pending"].writable)
        code = Code(status["code"])
        if code == Code.OK:
            return Outcome(completed=self.read("completed"), counters=self.counters())
        raise ERRORS[code](
            code=code, index=self.read("operation_index"), address=self.read("operation_address"),
            cause=Cause(status["cause"]), access=Access(status["access"]),
            fault_address=self.read("fault_address"))

    def run(self, program: int, operations: int = 0, *, timeout: float) -> Outcome:
        """Start a program and wait for its end; one that is late is left running."""
        self.start(program, operations)
        return self.wait(timeout)

    def abort(self, timeout: float) -> None:
        """End a run, if one is under way."""
        self.command("abort")
        self._settle(timeout)

    def reset(self, timeout: float) -> None:
        """End a run and give all registers their reset values; the window must be set again."""
        self.command("reset")
        self._settle(timeout)

    def _settle(self, timeout: float) -> dict[str, int]:
        end = self.transport.time() + timeout
        while True:
            status = self.fields("status")
            if not status["busy"]:
                return status
            left = end - self.transport.time()
            if left <= 0:
                raise LateError(f"the chip must end within {timeout} s, but is busy after "
                                f"{self.read('completed')} operations")
            self.transport.wait(left)

    def counters(self) -> dict[str, int]:
        """Return the counters, as they were at the end of the run or at the last snapshot."""
        prefix = "counter_"
        ours = [one for one in self.registers.registers if one.name.startswith(prefix)]
        words = self.transport.read_words(COUNTERS_AT, sum(one.width for one in ours) // WORD)
        found = {}
        for one in ours:  # one behind the other
            at = (one.offset - COUNTERS_AT) // 4
            found[one.name.removeprefix(prefix)] = sum(
                words[at + n] << WORD * n for n in range(one.width // WORD))
        return found
