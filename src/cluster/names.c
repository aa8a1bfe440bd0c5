#include "cluster/names.h"

#include "base/memory.h"

#include <string.h>

uint64_t mh__names_hash(mh_bytes key)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < key.size; i++)
        h = (h ^ ((const unsigned char *)key.data)[i]) * UINT64_C(0x100000001b3);
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    return h ^ h >> 32;
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

mh_err mh__names_add(mh__names *t, mh__name *node)
{
    mh_err err = t->count >= t->bucket_count ? grow(t) : MH_OK;
    if (err)
        return err;
    node->hash = mh__names_hash(node->key);
    mh__name **bucket = &t->buckets[node->hash & (t->bucket_count - 1)];
    node->next = *bucket;
    *bucket = node;
    t->count++;
    return MH_OK;
}

mh__name *mh__names_find(const mh__names *t, mh_bytes key)
{
    if (!t->bucket_count)
        return NULL;
    uint64_t hash = mh__names_hash(key);
    mh__name *node = t->buckets[hash & (t->bucket_count - 1)];
    while (node && (node->hash != hash || node->key.size != key.size || memcmp(node->key.data, key.data, key.size) != 0))
        node = node->next;
    return node;
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
