/* The `manyhands` command: a table of subcommands, each with a table of its options and a function that gets the arguments after its name. */
#include "command.h"

#include <manyhands.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the commands ---------------------------------------------------------------------------- */

const cli_command *const cli_commands[] = {
#if MH_HAVE_CLUSTER
    &command_start, &command_stop, &command_list, &command_status, &command_top, &command_logs, &command_controller, &command_engine, &command_engines,
    &command_clean,
#endif
    &command_info, &command_completion, &command_version,
};
const size_t cli_command_count = sizeof cli_commands / sizeof cli_commands[0];

static int run_info(int argc, char **argv);
static int run_version(int argc, char **argv);
static int run_completion(int argc, char **argv);

enum { INFO_JSON, INFO_OPTIONS };
static const cli_option info_options[INFO_OPTIONS] = {{"json", 0, NULL, "print JSON", NULL}};

const cli_command command_info = {
    .name = "info",
    .summary = "what this machine offers: cores, memory, start methods",
    .about = "Show how many cores this process may use, how much memory there is, and how processes can be started.",
    .examples = "manyhands info",
    .options = info_options,
    .option_count = INFO_OPTIONS,
    .run = run_info,
};

const cli_command command_version = {
    .name = "version",
    .summary = "the version",
    .about = "Print the version.",
    .examples = "manyhands version",
    .run = run_version,
};

const cli_command command_completion = {
    .name = "completion",
    .arguments = "bash|zsh|fish",
    .summary = "what makes a shell complete this command's arguments",
    .about = "Print the completion script of a shell; meson install puts them where shells look.",
    .examples = "eval \"$(manyhands completion bash)\"\nmanyhands completion zsh > ~/.zfunc/_manyhands\nmanyhands completion fish > ~/.config/fish/completions/manyhands.fish",
    .among = "bash zsh fish",
    .run = run_completion,
};

/* ---- info, version, completion --------------------------------------------------------------- */

static int run_version(int argc, char **argv)
{
    cli_line line;
    int status;
    if (!cli_parse(&command_version, argc, argv, &line, &status))
        return status;
    printf("manyhands %d.%d.%d\n", MH_VERSION_MAJOR, MH_VERSION_MINOR, MH_VERSION_PATCH);
    return EXIT_SUCCESS;
}

static int run_completion(int argc, char **argv)
{
    cli_line line;
    int status;
    if (!cli_parse(&command_completion, argc, argv, &line, &status))
        return status;
    if (line.word_count != 1)
        return cli_refuse(&command_completion, "name one shell: bash, zsh or fish");
    return cli_print_completion(line.words[0], stdout) ? EXIT_SUCCESS
                                                       : cli_refuse(&command_completion, "no completion for \"%s\", only for bash, zsh and fish", line.words[0]);
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

static void print_info_json(uint64_t total, uint64_t available)
{
    cli_json j = {.out = stdout};
    json_open(&j, NULL, '{');
    json_int(&j, "cores", (long long)mh_cpu_count());
    if (total)
        json_int(&j, "memory_bytes", (long long)total);
    if (available)
        json_int(&j, "memory_available_bytes", (long long)available);
    json_text(&j, "start_method", start_method_name(mh_start_method_default()));
    json_close(&j, '}');
    printf("\n");
}

static int run_info(int argc, char **argv)
{
    cli_line line;
    int status;
    if (!cli_parse(&command_info, argc, argv, &line, &status))
        return status;
    uint64_t total = 0, available = 0;
    bool has_total = read_meminfo("MemTotal", &total), has_available = read_meminfo("MemAvailable", &available);
    if (line.values[INFO_JSON]) {
        print_info_json(total, available);
        return EXIT_SUCCESS;
    }
    printf("%-24s%zu\n", "cores usable", mh_cpu_count());
    print_bytes("memory", has_total, total);
    print_bytes("memory available", has_available, available);
    printf("%-24sfork, spawn, forkserver (here: %s)\n", "start methods", start_method_name(mh_start_method_default()));
    return EXIT_SUCCESS;
}

static void print_help(FILE *out)
{
    fprintf(out, "usage: manyhands COMMAND [OPTION]...\n\n");
    for (size_t i = 0; i < cli_command_count; i++)
        fprintf(out, "  %-12s%s\n", cli_commands[i]->name, cli_commands[i]->summary);
    fprintf(out, "\nmanyhands COMMAND --help tells more\n");
}

/* "help", "help COMMAND" and, for those who build man pages, "help --man [COMMAND]". */
static int run_help(int argc, char **argv)
{
    bool is_man = argc > 0 && strcmp(argv[0], "--man") == 0;
    const char *name = argc > is_man ? argv[is_man] : NULL;
    const cli_command *c = name ? cli_find(name) : NULL;
    if (name && !c) {
        fprintf(stderr, "manyhands: no command \"%s\"\n", name);
        return EXIT_USAGE;
    }
    if (is_man)
        cli_print_man(c, stdout);
    else if (c)
        cli_print_help(c, stdout);
    else
        print_help(stdout);
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        return run_help(argc - 2, argv + 2);
    const cli_command *chosen = cli_find(strcmp(name, "--version") == 0 ? "version" : name);
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
