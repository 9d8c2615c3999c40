/* An emulated board: mps2-an386 (Cortex-M4) or mps3-an547 (Cortex-M55) of QEMU, with semihosting. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

void print(const char *text);

/* Fills the free stack, and later tells how many bytes of it were used. */
void board_paint_stack(void);
uint32_t board_stack(void);

/* Instructions since the start, to about a hundred, under `qemu-system-arm -icount shift=0`. */
uint32_t board_instructions(void);

#endif
