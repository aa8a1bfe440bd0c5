/* How a cluster is: what its controller says, and what its processes use. */
#include "cluster/probe.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/usage.h"
#include "wire/message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mh_err mh_cluster_probe_create(mh_cluster_probe **out, const char *connection_file)
{
    *out = NULL;
    mh_cluster_probe *p = mh__calloc(1, sizeof *p);
    if (!p)
        return MH_ERR_NO_MEMORY;
    mh_err err = mh__asker_open(&p->ask, connection_file);
    if (err)
        mh_cluster_probe_destroy(&p);
    else
        *out = p;
    return err;
}

void mh_cluster_probe_destroy(mh_cluster_probe **p)
{
    if (!*p)
        return;
    mh__asker_close(&(*p)->ask);
    mh__free((*p)->engines);
    mh__free(*p);
    *p = NULL;
}

static int by_id(const void *a, const void *b)
{
    const mh_cluster_engine *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static bool read_id(mh__json key, int64_t *id)
{
    mh_bytes text;
    char digits[24], *end;
    if (!mh__json_plain(key, &text) || !text.size || text.size >= sizeof digits)
        return false;
    snprintf(digits, sizeof digits, "%.*s", (int)text.size, (const char *)text.data);
    *id = strtoll(digits, &end, 10);
    return !*end;
}

mh_err mh__probe_read_engines(mh_cluster_probe *p, mh_bytes text, mh_cluster_status *out)
{
    static const char *const keys[] = {"engines"};
    mh__json engines, key, value;
    mh_bytes uuid;
    mh_err err = mh__json_pick(text, keys, 1, &engines);
    size_t count = err ? 0 : mh__json_count(engines);
    if (err)
        return err;
    if (count > p->room) {
        mh_cluster_engine *grown = mh__realloc(p->engines, count * sizeof *grown);
        if (!grown)
            return MH_ERR_NO_MEMORY;
        p->engines = grown;
        p->room = count;
    }
    for (mh__json_walk w = mh__json_walk_of(engines); mh__json_next(&w, &key, &value);) {
        mh_cluster_engine e = {0};
        if (!read_id(key, &e.id) || !mh__json_plain(value, &uuid))
            return mh__fail(MH_ERR_CORRUPT, "the controller's list of engines is not valid");
        snprintf(e.uuid, sizeof e.uuid, "%.*s", (int)(uuid.size < sizeof e.uuid ? uuid.size : sizeof e.uuid - 1), (const char *)uuid.data);
        p->engines[out->engine_count++] = e;
    }
    if (out->engine_count)
        qsort(p->engines, out->engine_count, sizeof *p->engines, by_id);
    out->engines = p->engines;
    return MH_OK;
}

void mh__probe_read_queues(mh_bytes text, mh_cluster_status *out)
{
    mh__json whole, key, value;
    mh_cluster_engine wanted;
    if (mh__json_check(text, &whole))
        return;
    mh__json_int(mh__json_get(whole, "unassigned"), &out->unassigned);
    for (mh__json_walk w = mh__json_walk_of(whole); mh__json_next(&w, &key, &value);) {
        if (!read_id(key, &wanted.id) || !out->engine_count)
            continue;
        mh_cluster_engine *e = bsearch(&wanted, out->engines, out->engine_count, sizeof *e, by_id);
        if (!e)
            continue;
        mh__json_int(mh__json_get(value, "queue"), &e->queue);
        mh__json_int(mh__json_get(value, "tasks"), &e->tasks);
        mh__json_int(mh__json_get(value, "completed"), &e->completed);
    }
}

static void look_at(int32_t pid, mh_cluster_load *out)
{
    mh__tree_usage usage;
    if (mh__os_tree_usage(pid, &usage))
        *out = (mh_cluster_load){usage.own_bytes, usage.cpu_ns};
}

static void look_at_processes(const mh_cluster_info *info, mh_cluster_status *out)
{
    if (info->controller.is_alive) {
        out->controller_pid = info->controller.pid;
        look_at(info->controller.pid, &out->controller);
    }
    for (size_t i = 0; i < info->engine_count; i++) {
        const mh_cluster_member *m = &info->engines[i];
        mh_cluster_engine wanted = {.id = m->engine_id};
        mh_cluster_engine *e = out->engine_count && m->is_alive ? bsearch(&wanted, out->engines, out->engine_count, sizeof *e, by_id) : NULL;
        if (e) {
            e->pid = m->pid;
            look_at(m->pid, &e->load);
        }
    }
}

mh_err mh_cluster_probe_read(mh_cluster_probe *p, const mh_cluster_info *info, mh_deadline until, mh_cluster_status *out)
{
    mh_buf *reply = NULL;
    *out = (mh_cluster_status){0};
    mh_err err = mh__ask(p->ask, "connection_request", MH__TEXT("{}"), until, &reply);
    if (!err)
        err = mh__probe_read_engines(p, (mh_bytes){mh_buf_data(reply), mh_buf_size(reply)}, out);
    mh_buf_destroy(&reply);
    if (!err && out->engine_count) { /* with none, asking is an error */
        err = mh__ask(p->ask, "queue_request", MH__TEXT("{}"), until, &reply);
        if (!err)
            mh__probe_read_queues((mh_bytes){mh_buf_data(reply), mh_buf_size(reply)}, out);
        mh_buf_destroy(&reply);
    }
    if (!err && info)
        look_at_processes(info, out);
    return err;
}

mh_err mh_cluster_probe_shutdown(mh_cluster_probe *p, mh_deadline until)
{
    mh_buf *reply = NULL;
    mh_err err = mh__ask(p->ask, "shutdown_request", MH__TEXT("{}"), until, &reply);
    mh_buf_destroy(&reply);
    return err;
}
