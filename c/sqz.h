/* Reads .sqz files, which hold compressed networks. Needs C99 and libc only.
 *
 *   sqz_file file;
 *   int status = sqz_open(&file, data, size);         checks the checksum and all lengths
 *   if (!status) status = sqz_base(&file, base, weights);  for deltas only: the base's weights
 *   void *memory = malloc(sqz_memory(&file));         or your own buffer, aligned for int64_t
 *   if (!status) status = sqz_start(&file, memory, sqz_memory(&file));
 *   sqz_tensor tensor;
 *   while (!status && !(status = sqz_next(&file, &tensor)))
 *       sqz_floats(&tensor, base, out), out += tensor.size;
 *   if (status != SQZ_END) puts(sqz_message(status));
 *
 * The arrays of a tensor are valid until the next call of sqz_next. Some damage shows only at the
 * end, so do not use the weights before sqz_next returns SQZ_END.
 */
#ifndef SQZ_H
#define SQZ_H

#include <stddef.h>
#include <stdint.h>

enum {
    SQZ_OK,
    SQZ_END,
    SQZ_NOT_SQZ,
    SQZ_DAMAGED,
    SQZ_UNSUPPORTED,
    SQZ_TOO_LARGE,
    SQZ_NO_MEMORY,
    SQZ_BASE
};
enum { SQZ_FLOAT32, SQZ_FLOAT16, SQZ_UNIFORM, SQZ_CODEBOOK, SQZ_KEPT };
enum { SQZ_AXES = 8, SQZ_INPUTS = 14 };

typedef struct {
    char name[256];           /* "params/fire2/squeeze/kernel", UTF-8, null-terminated */
    int kind, axes;
    uint32_t shape[SQZ_AXES]; /* [height, width, in, out] or [in, out] */
    uint32_t size;            /* number of weights */
    uint32_t below, above;    /* levels go from -below to above */
    float step;               /* SQZ_UNIFORM: weight = level * step */
    const int32_t *levels;    /* [size], for SQZ_UNIFORM and SQZ_CODEBOOK */
    const float *codebook;    /* SQZ_CODEBOOK: weight = codebook[level + below] */
    const uint32_t *bits;     /* [size], for SQZ_FLOAT32 and SQZ_FLOAT16 */
    int scan;
    int added;                /* in a delta: the values are added to the base's weights */
    uint32_t base;            /* if added or SQZ_KEPT: offset of the tensor in the base */
} sqz_tensor;

typedef struct {
    const uint8_t *payload, *table, *table_at, *table_end;
    const uint8_t *header;    /* the network's metadata, JSON compressed by zlib */
    size_t payload_size, header_size;
    uint32_t tensors, weights, number;
    int context_bits, failed;
    int delta;                /* whether the file is a delta, which needs its base */
    uint32_t base_crc;        /* CRC-32 of the base's weights */
    uint32_t base_weights;    /* weights of the base that the file needs */
    uint32_t taken;           /* end of the base's weights that are read so far */
    uint32_t widest, codes;   /* largest size of a tensor, and largest codebook */
    uint32_t channels;        /* largest number of input plus output channels */
    uint32_t low, high, code;
    size_t position;
    int64_t *edges[2], *sums;
    uint32_t *counts, *states, slots[SQZ_INPUTS], bases[SQZ_INPUTS];
    int32_t inputs[SQZ_INPUTS], *weights_of, *refined, *squash, *stretch, *rates, *trust, *levels;
    float *codebook;
    char name[256];
} sqz_file;

/* Checks a file's checksum and lengths. `data` must remain valid while the file is read. */
int sqz_open(sqz_file *file, const uint8_t *data, size_t size);
/* Returns the bytes that sqz_start needs; 0 if they exceed SIZE_MAX. */
size_t sqz_memory(const sqz_file *file);
/* Starts decoding at the first tensor. `memory` must be aligned for int64_t. */
int sqz_start(sqz_file *file, void *memory, size_t size);
/* Decodes the next tensor. Returns SQZ_END after the last one. */
int sqz_next(sqz_file *file, sqz_tensor *tensor);
/* Checks the weights of a delta's base, tensor by tensor. Returns SQZ_OK for other files. */
int sqz_base(const sqz_file *file, const float *base, size_t weights);
/* Writes the weights to `out`, which may be the tensor's place in `base`. Only deltas need `base`,
 * which may be NULL for other files. */
void sqz_floats(const sqz_tensor *tensor, const float *base, float *out);
/* Writes the levels of a uniform tensor as int8, and its step. Returns SQZ_UNSUPPORTED if they do
 * not fit, and SQZ_BASE if they are added to a base. */
int sqz_int8(const sqz_tensor *tensor, int8_t *out, float *step);
/* Returns the meaning of a status. */
const char *sqz_message(int status);

#endif
