/* What the files of the extension share: its one state, the codec, errors, and the pieces of a pool.
 *
 * Everything here needs the interpreter's lock unless it says otherwise. Names shared between files begin mhpy_.
 */
#ifndef MHPY_CORE_H
#define MHPY_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "manyhands/base.h"
#include "manyhands/pool.h"
#include "manyhands/process.h"

#include "codec_parse.h"

/* The type of a METH_FASTCALL | METH_KEYWORDS function; the detour by void * keeps -Wcast-function-type quiet. */
#define MHPY_METHOD(f) ((PyCFunction)(void *)(f))

/* Calls that take the pool's lock let go of the interpreter's: whoever holds the pool's lock may be starting a fork server, and waits
 * for the interpreter's in the fork hook. */
#define MHPY_UNLOCKED(call)                     \
    do {                                        \
        PyThreadState *mhpy_thread = PyEval_SaveThread(); \
        call;                                   \
        PyEval_RestoreThread(mhpy_thread);      \
    } while (0)

/* Waits are cut into slices so that signals are seen even where no system call is interrupted. */
#define MHPY_SLICE_NS (50 * MH_MILLISECOND)

/* One interpreter a process: the state is global, filled when the module is executed. */
typedef struct mhpy_state {
    PyObject *module;
    PyTypeObject *buffer_type, *process_type, *forkserver_type, *mailbox_type, *pool_type, *async_result_type, *imap_type;
    PyTypeObject *segment_type, *proxy_channel_type;
    PyTypeObject *queue_type, *simple_queue_type, *pipe_type, *sink_type, *reducers_type;
    PyTypeObject *future_base_type, *future_type; /* the latter once manyhands.futures is imported */
    PyObject *loads;        /* _pickle.loads */
    PyObject *errors;       /* the module manyhands._errors */
    PyObject *serial;       /* the module manyhands._serial */
    PyObject *futures;      /* the module manyhands.futures, once it is imported */
    PyObject *empty_tuple;
    PyObject *str_buffers;  /* the keyword names of loads: ("buffers",) */
    PyObject *pickler, *str_buffer_callback; /* _pickle.Pickler and ("buffer_callback",) */
    PyObject *str_dump, *str_clear_memo;
} mhpy_state;
extern mhpy_state mhpy;

/* ---- errors.c ---------------------------------------------------------------------------------- */

/* Raise what stands for a failed mh_ call. Always returns NULL. KeyboardInterrupt is raised for INTERRUPTED when a Python signal handler says so. */
PyObject *mhpy_raise(mh_err err);
/* The exception object that stands for how a task ended (r->err is not OK). New reference; NULL with an exception set. */
PyObject *mhpy_task_error(mh_result *r);
/* Raise `exception` and drop the reference to it. Always returns NULL. */
PyObject *mhpy_raise_object(PyObject *exception);
/* Take the current exception off and return it, normalised, with its traceback. New reference. */
PyObject *mhpy_take_exception(void);
/* A class of manyhands._errors. New reference. */
PyObject *mhpy_error_class(const char *name);
/* Let the exception that is set be the answer, after it was told which object could not travel: "argument 3 of square". */
void mhpy_blame(const char *what, Py_ssize_t index, PyObject *function);

/* ---- buffer.c: memory that arrays are made over ------------------------------------------------- */

/* A buffer over a copy of `size` bytes, or (result != NULL) over memory that lives until the result is released; takes *result. */
PyObject *mhpy_buffer_copy(const void *data, size_t size, bool readonly);
PyObject *mhpy_buffer_lease(mh_result *result);
/* A buffer over `size` bytes that are not set yet, at *data, a multiple of 64. */
PyObject *mhpy_buffer_create(size_t size, unsigned char **data);
/* A memoryview of the `size` bytes at `from` in an owner whose bytes begin at base. */
PyObject *mhpy_buffer_view(PyObject *owner, const unsigned char *base, const unsigned char *from, size_t size, bool readonly);
extern PyType_Spec mhpy_buffer_spec;

/* ---- codec_write.c, codec_read.c, codec_run.c ----------------------------------------------------------------------------------- */

