/* The server's half of a fork server: one thread, one loop. */
#include "base/error.h"
#include "base/list.h"
#include "base/memory.h"
#include "os/fd.h"
#include "os/memory.h"
#include "proc/forkserver.h"
#include "proc/process.h"

enum { SIGNAL_KILL = 9 };

/* Tags of the poller: these two, or a kid's address for its pidfd and the next odd number for its channel. */
enum { TAG_SOCKET = 0, TAG_STARTER = 1 };

/* Shared between the server and a kid, who alone sets both. */
typedef struct said {
    _Atomic unsigned char survives; /* do not kill it when all ends */
    _Atomic unsigned char started;  /* its starter knows it */
} said;

typedef struct kid {
    mh__list node; /* in server.kids, but for a spare */
    int32_t pid;
    int pidfd, channel;
    bool detached; /* the end of its channel means nothing */
    said *said;
} kid;

/* In a kid: its own, and what mh__os_fork_depth() is for it and not for its children. */
static said *own;
static unsigned own_depth;

typedef struct server {
    int socket, poller, starter; /* starter: pidfd of the process that we serve */
    mh__list kids;
    const mh_forkserver_child *child;
    mh__request *request; /* room for one, with its message */
    kid *spare;           /* forked ahead of need: it waits for its order at the other end of spare_socket. NULL: none */
    int spare_socket;
    bool wants_spare;     /* as soon as there is nothing else to do */
    int standby;          /* on which a copy of this process will serve when this one was killed; -1: that is there, or not wanted */
    mh_deadline standby_at;
} server;

/* What one request brought. */
typedef struct order {
    mh_bytes message;
    void *mapped; /* a large message's memory */
    int fds[MH__OS_FDS_MAX];
    size_t fd_count; /* fds[0] is the channel, and fds[first..fd_count) are the child's */
    size_t first;
} order;

/* ---- kids ------------------------------------------------------------------------------------ */

/* The starter may be gone, in which case we hear of it elsewhere. */
static void send_note(int channel, mh__note note, const int *fd)
{
    note.magic = MH__FORKSERVER_MAGIC;
    mh_err err = mh__os_send(channel, (mh_bytes){&note, sizeof note}, fd, fd != NULL, MH_NOW);
    (void)err;
}

/* A spare does this itself, once it is ready to be waited for and sent signals, unless it has ended before. */
static void tell_start(kid *k)
{
    if (!k->said->started)
        send_note(k->channel, (mh__note){.kind = MH__NOTE_STARTED, .number = k->pid}, &k->pidfd);
    k->said->started = 1;
}

static kid *make_kid(int channel)
{
    void *shared;
    kid *k = mh__calloc(1, sizeof *k);
    if (k && mh__os_map(&shared, -1, 0, sizeof(said), true)) {
        mh__free(k);
        k = NULL;
    }
    if (k) {
        mh__list_init(&k->node);
        k->pidfd = -1;
        k->channel = channel;
        k->said = shared;
    }
    return k;
}

static void free_kid(kid *k)
{
    mh__os_unmap(k->said, sizeof(said));
    mh__free(k);
}

static void drop_kid(server *s, kid *k)
{
    mh__os_poller_remove(s->poller, k->pidfd);
    if (!k->detached)
        mh__os_poller_remove(s->poller, k->channel);
    mh__os_close(&k->pidfd);
    mh__os_close(&k->channel);
    mh__list_remove(&k->node);
    free_kid(k);
}

static void reap_kid(server *s, kid *k)
{
    mh__end end = {0};
    if (mh__os_reap(k->pidfd, &end) == MH_ERR_TIMEOUT)
        return;
    if (k == s->spare) { /* somebody killed it; the next request has another made */
        s->spare = NULL;
        mh__os_close(&s->spare_socket);
    }
    tell_start(k);
    send_note(k->channel, (mh__note){.kind = MH__NOTE_ENDED, .number = end.code, .detail = end.signal, .core = end.core}, NULL);
    drop_kid(s, k);
}

/* Its owner detached it, or destroyed its handle, or has no descriptors to hold it with. */
static void heed_channel(server *s, kid *k)
{
    mh__note note = {0};
    size_t size = 0;
    mh_err err = mh__os_receive(k->channel, &note, sizeof note, &size, NULL, NULL, MH_NOW);
    if (err == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED)
        return;
    if (!k->said->survives && (err || size != sizeof note || note.kind != MH__NOTE_DETACH))
        (void)mh__os_pidfd_signal(k->pidfd, SIGNAL_KILL);
    mh__os_poller_remove(s->poller, k->channel);
    k->detached = true;
}

