# SPDX-License-Identifier: Apache-2.0
"""Drive and watch Amaranth streams from a cocotb bench.

All take an Amaranth shape, and pack payloads through it: plain integers for ``signed(n)`` and
``unsigned(n)``, sequences for ``ArrayLayout``, mappings for ``StructLayout``. :class:`StreamSource`
and :class:`StreamSink` are for coroutines, :class:`Wants` and :class:`Offers` for a bench that goes
on cycle by cycle, which samples all streams and then drives them.
"""

import random

import cocotb
import numpy as np
from amaranth.hdl import Shape, ShapeCastable, ShapeLike
from amaranth.lib import data
from cocotb.triggers import RisingEdge

__all__ = ["Offers", "StreamSink", "StreamSource", "Wants", "pack", "unpack"]


def pack(shape, value):
    """Return a value of an Amaranth shape as the unsigned integer that a port takes."""
    if isinstance(shape, data.ArrayLayout):
        width = Shape.cast(shape.elem_shape).width
        if len(value) != shape.length:
            raise ValueError(f"value must have {shape.length} elements, not {len(value)}")
        if width in (8, 16, 32, 64) and not isinstance(shape.elem_shape, ShapeCastable):
            raw = np.asarray(value).astype(f"<i{width // 8}").tobytes()
            return int.from_bytes(raw, "little")
        fields = ((index * width, shape.elem_shape, value[index]) for index in range(shape.length))
    elif isinstance(shape, ShapeCastable):
        layout = data.Layout.cast(shape) if _is_layout(shape) else None
        if layout is None:
            return int(value) & ((1 << Shape.cast(shape).width) - 1)
        fields = ((field.offset, field.shape, value[key]) for key, field in layout)
    else:
        return int(value) & ((1 << Shape.cast(shape).width) - 1)
    bits = 0
    for offset, field_shape, item in fields:
        bits |= pack(field_shape, item) << offset
    return bits


def unpack(shape, bits):
    """Return what :func:`pack` packed: an integer, a list, or a dictionary."""
    width = Shape.cast(shape).width
    if isinstance(shape, data.ArrayLayout):
        each = Shape.cast(shape.elem_shape)
        if each.width in (8, 16, 32, 64) and not isinstance(shape.elem_shape, ShapeCastable):
            kind = f"<{'i' if each.signed else 'u'}{each.width // 8}"
            return np.frombuffer(bits.to_bytes(width // 8, "little"), kind).tolist()
        mask = (1 << each.width) - 1
        return [
            unpack(shape.elem_shape, bits >> index * each.width & mask)
            for index in range(shape.length)
        ]
    if isinstance(shape, ShapeCastable) and _is_layout(shape):
        return {
            key: unpack(field.shape, bits >> field.offset & ((1 << field.width) - 1))
            for key, field in data.Layout.cast(shape)
        }
    if Shape.cast(shape).signed and bits >> width - 1:
        return bits - (1 << width)
    return bits


def _is_layout(shape):
    try:
        data.Layout.cast(shape)
    except TypeError:
        return False
    return True


class _Stream:
    """Find the three signals of a stream, and stall at random."""

    def __init__(self, dut, name, shape, stall, seed, clock):
        prefix = f"{name}__" if name else ""
        self.name = name
        self.shape = shape
        self.stall = stall
        self.clock = getattr(dut, clock)
        self.valid = getattr(dut, f"{prefix}valid")
        self.ready = getattr(dut, f"{prefix}ready")
        self.payload = getattr(dut, f"{prefix}payload")
        self.random = random.Random(f"{cocotb.RANDOM_SEED} {name} {seed}")

    def _stalls(self):
        return self.stall > 0 and self.random.random() < self.stall


class StreamSource(_Stream):
    """Send payloads to a stream input; an offered one stays until it is taken.

    Parameters
    ----------
    dut : cocotb handle
    name : str
        Member name, such as ``"i_query"``.
    shape : Amaranth shape
        Shape of the payload.
    stall : float
        Probability of pausing a cycle before each offer.
    seed : optional
        Tells the stalls of two runs of the same stream apart.
    clock : str
    """

    def __init__(self, dut, name="i", shape: ShapeLike = 32, *, stall=0.0, seed=0, clock="clk"):
        super().__init__(dut, name, shape, stall, seed, clock)
        self.valid.value = 0

    async def send(self, payloads):
        """Send payloads one after the other; return when the last one was taken."""
        for payload in payloads:
            while self._stalls():
                await RisingEdge(self.clock)
            self.payload.value = pack(self.shape, payload)
            self.valid.value = 1
            await RisingEdge(self.clock)
            while not self.ready.value:
                await RisingEdge(self.clock)
            self.valid.value = 0


class StreamSink(_Stream):
    """Receive payloads from a stream output, and check that none is withdrawn or changed.

    Parameters are those of :class:`StreamSource`, and:

    after_valid : bool
        Raise ``ready`` only once ``valid`` is seen, which hangs a producer that waits for it.
    """

    def __init__(
        self, dut, name="o", shape: ShapeLike = 32, *, stall=0.0, seed=0, clock="clk",
        after_valid=False,
    ):
        super().__init__(dut, name, shape, stall, seed, clock)
        self.after_valid = after_valid
        self.ready.value = 0

    async def receive(self, count):
        """Return the next ``count`` payloads; ``ready`` is low afterwards."""
        received, offered = [], None
        while len(received) < count:
            ready = not self._stalls() and (offered is not None or not self.after_valid)
            self.ready.value = ready
            await RisingEdge(self.clock)
            valid = bool(self.valid.value)
            if valid:
                bits = int(self.payload.value)
                assert offered in (None, bits), (
                    f"{self.name}.payload must stay {offered:#x} until taken, not {bits:#x}"
                )
                offered = None if ready else bits
                if ready:
                    received.append(unpack(self.shape, bits))
            else:
                assert offered is None, f"{self.name}.valid must stay high until taken"
        self.ready.value = 0
        return received


class Offers:
    """A stream output of the design, cycle by cycle: check that what is offered stays."""

    def __init__(self, dut, name, shape):
        self.name, self.shape = name, shape
        self.valid, self.payload = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__payload")
        self.ready, self.is_ready, self.offered = getattr(dut, f"{name}__ready"), 0, None
        self.ready.value = 0

    def sample(self):
        """Return what was accepted, if anything."""
        valid = int(self.valid.value)
        if not valid:
            assert self.offered is None, f"{self.name} was withdrawn"
            return None
        bits = int(self.payload.value)
        assert self.offered in (None, bits), f"{self.name} changed"
        self.offered = None if self.is_ready else bits
        return unpack(self.shape, bits) if self.is_ready else None

    def drive(self, ready):
        """Be ready in this cycle, or not."""
        if ready != self.is_ready:
            self.is_ready = ready
            self.ready.value = ready


class Wants:
    """A stream input of the design, cycle by cycle."""

    def __init__(self, dut, name, shape):
        self.shape = shape
        self.valid, self.payload = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__payload")
        self.ready, self.offered = getattr(dut, f"{name}__ready"), None
        self.valid.value = 0

    def sample(self):
        """Return what was taken, if anything."""
        if self.offered is None or not int(self.ready.value):
            return None
        taken, self.offered = self.offered, None
        self.valid.value = 0
        return taken

    def offer(self, token, payload):
        """Offer a payload, when none is; :meth:`sample` returns ``token`` when it is taken."""
        self.offered = token
        self.payload.value = pack(self.shape, payload)
        self.valid.value = 1
