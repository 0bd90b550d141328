# SPDX-License-Identifier: Apache-2.0
"""Many channels on one memory: every beat and every error where it belongs."""

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from golden.channels import ChannelsSpec
from hw.contract import REQUEST, response, write_beat
from hw.shell.channels import channel_request
from sim.bench import parameters, report, rng, start
from sim.stream import Offers, StreamSink, StreamSource, Wants

BEATS = 160
"""Beats of each channel's memory."""


class Port:
    """The memory behind the joined port: answers in order, at random times, with its own errors."""

    def __init__(self, dut, spec, memory, bad, stall, latency):
        self.spec, self.bad, self.stall = spec, bad, stall
        self.memory: Any = memory
        self.latency, self.random = latency, rng(99)
        self.dut, self.cycle, self.asked, self.due = dut, 0, [], []
        self.write_asked, self.write_due = [], []

    async def serve(self):
        """Serve for ever; requests must not cross stripes."""
        dut, spec = self.dut, self.spec
        size, stripe = spec.memory_bytes, spec.memory_bytes * spec.stripe
        reads, writes = Offers(dut, "read_request", REQUEST), Offers(dut, "write_request", REQUEST)
        beats, data = Wants(dut, "read_data", response(spec)), Offers(
            dut, "write_data", write_beat(spec))
        answer = Wants(dut, "write_response", 1)
        left = error = 0
        request: Any
        beat: Any
        while True:
            await RisingEdge(dut.clk)
            self.cycle += 1
            for offers, asked in ((reads, self.asked), (writes, self.write_asked)):
                if (request := offers.sample()) is not None:
                    first, count = request["address"], request["beats"]
                    assert count and first % size == 0
                    assert first // stripe == (first + count * size - 1) // stripe
                    asked.append((first, count))
                    if offers is reads:
                        self.due += [(self.cycle + self.latency, first + n * size)
                                     for n in range(count)]
            beats.sample()
            answer.sample()
            if (beat := data.sample()) is not None:
                first, count = self.write_asked[0]
                place = first + left * size
                left += 1
                error |= place in self.bad
                if place not in self.bad:
                    self.memory[place:place + size] = np.frombuffer(
                        beat["data"].to_bytes(size, "little"), np.uint8)
                assert beat["last"] == (left == count)
                if left == count:
                    self.write_due.append((self.cycle + self.latency, error))
                    self.write_asked.pop(0)
                    left = error = 0
            if beats.offered is None and self.ripe(self.due):
                _, place = self.due.pop(0)
                word = int.from_bytes(self.memory[place:place + size].tobytes(), "little")
                beats.offer(True, {"data": word, "error": place in self.bad})
            if answer.offered is None and self.ripe(self.write_due):
                answer.offer(True, self.write_due.pop(0)[1])
            for offers in (reads, writes):
                offers.drive(self.goes())
            data.drive(bool(self.write_asked) and self.goes())

    def goes(self):
        """Decide whether something happens in this cycle."""
        return self.random.random() >= self.stall

    def ripe(self, due):
        """Return whether the next answer may come."""
        return bool(due) and self.cycle >= due[0][0] and self.goes()


