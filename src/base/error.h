/* Setting the thread-local detail that explains a failure. */
#ifndef MH_BASE_ERROR_H
#define MH_BASE_ERROR_H

#include "manyhands/base.h"

/* Record a printf-style explanation (no errno) and return err. */
mh_err mh__fail(mh_err err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Record an explanation, append the text of `saved_errno`, and return err. */
mh_err mh__fail_errno(mh_err err, int saved_errno, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The code that fits an errno: ENOMEM, ENOSPC, EACCES/EPERM, ENOENT, EEXIST, EINTR, ETIMEDOUT, else SYSTEM. */
mh_err mh__err_from_errno(int saved_errno);
/* mh__fail_errno with the code that fits the errno. */
#define mh__fail_os(saved_errno, ...) \
    mh__fail_errno(mh__err_from_errno(saved_errno), (saved_errno), __VA_ARGS__)

#endif
