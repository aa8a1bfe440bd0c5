/* Memory for many results at once.
 *
 * Ten million ints are four hundred arenas of the interpreter's, and touching their hundred thousand pages for the first time costs the
 * caller about as much as making the ints. While a big map runs, arenas are taken from the interpreter's own allocator several at a
 * time: they lie side by side, so that the kernel can be asked for huge pages, which makes this three times cheaper. An arena goes back
 * the way it always does, one by one: nothing is different once the map has ended.
 */
#include "core.h"

#include <pthread.h>
#include <sys/mman.h>

enum { STOCK = 16 };
#define HUGE_PAGE ((uintptr_t)2 << 20)

/* The interpreter's lock does not suffice: subinterpreters have their own and share the allocator. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static PyObjectArenaAllocator original; /* while users > 0 or the hook could not be taken off */
static void *stock[STOCK];
static size_t stock_count, stock_size, users;

/* Ask for huge pages wherever whole ones fit; without them all is as before. */
static void want_huge(void *data, size_t size)
{
    uintptr_t begin = ((uintptr_t)data + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1), end = ((uintptr_t)data + size) & ~(HUGE_PAGE - 1);
    if (end > begin)
        (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE); /* a kernel without them refuses */
}

/* Neighbours in memory, in whichever direction the kernel places them, are advised as one. */
static void refill_stock(size_t size)
{
    while (stock_count < STOCK && (stock[stock_count] = original.alloc(original.ctx, size)))
        stock_count++;
    stock_size = size;
    for (size_t i = 0; i < stock_count;) {
        uintptr_t low = (uintptr_t)stock[i], high = low + size;
        for (i++; i < stock_count; i++) {
            uintptr_t next = (uintptr_t)stock[i];
            if (next + size == low)
                low = next;
            else if (next == high)
                high += size;
            else
                break;
        }
        want_huge((void *)low, high - low);
    }
}

static void *take_arena(void *ctx, size_t size)
{
    (void)ctx;
    void *arena = NULL;
    pthread_mutex_lock(&lock);
    if (!stock_count && users)
        refill_stock(size);
    if (stock_count && stock_size == size)
        arena = stock[--stock_count];
    pthread_mutex_unlock(&lock);
    return arena ? arena : original.alloc(original.ctx, size);
}

static void give_arena(void *ctx, void *arena, size_t size)
{
    (void)ctx;
    original.free(original.ctx, arena, size);
}

void mhpy_arenas_begin(void)
{
    PyObjectArenaAllocator now;
    pthread_mutex_lock(&lock);
    PyObject_GetArenaAllocator(&now);
    if (users++ == 0 && now.alloc != take_arena) {
        original = now;
        PyObject_SetArenaAllocator(&(PyObjectArenaAllocator){.alloc = take_arena, .free = give_arena});
    }
    pthread_mutex_unlock(&lock);
}

void mhpy_arenas_end(void)
{
    PyObjectArenaAllocator now;
    pthread_mutex_lock(&lock);
    if (--users == 0) {
        PyObject_GetArenaAllocator(&now);
        if (now.alloc == take_arena) /* else somebody put theirs on top, and ours must stay below it */
            PyObject_SetArenaAllocator(&original);
        while (stock_count)
            original.free(original.ctx, stock[--stock_count], stock_size);
    }
    pthread_mutex_unlock(&lock);
}

void mhpy_want_huge(PyObject *list) { want_huge(((PyListObject *)list)->ob_item, (size_t)Py_SIZE(list) * sizeof(PyObject *)); }
