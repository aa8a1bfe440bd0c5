/* The starter's half of a fork server: the object, requests, and the notes that come back.
 *
 * Each child has a socket pair of its own, whose other end travels with the request: on it the server says that the child has
 * started (with its pidfd) and, later, how it ended. So requests overlap freely, no reply can be mistaken for another's, and threads that
 * wait for different children share nothing. */
#include "proc/forkserver.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/memory.h"
#include "proc/process.h"

#include <stdio.h>
#include <string.h>

enum { SOCKET_NUMBER = 3, SIGNAL_KILL = 9 };

#define PATIENCE_NS MH_SECOND
#define RECHECK_NS (20 * MH_MILLISECOND)

struct mh_forkserver {
    unsigned fork_depth; /* of its owner; constant */
    int socket;          /* constant until the owner destroys */
    int standby;         /* the same for the server that takes over; -1: there is none */
    int pidfd;           /* constant while anybody holds a reference */
    int32_t pid;
    _Atomic bool stopped;
    _Atomic uint32_t references; /* the owner's and its processes' */
};

static bool is_inherited(const mh_forkserver *s) { return s->fork_depth != mh__os_fork_depth(); }

void mh__forkserver_retain(mh_forkserver *server) { atomic_fetch_add(&server->references, 1); }

void mh__forkserver_release(mh_forkserver *server)
{
    if (atomic_fetch_sub(&server->references, 1) != 1)
        return;
    mh__os_close(&server->socket);
    mh__os_close(&server->standby);
    mh__os_close(&server->pidfd);
    mh__free(server);
}

/* ---- start ----------------------------------------------------------------------------------- */

static mh_err check(const mh_forkserver_options *o, bool *spawn)
{
    *spawn = o->method ? o->method == MH_START_SPAWN : o->argv != NULL;
    if (o->method && o->method != MH_START_FORK && o->method != MH_START_SPAWN)
        return mh__fail(MH_ERR_INVALID, "method: a fork server is started by fork or spawn");
    if (*spawn && (!o->argv || !o->argv[0]))
        return mh__fail(MH_ERR_INVALID, "a spawned fork server needs argv with a program");
    if (!*spawn && (!o->child.entry || o->argv || o->env || o->fd_count))
        return mh__fail(MH_ERR_INVALID, "a forked fork server needs child.entry, and neither argv nor env nor fds");
    for (size_t i = 0; i < o->fd_count; i++) {
        if (!mh__os_is_open(o->fds[i].fd))
            return mh__fail(MH_ERR_INVALID, "fds: descriptor %d is not open", o->fds[i].fd);
        if (o->fds[i].number == SOCKET_NUMBER || (o->fds[i].number == -1 && o->fds[i].fd == SOCKET_NUMBER))
            return mh__fail(MH_ERR_INVALID, "fds: number %d is the socket's", SOCKET_NUMBER);
    }
    return MH_OK;
}

/* A copy of argv in which the socket's number replaces its placeholder. owns: the caller frees the array, not the strings. */
static mh_err place_socket(const char *const *argv, const char *number, const char ***out)
{
    size_t count = 0;
    while (argv[count])
        count++;
    const char **copy = mh__calloc(count + 1, sizeof *copy);
    if (!copy)
        return MH_ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++)
        copy[i] = strcmp(argv[i], "{socket}") ? argv[i] : number;
    *out = copy;
    return MH_OK;
}

static mh_err start_program(mh_forkserver *s, const mh_forkserver_options *o, int socket)
{
    char text[12];
    const char **argv = NULL;
    size_t count = o->fd_count + 1;
    int *fds = mh__calloc(count, 3 * sizeof *fds), *numbers = fds + count;
    if (!fds)
        return MH_ERR_NO_MEMORY;
    fds[0] = socket;
    numbers[0] = SOCKET_NUMBER;
    for (size_t i = 1; i < count; i++) {
        fds[i] = o->fds[i - 1].fd;
        numbers[i] = o->fds[i - 1].number == -1 ? fds[i] : o->fds[i - 1].number;
    }
    mh__child_setup setup = {.cwd = o->cwd, .fds = fds, .numbers = numbers, .scratch = numbers + count, .fd_count = count,
                             .spare_interrupt = true};
    snprintf(text, sizeof text, "%d", SOCKET_NUMBER);
    mh_err err = place_socket(o->argv, text, &argv);
    if (!err)
        err = mh__os_spawn(&setup, argv, o->env, &s->pid, &s->pidfd);
    mh__free(argv);
    mh__free(fds);
    return err;
}

