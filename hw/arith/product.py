# SPDX-License-Identifier: Apache-2.0
"""Products for standard cells: Booth digits, partial products, and carry-save adders."""

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Signal, Value


class Digit(NamedTuple):
    """A digit in base 4: 1 (``one``), 2 (``two``), -1 (``negative`` alone) or 0.

    In the highest digit, ``top``, ``negative`` stands beside ``one`` or ``two`` and makes it -1 or
    -2; alone it means -0.
    """

    one: Value
    two: Value
    negative: Value
    top: bool


def digits(b: Value) -> list[Digit]:
    """Return the digits of signed ``b``, the lowest first.

    A pair of bits and the carry from below make 0 to 4: 3 becomes -1 and 4 becomes 0, both with a
    carry. Without -2, a bit of a lower digit's product costs 3 gates instead of Booth's 4.
    """
    bits, carry, found = Cat(b, b[-1]), Const(0, 1), []
    count = (len(b) + 1) // 2
    for d in range(count):
        low, high = bits[2 * d], bits[2 * d + 1]
        odd, top = low ^ carry, d == count - 1
        found.append(Digit(odd if top else odd & ~high, ~odd & (high ^ (low & carry)),
                           high if top else odd & high, top))
        carry = high & (low | carry)
    return found


def partial(a: Value, digit: Digit) -> Value:
    """Return signed ``a`` times ``digit`` as a ones' complement of a bit more, sign bit inverted.

    Counted as a positive number it is ``2**len(a)`` too large, less 1 for a ``negative`` digit.
    """
    width = len(a) + 1
    once, negative = Cat(a, a[-1]), digit.negative.replicate(width)
    multiple = digit.one.replicate(width) & once | digit.two.replicate(width) & Cat(Const(0, 1), a)
    multiple = multiple ^ negative if digit.top else multiple | negative & ~once
    return multiple ^ 1 << width - 1


def carry_save(m: Module, name: str, words: Iterable[tuple[int, Value]], width: int) -> Value:
    """Add ``words``, pairs of a lowest bit's place and unsigned bits, modulo ``2**width``.

    Full adders make two words of three until two are left. The words that end lowest go first: few
    adders then lack a third bit, and the two words that are left hardly overlap.
    """
    words = [(low, bits[:width - low]) for low, bits in words if low < width]
    for adder in range(len(words) - 2):
        words.sort(key=lambda word: word[0] + len(word[1]))
        three, words = words[:3], words[3:]
        lows = sorted(low for low, _ in three)
        ends = sorted(low + len(bits) for low, bits in three)
        a, b, c = (Cat(Const(0, low - lows[0]), bits, Const(0, ends[2] - low - len(bits)))
                   for low, bits in three)
        half = Signal(ends[2] - lows[0], name=f"{name}_half_{adder}")
        total = Signal(ends[2] - lows[0], name=f"{name}_total_{adder}")
        carry = Signal(max(0, min(ends[1], width - 1) - lows[1]), name=f"{name}_carry_{adder}")
        m.d.comb += [half.eq(a ^ b), total.eq(half ^ c),
                     carry.eq((half & c | ~half & a)[lows[1] - lows[0]:])]
        words += [(lows[0], total), (lows[1] + 1, carry)]
    left: list[Value] = [Cat(Const(0, low), bits) for low, bits in words]
    return reduce(add, left)[:width]


def product(m: Module, name: str, a: Value, b: Value, multiplier: str,
            plus: tuple[int, Value] | None = None) -> Value:
    """Return signed ``a`` times ``b``, which may be unsigned, in one bit more than both have.

    ``inferred`` leaves it to the synthesis tool, as an FPGA needs it; ``booth`` takes an eighth
    fewer gates than what Yosys makes of that. ``plus`` is added: the place of the lowest bit of
    a signed number, and the number.
    """
    if multiplier == "inferred":
        return a * b if plus is None else a * b + (plus[1] << plus[0])
    width = len(a) + len(b) + 1
    words, offset, ones = [], 0, []
    for d, digit in enumerate(digits(b if b.shape().signed else Cat(b, Const(0, 1)))):
        one, two, negative = (Signal(name=f"{name}_{kind}_{d}") for kind in Digit._fields[:3])
        m.d.comb += [one.eq(digit.one), two.eq(digit.two), negative.eq(digit.negative)]
        word = Signal(len(a) + 1, name=f"{name}_partial_{d}")
        m.d.comb += word.eq(partial(a, Digit(one, two, negative, digit.top)))
        words.append((2 * d, word))
        ones += [negative, Const(0, 1)]
        offset -= 1 << len(a) + 2 * d
    if plus is not None:
        low, number = plus
        words.append((low, Cat(number, number[-1].replicate(max(0, width - low - len(number))))))
    words += [(0, Cat(ones)), (len(a), Const(offset >> len(a), width)[:width - len(a)])]
    return carry_save(m, name, words, width).as_signed()
