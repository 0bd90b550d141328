/* SPDX-License-Identifier: Apache-2.0 */
/* Classify images on a chip, without an operating system.
 *
 * CHIP_HEADER is what `vitral verilog rowwise --level chip` wrote beside the Verilog. Memory holds,
 * from the bus address `memory`, what vitral's compiler laid out: weights, images and program. */
#include <stddef.h>
#include CHIP_HEADER

/* Run one program of `operations` operations; return its code, or -1 if it takes too long. */
int run_image(uintptr_t chip, uint32_t memory, uint32_t size, uint32_t program, uint32_t operations)
{
    if (!vitral_present(chip))
        return -2;
    vitral_window(chip, memory, size);
    vitral_start(chip, program, operations);
    return vitral_wait(chip, 1u << 24);
}

/* Return the class whose logit is the largest. */
int largest(const int16_t *logits, size_t classes)
{
    size_t best = 0;
    for (size_t n = 1; n < classes; n++)
        if (logits[n] > logits[best])
            best = n;
    return (int)best;
}

/* Return the cycles that the last run took. */
uint64_t cycles(uintptr_t chip)
{
    return vitral_read64(chip, VITRAL_COUNTER_CYCLES);
}
