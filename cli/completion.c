/* Completion scripts for three shells from the table. What there is at the time (profiles, clusters) is asked of `manyhands list`. */
#include "command.h"

#include <string.h>

static bool is_words(const char *among) { return among && *among != '<'; }
static bool is_kind(const char *among, const char *kind) { return among && !strcmp(among, kind); }

/* ---- bash ------------------------------------------------------------------------------------ */

static void print_bash_values(const char *among, FILE *out)
{
    if (is_kind(among, CLI_FILES))
        fputs("COMPREPLY=($(compgen -f -- \"$value\")); compopt -o filenames 2>/dev/null; return", out);
    else if (is_kind(among, CLI_FOLDERS))
        fputs("COMPREPLY=($(compgen -d -- \"$value\")); compopt -o filenames 2>/dev/null; return", out);
    else if (is_kind(among, CLI_PROFILES))
        fputs("COMPREPLY=($(compgen -W \"$(_manyhands_profiles)\" -- \"$value\")); return", out);
    else if (is_kind(among, CLI_CLUSTERS))
        fputs("COMPREPLY=($(compgen -W \"$(_manyhands_clusters)\" -- \"$value\")); return", out);
    else if (is_words(among))
        fprintf(out, "COMPREPLY=($(compgen -W '%s' -- \"$value\")); return", among);
    else
        fputs("return", out);
}

static void print_bash_command(const cli_command *c, FILE *out)
{
    size_t count;
    const cli_option *options = cli_options(c, &count);
    fprintf(out, "    %s)\n        case $option in\n", c->name);
    for (size_t i = 0; i < count; i++) {
        if (!options[i].help || !options[i].value)
            continue;
        fprintf(out, "        --%s", options[i].name);
        if (options[i].letter)
            fprintf(out, "|-%c", options[i].letter);
        fputs(") ", out);
        print_bash_values(options[i].among, out);
        fputs(" ;;\n", out);
    }
    fputs("        esac\n        words='--help", out);
    for (size_t i = 0; i < count; i++)
        if (options[i].help)
            fprintf(out, " %s%s%s", strlen(options[i].name) > 1 ? "--" : "-", options[i].name, options[i].value && strlen(options[i].name) > 1 ? "=" : "");
    fputs("'\n", out);
    if (is_kind(c->among, CLI_CLUSTERS))
        fputs("        [[ $word == -* ]] || words=$(_manyhands_clusters)\n", out);
    else if (is_words(c->among))
        fprintf(out, "        [[ $word == -* ]] || words='%s'\n", c->among);
    fputs("        ;;\n", out);
}

static void print_bash(FILE *out)
{
    fputs("# bash completion for manyhands: put this file into a folder of bash-completion, or source it\n"
          "_manyhands_profiles() { command ls -d \"${IPYTHONDIR:-$HOME/.ipython}\"/profile_* 2>/dev/null | command sed 's,.*/profile_,,'; }\n"
          "_manyhands_clusters() { command manyhands list --ids 2>/dev/null; }\n"
          "_manyhands() {\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} value option words\n"
          "    COMPREPLY=()\n"
          "    value=$word option=$previous\n"
          "    # bash splits --name=value at the equals sign\n"
          "    if [[ $word == '=' ]]; then value= ; option=$previous\n"
          "    elif [[ $previous == '=' ]]; then option=${COMP_WORDS[COMP_CWORD-2]}\n"
          "    fi\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        COMPREPLY=($(compgen -W '--help --version", out);
    for (size_t i = 0; i < cli_command_count; i++)
        fprintf(out, " %s", cli_commands[i]->name);
    fputs("' -- \"$word\"))\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n", out);
    for (size_t i = 0; i < cli_command_count; i++)
        print_bash_command(cli_commands[i], out);
    fputs("    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
          "    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null\n    return 0\n}\ncomplete -F _manyhands manyhands\n", out);
}

/* ---- zsh ------------------------------------------------------------------------------------- */

/* Within single quotes, and within brackets that end at one. */
static void print_zsh_text(const char *text, FILE *out)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", out);
        else if (strchr("[]:\\", *text))
            fprintf(out, "\\%c", *text);
        else
            fputc(*text, out);
    }
}

static void print_zsh_action(const char *among, FILE *out)
{
    if (is_kind(among, CLI_FILES))
        fputs("_files", out);
    else if (is_kind(among, CLI_FOLDERS))
        fputs("_files -/", out);
    else if (is_kind(among, CLI_PROFILES))
        fputs("_manyhands_profiles", out);
    else if (is_kind(among, CLI_CLUSTERS))
        fputs("_manyhands_clusters", out);
    else if (is_words(among))
        fprintf(out, "(%s)", among);
    else
        fputc(' ', out);
}

static void print_zsh_option(const cli_option *o, const char *dashes, const char *name, FILE *out)
{
    fprintf(out, " \\\n            '%s%s%s[", dashes, name, o->value && dashes[1] ? "=" : "");
    print_zsh_text(o->help, out);
    fputc(']', out);
    if (o->value) {
        fputc(':', out);
        print_zsh_text(o->value, out);
        fputc(':', out);
        print_zsh_action(o->among, out);
    }
    fputc('\'', out);
}

