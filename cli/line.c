/* Reading a command line by its table. */
#include "command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const cli_command *cli_find(const char *name)
{
    for (size_t i = 0; i < cli_command_count; i++)
        if (!strcmp(cli_commands[i]->name, name))
            return cli_commands[i];
    return NULL;
}

const cli_option *cli_options(const cli_command *c, size_t *count)
{
    if (c->find_options)
        return c->find_options(count);
    *count = c->option_count;
    return c->options;
}

int cli_refuse(const cli_command *c, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "manyhands %s: ", c->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; see manyhands %s --help\n", c->name);
    return EXIT_USAGE;
}

int cli_fail(const cli_command *c, int status, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "manyhands %s: ", c->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return status;
}

bool cli_number(const char *text, long long low, long long high, long long *out)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || end == text || *end || n < low || n > high)
        return false;
    *out = n;
    return true;
}

bool cli_seconds(const char *text, double least, double most, int64_t *ns)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end == text || *end || !(value >= least && value <= most))
        return false;
    *ns = (int64_t)(value * 1e9);
    return true;
}

/* The option that `text` begins with, and where its value stands in it (NULL: not in it). */
static const cli_option *find_option(const cli_option *options, size_t count, const char *text, const char **value)
{
    bool is_long = text[1] == '-';
    const char *name = text + 2, *equals = strchr(name, '=');
    size_t size = equals ? (size_t)(equals - name) : strlen(name);
    *value = equals ? equals + 1 : NULL;
    for (size_t i = 0; i < count; i++) {
        if (is_long && strlen(options[i].name) == size && !strncmp(options[i].name, name, size))
            return &options[i];
        if (!is_long && options[i].letter == text[1]) {
            *value = text[2] ? text + 2 + (text[2] == '=') : NULL;
            return &options[i];
        }
    }
    return NULL;
}

static bool is_help(const char *text) { return !strcmp(text, "--help") || !strcmp(text, "-h") || !strcmp(text, "--help-all"); }

bool cli_parse(const cli_command *c, int argc, char **argv, cli_line *out, int *status)
{
    size_t count;
    const cli_option *options = cli_options(c, &count);
    *out = (cli_line){.words = argv};
    for (int i = 0; i < argc; i++) {
        const char *value;
        if (!strcmp(argv[i], "--")) {
            out->rest = argv + i + 1;
            break;
        }
        if (argv[i][0] != '-' || !argv[i][1]) {
            argv[out->word_count++] = argv[i];
            continue;
        }
        if (is_help(argv[i])) {
            cli_print_help(c, stdout);
            *status = EXIT_SUCCESS;
            return false;
        }
        const cli_option *o = find_option(options, count, argv[i], &value);
        if (!o) {
            *status = cli_refuse(c, "no option \"%s\"", argv[i]);
            return false;
        }
        if (o->value && !value && i + 1 < argc)
            value = argv[++i];
        if (o->value ? !value : value && strcmp(value, "True")) {
            *status = cli_refuse(c, o->value ? "--%s needs a value" : "--%s takes no value", o->name);
            return false;
        }
        out->values[o - options] = value ? value : "";
    }
    if (out->word_count && !c->arguments) {
        *status = cli_refuse(c, "unexpected argument \"%s\"", out->words[0]);
        return false;
    }
    return true;
}
