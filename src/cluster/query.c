/* Which records a query means: an object of field names, each with a value or with Mongo's operators. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/number.h"

#include <math.h>
#include <string.h>

/* ---- fields of a record ---------------------------------------------------------------------- */

/* A frame as JSON; absent when it is not there or not valid. */
static mh__json checked(mh_bytes frame)
{
    mh__json v = {0};
    if (!frame.data || mh__json_check(frame, &v))
        return (mh__json){0};
    return v;
}

static mh_err add_text(mh_buf *scratch, mh_bytes text, mh__json *out)
{
    (void)!mh_buf_resize(scratch, 0);
    mh__json_out o = mh__json_into(scratch);
    mh__json_add_bytes(&o, text);
    *out = (mh__json){mh_buf_data(scratch), mh_buf_size(scratch)};
    return mh__json_finish(&o);
}

static mh_bytes of_buf(mh_buf *b) { return b ? (mh_bytes){mh_buf_data(b), mh_buf_size(b)} : (mh_bytes){NULL, 0}; }

static mh_err output_field(const mh__job *r, const char *name, mh_buf *scratch, mh__json *out, bool *found)
{
    const mh__output *o = r->output;
    *found = true;
    if (!strcmp(name, "stdout"))
        return add_text(scratch, o && o->stdout_ ? of_buf(o->stdout_) : MH__TEXT(""), out);
    if (!strcmp(name, "stderr"))
        return add_text(scratch, o && o->stderr_ ? of_buf(o->stderr_) : MH__TEXT(""), out);
    mh_buf *raw = NULL;
    if (!strcmp(name, "execute_input"))
        raw = o ? o->execute_input : NULL;
    else if (!strcmp(name, "execute_result"))
        raw = o ? o->execute_result : NULL;
    else if (!strcmp(name, "display_data"))
        raw = o ? o->display_data : NULL;
    else if (!strcmp(name, "error"))
        raw = o ? o->error : NULL;
    else
        *found = false;
    *out = (mh__json){of_buf(raw).data, of_buf(raw).size};
    return MH_OK;
}

mh_err mh__query_field(mh_controller *c, mh__job *r, const char *name, mh_buf *scratch, mh__json *out)
{
    (void)c;
    static const struct {
        const char *name, *member; /* member NULL: the frame itself */
        mh_bytes (*frame)(const mh__kept *k);
        bool of_result;
    } frames[] = {
        {"header", NULL, mh__kept_header, false},
        {"metadata", NULL, mh__kept_metadata, false},
        {"content", NULL, mh__kept_content, false},
        {"result_header", NULL, mh__kept_header, true},
        {"result_metadata", NULL, mh__kept_metadata, true},
        {"result_content", NULL, mh__kept_content, true},
        {"submitted", "date", mh__kept_header, false},
        {"client_uuid", "session", mh__kept_header, false},
        {"started", "started", mh__kept_metadata, true},
        {"completed", "date", mh__kept_header, true},
        {"label", "label", mh__kept_metadata, false},
    };
    bool found;
    *out = (mh__json){0};
    for (size_t i = 0; i < MH__COUNT_OF(frames); i++) {
        if (strcmp(frames[i].name, name) != 0)
            continue;
        if (!mh__job_see(c, r))
            return MH_ERR_NO_MEMORY;
        mh__json frame = !frames[i].of_result || r->is_ended ? checked(frames[i].frame(frames[i].of_result ? &r->result : &r->request))
                                                             : (mh__json){0};
        *out = frames[i].member ? mh__json_get(frame, frames[i].member) : frame;
        return MH_OK;
    }
    if (!strcmp(name, "msg_id"))
        return add_text(scratch, r->name.key, out);
    if (!strcmp(name, "engine_uuid"))
        return *r->engine_uuid ? add_text(scratch, mh__text(r->engine_uuid), out) : MH_OK;
    if (!strcmp(name, "resubmitted"))
        return r->resubmitted ? add_text(scratch, mh__text(r->resubmitted), out) : MH_OK;
    if (!strcmp(name, "queue"))
        return add_text(scratch, mh__text(r->is_task ? "task" : "mux"), out);
    if (!strcmp(name, "received")) {
        char date[MH__DATE_SIZE];
        if (!r->is_ended)
            return MH_OK;
        mh__date_write(r->received_ns, date);
        return add_text(scratch, mh__text(date), out);
    }
    mh_err err = output_field(r, name, scratch, out, &found);
    return found ? err : mh__fail(MH_ERR_NOT_FOUND, "records have no field '%s'", name);
}

