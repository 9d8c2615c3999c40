/* See board.h: start-up, semihosting, and SysTick as a counter of instructions. */
#include "board.h"

#include <string.h>

extern uint32_t data_start, data_end, data_image, bss_start, bss_end, stack_start, stack_end;
int main(void);

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYST_CSR REGISTER(0xE000E010)
#define SYST_RVR REGISTER(0xE000E014)
#define SYST_CVR REGISTER(0xE000E018)
#define CPACR REGISTER(0xE000ED88)
#define TICKS (1u << 24)

static volatile uint32_t wraps;
static uint32_t per_256_ticks; /* instructions */

static uint32_t semihost(uint32_t call, const void *argument)
{
    register uint32_t r0 __asm__("r0") = call;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void print(const char *text)
{
    semihost(0x04, text); /* SYS_WRITE0 */
}

static void leave(int status)
{
    const uint32_t arguments[2] = {0x20026, (uint32_t)status}; /* ADP_Stopped_ApplicationExit */
    semihost(0x20, arguments);                                 /* SYS_EXIT_EXTENDED */
    for (;;) {
    }
}

static void fault(void)
{
    print("fault\n");
    leave(3);
}

static void tick(void)
{
    wraps++;
}

static uint64_t ticks(void)
{
    uint32_t before, value;

    do {
        before = wraps;
        value = SYST_CVR;
    } while (wraps != before);
    return (uint64_t)before * TICKS + (TICKS - 1 - value);
}

static void calibrate(void)
{
    const uint64_t start = ticks();
    uint32_t count = 1000000; /* of two instructions */

    __asm__ volatile("1: subs %0, #1\n bne 1b" : "+r"(count) : : "cc");
    per_256_ticks = (uint32_t)(2000000ull * 256 / (ticks() - start));
}

uint32_t board_instructions(void)
{
    return (uint32_t)(ticks() * per_256_ticks / 256);
}

void board_paint_stack(void)
{
    const uint32_t here = (uint32_t)__builtin_frame_address(0) - 64;

    for (volatile uint32_t *word = &stack_start; (uint32_t)word < here; word++) *word = 0xA5A5A5A5u;
}

uint32_t board_stack(void)
{
    const uint32_t *word = &stack_start;

    while (word < &stack_end && *word == 0xA5A5A5A5u) word++;
    return (uint32_t)((const uint8_t *)&stack_end - (const uint8_t *)word);
}

void board_reset(void)
{
    CPACR |= 0xFu << 20; /* vector and floating-point instructions, where there are any */
    __asm__ volatile("dsb\n isb");
    memcpy(&data_start, &data_image, (uint32_t)((uint8_t *)&data_end - (uint8_t *)&data_start));
    memset(&bss_start, 0, (uint32_t)((uint8_t *)&bss_end - (uint8_t *)&bss_start));
    SYST_RVR = TICKS - 1;
    SYST_CVR = 0;
    SYST_CSR = 7;
    while (!SYST_CVR) { /* it is loaded at the first tick */
    }
    calibrate();
    leave(main());
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void)) & stack_end, board_reset, fault, fault, fault, fault, fault, 0, 0, 0, 0,
    fault, fault, 0, fault, tick};
