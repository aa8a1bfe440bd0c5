/* manyhands/process.h: start processes, wait for them, stop them; a server that forks on request.
 *
 *     static int work(void *ctx) { return *(int *)ctx; }
 *
 *     mh_process *p = NULL;
 *     mh_exit status;
 *     int answer = 42;
 *     mh_err err = mh_process_start(&p, &(mh_process_options){.run = work, .ctx = &answer});
 *     if (!err) err = mh_process_wait(p, mh_deadline_in(2 * MH_SECOND), &status);
 *     if (err)
 *         fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
 *     else
 *         printf("exit code %d, signal %d\n", status.code, status.signal);
 *     mh_process_destroy(&p);
 *
 * Parent death. Unless asked otherwise a child is killed (SIGKILL) when its parent ends, however it ends. A child started
 * from its parent's main thread uses the kernel's parent-death signal; it also goes off when the main thread alone ends
 * (pthread_exit), so main threads must live as long as their process. In a child that any other thread started, that signal
 * would go off with that thread: there a descriptor is kept open instead, a pipe that hangs up when the parent has ended and
 * on which the kernel then sends the SIGKILL. A child that closes every descriptor it finds loses this protection.
 * The first start from such a thread costs the parent two descriptors for the rest of its life.
 *
 * Threads: any thread may call any function here on one object, except that destroying it must be the last call.
 * Objects do not survive a fork: in the child every function but the destroying ones returns MH_ERR_FORKED (or -1, false), and
 * the destroying ones only free memory and close the copies of the descriptors.
 */
#ifndef MANYHANDS_PROCESS_H
#define MANYHANDS_PROCESS_H

#include "manyhands/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mh_process mh_process;
typedef struct mh_forkserver mh_forkserver;

typedef enum mh_start_method {
    MH_START_DEFAULT = 0,
    MH_START_FORK = 1,       /* a copy of the caller; only safe from a process with one thread */
    MH_START_SPAWN = 2,      /* another program (exec) */
    MH_START_FORKSERVER = 3, /* forked by a process with one thread: see mh_forkserver */
} mh_start_method;

/* How a process ended. */
typedef struct mh_exit {
    int code;   /* exit code, 0 to 255, when no signal killed it */
    int signal; /* the signal that killed it, or 0 */
    bool core;  /* a core was dumped */
    bool lost;  /* nobody could tell: its fork server died too (signal is then SIGKILL, which kills its children; code is 255 for one
                 * that was to survive), or somebody else took the status, or the program ignores SIGCHLD (code is then 255) */
} mh_exit;

/* One number, as Python counts: the exit code, or minus the signal. */
static inline int mh_exit_number(mh_exit e) { return e.signal ? -e.signal : e.code; }

/* ---- options --------------------------------------------------------------------------------- */

/* A descriptor for the child. */
typedef struct mh_pass_fd {
    int fd;     /* in the caller, who keeps it */
    int number; /* in the child; -1: the same number */
} mh_pass_fd;

typedef struct mh_process_options {
    mh_start_method method; /* default: spawn when argv is set, else fork */

    int (*run)(void *ctx); /* fork: what the child runs; returns its exit code. stdout and stderr are flushed, then _exit */
    void *ctx;

    const char *const *argv; /* spawn: program (looked for in PATH unless it holds a slash) and arguments, NULL at the end */
    const char *const *env;  /* spawn: "NAME=value" and NULL at the end; NULL: the caller's */
    const char *cwd;         /* NULL: the caller's */

    /* A spawned child has descriptors 0, 1, 2, these, and no others (but for the parent-death pipe, see above). A forked
     * child has copies of all that its parent has, close-on-exec or not; these get their numbers there. */
    const mh_pass_fd *fds;
    size_t fd_count;

    bool survive_parent; /* go on when the parent ends */
    bool keep_signals;   /* the caller's signal mask and ignored signals (fork: and handlers); default: none blocked, all as in a
                          * fresh program. */
    bool ignore_interrupt; /* the child begins with SIGINT ignored, so that no Ctrl-C hits it before it has said what that does */
    bool stdin_null;     /* read /dev/null instead of the caller's stdin */
    bool new_group;      /* lead a process group of its own (no Ctrl-C from the terminal) */
    bool new_session;    /* lead a session of its own */
} mh_process_options;

/* ---- start ----------------------------------------------------------------------------------- */

/* The method that fits this process now: fork when it has one thread, else the fork server. Note that a fork server without a
 * program of its own is itself forked from the process that starts it: start it before the threads, or give it a program. */
MH_API mh_start_method mh_start_method_default(void);

