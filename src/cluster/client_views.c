/* The balanced view: what a call asks of the scheduler, as metadata; maps. */
#include "cluster/client_views.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>

enum { IN_FLIGHT_MAX = 10000 };

struct mh_balanced_view {
    mh_client *client;
    mh_balanced_options options; /* engines point to the copy */
    int64_t *engines;
};

/* ---- requests -------------------------------------------------------------------------------- */

/* {"function": ...}, in `room` where no character needs an escape, else in a buffer. */
static mh_err write_content(const char *function, char room[MH__BRIEF_CONTENT_SIZE], mh_buf **buf, mh_bytes *content)
{
    mh_bytes name = mh__text(function);
    if (mh__fast_is_plain(name, MH__FAST_NAME_MAX)) {
        *content = (mh_bytes){room, mh__brief_content(name, room)};
        return MH_OK;
    }
    mh_err err = mh_buf_create(buf, 0);
    if (err)
        return err;
    mh__json_out o = mh__json_into(*buf);
    mh__json_open(&o, '{');
    mh__json_key(&o, "function");
    mh__json_add_bytes(&o, name);
    mh__json_close(&o, '}');
    err = mh__json_finish(&o);
    *content = (mh_bytes){mh_buf_data(*buf), mh_buf_size(*buf)};
    return err;
}

mh_err mh__views_call(mh_client *c, const char *engine, const char *function, mh_bytes input, mh_bytes metadata, mh_client_future **out)
{
    mh_buf *buf = NULL;
    mh_bytes content;
    mh_client_future *f = NULL;
    char id[MH_CLIENT_ID_SIZE], room[MH__BRIEF_CONTENT_SIZE];
    mh_err err = !function || !*function ? mh__fail(MH_ERR_INVALID, "a call without the name of a function") : mh__client_check(c);
    if (!err)
        err = write_content(function, room, &buf, &content);
    if (!err)
        err = mh__client_future_create(c, &f);
    if (!err)
        err = mh__client_send(c, &(mh_client_request){.channel = engine ? MH_CLIENT_MUX : MH_CLIENT_TASK, .engine = engine, .type = "call_request",
                                                      .content = content, .metadata = metadata.size ? metadata : mh__text(MH__CLIENT_QUIET), .buffers = &input, .buffer_count = 1}, MH_FOREVER, id, f);
    mh_buf_destroy(&buf);
    if (err)
        mh_client_future_release(&f);
    else
        *out = f;
    return err;
}

mh_err mh__views_check(mh_client_future *f, mh_deadline until, mh_client_result *r)
{
    mh_err err = mh__client_future_value(f, until, r);
    if (err || !r->err)
        return err;
    return mh__fail(r->err, "%s: %s", r->ename, r->evalue);
}

/* ---- the view -------------------------------------------------------------------------------- */

static mh_err check_options(const mh_balanced_options *o)
{
    if (o->wait_ns < 0)
        return mh__fail(MH_ERR_INVALID, "wait_ns is negative");
    if (o->retries > INT32_MAX)
        return mh__fail(MH_ERR_INVALID, "retries over %d", INT32_MAX);
    if (o->priority > 3)
        return mh__fail(MH_ERR_INVALID, "priority over 3");
    return MH_OK;
}

mh_err mh_client_balanced_view(mh_client *c, const mh_balanced_options *options, mh_balanced_view **out)
{
    mh_err err = options ? check_options(options) : MH_OK;
    *out = NULL;
    if (!err && options && (options->after.count || options->follow.count))
        err = mh__fail(MH_ERR_INVALID, "a view waits for no tasks: give after and follow with each call");
    if (err)
        return err;
    mh_balanced_view *v = mh__calloc(1, sizeof *v);
    if (!v)
        return MH_ERR_NO_MEMORY;
    v->client = c;
    if (options)
        v->options = *options;
    if (v->options.engine_count) {
        v->engines = mh__calloc(v->options.engine_count, sizeof *v->engines);
        if (!v->engines) {
            mh__free(v);
            return MH_ERR_NO_MEMORY;
        }
        memcpy(v->engines, options->engines, v->options.engine_count * sizeof *v->engines);
        v->options.engines = v->engines;
    }
    *out = v;
    return MH_OK;
}

void mh_balanced_view_destroy(mh_balanced_view **v)
{
    if (*v)
        mh__free((*v)->engines);
    mh__free(*v);
    *v = NULL;
}

/* ---- metadata -------------------------------------------------------------------------------- */

static void add_after(mh__json_out *o, const char *key, const mh_client_after *a)
{
    if (!a->count)
        return;
    mh__json_key(o, key);
    mh__json_open(o, '{');
    mh__json_key(o, "dependencies");
    mh__json_open(o, '[');
    for (size_t i = 0; i < a->count; i++)
        mh__json_add_string(o, mh_client_future_id(a->items[i]));
    mh__json_close(o, ']');
    mh__json_key(o, "all");
    mh__json_add_bool(o, !a->any);
    mh__json_key(o, "success");
    mh__json_add_bool(o, !a->not_on_success);
    mh__json_key(o, "failure");
    mh__json_add_bool(o, a->on_failure);
    mh__json_close(o, '}');
}

