/* Every process listens, on a unix socket without a file and on TCP. One of a higher rank connects to all of lower ranks, says who it is, and is answered. */
#include "mesh.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAGIC 0x68736d686dull

/* What opens a connection, in both directions. */
typedef struct hello {
    uint64_t magic;
    uint32_t rank, count;
    unsigned char secret[MESH_SECRET_SIZE];
} hello;

/* What opens a message. */
typedef struct head {
    uint64_t number; /* of the exchange */
    uint64_t size;
} head;

/* How far one message is. */
typedef struct flow {
    mesh_message message;
    head head, wire;     /* what its head is, and what is sent or has come of it */
    size_t part, offset; /* part 0 is the head */
    bool is_done;
} flow;

struct mesh {
    uint32_t rank, count;
    uint64_t number;      /* exchanges so far */
    int local, wide;      /* listening sockets, or -1 */
    int *peers;           /* [count]; -1: this one */
    struct pollfd *polls; /* [count] */
    flow *flows;          /* [2 * count]: out, in */
};

/* ---- addresses: the host, a name there, an address and a port --------------------------------- */

/* Which host this is: processes that tell the same share its abstract sockets, as far as they are in one network namespace. */
static mh_err read_host(char host[40])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, host, 36);
    if (fd >= 0)
        close(fd);
    host[36] = 0;
    return got == 36 ? MH_OK : MH_ERR_SYSTEM;
}

static struct sockaddr_un local_address(const char *name, socklen_t *size)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t length = strnlen(name, sizeof a.sun_path - 1);
    memcpy(a.sun_path + 1, name, length);
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
    return a;
}

static mh_err listen_locally(mesh *m, char name[33])
{
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return MH_ERR_SYSTEM;
    for (int i = 0; i < 16; i++)
        snprintf(name + 2 * i, 3, "%02x", random[i]);
    socklen_t size;
    struct sockaddr_un a = local_address(name, &size);
    m->local = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return m->local < 0 || bind(m->local, (struct sockaddr *)&a, size) || listen(m->local, MESH_RANKS_MAX) ? MH_ERR_SYSTEM : MH_OK;
}

/* Which of this host's addresses is in the network by which `towards` is reached: the kernel knows, and nothing is sent. */
static mh_err find_own(struct sockaddr_in *own, const char *towards)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(9)};
    socklen_t size = sizeof *own;
    if (inet_pton(AF_INET, towards, &there.sin_addr) != 1)
        return MH_ERR_INVALID;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    mh_err err = fd < 0 || connect(fd, (struct sockaddr *)&there, sizeof there) || getsockname(fd, (struct sockaddr *)own, &size) ? MH_ERR_SYSTEM : MH_OK;
    if (fd >= 0)
        close(fd);
    own->sin_port = 0;
    return err;
}

static mh_err listen_widely(mesh *m, const char *towards, struct sockaddr_in *own)
{
    mh_err err = find_own(own, towards);
    socklen_t size = sizeof *own;
    if (err)
        return err;
    m->wide = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return m->wide < 0 || bind(m->wide, (struct sockaddr *)own, size) || listen(m->wide, MESH_RANKS_MAX) ||
                   getsockname(m->wide, (struct sockaddr *)own, &size)
               ? MH_ERR_SYSTEM
               : MH_OK;
}

mh_err mesh_listen(mesh **out, const char *towards, char address[MESH_ADDRESS_SIZE])
{
    char host[40], name[33], digits[INET_ADDRSTRLEN];
    struct sockaddr_in own = {.sin_port = 0};
    *out = NULL;
    mesh *m = calloc(1, sizeof *m);
    if (!m)
        return MH_ERR_NO_MEMORY;
    m->local = m->wide = -1;
    mh_err err = read_host(host);
    if (!err)
        err = listen_locally(m, name);
    if (!err)
        err = listen_widely(m, towards, &own);
    if (err) {
        mesh_close(&m);
        return err;
    }
    inet_ntop(AF_INET, &own.sin_addr, digits, sizeof digits);
    memset(address, 0, MESH_ADDRESS_SIZE);
    snprintf(address, MESH_ADDRESS_SIZE, "%s %s %s %u", host, name, digits, (unsigned)ntohs(own.sin_port));
    *out = m;
    return MH_OK;
}

