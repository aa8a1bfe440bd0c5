/* Sockets, parcels, the loop and keys, with real connections on this host. */
#include "base/number.h"
#include "net/loop.h"
#include "net/seal.h"
#include "net/sign.h"
#include "net/socket.h"
#include "os/fd.h"
#include "os/file.h"
#include "os/signals.h"

#include "mh_test.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static mh_deadline soon(void) { return mh_deadline_in(20 * MH_SECOND); }

/* ---- keys ------------------------------------------------------------------------------------ */

/* RFC 4231, test case 2 and 3 (the latter in several parts). */
static void signs_as_the_standard_says(void **state)
{
    (void)state;
    static const char *const expected[] = {"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                                           "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"};
    char long_key[21], data[51];
    memset(long_key, 0xaa, 20);
    memset(data, 0xdd, 50);
    const mh_bytes keys[] = {MH__TEXT("Jefe"), {long_key, 20}};
    const mh_bytes parts[][4] = {{MH__TEXT("what do ya "), MH__TEXT("want"), MH__TEXT(" for nothing?"), {"", 0}},
                                 {{data, 1}, {data, 30}, {data, 0}, {data, 19}}};
    for (int i = 0; i < 2; i++) {
        mh__sign_key *k = NULL;
        assert_ok(mh__sign_key_create(&k, keys[i]));
        mh__signer signer = mh__sign_key_signer(k);
        for (int round = 0; round < 2; round++) { /* the second time with the state that the first left */
            uint8_t digest[32];
            char hex[65];
            signer.digest(parts[i], 4, digest, signer.ctx);
            for (int j = 0; j < 32; j++)
                snprintf(hex + 2 * j, 3, "%02x", digest[j]);
            assert_string_equal(hex, expected[i]);
        }
        mh__sign_key_destroy(&k);
    }
    assert_null(mh__sign_key_signer(NULL).digest);
    char a[MH__SECRET_SIZE], b[MH__SECRET_SIZE];
    assert_ok(mh__secret_create(a));
    assert_ok(mh__secret_create(b));
    assert_int_equal(strlen(a), 64);
    assert_string_not_equal(a, b);
}

/* Digests go into the metadata, and only what they are of is believed. */
static void seals_buffers(void **state)
{
    (void)state;
    static const char abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; /* of FIPS 180 */
    mh__sign_key *k = NULL;
    mh__parcel *p = NULL, *other = NULL;
    mh__message m;
    mh__built built;
    assert_ok(mh__sign_key_create(&k, MH__TEXT("key")));
    mh__session s = {.signer = mh__sign_key_signer(k), .id = "session"};
    assert_ok(mh__session_build(&s, &(mh__draft){.type = "apply_request", .metadata = MH__TEXT("{\"x_buf\":[],\"retries\":2}")}, &built));
    assert_ok(mh__parcel_create(&p));
    assert_ok(mh__parcel_create(&other));
    assert_ok(mh__parcel_add(p, MH__TEXT("somebody")));
    for (int i = 0; i < MH__FRAMES_SIGNED; i++)
        assert_ok(mh__parcel_add(p, built.frames[i]));
    assert_ok(mh__parcel_add(p, MH__TEXT("abc")));
    assert_ok(mh__parcel_add(p, MH__TEXT("")));
    assert_ok(mh__seal_add(&s, p)); /* not strict: nothing happens, and nothing is asked for */
    assert_ok(mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &m));
    assert_ok(mh__seal_check(&s, &m));
    assert_null(memmem(m.metadata.data, m.metadata.size, abc, 64));
    s.is_strict = true;
    assert_err(mh__seal_check(&s, &m), MH_ERR_PERMISSION);
    for (int i = 0; i < 2; i++) { /* the second time it has them */
        assert_ok(mh__seal_add(&s, p));
        assert_ok(mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &m));
        assert_ok(mh__message_verify(&m, &s.signer));
        assert_ok(mh__seal_check(&s, &m));
        assert_non_null(memmem(m.metadata.data, m.metadata.size, abc, 64));
        assert_non_null(memmem(m.metadata.data, m.metadata.size, "\"retries\":2", 11));
        assert_int_equal(m.buffer_count, 2);
        assert_true(mh__bytes_are(m.idents[0], "somebody"));
    }
    assert_ok(mh__parcel_share(other, p, 0, mh__parcel_count(p) - 2)); /* swapped */
    assert_ok(mh__parcel_add(other, MH__TEXT("")));
    assert_ok(mh__parcel_add(other, MH__TEXT("abc")));
    assert_ok(mh__message_split(mh__parcel_frames(other), mh__parcel_count(other), &m));
    assert_ok(mh__message_verify(&m, &s.signer));
    assert_err(mh__seal_check(&s, &m), MH_ERR_PERMISSION);
    mh__parcel_clear(other); /* one left out */
    assert_ok(mh__parcel_share(other, p, 0, mh__parcel_count(p) - 1));
    assert_ok(mh__message_split(mh__parcel_frames(other), mh__parcel_count(other), &m));
    assert_err(mh__seal_check(&s, &m), MH_ERR_PERMISSION);
    mh__parcel_clear(other);
    assert_ok(mh__parcel_add(other, MH__TEXT("no message")));
    assert_err(mh__seal_add(&s, other), MH_ERR_CORRUPT);
    mh__parcel_destroy(&p);
    mh__parcel_destroy(&other);
    mh__sign_key_destroy(&k);
}

