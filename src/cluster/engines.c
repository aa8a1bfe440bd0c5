/* Who is registered, and lives. An engine counts from its first message on. That it died is noticed by whichever comes first: its
 * nanny's or its own word, the end of the connection it registered by, or heartbeats that it doesn't answer. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UUID_MAX = 63 };
/* After the connection of an engine ends, so long do we go on reading what it may have left in other connections, ... */
#define GRACE_LOCAL_NS (20 * MH_MILLISECOND)
/* ... or wait for it to come back, where a network lies between. */
#define GRACE_REMOTE_NS (3 * MH_SECOND)
/* A stock engine registers first, and starts its shell, which takes seconds, before its heart. */
#define FIRST_BEAT_NS (30 * MH_SECOND)
/* After a restart engines connect again by themselves; they are asked more often until all have answered, and given up after this. */
#define RESTORE_NS (10 * MH_SECOND)
#define RESTORE_PING_NS (200 * MH_MILLISECOND)
#define SAVE_NS (50 * MH_MILLISECOND)

/* ---- finding --------------------------------------------------------------------------------- */

mh__engine *mh__engine_find(const mh_controller *c, mh_bytes uuid)
{
    mh__name *node = mh__names_find(&c->by_uuid, uuid);
    return node ? mh__name_entry(node, mh__engine, name) : NULL;
}

mh__engine *mh__engine_by_id(const mh_controller *c, int64_t id)
{
    for (mh__list *node = c->engines.next; node != &c->engines; node = node->next) {
        mh__engine *e = mh__list_entry(node, mh__engine, link);
        if (e->id == id)
            return e;
    }
    return NULL;
}

mh__engine *mh__engine_of_worker(const mh_controller *c, mh_sched_worker worker)
{
    mh__engine *e = worker.generation && worker.index < c->by_worker_capacity ? c->by_worker[worker.index] : NULL;
    return e && e->worker.generation == worker.generation ? e : NULL;
}

/* ---- registering ----------------------------------------------------------------------------- */

static void notify(mh_controller *c, const char *type, const mh__engine *e)
{
    char content[160];
    int size = snprintf(content, sizeof content, "{\"id\":%lld,\"uuid\":\"%s\"}", (long long)e->id, e->uuid);
    mh__reply_send(c, MH__CH_NOTIFY, NULL, 0, &(mh__draft){.type = type, .content = {content, (size_t)size}});
}

static int64_t choose_id(mh_controller *c, mh__json wanted)
{
    int64_t id;
    if (mh__json_int(wanted, &id) && id >= 0 && id < INT32_MAX && !mh__engine_by_id(c, id)) {
        c->next_id = MH__MAX(c->next_id, id + 1);
        return id;
    }
    return c->next_id++;
}

static mh_err join(mh_controller *c, mh__engine *e)
{
    mh_err err = mh_sched_worker_join(c->sched, &(mh_sched_worker_options){.capacity = 0}, &e->worker);
    if (!err)
        err = mh_sched_worker_keep(c->sched, e->worker, true); /* stock engines give nothing back */
    if (err)
        return err;
    if (e->worker.index >= c->by_worker_capacity) {
        size_t capacity = MH__MAX((size_t)64, 2 * (size_t)(e->worker.index + 1));
        mh__engine **grown = mh__realloc(c->by_worker, capacity * sizeof(mh__engine *));
        if (!grown) {
            (void)!mh_sched_worker_leave(c->sched, e->worker, MH_SCHED_REMOVED, (mh_sched_task){0});
            return MH_ERR_NO_MEMORY;
        }
        memset(grown + c->by_worker_capacity, 0, (capacity - c->by_worker_capacity) * sizeof(mh__engine *));
        c->by_worker = grown;
        c->by_worker_capacity = capacity;
    }
    c->by_worker[e->worker.index] = e;
    return MH_OK;
}

