/* The fast lane of the controller: peers of ours on this host send and get balanced tasks and their results as records of a unix socket (net/lane.h). Records
 * become the messages that the stock lane carries, and the other way round, at the edge of the controller: behind it nobody knows by which lane a message came or
 * goes. So scheduling, history, dependencies and what is written down are the same, and every pair of lanes fits.
 *
 * Requests that came in brief, without the text of a message, stay so (job->brief) until somebody asks for the message: an engine or a client by the stock lane, a
 * query, the task log. Engines answer them by a slot and the token of the attempt.
 *
 * What does not fit into the lane (large, or many buffers), or comes when there is no room in it, goes by the stock lane, which every peer has too. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "net/lane.h"
#include "net/lent.h"
#include "os/fd.h"
#include "os/file.h"
#include "os/unix.h"

#include <stdio.h>
#include <string.h>

enum {
    LENT_TO_ENGINE = 16, /* requests that wait at an engine: it gets buffers of more as bytes, for which sockets have a bound */
    PEERS_MAX = 1024,   /* connections; who comes when there are more uses the stock lane */
    TASKS_FIRST = 2,    /* that an engine may hold before it is known how long they take it; */
    TASKS_MAX = 1024,   /* and as long as they take QUEUE_NS together. What waits there too long is asked back (MH_SCHED_REVOKE) */
};
#define QUEUE_NS (5 * MH_MILLISECOND)
/* An engine whose lane ended and that is still registered after this is sent its tasks again by the stock lane. */
#define ORPHAN_NS MH_SECOND
/* A lane is first used when nothing is on its way by the stock lane, which it could overtake; but at the latest after this. */
#define FIRST_USE_NS MH_SECOND

typedef struct mh__fast_peer {
    mh_controller *controller;
    mh__list link; /* in fast->peers */
    mh__lane *lane;
    mh__name name;       /* clients: in fast->clients */
    mh__engine *engine;  /* engines */
    bool is_client, is_dirty, is_brief, borrows; /* is_brief: it understands TASK and DONE; borrows: and LEND */
    mh__list dirty;
    char identity[MH__WIRE_ID_MAX + 1];
    char user[MH__FAST_USER_MAX + 1];
} mh__fast_peer;

/* By which an engine names a task in its answer. */
typedef struct slot {
    mh__job *job; /* NULL: free */
    uint32_t next_free;
} slot;

typedef struct mh__fast {
    int listener;
    mh__list peers, dirty;
    size_t peer_count;
    mh__names clients;
    mh__parcel *in; /* what a record becomes */
    mh__alarm orphans;
    mh__lents *lents;
    slot *slots; /* the first is not used */
    uint32_t slot_count, slot_capacity, first_free;
} mh__fast;

/* ---- peers ----------------------------------------------------------------------------------- */

static mh__fast_peer *find_client(const mh_controller *c, mh_bytes identity)
{
    mh__name *node = c->fast->clients.count ? mh__names_find(&c->fast->clients, identity) : NULL;
    return node ? mh__name_entry(node, mh__fast_peer, name) : NULL;
}

static void forget(mh__fast_peer *p)
{
    mh_controller *c = p->controller;
    if (p->is_client)
        mh__names_remove(&c->fast->clients, &p->name);
    if (p->engine) {
        p->engine->fast = NULL;
        (void)!mh_sched_worker_resize(c->sched, p->engine->worker, c->options.high_water ? c->options.high_water : UINT32_MAX);
        (void)!mh_sched_worker_keep(c->sched, p->engine->worker, true);
        p->engine->task_ns = 0;
        if (!c->fast->orphans.is_set)
            mh__alarm_set(c->loop, &c->fast->orphans, mh_deadline_in(ORPHAN_NS));
    }
    mh__list_remove(&p->link);
    mh__list_remove(&p->dirty);
    c->fast->peer_count--;
    mh__lane_close(&p->lane);
    mh__free(p);
}

static void on_end(mh__lane *l, const char *why, void *ctx)
{
    mh__fast_peer *p = ctx;
    (void)l;
    mh__log(p->controller, MH_LOG_DEBUG, "the fast lane of %s ended: %s", *p->identity ? p->identity : "somebody", why);
    forget(p);
}

void mh__fast_engine_gone(mh_controller *c, mh__engine *e)
{
    (void)c;
    if (e->fast)
        e->fast->engine = NULL; /* its end will be read */
    e->fast = NULL;
}

