/* Whom a client knows: what the controller answers when asked, and its notifications. */
#include "cluster/client_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENGINES_MAX = 1 << 20 };

/* ---- the list: with the lock ----------------------------------------------------------------- */

static mh_client_engine *find(mh_client *c, int64_t id)
{
    for (size_t i = 0; i < c->engine_count; i++)
        if (c->engines[i].id == id)
            return &c->engines[i];
    return NULL;
}

static mh_err add(mh_client *c, const mh_client_engine *e)
{
    mh_client_engine *known = find(c, e->id);
    if (known) {
        *known = *e;
        return MH_OK;
    }
    if (c->engine_count == ENGINES_MAX)
        return mh__fail(MH_ERR_LIMIT, "more than %d engines", ENGINES_MAX);
    if (c->engine_count == c->engine_capacity) {
        size_t capacity = c->engine_capacity ? 2 * c->engine_capacity : 16;
        mh_client_engine *grown = mh__realloc(c->engines, capacity * sizeof *grown);
        if (!grown)
            return MH_ERR_NO_MEMORY;
        c->engines = grown;
        c->engine_capacity = capacity;
    }
    size_t at = c->engine_count++;
    for (; at && c->engines[at - 1].id > e->id; at--)
        c->engines[at] = c->engines[at - 1];
    c->engines[at] = *e;
    return MH_OK;
}

static void drop(mh_client *c, const mh_client_engine *e)
{
    mh_client_engine *known = find(c, e->id);
    if (!known || strcmp(known->uuid, e->uuid))
        return;
    size_t at = (size_t)(known - c->engines);
    memmove(known, known + 1, (--c->engine_count - at) * sizeof *known);
}

void mh_client_engines(mh_client *c, mh_client_engine *out, size_t *count)
{
    size_t capacity = *count;
    *count = 0;
    if (mh__client_check(c))
        return;
    mh__lock_take(c->lock);
    *count = c->engine_count;
    if (MH__MIN(capacity, c->engine_count))
        memcpy(out, c->engines, MH__MIN(capacity, c->engine_count) * sizeof *out);
    mh__lock_drop(c->lock);
}

