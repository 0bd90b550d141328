# SPDX-License-Identifier: Apache-2.0
"""When the row-wise core does what: its cycle model, tile by tile.

The model replays the loops of the core with the latencies of its pipelines and with the traffic on
its memory port; of the data it knows what the emulator says of the work. It counts what an
operation costs beyond ``work / MACs``: tile remainders, weights that have not arrived, row tiles
that LayerNorm or softmax have not finished, the collector's spacing of tiles, and the drain before
an operation that needs all of its predecessor. What the normaliser loses to the collector's writes
is counted tile by tile, on average; what LOAD loses to both is not counted.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from golden.activation import ActivationKind
from golden.fixed import ceil_div
from golden.kernel import Event, Kernel, Process
from golden.operation import Opcode, Status, Wait
from golden.rowwise.emulator import Work
from golden.rowwise.operation import (
    CHOICES,
    LAYOUT,
    LIVE,
    Place,
    check,
    move_bytes,
    runs,
    sections,
)
from golden.rowwise.spec import RowwiseSpec

DECODE = 22
"""Cycles from one descriptor to the next in the decoder."""
BURST = 64
"""Most beats of one request of a LOAD or STORE, so that other readers get their turn."""
AHEAD = 96
"""Beats that a LOAD may wait for when it asks for more."""
OUTSTANDING = 16
"""Read requests under way."""
KNOWN = 8
"""How far ahead the reads of the collector are known."""
Waiting = Generator["int | Event", None, int]
"""A process that ends with a cycle."""
ARRAY_OPERATIONS = (Opcode.LINEAR, Opcode.ATTEND)

Span = tuple[int, int, int]
"""First cycle, the cycle behind the last, and events in between."""


@dataclass(frozen=True)
class Prediction:
    """What :func:`predict` says.

    ``completions`` has the cycle at which each operation is reported, counted from reset;
    ``counters`` has those of the core that the model knows, at the end; ``spans`` says when each of
    them counted.
    """

    completions: list[int]
    counters: dict[str, int]
    spans: dict[str, list[Span]]

    @property
    def cycles(self) -> int:
        """Cycles until the last operation is reported."""
        return self.completions[-1]


@dataclass
class _Operation:
    """An operation on its way through the model."""

    op: Mapping[str, int]
    number: int
    status: Status
    done: int | None = None  # cycle of the pulse that ends it
    ended: bool = False
    limit: int = 0  # rows below it are complete
    follows: "_Operation | None" = None
    arrived: list[tuple[int, int, int]] = field(default_factory=list)  # first beat, beats, cycle
    walked: bool = False
    tables: bool = False
    blocks: tuple[int, ...] | None = None  # LINEAR with skip: those of each row tile's list
    start: int = 0  # cycle in which the array's walker got it
    scored: int = 0  # row tiles that have been through the softmax
    spread: tuple[int, int] = (1, 1)  # NORM: tokens before and after those that are gathered
    fuses: bool = False  # NORM: its last row is the sum of the others
    changed: Event = field(init=False)

    @property
    def empty(self) -> bool:
        """Whether no rows are left of it."""
        return self.status == Status.OK and self.op["opcode"] in LIVE and not self.op["rows"]


@dataclass(frozen=True)
class _Tile:
    """One tile of results."""

    kind: str
    steps: int
    need: int = 0
    release: bool = False
    row: int = 0
    word: int = 0
    rows: int = 0
    first: bool = False
    slot_last: bool = False
    final: bool = False
    limit: int = 0
    last: bool = False
    words: int = 0  # of the ring, read or not
    listed: bool = False
    looks: bool = False  # length and first entry of a list are read for it
    reads: bool = True  # weights


def predict(spec: RowwiseSpec, operations: Iterable[bytes], *, latency: int = 64,
            work: Sequence[Work] | None = None) -> Prediction:
    """Predict the cycles of a program.

    Parameters
    ----------
    spec : RowwiseSpec
    operations : descriptors, all offered one after the other from the first cycle on.
    latency : cycles from an accepted read request to its first beat; one beat per cycle follows.
    work : what :class:`~golden.rowwise.emulator.Emulator` says that each operation had to do; None
        stands for dense operations.
    """
    return _Model(spec, operations, latency, work).run()


def overlap(spans: Iterable[Span], others: Iterable[Span]) -> tuple[list[Span], list[Span]]:
    """Return the cycles of ``spans`` inside and outside ``others``, both in order of time."""
    inside, outside = [], []
    left = deque(others)
    for begin, end, _ in spans:
        while begin < end:
            while left and left[0][1] <= begin:
                left.popleft()
            start, stop = left[0][:2] if left else (end, end)
            cut = min(end, start if begin < start else stop)
            (outside if begin < start else inside).append((begin, cut, cut - begin))
            begin = cut
    return inside, outside


class _Model:
    def __init__(self, spec: RowwiseSpec, operations: Iterable[bytes], latency: int,
                 work: Sequence[Work] | None):
        self.spec, self.latency = spec, latency
        self.kernel = kernel = Kernel()
        self.ops = []
        failed = False
        spread, fuses = (1, 1), False  # tokens before and after the last PRUNE; was it a FUSE?
        for number, descriptor in enumerate(operations):
            op = LAYOUT.unpack(descriptor)
            status = check(spec, op)
            if failed and not (op["opcode"] == Opcode.HALT and status == Status.OK):
                status = Status.SKIPPED
            failed = status != Status.OK
            if work is not None and not failed:
                done = work[number]
                failed = done.status != Status.OK  # while it ran
                if op["opcode"] in CHOICES:
                    op["rows"], spread = done.keys, (done.keys, done.rows)
                    fuses = op["opcode"] == Opcode.FUSE and done.rows < done.keys
                elif op["live"] and op["opcode"] in LIVE:
                    op |= {"rows": done.rows, "keys": done.keys}
            if op["opcode"] == Opcode.FUSE:
                op["opcode"] = Opcode.PRUNE
            one = _Operation(op, number, status, spread=spread if op["gather"] else (1, 1),
                             fuses=bool(fuses and op["gather"] and op["rows"] > spread[1]))
            one.changed = Event(kernel)
            one.blocks = work[number].blocks if work is not None else None
            self.ops.append(one)
        self.completions = [0] * len(self.ops)
        self.spans: dict[str, list[Span]] = {name: [] for name in (
            "busy", "stall_norm", "stall_rows", "stall_weights", "stall_softmax", "stall_collect",
            "beats_read", "beats_written", "weight_reads", "steps_skipped", "softmax", "norm",
            "moving", "empty", "inactive")}
        self.inactive: int | None = 0  # since when there has been no operation
        self.any = Event(kernel)  # something about dispatch changed
        self.ring = Event(kernel)
        self.room = Event(kernel)
        self.slots = Event(kernel)
        self.pending: deque[_Operation] = deque()
        self.prefetch: deque[_Operation] = deque()
        self.asking: list[tuple[int, tuple[str, Any]] | None] = [None, None]
        self.granted = [Event(kernel), Event(kernel)]
        self.requests: deque[tuple[int, int, tuple[str, Any]]] = deque()
        self.bus = Event(kernel)
        self.reading: deque[tuple[int, int]] = deque()  # when the collector reads residuals
        self.writing: deque[tuple[int, int]] = deque()  # when it writes a tile of activations
        self.resident = self.reserved = self.tiles = 0
        self.uses = {0: 0, 1: 0, 2: 0}
        self.score_slots, self.exponent_slots, self.free_slots = 2, 0, 2
        self.scores: deque[tuple[int, int, _Operation]] = deque()
        self.scoring = Event(kernel)
        self.order: deque[_Operation] = deque()
        self.in_array = 0
        self.array_queue: deque[_Operation] = deque()
        self.array = Event(kernel)
        self.walking = False
        self.norm_busy = self.move_busy = self.selecting = False
        self.taken: deque[int] = deque()  # when a STORE reads the activation buffer
        self.ahead = self.owed = 0  # PRUNE and HALT to be executed; ATTEND to be added up

    def run(self) -> Prediction:
        for process in (self._decoder(), self._fetcher(), self._arbiter(), self._memory(),
                        self._sequencer(), self._feeder(), self._softmax(), self._reporter()):
            self.kernel.resume(process, 0)
        self.kernel.run()
        assert all(self.completions), "every operation ends"
        spans, total = self.spans, self.completions[-1]
        self._span("empty", self.free, total)
        moving, empty = spans.pop("moving"), spans.pop("empty")
        spans["stall_move"], rest = overlap(empty, moving)
        spans["idle"], spans["stall_order"] = overlap(rest, spans.pop("inactive"))
        return Prediction(self.completions, {"cycles": total} | {
            name: sum(events for *_, events in parts) for name, parts in spans.items()}, spans)

    def _span(self, name: str, begin: int, end: int, events: int | None = None) -> None:
        """Note events from cycle ``begin`` up to ``end``: one in each, unless told how many."""
        events = end - begin if events is None else events
        if begin < end:
            spans = self.spans[name]
            if spans and spans[-1][1] == begin and events == end - begin:
                before, _, more = spans[-1]
                if more == begin - before:
                    begin, events = before, end - before
                    spans.pop()
            spans.append((begin, end, events))

    def _wait(self, name: str, ready: Callable[[], bool], event: Callable[[], Event]) -> Process:
        """Wait until something is ready, and charge the array's cycles to ``name``."""
        begin = self.kernel.now
        while not ready():
            yield event()
        self._span(name, begin, self.kernel.now)

    # Front end

    def _decoder(self) -> Process:
        kernel, depth = self.kernel, self.spec.queue_depth
        ready = 1
        for one in self.ops:
            plain = one.status == Status.OK and one.op["opcode"] not in (Opcode.HALT, Opcode.PRUNE)
            yield ready + (DECODE - 1 if plain else 3)
            while len(self.pending) >= depth or len(self.prefetch) >= depth:
                yield self.any
            kernel.resume(self._arrive(one), kernel.now + 1)
            ready = kernel.now + 1

    def _arrive(self, one: _Operation) -> Process:
        self.pending.append(one)
        if self.inactive is not None:
            self._span("inactive", self.inactive, self.kernel.now)
            self.inactive = None
        if one.status == Status.OK and one.op["opcode"] in (*LIVE, Opcode.HALT, Opcode.PRUNE):
            self.prefetch.append(one)
        self.any.fire()
        return
        yield

    def _fetcher(self) -> Process:
        kernel, spec = self.kernel, self.spec
        while True:
            while not self.prefetch:
                yield self.any
            one = self.prefetch.popleft()
            self.any.fire()
            op, kind = one.op, one.op["opcode"]
            yield kernel.now + 1
            if kind in (Opcode.HALT, Opcode.PRUNE):
                self.ahead += 1
                self.any.fire()
            if kind == Opcode.PRUNE:
                continue
            if op["live"] and op["token"]:
                while self.ahead:
                    yield self.any
                yield kernel.now + 1
                if one.empty:
                    continue
            if kind == Opcode.HALT:
                while any(what[0] != "load" for _, _, what in self.requests):
                    yield self.bus
                continue
            table = {Opcode.LINEAR: 0, Opcode.ATTEND: 1, Opcode.NORM: 2}[Opcode(kind)]
            parts = list(sections(spec, op))
            if op["table"]:
                while self.uses[table]:
                    yield self.any
                yield from self._ask(0, parts[0][1] // spec.memory_bytes, ("table", one))
            if kind == Opcode.LINEAR:
                scale = next(size for name, size in parts if name == "scale")
                beats = (scale + op["depth"] * spec.columns * spec.depth) // spec.memory_bytes
                for _ in range(op["columns"]):
                    yield kernel.now + 1
                    while (self.reserved + op["depth"] > spec.words("weight")
                           or self.tiles == spec.weight_tiles):
                        yield self.room
                    self.reserved += op["depth"]
                    self.tiles += 1
                    yield from self._ask(0, beats, ("tile", op["depth"]))
            if kind != Opcode.LINEAR or op["activation"] == ActivationKind.TABLE:
                self.uses[table] += 1
            kernel.resume(lambda one=one: self._set(one, "walked"), kernel.now + 1)
            yield kernel.now + 1

    def _set(self, one: _Operation, name: str) -> None:
        setattr(one, name, True)
        self.any.fire()

    # Memory

    def _ask(self, source: int, beats: int, what: tuple[str, Any]) -> Process:
        """Ask for a read and go on when the arbiter has taken the request."""
        self.asking[source] = beats, what
        self.bus.fire()
        yield self.granted[source]

    def _arbiter(self) -> Process:
        """Take a request per cycle, in turn, while not too many are under way."""
        kernel, turn = self.kernel, 0
        while True:
            while len(self.requests) >= OUTSTANDING or not any(self.asking):
                yield self.bus
            source = turn if self.asking[turn] else 1 - turn
            asked = self.asking[source]
            assert asked is not None
            self.requests.append((kernel.now + 2 + self.latency, *asked))
            self.asking[source], turn = None, 1 - source
            self.bus.fire()
            yield kernel.now + 1
            self.granted[source].fire()

    def _memory(self) -> Process:
        free = 0
        while True:
            while not self.requests:
                yield self.bus
            due, beats, (what, whom) = self.requests[0]
            begin = max(due, free)
            end = begin + beats - 1
            free = end + 1
            if what == "load":
                one, first = whom
                one.arrived.append((first, beats, begin))
                one.changed.fire()
            self._span("beats_read", begin, end + 1)
            yield end + 1
            self.requests.popleft()
            self.bus.fire()
            if what == "tile":
                self.resident += whom
                self.ring.fire()
            elif what == "table":
                self._set(whom, "tables")

    # Dispatch and report

    def _sequencer(self) -> Process:
        kernel = self.kernel
        latest: _Operation | None = None
        while True:
            while not self.pending:
                yield self.any
            yield kernel.now + 1
            seen = kernel.now
            while not self._may_start(self.pending[0]):
                yield self.any
            if seen == kernel.now or not self._waits_for_all(self.pending[0].op):
                yield kernel.now + 1  # else it was let in with the last report
            one = self.pending.popleft()
            self.order.append(one)
            op = one.op
            if one.status != Status.OK or op["opcode"] == Opcode.HALT or one.empty:
                one.done = kernel.now
                latest = latest if one.empty else None
                kernel.resume(lambda one=one: self._end(one), kernel.now + 1)
            elif op["opcode"] == Opcode.PRUNE:
                self.selecting = True
                kernel.resume(self._prune(one), kernel.now + 1)
            else:
                if op["wait"] == Wait.ROWS and latest is not None and latest.done is None:
                    one.follows = latest
                latest = one
                one.limit = 0 if op["opcode"] in ARRAY_OPERATIONS else op["target_row"]
                if op["opcode"] in ARRAY_OPERATIONS:
                    one.start = kernel.now
                    self.in_array += 1
                    self.owed += op["opcode"] == Opcode.ATTEND and op["importance"] != 0
                    self.walking = True
                    self.array_queue.append(one)
                    self.array.fire()
                elif op["opcode"] == Opcode.NORM:
                    self.norm_busy = True
                    kernel.resume(self._norm(one), kernel.now + 1)
                else:
                    self.move_busy = True
                    kernel.resume(self._move(one), kernel.now + 1)
            self.any.fire()
            yield kernel.now + 1
            if op["opcode"] == Opcode.HALT:
                while self.order:
                    yield self.any
                self.ahead -= 1
                self.any.fire()

    def _may_start(self, one: _Operation) -> bool:
        op = one.op
        if len(self.order) >= self.spec.queue_depth:
            return False
        if one.status != Status.OK:
            return True
        kind = op["opcode"]
        if kind in (Opcode.HALT, Opcode.PRUNE) and self.ahead <= self.selecting:
            return False
        if kind == Opcode.HALT:
            return True
        if self.selecting and (kind == Opcode.PRUNE or kind in LIVE and op["live"]
                               or kind == Opcode.ATTEND and op["importance"]):
            return False
        if kind in LIVE and op["table"] and not one.tables and not one.empty:
            return False
        if kind in (Opcode.ATTEND, Opcode.NORM) and not one.walked and not one.empty:
            return False
        if self._waits_for_all(op) and self.order:
            return False
        if one.empty:
            return True
        if kind == Opcode.PRUNE:
            return not self.norm_busy
        if kind in ARRAY_OPERATIONS:
            return not self.walking and self.in_array < 2
        return not (self.norm_busy if kind == Opcode.NORM else self.move_busy)

    @staticmethod
    def _waits_for_all(op: Mapping[str, int]) -> bool:
        return (op["wait"] == Wait.ALL or op["opcode"] == Opcode.STORE
                or op["wait"] == Wait.ROWS and op["opcode"] not in (Opcode.LINEAR, Opcode.NORM))

    def _reporter(self) -> Process:
        """Report in order: one operation a cycle, the cycle after it is known to have ended."""
        kernel = self.kernel
        while True:
            while not self.order or not self.order[0].ended:
                yield self.any
            one = self.order[0]
            self.completions[one.number] = kernel.now
            op = one.op
            if one.status == Status.OK and op["opcode"] in LIVE and not one.empty:
                table = {Opcode.LINEAR: 0, Opcode.ATTEND: 1, Opcode.NORM: 2}[Opcode(op["opcode"])]
                if table or op["activation"] == ActivationKind.TABLE:
                    self.uses[table] -= 1
            yield kernel.now + 1
            self.order.popleft()
            if not self.order and not self.pending:
                self.inactive = kernel.now
            self.any.fire()

    def _end(self, one: _Operation) -> None:
        """The operation's last effect is visible, a cycle after its done pulse."""
        one.ended = True
        one.done = self.kernel.now
        kind = one.op["opcode"]
        if kind in ARRAY_OPERATIONS:
            self.in_array -= 1
        one.changed.fire()
        self.any.fire()

    # Engines

    def _words(self, one: _Operation, word: int, words: int, steps: int, place: Place) -> Waiting:
        """Return when the last of ``steps`` reads of consecutive words can take place.

        A LOAD that is followed can delay each of them.
        """
        load, kernel = one.follows, self.kernel
        if load is None or load.ended or load.op["opcode"] != Opcode.LOAD:
            return kernel.now + steps - 1
        op, last = load.op, kernel.now - 1
        for n in range(words):
            index = word + n - op["target"]
            if op["place"] != place or index >= op["keys"]:
                while not load.ended:
                    yield load.changed
                last = max(last, kernel.now - 1)
            elif index >= 0:
                beats = self._word_beats(op)
                arrival = yield from self._arrival(load, (index + 1) * beats - 1)
                last = max(last, arrival + 2)
            last += (n + 1) * steps // words - n * steps // words
        return last

    def _arrival(self, load: _Operation, beat: int) -> Waiting:
        """Return when a beat of a LOAD comes, as soon as that is known."""
        while not load.arrived or sum(load.arrived[-1][:2]) <= beat:
            yield load.changed
        first, _, cycle = load.arrived[bisect_right(load.arrived, (beat, BURST, 0)) - 1]
        return cycle + beat - first

    def _word_beats(self, op: Mapping[str, int]) -> int:
        return move_bytes(self.spec, op) // op["keys"] // self.spec.memory_bytes

    def _prune(self, one: _Operation) -> Process:
        """Choose tokens when the importance of all ATTEND before is complete."""
        kernel = self.kernel
        while self.owed:
            yield self.any
        yield kernel.now + self.spec.prune_cycles(one.op["rows"], one.op["rule"])
        self.ahead -= 1
        self._end(one)
        yield kernel.now + 1
        self.selecting = False
        self.any.fire()

    def _added(self) -> None:
        """The importance of an ATTEND has been added up."""
        self.owed -= 1
        self.any.fire()

    def _reached(self, one: _Operation, row: int) -> bool:
        """Whether the operation that is followed has completed a row; LOAD: see ``_words``."""
        other = one.follows
        return (other is None or other.ended or other.limit > row or
                other.op["opcode"] == Opcode.LOAD and not one.op["skip"])

    def _norm(self, one: _Operation) -> Process:
        kernel, spec, op = self.kernel, self.spec, one.op
        words = ceil_div(op["width"], spec.columns)
        period = max(words, spec.norm.ROW_CYCLES)
        parts = spec.word_bytes // spec.columns
        begin = out = kernel.now
        before, after = one.spread
        gaps = 0  # rows that have been left out
        for n in range(op["rows"]):
            if one.fuses and n == op["rows"] - 1:
                yield kernel.now + spec.fuser.cycles(op["width"])
            else:
                gap = (n + 1) * before // after - n - 1 - gaps  # where they are is not known
                if one.fuses:
                    for left in range(gap):
                        yield from self._read_row(one, n + gaps + left, kernel.now)
                elif words >= spec.norm.ROW_CYCLES:
                    begin += gap
                gaps += gap
                begin = yield from self._read_row(one, n + gaps, begin)
            earlier, out = out, max(out + words, kernel.now + words + spec.norm.LATENCY + 2)
            while self.writing and self.writing[0][0] < out:
                start, rows = self.writing.popleft()
                if start >= earlier:  # a bank in common, or different parts of words
                    out += ceil_div(rows + rows * (spec.rows - 1) * (parts - 1) // parts, spec.rows)
            self._span("norm", out - words, out)
            kernel.resume(self._advance(one, op["target_row"] + n + 1), out + 1)
            begin += period
        yield out + 1
        self.norm_busy = False
        self.any.fire()
        yield out + 2
        self._end(one)

    def _read_row(self, one: _Operation, n: int, begin: int) -> Waiting:
        """Read a row of a NORM from ``begin`` on, as soon as it is there; return when it began."""
        kernel, op = self.kernel, one.op
        words = ceil_div(op["width"], self.spec.columns)
        yield max(begin, kernel.now)
        row = op["source_row"] + n
        if not self._reached(one, row):
            while not self._reached(one, row):
                assert one.follows is not None
                yield one.follows.changed
            yield kernel.now + 1
        word = op["source"] + row * op["source_stride"]
        last = yield from self._words(one, word, words, words, Place.RESIDUAL)
        begin = max(begin, last - words + 1)
        yield begin
        left = words
        while left:  # where the collector leaves the port of the residual buffer free
            while self.reading and sum(self.reading[0]) <= kernel.now:
                self.reading.popleft()
            first, length = self.reading[0] if self.reading else (kernel.now + KNOWN, 0)
            if first <= kernel.now:
                yield first + length
            else:
                step = min(left, first - kernel.now, KNOWN)
                left -= step
                yield kernel.now + step
        return begin

    def _advance(self, one: _Operation, limit: int) -> Process:
        one.limit = limit
        one.changed.fire()
        return
        yield

    def _move(self, one: _Operation) -> Process:
        kernel, spec, op = self.kernel, self.spec, one.op
        beats = move_bytes(spec, op) // spec.memory_bytes
        bursts = [min(BURST, size // spec.memory_bytes - first) for _, size in runs(spec, op)
                  for first in range(0, size // spec.memory_bytes, BURST)]
        start = kernel.now
        if op["opcode"] == Opcode.LOAD:
            asked = 0
            for burst in bursts:
                if asked > AHEAD:
                    yield (yield from self._arrival(one, asked - AHEAD - 1)) + 1
                yield from self._ask(1, burst, ("load", (one, asked)))
                asked += burst
            yield (yield from self._arrival(one, beats - 1)) + 2
        else:
            cycle, word, block = start, self._word_beats(op), op["place"] == Place.ACTIVATION
            for burst in bursts:
                words = ceil_div(burst, word)
                if block:
                    self.taken += [cycle + 1 + n * (word + 3) for n in range(words)]
                cycle += 2 + burst + (3 * words if block else 2 if word == 1 else words + 1)
            self._span("beats_written", start, cycle, beats)
            yield cycle
        self.move_busy = False
        self._span("moving", start, kernel.now)
        self.any.fire()
        yield kernel.now + 1
        self._end(one)

    def _tiles(self, one: _Operation) -> Iterator[_Tile]:
        """Yield the tiles of an array operation in the order of the core's walker."""
        spec, op = self.spec, one.op
        rows, step = op["rows"], spec.rows
        row_tiles = ceil_div(rows, step)

        def limit(t: int) -> int:
            return op["target_row"] + min(rows, (t + 1) * step)

        def valid(t: int) -> int:
            return min(step, rows - t * step)

        if op["opcode"] == Opcode.LINEAR:
            source = op["source"] + op["source_row"] // step * op["source_stride"]
            for base in range(0, op["columns"], op["group"]):
                group = min(op["group"], op["columns"] - base)
                rest = op["columns"] - base - group
                for t in range(row_tiles):
                    depth = steps = op["depth"]
                    if op["skip"] and one.blocks is not None:
                        steps = one.blocks[t] * spec.block_steps
                    final_rows = t == row_tiles - 1
                    for j in range(group):
                        final = j == group - 1 and rest == 0
                        yield _Tile(
                            "linear", max(1, steps), need=depth * (1 if final_rows else j + 1),
                            release=final_rows, final=final, last=final and final_rows,
                            rows=valid(t), row=op["source_row"] + t * step + valid(t) - 1,
                            word=source + t * op["source_stride"], limit=limit(t), words=depth,
                            listed=bool(op["skip"]), looks=bool(op["skip"]) and j == 0,
                            reads=steps > 0)
            return
        key_tiles = ceil_div(op["keys"], spec.columns)
        value_steps = ceil_div(op["keys"], spec.depth)

        def scores() -> Iterator[_Tile]:
            for j in range(key_tiles):
                yield _Tile("score", op["depth"], first=j == 0, slot_last=j == key_tiles - 1)

        yield from scores()
        for t in range(row_tiles):
            if t + 1 < row_tiles:
                yield from scores()
            for j in range(op["columns"]):
                end = j == op["columns"] - 1
                yield _Tile("output", value_steps, first=j == 0, slot_last=end, final=end,
                            limit=limit(t), rows=valid(t), last=end and t == row_tiles - 1)

    def _feeder(self) -> Process:
        kernel, spec = self.kernel, self.spec
        tail = 12 + spec.rows  # from a tile's last step to the end of its last row's pipeline
        previous = -spec.rows  # cycle of the last step of the last tile
        self.free = 0  # from when on the array has nothing to do
        ends = deque([0, 0], maxlen=2)  # of the last two tiles
        holds = deque([(0, 0), (0, 0)], maxlen=2)  # when they kept the walker from reading lists
        while True:
            while not self.array_queue:
                yield self.array
            one = self.array_queue.popleft()
            words = ceil_div(one.op["keys"], spec.columns)
            given = one.start  # the walker gives a tile a cycle, to a queue of two
            tiles = self._tiles(one)
            tile = next(tiles)
            while tile is not None:
                following = next(tiles, None)
                given += 1
                if tile.looks:
                    given += 1
                    look, asked = max(given, self.free), kernel.now
                    while not self._reached(one, tile.row):
                        assert one.follows is not None
                        yield one.follows.changed
                    if kernel.now > asked:
                        given = max(given, kernel.now)
                    for begin, end in holds:
                        given = end if begin <= given < end else given
                    given += 2
                    if look < given:
                        self._span("empty", self.free, look)
                        self._span("stall_rows", look, given)
                        self.free = given
                given = max(given, ends[0] + 1)
                if following is None:
                    kernel.resume(self._walked, max(given + 1, kernel.now))
                visible = max(given, previous) + 1
                yield visible
                self._span("empty", self.free, kernel.now)
                if tile.kind == "linear":
                    other, row, need = one.follows, tile.row, tile.need
                    if other is not None and not tile.listed:
                        norm = other.op["opcode"] == Opcode.NORM
                        yield from self._wait("stall_norm" if norm else "stall_rows", partial(
                            self._reached, one, row), lambda other=other: other.changed)
                    yield from self._wait("stall_weights", lambda need=need: self.resident >= need,
                                          lambda: self.ring)
                elif tile.first and tile.kind == "score":
                    yield from self._wait("stall_softmax", lambda: self.score_slots > 0,
                                          lambda: self.slots)
                    self.score_slots -= 1
                elif tile.first:
                    yield from self._wait("stall_softmax", lambda: self.exponent_slots > 0,
                                          lambda: self.slots)
                    self.exponent_slots -= 1
                begin = kernel.now
                last = begin + tile.steps - 1
                if tile.kind == "linear" and not tile.listed:
                    last = yield from self._words(
                        one, tile.word, ceil_div(tile.steps * spec.depth, spec.word_bytes),
                        tile.steps, Place.ACTIVATION)
                    self._span("stall_rows", begin, last - tile.steps + 1)
                    begin = last - tile.steps + 1
                while self.taken and tile.kind != "output" and self.taken[0] <= last:
                    last += self.taken.popleft() >= begin
                self._span("empty", begin, last - tile.steps + 1)
                begin = last - tile.steps + 1
                last = max(last, previous + spec.rows)
                ends.append(last)
                holds.append((visible, last if tile.listed else visible))
                previous = last
                self._span("busy", begin, begin + tile.steps - 1)
                self._span("stall_collect", begin + tile.steps - 1, last)
                self._span("busy", last, last + 1)
                self.free = last + 1
                if tile.kind == "linear":
                    if tile.reads:
                        self._span("weight_reads", begin, last + 1, tile.steps)
                    if tile.listed:
                        self._span("steps_skipped", last, last + 1, tile.words - tile.steps)
                if one.op["place"] == Place.ADD and tile.kind == "linear":
                    self.reading.append((last + 11, tile.rows))
                if one.op["place"] == Place.ACTIVATION and tile.kind != "score":
                    self.writing.append((last + 13, tile.rows))
                if tile.release:
                    kernel.resume(lambda words=tile.words: self._release(words), last + 1)
                if tile.kind == "score" and tile.slot_last:
                    self.scores.append((last + tail, words * spec.rows, one))
                    self.scoring.fire()
                if tile.kind == "output" and tile.slot_last:
                    kernel.resume(self._free_slot, last + 7 + spec.rows)
                if tile.final:
                    kernel.resume(self._advance(one, tile.limit), last + tail + 2)
                if tile.last:
                    kernel.resume(lambda one=one: self._end(one), last + tail + 2)
                tile = following

    def _walked(self) -> None:
        self.walking = False
        self.any.fire()

    def _release(self, words: int) -> None:
        self.resident -= words
        self.kernel.resume(lambda: self._vacate(words), self.kernel.now + 2)

    def _vacate(self, words: int) -> None:
        """The fetcher knows of a release."""
        self.reserved -= words
        self.tiles -= 1
        self.room.fire()

    def _free_slot(self) -> None:
        self.free_slots += 1
        self.slots.fire()

    def _softmax(self) -> Process:
        kernel, unit = self.kernel, self.spec.softmax
        free = 0
        while True:
            while not self.scores:
                yield self.scoring
            scored, words, one = self.scores.popleft()
            yield max(scored + unit.latency, free)
            while not self.free_slots:
                yield self.slots
            self.free_slots -= 1
            free = kernel.now + words
            self._span("softmax", kernel.now, free)
            kernel.resume(self._scored, free)
            one.scored += 1
            whole = self.spec.pruning == "column"  # or the first row is enough
            if one.op["importance"] and one.scored == (
                    ceil_div(one.op["rows"], self.spec.rows) if whole else 1):
                end = free if whole else kernel.now + words // self.spec.rows
                kernel.resume(self._added, end + unit.factor_latency - 2
                              + self.spec.importance.cycles(one.op["keys"]))
            kernel.resume(self._ready, free + unit.factor_latency)

    def _scored(self) -> None:
        self.score_slots += 1
        self.slots.fire()

    def _ready(self) -> None:
        self.exponent_slots += 1
        self.slots.fire()

