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