static mh_err start_copy(mh_forkserver *s, const mh_forkserver_options *o, int socket, int standby)
{
    mh__child_setup setup = {.cwd = o->cwd, .keep_handlers = true, .spare_interrupt = true};
    bool in_child;
    mh_err err = mh__fork_image(&setup, &s->pid, &s->pidfd, &in_child);
    if (err || !in_child)
        return err;
    mh__os_close(&s->socket);
    mh__os_close(&s->standby);
    if (o->child.begin)
        o->child.begin(o->child.ctx);
    mh__os_exit_child(mh__forkserver_serve(socket, standby, &o->child) ? 1 : 0);
}

static mh_forkserver *create(void)
{
    mh_forkserver *s = mh__calloc(1, sizeof *s);
    if (!s)
        return NULL;
    atomic_init(&s->references, 1);
    s->fork_depth = mh__os_fork_depth();
    s->socket = s->standby = s->pidfd = -1;
    return s;
}

mh_err mh_forkserver_start(mh_forkserver **out, const mh_forkserver_options *options)
{
    *out = NULL;
    bool spawn;
    int ends[2] = {-1, -1}, standby[2] = {-1, -1};
    mh_err err = check(options, &spawn);
    if (err)
        return err;
    mh_forkserver *s = create();
    if (!s)
        return MH_ERR_NO_MEMORY;
    err = mh__os_socketpair(ends);
    s->socket = ends[0];
    if (!err && !spawn && options->child.standby_ns > 0)
        err = mh__os_socketpair(standby);
    s->standby = standby[0];
    if (!err)
        err = spawn ? start_program(s, options, ends[1]) : start_copy(s, options, ends[1], standby[1]);
    mh__os_close(&ends[1]);
    mh__os_close(&standby[1]);
    if (err)
        mh__forkserver_release(s);
    else
        *out = s;
    return err;
}

/* ---- requests -------------------------------------------------------------------------------- */

/* A message too long for the socket goes in a memfd. */
static mh_err pack_large(mh_bytes message, int *fd)
{
    void *at = NULL;
    mh_err err = mh__os_memfd(fd, "manyhands-request", message.size);
    if (!err)
        err = mh__os_map(&at, *fd, 0, message.size, true);
    if (err) {
        mh__os_close(fd);
        return err;
    }
    memcpy(at, message.data, message.size);
    mh__os_unmap(at, message.size);
    return MH_OK;
}

static mh_err send_request(mh_forkserver *s, mh_bytes message, bool survives, int *fds, size_t fd_count, mh_deadline until)
{
    bool large = message.size > MH__REQUEST_INLINE;
    size_t inline_size = large ? 0 : message.size;
    mh__request *request = mh__alloc(sizeof *request + inline_size);
    if (!request)
        return MH_ERR_NO_MEMORY;
    *request = (mh__request){.magic = MH__FORKSERVER_MAGIC, .large = large, .survives = survives, .size = message.size};
    if (inline_size)
        memcpy(request + 1, message.data, inline_size);
    mh_err err = large ? pack_large(message, &fds[1]) : MH_OK;
    if (!err) {
        if (!large) /* the place kept for the memfd */
            memmove(fds + 1, fds + 2, (fd_count - 2) * sizeof *fds);
        mh_bytes bytes = {request, sizeof *request + inline_size};
        err = mh__os_send(s->socket, bytes, fds, fd_count - !large, until);
        if (large)
            mh__os_close(&fds[1]);
    }
    mh__free(request);
    return err;
}

static mh_err check_request(const mh_forkserver *s, const int *fds, size_t fd_count)
{
    if (is_inherited(s))
        return mh__fail(MH_ERR_FORKED, "a fork server inherited through a fork");
    if (atomic_load(&s->stopped))
        return mh__fail(MH_ERR_CLOSED, "the fork server was stopped");
    if (mh__os_wait_readable(s->pidfd, MH_NOW) == MH_OK) /* a fork meanwhile may hold a copy of its socket, which then takes requests for ever */
        return mh__fail(MH_ERR_CLOSED, "the fork server has ended");
    if (fd_count > MH_FORKSERVER_FDS_MAX)
        return mh__fail(MH_ERR_LIMIT, "%zu descriptors in one request; at most %d", fd_count, MH_FORKSERVER_FDS_MAX);
    for (size_t i = 0; i < fd_count; i++)
        if (!mh__os_is_open(fds[i]))
            return mh__fail(MH_ERR_INVALID, "descriptor %d is not open", fds[i]);
    return MH_OK;
}