/* Start a process. Returns when the child is set up and tied to its parent; with spawn, when exec has succeeded.
 *
 * owns     the caller; see mh_process_destroy and mh_process_detach
 * errors   INVALID     options that do not fit together, a descriptor that is not open; MH_START_FORKSERVER (use mh_forkserver_fork)
 *          NOT_FOUND, PERMISSION, SYSTEM   fork, chdir, dup or exec failed: mh_err_errno() says how; no child is left
 *          NO_MEMORY
 * threads  any. Fork copies only the calling thread, and whatever lock another thread holds stays held in the child: from a process
 *          with threads prefer a fork server. The caller must be allowed to call the fork hooks.
 */
MH_API MH_NODISCARD mh_err mh_process_start(mh_process **out, const mh_process_options *options);

/* From now on this process, started by one of these functions, goes on when its parent ends: for a child that watches its parent by
 * itself, and has something left to do then.
 *
 * errors   INVALID     not the main thread, to which the kernel's parent-death signal belongs
 *          SYSTEM
 */
MH_API MH_NODISCARD mh_err mh_parent_survive(void);

/* ---- watch and stop -------------------------------------------------------------------------- */

/* Wait until p has ended; its status is stored, any number of times, in any thread. `status` may be NULL.
 *
 * units    absolute monotonic nanoseconds; MH_NOW only looks
 * errors   TIMEOUT      it still runs (or it has ended and its fork server has not told how within 1 s)
 *          INTERRUPTED  a signal handler ran
 *          FORKED, SYSTEM
 */
MH_API MH_NODISCARD mh_err mh_process_wait(mh_process *p, mh_deadline until, mh_exit *status);
/* False once it has ended, whether or not anybody waited. */
MH_API bool mh_process_is_alive(mh_process *p);
/* Send a signal; never to another process that got the same number. errors: EXITED it has ended; PERMISSION; INVALID no such signal; FORKED. */
MH_API MH_NODISCARD mh_err mh_process_signal(mh_process *p, int number);
MH_API MH_NODISCARD mh_err mh_process_terminate(mh_process *p); /* SIGTERM */
MH_API MH_NODISCARD mh_err mh_process_kill(mh_process *p);      /* SIGKILL */
/* Process number; -1 when it is not known yet (mh_forkserver_post) or in a forked child. */
MH_API int32_t mh_process_pid(const mh_process *p);
/* A descriptor (pidfd) that is readable once p has ended; -1 as for mh_process_pid. owns: p. */
MH_API int mh_process_sentinel(const mh_process *p);

/* Free p. A process that still runs is killed and waited for. Accepts NULL. */
MH_API void mh_process_destroy(mh_process **p);
/* Free p and let the process go on; when it ends, a later mh_process_start takes the status away. Children of a fork server
 * live on with that server. Accepts NULL. */
MH_API void mh_process_detach(mh_process **p);

/* ---- fork server ----------------------------------------------------------------------------- *
 *
 * A process with one thread that forks children on request, so that nobody forks a process with threads. It is a fork of its
 * starter ("zygote": has all that the starter had in memory) or a program of its own. It ignores SIGINT, and ends when its starter
 * ends, stops it or hangs up; its children are killed (SIGKILL) when it ends, however it ends, but for those that are to survive it.
 */

/* What a forked child runs; the return value is its exit code. The message and the array are borrowed for the call; the
 * descriptors (close-on-exec) belong to the child. */
typedef int (*mh_child_fn)(mh_bytes message, const int *fds, size_t fd_count, void *ctx);

typedef struct mh_forkserver_child {
    mh_child_fn entry;
    void *ctx;
    bool ignore_interrupt; /* children start with SIGINT ignored; default: as it was when the server began */
    bool spare;            /* while it has nothing else to do the server forks one child ahead of need, so that the next request does not
                            * wait for the fork. It shows as one process more, and dies with the server, as all of them do */
    int64_t standby_ns;    /* so long after its start a forked server forks one like itself, which mh_forkserver_replace takes when it was
                            * killed; 0: never. It shows as one process more */
    void (*warm)(void *ctx); /* called in a spare before it waits, with the same ctx; NULL: nothing */
    void (*begin)(void *ctx); /* called in a forked server before it serves, with the same ctx, to drop what it has of its starter's */
} mh_forkserver_child;

typedef struct mh_forkserver_options {
    mh_start_method method;    /* MH_START_FORK or MH_START_SPAWN; default: spawn when argv is set, else fork */
    mh_forkserver_child child; /* fork: what children run (a program passes its own to mh_forkserver_serve) */
    const char *const *argv;   /* spawn: the program; the number of its socket replaces the argument "{socket}" */
    const char *const *env;    /* spawn: as for mh_process_options */
    const char *cwd;
    const mh_pass_fd *fds; /* spawn: descriptors for the program, and so for its children, besides its socket, which is number 3 */
    size_t fd_count;
} mh_forkserver_options;

