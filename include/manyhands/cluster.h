/* manyhands/cluster.h: clusters on this host: start one and watch over it; find, look into, end and tidy up those that are there.
 *
 *     mh_cluster *c = NULL;
 *     mh_err err = mh_cluster_create(&c, &(mh_cluster_options){.folder = "/home/me/.ipython/profile_default", .engine_count = 4});
 *     if (!err) err = mh_cluster_run(c);          // a controller and four engines, until SIGINT, SIGTERM or the controller's end
 *     if (err) fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
 *     mh_cluster_destroy(&c);                     // nothing of it is left
 *
 * Files lie where ipyparallel puts them, in a profile folder: security/cluster-ID.json says which processes make up a cluster, security/ipcontroller-ID-client.json
 * and -engine.json how to reach its controller, log/ holds what they print. So its tools find these clusters, and these functions those that its tools
 * started. One file more, pid/manyhands-ID.json, says who watches over a cluster, and when each process began: no number of a process is believed
 * without that, or without the cluster's name in its environment, so that nobody else's process is ever signalled.
 *
 * Threads: one thread uses an object; mh_cluster_stop may be called from any, and from signal handlers.
 */
#ifndef MANYHANDS_CLUSTER_H
#define MANYHANDS_CLUSTER_H

#include "manyhands/base.h"
#include "manyhands/controller.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MH_CLUSTER_PATH_SIZE = 1024, MH_CLUSTER_ID_SIZE = 128 };

/* The folder of a profile, as IPython finds it: `folder` itself when given, else IPP_PROFILE_DIR unless there is a `name`, else "profile_<name>" (NULL: default) in
 * `ipython_dir`, IPYTHONDIR or ~/.ipython. It need not exist. errors: INVALID no name of a profile, no home, too long. */
MH_API MH_NODISCARD mh_err mh_profile_find(const char *name, const char *folder, const char *ipython_dir, char out[MH_CLUSTER_PATH_SIZE]);

/* ---- a cluster that this process watches over ------------------------------------------------- */

/* Zeroed but for folder means the defaults. Strings are copied. */
typedef struct mh_cluster_options {
    const char *folder;               /* the profile's; made if it is not there; required unless is_private */
    const char *cluster_id;           /* NULL or "": the profile's default cluster */
    uint32_t engine_count;            /* 0: one for each core */
    bool no_engines;
    const char *engines;              /* who starts them: NULL or "local": this process, on this host; else a launcher of the Python package: "mpi",
                                       * "slurm", "ssh" ..., run by `command` with the subcommand engines, which ends them when this process ends */
    const char *hosts;                /* for "ssh": "host=2,user@other:2222=4"; NULL: as the profile's settings say */
    const char *const *controller_args, *const *engine_args; /* more arguments for them, NULL at the end; NULL: none */
    const char *command;              /* the program with the subcommands controller and engine; NULL: this program */
    bool restart;                     /* start engines, and the controller, again when they die; not those that were told to end */
    bool durable;                     /* the controller keeps its tasks in the folder */
    bool is_private;                  /* in a new folder of its own among the short-lived ones, removed with it */
    int32_t owner_pid;                /* end when this process, the parent of this one, ends; 0: no owner */
    bool is_background;               /* from when it is ready, print to <folder>/log/manyhands-ID.log */
    int64_t timeout_ns;               /* until all are registered; 0: 60 s */
    int64_t grace_ns;                 /* at the end, until those that still run are killed; 0: 5 s, 20 s with `engines` elsewhere */
    mh_log_fn log;                    /* what happens to its processes; NULL: nobody is told */
    void *log_ctx;
} mh_cluster_options;

typedef struct mh_cluster mh_cluster;

/* Start a controller and engines, and wait until all have registered. They are killed when this process ends, however it ends.
 * errors: INVALID names the option; EXISTS such a cluster runs already; BROKEN one of the processes ended (detail has the last line that it printed, and its log);
 * TIMEOUT; CANCELLED a signal said stop, or the owner ended; PERMISSION; NO_MEMORY; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_cluster_create(mh_cluster **out, const mh_cluster_options *options);
/* Watch over it until SIGINT, SIGTERM, SIGHUP, mh_cluster_stop, the end of its owner or of its controller.
 * errors: BROKEN the controller died; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_cluster_run(mh_cluster *c);
/* Ask mh_cluster_run to return. threads: any; async-signal-safe. */
MH_API void mh_cluster_stop(mh_cluster *c);
/* End every process of it, and remove its files but the logs. */
MH_API void mh_cluster_destroy(mh_cluster **c);

/* owns: the cluster. */
MH_API const char *mh_cluster_folder(const mh_cluster *c);
MH_API const char *mh_cluster_connection_file(const mh_cluster *c); /* for clients */
MH_API uint32_t mh_cluster_engine_count(const mh_cluster *c);
MH_API int32_t mh_cluster_controller_pid(const mh_cluster *c);

/* ---- clusters that are there ------------------------------------------------------------------ */

typedef struct mh_cluster_member {
    int32_t pid;        /* 0: not known, or on another host */
    bool is_alive;      /* and it is the one that the cluster started */
    int64_t engine_id;  /* -1: not known; the controller's is -1 too */
    char log[MH_CLUSTER_PATH_SIZE]; /* empty: not known */
} mh_cluster_member;

