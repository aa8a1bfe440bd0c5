/* Memory that several processes see: children build strings in a heap, the parent reads them; and a segment with a name. */
#include <manyhands.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILDREN = 4, SIZE = 1 << 20 };

static int fail(mh_err err)
{
    fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
    return 1;
}

/* In a child: write a string into a new block and leave its offset where the parent looks. */
static int say_hello(mh_heap *heap, uint64_t *offset, int number)
{
    char text[64];
    int size = snprintf(text, sizeof text, "hello from child %d", number) + 1;
    mh_err err = mh_heap_alloc(heap, (size_t)size, 1, MH_FOREVER, offset);
    if (err)
        return fail(err);
    memcpy(mh_heap_at(heap, *offset), text, (size_t)size);
    return 0;
}

static mh_err share_by_name(void)
{
    mh_shm *mine = NULL, *same = NULL;
    mh_err err = mh_shm_create_named(&mine, NULL, 4096);
    if (!err)
        err = mh_shm_open_named(&same, mh_shm_name(mine), MH_SHM_READONLY); /* as another program would */
    if (!err) {
        strcpy(mh_shm_data(mine), "seen through its name");
        puts(mh_shm_data(same));
        err = mh_shm_unlink(mh_shm_name(mine));
    }
    mh_shm_destroy(&same);
    mh_shm_destroy(&mine);
    return err;
}

int main(void)
{
    mh_shm *memory = NULL;
    mh_heap *heap = NULL;
    uint64_t at;
    mh_err err = mh_shm_create(&memory, SIZE);
    if (!err)
        err = mh_heap_create(&heap, mh_shm_data(memory), mh_shm_size(memory));
    if (!err)
        err = mh_heap_alloc(heap, CHILDREN * sizeof(uint64_t), 8, MH_FOREVER, &at);
    if (err)
        return fail(err);
    uint64_t *offsets = mh_heap_at(heap, at);
    for (int i = 0; i < CHILDREN; i++)
        if (fork() == 0)
            _exit(say_hello(heap, &offsets[i], i));
    for (int i = 0, status; i < CHILDREN; i++)
        if (wait(&status) < 0 || status != 0)
            return 1;
    for (int i = 0; i < CHILDREN; i++) {
        puts(mh_heap_at(heap, offsets[i]));
        err = mh_heap_free(heap, offsets[i], MH_FOREVER);
        if (err)
            return fail(err);
    }
    mh_heap_destroy(&heap);
    mh_shm_destroy(&memory);
    err = share_by_name();
    return err ? fail(err) : 0;
}
