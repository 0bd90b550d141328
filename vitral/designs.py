# SPDX-License-Identifier: Apache-2.0
"""The accelerator designs by name, each with what the commands need of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from golden.rowwise.cycles import predict
from golden.rowwise.emulator import Emulator
from golden.rowwise.spec import PRESETS
from golden.spatten import cycles as spatten_cycles
from golden.spatten.emulator import Emulator as SpattenEmulator
from golden.spatten.spec import PRESETS as SPATTEN_PRESETS
from golden.validate import choice
from vitral import losses
from vitral.compile import rowwise, spatten
from vitral.sparse import static_work
from vitral.usage import UsageError, refusing

__all__ = ["DESIGNS", "Design", "design"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """One accelerator.

    Parameters
    ----------
    name, summary, paper : what it is called, what it is, where it comes from.
    presets : its named specifications.
    shape, array : how its multipliers are arranged: in words, and of a specification.
    unit : what they are called.
    channels : specification to the number of its memory ports.
    component : specification to hardware; imports the hardware language when it is called.
    runs : what it can run: ``network``, ``trace`` (of attention).
    compile : network, specification, :class:`vitral.sparse.Sparsity` and whether to trace to a
        :class:`vitral.compile.Program`; None, as what follows, for a design that does not run
        networks.
    emulator : specification and memory, as bytes, to the golden model that executes programs.
    predict : specification and operations to the cycles they take.
    static_work : specification and program to what its operations have to do.
    simulate : specification, memory and operations to a :class:`sim.core.CoreRun`.
    counters : the names of the core's counters; likewise.
    losses : where its cycles go.
    attention : emulator and operations of an image to what attention left out, by key of the
        result.
    kept : emulator and operations of an image to block and tokens that were left behind it, of the
        first image.
    options : options of the command line that not every design has.
    """

    name: str
    summary: str
    paper: str
    presets: Mapping[str, Any]
    shape: str
    array: Callable[[Any], str]
    unit: str = "MACs"
    component: Callable[..., Any]
    channels: Callable[[Any], int] = lambda spec: 1
    runs: tuple[str, ...]
    compile: Any = None
    emulator: Any = None
    predict: Any = None
    static_work: Any = None
    simulate: Any = None
    counters: Any = None
    losses: Any = None
    attention: Any = lambda emulator, steps: {}
    kept: Any = lambda emulator, steps: {}
    options: tuple[str, ...] = ()

    def spec(self, preset: str, settings: Sequence[str] = ()) -> Any:
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
            assert spec.memory_bits  # and the rules of the parts that follow from it
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


def _spatten(spec):
    from hw.spatten.core import SpattenCore
    return SpattenCore(spec)


def _spatten_emulator(spec, memory):
    """Memory as the core has it: by beats and channels."""
    return SpattenEmulator(spec, memory.reshape(-1, spec.channels, spec.memory_bytes))


def _spatten_simulate(spec, memory, operations, *, sample=0, **options):
    from sim.spatten import simulate
    done = simulate(spec, memory.reshape(-1, spec.channels, spec.memory_bytes), operations,
                    **options)
    return replace(done, memory=done.memory.reshape(-1))


def _spatten_counters():
    from hw.spatten.core import COUNTERS
    return COUNTERS


def _attention(emulator, steps):
    """Return how many heads attended in each block, and what of values and low bits was fetched.

    Low bits are where keys are read whole, too.
    """
    whole = any(step.fields.get("key_planes", 0) > 1 for step in steps)
    attends = [rows for rows in emulator.rows if rows]
    blocks = sum(step.name.endswith(".attend") for step in steps)
    rows = [row for rows in attends for row in rows]
    heads = [[len({row.head for row in rows}) for rows in attends[n::blocks]]
             for n in range(blocks)]
    return {"heads": [round(sum(counts) / len(counts), 3) for counts in heads],
            "values_fetched": round(sum(row.values for row in rows)
                                    / sum(row.keys for row in rows), 6),
            "low_fetched": round(sum(row.low or whole for row in rows) / len(rows), 6)}


def _kept(emulator, steps):
    """Return the tokens that each PRUNE of the first image left, by block."""
    blocks = [int(step.name.split(".")[1]) for step in steps if step.name.endswith(".prune")]
    return dict(zip(blocks, (tokens.tolist() for tokens in emulator.kept)))


DESIGNS = {entry.name: entry for entry in (
    Design(name="rowwise", summary="every layer as dot products of rows, nothing transposed",
           paper="after Hsiung and Chang, TCAS-I 2025", presets=PRESETS,
           shape="rows x columns x depth",
           array=lambda spec: f"{spec.rows} x {spec.columns} x {spec.depth}",
           runs=("network",), emulator=Emulator, predict=predict, component=_component,
           compile=lambda network, spec, sparsity, trace=False: rowwise.compile(
               network, spec, trace=trace),
           static_work=lambda spec, program: static_work(program),
           simulate=_simulate, counters=_counters, losses=losses.ROWWISE,
           options=("fuse", "skip", "trace", "timeline")),
    Design(name="spatten", summary="attention that chooses tokens, heads, values and bits",
           paper="after SpAtten, HPCA 2021", presets=SPATTEN_PRESETS,
           shape="channels x lanes", unit="multipliers of 12 x 4 bit",
           array=lambda spec: f"{spec.channels} x {spec.lanes}",
           channels=lambda spec: spec.channels, component=_spatten, runs=("network", "trace"),
           emulator=_spatten_emulator, predict=spatten_cycles.predict,
           compile=lambda network, spec, sparsity, trace=False: spatten.compile(
               network, spec, trace=trace, choices=sparsity.choices),
           static_work=lambda spec, program: spatten_cycles.static_work(
               spec, program.operations()),
           simulate=_spatten_simulate, counters=_spatten_counters, losses=losses.SPATTEN,
           attention=_attention, kept=_kept,
           options=("source", "values", "confident", "heads_left", "survivors")),
)}


def design(name: str, *, runs: str = "") -> Design:
    """Return the design called ``name``; ``runs`` is what it must run: a network, or a trace."""
    with refusing():
        choice("design", name, DESIGNS)
    one = DESIGNS[name]
    if runs and runs not in one.runs:
        able = [entry.name for entry in DESIGNS.values() if runs in entry.runs]
        raise UsageError(f"design must be one that runs a {runs}, {', '.join(able)}, not {name!r}")
    return one
