/* What the subcommands share: the table that says what each takes, from which come its parser, its help, the man pages and the completion. */
#ifndef MH_CLI_COMMAND_H
#define MH_CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Exit statuses, beside 0 and 1 (it failed). EXIT_RUNS and EXIT_NO_CLUSTER are those of ipcluster. */
enum { EXIT_USAGE = 2, EXIT_RUNS = 10, EXIT_NO_CLUSTER = 11, EXIT_NO_ANSWER = 12 };

/* ---- the table ------------------------------------------------------------------------------- */

typedef struct cli_option {
    const char *name;  /* "--name" */
    char letter;       /* "-l"; 0: none */
    const char *value; /* what its value is called; NULL: it has none */
    const char *help;  /* NULL: accepted, and shown nowhere */
    const char *among; /* for completion: words, or one of the kinds below; NULL: anything */
} cli_option;
#define CLI_FILES "<files>"
#define CLI_FOLDERS "<folders>"
#define CLI_PROFILES "<profiles>"
#define CLI_CLUSTERS "<clusters>"
#define CLI_LAUNCHERS "local mpi slurm ssh sshproxy pbs sge lsf htcondor"

typedef struct cli_command {
    const char *name, *arguments, *summary;
    const char *about;    /* paragraphs, an empty line between them */
    const char *examples; /* a line each */
    const char *exits;    /* "10\tit runs already\n" ... beyond 0, 1 and 2 */
    const char *among;    /* for completion of its arguments, as in cli_option */
    const cli_option *options;
    size_t option_count;
    const cli_option *(*find_options)(size_t *count); /* instead, where a command has a table of its own */
    int (*run)(int argc, char **argv); /* without the name */
} cli_command;

extern const cli_command *const cli_commands[];
extern const size_t cli_command_count;
const cli_command *cli_find(const char *name);
const cli_option *cli_options(const cli_command *c, size_t *count);

extern const cli_command command_start, command_stop, command_list, command_status, command_top, command_logs, command_controller, command_engine,
    command_engines, command_clean, command_info, command_completion, command_version;

/* ---- parsing --------------------------------------------------------------------------------- */

enum { CLI_OPTIONS_MAX = 40 };
typedef struct cli_line {
    const char *values[CLI_OPTIONS_MAX]; /* by the option's place in the table; "" for a switch that is on, NULL when it was not given */
    char **words; /* what is no option; within argv */
    int word_count;
    char **rest;  /* what follows "--", NULL at the end; NULL: there was none */
} cli_line;
/* "--name value", "--name=value", "-l value", "-lvalue", switches and words in any order. True when the command is to run; else it has said why not, or
 * printed its help, and *status is what it ends with. Reorders argv. */
bool cli_parse(const cli_command *c, int argc, char **argv, cli_line *out, int *status);
/* A whole number from low to high, and nothing else. */
bool cli_number(const char *text, long long low, long long high, long long *out);
bool cli_seconds(const char *text, double least, double most, int64_t *ns);
/* Say what is wrong with the command line; gives EXIT_USAGE. */
int cli_refuse(const cli_command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Say what failed; gives `status`. */
int cli_fail(const cli_command *c, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- printing -------------------------------------------------------------------------------- */

void cli_print_help(const cli_command *c, FILE *out);
void cli_print_man(const cli_command *c, FILE *out); /* NULL: of the command itself */
bool cli_print_completion(const char *shell, FILE *out);

/* JSON on a stream; commas are set by themselves. */
typedef struct cli_json {
    FILE *out;
    bool comma;
} cli_json;
void json_open(cli_json *j, const char *key, char bracket); /* key NULL: an element */
void json_close(cli_json *j, char bracket);
void json_text(cli_json *j, const char *key, const char *value);
void json_int(cli_json *j, const char *key, long long value);
void json_double(cli_json *j, const char *key, double value);
void json_bool(cli_json *j, const char *key, bool value);
void json_string(FILE *out, const char *text, size_t size);

/* "12.3 MB" */
const char *cli_bytes(size_t bytes, char out[16]);
bool cli_is_terminal(FILE *out);
/* "2031-01-01 12:00:00.000" */
void cli_date(char out[40]);
void cli_sleep(int64_t ns);

/* A controller or engine tells who started it that it is ready: one line to the descriptor that MANYHANDS_READY_FD names. */
void cli_tell_ready(const char *line);

#endif
