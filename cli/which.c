#include "which.h"

#include <stdlib.h>
#include <string.h>

bool which_is_given(const cli_line *line) { return line->values[PROFILE] || line->values[PROFILE_DIR] || getenv("IPP_PROFILE_DIR"); }

bool which_folder(const cli_command *c, const cli_line *line, char folder[MH_CLUSTER_PATH_SIZE], int *status)
{
    mh_err err = mh_profile_find(line->values[PROFILE], line->values[PROFILE_DIR], line->values[IPYTHON_DIR], folder);
    if (err)
        *status = cli_refuse(c, "%s", mh_err_detail());
    return !err;
}

static const char *wanted_id(const cli_line *line)
{
    const char *named = getenv("IPP_CLUSTER_ID");
    return line->word_count ? line->words[0] : line->values[CLUSTER_ID] ? line->values[CLUSTER_ID] : named && getenv("IPP_PROFILE_DIR") ? named : "";
}

const mh_cluster_info *which_cluster(const cli_command *c, const cli_line *line, mh_clusters **list, int *status)
{
    char folder[MH_CLUSTER_PATH_SIZE];
    const char *id = wanted_id(line);
    *list = NULL;
    if (line->word_count > 1) {
        *status = cli_refuse(c, "one cluster at a time, not \"%s\" too", line->words[1]);
        return NULL;
    }
    if (!which_folder(c, line, folder, status))
        return NULL;
    if (mh_clusters_create(list, &(mh_clusters_query){.folder = folder, .cluster_id = id})) {
        *status = cli_fail(c, EXIT_FAILURE, "%s", mh_err_detail());
        return NULL;
    }
    if (!mh_clusters_count(*list)) {
        *status = cli_fail(c, EXIT_NO_CLUSTER, "no cluster \"%s\" in %s; manyhands list shows all that there are", id, folder);
        mh_clusters_destroy(list);
        return NULL;
    }
    return mh_clusters_at(*list, 0);
}

const char *which_name(const mh_cluster_info *info, char out[320])
{
    if (*info->cluster_id)
        snprintf(out, 320, "cluster \"%s\" of profile %s", info->cluster_id, info->profile);
    else
        snprintf(out, 320, "the cluster of profile %s", info->profile);
    return out;
}
