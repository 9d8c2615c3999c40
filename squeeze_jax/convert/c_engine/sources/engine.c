/* See engine.h. Right shifts of negative numbers are taken to be arithmetic, as in all compilers
 * that the engine is meant for. */
#include "engine.h"

#include <string.h>

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#include <arm_mve.h>
#define ENGINE_MVE
#elif defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#define ENGINE_DSP
#endif

/* Where registers are few, inner loops keep them to themselves. */
#if defined(__GNUC__)
#define ENGINE_APART __attribute__((noinline))
#else
#define ENGINE_APART
#endif

/* ---------------------------------------------------------------- fixed-point numbers */

static int32_t scaled(int32_t value, int32_t multiplier, int32_t shift)
{
    int64_t product;
    int32_t high, rest, half;

    if (shift > 0) {
        value = (int32_t)((uint32_t)value << shift);
        shift = 0;
    }
    product = (int64_t)value * multiplier + (1 << 30);
    high = (int32_t)(product >> 31);
    if (!shift) return high;
    rest = high & (int32_t)((1u << -shift) - 1);
    half = (int32_t)(((1u << -shift) - 1) >> 1) + (high < 0);
    return (high >> -shift) + (rest > half);
}

static int8_t clipped(int32_t value, int8_t least)
{
    return (int8_t)(value < least ? least : value > 127 ? 127 : value);
}

static int8_t summed(const engine_sum *sum, int8_t first, int8_t second)
{
    int32_t a = (int32_t)((uint32_t)(first - sum->first_zero) << 20);
    int32_t b = (int32_t)((uint32_t)(second - sum->second_zero) << 20);

    a = scaled(a, sum->first.multiplier, sum->first.shift) +
        scaled(b, sum->second.multiplier, sum->second.shift);
    return clipped(scaled(a, sum->result.multiplier, sum->result.shift) + sum->zero, sum->least);
}

/* ---------------------------------------------------------------- products */

#if defined(ENGINE_DSP)
/* Returns bytes 1 and 3 of a word: __sxtb16(word >> 8) in one instruction. */
static int16x2_t odd_bytes(uint32_t word)
{
    int16x2_t result;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(word));
    return result;
}
#endif

#define ENGINE_ADD(s, w)                  \
    memcpy(&word, w, 4);                  \
    s = __smlad(even, __sxtb16(word), s); \
    s = __smlad(odd, odd_bytes(word), s)

/* Adds to sums[i], i < ENGINE_BLOCK, the products of rows of an input and of an output's weights.
 *
 * x: the input, `rows` rows of `count` values, x_step from one to the next.
 * w: the weights, likewise with w_step; those of the next output follow after `pitch`. */