/* ---- small reads and writes, with a deadline -------------------------------------------------- */

static mh_err wait_for(int fd, short events, mh_deadline until)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        int64_t left = until - mh_now();
        if (left <= 0)
            return MH_ERR_TIMEOUT;
        int ready = poll(&p, 1, left > MH_SECOND ? 1000 : (int)(left / MH_MILLISECOND) + 1);
        if (ready > 0)
            return MH_OK;
        if (ready < 0 && errno != EINTR)
            return MH_ERR_SYSTEM;
    }
}

static mh_err send_hello(int fd, const hello *h)
{
    return send(fd, h, sizeof *h, MSG_NOSIGNAL) == (ssize_t)sizeof *h ? MH_OK : MH_ERR_BROKEN; /* an empty socket takes that much at once */
}

static mh_err receive_hello(int fd, hello *h, mh_deadline until)
{
    for (size_t got = 0; got < sizeof *h;) {
        mh_err err = wait_for(fd, POLLIN, until);
        if (err)
            return err;
        ssize_t more = recv(fd, (char *)h + got, sizeof *h - got, 0);
        if (more == 0 || (more < 0 && errno != EAGAIN && errno != EINTR))
            return MH_ERR_BROKEN;
        got += more > 0 ? (size_t)more : 0;
    }
    return MH_OK;
}

/* All bytes are looked at, so that the time tells nothing. */
static bool is_same(const unsigned char *a, const unsigned char *b, size_t size)
{
    unsigned char differ = 0;
    for (size_t i = 0; i < size; i++)
        differ |= a[i] ^ b[i];
    return differ == 0;
}

static mh_err check_hello(const mesh *m, const hello *h, const unsigned char *secret)
{
    return h->magic == MAGIC && h->count == m->count && is_same(h->secret, secret, MESH_SECRET_SIZE) ? MH_OK : MH_ERR_PERMISSION;
}

static mh_err check_user(int fd)
{
    struct ucred who;
    socklen_t size = sizeof who;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) ? MH_ERR_SYSTEM : who.uid == geteuid() ? MH_OK : MH_ERR_PERMISSION;
}

/* ---- joining --------------------------------------------------------------------------------- */

static void prepare(int fd)
{
    int yes = 1, size = 1 << 20;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* fails on a unix socket, which needs none */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);  /* a hint */
}

static mh_err connect_locally(const char *name, int *out)
{
    socklen_t size;
    struct sockaddr_un a = local_address(name, &size);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mh_err err = fd < 0 ? MH_ERR_SYSTEM : connect(fd, (struct sockaddr *)&a, size) ? MH_ERR_BROKEN : check_user(fd);
    if (err && fd >= 0)
        close(fd);
    else
        *out = fd;
    return err;
}

static mh_err connect_widely(const char *digits, unsigned port, int *out, mh_deadline until)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int problem = 0;
    socklen_t size = sizeof problem;
    if (inet_pton(AF_INET, digits, &a.sin_addr) != 1 || port > 65535)
        return MH_ERR_INVALID;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mh_err err = fd < 0 ? MH_ERR_SYSTEM : MH_OK;
    if (!err && connect(fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS)
        err = MH_ERR_BROKEN;
    if (!err)
        err = wait_for(fd, POLLOUT, until);
    if (!err && (getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size) || problem))
        err = MH_ERR_BROKEN;
    if (err && fd >= 0)
        close(fd);
    else
        *out = fd;
    return err;
}

static mh_err connect_to(mesh *m, uint32_t peer, const char *address, const unsigned char *secret, mh_deadline until)
{
    char own[40], host[40], name[40], digits[40];
    unsigned port;
    int fd = -1;
    hello h = {.magic = MAGIC, .rank = m->rank, .count = m->count}, answer;
    if (!memchr(address, 0, MESH_ADDRESS_SIZE) || sscanf(address, "%39s %39s %39s %u", host, name, digits, &port) != 4)
        return MH_ERR_INVALID;
    mh_err err = read_host(own);
    bool is_here = !err && strcmp(own, host) == 0;
    if (!err)
        err = is_here ? connect_locally(name, &fd) : MH_ERR_BROKEN;
    if (err == MH_ERR_BROKEN) /* another host, or this one's in another network namespace */
        err = connect_widely(digits, port, &fd, until);
    if (err)
        return err;
    prepare(fd);
    memcpy(h.secret, secret, sizeof h.secret);
    err = send_hello(fd, &h);
    if (!err)
        err = receive_hello(fd, &answer, until);
    if (!err)
        err = check_hello(m, &answer, secret);
    if (!err && answer.rank != peer)
        err = MH_ERR_CORRUPT;
    if (err)
        close(fd);
    else
        m->peers[peer] = fd;
    return err;
}

