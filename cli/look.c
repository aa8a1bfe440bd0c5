/* `manyhands list`, `status`, `top` and `logs`: what there is and how it is. */
#include "which.h"

#include <stdlib.h>
#include <string.h>

#define ANSWER_NS (5 * MH_SECOND)

/* ---- list ------------------------------------------------------------------------------------ */

enum { LIST_JSON = IPYTHON_DIR + 1, LIST_IDS, LIST_OUTPUT, LIST_OPTIONS };

static const cli_option list_options[LIST_OPTIONS] = {
    {"profile", 0, "NAME", "only the profile of this name", CLI_PROFILES},
    {"profile-dir", 0, "PATH", "only the profile in this folder", CLI_FOLDERS},
    {"ipython-dir", 0, "PATH", "where profiles are (~/.ipython)", CLI_FOLDERS},
    [LIST_JSON] = {"json", 0, NULL, "print JSON", NULL},
    [LIST_IDS] = {"ids", 0, NULL, "print the names of clusters, one a line, without the default ones", NULL},
    [LIST_OUTPUT] = {"o", 'o', "FORMAT", NULL, NULL}, /* as for ipcluster */
};

static int run_list(int argc, char **argv);

const cli_command command_list = {
    .name = "list",
    .summary = "the clusters that there are",
    .about = "List clusters that manyhands start or ipcluster started, in all profiles. A cluster that does not run was killed: manyhands clean removes its files.",
    .examples = "manyhands list\nmanyhands list --json --profile=default",
    .options = list_options,
    .option_count = LIST_OPTIONS,
    .run = run_list,
};

static void print_pid(cli_json *j, const char *key, int32_t pid)
{
    if (pid)
        json_int(j, key, pid);
}

static void print_cluster_json(cli_json *j, const mh_cluster_info *info)
{
    json_open(j, NULL, '{');
    json_text(j, "profile", info->profile);
    json_text(j, "profile_dir", info->folder);
    json_text(j, "cluster_id", info->cluster_id);
    json_bool(j, "running", info->is_running);
    json_bool(j, "stale", info->is_stale);
    json_int(j, "engines", (long long)info->engines_alive);
    json_text(j, "launcher", info->launcher);
    print_pid(j, "controller_pid", info->controller.is_alive ? info->controller.pid : 0);
    print_pid(j, "watcher_pid", info->watcher_pid);
    json_open(j, "engine_pids", '[');
    for (size_t i = 0; i < info->engine_count; i++)
        if (info->engines[i].is_alive)
            json_int(j, NULL, info->engines[i].pid);
    json_close(j, ']');
    json_text(j, "cluster_file", info->file);
    json_text(j, "connection_file", info->connection_file);
    json_close(j, '}');
}

static void print_list(const mh_clusters *l)
{
    printf("%-16s %-32s %-7s %7s %s\n", "PROFILE", "CLUSTER ID", "RUNNING", "ENGINES", "LAUNCHER");
    for (size_t i = 0; i < mh_clusters_count(l); i++) {
        const mh_cluster_info *info = mh_clusters_at(l, i);
        printf("%-16s %-32s %-7s %7zu %s\n", info->profile, *info->cluster_id ? info->cluster_id : "''", info->is_running ? "True" : "False",
               info->engines_alive, info->launcher);
    }
}

