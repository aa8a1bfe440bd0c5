/* Ending clusters that others started, and removing what dead ones left. No process gets a signal before it was found, through a descriptor
 * that pins it, to be one of the cluster. */
#include "cluster/ask.h"
#include "cluster/profile.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "os/file.h"
#include "os/folder.h"
#include "os/process.h"
#include "wire/connection.h"
#include "wire/message.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { LINE_SIZE = MH_CLUSTER_PATH_SIZE + 128 };
#define GRACE_NS (5 * MH_SECOND)
#define KILL_NS (10 * MH_SECOND)
#define ANSWER_NS (2 * MH_SECOND)

/* ---- ending ---------------------------------------------------------------------------------- */

/* A descriptor of a process that is the cluster's, or -1. */
static int pin(const mh_cluster_info *info, int32_t pid, bool is_watcher)
{
    int fd = -1;
    if (pid <= 0 || mh__os_pidfd_open(pid, &fd))
        return -1;
    bool is_ours = mh__cluster_has(info->folder, info->cluster_id, pid, 0);
    if (is_watcher) {
        mh_clusters *again = NULL;
        is_ours = !mh_clusters_create(&again, &(mh_clusters_query){.folder = info->folder, .cluster_id = info->cluster_id}) &&
                  mh_clusters_count(again) && mh_clusters_at(again, 0)->watcher_pid == pid;
        mh_clusters_destroy(&again);
    }
    if (!is_ours)
        mh__os_close(&fd);
    return fd;
}

static mh_err send(int fd, int number)
{
    mh_err err = mh__os_pidfd_signal(fd, number);
    return err == MH_ERR_EXITED ? MH_OK : err;
}

static bool has_ended(int fd, mh_deadline until)
{
    mh_err err;
    while ((err = mh__os_wait_readable(fd, until)) == MH_ERR_INTERRUPTED)
        continue;
    return !err;
}

/* Ask all, wait, kill the rest. Closes the descriptors. */
static mh_err end_all(int *fds, size_t count, int64_t grace_ns)
{
    mh_err err = MH_OK;
    mh_deadline until = mh_deadline_in(grace_ns);
    for (size_t i = 0; i < count && !err; i++)
        err = send(fds[i], SIGTERM);
    for (size_t i = 0; i < count && !err; i++)
        if (!has_ended(fds[i], until))
            err = send(fds[i], SIGKILL);
    until = mh_deadline_in(KILL_NS);
    for (size_t i = 0; i < count && !err; i++)
        if (!has_ended(fds[i], until))
            err = mh__fail(MH_ERR_TIMEOUT, "a process does not end although it was killed");
    for (size_t i = 0; i < count; i++)
        mh__os_close(&fds[i]);
    return err;
}

mh_err mh_cluster_end(const mh_cluster_info *info, int64_t grace_ns)
{
    size_t count = 0;
    if (info->is_remote && !info->watcher_pid)
        return mh__fail(MH_ERR_UNSUPPORTED, "cluster \"%s\" of %s was started with %s: end it with the tool that started it", info->cluster_id, info->folder,
                        *info->launcher ? info->launcher : "another tool");
    int *fds = mh__calloc(info->engine_count + 2, sizeof *fds);
    if (!fds)
        return MH_ERR_NO_MEMORY;
    grace_ns = grace_ns > 0 ? grace_ns : GRACE_NS;
    int watcher = pin(info, info->watcher_pid, true);
    if (watcher >= 0) {
        fds[count++] = watcher; /* it ends the others, and is killed only after it had its own time for that */
        grace_ns += GRACE_NS;
    } else {
        for (size_t i = 0; i < info->engine_count; i++)
            if ((fds[count] = pin(info, info->engines[i].pid, false)) >= 0)
                count++;
        if ((fds[count] = pin(info, info->controller.pid, false)) >= 0)
            count++;
    }
    mh_err err = end_all(fds, count, grace_ns);
    mh__free(fds);
    if (!err)
        mh__record_remove(info->folder, info->cluster_id);
    return !err && !count ? mh__fail(MH_ERR_EXITED, "nothing of cluster \"%s\" of %s runs", info->cluster_id, info->folder) : err;
}

/* ---- cleaning -------------------------------------------------------------------------------- */

typedef struct cleaning {
    const mh_cluster_clean_options *o;
    char folder[MH_CLUSTER_PATH_SIZE];
    mh_clusters *clusters;
    size_t removed;
} cleaning;

