/* Decodes .sqz files (version 2, arithmetic coding).
 *
 * squeeze_jax/compress/sqz documents the format: file_format.py and tensor_table.py describe the
 * file, mixing.py the coder, and contexts.py the contexts. This decoder repeats their integer
 * operations, so that the weights are the same to the bit. sqz_main.c is a command-line program
 * around it.
 */
#include "sqz.h"

#include <float.h>
#include <string.h>

enum { INPUTS = SQZ_INPUTS, TABLES = INPUTS - 1, SETS = 3, CHOICES = 512, REFINED = 96 };
enum { NODES = 1 << 14, ZERO = 1, SIGN = 2, LENGTH = 4096, BELOW = 8192 };
enum { FEW = 6, BIAS = 256, LEARNED = 1000, VALUE_BITS = 12, HEADER = 32, ADDED = 8 };
enum { MOST_WEIGHTS = 1 << 26, MOST_CHANNELS = 1 << 20, MOST_VALUES = 65535 };
enum { LARGEST_LEVEL = (1 << 24) - 1 };

static uint32_t u32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint32_t update_crc(uint32_t crc, uint8_t byte) {
    crc ^= byte;
    for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1)));
    return crc;
}

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t clip(int64_t a, int64_t low, int64_t high) { return min64(max64(a, low), high); }
static int64_t magnitude_of(int64_t value) { return value < 0 ? -value : value; }
static int sign_of(int64_t value) { return value == 0 ? 1 : value > 0 ? 2 : 0; }
static uint32_t outputs_of(const sqz_tensor *t) { return t->axes ? t->shape[t->axes - 1] : 1; }
static uint32_t inputs_of(const sqz_tensor *t) { return t->axes > 1 ? t->shape[t->axes - 2] : 1; }

/* ---- the file ---- */

static int read_varint(const uint8_t **at, const uint8_t *end, uint32_t *number) {
    uint64_t value = 0;
    for (int shift = 0; shift < 35 && *at < end; shift += 7) {
        uint8_t group = *(*at)++;
        value |= (uint64_t)(group & 127) << shift;
        if (group < 128) {
            *number = (uint32_t)value;
            return value < (uint64_t)1 << 31;
        }
    }
    return 0;
}

/* Reads the next entry of the tensor table. file->name is the previous name. */
static int read_entry(sqz_file *file, sqz_tensor *t) {
    const uint8_t *at = file->table_at, *end = file->table_end;
    memset(t, 0, sizeof *t);
    if (end - at < 2) return SQZ_DAMAGED;
    size_t alike = at[0], more = at[1];
    at += 2;
    if (alike + more > 255 || alike + more == 0 || alike > strlen(file->name)) return SQZ_DAMAGED;
    if ((size_t)(end - at) < more + 2 || memchr(at, 0, more)) return SQZ_DAMAGED;
    memcpy(file->name + alike, at, more);
    file->name[alike + more] = 0;
    memcpy(t->name, file->name, sizeof t->name);
    at += more;
    t->kind = *at & ~ADDED;
    t->added = (*at++ & ADDED) != 0;
    t->axes = *at++;
    int levels = t->kind == SQZ_UNIFORM || t->kind == SQZ_CODEBOOK;
    int based = t->added || t->kind == SQZ_KEPT;
    if (t->kind > SQZ_KEPT || t->axes > SQZ_AXES) return SQZ_DAMAGED;
    if ((t->added && !levels) || (based && !file->delta)) return SQZ_DAMAGED;
    t->size = 1;
    for (int i = 0; i < t->axes; i++) {
        if (!read_varint(&at, end, &t->shape[i])) return SQZ_DAMAGED;
        if ((uint64_t)t->size * t->shape[i] > MOST_WEIGHTS) return SQZ_TOO_LARGE;
        t->size *= t->shape[i];
    }
    if (levels) {
        if (at == end || (t->scan = *at++) > 1) return SQZ_DAMAGED;
        if (!read_varint(&at, end, &t->below) || !read_varint(&at, end, &t->above))
            return SQZ_DAMAGED;
        if (inputs_of(t) > MOST_CHANNELS || outputs_of(t) > MOST_CHANNELS) return SQZ_DAMAGED;
    }
    uint32_t most = t->below > t->above ? t->below : t->above;
    if (t->kind == SQZ_UNIFORM) {
        if (end - at < 4) return SQZ_DAMAGED;
        t->step = float_of(u32(at));
        at += 4;
        if (!(t->step > 0) || most > LARGEST_LEVEL || (double)t->step * most > FLT_MAX)
            return SQZ_DAMAGED;
    }
    if (based) {
        if (!read_varint(&at, end, &t->base)) return SQZ_DAMAGED;
        if ((uint64_t)file->taken + t->base + t->size > MOST_WEIGHTS) return SQZ_TOO_LARGE;
        t->base += file->taken;
        file->taken = t->base + t->size;
    }
    uint32_t room = t->size > 256 ? t->size : 256;
    if (t->kind == SQZ_CODEBOOK && (most > MOST_VALUES || t->below + t->above > room))
        return SQZ_DAMAGED;
    file->table_at = at;
    return SQZ_OK;
}

