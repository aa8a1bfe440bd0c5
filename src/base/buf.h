/* Buffers whose bytes the caller fills in at once. */
#ifndef MH_BASE_BUF_H
#define MH_BASE_BUF_H

#include "manyhands/base.h"

/* As mh_buf_create, but the bytes are not cleared. */
mh_err mh__buf_create_unset(mh_buf **out, size_t size);

#endif
