# SPDX-License-Identifier: Apache-2.0
"""A register map, described once: what RTL, C header, JSON and documentation are made from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from golden.validate import choice, integer, require

WORD = 32
"""Bits of a bus word; a register has one or two."""


def _named(name: str) -> None:
    require(bool(re.fullmatch(r"[a-z][a-z0-9_]*", name)),
            f"name must be lower-case words joined by underscores, not {name!r}")


@dataclass(frozen=True, kw_only=True)
class BitField:
    """Some bits of a register.

    Parameters
    ----------
    name, doc : what it is called and what it means.
    offset, width : its bits.
    values : names of values, if it is an enumeration.
    locked : in a command register: refused while the device is busy.
    """

    name: str
    offset: int
    width: int = 1
    doc: str
    values: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    locked: bool = False

    def __post_init__(self):
        _named(self.name)
        integer("offset", self.offset, 0, 63)
        integer("width", self.width, 1, 64 - self.offset)
        for value in self.values.values():
            integer(f"value of {self.name}", value, 0, (1 << self.width) - 1)

    @property
    def mask(self) -> int:
        """The bits of the field in its register."""
        return ((1 << self.width) - 1) << self.offset

    def of(self, value: int) -> int:
        """Return the field of a register's value."""
        return (value & self.mask) >> self.offset


@dataclass(frozen=True, kw_only=True)
class Register:
    """A register of 32 or 64 bits.

    Parameters
    ----------
    name, doc : what it is called and what it means.
    offset : byte address.
    access : ``read``: writes are refused; ``write``: read and written; ``command``: what is written
        happens once, reads give 0; ``clear``: what happened; a written 1 clears its bit.
    width : 32, or 64 with ``read``: the low word first.
    reset : value after a reset. Bits outside all fields always have it.
    fields : its parts; without any, the whole register is one.
    locked : writes are refused while the device is busy.
    """

    name: str
    offset: int
    access: str
    width: int = WORD
    reset: int = 0
    doc: str
    fields: tuple[BitField, ...] = ()
    locked: bool = False

    ACCESS = ("read", "write", "command", "clear")

    def __post_init__(self):
        _named(self.name)
        choice("access", self.access, self.ACCESS)
        choice("width", self.width, (WORD, 2 * WORD) if self.access == "read" else (WORD,))
        integer("offset", self.offset, 0, (1 << 16) - 4)
        integer("reset", self.reset, 0, (1 << self.width) - 1)
        require(self.offset % 4 == 0, f"offset must be a multiple of 4, not {self.offset}")
        require(not self.locked or self.access == "write",
                f"locked must be False with access {self.access}, not True")
        taken = 0
        for one in self.fields:
            require(one.mask >> self.width == 0 and not one.mask & taken,
                    f"field {one.name} must lie free inside {self.name}, not at bit {one.offset}")
            taken |= one.mask

    @property
    def writable(self) -> int:
        """The bits that a write concerns."""
        if self.access == "read":
            return 0
        return sum(one.mask for one in self.fields) if self.fields else (1 << self.width) - 1

    def decode(self, value: int) -> dict[str, int]:
        """Return the fields of a value."""
        return {one.name: one.of(value) for one in self.fields}


@dataclass(frozen=True, kw_only=True)
class RegisterMap:
    """The registers of a device.

    Parameters
    ----------
    registers : in the order of their addresses; at ``map["name"]``, too.
    address_width : bits of a byte address that has them all.
    """

    registers: tuple[Register, ...]
    address_width: int

    def __post_init__(self):
        integer("address_width", self.address_width, 3, 16)
        end = 0
        for one in self.registers:
            require(one.offset >= end,
                    f"offset of {one.name} must be at least {end:#x}, not {one.offset:#x}")
            end = one.offset + one.width // 8
        require(end <= 1 << self.address_width,
                f"address_width must hold {end:#x}, not {self.address_width}")
        names = [one.name for one in self.registers]
        require(len(set(names)) == len(names), f"names must be different, not {names}")

    @cached_property
    def _by_name(self) -> dict[str, Register]:
        return {one.name: one for one in self.registers}

    def __getitem__(self, name: str) -> Register:
        return self._by_name[name]

    def plain(self) -> list[dict[str, Any]]:
        """Return the map as JSON values."""
        return [{
            "name": one.name, "offset": one.offset, "width": one.width, "access": one.access,
            "reset": one.reset, "locked": one.locked, "meaning": one.doc,
            "fields": [{"name": part.name, "offset": part.offset, "width": part.width,
                        "locked": part.locked, "meaning": part.doc,
                        **({"values": dict(part.values)} if part.values else {})}
                       for part in one.fields],
        } for one in self.registers]

    def table(self) -> str:
        """Return the map as a table in Markdown: registers, and their fields below each."""
        lines = ["| offset | register | bits | access | reset | meaning |",
                 "| --- | --- | --- | --- | --- | --- |"]
        for one in self.registers:
            access = one.access + ", locked" * one.locked
            reset = f"{one.reset:#x}" if one.reset else "0"
            lines.append(f"| {one.offset:#05x} | `{one.name}` | {one.width - 1}:0 | {access} | "
                         f"{reset} | {one.doc} |")
            for part in one.fields:
                top = part.offset + part.width - 1
                bits = f"{top}:{part.offset}" if part.width > 1 else f"{top}"
                values = ", ".join(f"{name} {value}" for name, value in part.values.items())
                doc = part.doc + (f": {values}" if values else "")
                lines.append(f"| | `{part.name}` | {bits} | {'locked' * part.locked} | | {doc} |")
        return "\n".join(lines) + "\n"

    def header(self, prefix: str = "VITRAL") -> str:
        """Return the map as C macros: offsets, resets, shifts, masks and values."""
        lines: list[str] = []

        def define(name: str, value: int, doc: str = "", width: int = WORD) -> None:
            digits = f"{value:#x}" + ("ull" if width > WORD else "u")
            lines.append(f"#define {prefix}_{name.upper()} {digits}" + f" /* {doc} */" * bool(doc))

        for one in self.registers:
            lines.append("")
            define(one.name, one.offset, f"{one.access}, {one.width} bits: {one.doc}")
            if one.reset:
                define(f"{one.name}_reset", one.reset, width=one.width)
            for part in one.fields:
                define(f"{one.name}_{part.name}", part.mask, part.doc)
                define(f"{one.name}_{part.name}_shift", part.offset)
                for name, value in part.values.items():
                    define(f"{one.name}_{part.name}_{name}", value)
        return "\n".join(lines).lstrip("\n") + "\n"
