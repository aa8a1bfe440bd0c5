/* `manyhands controller`: takes what IPython Parallel's launchers and users give to `ipcontroller`. */
#include "command.h"

#include <manyhands.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PORTS_MAX = 1024, PATH_SIZE = 512 };

typedef struct settings {
    mh_controller_options o;
    const char *profile, *ipython_dir;
    char folder[PATH_SIZE];
    uint16_t ports[PORTS_MAX];
    bool wants_help, wants_version;
} settings;

static int run_controller(int argc, char **argv);

/* ---- values ---------------------------------------------------------------------------------- */

static int usage(const char *format, const char *what, const char *why)
{
    fprintf(stderr, "manyhands controller: ");
    fprintf(stderr, format, what, why);
    fprintf(stderr, "; see manyhands controller --help\n");
    return EXIT_USAGE;
}

static bool parse_switch(const char *text, bool *out)
{
    *out = !strcmp(text, "True") || !strcmp(text, "true") || !strcmp(text, "1");
    return *out || !strcmp(text, "False") || !strcmp(text, "false") || !strcmp(text, "0");
}

static bool set_text(settings *s, const char **to, const char *value)
{
    (void)s;
    *to = value;
    return true;
}

static bool set_profile(settings *s, const char *value) { return *value && !strchr(value, '/') && set_text(s, &s->profile, value); }
static bool set_folder(settings *s, const char *value) { return *value && set_text(s, &s->o.folder, value); }
static bool set_ipython_dir(settings *s, const char *value) { return *value && set_text(s, &s->ipython_dir, value); }
static bool set_cluster_id(settings *s, const char *value) { return set_text(s, &s->o.cluster_id, value); }
static bool set_ip(settings *s, const char *value) { return set_text(s, &s->o.ip, value); }
static bool set_location(settings *s, const char *value) { return set_text(s, &s->o.location, value); }
static bool set_ssh(settings *s, const char *value) { return set_text(s, &s->o.ssh, value); }
static bool set_engine_ssh(settings *s, const char *value) { return set_text(s, &s->o.engine_ssh, value); }

static bool set_level(settings *s, const char *value)
{
    static const struct {
        const char *name;
        mh_log_level level;
    } names[] = {{"DEBUG", MH_LOG_DEBUG}, {"INFO", MH_LOG_INFO}, {"WARN", MH_LOG_WARNING}, {"WARNING", MH_LOG_WARNING},
                 {"ERROR", MH_LOG_ERROR}, {"CRITICAL", MH_LOG_ERROR}};
    long long n;
    if (cli_number(value, 0, 50, &n)) {
        s->o.level = n < 10 ? MH_LOG_DEBUG : n < 20 ? MH_LOG_DEBUG : n < 30 ? MH_LOG_INFO : n < 40 ? MH_LOG_WARNING : MH_LOG_ERROR;
        return true;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(value, names[i].name)) {
            s->o.level = names[i].level;
            return true;
        }
    return false;
}

static bool set_ping(settings *s, const char *value)
{
    long long ms;
    if (!cli_number(value, 1, 86400000, &ms))
        return false;
    s->o.ping_ns = ms * MH_MILLISECOND;
    return true;
}

static bool set_misses(settings *s, const char *value)
{
    long long n;
    if (!cli_number(value, 1, 1000000, &n))
        return false;
    s->o.pings_missed = (uint32_t)n;
    return true;
}

static bool set_scheme(settings *s, const char *value)
{
    static const char *const names[] = {"leastload", "lru", "twobin", "weighted", "plainrandom", "pure"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(value, names[i])) {
            s->o.policy = (mh_sched_policy)i;
            return true;
        }
    return false;
}

static bool set_hwm(settings *s, const char *value)
{
    long long n;
    if (!cli_number(value, 0, UINT32_MAX, &n))
        return false;
    s->o.high_water = (uint32_t)n;
    s->o.high_water_set = true;
    return true;
}

/* "10101-10120", "10101,10105-10107": used in this order. */
static bool set_ports(settings *s, const char *value)
{
    char text[256];
    if (strlen(value) >= sizeof text)
        return false;
    strcpy(text, value);
    for (char *part = strtok(text, ","); part; part = strtok(NULL, ",")) {
        long long first, last;
        char *dash = strchr(part, '-');
        if (dash)
            *dash = 0;
        if (!cli_number(part, 1, 65535, &first) || !cli_number(dash ? dash + 1 : part, first, 65535, &last))
            return false;
        for (; first <= last && s->o.port_count < PORTS_MAX; first++)
            s->ports[s->o.port_count++] = (uint16_t)first;
    }
    s->o.ports = s->ports;
    return s->o.port_count > 0;
}

