/* The janitor: a tiny process that removes names from /dev/shm when nobody is left who would.
 *
 * It is started by the first named segment of a process tree (a process and what it forks) and holds one end of a socket; every
 * process of the tree holds the other by inheritance. Names are told to it before they come into being. When the last holder has
 * ended, however that happened, and the creators of the names left have ended too, it removes those names and exits.
 *
 * It is in a session of its own with all signals blocked, so that what kills a process group or a terminal's jobs
 * does not reach it. It was cloned without an exit signal: no SIGCHLD tells of it and no wait() returns it. It holds
 * no descriptor but its socket (and the one that it was told to report to), and it gives up the memory that the fork gave it.
 */
#ifndef MH_OS_JANITOR_H
#define MH_OS_JANITOR_H

#include "os/identity.h"
#include "os/named.h"

/* The descriptor that makes this process (and what it forks) belong to its tree; starts the janitor if there is none, and
 * tells so. Borrowed, close-on-exec. errors: SYSTEM, NO_MEMORY. threads: any. */
mh_err mh__os_janitor_open(int *fd, bool *started);
/* Belong to the tree whose descriptor was inherited as fd, which is taken. errors: INVALID it is no such descriptor;
 * EXISTS this process has a janitor already. */
mh_err mh__os_janitor_adopt(int fd);
/* The janitor's process, or 0: part of random names, so that others can tell whether somebody still cares for them. */
mh__identity mh__os_janitor_identity(void);

/* A number for the name space that process numbers belong to here, or 0. */
uint64_t mh__os_process_namespace(void);

/* Tell it of a name that is about to be given to a file (quietly: that it is left is worth no report), or that it need not care any
 * longer. errors: CLOSED it was killed. */
mh_err mh__os_janitor_add(const char *name, mh__file_id id, bool quietly);
void mh__os_janitor_forget(const char *name, mh__file_id id);
/* Names stay until that process has ended, too. errors: CLOSED there is none. */
mh_err mh__os_janitor_await(mh__identity who);
/* Have it write one line there when it had to remove names. It keeps a copy of fd. errors: CLOSED. */
mh_err mh__os_janitor_report(int fd);

#endif
