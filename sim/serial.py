# SPDX-License-Identifier: Apache-2.0
"""The other end of a serial line, in a cocotb bench."""

import cocotb
from cocotb.triggers import ClockCycles, FallingEdge, Timer

from golden.uart import UartSpec

__all__ = ["Line"]


class Line:
    """Send bytes to ``rx`` and collect those of ``tx``, from when it is made.

    Parameters
    ----------
    dut : cocotb handle.
    spec : the line.
    rx, tx : names of its ports; without ``tx`` nothing is collected.
    bit : length in ns of a bit that is sent, if not that of the line.
    period : ns of the clock.
    """

    def __init__(self, dut, spec: UartSpec, *, rx: str = "rx", tx: str | None = "tx",
                 bit: int | None = None, period: int = 10):
        self.spec, self.period, self.clock = spec, period, dut.clk
        self.bit = spec.divisor * period if bit is None else bit
        self.received = bytearray()
        self.rx = getattr(dut, rx)
        self.rx.value = 1
        if tx is not None:
            cocotb.start_soon(self._listen(getattr(dut, tx)))

    async def send(self, content: bytes, *, stop: int = 1) -> None:
        """Send bytes; with ``stop`` 0 they have no stop bit, and the line is high for a bit."""
        for one in content:
            for n in range(10):
                self.rx.value = stop if n == 9 else (one << 1) >> n & 1
                await Timer(self.bit, "ns")
            if not stop:
                self.rx.value = 1
                await Timer(self.bit, "ns")

    async def _listen(self, tx) -> None:
        while True:
            await FallingEdge(tx)
            await ClockCycles(self.clock, self.spec.divisor // 2)
            value = 0
            for n in range(10):
                value |= int(tx.value) << n
                if n < 9:
                    await ClockCycles(self.clock, self.spec.divisor)
            assert value & 1 == 0 and value >> 9 == 1, f"a byte must have its stop bit: {value:#x}"
            self.received.append(value >> 1 & 0xFF)

    async def until(self, count: int, cycles: int) -> bool:
        """Wait until ``count`` bytes have been received, for so many cycles at most."""
        byte = self.spec.cycles(1)
        for _ in range(0, cycles, byte):
            if len(self.received) >= count:
                return True
            await Timer(byte * self.period, "ns")
        return len(self.received) >= count