int sqz_open(sqz_file *f, const uint8_t *data, size_t size) {
    uint32_t crc = 0xFFFFFFFFu;
    memset(f, 0, sizeof *f);
    if (size < HEADER + 4 || memcmp(data, "\x8fSQZ", 4)) return SQZ_NOT_SQZ;
    f->delta = data[5] == 2;
    f->base_crc = u32(data + 28);
    /* The flag data[5] & 1 marks Huffman coding. */
    if (data[4] != 2 || data[5] & ~2 || data[7] || (f->base_crc && !f->delta))
        return SQZ_UNSUPPORTED;
    uint32_t header = u32(data + 20), table = u32(data + 24);
    if (u32(data + 8) != size || (uint64_t)header + table > size - HEADER - 4) return SQZ_DAMAGED;
    for (size_t i = 0; i < size - 4; i++) crc = update_crc(crc, data[i]);
    if (~crc != u32(data + size - 4)) return SQZ_DAMAGED;
    f->context_bits = data[6];
    f->tensors = u32(data + 12);
    f->weights = u32(data + 16);
    if (f->context_bits < 10 || f->context_bits > 18) return SQZ_UNSUPPORTED;
    if (f->weights > MOST_WEIGHTS) return SQZ_TOO_LARGE;
    f->header = data + HEADER;
    f->header_size = header;
    f->table = f->table_at = f->header + header;
    f->payload = f->table_end = f->table + table;
    f->payload_size = size - HEADER - 4 - header - table;
    uint64_t total = 0;
    for (uint32_t i = 0; i < f->tensors; i++) {
        sqz_tensor t;
        int status = read_entry(f, &t);
        if (status) return status;
        total += t.size;
        if (t.kind == SQZ_KEPT) continue;
        if (t.size > f->widest) f->widest = t.size;
        if (t.kind == SQZ_CODEBOOK && t.below + t.above > f->codes) f->codes = t.below + t.above;
        uint32_t channels = inputs_of(&t) + outputs_of(&t);
        if (t.kind >= SQZ_UNIFORM && t.size && channels > f->channels) f->channels = channels;
    }
    if (total != f->weights || f->table_at != f->table_end) return SQZ_DAMAGED;
    f->base_weights = f->taken;
    return SQZ_OK;
}

int sqz_base(const sqz_file *f, const float *base, size_t weights) {
    uint32_t crc = 0xFFFFFFFFu, bits;
    if (!f->delta) return SQZ_OK;
    if (!base || weights < f->base_weights) return SQZ_BASE;
    for (size_t i = 0; i < weights; i++) {
        memcpy(&bits, base + i, 4);
        for (int k = 0; k < 32; k += 8) crc = update_crc(crc, bits >> k & 255);
    }
    return ~crc == f->base_crc ? SQZ_OK : SQZ_BASE;
}

/* ---- the memory ---- */

static uint64_t states_of(const sqz_file *f) {
    return (uint64_t)TABLES * (((uint64_t)1 << f->context_bits) + (1 << VALUE_BITS));
}