static mh_err create(mh_controller *c, mh__engine **out, mh_bytes uuid, int64_t id)
{
    mh__engine *e = mh__calloc(1, sizeof *e + uuid.size + 1);
    if (!e)
        return MH_ERR_NO_MEMORY;
    memcpy(e->uuid, uuid.data, uuid.size);
    e->name.key = (mh_bytes){e->uuid, uuid.size};
    e->id = id;
    e->give_up = MH_FOREVER;
    e->beat_at = mh_now();
    e->connection = e->pong_connection = -1;
    mh__list_init(&e->queue);
    mh__list_init(&e->tasks);
    mh_err err = mh__names_add(&c->by_uuid, &e->name);
    if (!err && (err = join(c, e)))
        mh__names_remove(&c->by_uuid, &e->name);
    if (err) {
        mh__free(e);
        return err;
    }
    mh__list *before = &c->engines; /* by id */
    while (before->prev != &c->engines && mh__list_entry(before->prev, mh__engine, link)->id > id)
        before = before->prev;
    mh__list_push_back(before, &e->link);
    c->engine_count++;
    *out = e;
    return MH_OK;
}

static bool is_plain_name(mh_bytes name)
{
    for (size_t i = 0; i < name.size; i++) {
        unsigned char ch = ((const unsigned char *)name.data)[i];
        if (ch <= ' ' || ch >= 0x7f || ch == '"' || ch == '\\')
            return false;
    }
    return name.size > 0 && name.size <= UUID_MAX;
}

static void give_up_at(mh_controller *c, mh__engine *e, mh_deadline at)
{
    e->give_up = at;
    if (at != MH_FOREVER && (!c->give_up_alarm.is_set || c->give_up_alarm.at > at))
        mh__alarm_set(c->loop, &c->give_up_alarm, at);
}

static void save_soon(mh_controller *c)
{
    c->has_new_engines = true; /* for the journal, after this round */
    if (c->options.reuse && !c->state_alarm.is_set)
        mh__alarm_set(c->loop, &c->state_alarm, mh_deadline_in(SAVE_NS));
}

mh_err mh__engine_restore(mh_controller *c, mh_bytes uuid, int64_t id, bool is_ours)
{
    mh__engine *e = NULL;
    if (!is_plain_name(uuid) || id < 0 || id >= INT32_MAX || mh__engine_find(c, uuid) || mh__engine_by_id(c, id))
        return mh__fail(MH_ERR_EXISTS, "engine %lld can't be restored", (long long)id);
    mh_err err = create(c, &e, uuid, id);
    if (err)
        return err;
    c->next_id = MH__MAX(c->next_id, id + 1);
    e->is_restored = true;
    e->is_ours = is_ours;
    give_up_at(c, e, mh_deadline_in(RESTORE_NS));
    return MH_OK;
}

static mh_err write_accepted(mh_controller *c, const mh__engine *e)
{
    (void)!mh_buf_resize(c->text, 0);
    (void)!mh_buf_resize(c->text2, 0);
    mh__connection info = c->engine_file;
    mh__secret_clear(info.key, sizeof info.key); /* it has it already, and this message may be logged */
    mh_err err = mh__connection_write(&info, c->text2);
    mh__json_out o = mh__json_into(c->text);
    mh__json_open(&o, '{');
    mh__json_key(&o, "status");
    mh__json_add_string(&o, "ok");
    mh__json_key(&o, "id");
    mh__json_add_int(&o, e->id);
    mh__json_key(&o, "hb_period");
    mh__json_add_int(&o, c->options.ping_ns / MH_MILLISECOND);
    mh__json_key(&o, "connection_info");
    mh__json_add(&o, (mh__json){mh_buf_data(c->text2), mh_buf_size(c->text2)});
    mh__json_close(&o, '}');
    return err ? err : mh__json_finish(&o);
}

