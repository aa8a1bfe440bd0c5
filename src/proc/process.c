#include "proc/process.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/identity.h"
#include "os/clock.h"
#include "os/cpu.h"
#include "os/fd.h"
#include "os/futex.h"

enum { SIGNAL_KILL = 9, SIGNAL_TERMINATE = 15 };

/* How long destroying waits for a killed process, and waiting for a fork server to say how one ended. */
#define PATIENCE_NS MH_SECOND

/* ---- fork hooks ------------------------------------------------------------------------------ */

static struct {
    mh_fork_hook_fn before, after_in_parent, after_in_child;
    void *ctx;
} hooks; /* set once, before the first start */

void mh_fork_hooks_set(mh_fork_hook_fn before, mh_fork_hook_fn after_in_parent, mh_fork_hook_fn after_in_child, void *ctx)
{
    hooks.before = before;
    hooks.after_in_parent = after_in_parent;
    hooks.after_in_child = after_in_child;
    hooks.ctx = ctx;
}

/* This process is the frozen image of one whose fork it is: `before` was called there, and after_in_child is due in children only. */
static bool is_image;

static mh_err fork_image(const mh__child_setup *setup, int32_t *pid, int *pidfd, bool *in_child)
{
    mh_err err = mh__os_fork(setup, pid, pidfd, in_child);
    if (*in_child) {
        is_image = false;
        if (hooks.after_in_child)
            hooks.after_in_child(hooks.ctx);
    }
    return err;
}

static mh_err fork_live(const mh__child_setup *setup, int32_t *pid, int *pidfd, bool *in_child, bool as_image)
{
    if (hooks.before)
        hooks.before(hooks.ctx);
    mh_err err = mh__os_fork(setup, pid, pidfd, in_child);
    if (*in_child)
        is_image = as_image;
    mh_fork_hook_fn after = *in_child ? hooks.after_in_child : hooks.after_in_parent;
    if (after && !is_image)
        after(hooks.ctx);
    return err;
}

mh_err mh__fork(const mh__child_setup *setup, int32_t *pid, int *pidfd, bool *in_child)
{
    return is_image ? fork_image(setup, pid, pidfd, in_child) : fork_live(setup, pid, pidfd, in_child, false);
}

mh_err mh__fork_image(const mh__child_setup *setup, int32_t *pid, int *pidfd, bool *in_child)
{
    return is_image ? mh__os_fork(setup, pid, pidfd, in_child) : fork_live(setup, pid, pidfd, in_child, true);
}

/* ---- the object ------------------------------------------------------------------------------ */

static bool is_inherited(const mh_process *p) { return p->fork_depth != mh__os_fork_depth(); }

static mh_err refuse_inherited(const mh_process *p)
{
    return is_inherited(p) ? mh__fail(MH_ERR_FORKED, "a process object inherited through a fork") : MH_OK;
}

mh_err mh__process_create(mh_process **out)
{
    *out = NULL;
    mh_process *p = mh__calloc(1, sizeof *p);
    if (!p)
        return MH_ERR_NO_MEMORY;
    mh_err err = mh__lock_create(&p->lock);
    if (err) {
        mh__free(p);
        return err;
    }
    p->fork_depth = mh__os_fork_depth();
    p->channel = -1;
    p->state = MH__PROCESS_POSTED;
    atomic_init(&p->pid, -1);
    atomic_init(&p->pidfd, -1);
    *out = p;
    return MH_OK;
}

void mh__process_free(mh_process **out)
{
    mh_process *p = *out;
    int pidfd = atomic_load(&p->pidfd);
    mh__os_close(&pidfd);
    mh__os_close(&p->channel);
    if (p->server)
        mh__forkserver_release(p->server);
    mh__lock_destroy(&p->lock);
    mh__free(p);
    *out = NULL;
}

size_t mh_cpu_count(void) { return mh__cpu_count(); }
uint64_t mh_fork_count(void) { return mh__os_fork_count(); }
uint64_t mh_fork_depth(void) { return mh__os_fork_depth(); }