static void print_zsh_command(const cli_command *c, FILE *out)
{
    size_t count;
    const cli_option *options = cli_options(c, &count);
    fprintf(out, "    %s)\n        _arguments '--help[print this]'", c->name);
    for (size_t i = 0; i < count; i++) {
        char letter[2] = {options[i].letter, 0};
        if (!options[i].help)
            continue;
        if (strlen(options[i].name) > 1)
            print_zsh_option(&options[i], "--", options[i].name, out);
        if (*letter)
            print_zsh_option(&options[i], "-", letter, out);
    }
    if (c->among) {
        fputs(" \\\n            '*: :", out);
        print_zsh_action(c->among, out);
        fputc('\'', out);
    }
    fputs("\n        ;;\n", out);
}

static void print_zsh(FILE *out)
{
    fputs("#compdef manyhands\n"
          "_manyhands_profiles() { local -a names; names=(${${(f)\"$(command ls -d ${IPYTHONDIR:-$HOME/.ipython}/profile_* 2>/dev/null)\"}:t}); "
          "compadd -- ${names#profile_}; }\n"
          "_manyhands_clusters() { compadd -- ${(f)\"$(command manyhands list --ids 2>/dev/null)\"}; }\n"
          "_manyhands() {\n    local -a commands\n    commands=(\n", out);
    for (size_t i = 0; i < cli_command_count; i++) {
        fprintf(out, "        '%s:", cli_commands[i]->name);
        print_zsh_text(cli_commands[i]->summary, out);
        fputs("'\n", out);
    }
    fputs("    )\n    if ((CURRENT == 2)); then\n        _describe command commands\n        return\n    fi\n"
          "    local name=$words[2]\n    shift words\n    ((CURRENT--))\n    case $name in\n", out);
    for (size_t i = 0; i < cli_command_count; i++)
        print_zsh_command(cli_commands[i], out);
    fputs("    esac\n}\n_manyhands \"$@\"\n", out);
}

/* ---- fish ------------------------------------------------------------------------------------ */

static void print_fish_text(const char *text, FILE *out)
{
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            fputc('\\', out);
        fputc(*text, out);
    }
    fputc('\'', out);
}

static void print_fish_values(const char *among, FILE *out)
{
    if (is_kind(among, CLI_FILES))
        fputs(" -F", out);
    else if (is_kind(among, CLI_FOLDERS))
        fputs(" -a '(__fish_complete_directories)'", out);
    else if (is_kind(among, CLI_PROFILES))
        fputs(" -a '(__manyhands_profiles)'", out);
    else if (is_kind(among, CLI_CLUSTERS))
        fputs(" -a '(command manyhands list --ids 2>/dev/null)'", out);
    else if (is_words(among))
        fprintf(out, " -a '%s'", among);
}

static void print_fish_command(const cli_command *c, FILE *out)
{
    size_t count;
    const cli_option *options = cli_options(c, &count);
    fprintf(out, "complete -c manyhands -f -n __fish_use_subcommand -a %s -d ", c->name);
    print_fish_text(c->summary, out);
    fputc('\n', out);
    if (c->among) {
        fprintf(out, "complete -c manyhands -f -n '__fish_seen_subcommand_from %s'", c->name);
        print_fish_values(c->among, out);
        fputc('\n', out);
    }
    for (size_t i = 0; i < count; i++) {
        if (!options[i].help)
            continue;
        bool wants_file = is_kind(options[i].among, CLI_FILES);
        fprintf(out, "complete -c manyhands %s-n '__fish_seen_subcommand_from %s'", wants_file ? "" : "-f ", c->name);
        if (strlen(options[i].name) > 1)
            fprintf(out, " -l %s", options[i].name);
        if (options[i].letter)
            fprintf(out, " -s %c", options[i].letter);
        if (options[i].value) {
            fputs(wants_file ? " -r" : " -x", out);
            print_fish_values(options[i].among, out);
        }
        fputs(" -d ", out);
        print_fish_text(options[i].help, out);
        fputc('\n', out);
    }
}

static void print_fish(FILE *out)
{
    fputs("# fish completion for manyhands\n"
          "function __manyhands_profiles\n    set -l root $IPYTHONDIR\n    test -n \"$root\"; or set root ~/.ipython\n"
          "    for folder in $root/profile_*\n        string replace -r '.*/profile_' '' $folder\n    end\nend\n", out);
    for (size_t i = 0; i < cli_command_count; i++)
        print_fish_command(cli_commands[i], out);
}

bool cli_print_completion(const char *shell, FILE *out)
{
    static const struct {
        const char *shell;
        void (*print)(FILE *out);
    } all[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (!strcmp(all[i].shell, shell)) {
            all[i].print(out);
            return true;
        }
    return false;
}
