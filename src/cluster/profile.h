/* Where the files of clusters lie in a profile folder, and what the ones that say who belongs to a cluster hold. */
#ifndef MH_CLUSTER_PROFILE_H
#define MH_CLUSTER_PROFILE_H

#include "manyhands/cluster.h"
#include "os/identity.h"
#include "wire/json.h"

typedef enum mh__profile_file {
    MH__FILE_CLUSTER,  /* security/cluster-ID.json, as ipyparallel writes it */
    MH__FILE_CLIENT,   /* security/ipcontroller-ID-client.json */
    MH__FILE_ENGINE,
    MH__FILE_ENGINES,  /* security/ipcontroller-ID-engines.json: what a controller with --reuse remembers */
    MH__FILE_TASKS,    /* security/ipcontroller-ID-tasks.sqlite: its task log, with -wal and -shm beside it while in use */
    MH__FILE_FAST,     /* security/ipcontroller-ID.fast: the socket of the fast lane */
    MH__FILE_SEEN,     /* security/ipcontroller-ID-seen: what was admitted under the key in the connection files */
    MH__FILE_WATCHER,  /* pid/manyhands-ID.json */
    MH__FILE_LOCK,     /* pid/manyhands-ID.lock */
    MH__FILE_LOG,      /* log/manyhands-ID.log */
} mh__profile_file;
/* errors: INVALID too long. */
MH_NODISCARD mh_err mh__profile_path(const char *folder, mh__profile_file which, const char *cluster_id, char out[MH_CLUSTER_PATH_SIZE]);
/* The id in a name in security/ or pid/ of that kind; false for another name. */
bool mh__profile_id_of(const char *name, mh__profile_file which, char id[MH_CLUSTER_ID_SIZE]);
/* Call fn for the folder of every profile, until it fails. errors: of it, and of the system. */
MH_NODISCARD mh_err mh__profiles_each(const char *ipython_dir, mh_err (*fn)(const char *folder, void *ctx), void *ctx);
/* errors: INVALID it has characters that no file's name should, or is too long. */
MH_NODISCARD mh_err mh__cluster_id_check(const char *id);
/* What every process of a cluster has in its environment. */
typedef struct mh__cluster_marks {
    char folder[MH_CLUSTER_PATH_SIZE + 20], id[MH_CLUSTER_ID_SIZE + 20];
} mh__cluster_marks;
void mh__cluster_marks_of(const char *folder, const char *cluster_id, mh__cluster_marks *out);
/* Whether process `pid` lives and is part of this cluster: it began when `recorded` says (0: not known), with the cluster's marks. */
bool mh__cluster_has(const char *folder, const char *cluster_id, int32_t pid, mh__identity recorded);

/* ---- what is written ------------------------------------------------------------------------- */

typedef struct mh__record_member {
    int32_t pid;
    mh__identity identity;
    int64_t engine_id;
    const char *log;
} mh__record_member;

typedef struct mh__record {
    const char *folder, *cluster_id, *set_id;
    const char *const *controller_args;
    mh__identity watcher;
    bool is_ready;
    mh__record_member controller;
    const mh__record_member *engines;
    size_t engine_count;
    const char *launcher; /* of the engines, where engines[0] is who started them, and count_elsewhere how many; NULL: they are processes here */
    size_t count_elsewhere;
} mh__record;

/* Write both files. errors: of the system. */
MH_NODISCARD mh_err mh__record_write(const mh__record *r);
/* Remove every file of a cluster but its logs, its tasks and its lock. */
void mh__record_remove(const char *folder, const char *cluster_id);
/* Remove its task log. */
void mh__tasks_remove(const char *folder, const char *cluster_id);

#endif