/* Room for a message of `size` bytes, 64-byte aligned; a second call replaces the first. NULL with an exception set. */
typedef unsigned char *(*mhpy_room_fn)(void *ctx, size_t size);

/* Write count items as one block after `lead` bytes of the caller's. by_value: functions among them that have no name to be found by
 * travel by value. *size: all bytes, lead included. False with an exception set. */
bool mhpy_encode(PyObject *const *items, Py_ssize_t count, size_t lead, bool by_value, mhpy_room_fn room, void *ctx, size_t *size);

/* The same for fast[start...start + count), a list or tuple that another thread may change while room is made. */
bool mhpy_encode_slice(PyObject *fast, Py_ssize_t start, Py_ssize_t count, size_t lead, mhpy_room_fn room, void *ctx, size_t *size);

/* Reads the items of a block one after the other. */
typedef struct mhpy_reader {
    mhpy_part part;
    uint32_t at;
    struct mhpy_reader *columns; /* of tuples */
    PyObject *items;             /* of a pickle: the list */
    PyObject *owner;             /* the lease that buffers point into, if any was needed */
} mhpy_reader;

/* Open a block. `lease`, when not NULL, is the result that owns the bytes: arrays are then made over them in place, and *lease is taken
 * when any is; else they are copied. False with an exception set. The bytes are not trusted. */
bool mhpy_reader_open(mhpy_reader *r, mh_bytes bytes, size_t lead, mh_result *lease);
/* The next item, a new reference; NULL with an exception set (also past the end). */
PyObject *mhpy_reader_next(mhpy_reader *r);
/* The next count items into to[0...count). False with an exception set; what was read stays there, the rest is NULL as before. */
bool mhpy_reader_fill(mhpy_reader *r, PyObject **to, Py_ssize_t count);
void mhpy_reader_close(mhpy_reader *r);

/* Results are written as they are made: a column as long as all are of one plain type, else a list. */
typedef struct mhpy_writer {
    uint8_t kind;
    uint32_t count, at;
    size_t lead;
    unsigned char *column;
    PyObject *list;
    mhpy_room_fn room;
    void *ctx;
    bool failed; /* the exception is about writing, not the function's own */
} mhpy_writer;
void mhpy_writer_open(mhpy_writer *w, uint32_t count, size_t lead, mhpy_room_fn room, void *ctx);
/* Takes `item`. False with an exception set. */
bool mhpy_writer_add(mhpy_writer *w, PyObject *item);
/* *size: all bytes, lead included. False with an exception set. */
bool mhpy_writer_finish(mhpy_writer *w, size_t *size);
void mhpy_writer_close(mhpy_writer *w);
/* The hot case: call function for each int that is left in r, as long as ints and nothing else come. False with an exception set. */
bool mhpy_run_ints(mhpy_reader *r, mhpy_writer *w, PyObject *function);

/* One plain int or float as a whole block, for tasks of one item: its size in bytes (MHPY_ONE_BYTES), or 0 when it is neither. */
#define MHPY_ONE_BYTES 16
bool mhpy_encode_one(PyObject *item, unsigned char *to);

PyObject *mhpy_encode_py(PyObject *module, PyObject *items);
PyObject *mhpy_decode_py(PyObject *module, PyObject *bytes);

/* ---- arenas.c: memory for many results at once ---------------------------------------------------- */

/* Between these two calls, which nest, the interpreter's arenas are made of huge pages where the system has them. */
void mhpy_arenas_begin(void);
void mhpy_arenas_end(void);
/* The same for the memory of a big list. */
void mhpy_want_huge(PyObject *list);

/* ---- messages: what precedes the block in a task and in its reply -------------------------------- */

enum { MHPY_OP_CALL = 1, MHPY_OP_MAP = 2, MHPY_OP_STARMAP = 3 };
enum { MHPY_FLAG_INLINE = 1, MHPY_FLAG_TIMED = 2 };

typedef struct mhpy_task_head {
    uint8_t op, flags;
    uint16_t zero;
    uint32_t function_id; /* what mh_pool_share gave */
    uint64_t function_serial;
} mhpy_task_head;