def requests(spec, random, count):
    """Return requests inside a channel's memory: first beat and beats."""
    lengths = random.choice([1, 2, 4, 7, 2 * spec.stripe + 3, BEATS // 2], count)
    return [(int(random.integers(BEATS - n + 1)), int(n)) for n in lengths]


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.4])
async def every_beat(dut, stall):
    """All channels read and one writes, while a channel takes nothing until the others are done."""
    spec, random = parameters(ChannelsSpec), rng()
    content = random.integers(0, 256, (BEATS, spec.channels, spec.memory_bytes)).astype(np.uint8)
    bad = {(int(random.integers(spec.channels)), int(random.integers(BEATS))) for _ in range(40)}
    places = {spec.place(*one) for one in bad}
    half = np.zeros_like(content)  # behind it, where the writer writes
    memory = spec.join(np.concatenate([content, half]))
    port = Port(dut, spec, memory, places, stall, 20)
    await start(dut)
    cocotb.start_soon(port.serve())
    done = []

    async def channel(n):
        asked = requests(spec, rng(n), 25)
        source = StreamSource(dut, f"request__{n}", REQUEST, stall=stall, seed=n)
        sink = StreamSink(dut, f"response__{n}", response(spec), stall=stall, seed=n)
        cocotb.start_soon(source.send(
            {"address": first * spec.memory_bytes, "beats": beats} for first, beats in asked))
        while n == 0 and len(done) < spec.channels - 1:
            await RisingEdge(dut.clk)
        came = await sink.receive(sum(beats for _, beats in asked))
        wanted = [first + k for first, beats in asked for k in range(beats)]
        assert [one["error"] for one in came] == [(n, beat) in bad for beat in wanted]
        for one, beat in zip(came, wanted, strict=True):
            assert one["data"].to_bytes(spec.memory_bytes, "little") == content[beat, n].tobytes()
        done.append(n)

    async def writer():
        source = StreamSource(dut, "channel_write", channel_request(spec), stall=stall)
        beats = StreamSource(dut, "channel_data", write_beat(spec), stall=stall)
        answers = StreamSink(dut, "channel_response", 1, stall=stall)
        asked, words, wrong = [], [], []
        for first, count in requests(spec, rng(77), 25):
            n, begin = int(random.integers(spec.channels)), first + BEATS
            asked.append({"channel": n, "address": begin * spec.memory_bytes, "beats": count})
            values = random.integers(0, 256, (count, spec.memory_bytes)).astype(np.uint8)
            words += [{"data": int.from_bytes(value.tobytes(), "little"), "last": k == count - 1}
                      for k, value in enumerate(values)]
            ill = [spec.place(n, begin + k) in places for k in range(count)]
            wrong.append(int(any(ill)))
            for k in np.flatnonzero(~np.array(ill)):
                half[first + k, n] = values[k]
        cocotb.start_soon(source.send(asked))
        cocotb.start_soon(beats.send(words))
        assert await answers.receive(len(asked)) == wrong
        assert 0 < sum(wrong) < len(wrong)

    more = {(int(random.integers(spec.channels)), int(random.integers(BEATS, 2 * BEATS)))
            for _ in range(5)}
    places |= {spec.place(*one) for one in more}
    tasks = [cocotb.start_soon(channel(n)) for n in range(spec.channels)]
    await cocotb.start_soon(writer())
    for task in tasks:
        await task
    np.testing.assert_array_equal(spec.part(memory)[:2 * BEATS], np.concatenate([content, half]))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def pieces_and_time(dut):
    """Requests reach the bus as the golden model cuts them, and a beat comes each cycle."""
    spec = parameters(ChannelsSpec)
    await start(dut)
    port = Port(dut, spec, np.zeros(BEATS * spec.channels * spec.memory_bytes * 2, np.uint8),
                set(), 0.0, 0)
    cocotb.start_soon(port.serve())
    asked = StreamSource(dut, "request__0", REQUEST)
    sink = StreamSink(dut, "response__0", response(spec))
    begin = port.cycle
    cocotb.start_soon(asked.send([{"address": 3 * spec.memory_bytes, "beats": 100}]))
    await sink.receive(100)
    report(cycles=port.cycle - begin)
    assert port.asked == spec.pieces(0, 3 * spec.memory_bytes, 100)

    # What lies beyond 4 GB never reaches the memory: it is looked at as it is asked for
    for channel in range(spec.channels):
        port.asked.clear()
        source = StreamSource(dut, f"request__{channel}", REQUEST)
        for first in (0xFFFFFFFF, 0x80000000, 0xFFFFFFFF // spec.channels, 0x12345678):
            address, beats = first - first % spec.memory_bytes, 1
            port.memory = Anywhere(spec.memory_bytes)
            await source.send([{"address": address, "beats": beats}])
            await StreamSink(dut, f"response__{channel}", response(spec)).receive(1)
            assert port.asked.pop() == spec.pieces(channel, address, beats)[0]


class Anywhere:
    """A memory of 0 that has no end."""

    def __init__(self, size):
        self.size = size

    def __getitem__(self, where):
        return np.zeros(self.size, np.uint8)
