/* manyhands/pool.h: run tasks on worker processes or threads of this machine.
 *
 *     static mh_err square(mh_task *task, void *ctx)
 *     {
 *         (void)ctx;
 *         int64_t x;
 *         if (mh_task_input(task).size != sizeof x)
 *             return MH_ERR_INVALID;
 *         memcpy(&x, mh_task_input(task).data, sizeof x);
 *         x *= x;
 *         return mh_task_reply(task, (mh_bytes){&x, sizeof x});
 *     }
 *
 *     mh_pool *pool = NULL;
 *     mh_future *f = NULL;
 *     mh_buf *reply = NULL;
 *     int64_t x = 7;
 *     mh_err err = mh_pool_create(&pool, &(mh_pool_options){.run = square});
 *     if (!err) err = mh_pool_submit(pool, (mh_bytes){&x, sizeof x}, NULL, &f);
 *     if (!err) err = mh_future_take(f, MH_FOREVER, &reply);
 *
 * Threads: any thread may call any function here on one pool, unless its comment says otherwise.
 * A pool does not survive a fork: in the child every function but those that release returns MH_ERR_FORKED (or does nothing), releasing does
 * nothing, and mh_pool_destroy only closes the copies of the descriptors.
 * Pools may be nested to any depth. Those that are made in a worker, or in a fork of a process that has made one, share the machine's cores: as
 * many of their workers run at once as there are cores that no other worker of the whole tree uses, one of each pool at least while its owner waits for
 * it; a core whose user sleeps counts as free after a few milliseconds.
 * Workers ignore SIGINT (those that are programs of their own begin so): Ctrl-C is for the pool's owner, with whom they end.
 */
#ifndef MANYHANDS_POOL_H
#define MANYHANDS_POOL_H

#include "manyhands/base.h"
#include "manyhands/process.h"
#include "manyhands/shm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mh_pool mh_pool;
typedef struct mh_future mh_future; /* one task's result to come */
typedef struct mh_stream mh_stream; /* many tasks' results, in order or as they come */
typedef struct mh_block mh_block;   /* task memory that the workers see: written in place, never copied */
typedef struct mh_task mh_task;     /* what a worker is running */

/* ---- in the worker --------------------------------------------------------------------------- */

/* Runs one task. MH_OK: the reply is the result. Anything else: the task failed (MH_ERR_TASK_FAILED is the usual
 * code), and the reply describes the failure to the caller. */
typedef mh_err (*mh_task_fn)(mh_task *task, void *ctx);

/* The task's bytes: 64-byte aligned when they came in a block or are more than 88, else 8-byte aligned. owns: borrowed until the task
 * function returns. */
MH_API mh_bytes mh_task_input(const mh_task *task);
/* Which attempt this is, from 1; the caller's tag; the task's number in its pool. */
MH_API uint32_t mh_task_attempt(const mh_task *task);
MH_API uint64_t mh_task_tag(const mh_task *task);
MH_API uint64_t mh_task_id(const mh_task *task);
/* The same bytes, which the task may write over because no later attempt can follow; NULL when one can. */
MH_API void *mh_task_input_writable(const mh_task *task);
/* Its memory limit in bytes, or 0. */
MH_API size_t mh_task_memory_limit(const mh_task *task);
/* Room for a reply of up to `size` bytes in shared memory, 64-byte aligned, to be written in place and then set with
 * mh_task_reply_size. A second call replaces the first, keeping the common prefix. errors: NO_SPACE, TOO_LARGE.
 * owns: the task; valid until the task function returns. */
MH_API MH_NODISCARD mh_err mh_task_reply_reserve(mh_task *task, size_t size, void **out);
/* How many of the reserved bytes are the reply. */
MH_API void mh_task_reply_size(mh_task *task, size_t size);
/* Copy `reply` in as the whole reply. errors: NO_SPACE, TOO_LARGE. */
MH_API MH_NODISCARD mh_err mh_task_reply(mh_task *task, mh_bytes reply);
/* The bytes that mh_pool_share gave the number `id`, mapped read-only. errors: NOT_FOUND. owns: borrowed until the
 * task function returns. */
