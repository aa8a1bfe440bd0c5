/* Rows in a PostgreSQL database. A transaction goes out as one pipeline, so that it costs a round trip or two, however many rows it has.
 * Commit waits for the server's disk. A connection that is lost is made again, and a transaction of which the end is not known is done
 * again: everything in it may be done twice. The password comes from where libpq looks: PGPASSWORD, a password file, a service file. */
#include "cluster/store.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>

enum {
    IN_PIPELINE = 200, /* statements that are sent before answers are read: neither side's buffers may fill up */
    FETCH = 100,
};

typedef struct server {
    mh__store base;
    PGconn *db;
    char *url, *schema; /* schema: quoted */
    size_t sent;
    bool is_lost; /* the connection, or what it was told */
} server;

static const struct {
    const char *name, *text;
} statements[] = {
    {"put", "INSERT INTO entry(id, body) VALUES($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body"},
    {"put_piece", "INSERT INTO piece(id, number, crc, body) VALUES($1, $2, $3, $4) ON CONFLICT (id, number) DO UPDATE "
                  "SET crc = excluded.crc, body = excluded.body"},
    {"drop", "DELETE FROM entry WHERE id BETWEEN $1 AND $2"},
    {"drop_pieces", "DELETE FROM piece WHERE id BETWEEN $1 AND $2"},
    {"piece", "SELECT crc, body FROM piece WHERE id = $1 AND number = $2"},
};

/* ---- errors ---------------------------------------------------------------------------------- */

/* The first line of what the server or the library says; it never holds a password. */
static mh_err fail_with(mh_err err, const char *text) { return mh__fail(err, "PostgreSQL: %.*s", (int)strcspn(text, "\n"), text); }

static mh_err lost(server *s)
{
    s->is_lost = true;
    return fail_with(MH_ERR_TIMEOUT, PQerrorMessage(s->db));
}

static mh_err failed(server *s, const PGresult *r)
{
    const char *code = r ? PQresultErrorField(r, PG_DIAG_SQLSTATE) : NULL;
    if (!code || PQstatus(s->db) != CONNECTION_OK)
        return lost(s);
    if (!strcmp(code, "53100"))
        return fail_with(MH_ERR_NO_SPACE, PQresultErrorMessage(r));
    if (!strncmp(code, "08", 2) || !strncmp(code, "53", 2) || !strncmp(code, "57P", 3) || !strncmp(code, "40", 2) || !strcmp(code, "55P03")) {
        s->is_lost = !strncmp(code, "08", 2) || !strncmp(code, "57P", 3);
        return fail_with(MH_ERR_TIMEOUT, PQresultErrorMessage(r)); /* away, overloaded, ending, or in a conflict */
    }
    return fail_with(!strncmp(code, "XX0", 3) ? MH_ERR_CORRUPT : !strcmp(code, "42501") ? MH_ERR_PERMISSION : MH_ERR_SYSTEM,
                     PQresultErrorMessage(r));
}

/* Run one statement outside of a pipeline. out NULL: what it gives is not wanted. */
static mh_err run(server *s, const char *text, PGresult **out)
{
    PGresult *r = PQexecParams(s->db, text, 0, NULL, NULL, NULL, NULL, 1);
    ExecStatusType status = PQresultStatus(r);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        mh_err err = failed(s, r);
        PQclear(r);
        return err;
    }
    if (out)
        *out = r;
    else
        PQclear(r);
    return MH_OK;
}

/* ---- connecting ------------------------------------------------------------------------------ */

static mh_err take_lock(server *s)
{
    const char *values[] = {s->schema};
    PGresult *r = PQexecParams(s->db, "SELECT pg_try_advisory_lock(hashtextextended(current_database() || '/' || $1, 0))", 1, NULL, values, NULL, NULL, 0);
    mh_err err = PQresultStatus(r) == PGRES_TUPLES_OK ? MH_OK : failed(s, r);
    if (!err && strcmp(PQgetvalue(r, 0, 0), "t") != 0)
        err = mh__fail(MH_ERR_SYSTEM, "PostgreSQL: schema %s is in use by another controller", s->schema);
    PQclear(r);
    return err;
}