/* Tasks that went into a lane which is not there any more may have been lost in it. */
static void rescue(mh_controller *c, mh__engine *e)
{
    for (mh__list *node = e->tasks.next, *next; e->lost_fast && node != &e->tasks; node = next) {
        next = node->next;
        mh__tasks_revoked(c, mh__list_entry(node, mh__job, place), true);
    }
    e->lost_fast = false;
}

/* Engines that have died were noticed before. */
static void rescue_orphans(void *ctx)
{
    mh_controller *c = ctx;
    for (mh__list *node = c->engines.next; node != &c->engines; node = node->next) {
        mh__engine *e = mh__list_entry(node, mh__engine, link);
        if (!e->fast)
            rescue(c, e);
    }
}

/* Unless the user has said how many. */
static void set_capacity(mh_controller *c, mh__engine *e, uint32_t capacity)
{
    if (c->options.high_water_set)
        return;
    e->capacity = capacity;
    (void)!mh_sched_worker_resize(c->sched, e->worker, capacity);
}

static void note_duration(mh_controller *c, mh__engine *e, int64_t ns)
{
    if (ns <= 0)
        return;
    e->task_ns = e->task_ns ? e->task_ns + (ns - e->task_ns) / 8 : ns;
    uint32_t capacity = (uint32_t)MH__MIN(QUEUE_NS / MH__MAX(e->task_ns, INT64_C(1)) + 1, (int64_t)TASKS_MAX);
    if (capacity > e->capacity + e->capacity / 4 || capacity < e->capacity - e->capacity / 4)
        set_capacity(c, e, capacity);
}

/* Of a client the user's name belongs to what it says in brief. */
static void agree_on_brief(mh__fast_peer *p, const mh__fast_record *r)
{
    mh_bytes user = r->frame_count ? r->parts[r->ident_count] : (mh_bytes){"", 0};
    p->is_brief = r->flags & MH__FAST_BRIEF;
    p->borrows = r->flags & MH__FAST_BORROWS;
    if (p->engine)
        return;
    p->is_brief &= mh__fast_is_plain(user, MH__FAST_USER_MAX) && mh__fast_is_plain(p->name.key, MH__FAST_CLIENT_MAX);
    if (p->is_brief)
        snprintf(p->user, sizeof p->user, "%.*s", (int)user.size, (const char *)user.data);
}

static void welcome(mh__fast_peer *p, const mh__fast_record *r)
{
    agree_on_brief(p, r);
    bool may_lend = !p->controller->session.is_strict; /* else messages bear the digests of their buffers */
    uint8_t flags = (uint8_t)((may_lend ? MH__FAST_BORROWS : 0) | (p->is_brief ? MH__FAST_BRIEF : 0));
    p->is_dirty = mh__lane_add(p->lane, &(mh__fast_record){.kind = MH__FAST_WELCOME, .flags = flags}) == MH_OK;
    (void)mh__lane_flush(p->lane);
}

static void take_hello(mh__fast_peer *p, const mh__fast_record *r)
{
    mh_controller *c = p->controller;
    if (*p->identity || r->ident_count != 1 || !r->parts[0].size)
        return;
    snprintf(p->identity, sizeof p->identity, "%.*s", (int)r->parts[0].size, (const char *)r->parts[0].data);
    mh_bytes identity = mh__text(p->identity);
    if (r->flags & MH__FAST_ENGINE) {
        mh__engine *e = mh__engine_find(c, identity);
        if (!e || e->fast)
            return; /* it asks again */
        rescue(c, e);
        p->engine = e;
        e->fast = p;
        e->lane_at = mh_now();
    } else {
        if (find_client(c, identity))
            return;
        p->name.key = identity;
        if (mh__names_add(&c->fast->clients, &p->name))
            return;
        p->is_client = true;
    }
    welcome(p, r);
}

/* ---- records become messages ----------------------------------------------------------------- */

static mh_err add_frames(mh__parcel *p, const mh_bytes *frames, size_t count)
{
    mh_err err = MH_OK;
    for (size_t i = 0; i < count && !err; i++)
        err = mh__parcel_add(p, frames[i]);
    return err;
}

static const mh_bytes no_signature[] = {{MH__WIRE_DELIMITER, sizeof MH__WIRE_DELIMITER - 1}, {"", 0}};