static void *take(char *memory, uint64_t *used, uint64_t bytes) {
    *used += bytes;
    return memory ? memory + (*used - bytes) : NULL;
}

/* Assigns each array its part of the memory, widest elements first, and returns the total bytes.
 * Only counts if `memory` is NULL. */
static uint64_t lay_out(sqz_file *f, char *memory) {
    uint64_t used = 0, codes = (uint64_t)f->codes + 1;
    for (int i = 0; i < 2; i++) f->edges[i] = take(memory, &used, 8 * codes);
    f->sums = take(memory, &used, 8 * (uint64_t)f->channels);
    f->counts = take(memory, &used, 4 * (uint64_t)f->channels);
    f->states = take(memory, &used, 4 * states_of(f));
    f->weights_of = take(memory, &used, 4 * SETS * CHOICES * INPUTS);
    f->refined = take(memory, &used, 4 * REFINED * 33);
    f->squash = take(memory, &used, 4 * 4096), f->stretch = take(memory, &used, 4 * 4096);
    f->rates = take(memory, &used, 4 * 1024), f->trust = take(memory, &used, 4 * 1024);
    f->levels = take(memory, &used, 4 * (uint64_t)f->widest);
    f->codebook = take(memory, &used, 4 * codes);
    return used;
}

size_t sqz_memory(const sqz_file *f) {
    sqz_file copy = *f;
    uint64_t bytes = lay_out(&copy, NULL);
    return bytes > SIZE_MAX ? 0 : (size_t)bytes;
}

int sqz_start(sqz_file *f, void *memory, size_t size) {
    if (!memory || !sqz_memory(f) || size < sqz_memory(f)) return SQZ_NO_MEMORY;
    memset(memory, 0, sqz_memory(f));
    lay_out(f, memory);

    uint64_t power = (uint64_t)1 << 32;
    for (int k = 0; k < 2048; k++) {
        uint64_t p = ((uint64_t)1 << 48) / (((uint64_t)1 << 32) + power);
        f->squash[2048 + k] = (int32_t)min64(65535, (int64_t)p);
        f->squash[2048 - k] = 65536 - f->squash[2048 + k];
        power = power * 4278222805u >> 32;
    }
    f->squash[0] = f->squash[1];
    for (int p = 0, k = 0; p < 4096; p++) {
        while (k < 4095 && f->squash[k] < p * 16 + 8) k++;
        f->stretch[p] = k - 2048;
    }
    for (int n = 0; n < 1024; n++) {
        f->rates[n] = 65536 * 5 / (5 * (n < LEARNED ? n : LEARNED) + 8);
        f->trust[n] = 512 * n / (2 * n + 1);
    }
    for (uint64_t i = 0; i < states_of(f); i++) f->states[i] = (uint32_t)1 << 31;
    for (int i = 0; i < SETS * CHOICES * INPUTS; i++)
        f->weights_of[i] = i % INPUTS ? 104858 : 419430;
    for (int i = 0; i < REFINED * 33; i++) f->refined[i] = f->squash[min64(i % 33 * 128, 4095)];
    f->low = 0, f->high = 0xFFFFFFFFu, f->code = 0;
    for (f->position = 0; f->position < 4; f->position++)
        f->code = f->code << 8 | (f->position < f->payload_size ? f->payload[f->position] : 0);
    f->failed = 0, f->number = 0, f->taken = 0, f->name[0] = 0, f->table_at = f->table;
    return SQZ_OK;
}

/* ---- the coder: mixing.py ---- */

/* Decodes a bit that is 1 with probability p / 65536. */
static int decode_with(sqz_file *f, uint32_t p) {
    uint32_t middle = f->low + (uint32_t)((uint64_t)(f->high - f->low) * p >> 16);
    int bit = f->code <= middle;
    if (bit) f->high = middle;
    else f->low = middle + 1;
    while (!((f->low ^ f->high) & 0xFF000000u)) {
        size_t at = f->position++;
        f->code = f->code << 8 | (at < f->payload_size ? f->payload[at] : 0);
        if (at >= f->payload_size + 3) f->failed = 1;
        f->low <<= 8;
        f->high = f->high << 8 | 255;
    }
    return bit;
}

