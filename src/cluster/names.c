#include "cluster/names.h"

#include "base/memory.h"

#include <string.h>

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    return h ^ h >> 32;
}

/* The decimal number that a name ends with after a '_', and how much is before it. */
static size_t split(mh_bytes key, uint64_t *number)
{
    enum { DIGITS_MAX = 15 };
    const unsigned char *text = key.data;
    size_t end = key.size;
    while (end && key.size - end < DIGITS_MAX && (unsigned)(text[end - 1] - '0') < 10)
        end--;
    size_t digits = key.size - end;
    *number = 0;
    if (!digits || !end || text[end - 1] != '_' || (text[end] == '0' && digits > 1))
        return key.size;
    for (size_t i = end; i < key.size; i++)
        *number = *number * 10 + (text[i] - '0');
    return end;
}

/* Ids of one client's messages differ in the number at their end, and follow one another: so do their hashes, and their places in memory. */
uint64_t mh__names_hash(mh_bytes key)
{
    const unsigned char *text = key.data;
    uint64_t number, h = UINT64_C(0x9e3779b97f4a7c15) ^ key.size, word;
    size_t size = split(key, &number), i = 0;
    for (; i + sizeof word <= size; i += sizeof word) {
        memcpy(&word, text + i, sizeof word);
        h = mix(h ^ word);
    }
    word = 0;
    if (i < size)
        memcpy(&word, text + i, size - i);
    return mix(h ^ word ^ (uint64_t)size << 56) + number;
}

static mh_err grow(mh__names *t)
{
    size_t count = t->bucket_count ? 2 * t->bucket_count : 64;
    mh__name **buckets = mh__calloc(count, sizeof *buckets);
    if (!buckets)
        return MH_ERR_NO_MEMORY;
    for (size_t i = 0; i < t->bucket_count; i++)
        for (mh__name *node = t->buckets[i], *next; node; node = next) {
            next = node->next;
            node->next = buckets[node->hash & (count - 1)];
            buckets[node->hash & (count - 1)] = node;
        }
    mh__free(t->buckets);
    t->buckets = buckets;
    t->bucket_count = count;
    return MH_OK;
}

static mh_err add(mh__names *t, mh__name *node)
{
    mh_err err = t->count >= t->bucket_count ? grow(t) : MH_OK;
    if (err)
        return err;
    mh__name **bucket = &t->buckets[node->hash & (t->bucket_count - 1)];
    node->next = *bucket;
    *bucket = node;
    t->count++;
    return MH_OK;
}

static mh__name *find(const mh__names *t, mh_bytes key, uint64_t hash)
{
    if (!t->bucket_count)
        return NULL;
    mh__name *node = t->buckets[hash & (t->bucket_count - 1)];
    while (node && (node->hash != hash || node->key.size != key.size || memcmp(node->key.data, key.data, key.size) != 0))
        node = node->next;
    return node;
}

mh_err mh__names_add(mh__names *t, mh__name *node)
{
    node->hash = mh__names_hash(node->key);
    return add(t, node);
}

mh__name *mh__names_find(const mh__names *t, mh_bytes key) { return t->bucket_count ? find(t, key, mh__names_hash(key)) : NULL; }

mh_err mh__names_add_new(mh__names *t, mh__name *node)
{
    node->hash = mh__names_hash(node->key);
    return find(t, node->key, node->hash) ? MH_ERR_EXISTS : add(t, node);
}

void mh__names_remove(mh__names *t, mh__name *node)
{
    mh__name **at = &t->buckets[node->hash & (t->bucket_count - 1)];
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    t->count--;
}

void mh__names_fini(mh__names *t)
{
    mh__free(t->buckets);
    *t = (mh__names){0};
}
