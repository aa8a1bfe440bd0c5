/* The `manyhands` command with injection points, for tests/chaos/test_points.py. What is installed has none: here the linker puts a function of this file before each
 * of the functions below (--wrap, see meson.build), which tells the harness that it was reached, before and after, and lets a fault happen there when that is asked
 * for. The harness asks through a file that both have mapped; MANYHANDS_POINTS in the environment names it.
 *
 * With a mutant set, one rule is broken on purpose: the harness has to notice.
 */
#include "base/memory.h"
#include "cluster/controller_state.h"
#include "cluster/client_state.h"
#include "cluster/store.h"
#include "manyhands/engine.h"
#include "pool/point.h"
#include "pool/pool.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct mh__waiting_request mh__waiting_request; /* the engine's, of which nothing is touched here */
typedef struct mh__answer mh__answer;

enum fault { NONE, KILL, STOP, HANG, MALLOC, DISK, DESCRIPTORS };
enum mutant { NO_MUTANT, RESULTS_ARE_NOT_WRITTEN, REQUESTS_ARE_NOT_WRITTEN };

typedef struct control {
    _Atomic uint32_t fault;   /* the harness sets it last, and the first process that is there takes it */
    _Atomic int32_t countdown; /* how often the point is reached until then */
    _Atomic uint32_t fired, pid, is_released;
    uint32_t mutant;
    char point[64];
} control;

static control *shared;
static _Thread_local int allocations_to_fail;

static void *allocate(void *old, size_t size, void *ctx)
{
    (void)ctx;
    if (!size) {
        free(old);
        return NULL;
    }
    if (allocations_to_fail > 0) {
        allocations_to_fail--;
        return NULL;
    }
    return realloc(old, size);
}

static void limit(int resource, rlim_t soft)
{
    struct rlimit l;
    if (getrlimit((__rlimit_resource_t)resource, &l) == 0) {
        l.rlim_cur = soft;
        setrlimit((__rlimit_resource_t)resource, &l);
    }
}

static void happen(uint32_t fault)
{
    switch (fault) {
    case KILL: raise(SIGKILL); break;
    case STOP: raise(SIGSTOP); break; /* the harness lets it go on */
    case HANG:                        /* this thread alone */
        while (!atomic_load(&shared->is_released))
            usleep(1000);
        break;
    case MALLOC: allocations_to_fail = 2; break;
    case DISK: limit(RLIMIT_FSIZE, 0); break; /* as if there were no room; the harness makes some */
    case DESCRIPTORS: limit(RLIMIT_NOFILE, 0); break;
    default: break;
    }
}

static void reach(const char *point)
{
    if (!shared || !atomic_load(&shared->fault) || strcmp(shared->point, point) != 0 || atomic_fetch_sub(&shared->countdown, 1) != 1)
        return;
    uint32_t fault = atomic_exchange(&shared->fault, NONE);
    atomic_store(&shared->pid, (uint32_t)getpid());
    atomic_fetch_add(&shared->fired, 1);
    happen(fault);
}

static bool is_mutant(enum mutant which) { return shared && shared->mutant == (uint32_t)which; }

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("MANYHANDS_POINTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED)
        return;
    shared = at;
    signal(SIGXFSZ, SIG_IGN); /* as a full disk is an error, and no signal */
    mh_allocator_set(allocate, NULL);
    mh__point_hook = reach; /* those inside a pool's worker have names already */
}

/* ---- the points ------------------------------------------------------------------------------ */