MH_API MH_NODISCARD mh_err mh_task_shared(mh_task *task, uint32_t id, mh_bytes *out);

/* What the task function does now: runs (as it begins), or reads or writes the bytes of tasks. For mh_pool_worker_stats and traces; cheap. */
typedef enum mh_task_part_kind {
    MH_TASK_RUNS = 0,
    MH_TASK_SERIALISES = 1
} mh_task_part_kind;
MH_API void mh_task_part(mh_task *task, mh_task_part_kind part);
/* What it is called in the trace: the first 31 bytes, what is not printable ASCII as question marks. The text is copied. */
MH_API bool mh_task_is_traced(const mh_task *task);
MH_API void mh_task_label(mh_task *task, const char *label);

/* Be a worker on the socket that the pool passed to this process (spawn and fork-server programs call this from
 * their main). Returns when the pool closes, when this worker is to be recycled, or when the parent is gone. errors: CORRUPT the pool's
 * memory is not valid; CLOSED the pool is gone. */
typedef struct mh_worker_options {
    mh_task_fn run;
    mh_err (*initialize)(void *ctx); /* once, before the first task; not OK: the worker exits and counts as failed to start */
    void (*finalize)(void *ctx);     /* once, before a clean exit */
    void (*before_wait)(void *ctx);  /* around every sleep: e.g. release and take the interpreter's lock; may be NULL */
    void (*after_wait)(void *ctx);
    void *ctx;
} mh_worker_options;
MH_API MH_NODISCARD mh_err mh_worker_run(int socket, const mh_worker_options *options);
/* What the children of an exec'ed fork server run (an mh_child_fn): the program of options.worker_argv calls mh_forkserver_serve with it
 * as `entry` and its mh_worker_options as `ctx`. Returns the exit code. */
MH_API int mh_worker_child(mh_bytes message, const int *fds, size_t fd_count, void *options);

/* ---- options --------------------------------------------------------------------------------- */

typedef enum mh_worker_kind {
    MH_WORKER_PROCESS = 0,
    MH_WORKER_THREAD = 1
} mh_worker_kind;

typedef struct mh_pool_options {
    size_t workers;                  /* 0: mh_pool_default_workers() */
    mh_worker_kind kind;
    mh_start_method start;           /* how worker processes start; 0: fork, or the fork server when this process has threads. Fork and fork server
                                      * both go through a single-threaded server made here (see mh_forkserver): for fork, and without worker_argv, a
                                      * fork of this process; with the fork server and worker_argv, that program */
    const char *const *worker_argv;  /* program of a spawned worker or an exec'ed fork server; its socket's number replaces the argument "{socket}" */
    const mh_pass_fd *worker_fds;    /* what that program inherits besides its socket, which is number 3; the caller keeps them open as long as the
                                      * pool lives */
    size_t worker_fd_count;
    mh_worker_options worker;        /* for fork and threads; an exec'ed program passes its own to mh_worker_run */
    mh_task_fn run;                  /* short for worker.run when only that is needed; a pool without either runs maps only */
    size_t max_tasks_per_worker;     /* recycle a worker after so many tasks; 0: never */
    size_t task_bytes;               /* memory limit of each task whose mh_submit_options name none; 0: that of the task that makes the pool, if
                                      * any. See there */
    size_t max_worker_bytes;         /* recycle a worker process whose own resident memory (shared segments not counted) is above this after a task,
                                      * looked at every 2 ms; 0: never */
    bool pin;                        /* bind each worker to a core (hwloc), spread over the machine */
    size_t slots;                    /* slots for each worker, a power of two; 0: 256 */
    size_t max_bytes;                /* bound on shared memory for tasks and for each worker's replies; 0: half of the machine's memory */
    int64_t spin_ns;                 /* how long a waiter may spin before it sleeps; 0: adapts, never on one core; negative: never */
    size_t trace_events;             /* how many events of each worker, and of the pool itself, are kept for mh_pool_trace (about 100 bytes each; at
                                      * most 1,048,576); 0: none */
    uint32_t max_start_failures;     /* consecutive workers that end before taking a task until the pool is broken; 0: 16 */
    bool must_initialize;            /* one worker whose initialize fails breaks the pool at once */
    bool on_demand;                  /* begin with one worker, and start another whenever there are more tasks than workers, up to `workers` */
} mh_pool_options;