typedef struct mhpy_reply_head {
    uint64_t elapsed_ns; /* of timed tasks: how long the items took */
    uint64_t zero;
} mhpy_reply_head;
_Static_assert(sizeof(mhpy_task_head) == 16 && sizeof(mhpy_reply_head) == 16, "heads keep blocks 16-byte aligned");

/* ---- worker.c ---------------------------------------------------------------------------------- */

/* How a worker runs; ctx is NULL, or the Python callable that prepares a forked worker. */
mh_worker_options mhpy_worker_options(PyObject *prepare);
PyObject *mhpy_worker_main(PyObject *module, PyObject *args);
PyObject *mhpy_worker_server(PyObject *module, PyObject *args);

/* ---- names.c ----------------------------------------------------------------------------------- */

PyObject *mhpy_marks(PyObject *module, PyObject *names);
PyObject *mhpy_is_marked(PyObject *module, PyObject *args);

/* settled.c: one slice of waiting for another thread to settle something (false with an exception set), telling those who wait, and the end. */
bool mhpy_settled_wait(PyThread_type_lock *place, mh_deadline until);
void mhpy_settled_tell(PyThread_type_lock lock);
void mhpy_settled_drop(PyThread_type_lock *place);

/* ---- process.c --------------------------------------------------------------------------------- */

extern PyType_Spec mhpy_process_spec, mhpy_forkserver_spec;
void mhpy_install_fork_hooks(void);
PyObject *mhpy_forkserver_serve(PyObject *module, PyObject *args);
/* Seconds (a float or None) as a deadline. False with an exception set. */
bool mhpy_deadline(PyObject *seconds, mh_deadline *out);

/* ---- proxy.c: between a proxy and its manager ---------------------------------------------------- */

extern PyType_Spec mhpy_proxy_channel_spec;

/* ---- shm.c: segments with a name ------------------------------------------------------------------ */

extern PyType_Spec mhpy_segment_spec;
/* This process is the root of its program until it is told otherwise; forks inherit that. */
void mhpy_shm_start(void);
PyObject *mhpy_shm_unlink(PyObject *module, PyObject *args);
PyObject *mhpy_shm_track(PyObject *module, PyObject *args);
PyObject *mhpy_shm_untrack(PyObject *module, PyObject *args);
PyObject *mhpy_shm_report(PyObject *module, PyObject *args);
PyObject *mhpy_shm_root(PyObject *module, PyObject *args);

/* ---- mailbox.c: results whose callbacks wait for the pool's callback thread ----------------------- */

typedef struct mhpy_letter {
    struct mhpy_letter *next;
    void (*deliver)(PyObject *owner); /* settle it and call its callbacks */
    PyObject *owner; /* the result; the letter owns a reference from mhpy_mailbox_expect to its delivery */
} mhpy_letter;

PyObject *mhpy_mailbox_create(void);
/* A letter will come: keeps the callback thread alive until then. */
void mhpy_mailbox_expect(PyObject *mailbox, mhpy_letter *letter, PyObject *owner);
/* Deliver it. threads: any, with or without the interpreter's lock. */
void mhpy_mailbox_post(PyObject *mailbox, mhpy_letter *letter);
/* No letter will be expected any more: its thread ends after those that are. */
void mhpy_mailbox_close(PyObject *mailbox);
extern PyType_Spec mhpy_mailbox_spec;

/* ---- pool.c --------------------------------------------------------------------------------------- */

typedef struct mhpy_function {
    PyObject *object; /* borrowed from the pool's cache, or NULL */
    uint32_t id;
    uint64_t serial;
    bool temporary; /* shared for one map only */
} mhpy_function;

typedef struct mhpy_pool {
    PyObject_HEAD
    mh_pool *pool;
    PyObject *weakrefs;
    PyObject *names;     /* manyhands._serial.Names: what workers can find by name */
    PyObject *functions; /* address of a function -> (function, id, serial) */
    mhpy_function last;  /* the one used last */
    uint64_t serials;
    PyObject *prepare; /* workers hold its address */
    PyObject *mailbox;
    size_t workers;
    bool traced;
    unsigned watched;
    bool running; /* takes new calls; lazy iterators go on without */
    mh_submit_options defaults;
} mhpy_pool;

extern PyType_Spec mhpy_pool_spec;