static mh_err post(mh_forkserver *server, mh_bytes message, bool survives, const int *fds, size_t fd_count, mh_deadline until,
                   mh_process **out)
{
    *out = NULL;
    int ends[2] = {-1, -1}, all[2 + MH_FORKSERVER_FDS_MAX];
    mh_process *p = NULL;
    mh_err err = check_request(server, fds, fd_count);
    if (!err)
        err = mh__process_create(&p);
    if (!err)
        err = mh__os_socketpair(ends);
    if (!err) {
        p->channel = ends[0];
        p->server = server;
        p->survives = survives;
        mh__forkserver_retain(server);
        all[0] = ends[1];
        all[1] = -1;
        if (fd_count)
            memcpy(all + 2, fds, fd_count * sizeof *fds);
        err = send_request(server, message, survives, all, fd_count + 2, until);
    }
    mh__os_close(&ends[1]);
    if (err && p)
        mh__process_free(&p);
    *out = p;
    return err;
}

mh_err mh_forkserver_post(mh_forkserver *server, mh_bytes message, const int *fds, size_t fd_count, mh_deadline until,
                          mh_process **out)
{
    return post(server, message, false, fds, fd_count, until, out);
}

mh_err mh_forkserver_post_surviving(mh_forkserver *server, mh_bytes message, const int *fds, size_t fd_count, mh_deadline until,
                                    mh_process **out)
{
    return post(server, message, true, fds, fd_count, until, out);
}

mh_err mh_forkserver_fork(mh_forkserver *server, mh_bytes message, const int *fds, size_t fd_count, mh_deadline until,
                          mh_process **out)
{
    *out = NULL;
    mh_process *p = NULL;
    mh_err err = mh_forkserver_post(server, message, fds, fd_count, until, &p);
    if (!err)
        err = mh_process_await_start(p, until);
    if (err && p) {
        mh__os_hang_up(p->channel); /* should it start yet, it is killed at once */
        mh__process_free(&p);
    }
    *out = p;
    return err;
}

/* ---- notes ----------------------------------------------------------------------------------- */

static mh_err fail_start(mh_process *p, mh_err failure, int failure_errno)
{
    p->state = MH__PROCESS_FAILED;
    p->failure = failure;
    p->failure_errno = failure_errno;
    return MH_OK;
}

static void end(mh_process *p, mh_exit status)
{
    p->state = MH__PROCESS_ENDED;
    p->status = status;
}

/* The channel has hung up: the server is gone, or it had no descriptors left to receive this request with. */
static mh_err end_channel(mh_process *p)
{
    if (p->state == MH__PROCESS_POSTED) {
        bool gone = atomic_load(&p->server->stopped) ||
                    mh__os_wait_readable(p->server->pidfd, mh_deadline_in(100 * MH_MILLISECOND)) == MH_OK;
        return fail_start(p, gone ? MH_ERR_CLOSED : MH_ERR_LIMIT, 0);
    }
    if (p->state == MH__PROCESS_RUNNING)
        end(p, p->survives ? (mh_exit){.code = MH__LOST_CODE, .lost = true} : (mh_exit){.signal = SIGNAL_KILL, .lost = true});
    return MH_OK;
}

/* A note that does not fit is no answer: the channel counts as hung up. */
static mh_err apply(mh_process *p, const mh__note *note, int pidfd)
{
    if (note->magic == MH__FORKSERVER_MAGIC && note->kind == MH__NOTE_STARTED && p->state == MH__PROCESS_POSTED && pidfd >= 0) {
        atomic_store(&p->pid, note->number);
        atomic_store(&p->pidfd, pidfd);
        p->state = MH__PROCESS_RUNNING;
        return MH_OK;
    }
    mh__os_close(&pidfd);
    if (note->magic == MH__FORKSERVER_MAGIC && note->kind == MH__NOTE_STARTED && p->state == MH__PROCESS_RUNNING &&
        note->number == atomic_load(&p->pid))
        return MH_OK; /* both a child that was killed just then and its server have told */
    if (note->magic == MH__FORKSERVER_MAGIC && note->kind == MH__NOTE_FAILED && p->state == MH__PROCESS_POSTED)
        return fail_start(p, note->number ? (mh_err)note->number : MH_ERR_SYSTEM, note->detail);
    if (note->magic == MH__FORKSERVER_MAGIC && note->kind == MH__NOTE_ENDED && p->state == MH__PROCESS_RUNNING) {
        end(p, (mh_exit){.code = note->number, .signal = note->detail, .core = note->core});
        return MH_OK;
    }
    mh__os_hang_up(p->channel);
    return end_channel(p);
}

