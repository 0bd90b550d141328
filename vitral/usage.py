# SPDX-License-Identifier: Apache-2.0
"""What is wrong with what the user asked for: one sentence, exit code 2."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["UsageError", "refusing"]


class UsageError(Exception):
    """Say in one sentence why something cannot be done as asked."""


@contextmanager
def refusing(what: str = "", *, verb: str = "read") -> Iterator[None]:
    """Turn the documented errors of what is called inside into :class:`UsageError`.

    ``what`` names the file that is read or written; it goes before a ValueError's sentence.
    """
    try:
        yield
    except OSError as error:
        name = what or error.filename
        raise UsageError(f"cannot {verb} {name}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{what}: {error}" if what else str(error)) from error
