/* Runs a fuzz target without libFuzzer, so that every build and every sanitizer exercises it: on each file of the
 * corpus folder given as argument (which may be missing), and on seeded inputs made of noise and of mutated files. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"

enum { INPUTS = 20000, MAX_BYTES = 4096, MAX_FILES = 1024 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    uint8_t *bytes;
    size_t size;
} input;

static input corpus[MAX_FILES];
static size_t corpus_count;

static void load_file(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    uint8_t *bytes = malloc(MAX_BYTES);
    if (!f || !bytes)
        exit(2);
    corpus[corpus_count++] = (input){bytes, fread(bytes, 1, MAX_BYTES, f)};
    fclose(f);
}

static void load_corpus(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir)) && corpus_count < MAX_FILES;)
        if (e->d_name[0] != '.')
            load_file(folder, e->d_name);
    closedir(dir);
}

/* The target gets a block of exactly `size` bytes, so that a sanitizer sees a read beyond it. */
static void run_exact(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        exit(2);
    memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static size_t make_input(uint64_t *seed, uint8_t *bytes)
{
    size_t size;
    if (corpus_count && mh__splitmix(seed) % 4) {
        const input *from = &corpus[mh__splitmix(seed) % corpus_count];
        size = from->size;
        memcpy(bytes, from->bytes, size);
        for (uint64_t i = mh__splitmix(seed) % 8; size && i > 0; i--)
            bytes[mh__splitmix(seed) % size] = (uint8_t)mh__splitmix(seed);
        if (mh__splitmix(seed) % 4 == 0)
            size = mh__splitmix(seed) % (size + 1);
    } else {
        size = mh__splitmix(seed) % 256;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)mh__splitmix(seed);
    }
    return size;
}

int main(int argc, char **argv)
{
    static uint8_t bytes[MAX_BYTES];
    uint64_t seed = 1;
    if (argc > 1)
        load_corpus(argv[1]);
    for (size_t i = 0; i < corpus_count; i++)
        run_exact(corpus[i].bytes, corpus[i].size);
    for (int i = 0; i < INPUTS; i++)
        run_exact(bytes, make_input(&seed, bytes));
    for (size_t i = 0; i < corpus_count; i++)
        free(corpus[i].bytes);
    printf("%zu files and %d seeded inputs\n", corpus_count, INPUTS);
    return 0;
}