static void take_request(mh__fast_peer *p, const mh__fast_record *r)
{
    mh_controller *c = p->controller;
    mh__parcel *in = c->fast->in;
    mh__incoming incoming;
    if (!p->is_client || r->ident_count || r->frame_count < 4)
        return;
    mh__parcel_clear(in);
    mh_err err = mh__parcel_add(in, p->name.key);
    if (!err)
        err = add_frames(in, no_signature, 2);
    if (!err)
        err = add_frames(in, r->parts, r->frame_count);
    if (err)
        mh__controller_fail(c, err);
    else if (mh__controller_admit_fast(c, in, &incoming))
        mh__tasks_take_request(c, in, &incoming);
}

static void take_reply(mh__fast_peer *p, const mh__fast_record *r)
{
    mh_controller *c = p->controller;
    mh__parcel *in = c->fast->in;
    mh__incoming incoming;
    if (!p->engine || !r->ident_count || r->frame_count < 4)
        return;
    const mh_bytes *frames = r->parts + r->ident_count;
    mh__job *job = mh__job_find(c, frames[1]);
    if (!job) {
        c->stats.dropped++;
        return;
    }
    mh__parcel_clear(in);
    mh_err err = mh__parcel_add(in, p->engine->name.key);
    if (!err)
        err = add_frames(in, r->parts, r->ident_count);
    if (!err)
        err = add_frames(in, no_signature, 2);
    if (!err)
        err = mh__parcel_add(in, frames[0]);
    if (!err)
        err = mh__parcel_share(in, job->request.parcel, job->request.at + 2, 1);
    if (!err)
        err = add_frames(in, frames + 2, r->frame_count - 2);
    if (err)
        mh__controller_fail(c, err);
    else if (mh__controller_admit_fast(c, in, &incoming))
        mh__tasks_take_result(c, in, &incoming, r->duration_ns);
    note_duration(c, p->engine, r->duration_ns);
}

/* ---- in brief -------------------------------------------------------------------------------- */

static mh_err give_slot(mh__fast *f, mh__job *job)
{
    uint32_t i = f->first_free;
    if (i) {
        f->first_free = f->slots[i].next_free;
    } else {
        if (f->slot_count == f->slot_capacity) {
            uint32_t capacity = f->slot_capacity ? 2 * f->slot_capacity : 256;
            slot *slots = mh__realloc(f->slots, capacity * sizeof *slots);
            if (!slots)
                return MH_ERR_NO_MEMORY;
            f->slots = slots;
            f->slot_capacity = capacity;
        }
        f->slot_count += !f->slot_count;
        i = f->slot_count++;
    }
    f->slots[i] = (slot){.job = job};
    job->slot = i;
    return MH_OK;
}

void mh__fast_let_go(mh_controller *c, mh__job *r)
{
    if (!r->slot || !c->fast)
        return;
    c->fast->slots[r->slot] = (slot){.next_free = c->fast->first_free};
    c->fast->first_free = r->slot;
    r->slot = 0;
}

static void take_brief(mh__fast_peer *p, const mh__fast_record *r)
{
    mh_controller *c = p->controller;
    mh__parcel *in = c->fast->in;
    mh__incoming incoming;
    mh__fast_task t;
    if (!p->is_client || !p->is_brief || mh__fast_task_read(r, &t)) {
        c->stats.refused++;
        return;
    }
    if (mh__tasks_take_brief(c, &t, p->name.key, mh__text(p->user)))
        return;
    mh__parcel_clear(in);
    mh_err err = mh__parcel_add(in, p->name.key);
    if (!err)
        err = mh__brief_add_request(in, &t, p->name.key, mh__text(p->user));
    if (err == MH_ERR_NO_MEMORY)
        mh__controller_fail(c, err);
    else if (!err && mh__controller_admit_fast(c, in, &incoming))
        mh__tasks_take_request(c, in, &incoming);
}

static void take_done(mh__fast_peer *p, const mh__fast_record *r)
{
    mh_controller *c = p->controller;
    mh__fast *f = c->fast;
    mh__fast_task t;
    if (!p->engine || mh__fast_task_read(r, &t)) {
        c->stats.refused++;
        return;
    }
    mh__job *job = t.ref && t.ref < f->slot_count ? f->slots[t.ref].job : NULL;
    if (job && job->token == t.token && job->engine == p->engine && !job->is_ended) {
        t.who = t.user = (mh_bytes){"", 0};
        t.number = job->brief->number;
        t.flags = (uint8_t)((t.flags & ~MH__FAST_CALL) | (job->brief->flags & MH__FAST_CALL));
        mh__tasks_take_brief_result(c, job, p->engine, &t);
    } else {
        mh__log(c, MH_LOG_INFO, "a late or unknown result was dropped");
        c->stats.dropped++;
        c->stats.late++;
    }
    note_duration(c, p->engine, t.duration_ns);
}

