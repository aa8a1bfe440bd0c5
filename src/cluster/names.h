/* A table of things by name; the node lies in its owner, and so does the key. */
#ifndef MH_CLUSTER_NAMES_H
#define MH_CLUSTER_NAMES_H

#include "manyhands/base.h"

typedef struct mh__name mh__name;
struct mh__name {
    mh__name *next;
    uint64_t hash;
    mh_bytes key;
};

typedef struct mh__names {
    mh__name **buckets;
    size_t bucket_count, count;
} mh__names;

#define mh__name_entry(node, type, member) ((type *)(void *)((char *)(node) - offsetof(type, member)))

/* node->key is set. The name must not be there. errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__names_add(mh__names *t, mh__name *node);
/* The same, if it may be there. errors: EXISTS; NO_MEMORY. */
MH_NODISCARD mh_err mh__names_add_new(mh__names *t, mh__name *node);
mh__name *mh__names_find(const mh__names *t, mh_bytes key);
void mh__names_remove(mh__names *t, mh__name *node);
void mh__names_fini(mh__names *t); /* the nodes are their owners' */
uint64_t mh__names_hash(mh_bytes key);

#endif