static void tell(cleaning *k, const char *what, const char *which)
{
    char line[LINE_SIZE];
    snprintf(line, sizeof line, "%s %s", what, which);
    if (k->o->tell)
        k->o->tell(line, k->o->ctx);
}

static mh_err remove_file(cleaning *k, const char *path)
{
    mh_err err = MH_OK;
    if (!mh__os_path_exists(path))
        return MH_OK;
    if (!k->o->dry_run)
        err = mh__os_file_unlink(path);
    if (!err) {
        k->removed++;
        tell(k, k->o->dry_run ? "would remove" : "removed", path);
    }
    return err;
}

static mh_err remove_kind(cleaning *k, mh__profile_file which, const char *id)
{
    char path[MH_CLUSTER_PATH_SIZE];
    mh_err err = mh__profile_path(k->folder, which, id, path);
    return err ? err : remove_file(k, path);
}

static const mh_cluster_info *find(const cleaning *k, const char *id)
{
    for (size_t i = 0; i < mh_clusters_count(k->clusters); i++)
        if (!strcmp(mh_clusters_at(k->clusters, i)->cluster_id, id))
            return mh_clusters_at(k->clusters, i);
    return NULL;
}

static bool is_living(const cleaning *k, const char *id)
{
    const mh_cluster_info *info = find(k, id);
    return info && !info->is_stale;
}

/* Clusters whose controller is gone: their engines wait for one that will not come back. */
static mh_err clean_cluster(cleaning *k, const mh_cluster_info *info)
{
    if (info->is_stale)
        return remove_kind(k, MH__FILE_CLUSTER, info->cluster_id);
    if (info->is_running || info->watcher_pid) {
        tell(k, "kept, for it runs:", info->file);
        return MH_OK;
    }
    if (!k->o->force || k->o->dry_run) {
        tell(k, "kept, for engines of it run without a controller (force ends them):", info->file);
        return MH_OK;
    }
    mh_err err = mh_cluster_end(info, 0);
    if (err == MH_ERR_UNSUPPORTED) /* on other hosts, where nothing can be known */
        return remove_kind(k, MH__FILE_CLUSTER, info->cluster_id);
    if (err == MH_ERR_EXITED)
        err = MH_OK;
    if (!err) {
        k->removed++;
        tell(k, "ended, and removed", info->file);
    }
    return err;
}

/* Whether a controller may still be reached by this file. */
static bool is_in_use(const cleaning *k, const char *path)
{
    mh_buf *text = NULL, *reply = NULL;
    mh__asker *ask = NULL;
    mh__connection c;
    char host[256];
    mh_err err = mh__os_file_read_private(&text, path, MH__CONNECTION_FILE_MAX);
    if (!err)
        err = mh__connection_read((mh_bytes){mh_buf_data(text), mh_buf_size(text)}, &c);
    mh_buf_destroy(&text);
    if (err || k->o->force)
        return false;
    mh__os_host_name(host, sizeof host);
    if (c.location[0] && strcmp(c.location, host) != 0)
        return true; /* another host's: who knows */
    bool answers = !mh__asker_open(&ask, path) && !mh__ask(ask, "connection_request", MH__TEXT("{}"), mh_deadline_in(ANSWER_NS), &reply);
    mh_buf_destroy(&reply);
    mh__asker_close(&ask);
    return answers;
}

static mh_err clean_connection(cleaning *k, const char *id)
{
    static const mh__profile_file all[] = {MH__FILE_CLIENT, MH__FILE_ENGINE, MH__FILE_ENGINES, MH__FILE_FAST, MH__FILE_SEEN};
    char path[MH_CLUSTER_PATH_SIZE];
    mh_err err = mh__profile_path(k->folder, MH__FILE_CLIENT, id, path);
    if (err || is_living(k, id))
        return err;
    if (is_in_use(k, path)) {
        tell(k, "kept, for its controller may run:", path);
        return MH_OK;
    }
    for (size_t i = 0; !err && i < MH__COUNT_OF(all); i++)
        err = remove_kind(k, all[i], id);
    return err;
}