static int run_list(int argc, char **argv)
{
    cli_line line;
    int status;
    char folder[MH_CLUSTER_PATH_SIZE];
    mh_clusters *l = NULL;
    if (!cli_parse(&command_list, argc, argv, &line, &status))
        return status;
    const char *format = line.values[LIST_OUTPUT];
    if (format && strcmp(format, "json") && strcmp(format, "text"))
        return cli_refuse(&command_list, "-o: \"%s\" is neither json nor text", format);
    if (!which_folder(&command_list, &line, folder, &status))
        return status;
    bool is_one = line.values[PROFILE] || line.values[PROFILE_DIR];
    if (mh_clusters_create(&l, &(mh_clusters_query){.folder = is_one ? folder : NULL, .ipython_dir = line.values[IPYTHON_DIR]}))
        return cli_fail(&command_list, EXIT_FAILURE, "%s", mh_err_detail());
    if (line.values[LIST_IDS]) {
        for (size_t i = 0; i < mh_clusters_count(l); i++)
            if (*mh_clusters_at(l, i)->cluster_id)
                puts(mh_clusters_at(l, i)->cluster_id);
    } else if (line.values[LIST_JSON] || (format && !strcmp(format, "json"))) {
        cli_json j = {.out = stdout};
        json_open(&j, NULL, '[');
        for (size_t i = 0; i < mh_clusters_count(l); i++)
            print_cluster_json(&j, mh_clusters_at(l, i));
        json_close(&j, ']');
        printf("\n");
    } else {
        print_list(l);
    }
    mh_clusters_destroy(&l);
    return EXIT_SUCCESS;
}

/* ---- a look at one --------------------------------------------------------------------------- */

/* What is looked at: a cluster, or only a controller by its connection file. */
typedef struct target {
    mh_clusters *list;
    const mh_cluster_info *info; /* NULL: nothing is known but the file */
    char name[320], file[MH_CLUSTER_PATH_SIZE + 2 * MH_CLUSTER_ID_SIZE];
    mh_cluster_probe *probe;
} target;

static void close_target(target *t)
{
    mh_cluster_probe_destroy(&t->probe);
    mh_clusters_destroy(&t->list);
}

/* Find what the command line means and connect. False when the command ends with *status. */
static bool open_target(const cli_command *c, const cli_line *line, int file_option, target *t, int *status)
{
    char folder[MH_CLUSTER_PATH_SIZE];
    const char *file = line->values[file_option], *id = line->word_count ? line->words[0] : line->values[CLUSTER_ID] ? line->values[CLUSTER_ID] : "";
    *t = (target){0};
    if (line->word_count > 1) {
        *status = cli_refuse(c, "one cluster at a time, not \"%s\" too", line->words[1]);
        return false;
    }
    if (!which_folder(c, line, folder, status))
        return false;
    if (!file && mh_clusters_create(&t->list, &(mh_clusters_query){.folder = folder, .cluster_id = id})) {
        *status = cli_fail(c, EXIT_FAILURE, "%s", mh_err_detail());
        return false;
    }
    t->info = t->list ? mh_clusters_at(t->list, 0) : NULL;
    if (t->info)
        which_name(t->info, t->name);
    else
        snprintf(t->name, sizeof t->name, "the controller of %.200s", file ? file : folder);
    if (file)
        snprintf(t->file, sizeof t->file, "%s", file);
    else
        snprintf(t->file, sizeof t->file, "%s/security/ipcontroller%s%.128s-client.json", folder, *id ? "-" : "", id);
    if (t->info && t->info->is_stale) {
        *status = cli_fail(c, EXIT_NO_CLUSTER, "%s does not run any more; manyhands clean removes what it left", t->name);
        close_target(t);
        return false;
    }
    mh_err err = mh_cluster_probe_create(&t->probe, t->file);
    if (err) {
        *status = err == MH_ERR_NOT_FOUND ? cli_fail(c, EXIT_NO_CLUSTER, "no cluster \"%s\" in %s; manyhands list shows all that there are", id, folder)
                                          : cli_fail(c, EXIT_FAILURE, "%s", mh_err_detail());
        close_target(t);
    }
    return !err;
}

static mh_err read_target(const target *t, int64_t answer_ns, mh_cluster_status *out)
{
    return mh_cluster_probe_read(t->probe, t->info, mh_deadline_in(answer_ns), out);
}

static int tell_silence(const cli_command *c, const target *t)
{
    return cli_fail(c, EXIT_NO_ANSWER, "%s: %s", t->name, mh_err_detail());
}