/* ---- parcels --------------------------------------------------------------------------------- */

static int released;
static void count_release(void *data, void *ctx)
{
    (void)data;
    assert_ptr_equal(ctx, &released);
    released++;
}

static void parcels_own_their_frames(void **state)
{
    (void)state;
    mh__parcel *p = NULL, *q = NULL;
    mh_buf *buf = NULL;
    static char large[5000] = "large";
    assert_ok(mh__parcel_create(&p));
    assert_ok(mh__parcel_create(&q));
    for (int i = 0; i < 100; i++) /* small ones hold their bytes: their views follow them when the parcel grows */
        assert_ok(mh__parcel_add(p, (mh_bytes){large, (size_t)i}));
    assert_ok(mh__parcel_lend(p, (mh_bytes){large, sizeof large}, count_release, &released));
    assert_ok(mh_buf_copy(&buf, MH__TEXT("given")));
    assert_ok(mh__parcel_give(p, &buf));
    assert_null(buf);
    assert_int_equal(mh__parcel_count(p), 102);
    assert_int_equal(mh__parcel_bytes(p), 99 * 100 / 2 + 5000 + 5);
    for (size_t i = 0; i < 100; i++)
        assert_memory_equal(mh__parcel_frames(p)[i].data, large, i);
    assert_ok(mh__parcel_share(q, p, 98, 4));
    mh__parcel_destroy(&p);
    assert_int_equal(released, 0); /* still shared */
    assert_int_equal(mh__parcel_count(q), 4);
    assert_memory_equal(mh__parcel_frames(q)[2].data, large, sizeof large);
    assert_memory_equal(mh__parcel_frames(q)[3].data, "given", 5);
    assert_ok(mh__parcel_create(&p));
    mh__parcel_move(p, q);
    assert_int_equal(mh__parcel_count(q), 0);
    assert_int_equal(mh__parcel_count(p), 4);
    mh__parcel_destroy(&q);
    mh__parcel_destroy(&p);
    assert_int_equal(released, 1);
    mh__parcel_destroy(&p);
}

/* Whoever watches a frame is told when nothing needs it any more, once. */
static void parcels_tell_when_they_are_gone(void **state)
{
    (void)state;
    mh__parcel *p = NULL, *q = NULL;
    released = 0;
    assert_ok(mh__parcel_create(&p));
    assert_ok(mh__parcel_create(&q));
    assert_ok(mh__parcel_add(p, MH__TEXT("to whom")));
    assert_ok(mh__parcel_add(p, MH__TEXT("what")));
    assert_err(mh__parcel_watch(p, 2, count_release, &released), MH_ERR_INVALID);
    assert_ok(mh__parcel_watch(p, 1, count_release, &released));
    assert_memory_equal(mh__parcel_frames(p)[1].data, "what", 4);
    assert_int_equal(mh__parcel_bytes(p), 11);
    for (int i = 0; i < 50; i++) /* it moves as the parcel grows */
        assert_ok(mh__parcel_add(p, MH__TEXT("more")));
    assert_ok(mh__parcel_share(q, p, 0, 2));
    mh__parcel_destroy(&p);
    assert_int_equal(released, 0);
    mh__parcel_destroy(&q);
    assert_int_equal(released, 1);
}

/* ---- sockets --------------------------------------------------------------------------------- */