/* Selects the states of inputs 1..count-1, by the contexts f->bases and a decision's node. */
static void select_slots(sqz_file *f, uint32_t first, int bits, int count, uint32_t node) {
    for (int i = 1; i < count; i++) {
        uint32_t hash = (f->bases[i] + node) * 0x2F0B4C47u >> (32 - bits);
        f->slots[i] = first + ((uint32_t)(i - 1) << bits) + hash;
    }
}

/* Decodes a decision with the mixers a, b and c of the three sets, and learns from it. */
static int decode_bit(sqz_file *f, int count, int prior, int refining, uint32_t a, uint32_t b,
                      uint32_t c) {
    const uint32_t chosen[SETS] = {a, b, c};
    int64_t dots[SETS], total = 0;
    f->inputs[0] = prior;
    for (int i = 1; i < count; i++) {
        uint32_t state = f->states[f->slots[i]];
        f->inputs[i] = f->stretch[state >> 20] * f->trust[state & 1023] >> 8;
    }
    for (int s = 0; s < SETS; s++) {
        const int32_t *weights = f->weights_of + ((size_t)s * CHOICES + chosen[s]) * INPUTS;
        int64_t dot = 0;
        for (int i = 0; i < count; i++) dot += (int64_t)weights[i] * f->inputs[i];
        dots[s] = clip(dot >> 20, -2047, 2047);
        total += dots[s];
    }
    int64_t logit = (total + 3 * 2048) / SETS - 2048;
    int64_t place = (logit + 2048) * 32, part = place & 4095;
    int32_t *curve = f->refined + refining * 33 + (place >> 12);
    int64_t refined = (curve[0] * (4096 - part) + curve[1] * part) >> 12;
    int64_t mixed = (3 * (int64_t)f->squash[logit + 2048] + refined) >> 2;
    int bit = decode_with(f, (uint32_t)clip(mixed, 1, 65535));

    for (int s = 0; s < SETS; s++) {
        int32_t *weights = f->weights_of + ((size_t)s * CHOICES + chosen[s]) * INPUTS;
        int64_t error = (bit << 16) - f->squash[dots[s] + 2048];
        for (int i = 0; i < count; i++) {
            int64_t weight = weights[i] + ((f->inputs[i] * error + 4096) >> 13);
            weights[i] = (int32_t)clip(weight, -(1 << 30), 1 << 30);
        }
    }
    curve += part >= 2048;
    *curve += ((bit << 16) - *curve) >> 6;
    for (int i = 1; i < count; i++) {
        uint32_t state = f->states[f->slots[i]], seen = state & 1023;
        int64_t p = state >> 10;
        p += ((((int64_t)bit << 22) - p) * f->rates[seen]) >> 16;
        p = clip(p, 1, (1 << 22) - 1);
        f->states[f->slots[i]] = (uint32_t)p << 10 | (seen + 1 < LEARNED ? seen + 1 : LEARNED);
    }
    return bit;
}

/* ---- the contexts: contexts.py ---- */

static uint32_t size_class(int64_t value) {
    uint64_t v = (uint64_t)magnitude_of(value);
    int octave = 0;
    for (; v >= 4; v >>= 1) octave++;
    return octave ? (uint32_t)min64(2 + 2 * octave + (int)(v & 1), 63) : (uint32_t)v;
}

static uint32_t signed_class(int64_t value) {
    return value >= 0 ? 64 + size_class(value) : 64 - size_class(value);
}

static void set_bases(sqz_file *f, const uint32_t *contexts) {
    for (uint32_t i = 0; i < TABLES; i++) f->bases[i + 1] = contexts[i] * NODES + i;
}

/* Returns the logit of a level being in middle..high, given that it is in low..high. */
static int split_logit(const sqz_file *f, const int64_t *edges, int64_t low, int64_t middle,
                       int64_t high) {
    int64_t upper = edges ? edges[high] - edges[middle - 1] : high - middle + 1;
    int64_t whole = edges ? edges[high] - edges[low - 1] : high - low + 1;
    return f->stretch[upper * 4094 / max64(whole, 1) + 1];
}