typedef struct mh_submit_options {
    uint64_t tag;           /* the caller's; comes back with the result */
    uint32_t lost_retries;  /* further attempts after a worker died while running it */
    uint32_t failed_retries;/* further attempts after it failed (returned an error) */
    int64_t timeout_ns;     /* for each attempt, from its start; 0: none. Too late: the worker is killed, the task gets MH_ERR_TIMEOUT and is not
                             * tried again. A thread can't be killed: it is left alone, replaced, and joined by mh_pool_destroy, which waits for it */
    uint32_t oom_retries;   /* further attempts after it went over its memory limit, or the kernel killed its worker for want of memory */
    size_t memory_bytes;    /* memory limit of the task; 0: the pool's. What counts is how much the worker's own resident memory (no files, no shared
                             * segments, no child processes) has grown since the attempt began. It is looked at every 1 to 50 ms, the nearer to the limit the
                             * more often; over it the worker is killed, and the task gets MH_ERR_OUT_OF_MEMORY_TASK. Besides, allocations fail where
                             * the worker would get more than twice the limit and 256 MB of private memory, touched or not; a task that returns
                             * MH_ERR_NO_MEMORY then has gone over its limit too. Only for processes */
} mh_submit_options;

/* ---- results --------------------------------------------------------------------------------- */

typedef struct mh_result {
    uint64_t tag;
    uint64_t task_id;
    mh_err err;        /* OK; TASK_FAILED or the task's own code (reply describes it); WORKER_LOST; POISON_TASK; TIMEOUT; CANCELLED; NO_SPACE;
                        * OUT_OF_MEMORY_TASK */
    uint32_t attempts; /* how many attempts were started */
    int32_t signal;    /* what killed the last worker, or 0 */
    int32_t exit_code; /* how the last worker exited when no signal killed it */
    int32_t worker_pid;
    uint64_t memory_bytes; /* OUT_OF_MEMORY_TASK: what the task was seen to use, when that was over its limit; 0: an allocation
                            * failed, or (signal is SIGKILL) the kernel killed the worker for want of memory */
    mh_bytes reply;    /* 64-byte aligned when larger than a slot; writable by its borrower; valid until mh_result_release */
    void *owner;       /* what keeps reply alive */
} mh_result;

/* Give back what a result borrows. Accepts a zeroed result. The pool may be destroyed before: its memory lives as long as results borrow it. */
MH_API void mh_result_release(mh_result *result);
/* The same for many at once. */
MH_API void mh_results_release(mh_result *results, size_t count);

/* ---- the pool's life ------------------------------------------------------------------------- */

/* How many workers a pool has that is made here now with options.workers = 0. In a worker of a pool, or a fork of this process: the cores that nobody uses,
 * and no less than its share: those of the pool that it works for, divided among its workers. Else mh_cpu_count(). */
MH_API size_t mh_pool_default_workers(void);
/* A descriptor of the record by which the pools of one tree of processes share the cores. Forks have it, and workers get it; pass it to other programs
 * whose pools are to share them too. Makes the record if there is none yet. errors: NO_SPACE, NO_MEMORY, SYSTEM. owns: the library, for the process's life. */
MH_API MH_NODISCARD mh_err mh_cores_share(int *fd);
/* In such a program, before its first pool (else it has no effect). The caller keeps fd. errors: INVALID, CORRUPT, SYSTEM, NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_cores_join(int fd);
/* Start a pool; NULL is all defaults. errors: INVALID names the option; NO_MEMORY; NO_SPACE; SYSTEM; UNSUPPORTED (pinning without hwloc). */
MH_API MH_NODISCARD mh_err mh_pool_create(mh_pool **out, const mh_pool_options *options);
/* Whether it was given up because its workers do not start: no task can run any more. */
MH_API bool mh_pool_is_broken(mh_pool *pool);
/* No more tasks; what was accepted goes on. */
MH_API void mh_pool_close(mh_pool *pool);
/* Stop hard: running workers are killed, every unfinished task gets MH_ERR_CANCELLED. */
MH_API void mh_pool_terminate(mh_pool *pool);
/* Wait until a closed or terminated pool has finished all tasks and its workers are gone. errors: INVALID neither closed
 * nor terminated; TIMEOUT; INTERRUPTED. */
