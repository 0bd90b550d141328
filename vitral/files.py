# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from vitral.usage import UsageError, refusing

__all__ = ["check_folder", "check_output", "write"]


def check_folder(folder: Path) -> None:
    """Require that files can be made in ``folder``, which may itself be missing."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with refusing(str(folder), verb="write to"), tempfile.TemporaryFile(dir=folder):
        pass


def check_output(path: Path) -> None:
    """Require that ``write(path, ...)`` is going to work, before the work that leads to it."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: Is a directory")
    if path.exists() and not path.is_file():
        return  # a device or a pipe
    if not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}: its folder does not exist")
    check_folder(path.absolute().parent)


def write(path: Path, content: bytes) -> None:
    """Write a file under another name, then rename it; devices and pipes are written directly."""
    with refusing(str(path), verb="write"):
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path = path.resolve()  # a link stays one
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
