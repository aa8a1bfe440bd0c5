/* What runs an engine's tasks: one interface, two kinds. The Python executor is a child process at the end of a pipe; the
 * native one is a pool with one worker that has loaded a task library. Either way a task that kills its process does not
 * kill the engine.
 *
 * The engine hands in one request, gets output, then its reply, then hands in the next; or several, where the executor takes them. All calls and callbacks are made in
 * the engine's loop.
 */
#ifndef MH_CLUSTER_EXECUTOR_H
#define MH_CLUSTER_EXECUTOR_H

#include "manyhands/process.h"
#include "net/loop.h"

typedef struct mh__executor mh__executor;

typedef enum mh__request_kind {
    MH__REQUEST_APPLY = 1, /* a pickled call in the buffers */
    MH__REQUEST_EXECUTE,   /* source code in the content */
    MH__REQUEST_CALL,      /* a native function by name, with the first buffer as its input */
    MH__REQUEST_OTHER,     /* anything else that a kernel may be asked */
} mh__request_kind;

/* Borrowed for the call. */
typedef struct mh__request {
    mh__request_kind kind;
    mh_bytes type, msg_id, content; /* content: a JSON object */
    mh_bytes function;              /* what content calls, where that is known already; else empty */
    const mh_bytes *buffers;
    size_t buffer_count;
} mh__request;

/* Bytes that several frames on their way out share; the last to let go frees them. threads: any. */
typedef struct mh__hold mh__hold;
struct mh__hold {
    _Atomic uint32_t refs;
    void (*destroy)(mh__hold *h);
};
void mh__hold_keep(mh__hold *h);
void mh__hold_drop(mh__hold *h);

typedef struct mh__answer {
    mh_bytes content; /* a JSON object with "status" */
    bool is_met;      /* false: a dependency is not met, another engine should try */
    const mh_bytes *buffers;
    size_t buffer_count;
    mh__hold *hold;   /* of the buffers; borrowed */
} mh__answer;

/* Append the content of a failure, with an empty traceback. errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__answer_write_error(mh_buf *content, const char *ename, mh_bytes evalue);

typedef struct mh__output {
    mh_bytes type, content, metadata;
    const mh_bytes *buffers;
    size_t buffer_count;
    mh__hold *hold;
} mh__output;

/* Everything that they are given is borrowed for the call. After on_end nothing more comes. */
typedef struct mh__executor_events {
    void (*on_ready)(void *ctx);
    void (*on_answer)(void *ctx, const mh__answer *a);
    void (*on_output)(void *ctx, const mh__output *o);
    void (*on_end)(void *ctx, const char *why);
    void *ctx;
} mh__executor_events;

typedef struct mh__executor_kind {
    mh_err (*run)(mh__executor *e, const mh__request *r);
    mh_err (*signal)(mh__executor *e, int number);
    void (*destroy)(mh__executor *e);
    size_t (*window)(mh__executor *e); /* NULL: 1 */
    mh_deadline (*settle)(mh__executor *e, bool may_spin); /* both or neither */
    void (*wake)(mh__executor *e);
    bool (*take_back)(mh__executor *e, size_t nth); /* NULL: never */
} mh__executor_kind;

struct mh__executor {
    const mh__executor_kind *kind;
    mh__executor_events events;
    mh__loop *loop;
};

/* Start the program argv with four numbers added: memory, socket and side of a pipe, and the memory of its claims (link.h). It gets `settings`, a JSON object.
 * errors: those of mh_process_start and mh_pipe_create. */
MH_NODISCARD mh_err mh__python_executor_create(mh__executor **out, mh__loop *l, const char *const *argv, mh_bytes settings,
                                               const mh__executor_events *events);
/* Load the task library at this absolute path (see manyhands/engine.h) in a worker. errors: INVALID, PERMISSION it is not a file that
 * only this user or root can write; those of mh_pool_create. */
MH_NODISCARD mh_err mh__native_executor_create(mh__executor **out, mh__loop *l, const char *library, const mh__executor_events *events);

/* Hand in the next request. errors: CLOSED the executor is gone (on_end tells); LIMIT; NO_MEMORY; NO_SPACE; TOO_LARGE. */
static inline mh_err mh__executor_run(mh__executor *e, const mh__request *r) { return e->kind->run(e, r); }
/* Signal the process that runs tasks. errors: EXITED; INVALID; UNSUPPORTED. */
static inline mh_err mh__executor_signal(mh__executor *e, int number) { return e->kind->signal(e, number); }
/* How many requests it takes before it has answered the first; it answers them in order. */
static inline size_t mh__executor_window(mh__executor *e) { return e->kind->window ? e->kind->window(e) : 1; }
/* Before the loop sleeps: give the answers that are there. When it is to look again at the latest. may_spin: there is nothing else to do, and answers may be waited for
 * as long as that is cheaper than to sleep. */
static inline mh_deadline mh__executor_settle(mh__executor *e, bool may_spin) { return e->kind->settle ? e->kind->settle(e, may_spin) : MH_FOREVER; }
/* After it. */
static inline void mh__executor_wake(mh__executor *e)
{
    if (e->kind->wake)
        e->kind->wake(e);
}
/* The nth of the requests that it has not answered (0: the oldest) is not to be begun: whether it was not, and will not be. Nothing more is heard of it then. */
static inline bool mh__executor_take_back(mh__executor *e, size_t nth) { return e->kind->take_back && e->kind->take_back(e, nth); }
/* Kill it and free everything. Accepts NULL. */
static inline void mh__executor_destroy(mh__executor **e)
{
    if (*e)
        (*e)->kind->destroy(*e);
    *e = NULL;
}

#endif