MH_API MH_NODISCARD mh_err mh_pool_join(mh_pool *pool, mh_deadline until);
/* terminate, join and free: nothing of the pool is left but what results, futures, blocks and streams still hold. Waits for the tasks that
 * threads are running. */
MH_API void mh_pool_destroy(mh_pool **pool);

/* ---- submitting ------------------------------------------------------------------------------ */

/* Hand in one task; its bytes are copied. `f` may be NULL when nobody wants the result. errors: CLOSED the pool takes no more (or is broken: detail
 * says why); TOO_LARGE; NO_SPACE; NO_MEMORY. Never blocks. owns: the caller releases *f. */
MH_API MH_NODISCARD mh_err mh_pool_submit(mh_pool *pool, mh_bytes task, const mh_submit_options *options, mh_future **f);
/* The same for up to 16 kB, but TIMEOUT where another thread is inside the pool at this moment: for callers that hold a lock which that thread
 * may want. */
MH_API MH_NODISCARD mh_err mh_pool_submit_now(mh_pool *pool, mh_bytes task, const mh_submit_options *options, mh_future **f);
/* A block of `size` bytes (64-byte aligned) to write a task into. errors: NO_SPACE, TOO_LARGE. owns: the caller, until it is given or destroyed. */
MH_API MH_NODISCARD mh_err mh_block_create(mh_block **out, mh_pool *pool, size_t size);
MH_API void *mh_block_data(mh_block *block);
MH_API void mh_block_destroy(mh_block **block);
/* Hand in a task written in a block, of which the first `size` bytes count. Takes *block on success. errors: as mh_pool_submit. */
MH_API MH_NODISCARD mh_err mh_pool_submit_block(mh_pool *pool, mh_block **block, size_t size, const mh_submit_options *options, mh_future **f);
/* Give bytes to all workers, present and future, under a number that tasks may use (functions, models). errors: NO_SPACE, NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_pool_share(mh_pool *pool, mh_bytes bytes, uint32_t *id);
/* Take them back. The caller knows that no unfinished task uses the number. */
MH_API void mh_pool_unshare(mh_pool *pool, uint32_t id);

/* ---- futures --------------------------------------------------------------------------------- */

/* Wait until the task has finished, been given up or cancelled. errors: TIMEOUT, INTERRUPTED (a signal handler ran). */
MH_API MH_NODISCARD mh_err mh_future_wait(mh_future *f, mh_deadline until);
MH_API bool mh_future_is_done(const mh_future *f);
/* Wait and borrow the result: result->err tells how the task ended. May be called once; release it afterwards. errors: TIMEOUT, INTERRUPTED, INVALID taken already. */
MH_API MH_NODISCARD mh_err mh_future_result(mh_future *f, mh_deadline until, mh_result *result);
/* Result and release in one, without waiting for anything: a reply of at most `capacity` bytes is copied to `room`, and *result borrows nothing
 * then; a larger one it borrows. errors: TIMEOUT not done yet, or another thread is inside the pool; INVALID taken already. owns: takes *f on success. */
MH_API MH_NODISCARD mh_err mh_future_collect(mh_future **f, void *room, size_t capacity, mh_result *result);
/* Wait and take a copy of the reply. errors: those of waiting, and the task's own err (with its reply, if any, in *reply). owns: the caller. */
MH_API MH_NODISCARD mh_err mh_future_take(mh_future *f, mh_deadline until, mh_buf **reply);
/* Ask that it does not run. True when it will not (its result is MH_ERR_CANCELLED); false when it runs already (it then ends with this
 * attempt, whatever its retries) or is done. */
