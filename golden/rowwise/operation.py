# SPDX-License-Identifier: Apache-2.0
"""The operations of the row-wise core: descriptor fields, and the rules that they must obey."""

from collections.abc import Iterator, Mapping
from enum import IntEnum

from golden.activation import ActivationKind
from golden.fixed import ceil_div
from golden.operation import Layout, Opcode, Status, Wait
from golden.rowwise.spec import RowwiseSpec
from golden.topk import Rule


class Importance(IntEnum):
    """What an ATTEND does to the importance of the keys."""

    NONE = 0
    START = 1
    """Replace it: the first head of a layer."""
    ADD = 2


class Place(IntEnum):
    """Where an operation's rows go (and, for LOAD and STORE, which buffer is meant)."""

    ACTIVATION = 0
    """8-bit rows, after the activation function."""
    RESIDUAL = 1
    """16-bit rows, replacing what was there."""
    ADD = 2
    """16-bit rows, added to what is there, saturating: the residual stream."""
    KEY = 3
    VALUE = 4


LAYOUT = Layout.of(
    opcode=(0, 8),  # Opcode
    wait=(1, 2),  # Wait
    table=(1.25, 1),  # the weight stream starts with this operation's table or norm parameters
    unsigned=(1.375, 1),  # LINEAR: source activations are unsigned (after ReLU)
    place=(1.5, 3),  # Place
    live=(1.875, 1),  # rows (ATTEND: and keys) are cut to the tokens that are left
    tag=(2, 16),  # returned with the completion
    rows=(4, 16),  # rows (tokens) to produce
    source_row=(6, 16),  # first row read, a multiple of `rows` of the core (NORM: any)
    target_row=(8, 16),  # first row written
    source=(10, 16),  # word address of row 0: activation buffer; NORM: residual
    source_stride=(12, 16),  # words from one row group to the next
    target=(14, 16),  # word address of row 0 in the buffer of `place`; LOAD, STORE: first word
    target_stride=(16, 16),  # words; LOAD, STORE: words of memory left out behind each run
    columns=(18, 16),  # LINEAR: column tiles; ATTEND: column tiles of the values
    depth=(20, 16),  # LINEAR: contraction steps; ATTEND: contraction steps of query and key
    group=(22, 16),  # LINEAR: column tiles that share one pass over the rows
    keys=(24, 16),  # ATTEND: keys; LOAD, STORE: words to move
    key=(26, 16),  # ATTEND: word address of key 0
    value=(28, 16),  # ATTEND: word address of value 0
    width=(30, 16),  # NORM: elements of a row; LOAD, STORE: words of a run, 0 for all
    score_mul=(32, 16),  # ATTEND: requantisation of the scores; NORM: of the fused row
    score_shift=(34, 6),
    shift=(35, 6),  # ATTEND: exponent of the value scale; NORM: 12 + fraction bits of gamma
    mul=(36, 16),  # ATTEND: multiplier of the value scale
    activation=(38, 2),  # LINEAR to ACTIVATION: ActivationKind
    address=(40, 32),  # external memory: weight stream; LOAD, STORE: first byte
    token=(44, 16),  # live: the token that row 0 of the operation stands for
    level=(46, 16),  # PRUNE, FUSE: what `rule` compares with; LINEAR with detect: 0 up to this
    rule=(48, 2),  # PRUNE, FUSE: Rule
    protected=(48.25, 2),  # PRUNE, FUSE: first tokens that always stay; at least 1
    importance=(48.5, 2),  # ATTEND: Importance
    gather=(48.75, 1),  # NORM, live: rows are those that the last PRUNE kept, and move up
    detect=(48.875, 1),  # LINEAR: list the blocks of results that are not all 0
    skip=(49, 1),  # LINEAR: multiply the listed blocks alone
)
"""The descriptor. Offsets are bytes; a quarter of a byte stands for two bits."""

SCALE_BYTES = 8
"""Bytes of one column's bias (s32), multiplier (u16) and shift (u8, one byte of padding)."""
NORM_BYTES = 4
"""Bytes of one element's gamma and beta (s16 each)."""


LIVE = (Opcode.LINEAR, Opcode.ATTEND, Opcode.NORM)
"""The operations whose rows ``live`` cuts; the others ignore it."""
CHOICES = (Opcode.PRUNE, Opcode.FUSE)
"""The operations that choose tokens."""