#define POINT(name, parameters, arguments)                                                                                                                    \
    void __real_##name parameters;                                                                                                                            \
    void __wrap_##name parameters;                                                                                                                            \
    void __wrap_##name parameters                                                                                                                             \
    {                                                                                                                                                         \
        reach(#name " before");                                                                                                                               \
        __real_##name arguments;                                                                                                                              \
        reach(#name " after");                                                                                                                                \
    }
#define POINT_OF(type, name, parameters, arguments)                                                                                                           \
    type __real_##name parameters;                                                                                                                            \
    type __wrap_##name parameters;                                                                                                                            \
    type __wrap_##name parameters                                                                                                                             \
    {                                                                                                                                                         \
        reach(#name " before");                                                                                                                               \
        type got = __real_##name arguments;                                                                                                                \
        reach(#name " after");                                                                                                                                \
        return got;                                                                                                                                           \
    }

/* The controller: a request, on its way to an engine, ... */
POINT_OF(bool, mh__controller_admit, (mh_controller *c, mh__channel channel, const mh__parcel *p, mh__incoming *in), (c, channel, p, in))
POINT(mh__durable_confirm, (mh_controller *c, mh__channel channel, mh_bytes client, const mh__job *r), (c, channel, client, r))
POINT(mh__durable_place, (mh_controller *c, const mh__job *r), (c, r))
POINT(mh__outbox_send, (mh_controller *c, mh__channel channel, mh__parcel *p), (c, channel, p))
/* ... its answer, on its way back, ... */
POINT_OF(mh_err, mh__job_keep_result, (mh_controller *c, mh__job *r, mh__parcel *result, size_t at), (c, r, result, at))
POINT(mh__durable_send, (mh_controller *c, mh__channel channel, mh__parcel *p), (c, channel, p))
POINT(mh__journal_flush, (mh__journal *j), (j))
/* ... and who is there. */
POINT(mh__engine_register, (mh_controller *c, const mh__incoming *in, int connection), (c, in, connection))
POINT_OF(mh_err, mh__recover, (mh_controller *c), (c))
/* An engine, */
POINT(mh__at_engine_register, (mh_engine *e), (e))
POINT(mh__at_engine_take_fast, (mh_engine *e, mh__parcel *p, bool is_quiet), (e, p, is_quiet))
POINT_OF(bool, mh__at_engine_answer_holds, (mh_engine *e, const mh__waiting_request *job), (e, job))
POINT(mh__at_engine_reply, (mh_engine *e, mh__waiting_request *job, const mh__answer *a), (e, job, a))
/* and the pool in it. */
POINT(mh__dispatch, (mh_pool *pool), (pool))
POINT(mh__drive, (mh_pool *pool), (pool))
POINT_OF(mh_err, mh__hand_start, (mh_pool *pool, size_t place), (pool, place))
POINT(mh__hand_wake, (mh__hand *hand), (hand))
/* A client. */
POINT_OF(mh_err, mh__client_send, (mh_client *c, const mh_client_request *r, mh_deadline until, char id[MH_CLIENT_ID_SIZE], mh_client_future *f),
         (c, r, until, id, f))
POINT_OF(mh_err, mh__client_fast_put, (mh_client *c, const mh_client_request *r, char id[MH_CLIENT_ID_SIZE]), (c, r, id))
POINT_OF(bool, mh__client_deliver, (mh_client *c, mh_client_message *m), (c, m))

/* Those that a mutant leaves out. */
mh_err __real_mh__durable_request(mh_controller *c, mh__job *r);
mh_err __wrap_mh__durable_request(mh_controller *c, mh__job *r);
mh_err __wrap_mh__durable_request(mh_controller *c, mh__job *r)
{
    reach("mh__durable_request before");
    mh_err err = is_mutant(REQUESTS_ARE_NOT_WRITTEN) ? MH_OK : __real_mh__durable_request(c, r);
    reach("mh__durable_request after");
    return err;
}

void __real_mh__durable_result(mh_controller *c, mh__job *r, mh_sched_outcome how);
void __wrap_mh__durable_result(mh_controller *c, mh__job *r, mh_sched_outcome how);
void __wrap_mh__durable_result(mh_controller *c, mh__job *r, mh_sched_outcome how)
{
    reach("mh__durable_result before");
    if (!is_mutant(RESULTS_ARE_NOT_WRITTEN))
        __real_mh__durable_result(c, r, how);
    reach("mh__durable_result after");
}

/* The task log's thread and the one that syncs: what they call of the store. */
static const mh__store_kind *store;
static mh__store_kind watched;

static mh_err store_begin(mh__store *s)
{
    reach("store begin");
    return store->begin(s);
}

static mh_err store_put(mh__store *s, int64_t id, mh_bytes row)
{
    reach("store put");
    return store->put(s, id, row);
}

static mh_err store_commit(mh__store *s)
{
    reach("store commit before");
    mh_err err = store->commit(s);
    reach("store commit after");
    return err;
}

static mh_err store_sync(mh__store *s)
{
    reach("store sync before");
    mh_err err = store->sync(s);
    reach("store sync after");
    return err;
}

mh_err __real_mh__sqlite_open(mh__store **out, const char *path);
mh_err __wrap_mh__sqlite_open(mh__store **out, const char *path);
mh_err __wrap_mh__sqlite_open(mh__store **out, const char *path)
{
    mh_err err = __real_mh__sqlite_open(out, path);
    if (err || !shared)
        return err;
    store = (*out)->kind;
    watched = *store;
    watched.begin = store_begin;
    watched.put = store_put;
    watched.commit = store_commit;
    watched.sync = store_sync;
    (*out)->kind = &watched;
    return MH_OK;
}

/* ---- a client -------------------------------------------------------------------------------- */

int cli_main(int argc, char **argv); /* main of cli/main.c, renamed */
#undef main

static int fail(const char *what, mh_err err)
{
    fprintf(stderr, "%s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    return 1;
}

/* Each answer that came, in a line. */
static mh_err call(mh_balanced_view *v, int64_t from, int64_t to)
{
    enum { AT_ONCE = 8 };
    mh_client_future *f[AT_ONCE] = {0};
    mh_err err = MH_OK;
    for (int64_t i = from; i < to && !err; i++) {
        err = mh_balanced_view_submit(v, "square", (mh_bytes){&i, sizeof i}, &(mh_balanced_options){.retries = 5}, &f[i - from]);
        for (int tries = 0; err == MH_ERR_NO_MEMORY && tries < 100; tries++) /* nothing was sent then */
            err = mh_balanced_view_submit(v, "square", (mh_bytes){&i, sizeof i}, &(mh_balanced_options){.retries = 5}, &f[i - from]);
    }
    for (int64_t i = from; i < to && !err; i++) {
        mh_client_result r;
        int64_t square = 0;
        err = mh_client_future_result(f[i - from], mh_deadline_in(60 * MH_SECOND), &r);
        if (!err && !r.err && r.value.size == sizeof square)
            memcpy(&square, r.value.data, sizeof square);
        if (!err)
            printf("%lld %lld %s\n", (long long)i, (long long)square, r.err ? mh_err_name(r.err) : "OK");
    }
    for (int i = 0; i < AT_ONCE; i++)
        mh_client_future_release(&f[i]);
    fflush(stdout);
    return err;
}

/* points-client FILE: calls for the numbers from one to another, as each line of its input says, eight at most. */
static int run_client(const char *file)
{
    mh_client *c = NULL;
    mh_balanced_view *v = NULL;
    long long from, to;
    mh_err err = mh_client_open(&c, &(mh_client_options){.connection_file = file});
    if (!err)
        err = mh_client_balanced_view(c, NULL, &v);
    while (!err && scanf("%lld %lld", &from, &to) == 2)
        err = call(v, from, to);
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    return err ? fail("client", err) : 0;
}

/* points-client FILE COUNT: so many calls as fast as they go. */
static int run_map(const char *file, size_t count)
{
    mh_client *c = NULL;
    mh_balanced_view *v = NULL;
    int64_t *numbers = calloc(count, 2 * sizeof *numbers);
    mh_err err = numbers ? mh_client_open(&c, &(mh_client_options){.connection_file = file}) : MH_ERR_NO_MEMORY;
    for (size_t i = 0; !err && i < count; i++)
        numbers[i] = (int64_t)i;
    if (!err)
        err = mh_client_balanced_view(c, NULL, &v);
    if (!err)
        err = mh_balanced_view_map(v, "squares", numbers, sizeof *numbers, count, numbers + count, sizeof *numbers, 1, mh_deadline_in(3600 * MH_SECOND));
    for (size_t i = 0; !err && i < count; i++)
        if (numbers[count + i] != (int64_t)(i * i))
            err = MH_ERR_CORRUPT;
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    free(numbers);
    return err ? fail("client", err) : 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "points-client"))
        return run_map(argv[2], strtoul(argv[3], NULL, 10));
    if (argc == 3 && !strcmp(argv[1], "points-client"))
        return run_client(argv[2]);
    return cli_main(argc, argv);
}
