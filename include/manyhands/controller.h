/* manyhands/controller.h: the controller of a cluster: one process, one thread, that engines and clients connect to.
 *
 *     mh_controller *c = NULL;
 *     mh_err err = mh_controller_create(&c, &(mh_controller_options){.folder = "/home/me/.ipython/profile_default"});
 *     if (!err) err = mh_controller_run(c);      // until SIGINT, SIGTERM, a client's shutdown request or mh_controller_stop
 *     mh_controller_destroy(&c);
 *
 * It speaks IPython Parallel's protocol, so that stock engines and clients use it by the connection files that it writes to
 * <folder>/security. It listens on loopback unless it is told otherwise, and beyond it only with CURVE encryption. It never
 * looks into what tasks and results carry. Compiled only where libzmq and nettle are: link libmanyhands-cluster.
 */
#ifndef MANYHANDS_CONTROLLER_H
#define MANYHANDS_CONTROLLER_H

#include "manyhands/base.h"
#include "manyhands/sched.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mh_controller mh_controller;

typedef enum mh_log_level { MH_LOG_DEBUG = 10, MH_LOG_INFO = 20, MH_LOG_WARNING = 30, MH_LOG_ERROR = 40 } mh_log_level;
/* Called with one line, without its end. It never holds a key. */
typedef void (*mh_log_fn)(mh_log_level level, const char *line, void *ctx);

/* Zeroed means the defaults. Strings are copied. */
typedef struct mh_controller_options {
    const char *folder;         /* connection files go to <folder>/security (made with mode 0700); required */
    const char *cluster_id;     /* part of their names; NULL or "": none */
    const char *ip;             /* where to listen; NULL: 127.0.0.1 */
    const char *location;       /* the host name that others find this host by; NULL: its own */
    const char *ssh, *engine_ssh; /* servers that clients and engines tunnel through */
    const uint16_t *ports;      /* to be used first, in this order; then any free ones */
    size_t port_count;
    bool curve;                 /* encrypt everything; messages are then not signed besides */
    bool strict;                /* without curve: sign the buffers of messages, too, and refuse those that are not; stock peers can't be in such a cluster */
    const char *curve_secret;   /* with curve: the key to use (Z85); NULL: a new one */
    const char *key;            /* of the signatures; NULL: a new one of 256 bits */
    bool reuse;                 /* take key and ports from connection files that are there, and leave them when it ends; go on with
                                   the tasks and engines of the controller that ended */
    mh_sched_policy policy;
    bool high_water_set;        /* else 1 */
    uint32_t high_water;        /* tasks that an engine holds at most; 0: no limit */
    int64_t ping_ns;            /* between heartbeats; 0: 3 s */
    uint32_t pings_missed;      /* an engine that misses more in a row is given up; 0: 10 */
    const char *database;       /* where accepted tasks and their results are written down: NULL or "sqlite": in a file beside the
                                   connection files; "memory": nowhere; a URL that begins with postgresql://: in that database (a
                                   password in it is refused: libpq takes it from the environment, a password or a service file) */
    bool no_history;            /* forget tasks as soon as they have ended; nothing is written down then */
    size_t history_count;       /* ended tasks to remember; 0: 1,024 */
    size_t history_bytes;       /* and bytes of their messages; 0: 64 MiB */
    size_t connections;         /* accepted at once by each of its sockets; 0: 16,384, or less where the process may have fewer descriptors.
                                   Who comes when there are as many is cut off; those that are there notice nothing */
    size_t client_bytes;        /* of messages that wait for a client that does not read, on each of its connections; 0: 512 MiB. Beyond it
                                   they are dropped and counted; results stay in the history */
    bool leave_signals;         /* don't touch SIGINT, SIGTERM and SIGHUP; else they are blocked in this thread, and stop it */
    mh_log_level level;         /* 0: INFO */
    mh_log_fn log;              /* NULL: none */
    void *log_ctx;
} mh_controller_options;

/* Bind every socket and write the connection files. errors: INVALID names the option; PERMISSION the address is not loopback
 * and `curve` is off, or a folder is somebody else's; EXISTS a port is taken; CORRUPT the task log or a connection file is
 * damaged: a damaged log has been set aside, under a name that the detail tells; TIMEOUT the log is in use; UNSUPPORTED; NO_MEMORY; SYSTEM. */
MH_API MH_NODISCARD mh_err mh_controller_create(mh_controller **out, const mh_controller_options *options);
/* Serve until told to stop. errors: SYSTEM; NO_MEMORY. threads: the one that created it. */
MH_API MH_NODISCARD mh_err mh_controller_run(mh_controller *c);
/* Ask mh_controller_run to return. threads: any; async-signal-safe. */
MH_API void mh_controller_stop(mh_controller *c);
/* Removes the connection files unless `reuse`. */
MH_API void mh_controller_destroy(mh_controller **c);

typedef struct mh_controller_stats {
    size_t engines, tasks_live, records, record_bytes, held_bytes;
    uint64_t messages, refused, replayed, dropped; /* received; badly signed or shaped; seen before; undeliverable */
    uint64_t late;                                 /* of those dropped: answers of attempts that were over */
} mh_controller_stats;
MH_API void mh_controller_stats_read(const mh_controller *c, mh_controller_stats *out);

#ifdef __cplusplus
}
#endif
#endif