/* Raise ValueError unless the pool takes calls. */
bool mhpy_check_running(const mhpy_pool *p);
/* Around what the caller spends on writing tasks and reading results, for stats and the trace. `often`: it is done for each small task, and measured
 * now and then only. */
typedef struct mhpy_watch {
    int64_t begin, each;
} mhpy_watch;
mhpy_watch mhpy_watch_begin(mhpy_pool *p, bool often);
void mhpy_watch_end(mhpy_pool *p, mhpy_watch watch);
/* timeout, retries and memory as the caller gave them, over the pool's own. */
bool mhpy_submit_options(const mhpy_pool *p, PyObject *timeout, PyObject *retries, PyObject *memory, mh_submit_options *out);
/* The shared number of a function that is a pure name; for others found is false and *blob its pickle. False with an exception set. */
bool mhpy_function_find(mhpy_pool *p, PyObject *function, mhpy_function *out, PyObject **blob);
/* The same, and other functions are shared too, until they are dropped. */
bool mhpy_function_share(mhpy_pool *p, PyObject *function, mhpy_function *out);
void mhpy_function_drop(mhpy_pool *p, mhpy_function *f);

/* Room for a task: a small one here, a big one in the pool's memory. */
typedef struct mhpy_room {
    mh_pool *pool;
    mh_block *block;
    mh_err err; /* why there was none */
    _Alignas(64) unsigned char space[512];
} mhpy_room;
unsigned char *mhpy_room_take(void *room, size_t size);
void mhpy_room_close(mhpy_room *r);
/* Where the message is, after mhpy_room_take. */
unsigned char *mhpy_room_data(mhpy_room *r);
/* Hand it in. */
mh_err mhpy_room_submit(mhpy_room *r, size_t size, const mh_submit_options *options, mh_future **out);

/* ---- result.c: AsyncResult and MapResult ------------------------------------------------------------ */

extern PyType_Spec mhpy_async_result_spec;
PyObject *mhpy_apply_async(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names);
PyObject *mhpy_apply(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names);
PyObject *mhpy_map_async(PyObject *self, PyObject *args, PyObject *kwargs);
/* ---- future.c: the futures of an executor; executor.c: where they come from -------------------------- */

extern PyType_Spec mhpy_future_base_spec, mhpy_executor_spec;
/* make_future_type(base, module): the type of futures, which is also a subclass of the standard library's. */
PyObject *mhpy_make_future_type(PyObject *module, PyObject *args);
/* The iterator of `await object`: see manyhands.asyncio. New reference. */
PyObject *mhpy_await(PyObject *object);
/* A future of the pool, to be given its task. */
PyObject *mhpy_future_create(mhpy_pool *pool);
/* Where its task goes. */
mh_future **mhpy_future_task(PyObject *future);
/* The call could not even be handed in: the exception that is set is its result. */
void mhpy_future_fail(PyObject *future);

/* ---- map.c and imap.c -------------------------------------------------------------------------------- */

/* Put the items of an ended task into list[start...start + count), whose places are NULL. False with an exception set, which is the task's.
 * r stays to be released; what arrays were made over in place is taken out of it. */
bool mhpy_take_items(mh_result *r, PyObject *list, Py_ssize_t start, Py_ssize_t count, uint64_t *elapsed_ns);
/* The single item of an ended task. NULL with the task's exception set. Releases r. */
PyObject *mhpy_take_item(mh_result *r);
/* Write the head of a task and its items: fast[start...start + count), or those of an array that nobody changes. */
bool mhpy_pack_slice(mhpy_room *room, const mhpy_function *f, uint8_t op, uint8_t flags, PyObject *fast, Py_ssize_t start, Py_ssize_t count,
                     size_t *size);
bool mhpy_pack(mhpy_room *room, const mhpy_function *f, uint8_t op, uint8_t flags, PyObject *const *items, Py_ssize_t count, size_t *size);
PyObject *mhpy_map(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *mhpy_imap(PyObject *self, PyObject *args, PyObject *kwargs);
extern PyType_Spec mhpy_imap_spec;

/* ---- link.c: an executor's end of the pipe to its engine ----------------------------------------- */

/* Add the type EngineLink. False with an exception set. */
bool mhpy_link_add(PyObject *module);

#endif
