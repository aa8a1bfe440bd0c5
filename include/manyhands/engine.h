/* manyhands/engine.h: an engine, which runs tasks for the clients of a controller; and the task libraries that native ones load.
 *
 *     mh_engine *engine = NULL;
 *     mh_err err = mh_engine_create(&engine, &(mh_engine_options){
 *         .connection_file = "/home/me/.ipython/profile_default/security/ipcontroller-engine.json",
 *         .library = "/home/me/libtasks.so"});
 *     if (!err) err = mh_engine_run(engine);          // registers, serves; returns when it was told to stop
 *     if (err) fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
 *     mh_engine_destroy(&engine);
 *
 * Tasks run in a child process: with Python (a persistent namespace, IPython's shell where it is installed), or natively (C
 * functions by name, bytes in and bytes out). An engine whose Python executor dies tells the controller and ends; a native one
 * answers that task with an error and goes on.
 *
 * Threads: one thread creates, runs and destroys an engine; mh_engine_stop may be called from any, and from signal handlers.
 */
#ifndef MANYHANDS_ENGINE_H
#define MANYHANDS_ENGINE_H

#include "manyhands/base.h"
#include "manyhands/pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- task libraries -------------------------------------------------------------------------- *
 *
 *     static mh_err square(mh_task *task, void *ctx) { ... mh_task_reply(task, ...) }     as on a pool
 *
 *     static const mh_task_entry entries[] = {{"square", square}};
 *     MH_API const mh_task_library mh_tasks = {MH_TASK_LIBRARY_ABI, 1, entries, NULL};
 */

#define MH_TASK_LIBRARY_ABI 1u
#define MH_TASK_LIBRARY_SYMBOL "mh_tasks"
typedef struct mh_task_entry {
    const char *name; /* by which clients call it */
    mh_task_fn run;   /* a reply with anything but MH_OK is the error's text */
} mh_task_entry;
typedef struct mh_task_library {
    uint32_t abi;   /* MH_TASK_LIBRARY_ABI */
    uint32_t count; /* of entries */
    const mh_task_entry *entries;
    void *ctx; /* for every function */
} mh_task_library;

/* ---- options --------------------------------------------------------------------------------- */

typedef struct mh_engine_options {
    const char *connection_file;    /* what the controller wrote for engines; only the owner may be able to read and write it */
    int64_t connection_wait_ns;     /* how long that file may take to appear; 0: it is there */
    const char *connection_text;    /* or its text itself */
    const char *library;            /* native: absolute path of a task library, owned by this user or root, writable by nobody else */
    const char *const *python_argv; /* else: the program of the executor; NULL: the python3 in the folder of this program, else in
                                     * PATH, with -m manyhands.parallel.engine */
    const char *settings;           /* for the Python executor, a JSON object: "shell" ("auto", "plain", "ipython"), "config" (IPython's
                                     * configuration by dotted names), "environment"; NULL: {} */
    bool wants_id;                  /* ask for this number; the controller may give another */
    uint32_t wanted_id;
    int64_t register_timeout_ns;    /* how long the controller may take to answer; 0: 30 s */
    uint32_t missed_beats_max;      /* heartbeats that may be missed before the engine registers anew; 0: 10 */
    bool verbose;                   /* log every request */
    void (*on_registered)(int64_t id, void *ctx); /* called by mh_engine_run when the controller has taken it for the first time; NULL: not */
    void *on_registered_ctx;
} mh_engine_options;

/* ---- life ------------------------------------------------------------------------------------ */

typedef struct mh_engine mh_engine;

/* Read the connection, start the executor and open the sockets. errors: INVALID names the option; NOT_FOUND, PERMISSION, CORRUPT the connection
 * file or library; UNSUPPORTED another packer or signature scheme; NO_MEMORY; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_engine_create(mh_engine **out, const mh_engine_options *options);
/* Register and serve. Logs to stderr. OK: it was stopped, by mh_engine_stop, a client or SIGTERM.
 * errors: TIMEOUT the controller did not answer; PERMISSION it refused; WORKER_LOST the executor died; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_engine_run(mh_engine *e);
/* Ask it to end: what runs is given up. threads: any; async-signal-safe. */
MH_API void mh_engine_stop(mh_engine *e);
/* Its number at the controller; -1 before it is registered. */
MH_API int64_t mh_engine_id(const mh_engine *e);
MH_API void mh_engine_destroy(mh_engine **e);

#ifdef __cplusplus
}
#endif
#endif
