/* Rows in a file, by SQLite, with a write-ahead log. A transaction is written to the log when it is committed, so that it outlives this
 * process, and brought to the disk by `sync`, which another thread calls: a disk that takes its time holds up no commit.
 * The file is locked as long as it is open: nobody can come between, and a second controller is told. */
#include "cluster/store.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/fd.h"
#include "os/file.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

enum { PATH_SIZE = 600, LOCKED_MS = 5000, FORMAT = 1 };

enum statement { BEGIN, PUT, PUT_PIECE, DROP, DROP_PIECES, COMMIT, ROLLBACK, SCAN, PIECE, STATEMENTS };
static const char *const texts[STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [PUT] = "INSERT OR REPLACE INTO entry(id, body) VALUES(?1, ?2)",
    [PUT_PIECE] = "INSERT OR REPLACE INTO piece(id, number, crc, body) VALUES(?1, ?2, ?3, ?4)",
    [DROP] = "DELETE FROM entry WHERE id BETWEEN ?1 AND ?2",
    [DROP_PIECES] = "DELETE FROM piece WHERE id BETWEEN ?1 AND ?2",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [SCAN] = "SELECT id, body FROM entry ORDER BY id",
    [PIECE] = "SELECT crc, body FROM piece WHERE id = ?1 AND number = ?2",
};

typedef struct file {
    mh__store base;
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    int log; /* the write-ahead log, to sync */
    char path[PATH_SIZE];
} file;

/* ---- errors ---------------------------------------------------------------------------------- */

static mh_err failed(file *f, const char *what)
{
    int code = sqlite3_errcode(f->db), os = sqlite3_system_errno(f->db);
    mh_err err = MH_ERR_SYSTEM;
    switch (code & 255) {
    case SQLITE_FULL: err = MH_ERR_NO_SPACE; break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: err = MH_ERR_TIMEOUT; break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: err = MH_ERR_CORRUPT; break;
    case SQLITE_NOMEM: err = MH_ERR_NO_MEMORY; break;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN: err = MH_ERR_PERMISSION; break;
    case SQLITE_IOERR:
        if ((os == ENOSPC || os == EDQUOT || os == EFBIG) && sqlite3_extended_errcode(f->db) != SQLITE_IOERR_FSYNC)
            err = MH_ERR_NO_SPACE;
        break;
    default: break;
    }
    return mh__fail(err, "%s, %s: %s%s%s", f->path, what, sqlite3_errmsg(f->db), os ? ": " : "", os ? strerror(os) : "");
}

static mh_err run_text(file *f, const char *text)
{
    return sqlite3_exec(f->db, text, NULL, NULL, NULL) == SQLITE_OK ? MH_OK : failed(f, text);
}

/* Run a statement that is bound, and that gives no rows. */
static mh_err run(file *f, enum statement which)
{
    sqlite3_stmt *s = f->statements[which];
    int code = sqlite3_step(s);
    mh_err err = code == SQLITE_DONE ? MH_OK : failed(f, texts[which]);
    sqlite3_reset(s);
    return err;
}

/* ---- operations ------------------------------------------------------------------------------ */

static mh_err begin(mh__store *s) { return run((file *)s, BEGIN); }
static mh_err commit(mh__store *s) { return run((file *)s, COMMIT); }

static void rollback(mh__store *s)
{
    file *f = (file *)s;
    if (!sqlite3_get_autocommit(f->db)) /* some failures have rolled back already */
        (void)!run(f, ROLLBACK);
}

static mh_err put(mh__store *s, int64_t id, mh_bytes row)
{
    file *f = (file *)s;
    sqlite3_bind_int64(f->statements[PUT], 1, id);
    sqlite3_bind_blob64(f->statements[PUT], 2, row.data, row.size, SQLITE_STATIC);
    return run(f, PUT);
}

static mh_err put_piece(mh__store *s, int64_t id, int64_t piece, uint32_t crc, mh_bytes bytes)
{
    file *f = (file *)s;
    sqlite3_stmt *p = f->statements[PUT_PIECE];
    sqlite3_bind_int64(p, 1, id);
    sqlite3_bind_int64(p, 2, piece);
    sqlite3_bind_int64(p, 3, crc);
    sqlite3_bind_blob64(p, 4, bytes.data, bytes.size, SQLITE_STATIC);
    mh_err err = run(f, PUT_PIECE);
    sqlite3_clear_bindings(p);
    return err;
}

static mh_err drop(mh__store *s, int64_t first, int64_t last, bool has_pieces)
{
    file *f = (file *)s;
    mh_err err = MH_OK;
    for (int which = DROP; which <= (has_pieces ? DROP_PIECES : DROP) && !err; which++) {
        sqlite3_bind_int64(f->statements[which], 1, first);
        sqlite3_bind_int64(f->statements[which], 2, last);
        err = run(f, (enum statement)which);
    }
    return err;
}

static mh_err sync_log(mh__store *s) { return mh__os_file_sync(((file *)s)->log); }

static mh_err scan(mh__store *s, mh__row_fn fn, void *ctx)
{
    file *f = (file *)s;
    sqlite3_stmt *rows = f->statements[SCAN];
    mh_err err = MH_OK;
    int code = SQLITE_DONE;
    while (!err && (code = sqlite3_step(rows)) == SQLITE_ROW) {
        const void *body = sqlite3_column_blob(rows, 1);
        err = fn(sqlite3_column_int64(rows, 0), (mh_bytes){body, (size_t)sqlite3_column_bytes(rows, 1)}, ctx);
    }
    if (!err && code != SQLITE_DONE)
        err = failed(f, texts[SCAN]);
    sqlite3_reset(rows);
    return err;
}

