/* `manyhands start`: a controller and engines, watched over by this process or by one in the background. */
#include "which.h"

#include <manyhands/process.h>

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = WHICH_COUNT, DAEMONIZE, RESTART, DURABLE, ENGINES, HOSTS, IP, LOCATION, CURVE, LIBRARY, PYTHON, SHELL, TIMEOUT, GRACE, JSON, PRIVATE, OWNER, DEBUG, DELAY,
       CLEAN_LOGS, OPTION_COUNT };
#define LOOK_NS (5 * MH_MILLISECOND)
enum { ENGINE_ARGS = 8, EXIT_INTERRUPTED = 130 };

static const cli_option options[OPTION_COUNT] = {
    WHICH_OPTIONS,
    [COUNT] = {"n", 'n', "N", "how many engines (one for each core); 0: only the controller", NULL},
    [DAEMONIZE] = {"daemonize", 'd', NULL, "go on in the background when all engines have registered", NULL},
    [RESTART] = {"restart", 0, NULL, "start engines that die, and the controller, again (five times in 30 s at most)", NULL},
    [DURABLE] = {"durable", 0, NULL, "keep the controller's tasks in the profile's folder, for the next start with --durable", NULL},
    [ENGINES] = {"engines", 0, "HOW", "what starts the engines: local, or as manyhands engines (mpi, slurm, ssh ...)", CLI_LAUNCHERS},
    [HOSTS] = {"hosts", 0, "HOST=N,...", "with --engines=ssh: where, and how many on each", NULL},
    [IP] = {"ip", 0, "ADDRESS", "where the controller listens (127.0.0.1); beyond this host only with --enable-curve", NULL},
    [LOCATION] = {"location", 0, "HOST", "this host's name as others find it", NULL},
    [CURVE] = {"enable-curve", 0, NULL, "encrypt all connections", NULL},
    [LIBRARY] = {"library", 0, "PATH", "engines run C functions of this task library instead of Python", CLI_FILES},
    [PYTHON] = {"python", 0, "PATH", "the Python that runs tasks (the one beside this command, else python3)", CLI_FILES},
    [SHELL] = {"shell", 0, "NAME", "the engines' shell: ipython, plain, or auto (IPython's where it is installed)", "auto ipython plain"},
    [TIMEOUT] = {"timeout", 0, "SECONDS", "how long the engines may take to register (60)", NULL},
    [GRACE] = {"grace", 0, "SECONDS", "at the end, how long until what still runs is killed (5)", NULL},
    [JSON] = {"json", 0, NULL, "print the one line as JSON", NULL},
    [PRIVATE] = {"private", 0, NULL, NULL, NULL},       /* for Client() where no cluster runs: a folder of its own */
    [OWNER] = {"owner", 0, "PID", NULL, NULL},          /* which ends it by its own end */
    [DEBUG] = {"debug", 0, NULL, NULL, NULL},           /* these as for ipcluster */
    [DELAY] = {"delay", 0, "SECONDS", NULL, NULL},
    [CLEAN_LOGS] = {"clean-logs", 0, "BOOL", NULL, NULL},
};

static int run_start(int argc, char **argv);

const cli_command command_start = {
    .name = "start",
    .arguments = "[-- CONTROLLER-OPTION...]",
    .summary = "start a cluster: a controller and engines",
    .about = "Start a controller and engines, wait until they have registered, print one line, and watch over them until Ctrl-C, SIGTERM, manyhands stop, or\n"
             "a client's shutdown. When this process is killed, the controller and the engines are killed with it.\n\n"
             "What they print goes to files in the profile's folder log. Options after -- go to the controller.",
    .examples = "manyhands start -n 4\nmanyhands start -n 8 --daemonize --restart --cluster-id=night\nmanyhands start --engines=slurm -n 64 --ip=192.0.2.10 --enable-curve\n"
                "manyhands start -- --scheme=lru --hwm=4",
    .exits = "10\tSuch a cluster runs already.\n130\tIt was interrupted before it was ready.\n",
    .options = options,
    .option_count = OPTION_COUNT,
    .run = run_start,
};

/* ---- settings -------------------------------------------------------------------------------- */

typedef struct settings {
    mh_cluster_options o;
    char folder[MH_CLUSTER_PATH_SIZE];
    const char *engine_args[ENGINE_ARGS], *controller_args[ENGINE_ARGS + 256];
    char library[MH_CLUSTER_PATH_SIZE + 16], python[MH_CLUSTER_PATH_SIZE + 16], shell[64], ip[300], location[300];
    bool is_json;
} settings;

