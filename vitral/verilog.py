# SPDX-License-Identifier: Apache-2.0
"""Verilog of a design, and the description that goes with it."""

import re
from collections.abc import Sequence
from pathlib import Path

from vitral.designs import Design
from vitral.files import check_folder
from vitral.usage import refusing

__all__ = ["verilog"]


def verilog(design: Design, preset: str, settings: Sequence[str], name: str | None,
            folder: Path) -> list[str]:
    """Write ``<name>.v`` and ``<name>.json`` to a folder; return a line about each.

    The name is that of the top module: ``<design>_<preset>`` unless given, with ``_custom`` behind
    it when settings change the preset.
    """
    from hw.emit import emit, write

    spec = design.spec(preset, settings)
    name = name or re.sub(r"\W", "_", f"{design.name}_{preset}{'_custom' * bool(settings)}")
    check_folder(folder)
    with refusing():
        emitted = emit(design.component(spec), name=name)
    with refusing(str(folder), verb="write to"):
        source, description = write(emitted, folder)
    about = emitted.description
    memory = sum(memory["width"] * memory["depth"] * memory["instances"]
                 for memory in about["memories"] if memory["writable"])
    size = f"{spec.macs} MACs, {memory / 8192:.0f} KB of memory"
    return [f"{source}: {size}, {len(about['modules'])} modules",
            f"{description}: parameters, ports and memories, hash {about['config_hash'][:12]}"]