/* Leave no child behind but those who want to stay. */
static void end_kids(server *s)
{
    mh__list *at, *next;
    for (at = s->kids.next; at != &s->kids; at = next) {
        kid *k = mh__list_entry(at, kid, node);
        next = at->next;
        if (k->said->survives)
            drop_kid(s, k);
        else
            (void)mh__os_pidfd_signal(k->pidfd, SIGNAL_KILL);
    }
    while (!mh__list_is_empty(&s->kids)) {
        kid *k = mh__list_entry(s->kids.next, kid, node);
        (void)mh__os_wait_readable(k->pidfd, mh_deadline_in(MH_SECOND));
        reap_kid(s, k);
        if (s->kids.next == &k->node) /* stuck in the kernel: killed as soon as it leaves it */
            drop_kid(s, k);
    }
}

/* ---- the child's first steps ----------------------------------------------------------------- */

static void forget_server(server *s)
{
    mh__list *at;
    mh__os_close(&s->socket);
    mh__os_close(&s->poller);
    mh__os_close(&s->starter);
    mh__os_close(&s->spare_socket);
    mh__os_close(&s->standby);
    if (s->spare)
        mh__os_close(&s->spare->pidfd);
    for (at = s->kids.next; at != &s->kids; at = at->next) {
        kid *k = mh__list_entry(at, kid, node);
        mh__os_close(&k->pidfd);
        mh__os_close(&k->channel);
    }
}

void mh__forkserver_note_survival(void)
{
    if (own && own_depth == mh__os_fork_depth())
        own->survives = 1;
}

static _Noreturn void be_child(server *s, const kid *k, order *o)
{
    own = k->said;
    own_depth = mh__os_fork_depth();
    forget_server(s);
    mh__os_close(&o->fds[0]);
    if (o->mapped)
        mh__os_close(&o->fds[1]);
    mh__os_exit_child(s->child->entry(o->message, o->fds + o->first, o->fd_count - o->first, s->child->ctx));
}

/* ---- requests -------------------------------------------------------------------------------- */

static void close_order(order *o)
{
    if (o->mapped)
        mh__os_unmap(o->mapped, o->message.size);
    for (size_t i = 0; i < o->fd_count; i++)
        mh__os_close(&o->fds[i]);
}

static mh_err map_large(order *o, uint64_t size)
{
    size_t there = 0;
    mh_err err = mh__os_fd_size(o->fds[1], &there);
    if (!err && (size == 0 || size > there))
        err = mh__fail(MH_ERR_CORRUPT, "a message of %zu bytes in %zu", (size_t)size, there);
    if (!err)
        err = mh__os_map_private(&o->mapped, o->fds[1], 0, size);
    if (!err)
        o->message = (mh_bytes){o->mapped, size};
    return err;
}

/* errors: CLOSED the starter hung up; EMPTY nothing usable came. */
static mh_err receive_order(server *s, order *o)
{
    mh__request *r = s->request;
    size_t size = 0;
    *o = (order){0};
    mh_err err = mh__os_receive(s->socket, r, sizeof *r + MH__REQUEST_INLINE, &size, o->fds, &o->fd_count, MH_NOW);
    if (err == MH_ERR_CLOSED)
        return err;
    if (err) /* TOO_LARGE: no descriptors left; its channel was closed, which tells the starter */
        return MH_ERR_EMPTY;
    bool sound = size >= sizeof *r && r->magic == MH__FORKSERVER_MAGIC && r->large <= 1 && r->survives <= 1 && o->fd_count >= (size_t)1 + r->large &&
                 (r->large ? size == sizeof *r : size - sizeof *r == r->size);
    if (!sound) {
        close_order(o);
        return mh__fail(MH_ERR_CORRUPT, "a request of %zu bytes that this version does not understand", size);
    }
    o->first = 1 + r->large;
    o->message = (mh_bytes){r + 1, (size_t)r->size};
    return MH_OK;
}

static mh_err watch_end(server *s, kid *k) { return mh__os_poller_add(s->poller, k->pidfd, (uint64_t)(uintptr_t)k); }
static mh_err watch_channel(server *s, kid *k) { return mh__os_poller_add(s->poller, k->channel, (uint64_t)(uintptr_t)k | 1); }

/* A child that nobody is to hear of. */
static void put_down(server *s, kid *k)
{
    (void)mh__os_pidfd_signal(k->pidfd, SIGNAL_KILL);
    (void)mh__os_wait_readable(k->pidfd, mh_deadline_in(MH_SECOND));
    k->detached = true;
    mh__end end;
    (void)mh__os_reap(k->pidfd, &end);
    drop_kid(s, k);
}

/* ---- the spare ------------------------------------------------------------------------------- */