static const char *join(char *out, size_t capacity, const char *option, const char *value)
{
    int size = snprintf(out, capacity, "--%s=%s", option, value);
    return size > 0 && (size_t)size < capacity ? out : NULL;
}

static int add_arguments(settings *s, const cli_line *line)
{
    const struct {
        int option;
        const char **to;
        char *text;
        size_t capacity;
    } texts[] = {
        {LIBRARY, s->engine_args, s->library, sizeof s->library}, {PYTHON, s->engine_args, s->python, sizeof s->python},
        {SHELL, s->engine_args, s->shell, sizeof s->shell},       {IP, s->controller_args, s->ip, sizeof s->ip},
        {LOCATION, s->controller_args, s->location, sizeof s->location},
    };
    size_t engine_count = 0, controller_count = 0;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char *value = line->values[texts[i].option];
        if (!value)
            continue;
        value = join(texts[i].text, texts[i].capacity, options[texts[i].option].name, value);
        if (!value)
            return cli_refuse(&command_start, "the value of --%s is too long", options[texts[i].option].name);
        texts[i].to[texts[i].to == s->engine_args ? engine_count++ : controller_count++] = value;
    }
    if (line->values[CURVE])
        s->controller_args[controller_count++] = "--enable-curve";
    if (line->values[DEBUG])
        s->controller_args[controller_count++] = "--debug";
    for (char **at = line->rest; at && *at; at++) {
        if (controller_count >= sizeof s->controller_args / sizeof s->controller_args[0] - 1)
            return cli_refuse(&command_start, "too many options for the controller");
        s->controller_args[controller_count++] = *at;
    }
    s->o.engine_args = s->engine_args;
    s->o.controller_args = s->controller_args;
    return EXIT_SUCCESS;
}

static void print_event(mh_log_level level, const char *line, void *ctx)
{
    char date[40];
    (void)ctx;
    cli_date(date);
    fprintf(stderr, "%s [start] %s%s\n", date, level >= MH_LOG_WARNING ? "WARNING | " : "", line);
}

static int read_settings(settings *s, const cli_line *line)
{
    long long n = 0, owner = 0;
    int status = EXIT_SUCCESS;
    if (line->word_count)
        return cli_refuse(&command_start, "unexpected argument \"%s\" (a cluster is named with --cluster-id)", line->words[0]);
    if (line->values[COUNT] && !cli_number(line->values[COUNT], 0, 100000, &n))
        return cli_refuse(&command_start, "-n: \"%s\" is not a number of engines", line->values[COUNT]);
    if (line->values[TIMEOUT] && !cli_seconds(line->values[TIMEOUT], 0.001, 1e6, &s->o.timeout_ns))
        return cli_refuse(&command_start, "--timeout: \"%s\" is not a time", line->values[TIMEOUT]);
    if (line->values[GRACE] && !cli_seconds(line->values[GRACE], 0.001, 1e6, &s->o.grace_ns))
        return cli_refuse(&command_start, "--grace: \"%s\" is not a time", line->values[GRACE]);
    if (line->values[OWNER] && !cli_number(line->values[OWNER], 1, INT32_MAX, &owner))
        return cli_refuse(&command_start, "--owner: \"%s\" is not a process", line->values[OWNER]);
    if (line->values[SHELL] && strcmp(line->values[SHELL], "auto") && strcmp(line->values[SHELL], "ipython") && strcmp(line->values[SHELL], "plain"))
        return cli_refuse(&command_start, "--shell: \"%s\" is none of auto, ipython and plain", line->values[SHELL]);
    s->o.engine_count = (uint32_t)n;
    s->o.no_engines = line->values[COUNT] && n == 0;
    s->o.cluster_id = line->values[CLUSTER_ID];
    s->o.hosts = line->values[HOSTS];
    s->o.engines = line->values[ENGINES] ? line->values[ENGINES] : s->o.hosts ? "ssh" : NULL;
    if (s->o.engines && strcmp(s->o.engines, "local") && (line->values[PRIVATE] || line->values[OWNER]))
        return cli_refuse(&command_start, "--private and --owner are for engines on this host");
    s->o.restart = line->values[RESTART];
    s->o.durable = line->values[DURABLE];
    s->o.is_private = line->values[PRIVATE];
    s->o.is_background = line->values[DAEMONIZE];
    s->o.owner_pid = (int32_t)owner;
    s->o.log = print_event;
    s->is_json = line->values[JSON];
    if (s->o.is_private && (which_is_given(line) || s->o.is_background) && (line->values[PROFILE] || line->values[PROFILE_DIR] || s->o.is_background))
        return cli_refuse(&command_start, "--private has a folder of its own, and stays in the foreground");
    if (!s->o.is_private && !which_folder(&command_start, line, s->folder, &status))
        return status;
    s->o.folder = s->o.is_private ? NULL : s->folder;
    return add_arguments(s, line);
}

