/* A command-line program around sqz.c.
 *
 *   cc -O2 -o sqz sqz_main.c sqz.c
 *   ./sqz net.sqz                  lists the tensors
 *   ./sqz net.sqz weights.f32      writes all weights as float32, tensor by tensor; "-" is stdout
 *   ./sqz delta.sqz weights.f32 base.f32       applies a delta to the weights written from its base
 *
 * Built with -DSQZ_FUZZ, the only argument is the path of a base, which deltas need. The program
 * repeatedly reads a length (uint32, little-endian) and a file of that length from stdin, decodes
 * the file, and prints a line with the status and a checksum of the weights.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqz.h"

#ifdef SQZ_FUZZ
enum { FUZZING = 1 };
#else
enum { FUZZING = 0 };
#endif

typedef struct {
    float *values;
    size_t count;
} weights;

/* Adds the bits of floats, times distinct odd numbers, to a checksum. `place` counts the floats. */
static void add_checksum(const float *values, size_t count, uint64_t *place, uint64_t *sum) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, 4);
        *sum += bits * (2 * (*place)++ + 1);
    }
}

static void list(const sqz_tensor *t) {
    static const char *const kinds[] = {"float32", "float16", "uniform", "codebook", "kept"};
    printf("%-40s %-8s%s", t->name, kinds[t->kind], t->added ? " added to the base" : "");
    for (int i = 0; i < t->axes; i++) printf(" %lu", (unsigned long)t->shape[i]);
    printf("\n");
}

/* Decodes a file, which may be a delta from `base`. Writes its weights to `out` unless that is
 * NULL, and computes their checksum in `sum`. With `listing`, prints the tensors instead, which
 * needs no base. Returns a status, or -1 if `out` cannot be written. */
static int decode(const uint8_t *data, size_t size, const weights *base, FILE *out, int listing,
                  uint64_t *sum) {
    sqz_file file;
    sqz_tensor tensor;
    uint64_t place = 0;
    int status = sqz_open(&file, data, size);
    if (status) return status;
    size_t needed = sqz_memory(&file);
    void *memory = needed ? malloc(needed) : NULL;
    float *floats = malloc(4 * ((size_t)file.weights + 1));
    status = memory && floats ? sqz_start(&file, memory, needed) : SQZ_NO_MEMORY;
    if (!status && !listing) status = sqz_base(&file, base->values, base->count);
    while (!status && !(status = sqz_next(&file, &tensor))) {
        if (listing) {
            list(&tensor);
            continue;
        }
        sqz_floats(&tensor, base->values, floats);
        add_checksum(floats, tensor.size, &place, sum);
        if (out && fwrite(floats, 4, tensor.size, out) != tensor.size) status = -1;
    }
    free(floats);
    free(memory);
    return status == SQZ_END ? SQZ_OK : status;
}

static uint8_t *read_all(FILE *in, size_t *size) {
    size_t room = 1 << 16, used = 0, got;
    uint8_t *data = malloc(room);
    while (data && (got = fread(data + used, 1, room - used, in)) > 0) {
        used += got;
        if (used == room) {
            uint8_t *more = room < (size_t)1 << 30 ? realloc(data, room *= 2) : NULL;
            if (!more) free(data);
            data = more;
        }
    }
    *size = used;
    return data;
}

/* Returns the content of a file, or NULL if it cannot be read. */
static uint8_t *read_file(const char *path, size_t *size) {
    FILE *in = fopen(path, "rb");
    uint8_t *data = in ? read_all(in, size) : NULL;
    if (in) fclose(in);
    return data;
}

/* Decodes the files that stdin holds, and prints the status and checksum of each. */
static int decode_many(const weights *base) {
    size_t size, at = 0;
    uint8_t *data = read_all(stdin, &size);
    while (data && size - at >= 4) {
        size_t length = 0;
        for (int i = 0; i < 4; i++) length |= (size_t)data[at + i] << 8 * i;
        at += 4;
        if (length > size - at) break;
        /* A copy of the exact size lets a sanitizer detect overreads. */
        uint8_t *copy = malloc(length ? length : 1);
        uint64_t sum = 0;
        if (!copy) break;
        memcpy(copy, data + at, length);
        int status = decode(copy, length, base, NULL, 0, &sum);
        printf("%d %016llx\n", status, (unsigned long long)sum);
        free(copy);
        at += length;
    }
    int all = data && at == size;
    free(data);
    return !all;
}

static int report(const char *path, const char *why) {
    fprintf(stderr, "error: %s: %s\n", path, why);
    return 1;
}

/* Writes the weights of a file to `out_path`, or lists its tensors if that is NULL. */
static int convert(const char *path, const char *out_path, const weights *base) {
    size_t size;
    uint64_t sum = 0;
    uint8_t *data = read_file(path, &size);
    if (!data) return report(path, strerror(errno));
    /* Whatever the output is, a file that is refused does not cost it. */
    int status = decode(data, size, base, NULL, !out_path, &sum);
    if (!status && out_path) {
        FILE *out = strcmp(out_path, "-") ? fopen(out_path, "wb") : stdout;
        if (!out) {
            free(data);
            return report(out_path, strerror(errno));
        }
        status = decode(data, size, base, out, 0, &sum);
        if (fclose(out) && !status) status = -1;
    }
    free(data);
    if (status < 0) return report(out_path, "cannot be written");
    return status ? report(path, sqz_message(status)) : 0;
}

int main(int argc, char **argv) {
    weights base = {NULL, 0};
    int base_at = FUZZING ? 1 : 3; /* index of the base's argument */
    if (!FUZZING && (argc < 2 || argc > 4)) {
        fprintf(stderr, "usage: sqz NET.sqz [WEIGHTS.f32 or - [BASE.f32]]\n");
        return 2;
    }
    if (argc > base_at) {
        base.values = (float *)read_file(argv[base_at], &base.count);
        if (!base.values) return report(argv[base_at], strerror(errno));
    }
    base.count /= 4;
    int failed = FUZZING ? decode_many(&base) : convert(argv[1], argc > 2 ? argv[2] : NULL, &base);
    free(base.values);
    return failed;
}
