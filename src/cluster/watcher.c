/* A cluster that this process watches over: a controller and engines as children, which the kernel kills when this process ends.
 *
 * Each tells that it is ready through a socket that it finds in its environment: nobody has to ask, or to look for files. While the cluster lives
 * this process holds a lock beside its files, so that two can't share a name.
 *
 * Engines that are started otherwise (mpiexec, Slurm, ssh) have one child in their stead, the starter: it tells that it is ready when all of them have
 * registered, and lives on for the moment that it needs to end them when this process is killed. */
#include "manyhands/cluster.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "cluster/ask.h"
#include "cluster/profile.h"
#include "manyhands/process.h"
#include "net/loop.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/file.h"
#include "os/folder.h"
#include "os/process.h"
#include "os/signals.h"
#include "wire/message.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READY_FD = 3, LINE_SIZE = 512, TAIL_BYTES = 4096, ENGINES_MAX = 100000, DEATHS_MAX = 5 };
#define START_NS (60 * MH_SECOND)
#define GRACE_NS (5 * MH_SECOND)
#define PRIVATE_GRACE_NS (500 * MH_MILLISECOND)
#define ELSEWHERE_GRACE_NS (20 * MH_SECOND) /* a batch system, or another host, has to be asked */
#define DEATHS_NS (30 * MH_SECOND)   /* DEATHS_MAX deaths within it, and it is not started again */
#define ANSWER_NS (300 * MH_MILLISECOND)

static const int end_signals[] = {SIGINT, SIGTERM, SIGHUP};

extern char **environ;

typedef struct member {
    mh_cluster *of;
    mh_process *process; /* NULL: it does not run */
    mh__identity identity;
    int64_t engine_id;   /* that it got, or is to ask for; -1 for the controller */
    int ready;           /* our end of its socket, or -1 */
    bool is_ready, is_controller, is_starter;
    char log[MH_CLUSTER_PATH_SIZE];
    int64_t deaths[DEATHS_MAX]; /* when it died last: a ring */
    unsigned death_count;
} member;

struct mh_cluster {
    char folder[MH_CLUSTER_PATH_SIZE], cluster_id[MH_CLUSTER_ID_SIZE], set_id[32], command[MH_CLUSTER_PATH_SIZE];
    char client_file[MH_CLUSTER_PATH_SIZE], engine_file[MH_CLUSTER_PATH_SIZE], lock_path[MH_CLUSTER_PATH_SIZE];
    char **controller_args, **engine_args;
    char *launcher, *hosts; /* of engines that a starter starts; NULL: they are children of this process */
    uint32_t count_elsewhere; /* 0: as many as the hosts say, which the starter tells */
    bool restart, durable, is_private, is_background;
    int64_t grace_ns;
    mh_log_fn log;
    void *log_ctx;

    mh__loop *loop;
    int lock, signals, owner, bell;
    member controller, *engines;
    uint32_t engine_count, ready_count;
    bool is_ready, must_stop, owns_files;
    bool keeps_tasks; /* the task log is there for the next one, or was before this one */
    mh_err end; /* why, when must_stop is set */
    char why[LINE_SIZE];
};

/* ---- telling --------------------------------------------------------------------------------- */