static bool set_history(settings *s, const char *value)
{
    long long n;
    if (!cli_number(value, 1, INT32_MAX, &n))
        return false;
    s->o.history_count = (size_t)n;
    return true;
}

static bool set_size(const char *value, size_t *to)
{
    long long n;
    if (!cli_number(value, 1, INT64_MAX, &n))
        return false;
    *to = (size_t)n;
    return true;
}

static bool set_connections(settings *s, const char *value) { return set_size(value, &s->o.connections); }
static bool set_client_bytes(settings *s, const char *value) { return set_size(value, &s->o.client_bytes); }

/* As the stock controller names them, and ours. */
static bool set_database(settings *s, const char *value)
{
    static const char url[] = "postgresql://";
    s->o.no_history = strstr(value, "NoDB") || !strcmp(value, "nodb");
    s->o.database = strstr(value, "DictDB") || !strcmp(value, "dictdb") || !strcmp(value, "memory") ? "memory" : "sqlite";
    if (!strncmp(value, url, sizeof url - 1))
        s->o.database = value;
    return s->o.no_history || strcmp(s->o.database, "sqlite") != 0 || strstr(value, "SQLiteDB") || !strcmp(value, "sqlitedb") ||
           !strcmp(value, "sqlite");
}

static bool set_curve(settings *s, const char *value) { return parse_switch(value, &s->o.curve); }
static bool set_reuse(settings *s, const char *value) { return parse_switch(value, &s->o.reuse); }

/* ---- the command line ------------------------------------------------------------------------ */

typedef struct option_row {
    const char *name, *trait; /* "--name VALUE", "--name=VALUE", "--Trait=VALUE" */
    bool (*set)(settings *s, const char *value);
    const char *help;  /* "" not shown */
    const char *among; /* for completion, as in cli_option */
} option_row;

static const option_row with_value[] = {
    {"profile", "BaseIPythonApplication.profile", set_profile, "NAME         use the profile of this name (default)", CLI_PROFILES},
    {"profile-dir", "ProfileDir.location", set_folder, "PATH     use the profile in this folder", CLI_FOLDERS},
    {"ipython-dir", "BaseIPythonApplication.ipython_dir", set_ipython_dir, "PATH     where profiles are (~/.ipython)", CLI_FOLDERS},
    {"cluster-id", "BaseParallelApplication.cluster_id", set_cluster_id, "ID        part of the connection files' names", NULL},
    {"ip", "IPController.ip", set_ip, "ADDRESS           where to listen (127.0.0.1); beyond this host only with --enable-curve", NULL},
    {"location", "IPController.location", set_location, "HOST        this host's name as others find it", NULL},
    {"ports", "IPController.ports", set_ports, "LIST           ports to use first, as 10101-10120", NULL},
    {"port", "IPController.regport", set_ports, "", NULL},
    {"engine-ports", "IPController.engine_ports", set_ports, "", NULL},
    {"client-ports", "IPController.client_ports", set_ports, "", NULL},
    {"scheme", "TaskScheduler.scheme_name", set_scheme, "NAME          leastload, lru, twobin, weighted, plainrandom or pure", "leastload lru twobin weighted plainrandom pure"},
    {"hwm", "TaskScheduler.hwm", set_hwm, "N                tasks that an engine holds at most (1; 0: no limit)", NULL},
    {"ping", "HeartMonitor.period", set_ping, "MS              between heartbeats (3000)", NULL},
    {"max-misses", "HeartMonitor.max_heartmonitor_misses", set_misses, "N         heartbeats that an engine may miss in a row (10)", NULL},
    {"history", "DictDB.record_limit", set_history, "N            ended tasks to remember (1024)", NULL},
    {"connections", "IPController.connections", set_connections, "N        connections that each port accepts at once (16384)", NULL},
    {"client-bytes", "IPController.client_bytes", set_client_bytes, "N       bytes that may wait for a client that does not read (536870912)", NULL},
    {"ssh", "IPController.ssh_server", set_ssh, "SERVER           through which clients tunnel", NULL},
    {"enginessh", "IPController.engine_ssh_server", set_engine_ssh, "SERVER     through which engines tunnel", NULL},
    {"log-level", "Application.log_level", set_level, "N          10 debug, 20 info, 30 warnings, 40 errors", "10 20 30 40"},
    {"database", "IPController.db_class", set_database,
     "WHERE       sqlite (the default, in the folder security), memory, or postgresql://USER@HOST/NAME", "sqlite memory"},
    {"db", "IPController.db_class", set_database, "", NULL},
    {"curve", "IPController.enable_curve", set_curve, "", NULL},
    {"reuse-files", "IPController.reuse_files", set_reuse, "", NULL},
};
enum { WITH_VALUE = sizeof with_value / sizeof with_value[0] };