bool mh__client_engine_find(mh_client *c, int64_t id, mh_client_engine *out)
{
    mh__lock_take(c->lock);
    mh_client_engine *e = find(c, id);
    if (e)
        *out = *e;
    mh__lock_drop(c->lock);
    return e != NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_uuid(mh__json v, mh_client_engine *e)
{
    mh_bytes uuid;
    if (!mh__json_plain(v, &uuid) || !uuid.size || uuid.size >= sizeof e->uuid)
        return false;
    snprintf(e->uuid, sizeof e->uuid, "%.*s", (int)uuid.size, (const char *)uuid.data);
    return true;
}

static bool read_notification(const mh_client_message *m, mh_client_engine *e)
{
    static const char *const keys[] = {"id", "uuid"};
    mh__json got[2];
    return !mh__json_pick(m->content, keys, 2, got) && mh__json_int(got[0], &e->id) && read_uuid(got[1], e);
}

void mh__client_take_notification(mh_client *c, const mh_client_message *m)
{
    mh_client_engine e = {0};
    bool comes = mh__bytes_are(m->type, "registration_notification"), goes = mh__bytes_are(m->type, "unregistration_notification");
    if ((!comes && !goes) || !read_notification(m, &e))
        return;
    mh__lock_take(c->lock);
    if (goes)
        drop(c, &e);
    else if (add(c, &e))
        mh__client_fail(c, MH_ERR_BROKEN, mh_err_detail());
    mh__lock_drop(c->lock);
    c->is_outdated = true;
    if (goes)
        mh__client_engine_gone(c, e.uuid);
}

/* "engines": {"0": uuid, ...}. *out is the caller's, also on failure. */
static mh_err read_engines(mh__json engines, mh_client_engine **out, size_t *count)
{
    size_t said = MH__MIN(mh__json_count(engines), (size_t)ENGINES_MAX);
    mh__json_walk w = mh__json_walk_of(engines);
    *count = 0;
    *out = mh__calloc(said ? said : 1, sizeof **out);
    if (!*out)
        return MH_ERR_NO_MEMORY;
    for (mh__json key, value; *count < said && mh__json_next(&w, &key, &value);) {
        mh_client_engine *e = &(*out)[*count];
        mh__json number = {key.text + 1, key.size - 2}; /* without its quotes */
        if (!mh__json_int(number, &e->id) || !read_uuid(value, e))
            return mh__fail(MH_ERR_CORRUPT, "the controller names an engine %.*s", (int)MH__MIN(key.size, (size_t)40), key.text);
        ++*count;
    }
    return MH_OK;
}

/* ---- asking ---------------------------------------------------------------------------------- */

void mh__client_ask_again(void *ctx)
{
    mh_client *c = ctx;
    mh__client_fast_settle(c);
    if (!c->asked[0])
        mh__client_ask(c);
}

void mh__client_ask(mh_client *c)
{
    char id[MH_CLIENT_ID_SIZE] = "";
    c->is_outdated = false;
    if (mh_client_send(c, &(mh_client_request){.channel = MH_CLIENT_REGISTRATION, .type = "connection_request"}, MH_NOW, id) == MH_OK)
        memcpy(c->asked, id, sizeof c->asked);
    else /* no room: what waits goes first */
        mh__alarm_set(c->loop, &c->refresh, mh_deadline_in(50 * MH_MILLISECOND));
}

static bool is_among(const mh_client_engine *e, const mh_client_engine *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (list[i].id == e->id && !strcmp(list[i].uuid, e->uuid))
            return true;
    return false;
}

/* What changed since, told as the controller would have. */
static void tell_difference(mh_client *c, const mh_client_engine *before, size_t before_count, const mh_client_engine *now, size_t now_count)
{
    for (size_t i = 0; i < before_count; i++)
        if (!is_among(&before[i], now, now_count)) {
            mh__client_tell(c, "unregistration_notification", &before[i]);
            mh__client_engine_gone(c, before[i].uuid);
        }
    for (size_t i = 0; i < now_count; i++)
        if (!is_among(&now[i], before, before_count))
            mh__client_tell(c, "registration_notification", &now[i]);
}

static mh_err replace_engines(mh_client *c, mh_client_engine *now, size_t count)
{
    mh__lock_take(c->lock);
    mh_client_engine *before = c->engines;
    size_t before_count = c->engine_count;
    bool is_first = !c->is_known;
    c->engines = NULL;
    c->engine_count = c->engine_capacity = 0;
    mh_err err = MH_OK;
    for (size_t i = 0; !err && i < count; i++)
        err = add(c, &now[i]);
    for (size_t i = 0; !err && is_first && c->is_outdated && i < before_count; i++) /* who was told to have come stays: the answer may be older */
        err = add(c, &before[i]);
    mh__lock_drop(c->lock);
    if (!err && !is_first)
        tell_difference(c, before, before_count, now, count);
    mh__free(before);
    return err;
}

static mh_err read_answer(mh_client *c, const mh_client_message *m)
{
    static const char *const keys[] = {"status", "engines", "evalue"};
    mh__json got[3];
    mh_bytes why = MH__TEXT("no reason given");
    mh_client_engine *engines = NULL;
    size_t count;
    mh_err err = mh__json_pick(m->content, keys, 3, got);
    if (err)
        return err;
    if (!mh__json_is(got[0], "ok")) {
        mh__json_plain(got[2], &why);
        return mh__fail(MH_ERR_PERMISSION, "the controller refused this client: %.*s", (int)MH__MIN(why.size, (size_t)160), (const char *)why.data);
    }
    err = read_engines(got[1], &engines, &count);
    if (!err)
        err = replace_engines(c, engines, count);
    mh__free(engines);
    return err;
}

bool mh__client_take_answer(mh_client *c, const mh_client_message *m)
{
    if (!c->asked[0] || !mh__bytes_are(m->parent_id, c->asked))
        return false;
    c->asked[0] = 0;
    mh__client_note_back(c);
    /* A notification that was read since may be younger than the answer, which would then tell that a living engine is gone. Nothing is
     * told of the first answer. */
    bool is_outdated = c->is_outdated;
    mh_err err = is_outdated && c->is_known ? MH_OK : read_answer(c, m);
    if (is_outdated)
        mh__client_ask(c);
    mh__lock_take(c->lock);
    c->is_known = true;
    if (err)
        mh__client_fail(c, err, mh_err_detail());
    mh__cond_wake_all(c->changed);
    mh__lock_drop(c->lock);
    return true;
}