/* Decodes a magnitude 1..largest. `row` and `column` are the classes of its channels' means. */
static int64_t decode_magnitude(sqz_file *f, int negative, const int64_t *edges, int64_t largest,
                                uint32_t row, uint32_t column) {
    int bits = f->context_bits, length = 0;
    f->bases[1] = 3; /* the table of cell widths */
    while (((int64_t)2 << length) <= largest) {
        int logit = split_logit(f, edges, (int64_t)1 << length, (int64_t)2 << length, largest);
        select_slots(f, 0, bits, INPUTS, (uint32_t)(LENGTH + length));
        int width_node = LENGTH + length * 64 + ((logit + 2048) >> 6) + 2048 * negative;
        select_slots(f, 0, bits, 2, (uint32_t)width_node);
        uint32_t mixer = (uint32_t)(2 + length);
        if (!decode_bit(f, INPUTS, logit, 2 + length, mixer, 100 + row, 300 + column)) break;
        length++;
    }
    int64_t node = 1;
    for (int depth = 0; depth < length; depth++) {
        int left = length - 1 - depth, count = depth < 2 ? INPUTS : FEW;
        int64_t low = node << (left + 1), middle = low + ((int64_t)1 << left);
        int64_t high = min64(low + ((int64_t)2 << left) - 1, largest);
        if (middle > largest) {
            node *= 2;
            continue;
        }
        int logit = split_logit(f, edges, low, middle, high);
        int64_t bit_node = depth < 8 ? BELOW + 256 * length + node : BELOW + 256 * 25 + depth;
        int width_node = BELOW + depth * 256 + ((logit + 2048) >> 4) + NODES * (left + 1);
        select_slots(f, 0, bits, count, (uint32_t)bit_node);
        select_slots(f, 0, bits, 2, (uint32_t)width_node);
        uint32_t mixer = (uint32_t)(40 + 8 * length + (depth < 7 ? depth : 7));
        node = node * 2 + decode_bit(f, count, logit, 64 + depth, mixer, 164 + row, 364 + column);
    }
    return node;
}

/* Decodes one level. `at` holds its outer channel, inner channel and tap. `kernel` holds the count,
 * sum and mask of the preceding non-zero levels of its kernel. */