static const char *seconds(int64_t ns, char out[16])
{
    snprintf(out, 16, "%.1f s", (double)ns / 1e9);
    return out;
}

/* ---- status ---------------------------------------------------------------------------------- */

enum { STATUS_FILE = WHICH_COUNT, STATUS_TIMEOUT, STATUS_JSON, STATUS_OPTIONS };

static const cli_option status_options[STATUS_OPTIONS] = {
    WHICH_OPTIONS,
    [STATUS_FILE] = {"file", 0, "PATH", "ask the controller of this connection file (ipcontroller-client.json)", CLI_FILES},
    [STATUS_TIMEOUT] = {"timeout", 0, "SECONDS", "how long the controller may take to answer (5)", NULL},
    [STATUS_JSON] = {"json", 0, NULL, "print JSON", NULL},
};

static int run_status(int argc, char **argv);

const cli_command command_status = {
    .name = "status",
    .arguments = "[ID]",
    .summary = "how one cluster is: controller, engines, queues",
    .about = "Ask a cluster's controller which engines it has and what waits for them, and look at the processes on this host. QUEUE counts requests that are\n"
             "addressed to an engine and not yet answered, TASKS balanced ones that it has, DONE those that it answered.",
    .examples = "manyhands status\nmanyhands status night --json",
    .exits = NO_CLUSTER_EXIT "12\tIts controller does not answer.\n",
    .among = CLI_CLUSTERS,
    .options = status_options,
    .option_count = STATUS_OPTIONS,
    .run = run_status,
};

static void print_load_json(cli_json *j, int32_t pid, const mh_cluster_load *load)
{
    print_pid(j, "pid", pid);
    if (!pid)
        return;
    json_int(j, "memory_bytes", (long long)load->memory_bytes);
    json_double(j, "cpu_s", (double)load->cpu_ns / 1e9);
}

static void print_engine_json(cli_json *j, const mh_cluster_engine *e)
{
    json_open(j, NULL, '{');
    json_int(j, "id", e->id);
    json_text(j, "uuid", e->uuid);
    json_int(j, "queue", e->queue);
    json_int(j, "tasks", e->tasks);
    json_int(j, "completed", e->completed);
    print_load_json(j, e->pid, &e->load);
    json_close(j, '}');
}

/* The object is left open. */
static void print_status_json(cli_json *j, const target *t, const mh_cluster_status *s)
{
    json_open(j, NULL, '{');
    if (t->info) {
        json_text(j, "profile", t->info->profile);
        json_text(j, "cluster_id", t->info->cluster_id);
    }
    json_text(j, "connection_file", t->file);
    json_open(j, "controller", '{');
    print_load_json(j, s->controller_pid, &s->controller);
    json_close(j, '}');
    json_int(j, "unassigned", s->unassigned);
    json_open(j, "engines", '[');
    for (size_t i = 0; i < s->engine_count; i++)
        print_engine_json(j, &s->engines[i]);
    json_close(j, ']');
}

static void print_status(const target *t, const mh_cluster_status *s)
{
    char memory[16], cpu[16];
    printf("%s: %zu engine%s, %lld task%s without an engine\n", t->name, s->engine_count, s->engine_count == 1 ? "" : "s", (long long)s->unassigned,
           s->unassigned == 1 ? "" : "s");
    if (s->controller_pid)
        printf("controller: process %d, %s, %s of CPU\n", s->controller_pid, cli_bytes(s->controller.memory_bytes, memory), seconds(s->controller.cpu_ns, cpu));
    printf("%-8s%9s%9s%9s%10s%11s%11s\n", "ENGINE", "PROCESS", "QUEUE", "TASKS", "DONE", "MEMORY", "CPU");
    for (size_t i = 0; i < s->engine_count; i++) {
        const mh_cluster_engine *e = &s->engines[i];
        char pid[16] = "-";
        if (e->pid)
            snprintf(pid, sizeof pid, "%d", e->pid);
        printf("%-8lld%9s%9lld%9lld%10lld%11s%11s\n", (long long)e->id, pid, (long long)e->queue, (long long)e->tasks, (long long)e->completed,
               e->pid ? cli_bytes(e->load.memory_bytes, memory) : "-", e->pid ? seconds(e->load.cpu_ns, cpu) : "-");
    }
}

