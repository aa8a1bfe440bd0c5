/* Memory for many results at once.
 *
 * Ten million ints are four hundred arenas of the interpreter's, and touching their hundred thousand pages for the first time costs the
 * caller about as much as making the ints. While a big map runs, arenas are taken from the interpreter's own allocator several at a
 * time: they lie side by side, so that the kernel can be asked for huge pages, which makes this three times cheaper. An arena goes back
 * the way it always does, one by one: nothing is different once the map has ended.
 */
#include "core.h"

#include <stdatomic.h>

enum { STOCK = 16 };

/* The interpreter's lock does not suffice: subinterpreters have their own and share the allocator. */
static atomic_flag lock = ATOMIC_FLAG_INIT; /* held for a few system calls at most */
static PyObjectArenaAllocator original; /* while users > 0 or the hook could not be taken off */
static void *stock[STOCK];
static size_t stock_count, stock_size, users;

static void take_lock(void)
{
    while (atomic_flag_test_and_set(&lock))
        ;
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
        mh_memory_want_huge((void *)low, high - low);
    }
}

static void *take_arena(void *ctx, size_t size)
{
    (void)ctx;
    void *arena = NULL;
    take_lock();
    if (!stock_count && users)
        refill_stock(size);
    if (stock_count && stock_size == size)
        arena = stock[--stock_count];
    atomic_flag_clear(&lock);
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
    take_lock();
    PyObject_GetArenaAllocator(&now);
    if (users++ == 0 && now.alloc != take_arena) {
        original = now;
        PyObject_SetArenaAllocator(&(PyObjectArenaAllocator){.alloc = take_arena, .free = give_arena});
    }
    atomic_flag_clear(&lock);
}

void mhpy_arenas_end(void)
{
    PyObjectArenaAllocator now;
    take_lock();
    if (--users == 0) {
        PyObject_GetArenaAllocator(&now);
        if (now.alloc == take_arena) /* else somebody put theirs on top, and ours must stay below it */
            PyObject_SetArenaAllocator(&original);
        while (stock_count)
            original.free(original.ctx, stock[--stock_count], stock_size);
    }
    atomic_flag_clear(&lock);
}

void mhpy_want_huge(PyObject *list) { mh_memory_want_huge(((PyListObject *)list)->ob_item, (size_t)Py_SIZE(list) * sizeof(PyObject *)); }
