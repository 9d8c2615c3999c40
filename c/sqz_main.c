/* A program around sqz.c.
 *
 *   cc -O2 -o sqz sqz_main.c sqz.c
 *   ./sqz net.sqz                  lists the tensors
 *   ./sqz net.sqz weights.f32      writes all weights as float32, one tensor after the other; "-" is the standard output
 *
 * Built with -DSQZ_FUZZ it reads, again and again, a length (uint32, little-endian) and a file of that length from its standard input,
 * decodes the file, and writes a line: the status, and a check sum of the weights.
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

/* Adds up the floats' bits, each times an odd number of its own; `place` counts them. */
static void add_up(const float *values, size_t count, uint64_t *place, uint64_t *sum) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, 4);
        *sum += bits * (2 * (*place)++ + 1);
    }
}

static void list(const sqz_tensor *t) {
    static const char *const kinds[] = {"float32", "float16", "uniform", "shared"};
    printf("%-40s %-8s", t->name, kinds[t->kind]);
    for (int i = 0; i < t->axes; i++) printf(" %lu", (unsigned long)t->shape[i]);
    printf("\n");
}

/* Decodes a file, writes its weights to `out` if there is one, lists its tensors if `listing`, and adds the weights up in `sum`. */
static int decode(const uint8_t *data, size_t size, FILE *out, int listing, uint64_t *sum) {
    sqz_file file;
    sqz_tensor tensor;
    uint64_t place = 0;
    int status = sqz_open(&file, data, size);
    if (status) return status;
    size_t needed = sqz_memory(&file);
    void *memory = needed ? malloc(needed) : NULL;
    float *floats = malloc(4 * ((size_t)file.widest + 1));
    status = memory && floats ? sqz_start(&file, memory, needed) : SQZ_NO_MEMORY;
    while (!status && !(status = sqz_next(&file, &tensor))) {
        sqz_floats(&tensor, floats);
        add_up(floats, tensor.size, &place, sum);
        if (listing) list(&tensor);
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

static int many(void) {
    size_t size, at = 0;
    uint8_t *data = read_all(stdin, &size);
    while (data && size - at >= 4) {
        size_t length = data[at] | (size_t)data[at + 1] << 8 | (size_t)data[at + 2] << 16 | (size_t)data[at + 3] << 24;
        at += 4;
        if (length > size - at) break;
        uint8_t *copy = malloc(length ? length : 1); /* of its own, so that a sanitizer sees what lies beyond it */
        uint64_t sum = 0;
        if (!copy) break;
        memcpy(copy, data + at, length);
        int status = decode(copy, length, NULL, 0, &sum);
        printf("%d %016llx\n", status, (unsigned long long)sum);
        free(copy);
        at += length;
    }
    int all = data && at == size;
    free(data);
    return !all;
}

int main(int argc, char **argv) {
    if (FUZZING) return many();
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: sqz NET.sqz [WEIGHTS.f32 or -]\n");
        return 2;
    }
    FILE *in = fopen(argv[1], "rb");
    if (!in) {
        fprintf(stderr, "error: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    size_t size;
    uint8_t *data = read_all(in, &size);
    fclose(in);
    FILE *out = argc < 3 ? NULL : strcmp(argv[2], "-") ? fopen(argv[2], "wb") : stdout;
    if (!data || (argc == 3 && !out)) {
        fprintf(stderr, "error: %s: %s\n", data ? argv[2] : argv[1], strerror(errno));
        free(data);
        return 1;
    }
    uint64_t sum = 0;
    int status = decode(data, size, out, argc < 3, &sum);
    if (out && fclose(out) && !status) status = -1;
    free(data);
    if (status) fprintf(stderr, "error: %s: %s\n", argv[status < 0 ? 2 : 1], status < 0 ? "cannot be written" : sqz_message(status));
    return status != 0;
}
