/* The task log: what the controller has to know again after its end. Entries are added in the loop's thread, which never waits for
 * a disk; a thread writes whatever has been added by then as one transaction, and a second one brings it to the disk.
 *
 *     mh__journal *j = NULL;
 *     mh_err err = mh__journal_open(&j, store);                      // the store is the journal's from here on
 *     if (!err) err = mh__journal_load(j, take_entry, me);           // what the last one left
 *     if (!err) err = mh__journal_start(j);
 *     if (!err) err = mh__journal_put(j, &entry, &ticket);
 *     mh__journal_flush(j);                                          // after each round of the loop
 *     ... mh__journal_bell(j) becomes readable: mh__journal_look says up to which ticket ...
 *
 * threads: all of it the loop's.
 */
#ifndef MH_CLUSTER_JOURNAL_H
#define MH_CLUSTER_JOURNAL_H

#include "cluster/entry.h"
#include "cluster/store.h"
#include "net/parcel.h"

typedef struct mh__journal mh__journal;

/* errors: NO_MEMORY; SYSTEM. The store is closed by mh__journal_close, and on failure. */
MH_NODISCARD mh_err mh__journal_open(mh__journal **out, mh__store *store);
/* Hand every entry that is there to fn, by seq and kind; its message is given as a parcel (NULL: none), which fn may move away.
 * errors: CORRUPT; NO_MEMORY; SYSTEM; fn's. */
typedef mh_err (*mh__entry_fn)(const mh__entry *e, mh__parcel *message, void *ctx);
MH_NODISCARD mh_err mh__journal_load(mh__journal *j, mh__entry_fn fn, void *ctx);
MH_NODISCARD mh_err mh__journal_start(mh__journal *j);
/* Write and sync what was added, as far as the disk lets it without waiting for room; nothing may be added after it. */
void mh__journal_finish(mh__journal *j);
/* Finishes first. */
void mh__journal_close(mh__journal **j);

/* Add an entry. Its frames are those of `message` (NULL: e->frames), from which it keeps large ones and copies small ones.
 * *ticket (which may be NULL) is its number. errors: NO_MEMORY; TOO_LARGE. */
MH_NODISCARD mh_err mh__journal_put(mh__journal *j, const mh__entry *e, const mh__parcel *message, uint64_t *ticket);
/* Drop everything about a request. errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__journal_forget(mh__journal *j, uint64_t seq, bool has_pieces);
/* The last ticket that was given out; bytes that are not known to be written. */
uint64_t mh__journal_last(const mh__journal *j);
size_t mh__journal_backlog(const mh__journal *j);
/* Let the writer have what was added. */
void mh__journal_flush(mh__journal *j);
/* Somebody waits for this ticket to be on the disk. */
void mh__journal_want_synced(mh__journal *j, uint64_t ticket);

typedef enum mh__journal_state {
    MH__JOURNAL_OK = 0,
    MH__JOURNAL_WAITING, /* a full disk, a server that is away: it tries again */
    MH__JOURNAL_FAILED,  /* nothing is written any more */
} mh__journal_state;

typedef struct mh__journal_view {
    uint64_t written, synced; /* tickets up to which entries outlive this process, and a power failure */
    size_t backlog;           /* bytes that are not written */
    mh__journal_state state;
    mh_err err;
    char why[300];            /* it is waiting, or has failed */
} mh__journal_view;
int mh__journal_bell(const mh__journal *j);
/* Clears the bell. */
void mh__journal_look(mh__journal *j, mh__journal_view *out);

#endif