void mh__engine_register(mh_controller *c, const mh__incoming *in, int connection)
{
    static const char *const keys[] = {"uuid", "id", "x_holds"};
    mh__json got[3];
    mh_bytes uuid = {0}, content;
    mh__engine *e = NULL;
    mh_err err = mh__json_pick(in->m.content, keys, 3, got);
    if (err || !mh__json_plain(got[0], &uuid) || !is_plain_name(uuid)) {
        content = mh__reply_errorf(c, "ValueError", "a registration needs a uuid of 1 to %d plain characters", UUID_MAX);
    } else if (mh__engine_find(c, uuid)) {
        content = mh__reply_errorf(c, "KeyError", "'uuid \\'%.*s\\' in use'", (int)uuid.size, (const char *)uuid.data);
    } else if ((err = create(c, &e, uuid, choose_id(c, got[1]))) || (err = write_accepted(c, e))) {
        content = mh__reply_error(c, "RuntimeError", mh__text(mh_err_detail()));
    } else {
        content = (mh_bytes){mh_buf_data(c->text), mh_buf_size(c->text)};
        e->connection = connection;
        mh__json_bool(got[2], &e->is_ours);
    }
    /* the stock controller's reply has no parent, and stock engines look for none */
    mh__reply_send(c, MH__CH_QUERY, in->m.idents, in->m.ident_count, &(mh__draft){.type = "registration_reply", .content = content});
    if (!e)
        return;
    mh__log(c, MH_LOG_INFO, "engine %lld registered: %s", (long long)e->id, e->uuid);
    notify(c, "registration_notification", e);
    save_soon(c);
    if (e->is_ours)
        mh__holds_ask(c, e); /* it may have been here before */
}

void mh__engine_unregister(mh_controller *c, mh__engine *e, const char *why)
{
    static const mh__channel to_engine[] = {MH__CH_MUX_OUT, MH__CH_TASK_OUT, MH__CH_CONTROL_OUT, MH__CH_BROADCAST_OUT};
    mh__log(c, MH_LOG_INFO, "engine %lld unregistered: %s", (long long)e->id, why);
    /* it answers in order, so what it was given first is what it ran; what waited behind goes elsewhere */
    mh_sched_task running = {0};
    if (!mh__list_is_empty(&e->tasks))
        running = mh__list_entry(e->tasks.next, mh__job, place)->task;
    mh__fast_engine_gone(c, e);
    c->by_worker[e->worker.index] = NULL;
    (void)!mh_sched_worker_leave(c->sched, e->worker, MH_SCHED_DIED, running);
    mh__names_remove(&c->by_uuid, &e->name);
    mh__list_remove(&e->link);
    c->engine_count--;
    for (size_t i = 0; i < MH__COUNT_OF(to_engine); i++)
        mh__outbox_drop(c, to_engine[i], e->name.key);
    while (!mh__list_is_empty(&e->tasks))
        mh__job_at_engine(mh__list_entry(e->tasks.next, mh__job, place), NULL);
    mh__relay_engine_gone(c, e);
    mh__broadcast_engine_gone(c, e);
    notify(c, "unregistration_notification", e);
    save_soon(c);
    mh__free(e);
}

/* ---- coming back ----------------------------------------------------------------------------- */

static void note_departed(mh_controller *c, const mh__engine *e)
{
    mh__departed *d = &c->departed[c->departed_count++ % MH__COUNT_OF(c->departed)];
    *d = (mh__departed){.id = e->id, .is_ours = e->is_ours, .ping = c->pings};
    snprintf(d->uuid, sizeof d->uuid, "%s", e->uuid);
}

static void give_up(mh_controller *c, mh__engine *e, const char *why)
{
    note_departed(c, e);
    mh__engine_unregister(c, e, why);
}

/* It was cut off, and answers a ping that is younger than the end that we believed in: it is registered again, as another worker. Its
 * attempts from before are over: answers to them are dropped, and if it is one of ours, it is told so. */
static mh__engine *readmit(mh_controller *c, mh_bytes uuid, mh_bytes ping)
{
    char text[24];
    mh__engine *e = NULL;
    if (ping.size >= sizeof text)
        return NULL;
    memcpy(text, ping.data, ping.size);
    text[ping.size] = 0;
    for (size_t i = 0; i < MH__COUNT_OF(c->departed); i++) {
        mh__departed *d = &c->departed[i];
        if (!*d->uuid || !mh__bytes_are(uuid, d->uuid) || strtoull(text, NULL, 10) <= d->ping)
            continue;
        if (mh__engine_by_id(c, d->id) || create(c, &e, uuid, d->id))
            return NULL;
        e->is_ours = d->is_ours;
        *d = (mh__departed){0};
        mh__log(c, MH_LOG_INFO, "engine %lld was only cut off, and is registered again: %s", (long long)e->id, e->uuid);
        notify(c, "registration_notification", e);
        save_soon(c);
        if (e->is_ours)
            mh__holds_ask(c, e);
        return e;
    }
    return NULL;
}