static void take_revoked(mh__fast_peer *p, const mh__fast_record *r)
{
    mh__job *job = p->engine && r->ident_count == 1 ? mh__job_find(p->controller, r->parts[0]) : NULL;
    if (job && job->is_task && !job->is_ended && job->engine == p->engine)
        mh__tasks_revoked(p->controller, job, r->flags & MH__FAST_TAKEN);
}

static void on_record(mh__lane *l, const mh__fast_record *r, void *ctx)
{
    mh__fast_peer *p = ctx;
    switch (r->kind) {
    case MH__FAST_HELLO: take_hello(p, r); break;
    case MH__FAST_REQUEST: take_request(p, r); break;
    case MH__FAST_REPLY: take_reply(p, r); break;
    case MH__FAST_REVOKED: take_revoked(p, r); break;
    case MH__FAST_TASK: take_brief(p, r); break;
    case MH__FAST_DONE: take_done(p, r); break;
    case MH__FAST_LEND: mh__lents_take(p->controller->fast->lents, l, r); break;
    default: p->controller->stats.refused++; break;
    }
}

/* ---- large buffers --------------------------------------------------------------------------- */

static mh__fast_peer *find_peer(const mh_controller *c, mh__channel channel, mh_bytes identity)
{
    bool is_client = channel == MH__CH_MUX_IN || channel == MH__CH_TASK_IN, is_engine = channel == MH__CH_MUX_OUT || channel == MH__CH_TASK_OUT;
    mh__engine *e = c->fast && is_engine ? mh__engine_find(c, identity) : NULL;
    return e ? e->fast : c->fast && is_client ? find_client(c, identity) : NULL;
}

void mh__fast_claim(mh_controller *c, mh__channel channel, mh__parcel *p, const mh__incoming *in)
{
    mh__fast_peer *peer = in->at && !c->session.is_strict ? find_peer(c, channel, in->m.idents[0]) : NULL;
    mh_err err = peer ? mh__lents_claim(c->fast->lents, peer->lane, in->m.metadata, p, in->at + MH__FRAMES_SIGNED)
                      : mh__fail(MH_ERR_NOT_FOUND, "its sender has no fast lane");
    if (err)
        mh__log(c, MH_LOG_WARNING, "buffers of message %.*s are missing: %s", (int)in->header.msg_id.size, (const char *)in->header.msg_id.data,
                mh_err_detail());
}

mh__parcel *mh__fast_lend(mh_controller *c, mh__channel channel, const mh__parcel *p)
{
    mh__parcel *lean = NULL;
    if (c->session.is_strict || mh__parcel_bytes(p) < MH__LENT_FROM)
        return NULL;
    mh__fast_peer *peer = find_peer(c, channel, mh__parcel_frames(p)[0]);
    if (!peer || !peer->borrows || (peer->engine && peer->engine->queue_count + peer->engine->task_count > LENT_TO_ENGINE) || mh__lents_pass_on(c->fast->lents, p, peer->lane, &lean))
        return NULL;
    return lean;
}

/* ---- messages become records ----------------------------------------------------------------- */

static bool put(mh__fast_peer *p, const mh__fast_record *r)
{
    mh_controller *c = p->controller;
    if (mh__lane_add(p->lane, r))
        return false;
    if (mh__list_is_empty(&p->dirty))
        mh__list_push_back(&c->fast->dirty, &p->dirty);
    return true;
}

/* The id in a header: where our own begin with it, without reading the rest. */
static bool read_id(mh_bytes header, mh_bytes *id)
{
    static const char before[] = "{\"msg_id\":\"";
    size_t skip = sizeof before - 1;
    if (header.size > skip && !memcmp(header.data, before, skip)) {
        const char *text = (const char *)header.data + skip;
        const char *quote = memchr(text, '"', header.size - skip);
        *id = (mh_bytes){text, quote ? (size_t)(quote - text) : 0};
        if (quote && !memchr(text, '\\', id->size))
            return id->size > 0;
    }
    return mh__parent_read(header, id) == MH_OK && id->size;
}

