/* Where a controller's files lie, and what is in them. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "os/file.h"

#include <stdio.h>
#include <string.h>

enum { STATE_MAX = 16 << 20 };

static mh_err path_of(mh_controller *c, const char *role, char *out, size_t capacity)
{
    const char *id = c->options.cluster_id ? c->options.cluster_id : "";
    int size = snprintf(out, capacity, "%s/security/ipcontroller%s%s-%s.json", c->options.folder, *id ? "-" : "", id, role);
    return size < 0 || (size_t)size >= capacity ? mh__fail(MH_ERR_INVALID, "the path of the connection files is too long") : MH_OK;
}

static mh_err read_file(const char *path, bool is_engine, mh__connection *out)
{
    mh_buf *text = NULL;
    mh_err err = mh__os_file_read_private(&text, path, MH__CONNECTION_FILE_MAX);
    if (!err)
        err = mh__connection_read((mh_bytes){mh_buf_data(text), mh_buf_size(text)}, out);
    if (!err && out->is_engine != is_engine)
        err = mh__fail(MH_ERR_CORRUPT, "%s is for the other side", path);
    mh_buf_destroy(&text);
    return err;
}

/* Ports and key of the last time, where both files are there and belong together. */
static mh_err reuse(mh_controller *c)
{
    mh__connection engine, client;
    mh_err err = read_file(c->engine_path, true, &engine);
    if (!err)
        err = read_file(c->client_path, false, &client);
    if (err == MH_ERR_NOT_FOUND)
        return MH_OK;
    if (err)
        return err;
    if (strcmp(engine.key, client.key) || engine.registration != client.registration || engine.broadcast_count != 1)
        return mh__fail(MH_ERR_CORRUPT, "%s and %s do not belong together, or are another controller's", c->engine_path, c->client_path);
    c->engine_file = engine;
    c->client_file = client;
    return MH_OK;
}

static void fill(mh_controller *c, mh__connection *f, bool is_engine, const char *ssh)
{
    f->is_engine = is_engine;
    f->broadcast_count = 1;
    snprintf(f->interface_, sizeof f->interface_, "tcp://%s", c->options.ip && *c->options.ip ? c->options.ip : "127.0.0.1");
    if (c->options.location)
        snprintf(f->location, sizeof f->location, "%s", c->options.location);
    else if (!*f->location)
        mh__os_host_name(f->location, sizeof f->location);
    if (ssh)
        snprintf(f->ssh, sizeof f->ssh, "%s", ssh);
    snprintf(f->buffers, sizeof f->buffers, "%s", c->options.strict ? "signed" : "");
    snprintf(f->pack, sizeof f->pack, "json");
    snprintf(f->unpack, sizeof f->unpack, "json");
    snprintf(f->signature_scheme, sizeof f->signature_scheme, "hmac-sha256");
}

void mh__place_beside(const mh_controller *c, const char *name, char path[MH__PATH_BESIDE_SIZE])
{
    size_t stem = strlen(c->client_path) - strlen("client.json"); /* ...ipcontroller[-ID]- */
    snprintf(path, MH__PATH_BESIDE_SIZE, "%.*s%s", (int)stem, c->client_path, name);
}

mh_err mh__place_prepare(mh_controller *c)
{
    static const char *const schemes[] = {"leastload", "lru", "twobin", "weighted", "plainrandom", "pure"};
    char folder[512];
    mh_err err = path_of(c, "client", c->client_path, sizeof c->client_path);
    if (!err)
        err = path_of(c, "engine", c->engine_path, sizeof c->engine_path);
    if (!err)
        err = path_of(c, "engines", c->state_path, sizeof c->state_path);
    if (err)
        return err;
    mh__place_beside(c, "tasks.sqlite", c->journal_path);
    if (c->options.reuse)
        err = reuse(c);
    fill(c, &c->engine_file, true, c->options.engine_ssh);
    fill(c, &c->client_file, false, c->options.ssh);
    /* clients stop submitting tasks themselves where a "pure" scheduler lost its engines: ours never needs that */
    snprintf(c->client_file.task_scheme, sizeof c->client_file.task_scheme, "%s",
             schemes[c->options.policy == MH_SCHED_PURE ? MH_SCHED_LRU : c->options.policy]);
    snprintf(folder, sizeof folder, "%s/security", c->options.folder);
    return err ? err : mh__os_folder_make(folder);
}

/* The secret key, alone in a file that only this user can read: peers that were encrypted to it can come back. */
mh_err mh__place_curve(mh_controller *c)
{
    char path[MH__PATH_BESIDE_SIZE];
    mh_buf *text = NULL;
    if (!c->options.reuse)
        return mh__curve_pair_create(&c->curve);
    mh__place_beside(c, "curve.key", path);
    mh_err err = mh__os_file_read_private(&text, path, MH__CURVE_KEY_SIZE);
    if (!err) {
        snprintf(c->curve.secret_key, sizeof c->curve.secret_key, "%.*s", (int)mh_buf_size(text), (const char *)mh_buf_data(text));
        err = mh__curve_pair_complete(&c->curve);
        mh__secret_clear(mh_buf_data(text), mh_buf_size(text));
    } else if (err == MH_ERR_NOT_FOUND) {
        err = mh__curve_pair_create(&c->curve);
        if (!err)
            err = mh__os_file_write_private(path, mh__text(c->curve.secret_key));
    }
    mh_buf_destroy(&text);
    return err;
}

