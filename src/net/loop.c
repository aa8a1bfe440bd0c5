#include "net/loop_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"

#include <errno.h>
#include <zmq.h>

enum { TAGS = 32, CONTEXT_SOCKETS = 4096 };

/* ---- life ------------------------------------------------------------------------------------ */

static void bury(mh__loop *l)
{
    for (mh__list *node; (node = mh__list_pop_front(&l->closed));) {
        mh__source *s = mh__list_entry(node, mh__source, link);
        s->destroy(s);
    }
}

mh_err mh__loop_create(mh__loop **out)
{
    *out = NULL;
    mh__loop *l = mh__calloc(1, sizeof *l);
    if (!l)
        return MH_ERR_NO_MEMORY;
    mh__list_init(&l->sources);
    mh__list_init(&l->closed);
    mh__list_init(&l->touched);
    mh_err err = mh__os_poller_open(&l->poller);
    if (err) {
        mh__free(l);
        return err;
    }
    l->context = zmq_ctx_new();
    if (!l->context) {
        err = mh__fail_os(errno, "a ZeroMQ context");
        mh__os_close(&l->poller);
        mh__free(l);
        return err;
    }
    zmq_ctx_set(l->context, ZMQ_MAX_SOCKETS, CONTEXT_SOCKETS);
    *out = l;
    return MH_OK;
}

void mh__loop_destroy(mh__loop **l)
{
    if (!*l)
        return;
    while (!mh__list_is_empty(&(*l)->sources))
        mh__source_close(*l, mh__list_entry((*l)->sources.next, mh__source, link));
    while (zmq_ctx_term((*l)->context) < 0 && errno == EINTR)
        continue;
    mh__os_close(&(*l)->poller);
    mh__free(*l);
    *l = NULL;
}

/* ---- sources --------------------------------------------------------------------------------- */

mh_err mh__source_add(mh__loop *l, mh__source *s)
{
    mh_err err = mh__os_poller_add(l->poller, s->fd, (uint64_t)(uintptr_t)s);
    if (err)
        return err;
    mh__list_init(&s->touched);
    mh__list_push_back(&l->sources, &s->link);
    if (s->look)
        mh__source_touch(l, s);
    return MH_OK;
}

void mh__source_close(mh__loop *l, mh__source *s)
{
    mh__os_poller_remove(l->poller, s->fd);
    mh__list_remove(&s->touched);
    mh__list_remove(&s->link);
    mh__list_push_back(&l->closed, &s->link);
    s->is_closed = true;
    if (!l->is_dispatching)
        bury(l);
}

void mh__source_touch(mh__loop *l, mh__source *s)
{
    if (mh__list_is_empty(&s->touched) && !s->is_closed)
        mh__list_push_back(&l->touched, &s->touched);
}

typedef struct fd_source {
    mh__source base;
    mh__fd_fn fn;
    void *ctx;
} fd_source;

static void run_fd(mh__source *s)
{
    fd_source *f = (fd_source *)s;
    f->fn(s->fd, f->ctx);
}

static void destroy_fd(mh__source *s) { mh__free(s); }

mh_err mh__loop_add_fd(mh__loop *l, int fd, mh__fd_fn fn, void *ctx)
{
    fd_source *f = mh__calloc(1, sizeof *f);
    if (!f)
        return MH_ERR_NO_MEMORY;
    f->base = (mh__source){.fd = fd, .run = run_fd, .destroy = destroy_fd};
    f->fn = fn;
    f->ctx = ctx;
    mh_err err = mh__source_add(l, &f->base);
    if (err)
        mh__free(f);
    return err;
}

void mh__loop_remove_fd(mh__loop *l, int fd)
{
    for (mh__list *node = l->sources.next; node != &l->sources; node = node->next) {
        mh__source *s = mh__list_entry(node, mh__source, link);
        if (s->run == run_fd && s->fd == fd) {
            mh__source_close(l, s);
            return;
        }
    }
}

/* ---- timers ---------------------------------------------------------------------------------- */

void mh__alarm_clear(mh__loop *l, mh__alarm *t)
{
    if (!t->is_set)
        return;
    mh__alarm **at = &l->timers;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    t->is_set = false;
}

void mh__alarm_set(mh__loop *l, mh__alarm *t, mh_deadline at)
{
    mh__alarm_clear(l, t);
    mh__alarm **place = &l->timers;
    while (*place && (*place)->at <= at)
        place = &(*place)->next;
    t->at = at;
    t->next = *place;
    t->is_set = true;
    *place = t;
}

static void run_timers(mh__loop *l)
{
    int64_t now = l->timers ? mh_now() : 0;
    while (l->timers && l->timers->at <= now) { /* what a timer sets to before `now` runs too; what is set anew to later doesn't */
        mh__alarm *t = l->timers;
        mh__alarm_clear(l, t);
        t->fn(t->ctx);
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* A socket's descriptor tells of commands to the socket, not of messages, and any call on the socket may have taken those
 * commands: so each one that was used is asked before the loop sleeps. */
static bool look_at_touched(mh__loop *l)
{
    bool any = false;
    for (mh__list *node; (node = mh__list_pop_front(&l->touched));) {
        mh__source *s = mh__list_entry(node, mh__source, touched);
        s->is_ready = s->look(s);
        any |= s->is_ready;
    }
    return any;
}

mh_err mh__loop_wait(mh__loop *l, mh_deadline until)
{
    uint64_t tags[TAGS];
    size_t count;
    mh_deadline timer = l->timers ? l->timers->at : MH_FOREVER;
    bool is_ready = look_at_touched(l);
    mh_err err = mh__os_poller_wait(l->poller, tags, TAGS, &count, is_ready ? MH_NOW : MH__MIN(until, timer));
    for (size_t i = 0; i < count; i++) {
        mh__source *s = (mh__source *)(uintptr_t)tags[i];
        if (!s->is_ready)
            s->is_ready = !s->look || s->look(s);
    }
    return err == MH_ERR_TIMEOUT && (is_ready || timer <= until) ? MH_OK : err;
}

void mh__loop_dispatch(mh__loop *l)
{
    l->is_dispatching = true;
    run_timers(l);
    for (mh__list *node = l->sources.next, *next; node != &l->sources; node = next) {
        mh__source *s = mh__list_entry(node, mh__source, link);
        if (s->is_ready) {
            s->is_ready = false;
            s->run(s);
        }
        /* what run closed, this one included, is in another list; its neighbours may be too: then begin again */
        next = s->is_closed ? l->sources.next : node->next;
    }
    l->is_dispatching = false;
    bury(l);
}
