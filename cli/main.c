/* The `manyhands` command: a table of subcommands, each a function that gets the arguments after its name. */
#include "command.h"

#include <manyhands.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* gives the exit status */
} command;

static int run_info(int argc, char **argv);
static int run_version(int argc, char **argv);

static const command commands[] = {
#if MH_HAVE_CLUSTER
    {"controller", "serve the engines and clients of a cluster", run_controller},
    {"engine", "run tasks for the clients of a controller", run_engine},
#endif
    {"info", "what this machine offers: cores, memory, start methods", run_info},
    {"version", "the version", run_version},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static int refuse_arguments(int argc, char **argv)
{
    if (argc == 0)
        return 0;
    fprintf(stderr, "manyhands: unexpected argument \"%s\"; see manyhands --help\n", argv[0]);
    return EXIT_USAGE;
}

static int run_version(int argc, char **argv)
{
    if (refuse_arguments(argc, argv))
        return EXIT_USAGE;
    printf("manyhands %d.%d.%d\n", MH_VERSION_MAJOR, MH_VERSION_MINOR, MH_VERSION_PATCH);
    return EXIT_SUCCESS;
}

static const char *start_method_name(mh_start_method method)
{
    switch (method) {
    case MH_START_FORK: return "fork";
    case MH_START_SPAWN: return "spawn";
    case MH_START_FORKSERVER: return "forkserver";
    case MH_START_DEFAULT: break;
    }
    return "unknown";
}

/* A line of /proc/meminfo ("MemTotal:  24576000 kB") in bytes; false when it is not there or not a number. */
static bool read_meminfo(const char *key, uint64_t *bytes)
{
    FILE *f = fopen("/proc/meminfo", "r");
    if (!f)
        return false;
    char line[256];
    size_t length = strlen(key);
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        uint64_t kilobytes;
        found = strncmp(line, key, length) == 0 && line[length] == ':' &&
                sscanf(line + length + 1, "%" SCNu64 " kB", &kilobytes) == 1 && kilobytes <= UINT64_MAX / 1024;
        if (found)
            *bytes = kilobytes * 1024;
    }
    fclose(f);
    return found;
}

static void print_bytes(const char *label, bool known, uint64_t bytes)
{
    if (known)
        printf("%-24s%.1f GiB\n", label, (double)bytes / (double)(UINT64_C(1) << 30));
    else
        printf("%-24sunknown\n", label);
}

static int run_info(int argc, char **argv)
{
    if (refuse_arguments(argc, argv))
        return EXIT_USAGE;
    uint64_t total = 0, available = 0;
    bool has_total = read_meminfo("MemTotal", &total), has_available = read_meminfo("MemAvailable", &available);
    printf("%-24s%zu\n", "cores usable", mh_cpu_count());
    print_bytes("memory", has_total, total);
    print_bytes("memory available", has_available, available);
    printf("%-24sfork, spawn, forkserver (here: %s)\n", "start methods", start_method_name(mh_start_method_default()));
    return EXIT_SUCCESS;
}

static void print_help(FILE *out)
{
    fprintf(out, "usage: manyhands COMMAND\n\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-12s%s\n", commands[i].name, commands[i].summary);
}

static const command *find_command(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int run(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return EXIT_SUCCESS;
    }
    const command *chosen = find_command(strcmp(name, "--version") == 0 ? "version" : name);
    if (chosen)
        return chosen->run(argc - 2, argv + 2);
    if (*name)
        fprintf(stderr, "manyhands: no command \"%s\"\n", name);
    print_help(stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    int status = run(argc, argv);
    /* a full disk or a closed pipe must not look like success */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("manyhands: cannot write");
        return EXIT_FAILURE;
    }
    return status;
}
