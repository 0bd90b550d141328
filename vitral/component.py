# SPDX-License-Identifier: Apache-2.0
"""Components by name, for tools that measure them."""

import importlib
import json
import sys
import typing
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from golden.validate import choice
from hw.emit import from_plain

__all__ = ["REFUSALS", "named"]

REFUSALS = (ImportError, AttributeError, KeyError, TypeError, ValueError)
"""What :func:`named` raises for something that is not there."""


def named(name: str, fields: Iterable[str] = (), preset: str | None = None) -> Any:
    """Return the component ``module:Class`` of a specification.

    The constructor takes one annotated specification. Its ``fields`` are ``name=value``, in JSON; a
    ``preset`` is looked up in ``PRESETS`` beside the specification, and changed by them.
    """
    module, _, kind = name.partition(":")
    build = getattr(importlib.import_module(module), kind)
    spec_kind = typing.get_type_hints(build.__init__)["spec"]
    plain = {key: json.loads(value) for key, value in (field.split("=", 1) for field in fields)}
    if preset is None:
        return build(from_plain(spec_kind, plain))
    presets = sys.modules[spec_kind.__module__].PRESETS
    choice("preset", preset, presets)
    return build(replace(presets[preset], **plain))