static void tell(const mh_cluster *c, mh_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void tell(const mh_cluster *c, mh_log_level level, const char *format, ...)
{
    char line[LINE_SIZE + MH_CLUSTER_PATH_SIZE];
    va_list args;
    if (!c->log)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    c->log(level, line, c->log_ctx);
}

static void stop_because(mh_cluster *c, mh_err err, const char *why)
{
    if (c->must_stop)
        return;
    c->must_stop = true;
    c->end = err;
    snprintf(c->why, sizeof c->why, "%s", why);
}

static void name_member(const member *m, char out[32])
{
    if (m->is_controller)
        snprintf(out, 32, "the controller");
    else if (m->is_starter)
        snprintf(out, 32, "what started the engines");
    else
        snprintf(out, 32, "engine %lld", (long long)m->engine_id);
}

static void describe_end(mh_exit status, char out[64])
{
    if (status.signal)
        snprintf(out, 64, "was killed by %s", strsignal(status.signal));
    else
        snprintf(out, 64, "ended with code %d", status.code);
}

/* The last line that a log holds: mostly what went wrong. */
static void last_line(const char *path, char out[LINE_SIZE])
{
    char text[TAIL_BYTES + 1];
    *out = 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    if (fseek(f, -TAIL_BYTES, SEEK_END))
        rewind(f);
    size_t size = fread(text, 1, TAIL_BYTES, f);
    fclose(f);
    while (size && (text[size - 1] == '\n' || text[size - 1] == ' '))
        size--;
    text[size] = 0;
    const char *line = strrchr(text, '\n');
    snprintf(out, LINE_SIZE, "%.*s", LINE_SIZE - 1, line ? line + 1 : text);
}

/* ---- files ----------------------------------------------------------------------------------- */

static mh__record_member record_of(const member *m)
{
    return (mh__record_member){.pid = m->process ? mh_process_pid(m->process) : 0, .identity = m->process ? m->identity : 0, .engine_id = m->engine_id, .log = m->log};
}

static mh_err write_files(mh_cluster *c)
{
    if (c->is_private)
        return MH_OK; /* nobody is to find it */
    mh__record_member *engines = mh__calloc(c->engine_count ? c->engine_count : 1, sizeof *engines);
    if (!engines)
        return MH_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < c->engine_count; i++)
        engines[i] = record_of(&c->engines[i]);
    mh_err err = mh__record_write(&(mh__record){
        .folder = c->folder, .cluster_id = c->cluster_id, .set_id = c->set_id, .controller_args = (const char *const *)c->controller_args,
        .watcher = mh__os_self_process(), .is_ready = c->is_ready, .controller = record_of(&c->controller),
        .engines = engines, .engine_count = c->engine_count, .launcher = c->launcher, .count_elsewhere = c->count_elsewhere});
    mh__free(engines);
    return err;
}

static void save(mh_cluster *c)
{
    if (write_files(c))
        tell(c, MH_LOG_WARNING, "the cluster's files are not up to date: %s", mh_err_detail());
}

/* ---- starting a process ---------------------------------------------------------------------- */

static bool is_replaced(const char *entry)
{
    static const char *const names[] = {"IPP_PROFILE_DIR=", "IPP_CLUSTER_ID=", "IPP_CONNECTION_INFO=", "MANYHANDS_READY_FD="};
    for (size_t i = 0; i < MH__COUNT_OF(names); i++)
        if (!strncmp(entry, names[i], strlen(names[i])))
            return true;
    return false;
}

/* The environment of a member; the strings are borrowed from this process's and the marks. The caller frees the array. */
static const char **environment_of(const mh__cluster_marks *marks)
{
    size_t count = 0, kept = 0;
    while (environ[count])
        count++;
    const char **env = mh__calloc(count + 4, sizeof *env);
    if (!env)
        return NULL;
    for (size_t i = 0; i < count; i++)
        if (!is_replaced(environ[i]))
            env[kept++] = environ[i];
    env[kept++] = marks->folder;
    env[kept++] = marks->id;
    env[kept] = "MANYHANDS_READY_FD=3";
    return env;
}

static size_t count_args(char **args)
{
    size_t count = 0;
    while (args && args[count])
        count++;
    return count;
}

/* The strings that arguments_of makes: they must outlive what it gives. */
typedef struct argument_texts {
    char file[MH_CLUSTER_PATH_SIZE + 16], number[40], id[MH_CLUSTER_ID_SIZE + 16], owner[40];
} argument_texts;

