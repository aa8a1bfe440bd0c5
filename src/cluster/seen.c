/* What was admitted under this key before this controller began. In its own life a controller remembers signatures in memory (wire/replay.h); the next one
 * with the same key (--reuse) would admit a copy of them. Tasks that it knows it answers as the same tasks, whoever sends them; what it does not know is looked up
 * here: tasks that were forgotten, and queries, control and broadcast requests, which nobody sends twice.
 *
 * A file beside the connection files, written in a circle: 16 bytes for each, a number that counts up and 64 bits of the signature. A write that a power
 * failure takes is a message that could be played back; one that is torn is a number that makes no sense, and is not used. */
#include "cluster/controller_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/fd.h"
#include "os/file.h"


enum { PLACES = 1 << 16, TABLE = 1 << 17 };

typedef struct place {
    uint64_t number, key;
} place;

typedef struct mh__seen {
    int fd;
    uint64_t next;   /* number of the next place that is written */
    uint64_t *table; /* keys of the lives before this one; open addressing, 0 is empty. NULL: none */
    bool has_failed;
} mh__seen;

static uint64_t key_of(mh_bytes signature) { return mh__names_hash(signature) | 1; }

static uint64_t *find(uint64_t *table, uint64_t key)
{
    size_t i = (size_t)(key >> 20) & (TABLE - 1);
    while (table[i] && table[i] != key)
        i = (i + 1) & (TABLE - 1);
    return &table[i];
}

static mh_err load(mh__seen *s)
{
    size_t size = 0;
    place *places = mh__calloc(PLACES, sizeof *places);
    mh_err err = places ? mh__os_file_read_at(s->fd, 0, places, PLACES * sizeof *places, &size) : MH_ERR_NO_MEMORY;
    for (size_t i = 0; !err && i < size / sizeof *places; i++) {
        const place *p = &places[i];
        if (!p->key || !p->number || (p->number - 1) % PLACES != i || p->number > UINT64_MAX / 2)
            continue;
        if (!s->table && !(s->table = mh__calloc(TABLE, sizeof *s->table))) {
            err = MH_ERR_NO_MEMORY;
            break;
        }
        *find(s->table, p->key) = p->key;
        s->next = p->number >= s->next ? p->number + 1 : s->next;
    }
    mh__free(places);
    return err;
}

mh_err mh__seen_open(mh_controller *c)
{
    char path[MH__PATH_BESIDE_SIZE];
    bool is_new;
    if (!c->options.reuse || c->options.curve) /* encrypted connections have a freshness of their own, and messages no signature */
        return MH_OK;
    mh__place_beside(c, "seen", path);
    mh__seen *s = mh__calloc(1, sizeof *s);
    if (!s)
        return MH_ERR_NO_MEMORY;
    s->fd = -1;
    s->next = 1;
    mh_err err = mh__os_file_claim_private(path, &is_new);
    if (!err)
        err = mh__os_file_open_to_change(&s->fd, path);
    if (!err)
        err = load(s);
    c->seen = s;
    return err;
}

void mh__seen_note(mh_controller *c, mh_bytes signature)
{
    mh__seen *s = c->seen;
    if (!s || !signature.size)
        return;
    place p = {.number = s->next, .key = key_of(signature)};
    mh_err err = mh__os_file_write_at(s->fd, (s->next - 1) % PLACES * sizeof p, (mh_bytes){&p, sizeof p});
    if (!err)
        s->next++;
    else if (!s->has_failed)
        mh__log(c, MH_LOG_WARNING, "what was admitted can't be noted for the next controller: %s", mh_err_detail());
    s->has_failed = err != MH_OK;
}

bool mh__seen_before(const mh_controller *c, mh_bytes signature)
{
    return c->seen && c->seen->table && *find(c->seen->table, key_of(signature));
}

void mh__seen_close(mh_controller *c)
{
    if (!c->seen)
        return;
    mh__os_close(&c->seen->fd);
    mh__free(c->seen->table);
    mh__free(c->seen);
    c->seen = NULL;
}
