/* What happens in a new child between clone and the caller's code. Everything here runs in a copy of a process with threads, or in
 * memory shared with a sleeping parent: system calls only, no allocation, no lock. */
#ifndef MH_OS_CHILD_H
#define MH_OS_CHILD_H

#include "os/process.h"

#include <signal.h>

#ifdef __clang__
#define MH__BARE __attribute__((no_sanitize("address", "thread", "undefined")))
#else
#define MH__BARE __attribute__((no_sanitize("address,thread,undefined")))
#endif

typedef enum mh__child_step {
    MH__STEP_NONE, /* all is well */
    MH__STEP_PARENT,
    MH__STEP_SESSION,
    MH__STEP_GROUP,
    MH__STEP_CWD,
    MH__STEP_STDIN,
    MH__STEP_FDS,
    MH__STEP_CLOSE,
    MH__STEP_EXEC,
} mh__child_step;

/* How a child's setup went. */
typedef struct mh__child_report {
    mh__child_step step; /* the one that failed */
    int error;           /* its errno */
} mh__child_report;

/* How a child learns that its parent ended. */
typedef struct mh__lifeline {
    int32_t parent;
    int fd; /* a pipe that the parent holds the other end of, or -1: the parent-death signal will do */
} mh__lifeline;

/* In the parent, before: the right way for the calling thread. owns: the caller closes .fd, in parent and child. */
mh_err mh__lifeline_take(mh__lifeline *out, bool survive_parent);

/* In the child: everything but signals. `exec` says that descriptors have to survive an exec and no others may. */
mh__child_report mh__child_prepare(const mh__child_setup *setup, mh__lifeline lifeline, bool exec);
/* Default actions for signals with handlers; for ignored ones too if asked. */
void mh__child_reset_signals(bool ignored_too);
void mh__child_ignore_interrupt(void);

/* In the parent: a failed report as an error. */
mh_err mh__child_error(mh__child_report report, const char *what);

#endif