typedef struct box {
    int count, accepted, gone, refused, connection, last_gone, excess;
    char text[64], from[64];
    mh__parcel *last;
} box;

static void take(mh__socket *s, mh__parcel *p, void *ctx)
{
    (void)s;
    box *b = ctx;
    b->count++;
    b->connection = mh__parcel_connection(p);
    mh_bytes last = mh__parcel_frames(p)[mh__parcel_count(p) - 1], first = mh__parcel_frames(p)[0];
    snprintf(b->text, sizeof b->text, "%.*s", (int)last.size, (const char *)last.data);
    snprintf(b->from, sizeof b->from, "%.*s", (int)first.size, (const char *)first.data);
    if (b->last)
        mh__parcel_move(b->last, p);
}

static void note_peer(mh__socket *s, mh__peer_event event, int connection, void *ctx)
{
    (void)s;
    box *b = ctx;
    b->accepted += event == MH__PEER_ACCEPTED;
    b->gone += event == MH__PEER_GONE;
    b->refused += event == MH__PEER_REFUSED;
    b->excess += event == MH__PEER_EXCESS;
    if (event == MH__PEER_GONE)
        b->last_gone = connection;
}

static void run_until(mh__loop *l, const int *value, int wanted)
{
    for (mh_deadline until = soon(); *value < wanted;) {
        assert_ok(mh__loop_wait(l, until));
        mh__loop_dispatch(l);
    }
}

static mh__socket *open_socket(mh__loop *l, mh__socket_options o)
{
    mh__socket *s = NULL;
    assert_ok(mh__socket_open(&s, l, &o));
    return s;
}

static void connect_to(mh__socket *s, uint16_t port)
{
    char url[64];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", port);
    assert_ok(mh__socket_connect(s, url));
}

static mh_err say(mh__socket *s, const char *to, const char *text)
{
    mh__parcel *p = NULL;
    assert_ok(mh__parcel_create(&p));
    if (to)
        assert_ok(mh__parcel_add(p, mh__text(to)));
    assert_ok(mh__parcel_add(p, mh__text(text)));
    size_t count = mh__parcel_count(p);
    mh_err err = mh__socket_send(s, p);
    assert_int_equal(mh__parcel_count(p), err ? count : 0); /* unchanged on failure, so that it can be sent again */
    mh__parcel_destroy(&p);
    return err;
}

/* As an engine does: a ROUTER with an identity connects to a ROUTER with an identity. */
static void routers_reach_each_other(void **state)
{
    (void)state;
    mh__loop *l = NULL;
    box at_hub = {0}, at_engine = {0};
    uint16_t port = 0;
    assert_ok(mh__loop_create(&l));
    mh__socket *hub = open_socket(l, (mh__socket_options){.kind = MH__ROUTER, .identity = MH__TEXT("mux_out"), .on_message = take,
                                                          .on_peer = note_peer, .ctx = &at_hub});
    assert_ok(mh__socket_bind(hub, "tcp://127.0.0.1", &port));
    assert_true(port > 0);
    assert_err(say(hub, "engine", "too early"), MH_ERR_NOT_FOUND);
    mh__socket *engine =
        open_socket(l, (mh__socket_options){.kind = MH__ROUTER, .identity = MH__TEXT("engine"), .on_message = take, .ctx = &at_engine});
    connect_to(engine, port);
    mh_deadline until = soon();
    while (say(hub, "engine", "task")) {
        assert_true(mh_now() < until);
        (void)!mh__loop_wait(l, mh_deadline_in(MH_MILLISECOND));
        mh__loop_dispatch(l);
    }
    run_until(l, &at_engine.count, 1);
    assert_string_equal(at_engine.text, "task");
    assert_string_equal(at_engine.from, "mux_out");
    assert_ok(say(engine, "mux_out", "result"));
    run_until(l, &at_hub.count, 1);
    assert_string_equal(at_hub.text, "result");
    assert_string_equal(at_hub.from, "engine");
    assert_int_equal(at_hub.accepted, 1);
    /* more than one round takes; none is lost, none comes twice */
    for (int i = 0; i < 1000; i++)
        assert_ok(say(engine, "mux_out", "more"));
    run_until(l, &at_hub.count, 1001);
    /* a connection that ends is named as its messages were */
    int connection = at_hub.connection;
    mh__socket_close(&engine);
    run_until(l, &at_hub.gone, 1);
    assert_int_equal(at_hub.last_gone, connection);
    assert_int_equal(at_hub.count, 1001);
    /* the watch may tell of it a moment before the socket itself knows */
    for (until = soon(); say(hub, "engine", "too late") != MH_ERR_NOT_FOUND;) {
        assert_true(mh_now() < until);
        (void)!mh__loop_wait(l, mh_deadline_in(MH_MILLISECOND));
        mh__loop_dispatch(l);
    }
    mh__socket_close(&hub);
    mh__socket_close(&hub);
    mh__loop_destroy(&l);
    mh__loop_destroy(&l);
}