static void decode_level(sqz_file *f, const sqz_tensor *t, const uint32_t at[3],
                         const uint32_t sizes[3], const uint32_t strides[3], uint32_t width,
                         int64_t kernel[3]) {
    uint32_t a = at[0], b = at[1], k = at[2];
    uint32_t outer = strides[0], inner = strides[1], tap = strides[2];
    int32_t *here = f->levels + (size_t)a * outer + (size_t)b * inner + (size_t)k * tap;
    uint32_t *rows = f->counts + a, *columns = f->counts + sizes[0] + b;
    int64_t *row_sum = f->sums + a, *column_sum = f->sums + sizes[0] + b;
    int64_t left = b ? *(here - inner) : 0, left2 = b > 1 ? *(here - 2 * (size_t)inner) : 0;
    int64_t up = a ? *(here - outer) : 0, up2 = a > 1 ? *(here - 2 * (size_t)outer) : 0;
    int64_t corner = a && b ? *(here - inner - outer) : 0, west = k % width ? *(here - tap) : 0;
    int64_t north = k >= width ? *(here - (size_t)width * tap) : 0;
    int64_t northwest = k % width && k >= width ? *(here - (size_t)(width + 1) * tap) : 0;
    uint32_t row_seen = b * sizes[2] + k, column_seen = a * sizes[2] + k;
    uint32_t row_density = (uint32_t)((uint64_t)*rows * 32 / (row_seen + 1));
    uint32_t column_density = (uint32_t)((uint64_t)*columns * 32 / (column_seen + 1));
    uint32_t row = size_class(*row_sum * 4 / (*rows + (int64_t)1));
    uint32_t column = size_class(*column_sum * 4 / (*columns + (int64_t)1));
    uint32_t row_age = size_class(row_seen), column_age = size_class(column_seen);
    uint32_t early = k < 15 ? k : 15;
    uint32_t around = (left != 0) | (up != 0) << 1 | (left2 != 0) << 2 | (up2 != 0) << 3 |
                      (corner != 0) << 4;
    uint32_t beside = (west != 0) | (north != 0) << 1;
    int bits = f->context_bits;
    uint32_t zero[TABLES] = {
        row_density * 64 + row_age,
        k,
        a,
        b,
        row_seen,
        column_seen,
        row_density * 40 + column_density,
        around * 4 + beside,
        (early * 32 + (uint32_t)min64(kernel[0], 15)) * 2 + (west != 0),
        (uint32_t)kernel[2],
        size_class(left) * 64 + size_class(up),
        row * 64 + column,
        (row_density >> 1) * 32 + (column_density >> 1),
    };
    set_bases(f, zero);
    select_slots(f, 0, bits, INPUTS, ZERO);
    uint32_t densities = (row_density >> 2) * 9 + (column_density >> 2);
    uint32_t ages = (row_age < 15 ? row_age : 15) * 16 + (column_age < 15 ? column_age : 15);
    int nonzero = decode_bit(f, INPUTS, BIAS, 0, 0, 1 + densities, ages);
    kernel[2] = (kernel[2] * 2 + nonzero) & 0xFFFF;
    if (!nonzero || f->failed) return;

    int64_t gradient = west + north - northwest;
    uint32_t negative = t->above == 0;
    if (t->above && t->below) {
        uint32_t channels = (uint32_t)(sign_of(left) + 3 * sign_of(up));
        uint32_t neighbours =
            (uint32_t)(sign_of(west) + 3 * sign_of(north) + 9 * sign_of(northwest));
        uint32_t sign[TABLES] = {
            k,
            0,
            a,
            b,
            row_seen,
            column_seen,
            channels,
            neighbours,
            signed_class(west) * 128 + signed_class(north),
            signed_class(left) * 128 + signed_class(up),
            signed_class(gradient),
            channels * 27 + neighbours,
            signed_class(left),
        };
        set_bases(f, sign);
        select_slots(f, 0, bits, INPUTS, SIGN);
        negative = (uint32_t)decode_bit(f, INPUTS, BIAS, 1, 1, 0, 256 + (k < 7 ? k : 7));
    }

    int64_t total = magnitude_of(left) + magnitude_of(up) + magnitude_of(left2);
    total += magnitude_of(up2) + 2 * magnitude_of(west) + 2 * magnitude_of(north);
    int64_t usual = *row_sum * 2 / (*rows + (int64_t)1) + *column_sum * 2 / (*columns + (int64_t)1);
    uint32_t contexts[TABLES] = {
        0,
        0,
        negative,
        row * 2 + negative,
        column * 2 + negative,
        (row * 64 + column) * 2 + negative,
        size_class(left) * 64 + size_class(up),
        size_class(west) * 64 + size_class(north),
        size_class(kernel[1] * 4 / (kernel[0] + 1)) * 16 + early,
        a,
        b,
        signed_class(gradient) * 2 + negative,
        size_class(total) * 64 + size_class(usual),
    };
    set_bases(f, contexts);
    const int64_t *edges = t->kind == SQZ_CODEBOOK ? f->edges[negative] : NULL;
    uint32_t largest = negative ? t->below : t->above;
    int64_t value = decode_magnitude(f, (int)negative, edges, largest, row, column);
    *rows += 1, *row_sum += value;
    *columns += 1, *column_sum += value;
    kernel[0] += 1, kernel[1] += value;
    *here = (int32_t)(negative ? -value : value);
}

