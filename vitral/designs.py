# SPDX-License-Identifier: Apache-2.0
"""The accelerator designs by name, each with what the commands need of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from golden.rowwise.cycles import predict
from golden.rowwise.emulator import Emulator
from golden.rowwise.spec import PRESETS, RowwiseSpec
from golden.validate import choice
from vitral.compile import rowwise
from vitral.usage import UsageError, refusing

__all__ = ["DESIGNS", "Design", "design"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """One accelerator.

    Parameters
    ----------
    name, summary, paper : what it is called, what it is, where it comes from.
    presets : its named specifications.
    compile : network and specification to a :class:`vitral.compile.Program`.
    emulator : specification and memory to the golden model that executes programs.
    predict : specification and operations to the cycles they take.
    component : specification to hardware; imports the hardware language when it is called.
    simulate : specification, memory and operations to a :class:`sim.core.CoreRun`; likewise.
    counters : the names of the core's counters; likewise.
    """

    name: str
    summary: str
    paper: str
    presets: Mapping[str, RowwiseSpec]
    compile: Callable[..., Any]
    emulator: Callable[..., Any]
    predict: Callable[..., Any]
    component: Callable[..., Any]
    simulate: Callable[..., Any]
    counters: Callable[[], Sequence[str]]

    def spec(self, preset: str, settings: Sequence[str] = ()) -> RowwiseSpec:
        """Return the preset, changed by ``name=value`` settings."""
        with refusing():
            choice("preset", preset, self.presets)
        spec, changes = self.presets[preset], {}
        known = [field.name for field in fields(spec)]
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise UsageError(f"--set must be followed by name=value, not {setting!r}")
            with refusing():
                choice("parameter", name, known)
            if name in changes:
                raise UsageError(f"{name} must be set once, not twice")
            changes[name] = text
            if isinstance(getattr(spec, name), bool):
                with refusing():
                    choice(name, text, ("true", "false"))
                changes[name] = text == "true"
            elif not isinstance(getattr(spec, name), str):
                try:
                    changes[name] = int(text, 0)
                except ValueError:
                    raise UsageError(f"{name} must be an integer, not {text!r}") from None
        with refusing():
            spec = replace(spec, **changes)
            assert all((spec.memory_bits, spec.mac, spec.requant, spec.activation))  # their rules
        return spec


def _component(spec):
    from hw.rowwise.core import RowwiseCore
    return RowwiseCore(spec)


def _simulate(*arguments, **options):
    from sim.core import simulate
    return simulate(*arguments, **options)


def _counters():
    from hw.rowwise.core import COUNTERS
    return COUNTERS


DESIGNS = {entry.name: entry for entry in (
    Design(name="rowwise", summary="every layer as dot products of rows, nothing transposed",
           paper="after Hsiung and Chang, TCAS-I 2025", presets=PRESETS, compile=rowwise.compile,
           emulator=Emulator, predict=predict, component=_component, simulate=_simulate,
           counters=_counters),
)}


def design(name: str) -> Design:
    """Return the design called ``name``."""
    with refusing():
        choice("design", name, DESIGNS)
    return DESIGNS[name]