static mh_err prepare(server *s)
{
    char text[400];
    mh_err err = run(s, "SET client_min_messages = error", NULL);
    if (!err)
        err = take_lock(s);
    snprintf(text, sizeof text, "CREATE SCHEMA IF NOT EXISTS %s", s->schema);
    if (!err)
        err = run(s, text, NULL);
    snprintf(text, sizeof text, "SET search_path = %s", s->schema);
    if (!err)
        err = run(s, text, NULL);
    if (!err)
        err = run(s, "CREATE TABLE IF NOT EXISTS entry(id bigint PRIMARY KEY, body bytea NOT NULL)", NULL);
    if (!err)
        err = run(s, "CREATE TABLE IF NOT EXISTS piece(id bigint, number bigint, crc bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY(id, number))", NULL);
    for (size_t i = 0; i < MH__COUNT_OF(statements) && !err; i++) {
        PGresult *r = PQprepare(s->db, statements[i].name, statements[i].text, 0, NULL);
        err = PQresultStatus(r) == PGRES_COMMAND_OK ? MH_OK : failed(s, r);
        PQclear(r);
    }
    return err;
}

static mh_err connect_to(server *s)
{
    const char *const names[] = {"dbname", "connect_timeout", "application_name", "keepalives_idle", NULL};
    const char *const values[] = {s->url, "5", "manyhands controller", "10", NULL};
    PQfinish(s->db);
    s->db = PQconnectdbParams(names, values, 1);
    if (!s->db)
        return MH_ERR_NO_MEMORY;
    s->is_lost = false;
    return PQstatus(s->db) == CONNECTION_OK ? prepare(s) : lost(s);
}

/* ---- pipelines ------------------------------------------------------------------------------- */

/* Read what the server says to everything that was sent; the first failure counts. */
static mh_err settle(server *s)
{
    mh_err err = PQpipelineSync(s->db) ? MH_OK : lost(s);
    int nothing = 0;
    for (bool is_over = err != MH_OK; !is_over;) {
        PGresult *r = PQgetResult(s->db);
        nothing = r ? 0 : nothing + 1;
        ExecStatusType status = r ? PQresultStatus(r) : PGRES_COMMAND_OK;
        is_over = status == PGRES_PIPELINE_SYNC || nothing > 1 || PQstatus(s->db) != CONNECTION_OK;
        if (!err && (status == PGRES_FATAL_ERROR || PQstatus(s->db) != CONNECTION_OK))
            err = failed(s, r);
        PQclear(r);
    }
    s->sent = 0;
    return err;
}

static mh_err send_prepared(server *s, const char *name, int count, const char *const *values, const int *sizes)
{
    static const int binary[] = {1, 1, 1, 1};
    if (!PQsendQueryPrepared(s->db, name, count, values, sizes, binary, 0))
        return lost(s);
    return ++s->sent < IN_PIPELINE ? MH_OK : settle(s);
}

static void put64(int64_t value, char out[8])
{
    for (int i = 0; i < 8; i++)
        out[i] = (char)((uint64_t)value >> (56 - 8 * i));
}

static int64_t get64(const char *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | (uint8_t)at[i];
    return (int64_t)value;
}

static mh_err begin(mh__store *base)
{
    server *s = (server *)base;
    mh_err err = s->is_lost || PQstatus(s->db) != CONNECTION_OK ? connect_to(s) : MH_OK;
    if (!err && !PQenterPipelineMode(s->db))
        err = lost(s);
    if (!err && !PQsendQueryParams(s->db, "BEGIN", 0, NULL, NULL, NULL, NULL, 0))
        err = lost(s);
    return err;
}

static mh_err commit(mh__store *base)
{
    server *s = (server *)base;
    mh_err err = settle(s);
    if (!err && !PQsendQueryParams(s->db, "COMMIT", 0, NULL, NULL, NULL, NULL, 0))
        err = lost(s);
    if (!err)
        err = settle(s);
    if (!err)
        PQexitPipelineMode(s->db);
    return err;
}

/* The connection knows best what is left to undo: a new one has nothing. */
static void rollback(mh__store *base) { ((server *)base)->is_lost = true; }

static mh_err put(mh__store *base, int64_t id, mh_bytes row)
{
    char key[8];
    const char *values[] = {key, row.data};
    const int sizes[] = {8, (int)row.size};
    put64(id, key);
    return send_prepared((server *)base, "put", 2, values, sizes);
}

static mh_err put_piece(mh__store *base, int64_t id, int64_t piece, uint32_t crc, mh_bytes bytes)
{
    char keys[3][8];
    const char *values[] = {keys[0], keys[1], keys[2], bytes.data};
    const int sizes[] = {8, 8, 8, (int)bytes.size};
    put64(id, keys[0]);
    put64(piece, keys[1]);
    put64(crc, keys[2]);
    return send_prepared((server *)base, "put_piece", 4, values, sizes);
}