static void read_levels(sqz_file *f, const sqz_tensor *t) {
    uint32_t outputs = outputs_of(t), inputs = inputs_of(t);
    uint32_t width = t->axes > 2 ? t->shape[t->axes - 3] : 1;
    uint32_t taps = t->size / (outputs * inputs), at[3];
    uint32_t sizes[3] = {t->scan ? inputs : outputs, t->scan ? outputs : inputs, taps};
    uint32_t strides[3] = {t->scan ? outputs : 1, t->scan ? 1 : outputs, inputs * outputs};
    uint32_t contexts = (uint32_t)1 << f->context_bits;
    for (uint32_t i = contexts; i < TABLES * contexts; i++) f->states[i] = (uint32_t)1 << 31;
    memset(f->counts, 0, 4 * (size_t)f->channels);
    memset(f->sums, 0, 8 * (size_t)f->channels);
    for (at[0] = 0; at[0] < sizes[0]; at[0]++)
        for (at[1] = 0; at[1] < sizes[1]; at[1]++) {
            int64_t kernel[3] = {0, 0, 0};
            for (at[2] = 0; at[2] < taps; at[2]++) {
                decode_level(f, t, at, sizes, strides, width, kernel);
                if (f->failed) return;
            }
        }
}

/* Decodes a number of `width` bits. The contexts of the first `shown` bits include the bits before
 * them. */
static uint32_t decode_value(sqz_file *f, int width, int shown, uint32_t phase, uint32_t first,
                             uint32_t second) {
    uint64_t node = 1;
    for (int place = 0; place < width; place++) {
        int count = place < shown ? 6 : 2;
        uint32_t contexts[5] = {
            phase * 2,
            (phase * 64 + f->number) * 2 + 1,
            phase * 4096 + first,
            phase * 4096 + second,
            (phase * 4096 + first) * 64 + second,
        };
        for (int i = 0; i < 5; i++) f->bases[i + 1] = contexts[i] << 14;
        uint32_t table = (uint32_t)TABLES << f->context_bits;
        uint32_t at = place < shown ? (uint32_t)node : (uint32_t)((1 << 13) + place);
        select_slots(f, table, VALUE_BITS, count, at);
        uint32_t mixer = 256 + phase * 34 + (uint32_t)place;
        int bit = decode_bit(f, count, BIAS, 95, mixer, 240, CHOICES - 1 - phase);
        node = node * 2 + (uint32_t)bit;
        if (f->failed) return 0;
    }
    return (uint32_t)(node - ((uint64_t)1 << width));
}

static void read_values(sqz_file *f, const sqz_tensor *t) {
    int width = t->kind == SQZ_FLOAT32 ? 32 : 16, head = t->kind == SQZ_FLOAT32 ? 9 : 6;
    uint32_t before = 0, before2 = 0, here = 0, columns = outputs_of(t);
    uint32_t *values = (uint32_t *)f->levels;
    for (uint32_t i = 0; i < t->size && !f->failed; i++) {
        uint32_t above = 0;
        for (uint32_t k = 1; k <= 6 && k <= i / columns; k++)
            above = above * 2 + (values[i - k * columns] != 0);
        values[i] = decode_value(f, 1, 1, 4, here, above);
        here = (here * 2 + !values[i]) & 4095;
        if (!values[i]) continue;
        values[i] = decode_value(f, width, head + 2, (uint32_t)width >> 5, before, before2);
        before2 = before;
        before = values[i] >> (width - head) & ((1u << (head - 1)) - 1);
    }
}

/* Decodes one side of a codebook, `count` values outwards from zero, with stride `direction`, and
 * computes the edges of their cells. */
static void read_codebook(sqz_file *f, float *out, int direction, uint32_t count, int64_t *edges) {
    int64_t value = 0, gap = 0, exponent = 0;
    uint32_t gap_length = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t expected = i > 1 ? size_class(gap >> min64((value >> 23) - exponent, 31)) : 60 + i;
        int length = (int)decode_value(f, 5, 5, 2, expected, gap_length);
        uint32_t low_bits = decode_value(f, length, 3, 3, (uint32_t)length, expected);
        int64_t step = ((int64_t)1 << length) + low_bits;
        f->failed |= value + step > 0x7F7FFFFF;
        if (f->failed) return;
        exponent = (value + (step >> 1)) >> 23;
        value += step;
        gap = step;
        gap_length = (uint32_t)length;
        edges[i + 1] = value;
        out[(ptrdiff_t)i * direction] = (direction < 0 ? -1.0f : 1.0f) * float_of((uint32_t)value);
    }
    int64_t top = max64(value >> 23, 1), before = 0, fixed = 0;
    for (uint32_t i = 0; i < count; i++) {
        int64_t bits = edges[i + 1], power = max64(bits >> 23, 1);
        fixed = ((bits & 0x7FFFFF) + (bits >> 23 ? 1 << 23 : 0)) >> min64(top - power + 3, 31);
        edges[i] = (fixed + before) >> 1;
        before = fixed;
    }
    edges[count] = count ? 2 * fixed - edges[count - 1] : 0;
}

