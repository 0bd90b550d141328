# SPDX-License-Identifier: Apache-2.0
"""Random tensors of an ATTEND, written to the memory of a SpAtten core element by element."""

import numpy as np

from golden.operation import Opcode
from golden.spatten.operation import LAYOUT
from golden.spatten.spec import LSB_BITS, key_beats, planes, value_planes


class Tensors:
    """Queries, keys and values of one layer, and the operation that attends to them.

    ``narrow``: heads are as wide as half of the lanes, and two share a vector.
    """

    def __init__(self, spec, random, *, heads, tokens, key_bits, value_bits, rotation=0, first=0,
                 peaked=1.0, narrow=False):
        self.spec, self.heads, self.tokens, self.narrow = spec, heads, tokens, int(narrow)
        self.key_bits, self.value_bits, self.rotation = key_bits, value_bits, rotation
        self.width, self.vectors = spec.lanes >> narrow, -(-heads // (1 + narrow))
        top = 1 << key_bits + LSB_BITS - 1
        self.key = random.integers(-top, top, (tokens, heads, self.width))
        top = 1 << value_bits - 1
        self.value = random.integers(-top, top, (tokens, heads, self.width))
        self.query = (random.integers(-2048, 2048, (heads, self.width)) * peaked).astype(int)
        pairs, rows = -(-heads // 2), -(-tokens // spec.channels)
        self.key_stride = pairs * key_beats(key_bits, 1 if narrow else 2)
        self.value_stride = self.vectors * value_planes(value_bits)
        self.at = {"query": first}
        self.at["output"] = first + 2 * pairs * spec.vector_beats
        self.at["key"] = self.at["output"] + 2 * pairs * spec.vector_beats
        self.at["key_low"] = self.at["key"] + rows * self.key_stride
        self.at["value"] = self.at["key_low"] + rows * self.vectors
        self.end = self.at["value"] + rows * self.value_stride

    def write(self, memory):
        """Write all of them, one number of 4 bits after the other."""
        spec = self.spec
        whole, half = planes(self.key_bits)
        for head in range(self.heads):
            vector, part = divmod(head, 2) if self.narrow else (head, 0)
            turn, odd = divmod(vector, 2)
            own = (self.rotation + turn) % spec.channels
            beat = self.at["query"] + vector * spec.vector_beats
            numbers = memory[beat:beat + spec.vector_beats, own].copy()
            numbers.reshape(-1).view("<i2")[part * self.width:][:self.width] = self.query[head]
            memory[beat:beat + spec.vector_beats, own] = numbers
            for token in range(self.tokens):
                channel = (token + self.rotation + turn) % spec.channels
                row = token // spec.channels
                for element in range(self.width):
                    lane = part * self.width + element

                    def put(beat, nibble, mask=15, channel=channel, lane=lane):
                        place = memory[beat, channel]
                        shift = lane % 2 * 4
                        place[lane // 2] &= ~(mask << shift) & 255
                        place[lane // 2] |= (nibble & mask) << shift
                    key = int(self.key[token, head, element])
                    beat = (self.at["key"] + row * self.key_stride
                            + turn * (2 * whole + half) + odd * (whole + half))
                    for plane in range(whole):
                        put(beat + plane,
                            key >> LSB_BITS + 2 * half + 4 * (whole - 1 - plane))
                    if half:
                        shared = beat + whole if not odd else beat - 1
                        bits = key >> LSB_BITS & 3
                        put(shared, bits if odd else bits << 2, 3 if odd else 12)
                    put(self.at["key_low"] + row * self.vectors + vector, key)
                    value = int(self.value[token, head, element])
                    count = value_planes(self.value_bits)
                    beat = self.at["value"] + row * self.value_stride + vector * count
                    for plane in range(count):
                        put(beat + plane, value >> 4 * (count - 1 - plane))

    def operation(self, **fields):
        """Return the ATTEND; ``fields`` change it."""
        whole, half = planes(self.key_bits)
        return LAYOUT.pack({
            "opcode": Opcode.ATTEND, "heads": self.heads, "tokens": self.tokens,
            "narrow": self.narrow, "values": self.tokens, "key_planes": whole, "key_half": half,
            "value_planes": value_planes(self.value_bits), "accumulate": 1,
            "rotation": self.rotation, "limit": (1 << 24) - 1, "score_shift": self.key_bits + 6,
            "score_mul": 128, "mul": 32768, "shift": 3 + self.value_bits, **self.at,
            "key_stride": self.key_stride, "key_low_stride": self.vectors,
            "value_stride": self.value_stride, **fields})

    def outputs(self, memory):
        """Return the outputs (heads, width) that lie in memory."""
        spec, beats = self.spec, self.spec.vector_beats
        vectors = [
            memory[self.at["output"] + n * beats:self.at["output"] + (n + 1) * beats,
                   (self.rotation + n // 2) % spec.channels].reshape(-1).view("<i2")
            for n in range(self.vectors)]
        return np.concatenate(vectors).reshape(-1, self.width)[:self.heads].astype(int)