MH_API bool mh_future_cancel(mh_future *f);
/* The same for every task of the pool that has not started; the first task of a worker that is starting counts as started. */
MH_API void mh_pool_cancel(mh_pool *pool);
/* Whether a worker has begun it and not yet ended it, as far as the pool knows. */
MH_API bool mh_future_is_running(mh_future *f);
/* Call fn(f, ctx) once when it is done: at once if it is done already, else from the pool's own thread, one callback after the other in the
 * order in which tasks end. No lock is held, and it may use the pool; but while it runs no other is called. errors: NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_future_on_done(mh_future *f, void (*fn)(mh_future *f, void *ctx), void *ctx);
MH_API void mh_future_release(mh_future **f);

/* ---- streams: lazy iteration with back-pressure ---------------------------------------------- */

typedef struct mh_stream_options {
    bool ordered;               /* results come in the order of submission, else as they finish */
    size_t window;              /* most tasks submitted and not yet taken; 0: twice the slots of all workers (16,777,216 at most) */
    mh_submit_options defaults; /* for every task; tag is set for each */
} mh_stream_options;

/* owns: the caller; it may outlive the pool. errors: NO_MEMORY. */
MH_API MH_NODISCARD mh_err mh_stream_create(mh_stream **out, mh_pool *pool, const mh_stream_options *options);
/* How many more tasks may be handed in now before one must be taken. */
MH_API size_t mh_stream_room(mh_stream *s);
/* Hand in a task. errors: FULL the window is used up (take first); else as mh_pool_submit. */
MH_API MH_NODISCARD mh_err mh_stream_submit(mh_stream *s, mh_bytes task, uint64_t tag);
MH_API MH_NODISCARD mh_err mh_stream_submit_block(mh_stream *s, mh_block **block, size_t size, uint64_t tag);
/* Hand in `count` tasks of `size` bytes each that lie one after the other, with tags tag, tag+1, ...: one lock, one wake. *taken of them
 * were accepted (fewer when the window is full). errors: as mh_stream_submit when none was. */
MH_API MH_NODISCARD mh_err mh_stream_submit_many(mh_stream *s, const void *tasks, size_t size, size_t count, uint64_t tag, size_t *taken);
/* The next result. errors: EMPTY nothing is outstanding; TIMEOUT; INTERRUPTED. */
MH_API MH_NODISCARD mh_err mh_stream_take(mh_stream *s, mh_deadline until, mh_result *result);
/* Up to `capacity` results that are there now, waiting only for the first; *count of them. errors: as mh_stream_take. */
MH_API MH_NODISCARD mh_err mh_stream_take_many(mh_stream *s, mh_deadline until, mh_result *results, size_t capacity, size_t *count);
/* Call fn(ctx) once when a result can be taken or nothing is outstanding: at once if that is so, else from the pool's own thread, under no lock,
 * at the latest when the stream is destroyed. One at a time: errors: INVALID the last one is still to come. */
MH_API MH_NODISCARD mh_err mh_stream_on_result(mh_stream *s, void (*fn)(void *ctx), void *ctx);
/* Cancel what has not started; results go on coming (as MH_ERR_CANCELLED). */
MH_API void mh_stream_cancel(mh_stream *s);
/* Cancel, drop every result, free. Does not wait for what runs. */
MH_API void mh_stream_destroy(mh_stream **s);

/* ---- map over plain arrays in shared memory: copies nothing ---------------------------------- */

/* Computes out[0..count) from in[0..count); ctx points to a copy of the caller's ctx bytes. Not OK ends the map with that error. */
typedef mh_err (*mh_map_fn)(const void *in, void *out, size_t count, const void *ctx);
typedef struct mh_map_options {
    size_t chunk;             /* items in each task; 0: adapts to the measured time of an item */
    mh_bytes ctx;             /* copied to every chunk */
    mh_submit_options submit; /* retries and timeout of each chunk */
    void (*progress)(size_t done, size_t count, void *progress_ctx); /* from the calling thread; may be NULL */
    void *progress_ctx;
} mh_map_options;
/* Let all workers, present and future, see a segment, so that mh_pool_map accepts arrays in it wherever it is mapped. The caller keeps it;
 * it is to be detached before it is destroyed. errors: LIMIT (1024 segments); NO_MEMORY; SYSTEM. Thread pools do not need it. */
