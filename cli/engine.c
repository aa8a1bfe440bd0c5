/* manyhands engine: options as ipyparallel's launchers give them, and our own. */
#include "command.h"

#include <manyhands/engine.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 4096, CONFIG_MAX = 64 };

static const cli_option options[] = {
    {"file", 0, "PATH", "the controller's connection file for engines", CLI_FILES},
    {"profile", 0, "NAME", "find it in this profile (default)", CLI_PROFILES},
    {"profile-dir", 0, "PATH", "find it in this profile folder", CLI_FOLDERS},
    {"cluster-id", 0, "ID", "of the cluster with this name", CLI_CLUSTERS},
    {"timeout", 0, "SECONDS", "wait so long for the file and for the controller (30)", NULL},
    {"library", 0, "PATH", "run C functions of this task library instead of Python", CLI_FILES},
    {"python", 0, "PATH", "the Python that runs tasks (the one beside this command, else python3)", CLI_FILES},
    {"shell", 0, "NAME", "ipython, plain, or auto: IPython's where it is installed", "auto ipython plain"},
    {"id", 0, "N", "ask for this number", NULL},
    {"mpi", 0, NULL, "ask for the number that mpiexec or srun gave this process", NULL},
    {"log-level", 0, "LEVEL", "10 or DEBUG: log every request", "10 20 30 40"},
    {"Class.name", 0, "VALUE", "IPython's configuration", NULL},
};

static int run_engine(int argc, char **argv);

const cli_command command_engine = {
    .name = "engine",
    .summary = "run tasks for the clients of a controller",
    .about = "Run tasks for the clients of a controller, until it or a client says to stop.\n\n"
             "The environment may name the profile folder (IPP_PROFILE_DIR), the cluster (IPP_CLUSTER_ID), or hold the connection file's\n"
             "text (IPP_CONNECTION_INFO).",
    .examples = "manyhands engine --profile=default\nmanyhands engine --library=/home/me/libtasks.so",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .run = run_engine,
};

typedef struct arguments {
    const char *file, *profile, *profile_dir, *cluster_id, *python, *shell;
    const char *config[CONFIG_MAX]; /* Class.name=value */
    size_t config_count;
    double timeout;
    bool is_mpi;
    mh_engine_options engine;
} arguments;

/* ---- reading arguments ----------------------------------------------------------------------- */

/* The value of "--name=value" or "--name value"; NULL when this is another argument. */
static const char *value_of(const char *name, char **argv, int argc, int *at)
{
    size_t size = strlen(name);
    const char *argument = argv[*at];
    if (strncmp(argument, name, size))
        return NULL;
    if (argument[size] == '=')
        return argument + size + 1;
    if (argument[size] == 0 && *at + 1 < argc)
        return argv[++*at];
    return NULL;
}

static bool read_number(const char *text, double least, double most, double *out)
{
    char *end = NULL;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end == text || *end || !(value >= least && value <= most))
        return false;
    *out = value;
    return true;
}

static bool read_one(arguments *a, char **argv, int argc, int *at)
{
    const struct {
        const char *name;
        const char **place;
    } texts[] = {
        {"--file", &a->file}, {"--url-file", &a->file}, {"--profile-dir", &a->profile_dir}, {"--profile", &a->profile},
        {"--cluster-id", &a->cluster_id}, {"--library", &a->engine.library}, {"--python", &a->python}, {"--shell", &a->shell},
    };
    const char *value;
    double number;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if ((value = value_of(texts[i].name, argv, argc, at))) {
            *texts[i].place = value;
            return true;
        }
    }
    if ((value = value_of("--timeout", argv, argc, at)))
        return read_number(value, 0, 1e6, &a->timeout);
    if ((value = value_of("--id", argv, argc, at))) {
        if (!read_number(value, 0, UINT32_MAX, &number))
            return false;
        a->engine.wants_id = true;
        a->engine.wanted_id = (uint32_t)number;
        return true;
    }
    if ((value = value_of("--log-level", argv, argc, at))) {
        a->engine.verbose = !strcmp(value, "10") || !strcmp(value, "DEBUG");
        return true;
    }
    if (!strcmp(argv[*at], "--mpi"))
        return a->is_mpi = true;
    if (!strcmp(argv[*at], "--debug"))
        return a->engine.verbose = true;
    if (!strncmp(argv[*at], "--", 2) && strchr(argv[*at], '.') && strchr(argv[*at], '=') && a->config_count < CONFIG_MAX) {
        a->config[a->config_count++] = argv[*at] + 2;
        return true;
    }
    return false;
}

/* The rank that an MPI launcher or Slurm gave this process. */
static void take_rank(arguments *a)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
    double rank;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *text = getenv(names[i]);
        if (text && read_number(text, 0, UINT32_MAX, &rank)) {
            a->engine.wants_id = true;
            a->engine.wanted_id = (uint32_t)rank;
            return;
        }
    }
}

