/* Starts a process by fork, another by exec, and two by a fork server, and prints how each ended. */
#include "manyhands/process.h"

#include <stdio.h>
#include <string.h>

static int work(void *ctx) { return *(int *)ctx; }

/* What the fork server's children run: the message says which code to exit with. */
static int entry(mh_bytes message, const int *fds, size_t fd_count, void *ctx)
{
    int code = 0;
    (void)fds, (void)fd_count, (void)ctx;
    if (message.size == sizeof code)
        memcpy(&code, message.data, sizeof code);
    return code;
}

static mh_err print_end(const char *name, mh_process **p)
{
    mh_exit status;
    mh_err err = mh_process_wait(*p, mh_deadline_in(10 * MH_SECOND), &status);
    if (!err)
        printf("%s: exit code %d, signal %d\n", name, status.code, status.signal);
    mh_process_destroy(p);
    return err;
}

static mh_err run_fork_server(void)
{
    mh_forkserver *server = NULL;
    mh_process *children[2] = {NULL, NULL};
    mh_err err = mh_forkserver_start(&server, &(mh_forkserver_options){.child.entry = entry});
    for (int code = 1; !err && code <= 2; code++) /* both requests first, so that both start at once */
        err = mh_forkserver_post(server, (mh_bytes){&code, sizeof code}, NULL, 0, MH_FOREVER, &children[code - 1]);
    for (int i = 0; !err && i < 2; i++)
        err = print_end("fork server's child", &children[i]);
    mh_process_destroy(&children[0]);
    mh_process_destroy(&children[1]);
    mh_forkserver_destroy(&server);
    return err;
}

int main(void)
{
    int answer = 42;
    const char *const argv[] = {"sh", "-c", "kill -TERM $$", NULL};
    mh_process *p = NULL;
    mh_err err = mh_process_start(&p, &(mh_process_options){.run = work, .ctx = &answer});
    if (!err)
        err = print_end("fork", &p);
    if (!err)
        err = mh_process_start(&p, &(mh_process_options){.argv = argv});
    if (!err)
        err = print_end("spawn", &p);
    if (!err)
        err = run_fork_server();
    if (err)
        fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
    printf("usable cores: at least %d\n", mh_cpu_count() >= 1);
    return err ? 1 : 0;
}
