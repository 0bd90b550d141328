# SPDX-License-Identifier: Apache-2.0
"""Registers next to the multipliers of an ECP5 move into them.

A MULT18X18D has a register behind it, which Yosys leaves aside: the product crosses the device to
registers made of slices first. Here what it mapped is changed so that the block keeps the product
itself: the same registers at the same places of the circuit, one wire less on the way to them.
"""

import re
from collections import defaultdict
from typing import Any

__all__ = ["absorb"]

KIND, REGISTER = "MULT18X18D", "TRELLIS_FF"
_PRODUCT = re.compile(r"P\d+")


def absorb(netlist: dict[str, Any], top: str) -> int:
    """Change a netlist of Yosys (``write_json``) so that multipliers hold their products.

    The register of a product moves if it is the only thing that reads it, with one clock and one
    enable for all bits, without a reset, at the rising edge, and begins with 0 as the one inside
    the multiplier does.

    Returns
    -------
    int
        How many multipliers took theirs.
    """
    module = netlist["modules"][top]
    cells = module["cells"]
    readers = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] != "output":
                for bit in bits:
                    readers[bit].append((name, port))
    for port in module["ports"].values():
        if port["direction"] != "input":
            for bit in port["bits"]:
                readers[bit].append((None, None))
    count = 0
    for cell in [one for one in cells.values() if one["type"] == KIND]:
        count += _absorb(cell, cells, readers)
    return count


def _absorb(cell, cells, readers) -> bool:
    """Move the register behind one multiplier into it, if it can be."""
    registers = {}
    for port, bits in cell["connections"].items():
        if _PRODUCT.fullmatch(port):
            found = readers[bits[0]]
            if len(found) > 1:
                return False
            if found:
                name, pin = found[0]
                if name is None or cells[name]["type"] != REGISTER or pin != "DI":
                    return False
                registers[port] = name
    kinds = {_kind(cells[name]) for name in registers.values()}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        return False
    clock, enable = kind
    cell["parameters"] |= {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0",
                           "REG_OUTPUT_RST": "RST0"}
    for port, bit in (("CLK0", clock), ("CE0", enable), ("RST0", "0")):
        cell["connections"][port] = [bit]
        cell["port_directions"][port] = "input"
    for port, name in registers.items():
        cell["connections"][port] = cells.pop(name)["connections"]["Q"]
    return True


def _kind(cell) -> tuple[Any, Any] | None:
    """Return clock and enable of a register that a multiplier can have; None for another."""
    parameters, connections = cell["parameters"], cell["connections"]
    always = parameters["CEMUX"].strip() == "1"
    if (parameters["CLKMUX"] != "CLK" or parameters["REGSET"] != "RESET"
            or not (always or parameters["CEMUX"] == "CE")
            or connections.get("LSR", ["0"]) != ["0"]):
        return None
    return connections["CLK"][0], "1" if always else connections["CE"][0]
