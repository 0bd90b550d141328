# SPDX-License-Identifier: Apache-2.0
"""The C header of a chip, from its register map; ``python -m vitral.header`` prints docs' table."""

import re
from dataclasses import asdict

from golden.channels import ChannelsSpec
from golden.registers import RegisterMap
from golden.shell import ShellSpec, registers

__all__ = ["documentation", "header"]

_TEXT = """\
/* SPDX-License-Identifier: Apache-2.0 */
/* @name@: registers of the chip, generated with its Verilog; configuration @hash@.
 *
 * `chip` is where its registers are. Define VITRAL_READ and VITRAL_WRITE before including this file
 * where a register is not simply a word of memory. Addresses given to the chip are relative to the
 * window, those of the window itself are addresses of the bus. */
#ifndef @guard@_H
#define @guard@_H

#include <stdint.h>

@macros@
#ifndef VITRAL_READ
#define VITRAL_READ(chip, offset) (*(const volatile uint32_t *)((chip) + (offset)))
#define VITRAL_WRITE(chip, offset, value) (*(volatile uint32_t *)((chip) + (offset)) = (value))
#endif

/* A register of 64 bits, such as a counter. */
static inline uint64_t vitral_read64(uintptr_t chip, uint32_t offset)
{
    uint64_t low = VITRAL_READ(chip, offset);
    return (uint64_t)VITRAL_READ(chip, offset + 4) << 32 | low;
}

/* Whether this chip is there, of this configuration. */
static inline int vitral_present(uintptr_t chip)
{
    uint32_t version = VITRAL_READ(chip, VITRAL_VERSION);
    return VITRAL_READ(chip, VITRAL_IDENTITY) == VITRAL_IDENTITY_RESET
        && (version & VITRAL_VERSION_MAJOR) == (VITRAL_VERSION_RESET & VITRAL_VERSION_MAJOR)
        && vitral_read64(chip, VITRAL_CONFIG_HASH) == VITRAL_CONFIG_HASH_RESET;
}

/* Let the chip access `size` bytes from bus address `base`, both multiples of 4096. */
static inline void vitral_window(uintptr_t chip, uint32_t base, uint32_t size)
{
    VITRAL_WRITE(chip, VITRAL_WINDOW_BASE, base);
    VITRAL_WRITE(chip, VITRAL_WINDOW_LIMIT, base + size - 1u);
}

/* Start the program at `program`, a multiple of 64; `operations` 0: up to its first HALT. */
static inline void vitral_start(uintptr_t chip, uint32_t program, uint32_t operations)
{
    VITRAL_WRITE(chip, VITRAL_INTERRUPT_PENDING, ~0u);
    VITRAL_WRITE(chip, VITRAL_PROGRAM, program);
    VITRAL_WRITE(chip, VITRAL_OPERATIONS, operations);
    VITRAL_WRITE(chip, VITRAL_CONTROL, VITRAL_CONTROL_START);
}

/* Look at the status up to `polls` times; return how the run ended, or -1 if it has not. */
static inline int vitral_wait(uintptr_t chip, uint32_t polls)
{
    while (polls--) {
        uint32_t status = VITRAL_READ(chip, VITRAL_STATUS);
        if (!(status & VITRAL_STATUS_BUSY))
            return (int)((status & VITRAL_STATUS_CODE) >> VITRAL_STATUS_CODE_SHIFT);
    }
    return -1;
}
@channels@
#endif
"""
_CHANNELS = """
#define VITRAL_CHANNELS {channels}u
#define VITRAL_STRIPE {stripe}u
#define VITRAL_BEAT_BYTES {memory_bytes}u

/* Where a beat of a channel lies, relative to the window. */
static inline uint32_t vitral_place(uint32_t channel, uint32_t beat)
{{
    uint32_t row = beat / VITRAL_STRIPE, rest = beat % VITRAL_STRIPE;
    return ((row * VITRAL_CHANNELS + channel) * VITRAL_STRIPE + rest) * VITRAL_BEAT_BYTES;
}}
"""


def header(name: str, registers: RegisterMap, config_hash: str,
           channels: ChannelsSpec | None = None) -> str:
    """Return the C header of the chip called ``name``, whose core may have several channels."""
    known = {"name": name, "hash": config_hash, "guard": re.sub(r"\W", "_", name).upper(),
             "macros": registers.header(),
             "channels": _CHANNELS.format(**asdict(channels)) if channels else ""}
    return re.sub(r"@(\w+)@", lambda match: known[match[1]], _TEXT)


def documentation() -> str:
    """Return the table of ``docs/chip.md``: the chip of a row-wise core with 16-byte beats."""
    from hw.rowwise.core import COUNTERS

    return registers(shell=ShellSpec(), memory_bytes=16, config_hash=0, counters=COUNTERS).table()


if __name__ == "__main__":
    print(documentation(), end="")