#define MH_FORKSERVER_FDS_MAX 14 /* descriptors that one request may carry */

/* Start a server. Does not wait until it serves: requests queue up. errors: as mh_process_start. owns: the caller. */
MH_API MH_NODISCARD mh_err mh_forkserver_start(mh_forkserver **out, const mh_forkserver_options *options);

/* Have the server fork a child that runs entry(message, fds), and wait until it is there. Copies of the descriptors go to the child.
 *
 * owns     the caller owns *out, which works as any other process; it may outlive the server object
 * errors   CLOSED   the server is gone or stopped: start another
 *          LIMIT    too many descriptors, or the server has run out of them
 *          NO_MEMORY, SYSTEM (fork failed in the server: mh_err_errno), TIMEOUT, INTERRUPTED; then no child is left
 */
MH_API MH_NODISCARD mh_err mh_forkserver_fork(mh_forkserver *server, mh_bytes message, const int *fds, size_t fd_count,
                                              mh_deadline until, mh_process **out);
/* The first half of it: only send the request, so that several run at once. errors: as above. */
MH_API MH_NODISCARD mh_err mh_forkserver_post(mh_forkserver *server, mh_bytes message, const int *fds, size_t fd_count,
                                              mh_deadline until, mh_process **out);
/* The same for a child that goes on when the server or its starter ends (as after mh_parent_survive, but from the beginning). */
MH_API MH_NODISCARD mh_err mh_forkserver_post_surviving(mh_forkserver *server, mh_bytes message, const int *fds, size_t fd_count,
                                                        mh_deadline until, mh_process **out);
/* The second half: wait until a posted process has started (at once for any other). After an error other than TIMEOUT and
 * INTERRUPTED there is no child, and p can only be destroyed. mh_process_wait and mh_process_signal do this by themselves. */
MH_API MH_NODISCARD mh_err mh_process_await_start(mh_process *p, mh_deadline until);

/* The server has ended though nobody stopped it: have its standby instead, which is what the server was when it began. Nobody forks for that, so it
 * may be done in a process with threads. *server is then that one, and the last one's children have died with it.
 *
 * errors   CLOSED   there is no standby (yet), or none any more: *server is as it was
 */
MH_API MH_NODISCARD mh_err mh_forkserver_replace(mh_forkserver **server);
MH_API int32_t mh_forkserver_pid(const mh_forkserver *server);
/* Readable once the server has ended. owns: the server. */
MH_API int mh_forkserver_sentinel(const mh_forkserver *server);
/* Ask it to end, and its children with it; does not wait. */
MH_API void mh_forkserver_stop(mh_forkserver *server);
/* Stop it, wait (it is killed after a second), and free. Accepts NULL. */
MH_API void mh_forkserver_destroy(mh_forkserver **server);

/* Be a fork server on `socket`: what the program of a spawned server calls from its main thread, before it has others. Returns OK
 * when its starter hung up or ended, after its children are gone. In children it does not return. errors: INVALID not the main
 * thread, not such a socket; NO_MEMORY; SYSTEM; CORRUPT a request that this version does not understand. */
MH_API MH_NODISCARD mh_err mh_forkserver_serve(int socket, const mh_forkserver_child *child);

/* ---- fork hooks ------------------------------------------------------------------------------ */

/* Called around every fork that this library does in this process (not around spawn): `before` and `after_in_parent` in the forking
 * thread, also when the fork fails; `after_in_child` in the child, before anything of the caller's runs there. Any may be NULL.
 * A forked fork server stays as it was between them: none is called in it, and after_in_child in each of its children.
 * threads: not safe; set them once, before the first process is started. They are inherited by forks. */
typedef void (*mh_fork_hook_fn)(void *ctx);
MH_API void mh_fork_hooks_set(mh_fork_hook_fn before, mh_fork_hook_fn after_in_parent, mh_fork_hook_fn after_in_child,
                              void *ctx);

/* ---- cores ----------------------------------------------------------------------------------- */

/* Cores that this process may use: those of its affinity mask, and no more than its control groups' CPU quota, rounded up. At least 1.
 * Reads files; ask once. */
MH_API size_t mh_cpu_count(void);

/* ---- forks ----------------------------------------------------------------------------------- */

/* Calls of fork(3) in this process, whoever made them, and in its ancestors before they forked it. While the count stays the same no
 * child has come to know what this process holds in its memory. The depth tells a child from its parent: it is one more in the child.
 * vfork and posix_spawn do not count: those children exec. threads: any. */
MH_API uint64_t mh_fork_count(void);
MH_API uint64_t mh_fork_depth(void);

#ifdef __cplusplus
}
#endif
#endif
