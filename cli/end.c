/* `manyhands stop` and `manyhands clean`. */
#include "which.h"

#include <stdlib.h>
#include <string.h>

/* ---- stop ------------------------------------------------------------------------------------ */

enum { STOP_ALL = WHICH_COUNT, STOP_GRACE, STOP_JSON, STOP_OPTIONS };
#define ANSWER_NS (2 * MH_SECOND)

static const cli_option stop_options[STOP_OPTIONS] = {
    WHICH_OPTIONS,
    [STOP_ALL] = {"all", 0, NULL, "all clusters of the profile; without a profile, of every one", NULL},
    [STOP_GRACE] = {"grace", 0, "SECONDS", "how long until what still runs is killed (5)", NULL},
    [STOP_JSON] = {"json", 0, NULL, "print what was stopped as JSON", NULL},
};

static int run_stop(int argc, char **argv);

const cli_command command_stop = {
    .name = "stop",
    .arguments = "[ID]...",
    .summary = "end clusters",
    .about = "End clusters on this host that manyhands start or ipcluster started, by their names or all; a controller that was started by itself is asked to end.\n"
             "A process gets a signal only when it is known to be the one that the cluster started.",
    .examples = "manyhands stop\nmanyhands stop night --profile=default\nmanyhands stop --all",
    .exits = NO_CLUSTER_EXIT,
    .among = CLI_CLUSTERS,
    .options = stop_options,
    .option_count = STOP_OPTIONS,
    .run = run_stop,
};

typedef struct stopping {
    cli_json json;
    bool is_json;
    int64_t grace_ns;
    int stopped, status;
} stopping;

static void report(stopping *s, const char *profile, const char *folder, const char *id)
{
    s->stopped++;
    if (!s->is_json) {
        printf("stopped %s%s%s of profile %s\n", *id ? "cluster \"" : "the cluster", id, *id ? "\"" : "", profile);
        return;
    }
    json_open(&s->json, NULL, '{');
    json_text(&s->json, "profile", profile);
    json_text(&s->json, "profile_dir", folder);
    json_text(&s->json, "cluster_id", id);
    json_close(&s->json, '}');
}

/* A controller without a cluster file: it can only be asked. */
static bool shut_down(stopping *s, const char *folder, const char *id)
{
    char file[MH_CLUSTER_PATH_SIZE + 2 * MH_CLUSTER_ID_SIZE];
    mh_cluster_probe *p = NULL;
    snprintf(file, sizeof file, "%s/security/ipcontroller%s%.128s-client.json", folder, *id ? "-" : "", id);
    mh_err err = mh_cluster_probe_create(&p, file);
    if (!err)
        err = mh_cluster_probe_shutdown(p, mh_deadline_in(ANSWER_NS));
    mh_cluster_probe_destroy(&p);
    if (!err)
        report(s, folder, folder, id);
    return !err;
}

static void stop_one(stopping *s, const mh_cluster_info *info)
{
    mh_err err = mh_cluster_end(info, s->grace_ns);
    if (!err)
        report(s, info->profile, info->folder, info->cluster_id);
    else if (err != MH_ERR_EXITED)
        s->status = cli_fail(&command_stop, EXIT_FAILURE, "%s", mh_err_detail());
}

static void stop_named(stopping *s, const char *folder, const char *id)
{
    mh_clusters *l = NULL;
    int before = s->stopped;
    if (mh_clusters_create(&l, &(mh_clusters_query){.folder = folder, .cluster_id = id})) {
        s->status = cli_fail(&command_stop, EXIT_FAILURE, "%s", mh_err_detail());
        return;
    }
    if (mh_clusters_count(l))
        stop_one(s, mh_clusters_at(l, 0));
    if (s->stopped == before && !s->status && !shut_down(s, folder, id))
        s->status = cli_fail(&command_stop, EXIT_NO_CLUSTER, "no cluster \"%s\" runs in %s", id, folder);
    mh_clusters_destroy(&l);
}

static void stop_all(stopping *s, const char *folder, const char *ipython_dir)
{
    mh_clusters *l = NULL;
    if (mh_clusters_create(&l, &(mh_clusters_query){.folder = folder, .ipython_dir = ipython_dir})) {
        s->status = cli_fail(&command_stop, EXIT_FAILURE, "%s", mh_err_detail());
        return;
    }
    for (size_t i = 0; i < mh_clusters_count(l); i++)
        stop_one(s, mh_clusters_at(l, i));
    mh_clusters_destroy(&l);
}