/* From the fork to the order: all that a child must do anyway. It dies with the server, and holds nothing of it. */
static _Noreturn void be_spare(server *s, const kid *k, int socket)
{
    order o = {0};
    mh_err err;
    forget_server(s);
    s->socket = socket;
    if (s->child->warm)
        s->child->warm(s->child->ctx);
    do {
        err = mh__os_wait_readable(s->socket, MH_FOREVER);
        if (!err)
            err = receive_order(s, &o);
    } while (err == MH_ERR_INTERRUPTED || err == MH_ERR_EMPTY);
    if (!err && s->request->survives)
        err = mh__os_survive_parent();
    if (!err && !s->child->ignore_interrupt)
        mh__os_restore_interrupt();
    kid me = {.pid = mh__os_pid(), .pidfd = -1, .channel = o.fds[0], .said = k->said};
    if (!err)
        err = mh__os_pidfd_open(me.pid, &me.pidfd);
    if (err) /* mostly: the server has no use for it any more */
        mh__os_exit_child(1);
    tell_start(&me);
    mh__os_close(&me.pidfd);
    be_child(s, k, &o);
}

/* One try: if it fails, or the spare is killed, children are forked when they are asked for. */
static void fork_spare(server *s)
{
    const mh__child_setup setup = {.keep_mask = true, .keep_handlers = true};
    int ends[2] = {-1, -1};
    bool in_child = false;
    kid *k = make_kid(-1);
    s->wants_spare = false;
    if (!k)
        return;
    k->detached = true;
    mh_err err = mh__os_socketpair(ends);
    if (!err)
        err = mh__fork(&setup, &k->pid, &k->pidfd, &in_child);
    if (in_child) {
        mh__os_close(&ends[0]);
        be_spare(s, k, ends[1]);
    }
    mh__os_close(&ends[1]);
    if (err) {
        mh__os_close(&ends[0]);
        free_kid(k);
    } else if (watch_end(s, k)) {
        mh__os_close(&ends[0]);
        put_down(s, k);
    } else {
        s->spare = k;
        s->spare_socket = ends[0];
    }
}

/* The process that serves when this one was killed: it has forked nobody, and runs nothing of anybody's until then. It watches the starter by
 * itself. One try: without it, nobody replaces the server. */
static void fork_standby(server *s)
{
    const mh__child_setup setup = {.keep_mask = true, .keep_handlers = true, .survive_parent = true};
    int socket = s->standby;
    bool in_child = false;
    s->standby = -1;
    kid *k = make_kid(-1);
    mh_err err = k ? mh__fork_image(&setup, &k->pid, &k->pidfd, &in_child) : MH_ERR_NO_MEMORY;
    if (in_child) {
        forget_server(s);
        mh__note note = {.kind = MH__NOTE_STANDBY, .number = mh__os_pid()};
        int self;
        if (!mh__os_pidfd_open(note.number, &self)) {
            send_note(socket, note, &self);
            mh__os_close(&self);
            err = mh__forkserver_serve(socket, -1, s->child);
        }
        mh__os_exit_child(err ? 1 : 0);
    }
    mh__os_close(&socket);
    if (err) {
        if (k)
            free_kid(k);
        return;
    }
    k->detached = true;
    mh__list_push_back(&s->kids, &k->node);
    if (watch_end(s, k))
        put_down(s, k);
}

/* The spare as the kid that `o` asks for; NULL: it takes a fork. */
static kid *send_spare(server *s, const order *o)
{
    kid *k = s->spare;
    s->wants_spare = s->child->spare;
    if (!k || s->request->large)
        return NULL;
    mh_bytes message = {s->request, sizeof *s->request + o->message.size};
    k->said->survives = (unsigned char)s->request->survives;
    mh_err err = mh__os_send(s->spare_socket, message, o->fds, o->fd_count, MH_NOW);
    s->spare = NULL;
    mh__os_close(&s->spare_socket);
    if (err) { /* it is dead or as good as dead */
        put_down(s, k);
        return NULL;
    }
    k->channel = o->fds[0];
    k->detached = false;
    return k;
}

/* ---- the child ------------------------------------------------------------------------------- */

/* A fresh fork for `o`. */
static mh_err fork_kid(server *s, order *o, kid **out)
{
    mh__child_setup setup = {.keep_mask = true,
                             .keep_handlers = true,
                             .restore_interrupt = !s->child->ignore_interrupt,
                             .survive_parent = s->request->survives};
    bool in_child;
    kid *k = make_kid(o->fds[0]);
    if (!k)
        return MH_ERR_NO_MEMORY;
    k->said->survives = (unsigned char)s->request->survives;
    mh_err err = mh__fork(&setup, &k->pid, &k->pidfd, &in_child);
    if (err) {
        free_kid(k);
        return err;
    }
    if (in_child)
        be_child(s, k, o);
    err = watch_end(s, k);
    if (err) {
        k->channel = -1; /* which still has to tell of the failure */
        put_down(s, k);
        return err;
    }
    *out = k;
    return MH_OK;
}