static int run_status(int argc, char **argv)
{
    cli_line line;
    target t;
    mh_cluster_status s;
    int status = EXIT_SUCCESS;
    int64_t answer_ns = ANSWER_NS;
    if (!cli_parse(&command_status, argc, argv, &line, &status))
        return status;
    if (line.values[STATUS_TIMEOUT] && !cli_seconds(line.values[STATUS_TIMEOUT], 0.001, 1e6, &answer_ns))
        return cli_refuse(&command_status, "--timeout: \"%s\" is not a time", line.values[STATUS_TIMEOUT]);
    if (!open_target(&command_status, &line, STATUS_FILE, &t, &status))
        return status;
    if (read_target(&t, answer_ns, &s)) {
        status = tell_silence(&command_status, &t);
    } else if (line.values[STATUS_JSON]) {
        cli_json j = {.out = stdout};
        print_status_json(&j, &t, &s);
        json_close(&j, '}');
        printf("\n");
    } else {
        print_status(&t, &s);
    }
    close_target(&t);
    return status;
}

/* ---- top ------------------------------------------------------------------------------------- */

enum { TOP_FILE = WHICH_COUNT, TOP_INTERVAL, TOP_COUNT, TOP_JSON, TOP_OPTIONS };

static const cli_option top_options[TOP_OPTIONS] = {
    WHICH_OPTIONS,
    [TOP_FILE] = {"file", 0, "PATH", "ask the controller of this connection file (ipcontroller-client.json)", CLI_FILES},
    [TOP_INTERVAL] = {"interval", 'i', "SECONDS", "between two looks (1)", NULL},
    [TOP_COUNT] = {"count", 'c', "N", "looks to print (without end on a terminal, else 1)", NULL},
    [TOP_JSON] = {"json", 0, NULL, "print an object of JSON, in a line, for each look", NULL},
};

static int run_top(int argc, char **argv);

const cli_command command_top = {
    .name = "top",
    .arguments = "[ID]",
    .summary = "watch one cluster: engines, tasks a second, memory",
    .about = "Show what a cluster's engines do, again and again until Ctrl-C on a terminal, else once.",
    .examples = "manyhands top\nmanyhands top --count=10 --interval=0.5 --json",
    .exits = NO_CLUSTER_EXIT "12\tIts controller does not answer.\n",
    .among = CLI_CLUSTERS,
    .options = top_options,
    .option_count = TOP_OPTIONS,
    .run = run_top,
};

/* What an engine had done at the last look. */
typedef struct past {
    int64_t id, completed, cpu_ns;
} past;

typedef struct looks {
    past *engines; /* by id */
    size_t count;
    int64_t at_ns, controller_cpu_ns;
} looks;

static const past *find_past(const looks *before, int64_t id)
{
    for (size_t i = 0; i < before->count; i++)
        if (before->engines[i].id == id)
            return &before->engines[i];
    return NULL;
}

static bool remember(looks *now, const mh_cluster_status *s)
{
    past *engines = realloc(now->engines, (s->engine_count + 1) * sizeof *engines);
    if (!engines)
        return false;
    for (size_t i = 0; i < s->engine_count; i++)
        engines[i] = (past){s->engines[i].id, s->engines[i].completed, s->engines[i].load.cpu_ns};
    *now = (looks){engines, s->engine_count, mh_now(), s->controller.cpu_ns};
    return true;
}