/* ---- comparing ------------------------------------------------------------------------------- */

static bool as_date(mh__json v, int64_t *ns)
{
    mh_bytes text;
    return mh__json_plain(v, &text) && text.size >= 19 && mh__date_read(text, ns) == MH_OK;
}

/* -1, 0 or 1; 2 where the two can't be ordered. */
static int order(mh__json a, mh__json b)
{
    int64_t s, t;
    double x, y;
    if (as_date(a, &s) && as_date(b, &t))
        return (s > t) - (s < t);
    if (mh__json_kind_of(a) == MH__JSON_STRING && mh__json_kind_of(b) == MH__JSON_STRING) {
        int n = mh__json_compare_strings(a, b);
        return (n > 0) - (n < 0);
    }
    if (mh__json_int(a, &s) && mh__json_int(b, &t))
        return (s > t) - (s < t);
    if (mh__json_double(a, &x) && mh__json_double(b, &y))
        return (x > y) - (x < y);
    return 2;
}

static bool is_null(mh__json v) { return mh__json_kind_of(v) <= MH__JSON_NULL; }

static bool equal(mh__json a, mh__json b)
{
    int64_t s, t;
    if (is_null(a) || is_null(b))
        return is_null(a) && is_null(b);
    if (as_date(a, &s) && as_date(b, &t))
        return s == t;
    return mh__json_equal(a, b);
}

static bool is_in(mh__json value, mh__json list)
{
    mh__json_walk w = mh__json_walk_of(list);
    for (mh__json key, item; mh__json_next(&w, &key, &item);)
        if (equal(value, w.is_object ? key : item))
            return true;
    return false;
}

/* [seq] and [!seq] at p, which stands behind the bracket; *p moves behind its end. false: there is no end, so '[' means itself. */
static bool match_set(const char **p, const char *end, char ch, bool *match)
{
    const char *q = *p;
    bool negated = q < end && *q == '!', any = false;
    q += negated;
    const char *first = q;
    for (; q < end && (*q != ']' || q == first); q++) {
        if (q + 2 < end && q[1] == '-' && q[2] != ']') {
            any |= ch >= q[0] && ch <= q[2];
            q += 2;
        } else {
            any |= ch == *q;
        }
    }
    if (q >= end)
        return false;
    *p = q + 1;
    *match = any != negated;
    return true;
}

/* Shell patterns, going back only to the last star: the time is bounded by the product of the lengths. */
static bool glob(const char *p, const char *p_end, const char *t, const char *t_end)
{
    const char *star = NULL, *retry = NULL;
    while (t < t_end) {
        bool ok = false;
        const char *next = p;
        if (p < p_end && *p == '*') {
            star = ++p;
            retry = t;
            continue;
        }
        if (p < p_end) {
            next = p + 1;
            if (*p == '?')
                ok = true;
            else if (*p != '[' || !match_set(&next, p_end, *t, &ok))
                ok = *p == *t;
        }
        if (ok) {
            p = next;
            t++;
        } else if (star) {
            p = star;
            t = ++retry;
        } else {
            return false;
        }
    }
    while (p < p_end && *p == '*')
        p++;
    return p == p_end;
}