/* ---- finding things -------------------------------------------------------------------------- */

static bool fits(int printed, size_t size) { return printed >= 0 && (size_t)printed < size; }

static bool find_file(const arguments *a, char path[PATH_SIZE])
{
    const char *folder = a->profile_dir ? a->profile_dir : getenv("IPP_PROFILE_DIR");
    const char *id = a->cluster_id ? a->cluster_id : getenv("IPP_CLUSTER_ID");
    const char *ipython = getenv("IPYTHONDIR"), *home = getenv("HOME");
    char made[PATH_SIZE];
    if (a->file)
        return fits(snprintf(path, PATH_SIZE, "%s", a->file), PATH_SIZE);
    if (!folder) {
        const char *profile = a->profile ? a->profile : "default";
        int printed = ipython ? snprintf(made, sizeof made, "%s/profile_%s", ipython, profile)
                              : snprintf(made, sizeof made, "%s/.ipython/profile_%s", home ? home : ".", profile);
        if (!fits(printed, sizeof made))
            return false;
        folder = made;
    }
    bool is_named = id && *id;
    return fits(snprintf(path, PATH_SIZE, "%s/security/ipcontroller%s%s-engine.json", folder, is_named ? "-" : "", is_named ? id : ""), PATH_SIZE);
}

/* ---- settings -------------------------------------------------------------------------------- */

/* What the Python executor is told, as JSON; the caller frees it. */
static char *write_settings(const arguments *a)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    fputs("{\"shell\":", out);
    json_string(out, a->shell ? a->shell : "auto", strlen(a->shell ? a->shell : "auto"));
    fputs(",\"config\":{", out);
    for (size_t i = 0; i < a->config_count; i++) {
        const char *equals = strchr(a->config[i], '=');
        if (i)
            fputc(',', out);
        json_string(out, a->config[i], (size_t)(equals - a->config[i]));
        fputc(':', out);
        json_string(out, equals + 1, strlen(equals + 1));
    }
    fputs("}}", out);
    return fclose(out) == 0 ? text : NULL;
}

/* ---- running --------------------------------------------------------------------------------- */

static int complain(const char *what)
{
    fprintf(stderr, "manyhands engine: %s\n", what);
    return EXIT_FAILURE;
}

static void tell_registered(int64_t id, void *ctx)
{
    char line[24];
    (void)ctx;
    snprintf(line, sizeof line, "%lld", (long long)id);
    cli_tell_ready(line);
}

static int serve(const mh_engine_options *o)
{
    mh_engine *e = NULL;
    mh_err err = mh_engine_create(&e, o);
    if (!err)
        err = mh_engine_run(e);
    if (err)
        fprintf(stderr, "manyhands engine: %s: %s\n", mh_err_text(err), mh_err_detail());
    if (err == MH_ERR_NOT_FOUND && o->connection_file && !o->library)
        fputs("manyhands engine: start a controller, or name its file with --file\n", stderr);
    mh_engine_destroy(&e);
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run_with(arguments *a)
{
    char file[PATH_SIZE];
    const char *argv[] = {a->python, "-m", "manyhands.parallel.engine", NULL};
    a->engine.connection_text = a->file ? NULL : getenv("IPP_CONNECTION_INFO");
    if (!a->engine.connection_text) {
        if (!find_file(a, file))
            return complain("the connection file's path is too long");
        a->engine.connection_file = file;
        a->engine.connection_wait_ns = (int64_t)(a->timeout * 1e9);
    }
    a->engine.python_argv = a->python ? argv : NULL;
    a->engine.register_timeout_ns = (int64_t)(a->timeout * 1e9);
    char *settings = write_settings(a);
    if (!settings)
        return complain("out of memory");
    a->engine.settings = settings;
    a->engine.on_registered = tell_registered;
    int status = serve(&a->engine);
    free(settings);
    return status;
}

static int run_engine(int argc, char **argv)
{
    arguments a = {.timeout = 30};
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "--help-all") || !strcmp(argv[i], "-h")) {
            cli_print_help(&command_engine, stdout);
            return EXIT_SUCCESS;
        }
        if (!strcmp(argv[i], "--version")) {
            printf("%d.%d.%d\n", MH_VERSION_MAJOR, MH_VERSION_MINOR, MH_VERSION_PATCH);
            return EXIT_SUCCESS;
        }
        const char *given = argv[i];
        if (!read_one(&a, argv, argc, &i)) {
            fprintf(stderr, "manyhands engine: can't use \"%s\"; see manyhands engine --help\n", given);
            return EXIT_USAGE;
        }
    }
    if (a.is_mpi)
        take_rank(&a);
    return run_with(&a);
}