/* ---- options --------------------------------------------------------------------------------- */

static mh_err check_method(const mh_process_options *o, bool *spawn)
{
    if (o->method == MH_START_FORKSERVER)
        return mh__fail(MH_ERR_INVALID, "method: a fork server's children are started by mh_forkserver_fork");
    if ((unsigned)o->method > MH_START_FORKSERVER)
        return mh__fail(MH_ERR_INVALID, "method: no start method %d", (int)o->method);
    *spawn = o->method ? o->method == MH_START_SPAWN : o->argv != NULL;
    if (*spawn && (o->run || !o->argv || !o->argv[0]))
        return mh__fail(MH_ERR_INVALID, "spawn needs argv with a program, and no run");
    if (!*spawn && (!o->run || o->argv || o->env))
        return mh__fail(MH_ERR_INVALID, "fork needs run, and neither argv nor env");
    return MH_OK;
}

/* Fills fds and numbers of a setup from the options; all three arrays lie in one block that the caller frees. */
static mh_err collect_fds(mh__child_setup *setup, const mh_process_options *o, int **block)
{
    size_t count = o->fd_count;
    *block = NULL;
    if (!count)
        return MH_OK;
    int *fds = mh__calloc(count, 3 * sizeof *fds), *numbers = fds + count;
    if (!fds)
        return MH_ERR_NO_MEMORY;
    *block = fds;
    for (size_t i = 0; i < count; i++) {
        fds[i] = o->fds[i].fd;
        numbers[i] = o->fds[i].number == -1 ? o->fds[i].fd : o->fds[i].number;
        if (!mh__os_is_open(fds[i]))
            return mh__fail(MH_ERR_INVALID, "fds: descriptor %d is not open", fds[i]);
        if (numbers[i] < 0)
            return mh__fail(MH_ERR_INVALID, "fds: no descriptor can have the number %d", numbers[i]);
        for (size_t j = 0; j < i; j++)
            if (numbers[j] == numbers[i])
                return mh__fail(MH_ERR_INVALID, "fds: two descriptors for the number %d", numbers[i]);
    }
    setup->fds = fds;
    setup->numbers = numbers;
    setup->scratch = numbers + count;
    setup->fd_count = count;
    return MH_OK;
}

/* ---- detached children: somebody has to take their status ------------------------------------ */

static mh_process *_Atomic detached; /* a stack that is pushed to by exchange and only ever taken whole */

static void push_detached(mh_process *p)
{
    p->next = atomic_load(&detached);
    while (!atomic_compare_exchange_weak(&detached, &p->next, p))
        ;
}

static void sweep_detached(void)
{
    if (!atomic_load(&detached))
        return;
    mh_process *p = atomic_exchange(&detached, NULL);
    while (p) {
        mh_process *next = p->next;
        mh__end end;
        if (!is_inherited(p) && mh__os_reap(atomic_load(&p->pidfd), &end) == MH_ERR_TIMEOUT)
            push_detached(p);
        else
            mh__process_free(&p);
        p = next;
    }
}

/* ---- start ----------------------------------------------------------------------------------- */

mh_err mh_parent_survive(void)
{
    mh_err err = mh__os_survive_parent();
    if (!err)
        mh__forkserver_note_survival();
    return err;
}

mh_start_method mh_start_method_default(void)
{
    return mh__os_thread_count() == 1 ? MH_START_FORK : MH_START_FORKSERVER;
}

static mh_err start(mh_process *p, const mh_process_options *o, const mh__child_setup *setup, bool spawn)
{
    int32_t pid = -1;
    int pidfd = -1;
    bool in_child = false;
    mh_err err = spawn ? mh__os_spawn(setup, o->argv, o->env, &pid, &pidfd) : mh__fork(setup, &pid, &pidfd, &in_child);
    if (err)
        return err;
    if (in_child)
        mh__os_exit_child(o->run(o->ctx));
    atomic_store(&p->pid, pid);
    atomic_store(&p->pidfd, pidfd);
    p->state = MH__PROCESS_RUNNING;
    return MH_OK;
}

