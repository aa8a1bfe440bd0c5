/* One question to a controller and its answer, for commands: no thread, no state.
 *
 *     mh__asker *a = NULL;
 *     mh_buf *reply = NULL;
 *     mh_err err = mh__asker_open(&a, "/home/me/.ipython/profile_default/security/ipcontroller-client.json");
 *     if (!err) err = mh__ask(a, "queue_request", MH__TEXT("{}"), mh_deadline_in(MH_SECOND), &reply);
 *     mh_buf_destroy(&reply);
 *     mh__asker_close(&a);
 *
 * threads: one.
 */
#ifndef MH_CLUSTER_ASK_H
#define MH_CLUSTER_ASK_H

#include "manyhands/base.h"

typedef struct mh__asker mh__asker;

/* Read a client's connection file and connect, in the background. errors: NOT_FOUND, PERMISSION, CORRUPT, TOO_LARGE, UNSUPPORTED of the file; NO_MEMORY;
 * SYSTEM. */
MH_NODISCARD mh_err mh__asker_open(mh__asker **out, const char *connection_file);
void mh__asker_close(mh__asker **a);
/* The content of the answer, a JSON object. errors: TIMEOUT no (rightly signed) answer; INTERRUPTED; NO_MEMORY; SYSTEM. */
MH_NODISCARD mh_err mh__ask(mh__asker *a, const char *type, mh_bytes content, mh_deadline until, mh_buf **reply);

#endif