MH_API MH_NODISCARD mh_err mh_pool_attach(mh_pool *pool, const mh_shm *shm);
MH_API void mh_pool_detach(mh_pool *pool, const mh_shm *shm);

/* in and out (they may be the same) lie in memory that the workers share: in attached segments; or, when workers are started by fork, in
 * any memory that was mapped as shared before the pool was created and still is; or, for a pool of threads, anywhere. fn lies in the program
 * (fork, threads). Either array may be NULL with size 0 where fn does not use it.
 * errors: INVALID an array is not visible to the workers; UNSUPPORTED the workers run a program of their own; the first failing chunk's
 * error, after all running chunks ended; INTERRUPTED (a signal handler ran) likewise; those of mh_pool_submit. */
MH_API MH_NODISCARD mh_err mh_pool_map(mh_pool *pool, mh_map_fn fn, const void *in, size_t in_size, void *out, size_t out_size, size_t count,
                                       const mh_map_options *options);

/* ---- looking in ------------------------------------------------------------------------------ */

typedef struct mh_pool_stats {
    size_t workers;                 /* alive now */
    uint64_t submitted, finished, failed, cancelled, lost, retried, late_answers;
    uint64_t workers_started, workers_lost, workers_recycled;
    size_t request_bytes, reply_bytes; /* shared memory in use: by tasks and what is shared; by replies that are not released */
} mh_pool_stats;
MH_API void mh_pool_stats_read(mh_pool *pool, mh_pool_stats *out);
/* Where a worker's time went, from its first readiness on; the five add up to lived_ns. Of tasks shorter than 20 microseconds only
 * some are measured. */
typedef struct mh_worker_stats {
    int32_t pid;
    uint64_t tasks, bytes_in, bytes_out; /* that it ran, all attempts; of their requests; of their replies */
    int64_t lived_ns;
    int64_t busy_ns;        /* running task functions, but for */
    int64_t serialising_ns; /* what they spent on reading and writing (see mh_task_part) */
    int64_t idle_ns;        /* without a task */
    int64_t core_ns;        /* waiting for a core: see mh_pool_default_workers */
    int64_t transport_ns;   /* the rest: taking tasks and handing replies over */
} mh_worker_stats;
/* Of each live worker; *count in: capacity, out: how many there are. */
MH_API void mh_pool_worker_stats(mh_pool *pool, mh_worker_stats *out, size_t *count);
/* Of the pool's own process. Of what is left of lived_ns nothing is known: there the callers did something else. */
typedef struct mh_pool_time_stats {
    int64_t lived_ns;       /* since the pool was created */
    int64_t waiting_ns;     /* callers asleep, all threads together */
    int64_t serialising_ns; /* what mh_pool_note_serialising was told */
    int64_t transport_ns;   /* collecting replies and handing out tasks */
    mh_worker_stats departed; /* all workers that have ended, together; pid 0 */
} mh_pool_time_stats;
MH_API void mh_pool_time_stats_read(mh_pool *pool, mh_pool_time_stats *out);
/* The caller has written tasks or read results from `begin_ns` to `end_ns` (mh_now). */
MH_API void mh_pool_note_serialising(mh_pool *pool, int64_t begin_ns, int64_t end_ns);
/* What the workers ran and the callers waited for lately, in the trace-event format of Chrome (JSON): for chrome://tracing and ui.perfetto.dev.
 * errors: INVALID options.trace_events is 0; NO_MEMORY. owns: the caller. */
MH_API MH_NODISCARD mh_err mh_pool_trace(mh_pool *pool, mh_buf **json);
/* Process numbers of the live workers; *count in: capacity, out: how many there are. */
MH_API void mh_pool_pids(mh_pool *pool, int32_t *pids, size_t *count);

#ifdef __cplusplus
}
#endif
#endif