mh_err mh_process_start(mh_process **out, const mh_process_options *options)
{
    *out = NULL;
    sweep_detached();
    bool spawn = false;
    mh_err err = check_method(options, &spawn);
    if (err)
        return err;
    mh__child_setup setup = {
        .cwd = options->cwd,
        .survive_parent = options->survive_parent,
        .keep_mask = options->keep_signals,
        .keep_handlers = options->keep_signals,
        .ignore_interrupt = options->ignore_interrupt,
        .spare_interrupt = options->ignore_interrupt && !spawn,
        .stdin_null = options->stdin_null,
        .new_group = options->new_group,
        .new_session = options->new_session,
    };
    int *block = NULL;
    mh_process *p = NULL;
    err = collect_fds(&setup, options, &block);
    if (!err)
        err = mh__process_create(&p);
    if (!err)
        err = start(p, options, &setup, spawn);
    mh__free(block);
    if (err && p)
        mh__process_free(&p);
    *out = p;
    return err;
}

/* ---- questions ------------------------------------------------------------------------------- */

int32_t mh_process_pid(const mh_process *p) { return is_inherited(p) ? -1 : atomic_load(&p->pid); }
int mh_process_sentinel(const mh_process *p) { return is_inherited(p) ? -1 : atomic_load(&p->pidfd); }

/* Where p stands now; a failure to start is told again to each who asks. */
static mh_err look(mh_process *p, mh__process_state *state, mh_exit *status)
{
    mh__lock_take(p->lock);
    *state = p->state;
    if (status && p->state == MH__PROCESS_ENDED)
        *status = p->status;
    mh_err failure = p->state == MH__PROCESS_FAILED ? p->failure : MH_OK;
    int failure_errno = p->failure_errno;
    mh__lock_drop(p->lock);
    if (!failure)
        return MH_OK;
    return failure_errno ? mh__fail_errno(failure, failure_errno, "the fork server could not start the process")
                         : mh__fail(failure, "the fork server ended, or had no descriptors left, before it started the process");
}

static mh_err take_note(mh_process *p)
{
    mh__lock_take(p->lock);
    mh_err err = mh__forkserver_take_note(p);
    mh__lock_drop(p->lock);
    return err;
}

mh_err mh_process_await_start(mh_process *p, mh_deadline until)
{
    mh_err err = refuse_inherited(p);
    for (;;) {
        mh__process_state state;
        if (!err)
            err = look(p, &state, NULL);
        if (err || state != MH__PROCESS_POSTED)
            return err;
        err = take_note(p);
        if (err == MH_ERR_TIMEOUT)
            err = mh__os_left_ns(until) ? mh__forkserver_await_note(p, until) : MH_ERR_TIMEOUT;
    }
}

/* Wait until p has ended. Merely looking takes no time, so no signal interrupts it. */
static mh_err await_end(mh_process *p, mh_deadline until)
{
    mh_err err;
    do
        err = mh__os_wait_readable(atomic_load(&p->pidfd), until);
    while (err == MH_ERR_INTERRUPTED && until == MH_NOW);
    return err;
}