static void limits_what_waits(void **state)
{
    (void)state;
    mh__loop *l = NULL;
    uint16_t port = 0;
    box b = {0};
    assert_ok(mh__loop_create(&l));
    mh__socket *hub = open_socket(l, (mh__socket_options){.kind = MH__ROUTER, .send_high_water = 10, .linger_ms = -1, .on_message = take, .ctx = &b});
    assert_ok(mh__socket_bind(hub, "tcp://127.0.0.1", &port));
    mh__socket *idle = open_socket(l, (mh__socket_options){.kind = MH__DEALER, .identity = MH__TEXT("idle"), .receive_high_water = 10, .linger_ms = -1});
    connect_to(idle, port);
    assert_ok(say(idle, NULL, "here"));
    run_until(l, &b.count, 1);
    static char large[1 << 16];
    mh__parcel *p = NULL;
    assert_ok(mh__parcel_create(&p));
    mh_err err = MH_OK;
    for (int i = 0; i < 100000 && !err; i++) { /* the peer does not read */
        assert_ok(mh__parcel_add(p, MH__TEXT("idle")));
        assert_ok(mh__parcel_add(p, (mh_bytes){large, sizeof large}));
        err = mh__socket_send(hub, p);
    }
    assert_int_equal(err, MH_ERR_FULL);
    assert_int_equal(mh__parcel_count(p), 2);
    mh__parcel_destroy(&p);
    mh__socket_close(&idle);
    mh__socket_close(&hub);
    mh__loop_destroy(&l);
}