static size_t add_starter_arguments(const mh_cluster *c, const char **argv, argument_texts *t)
{
    size_t count = 0;
    snprintf(t->file, sizeof t->file, "--profile-dir=%s", c->folder);
    snprintf(t->id, sizeof t->id, "--cluster-id=%s", c->cluster_id);
    snprintf(t->number, sizeof t->number, "%u", c->count_elsewhere);
    snprintf(t->owner, sizeof t->owner, "--owner=%d", mh__os_pid());
    if (c->count_elsewhere) {
        argv[count++] = "-n";
        argv[count++] = t->number;
    }
    argv[count++] = "--engines";
    argv[count++] = c->launcher;
    argv[count++] = t->file;
    argv[count++] = t->id;
    argv[count++] = t->owner;
    if (c->hosts) {
        argv[count++] = "--hosts";
        argv[count++] = c->hosts;
    }
    return count;
}

/* The command line of a member; the caller frees the array. */
static const char **arguments_of(const mh_cluster *c, const member *m, argument_texts *t)
{
    char **more = m->is_controller ? c->controller_args : c->engine_args;
    size_t count = 0;
    const char **argv = mh__calloc(count_args(more) + 16, sizeof *argv);
    if (!argv)
        return NULL;
    argv[count++] = c->command;
    argv[count++] = m->is_controller ? "controller" : m->is_starter ? "engines" : "engine";
    if (m->is_starter) {
        count += add_starter_arguments(c, argv + count, t);
    } else if (m->is_controller) {
        bool goes_on = c->restart || c->durable; /* else its tasks end with it */
        if (goes_on)
            argv[count++] = "--reuse";
        argv[count++] = goes_on ? "--sqlitedb" : "--dictdb";
    } else {
        snprintf(t->file, sizeof t->file, "--file=%s", c->engine_file);
        snprintf(t->number, sizeof t->number, "--id=%lld", (long long)m->engine_id);
        argv[count++] = t->file;
        argv[count++] = t->number;
    }
    for (size_t i = 0; more && more[i]; i++)
        argv[count++] = more[i];
    return argv;
}

static void on_ready(int fd, void *ctx);
static void on_end(int fd, void *ctx);

static void stop_listening(member *m)
{
    if (m->ready < 0)
        return;
    mh__loop_remove_fd(m->of->loop, m->ready);
    mh__os_close(&m->ready);
}

static mh_err spawn(member *m, int log, int theirs)
{
    mh_cluster *c = m->of;
    argument_texts texts;
    mh__cluster_marks marks;
    mh__cluster_marks_of(c->folder, c->cluster_id, &marks);
    const char **argv = arguments_of(c, m, &texts), **env = environment_of(&marks);
    mh_pass_fd fds[] = {{log, 1}, {log, 2}, {theirs, READY_FD}};
    mh_err err = argv && env ? MH_OK : MH_ERR_NO_MEMORY;
    if (!err)
        err = mh_process_start(&m->process, &(mh_process_options){
            .argv = argv, .env = env, .fds = fds, .fd_count = MH__COUNT_OF(fds), .stdin_null = true, .new_group = true, .survive_parent = m->is_starter});
    mh__free(argv);
    mh__free(env);
    return err;
}

static mh_err start_member(member *m)
{
    int pair[2] = {-1, -1}, log = -1;
    mh_err err = mh__os_log_open(m->log, &log);
    if (!err)
        err = mh__os_socketpair(pair);
    if (!err)
        err = spawn(m, log, pair[1]);
    mh__os_close(&log);
    mh__os_close(&pair[1]);
    if (err) {
        mh__os_close(&pair[0]);
        return err;
    }
    m->identity = mh__os_identity_of(mh_process_pid(m->process));
    m->ready = pair[0];
    m->is_ready = false;
    err = mh__loop_add_fd(m->of->loop, m->ready, on_ready, m);
    if (err)
        mh__os_close(&m->ready);
    if (!err)
        err = mh__loop_add_fd(m->of->loop, mh_process_sentinel(m->process), on_end, m);
    if (err) {
        stop_listening(m);
        mh_process_destroy(&m->process);
    }
    return err;
}

/* ---- what happens to them -------------------------------------------------------------------- */

