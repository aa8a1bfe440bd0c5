/* Messages of the controller's own. */
#include "cluster/controller_state.h"

#include "os/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void mh__reply_send(mh_controller *c, mh__channel channel, const mh_bytes *idents, size_t ident_count, const mh__draft *draft)
{
    mh__draft d = *draft;
    mh_err err = MH_OK;
    mh__parcel_clear(c->out);
    if (!d.unix_ns)
        d.unix_ns = mh__os_wall_ns();
    err = mh__session_build(&c->session, &d, &c->built);
    for (size_t i = 0; i < ident_count && !err; i++)
        err = mh__parcel_add(c->out, idents[i]);
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(c->out, c->built.frames[i]);
    if (err) {
        mh__log(c, MH_LOG_ERROR, "a %s could not be written: %s", d.type, mh_err_detail());
        mh__parcel_clear(c->out);
        return;
    }
    if (channel == MH__CH_QUERY)
        mh__durable_send(c, channel, c->out); /* what a query finds, or did, is written first */
    else
        mh__outbox_send(c, channel, c->out);
}

mh_bytes mh__reply_error(mh_controller *c, const char *ename, mh_bytes evalue)
{
    char line[512];
    (void)!mh_buf_resize(c->text, 0); /* shrinking can't fail */
    mh__json_out o = mh__json_into(c->text);
    snprintf(line, sizeof line, "%s: %.*s", ename, (int)(evalue.size < 400 ? evalue.size : 400), (const char *)evalue.data);
    mh__json_open(&o, '{');
    mh__json_key(&o, "status");
    mh__json_add_string(&o, "error");
    mh__json_key(&o, "ename");
    mh__json_add_string(&o, ename);
    mh__json_key(&o, "evalue");
    mh__json_add_bytes(&o, evalue);
    mh__json_key(&o, "traceback");
    mh__json_open(&o, '[');
    mh__json_add_string(&o, line);
    mh__json_close(&o, ']');
    mh__json_key(&o, "engine_info");
    mh__json_open(&o, '{');
    mh__json_close(&o, '}');
    mh__json_close(&o, '}');
    if (mh__json_finish(&o))
        return MH__TEXT("{\"status\":\"error\",\"ename\":\"MemoryError\",\"evalue\":\"\",\"traceback\":[],\"engine_info\":{}}");
    return (mh_bytes){mh_buf_data(c->text), mh_buf_size(c->text)};
}

mh_bytes mh__reply_errorf(mh_controller *c, const char *ename, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return mh__reply_error(c, ename, mh__text(text));
}

/* A stock engine takes a message that it has seen before for a replay. With one more member in its header it is another message about
 * the same request, and its answer names the same one. */
mh_err mh__reply_add_again(mh_controller *c, const mh__kept *k, const char *token)
{
    mh_bytes header = mh__kept_header(k);
    const char *end = memrchr(header.data, '}', header.size);
    if (!c->session.signer.digest || !end)
        return mh__parcel_share(c->out, k->parcel, k->at, mh__parcel_count(k->parcel) - k->at);
    (void)!mh_buf_resize(c->text, 0);
    mh_err err = mh_buf_append(c->text, (mh_bytes){header.data, (size_t)(end - (const char *)header.data)});
    if (!err)
        err = mh_buf_append(c->text, MH__TEXT(",\"x_attempt\":\""));
    if (!err)
        err = mh_buf_append(c->text, mh__text(token));
    if (!err)
        err = mh_buf_append(c->text, MH__TEXT("\"}"));
    if (err)
        return err;
    mh__session_sign(&c->session, (mh_bytes){mh_buf_data(c->text), mh_buf_size(c->text)}, mh__kept_parent(k), mh__kept_metadata(k),
                     mh__kept_content(k), &c->built);
    for (size_t i = 0; i < MH__FRAMES_SIGNED && !err; i++)
        err = mh__parcel_add(c->out, c->built.frames[i]);
    return err ? err : mh__parcel_share(c->out, k->parcel, k->at + MH__FRAMES_SIGNED, mh__kept_buffer_count(k));
}
