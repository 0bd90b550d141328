# SPDX-License-Identifier: Apache-2.0
"""Help a cocotb bench: its parameters and arrays, clock and reset, and what it leaves behind."""

import json
import os
import pathlib
import socket
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles

from hw.emit import from_plain

__all__ = ["answer", "arrays", "parameters", "report", "rng", "save", "start"]


def _directory():
    return pathlib.Path(os.environ["VITRAL_RUN"])


def parameters(kind: type | None = None) -> Any:
    """Return the parameters given to :func:`sim.runner.run`, as plain JSON values.

    With a dataclass ``kind``, such as the spec that was given, they come back as that.
    """
    plain = json.loads((_directory() / "parameters.json").read_text())
    return plain if kind is None else from_plain(kind, plain)


def arrays():
    """Return the numpy arrays given to :func:`sim.runner.run`, by name."""
    with np.load(_directory() / "arrays.npz") as file:
        return dict(file)


def report(**values):
    """Leave values for :attr:`sim.runner.Result.report`; later calls add to earlier ones."""
    path = _directory() / "report.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | values))


def save(**values):
    """Leave numpy arrays for :attr:`sim.runner.Result.arrays`; later calls add to earlier ones."""
    path = _directory() / "saved.npz"
    known = dict(np.load(path)) if path.exists() else {}
    np.savez(path, **(known | values))


def rng(salt=0):
    """Return a random generator that follows the run's seed; ``salt`` tells several apart."""
    return np.random.default_rng([cocotb.RANDOM_SEED, salt])


async def start(dut, *, clock="clk", reset="rst", period=10, cycles=2):
    """Drive every input to zero, start the clock, and hold the reset for some cycles.

    Returns just after the edge at which the reset was last seen. The next tests of the same
    simulation begin with it, too: a reset is all that stands between two tests.
    """
    for port in json.loads((_directory() / "description.json").read_text())["ports"]:
        if port["direction"] == "input" and port["name"] != clock and hasattr(dut, port["name"]):
            getattr(dut, port["name"]).value = 0
    getattr(dut, reset).value = 1
    Clock(getattr(dut, clock), period, unit="ns").start()
    await ClockCycles(getattr(dut, clock), cycles)
    getattr(dut, reset).value = 0


async def answer(address, actions, subject):
    """Do what the host at a socket asks, until it hangs up; see :class:`sim.host.Hosted`.

    A request names one of the actions, coroutines that get ``subject`` and the request.
    """
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(address)
        with link.makefile("rw") as lines:
            for line in lines:
                request = json.loads(line)
                found = await actions[request.pop("do")](subject, request)
                lines.write(json.dumps(found) + "\n")
                lines.flush()