typedef struct mh_cluster_info {
    char folder[MH_CLUSTER_PATH_SIZE];
    char profile[MH_CLUSTER_ID_SIZE]; /* its name; the path of a folder that is named otherwise, cut */
    char cluster_id[MH_CLUSTER_ID_SIZE];
    char launcher[64];                /* of the engines: "local", "ssh", "slurm" ... */
    char file[MH_CLUSTER_PATH_SIZE], connection_file[MH_CLUSTER_PATH_SIZE];
    bool is_running;      /* its controller lives, or is on another host, of which nothing is known here */
    bool is_ready;        /* who watches over it has seen all its engines registered */
    bool is_stale;        /* nothing of it lives: mh_cluster_clean removes its files */
    bool is_remote;       /* it has processes that were not started on this host */
    int32_t watcher_pid;  /* who watches over it; 0: nobody */
    mh_cluster_member controller;
    mh_cluster_member *engines;
    size_t engine_count;  /* of engines[] */
    size_t engines_alive; /* of local ones; of others, as many as were started */
} mh_cluster_info;

/* Zeroed: every cluster of every profile. */
typedef struct mh_clusters_query {
    const char *folder;      /* of this profile only */
    const char *ipython_dir; /* where profiles are; NULL: as for mh_profile_find */
    const char *cluster_id;  /* with this name only; "": the default ones */
} mh_clusters_query;

typedef struct mh_clusters mh_clusters;

/* What the files say, checked against the processes; by profile and name. A file that can't be read is a cluster with is_stale set and no processes.
 * errors: INVALID; NO_MEMORY; SYSTEM. No folder, no clusters. */
MH_API MH_NODISCARD mh_err mh_clusters_create(mh_clusters **out, const mh_clusters_query *query);
MH_API size_t mh_clusters_count(const mh_clusters *l);
MH_API const mh_cluster_info *mh_clusters_at(const mh_clusters *l, size_t index); /* owns: the list */
MH_API void mh_clusters_destroy(mh_clusters **l);

/* End a cluster that lives on this host: ask who watches over it, else its processes, with SIGTERM; kill what runs after grace_ns; remove its files.
 * errors: EXITED nothing of it ran (its files are gone now); UNSUPPORTED parts of it are on other hosts; PERMISSION; NO_MEMORY; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_cluster_end(const mh_cluster_info *info, int64_t grace_ns);

typedef struct mh_cluster_clean_options {
    const char *folder;  /* the profile's; NULL: every profile */
    const char *ipython_dir; /* where profiles are; NULL: as for mh_profile_find */
    bool force;          /* end clusters that have lost their controller; remove files of which it is not known whether they are needed */
    bool keep_logs;
    bool dry_run;
    void (*tell)(const char *line, void *ctx); /* each thing done; NULL: nobody */
    void *ctx;
} mh_cluster_clean_options;
/* Remove what dead clusters left in a profile: their state and connection files, and logs that belong to no living one. Files of controllers that live,
 * or that answer, stay. *removed counts. errors: as above. */
MH_API MH_NODISCARD mh_err mh_cluster_clean(const mh_cluster_clean_options *options, size_t *removed);

/* ---- programs of the Python package ------------------------------------------------------------ */

/* Become `python -m module arg...`, with this process's number. python NULL: the python3 in the folder of this program, else in PATH. args: NULL at the end.
 * Returns only when it can't. errors: NOT_FOUND, PERMISSION, NO_MEMORY, SYSTEM. */
MH_API MH_NODISCARD mh_err mh_cluster_become_python(const char *python, const char *module, const char *const *args);

/* ---- looking in -------------------------------------------------------------------------------- */

typedef struct mh_cluster_load {
    size_t memory_bytes; /* resident and its own, with that of its children; 0: not known */
    int64_t cpu_ns;      /* used so far, with its children; 0: not known */
} mh_cluster_load;

typedef struct mh_cluster_engine {
    int64_t id;
    char uuid[64];
    int64_t queue, tasks, completed; /* requests that wait or run: addressed to it, and balanced; ended */
    int32_t pid;                     /* 0: not known */
    mh_cluster_load load;
} mh_cluster_engine;

typedef struct mh_cluster_status {
    int64_t unassigned;   /* balanced tasks that no engine has */
    int32_t controller_pid;
    mh_cluster_load controller;
    mh_cluster_engine *engines; /* by id; owns: the probe, until the next read */
    size_t engine_count;
} mh_cluster_status;

typedef struct mh_cluster_probe mh_cluster_probe;

/* Something that asks a controller how it is. errors: of the connection file: NOT_FOUND, PERMISSION, CORRUPT, UNSUPPORTED; NO_MEMORY; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_cluster_probe_create(mh_cluster_probe **out, const char *connection_file);
/* Ask it. With `info` (NULL: without) processes are looked at too. errors: TIMEOUT no answer; CORRUPT; NO_MEMORY; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_cluster_probe_read(mh_cluster_probe *p, const mh_cluster_info *info, mh_deadline until, mh_cluster_status *out);
/* Ask it to end: it tells its engines and clients. errors: as above. */
MH_API MH_NODISCARD mh_err mh_cluster_probe_shutdown(mh_cluster_probe *p, mh_deadline until);
MH_API void mh_cluster_probe_destroy(mh_cluster_probe **p);

#ifdef __cplusplus
}
#endif
#endif
