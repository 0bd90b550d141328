# SPDX-License-Identifier: Apache-2.0
"""Compare PruneUnit with the emulator: sums, who stays, cycles, resets."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge, Timer

from golden.fixed import saturate
from golden.spatten.emulator import Emulator
from golden.spatten.operation import Rescale, Subject
from golden.spatten.spec import SpattenSpec
from golden.topk import Rule
from hw.spatten.layouts import addition, prune
from hw.spatten.prune import PruneUnit
from sim.bench import parameters, report, rng, start
from sim.stream import StreamSource, pack

SPEC = parameters(SpattenSpec)
UNIT = PruneUnit(SPEC)
MOST = SPEC.IMPORTANCE_BITS
PEAK = (1 << SPEC.PROBABILITY_BITS) - 1
AMOUNT = SPEC.lanes << SPEC.OUTPUT_BITS - 1  # the greatest of a head


class Pair:
    """The unit and its model, which are told the same."""

    def __init__(self, dut, random):
        self.dut, self.random = dut, random
        self.source, self.sending = StreamSource(dut, "op", prune(SPEC)), None
        self.fresh()

    def fresh(self):
        self.model = Emulator(SPEC, np.zeros((1, SPEC.channels, SPEC.memory_bytes), np.uint8))

    async def idle(self, most=SPEC.max_tokens + 8):
        for _ in range(most):
            await RisingEdge(self.dut.clk)
            if not self.dut.busy.value:
                return
        raise AssertionError("busy must end")

    def add_tokens(self, rows, probability, there):
        self.dut.addition__valid.value = 1
        self.dut.addition__payload.value = pack(addition(SPEC), {
            "row": rows.tolist(), "probability": probability.tolist(),
            "there": sum(int(one) << lane for lane, one in enumerate(there))})
        tokens = (rows * SPEC.channels + np.arange(SPEC.channels))[there]
        sums = self.model.token_importance
        sums[tokens] = saturate(sums[tokens] + probability[there], MOST, signed=False)

    def add_head(self, head, amount):
        self.dut.head__valid.value = 1
        self.dut.head__head.value = head
        self.dut.head__amount.value = amount
        sums = self.model.head_importance
        sums[head] = saturate(sums[head] + amount, MOST, signed=False)

    async def load(self, tokens):
        """Give tokens an importance, one in each cycle; some have it twice."""
        for token in tokens:
            amount = int(self.random.integers(1 << int(self.random.integers(1, MOST + 1))))
            self.dut.load__valid.value = 1
            self.dut.load__token.value = int(token)
            self.dut.load__amount.value = amount
            self.model.token_importance[token] = amount
            await RisingEdge(self.dut.clk)
        self.dut.load__valid.value = 0

    async def add(self, count, stall=0.0, op=None):
        """Additions, the same few rows often in cycles that follow each other.

        With the last one ``op`` is offered, which then must be given to :meth:`prune`.
        """
        random, self.sending = self.random, None
        for number in range(count):
            few = random.integers(0, SPEC.rows, 2)
            self.dut.addition__valid.value = self.dut.head__valid.value = 0
            if random.random() >= stall:
                rows = (random.choice(few, SPEC.channels) if random.random() < 0.6
                        else random.integers(0, SPEC.rows, SPEC.channels))
                there = random.random(SPEC.channels) < random.choice([0.3, 0.9, 1])
                limit = int(random.choice([1, 40, PEAK]))
                self.add_tokens(rows, random.integers(0, limit + 1, SPEC.channels), there)
            if random.random() < 0.6:
                self.add_head(int(random.choice([0, random.integers(SPEC.max_heads)])),
                              int(random.choice([AMOUNT, random.integers(AMOUNT + 1), 0])))
            if op and number == count - 1:
                self.sending = cocotb.start_soon(self.source.send([prune_of(op)]))
            await RisingEdge(self.dut.clk)
        self.dut.addition__valid.value = self.dut.head__valid.value = 0

    async def prune(self, op):
        """Execute a PRUNE, and compare; return its cycles."""
        self.model._prune(op)
        dut = self.dut
        await (self.sending or self.source.send([prune_of(op)]))
        self.sending = None
        cycles = 1  # from the cycle in which the unit took it
        await RisingEdge(dut.clk)
        while not dut.done.value:
            assert dut.busy.value
            assert not dut.op__ready.value
            cycles += 1
            assert cycles < 20 * SPEC.max_tokens + 1000, "a PRUNE must end"
            await RisingEdge(dut.clk)
        self.check(op)
        await RisingEdge(dut.clk)
        assert not dut.done.value
        assert not dut.busy.value
        self.check(op)
        count = op["heads" if op["subject"] else "tokens"]
        assert cycles == UNIT.cycles(count, rule=op["rule"], subject=op["subject"],
                                     rescale=op["rescale"]), str(op)
        return cycles

    def check(self, op=None):
        for got, expected in ((self.dut.tokens, self.model.tokens),
                              (self.dut.heads, self.model.heads)):
            mask = got.value.to_unsigned()
            bits = [mask >> place & 1 for place in range(len(expected))]
            np.testing.assert_array_equal(bits, expected, str(op))
        assert int(self.dut.pruned.value) == self.model.pruned
        if SPEC.fuse:
            gone = self.dut.gone.value.to_unsigned()
            assert gone == sum(1 << int(n) for n in np.flatnonzero(self.model.gone)), str(op)

    async def check_sums(self, levels=None):
        """Compare the sums, 16 bits at a time, by thresholds at all scores, or so many."""
        for subject, sums in ((Subject.HEADS, self.model.head_importance),
                              (Subject.TOKENS, self.model.token_importance)):
            for shift in (0, 9, 16):
                scores = np.unique(np.minimum(sums >> shift, 65533) + 1)
                scores = np.unique([scores, scores + 1])
                if levels is not None and len(scores) > levels:
                    scores = self.random.choice(scores, levels, replace=False)
                for level in scores.tolist():
                    await self.prune(an_op(subject=subject, rule=Rule.THRESHOLD, level=level,
                                           importance_shift=shift))

    def some_op(self, kind):
        """Return a PRUNE of one of the 48 kinds, corners being likely."""
        random = self.random
        subject, rule = Subject(kind & 1), Rule(kind % 3)
        most = SPEC.max_heads if subject else SPEC.max_tokens
        lanes = SPEC.prune_lanes
        count = int(random.choice([1, 2, lanes - 1, lanes, lanes + 1, most - 1, most, most,
                                   *random.integers(1, most + 1, 3)]))
        count = min(max(count, 1), most)
        sums = self.model.head_importance if subject else self.model.token_importance
        length = int(sums.max()).bit_length()
        shift = int(random.choice([0, 31, max(0, length - 8), max(0, length - 16)]))
        scores = np.minimum(sums[:count] >> shift, 65533) + 1
        if rule == Rule.TOPK:
            level = int(random.choice([0, 1, count, count + 1, 65535, count // 2, count // 2,
                                       random.integers(count + 1)]))
        elif rule == Rule.MEAN:
            level = int(random.choice([0, 256, 65535, *random.integers(512, size=4)]))
        else:
            level = int(random.choice([0, 1, 65535, random.choice(scores), random.choice(scores),
                                       scores.mean()]))
        return an_op(
            subject=subject, rule=rule, level=level, importance_shift=shift, count=count,
            dense=kind >> 1 & 1, newest=int(random.random() < 0.4),
            protected=int(random.integers(4)), rescale=kind >> 2 & 3,
            rescale_shift=int(random.choice([0, 1, 2, 31, random.integers(32)])))


def an_op(*, subject, rule, level, count=None, importance_shift=0, dense=1, newest=0, protected=0,
          rescale=Rescale.KEEP, rescale_shift=0):
    count = count or (SPEC.max_heads if subject else SPEC.max_tokens)
    return {"subject": int(subject), "rule": int(rule), "level": level, "dense": dense,
            "heads" if subject else "tokens": count, "importance_shift": importance_shift,
            "newest": newest, "protected": protected, "rescale": int(rescale),
            "rescale_shift": rescale_shift}


def prune_of(op):
    """Return what of an operation the unit is told."""
    count = op["heads" if op["subject"] else "tokens"]
    return {name: op.get(name, count) for name, _ in prune(SPEC)}


async def begin(dut, random):
    await start(dut)
    pair = Pair(dut, random)
    await pair.idle()
    pair.check()
    return pair


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.5])
async def equals_emulator(dut, stall):
    """Random additions and PRUNE right behind them, some clears."""
    pair = await begin(dut, rng(int(10 * stall)))
    kinds = pair.random.permutation(160).tolist()
    for number, kind in enumerate(kinds):
        op = pair.some_op(kind)
        await pair.add(int(pair.random.choice([0, 1, 2, 30])), stall, op if number % 2 else None)
        await pair.prune(op)
        if number % 20 == 19:
            await pair.add(9)
            await pair.idle()
            dut.clear.value = 1
            await RisingEdge(dut.clk)
            dut.clear.value = 0
            pair.fresh()
            await RisingEdge(dut.clk)
            assert dut.busy.value
            await pair.idle()
            pair.check()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def sums_are_exact(dut):
    """After additions, and after each way to rescale."""
    pair = await begin(dut, rng(2))
    levels = None if SPEC.max_tokens <= 64 else 12
    await pair.add(300)
    for subject in Subject:
        await pair.prune(an_op(subject=subject, rule=Rule.TOPK, level=3))
    await pair.check_sums(levels)
    for rescale, shift in ((Rescale.DECAY, 2), (Rescale.SHIFT, 1), (Rescale.CLEAR, 0)):
        for subject in Subject:
            await pair.prune(an_op(subject=subject, rule=Rule.TOPK, level=3, count=2,
                                   rescale=rescale, rescale_shift=shift))
        await pair.check_sums(levels)
        await pair.add(20)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def loaded_sums(dut):
    """Importance from outside, to which additions are added, and which is rescaled."""
    pair = await begin(dut, rng(11))
    levels = None if SPEC.max_tokens <= 64 else 12
    await pair.add(20)
    await pair.prune(an_op(subject=Subject.TOKENS, rule=Rule.TOPK, level=3, dense=0))
    await pair.load(pair.random.permutation(SPEC.max_tokens))
    await pair.check_sums(levels)
    await pair.load(pair.random.integers(0, SPEC.max_tokens, 9))
    await pair.add(20)
    await pair.prune(an_op(subject=Subject.TOKENS, rule=Rule.TOPK, level=SPEC.max_tokens // 2,
                           rescale=Rescale.DECAY, rescale_shift=1, importance_shift=16))
    await pair.check_sums(levels)


@cocotb.test(timeout_time=20, timeout_unit="ms", skip=not SPEC.fuse)
async def weighed_and_taken_back(dut):
    """Scores of those that left, in cycles that follow each other; then one comes back."""
    pair = await begin(dut, rng(12))
    await pair.load(range(SPEC.max_tokens))
    for level in (SPEC.max_tokens // 2, SPEC.max_tokens // 4, 1):
        await pair.prune(an_op(subject=Subject.TOKENS, rule=Rule.TOPK, level=level, dense=0))
        await pair.prune(an_op(subject=Subject.HEADS, rule=Rule.TOPK, level=2))
        gone, shift, scores = np.flatnonzero(pair.model.gone), int(pair.random.integers(20)), []
        for token in [*gone.tolist(), 0]:
            dut.weigh__valid.value, dut.weigh__shift.value = 1, shift
            dut.weigh__token.value = token
            await RisingEdge(dut.clk)
            scores.append(int(dut.weigh__score.value))
        dut.weigh__valid.value = 0
        np.testing.assert_array_equal(scores[1:], pair.model._scores(
            {"importance_shift": shift}, pair.model.token_importance[gone]))
        dut.back__valid.value, dut.back__token.value = 1, int(gone[0])
        pair.model.tokens[gone[0]] = True
        await RisingEdge(dut.clk)
        dut.back__valid.value = 0
        await ClockCycles(dut.clk, 3)
        pair.check()
        lanes = np.flatnonzero(pair.model.tokens) % SPEC.channels
        assert int(dut.rows.value) == np.bincount(lanes).max()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def greatest_scores(dut):
    """Scores end below that of the newest."""
    pair = await begin(dut, rng(9))
    for number in range(7):
        left = 65531 + number  # the importance that head 0 gets
        while left:
            amount = min(left, AMOUNT)
            pair.add_head(0, amount)
            left -= amount
            await RisingEdge(dut.clk)
        dut.head__valid.value = 0
        await pair.check_sums()
        await pair.prune(an_op(subject=Subject.HEADS, rule=Rule.TOPK, level=1, newest=1))
        assert pair.model.heads.nonzero()[0].tolist() == [SPEC.max_heads - 1]
        await pair.prune(an_op(subject=Subject.HEADS, rule=Rule.TOPK, level=1,
                               rescale=Rescale.CLEAR))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def last_addition_counts(dut):
    """PRUNE offered in the cycle of an addition to what is read first."""
    pair, c = await begin(dut, rng(10)), SPEC.channels
    for subject in Subject:
        if subject:
            pair.add_head(0, PEAK)
        else:
            pair.add_tokens(np.zeros(c, int), np.full(c, PEAK), np.ones(c, bool))
        op = an_op(subject=subject, rule=Rule.THRESHOLD, level=PEAK + 1)
        pair.sending = cocotb.start_soon(pair.source.send([prune_of(op)]))
        await RisingEdge(dut.clk)
        dut.addition__valid.value = dut.head__valid.value = 0
        await pair.prune(op)
        assert (pair.model.heads if subject else pair.model.tokens).sum() == (1 if subject else c)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def fewer_and_more_candidates(dut):
    """Who is beyond the count does not stay, and comes back only when all are candidates."""
    pair = await begin(dut, rng(3))
    await pair.add(50)
    for dense, count in ((0, None), (0, SPEC.max_tokens // 2 + 1), (0, None), (0, 3), (0, None),
                         (1, None), (0, 1)):
        await pair.prune(an_op(subject=Subject.TOKENS, rule=Rule.THRESHOLD, level=0, dense=dense,
                               count=count))
        assert pair.model.tokens.sum() in (1, 3, SPEC.max_tokens // 2 + 1, SPEC.max_tokens)


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def sums_saturate(dut):
    """Add the same until sums are full, and once more."""
    pair = await begin(dut, rng(4))
    c = SPEC.channels
    times = (1 << MOST) // PEAK - 1
    pair.add_tokens(np.full(c, SPEC.rows - 1), np.full(c, PEAK), np.ones(c, bool))
    await Timer(10 * times, unit="ns")
    dut.addition__valid.value = 0
    sums = pair.model.token_importance
    sums[-c:] = PEAK * times
    await RisingEdge(dut.clk)
    for _ in range(2):
        await pair.check_sums(20)
        for _ in range(2):
            pair.add_tokens(np.full(c, SPEC.rows - 1), np.full(c, PEAK), np.ones(c, bool))
            await RisingEdge(dut.clk)
        dut.addition__valid.value = 0
    assert (sums[-c:] == (1 << MOST) - 1).all()
    head, count = SPEC.max_heads - 1, (1 << MOST) // AMOUNT + 2
    for _ in range(count):
        pair.add_head(head, AMOUNT)
        await RisingEdge(dut.clk)
    dut.head__valid.value = 0
    assert pair.model.head_importance[head] == (1 << MOST) - 1
    await pair.check_sums(20)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def resets(dut):
    """Reset in the middle of everything; then all begins anew."""
    pair = await begin(dut, rng(5))
    whole = UNIT.cycles(SPEC.max_tokens, rule=Rule.TOPK, subject=Subject.TOKENS,
                        rescale=Rescale.DECAY)
    for number in range(24):
        await pair.add(int(pair.random.integers(20)))
        if number % 3 == 0:
            dut.clear.value = 1
            await RisingEdge(dut.clk)
            dut.clear.value = 0
        else:
            op = an_op(subject=Subject(number % 2), rule=Rule.TOPK, level=3, rescale=Rescale.DECAY)
            await pair.source.send([prune_of(op)])
        await ClockCycles(dut.clk, int(pair.random.integers(1, whole)))
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        pair.fresh()
        await pair.idle()
        await pair.add(int(pair.random.integers(30)))
        await pair.prune(pair.some_op(number))
        await pair.check_sums(4)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def cycles(dut):
    """Measure a PRUNE of all tokens, and how long a clear takes."""
    pair = await begin(dut, rng(6))
    await pair.add(200)
    op = an_op(subject=Subject.TOKENS, rule=Rule.TOPK, level=SPEC.max_tokens // 2, dense=0,
               rescale=Rescale.DECAY, rescale_shift=3, importance_shift=2, newest=1)
    report(prune=await pair.prune(op))
    dut.clear.value = 1
    await RisingEdge(dut.clk)
    dut.clear.value = 0
    passed = 0
    await RisingEdge(dut.clk)
    while dut.busy.value:
        passed += 1
        await RisingEdge(dut.clk)
    assert passed == UNIT.sweep + 1
