/* Every operation of every primitive, killed at every instruction, without and with somebody waiting. */
#include "mh_test.h"

#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/number.h"
#include "manyhands/sync.h"
#include "os/identity.h"
#include "stepkill.h"
#include "sync/wait.h"

struct shared {
    mh_mutex m;
    mh_rmutex r;
    mh_event e;
    mh_semaphore s;
    mh_cond c;
    mh_barrier b;
    mh_cond_ticket ticket;
    volatile int in_wait; /* the waiter holds m and is about to wait for c */
    volatile int result;  /* what the waiter's wait returned */
    /* for the mutants */
    sem_t sem;
    uint32_t naive_taken, naive_owner;
};

static void must(mh_err err)
{
    if (err)
        abort();
}

/* Who waits in a process of its own waits for ever: how long the steps before the kill take is up to the machine, and from the kill on stepkill's
 * own bound tells a waiter that hangs.
 *
 * A lock taken by somebody who may find it left by a dead one. */
static mh_err lock_any(mh_mutex *m)
{
    mh_err err = mh_mutex_lock(m, mh_deadline_in(100 * MH_SECOND));
    if (err == MH_ERR_OWNER_DIED)
        err = mh_mutex_recover(m);
    return err;
}

static void run_and_die(void (*fn)(struct shared *), struct shared *sh)
{
    pid_t pid = fork();
    if (pid == 0) {
        fn(sh);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

/* ---- mutex ------------------------------------------------------------------------------------- */

static void mutex_setup(void *at) { must(mh_mutex_init(&((struct shared *)at)->m, 0)); }
static void lend_setup(void *at) { must(mh_mutex_init(&((struct shared *)at)->m, MH_MUTEX_PROCESS | MH_MUTEX_ANYONE)); }
static void mutex_lock(void *at) { must(mh_mutex_lock(&((struct shared *)at)->m, MH_FOREVER)); }
static void mutex_unlock(void *at) { must(mh_mutex_unlock(&((struct shared *)at)->m)); }
static void die_locking(struct shared *sh) { mutex_lock(sh); }
/* A child that is killed asleep must not wake up before, because a slice ended. */
static void stay_asleep(void *at)
{
    (void)at;
    mh__first_slice_ns = 10 * MH_SECOND;
}
static void lock_and_stay_asleep(void *at)
{
    mutex_lock(at);
    stay_asleep(at);
}
static void held_setup(void *at)
{
    mutex_setup(at);
    mutex_lock(at);
}
static void orphan_setup(void *at)
{
    mutex_setup(at);
    run_and_die(die_locking, at);
}
static void mutex_inherit(void *at)
{
    if (mh_mutex_lock(&((struct shared *)at)->m, MH_NOW) != MH_ERR_OWNER_DIED)
        abort();
}
static void mutex_recover_unlock(void *at)
{
    must(mh_mutex_recover(&((struct shared *)at)->m));
    mutex_unlock(at);
}
static void mutex_waiter(void *at)
{
    must(lock_any(&((struct shared *)at)->m));
    mutex_unlock(at);
}
static void unlock_rescue(void *at, const struct stepkill_point *point)
{
    (void)point;
    mutex_unlock(at);
}
static const char *mutex_check(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    if (lock_any(&sh->m))
        return "the mutex stays locked";
    if (mh_mutex_unlock(&sh->m) || mh_mutex_lock(&sh->m, MH_NOW) || mh_mutex_unlock(&sh->m))
        return "the mutex does not work after its recovery";
    return NULL;
}
static const char *orphan_check(void *at, const struct stepkill_point *point)
{
    (void)point;
    if (mh_mutex_lock(&((struct shared *)at)->m, mh_deadline_in(10 * MH_SECOND)) != MH_ERR_OWNER_DIED)
        return "the next holder is not told that one died";
    return NULL;
}

/* ---- recursive mutex --------------------------------------------------------------------------- */

static void rmutex_setup(void *at) { must(mh_rmutex_init(&((struct shared *)at)->r)); }
static void rmutex_lock(void *at) { must(mh_rmutex_lock(&((struct shared *)at)->r, MH_FOREVER)); }
static void rmutex_unlock(void *at) { must(mh_rmutex_unlock(&((struct shared *)at)->r)); }
static void rmutex_lock_twice(void *at)
{
    rmutex_lock(at);
    rmutex_lock(at);
}
static void rmutex_unlock_twice(void *at)
{
    rmutex_unlock(at);
    rmutex_unlock(at);
}
static const char *rmutex_take(struct shared *sh)
{
    mh_err err = mh_rmutex_lock(&sh->r, mh_deadline_in(100 * MH_SECOND));
    if (err != MH_OK && (err != MH_ERR_OWNER_DIED || mh_rmutex_recover(&sh->r)))
        return "the recursive mutex stays locked";
    if (mh_rmutex_depth(&sh->r) != 1)
        return "the dead holder's depth lives on";
    return mh_rmutex_unlock(&sh->r) || mh_rmutex_is_locked(&sh->r) ? "unlocking does not free it" : NULL;
}
static void rmutex_waiter(void *at)
{
    if (rmutex_take(at))
        abort();
}
static const char *rmutex_check(void *at, const struct stepkill_point *point)
{
    (void)point;
    return rmutex_take(at);
}

/* ---- semaphore --------------------------------------------------------------------------------- */

static void sem_setup_2(void *at) { must(mh_semaphore_init(&((struct shared *)at)->s, 2, 2)); }
static void sem_setup_1(void *at) { must(mh_semaphore_init(&((struct shared *)at)->s, 1, 5)); }
static void sem_setup_0(void *at) { must(mh_semaphore_init(&((struct shared *)at)->s, 0, 5)); }
static void sem_acquire(void *at) { must(mh_semaphore_acquire(&((struct shared *)at)->s, MH_FOREVER)); }
static void sem_try(void *at) { must(mh_semaphore_acquire(&((struct shared *)at)->s, MH_NOW)); }
static void sem_release(void *at) { must(mh_semaphore_release(&((struct shared *)at)->s, 1)); }
static void sem_release_2(void *at) { must(mh_semaphore_release(&((struct shared *)at)->s, 2)); }
static void die_acquiring(struct shared *sh) { sem_acquire(sh); }
static void sem_orphan_setup(void *at)
{
    sem_setup_1(at);
    run_and_die(die_acquiring, at);
}
/* what the dead took had been released as a signal: it does not come back */
static void sem_consumed_setup(void *at)
{
    sem_setup_0(at);
    must(mh_semaphore_release(&((struct shared *)at)->s, 1));
    run_and_die(die_acquiring, at);
}
static void sem_try_in_vain(void *at)
{
    if (mh_semaphore_acquire(&((struct shared *)at)->s, MH_NOW) != MH_ERR_TIMEOUT)
        abort();
}
static void sem_held_setup(void *at)
{
    sem_setup_1(at);
    sem_acquire(at);
}
static void sem_waiter(void *at)
{
    must(mh_semaphore_acquire(&((struct shared *)at)->s, MH_FOREVER));
    sem_release(at);
}
static void sem_consumer(void *at) { must(mh_semaphore_acquire(&((struct shared *)at)->s, MH_FOREVER)); }
static void sem_rescue(void *at, const struct stepkill_point *point)
{
    (void)point;
    sem_release(at);
}
/* How many permits can be had, at most 4. The one after the last is waited for, so that the dead's have come back.
 * 99: it does not even work. */
static unsigned sem_drain(struct shared *sh, unsigned at_least)
{
    for (unsigned count = 0; count < 4; count++) {
        mh_err err = mh_semaphore_acquire(&sh->s, mh_deadline_in(count < at_least ? 10 * MH_SECOND : MH_MICROSECOND));
        if (err)
            return err == MH_ERR_TIMEOUT ? count : 99;
    }
    return 4;
}
static const char *sem_check_range(struct shared *sh, unsigned least, unsigned most)
{
    static char why[96];
    unsigned count = sem_drain(sh, least);
    if (count >= least && count <= most)
        return NULL;
    snprintf(why, sizeof why, "%u permits can be had, not %u to %u", count, least, most);
    return why;
}
static const char *sem_check_2(void *at, const struct stepkill_point *point)
{
    (void)point;
    return sem_check_range(at, 2, 2);
}
static const char *sem_check_0(void *at, const struct stepkill_point *point)
{
    (void)point;
    return sem_check_range(at, 0, 0);
}
static const char *sem_check_1(void *at, const struct stepkill_point *point)
{
    (void)point;
    return sem_check_range(at, 1, 1);
}
/* one given beyond what was held: it counts, or not yet */
static const char *sem_check_mixed(void *at, const struct stepkill_point *point)
{
    return sem_check_range(at, point->ended ? 2 : 1, 2);
}
/* the child and the rescuer signalled, the waiter consumed one and died: its death brings none back */
static const char *sem_check_signal(void *at, const struct stepkill_point *point)
{
    return sem_check_range(at, point->ended, 1);
}

static void sem_disown(void *at) { must(mh_semaphore_disown(&((struct shared *)at)->s)); }
/* what was disowned stays taken; what a process that was killed before held comes back */
static const char *sem_check_disowned(void *at, const struct stepkill_point *point)
{
    return sem_check_range(at, 1, point->ended ? 1 : 2);
}
/* one came back from the dead and was taken by the tester: a release in the dead one's place gives nothing more */
static void sem_owed_setup(void *at)
{
    sem_orphan_setup(at);
    sem_try(at);
}

/* ---- event ------------------------------------------------------------------------------------- */

static void event_setup(void *at) { must(mh_event_init(&((struct shared *)at)->e, false)); }
static void event_setup_set(void *at) { must(mh_event_init(&((struct shared *)at)->e, true)); }
static void event_set(void *at) { must(mh_event_set(&((struct shared *)at)->e)); }
static void event_clear(void *at) { must(mh_event_clear(&((struct shared *)at)->e)); }
static void event_wait(void *at) { must(mh_event_wait(&((struct shared *)at)->e, MH_FOREVER)); }
static void event_rescue(void *at, const struct stepkill_point *point)
{
    (void)point;
    if (!mh_event_is_set(&((struct shared *)at)->e)) /* if it is, the waiter must see it by itself */
        event_set(at);
}
static const char *event_check(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    if (point->ended && !mh_event_is_set(&sh->e))
        return "not set at the end of set";
    must(mh_event_clear(&sh->e));
    if (mh_event_is_set(&sh->e) || mh_event_wait(&sh->e, MH_NOW) != MH_ERR_TIMEOUT)
        return "cannot be cleared";
    must(mh_event_set(&sh->e));
    return mh_event_wait(&sh->e, MH_NOW) ? "cannot be set" : NULL;
}
static const char *event_check_clear(void *at, const struct stepkill_point *point)
{
    return point->ended && mh_event_is_set(&((struct shared *)at)->e) ? "set at the end of clear" : NULL;
}

/* ---- condition --------------------------------------------------------------------------------- */

static void cond_setup(void *at)
{
    mutex_setup(at);
    must(mh_cond_init(&((struct shared *)at)->c));
}
static void cond_wait(void *at) { must(mh_cond_wait(&((struct shared *)at)->c, &((struct shared *)at)->m, MH_FOREVER)); }
static void cond_lock_notify(void *at)
{
    struct shared *sh = at;
    must(mh_mutex_lock(&sh->m, MH_FOREVER));
    must(mh_cond_notify(&sh->c, 1));
    must(mh_mutex_unlock(&sh->m));
}
static void cond_enter(void *at) { must(mh_cond_enter(&((struct shared *)at)->c, &((struct shared *)at)->ticket)); }
static void cond_be_notified(void *at)
{
    struct shared *sh = at;
    must(mh_cond_notify(&sh->c, 1)); /* the child itself has waited longest */
    must(mh_cond_await(&sh->c, &sh->ticket, MH_FOREVER));
    must(mh_cond_leave(&sh->c, &sh->ticket));
}
static void cond_waiter(void *at)
{
    struct shared *sh = at;
    must(lock_any(&sh->m));
    sh->in_wait = 1;
    mh_err err = mh_cond_wait(&sh->c, &sh->m, MH_FOREVER);
    if (err == MH_ERR_OWNER_DIED)
        err = mh_mutex_recover(&sh->m);
    must(err);
    mutex_unlock(sh);
}
static void lock_once_waiting(struct shared *sh)
{
    for (;;) {
        must(lock_any(&sh->m));
        if (sh->in_wait)
            return;
        mutex_unlock(sh);
        sched_yield();
    }
}
/* the dead child may be the oldest in the table: the notification passes on to the waiter all the same */
static void cond_rescue_past_dead(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    lock_once_waiting(sh);
    must(mh_cond_notify(&sh->c, 1));
    mutex_unlock(sh);
}
static void cond_rescue_if_waiting(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    must(lock_any(&sh->m));
    if (mh_cond_count_waiting(&sh->c))
        must(mh_cond_notify(&sh->c, 1));
    mutex_unlock(sh);
}
/* a dead child that was notified and had not left: its notification passes on without help */
static void cond_rescue_unless_passed(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    bool passes_on = sh->c.waiters[0].who && sh->c.waiters[0].state && !point->ended;
    if (!passes_on)
        cond_rescue_past_dead(at, point);
}
static void die_waiting(struct shared *sh)
{
    mh_cond_ticket ticket;
    must(mh_cond_enter(&sh->c, &ticket));
}
static void cond_orphan_setup(void *at)
{
    cond_setup(at);
    run_and_die(die_waiting, at);
}
/* The dead has waited longest and gets the notification; the child passes it on to itself. */
static void cond_pass_on(void *at)
{
    struct shared *sh = at;
    if (mh_cond_count_waiting(&sh->c) != 3)
        abort();
    must(mh_cond_notify(&sh->c, 1));
    must(mh_cond_await(&sh->c, &sh->ticket, mh_deadline_in(MH_MICROSECOND)));
    must(mh_cond_leave(&sh->c, &sh->ticket));
}
/* The waiter would pass it on as well: it looks only after the rescuer has woken it. */
static void slow_cond_waiter(void *at)
{
    stay_asleep(at);
    cond_waiter(at);
}
static void cond_rescue_unless_sent(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    mh__sync_wake(&sh->c.waiters[2].state, 1);
    bool was_sent = !sh->c.waiters[0].who || sh->c.waiters[0].state;
    sh->result = !was_sent || !sh->c.waiters[1].who || point->ended;
    if (sh->result)
        cond_rescue_past_dead(at, point);
}
static const char *cond_check(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    const char *why = mutex_check(at, point);
    mh_cond_ticket ticket;
    if (why)
        return why;
    if (mh_cond_notify(&sh->c, UINT32_MAX) || mh_cond_enter(&sh->c, &ticket) || mh_cond_notify(&sh->c, 1) ||
        mh_cond_await(&sh->c, &ticket, mh_deadline_in(10 * MH_SECOND)) || mh_cond_leave(&sh->c, &ticket))
        return "the condition does not notify any more";
    return mh_cond_count_waiting(&sh->c) ? "a dead waiter is still counted" : NULL;
}

/* One notification was sent, and the waiter has had it: nothing of it may be left with the dead. */
static const char *cond_check_passed(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    for (int i = 0; i < 3; i++)
        if (!sh->result && sh->c.waiters[i].who)
            return "one notification has become two";
    return cond_check(at, point);
}

/* The tester waits too, longer than the child: what the child passes on from the dead comes to the tester, once. */
static mh_cond_ticket childs_ticket;
static void cond_tester_setup(void *at)
{
    cond_orphan_setup(at);
    cond_enter(at);
}
static void cond_enter_as_child(void *at) { must(mh_cond_enter(&((struct shared *)at)->c, &childs_ticket)); }
static void cond_pass_to_tester(void *at)
{
    struct shared *sh = at;
    must(mh_cond_notify(&sh->c, 1));
    if (mh_cond_await(&sh->c, &childs_ticket, mh_deadline_in(MH_MICROSECOND)) != MH_ERR_TIMEOUT ||
        mh_cond_leave(&sh->c, &childs_ticket) != MH_ERR_TIMEOUT)
        abort();
}
static const char *cond_check_tester(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    mh_cond_ticket late;
    if (sh->c.waiters[0].who && !sh->c.waiters[0].state)
        return NULL; /* not sent yet */
    if (mh_cond_await(&sh->c, &sh->ticket, mh_deadline_in(10 * MH_SECOND)))
        return "the notification is lost";
    if (mh_cond_enter(&sh->c, &late) || mh_cond_leave(&sh->c, &late) != MH_ERR_TIMEOUT)
        return "the condition does not work any more";
    for (int i = 0; i < 3; i++)
        if (i != 1 && sh->c.waiters[i].who && sh->c.waiters[i].state)
            return "one notification has become two";
    return mh_cond_leave(&sh->c, &sh->ticket) ? "the notification is lost at last" : cond_check(at, point);
}

/* ---- barrier ----------------------------------------------------------------------------------- */

static void barrier_setup_2(void *at) { must(mh_barrier_init(&((struct shared *)at)->b, 2)); }
/* after a round of the tester's, which lives on and whose traces must not be taken for the child's */
static void barrier_setup_3(void *at)
{
    struct shared *sh = at;
    mh_barrier_ticket ticket;
    must(mh_barrier_init(&sh->b, 3));
    for (int i = 0; i < 3; i++)
        must(mh_barrier_arrive(&sh->b, MH_NOW, &ticket));
    must(mh_barrier_open(&sh->b, &ticket));
}
static void barrier_wait(void *at)
{
    struct shared *sh = at;
    sh->result = (int)mh_barrier_wait(&sh->b, MH_FOREVER, NULL, NULL, NULL);
}
static void barrier_abort(void *at) { must(mh_barrier_abort(&((struct shared *)at)->b)); }
static void barrier_reset(void *at) { must(mh_barrier_reset(&((struct shared *)at)->b)); }
static unsigned arrived(const struct shared *sh) { return (unsigned)(sh->b.state >> 32) & 0xffff; }
static void barrier_rescue_3(void *at, const struct stepkill_point *point)
{
    (void)point;
    if (arrived(at) == 1) /* the child had not arrived: else its death breaks the barrier without help */
        barrier_abort(at);
}
static void barrier_rescue_2(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    if (arrived(sh) == 1 && (uint32_t)sh->b.state == 0)
        must(mh_barrier_wait(&sh->b, mh_deadline_in(10 * MH_SECOND), NULL, NULL, NULL));
}
static void barrier_rescue_break(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    if ((uint32_t)sh->b.state == 0)
        barrier_abort(sh);
}
static const char *barrier_works(struct shared *sh)
{
    mh_barrier_ticket ticket = {0};
    uint32_t parties = mh_barrier_parties(&sh->b);
    if (mh_barrier_reset(&sh->b))
        return "the barrier cannot be reset";
    for (uint32_t i = 0; i < parties; i++)
        if (mh_barrier_arrive(&sh->b, mh_deadline_in(MH_SECOND), &ticket) || ticket.index != i)
            return "nobody can arrive any more";
    return mh_barrier_open(&sh->b, &ticket) || mh_barrier_is_broken(&sh->b) ? "the barrier does not open" : NULL;
}
static const char *barrier_check(void *at, const struct stepkill_point *point)
{
    struct shared *sh = at;
    if (sh->result != MH_OK && sh->result != MH_ERR_BROKEN)
        return "the waiter was told neither OK nor BROKEN";
    if (point->ended && sh->result != MH_OK)
        return "the barrier opened, but the waiter was not told so";
    return barrier_works(sh);
}
static const char *barrier_check_broken(void *at, const struct stepkill_point *point)
{
    (void)point;
    return ((struct shared *)at)->result == MH_ERR_BROKEN ? barrier_works(at) : "the waiter was not told BROKEN";
}

/* ---- the table --------------------------------------------------------------------------------- */

#define CASE(text, ...) {.name = text, .shared_bytes = sizeof(struct shared), __VA_ARGS__}

static const struct stepkill_case cases[] = {
    CASE("mutex lock", .setup = mutex_setup, .operation = mutex_lock, .check = mutex_check),
    CASE("mutex lock behind a waiter", .setup = held_setup, .prepare = stay_asleep, .operation = mutex_lock,
         .may_block = true, .waiter = mutex_waiter,
         .rescue = unlock_rescue, .check = mutex_check, .sparse = 64),
    CASE("mutex unlock", .setup = mutex_setup, .prepare = mutex_lock, .operation = mutex_unlock, .check = mutex_check),
    CASE("mutex unlock, waiter", .setup = mutex_setup, .prepare = mutex_lock, .operation = mutex_unlock,
         .waiter = mutex_waiter, .check = mutex_check),
    CASE("mutex lock after a death", .setup = orphan_setup, .operation = mutex_inherit, .check = orphan_check,
         .sparse = 500, .always_sparse = true),
    CASE("mutex recover and unlock", .setup = orphan_setup, .prepare = mutex_inherit, .operation = mutex_recover_unlock,
         .check = mutex_check),
    CASE("mutex recover and unlock, waiter", .setup = orphan_setup, .prepare = mutex_inherit,
         .operation = mutex_recover_unlock, .waiter = mutex_waiter, .check = mutex_check),
    CASE("process mutex lock", .setup = lend_setup, .operation = mutex_lock, .check = mutex_check),
    CASE("process mutex unlock, waiter", .setup = lend_setup, .prepare = mutex_lock, .operation = mutex_unlock,
         .waiter = mutex_waiter, .check = mutex_check),

    CASE("recursive lock", .setup = rmutex_setup, .operation = rmutex_lock_twice, .check = rmutex_check),
    CASE("recursive lock again, waiter", .setup = rmutex_setup, .prepare = rmutex_lock, .operation = rmutex_lock,
         .waiter = rmutex_waiter, .check = rmutex_check),
    CASE("recursive unlock", .setup = rmutex_setup, .prepare = rmutex_lock_twice, .operation = rmutex_unlock_twice,
         .check = rmutex_check),
    CASE("recursive unlock, waiter", .setup = rmutex_setup, .prepare = rmutex_lock_twice,
         .operation = rmutex_unlock_twice,
         .waiter = rmutex_waiter, .check = rmutex_check),

    CASE("semaphore acquire", .setup = sem_setup_2, .operation = sem_acquire, .check = sem_check_2, .sparse = 64),
    CASE("semaphore acquire, table warm", .setup = sem_setup_2, .prepare = sem_acquire, .operation = sem_acquire,
         .check = sem_check_2, .sparse = 64),
    CASE("semaphore acquire behind a waiter", .setup = sem_held_setup, .prepare = stay_asleep,
         .operation = sem_acquire, .may_block = true,
         .waiter = sem_waiter, .rescue = sem_rescue, .check = sem_check_1, .sparse = 64),
    CASE("semaphore acquire after a death", .setup = sem_orphan_setup, .operation = sem_try, .check = sem_check_1,
         .sparse = 500, .always_sparse = true),
    CASE("semaphore try after a consumer's death", .setup = sem_consumed_setup, .operation = sem_try_in_vain,
         .check = sem_check_0, .sparse = 500, .always_sparse = true),
    CASE("semaphore release", .setup = sem_setup_2, .prepare = sem_acquire, .operation = sem_release,
         .check = sem_check_2, .sparse = 64),
    CASE("semaphore release, waiter", .setup = sem_setup_1, .prepare = sem_acquire, .operation = sem_release,
         .waiter = sem_waiter, .check = sem_check_1, .sparse = 64),
    CASE("semaphore release beyond its own", .setup = sem_setup_1, .prepare = sem_acquire, .operation = sem_release_2,
         .check = sem_check_mixed, .sparse = 64),
    CASE("semaphore release of what is owed", .setup = sem_owed_setup, .operation = sem_release, .check = sem_check_0, .sparse = 64),
    CASE("semaphore disown", .setup = sem_setup_2, .prepare = sem_acquire, .operation = sem_disown, .check = sem_check_disowned,
         .sparse = 64),
    CASE("semaphore signal, waiter", .setup = sem_setup_0, .operation = sem_release, .waiter = sem_consumer,
         .rescue = sem_rescue, .check = sem_check_signal, .sparse = 64),

    CASE("event set", .setup = event_setup, .operation = event_set, .check = event_check),
    CASE("event set, waiter", .setup = event_setup, .operation = event_set, .waiter = event_wait,
         .rescue = event_rescue,
         .check = event_check),
    CASE("event clear", .setup = event_setup_set, .operation = event_clear, .check = event_check_clear),
    CASE("event wait, another waiter", .setup = event_setup, .prepare = stay_asleep, .operation = event_wait,
         .may_block = true,
         .waiter = event_wait, .rescue = event_rescue, .check = event_check, .sparse = 64),

    CASE("condition wait", .setup = cond_setup, .prepare = lock_and_stay_asleep, .operation = cond_wait,
         .may_block = true,
         .check = cond_check, .sparse = 64),
    CASE("condition wait, another waiter", .setup = cond_setup, .prepare = lock_and_stay_asleep, .operation = cond_wait,
         .may_block = true, .waiter = cond_waiter, .rescue = cond_rescue_past_dead, .check = cond_check, .sparse = 64),
    CASE("condition notify", .setup = cond_setup, .operation = cond_lock_notify, .check = cond_check, .sparse = 64),
    CASE("condition notify, waiter", .setup = cond_setup, .operation = cond_lock_notify, .waiter = cond_waiter,
         .rescue = cond_rescue_if_waiting, .check = cond_check, .sparse = 64),
    CASE("condition notified, another waiter", .setup = cond_setup, .prepare = cond_enter,
         .operation = cond_be_notified,
         .waiter = cond_waiter, .rescue = cond_rescue_unless_passed, .check = cond_check, .sparse = 64),
    CASE("condition pass on, another waiter", .setup = cond_orphan_setup, .prepare = cond_enter,
         .operation = cond_pass_on,
         .waiter = slow_cond_waiter, .rescue = cond_rescue_unless_sent, .check = cond_check_passed, .sparse = 500,
         .always_sparse = true),
    CASE("condition pass on to another", .setup = cond_tester_setup, .prepare = cond_enter_as_child,
         .operation = cond_pass_to_tester, .check = cond_check_tester, .sparse = 500, .always_sparse = true),

    CASE("barrier arrive, another waiter", .setup = barrier_setup_3, .prepare = stay_asleep,
         .operation = barrier_wait, .may_block = true,
         .waiter = barrier_wait, .rescue = barrier_rescue_3, .check = barrier_check_broken, .sparse = 64),
    CASE("barrier arrive last, waiter", .setup = barrier_setup_2, .operation = barrier_wait, .waiter = barrier_wait,
         .rescue = barrier_rescue_2, .check = barrier_check, .sparse = 64),
    CASE("barrier abort, waiter", .setup = barrier_setup_2, .operation = barrier_abort, .waiter = barrier_wait,
         .rescue = barrier_rescue_break, .check = barrier_check_broken, .sparse = 64),
    CASE("barrier reset, waiter", .setup = barrier_setup_2, .operation = barrier_reset, .waiter = barrier_wait,
         .rescue = barrier_rescue_break, .check = barrier_check_broken, .sparse = 64),
};

static void every_operation_survives(void **state)
{
    (void)state;
    stepkill_run_all(cases, MH__COUNT_OF(cases));
}

/* ---- mutants: if the harness does not catch these, it proves nothing -------------------------------- */

static void posix_setup(void *at) { sem_init(&((struct shared *)at)->sem, 1, 1); }
static void posix_use(void *at)
{
    sem_wait(&((struct shared *)at)->sem);
    sem_post(&((struct shared *)at)->sem);
}
static const char *posix_check(void *at, const struct stepkill_point *point)
{
    (void)point;
    return sem_trywait(&((struct shared *)at)->sem) ? "the semaphore stays taken" : NULL;
}

/* Taking and owning are two stores: killed between them, it is taken by nobody. */
static void naive_lock(void *at)
{
    struct shared *sh = at;
    while (__atomic_exchange_n(&sh->naive_taken, 1, __ATOMIC_ACQUIRE))
        ;
    __atomic_store_n(&sh->naive_owner, (uint32_t)mh__os_self_process(), __ATOMIC_RELEASE);
}
static void no_setup(void *at) { (void)at; }
static const char *naive_check(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    if (!sh->naive_taken)
        return NULL;
    return sh->naive_owner && !mh__os_is_alive(sh->naive_owner) ? NULL : "taken, by nobody that is dead";
}

/* Unlocking without a re-check: a waiter whose wake is owed by the dead sleeps on. */
static void lazy_waiter(void *at)
{
    struct shared *sh = at;
    while (!sh->naive_taken) {
        struct timespec forever = {.tv_sec = 1000};
        (void)forever;
        if (sem_wait(&sh->sem) == 0)
            break;
    }
}
static void lazy_setup(void *at) { sem_init(&((struct shared *)at)->sem, 1, 0); }
static void lazy_set(void *at)
{
    struct shared *sh = at;
    __atomic_store_n(&sh->naive_taken, 1, __ATOMIC_RELEASE);
    sem_post(&sh->sem);
}
static void lazy_rescue(void *at, const struct stepkill_point *point)
{
    (void)point;
    struct shared *sh = at;
    if (!sh->naive_taken)
        lazy_set(sh);
}
static const char *lazy_check(void *at, const struct stepkill_point *point)
{
    (void)at;
    (void)point;
    return NULL;
}

static void mutants_are_caught(void **state)
{
    (void)state;
    static const struct stepkill_case mutants[] = {
        CASE("sem_t", .setup = posix_setup, .operation = posix_use, .check = posix_check),
        CASE("lock of two stores", .setup = no_setup, .operation = naive_lock, .check = naive_check),
        CASE("set without re-check", .setup = lazy_setup, .operation = lazy_set, .waiter = lazy_waiter,
             .rescue = lazy_rescue, .check = lazy_check, .waiter_ms = 30),
    };
    for (size_t i = 0; i < MH__COUNT_OF(mutants); i++) {
        struct stepkill_report report;
        enum stepkill_outcome outcome = stepkill_run(&mutants[i], &report);
        if (outcome == STEPKILL_REFUSED)
            MH_SKIP(report.why);
        if (outcome == STEPKILL_FAILED)
            fail_msg("%s", report.why);
        printf("# mutant %-28s broken at %u of %u points\n", mutants[i].name, report.broken, report.points);
        if (report.broken == 0)
            fail_msg("the harness misses the mutant \"%s\"", mutants[i].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutants_are_caught),
        cmocka_unit_test(every_operation_survives),
    };
    return cmocka_run_group_tests_name("sync_stepkill", tests, NULL, NULL);
}
