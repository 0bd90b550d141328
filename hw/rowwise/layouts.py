# SPDX-License-Identifier: Apache-2.0
"""What passes between the blocks of the row-wise core, and between the core and the world."""

from enum import IntEnum

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from golden.fixed import ceil_div
from golden.operation import Status
from golden.rowwise.operation import LAYOUT, Importance
from golden.rowwise.spec import RowwiseSpec


def log2(value: int) -> int:
    """Return the exponent of a power of two."""
    return value.bit_length() - 1


OPERATION = data.StructLayout({
    **{name: unsigned(field.width) for name, field in LAYOUT.fields.items()
       if name != "score_mul"},  # it lies in `level`: no operation needs both
    "status": Status,  # what the decoder found
    "source_start": 16,  # word address of the first row read
    "target_start": 16,  # word address of the first row written
})
"""A decoded operation."""

class Engine(IntEnum):
    """Who executes an operation."""

    ARRAY = 0
    NORM = 1
    MOVE = 2
    SELECT = 3
    NOBODY = 4


PROGRESS = wiring.Signature({
    "limit": Out(17),  # rows (LOAD: words) below it are complete in the operation `id`
    "id": Out(1),
    "done": Out(1),  # one cycle: the operation `done_id` is complete
    "done_id": Out(1),
    "error": Out(1),  # with done: one of its memory accesses failed
})
"""How far an engine has come."""

CHAIN = data.StructLayout({"open": 1, "engine": 2, "id": 1})
"""The operation that a dispatched one follows row by row, while it is unfinished."""


class Chain:
    """The consumer's side of following another operation row by row.

    It knows of a row the cycle after the operation that it follows says so.
    """

    def __init__(self, m: Module, progress, name: str):
        self._state = Signal(CHAIN, name=f"chain_{name}")
        self._moves = Signal(name=f"chain_{name}_moves")  # a LOAD is followed
        self._ended = Signal(name=f"chain_{name}_ended")
        self.limit = Signal(17, name=f"chain_{name}_limit")
        """Rows (words of a LOAD) below it are complete in the operation that is followed."""
        m.d.sync += self.limit.eq(0)
        for engine, other in progress.items():
            mine = self._state.engine == engine
            with m.If(mine & other.done & (other.done_id == self._state.id)):
                m.d.comb += self._ended.eq(1)
            with m.If(mine & (other.id == self._state.id)):
                m.d.sync += self.limit.eq(other.limit)
        with m.If(self._ended):
            m.d.sync += self._state.open.eq(0)

    def start(self, chain):
        """Return the assignments that begin to follow ``chain``."""
        return [self._state.eq(chain), self._moves.eq(chain.engine == Engine.MOVE),
                self.limit.eq(0)]

    @property
    def normed(self):
        """Whether a NORM is followed."""
        return self._state.open & (self._state.engine == Engine.NORM)

    @property
    def rows(self):
        """Whether rows must be waited for: those from ``limit`` on are not complete."""
        return self._state.open & ~self._moves

    @property
    def words(self):
        """Whether words must be waited for: those from ``limit`` on have not been loaded."""
        return self._state.open & self._moves


def length_layout(spec: RowwiseSpec) -> data.StructLayout:
    """How long the list of blocks of a row group is, and whether its next block has a number."""
    return data.StructLayout({
        "length": spec.length_width, **({"above": 1} if spec.block_tiles > 1 else {})})


class Kind(IntEnum):
    """What becomes of a finished tile."""

    LINEAR = 0
    SCORE = 1
    OUTPUT = 2


class ColumnSource(IntEnum):
    """Where the column operand comes from."""

    WEIGHT = 0
    KEY = 1
    VALUE = 2
    NOTHING = 3
    """It is 0: the step of a row tile whose list of blocks is empty."""


def pointer(spec: RowwiseSpec) -> data.StructLayout:
    """A row of a banked buffer: address of its first word, and bank."""
    return data.StructLayout({"address": 16, "lane": range(max(2, bank_limit(spec)))})


def bank_limit(spec: RowwiseSpec) -> int:
    """Return the largest number of banks of the row buffers."""
    return max(spec.rows, spec.columns, spec.depth)


def tile(spec: RowwiseSpec) -> data.StructLayout:
    """What the collector must know about a tile."""
    return data.StructLayout({
        "kind": Kind,
        "id": 1,
        "rows": range(spec.rows + 1),
        "target": pointer(spec),
        "column": 16,  # column tile: position within the row, in units of `columns` bytes
        "scale": range(spec.weight_tiles),
        "slot": 1,  # OUTPUT: exponent slot
        "slot_last": 1,  # OUTPUT: the last tile that needs the slot
        "final": 1,  # its rows are complete after it
        "limit": 17,  # row limit after it
        "last": 1,  # the operation is complete after it
    })


def config(spec: RowwiseSpec) -> data.StructLayout:
    """What the collector must know about an operation."""
    return data.StructLayout({
        "place": 3, "activation": 2, "stride": 16, "keys": range(spec.max_keys + 1),
        "score_mul": 16, "score_shift": 6, "mul": 16, "shift": 6,
        "importance": Importance, "first": 1,  # its row 0 is the class token
        **({"rows": 16} if spec.pruning == "column" else {}),
        **({"detect": 1, "level": 8} if spec.skip_words else {}),
    })


def exponent_words(spec: RowwiseSpec) -> int:
    """Return the words of one row in one slot of the exponent buffer."""
    return ceil_div(spec.max_keys, spec.word_bytes)

