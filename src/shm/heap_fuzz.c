/* Operations on a heap whose memory anybody may overwrite: nothing may crash, hang or touch what lies outside.
 *
 * The input is a list of commands. Whatever they do, every call returns; and when nothing was overwritten, the heap is sound. */
#include "manyhands/shm.h"
#include "manyhands/sync.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 16384, BLOCKS = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    const uint8_t *at;
    size_t left;
} input;

static uint64_t take(input *in, size_t size)
{
    uint64_t value = 0;
    size = size < in->left ? size : in->left;
    memcpy(&value, in->at, size);
    in->at += size;
    in->left -= size;
    return value;
}

static void *lock_and_end(void *mutex)
{
    if (mh_mutex_lock(mutex, MH_NOW))
        abort();
    return NULL;
}

/* What the lock of a heap looks like whose user was killed inside. */
static const mh_mutex *dead_lock(void)
{
    static mh_mutex m;
    pthread_t thread;
    if (!m.magic && (mh_mutex_init(&m, 0) || pthread_create(&thread, NULL, lock_and_end, &m) || pthread_join(thread, NULL)))
        abort();
    return &m;
}

/* The lock lies where a fresh heap has the bytes of a fresh lock. */
static char *lock_in(char *memory)
{
    static size_t at;
    mh_mutex fresh;
    if (mh_mutex_init(&fresh, 0))
        abort();
    while (!at || memcmp(memory + at, &fresh, sizeof fresh))
        at += 8;
    return memory + at;
}

static uint64_t blocks[BLOCKS];

static void obey(mh_heap *heap, char *memory, char *lock, input *in, bool *overwritten)
{
    uint64_t verb = take(in, 1), slot = take(in, 1) % BLOCKS;
    size_t free_bytes, largest;
    switch (verb % 8) {
    case 0:
    case 1: {
        size_t size = take(in, 2) % (verb & 8 ? SIZE : 300);
        if (!mh_heap_alloc(heap, size, (size_t)1 << verb / 16 % 13, MH_NOW, &blocks[slot]))
            memset(mh_heap_at(heap, blocks[slot]), (int)slot, size < mh_heap_usable(heap, blocks[slot]) ? size : 0);
        break;
    }
    case 2:
        (void)mh_heap_free(heap, blocks[slot], MH_NOW);
        break;
    case 3:
        (void)mh_heap_free(heap, take(in, 8), MH_NOW);
        break;
    case 4: {
        uint64_t at = take(in, 2) % (SIZE - 8), value = take(in, 8);
        memcpy(memory + at, &value, verb & 8 ? 8 : 1);
        *overwritten = true;
        break;
    }
    case 5: /* near the books' numbers a small change does more than noise */
        memory[take(in, 2) % 512] = (char)(memory[take(in, 2) % 512] + (verb & 8 ? 16 : -16));
        *overwritten = true;
        break;
    case 6:
        memcpy(lock, dead_lock(), sizeof(mh_mutex));
        break;
    default:
        if (!mh_heap_room(heap, MH_NOW, &free_bytes, &largest) && !mh_heap_check(heap, MH_NOW) && largest > free_bytes)
            abort();
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    mh_heap *heap = NULL;
    bool overwritten = false;
    char *memory = aligned_alloc(64, SIZE);
    memset(blocks, 0, sizeof blocks);
    if (!memory || mh_heap_create(&heap, memory, SIZE))
        abort();
    char *lock = lock_in(memory);
    while (in.left)
        obey(heap, memory, lock, &in, &overwritten);
    if (!overwritten && mh_heap_check(heap, MH_NOW))
        abort();
    mh_heap_destroy(&heap);
    if (!mh_heap_attach(&heap, memory, SIZE))
        mh_heap_destroy(&heap);
    free(memory);
    return 0;
}
