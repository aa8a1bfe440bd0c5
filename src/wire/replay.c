#include "wire/replay.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <string.h>

/* Open addressing; 0 is an empty place. A key's number matters only in the tables of writers. */
typedef struct entry {
    uint64_t key, number;
} entry;

typedef struct table {
    entry *at;
    size_t count, capacity; /* capacity is 0 or a power of two, never more than half full */
} table;

/* Signatures of this generation and of the one before; and by writer, the highest number in each and the floor below them. */
struct mh__replay {
    table signatures[2], highest[2], floors;
    int64_t began;
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    return x ^ x >> 32;
}

static uint64_t hash(mh_bytes b)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < b.size; i++)
        h = (h ^ ((const unsigned char *)b.data)[i]) * UINT64_C(0x100000001b3);
    h = mix(h);
    return h ? h : 1;
}

static entry *find(const table *t, uint64_t key)
{
    if (!t->capacity)
        return NULL;
    size_t i = mix(key) & (t->capacity - 1);
    while (t->at[i].key && t->at[i].key != key)
        i = (i + 1) & (t->capacity - 1);
    return &t->at[i];
}

static mh_err grow(table *t)
{
    table bigger = {.capacity = t->capacity ? 2 * t->capacity : 256};
    bigger.at = mh__calloc(bigger.capacity, sizeof *bigger.at);
    if (!bigger.at)
        return MH_ERR_NO_MEMORY;
    for (size_t i = 0; i < t->capacity; i++)
        if (t->at[i].key)
            *find(&bigger, t->at[i].key) = t->at[i];
    bigger.count = t->count;
    mh__free(t->at);
    *t = bigger;
    return MH_OK;
}

static const entry *look(const table *t, uint64_t key)
{
    const entry *e = find(t, key);
    return e && e->key ? e : NULL;
}

/* The number of `key` is at least `number` from now on. */
static mh_err raise(table *t, uint64_t key, uint64_t number)
{
    entry *e = find(t, key);
    if (!e || !e->key) {
        mh_err err = (t->count + 1) * 2 > t->capacity ? grow(t) : MH_OK;
        if (err)
            return err;
        e = find(t, key);
        *e = (entry){.key = key};
        t->count++;
    }
    e->number = MH__MAX(e->number, number);
    return MH_OK;
}

static void empty(table *t)
{
    mh__free(t->at);
    *t = (table){0};
}

mh_err mh__replay_create(mh__replay **out)
{
    *out = mh__calloc(1, sizeof **out);
    return *out ? MH_OK : MH_ERR_NO_MEMORY;
}

void mh__replay_destroy(mh__replay **r)
{
    if (!*r)
        return;
    table *all[] = {&(*r)->signatures[0], &(*r)->signatures[1], &(*r)->highest[0], &(*r)->highest[1], &(*r)->floors};
    for (size_t i = 0; i < MH__COUNT_OF(all); i++)
        empty(all[i]);
    mh__free(*r);
    *r = NULL;
}

/* Split "<writer>_<number>"; false for ids of another form. */
static bool split_id(mh_bytes id, uint64_t *writer, uint64_t *number)
{
    const char *text = id.data;
    size_t at = id.size;
    uint64_t n = 0;
    while (at > 0 && text[at - 1] >= '0' && text[at - 1] <= '9')
        at--;
    if (at == 0 || at == id.size || text[at - 1] != '_' || id.size - at > 18)
        return false;
    for (size_t i = at; i < id.size; i++)
        n = n * 10 + (uint64_t)(text[i] - '0');
    *writer = hash((mh_bytes){text, at - 1});
    *number = n;
    return true;
}

/* The older generation goes, and leaves floors. Floors of too many writers are given up together: their signatures remain. */
static mh_err turn(mh__replay *r, int64_t now)
{
    if (r->floors.count + r->highest[1].count > MH__REPLAY_WRITERS)
        empty(&r->floors);
    for (size_t i = 0; i < r->highest[1].capacity; i++) {
        const entry *e = &r->highest[1].at[i];
        mh_err err = e->key ? raise(&r->floors, e->key, e->number + 1) : MH_OK;
        if (err)
            return err; /* nothing was forgotten yet; it is tried again */
    }
    empty(&r->signatures[1]);
    empty(&r->highest[1]);
    r->signatures[1] = r->signatures[0];
    r->highest[1] = r->highest[0];
    r->signatures[0] = r->highest[0] = (table){0};
    r->began = now;
    return MH_OK;
}

mh_err mh__replay_admit(mh__replay *r, mh_bytes signature, mh_bytes msg_id, int64_t now)
{
    uint64_t key = hash(signature), writer = 0, number = 0;
    bool is_counted = split_id(msg_id, &writer, &number);
    mh_err err = MH_OK;
    if (!r->began)
        r->began = now;
    if (r->signatures[0].count >= MH__REPLAY_COUNT || now - r->began >= MH__REPLAY_NS)
        err = turn(r, now);
    if (err)
        return err;
    if (look(&r->signatures[0], key) || look(&r->signatures[1], key))
        return mh__fail(MH_ERR_EXISTS, "this message came before");
    const entry *floor = is_counted ? look(&r->floors, writer) : NULL;
    if (floor && number < floor->number)
        return mh__fail(MH_ERR_EXISTS, "message number %llu of its writer came long ago", (unsigned long long)number);
    if (is_counted && r->highest[0].count < MH__REPLAY_WRITERS)
        err = raise(&r->highest[0], writer, number);
    return err ? err : raise(&r->signatures[0], key, 0);
}