/* A lock that can be taken has no holder, and then nobody watches over that cluster. */
static mh_err clean_watcher(cleaning *k, const char *name)
{
    char path[MH_CLUSTER_PATH_SIZE], id[MH_CLUSTER_ID_SIZE];
    int lock = -1;
    if (mh__profile_id_of(name, MH__FILE_WATCHER, id))
        return is_living(k, id) ? MH_OK : remove_kind(k, MH__FILE_WATCHER, id);
    if (!mh__profile_id_of(name, MH__FILE_LOCK, id))
        return MH_OK;
    mh_err err = mh__profile_path(k->folder, MH__FILE_LOCK, id, path);
    if (err || mh__os_lock_take(path, &lock))
        return err;
    err = remove_file(k, path);
    mh__os_close(&lock);
    return err;
}

static bool is_log_in_use(const cleaning *k, const char *path)
{
    for (size_t i = 0; i < mh_clusters_count(k->clusters); i++) {
        const mh_cluster_info *info = mh_clusters_at(k->clusters, i);
        char own[MH_CLUSTER_PATH_SIZE];
        if (info->is_stale)
            continue;
        if (!strcmp(info->controller.log, path) || (!mh__profile_path(k->folder, MH__FILE_LOG, info->cluster_id, own) && !strcmp(own, path)))
            return true;
        for (size_t j = 0; j < info->engine_count; j++)
            if (!strcmp(info->engines[j].log, path))
                return true;
    }
    return false;
}

static mh_err clean_log(cleaning *k, const char *name)
{
    static const char *const ours[] = {"ipcontroller", "ipengine", "manyhands-"};
    char path[MH_CLUSTER_PATH_SIZE];
    bool is_ours = false;
    for (size_t i = 0; i < MH__COUNT_OF(ours); i++)
        is_ours |= !strncmp(name, ours[i], strlen(ours[i]));
    if (k->o->keep_logs || !is_ours || snprintf(path, sizeof path, "%s/log/%s", k->folder, name) >= (int)sizeof path || is_log_in_use(k, path))
        return MH_OK;
    return remove_file(k, path);
}

/* The files of one controller go together, under the first of their names that is there. */
static mh_err clean_security(cleaning *k, const char *name)
{
    static const mh__profile_file kinds[] = {MH__FILE_CLIENT, MH__FILE_ENGINE, MH__FILE_FAST};
    char id[MH_CLUSTER_ID_SIZE], path[MH_CLUSTER_PATH_SIZE];
    size_t which = 0;
    while (which < MH__COUNT_OF(kinds) && !mh__profile_id_of(name, kinds[which], id))
        which++;
    if (which == MH__COUNT_OF(kinds))
        return MH_OK;
    for (size_t i = 0; i < which; i++)
        if (!mh__profile_path(k->folder, kinds[i], id, path) && mh__os_path_exists(path))
            return MH_OK;
    return clean_connection(k, id);
}

static mh_err each_name(cleaning *k, const char *inner, mh_err (*fn)(cleaning *k, const char *name))
{
    char path[MH_CLUSTER_PATH_SIZE + 16], **names = NULL;
    size_t count = 0;
    snprintf(path, sizeof path, "%s/%s", k->folder, inner);
    mh_err err = mh__os_folder_names(path, &names, &count);
    for (size_t i = 0; !err && i < count; i++)
        err = fn(k, names[i]);
    mh__os_names_free(&names, count);
    return err == MH_ERR_NOT_FOUND ? MH_OK : err;
}

static mh_err clean_profile(const char *folder, void *ctx)
{
    cleaning *k = ctx;
    snprintf(k->folder, sizeof k->folder, "%s", folder);
    mh_err err = mh_clusters_create(&k->clusters, &(mh_clusters_query){.folder = k->folder});
    for (size_t i = 0; !err && i < mh_clusters_count(k->clusters); i++)
        err = clean_cluster(k, mh_clusters_at(k->clusters, i));
    if (!err)
        err = each_name(k, "security", clean_security);
    if (!err)
        err = each_name(k, "pid", clean_watcher);
    if (!err)
        err = each_name(k, "log", clean_log);
    mh_clusters_destroy(&k->clusters);
    return err;
}

mh_err mh_cluster_clean(const mh_cluster_clean_options *options, size_t *removed)
{
    cleaning k = {.o = options};
    char folder[MH_CLUSTER_PATH_SIZE];
    mh_err err;
    if (options->folder) {
        err = mh_profile_find(NULL, options->folder, NULL, folder);
        if (!err)
            err = clean_profile(folder, &k);
    } else {
        err = mh__profiles_each(options->ipython_dir, clean_profile, &k);
    }
    *removed = k.removed;
    return err;
}