static void on_ready(int fd, void *ctx)
{
    member *m = ctx;
    mh_cluster *c = m->of;
    char text[32] = "";
    int fds[MH__OS_FDS_MAX];
    size_t size = 0, fd_count = 0;
    mh_err err = mh__os_receive(fd, text, sizeof text - 1, &size, fds, &fd_count, MH_NOW);
    if (err == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED)
        return;
    stop_listening(m);
    if (err || !size)
        return; /* it ends: on_end tells */
    text[size] = 0;
    m->is_ready = true;
    if (m->is_controller)
        return;
    c->ready_count++;
    if (m->is_starter)
        c->count_elsewhere = (uint32_t)strtoul(text, NULL, 10);
    else
        m->engine_id = strtoll(text, NULL, 10);
    if (c->is_ready && m->is_starter) {
        tell(c, MH_LOG_INFO, "the engines are back");
        save(c);
    } else if (c->is_ready) {
        tell(c, MH_LOG_INFO, "engine %lld is back (pid %d)", (long long)m->engine_id, mh_process_pid(m->process));
        save(c);
    }
}

/* Whether a member that died just now may be started again: not one that does nothing but die. */
static bool may_restart(member *m)
{
    int64_t now = mh_now(), *oldest = &m->deaths[m->death_count % DEATHS_MAX];
    bool often = m->death_count >= DEATHS_MAX && now - *oldest < DEATHS_NS;
    *oldest = now;
    m->death_count++;
    return m->of->restart && !often;
}

static void forget_process(member *m)
{
    stop_listening(m);
    mh__loop_remove_fd(m->of->loop, mh_process_sentinel(m->process));
    mh_process_destroy(&m->process);
    if (m->is_ready && !m->is_controller)
        m->of->ready_count--;
    m->is_ready = false;
}

static void fail_start(member *m, const char *who, const char *how)
{
    char line[LINE_SIZE], why[LINE_SIZE];
    last_line(m->log, line);
    snprintf(why, sizeof why, "%s %s before it was ready%s%.200s", who, how, *line ? ": " : "", line);
    stop_because(m->of, MH_ERR_BROKEN, why);
}

static void on_end(int fd, void *ctx)
{
    member *m = ctx;
    mh_cluster *c = m->of;
    mh_exit status = {0};
    char who[32], how[64], why[LINE_SIZE];
    (void)fd;
    if (mh_process_wait(m->process, MH_NOW, &status) == MH_ERR_TIMEOUT)
        return;
    name_member(m, who);
    describe_end(status, how);
    bool was_told = !status.signal && status.code == 0;
    forget_process(m);
    if (!c->is_ready) {
        fail_start(m, who, how);
        return;
    }
    if (m->is_controller && was_told) {
        stop_because(c, MH_OK, "the controller was told to end");
        return;
    }
    bool could_end_engines = !m->is_starter || !status.signal; /* else they run on, and others beside them would be too many */
    bool again = !was_told && could_end_engines && may_restart(m) && !start_member(m);
    tell(c, again || was_told ? MH_LOG_INFO : MH_LOG_WARNING, "%s %s%s", who, how, again ? "; started again" : "");
    snprintf(why, sizeof why, "the controller %s", how);
    if (m->is_controller && !again)
        stop_because(c, MH_ERR_BROKEN, why);
    else
        save(c);
}

static void on_signal(int fd, void *ctx)
{
    mh_cluster *c = ctx;
    char why[64];
    int number = mh__os_signals_take(fd);
    snprintf(why, sizeof why, "%s", strsignal(number));
    if (number)
        stop_because(c, c->is_ready ? MH_OK : MH_ERR_CANCELLED, why);
}

static void on_owner_end(int fd, void *ctx)
{
    mh_cluster *c = ctx;
    mh__loop_remove_fd(c->loop, fd);
    stop_because(c, c->is_ready ? MH_OK : MH_ERR_CANCELLED, "its owner ended");
}