static mh_err add_targets(mh__json_out *o, mh_client *c, const mh_balanced_options *options)
{
    if (!options->engine_count)
        return MH_OK;
    mh__json_key(o, "targets");
    mh__json_open(o, '[');
    for (size_t i = 0; i < options->engine_count; i++) {
        mh_client_engine e;
        if (!mh__client_engine_find(c, options->engines[i], &e))
            return mh__fail(MH_ERR_NOT_FOUND, "no engine %lld is registered", (long long)options->engines[i]);
        mh__json_add_string(o, e.uuid);
    }
    mh__json_close(o, ']');
    return MH_OK;
}

static bool is_plain(const mh_balanced_options *o)
{
    return !o->retries && !o->wait_ns && !o->priority && !o->engine_count && !o->after.count && !o->follow.count;
}

static mh_err write_metadata(mh_client *c, const mh_balanced_options *options, mh_buf *out)
{
    mh__json_out o = mh__json_into(out);
    mh__json_open(&o, '{');
    mh__json_key(&o, "x_quiet");
    mh__json_add_bool(&o, true);
    if (options->retries) {
        mh__json_key(&o, "retries");
        mh__json_add_int(&o, options->retries);
    }
    if (options->wait_ns) {
        mh__json_key(&o, "timeout");
        mh__json_add_double(&o, (double)options->wait_ns / 1e9);
    }
    if (options->priority) {
        mh__json_key(&o, "priority");
        mh__json_add_int(&o, options->priority);
    }
    add_after(&o, "after", &options->after);
    add_after(&o, "follow", &options->follow);
    mh_err err = add_targets(&o, c, options);
    mh__json_close(&o, '}');
    return err ? err : mh__json_finish(&o);
}

mh_err mh_balanced_view_submit(mh_balanced_view *v, const char *function, mh_bytes input, const mh_balanced_options *options,
                               mh_client_future **f)
{
    const mh_balanced_options *o = options ? options : &v->options;
    mh_buf *metadata = NULL;
    mh_err err = options ? check_options(options) : MH_OK;
    if (!err)
        err = mh__client_check(v->client);
    if (err)
        return err;
    if (is_plain(o))
        return mh__views_call(v->client, NULL, function, input, (mh_bytes){0}, f);
    err = mh_buf_create(&metadata, 0);
    if (!err)
        err = write_metadata(v->client, o, metadata);
    if (!err)
        err = mh__views_call(v->client, NULL, function, input, (mh_bytes){mh_buf_data(metadata), mh_buf_size(metadata)}, f);
    mh_buf_destroy(&metadata);
    return err;
}

/* ---- map ------------------------------------------------------------------------------------- */

mh_err mh__views_collect(const mh__views_map *m, mh_client_future **f, size_t first, size_t count, mh_deadline until)
{
    mh_client_result r;
    mh_err err = mh__views_check(*f, until, &r);
    if (!err && r.value.size != count * m->out_size)
        err = mh__fail(MH_ERR_CORRUPT, "items %zu to %zu: a reply of %zu bytes, not %zu", first, first + count - 1, r.value.size, count * m->out_size);
    if (!err && r.value.size)
        memcpy((char *)m->out + first * m->out_size, r.value.data, r.value.size);
    mh_client_future_release(f);
    return err;
}

mh_err mh__views_check_sizes(const mh__views_map *m)
{
    return (m->item_size && m->count > SIZE_MAX / m->item_size) || (m->out_size && m->count > SIZE_MAX / m->out_size)
               ? mh__fail(MH_ERR_INVALID, "%zu items do not fit in memory", m->count)
               : MH_OK;
}

mh_bytes mh__views_part(const mh__views_map *m, size_t first, size_t count)
{
    return (mh_bytes){(const char *)m->in + first * m->item_size, count * m->item_size};
}

mh_err mh_balanced_view_map(mh_balanced_view *v, const char *function, const void *in, size_t item_size, size_t count, void *out,
                            size_t out_size, size_t chunk, mh_deadline until)
{
    const mh__views_map m = {in, item_size, count, out, out_size};
    size_t step = chunk ? chunk : 1, calls = count / step + (count % step != 0), given = 0, taken = 0, window = MH__MIN(calls, (size_t)IN_FLIGHT_MAX);
    mh_err err = mh__views_check_sizes(&m), first_err = err;
    mh_client_future **ring = err ? NULL : mh__calloc(window ? window : 1, sizeof(mh_client_future *));
    if (!err && !ring)
        first_err = MH_ERR_NO_MEMORY;
    while (!first_err || taken < given) {
        if (!first_err && given < calls && given - taken < window) {
            size_t at = given * step;
            first_err = mh_balanced_view_submit(v, function, mh__views_part(&m, at, MH__MIN(step, count - at)), NULL, &ring[given % window]);
            given += !first_err;
            continue;
        }
        if (taken == given)
            break;
        size_t at = taken * step;
        err = mh__views_collect(&m, &ring[taken % window], at, MH__MIN(step, count - at), until);
        first_err = first_err ? first_err : err;
        taken++;
    }
    mh__free(ring);
    return first_err;
}
