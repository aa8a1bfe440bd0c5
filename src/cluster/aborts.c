/* Aborts that were faster than their tasks, which come by another channel. Bounded: the oldest give way. */
#include "cluster/controller_state.h"

#include "base/memory.h"

#include <string.h>

enum { ABORTS_MAX = 4096 };

typedef struct early_abort {
    mh__name name;
    mh__list link;
    char id[];
} early_abort;

struct mh__aborts {
    mh__names by_id;
    mh__list order;
};

static void drop(mh__aborts *a, early_abort *e)
{
    mh__names_remove(&a->by_id, &e->name);
    mh__list_remove(&e->link);
    mh__free(e);
}

void mh__aborts_note(mh_controller *c, mh_bytes id)
{
    mh__aborts *a = c->aborts;
    if (!a) {
        if (!(a = mh__calloc(1, sizeof *a)))
            return;
        mh__list_init(&a->order);
        c->aborts = a;
    }
    if (id.size > MH__WIRE_ID_MAX || mh__names_find(&a->by_id, id))
        return;
    if (a->by_id.count == ABORTS_MAX)
        drop(a, mh__list_entry(a->order.next, early_abort, link));
    early_abort *e = mh__calloc(1, sizeof *e + id.size);
    if (!e)
        return; /* then it runs, as if the abort had come too late */
    memcpy(e->id, id.data, id.size);
    e->name.key = (mh_bytes){e->id, id.size};
    if (mh__names_add(&a->by_id, &e->name)) {
        mh__free(e);
        return;
    }
    mh__list_push_back(&a->order, &e->link);
}

bool mh__aborts_take(mh_controller *c, mh_bytes id)
{
    mh__name *node = c->aborts && c->aborts->by_id.count ? mh__names_find(&c->aborts->by_id, id) : NULL;
    if (node)
        drop(c->aborts, mh__name_entry(node, early_abort, name));
    return node != NULL;
}

void mh__aborts_fini(mh_controller *c)
{
    if (!c->aborts)
        return;
    while (!mh__list_is_empty(&c->aborts->order))
        drop(c->aborts, mh__list_entry(c->aborts->order.next, early_abort, link));
    mh__names_fini(&c->aborts->by_id);
    mh__free(c->aborts);
    c->aborts = NULL;
}
