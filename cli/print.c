/* Help, JSON, and numbers that people read. */
#include "command.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* System headers are for the library's lowest layer; this is all that the command needs of <unistd.h>. */
extern int isatty(int fd);

enum { HELP_COLUMN = 28, HELP_WIDTH = 110 };

/* ---- help ------------------------------------------------------------------------------------ */

static int print_name(const cli_option *o, FILE *out)
{
    int width = fprintf(out, "  ");
    if (o->letter)
        width += fprintf(out, "-%c", o->letter);
    if (!o->letter || strlen(o->name) > 1)
        width += fprintf(out, "%s--%s", o->letter ? ", " : "", o->name);
    return width + (o->value ? fprintf(out, "%s%s", strlen(o->name) > 1 ? "=" : " ", o->value) : 0);
}

/* Text in lines of HELP_WIDTH, those after the first indented. */
static void print_wrapped(const char *text, int column, int indent, FILE *out)
{
    while (*text) {
        size_t size = strcspn(text, " ");
        if (column > indent && column + 1 + (int)size > HELP_WIDTH)
            column = fprintf(out, "\n%*s", indent, "") - 1;
        else if (column > indent)
            column += fprintf(out, " ");
        column += fprintf(out, "%.*s", (int)size, text);
        text += size + strspn(text + size, " ");
    }
    fputc('\n', out);
}

static void print_option(const cli_option *o, FILE *out)
{
    int width = print_name(o, out);
    if (width >= HELP_COLUMN)
        width = fprintf(out, "\n") - 1;
    fprintf(out, "%*s", HELP_COLUMN - width, "");
    print_wrapped(o->help, HELP_COLUMN, HELP_COLUMN, out);
}

void cli_print_help(const cli_command *c, FILE *out)
{
    size_t count;
    const cli_option *options = cli_options(c, &count);
    fprintf(out, "usage: manyhands %s%s%s%s\n\n%s\n", c->name, count ? " [OPTION]..." : "", c->arguments ? " " : "", c->arguments ? c->arguments : "", c->about);
    if (count)
        fprintf(out, "\noptions:\n");
    for (size_t i = 0; i < count; i++)
        if (options[i].help)
            print_option(&options[i], out);
    fprintf(out, "\nexample:\n");
    for (const char *at = c->examples; *at;) {
        size_t size = strcspn(at, "\n");
        fprintf(out, "  %.*s\n", (int)size, at);
        at += size + (at[size] == '\n');
    }
    if (c->exits)
        fprintf(out, "\nexit status: 0; 1 it failed; 2 the command line is wrong");
    for (const char *at = c->exits ? c->exits : ""; *at;) {
        size_t number = strcspn(at, "\t"), size = strcspn(at, "\n");
        fprintf(out, "; %.*s %.*s", (int)number, at, (int)(size - number - 2), at + number + 1); /* without its full stop */
        at += size + (at[size] == '\n');
    }
    if (c->exits)
        fputc('\n', out);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

void json_string(FILE *out, const char *text, size_t size)
{
    fputc('"', out);
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\' || c < 0x20)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static void begin(cli_json *j, const char *key)
{
    if (j->comma)
        fputs(", ", j->out);
    if (key) {
        json_string(j->out, key, strlen(key));
        fputs(": ", j->out);
    }
    j->comma = true;
}

void json_open(cli_json *j, const char *key, char bracket)
{
    begin(j, key);
    fputc(bracket, j->out);
    j->comma = false;
}

void json_close(cli_json *j, char bracket)
{
    fputc(bracket, j->out);
    j->comma = true;
}

void json_text(cli_json *j, const char *key, const char *value)
{
    begin(j, key);
    json_string(j->out, value, strlen(value));
}

void json_int(cli_json *j, const char *key, long long value)
{
    begin(j, key);
    fprintf(j->out, "%lld", value);
}

void json_double(cli_json *j, const char *key, double value)
{
    begin(j, key);
    if (isfinite(value))
        fprintf(j->out, "%.3f", value);
    else
        fputs("null", j->out);
}

void json_bool(cli_json *j, const char *key, bool value)
{
    begin(j, key);
    fputs(value ? "true" : "false", j->out);
}

/* ---- the rest -------------------------------------------------------------------------------- */

const char *cli_bytes(size_t bytes, char out[16])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1000 && unit < 4) {
        value /= 1000;
        unit++;
    }
    snprintf(out, 16, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}

bool cli_is_terminal(FILE *out) { return isatty(fileno(out)) == 1; }

void cli_date(char out[40])
{
    struct timespec now;
    struct tm local;
    timespec_get(&now, TIME_UTC);
    localtime_r(&now.tv_sec, &local);
    size_t size = strftime(out, 30, "%Y-%m-%d %H:%M:%S", &local);
    snprintf(out + size, 40 - size, ".%03d", (int)(now.tv_nsec / 1000000));
}

void cli_sleep(int64_t ns)
{
    struct timespec left = {ns / 1000000000, ns % 1000000000};
    nanosleep(&left, NULL); /* a signal that does not end the program may shorten it */
}

void cli_tell_ready(const char *line)
{
    const char *text = getenv("MANYHANDS_READY_FD");
    long long fd;
    if (!text || !cli_number(text, 3, 1 << 20, &fd))
        return;
    FILE *out = fdopen((int)fd, "w");
    if (!out)
        return;
    fprintf(out, "%s\n", line);
    fclose(out);
    unsetenv("MANYHANDS_READY_FD");
}