bool mh_process_is_alive(mh_process *p)
{
    mh_err err = mh_process_await_start(p, MH_NOW);
    return err == MH_ERR_TIMEOUT || (!err && await_end(p, MH_NOW) == MH_ERR_TIMEOUT);
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Take the status of a direct child that has ended; under the lock, since only one of two waiting threads can. */
static mh_err reap(mh_process *p)
{
    mh__end end;
    mh_err err = MH_OK;
    mh__lock_take(p->lock);
    if (p->state == MH__PROCESS_RUNNING) {
        err = mh__os_reap(atomic_load(&p->pidfd), &end);
        if (err == MH_OK)
            p->status = (mh_exit){.code = end.code, .signal = end.signal, .core = end.core};
        else if (err == MH_ERR_EXITED)
            p->status = (mh_exit){.code = MH__LOST_CODE, .lost = true};
        if (err == MH_OK || err == MH_ERR_EXITED) {
            p->state = MH__PROCESS_ENDED;
            err = MH_OK;
        }
    }
    mh__lock_drop(p->lock);
    return err;
}

/* A process that somebody traces (a debugger, a leak checker) has ended before its parent may take the status, and nothing tells when it may. */
static mh_err reap_traced(mh_process *p, mh_deadline until)
{
    for (;;) {
        mh_err err = reap(p);
        if (err != MH_ERR_TIMEOUT || !mh__os_left_ns(until))
            return err;
        _Atomic uint32_t nobody = 0;
        err = mh__os_futex_wait(&nobody, 0, mh__os_sooner(until, MH_MILLISECOND));
        if (err == MH_ERR_INTERRUPTED)
            return err;
    }
}

/* p has ended: get its status from whoever has it. */
static mh_err collect(mh_process *p, mh_deadline until)
{
    if (!p->server)
        return reap_traced(p, until);
    mh_deadline patience = MH__MAX(until, mh_deadline_in(PATIENCE_NS));
    for (;;) {
        mh__process_state state;
        mh_err err = look(p, &state, NULL);
        if (err || state == MH__PROCESS_ENDED)
            return err;
        err = take_note(p);
        if (err == MH_ERR_TIMEOUT)
            err = mh__os_left_ns(patience) ? mh__forkserver_await_note(p, patience) : MH_ERR_TIMEOUT;
        if (err)
            return err;
    }
}

mh_err mh_process_wait(mh_process *p, mh_deadline until, mh_exit *status)
{
    mh_err err = mh_process_await_start(p, until);
    while (!err) {
        mh__process_state state;
        err = look(p, &state, status);
        if (err || state == MH__PROCESS_ENDED)
            break;
        err = await_end(p, until);
        if (!err)
            err = collect(p, until);
    }
    return err;
}

/* ---- signals --------------------------------------------------------------------------------- */

mh_err mh_process_signal(mh_process *p, int number)
{
    mh_err err = mh_process_await_start(p, mh_deadline_in(PATIENCE_NS));
    if (err)
        return err;
    if (!mh_process_is_alive(p))
        return mh__fail(MH_ERR_EXITED, "process %d has ended", atomic_load(&p->pid));
    return mh__os_pidfd_signal(atomic_load(&p->pidfd), number);
}

mh_err mh_process_terminate(mh_process *p) { return mh_process_signal(p, SIGNAL_TERMINATE); }
mh_err mh_process_kill(mh_process *p) { return mh_process_signal(p, SIGNAL_KILL); }

/* ---- the end --------------------------------------------------------------------------------- */

/* Kill and wait, for a while, whatever signals come in. OK when it has ended, or never began. */
static mh_err kill_patiently(mh_process *p)
{
    mh_deadline until = mh_deadline_in(PATIENCE_NS);
    mh_err err;
    do
        err = mh_process_kill(p);
    while (err == MH_ERR_INTERRUPTED);
    do
        err = mh_process_wait(p, until, NULL);
    while (err == MH_ERR_INTERRUPTED);
    return p->state == MH__PROCESS_FAILED ? MH_OK : err;
}

void mh_process_destroy(mh_process **out)
{
    mh_process *p = *out;
    *out = NULL;
    if (!p)
        return;
    if (!is_inherited(p)) {
        mh_err err = kill_patiently(p);
        if (err && !p->server) {
            push_detached(p); /* killed, but stuck in the kernel */
            return;
        }
        if (p->server)
            mh__os_hang_up(p->channel); /* whom we could not kill, the server does now */
    }
    mh__process_free(&p);
}

void mh_process_detach(mh_process **out)
{
    mh_process *p = *out;
    *out = NULL;
    if (!p)
        return;
    if (!is_inherited(p)) {
        if (p->server)
            mh__forkserver_detach(p);
        else if (p->state == MH__PROCESS_RUNNING && reap(p) == MH_ERR_TIMEOUT) {
            push_detached(p);
            return;
        }
    }
    mh__process_free(&p);
}