static void on_bell(int fd, void *ctx)
{
    mh__os_eventfd_clear(fd);
    stop_because(ctx, MH_OK, "asked to stop");
}

/* ---- creating -------------------------------------------------------------------------------- */

static char **copy_args(const char *const *from, mh_err *err)
{
    size_t count = 0;
    while (from && from[count])
        count++;
    char **copy = *err ? NULL : mh__calloc(count + 1, sizeof *copy);
    if (!copy) {
        *err = *err ? *err : MH_ERR_NO_MEMORY;
        return NULL;
    }
    for (size_t i = 0; i < count; i++)
        if (!(copy[i] = mh__strdup(from[i])))
            *err = MH_ERR_NO_MEMORY;
    return copy;
}

/* Short-lived folders whose owners were killed together with who watched over them. */
static void sweep_private(const char *runtime)
{
    char **names = NULL, path[MH_CLUSTER_PATH_SIZE];
    size_t count = 0;
    if (mh__os_folder_names(runtime, &names, &count))
        return;
    for (size_t i = 0; i < count; i++) {
        unsigned long long who = 0;
        int used = 0;
        if (sscanf(names[i], "manyhands-%llx-%n", &who, &used) == 1 && used && !mh__os_is_process_alive(who) &&
            snprintf(path, sizeof path, "%s/%s", runtime, names[i]) < (int)sizeof path)
            (void)!mh__os_folder_remove(path); /* another user's refuses */
    }
    mh__os_names_free(&names, count);
}

static mh_err choose_folder(mh_cluster *c, const mh_cluster_options *o)
{
    if (!o->is_private) {
        if (!o->folder || !*o->folder)
            return mh__fail(MH_ERR_INVALID, "folder is required: it says where the cluster's files go");
        if (snprintf(c->folder, sizeof c->folder, "%s", o->folder) >= (int)sizeof c->folder)
            return mh__fail(MH_ERR_INVALID, "the path %s is too long", o->folder);
        return mh__os_path_make_absolute(c->folder, sizeof c->folder);
    }
    const char *runtime = mh__os_runtime_folder();
    sweep_private(runtime);
    snprintf(c->folder, sizeof c->folder, "%s/manyhands-%llx-", runtime, (unsigned long long)mh__os_self_process());
    mh_err err = mh__os_folder_unique(c->folder, sizeof c->folder);
    c->owns_files = !err;
    if (err)
        *c->folder = 0;
    return err;
}

static mh_err copy_options(mh_cluster *c, const mh_cluster_options *o)
{
    const char *id = o->cluster_id ? o->cluster_id : "";
    mh_err err = mh__cluster_id_check(id);
    if (!err && o->engine_count > ENGINES_MAX)
        err = mh__fail(MH_ERR_INVALID, "engine_count is %u; at most %d", o->engine_count, ENGINES_MAX);
    c->controller_args = copy_args(o->controller_args, &err);
    c->engine_args = copy_args(o->engine_args, &err);
    if (!err && o->engines && *o->engines && strcmp(o->engines, "local")) {
        c->launcher = mh__strdup(o->engines);
        c->hosts = o->hosts ? mh__strdup(o->hosts) : NULL;
        err = c->launcher && (c->hosts || !o->hosts) ? MH_OK : MH_ERR_NO_MEMORY;
    }
    c->restart = o->restart;
    c->durable = o->durable;
    c->is_private = o->is_private;
    c->is_background = o->is_background;
    c->grace_ns = o->grace_ns ? o->grace_ns : o->is_private ? PRIVATE_GRACE_NS : c->launcher ? ELSEWHERE_GRACE_NS : GRACE_NS;
    c->log = o->log;
    c->log_ctx = o->log_ctx;
    snprintf(c->cluster_id, sizeof c->cluster_id, "%.*s", MH_CLUSTER_ID_SIZE - 1, id);
    snprintf(c->set_id, sizeof c->set_id, "%lld", (long long)(mh__os_wall_ns() / MH_SECOND));
    if (!err)
        err = choose_folder(c, o);
    if (!err)
        err = mh__profile_path(c->folder, MH__FILE_CLIENT, id, c->client_file);
    if (!err)
        err = mh__profile_path(c->folder, MH__FILE_ENGINE, id, c->engine_file);
    if (!err && o->command)
        return snprintf(c->command, sizeof c->command, "%s", o->command) < (int)sizeof c->command ? MH_OK : mh__fail(MH_ERR_INVALID, "command is too long");
    return err ? err : mh__os_program_path(c->command, sizeof c->command);
}

