/* Which clusters there are: what their files say, believed only as far as the processes bear it out. */
#include "cluster/profile.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/file.h"
#include "os/folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 64 << 20, ENGINES_MAX = 1000000 };

struct mh_clusters {
    mh_cluster_info *infos;
    size_t count, room;
};

/* ---- reading --------------------------------------------------------------------------------- */

/* A string, or "". */
static void take_text(mh__json v, char *out, size_t capacity)
{
    mh_buf *text = NULL;
    *out = 0;
    size_t size = !mh_buf_create(&text, 0) && !mh__json_string(v, text) ? mh_buf_size(text) : 0;
    if (size && size < capacity && !memchr(mh_buf_data(text), 0, size)) { /* of nothing there is no address either */
        memcpy(out, mh_buf_data(text), size);
        out[size] = 0;
    }
    mh_buf_destroy(&text);
}

static int32_t take_pid(mh__json object)
{
    int64_t pid;
    return mh__json_int(mh__json_get(object, "pid"), &pid) && pid > 0 && pid <= INT32_MAX ? (int32_t)pid : 0;
}

static mh__identity take_identity(mh__json object)
{
    int64_t since;
    int32_t pid = take_pid(object);
    return pid && mh__json_int(mh__json_get(object, "since"), &since) && since > 0 && since <= UINT32_MAX ? (uint64_t)since << 32 | (uint32_t)pid : 0;
}

/* "ipyparallel.cluster.launcher.SSHEngineSetLauncher" is "ssh" too. */
static void take_launcher(mh__json v, char *out, size_t capacity)
{
    static const char tail[] = "EngineSetLauncher";
    char text[160];
    take_text(v, text, sizeof text);
    const char *dot = strrchr(text, '.'), *name = dot ? dot + 1 : text;
    size_t size = strlen(name), cut = sizeof tail - 1;
    if (size > cut && !strcmp(name + size - cut, tail))
        size -= cut;
    if (size >= capacity)
        size = capacity - 1;
    for (size_t i = 0; i < size; i++)
        out[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] - 'A' + 'a') : name[i];
    out[size] = 0;
}

/* When a process began, and an engine's number, as the file of who watches over the cluster says; 0 and -1 where it says nothing. */
static mh__identity look_up(mh__json watcher, int32_t pid, int64_t *engine_id)
{
    mh__json key, member, controller = mh__json_get(watcher, "controller");
    mh__json_walk w = mh__json_walk_of(mh__json_get(watcher, "engines"));
    *engine_id = -1;
    if (take_pid(controller) == pid)
        return take_identity(controller);
    while (mh__json_next(&w, &key, &member))
        if (take_pid(member) == pid) {
            mh__json_int(mh__json_get(member, "engine_id"), engine_id);
            return take_identity(member);
        }
    return 0;
}

static void read_member(mh_cluster_info *info, mh__json state, mh__json watcher, mh_cluster_member *out)
{
    *out = (mh_cluster_member){.pid = take_pid(state), .engine_id = -1};
    mh__identity since = out->pid ? look_up(watcher, out->pid, &out->engine_id) : 0;
    out->is_alive = out->pid && mh__cluster_has(info->folder, info->cluster_id, out->pid, since);
    take_text(mh__json_get(state, "output_file"), out->log, sizeof out->log);
}

static mh_err read_set(mh_cluster_info *info, mh__json set, mh__json watcher)
{
    mh__json engines = mh__json_get(set, "engines"), key, state;
    int64_t n = 0;
    size_t count = mh__json_count(engines);
    if (mh__json_kind_of(engines) != MH__JSON_OBJECT || info->is_remote) {
        mh__json_int(mh__json_get(set, "n"), &n);
        info->is_remote = true;
        info->engines_alive += n > 0 ? (size_t)n : 0;
        return MH_OK;
    }
    if (count > ENGINES_MAX)
        return mh__fail(MH_ERR_CORRUPT, "%s names %zu engines", info->file, count);
    mh_cluster_member *grown = mh__realloc(info->engines, (info->engine_count + count + 1) * sizeof *grown);
    if (!grown)
        return MH_ERR_NO_MEMORY;
    info->engines = grown;
    for (mh__json_walk w = mh__json_walk_of(engines); mh__json_next(&w, &key, &state);) {
        read_member(info, state, watcher, &info->engines[info->engine_count]);
        info->engines_alive += info->engines[info->engine_count++].is_alive;
    }
    return MH_OK;
}

