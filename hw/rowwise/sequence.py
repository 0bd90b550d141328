# SPDX-License-Identifier: Apache-2.0
"""Operations to engines, completions back, both in program order."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden.activation import ActivationKind
from golden.operation import Opcode, Status, Wait
from golden.rowwise.operation import Importance
from golden.rowwise.spec import RowwiseSpec
from hw.contract import COMPLETION
from hw.rowwise.fetch import NUMBER_BITS, uses_stream
from hw.rowwise.layouts import CHAIN, OPERATION, PROGRESS, Engine, config
from hw.stream import Queue


class Sequencer(wiring.Component):
    """Start each operation as early as its ``wait`` field allows, and report them in order.

    An operation starts 2 cycles after it could first be seen, and one after its last permit came.
    Array operations start while the one before is still being collected; NORM and LOAD run beside
    the array, one of each at a time; STORE waits until everything before it has been reported, so
    that nothing is written after a failure. After a bus error the operations up to the next HALT
    are not executed; those that were already running are reported as SKIPPED too.

    The token count changes at the end of a PRUNE and of a HALT. Operations that depend on it, or
    on the tokens kept, wait for a PRUNE under way; engines get rows and keys as they are then. One
    without rows left ends where it would have begun. Neither such a one nor a PRUNE counts as the
    operation just before another.

    Members
    -------
    i : ``In(stream.Signature(OPERATION))``
    completion : ``Out(stream.Signature(COMPLETION))``
    array, norm, move : PROGRESS of the engines; ``busy`` bit by bit.
    select : the PRUNE under way is complete, and the tokens that are left.
    start : one bit an engine; ``op``, ``id``, ``skip``, ``chain``, ``most`` (rows before they were
        cut) and ``pruned`` (since HALT) go with it.
    counted, settled, tokens : see Fetcher; a PRUNE or HALT is started when it has been counted.
    passed, loaded, retired, error, error_number, error_clear : see Fetcher.
    configs : what the collector needs of the (up to) two array operations under way.
    """

    def __init__(self, spec: RowwiseSpec):
        self.spec = spec
        tokens = range(spec.max_keys + 1)
        super().__init__({
            "i": In(stream.Signature(OPERATION)),
            "completion": Out(stream.Signature(COMPLETION)),
            "array": In(PROGRESS), "norm": In(PROGRESS), "move": In(PROGRESS),
            "select": In(wiring.Signature({"done": Out(1), "tokens": Out(tokens)})),
            "busy": In(3),
            "start": Out(4), "op": Out(OPERATION), "id": Out(1), "skip": Out(1),
            "chain": Out(CHAIN), "most": Out(16), "pruned": Out(1),
            "counted": In(1), "settled": Out(1), "tokens": Out(tokens),
            "configs": Out(data.ArrayLayout(config(spec), 2)),
            "passed": In(3), "loaded": In(3), "retired": Out(3),
            "error": In(1), "error_number": In(NUMBER_BITS), "error_clear": Out(1),
            "active": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        op = self.i.payload
        progress = {Engine.ARRAY: self.array, Engine.NORM: self.norm, Engine.MOVE: self.move}

        # What has been started and not yet reported
        entry = data.StructLayout({
            "engine": Engine, "tag": 16, "status": Status, "halt": 1, "numbered": 1,
            "number": NUMBER_BITS, "uses": 3})
        m.submodules.order = order = Queue(shape=entry, depth=spec.queue_depth)
        number = Signal(NUMBER_BITS)
        failed = Signal()
        halting = Signal()
        finished = Array(Signal(range(spec.queue_depth + 1), name=f"finished_{engine.name.lower()}")
                         for engine in (*progress, Engine.SELECT))
        in_array = Signal(range(3))
        ids = Array(Signal(name=f"next_id_{engine.name.lower()}") for engine in progress)

        # The last operation that was given to an engine, while it is unfinished
        latest = Signal(CHAIN)
        latest_ended = Signal()
        for engine, one in progress.items():
            with m.If((latest.engine == engine) & one.done & (one.done_id == latest.id)):
                m.d.comb += latest_ended.eq(1)
        with m.If(latest_ended):
            m.d.sync += latest.open.eq(0)

        # Permits of the fetcher: an operation has been walked through, its table has been loaded
        walked = [Signal(range(2 * spec.queue_depth + 4), name=f"walked_{n}") for n in range(3)]
        tables = [Signal(range(2 * spec.queue_depth + 4), name=f"tables_{n}") for n in range(3)]
        uses = Signal(3)  # this, as much about the operation, is of a cycle ago: see `seen`
        take_walk = Signal(3)
        take_table = Signal(3)
        linear = Signal()
        m.d.sync += [
            linear.eq(op.opcode == Opcode.LINEAR),
            uses[0].eq((op.opcode == Opcode.LINEAR) & (op.activation == ActivationKind.TABLE)),
            uses[1].eq(op.opcode == Opcode.ATTEND),
            uses[2].eq(op.opcode == Opcode.NORM),
        ]
        selecting = Signal()  # a PRUNE is under way
        ahead = Signal(range(2 * spec.queue_depth + 4))  # PRUNE and HALT counted, not yet executed
        permitted = Signal()
        missing = Signal(3)
        kinds = (linear, uses[1], uses[2])
        for n, kind in enumerate(kinds):
            m.d.sync += [walked[n].eq(walked[n] + self.passed[n] - take_walk[n]),
                         tables[n].eq(tables[n] + self.loaded[n] - take_table[n])]
            m.d.comb += missing[n].eq(kind & ((op.table & (tables[n] == 0))
                                              | ((n != 0) & (walked[n] == 0))))
        is_prune = op.opcode == Opcode.PRUNE
        prunes = Signal()
        halts = Signal()
        counts = prunes | halts
        m.d.sync += [prunes.eq(is_prune), halts.eq(op.opcode == Opcode.HALT)]
        m.d.comb += permitted.eq((missing == 0) & (~counts | (ahead > selecting)))

        # Tokens: at most max_keys of them concern a live operation or a PRUNE
        tokens = Signal(range(spec.max_keys + 1), init=spec.max_keys)
        cuts = Signal()
        cuts_keys = Signal()
        empty = Signal()
        waits = Signal()
        rest = Signal(signed(len(tokens) + 1))
        passes = Signal()  # such a one is skipped
        halted = Signal()
        is_attend = op.opcode == Opcode.ATTEND
        is_live = op.live & ((op.opcode == Opcode.LINEAR) | is_attend | (op.opcode == Opcode.NORM))
        depends = Signal()  # on a PRUNE before it
        left = Signal.like(rest)
        seen = Signal()  # what was found in the last cycle holds: the same operation and tokens
        recount = self.select.done | halted
        m.d.comb += [
            self.tokens.eq(tokens),
            left.eq(tokens - Mux(is_prune, 0, op.token[:len(tokens)])),
        ]
        m.d.sync += [
            seen.eq(self.i.valid & ~self.i.ready & ~recount), rest.eq(left),
            cuts.eq((is_live | is_prune) & (left < op.rows[:len(tokens)])),
            cuts_keys.eq(is_live & is_attend & (op["keys"] > tokens)),
            empty.eq(is_live & (left <= 0)),
            depends.eq(is_live | is_prune | is_attend & (op.importance != Importance.NONE)),
        ]
        m.d.comb += [
            waits.eq(selecting & depends | prunes & self.busy[1]),
            self.settled.eq(ahead == 0),
        ]
        # of a HALT that has been reported ``ahead`` knows a cycle later, when ``seen`` still is 0
        was_halted = Signal()
        m.d.sync += [was_halted.eq(halted), ahead.eq(
            ahead + self.counted - self.select.done - (passes | was_halted))]
        with m.If(self.select.done):
            m.d.sync += [tokens.eq(self.select.tokens), self.pruned.eq(1), selecting.eq(0)]

        report = Signal()
        status = Signal(Status)
        engine = Signal(Engine)
        wait_all = Signal()
        follows = Signal()
        streams = Signal()
        idle = Signal()
        free = Signal()
        give = Signal()
        m.d.comb += [
            # before this cycle or with it, and what is reported is no reason to skip the next one
            idle.eq(~order.o.valid | (order.level == 1) & report & (status == Status.OK)),
        ]
        m.d.sync += [
            follows.eq(op.wait == Wait.ROWS), streams.eq(uses_stream(op)),
            wait_all.eq((op.wait == Wait.ALL) | (op.opcode == Opcode.STORE) | (
                (op.wait == Wait.ROWS) & (op.opcode != Opcode.LINEAR)
                & (op.opcode != Opcode.NORM))),
        ]
        with m.If(linear | uses[1]):
            m.d.comb += [engine.eq(Engine.ARRAY), free.eq(~self.busy[0] & (in_array != 2))]
        with m.Elif(uses[2]):
            m.d.comb += [engine.eq(Engine.NORM), free.eq(~self.busy[1])]
        with m.Elif(prunes):
            m.d.comb += [engine.eq(Engine.SELECT), free.eq(1)]
        with m.Else():
            m.d.comb += [engine.eq(Engine.MOVE), free.eq(~self.busy[2])]

        # Decide; what was decided is done in the next cycle
        ok = op.status == Status.OK
        plan = Signal(data.StructLayout({
            "give": 1, "start": 4, "skip": 1, "passes": 1, "status": Status,
            "engine": Engine}))
        decided = Signal.like(plan)
        m.d.sync += plan.eq(decided)
        m.d.comb += decided.engine.eq(Engine.NOBODY)
        with m.If(self.i.valid & seen & ~give & order.i.ready & ~halting & ~(ok & waits)):
            with m.If(~ok):
                m.d.comb += [decided.give.eq(1), decided.status.eq(op.status)]
            with m.Elif(halts):
                m.d.comb += decided.give.eq(permitted)
            with m.Elif(empty):
                m.d.comb += decided.give.eq(failed | ~wait_all | idle)
            with m.Elif(failed & ~linear):
                m.d.comb += [decided.give.eq(permitted), decided.status.eq(Status.SKIPPED),
                             decided.passes.eq(prunes & permitted)]
            with m.Elif(permitted & free & (failed | ~wait_all | idle)):
                m.d.comb += [decided.give.eq(1), decided.start.eq(1 << engine),
                             decided.engine.eq(engine), decided.skip.eq(failed)]
        m.d.comb += [
            self.op.eq(op), self.most.eq(op.rows), self.id.eq(ids[plan.engine]),
            self.chain.eq(latest), give.eq(plan.give), passes.eq(plan.passes),
            self.skip.eq(plan.skip), self.start.eq(plan.start),
            order.i.payload.tag.eq(op.tag), order.i.payload.number.eq(number),
            order.i.payload.engine.eq(plan.engine),
            order.i.payload.status.eq(plan.status),
            order.i.payload.halt.eq(ok & halts),
            order.i.payload.uses.eq(Mux(ok & ~empty, uses, 0)),
            order.i.payload.numbered.eq(ok & streams),
            order.i.valid.eq(give), self.i.ready.eq(give),
        ]
        with m.If(~follows | latest_ended):
            m.d.comb += self.chain.open.eq(0)
        with m.If(cuts):
            m.d.comb += self.op.rows.eq(rest[:-1])
        with m.If(cuts_keys):
            m.d.comb += self.op["keys"].eq(tokens)
        with m.If(give & order.i.payload.halt):
            m.d.sync += halting.eq(1)
        with m.If(give & streams & ok):
            m.d.sync += number.eq(number + 1)
        with m.If(give & ok & ~empty):
            m.d.comb += [take_walk.eq(uses), take_table.eq(Mux(op.table, uses | linear, 0))]
        with m.If(self.start[Engine.SELECT]):
            m.d.sync += selecting.eq(1)
        with m.Elif(self.start != 0):
            m.d.sync += [latest.open.eq(1), latest.engine.eq(plan.engine),
                         latest.id.eq(ids[plan.engine]), ids[plan.engine].eq(~ids[plan.engine])]
            with m.If(plan.start[Engine.ARRAY]):
                setting = self.configs
                for n in range(2):
                    with m.If(ids[0] == n):
                        m.d.sync += [
                            setting[n].place.eq(op.place), setting[n].activation.eq(op.activation),
                            setting[n].stride.eq(op.target_stride),
                            setting[n]["keys"].eq(self.op["keys"]),
                            setting[n].score_mul.eq(op.level),
                            setting[n].score_shift.eq(op.score_shift), setting[n].mul.eq(op.mul),
                            setting[n].shift.eq(op.shift),
                            setting[n].importance.eq(Mux(uses[1], op.importance, 0)),
                            setting[n].first.eq(op.source_row == 0)]
                        if spec.pruning == "column":
                            m.d.sync += setting[n].rows.eq(self.op.rows)
                        if spec.skip_words:
                            m.d.sync += [
                                setting[n].detect.eq(linear & op.detect),
                                setting[n].level.eq(Mux(op.level > 255, 255, op.level))]
        with m.Elif(give & ~(ok & empty)):
            m.d.sync += latest.open.eq(0)
        m.d.sync += in_array.eq(in_array + self.start[0] - self.array.done)

        # Report; of the moves that have finished, some good ones may be ahead of the first bad one
        bad_move = Signal()
        good_moves = Signal.like(finished[2])
        head = order.o.payload
        own = Signal()
        bus_error = Signal()
        m.d.comb += [
            own.eq((head.engine == Engine.NOBODY) | (finished[head.engine] != 0)),
            bus_error.eq((head.numbered & self.error & (self.error_number == head.number))
                         | ((head.engine == Engine.MOVE) & bad_move & (good_moves == 0))),
            status.eq(Mux(head.halt, Status.OK, Mux(failed, Status.SKIPPED, Mux(
                head.status != Status.OK, head.status,
                Mux(bus_error, Status.BUS_ERROR, Status.OK))))),
            self.completion.valid.eq(order.o.valid & own),
            self.completion.payload.tag.eq(head.tag),
            self.completion.payload.status.eq(status),
            report.eq(self.completion.valid & self.completion.ready),
            order.o.ready.eq(report),
            self.active.eq(self.i.valid | order.o.valid),
        ]
        with m.If(report):
            m.d.comb += self.retired.eq(head.uses)
            m.d.sync += failed.eq(~head.halt & (status != Status.OK))
            with m.If(head.engine == Engine.MOVE):
                m.d.sync += [good_moves.eq(good_moves - 1),
                             bad_move.eq(bad_move & (good_moves != 0))]
            with m.If(head.halt):
                m.d.sync += [halting.eq(0), tokens.eq(spec.max_keys), self.pruned.eq(0)]
                m.d.comb += [self.error_clear.eq(1), halted.eq(1)]
        with m.If(self.move.done & self.move.error & (~bad_move | (report & (
                head.engine == Engine.MOVE) & (good_moves == 0)))):
            m.d.sync += [bad_move.eq(1),
                         good_moves.eq(finished[2] - (report & (head.engine == Engine.MOVE)))]
        m.d.sync += finished[Engine.SELECT].eq(
            finished[Engine.SELECT] + self.select.done
            - (report & (head.engine == Engine.SELECT)))
        for n, (one, where) in enumerate(progress.items()):
            m.d.sync += finished[n].eq(finished[n] + where.done
                                       - (report & (head.engine == one)))
        return m