/* One who has connected to us. Who says nothing sensible is turned away, and another may come. */
static mh_err welcome(mesh *m, int listener, const unsigned char *secret, mh_deadline until)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    hello h, answer = {.magic = MAGIC, .rank = m->rank, .count = m->count};
    if (fd < 0)
        return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED ? MH_OK : MH_ERR_SYSTEM;
    prepare(fd);
    mh_deadline soon = mh_deadline_in(5 * MH_SECOND);
    mh_err err = listener == m->local ? check_user(fd) : MH_OK;
    if (!err)
        err = receive_hello(fd, &h, soon < until ? soon : until);
    if (!err)
        err = check_hello(m, &h, secret);
    if (err || h.rank <= m->rank || h.rank >= m->count || m->peers[h.rank] >= 0) {
        close(fd);
        return MH_OK;
    }
    memcpy(answer.secret, secret, sizeof answer.secret);
    err = send_hello(fd, &answer);
    if (err)
        close(fd);
    else
        m->peers[h.rank] = fd;
    return err;
}

static bool has_all(const mesh *m)
{
    for (uint32_t k = 0; k < m->count; k++)
        if (k != m->rank && m->peers[k] < 0)
            return false;
    return true;
}

mh_err mesh_join(mesh *m, uint32_t rank, uint32_t count, const char *addresses, const unsigned char secret[MESH_SECRET_SIZE], mh_deadline until)
{
    if (m->peers || count < 1 || count > MESH_RANKS_MAX || rank >= count)
        return MH_ERR_INVALID;
    m->rank = rank;
    m->count = count;
    m->peers = malloc(count * sizeof *m->peers);
    m->polls = calloc(count, sizeof *m->polls);
    m->flows = calloc(2 * (size_t)count, sizeof *m->flows);
    if (!m->peers || !m->polls || !m->flows)
        return MH_ERR_NO_MEMORY;
    for (uint32_t k = 0; k < count; k++)
        m->peers[k] = -1;
    mh_err err = MH_OK;
    for (uint32_t k = 0; k < rank && !err; k++)
        err = connect_to(m, k, addresses + (size_t)k * MESH_ADDRESS_SIZE, secret, until);
    while (!err && !has_all(m)) {
        struct pollfd both[2] = {{.fd = m->local, .events = POLLIN}, {.fd = m->wide, .events = POLLIN}};
        if (poll(both, 2, 100) < 0 && errno != EINTR)
            err = MH_ERR_SYSTEM;
        for (int i = 0; i < 2 && !err; i++)
            if (both[i].revents)
                err = welcome(m, both[i].fd, secret, until);
        if (!err && mh_now() > until)
            err = MH_ERR_TIMEOUT;
    }
    return err;
}

uint32_t mesh_rank(const mesh *m) { return m->rank; }
uint32_t mesh_count(const mesh *m) { return m->count; }

void mesh_close(mesh **m)
{
    if (!*m)
        return;
    for (uint32_t k = 0; (*m)->peers && k < (*m)->count; k++)
        if ((*m)->peers[k] >= 0)
            close((*m)->peers[k]);
    if ((*m)->local >= 0)
        close((*m)->local);
    if ((*m)->wide >= 0)
        close((*m)->wide);
    free((*m)->peers);
    free((*m)->polls);
    free((*m)->flows);
    free(*m);
    *m = NULL;
}

/* ---- exchanging ------------------------------------------------------------------------------ */

static size_t size_of(const mesh_message *message)
{
    size_t sum = 0;
    for (size_t i = 0; i < message->count; i++)
        sum += message->parts[i].iov_len;
    return sum;
}

static mh_err begin_flow(flow *f, const mesh_message *message, uint64_t number)
{
    if (message->count > MESH_PARTS_MAX)
        return MH_ERR_INVALID;
    *f = (flow){.message = *message, .head = {number, size_of(message)}};
    f->wire = f->head;
    f->is_done = f->head.size == 0;
    return MH_OK;
}

