#include "net/sign.h"

#include "base/error.h"
#include "base/memory.h"
#include "os/memory.h"

#include <nettle/hmac.h>
#include <nettle/version.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

struct mh__sign_key {
    struct hmac_sha256_ctx hmac; /* holds the state after the key, so that a message doesn't pay for it */
};

mh_err mh__sign_key_create(mh__sign_key **out, mh_bytes key)
{
    *out = mh__calloc(1, sizeof **out);
    if (!*out)
        return MH_ERR_NO_MEMORY;
    nettle_hmac_sha256_set_key(&(*out)->hmac, key.size, key.data);
    return MH_OK;
}

void mh__sign_key_destroy(mh__sign_key **k)
{
    if (!*k)
        return;
    mh__secret_clear(*k, sizeof **k);
    mh__free(*k);
    *k = NULL;
}

static void digest(const mh_bytes *parts, size_t count, uint8_t out[32], void *ctx)
{
    struct hmac_sha256_ctx *hmac = ctx;
    for (size_t i = 0; i < count; i++)
        nettle_hmac_sha256_update(hmac, parts[i].size, parts[i].data);
    nettle_hmac_sha256_digest(hmac, 32, out); /* and begins anew with the same key */
}

mh__signer mh__sign_key_signer(mh__sign_key *k)
{
    return k ? (mh__signer){digest, &k->hmac} : (mh__signer){0};
}

mh_err mh__secret_create(char out[MH__SECRET_SIZE])
{
    unsigned char bytes[(MH__SECRET_SIZE - 1) / 2];
    mh_err err = mh__os_random(bytes, sizeof bytes);
    if (err)
        return err;
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    mh__secret_clear(bytes, sizeof bytes);
    return MH_OK;
}

mh_err mh__curve_pair_create(mh__curve_pair *out)
{
    return zmq_curve_keypair(out->public_key, out->secret_key) < 0
               ? mh__fail_os(errno == ENOTSUP ? errno : EINVAL, "making a pair of CURVE keys")
               : MH_OK;
}

mh_err mh__curve_pair_complete(mh__curve_pair *p)
{
    return zmq_curve_public(p->public_key, p->secret_key) < 0 ? mh__fail_errno(MH_ERR_INVALID, errno, "a CURVE secret key") : MH_OK;
}

void mh__secret_clear(void *at, size_t size) { explicit_bzero(at, size); }
