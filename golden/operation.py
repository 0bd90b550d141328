# SPDX-License-Identifier: Apache-2.0
"""What every core shares: operations as fixed-size descriptors, and how they end."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from golden.validate import integer

DESCRIPTOR_BYTES = 64
"""Size of one operation in memory and on the operation stream."""


class Opcode(IntEnum):
    """The kinds of operation. A core refuses those it does not have."""

    HALT = 0
    """End of the program: completes when everything before it has, and clears the error state."""
    LINEAR = 1
    """Rows times a weight matrix, requantised, activated or added to the residual stream."""
    ATTEND = 2
    """Softmax attention of one head."""
    NORM = 3
    """LayerNorm of residual rows."""
    LOAD = 4
    """External memory to scratchpad."""
    STORE = 5
    """Scratchpad to external memory."""
    PRUNE = 6
    """Choose the tokens that stay, and set the token count."""
    FUSE = 7
    """PRUNE, and those that leave become one more token behind those that stay."""


class Wait(IntEnum):
    """What an operation waits for before it starts."""

    NONE = 0
    """Nothing: the compiler knows that no earlier unfinished operation concerns it."""
    ROWS = 1
    """Row by row for the operation just before it; nothing earlier unfinished concerns it."""
    ALL = 2
    """The end of all earlier operations."""


class Status(IntEnum):
    """How an operation ended."""

    OK = 0
    BAD_OPCODE = 1
    """No such operation here, or an undefined value in one of its enumerated fields."""
    BAD_SHAPE = 2
    """A size is zero or beyond what the core was built for, or an address is misaligned."""
    OUT_OF_RANGE = 3
    """Rows, tiles or words beyond the end of the buffer they name."""
    BUS_ERROR = 4
    """A read or write of external memory failed; the operation's destination is undefined."""
    SKIPPED = 5
    """Not executed, because an earlier operation of the program failed."""


@dataclass(frozen=True)
class Completion:
    """The end of one operation."""

    tag: int
    status: Status


class BusError(Exception):
    """An access beyond the external memory."""


@dataclass(frozen=True)
class Field:
    """A bit field of a descriptor."""

    offset: int
    width: int


@dataclass(frozen=True)
class Layout:
    """The fields of a design's operations, at fixed bit offsets of the descriptor."""

    fields: Mapping[str, Field]

    @classmethod
    def of(cls, **places: tuple[float, int]) -> "Layout":
        """Build from ``name=(byte, width)``, where a quarter of a byte stands for two bits."""
        fields = {name: Field(int(byte * 8), width) for name, (byte, width) in places.items()}
        taken = 0
        for name, field in fields.items():
            mask = ((1 << field.width) - 1) << field.offset
            if taken & mask or field.offset + field.width > 8 * DESCRIPTOR_BYTES:
                raise ValueError(f"field {name} must lie free inside the descriptor, not at bit "
                                 f"{field.offset}")
            taken |= mask
        return cls(fields)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The field names, in declaration order."""
        return tuple(self.fields)

    def pack(self, values: Mapping[str, int]) -> bytes:
        """Return the descriptor; fields that are not named are 0.

        Raises ``ValueError`` for an unknown field or a value that does not fit its field.
        """
        word = 0
        for name, value in values.items():
            if name not in self.fields:
                raise ValueError(f"field must be one of {', '.join(self.fields)}, not {name!r}")
            field = self.fields[name]
            integer(name, int(value), 0, (1 << field.width) - 1)
            word |= int(value) << field.offset
        return word.to_bytes(DESCRIPTOR_BYTES, "little")

    def unpack(self, descriptor: bytes) -> dict[str, int]:
        """Return every field of a descriptor."""
        if len(descriptor) != DESCRIPTOR_BYTES:
            raise ValueError(f"descriptor must have {DESCRIPTOR_BYTES} bytes, "
                             f"not {len(descriptor)}")
        word = int.from_bytes(descriptor, "little")
        return {name: word >> field.offset & (1 << field.width) - 1
                for name, field in self.fields.items()}