static mh_err write_file(const char *path, const mh__connection *f)
{
    mh_buf *text = NULL;
    mh_err err = mh_buf_create(&text, 0);
    if (!err)
        err = mh__connection_write(f, text);
    if (!err)
        err = mh__os_file_write_private(path, (mh_bytes){mh_buf_data(text), mh_buf_size(text)});
    if (text && mh_buf_size(text))
        mh__secret_clear(mh_buf_data(text), mh_buf_size(text));
    mh_buf_destroy(&text);
    return err;
}

mh_err mh__place_publish(mh_controller *c)
{
    mh_err err = write_file(c->engine_path, &c->engine_file);
    c->wrote_files = !err;
    if (!err)
        err = write_file(c->client_path, &c->client_file);
    if (!err)
        mh__log(c, MH_LOG_INFO, "connection files: %s and %s", c->client_path, c->engine_path);
    return err;
}

mh_err mh__place_write_engines(const mh_controller *c, mh_buf *to)
{
    mh__json_out o = mh__json_into(to);
    mh__json_open(&o, '{');
    mh__json_key(&o, "next_id");
    mh__json_add_int(&o, c->next_id);
    mh__json_key(&o, "engines");
    mh__json_open(&o, '[');
    for (mh__list *node = c->engines.next; node != &c->engines; node = node->next) {
        const mh__engine *e = mh__list_entry(node, mh__engine, link);
        mh__json_open(&o, '[');
        mh__json_add_int(&o, e->id);
        mh__json_add_bytes(&o, e->name.key);
        mh__json_add_bool(&o, e->is_ours);
        mh__json_close(&o, ']');
    }
    mh__json_close(&o, ']');
    mh__json_close(&o, '}');
    return mh__json_finish(&o);
}

void mh__place_save_engines(void *ctx)
{
    mh_controller *c = ctx;
    mh_buf *text = NULL;
    mh_err err = mh_buf_create(&text, 0);
    if (!err)
        err = mh__place_write_engines(c, text);
    if (!err)
        err = mh__os_file_write_private(c->state_path, (mh_bytes){mh_buf_data(text), mh_buf_size(text)});
    if (err)
        mh__log(c, MH_LOG_WARNING, "who is registered could not be saved: %s", mh_err_detail());
    mh_buf_destroy(&text);
}

static void restore(mh_controller *c, mh__json pair)
{
    mh__json_walk w = mh__json_walk_of(pair);
    mh__json key, id, uuid, ours;
    mh_bytes name;
    int64_t n;
    bool is_ours = false;
    if (!mh__json_next(&w, &key, &id) || !mh__json_next(&w, &key, &uuid) || !mh__json_int(id, &n) || !mh__json_plain(uuid, &name) ||
        (mh__json_next(&w, &key, &ours) && !mh__json_bool(ours, &is_ours)) ||
        (!mh__engine_find(c, name) && mh__engine_restore(c, name, n, is_ours)))
        mh__log(c, MH_LOG_WARNING, "an engine could not be restored from %s", c->state_path);
}

mh_err mh__place_restore_engines(mh_controller *c, mh_bytes text)
{
    static const char *const keys[] = {"next_id", "engines"};
    mh__json got[2];
    mh_err err = mh__json_pick(text, keys, 2, got);
    int64_t next = 0;
    if (!err && mh__json_int(got[0], &next) && next > c->next_id && next < INT32_MAX)
        c->next_id = next;
    mh__json_walk w = mh__json_walk_of(err ? (mh__json){0} : got[1]);
    for (mh__json key, pair; mh__json_next(&w, &key, &pair);)
        restore(c, pair);
    return err;
}

mh_err mh__place_load_engines(mh_controller *c)
{
    mh_buf *text = NULL;
    mh_err err = mh__os_file_read_private(&text, c->state_path, STATE_MAX);
    if (err)
        return err == MH_ERR_NOT_FOUND ? MH_OK : err;
    if (mh__place_restore_engines(c, (mh_bytes){mh_buf_data(text), mh_buf_size(text)}))
        mh__log(c, MH_LOG_WARNING, "%s is not valid, and is not used", c->state_path);
    mh_buf_destroy(&text);
    return MH_OK;
}

void mh__place_remove(mh_controller *c)
{
    if (!c->wrote_files || c->options.reuse)
        return;
    (void)!mh__os_file_unlink(c->client_path);
    (void)!mh__os_file_unlink(c->engine_path);
}
