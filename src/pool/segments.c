#include "pool/segments.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/fd.h"
#include "os/memory.h"

#include <string.h>

static size_t place_of(uint32_t id) { return id % MH__SEGMENTS_MAX; }

static void forget(mh__segments *s, size_t place)
{
    if (place >= s->count || !s->items[place].base)
        return;
    mh__os_unmap(s->items[place].base, s->items[place].size);
    s->items[place] = (mh__segment){0};
}

static mh_err make_room(mh__segments *s, size_t place)
{
    if (place < s->count)
        return MH_OK;
    mh__segment *grown = mh__realloc(s->items, (place + 1) * sizeof *grown);
    if (!grown)
        return MH_ERR_NO_MEMORY;
    memset(grown + s->count, 0, (place + 1 - s->count) * sizeof *grown);
    s->items = grown;
    s->count = place + 1;
    return MH_OK;
}

static mh_err keep(mh__segments *s, const mh__segment_message *m, int fd)
{
    void *at;
    size_t place = place_of(m->id);
    mh_err err = make_room(s, place);
    if (!err)
        err = mh__os_map(&at, fd, 0, (size_t)m->size, !m->readonly);
    if (err)
        return err;
    forget(s, place);
    s->items[place] = (mh__segment){m->id, at, (size_t)m->size};
    return MH_OK;
}

static bool is_valid(const mh__segment_message *m, size_t size)
{
    return size == sizeof *m && m->magic == MH__SEGMENT_MAGIC && m->id > 0;
}

mh_err mh__segments_receive(mh__segments *s, int socket, mh_deadline until)
{
    mh__segment_message m;
    int fds[MH__OS_FDS_MAX];
    size_t fd_count = 0, size;
    mh_err err = mh__os_receive(socket, &m, sizeof m, &size, fds, &fd_count, until);
    if (err)
        return err;
    if (!is_valid(&m, size) || fd_count != (m.size > 0))
        err = mh__fail(MH_ERR_CORRUPT, "a message to a worker that is none");
    else if (fd_count)
        err = keep(s, &m, fds[0]);
    else
        forget(s, place_of(m.id));
    for (size_t i = 0; i < fd_count; i++)
        mh__os_close(&fds[i]);
    return err;
}

mh_err mh__segments_find(mh__segments *s, int socket, uint32_t id, uint64_t offset, uint64_t size, void **out)
{
    size_t place = place_of(id);
    while (place >= s->count || s->items[place].id != id) {
        mh_err err = id == 0 || socket < 0 ? mh__fail(MH_ERR_CORRUPT, "a task names segment %u", id)
                                           : mh__segments_receive(s, socket, mh_deadline_in(5 * MH_SECOND));
        if (err)
            return err;
    }
    const mh__segment *segment = &s->items[place];
    if (offset > segment->size || size > segment->size - offset)
        return mh__fail(MH_ERR_CORRUPT, "a task names bytes beyond the end of segment %u", id);
    *out = segment->base + offset;
    return MH_OK;
}

void mh__segments_fini(mh__segments *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].base)
            mh__os_unmap(s->items[i].base, s->items[i].size);
    mh__free(s->items);
    *s = (mh__segments){0};
}
