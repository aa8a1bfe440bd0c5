/* `manyhands engines`: engines for a controller that runs, started by this host, mpiexec, a batch system or ssh. The launchers are the Python package's:
 * this reads the command line and becomes the program that uses them. */
#include "which.h"

#include <stdlib.h>
#include <string.h>

enum { COUNT = WHICH_COUNT, HOW, HOSTS, LIBRARY, PYTHON, SHELL, TIMEOUT, OWNER, DAEMONIZE, OPTION_COUNT };

static const cli_option options[OPTION_COUNT] = {
    WHICH_OPTIONS,
    [COUNT] = {"n", 'n', "N", "how many (one for each core)", NULL},
    [HOW] = {"engines", 0, "HOW", "what starts them: local, mpi, slurm, ssh ..., or a launcher's class", CLI_LAUNCHERS},
    [HOSTS] = {"hosts", 0, "HOST=N,...", "with --engines=ssh: where, and how many on each", NULL},
    [LIBRARY] = {"library", 0, "PATH", "run C functions of this task library instead of Python", CLI_FILES},
    [PYTHON] = {"python", 0, "PATH", "the Python of the launchers, and that runs tasks (the one beside this command, else python3)", CLI_FILES},
    [SHELL] = {"shell", 0, "NAME", "the engines' shell: ipython, plain, or auto (IPython's where it is installed)", "auto ipython plain"},
    [TIMEOUT] = {"timeout", 0, "SECONDS", "how long they may take to register (60)", NULL},
    [OWNER] = {"owner", 0, "PID", NULL, NULL}, /* end with this process, the parent */
    [DAEMONIZE] = {"daemonize", 0, "BOOL", NULL, NULL}, /* as for ipcluster */
};

static int run_engines(int argc, char **argv);

const cli_command command_engines = {
    .name = "engines",
    .arguments = "[-- ENGINE-OPTION...]",
    .summary = "start engines for a controller that runs",
    .about = "Start engines for a controller that runs already, wait until they have registered, print one line, and end them at Ctrl-C or SIGTERM. They may be\n"
             "processes here, or started by mpiexec, by ssh on other hosts, or by a batch system (Slurm, PBS, SGE, LSF, HTCondor).\n\n"
             "The profile's ipcluster_config.py says more about launchers: c.SSHEngineSetLauncher.engines, c.SlurmLauncher.timelimit, c.MPILauncher.mpi_args ...\n"
             "Options after -- go to the engines.",
    .examples = "manyhands engines -n 4\nmanyhands engines --engines=mpi -n 16\nmanyhands engines --engines=ssh --hosts=node1=8,me@node2:2222=8",
    .exits = NO_CLUSTER_EXIT,
    .options = options,
    .option_count = OPTION_COUNT,
    .run = run_engines,
};

/* "--name" and its value, where it was given. */
static size_t add(const char **argv, size_t count, const cli_line *line, int option, const char *name)
{
    if (line->values[option]) {
        argv[count++] = name;
        argv[count++] = line->values[option];
    }
    return count;
}

static int run_engines(int argc, char **argv)
{
    static const struct {
        int option;
        const char *name;
    } passed[] = {{COUNT, "-n"}, {HOW, "--engines"}, {HOSTS, "--hosts"}, {LIBRARY, "--library"}, {SHELL, "--shell"}, {TIMEOUT, "--timeout"}, {OWNER, "--owner"}};
    cli_line line;
    char folder[MH_CLUSTER_PATH_SIZE];
    long long n;
    int64_t ns;
    int status;
    if (!cli_parse(&command_engines, argc, argv, &line, &status))
        return status;
    if (line.word_count)
        return cli_refuse(&command_engines, "unexpected argument \"%s\" (a cluster is named with --cluster-id)", line.words[0]);
    if (line.values[COUNT] && !cli_number(line.values[COUNT], 1, 100000, &n))
        return cli_refuse(&command_engines, "-n: \"%s\" is not a number of engines", line.values[COUNT]);
    if (line.values[TIMEOUT] && !cli_seconds(line.values[TIMEOUT], 0.001, 1e6, &ns))
        return cli_refuse(&command_engines, "--timeout: \"%s\" is not a time", line.values[TIMEOUT]);
    if (!which_folder(&command_engines, &line, folder, &status))
        return status;
    size_t rest = 0, count = 0;
    while (line.rest && line.rest[rest])
        rest++;
    const char **args = calloc(rest + 2 * OPTION_COUNT + 8, sizeof *args);
    if (!args)
        return cli_fail(&command_engines, EXIT_FAILURE, "out of memory");
    args[count++] = "--profile-dir";
    args[count++] = folder;
    count = add(args, count, &line, CLUSTER_ID, "--cluster-id");
    for (size_t i = 0; i < sizeof passed / sizeof passed[0]; i++)
        count = add(args, count, &line, passed[i].option, passed[i].name);
    args[count++] = "--";
    for (size_t i = 0; i < rest; i++)
        args[count++] = line.rest[i];
    (void)!mh_cluster_become_python(line.values[PYTHON], "manyhands.parallel.cluster.engines", args);
    free(args);
    return cli_fail(&command_engines, EXIT_FAILURE, "the Python that starts engines: %s; name it with --python", mh_err_detail());
}
