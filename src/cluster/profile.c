#include "cluster/profile.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/file.h"
#include "os/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *folder, *before, *after;
    bool has_dash; /* before an empty id too */
} files[] = {
    [MH__FILE_CLUSTER] = {"security", "cluster", ".json", true},
    [MH__FILE_CLIENT] = {"security", "ipcontroller", "-client.json", false},
    [MH__FILE_ENGINE] = {"security", "ipcontroller", "-engine.json", false},
    [MH__FILE_ENGINES] = {"security", "ipcontroller", "-engines.json", false},
    [MH__FILE_TASKS] = {"security", "ipcontroller", "-tasks.sqlite", false},
    [MH__FILE_FAST] = {"security", "ipcontroller", ".fast", false},
    [MH__FILE_SEEN] = {"security", "ipcontroller", "-seen", false},
    [MH__FILE_WATCHER] = {"pid", "manyhands", ".json", true},
    [MH__FILE_LOCK] = {"pid", "manyhands", ".lock", true},
    [MH__FILE_LOG] = {"log", "manyhands", ".log", true},
};

static bool fits(int printed, size_t capacity) { return printed >= 0 && (size_t)printed < capacity; }

mh_err mh__profile_path(const char *folder, mh__profile_file which, const char *cluster_id, char out[MH_CLUSTER_PATH_SIZE])
{
    const char *dash = *cluster_id || files[which].has_dash ? "-" : "";
    int size = snprintf(out, MH_CLUSTER_PATH_SIZE, "%s/%s/%s%s%s%s", folder, files[which].folder, files[which].before, dash, cluster_id, files[which].after);
    return fits(size, MH_CLUSTER_PATH_SIZE) ? MH_OK : mh__fail(MH_ERR_INVALID, "the paths of the files of cluster \"%s\" in %s are too long", cluster_id, folder);
}

bool mh__profile_id_of(const char *name, mh__profile_file which, char id[MH_CLUSTER_ID_SIZE])
{
    size_t size = strlen(name), before = strlen(files[which].before), after = strlen(files[which].after);
    if (size < before + after || strncmp(name, files[which].before, before) || strcmp(name + size - after, files[which].after))
        return false;
    const char *middle = name + before;
    size_t left = size - before - after;
    if (left ? *middle != '-' : files[which].has_dash)
        return false;
    left -= left > 0;
    if (left >= MH_CLUSTER_ID_SIZE)
        return false;
    memcpy(id, middle + 1, left);
    id[left] = 0;
    return true;
}

mh_err mh__cluster_id_check(const char *id)
{
    for (const char *at = id; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == '/' || *at == 0x7f)
            return mh__fail(MH_ERR_INVALID, "a cluster's id is part of file names: no slashes and control characters in it");
    return strlen(id) < MH_CLUSTER_ID_SIZE ? MH_OK : mh__fail(MH_ERR_INVALID, "a cluster's id has at most %d characters", MH_CLUSTER_ID_SIZE - 1);
}

mh_err mh_profile_find(const char *name, const char *folder, const char *ipython_dir, char out[MH_CLUSTER_PATH_SIZE])
{
    const char *home = getenv("HOME"), *named = getenv("IPP_PROFILE_DIR"), *ipython = ipython_dir ? ipython_dir : getenv("IPYTHONDIR");
    int size;
    if (!folder && !name && !ipython_dir && named && *named)
        folder = named;
    if (folder && *folder) {
        size = snprintf(out, MH_CLUSTER_PATH_SIZE, "%s", folder);
    } else {
        if (name && (!*name || strchr(name, '/')))
            return mh__fail(MH_ERR_INVALID, "\"%s\" is not the name of a profile", name);
        if ((!ipython || !*ipython) && (!home || !*home))
            return mh__fail(MH_ERR_INVALID, "neither IPYTHONDIR nor HOME is set: say where the profile is");
        size = ipython && *ipython ? snprintf(out, MH_CLUSTER_PATH_SIZE, "%s/profile_%s", ipython, name ? name : "default")
                                   : snprintf(out, MH_CLUSTER_PATH_SIZE, "%s/.ipython/profile_%s", home, name ? name : "default");
    }
    if (!fits(size, MH_CLUSTER_PATH_SIZE))
        return mh__fail(MH_ERR_INVALID, "the path of the profile is too long");
    return mh__os_path_make_absolute(out, MH_CLUSTER_PATH_SIZE);
}

