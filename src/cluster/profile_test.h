/* A profile folder for tests, and processes that look as if they belonged to a cluster of it. */
#ifndef MH_CLUSTER_PROFILE_TEST_H
#define MH_CLUSTER_PROFILE_TEST_H

#include "cluster/profile.h"

#include "base/number.h"
#include "mh_test.h"
#include "os/file.h"
#include "os/folder.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char ipython[64], folder[96];

static inline int make_profile(void **state)
{
    (void)state;
    static const char *const inner[] = {"security", "pid", "log"};
    char path[128];
    strcpy(ipython, "/dev/shm/profile-test-XXXXXX");
    if (!mkdtemp(ipython))
        return -1;
    snprintf(folder, sizeof folder, "%s/profile_p", ipython);
    for (size_t i = 0; i < MH__COUNT_OF(inner); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, inner[i]);
        if (mh__os_folder_make(path))
            return -1;
    }
    return 0;
}

static inline int remove_profile(void **state)
{
    (void)state;
    return mh__os_folder_remove(ipython) ? -1 : 0;
}

/* A process with a cluster's marks, as one that was started by a watcher; it sleeps. */
static inline pid_t start_marked(const char *id)
{
    mh__cluster_marks marks;
    mh__cluster_marks_of(folder, id, &marks);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char *const argv[] = {(char[]){"sleep"}, (char[]){"600"}, NULL}, *const env[] = {marks.folder, marks.id, NULL};
        execve("/bin/sleep", argv, env);
        _exit(127);
    }
    for (mh_deadline until = mh_deadline_in(30 * MH_SECOND); !mh__os_has_environment(child, (const char *const[]){marks.folder, marks.id}, 2); sched_yield())
        assert_true(mh_now() < until);
    return child;
}

static inline void end_marked(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static inline mh__record_member member(pid_t pid, int64_t engine_id, const char *log)
{
    return (mh__record_member){.pid = pid, .identity = pid ? mh__os_identity_of(pid) : 0, .engine_id = engine_id, .log = log};
}

#endif
