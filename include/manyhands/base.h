/* manyhands/base.h: what every other header shares: errors, deadlines, byte ranges, memory.
 *
 *     mh_buf *reply = NULL;
 *     mh_err err = mh_future_take(f, mh_deadline_in(2 * MH_SECOND), &reply);
 *     if (err == MH_ERR_TIMEOUT)
 *         puts("still running");
 *     else if (err)
 *         fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
 *     else
 *         fwrite(mh_buf_data(reply), 1, mh_buf_size(reply), stdout);
 *     mh_buf_destroy(&reply);
 */
#ifndef MANYHANDS_BASE_H
#define MANYHANDS_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MH_API __attribute__((visibility("default")))
#define MH_NODISCARD __attribute__((warn_unused_result))

#define MH_VERSION_MAJOR 0
#define MH_VERSION_MINOR 1
#define MH_VERSION_PATCH 0

/* ---- errors ----------------------------------------------------------------------------------
 *
 * The one list of error codes: name, value, text, Python exception. Codes are appended, never
 * renumbered; zero is success.
 */
#define MH_ERRORS(X)                                                                               \
    X(OK, 0, "success", "")                                                                        \
    X(INVALID, 1, "invalid argument", "ValueError")                                                \
    X(NO_MEMORY, 2, "out of memory", "MemoryError")                                                \
    X(TIMEOUT, 3, "deadline passed", "TimeoutError")                                               \
    X(INTERRUPTED, 4, "interrupted by a signal or by the caller", "InterruptedError")              \
    X(SYSTEM, 5, "the operating system refused", "OSError")                                        \
    X(NO_SPACE, 6, "not enough space", "OSError")                                                  \
    X(LIMIT, 7, "a fixed limit was reached", "RuntimeError")                                       \
    X(CLOSED, 8, "closed", "ValueError")                                                           \
    X(FORKED, 9, "object does not survive a fork", "RuntimeError")                                 \
    X(OWNER_DIED, 10, "the last holder died inside", "RuntimeError")                               \
    X(NOT_OWNER, 11, "caller does not hold it", "RuntimeError")                                    \
    X(DEADLOCK, 12, "caller holds it already", "RuntimeError")                                     \
    X(BROKEN, 13, "broken: a participant died or gave up", "RuntimeError")                         \
    X(CORRUPT, 14, "shared or received data is not valid", "RuntimeError")                         \
    X(NOT_FOUND, 15, "no such object", "FileNotFoundError")                                        \
    X(EXISTS, 16, "exists already", "FileExistsError")                                             \
    X(PERMISSION, 17, "permission refused", "PermissionError")                                     \
    X(CANCELLED, 18, "cancelled", "CancelledError")                                                \
    X(WORKER_LOST, 19, "the worker died while running the task", "WorkerLost")                     \
    X(POISON_TASK, 20, "the task killed every worker it met", "PoisonTask")                        \
    X(TASK_FAILED, 21, "the task reported a failure", "RuntimeError")                              \
    X(TOO_LARGE, 22, "larger than the limit", "ValueError")                                        \
    X(EMPTY, 23, "nothing there", "LookupError")                                                   \
    X(FULL, 24, "no room", "BlockingIOError")                                                      \
    X(UNSUPPORTED, 25, "not supported here", "NotImplementedError")                                \
    X(EXITED, 26, "the process has ended", "ProcessLookupError")                                   \
    X(OUT_OF_MEMORY_TASK, 27, "the task went over its memory limit", "OutOfMemory")

typedef enum mh_err {
#define MH__ERROR_ENUM(name, value, text, python) MH_ERR_##name = (value),
    MH_ERRORS(MH__ERROR_ENUM)
#undef MH__ERROR_ENUM
} mh_err;
#define MH_OK MH_ERR_OK

/* Name ("MH_ERR_TIMEOUT"), text ("deadline passed") and Python exception ("TimeoutError") of err.
 * An unknown code gives "MH_ERR_UNKNOWN". owns: static strings. threads: any. */
MH_API const char *mh_err_name(mh_err err);
MH_API const char *mh_err_text(mh_err err);
MH_API const char *mh_err_python(mh_err err);

/* What explains the calling thread's last failure ("memfd_create of 4096 bytes: Too many open
 * files"). Never NULL; "" before any. It explains a failure and never signals one.
 * owns: thread-local storage, valid until this thread's next failing mh_ call. */
MH_API const char *mh_err_detail(void);
/* errno of the system call behind the last failure of this thread, or 0. */
MH_API int mh_err_errno(void);

/* ---- time: absolute monotonic nanoseconds ---------------------------------------------------- */

typedef int64_t mh_deadline;
#define MH_NOW ((mh_deadline)0)             /* try once, never wait */
#define MH_FOREVER ((mh_deadline)INT64_MAX) /* no deadline */
#define MH_MICROSECOND INT64_C(1000)
#define MH_MILLISECOND INT64_C(1000000)
#define MH_SECOND INT64_C(1000000000)

/* Monotonic clock, nanoseconds. threads: any; async-signal-safe. */
MH_API int64_t mh_now(void);
/* The same at a fraction of its cost, and up to some milliseconds behind: for bounds that are coarse anyway. */
MH_API int64_t mh_now_about(void);
/* The deadline `ns` nanoseconds from now; negative counts as 0, too far as MH_FOREVER. */
MH_API mh_deadline mh_deadline_in(int64_t ns);

/* ---- bytes: mh_bytes borrows, mh_buf owns ---------------------------------------------------- */

typedef struct mh_bytes {
    const void *data;
    size_t size;
} mh_bytes;

typedef struct mh_buf mh_buf;

/* A buffer of `size` zeroed bytes; size 0 is valid. errors: NO_MEMORY. owns: the caller. */
MH_API MH_NODISCARD mh_err mh_buf_create(mh_buf **out, size_t size);
/* A buffer holding a copy of `from`. errors: NO_MEMORY. owns: the caller. */
MH_API MH_NODISCARD mh_err mh_buf_copy(mh_buf **out, mh_bytes from);
MH_API void *mh_buf_data(mh_buf *b);
MH_API size_t mh_buf_size(const mh_buf *b);
/* Make b exactly `size` bytes, keeping the common prefix; new bytes are zero. errors: NO_MEMORY (b unchanged). */
MH_API MH_NODISCARD mh_err mh_buf_resize(mh_buf *b, size_t size);
/* Append a copy of `from` (which must not lie in b). errors: NO_MEMORY (b unchanged). */
MH_API MH_NODISCARD mh_err mh_buf_append(mh_buf *b, mh_bytes from);
MH_API void mh_buf_destroy(mh_buf **b);

/* ---- memory ---------------------------------------------------------------------------------- */

/* The one hook through which the library takes memory: like realloc(3), with size 0 meaning free.
 * NULL restores the C library's. Set it before any other mh_ call. threads: not safe. */
typedef void *(*mh_realloc_fn)(void *old, size_t size, void *ctx);
MH_API void mh_allocator_set(mh_realloc_fn fn, void *ctx);

/* Let private memory [at, at + size) that nobody has touched yet be made of huge pages, wherever whole ones fit: touching it
 * for the first time costs a third then. A hint, for memory that will all be used. threads: any. */
MH_API void mh_memory_want_huge(void *at, size_t size);

#ifdef __cplusplus
}
#endif
#endif