static mh_err piece(mh__store *s, int64_t id, int64_t number, uint32_t *crc, mh_buf *append)
{
    file *f = (file *)s;
    sqlite3_stmt *p = f->statements[PIECE];
    sqlite3_bind_int64(p, 1, id);
    sqlite3_bind_int64(p, 2, number);
    int code = sqlite3_step(p);
    mh_err err = MH_OK;
    if (code == SQLITE_ROW) {
        const void *body = sqlite3_column_blob(p, 1);
        *crc = (uint32_t)sqlite3_column_int64(p, 0);
        err = mh_buf_append(append, (mh_bytes){body, (size_t)sqlite3_column_bytes(p, 1)});
    } else {
        err = code == SQLITE_DONE ? mh__fail(MH_ERR_NOT_FOUND, "%s: a piece of row %lld is missing", f->path, (long long)id)
                                  : failed(f, texts[PIECE]);
    }
    sqlite3_reset(p);
    return err;
}

static void close_file(mh__store *s)
{
    file *f = (file *)s;
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(f->statements[i]);
    sqlite3_close(f->db);
    mh__os_close(&f->log);
    mh__free(f);
}

static const mh__store_kind kind = {
    .begin = begin, .put = put, .put_piece = put_piece, .drop = drop, .commit = commit, .rollback = rollback, .sync = sync_log,
    .scan = scan, .piece = piece, .close = close_file,
};

/* ---- opening --------------------------------------------------------------------------------- */

static const char settings[] =
    "PRAGMA locking_mode=EXCLUSIVE;"
    "PRAGMA cell_size_check=ON;"
    "PRAGMA trusted_schema=OFF;"
    "PRAGMA temp_store=MEMORY;"
    "PRAGMA cache_size=-8000;"
    "PRAGMA journal_mode=WAL;"
    "PRAGMA synchronous=NORMAL;" /* the log is synced by us; what SQLite syncs besides is what keeps the file whole */
    "PRAGMA wal_autocheckpoint=4096;"
    "PRAGMA journal_size_limit=67108864;";
static const char tables[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS entry(id INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS piece(id INTEGER, number INTEGER, crc INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY(id, number));"
    "PRAGMA user_version=1;"
    "COMMIT;";

/* The first column of the first row. */
static mh_err ask(file *f, const char *text, char *answer, size_t capacity)
{
    sqlite3_stmt *s = NULL;
    mh_err err = MH_OK;
    if (sqlite3_prepare_v2(f->db, text, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        err = failed(f, text);
    else
        snprintf(answer, capacity, "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return err;
}

static mh_err check(file *f)
{
    char answer[200];
    mh_err err = ask(f, "PRAGMA user_version", answer, sizeof answer);
    if (!err && strcmp(answer, "0") != 0 && strcmp(answer, "1") != 0)
        return mh__fail(MH_ERR_UNSUPPORTED, "%s was written by a newer version of this program (format %s)", f->path, answer);
    if (!err)
        err = ask(f, "PRAGMA quick_check(1)", answer, sizeof answer);
    if (!err && strcmp(answer, "ok") != 0)
        err = mh__fail(MH_ERR_CORRUPT, "%s: %s", f->path, answer);
    return err;
}

/* What large tasks once took and nothing needs any more. */
static mh_err shrink(file *f)
{
    char pages[32], unused[32];
    mh_err err = ask(f, "PRAGMA page_count", pages, sizeof pages);
    if (!err)
        err = ask(f, "PRAGMA freelist_count", unused, sizeof unused);
    long long all = 0, empty = 0;
    if (!err && sscanf(pages, "%lld", &all) == 1 && sscanf(unused, "%lld", &empty) == 1 && empty > 16384 && empty > all / 2)
        err = run_text(f, "VACUUM");
    return err;
}

static mh_err prepare(file *f)
{
    char log[PATH_SIZE + 8];
    mh_err err = run_text(f, settings);
    if (!err)
        err = check(f);
    if (!err)
        err = shrink(f);
    if (!err)
        err = run_text(f, tables); /* writes, so that the log is there */
    for (int i = 0; i < STATEMENTS && !err; i++)
        if (sqlite3_prepare_v3(f->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT, &f->statements[i], NULL) != SQLITE_OK)
            err = failed(f, texts[i]);
    snprintf(log, sizeof log, "%s-wal", f->path);
    return err ? err : mh__os_file_open_to_sync(&f->log, log);
}

mh_err mh__sqlite_open(mh__store **out, const char *path)
{
    bool is_new;
    *out = NULL;
    file *f = mh__calloc(1, sizeof *f);
    if (!f)
        return MH_ERR_NO_MEMORY;
    f->base.kind = &kind;
    f->log = -1;
    mh_err err = MH_OK;
    if (snprintf(f->path, sizeof f->path, "%s", path) >= (int)sizeof f->path)
        err = mh__fail(MH_ERR_INVALID, "the path of the database is too long");
    if (!err)
        err = mh__os_file_claim_private(path, &is_new);
    if (!err && sqlite3_open_v2(path, &f->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW, NULL) != SQLITE_OK)
        err = f->db ? failed(f, "opening") : MH_ERR_NO_MEMORY;
    if (!err) {
        sqlite3_busy_timeout(f->db, LOCKED_MS);
        err = prepare(f);
    }
    if (!err)
        sqlite3_busy_timeout(f->db, 0);
    if (err == MH_ERR_TIMEOUT)
        err = mh__fail(MH_ERR_TIMEOUT, "%s is in use by another program; is a controller running already?", path);
    if (err) {
        close_file(&f->base);
        return err;
    }
    *out = &f->base;
    return MH_OK;
}