static mh_err make_folders(const mh_cluster *c)
{
    static const char *const inner[] = {"security", "log", "pid"};
    char path[MH_CLUSTER_PATH_SIZE + 16];
    mh_err err = MH_OK;
    for (size_t i = 0; !err && i < MH__COUNT_OF(inner); i++) {
        snprintf(path, sizeof path, "%s/%s", c->folder, inner[i]);
        err = mh__os_folder_make(path);
    }
    return err;
}

/* A controller that answers by the file that is there, whoever started it. */
static bool is_answering(const char *client_file)
{
    mh__asker *ask = NULL;
    mh_buf *reply = NULL;
    bool answers = mh__os_path_exists(client_file) && !mh__asker_open(&ask, client_file) &&
                   !mh__ask(ask, "connection_request", MH__TEXT("{}"), mh_deadline_in(ANSWER_NS), &reply);
    mh_buf_destroy(&reply);
    mh__asker_close(&ask);
    return answers;
}

/* Be the only one with this name. */
static mh_err claim(mh_cluster *c)
{
    char tasks[MH_CLUSTER_PATH_SIZE];
    mh_clusters *others = NULL;
    if (c->is_private)
        return MH_OK;
    mh_err err = mh__profile_path(c->folder, MH__FILE_LOCK, c->cluster_id, c->lock_path);
    if (!err)
        err = mh__os_lock_take(c->lock_path, &c->lock);
    if (!err)
        err = mh_clusters_create(&others, &(mh_clusters_query){.folder = c->folder, .cluster_id = c->cluster_id});
    if (err == MH_ERR_EXISTS || (!err && mh_clusters_count(others) && mh_clusters_at(others, 0)->is_running) || (!err && is_answering(c->client_file)))
        err = mh__fail(MH_ERR_EXISTS, "cluster \"%s\" of %s runs already", c->cluster_id, c->folder);
    mh_clusters_destroy(&others);
    if (!err && !c->durable)
        mh__record_remove(c->folder, c->cluster_id); /* of one that was killed; a durable one goes on with its key and ports */
    c->owns_files = !err;
    if (!err)
        err = mh__profile_path(c->folder, MH__FILE_TASKS, c->cluster_id, tasks);
    c->keeps_tasks = c->durable || err || mh__os_path_exists(tasks);
    return err;
}

static mh_err watch_outside(mh_cluster *c, int32_t owner_pid)
{
    mh_err err = mh__loop_create(&c->loop);
    if (!err)
        err = mh__os_eventfd(&c->bell);
    if (!err)
        err = mh__loop_add_fd(c->loop, c->bell, on_bell, c);
    if (!err)
        err = mh__os_signals_open(&c->signals, end_signals, MH__COUNT_OF(end_signals));
    if (!err)
        err = mh__loop_add_fd(c->loop, c->signals, on_signal, c);
    if (err || !owner_pid)
        return err;
    err = mh__os_pidfd_open(owner_pid, &c->owner);
    if (err || mh__os_parent_pid() != owner_pid) /* after opening: a number that was used again belongs to no parent */
        return mh__fail(MH_ERR_CANCELLED, "process %d, the owner, is not the parent of this one (any more)", owner_pid);
    return mh__loop_add_fd(c->loop, c->owner, on_owner_end, c);
}

