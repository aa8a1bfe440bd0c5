#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local struct {
    char text[256];
    int saved_errno;
} detail;

typedef struct error_row {
    mh_err code;
    const char *name, *text, *python;
} error_row;

static const error_row rows[] = {
#define ROW(name, value, text, python) {MH_ERR_##name, "MH_ERR_" #name, text, python},
    MH_ERRORS(ROW)
#undef ROW
};

static const error_row *find(mh_err err)
{
    static const error_row unknown = {MH_ERR_INVALID, "MH_ERR_UNKNOWN", "unknown error", "RuntimeError"};
    size_t at = (size_t)err; /* codes are dense and appended, so the value is the index */
    return at < sizeof rows / sizeof rows[0] ? &rows[at] : &unknown;
}

const char *mh_err_name(mh_err err) { return find(err)->name; }
const char *mh_err_text(mh_err err) { return find(err)->text; }
const char *mh_err_python(mh_err err) { return find(err)->python; }
const char *mh_err_detail(void) { return detail.text; }
int mh_err_errno(void) { return detail.saved_errno; }

mh_err mh__fail(mh_err err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(detail.text, sizeof detail.text, format, args);
    va_end(args);
    detail.saved_errno = 0;
    return err;
}

mh_err mh__fail_errno(mh_err err, int saved_errno, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int used = vsnprintf(detail.text, sizeof detail.text, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof detail.text) {
        char text[96];
        /* the GNU strerror_r may return a static string instead of filling the buffer */
        snprintf(detail.text + used, sizeof detail.text - (size_t)used, ": %s",
                 strerror_r(saved_errno, text, sizeof text));
    }
    detail.saved_errno = saved_errno;
    return err;
}

mh_err mh__err_from_errno(int saved_errno)
{
    switch (saved_errno) {
    case ENOMEM: return MH_ERR_NO_MEMORY;
    case ENOSPC: return MH_ERR_NO_SPACE;
    case EACCES:
    case EPERM: return MH_ERR_PERMISSION;
    case ENOENT: return MH_ERR_NOT_FOUND;
    case EEXIST: return MH_ERR_EXISTS;
    case EINTR: return MH_ERR_INTERRUPTED;
    case ETIMEDOUT: return MH_ERR_TIMEOUT;
    case ESRCH: return MH_ERR_EXITED;
    case EINVAL: return MH_ERR_INVALID;
    default: return MH_ERR_SYSTEM;
    }
}