/* ---- noticing -------------------------------------------------------------------------------- */

void mh__engines_give_up(void *ctx)
{
    mh_controller *c = ctx;
    int64_t now = mh_now();
    mh_deadline next = MH_FOREVER;
    for (mh__list *node = c->engines.next, *after; node != &c->engines; node = after) {
        after = node->next;
        mh__engine *e = mh__list_entry(node, mh__engine, link);
        if (e->give_up <= now)
            give_up(c, e, "its connection ended");
        else
            next = MH__MIN(next, e->give_up);
    }
    if (next != MH_FOREVER)
        mh__alarm_set(c->loop, &c->give_up_alarm, next);
}

void mh__engine_on_peer(mh__socket *s, mh__peer_event event, int connection, void *ctx)
{
    mh_controller *c = ctx;
    bool is_pong = s == c->sockets[MH__CH_PONG];
    if (event != MH__PEER_GONE)
        return;
    for (mh__list *node = c->engines.next; node != &c->engines; node = node->next) {
        mh__engine *e = mh__list_entry(node, mh__engine, link);
        int *its = is_pong ? &e->pong_connection : &e->connection;
        if (*its != connection)
            continue;
        *its = -1;
        give_up_at(c, e, mh_deadline_in(mh__interface_is_local(c->engine_file.interface_) ? GRACE_LOCAL_NS : GRACE_REMOTE_NS));
        return;
    }
}

void mh__engine_on_pong(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    mh_controller *c = ctx;
    mh__engine *e = mh__parcel_count(p) == 2 ? mh__engine_find(c, mh__parcel_frames(p)[0]) : NULL;
    if (!e && mh__parcel_count(p) == 2)
        e = readmit(c, mh__parcel_frames(p)[0], mh__parcel_frames(p)[1]);
    if (!e)
        return;
    if (e->give_up != MH_FOREVER && !e->is_restored && !mh__interface_is_local(c->engine_file.interface_))
        mh__holds_suspect(c, e);
    e->beat_at = mh_now();
    e->has_beaten = true;
    e->pong_connection = mh__parcel_connection(p);
    if (e->is_restored)
        mh__log(c, MH_LOG_INFO, "engine %lld is back", (long long)e->id);
    if (e->is_restored || !mh__interface_is_local(c->engine_file.interface_))
        e->give_up = MH_FOREVER; /* a network that came back; on one host a pong may be older than the end */
    e->is_restored = false;
}

void mh__engines_beat(void *ctx)
{
    mh_controller *c = ctx;
    char text[32];
    int64_t now = mh_now(), longest = c->options.ping_ns * (c->options.pings_missed + 1), next = c->options.ping_ns;
    for (mh__list *node = c->engines.next, *after; node != &c->engines; node = after) {
        after = node->next;
        mh__engine *e = mh__list_entry(node, mh__engine, link);
        if (now - e->beat_at > (e->has_beaten ? longest : MH__MAX(longest, FIRST_BEAT_NS)))
            give_up(c, e, "its heart stopped");
        else if (e->is_restored)
            next = MH__MIN(next, RESTORE_PING_NS);
    }
    int size = snprintf(text, sizeof text, "%llu", (unsigned long long)++c->pings);
    if (mh__parcel_add(c->out, (mh_bytes){text, (size_t)size}) == MH_OK)
        mh__outbox_send(c, MH__CH_PING, c->out);
    mh__alarm_set(c->loop, &c->beat_alarm, mh_deadline_in(next));
}

void mh__engines_fini(mh_controller *c)
{
    for (mh__list *node; (node = mh__list_pop_front(&c->engines));)
        mh__free(mh__list_entry(node, mh__engine, link));
    mh__names_fini(&c->by_uuid);
    mh__free(c->by_worker);
    c->by_worker = NULL;
}
