# SPDX-License-Identifier: Apache-2.0
"""What there is: designs, presets, models."""

from models.zoo import MODELS
from vitral.boards import BOARDS
from vitral.designs import DESIGNS
from vitral.fpga import DEVICES

__all__ = ["listing"]

ROW = "  {:<16}{:>6}   {:<24}{:>14}{:>16}"


def listing() -> str:
    """Return the text of ``vitral list``."""
    lines = ["Designs"]
    for design in DESIGNS.values():
        lines.append(f"  {design.name:<16}{design.summary}; {design.paper}")
    for design in DESIGNS.values():
        lines += ["", f"Presets of {design.name}",
                  ROW.format("preset", "MACs", design.shape, "on-chip memory",
                             "memory port")]
        for name, spec in design.presets.items():
            array = design.array(spec)
            memory = f"{sum(spec.memory_bits.values()) / 8192:.0f} KB"
            port = f"{design.channels(spec) * spec.memory_bytes} bytes/cycle"
            lines.append(ROW.format(name, spec.macs, array, memory, port))
    lines += ["", "Boards (vitral bitstream; run them with vitral run --board)"]
    for name, device in BOARDS.items():
        luts, ebrs, dsps = DEVICES[device]
        lines.append(f"  {name:<16}ULX3S with an ECP5-{device[:2]}F: {luts:,} LUT, {dsps} "
                     f"multipliers, {ebrs * 2} KB of block RAM")
    lines += ["", "Models (accuracy in floats, on 360 held-out images)"]
    for entry in MODELS.values():
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.2%}"
        lines.append(f"  {entry.name:<16}{accuracy:>8}   {entry.summary}")
    return "\n".join(lines)