static ENGINE_APART void add_products(int32_t *sums, const int8_t *x, uint32_t x_step, const int8_t *w,
                         uint32_t w_step, uint32_t pitch, uint32_t count, uint32_t rows)
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];

    for (; rows; rows--, x += x_step, w += w_step) {
#if defined(ENGINE_DSP)
        const int8_t *a = x, *end = x + (count & ~3u), *b = w;

        for (; a < end; a += 4, b += 4) {
            uint32_t word;
            int16x2_t even, odd;
            memcpy(&word, a, 4);
            even = __sxtb16(word);
            odd = odd_bytes(word);
            ENGINE_ADD(s0, b);
            ENGINE_ADD(s1, b + pitch);
            ENGINE_ADD(s2, b + 2 * pitch);
            ENGINE_ADD(s3, b + 3 * pitch);
        }
        for (end = x + count; a < end; a++, b++) {
            int32_t v = *a;
            s0 += v * b[0];
            s1 += v * b[pitch];
            s2 += v * b[2 * pitch];
            s3 += v * b[3 * pitch];
        }
#else
        const int8_t *w0 = w, *w1 = w0 + pitch, *w2 = w1 + pitch, *w3 = w2 + pitch;
        uint32_t i = 0;

#if defined(ENGINE_MVE)
        for (; i < count; i += 16) {
            mve_pred16_t inside = vctp8q(count - i);
            int8x16_t v = vldrbq_z_s8(x + i, inside);
            s0 = vmladavaq_s8(s0, v, vldrbq_z_s8(w0 + i, inside));
            s1 = vmladavaq_s8(s1, v, vldrbq_z_s8(w1 + i, inside));
            s2 = vmladavaq_s8(s2, v, vldrbq_z_s8(w2 + i, inside));
            s3 = vmladavaq_s8(s3, v, vldrbq_z_s8(w3 + i, inside));
        }
#else
        for (; i < count; i++) {
            int32_t v = x[i];
            s0 += v * w0[i];
            s1 += v * w1[i];
            s2 += v * w2[i];
            s3 += v * w3[i];
        }
#endif
#endif
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* The same for fewer outputs than a block. */
static void add_few_products(int32_t *sums, const int8_t *x, uint32_t x_step, const int8_t *w,
                             uint32_t w_step, uint32_t pitch, uint32_t count, uint32_t rows,
                             uint32_t outputs)
{
    for (; rows; rows--, x += x_step, w += w_step) {
        for (uint32_t j = 0; j < outputs; j++) {
            const int8_t *weights = w + j * pitch;
            int32_t sum = sums[j];
            for (uint32_t i = 0; i < count; i++) sum += (int32_t)x[i] * weights[i];
            sums[j] = sum;
        }
    }
}

/* Sums the weights of each tap of the window, times the input's zero: what a padding counts. */
static void sum_taps(const engine_conv *c, const int8_t *w, uint32_t outputs, int32_t *taps)
{
    const uint32_t count = (uint32_t)c->height * c->width, pitch = count * c->depth;

    for (uint32_t tap = 0; tap < count; tap++, w += c->depth)
        for (uint32_t j = 0; j < ENGINE_BLOCK; j++, taps++) {
            int32_t sum = 0;
            for (uint32_t i = 0; i < c->depth && j < outputs; i++) sum += w[j * pitch + i];
            *taps = c->in_zero * sum;
        }
}

/* Adds the products of one output position, whose window starts at row y and column x. The bias
 * holds -zero times all weights, so the padding counts as an input of the value zero. */
static void add_window(const engine_conv *c, const int8_t *in, const int8_t *w, const int32_t *taps,
                       uint32_t outputs, int32_t y, int32_t x, int32_t *sums)
{
    const uint32_t depth = c->depth, row = c->width * depth, pitch = c->height * row;
    uint32_t top = 0, bottom = c->height, left = 0, right = c->width, rows, count, x_step, w_step;

    if (y < 0) top = (uint32_t)-y;
    if (y + c->height > c->in_rows) bottom = c->in_rows > y ? (uint32_t)(c->in_rows - y) : 0;
    if (x < 0) left = (uint32_t)-x;
    if (x + c->width > c->in_columns) right = c->in_columns > x ? (uint32_t)(c->in_columns - x) : 0;
    if (c->padded && (top > 0 || left > 0 || bottom < c->height || right < c->width))
        for (uint32_t i = 0; i < c->height; i++)
            for (uint32_t j = 0; j < c->width; j++, taps += ENGINE_BLOCK)
                if (i < top || i >= bottom || j < left || j >= right)
                    for (uint32_t k = 0; k < outputs; k++) sums[k] += taps[k];
    if (top >= bottom || left >= right) return;
    in += ((uint32_t)(y + (int32_t)top) * c->in_columns + (uint32_t)(x + (int32_t)left)) *
          c->in_pitch;
    w += top * row + left * depth;
    /* A row of the window is contiguous unless its pixels are slices: then each pixel is a row. */
    if (c->in_pitch == depth) {
        rows = bottom - top, count = (right - left) * depth;
        x_step = c->in_columns * depth, w_step = row;
        bottom = top + 1;
    } else {
        rows = right - left, count = depth;
        x_step = c->in_pitch, w_step = depth;
    }
    for (; top < bottom; top++, in += c->in_columns * c->in_pitch, w += row) {
        if (outputs == ENGINE_BLOCK)
            add_products(sums, in, x_step, w, w_step, pitch, count, rows);
        else
            add_few_products(sums, in, x_step, w, w_step, pitch, count, rows, outputs);
    }
}

/* ---------------------------------------------------------------- pools */

/* Writes the row `row` of a max pool of `channels` channels.
 *
 * in: rows of the input, row r at in + (r % ring) * row_bytes. */
static void pool_row(const engine_pool *p, const int8_t *in, uint32_t ring, uint32_t row_bytes,
                     uint32_t in_rows, uint32_t in_columns, uint32_t in_pitch, uint32_t row,
                     int8_t *out, uint32_t out_pitch, uint32_t channels)
{
    int32_t y = (int32_t)(row * p->stride_y) - p->top;
    int32_t end_y = y + p->height > (int32_t)in_rows ? (int32_t)in_rows : y + p->height;

    if (y < 0) y = 0;
    for (uint32_t column = 0; column < p->columns; column++, out += out_pitch) {
        int32_t x = (int32_t)(column * p->stride_x) - p->left;
        int32_t end_x = x + p->width > (int32_t)in_columns ? (int32_t)in_columns : x + p->width;

        if (x < 0) x = 0;
        memcpy(out, in + ((uint32_t)y % ring) * row_bytes + (uint32_t)x * in_pitch, channels);
        for (int32_t i = y; i < end_y; i++) {
            const int8_t *value = in + ((uint32_t)i % ring) * row_bytes + (uint32_t)x * in_pitch;
            for (int32_t j = x; j < end_x; j++, value += in_pitch)
                for (uint32_t k = 0; k < channels; k++)
                    if (value[k] > out[k]) out[k] = value[k];
        }
    }
}

/* Returns the rows of the input that the pool's rows up to `row` need. */
static uint32_t rows_needed(const engine_pool *p, uint32_t in_rows, uint32_t row)
{
    uint32_t needed = row * p->stride_y + p->height - p->top;
    return needed < in_rows ? needed : in_rows;
}

void engine_run_pool(const engine_pool *pool, const int8_t *in, uint16_t in_rows,
                     uint16_t in_columns, uint16_t in_pitch, int8_t *out, uint16_t out_pitch,
                     uint16_t channels)
{
    if (pool->kind == ENGINE_MAX_POOL) {
        for (uint32_t row = 0; row < pool->rows; row++)
            pool_row(pool, in, in_rows, (uint32_t)in_columns * in_pitch, in_rows, in_columns,
                     in_pitch, row, out + row * pool->columns * out_pitch, out_pitch, channels);
        return;
    }
    for (uint32_t k = 0; k < channels; k++) {
        const uint32_t pixels = (uint32_t)in_rows * in_columns;
        int32_t total = 0;
        for (uint32_t i = 0; i < pixels; i++) total += in[i * in_pitch + k] - pool->source_zero;
        out[k] = clipped(scaled(total, pool->factor.multiplier, pool->factor.shift) + pool->zero,
                         pool->least);
    }
}

/* ---------------------------------------------------------------- steps */

/* Computes one block of outputs, of which the first has the number `output`. */
static void run_block(const engine_conv *c, const int8_t *in, const int8_t *w, const int32_t *taps,
                      uint32_t output, uint32_t outputs, int8_t *out, const int8_t *beside,
                      int8_t *ring)
{
    const engine_pool *pool = c->pool;
    const int is_pool = pool && pool->kind == ENGINE_MAX_POOL;
    const int is_mean = pool && pool->kind == ENGINE_MEAN;
    int32_t totals[ENGINE_BLOCK] = {0};
    uint32_t pooled = 0;

    for (uint32_t y = 0; y < c->rows; y++) {
        const uint32_t step = is_pool ? ENGINE_BLOCK : c->out_pitch;
        int8_t *to = is_pool ? ring + y % pool->height * c->columns * ENGINE_BLOCK
                             : out + y * c->columns * step;

        for (uint32_t x = 0; x < c->columns; x++) {
            int32_t sums[ENGINE_BLOCK];
            int8_t values[ENGINE_BLOCK];

            for (uint32_t j = 0; j < outputs; j++) sums[j] = c->bias[output + j];
            add_window(c, in, w, taps, outputs, (int32_t)(y * c->stride_y) - c->top,
                       (int32_t)(x * c->stride_x) - c->left, sums);
            for (uint32_t j = 0; j < outputs; j++)
                values[j] = clipped(
                    scaled(sums[j], c->multiplier[output + j], c->shift[output + j]) + c->zero,
                    c->least);
            if (c->sum) {
                for (uint32_t j = 0; j < outputs; j++)
                    values[j] = summed(c->sum, values[j], beside[j]);
                beside += c->sum->pitch;
            }
            if (is_mean) {
                for (uint32_t j = 0; j < outputs; j++) totals[j] += values[j] - pool->source_zero;
            } else {
                for (uint32_t j = 0; j < outputs; j++) to[j] = values[j];
                to += step;
            }
        }
        while (is_pool && pooled < pool->rows && rows_needed(pool, c->rows, pooled) == y + 1) {
            pool_row(pool, ring, pool->height, c->columns * ENGINE_BLOCK, c->rows, c->columns,
                     ENGINE_BLOCK, pooled, out + pooled * pool->columns * c->out_pitch,
                     c->out_pitch, outputs);
            pooled++;
        }
    }
    for (uint32_t j = 0; is_mean && j < outputs; j++)
        out[j] = clipped(scaled(totals[j], pool->factor.multiplier, pool->factor.shift) + pool->zero,
                         pool->least);
}

void engine_run_conv(const engine_conv *conv, const int8_t *in, int8_t *out, const int8_t *beside,
                     int8_t *scratch)
{
    const uint32_t taps = (uint32_t)conv->height * conv->width, size = taps * conv->depth;
    const uint32_t in_group = conv->outputs / conv->groups;
    int32_t *sums = (int32_t *)(void *)scratch;
    int8_t *decoded = conv->padded ? scratch + taps * ENGINE_BLOCK * sizeof *sums : scratch;
    int8_t *ring = conv->code ? decoded + ENGINE_BLOCK * size : decoded;
    engine_decoder decoder;

    if (conv->code) engine_decode_start(&decoder, conv->code);
    for (uint32_t output = 0, outputs; output < conv->outputs; output += outputs) {
        const uint32_t group = output / in_group, left = (group + 1) * in_group - output;
        const int8_t *w = conv->code ? decoded : conv->weights + output * size;

        outputs = left < ENGINE_BLOCK ? left : ENGINE_BLOCK;
        if (conv->code) engine_decode(&decoder, decoded, outputs * size);
        if (conv->padded) sum_taps(conv, w, outputs, sums);
        run_block(conv, in + group * conv->depth, w, sums, output, outputs, out + output,
                  beside ? beside + output : 0, ring);
    }
}

void engine_run_sum(const engine_sum *sum, const int8_t *first, uint16_t first_pitch,
                    const int8_t *second, int8_t *out, uint16_t out_pitch, uint32_t pixels,
                    uint16_t channels)
{
    for (uint32_t i = 0; i < pixels; i++) {
        for (uint32_t k = 0; k < channels; k++) out[k] = summed(sum, first[k], second[k]);
        first += first_pitch;
        second += sum->pitch;
        out += out_pitch;
    }
}

void engine_run_subsample(const int8_t *in, uint16_t in_columns, uint16_t in_pitch, int8_t *out,
                          uint16_t rows, uint16_t columns, uint16_t out_pitch, uint16_t channels,
                          uint8_t stride_y, uint8_t stride_x)
{
    for (uint32_t y = 0; y < rows; y++)
        for (uint32_t x = 0; x < columns; x++, out += out_pitch)
            memcpy(out, in + (y * stride_y * in_columns + x * stride_x) * in_pitch, channels);
}

/* ---------------------------------------------------------------- coded weights */

#define CODE_TOTAL (1u << ENGINE_CODE_BITS)
#define CODE_LEAST (1u << 23) /* the least state between symbols */
#define CODE_HINT_BITS 6

static uint32_t next_byte(engine_decoder *d)
{
    return d->next < d->end ? *d->next++ : 0;
}

void engine_decode_start(engine_decoder *decoder, const engine_code *code)
{
    uint32_t symbol = 0;

    decoder->next = code->code;
    decoder->end = code->code + code->bytes;
    decoder->table = code->table;
    decoder->symbols = code->symbols;
    decoder->first = code->first;
    decoder->state = 0;
    for (int i = 0; i < 4; i++) decoder->state = decoder->state << 8 | next_byte(decoder);
    for (uint32_t i = 0; i < 1u << CODE_HINT_BITS; i++) {
        while (symbol + 1 < (uint32_t)code->symbols &&
               code->table[symbol + 1] <= i << (ENGINE_CODE_BITS - CODE_HINT_BITS))
            symbol++;
        decoder->hint[i] = (uint8_t)symbol;
    }
}

void engine_decode(engine_decoder *decoder, int8_t *weights, uint32_t count)
{
    const uint16_t *table = decoder->table;
    const uint32_t last = (uint32_t)decoder->symbols - 1;
    uint32_t state = decoder->state;

    for (uint32_t i = 0; i < count; i++) {
        const uint32_t slot = state & (CODE_TOTAL - 1);
        uint32_t symbol = decoder->hint[slot >> (ENGINE_CODE_BITS - CODE_HINT_BITS)];

        while (symbol < last && table[symbol + 1] <= slot) symbol++;
        state = (uint32_t)(table[symbol + 1] - table[symbol]) * (state >> ENGINE_CODE_BITS) + slot -
                table[symbol];
        for (int j = 0; j < 4 && state < CODE_LEAST; j++) state = state << 8 | next_byte(decoder);
        weights[i] = (int8_t)(decoder->first + (int32_t)symbol);
    }
    decoder->state = state;
}
