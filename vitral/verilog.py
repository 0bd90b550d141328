# SPDX-License-Identifier: Apache-2.0
"""Verilog of a design, and the description that goes with it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from golden.shell import ShellSpec
from vitral.designs import Design
from vitral.files import check_folder
from vitral.files import write as write_file
from vitral.header import header
from vitral.usage import refusing

__all__ = ["verilog"]


def verilog(design: Design, preset: str, settings: Sequence[str], name: str | None,
            folder: Path, shell: ShellSpec | None = None) -> list[str]:
    """Write ``<name>.v`` and ``<name>.json`` to a folder; return a line about each.

    The name is that of the top module: ``<design>_<preset>`` unless given, with ``_custom`` behind
    it when settings change the preset. With a ``shell`` it is that of a chip, with ``_chip`` behind
    it; its registers are described too, and there is a C header.
    """
    from hw.emit import emit, write

    spec = design.spec(preset, settings)
    name = name or re.sub(r"\W", "_", f"{design.name}_{preset}{'_custom' * bool(settings)}"
                          f"{'_chip' * bool(shell)}")
    check_folder(folder)
    lines = []
    with refusing():
        component = design.chip(spec, shell) if shell else design.component(spec)
        emitted = emit(component, name=name)
    if shell is not None:
        digest = emitted.description["config_hash"]
        emitted = replace(emitted, description={
            **emitted.description, "registers": component.registers.plain()})
        path = folder / f"{name}.h"
        folder.mkdir(parents=True, exist_ok=True)
        channels = design.joined(spec) if design.joined else None
        write_file(path, header(name, component.registers, digest, channels).encode())
        lines = [f"{path}: registers for C"]
    with refusing(str(folder), verb="write to"):
        source, description = write(emitted, folder)
    about = emitted.description
    memory = sum(memory["width"] * memory["depth"] * memory["instances"]
                 for memory in about["memories"] if memory["writable"])
    size = f"{spec.macs} MACs, {memory / 8192:.0f} KB of memory"
    return [f"{source}: {size}, {len(about['modules'])} modules",
            f"{description}: parameters, ports and memories, hash {about['config_hash'][:12]}",
            *lines]
