/* Runs the network on the test images and compares its outputs with those expected. Prints a line a
 * result; the exit status is 0 if all agree.
 *
 * On a microcontroller (board.c) it tells the stack and the instructions of an inference too. */
#include <stdint.h>
#include <string.h>

#include "images.h"
#include "net.h"

#ifdef BOARD
#include "board.h"
#else
#include <stdio.h>
static void print(const char *text) { fputs(text, stdout); }
#endif

static void print_number(uint32_t value)
{
    char digits[11];
    char *next = digits + 10;

    *next = 0;
    do *--next = (char)('0' + value % 10); while (value /= 10);
    print(next);
}

static void print_line(const char *name, uint32_t value)
{
    print(name);
    print(" ");
    print_number(value);
    print("\n");
}

int main(void)
{
    static int8_t out[NET_CLASSES];
    uint32_t wrong = 0;

#ifdef BOARD
    board_paint_stack();
#endif
    for (int image = 0; image < NET_IMAGES; image++) {
#ifdef BOARD
        uint32_t start = board_instructions();
#endif
        memcpy(net_input(), net_images[image], NET_INPUT_BYTES);
        net_run(net_input(), out);
#ifdef BOARD
        print_line("instructions", board_instructions() - start);
#endif
        for (int i = 0; i < NET_CLASSES; i++) wrong += out[i] != net_outputs[image][i];
        print("output");
        for (int i = 0; i < NET_CLASSES; i++) {
            print(out[i] < 0 ? " -" : " ");
            print_number((uint32_t)(out[i] < 0 ? -out[i] : out[i]));
        }
        print("\n");
    }
#ifdef BOARD
    print_line("stack", board_stack());
#endif
    print_line("arena", NET_ARENA_BYTES);
    print_line("wrong outputs", wrong);
    return wrong != 0;
}