static void name_log(mh_cluster *c, member *m, uint32_t index)
{
    const char *dash = *c->cluster_id ? "-" : "";
    if (m->is_controller)
        snprintf(m->log, sizeof m->log, "%.800s/log/ipcontroller%s%s-%d.log", c->folder, dash, c->cluster_id, mh__os_pid());
    else if (m->is_starter)
        snprintf(m->log, sizeof m->log, "%.800s/log/ipengines-%s-%s.log", c->folder, c->cluster_id, c->set_id);
    else
        snprintf(m->log, sizeof m->log, "%.800s/log/ipengine-%s-%s-%u.log", c->folder, c->cluster_id, c->set_id, index);
}

static mh_err make_members(mh_cluster *c, const mh_cluster_options *o)
{
    c->engine_count = o->no_engines ? 0 : o->engine_count ? o->engine_count : (uint32_t)mh_cpu_count();
    if (c->launcher && c->engine_count) {
        c->count_elsewhere = c->hosts && !o->engine_count ? 0 : c->engine_count;
        c->engine_count = 1; /* the starter */
    }
    c->controller = (member){.of = c, .ready = -1, .is_controller = true, .engine_id = -1};
    name_log(c, &c->controller, 0);
    c->engines = mh__calloc(c->engine_count ? c->engine_count : 1, sizeof *c->engines);
    for (uint32_t i = 0; c->engines && i < c->engine_count; i++) {
        c->engines[i] = (member){.of = c, .ready = -1, .engine_id = i, .is_starter = c->launcher};
        name_log(c, &c->engines[i], i);
    }
    return c->engines ? MH_OK : MH_ERR_NO_MEMORY;
}

static mh_err turn(mh_cluster *c, mh_deadline until)
{
    mh_err err = mh__loop_wait(c->loop, until);
    mh__loop_dispatch(c->loop);
    if (c->must_stop)
        return c->end ? mh__fail(c->end, "%s", c->why) : MH_OK;
    return err == MH_ERR_INTERRUPTED ? MH_OK : err;
}

static mh_err start_all(mh_cluster *c, mh_deadline until)
{
    mh_err err = start_member(&c->controller);
    while (!err && !c->controller.is_ready && !c->must_stop)
        err = turn(c, until);
    if (err == MH_ERR_TIMEOUT)
        return mh__fail(err, "the controller was not ready in time; see %s", c->controller.log);
    for (uint32_t i = 0; !err && !c->must_stop && i < c->engine_count; i++)
        err = start_member(&c->engines[i]);
    if (!err)
        err = write_files(c);
    while (!err && c->ready_count < c->engine_count && !c->must_stop)
        err = turn(c, until);
    if (err == MH_ERR_TIMEOUT && c->launcher)
        return mh__fail(err, "the engines did not all register in time; see %s", c->engines[0].log);
    if (err == MH_ERR_TIMEOUT)
        return mh__fail(err, "%u of %u engines registered in time; see %s", c->ready_count, c->engine_count, c->engines[0].log);
    return !err && c->must_stop ? mh__fail(MH_ERR_CANCELLED, "%s", c->why) : err;
}

/* From now on nobody may be at the other end of what this process prints to. */
static mh_err go_to_background(mh_cluster *c)
{
    char path[MH_CLUSTER_PATH_SIZE];
    int fd = -1;
    mh_err err = mh__profile_path(c->folder, MH__FILE_LOG, c->cluster_id, path);
    if (!err)
        err = mh__os_log_open(path, &fd);
    if (!err)
        err = mh__os_output_to(fd);
    mh__os_close(&fd);
    return err;
}