mh_err mh__forkserver_take_note(mh_process *p)
{
    if (p->state != MH__PROCESS_POSTED && p->state != MH__PROCESS_RUNNING)
        return MH_OK;
    mh__note note;
    size_t size = 0, fd_count = 0;
    int fds[MH__OS_FDS_MAX];
    bool server_ended = mh__os_wait_readable(p->server->pidfd, MH_NOW) == MH_OK; /* asked first: then no note can come later */
    mh_err err = mh__os_receive(p->channel, &note, sizeof note, &size, fds, &fd_count, MH_NOW);
    if (err == MH_ERR_CLOSED || (err == MH_ERR_TIMEOUT && server_ended))
        return end_channel(p);
    if (err == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED)
        return err;
    for (size_t i = 1; !err && i < fd_count; i++)
        mh__os_close(&fds[i]);
    if (!err && size == sizeof note)
        return apply(p, &note, fd_count ? fds[0] : -1);
    /* this process has no room for the pidfd (or the note is not one): the server kills the child when the channel hangs up */
    if (!err && fd_count)
        mh__os_close(&fds[0]);
    mh__os_hang_up(p->channel);
    return p->state == MH__PROCESS_POSTED ? fail_start(p, MH_ERR_LIMIT, 0) : end_channel(p);
}

mh_err mh__forkserver_await_note(const mh_process *p, mh_deadline until)
{
    mh_err err = mh__os_wait_either(p->channel, p->server->pidfd, mh__os_sooner(until, RECHECK_NS));
    return err == MH_ERR_TIMEOUT ? MH_OK : err;
}

void mh__forkserver_detach(mh_process *p)
{
    const mh__note note = {.magic = MH__FORKSERVER_MAGIC, .kind = MH__NOTE_DETACH};
    mh_err err = mh__os_send(p->channel, (mh_bytes){&note, sizeof note}, NULL, 0, MH_NOW);
    (void)err; /* the server is gone, and the child with it */
}

/* ---- watch and stop -------------------------------------------------------------------------- */

int32_t mh_forkserver_pid(const mh_forkserver *server) { return is_inherited(server) ? -1 : server->pid; }
int mh_forkserver_sentinel(const mh_forkserver *server) { return is_inherited(server) ? -1 : server->pidfd; }

void mh_forkserver_stop(mh_forkserver *server)
{
    if (!is_inherited(server) && !atomic_exchange(&server->stopped, true))
        mh__os_hang_up(server->socket); /* unlike closing, this reaches the server though forks may hold copies */
}

mh_err mh_forkserver_replace(mh_forkserver **server)
{
    mh_forkserver *old = *server;
    mh__note note = {0};
    size_t size = 0, count = 0;
    int fds[MH__OS_FDS_MAX];
    if (is_inherited(old) || old->standby < 0)
        return mh__fail(MH_ERR_CLOSED, "the fork server has no standby");
    mh_err err = mh__os_receive(old->standby, &note, sizeof note, &size, fds, &count, MH_NOW);
    bool is_there = !err && size == sizeof note && note.magic == MH__FORKSERVER_MAGIC && note.kind == MH__NOTE_STANDBY && count == 1;
    mh_forkserver *s = is_there ? create() : NULL;
    if (!s) {
        for (size_t i = 0; !err && i < count; i++)
            mh__os_close(&fds[i]);
        return mh__fail(MH_ERR_CLOSED, "the fork server's standby was not there yet");
    }
    s->pid = note.number;
    s->pidfd = fds[0];
    s->socket = old->standby;
    old->standby = -1;
    mh_forkserver_destroy(server);
    *server = s;
    return MH_OK;
}

/* Wait for the pidfd whatever signals come in. */
static mh_err await_end(int pidfd, mh_deadline until)
{
    mh_err err;
    do
        err = mh__os_wait_readable(pidfd, until);
    while (err == MH_ERR_INTERRUPTED);
    return err;
}

void mh_forkserver_destroy(mh_forkserver **out)
{
    mh_forkserver *s = *out;
    *out = NULL;
    if (!s)
        return;
    if (!is_inherited(s)) {
        mh__end end;
        mh_forkserver_stop(s);
        if (await_end(s->pidfd, mh_deadline_in(PATIENCE_NS)) && !mh__os_pidfd_signal(s->pidfd, SIGNAL_KILL))
            (void)await_end(s->pidfd, mh_deadline_in(PATIENCE_NS));
        (void)mh__os_reap(s->pidfd, &end);
        mh__os_close(&s->socket);
        if (s->standby >= 0)
            mh__os_hang_up(s->standby);
    }
    mh__forkserver_release(s);
}
