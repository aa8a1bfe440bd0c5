/* Man pages from the table. */
#include "command.h"

#include <manyhands/base.h>

#include <ctype.h>
#include <string.h>

/* Text as troff takes it: a line that begins with a dot or a quote is no request, a hyphen is a hyphen. */
static void print_text(const char *text, size_t size, FILE *out)
{
    bool at_start = true;
    for (size_t i = 0; i < size; i++) {
        if (at_start && (text[i] == '.' || text[i] == '\''))
            fputs("\\&", out);
        if (text[i] == '\\')
            fputs("\\e", out);
        else if (text[i] == '-')
            fputs("\\-", out);
        else
            fputc(text[i], out);
        at_start = text[i] == '\n';
    }
}

static void print_paragraphs(const char *text, FILE *out)
{
    for (const char *at = text; *at;) {
        const char *end = strstr(at, "\n\n");
        size_t size = end ? (size_t)(end - at) : strlen(at);
        print_text(at, size, out);
        fputs(end ? "\n.PP\n" : "\n", out);
        at += size + (end ? 2 : 0);
    }
}

static void print_title(const char *name, const char *summary, FILE *out)
{
    fputs(".TH MANYHANDS", out);
    if (*name)
        fputs("\\-", out);
    for (const char *at = name; *at; at++)
        fputc(toupper((unsigned char)*at), out);
    fprintf(out, " 1 \"\" \"manyhands %d.%d.%d\" \"Manyhands\"\n.SH NAME\nmanyhands%s%s \\- ", MH_VERSION_MAJOR, MH_VERSION_MINOR, MH_VERSION_PATCH,
            *name ? "\\-" : "", name);
    print_text(summary, strlen(summary), out);
    fputc('\n', out);
}

static void print_option(const cli_option *o, FILE *out)
{
    fputs(".TP\n", out);
    if (o->letter)
        fprintf(out, "\\fB\\-%c\\fR", o->letter);
    if (o->letter && strlen(o->name) > 1)
        fputs(", ", out);
    if (!o->letter || strlen(o->name) > 1) {
        fputs("\\fB\\-\\-", out);
        print_text(o->name, strlen(o->name), out);
        fputs("\\fR", out);
    }
    if (o->value)
        fprintf(out, "%s\\fI%s\\fR", strlen(o->name) > 1 ? "=" : " ", o->value);
    fputc('\n', out);
    print_text(o->help, strlen(o->help), out);
    fputc('\n', out);
}

static void print_examples(const char *text, FILE *out)
{
    fputs(".SH EXAMPLES\n.nf\n", out);
    print_text(text, strlen(text), out);
    fputs("\n.fi\n", out);
}

static void print_exit(const char *number, size_t size, const char *text, size_t text_size, FILE *out)
{
    fprintf(out, ".TP\n.B %.*s\n", (int)size, number);
    print_text(text, text_size, out);
    fputc('\n', out);
}

static void print_exits(const char *more, FILE *out)
{
    static const char failed[] = "It failed; a line on stderr says why.", usage[] = "The command line is wrong.", fine[] = "Success.";
    fputs(".SH EXIT STATUS\n", out);
    print_exit("0", 1, fine, sizeof fine - 1, out);
    print_exit("1", 1, failed, sizeof failed - 1, out);
    print_exit("2", 1, usage, sizeof usage - 1, out);
    for (const char *at = more ? more : ""; *at;) {
        size_t number = strcspn(at, "\t"), size = strcspn(at, "\n");
        print_exit(at, number, at + number + 1, size - number - 1, out);
        at += size + (at[size] == '\n');
    }
}

static void print_environment(FILE *out)
{
    static const char *const rows[][2] = {
        {"IPYTHONDIR", "Where profiles are, instead of ~/.ipython."},
        {"IPP_PROFILE_DIR", "The profile folder, where no option names one."},
        {"IPP_CLUSTER_ID", "The cluster's name, for controllers and engines that no option tells theirs."},
        {"IPP_CONNECTION_INFO", "The text of the connection file, for engines."},
    };
    fputs(".SH ENVIRONMENT\n", out);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fprintf(out, ".TP\n.B %s\n", rows[i][0]);
        print_text(rows[i][1], strlen(rows[i][1]), out);
        fputc('\n', out);
    }
}

static void print_files(FILE *out)
{
    static const char *const rows[][2] = {
        {"security/cluster-ID.json", "Which processes make up a cluster, as ipyparallel writes it."},
        {"security/ipcontroller-ID-client.json", "How a client reaches its controller; holds the key. Without an ID there is no dash before it."},
        {"security/ipcontroller-ID-engine.json", "The same for engines."},
        {"pid/manyhands-ID.json", "Who watches over it, and when each process began."},
        {"log/", "What its processes print."},
    };
    fputs(".SH FILES\nIn the profile folder, ~/.ipython/profile_NAME:\n", out);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fputs(".TP\n.I ", out);
        print_text(rows[i][0], strlen(rows[i][0]), out);
        fputc('\n', out);
        print_text(rows[i][1], strlen(rows[i][1]), out);
        fputc('\n', out);
    }
}

static void print_whole(FILE *out)
{
    print_title("", "parallel computing on one machine and on clusters", out);
    fputs(".SH SYNOPSIS\n.B manyhands\n.I COMMAND\n[OPTION]...\n.SH DESCRIPTION\n"
          "Starts, watches and ends clusters: a controller, which engines and clients connect to, and engines, which run tasks.\n.SH COMMANDS\n", out);
    for (size_t i = 0; i < cli_command_count; i++) {
        fprintf(out, ".TP\n.BR manyhands\\-%s (1)\n", cli_commands[i]->name);
        print_text(cli_commands[i]->summary, strlen(cli_commands[i]->summary), out);
        fputc('\n', out);
    }
    print_examples("manyhands start -n 4 --daemonize\nmanyhands status\nmanyhands stop", out);
    print_exits(NULL, out);
    print_environment(out);
    print_files(out);
}

void cli_print_man(const cli_command *c, FILE *out)
{
    size_t count;
    if (!c) {
        print_whole(out);
        return;
    }
    const cli_option *options = cli_options(c, &count);
    print_title(c->name, c->summary, out);
    fprintf(out, ".SH SYNOPSIS\n.B manyhands %s\n%s", c->name, count ? "[OPTION]..." : "");
    if (c->arguments)
        fprintf(out, "%s%s", count ? " " : "", c->arguments);
    fputs(count || c->arguments ? "\n.SH DESCRIPTION\n" : ".SH DESCRIPTION\n", out);
    print_paragraphs(c->about, out);
    if (count)
        fputs(".SH OPTIONS\n", out);
    for (size_t i = 0; i < count; i++)
        if (options[i].help)
            print_option(&options[i], out);
    print_examples(c->examples, out);
    print_exits(c->exits, out);
    print_environment(out);
    print_files(out);
    fputs(".SH SEE ALSO\n.BR manyhands (1)\n", out);
}