mh_err mh_cluster_create(mh_cluster **out, const mh_cluster_options *options)
{
    if (!out || !options)
        return mh__fail(MH_ERR_INVALID, "out or options is NULL");
    *out = NULL;
    mh_cluster *c = mh__calloc(1, sizeof *c);
    if (!c)
        return MH_ERR_NO_MEMORY;
    c->lock = c->signals = c->owner = c->bell = c->controller.ready = -1;
    mh_err err = copy_options(c, options);
    if (!err)
        err = make_folders(c);
    if (!err)
        err = claim(c);
    if (!err)
        err = watch_outside(c, options->owner_pid);
    if (!err)
        err = make_members(c, options);
    if (!err)
        err = start_all(c, mh_deadline_in(options->timeout_ns ? options->timeout_ns : START_NS));
    if (!err && c->is_background)
        err = go_to_background(c);
    c->is_ready = true;
    if (!err)
        err = write_files(c);
    if (err) {
        char detail[LINE_SIZE];
        snprintf(detail, sizeof detail, "%s", mh_err_detail());
        mh_cluster_destroy(&c);
        return mh__fail(err, "%s", detail);
    }
    *out = c;
    return MH_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

mh_err mh_cluster_run(mh_cluster *c)
{
    mh_err err = MH_OK;
    while (!err && !c->must_stop)
        err = turn(c, MH_FOREVER);
    if (c->must_stop)
        tell(c, MH_LOG_INFO, "stopping: %s", c->why);
    return err;
}

void mh_cluster_stop(mh_cluster *c) { mh__os_eventfd_set(c->bell); }

static void wait_for(member *m, mh_deadline until)
{
    while (m->process && mh_process_wait(m->process, until, NULL) == MH_ERR_INTERRUPTED)
        continue;
}

/* Engines first: they say goodbye to a controller that is there. What is left at the end is killed. */
static void end_processes(mh_cluster *c)
{
    for (uint32_t i = 0; i < c->engine_count; i++)
        if (c->engines[i].process)
            (void)!mh_process_terminate(c->engines[i].process);
    mh_deadline until = mh_deadline_in(c->grace_ns), half = mh_deadline_in(c->grace_ns / 2);
    for (uint32_t i = 0; i < c->engine_count; i++)
        wait_for(&c->engines[i], half);
    if (c->controller.process)
        (void)!mh_process_terminate(c->controller.process);
    wait_for(&c->controller, until);
    for (uint32_t i = 0; i < c->engine_count; i++)
        wait_for(&c->engines[i], until);
    for (uint32_t i = 0; i < c->engine_count; i++)
        if (c->engines[i].process)
            forget_process(&c->engines[i]);
    if (c->controller.process)
        forget_process(&c->controller);
}

static void free_args(char ***args)
{
    for (size_t i = 0; *args && (*args)[i]; i++)
        mh__free((*args)[i]);
    mh__free(*args);
    *args = NULL;
}

void mh_cluster_destroy(mh_cluster **at)
{
    mh_cluster *c = *at;
    if (!c)
        return;
    if (c->engines)
        end_processes(c);
    if (c->owns_files && !c->is_private)
        mh__record_remove(c->folder, c->cluster_id);
    if (c->owns_files && !c->keeps_tasks)
        mh__tasks_remove(c->folder, c->cluster_id);
    if (c->owns_files && c->is_private && mh__os_folder_remove(c->folder))
        tell(c, MH_LOG_WARNING, "%s is left: %s", c->folder, mh_err_detail());
    if (c->lock >= 0)
        (void)!mh__os_file_unlink(c->lock_path);
    mh__os_close(&c->lock);
    if (c->loop)
        mh__loop_destroy(&c->loop);
    mh__os_close(&c->owner);
    mh__os_close(&c->bell);
    mh__os_signals_close(&c->signals, end_signals, MH__COUNT_OF(end_signals));
    free_args(&c->controller_args);
    free_args(&c->engine_args);
    mh__free(c->launcher);
    mh__free(c->hosts);
    mh__free(c->engines);
    mh__free(c);
    *at = NULL;
}

const char *mh_cluster_folder(const mh_cluster *c) { return c->folder; }
const char *mh_cluster_connection_file(const mh_cluster *c) { return c->client_file; }
uint32_t mh_cluster_engine_count(const mh_cluster *c) { return c->launcher ? c->count_elsewhere : c->engine_count; }
int32_t mh_cluster_controller_pid(const mh_cluster *c) { return c->controller.process ? mh_process_pid(c->controller.process) : 0; }