/* Per second since the last look; 0 for what was not there then. */
static double rate(int64_t now, int64_t before, double passed_s) { return now > before ? (double)(now - before) / passed_s : 0; }

static void print_top_line(const mh_cluster_engine *e, const past *before, double passed_s)
{
    char memory[16], cpu[16] = "-";
    if (e->pid && before)
        snprintf(cpu, sizeof cpu, "%.0f %%", rate(e->load.cpu_ns, before->cpu_ns, passed_s) / 1e7);
    printf("%-8lld%9.1f%9lld%9lld%10lld%9s%11s\n", (long long)e->id, before ? rate(e->completed, before->completed, passed_s) : 0.0, (long long)e->queue,
           (long long)e->tasks, (long long)e->completed, cpu, e->pid ? cli_bytes(e->load.memory_bytes, memory) : "-");
}

static double total_rate(const mh_cluster_status *s, const looks *before, double passed_s)
{
    double sum = 0;
    for (size_t i = 0; i < s->engine_count; i++) {
        const past *p = find_past(before, s->engines[i].id);
        sum += p ? rate(s->engines[i].completed, p->completed, passed_s) : 0;
    }
    return sum;
}

static void print_top(const target *t, const mh_cluster_status *s, const looks *before, double passed_s, bool is_terminal)
{
    char memory[16];
    size_t bytes = s->controller.memory_bytes;
    for (size_t i = 0; i < s->engine_count; i++)
        bytes += s->engines[i].load.memory_bytes;
    if (is_terminal)
        printf("\033[H\033[J"); /* home, clear */
    printf("%s: %zu engines, %.1f tasks/s, %lld without an engine, %s\n", t->name, s->engine_count, total_rate(s, before, passed_s), (long long)s->unassigned,
           cli_bytes(bytes, memory));
    if (s->controller_pid)
        printf("controller: %s, %.0f %% of a core\n", cli_bytes(s->controller.memory_bytes, memory),
               rate(s->controller.cpu_ns, before->controller_cpu_ns, passed_s) / 1e7);
    printf("%-8s%9s%9s%9s%10s%9s%11s\n", "ENGINE", "TASKS/S", "QUEUE", "TASKS", "DONE", "CPU", "MEMORY");
    for (size_t i = 0; i < s->engine_count; i++)
        print_top_line(&s->engines[i], find_past(before, s->engines[i].id), passed_s);
}

static void print_top_json(const target *t, const mh_cluster_status *s, const looks *before, double passed_s)
{
    cli_json j = {.out = stdout};
    print_status_json(&j, t, s);
    json_double(&j, "tasks_per_s", total_rate(s, before, passed_s));
    json_close(&j, '}');
    printf("\n");
}

/* Looks until `count` (0: without end) were printed. */
static int look(target *t, int64_t interval_ns, long long count, bool is_json)
{
    looks before = {0};
    mh_cluster_status s;
    bool is_terminal = cli_is_terminal(stdout);
    int status = EXIT_SUCCESS;
    for (long long i = 0; !status && (!count || i <= count); i++) {
        if (read_target(t, ANSWER_NS, &s)) {
            status = tell_silence(&command_top, t);
            break;
        }
        double passed_s = (double)(mh_now() - before.at_ns) / 1e9;
        if (i && is_json)
            print_top_json(t, &s, &before, passed_s);
        else if (i)
            print_top(t, &s, &before, passed_s, is_terminal);
        if (fflush(stdout) || !remember(&before, &s))
            break; /* main tells */
        if (!count || i < count)
            cli_sleep(interval_ns);
    }
    free(before.engines);
    return status;
}