static void flag_nodb(settings *s) { s->o.no_history = true; }
static void flag_dictdb(settings *s) { s->o.no_history = false, s->o.database = "memory"; }
static void flag_sqlitedb(settings *s) { s->o.no_history = false, s->o.database = "sqlite"; }
static void flag_reuse(settings *s) { s->o.reuse = true; }
static void flag_curve(settings *s) { s->o.curve = true; }
static void flag_strict(settings *s) { s->o.strict = true; }
static void flag_debug(settings *s) { s->o.level = MH_LOG_DEBUG; }
static void flag_quiet(settings *s) { s->o.level = MH_LOG_ERROR; }
static void flag_nothing(settings *s) { (void)s; }
static void flag_help(settings *s) { s->wants_help = true; }
static void flag_version(settings *s) { s->wants_version = true; }

static const struct {
    const char *name;
    void (*set)(settings *s);
    const char *help;
} flags[] = {
    {"--enable-curve", flag_curve, "encrypt all connections"},
    {"--strict", flag_strict, "sign buffers, too; only engines and clients of ours can be in the cluster then"},
    {"--reuse", flag_reuse, "keep key and ports of the last time, and go on with its engines and tasks"},
    {"--restore", flag_reuse, "the same"},
    {"--dictdb", flag_dictdb, "--database=memory: tasks are lost when this process dies"},
    {"--sqlitedb", flag_sqlitedb, "--database=sqlite"},
    {"--nodb", flag_nodb, "in memory, and forget tasks when they have ended"},
    {"--debug", flag_debug, "the same as --log-level=10"},
    {"--quiet", flag_quiet, ""},
    {"--init", flag_nothing, ""},
    {"--usethreads", flag_nothing, ""},
    {"--log-to-file", flag_nothing, ""},
    {"--secure", flag_nothing, ""},
    {"--version", flag_version, "print the version"},
    {"-V", flag_version, ""},
    {"--help", flag_help, "print this"},
    {"--help-all", flag_help, ""},
    {"-h", flag_help, ""},
};
enum { FLAGS = sizeof flags / sizeof flags[0] };

/* The rows above as the other commands' tables have them: "NAME   text" is a value's name and its help. */
static const cli_option *find_options(size_t *count)
{
    static cli_option all[WITH_VALUE + FLAGS];
    static char names[WITH_VALUE][16];
    size_t used = 0;
    for (int i = 0; i < WITH_VALUE; i++) {
        const char *help = with_value[i].help;
        size_t size = strcspn(help, " ");
        snprintf(names[i], sizeof names[i], "%.*s", (int)size, help);
        all[used++] = (cli_option){.name = with_value[i].name, .value = names[i], .help = *help ? help + size + strspn(help + size, " ") : NULL,
                                   .among = with_value[i].among};
    }
    for (int i = 0; i < FLAGS; i++)
        if (!strncmp(flags[i].name, "--", 2))
            all[used++] = (cli_option){.name = flags[i].name + 2, .help = *flags[i].help ? flags[i].help : NULL};
    *count = used;
    return all;
}

const cli_command command_controller = {
    .name = "controller",
    .summary = "serve the engines and clients of a cluster",
    .about = "Serve engines and clients, stock ones too, until stopped by Ctrl-C or by a client's shutdown. The connection files that they need are written to\n"
             "the profile's folder security.",
    .examples = "manyhands controller --profile=default --cluster-id=night --ping=1000",
    .find_options = find_options,
    .run = run_controller,
};

/* The name and the value of "--name=value" or "--name value"; NULL when there is no such option. */
static const option_row *find_option(const char *text, const char **value)
{
    const char *equals = strchr(text, '=');
    size_t size = equals ? (size_t)(equals - text) : strlen(text);
    *value = equals ? equals + 1 : NULL;
    for (int i = 0; i < WITH_VALUE; i++) {
        const char *names[] = {with_value[i].name, with_value[i].trait};
        for (int j = 0; j < 2; j++)
            if (strlen(names[j]) == size && !strncmp(text, names[j], size))
                return &with_value[i];
    }
    return NULL;
}

static bool find_flag(settings *s, const char *text)
{
    for (int i = 0; i < FLAGS; i++)
        if (!strcmp(text, flags[i].name)) {
            flags[i].set(s);
            return true;
        }
    return false;
}