/* Have the child that `o` asks for. Its channel belongs to the kid afterwards. */
static mh_err start_kid(server *s, order *o)
{
    kid *k = send_spare(s, o);
    bool spared = k;
    mh_err err = k ? MH_OK : fork_kid(s, o, &k);
    if (!err)
        err = watch_channel(s, k);
    if (err && k) {
        k->channel = -1;
        put_down(s, k);
    }
    if (err)
        return err;
    o->fds[0] = -1;
    mh__list_push_back(&s->kids, &k->node);
    if (!spared)
        tell_start(k);
    return MH_OK;
}

static mh_err serve_request(server *s)
{
    order o;
    mh_err err = receive_order(s, &o);
    if (err)
        return err == MH_ERR_EMPTY ? MH_OK : err;
    if (s->request->large)
        err = map_large(&o, s->request->size);
    if (!err)
        err = start_kid(s, &o);
    if (err)
        send_note(o.fds[0], (mh__note){.kind = MH__NOTE_FAILED, .number = (int32_t)err, .detail = mh_err_errno()}, NULL);
    close_order(&o);
    return MH_OK;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static mh_err open_server(server *s, int socket, int standby, const mh_forkserver_child *child)
{
    int32_t starter;
    *s = (server){.socket = socket, .poller = -1, .starter = -1, .child = child, .spare_socket = -1, .wants_spare = child->spare,
                  .standby = standby, .standby_at = mh_deadline_in(child->standby_ns)};
    mh__list_init(&s->kids);
    if (!mh__os_is_main_thread())
        return mh__fail(MH_ERR_INVALID, "a fork server serves from its process's main thread: its children would die with any other");
    mh_err err = mh__os_peer_pid(socket, &starter);
    if (!err)
        err = mh__os_set_inherit(socket, false);
    if (err)
        return err;
    mh__os_spare_interrupt();
    s->request = mh__alloc(sizeof *s->request + MH__REQUEST_INLINE);
    err = s->request ? mh__os_poller_open(&s->poller) : MH_ERR_NO_MEMORY;
    if (!err)
        err = mh__os_pidfd_open(starter, &s->starter);
    if (!err)
        err = mh__os_poller_add(s->poller, s->starter, TAG_STARTER);
    if (!err)
        err = mh__os_poller_add(s->poller, socket, TAG_SOCKET);
    return err == MH_ERR_EXITED ? MH_ERR_CLOSED : err;
}

static void close_server(server *s)
{
    if (s->spare)
        put_down(s, s->spare);
    mh__os_close(&s->spare_socket);
    mh__os_close(&s->standby);
    end_kids(s);
    mh__os_close(&s->poller);
    mh__os_close(&s->starter);
    mh__free(s->request);
}

static mh_err handle(server *s, uint64_t tag)
{
    kid *k = (kid *)(uintptr_t)(tag & ~UINT64_C(1)); /* NULL for the first two */
    if (tag == TAG_SOCKET)
        return serve_request(s);
    if (tag == TAG_STARTER)
        return MH_ERR_CLOSED;
    if (tag & 1)
        heed_channel(s, k);
    else
        reap_kid(s, k);
    return MH_OK;
}

/* With nothing to do it makes a spare and a standby, if it is to have them. One event at a time: handling one may free the kid that the next is about. */
static mh_err next_event(server *s, uint64_t *tag)
{
    size_t count;
    if (s->wants_spare && !s->spare) {
        mh_err err = mh__os_poller_wait(s->poller, tag, 1, &count, MH_NOW);
        if (err != MH_ERR_TIMEOUT)
            return err;
        fork_spare(s);
    }
    if (s->standby >= 0) {
        mh_err err = mh__os_poller_wait(s->poller, tag, 1, &count, s->standby_at);
        if (err != MH_ERR_TIMEOUT)
            return err;
        fork_standby(s);
    }
    return mh__os_poller_wait(s->poller, tag, 1, &count, MH_FOREVER);
}

mh_err mh_forkserver_serve(int socket, const mh_forkserver_child *child) { return mh__forkserver_serve(socket, -1, child); }

mh_err mh__forkserver_serve(int socket, int standby, const mh_forkserver_child *child)
{
    server s;
    mh_err err = open_server(&s, socket, standby, child);
    while (!err) {
        uint64_t tag;
        err = next_event(&s, &tag);
        if (!err)
            err = handle(&s, tag);
        else if (err == MH_ERR_INTERRUPTED)
            err = MH_OK;
    }
    close_server(&s);
    return err == MH_ERR_CLOSED ? MH_OK : err;
}