static mh_err drop(mh__store *base, int64_t first, int64_t last, bool has_pieces)
{
    char keys[2][8];
    const char *values[] = {keys[0], keys[1]};
    const int sizes[] = {8, 8};
    put64(first, keys[0]);
    put64(last, keys[1]);
    mh_err err = send_prepared((server *)base, "drop", 2, values, sizes);
    return err || !has_pieces ? err : send_prepared((server *)base, "drop_pieces", 2, values, sizes);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* In portions, so that pieces can be asked for between them. */
static mh_err scan(mh__store *base, mh__row_fn fn, void *ctx)
{
    server *s = (server *)base;
    char text[80];
    mh_err err = run(s, "BEGIN", NULL);
    if (!err)
        err = run(s, "DECLARE everything CURSOR FOR SELECT id, body FROM entry ORDER BY id", NULL);
    snprintf(text, sizeof text, "FETCH %d FROM everything", FETCH);
    for (int count = FETCH; !err && count == FETCH;) {
        PGresult *r = NULL;
        err = run(s, text, &r);
        count = r ? PQntuples(r) : 0;
        for (int i = 0; i < count && !err; i++) {
            mh_bytes row = {PQgetvalue(r, i, 1), (size_t)PQgetlength(r, i, 1)};
            err = PQgetlength(r, i, 0) == 8 ? fn(get64(PQgetvalue(r, i, 0)), row, ctx) : mh__fail(MH_ERR_CORRUPT, "PostgreSQL: a key is no number");
        }
        PQclear(r);
    }
    mh_err end = run(s, "ROLLBACK", NULL);
    return err ? err : end;
}

static mh_err piece(mh__store *base, int64_t id, int64_t number, uint32_t *crc, mh_buf *append)
{
    server *s = (server *)base;
    char keys[2][8];
    const char *values[] = {keys[0], keys[1]};
    const int sizes[] = {8, 8}, binary[] = {1, 1};
    put64(id, keys[0]);
    put64(number, keys[1]);
    PGresult *r = PQexecPrepared(s->db, "piece", 2, values, sizes, binary, 1);
    mh_err err = PQresultStatus(r) == PGRES_TUPLES_OK ? MH_OK : failed(s, r);
    if (!err && PQntuples(r) != 1)
        err = mh__fail(MH_ERR_NOT_FOUND, "PostgreSQL: a piece of row %lld is missing", (long long)id);
    if (!err) {
        *crc = (uint32_t)get64(PQgetvalue(r, 0, 0));
        err = mh_buf_append(append, (mh_bytes){PQgetvalue(r, 0, 1), (size_t)PQgetlength(r, 0, 1)});
    }
    PQclear(r);
    return err;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void close_server(mh__store *base)
{
    server *s = (server *)base;
    PQfinish(s->db);
    mh__free(s->url);
    mh__free(s->schema);
    mh__free(s);
}

static const mh__store_kind kind = {
    .begin = begin, .put = put, .put_piece = put_piece, .drop = drop, .commit = commit, .rollback = rollback,
    .scan = scan, .piece = piece, .close = close_server,
};

/* A password on a command line is read by everybody on the machine. */
static mh_err check_url(const char *url)
{
    char *why = NULL;
    PQconninfoOption *all = PQconninfoParse(url, &why);
    mh_err err = all ? MH_OK : mh__fail(MH_ERR_INVALID, "the database's URL: %.*s", why ? (int)strcspn(why, "\n") : 0, why ? why : "");
    for (PQconninfoOption *o = all; o && o->keyword && !err; o++)
        if (!strcmp(o->keyword, "password") && o->val && *o->val)
            err = mh__fail(MH_ERR_INVALID, "the database's URL holds a password: give it as PGPASSWORD, in ~/.pgpass or in a service file");
    PQconninfoFree(all);
    PQfreemem(why);
    return err;
}

/* A name for SQL: in quotes, and every quote in it doubled. */
static char *quote(const char *name)
{
    char text[260], *to = text;
    *to++ = '"';
    for (; *name && to < text + sizeof text - 4; name++) {
        if (*name == '"')
            *to++ = '"';
        *to++ = *name;
    }
    *to++ = '"';
    *to = 0;
    return mh__strdup(text);
}

mh_err mh__postgres_open(mh__store **out, const char *url, const char *schema)
{
    *out = NULL;
    mh_err err = check_url(url);
    if (err)
        return err;
    server *s = mh__calloc(1, sizeof *s);
    if (!s)
        return MH_ERR_NO_MEMORY;
    s->base.kind = &kind;
    s->url = mh__strdup(url);
    s->schema = quote(schema);
    err = s->url && s->schema ? connect_to(s) : MH_ERR_NO_MEMORY;
    if (err) {
        close_server(&s->base);
        return err;
    }
    *out = &s->base;
    return MH_OK;
}