/* ---- whose process it is --------------------------------------------------------------------- */

void mh__cluster_marks_of(const char *folder, const char *cluster_id, mh__cluster_marks *out)
{
    snprintf(out->folder, sizeof out->folder, "IPP_PROFILE_DIR=%s", folder);
    snprintf(out->id, sizeof out->id, "IPP_CLUSTER_ID=%s", cluster_id);
}

bool mh__cluster_has(const char *folder, const char *cluster_id, int32_t pid, mh__identity recorded)
{
    mh__cluster_marks marks;
    if (pid <= 0 || (recorded && (mh__identity_number(recorded) != pid || !mh__os_is_process_alive(recorded))))
        return false;
    mh__cluster_marks_of(folder, cluster_id, &marks);
    return mh__os_has_environment(pid, (const char *const[]){marks.folder, marks.id}, 2);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void add_text(mh__json_out *o, const char *key, const char *value)
{
    mh__json_key(o, key);
    mh__json_add_string(o, value);
}

static void add_int(mh__json_out *o, const char *key, int64_t value)
{
    mh__json_key(o, key);
    mh__json_add_int(o, value);
}

/* What ipyparallel's launchers say of themselves. */
static void add_launcher(mh__json_out *o, const mh__record *r, int32_t pid, const char *log)
{
    add_text(o, "profile_dir", r->folder);
    add_text(o, "cluster_id", r->cluster_id);
    add_text(o, "state", "running");
    add_int(o, "pid", pid);
    add_text(o, "output_file", log);
}

static size_t count_living(const mh__record *r)
{
    size_t count = 0;
    for (size_t i = 0; i < r->engine_count; i++)
        count += r->engines[i].pid > 0;
    return count;
}

/* Engines that one process started elsewhere, and ends with itself: whoever wants them ended ends the cluster. */
static void add_set_elsewhere(mh__json_out *o, const mh__record *r)
{
    mh__json_key(o, r->set_id);
    mh__json_open(o, '{');
    add_launcher(o, r, -1, r->engines[0].log);
    add_int(o, "n", (int64_t)r->count_elsewhere);
    mh__json_close(o, '}');
}

static void add_set(mh__json_out *o, const mh__record *r)
{
    char number[24];
    mh__json_key(o, r->set_id);
    mh__json_open(o, '{');
    add_launcher(o, r, -1, "");
    add_int(o, "n", (int64_t)count_living(r));
    mh__json_key(o, "engines");
    mh__json_open(o, '{');
    for (size_t i = 0; i < r->engine_count; i++) {
        if (r->engines[i].pid <= 0)
            continue;
        snprintf(number, sizeof number, "%zu", i);
        mh__json_key(o, number);
        mh__json_open(o, '{');
        add_launcher(o, r, r->engines[i].pid, r->engines[i].log);
        add_int(o, "n", 1);
        mh__json_close(o, '}');
    }
    mh__json_close(o, '}');
    mh__json_close(o, '}');
}

static void add_cluster_file(mh__json_out *o, const mh__record *r)
{
    mh__json_open(o, '{');
    mh__json_key(o, "cluster");
    mh__json_open(o, '{');
    add_text(o, "cluster_id", r->cluster_id);
    mh__json_key(o, "controller_args");
    mh__json_open(o, '[');
    for (size_t i = 0; r->controller_args && r->controller_args[i]; i++)
        mh__json_add_string(o, r->controller_args[i]);
    mh__json_close(o, ']');
    add_text(o, "controller_ip", "");
    add_text(o, "controller_location", "");
    mh__json_key(o, "delay");
    mh__json_add_double(o, 1.0);
    add_int(o, "n", (int64_t)(r->launcher ? r->count_elsewhere : r->engine_count));
    add_text(o, "profile_dir", r->folder);
    mh__json_close(o, '}');
    mh__json_key(o, "controller");
    mh__json_open(o, '{');
    add_text(o, "class", "local");
    mh__json_key(o, "state");
    mh__json_open(o, '{');
    add_launcher(o, r, r->controller.pid, r->controller.log);
    mh__json_close(o, '}');
    mh__json_close(o, '}');
    mh__json_key(o, "engines");
    mh__json_open(o, '{');
    add_text(o, "class", r->launcher ? r->launcher : "local");
    mh__json_key(o, "sets");
    mh__json_open(o, '{');
    if (count_living(r))
        (r->launcher ? add_set_elsewhere : add_set)(o, r);
    mh__json_close(o, '}');
    mh__json_close(o, '}');
    mh__json_close(o, '}');
}

static void add_member(mh__json_out *o, const mh__record_member *m)
{
    mh__json_open(o, '{');
    add_int(o, "pid", m->pid);
    add_int(o, "since", (int64_t)(m->identity >> 32));
    add_int(o, "engine_id", m->engine_id);
    mh__json_close(o, '}');
}

static void add_watcher_file(mh__json_out *o, const mh__record *r)
{
    mh__json_open(o, '{');
    mh__json_key(o, "watcher");
    add_member(o, &(mh__record_member){.pid = mh__identity_number(r->watcher), .identity = r->watcher, .engine_id = -1});
    mh__json_key(o, "ready");
    mh__json_add_bool(o, r->is_ready);
    mh__json_key(o, "controller");
    add_member(o, &r->controller);
    mh__json_key(o, "engines");
    mh__json_open(o, '[');
    for (size_t i = 0; i < r->engine_count; i++)
        add_member(o, &r->engines[i]);
    mh__json_close(o, ']');
    mh__json_close(o, '}');
}

static mh_err write_one(const mh__record *r, mh__profile_file which, void (*add)(mh__json_out *o, const mh__record *r))
{
    char path[MH_CLUSTER_PATH_SIZE];
    mh_buf *text = NULL;
    mh_err err = mh__profile_path(r->folder, which, r->cluster_id, path);
    if (!err)
        err = mh_buf_create(&text, 0);
    if (!err) {
        mh__json_out o = mh__json_into(text);
        add(&o, r);
        err = mh__json_finish(&o);
    }
    if (!err)
        err = mh__os_file_write_private(path, (mh_bytes){mh_buf_data(text), mh_buf_size(text)});
    mh_buf_destroy(&text);
    return err;
}

mh_err mh__record_write(const mh__record *r)
{
    mh_err err = write_one(r, MH__FILE_WATCHER, add_watcher_file);
    return err ? err : write_one(r, MH__FILE_CLUSTER, add_cluster_file);
}

void mh__record_remove(const char *folder, const char *cluster_id)
{
    static const mh__profile_file all[] = {MH__FILE_CLUSTER, MH__FILE_WATCHER, MH__FILE_CLIENT, MH__FILE_ENGINE, MH__FILE_ENGINES, MH__FILE_FAST,
                                           MH__FILE_SEEN};
    char path[MH_CLUSTER_PATH_SIZE];
    for (size_t i = 0; i < MH__COUNT_OF(all); i++)
        if (!mh__profile_path(folder, all[i], cluster_id, path))
            (void)!mh__os_file_unlink(path);
}

void mh__tasks_remove(const char *folder, const char *cluster_id)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    char path[MH_CLUSTER_PATH_SIZE], whole[MH_CLUSTER_PATH_SIZE + 8];
    for (size_t i = 0; i < MH__COUNT_OF(ends) && !mh__profile_path(folder, MH__FILE_TASKS, cluster_id, path); i++) {
        snprintf(whole, sizeof whole, "%s%s", path, ends[i]);
        (void)!mh__os_file_unlink(whole);
    }
}

/* ---- programs of the Python package ---------------------------------------------------------- */

mh_err mh_cluster_become_python(const char *python, const char *module, const char *const *args)
{
    char beside[MH_CLUSTER_PATH_SIZE];
    size_t count = 0;
    while (args && args[count])
        count++;
    const char **argv = mh__calloc(count + 4, sizeof *argv);
    if (!argv)
        return MH_ERR_NO_MEMORY;
    bool is_there = !mh__os_path_beside_program("python3", beside, sizeof beside) && mh__os_path_exists(beside);
    argv[0] = python ? python : is_there ? beside : "python3";
    argv[1] = "-m";
    argv[2] = module;
    for (size_t i = 0; i < count; i++)
        argv[3 + i] = args[i];
    mh_err err = mh__os_become(argv);
    mh__free(argv);
    return err;
}
