/* Keys: the HMAC-SHA256 that messages are signed with, and the pairs that CURVE encrypts with. */
#ifndef MH_NET_SIGN_H
#define MH_NET_SIGN_H

#include "wire/message.h"

typedef struct mh__sign_key mh__sign_key;

/* errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__sign_key_create(mh__sign_key **out, mh_bytes key);
void mh__sign_key_destroy(mh__sign_key **k); /* its memory is cleared */
/* A signer that borrows k; for one thread at a time. k NULL: a signer that signs nothing. */
mh__signer mh__sign_key_signer(mh__sign_key *k);

enum { MH__SECRET_SIZE = 65 };
/* 256 bits of the kernel's random numbers, in hexadecimal. errors: SYSTEM. */
MH_NODISCARD mh_err mh__secret_create(char out[MH__SECRET_SIZE]);

enum { MH__CURVE_KEY_SIZE = 41 };
typedef struct mh__curve_pair {
    char public_key[MH__CURVE_KEY_SIZE], secret_key[MH__CURVE_KEY_SIZE]; /* Z85 */
} mh__curve_pair;
/* errors: UNSUPPORTED this libzmq can't encrypt. */
MH_NODISCARD mh_err mh__curve_pair_create(mh__curve_pair *out);
/* The public key that belongs to a secret one. errors: INVALID; UNSUPPORTED. */
MH_NODISCARD mh_err mh__curve_pair_complete(mh__curve_pair *p);
/* Clear what nobody may find in memory later. */
void mh__secret_clear(void *at, size_t size);

#endif
