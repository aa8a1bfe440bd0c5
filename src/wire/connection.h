/* What a connection file says: where a controller listens and which key it shares with its engines or its clients.
 *
 * Text in, text out; files are read and written by os/file.h. The names of the members are ipyparallel's.
 */
#ifndef MH_WIRE_CONNECTION_H
#define MH_WIRE_CONNECTION_H

#include "manyhands/base.h"

enum { MH__CONNECTION_LEAVES = 16, MH__CONNECTION_FILE_MAX = 1 << 16 };

typedef struct mh__connection {
    bool is_engine;             /* the engines' file; else the clients' */
    char interface_[256];       /* "tcp://127.0.0.1", "ipc:///folder/name" */
    char location[256];         /* the controller's host, for those who must choose an address */
    char ssh[256];              /* "[user@]server[:port]" to tunnel through, or empty */
    char key[256];              /* of the signatures; empty with CURVE */
    char curve_serverkey[41];   /* Z85, or empty */
    char pack[32], unpack[32];  /* "json" */
    char signature_scheme[32];  /* "hmac-sha256" */
    char task_scheme[16];       /* clients: "leastload" ... */
    char fast[256];             /* path of the fast lane's unix socket; empty: there is none. Not in stock files */
    char buffers[16];           /* "signed": digests of buffers are in the signed metadata (net/seal.h); or empty. Not in stock files */
    uint16_t registration, control, mux, task, iopub;
    uint16_t hb_ping, hb_pong;  /* engines */
    uint16_t notification;      /* clients */
    uint16_t broadcast[MH__CONNECTION_LEAVES]; /* engines: one for each leaf, engine n uses n % count; clients: one */
    size_t broadcast_count;
} mh__connection;

/* Read the text of a file. errors: CORRUPT names the member that is missing or not as it should be; UNSUPPORTED a packer
 * other than json, or another signature scheme than hmac-sha256. */
MH_NODISCARD mh_err mh__connection_read(mh_bytes text, mh__connection *out);
/* Append the text of a file. errors: NO_MEMORY. */
MH_NODISCARD mh_err mh__connection_write(const mh__connection *c, mh_buf *out);
/* A controller that listens everywhere ("tcp://0.0.0.0", "tcp://[::]", or a star) is reached at its location, or on loopback when that is `own_host` or
 * not given: make `interface_` an address that can be connected to. errors: CORRUPT the location is too long. */
MH_NODISCARD mh_err mh__connection_find_host(mh__connection *c, const char *own_host);
/* The address of a port: "tcp://127.0.0.1:1234", "ipc:///folder/name-1234". errors: TOO_LARGE. */
MH_NODISCARD mh_err mh__connection_url(const mh__connection *c, uint16_t port, char *out, size_t capacity);

#endif
