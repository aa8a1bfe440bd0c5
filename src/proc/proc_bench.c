/* Start and join one process, ours beside the bare calls, in turns: nanoseconds from the call to the taken status. Printed are the
 * median, the 99th percentile, and the ratio of the median to the peer's. The last rows repeat it in a process of 512 MB. */
#include "manyhands/process.h"

#include "base/number.h"

#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 300 };

static mh_forkserver *server;
static const char *const program[] = {"/bin/true", NULL};

static int nothing(void *ctx)
{
    (void)ctx;
    return 0;
}

static int child_nothing(mh_bytes message, const int *fds, size_t fd_count, void *ctx)
{
    (void)message, (void)fds, (void)fd_count, (void)ctx;
    return 0;
}

static mh_err join(mh_err err, mh_process **p)
{
    mh_exit status;
    if (!err)
        err = mh_process_wait(*p, MH_FOREVER, &status);
    mh_process_destroy(p);
    return err;
}

static mh_err our_fork(void)
{
    mh_process *p;
    return join(mh_process_start(&p, &(mh_process_options){.run = nothing}), &p);
}

static mh_err our_spawn(void)
{
    mh_process *p;
    return join(mh_process_start(&p, &(mh_process_options){.argv = program}), &p);
}

static mh_err our_server(void)
{
    mh_process *p;
    return join(mh_forkserver_fork(server, (mh_bytes){"", 0}, NULL, 0, MH_FOREVER, &p), &p);
}

static mh_err bare_wait(pid_t pid)
{
    return pid > 0 && waitpid(pid, NULL, 0) == pid ? MH_OK : MH_ERR_SYSTEM;
}

static mh_err bare_fork(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return bare_wait(pid);
}

static mh_err bare_spawn(void)
{
    pid_t pid;
    return posix_spawn(&pid, program[0], NULL, NULL, (char *const *)(uintptr_t)program, environ) ? MH_ERR_SYSTEM
                                                                                                  : bare_wait(pid);
}

static const struct {
    const char *name;
    mh_err (*run)(void);
    size_t peer; /* its row */
} rows[] = {
    {"fork + waitpid", bare_fork, 0},
    {"mh fork", our_fork, 0},
    {"mh fork server", our_server, 0},
    {"posix_spawn + waitpid", bare_spawn, 3},
    {"mh spawn", our_spawn, 3},
};

static int64_t times[MH__COUNT_OF(rows)][ROUNDS];

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void run_all(const char *where)
{
    for (size_t round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
            int64_t before = mh_now();
            mh_err err = rows[i].run();
            times[i][round] = mh_now() - before;
            if (err) {
                fprintf(stderr, "%s: %s: %s\n", rows[i].name, mh_err_text(err), mh_err_detail());
                exit(1);
            }
        }
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++)
        qsort(times[i], ROUNDS, sizeof times[i][0], by_size);
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++)
        printf("%-8s %-22s p50 %7.1f us  p99 %7.1f us  ratio %.2f\n", where, rows[i].name, (double)times[i][ROUNDS / 2] / 1e3,
               (double)times[i][ROUNDS * 99 / 100] / 1e3, (double)times[i][ROUNDS / 2] / (double)times[rows[i].peer][ROUNDS / 2]);
}

int main(void)
{
    const size_t large = (size_t)512 << 20;
    if (mh_forkserver_start(&server, &(mh_forkserver_options){.child.entry = child_nothing}))
        return 1;
    run_all("small");
    void *memory = mmap(NULL, large, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    madvise(memory, large, MADV_NOHUGEPAGE); /* page tables are what a fork copies */
    memset(memory, 1, large);
    run_all("512 MB");
    mh_forkserver_destroy(&server);
    return 0;
}