static int run_stop(int argc, char **argv)
{
    cli_line line;
    int status;
    char folder[MH_CLUSTER_PATH_SIZE];
    stopping s = {.json = {.out = stdout}};
    if (!cli_parse(&command_stop, argc, argv, &line, &status))
        return status;
    if (line.values[STOP_GRACE] && !cli_seconds(line.values[STOP_GRACE], 0.001, 1e6, &s.grace_ns))
        return cli_refuse(&command_stop, "--grace: \"%s\" is not a time", line.values[STOP_GRACE]);
    if (!which_folder(&command_stop, &line, folder, &status))
        return status;
    s.is_json = line.values[STOP_JSON];
    if (s.is_json)
        json_open(&s.json, NULL, '[');
    if (line.values[STOP_ALL])
        stop_all(&s, which_is_given(&line) ? folder : NULL, line.values[IPYTHON_DIR]);
    else if (!line.word_count)
        stop_named(&s, folder, line.values[CLUSTER_ID] ? line.values[CLUSTER_ID] : "");
    for (int i = 0; !line.values[STOP_ALL] && i < line.word_count; i++)
        stop_named(&s, folder, line.words[i]);
    if (s.is_json) {
        json_close(&s.json, ']');
        printf("\n");
    }
    return s.status;
}

/* ---- clean ----------------------------------------------------------------------------------- */

enum { CLEAN_ALL = IPYTHON_DIR + 1, CLEAN_FORCE, CLEAN_KEEP, CLEAN_DRY, CLEAN_JSON, CLEAN_OPTIONS };

static const cli_option clean_options[CLEAN_OPTIONS] = {
    {"profile", 0, "NAME", "the profile of this name (default)", CLI_PROFILES},
    {"profile-dir", 0, "PATH", "the profile in this folder", CLI_FOLDERS},
    {"ipython-dir", 0, "PATH", "where profiles are (~/.ipython)", CLI_FOLDERS},
    [CLEAN_ALL] = {"all", 0, NULL, "every profile", NULL},
    [CLEAN_FORCE] = {"force", 'f', NULL, "end engines whose controller is gone; remove files of controllers that may run on other hosts", NULL},
    [CLEAN_KEEP] = {"keep-logs", 0, NULL, "leave logs", NULL},
    [CLEAN_DRY] = {"dry-run", 'n', NULL, "only say what would be done", NULL},
    [CLEAN_JSON] = {"json", 0, NULL, "print what was done as JSON", NULL},
};

static int run_clean(int argc, char **argv);

const cli_command command_clean = {
    .name = "clean",
    .summary = "remove what dead clusters left",
    .about = "Remove state and connection files of clusters of which nothing lives, and logs that belong to none that lives. Whether something lives is\n"
             "told by its processes, found by number, start time and environment, and by the answer of its controller; no process that is not\n"
             "known to be the cluster's is ever signalled, and without --force none at all.",
    .examples = "manyhands clean --dry-run\nmanyhands clean --all",
    .options = clean_options,
    .option_count = CLEAN_OPTIONS,
    .run = run_clean,
};

static void print_removed(const char *text, void *ctx)
{
    cli_json *j = ctx;
    if (j->out)
        json_text(j, NULL, text);
    else
        puts(text);
}

static int run_clean(int argc, char **argv)
{
    cli_line line;
    int status;
    size_t removed = 0;
    char folder[MH_CLUSTER_PATH_SIZE];
    if (!cli_parse(&command_clean, argc, argv, &line, &status))
        return status;
    if (!which_folder(&command_clean, &line, folder, &status))
        return status;
    cli_json json = {.out = line.values[CLEAN_JSON] ? stdout : NULL};
    if (json.out)
        json_open(&json, NULL, '[');
    mh_err err = mh_cluster_clean(&(mh_cluster_clean_options){
        .folder = line.values[CLEAN_ALL] ? NULL : folder, .ipython_dir = line.values[IPYTHON_DIR], .force = line.values[CLEAN_FORCE],
        .keep_logs = line.values[CLEAN_KEEP], .dry_run = line.values[CLEAN_DRY], .tell = print_removed, .ctx = &json}, &removed);
    if (json.out) {
        json_close(&json, ']');
        printf("\n");
    }
    return err ? cli_fail(&command_clean, EXIT_FAILURE, "%s", mh_err_detail()) : EXIT_SUCCESS;
}