static bool may_overtake(const mh__engine *e) { return !e->lost_fast && e->task_count > 1 && mh_now() - e->lane_at < FIRST_USE_NS; }

static void begin_to_use(mh_controller *c, mh__engine *e)
{
    e->lost_fast = true; /* should the lane end */
    e->task_ns = 0;
    (void)!mh_sched_worker_keep(c->sched, e->worker, false);
    set_capacity(c, e, TASKS_FIRST);
}

static bool put_brief(mh__fast_peer *p, const mh__fast_task *t)
{
    static _Thread_local mh__fast_record r;
    uint8_t head[MH__FAST_TASK_HEAD];
    return mh__fast_task_record(t, head, &r) && put(p, &r);
}

bool mh__fast_assign(mh_controller *c, mh__job *r, mh__engine *e)
{
    if (!e->fast || !e->fast->is_brief || may_overtake(e) || (!r->slot && give_slot(c->fast, r)))
        return false;
    mh__fast_task t = *r->brief;
    t.ref = r->slot;
    t.token = r->token;
    t.flags |= MH__FAST_QUIET;
    if (!put_brief(e->fast, &t))
        return false;
    r->was_sent = true;
    if (!e->lost_fast)
        begin_to_use(c, e);
    return true;
}

bool mh__fast_answer(mh_controller *c, const mh__job *r)
{
    mh__fast_peer *p = c->fast && r->brief && r->is_plain ? find_client(c, r->brief->who) : NULL;
    if (!p || !p->is_brief)
        return false;
    mh__fast_task t = *r->brief_result;
    t.who = mh__text(r->engine_uuid);
    return t.who.size <= MH__FAST_CLIENT_MAX && put_brief(p, &t);
}

bool mh__fast_send(mh_controller *c, mh__channel channel, mh__parcel *parcel)
{
    if (!c->fast || !c->fast->peer_count || (channel != MH__CH_TASK_OUT && channel != MH__CH_TASK_IN))
        return false;
    const mh_bytes *frames = mh__parcel_frames(parcel);
    size_t count = mh__parcel_count(parcel), at = 1;
    bool is_reply = channel == MH__CH_TASK_IN;
    mh__engine *e = !is_reply && count ? mh__engine_find(c, frames[0]) : NULL;
    mh__fast_peer *p = is_reply && count ? find_client(c, frames[0]) : e ? e->fast : NULL;
    if (!p || mh__parcel_bytes(parcel) > MH__FAST_RECORD_MAX || count > MH__FAST_PARTS_MAX || (e && (may_overtake(e) || mh__bytes_are(frames[1], MH__HOLDS_NAME))))
        return false; /* that question is asked of the stock lane, where it was asked before there was another */
    while (at < count && !mh__bytes_are(frames[at], MH__WIRE_DELIMITER))
        at++;
    if (count - at < MH__FRAMES_SIGNED)
        return false;
    mh__fast_record r = {.kind = is_reply ? MH__FAST_REPLY : MH__FAST_REQUEST, .ident_count = at - 1, .frame_count = count - at - 2};
    r.flags = !is_reply && !frames[at + 1].size ? MH__FAST_QUIET : 0;
    memcpy(r.parts, frames + 1, (at - 1) * sizeof *frames);
    memcpy(r.parts + at - 1, frames + at + 2, (count - at - 2) * sizeof *frames);
    if ((is_reply && !read_id(frames[at + 3], &r.parts[at])) || !put(p, &r))
        return false;
    if (e && !e->lost_fast)
        begin_to_use(c, e);
    mh__parcel_clear(parcel);
    return true;
}

mh_err mh__fast_sign(mh_controller *c, mh__parcel *p)
{
    mh__message m;
    mh__parcel *copy = NULL;
    if (!c->session.signer.digest || mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &m) || m.signature.size)
        return MH_OK;
    mh__session_sign(&c->session, m.header, m.parent, m.metadata, m.content, &c->built);
    mh_err err = mh__parcel_create(&copy);
    if (!err)
        err = mh__parcel_share(copy, p, 0, m.ident_count + 1);
    if (!err)
        err = mh__parcel_add(copy, c->built.frames[1]);
    if (!err)
        err = mh__parcel_share(copy, p, m.ident_count + 2, mh__parcel_count(p) - m.ident_count - 2);
    if (!err)
        mh__parcel_move(p, copy);
    mh__parcel_destroy(&copy);
    return err;
}