/* A peer that announces a frame over the limit is cut off before its bytes come. */
static void cuts_off_who_announces_too_much(void **state)
{
    (void)state;
    static const unsigned char greeting[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'};
    static const unsigned char ready[] = {4, 27, 5, 'R', 'E', 'A', 'D', 'Y', 11, 'S', 'o', 'c', 'k', 'e', 't', '-', 'T', 'y', 'p', 'e',
                                          0, 0, 0, 6, 'D', 'E', 'A', 'L', 'E', 'R'};
    static const unsigned char huge[] = {2, 0, 0, 0, 1, 0, 0, 0, 0, 'x'}; /* a frame of 4 GiB */
    mh__loop *l = NULL;
    uint16_t port = 0;
    box b = {0};
    assert_ok(mh__loop_create(&l));
    mh__socket *hub = open_socket(l, (mh__socket_options){.kind = MH__ROUTER, .frame_bytes_max = 1 << 20, .on_message = take,
                                                          .on_peer = note_peer, .ctx = &b});
    assert_ok(mh__socket_bind(hub, "tcp://127.0.0.1", &port));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    unsigned char handshake[sizeof ready];
    memcpy(handshake, ready, sizeof ready);
    handshake[1] = sizeof ready - 2;
    assert_int_equal(write(fd, greeting, sizeof greeting), sizeof greeting);
    assert_int_equal(write(fd, handshake, sizeof handshake), sizeof handshake);
    assert_int_equal(write(fd, huge, sizeof huge), sizeof huge);
    run_until(l, &b.gone, 1);
    assert_int_equal(b.count, 0);
    close(fd);
    mh__socket_close(&hub);
    mh__loop_destroy(&l);
}

static int connect_raw(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* As many as may connect do; the next is cut off, and those that are there go on; when one leaves there is room for another. */
static void limits_connections(void **state)
{
    (void)state;
    mh__loop *l = NULL;
    uint16_t ports[2] = {0};
    box b[2] = {{0}};
    mh__connection_budget budget = {.max = 4};
    mh__socket *hubs[2];
    assert_ok(mh__loop_create(&l));
    for (int i = 0; i < 2; i++) {
        hubs[i] = open_socket(l, (mh__socket_options){.kind = MH__ROUTER, .connections_max = 3, .budget = &budget, .on_message = take,
                                                      .on_peer = note_peer, .ctx = &b[i]});
        assert_ok(mh__socket_bind(hubs[i], "tcp://127.0.0.1", &ports[i]));
    }
    mh__socket *peer = open_socket(l, (mh__socket_options){.kind = MH__DEALER, .identity = MH__TEXT("first")});
    char url[64];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", ports[0]);
    assert_ok(mh__socket_connect(peer, url));
    run_until(l, &b[0].accepted, 1);
    int fds[3] = {connect_raw(ports[0]), connect_raw(ports[0])};
    run_until(l, &b[0].accepted, 3);
    char byte;
    int excess = connect_raw(ports[0]);
    run_until(l, &b[0].gone, 1);
    while (read(excess, &byte, 1) > 0) /* libzmq may have greeted it */
        continue;
    close(excess);
    assert_int_equal(b[0].excess, 1);
    fds[2] = connect_raw(ports[1]);
    run_until(l, &b[1].accepted, 1);
    excess = connect_raw(ports[1]); /* below its own limit, but not below that of both */
    run_until(l, &b[1].gone, 1);
    assert_int_equal(b[1].excess, 1);
    close(excess);
    assert_int_equal(budget.used, 4);
    mh__parcel *p = NULL;
    assert_ok(mh__parcel_create(&p));
    assert_ok(mh__parcel_add(p, MH__TEXT("still here")));
    assert_ok(mh__socket_send(peer, p));
    run_until(l, &b[0].count, 1);
    assert_string_equal(b[0].text, "still here");
    close(fds[0]);
    run_until(l, &b[0].gone, 2);
    fds[0] = connect_raw(ports[0]);
    run_until(l, &b[0].accepted, 4);
    mh__parcel_destroy(&p);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    mh__socket_close(&peer);
    for (int i = 0; i < 2; i++)
        mh__socket_close(&hubs[i]);
    mh__loop_destroy(&l);
}

/* What is not a connection to the port keeps what it has. */
static void cuts_connections_to_its_port_only(void **state)
{
    (void)state;
    int fds[2];
    char byte = 1;
    assert_ok(mh__os_socketpair_stream(fds));
    mh__os_socket_cut(fds[0], 80);
    mh__os_socket_cut(STDERR_FILENO, 80);
    mh__os_socket_cut(-1, 80);
    assert_int_equal(write(fds[0], &byte, 1), 1);
    assert_int_equal(read(fds[1], &byte, 1), 1);
    mh__os_close(&fds[0]);
    mh__os_close(&fds[1]);
    assert_true(mh__os_fd_limit_raise() >= 64);
}

static void listens_where_it_is_safe(void **state)
{
    (void)state;
    static const struct {
        const char *interface_;
        mh_err err;
    } table[] = {
        {"tcp://127.0.0.1", MH_OK},          {"tcp://0.0.0.0", MH_ERR_PERMISSION}, {"tcp://*", MH_ERR_PERMISSION},
        {"tcp://[::]", MH_ERR_PERMISSION}, {"tcp://192.0.2.1", MH_ERR_PERMISSION}, {"tcp://128.0.0.1", MH_ERR_PERMISSION},
    };
    mh__loop *l = NULL;
    assert_ok(mh__loop_create(&l));
    for (size_t i = 0; i < MH__COUNT_OF(table); i++) {
        uint16_t port = 0;
        mh__socket *s = open_socket(l, (mh__socket_options){.kind = MH__PUB});
        assert_err(mh__socket_bind(s, table[i].interface_, &port), table[i].err);
        mh__socket_close(&s);
    }
    mh__curve_pair server, client;
    assert_ok(mh__curve_pair_create(&server));
    assert_ok(mh__curve_pair_create(&client));
    mh__curve_pair again = {.secret_key = {0}};
    strcpy(again.secret_key, server.secret_key);
    assert_ok(mh__curve_pair_complete(&again));
    assert_string_equal(again.public_key, server.public_key);
    uint16_t port = 0, taken;
    box b = {0};
    mh__socket *s = open_socket(l, (mh__socket_options){.kind = MH__ROUTER, .curve_secret = server.secret_key, .on_message = take, .ctx = &b});
    assert_ok(mh__socket_bind(s, "tcp://0.0.0.0", &port));
    taken = port;
    mh__socket *other = open_socket(l, (mh__socket_options){.kind = MH__ROUTER, .curve_secret = server.secret_key});
    assert_err(mh__socket_bind(other, "tcp://0.0.0.0", &taken), MH_ERR_EXISTS);
    /* who doesn't know the server's key never gets a word through; who does, does */
    mh__socket *plain = open_socket(l, (mh__socket_options){.kind = MH__DEALER, .linger_ms = -1});
    connect_to(plain, port);
    assert_ok(say(plain, NULL, "plain"));
    mh__socket *known = open_socket(l, (mh__socket_options){.kind = MH__DEALER, .curve_server = server.public_key,
                                                            .curve_public = client.public_key, .curve_own_secret = client.secret_key});
    connect_to(known, port);
    assert_ok(say(known, NULL, "secret"));
    run_until(l, &b.count, 1);
    assert_string_equal(b.text, "secret");
    mh__socket_close(&plain);
    mh__socket_close(&known);
    mh__socket_close(&other);
    mh__socket_close(&s);
    assert_err(mh__socket_open(&s, l, &(mh__socket_options){.kind = 9}), MH_ERR_INVALID);
    mh__loop_destroy(&l);
}

static void publishes_and_subscribes(void **state)
{
    (void)state;
    char folder[] = "/tmp/mh-net-XXXXXX", interface_[64], url[80];
    assert_non_null(mkdtemp(folder));
    snprintf(interface_, sizeof interface_, "ipc://%s/s", folder);
    mh__loop *l = NULL;
    uint16_t port = 0, second = 0;
    box subscriptions = {0}, b = {0};
    assert_ok(mh__loop_create(&l));
    mh__socket *pub = open_socket(l, (mh__socket_options){.kind = MH__XPUB, .on_message = take, .ctx = &subscriptions});
    assert_ok(mh__socket_bind(pub, interface_, &port));
    mh__socket *another = open_socket(l, (mh__socket_options){.kind = MH__PUB});
    assert_ok(mh__socket_bind(another, interface_, &second));
    assert_true(port == 1 && second == 2); /* a name that is taken is never taken over */
    mh__socket *sub = open_socket(l, (mh__socket_options){.kind = MH__SUB, .on_message = take, .ctx = &b});
    assert_ok(mh__socket_subscribe(sub, MH__TEXT("wanted")));
    snprintf(url, sizeof url, "%s-%u", interface_, port);
    assert_ok(mh__socket_connect(sub, url));
    run_until(l, &subscriptions.count, 1);
    assert_ok(say(pub, "other", "1"));
    assert_ok(say(pub, "wanted.x", "2"));
    run_until(l, &b.count, 1);
    assert_string_equal(b.text, "2");
    mh__socket_close(&sub);
    mh__socket_close(&another);
    mh__socket_close(&pub);
    mh__loop_destroy(&l);
    snprintf(url, sizeof url, "rm -r %s", folder);
    assert_int_equal(system(url), 0);
}

/* ---- the loop -------------------------------------------------------------------------------- */

typedef struct rig {
    mh__loop *loop;
    mh__alarm timers[3];
    char order[8];
    int fired, signal;
} rig;

static void fire_0(void *ctx)
{
    rig *r = ctx;
    r->order[r->fired++] = '0';
}
static void fire_1(void *ctx)
{
    rig *r = ctx;
    r->order[r->fired++] = '1';
    mh__alarm_clear(r->loop, &r->timers[2]);
    if (r->fired < 4)
        mh__alarm_set(r->loop, &r->timers[1], mh_deadline_in(MH_MILLISECOND));
}

static void timers_fire_in_order(void **state)
{
    (void)state;
    rig r = {0};
    assert_ok(mh__loop_create(&r.loop));
    for (int i = 0; i < 3; i++)
        r.timers[i] = (mh__alarm){.fn = i == 1 ? fire_1 : fire_0, .ctx = &r};
    mh__alarm_set(r.loop, &r.timers[1], mh_deadline_in(3 * MH_MILLISECOND));
    mh__alarm_set(r.loop, &r.timers[2], mh_deadline_in(3600 * MH_SECOND));
    mh__alarm_set(r.loop, &r.timers[0], mh_deadline_in(3600 * MH_SECOND));
    mh__alarm_set(r.loop, &r.timers[0], mh_deadline_in(MH_MILLISECOND)); /* moved */
    run_until(r.loop, &r.fired, 4);
    assert_string_equal(r.order, "0111");
    mh__alarm_clear(r.loop, &r.timers[2]);
    assert_err(mh__loop_wait(r.loop, MH_NOW), MH_ERR_TIMEOUT);
    mh__loop_destroy(&r.loop);
}

static void take_signal(int fd, void *ctx)
{
    rig *r = ctx;
    r->signal = mh__os_signals_take(fd);
    mh__loop_remove_fd(r->loop, fd);
}

static void signals_come_through_the_loop(void **state)
{
    (void)state;
    static const int wanted[] = {SIGUSR1, SIGTERM};
    rig r = {0};
    int fd = -1;
    assert_ok(mh__loop_create(&r.loop));
    assert_ok(mh__os_signals_open(&fd, wanted, 2));
    assert_ok(mh__loop_add_fd(r.loop, fd, take_signal, &r));
    assert_int_equal(mh__os_signals_take(fd), 0);
    kill(getpid(), SIGTERM);
    run_until(r.loop, &r.signal, 1);
    assert_int_equal(r.signal, SIGTERM);
    assert_err(mh__loop_wait(r.loop, MH_NOW), MH_ERR_TIMEOUT);
    mh__loop_destroy(&r.loop);
    mh__os_signals_close(&fd, wanted, 2);
}

static void leaves_nothing_open(void **state)
{
    (void)state;
    int before = mh__os_fd_count();
    routers_reach_each_other(NULL);
    publishes_and_subscribes(NULL);
    assert_int_equal(mh__os_fd_count(), before);
}

/* ---- private files (os/file.h), which the controller's keys lie in ---------------------------- */

static void private_files_are_private(void **state)
{
    (void)state;
    char folder[] = "/tmp/mh-file-XXXXXX", path[64], link_[64], deep[80], command[80];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/f", folder);
    snprintf(link_, sizeof link_, "%s/l", folder);
    snprintf(deep, sizeof deep, "%s/a/b/c", folder);
    mode_t old = umask(0);
    mh_buf *got = NULL;
    struct stat st;
    assert_ok(mh__os_folder_make(deep));
    assert_ok(mh__os_folder_make(deep));
    assert_int_equal(stat(deep, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_ok(mh__os_file_write_private(path, MH__TEXT("one")));
    assert_ok(mh__os_file_write_private(path, MH__TEXT("second")));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_ok(mh__os_file_read_private(&got, path, 100));
    assert_int_equal(mh_buf_size(got), 6);
    assert_memory_equal(mh_buf_data(got), "second", 6);
    mh_buf_destroy(&got);
    assert_err(mh__os_file_read_private(&got, path, 5), MH_ERR_TOO_LARGE);
    assert_int_equal(symlink(path, link_), 0);
    assert_err(mh__os_file_read_private(&got, link_, 100), MH_ERR_PERMISSION);
    assert_err(mh__os_file_read_private(&got, folder, 100), MH_ERR_PERMISSION);
    assert_int_equal(chmod(path, 0640), 0);
    assert_err(mh__os_file_read_private(&got, path, 100), MH_ERR_PERMISSION);
    assert_err(mh__os_file_read_private(&got, "/nowhere/f", 100), MH_ERR_NOT_FOUND);
    assert_err(mh__os_file_write_private("/nowhere/f", MH__TEXT("x")), MH_ERR_NOT_FOUND);
    assert_err(mh__os_folder_make(path), MH_ERR_INVALID);
    assert_ok(mh__os_file_unlink(path));
    assert_ok(mh__os_file_unlink(path));
    assert_false(mh__os_path_exists(path));
    umask(old);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signs_as_the_standard_says),
        cmocka_unit_test(parcels_own_their_frames),
        cmocka_unit_test(seals_buffers),
        cmocka_unit_test(parcels_tell_when_they_are_gone),
        cmocka_unit_test(routers_reach_each_other),
        cmocka_unit_test(limits_what_waits),
        cmocka_unit_test(cuts_off_who_announces_too_much),
        cmocka_unit_test(limits_connections),
        cmocka_unit_test(cuts_connections_to_its_port_only),
        cmocka_unit_test(listens_where_it_is_safe),
        cmocka_unit_test(publishes_and_subscribes),
        cmocka_unit_test(timers_fire_in_order),
        cmocka_unit_test(signals_come_through_the_loop),
        cmocka_unit_test(leaves_nothing_open),
        cmocka_unit_test(private_files_are_private),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