def live_rows(op: Mapping[str, int], tokens: int) -> int:
    """Return the rows that an operation computes when ``tokens`` tokens are left."""
    cut = op["live"] and op["opcode"] in LIVE
    return min(op["rows"], max(0, tokens - op["token"])) if cut else op["rows"]


def groups(rows: int, banks: int) -> int:
    """Return the row groups that ``rows`` rows touch, counted from row 0."""
    return ceil_div(rows, banks)


def sections(spec: RowwiseSpec, op: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the parts of an operation's weight stream, in order: name and bytes."""
    match op["opcode"]:
        case Opcode.LINEAR:
            if op["table"]:
                yield "activation table", 1 << spec.table_width
            for _ in range(op["columns"]):
                yield "scale", SCALE_BYTES * spec.columns
                yield "tile", op["depth"] * spec.columns * spec.depth
        case Opcode.ATTEND:
            if op["table"]:
                yield "exponent table", 256
        case Opcode.NORM:
            if op["table"]:
                yield "norm", ceil_div(op["width"], spec.columns) * spec.columns * NORM_BYTES


def move_bytes(spec: RowwiseSpec, op: Mapping[str, int]) -> int:
    """Return the bytes that a LOAD or STORE moves."""
    name = "activation" if op["place"] == Place.ACTIVATION else "residual"
    return op["keys"] * spec.block_bytes[name]


def runs(spec: RowwiseSpec, op: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of bytes that a LOAD or STORE moves, in order: address and bytes.

    After each run of ``width`` words it leaves out ``target_stride`` words of memory; addresses
    have 32 bits.
    """
    size, left, address = move_bytes(spec, op), op["keys"], op["address"]
    size //= left
    while left:
        words = min(left, op["width"] or left)
        yield address % (1 << 32), words * size
        address += (words + op["target_stride"]) * size
        left -= words


def check(spec: RowwiseSpec, op: Mapping[str, int]) -> Status:
    """Return OK, or why the core refuses the operation before touching anything.

    The three kinds are tested in the order BAD_OPCODE, BAD_SHAPE, OUT_OF_RANGE.
    """
    kind, place = op["opcode"], op["place"]
    places = {
        Opcode.HALT: range(8),
        Opcode.LINEAR: (Place.ACTIVATION, Place.RESIDUAL, Place.ADD, Place.KEY, Place.VALUE),
        Opcode.ATTEND: (Place.ACTIVATION,), Opcode.NORM: (Place.ACTIVATION,),
        Opcode.LOAD: (Place.ACTIVATION, Place.RESIDUAL),
        Opcode.STORE: (Place.ACTIVATION, Place.RESIDUAL),
        **({Opcode.PRUNE: range(8)} if spec.pruning != "none" else {}),
        **({Opcode.FUSE: range(8)} if spec.fuse else {}),
    }
    if kind not in places or place not in places[Opcode(kind)] or op["wait"] > Wait.ALL:
        return Status.BAD_OPCODE
    if kind == Opcode.LINEAR and op["activation"] not in spec.activation.kinds:
        return Status.BAD_OPCODE
    if kind == Opcode.LINEAR and ((op["detect"] or op["skip"]) and not spec.skip_words or (
            op["detect"] and (place, op["activation"]) != (Place.ACTIVATION, ActivationKind.RELU))):
        return Status.BAD_OPCODE
    if (kind == Opcode.ATTEND and op["importance"] > Importance.ADD or spec.pruning == "none" and (
            kind == Opcode.ATTEND and op["importance"] or kind == Opcode.NORM and op["gather"])):
        return Status.BAD_OPCODE
    if kind == Opcode.NORM and op["gather"] and not op["live"]:
        return Status.BAD_OPCODE
    if kind in CHOICES and op["rule"] > Rule.MEAN:
        return Status.BAD_OPCODE
    if kind == Opcode.HALT:
        return Status.OK
    if kind in CHOICES:
        return Status.OK if 0 < op["rows"] <= spec.max_keys else Status.BAD_SHAPE
    if op["address"] % spec.memory_bytes:
        return Status.BAD_SHAPE
    shape = {
        Opcode.LINEAR: ("rows", "columns", "depth", "group"),
        Opcode.ATTEND: ("rows", "columns", "depth", "keys"),
        Opcode.NORM: ("rows", "width"), Opcode.LOAD: ("keys",), Opcode.STORE: ("keys",),
    }[Opcode(kind)]
    if any(op[name] == 0 for name in shape):
        return Status.BAD_SHAPE
    if kind in LIVE and op["live"] and op["token"] + op["rows"] > spec.max_keys:
        return Status.BAD_SHAPE
    if kind in (Opcode.LINEAR, Opcode.ATTEND) and (
            op["source_row"] % spec.rows or op["depth"] > spec.max_contraction // spec.depth):
        return Status.BAD_SHAPE
    if kind == Opcode.LINEAR and op["group"] > spec.weight_tiles:
        return Status.BAD_SHAPE
    size = spec.block_units  # whole blocks, and row tiles that are row groups
    for flag, row, numbers in (("detect", "target_row", op["columns"] * spec.columns),
                               ("skip", "source_row", op["depth"] * spec.depth)):
        if kind == Opcode.LINEAR and op[flag] and (
                op[row] % spec.rows or op[row] + op["rows"] > spec.max_keys or numbers % size):
            return Status.BAD_SHAPE
    if kind == Opcode.ATTEND and op["keys"] > spec.max_keys:
        return Status.BAD_SHAPE
    if kind == Opcode.NORM and (op["width"] > spec.max_width or not
                                spec.norm.Z_FRACTION <= op["shift"] <= spec.norm.MAX_SHIFT):
        return Status.BAD_SHAPE
    if kind in (Opcode.LOAD, Opcode.STORE) and op["address"] + move_bytes(spec, op) > 1 << 32:
        return Status.OUT_OF_RANGE
    for base, count, stride, words, size in extents(spec, op):
        if base + (count - 1) * stride + words > size or (count > 1 and words > stride):
            return Status.OUT_OF_RANGE
    return Status.OK


def extents(spec: RowwiseSpec, op: Mapping[str, int]) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield what an operation occupies: (base, groups, stride, words per group, buffer words).

    It fits if ``base + (groups - 1) * stride + words <= buffer words`` and, when there are several
    groups, ``words <= stride``.
    """
    word = spec.word_bytes
    rows, size = op["rows"], spec.words
    source_rows, target_rows = op["source_row"] + rows, op["target_row"] + rows
    written = ceil_div(op["columns"] * spec.columns, word)
    read = ceil_div(op["depth"] * spec.depth, word)
    activation_source = (op["source"], groups(source_rows, spec.rows), op["source_stride"], read,
                         size("activation"))
    match op["opcode"]:
        case Opcode.LINEAR:
            yield activation_source
            yield 0, op["group"], op["depth"], op["depth"], size("weight")
            base, stride = op["target"], op["target_stride"]
            match op["place"]:
                case Place.ACTIVATION:
                    yield base, groups(target_rows, spec.rows), stride, written, size("activation")
                case Place.RESIDUAL | Place.ADD:
                    yield base, target_rows, stride, op["columns"], size("residual")
                case Place.KEY:
                    yield base, groups(target_rows, spec.columns), stride, written, size("key")
                case Place.VALUE:
                    yield (base, groups(target_rows, spec.depth), stride, op["columns"],
                           size("value"))
        case Opcode.ATTEND:
            yield activation_source
            yield op["key"], groups(op["keys"], spec.columns), read, read, size("key")
            yield (op["value"], groups(op["keys"], spec.depth), op["columns"], op["columns"],
                   size("value"))
            yield (op["target"], groups(target_rows, spec.rows), op["target_stride"], written,
                   size("activation"))
        case Opcode.NORM:
            words = ceil_div(op["width"], spec.columns)
            yield op["source"], source_rows, op["source_stride"], words, size("residual")
            yield (op["target"], groups(target_rows, spec.rows), op["target_stride"],
                   ceil_div(words * spec.columns, word), size("activation"))
        case Opcode.LOAD | Opcode.STORE:
            name = "activation" if op["place"] == Place.ACTIVATION else "residual"
            yield op["target"], 1, 0, op["keys"], size(name)
