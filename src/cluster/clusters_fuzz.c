/* Any bytes as the files of a cluster, what it is made of and (after a zero byte) who watches over it: a cluster whose texts end and whose
 * numbers fit, never a process that was not asked for its marks. */
#include "cluster/profile.h"

#include "os/file.h"
#include "os/folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64], cluster[MH_CLUSTER_PATH_SIZE], watcher[MH_CLUSTER_PATH_SIZE];

static void remove_files(void)
{
    if (mh__os_folder_remove(folder))
        abort();
}

static void prepare(void)
{
    char path[80];
    strcpy(folder, access("/dev/shm", W_OK) ? "/tmp/clusters-fuzz-" : "/dev/shm/clusters-fuzz-");
    if (mh__os_folder_unique(folder, sizeof folder))
        abort();
    atexit(remove_files);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, i ? "security" : "pid");
        if (mh__os_folder_make(path))
            abort();
    }
    if (mh__profile_path(folder, MH__FILE_CLUSTER, "", cluster) || mh__profile_path(folder, MH__FILE_WATCHER, "", watcher))
        abort();
}

static void write_file(const char *path, const uint8_t *data, size_t size)
{
    FILE *f = fopen(path, "w");
    if (!f || (size && fwrite(data, 1, size, f) != size) || fclose(f) || chmod(path, 0600))
        abort();
}

static bool ends(const char *text, size_t capacity) { return memchr(text, 0, capacity); }

static void check(const mh_cluster_info *info)
{
    if (!ends(info->launcher, sizeof info->launcher) || !ends(info->controller.log, sizeof info->controller.log) || info->engines_alive > INT64_MAX)
        abort();
    if (info->controller.is_alive || info->watcher_pid < 0) /* none of the processes here has the marks of this folder */
        abort();
    for (size_t i = 0; i < info->engine_count; i++)
        if (!ends(info->engines[i].log, sizeof info->engines[i].log) || info->engines[i].is_alive || info->engines[i].pid < 0)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh_clusters *l = NULL;
    if (!*folder)
        prepare();
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t first = end ? (size_t)(end - data) : size;
    write_file(cluster, data, first);
    write_file(watcher, end ? end + 1 : data, end ? size - first - 1 : 0);
    if (mh_clusters_create(&l, &(mh_clusters_query){.folder = folder}) || mh_clusters_count(l) != 1)
        abort();
    check(mh_clusters_at(l, 0));
    mh_clusters_destroy(&l);
    return 0;
}