/* What is left of a message, its head first; at most `most` parts. */
static size_t rest_of(flow *f, struct iovec *to, size_t most)
{
    size_t count = 0;
    for (size_t part = f->part; part <= f->message.count && count < most; part++) {
        struct iovec whole = part == 0 ? (struct iovec){&f->wire, sizeof f->wire} : f->message.parts[part - 1];
        size_t skip = part == f->part ? f->offset : 0;
        if (whole.iov_len > skip)
            to[count++] = (struct iovec){(char *)whole.iov_base + skip, whole.iov_len - skip};
    }
    return count;
}

static void advance(flow *f, size_t size)
{
    while (f->part <= f->message.count) {
        size_t whole = f->part == 0 ? sizeof f->wire : f->message.parts[f->part - 1].iov_len, left = whole - f->offset;
        if (size < left) {
            f->offset += size;
            return;
        }
        size -= left;
        f->part++;
        f->offset = 0;
    }
    f->is_done = true;
}

static bool would_block(void) { return errno == EAGAIN || errno == EINTR; }

static mh_err send_some(int fd, flow *f)
{
    struct iovec rest[64];
    struct msghdr message = {.msg_iov = rest, .msg_iovlen = rest_of(f, rest, 64)};
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0)
        return would_block() ? MH_OK : MH_ERR_BROKEN;
    advance(f, (size_t)sent);
    return MH_OK;
}

static mh_err receive_some(int fd, flow *f)
{
    struct iovec rest[64];
    bool is_head = f->part == 0;
    /* the head alone first: only then is it known that what follows is meant for these places */
    struct msghdr message = {.msg_iov = rest, .msg_iovlen = rest_of(f, rest, is_head ? 1 : 64)};
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
    if (got <= 0)
        return got < 0 && would_block() ? MH_OK : MH_ERR_BROKEN;
    advance(f, (size_t)got);
    bool is_wrong = is_head && f->part > 0 && memcmp(&f->wire, &f->head, sizeof f->head) != 0;
    return is_wrong ? MH_ERR_CORRUPT : MH_OK;
}

static mh_err step_peer(mesh *m, uint32_t k)
{
    flow *out = &m->flows[2 * k], *in = out + 1;
    mh_err err = MH_OK;
    if (!out->is_done && m->polls[k].revents & (POLLOUT | POLLERR | POLLHUP))
        err = send_some(m->peers[k], out);
    if (!err && !in->is_done && m->polls[k].revents & (POLLIN | POLLERR | POLLHUP))
        err = receive_some(m->peers[k], in);
    return err;
}

mh_err mesh_exchange(mesh *m, const mesh_message *out, const mesh_message *in, mh_deadline until)
{
    mh_err err = m->peers ? MH_OK : MH_ERR_INVALID;
    for (uint32_t k = 0; k < m->count && !err; k++) {
        const mesh_message none = {NULL, 0};
        err = begin_flow(&m->flows[2 * k], k == m->rank ? &none : &out[k], m->number);
        if (!err)
            err = begin_flow(&m->flows[2 * k + 1], k == m->rank ? &none : &in[k], m->number);
        m->polls[k] = (struct pollfd){.fd = -1, .revents = POLLIN | POLLOUT}; /* at first all are tried */
    }
    m->number++;
    while (!err) {
        uint32_t left = 0;
        for (uint32_t k = 0; k < m->count && !err; k++) {
            flow *to = &m->flows[2 * k], *from = to + 1;
            if (to->is_done && from->is_done)
                continue;
            err = step_peer(m, k);
            bool is_done = to->is_done && from->is_done;
            m->polls[k].fd = is_done ? -1 : m->peers[k];
            m->polls[k].events = (short)((to->is_done ? 0 : POLLOUT) | (from->is_done ? 0 : POLLIN));
            m->polls[k].revents = 0;
            left += !is_done;
        }
        if (err || left == 0)
            break;
        int ready = poll(m->polls, m->count, 1000);
        if (ready < 0 && errno != EINTR)
            err = MH_ERR_SYSTEM;
        else if (ready <= 0 && mh_now() > until)
            err = MH_ERR_TIMEOUT;
    }
    return err;
}