static int run_top(int argc, char **argv)
{
    cli_line line;
    target t;
    int status = EXIT_SUCCESS;
    long long count = cli_is_terminal(stdout) ? 0 : 1;
    int64_t interval_ns = MH_SECOND;
    if (!cli_parse(&command_top, argc, argv, &line, &status))
        return status;
    if (line.values[TOP_INTERVAL] && !cli_seconds(line.values[TOP_INTERVAL], 0.01, 1e6, &interval_ns))
        return cli_refuse(&command_top, "--interval: \"%s\" is not a time", line.values[TOP_INTERVAL]);
    if (line.values[TOP_COUNT] && !cli_number(line.values[TOP_COUNT], 1, 1000000000, &count))
        return cli_refuse(&command_top, "--count: \"%s\" is not a number of looks", line.values[TOP_COUNT]);
    if (!open_target(&command_top, &line, TOP_FILE, &t, &status))
        return status;
    status = look(&t, interval_ns, count, line.values[TOP_JSON]);
    close_target(&t);
    return status;
}

/* ---- logs ------------------------------------------------------------------------------------ */

enum { LOGS_FOLLOW = WHICH_COUNT, LOGS_LINES, LOGS_ENGINE, LOGS_CONTROLLER, LOGS_JSON, LOGS_OPTIONS };
#define FOLLOW_NS (100 * MH_MILLISECOND)
enum { LOOKS_A_CHECK = 10, LINE_MAX_SIZE = 8192 };

static const cli_option logs_options[LOGS_OPTIONS] = {
    WHICH_OPTIONS,
    [LOGS_FOLLOW] = {"follow", 'f', NULL, "go on with what is printed from now on, until the cluster has ended", NULL},
    [LOGS_LINES] = {"lines", 'n', "N", "only the last N lines of each (all; with --follow 10)", NULL},
    [LOGS_ENGINE] = {"engine", 'e', "NUMBER", "only this engine's", NULL},
    [LOGS_CONTROLLER] = {"controller", 0, NULL, "only the controller's", NULL},
    [LOGS_JSON] = {"json", 0, NULL, "print the paths of the logs as JSON instead", NULL},
};

static int run_logs(int argc, char **argv);

const cli_command command_logs = {
    .name = "logs",
    .arguments = "[ID]",
    .summary = "what the processes of one cluster print",
    .about = "Print the logs of a cluster's controller and engines, each line after the name of who printed it. They lie in the profile's folder log, and stay\n"
             "there until manyhands clean.",
    .examples = "manyhands logs --lines=20\nmanyhands logs night --follow --engine=0",
    .exits = NO_CLUSTER_EXIT,
    .among = CLI_CLUSTERS,
    .options = logs_options,
    .option_count = LOGS_OPTIONS,
    .run = run_logs,
};

typedef struct log_file {
    char who[32];
    const char *path;
    FILE *file; /* NULL: it can't be read (yet) */
    bool is_cut; /* what was printed last had no end of line */
} log_file;

static void print_lines(log_file *l)
{
    char text[LINE_MAX_SIZE];
    if (!l->file)
        return;
    clearerr(l->file);
    while (fgets(text, sizeof text, l->file)) {
        if (!l->is_cut)
            printf("%-11s| ", l->who);
        fputs(text, stdout);
        l->is_cut = !strchr(text, '\n');
    }
}

/* Go to where the last `lines` lines begin. */
static void skip_to_tail(FILE *f, long long lines)
{
    long at;
    if (fseek(f, 0, SEEK_END) || (at = ftell(f)) <= 0)
        return;
    for (long long seen = 0; at > 0; at--) {
        if (fseek(f, at - 1, SEEK_SET))
            break;
        if (fgetc(f) == '\n' && seen++ == lines)
            break;
    }
    (void)!fseek(f, at, SEEK_SET);
}

