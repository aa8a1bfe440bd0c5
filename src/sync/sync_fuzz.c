/* Arbitrary bytes as the shared memory of each primitive: every call returns, none crashes. */
#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "manyhands/sync.h"
#include "sync/wait.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first bytes say what to do; the rest lies over the fields after the magic, so that most inputs get past it. */
enum { HEADER = 4 };

static void spoil(void *object, size_t object_size, const uint8_t *data, size_t size, uint32_t offset)
{
    size_t from = 4 + offset * 4 % (object_size - 4);
    memcpy((char *)object + from, data, MH__MIN(size, object_size - from));
}

static mh_err ignore(mh_err err) { return err; }

static void use_mutex(const uint8_t *data, size_t size, uint32_t offset)
{
    static mh_mutex m;
    ignore(mh_mutex_init(&m, data[0] & 7));
    spoil(&m, sizeof m, data, size, offset);
    ignore(mh_mutex_try(&m));
    if (mh_mutex_lock(&m, MH_NOW) == MH_ERR_OWNER_DIED)
        mh_mutex_recover(&m);
    mh_mutex_holder(&m);
    mh_mutex_unlock(&m);
}

static void use_rmutex(const uint8_t *data, size_t size, uint32_t offset)
{
    static mh_rmutex m;
    ignore(mh_rmutex_init(&m));
    spoil(&m, sizeof m, data, size, offset);
    for (int i = 0; i < 2; i++)
        if (mh_rmutex_lock(&m, MH_NOW) == MH_ERR_OWNER_DIED)
            mh_rmutex_recover(&m);
    mh_rmutex_depth(&m);
    mh_rmutex_unlock(&m);
}

static void use_semaphore(const uint8_t *data, size_t size, uint32_t offset)
{
    static mh_semaphore s;
    ignore(mh_semaphore_init(&s, 1, 3));
    spoil(&s, sizeof s, data, size, offset);
    ignore(mh_semaphore_acquire(&s, MH_NOW));
    ignore(mh_semaphore_acquire(&s, mh_deadline_in(1)));
    ignore(mh_semaphore_try(&s));
    ignore(mh_semaphore_try_release(&s, 1));
    mh_semaphore_release(&s, data[0]);
    mh_semaphore_disown(&s);
    mh_semaphore_value(&s);
}

static void use_cond(const uint8_t *data, size_t size, uint32_t offset)
{
    static mh_cond c;
    mh_cond_ticket ticket = {0}, forged = {.number = data[0], .slot = data[1] * 2u};
    ignore(mh_cond_init(&c));
    if (mh_cond_enter(&c, &ticket))
        return;
    spoil(&c, sizeof c, data, size, offset);
    ignore(mh_cond_await(&c, &ticket, mh_deadline_in(1)));
    mh_cond_notify(&c, data[0]);
    ignore(mh_cond_await(&c, &forged, MH_NOW));
    mh_cond_leave(&c, &forged);
    ignore(mh_cond_enter(&c, &forged));
    mh_cond_notify(&c, UINT32_MAX);
    mh_cond_leave(&c, &ticket);
    mh_cond_count_waiting(&c);
}

static void use_event(const uint8_t *data, size_t size, uint32_t offset)
{
    static mh_event e;
    ignore(mh_event_init(&e, false));
    spoil(&e, sizeof e, data, size, offset);
    ignore(mh_event_wait(&e, mh_deadline_in(1)));
    mh_event_set(&e);
    mh_event_clear(&e);
}

static void use_barrier(const uint8_t *data, size_t size, uint32_t offset)
{
    static mh_barrier b;
    mh_barrier_ticket ticket = {0};
    ignore(mh_barrier_init(&b, 3));
    spoil(&b, sizeof b, data, size, offset);
    ignore(mh_barrier_wait(&b, mh_deadline_in(1), NULL, NULL, NULL));
    ignore(mh_barrier_arrive(&b, MH_NOW, &ticket));
    ignore(mh_barrier_await(&b, &ticket, MH_NOW));
    mh_barrier_open(&b, &ticket);
    mh_barrier_reset(&b);
    mh_barrier_leave(&b, &ticket);
    mh_barrier_count_waiting(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const uses[])(const uint8_t *, size_t, uint32_t) = {use_mutex, use_rmutex,  use_semaphore,
                                                                      use_cond,  use_event, use_barrier};
    if (size < HEADER)
        return 0;
    /* a forged word may name a living holder, for whom the library rightly waits: not for long here */
    mh__inner_wait_ns = mh__inner_patience_ns = MH_MICROSECOND;
    uint32_t offset = data[1] | (uint32_t)data[2] << 8;
    uses[data[0] % MH__COUNT_OF(uses)](data + HEADER - 2, size - HEADER + 2, data[3] & 1 ? offset : 0);
    return 0;
}
