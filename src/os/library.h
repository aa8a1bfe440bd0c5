/* Shared objects that are loaded while the program runs. */
#ifndef MH_OS_LIBRARY_H
#define MH_OS_LIBRARY_H

#include "manyhands/base.h"

/* Whether this is the absolute path of a plain file that belongs to this user or root and that nobody else can write.
 * errors: INVALID; PERMISSION; those of open. */
mh_err mh__os_library_check(const char *path);
/* Load it, with the same check on the very file that is loaded, and find a symbol. It stays loaded for the life of the process.
 * errors: also INVALID it can't be loaded, or has no such symbol. */
mh_err mh__os_library_open(const char *path, const char *symbol, const void **out);

#endif
