#include "cluster/ask.h"

#include "base/error.h"
#include "base/memory.h"
#include "net/sign.h"
#include "net/socket.h"
#include "os/clock.h"
#include "os/file.h"
#include "wire/connection.h"

#include <stdio.h>
#include <string.h>

enum { URL_SIZE = 320 };

struct mh__asker {
    mh__connection connection;
    mh__curve_pair curve;
    mh__sign_key *key;
    mh__session session;
    mh__loop *loop;
    mh__socket *socket;
    char asked[MH__WIRE_ID_MAX + 1]; /* the id of the question that waits */
    mh_buf *answer;                  /* NULL: not yet */
    mh_err failure;
};

static void on_answer(mh__socket *s, mh__parcel *p, void *ctx)
{
    mh__asker *a = ctx;
    mh__message m;
    mh_bytes parent;
    mh__json checked;
    (void)s;
    if (a->answer || mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &m) || mh__message_verify(&m, &a->session.signer) ||
        mh__parent_read(m.parent, &parent) || !mh__bytes_are(parent, a->asked) || mh__json_check(m.content, &checked))
        return;
    a->failure = mh_buf_copy(&a->answer, m.content);
}

static mh_err read_file(mh__asker *a, const char *path)
{
    mh_buf *file = NULL;
    mh_err err = mh__os_file_read_private(&file, path, MH__CONNECTION_FILE_MAX);
    if (err)
        return err;
    err = mh__connection_read((mh_bytes){mh_buf_data(file), mh_buf_size(file)}, &a->connection);
    if (!err && a->connection.is_engine)
        err = mh__fail(MH_ERR_INVALID, "%s is for engines: a client needs the one that ends in -client.json", path);
    if (!err) {
        char host[256];
        mh__os_host_name(host, sizeof host);
        err = mh__connection_find_host(&a->connection, host);
    }
    mh__secret_clear(mh_buf_data(file), mh_buf_size(file));
    mh_buf_destroy(&file);
    return err;
}

static mh_err make_keys(mh__asker *a)
{
    char secret[MH__SECRET_SIZE];
    mh_err err = mh__secret_create(secret);
    if (!err)
        snprintf(a->session.id, sizeof a->session.id, "%.32s", secret);
    snprintf(a->session.username, sizeof a->session.username, "manyhands");
    if (!err && a->connection.key[0])
        err = mh__sign_key_create(&a->key, mh__text(a->connection.key));
    a->session.signer = mh__sign_key_signer(a->key);
    if (!err && a->connection.curve_serverkey[0])
        err = mh__curve_pair_create(&a->curve);
    return err;
}

static mh_err connect_to(mh__asker *a)
{
    char url[URL_SIZE];
    bool is_curve = a->connection.curve_serverkey[0];
    mh_err err = mh__connection_url(&a->connection, a->connection.registration, url, sizeof url);
    if (!err)
        err = mh__loop_create(&a->loop);
    if (!err)
        err = mh__socket_open(&a->socket, a->loop, &(mh__socket_options){
            .kind = MH__DEALER,
            .linger_ms = -1,
            .curve_server = is_curve ? a->connection.curve_serverkey : NULL,
            .curve_public = is_curve ? a->curve.public_key : NULL,
            .curve_own_secret = is_curve ? a->curve.secret_key : NULL,
            .on_message = on_answer,
            .ctx = a,
        });
    return err ? err : mh__socket_connect(a->socket, url);
}

mh_err mh__asker_open(mh__asker **out, const char *connection_file)
{
    *out = NULL;
    mh__asker *a = mh__calloc(1, sizeof *a);
    if (!a)
        return MH_ERR_NO_MEMORY;
    mh_err err = read_file(a, connection_file);
    if (!err)
        err = make_keys(a);
    if (!err)
        err = connect_to(a);
    if (err) {
        mh__asker_close(&a);
        return err;
    }
    *out = a;
    return MH_OK;
}

void mh__asker_close(mh__asker **a)
{
    mh__asker *gone = *a;
    if (!gone)
        return;
    mh__socket_close(&gone->socket);
    mh__loop_destroy(&gone->loop);
    mh__sign_key_destroy(&gone->key);
    mh_buf_destroy(&gone->answer);
    mh__secret_clear(gone, sizeof *gone);
    mh__free(gone);
    *a = NULL;
}

static mh_err send_question(mh__asker *a, const char *type, mh_bytes content)
{
    mh__parcel *p = NULL;
    mh__built built;
    mh_err err = mh__parcel_create(&p);
    if (!err)
        err = mh__session_build(&a->session, &(mh__draft){.type = type, .content = content, .unix_ns = mh__os_wall_ns()}, &built);
    if (!err)
        snprintf(a->asked, sizeof a->asked, "%.*s", (int)built.msg_id.size, (const char *)built.msg_id.data);
    for (size_t i = 0; !err && i < MH__FRAMES_SIGNED; i++)
        err = mh__parcel_add(p, built.frames[i]);
    if (!err)
        err = mh__socket_send(a->socket, p);
    mh__parcel_destroy(&p);
    return err;
}

mh_err mh__ask(mh__asker *a, const char *type, mh_bytes content, mh_deadline until, mh_buf **reply)
{
    *reply = NULL;
    mh_buf_destroy(&a->answer);
    a->failure = MH_OK;
    mh_err err = send_question(a, type, content);
    while (!err && !a->answer && !(err = a->failure)) {
        err = mh__loop_wait(a->loop, until);
        mh__loop_dispatch(a->loop);
    }
    if (a->answer) {
        *reply = a->answer;
        a->answer = NULL;
        return MH_OK;
    }
    return err == MH_ERR_TIMEOUT ? mh__fail(err, "the controller at %s, port %u, does not answer", a->connection.interface_, a->connection.registration) : err;
}