static mh_err read_text(mh_cluster_info *info, mh_bytes text, mh__json watcher)
{
    static const char *const keys[] = {"controller", "engines"};
    mh__json got[2], key, set;
    char launcher[64];
    mh_err err = mh__json_pick(text, keys, 2, got);
    if (err)
        return err;
    mh__json controller = mh__json_get(got[0], "state");
    take_launcher(mh__json_get(got[1], "class"), info->launcher, sizeof info->launcher);
    take_launcher(mh__json_get(got[0], "class"), launcher, sizeof launcher);
    bool has_controller = mh__json_kind_of(controller) == MH__JSON_OBJECT, is_here = !*launcher || !strcmp(launcher, "local");
    if (has_controller && is_here)
        read_member(info, controller, watcher, &info->controller);
    info->is_running = is_here ? info->controller.is_alive : has_controller;
    info->is_remote = (has_controller && !is_here) || (*info->launcher && strcmp(info->launcher, "local"));
    for (mh__json_walk w = mh__json_walk_of(mh__json_get(got[1], "sets")); !err && mh__json_next(&w, &key, &set);)
        err = read_set(info, set, watcher);
    mh__identity who = take_identity(mh__json_get(watcher, "watcher"));
    if (who && mh__os_is_process_alive(who))
        info->watcher_pid = mh__identity_number(who);
    mh__json_bool(mh__json_get(watcher, "ready"), &info->is_ready);
    info->is_ready = info->is_ready && info->watcher_pid;
    return err;
}

static mh_err read_watcher(const mh_cluster_info *info, mh_buf **file, mh__json *out)
{
    char path[MH_CLUSTER_PATH_SIZE];
    *out = (mh__json){0};
    mh_err err = mh__profile_path(info->folder, MH__FILE_WATCHER, info->cluster_id, path);
    if (!err)
        err = mh__os_file_read_private(file, path, FILE_MAX);
    return err ? err : mh__json_check((mh_bytes){mh_buf_data(*file), mh_buf_size(*file)}, out);
}

/* ipyparallel writes cluster files that everybody may read: they hold no key, and name processes that are looked at before they are believed. */
static mh_err read_cluster(mh_cluster_info *info)
{
    mh_buf *file = NULL, *watcher_file = NULL;
    mh__json watcher;
    mh_err err = mh__os_file_read_own(&file, info->file, FILE_MAX);
    if (!err && read_watcher(info, &watcher_file, &watcher))
        watcher = (mh__json){0}; /* it was started by other means */
    if (!err)
        err = read_text(info, (mh_bytes){mh_buf_data(file), mh_buf_size(file)}, watcher);
    mh_buf_destroy(&file);
    mh_buf_destroy(&watcher_file);
    return err;
}

/* ---- the list -------------------------------------------------------------------------------- */

static void name_profile(const char *folder, char out[MH_CLUSTER_ID_SIZE])
{
    const char *slash = strrchr(folder, '/'), *last = slash ? slash + 1 : folder;
    snprintf(out, MH_CLUSTER_ID_SIZE, "%.*s", MH_CLUSTER_ID_SIZE - 1, strncmp(last, "profile_", 8) ? folder : last + 8);
}

static mh_err add_cluster(mh_clusters *l, const char *folder, const char *id)
{
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 8;
        mh_cluster_info *grown = mh__realloc(l->infos, room * sizeof *grown);
        if (!grown)
            return MH_ERR_NO_MEMORY;
        l->infos = grown;
        l->room = room;
    }
    mh_cluster_info *info = &l->infos[l->count];
    *info = (mh_cluster_info){.controller.engine_id = -1};
    snprintf(info->folder, sizeof info->folder, "%s", folder);
    snprintf(info->cluster_id, sizeof info->cluster_id, "%s", id);
    name_profile(folder, info->profile);
    mh_err err = mh__profile_path(folder, MH__FILE_CLUSTER, id, info->file);
    if (!err)
        err = mh__profile_path(folder, MH__FILE_CLIENT, id, info->connection_file);
    if (err)
        return err;
    err = read_cluster(info);
    if (err == MH_ERR_NOT_FOUND) /* it was removed meanwhile */
        return MH_OK;
    l->count++;
    info->is_stale = !info->is_running && !info->watcher_pid && !info->engines_alive;
    return err == MH_ERR_NO_MEMORY ? err : MH_OK;
}