int sqz_next(sqz_file *f, sqz_tensor *t) {
    if (f->table_at == f->table_end)
        return f->failed || f->position != f->payload_size + 3 ? SQZ_DAMAGED : SQZ_END;
    int status = f->failed ? SQZ_DAMAGED : read_entry(f, t);
    if (status || t->kind == SQZ_KEPT) return status;
    if (t->kind <= SQZ_FLOAT16) {
        read_values(f, t);
        t->bits = (const uint32_t *)f->levels;
    } else {
        if (t->kind == SQZ_CODEBOOK) {
            float *zero = f->codebook + t->below;
            *zero = 0;
            read_codebook(f, zero + (t->above > 0), 1, t->above, f->edges[0]);
            if (!f->failed) read_codebook(f, zero - (t->below > 0), -1, t->below, f->edges[1]);
            t->codebook = f->codebook;
        }
        memset(f->levels, 0, 4 * (size_t)t->size);
        if (!f->failed && t->size && (t->below || t->above)) read_levels(f, t);
        t->levels = f->levels;
    }
    f->number++;
    return f->failed ? SQZ_DAMAGED : SQZ_OK;
}

/* ---- conversion of decoded tensors ---- */

static uint32_t half_to_float(uint32_t half) {
    uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
    if (exponent == 31) return sign | 0x7F800000u | mantissa << 13;
    if (exponent) return sign | (exponent + 112) << 23 | mantissa << 13;
    if (!mantissa) return sign;
    for (exponent = 113; !(mantissa & 1024); exponent--) mantissa <<= 1;
    return sign | exponent << 23 | (mantissa & 1023) << 13;
}

void sqz_floats(const sqz_tensor *t, const float *base, float *out) {
    for (uint32_t i = 0; i < t->size; i++) {
        /* `volatile` prevents a fused multiply-add, which rounds differently. */
        volatile float value = 0;
        if (t->kind == SQZ_CODEBOOK) value = t->codebook[t->levels[i] + (int32_t)t->below];
        else if (t->kind == SQZ_UNIFORM) value = (float)t->levels[i] * t->step;
        else if (t->kind == SQZ_FLOAT16) value = float_of(half_to_float(t->bits[i]));
        else if (t->kind == SQZ_FLOAT32) value = float_of(t->bits[i]);
        if (t->kind == SQZ_KEPT || (t->added && !t->levels[i])) out[i] = base[t->base + i];
        else out[i] = t->added ? base[t->base + i] + value : value;
    }
}

int sqz_int8(const sqz_tensor *t, int8_t *out, float *step) {
    if (t->added || t->kind == SQZ_KEPT) return SQZ_BASE;
    if (t->kind != SQZ_UNIFORM || t->below > 128 || t->above > 127) return SQZ_UNSUPPORTED;
    for (uint32_t i = 0; i < t->size; i++) out[i] = (int8_t)t->levels[i];
    *step = t->step;
    return SQZ_OK;
}

const char *sqz_message(int status) {
    static const char *const messages[] = {
        "success",
        "no more tensors",
        "not a .sqz file",
        "the file is damaged",
        "a version, flag or size that this decoder does not read",
        "more than 256 MiB of weights",
        "not enough memory",
        "a delta, which needs the weights of its base",
    };
    return status >= SQZ_OK && status <= SQZ_BASE ? messages[status] : "no such status";
}