bool mh__fast_revoke(mh_controller *c, const mh__job *r)
{
    (void)c;
    return r->engine && r->engine->fast && put(r->engine->fast, &(mh__fast_record){.kind = MH__FAST_REVOKE, .ident_count = 1, .parts = {r->name.key}});
}

void mh__fast_flush(mh_controller *c)
{
    for (mh__list *node; c->fast && (node = mh__list_pop_front(&c->fast->dirty));)
        (void)mh__lane_flush(mh__list_entry(node, mh__fast_peer, dirty)->lane);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void on_connection(int fd, void *ctx)
{
    mh_controller *c = ctx;
    int new_fd = -1;
    mh_err err = mh__os_unix_accept(fd, &new_fd);
    if (err) {
        if (err != MH_ERR_EMPTY)
            mh__log(c, MH_LOG_WARNING, "a fast lane was refused: %s", mh_err_detail());
        return;
    }
    mh__fast_peer *p = c->fast->peer_count < PEERS_MAX ? mh__calloc(1, sizeof *p) : NULL;
    if (!p) {
        mh__os_close(&new_fd);
        return;
    }
    p->controller = c;
    mh__list_init(&p->link);
    mh__list_init(&p->dirty);
    err = mh__lane_open(&p->lane, c->loop, &new_fd, &(mh__lane_options){.key = mh__text(c->engine_file.key), .is_listener = true,
                                                                        .on_record = on_record, .on_end = on_end, .ctx = p});
    mh__os_close(&new_fd);
    if (err) {
        mh__log(c, MH_LOG_WARNING, "a fast lane was refused: %s", mh_err_detail());
        mh__free(p);
        return;
    }
    mh__list_push_back(&c->fast->peers, &p->link);
    c->fast->peer_count++;
}

static mh_err set_up(mh_controller *c, mh__fast *f)
{
    char path[sizeof c->engine_file.fast];
    const char *id = c->options.cluster_id ? c->options.cluster_id : "";
    int size = snprintf(path, sizeof path, "%s/security/ipcontroller%s%s.fast", c->options.folder, *id ? "-" : "", id);
    if (size < 0 || (size_t)size >= sizeof path || c->options.folder[0] != '/')
        return mh__fail(MH_ERR_TOO_LARGE, "the folder's path is relative or too long");
    mh_err err = mh__parcel_create(&f->in);
    if (!err)
        err = mh__lents_create(&f->lents, true);
    if (!err)
        err = mh__os_unix_listen(&f->listener, path);
    if (!err)
        err = mh__loop_add_fd(c->loop, f->listener, on_connection, c);
    if (!err) {
        memcpy(c->engine_file.fast, path, sizeof path);
        memcpy(c->client_file.fast, path, sizeof path);
    }
    return err;
}

mh_err mh__fast_open(mh_controller *c)
{
    mh__fast *f = mh__calloc(1, sizeof *f);
    c->engine_file.fast[0] = c->client_file.fast[0] = 0;
    if (!f)
        return MH_ERR_NO_MEMORY;
    f->listener = -1;
    mh__list_init(&f->peers);
    mh__list_init(&f->dirty);
    f->orphans = (mh__alarm){.fn = rescue_orphans, .ctx = c};
    mh_err err = set_up(c, f);
    c->fast = f;
    if (!err)
        return MH_OK;
    mh__fast_close(c);
    if (err == MH_ERR_NO_MEMORY)
        return err;
    mh__log(c, MH_LOG_INFO, "no fast lane: %s", mh_err_detail());
    return MH_OK;
}

void mh__fast_close(mh_controller *c)
{
    mh__fast *f = c->fast;
    if (!f)
        return;
    while (!mh__list_is_empty(&f->peers))
        forget(mh__list_entry(f->peers.next, mh__fast_peer, link));
    mh__alarm_clear(c->loop, &f->orphans);
    if (f->listener >= 0) {
        mh__loop_remove_fd(c->loop, f->listener);
        mh__os_close(&f->listener);
        (void)!mh__os_file_unlink(c->engine_file.fast);
    }
    mh__parcel_destroy(&f->in);
    mh__free(f->slots);
    mh__lents_destroy(&f->lents);
    mh__names_fini(&f->clients);
    mh__free(f);
    c->fast = NULL;
}
