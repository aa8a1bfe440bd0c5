/* Dates as messages carry them: ISO 8601 in UTC. */
#ifndef MH_WIRE_DATE_H
#define MH_WIRE_DATE_H

#include "manyhands/base.h"

enum { MH__DATE_SIZE = 28 }; /* "2031-05-17T08:03:01.000009Z" and its end */

/* Write the time `unix_ns` (nanoseconds since 1970, from year 0 to 9999) to the microsecond. */
void mh__date_write(int64_t unix_ns, char out[MH__DATE_SIZE]);
/* Read a date and time, with a fraction of any length or none; a zone (Z, +hh:mm, +hhmm, +hh) or none, which means UTC.
 * errors: CORRUPT. */
MH_NODISCARD mh_err mh__date_read(mh_bytes text, int64_t *unix_ns);

#endif