/* The logs that are wanted; the caller frees *out. */
static size_t choose_logs(const mh_cluster_info *info, bool wants_controller, bool wants_engines, long long engine, log_file **out)
{
    size_t count = 0;
    log_file *all = calloc(info->engine_count + 1, sizeof *all);
    *out = all;
    if (all && wants_controller && *info->controller.log)
        all[count++] = (log_file){.who = "controller", .path = info->controller.log};
    for (size_t i = 0; all && wants_engines && i < info->engine_count; i++) {
        const mh_cluster_member *m = &info->engines[i];
        long long number = m->engine_id >= 0 ? m->engine_id : (long long)i;
        if (!*m->log || (engine >= 0 && number != engine))
            continue;
        all[count].path = m->log;
        snprintf(all[count++].who, sizeof all->who, "engine %lld", number);
    }
    return count;
}

static bool still_runs(const mh_cluster_info *info)
{
    mh_clusters *l = NULL;
    if (mh_clusters_create(&l, &(mh_clusters_query){.folder = info->folder, .cluster_id = info->cluster_id}))
        return false;
    bool runs = mh_clusters_count(l) && !mh_clusters_at(l, 0)->is_stale;
    mh_clusters_destroy(&l);
    return runs;
}

static void follow(const mh_cluster_info *info, log_file *all, size_t count)
{
    bool runs = true;
    for (unsigned i = 1; !fflush(stdout); i++) {
        for (size_t k = 0; k < count; k++)
            print_lines(&all[k]);
        if (!runs)
            return;
        cli_sleep(FOLLOW_NS);
        if (i % LOOKS_A_CHECK == 0)
            runs = still_runs(info); /* and then once more: what was printed last */
    }
}

static int print_logs(const mh_cluster_info *info, const cli_line *line, long long lines, long long engine)
{
    log_file *all;
    bool one_engine = line->values[LOGS_ENGINE], controller = line->values[LOGS_CONTROLLER];
    size_t count = choose_logs(info, controller || !one_engine, one_engine || !controller, engine, &all);
    int status = count ? EXIT_SUCCESS : cli_fail(&command_logs, EXIT_FAILURE, "no such log on this host");
    for (size_t i = 0; i < count; i++) {
        all[i].file = fopen(all[i].path, "r");
        if (!all[i].file)
            fprintf(stderr, "manyhands logs: %s can't be read\n", all[i].path);
        else if (lines >= 0)
            skip_to_tail(all[i].file, lines);
        print_lines(&all[i]);
    }
    if (count && line->values[LOGS_FOLLOW])
        follow(info, all, count);
    for (size_t i = 0; i < count; i++)
        if (all[i].file)
            fclose(all[i].file);
    free(all);
    return status;
}

static int print_log_paths(const mh_cluster_info *info)
{
    log_file *all;
    cli_json j = {.out = stdout};
    size_t count = choose_logs(info, true, true, -1, &all);
    json_open(&j, NULL, '{');
    for (size_t i = 0; i < count; i++)
        json_text(&j, all[i].who, all[i].path);
    json_close(&j, '}');
    printf("\n");
    free(all);
    return EXIT_SUCCESS;
}

static int run_logs(int argc, char **argv)
{
    cli_line line;
    mh_clusters *list;
    int status = EXIT_SUCCESS;
    long long lines = -1, engine = -1;
    if (!cli_parse(&command_logs, argc, argv, &line, &status))
        return status;
    if (line.values[LOGS_FOLLOW])
        lines = 10;
    if (line.values[LOGS_LINES] && !cli_number(line.values[LOGS_LINES], 0, 1000000000, &lines))
        return cli_refuse(&command_logs, "--lines: \"%s\" is not a number of lines", line.values[LOGS_LINES]);
    if (line.values[LOGS_ENGINE] && !cli_number(line.values[LOGS_ENGINE], 0, 1000000000, &engine))
        return cli_refuse(&command_logs, "--engine: \"%s\" is not an engine's number", line.values[LOGS_ENGINE]);
    const mh_cluster_info *info = which_cluster(&command_logs, &line, &list, &status);
    if (!info)
        return status;
    status = line.values[LOGS_JSON] ? print_log_paths(info) : print_logs(info, &line, lines, engine);
    mh_clusters_destroy(&list);
    return status;
}