/* ---- running --------------------------------------------------------------------------------- */

static void print_ready(const settings *s, const char *folder, uint32_t engines, int32_t controller, int32_t watcher, const char *file)
{
    const char *id = s->o.cluster_id ? s->o.cluster_id : "", *slash = strrchr(folder, '/');
    const char *profile = slash && !strncmp(slash, "/profile_", 9) ? slash + 9 : folder;
    if (s->is_json) {
        cli_json j = {.out = stdout};
        json_open(&j, NULL, '{');
        json_text(&j, "profile", profile);
        json_text(&j, "profile_dir", folder);
        json_text(&j, "cluster_id", id);
        json_int(&j, "engines", engines);
        json_int(&j, "controller_pid", controller);
        json_int(&j, "watcher_pid", watcher);
        json_text(&j, "connection_file", file);
        json_close(&j, '}');
        printf("\n");
    } else {
        printf("%u engine%s ready: ", engines, engines == 1 ? "" : "s");
        if (slash && profile == slash + 9)
            printf("Client(profile=\"%s\"%s%s%s)\n", profile, *id ? ", cluster_id=\"" : "", id, *id ? "\"" : "");
        else
            printf("Client(\"%s\")\n", file);
    }
    fflush(stdout);
}

static int status_of(mh_err err) { return err == MH_ERR_EXISTS ? EXIT_RUNS : err == MH_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE; }

static int watch(settings *s)
{
    mh_cluster *c = NULL;
    mh_err err = mh_cluster_create(&c, &s->o);
    if (err)
        return cli_fail(&command_start, status_of(err), "%s", mh_err_detail());
    if (!s->o.is_background)
        print_ready(s, mh_cluster_folder(c), mh_cluster_engine_count(c), mh_cluster_controller_pid(c), 0, mh_cluster_connection_file(c));
    err = mh_cluster_run(c);
    if (err)
        cli_fail(&command_start, 1, "%s", mh_err_detail());
    mh_cluster_destroy(&c);
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- in the background ----------------------------------------------------------------------- */

static volatile sig_atomic_t is_interrupted;
static void interrupt(int number) { is_interrupted = number; }

static int watch_in_background(void *ctx) { return watch(ctx); }

/* Whether process `watcher` says that its cluster is ready; then the line has been printed. */
static bool announce(const settings *s, int32_t watcher)
{
    mh_clusters *l = NULL;
    const char *id = s->o.cluster_id ? s->o.cluster_id : "";
    bool is_ready = false;
    if (mh_clusters_create(&l, &(mh_clusters_query){.folder = s->folder, .cluster_id = id}))
        return false;
    const mh_cluster_info *info = mh_clusters_at(l, 0);
    if (info && info->is_ready && info->watcher_pid == watcher) {
        print_ready(s, info->folder, (uint32_t)info->engines_alive, info->controller.pid, watcher, info->connection_file);
        is_ready = true;
    }
    mh_clusters_destroy(&l);
    return is_ready;
}

static int start_in_background(settings *s)
{
    mh_process *p = NULL;
    mh_exit status = {0};
    struct sigaction action = {.sa_handler = interrupt};
    mh_err err = mh_process_start(&p, &(mh_process_options){.run = watch_in_background, .ctx = s, .survive_parent = true, .new_session = true, .stdin_null = true});
    if (err)
        return cli_fail(&command_start, EXIT_FAILURE, "%s", mh_err_detail());
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    while ((err = mh_process_wait(p, mh_deadline_in(LOOK_NS), &status)) == MH_ERR_TIMEOUT || err == MH_ERR_INTERRUPTED) {
        if (is_interrupted)
            (void)!mh_process_terminate(p); /* it takes down what it has, and ends */
        else if (announce(s, mh_process_pid(p))) {
            mh_process_detach(&p);
            return EXIT_SUCCESS;
        }
    }
    mh_process_destroy(&p); /* it said why */
    return err || status.signal || !status.code ? EXIT_FAILURE : status.code;
}

static int run_start(int argc, char **argv)
{
    static settings s;
    cli_line line;
    int status;
    if (!cli_parse(&command_start, argc, argv, &line, &status))
        return status;
    status = read_settings(&s, &line);
    if (status)
        return status;
    return s.o.is_background ? start_in_background(&s) : watch(&s);
}
