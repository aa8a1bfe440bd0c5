/* mesh.h: processes on one host or many that send each other pieces of memory, each pair over a connection of its own.
 *
 *     mesh *m = NULL;
 *     char address[MESH_ADDRESS_SIZE];
 *     mh_err err = mesh_listen(&m, "192.0.2.10", address);      towards which host the others are; every process tells its address to all
 *     if (!err) err = mesh_join(m, rank, count, addresses, secret, until);
 *     if (!err) err = mesh_exchange(m, out, in, until);         all of them, again and again
 *     mesh_close(&m);
 *
 * Engines of a cluster use it: the cluster carries the addresses and the secret, and starts the work; what neighbours tell each other in every step goes
 * from the one to the other. On one host that is a unix socket, and only processes of the same user are let in; between hosts it is TCP, and who does
 * not know the secret is turned away, but what is sent is not encrypted: for networks that you trust.
 *
 * A process that dies is noticed by all that exchange with it: BROKEN. Threads: one at a time for each mesh.
 */
#ifndef MESH_H
#define MESH_H

#include <manyhands.h>

#include <sys/uio.h>

#define MESH_EXPORT __attribute__((visibility("default")))

enum {
    MESH_ADDRESS_SIZE = 192,
    MESH_SECRET_SIZE = 32,
    MESH_RANKS_MAX = 256,
    MESH_PARTS_MAX = 1024 /* pieces of memory in one message */
};

typedef struct mesh mesh;

/* The pieces of memory that go to one process, or come from one, in this order. */
typedef struct mesh_message {
    const struct iovec *parts;
    size_t count;
} mesh_message;

/* Open the sockets by which others find this process. towards: the address (digits) of a host that is reached by the network which the others are in;
 * on one that begins with 127. only this host's processes can come. errors: INVALID towards is no address; SYSTEM; NO_MEMORY. */
MESH_EXPORT mh_err mesh_listen(mesh **out, const char *towards, char address[MESH_ADDRESS_SIZE]);
/* Connect with the others: addresses are those of all `count` processes, MESH_ADDRESS_SIZE bytes each, in the order of their ranks.
 * errors: INVALID; TIMEOUT not all have come; BROKEN one is gone; PERMISSION it is not of this user or did not know the secret; SYSTEM; NO_MEMORY. */
MESH_EXPORT mh_err mesh_join(mesh *m, uint32_t rank, uint32_t count, const char *addresses, const unsigned char secret[MESH_SECRET_SIZE],
                             mh_deadline until);
MESH_EXPORT uint32_t mesh_rank(const mesh *m);
MESH_EXPORT uint32_t mesh_count(const mesh *m);
/* Send out[k] to each process k and receive in[k] from it, all at the same time; what the one sends is as long as what the other expects. Empty messages are
 * not sent at all, out[rank] and in[rank] are not looked at. parts are not changed.
 * errors: BROKEN a process is gone; CORRUPT another length, or another number of exchanges; TIMEOUT; INVALID too many parts. After an error only mesh_close. */
MESH_EXPORT mh_err mesh_exchange(mesh *m, const mesh_message *out, const mesh_message *in, mh_deadline until);
/* Accepts NULL. */
MESH_EXPORT void mesh_close(mesh **m);

#endif