static bool match_glob(mh__json value, mh__json pattern)
{
    mh_bytes v, p;
    if (!mh__json_plain(value, &v) || !mh__json_plain(pattern, &p))
        return false;
    return glob(p.data, (const char *)p.data + p.size, v.data, (const char *)v.data + v.size);
}

static bool match_mod(mh__json value, mh__json arguments)
{
    mh__json_walk w = mh__json_walk_of(arguments);
    mh__json key, divisor, rest;
    int64_t v, d, r;
    if (!mh__json_next(&w, &key, &divisor) || !mh__json_next(&w, &key, &rest) || !mh__json_int(value, &v) ||
        !mh__json_int(divisor, &d) || !mh__json_int(rest, &r) || d == 0 || d == -1)
        return false;
    int64_t left = v % d;
    return (left && (left < 0) != (d < 0) ? left + d : left) == r; /* as Python's: of the divisor's sign */
}

static bool match_all(mh__json value, mh__json list)
{
    mh__json_walk w = mh__json_walk_of(list);
    for (mh__json key, item; mh__json_next(&w, &key, &item);)
        if (!is_in(item, value))
            return false;
    return true;
}

static mh_err match_operator(mh__json op, mh__json value, mh__json argument, bool *match)
{
    int n = order(value, argument);
    bool wanted = false;
    if (mh__json_is(op, "$eq"))
        *match = equal(value, argument);
    else if (mh__json_is(op, "$ne"))
        *match = !equal(value, argument);
    else if (mh__json_is(op, "$lt"))
        *match = n == -1;
    else if (mh__json_is(op, "$lte"))
        *match = n == -1 || n == 0;
    else if (mh__json_is(op, "$gt"))
        *match = n == 1;
    else if (mh__json_is(op, "$gte"))
        *match = n == 0 || n == 1;
    else if (mh__json_is(op, "$in"))
        *match = is_in(value, argument);
    else if (mh__json_is(op, "$nin"))
        *match = !is_in(value, argument);
    else if (mh__json_is(op, "$all"))
        *match = match_all(value, argument);
    else if (mh__json_is(op, "$mod"))
        *match = match_mod(value, argument);
    else if (mh__json_is(op, "$exists"))
        *match = (mh__json_bool(argument, &wanted) ? wanted : !is_null(argument)) == !is_null(value);
    else if (mh__json_is(op, "$glob"))
        *match = match_glob(value, argument);
    else
        return mh__fail(MH_ERR_INVALID, "no operator %.*s: there are $eq $ne $lt $lte $gt $gte $in $nin $all $mod $exists $glob",
                        (int)MH__MIN(op.size, (size_t)40), op.text);
    return MH_OK;
}

mh_err mh__query_match(mh_controller *c, mh__job *r, mh__json query, bool *match)
{
    mh__json_walk w = mh__json_walk_of(query);
    mh_err err = MH_OK;
    mh_buf *scratch = NULL;
    *match = true;
    err = mh_buf_create(&scratch, 0);
    for (mh__json key, condition, value; !err && *match && mh__json_next(&w, &key, &condition);) {
        char name[32];
        mh_bytes plain;
        if (!mh__json_plain(key, &plain) || plain.size >= sizeof name) {
            *match = false; /* no field has such a name */
            break;
        }
        memcpy(name, plain.data, plain.size);
        name[plain.size] = 0;
        value = (mh__json){0};
        err = mh__query_field(c, r, name, scratch, &value);
        if (err == MH_ERR_NOT_FOUND)
            err = MH_OK;
        if (mh__json_kind_of(condition) != MH__JSON_OBJECT) {
            *match = equal(value, condition);
            continue;
        }
        mh__json_walk ops = mh__json_walk_of(condition);
        for (mh__json op, argument; !err && *match && mh__json_next(&ops, &op, &argument);)
            err = match_operator(op, value, argument, match);
    }
    mh_buf_destroy(&scratch);
    return err;
}