/* A trait of the stock controller that this one has no use for, as configuration files and launchers may give. */
static bool is_foreign_trait(const char *text)
{
    return text[2] >= 'A' && text[2] <= 'Z' && strchr(text, '.') && strchr(text, '=') && strchr(text, '.') < strchr(text, '=');
}

static int parse(settings *s, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        const char *value;
        if (find_flag(s, argv[i]))
            continue;
        if (strncmp(argv[i], "--", 2) != 0)
            return usage("unexpected argument \"%s\"%s", argv[i], "");
        const option_row *row = find_option(argv[i] + 2, &value);
        if (!row && is_foreign_trait(argv[i])) {
            fprintf(stderr, "manyhands controller: %.*s has no meaning here and is ignored\n", (int)strcspn(argv[i], "="), argv[i]);
            continue;
        }
        if (!row)
            return usage("no option \"%s\"%s", argv[i], "");
        if (!value && i + 1 < argc)
            value = argv[++i];
        if (!value)
            return usage("--%s needs a value%s", row->name, "");
        if (!row->set(s, value))
            return usage("--%s: \"%s\" is not a value for it", row->name, value);
    }
    return EXIT_SUCCESS;
}

/* ---- the environment ------------------------------------------------------------------------- */

static void read_environment(settings *s)
{
    const char *value;
    if ((value = getenv("IPP_PROFILE_DIR")) && *value)
        s->o.folder = value;
    if ((value = getenv("IPP_CLUSTER_ID")) && *value)
        s->o.cluster_id = value;
    if ((value = getenv("IPP_SESSION_KEY")) && *value)
        s->o.key = value;
    if ((value = getenv("IPP_ENABLE_CURVE")) && !strcmp(value, "1"))
        s->o.curve = true;
    if ((value = getenv("IPP_CURVE_SECRETKEY")) && *value)
        s->o.curve_secret = value;
    if ((value = getenv("IPYTHONDIR")) && *value)
        s->ipython_dir = value;
}

static int find_folder(settings *s)
{
    if (s->o.folder && !s->profile)
        return EXIT_SUCCESS;
    const char *home = getenv("HOME"), *profile = s->profile ? s->profile : "default";
    int size = s->ipython_dir ? snprintf(s->folder, sizeof s->folder, "%s/profile_%s", s->ipython_dir, profile)
                              : snprintf(s->folder, sizeof s->folder, "%s/.ipython/profile_%s", home ? home : "", profile);
    if (!s->ipython_dir && (!home || !*home))
        return usage("HOME is not set%s%s", "", "");
    if (size < 0 || (size_t)size >= sizeof s->folder)
        return usage("the path of profile \"%s\" is too long%s", profile, "");
    s->o.folder = s->folder;
    return EXIT_SUCCESS;
}

/* ---- running --------------------------------------------------------------------------------- */

static void print_line(mh_log_level level, const char *line, void *ctx)
{
    struct timespec now;
    struct tm local;
    char date[40];
    FILE *out = ctx;
    timespec_get(&now, TIME_UTC);
    localtime_r(&now.tv_sec, &local);
    strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &local);
    fprintf(out, "%s.%03d [controller] %s%s\n", date, (int)(now.tv_nsec / 1000000),
            level >= MH_LOG_ERROR ? "ERROR | " : level >= MH_LOG_WARNING ? "WARNING | " : "", line);
    fflush(out);
}

static int fail(const char *what, mh_err err)
{
    fprintf(stderr, "manyhands controller: %s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    return EXIT_FAILURE;
}

static int run_controller(int argc, char **argv)
{
    static settings s;
    mh_controller *c = NULL;
    read_environment(&s);
    int status = parse(&s, argc, argv);
    if (!status && s.wants_help) {
        cli_print_help(&command_controller, stdout);
        return EXIT_SUCCESS;
    }
    if (!status && s.wants_version) {
        printf("%d.%d.%d\n", MH_VERSION_MAJOR, MH_VERSION_MINOR, MH_VERSION_PATCH);
        return EXIT_SUCCESS;
    }
    if (!status)
        status = find_folder(&s);
    if (status)
        return status;
    s.o.log = print_line;
    s.o.log_ctx = stderr;
    mh_err err = mh_controller_create(&c, &s.o);
    if (err)
        return fail("cannot start", err);
    cli_tell_ready("ready");
    err = mh_controller_run(c);
    mh_controller_destroy(&c);
    return err ? fail("ended", err) : EXIT_SUCCESS;
}
