/* Processes: fork, exec, pidfds, ends, and who this process is. */
#ifndef MH_OS_PROCESS_H
#define MH_OS_PROCESS_H

#include "manyhands/base.h"

/* What a child sets up before it runs anything of the caller's. A zeroed one is valid. */
typedef struct mh__child_setup {
    const char *cwd;        /* NULL: unchanged */
    const int *fds;         /* descriptors to pass, each of them open */
    const int *numbers;     /* and their numbers in the child, all different */
    int *scratch;           /* fd_count ints: a child that shares its parent's memory may not allocate */
    size_t fd_count;
    bool survive_parent;    /* else SIGKILL when the parent ends */
    bool keep_mask;         /* else no signal is blocked */
    bool keep_handlers;     /* else every signal has its default action */
    bool spare_interrupt;   /* fork: mh__os_spare_interrupt; exec: SIGINT is blocked until the program calls that */
    bool ignore_interrupt;  /* exec: the program begins with SIGINT ignored */
    bool restore_interrupt; /* fork: back to what was remembered */
    bool stdin_null;
    bool new_group;
    bool new_session;
} mh__child_setup;

/* Fork, having flushed stdout and stderr. In the parent: *in_child false, *pid and *pidfd (close-on-exec) set, and the child's
 * setup has succeeded. In the child: *in_child true, set up. errors: of fork and of the setup; no child is left. */
mh_err mh__os_fork(const mh__child_setup *setup, int32_t *pid, int *pidfd, bool *in_child);

/* Start another program, with no descriptors above 2 but those of the setup. argv[0] is looked for in PATH unless it holds a
 * slash; env NULL is the caller's. errors: of exec and of the setup, with their errno; no child is left. */
mh_err mh__os_spawn(const mh__child_setup *setup, const char *const *argv, const char *const *env, int32_t *pid, int *pidfd);

/* A pidfd of process `pid`. errors: EXITED. */
mh_err mh__os_pidfd_open(int32_t pid, int *pidfd);
/* errors: EXITED it was reaped; PERMISSION; INVALID no such signal. */
mh_err mh__os_pidfd_signal(int pidfd, int number);

typedef struct mh__end {
    int code, signal;
    bool core;
} mh__end;
/* Take the status of a child that has ended, without waiting. errors: TIMEOUT it runs; EXITED not our child, or taken. */
mh_err mh__os_reap(int pidfd, mh__end *end);

/* What child setup did to have this process killed when its parent ends, undone. errors: INVALID not the main thread. */
mh_err mh__os_survive_parent(void);

int32_t mh__os_pid(void);
int32_t mh__os_parent_pid(void);
bool mh__os_is_main_thread(void);
/* Goes up by one in the child at every fork: an object that remembers it can tell that it was inherited. */
unsigned mh__os_fork_depth(void);
/* Flush stdout and stderr and end at once: what a forked child does instead of exit. */
_Noreturn void mh__os_exit_child(int code);
/* Ignore SIGINT, and unblock it, remembering what it did for mh__child_setup.restore_interrupt; a second call changes nothing. */
void mh__os_spare_interrupt(void);
/* Undo that: SIGINT does what it did before. */
void mh__os_restore_interrupt(void);

/* Who created the socket pair of which `sock` is one end. errors: INVALID it is not a socket. */
mh_err mh__os_peer_pid(int sock, int32_t *pid);
/* End both directions of a socket, whoever holds copies of it. */
void mh__os_hang_up(int sock);
bool mh__os_is_open(int fd);
/* Wait until `a`, `b` or both are readable or hung up. errors: TIMEOUT, INTERRUPTED. */
mh_err mh__os_wait_either(int a, int b, mh_deadline until);

/* Become another program, looked for in PATH unless its name holds a slash, with the same number, descriptors and environment. Returns only when it can't.
 * errors: NOT_FOUND, PERMISSION, SYSTEM. */
mh_err mh__os_become(const char *const *argv);

#endif