static mh_err add_profile(mh_clusters *l, const char *folder, const char *wanted_id)
{
    char path[MH_CLUSTER_PATH_SIZE + 16], id[MH_CLUSTER_ID_SIZE], **names = NULL;
    size_t count = 0;
    snprintf(path, sizeof path, "%s/security", folder);
    mh_err err = mh__os_folder_names(path, &names, &count);
    for (size_t i = 0; !err && i < count; i++)
        if (mh__profile_id_of(names[i], MH__FILE_CLUSTER, id) && (!wanted_id || !strcmp(wanted_id, id)))
            err = add_cluster(l, folder, id);
    mh__os_names_free(&names, count);
    return err == MH_ERR_NOT_FOUND ? MH_OK : err;
}

mh_err mh__profiles_each(const char *ipython_dir, mh_err (*fn)(const char *folder, void *ctx), void *ctx)
{
    char root[MH_CLUSTER_PATH_SIZE], folder[MH_CLUSTER_PATH_SIZE], **names = NULL;
    size_t count = 0;
    const char *named = getenv("IPP_PROFILE_DIR");
    /* the folder of the profiles: that of the default one without its last name */
    mh_err err = mh_profile_find("default", NULL, ipython_dir, root);
    if (err)
        return err;
    *strrchr(root, '/') = 0;
    err = mh__os_folder_names(root, &names, &count);
    for (size_t i = 0; !err && i < count; i++)
        if (!strncmp(names[i], "profile_", 8) && snprintf(folder, sizeof folder, "%s/%s", root, names[i]) < (int)sizeof folder)
            err = fn(folder, ctx);
    mh__os_names_free(&names, count);
    err = err == MH_ERR_NOT_FOUND ? MH_OK : err;
    if (!err && named && *named && !ipython_dir && strncmp(named, root, strlen(root)) && !mh_profile_find(NULL, named, NULL, folder))
        err = fn(folder, ctx);
    return err;
}

typedef struct listing {
    mh_clusters *l;
    const char *cluster_id;
} listing;

static mh_err list_profile(const char *folder, void *ctx) { return add_profile(((listing *)ctx)->l, folder, ((listing *)ctx)->cluster_id); }

mh_err mh_clusters_create(mh_clusters **out, const mh_clusters_query *query)
{
    if (!out || !query)
        return mh__fail(MH_ERR_INVALID, "out or query is NULL");
    char folder[MH_CLUSTER_PATH_SIZE];
    *out = NULL;
    mh_clusters *l = mh__calloc(1, sizeof *l);
    mh_err err = l ? MH_OK : MH_ERR_NO_MEMORY;
    if (!err && query->folder)
        err = mh_profile_find(NULL, query->folder, NULL, folder);
    if (!err)
        err = query->folder ? add_profile(l, folder, query->cluster_id)
                            : mh__profiles_each(query->ipython_dir, list_profile, &(listing){l, query->cluster_id});
    if (err) {
        mh_clusters_destroy(&l);
        return err;
    }
    *out = l;
    return MH_OK;
}

size_t mh_clusters_count(const mh_clusters *l) { return l->count; }
const mh_cluster_info *mh_clusters_at(const mh_clusters *l, size_t index) { return index < l->count ? &l->infos[index] : NULL; }

void mh_clusters_destroy(mh_clusters **l)
{
    if (!*l)
        return;
    for (size_t i = 0; i < (*l)->count; i++)
        mh__free((*l)->infos[i].engines);
    mh__free((*l)->infos);
    mh__free(*l);
    *l = NULL;
}
