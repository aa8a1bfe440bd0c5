/* Where rows are kept: one interface, a file (SQLite) or a server (PostgreSQL) behind it. A row is a key and bytes; a piece of a large
 * frame has a key of two numbers. Everything may be done twice, so that a transaction of which the end is not known is done again.
 *
 * threads: one at a time, but for `sync`, which another may call meanwhile.
 *
 * errors of each:  NO_SPACE  the disk is full
 *                  TIMEOUT   somebody else has it locked, or the server can't be reached: try again
 *                  CORRUPT   what was read, or the file, is not valid
 *                  SYSTEM, PERMISSION, NO_MEMORY: it won't get better
 */
#ifndef MH_CLUSTER_STORE_H
#define MH_CLUSTER_STORE_H

#include "manyhands/base.h"

typedef struct mh__store mh__store;
typedef mh_err (*mh__row_fn)(int64_t id, mh_bytes row, void *ctx);

typedef struct mh__store_kind {
    mh_err (*begin)(mh__store *s);
    mh_err (*put)(mh__store *s, int64_t id, mh_bytes row); /* replaces what is there */
    mh_err (*put_piece)(mh__store *s, int64_t id, int64_t piece, uint32_t crc, mh_bytes bytes);
    mh_err (*drop)(mh__store *s, int64_t first, int64_t last, bool has_pieces);
    mh_err (*commit)(mh__store *s); /* from now on it outlives this process */
    void (*rollback)(mh__store *s);
    mh_err (*sync)(mh__store *s);   /* what is committed outlives the machine's power; NULL: commit sees to that */
    mh_err (*scan)(mh__store *s, mh__row_fn fn, void *ctx); /* all rows by key; ends with fn's error */
    mh_err (*piece)(mh__store *s, int64_t id, int64_t piece, uint32_t *crc, mh_buf *append); /* NOT_FOUND too */
    void (*close)(mh__store *s);
} mh__store_kind;

struct mh__store {
    const mh__store_kind *kind;
};

/* The file at this path, made with mode 0600 where there is none. errors besides: PERMISSION it is a link or somebody else's. */
MH_NODISCARD mh_err mh__sqlite_open(mh__store **out, const char *path);
/* A database by its URL, in which `schema` is made where it is missing. errors besides: INVALID the URL holds a password. */
MH_NODISCARD mh_err mh__postgres_open(mh__store **out, const char *url, const char *schema);

static inline void mh__store_close(mh__store **s)
{
    if (*s)
        (*s)->kind->close(*s);
    *s = NULL;
}

#endif
