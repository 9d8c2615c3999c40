/* The int8 inference engine: C99, no allocation, no library but memcpy.
 *
 * A network is a sequence of steps over one arena. Tensors are [height][width][channels] of int8,
 * and a pixel of a tensor may be a slice of a wider one: its pitch is the distance in bytes from a
 * pixel to the next. Sums are 32 bits wide and rounded as TensorFlow Lite rounds them.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdint.h>

#define ENGINE_BLOCK 4      /* output channels that are computed at once */
#define ENGINE_CODE_BITS 12 /* log2 of the sum of a table's frequencies */

/* A real factor: multiplier * 2^(shift - 31). */
typedef struct {
    int32_t multiplier;
    int32_t shift;
} engine_factor;

/* Entropy-coded weights: an rANS code of `bytes` bytes. Symbol i, of which there are `symbols`, is
 * the weight first + i and has the frequency table[i + 1] - table[i]. */
typedef struct {
    const uint8_t *code;
    uint32_t bytes;
    const uint16_t *table; /* symbols + 1 entries from 0 to 2^ENGINE_CODE_BITS */
    int16_t symbols;
    int16_t first;
} engine_code;

typedef struct {
    engine_factor first, second, result;
    int8_t first_zero, second_zero, zero, least;
    uint16_t pitch; /* of the tensor that is added */
} engine_sum;

enum { ENGINE_NONE, ENGINE_MAX_POOL, ENGINE_MEAN };

typedef struct {
    uint8_t kind; /* ENGINE_NONE, ... */
    uint8_t height, width, stride_y, stride_x, top, left;
    int8_t source_zero, zero, least; /* of a mean */
    uint16_t rows, columns;          /* of the output */
    engine_factor factor;            /* of a mean */
} engine_pool;

/* A convolution, the sum that may follow it, and the pool or mean that may follow that. */
typedef struct {
    const int8_t *weights; /* [outputs][height][width][depth], or NULL */
    const engine_code *code; /* of the same weights, or NULL */
    const int32_t *bias;   /* less the input's zero times the sum of the weights */
    const int32_t *multiplier;
    const int8_t *shift;
    const engine_sum *sum;   /* or NULL */
    const engine_pool *pool; /* or NULL */
    uint16_t in_rows, in_columns, in_pitch;
    uint16_t rows, columns, outputs, out_pitch;
    uint16_t depth, groups; /* input channels of a group */
    uint8_t height, width, stride_y, stride_x, top, left;
    uint8_t padded;              /* whether a window may reach over an edge of the input */
    int8_t in_zero, zero, least; /* zero points; the least output */
} engine_conv;

/* Runs a convolution.
 *
 * in, out: the first pixel of the input and of the output.
 * beside: of the tensor that is added; NULL without `sum`. It may be the output itself.
 * scratch: room, aligned to 4 bytes, for ENGINE_BLOCK int32 a tap of the window if the input is
 *   padded, then for ENGINE_BLOCK outputs' weights if they are coded, then for ENGINE_BLOCK channels
 *   of as many rows as a max pool's window has. */
void engine_run_conv(const engine_conv *conv, const int8_t *in, int8_t *out, const int8_t *beside,
                     int8_t *scratch);

/* Adds two tensors of `pixels` pixels; pitches: of the first, the second (in sum), the output. */
void engine_run_sum(const engine_sum *sum, const int8_t *first, uint16_t first_pitch,
                    const int8_t *second, int8_t *out, uint16_t out_pitch, uint32_t pixels,
                    uint16_t channels);

/* Pools a tensor that no convolution writes. */
void engine_run_pool(const engine_pool *pool, const int8_t *in, uint16_t in_rows,
                     uint16_t in_columns, uint16_t in_pitch, int8_t *out, uint16_t out_pitch,
                     uint16_t channels);

/* Copies every stride-th pixel. */
void engine_run_subsample(const int8_t *in, uint16_t in_columns, uint16_t in_pitch, int8_t *out,
                          uint16_t rows, uint16_t columns, uint16_t out_pitch, uint16_t channels,
                          uint8_t stride_y, uint8_t stride_x);

/* A decoder's state between calls of engine_decode. */
typedef struct {
    const uint8_t *next, *end;
    const uint16_t *table;
    uint32_t state;
    int16_t symbols, first;
    uint8_t hint[64]; /* the symbol of every 64th part of the table */
} engine_decoder;

/* Starts a decoder. Whatever the code holds, decoding reads and writes no byte outside its buffers;
 * after the end of the code it reads zeros. */
void engine_decode_start(engine_decoder *decoder, const engine_code *code);

/* Decodes the next `count` weights. */
void engine_decode(engine_decoder *decoder, int8_t *weights, uint32_t count);

#endif
