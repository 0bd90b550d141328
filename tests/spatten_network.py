# SPDX-License-Identifier: Apache-2.0
"""Random programs of whole networks on a SpAtten core: what lies where, and what is done to it."""

import numpy as np

from golden.operation import Opcode
from golden.spatten.emulator import LINEAR_CONSTANT
from golden.spatten.operation import LAYOUT, Activation, Rescale, Target
from golden.spatten.spec import LOCAL, key_beats
from golden.topk import Rule

HALT = LAYOUT.pack({"opcode": Opcode.HALT, "tag": 0xBEEF})


class Network:
    """Operations on random data that fill the local memories, and the memory that they need.

    Local memory has ``PLACES`` places for activations, ``vectors`` to a token, and weights behind
    them; outside lie what is loaded, random data that are only read, and what is written. All lies
    from beat ``first`` on. With ``outer_weights`` some LINEARs take theirs from outside; with
    ``again`` the program may be run once more and gives the same.
    """

    PLACES = 3

    def __init__(self, spec, seed, *, first=0, outer_weights=False, again=False):
        self.spec, self.random, self.operations = spec, np.random.default_rng(seed), []
        self.outer_weights, self.again = outer_weights, again
        self.under_way = []  # what ATTENDs write, which overlap: the next must not read it
        self.vectors = max(spec.max_heads, spec.max_tokens // spec.lanes)
        self.size = spec.rows * self.vectors * spec.vector_beats
        self.weights = LOCAL + self.PLACES * self.size
        self.first = self.image = first  # of the local memories, outside
        self.constants = self.image + spec.local
        self.inputs = self.constants + spec.constant_words + spec.table_words + 8
        self.end = self.inputs + self.size
        assert self.weights < LOCAL + spec.local

    def add(self, opcode, **fields):
        """Append an operation; fields that it does not look at are random."""
        random = self.random
        noise = {name: int(random.integers(1 << field.width))
                 for name, field in LAYOUT.fields.items()
                 if opcode not in (Opcode.ATTEND, Opcode.PRUNE) and name in (
                     "limit", "score_mul", "level", "values", "heads", "importance_shift")}
        self.operations.append(LAYOUT.pack(noise | {
            "opcode": opcode, "tag": len(self.operations)} | fields))

    def loads(self):
        """Fill local memories, constants and table."""
        spec = self.spec
        self.add(Opcode.LOAD, target=Target.LOCAL, key=self.image, output=LOCAL, count=spec.local)
        self.add(Opcode.LOAD, target=Target.CONSTANTS, key=self.constants, constant=0,
                 count=spec.constant_words, rotation=1)
        self.add(Opcode.LOAD, target=Target.TABLE, key=self.constants + spec.constant_words,
                 constant=0, count=spec.table_words, rotation=2)

    def memory(self):
        """Return the memory outside before the program."""
        spec, random = self.spec, self.random
        beats = self.end - self.first + 16
        memory = random.integers(0, 256, (beats, spec.channels, spec.memory_bytes)).astype(np.uint8)
        count = spec.constant_words * spec.memory_bytes // 8
        constants = np.zeros(count, LINEAR_CONSTANT)
        constants["bias"] = random.integers(-1 << 20, 1 << 20, count)
        constants["bias"][random.random(count) < 0.1] = random.choice([-1 << 31, (1 << 31) - 1])
        constants["mul"] = random.integers(1 << 12, 1 << 16, count)
        constants["shift"] = random.integers(20, 27, count) + 64 * random.integers(0, 4, count)
        constants["zero"] = random.integers(0, 256, count)
        place = self.constants - self.first
        memory[place:place + spec.constant_words, 1 % spec.channels] = (
            constants.view(np.uint8).reshape(-1, spec.memory_bytes))
        return memory

    # Places

    def source(self):
        """Return where vectors of tokens lie: beat and stride."""
        return int(self.random.choice(self.readable())), self.vectors * self.spec.vector_beats

    def readable(self, *others):
        """Return the places that are not being written."""
        places = [self.inputs, *(LOCAL + n * self.size for n in range(self.PLACES))]
        return [place for place in places if place not in (*others, *self.under_way)]

    def target(self, *sources):
        """Return where vectors may go, without touching sources: half of the time outside."""
        free = [LOCAL + n * self.size for n in range(self.PLACES)
                if LOCAL + n * self.size not in sources]
        stride = self.vectors * self.spec.vector_beats
        if self.random.random() < 0.6:
            return int(self.random.choice(free)), stride
        self.end += self.size
        return self.end - self.size, stride

    def tokens(self, fields):
        """Return the fields of the tokens of an operation."""
        random, spec = self.random, self.spec
        return {"tokens": int(random.choice([random.integers(1, spec.max_tokens + 1),
                                             spec.max_tokens])),
                "dense": int(random.random() < 0.3), "rotation": int(random.integers(256))} | fields

    # Operations

    def linear(self, **given):
        """A LINEAR of any kind."""
        self.under_way.clear()
        spec, random = self.spec, self.random
        by_head, narrow = int(random.random() < 0.4), int(random.random() < 0.5)
        inputs = int(random.integers(1, min(self.vectors, spec.MAX_INPUTS) + 1))
        inputs = min(inputs, spec.max_heads >> narrow) if by_head else inputs
        outputs = int(random.integers(1, spec.max_tokens // spec.lanes + 1))
        query, query_stride = self.source()
        output, output_stride = self.target(query)
        low, low_stride = self.target(query, output)
        planes = int(random.random() < 0.3)
        rows = outputs * spec.lanes // spec.channels
        key_stride = 2 * inputs + int(random.integers(2))
        first, size = self.weights, spec.local - (self.weights - LOCAL)
        if self.outer_weights and random.random() < 0.5:
            first, size = self.image, spec.local
        room = spec.constant_words - 8 * outputs * spec.lanes // spec.memory_bytes
        value_planes = int(random.integers(1, 4))
        self.add(Opcode.LINEAR, **self.tokens({
            "inputs": inputs, "outputs": outputs, "by_head": by_head, "narrow": narrow,
            "planes": planes,
            "residual": int(not planes and random.random() < 0.4
                            and bool(output & LOCAL or not self.again)),
            "value_planes": value_planes,
            "activation": int(random.choice(list(Activation))),
            "query": query, "query_stride": query_stride, "output": output,
            "output_stride": output_stride, "key_low": low, "key_low_stride": low_stride,
            "output_step": value_planes - 1 + int(random.integers(2)),
            "low_step": 1 + int(random.integers(2)),
            "key": first + int(random.integers(size - rows * key_stride + 1)),
            "key_stride": key_stride, "constant": int(random.integers(room + 1))} | given))

    def norm(self, **given):
        """A NORM; also where its row lies."""
        self.under_way.clear()
        spec, random = self.spec, self.random
        query, query_stride = self.source()
        output, output_stride = self.target(query)
        if query & LOCAL and random.random() < 0.3:
            output = query
        most = min(self.vectors * spec.lanes, spec.max_width)
        count = int(random.choice([random.integers(1, most + 1), most]))
        room = spec.constant_words - -(-4 * count // spec.memory_bytes)
        self.add(Opcode.NORM, **self.tokens({
            "inputs": -(-count // spec.lanes), "count": count, "query": query,
            "query_stride": query_stride, "output": output, "output_stride": output_stride,
            "constant": int(random.integers(room + 1)), "shift": int(random.integers(
                spec.norm.Z_FRACTION, spec.norm.MAX_SHIFT + 1))} | given))

    def attend(self, **given):
        """An ATTEND of many queries, or of generation."""
        spec, random = self.spec, self.random
        heads = int(random.integers(1, spec.max_heads + 1))
        bits = int(random.choice([4, 6, 8, 10, 12]))
        narrow = int(spec.sharing > 1 and random.random() < 0.5)
        planes, half = bits // 4, int(bits % 4 == 2 and not narrow)
        value_planes = int(random.integers(1, 4))
        pairs = -(-heads // 2)
        query, query_stride = self.source()
        output, output_stride = self.target(query)
        strides = {"key_stride": pairs * key_beats(bits), "key_low_stride": heads,
                   "value_stride": heads * value_planes}
        firsts = {}
        for name, stride in strides.items():
            firsts[name.removesuffix("_stride")] = int(
                random.choice(self.readable(output))
                + random.integers(self.size - spec.rows * stride + 1))
        count = int(random.choice([0, 1, 2, random.integers(1, spec.max_tokens + 1),
                                   spec.max_tokens]))
        self.add(Opcode.ATTEND, **self.tokens({
            "heads": heads, "count": count, "values": int(random.choice([0, 3, 9, 65535])),
            "narrow": narrow, "key_planes": planes, "key_half": half,
            "value_planes": value_planes, "accumulate": int(random.random() < 0.7),
            "class_row": int(random.random() < 0.5),
            "limit": int(random.choice([0, 4095 * 3, 4095 * 12, (1 << 24) - 1])),
            "score_shift": bits + int(random.integers(4, 9)),
            "score_mul": int(random.integers(40, 256)), "mul": int(random.integers(1 << 16)),
            "shift": int(random.integers(2, 6)) + 4 * value_planes, "query": query,
            "query_stride": query_stride, "output": output, "output_stride": output_stride}
            | strides | firsts | given))
        self.under_way.append(output)

    def prune(self, **given):
        """A PRUNE of tokens or heads."""
        spec, random = self.spec, self.random
        heads = int(random.random() < 0.3)
        tokens = int(random.integers(1, spec.max_tokens + 1))
        self.add(Opcode.PRUNE, **{
            "subject": heads, "heads": spec.max_heads, "tokens": tokens,
            "level": int(random.integers(1, (spec.max_heads if heads else tokens) + 1)),
            "dense": int(random.random() < 0.3), "newest": int(random.random() < 0.3),
            "protected": int(random.integers(4)), "rule": Rule.TOPK,
            "rescale": int(random.choice(list(Rescale))), "rescale_shift": 1,
            "importance_shift": int(random.integers(6))} | given)
        self.under_way *= not heads

    def dump(self):
        """Bring what lies in the local memories outside, as far as a NORM shows it."""
        spec = self.spec
        for n in range(self.PLACES):
            for first in range(0, self.vectors, max(1, spec.max_width // spec.lanes)):
                inputs = min(self.vectors - first, max(1, spec.max_width // spec.lanes))
                self.end += self.size
                self.add(Opcode.NORM, tokens=spec.max_tokens, dense=1, inputs=inputs,
                         count=min(inputs * spec.lanes, spec.max_width), shift=14,
                         query=LOCAL + n * self.size + first * spec.vector_beats,
                         query_stride=self.vectors * spec.vector_beats,
                         output=self.end - self.size,
                         output_stride=self.vectors * spec.vector_beats)

    def program(self, count):
        """Return memory and operations: loads, so many random ones, and what shows the end."""
        self.loads()
        for _ in range(count):
            kinds = self.linear, self.norm, self.attend, self.prune
            kinds[self.random.choice(4, p=[0.4, 0.15, 0.3, 0.15])]()
        self.dump()
        return self.memory(), [*self.operations, HALT]
