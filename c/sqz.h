/* Reads .sqz files: nets in few bytes. C99, no dependencies; see sqz.c for the format.
 *
 *   sqz_file file;
 *   int status = sqz_open(&file, data, size);         checks the check sum and every length
 *   if (!status) status = sqz_base(&file, base, weights);  of updates only: the weights of the net before
 *   void *memory = malloc(sqz_memory(&file));         or a buffer of yours, aligned for int64_t
 *   if (!status) status = sqz_start(&file, memory, sqz_memory(&file));
 *   sqz_tensor tensor;
 *   while (!status && !(status = sqz_next(&file, &tensor)))
 *       sqz_floats(&tensor, base, out), out += tensor.size; what the tensor points to lasts until the next call
 *   if (status != SQZ_END) puts(sqz_message(status)); until SQZ_END nothing read is certain
 */
#ifndef SQZ_H
#define SQZ_H

#include <stddef.h>
#include <stdint.h>

enum { SQZ_OK, SQZ_END, SQZ_NOT_SQZ, SQZ_DAMAGED, SQZ_UNSUPPORTED, SQZ_TOO_LARGE, SQZ_NO_MEMORY, SQZ_BASE };
enum { SQZ_FLOAT32, SQZ_FLOAT16, SQZ_UNIFORM, SQZ_SHARED, SQZ_KEPT };
enum { SQZ_AXES = 8, SQZ_INPUTS = 14 };

typedef struct {
    char name[256];           /* "params/fire2/squeeze/kernel", UTF-8, ends with 0 */
    int kind, axes;
    uint32_t shape[SQZ_AXES]; /* [height, width, in, out] or [in, out] */
    uint32_t size;            /* weights */
    uint32_t below, above;    /* levels go from -below to above */
    float step;               /* SQZ_UNIFORM: weight = level * step */
    const int32_t *levels;    /* size of them, for SQZ_UNIFORM and SQZ_SHARED */
    const float *codebook;    /* SQZ_SHARED: weight = codebook[level + below] */
    const uint32_t *bits;     /* SQZ_FLOAT32 and SQZ_FLOAT16: the numbers' bits */
    int scan;
    int added;                /* SQZ_UNIFORM and SQZ_SHARED of an update: what this says is the weight less the base's */
    uint32_t base;            /* if added or SQZ_KEPT: where its weights in the base begin; SQZ_KEPT: of several tensors perhaps */
} sqz_tensor;

typedef struct {
    const uint8_t *payload, *table, *table_at, *table_end;
    const uint8_t *record;    /* the net's record, zlib's JSON */
    size_t payload_size, record_size;
    uint32_t tensors, weights, number;
    int context_bits, failed;
    int update;               /* whether the file is one: the decoder takes a base */
    uint32_t base_crc, base_weights, taken; /* the base's check sum; how many weights are needed of it, and were taken so far */
    uint32_t widest, codes;   /* of all tensors: the largest, most values of a codebook */
    uint32_t channels;        /* most input and output channels together */
    uint32_t low, high, code;
    size_t position;
    int64_t *edges[2], *sums;
    uint32_t *counts, *states, slots[SQZ_INPUTS], bases[SQZ_INPUTS];
    int32_t inputs[SQZ_INPUTS], *weights_of, *refined, *squash, *stretch, *rates, *trust, *levels;
    float *codebook;
    char name[256];
} sqz_file;

int sqz_open(sqz_file *file, const uint8_t *data, size_t size);
size_t sqz_memory(const sqz_file *file);
int sqz_start(sqz_file *file, void *memory, size_t size);
int sqz_next(sqz_file *file, sqz_tensor *tensor);
/* Whether these are the weights that an update takes, all of the base's, one tensor after the other; any do for other files. */
int sqz_base(const sqz_file *file, const float *base, size_t weights);
/* The weights. `base` is that of updates; `out` may be the very place in it that this tensor takes. */
void sqz_floats(const sqz_tensor *tensor, const float *base, float *out);
/* Levels of a uniform tensor as int8 and its step; SQZ_UNSUPPORTED where they do not fit, SQZ_BASE where they are added to a base. */
int sqz_int8(const sqz_tensor *tensor, int8_t *out, float *step);
const char *sqz_message(int status);

#endif
