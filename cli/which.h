/* Which profile and cluster a command is about. */
#ifndef MH_CLI_WHICH_H
#define MH_CLI_WHICH_H

#include "command.h"

#include <manyhands/cluster.h>

/* The first options of each command that uses this. */
enum { PROFILE, PROFILE_DIR, IPYTHON_DIR, CLUSTER_ID, WHICH_COUNT };
#define WHICH_OPTIONS                                                                                                        \
    {"profile", 0, "NAME", "the profile of this name (default)", CLI_PROFILES},                                              \
    {"profile-dir", 0, "PATH", "the profile in this folder", CLI_FOLDERS},                                                   \
    {"ipython-dir", 0, "PATH", "where profiles are (~/.ipython)", CLI_FOLDERS},                                              \
    {"cluster-id", 0, "ID", "the cluster of this name; without it, the profile's default cluster", CLI_CLUSTERS}

#define NO_CLUSTER_EXIT "11\tThere is no such cluster.\n"

/* False when the command ends with *status. */
bool which_folder(const cli_command *c, const cli_line *line, char folder[MH_CLUSTER_PATH_SIZE], int *status);
/* Whether the command line says which profile. */
bool which_is_given(const cli_line *line);
/* The one cluster: its id is a word or the option. NULL when the command ends with *status; else the caller destroys *list, to which it belongs. */
const mh_cluster_info *which_cluster(const cli_command *c, const cli_line *line, mh_clusters **list, int *status);
/* 'cluster "night" of profile default' */
const char *which_name(const mh_cluster_info *info, char out[320]);

#endif
