/* Fast lanes over a pair of sockets: records both ways, and peers that say what is not valid. */
#include "net/lane.h"
#include "net/lent.h"
#include "os/fd.h"
#include "os/file.h"
#include "os/unix.h"

#include "mh_test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static mh_bytes text(const char *s) { return (mh_bytes){s, strlen(s)}; }

typedef struct side {
    mh__lane *lane;
    int records, greetings, ends;
    char last[64], why[200];
} side;

static void on_record(mh__lane *l, const mh__fast_record *r, void *ctx)
{
    side *s = ctx;
    (void)l;
    s->greetings += r->kind == MH__FAST_GREETING;
    s->records += r->kind != MH__FAST_GREETING;
    if (r->kind != MH__FAST_GREETING && r->frame_count)
        snprintf(s->last, sizeof s->last, "%.*s", (int)r->parts[r->ident_count].size, (const char *)r->parts[r->ident_count].data);
}

static void on_end(mh__lane *l, const char *why, void *ctx)
{
    side *s = ctx;
    (void)l;
    s->ends++;
    snprintf(s->why, sizeof s->why, "%s", why);
    mh__lane_close(&s->lane);
}

static void turn(mh__loop *loop)
{
    (void)!mh__loop_wait(loop, mh_deadline_in(MH_SECOND));
    mh__loop_dispatch(loop);
}

static void make_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static void open_side(side *s, mh__loop *loop, int *fd, bool is_listener, const char *key)
{
    *s = (side){0};
    assert_ok(mh__lane_open(&s->lane, loop, fd, &(mh__lane_options){.key = text(key), .is_listener = is_listener, .on_record = on_record, .on_end = on_end,
                                                                    .ctx = s}));
    assert_int_equal(*fd, -1);
}

static mh__fast_record record(const char *frame)
{
    return (mh__fast_record){.kind = MH__FAST_REQUEST, .frame_count = 1, .parts = {text(frame)}};
}

static void records_go_both_ways(void **state)
{
    (void)state;
    mh__loop *loop = NULL;
    side a, b;
    int fds[2];
    static char large[200000];
    assert_ok(mh__loop_create(&loop));
    make_pair(fds);
    open_side(&a, loop, &fds[0], true, "key");
    open_side(&b, loop, &fds[1], false, "key");
    while (!b.greetings)
        turn(loop);
    mh__fast_record r = record("one"), big = {.kind = MH__FAST_REPLY, .ident_count = 1, .frame_count = 1, .parts = {text("id"), {large, sizeof large}}};
    for (int i = 0; i < 1000; i++)
        assert_ok(mh__lane_add(b.lane, &r));
    assert_true(mh__lane_flush(b.lane));
    while (a.records < 1000)
        turn(loop);
    assert_string_equal(a.last, "one");
    for (int i = 0; i < 200; i++) /* 40 MB: more than a frame and than the kernel takes at once */
        assert_ok(mh__lane_add(a.lane, &big));
    (void)mh__lane_flush(a.lane);
    while (b.records < 200)
        turn(loop);
    big.parts[1].size = MH__FAST_RECORD_MAX;
    assert_err(mh__lane_add(a.lane, &big), MH_ERR_TOO_LARGE);
    big.parts[1].size = sizeof large;
    mh_err err = MH_OK;
    for (int i = 0; i < 1000 && !err; i++)
        err = mh__lane_add(a.lane, &big);
    assert_err(err, MH_ERR_FULL);
    mh__lane_pause(b.lane, true);
    mh__lane_close(&a.lane);
    mh__lane_pause(b.lane, false);
    while (!b.ends)
        turn(loop);
    assert_null(b.lane);
    mh__loop_destroy(&loop);
}

/* Frames made here, by somebody with or without the key. */
static size_t make_frame(uint8_t *to, const char *key, uint64_t number, bool from_listener, mh__fast_record *r)
{
    static const uint8_t nonce[MH__FAST_NONCE_SIZE] = "0123456789abcdef";
    mh__sign_key *k = NULL;
    size_t size = mh__fast_size(r);
    uint32_t words[2] = {(uint32_t)size, 0};
    mh__fast_write(r, to + MH__FAST_HEAD);
    memcpy(to, words, sizeof words);
    assert_ok(mh__sign_key_create(&k, text(key)));
    mh__signer signer = mh__sign_key_signer(k);
    mh__fast_mac(&signer, &(mh__fast_mac_input){r->kind == MH__FAST_GREETING ? (const uint8_t[MH__FAST_NONCE_SIZE]){0} : nonce, from_listener, number},
                 (mh_bytes){to + MH__FAST_HEAD, size}, to + sizeof words);
    mh__sign_key_destroy(&k);
    return MH__FAST_HEAD + size;
}

static void what_is_not_valid_ends_the_lane(void **state)
{
    (void)state;
    enum { RIGHT, FORGED, REPLAYED, HUGE, TORN, NO_RECORD, GREETED_TWICE, ALL };
    static const char *const whys[ALL] = {"closed", "MAC", "MAC", "4294967295", "closed", "parts", "turn"};
    for (int how = 0; how < ALL; how++) {
        mh__loop *loop = NULL;
        side s;
        int fds[2];
        uint8_t bytes[4][512];
        size_t sizes[3];
        mh__fast_record greeting = {.kind = MH__FAST_GREETING, .ident_count = 1, .parts = {{"0123456789abcdef", 16}}}, r = record("right");
        assert_ok(mh__loop_create(&loop));
        make_pair(fds);
        open_side(&s, loop, &fds[1], false, "key");
        sizes[0] = make_frame(bytes[0], "key", 0, true, &greeting);
        sizes[1] = make_frame(bytes[1], how == FORGED ? "other" : "key", 1, true, &r);
        sizes[2] = make_frame(bytes[2], "key", how == REPLAYED ? 1 : 2, true, how == GREETED_TWICE ? &greeting : &r);
        if (how == GREETED_TWICE) { /* under the number that holds now */
            greeting.kind = MH__FAST_REQUEST;
            sizes[2] = make_frame(bytes[2], "key", 2, true, &greeting);
            bytes[2][MH__FAST_HEAD + 4] = MH__FAST_GREETING;
            mh__sign_key *k = NULL;
            assert_ok(mh__sign_key_create(&k, text("key")));
            mh__signer signer = mh__sign_key_signer(k);
            mh__fast_mac(&signer, &(mh__fast_mac_input){(const uint8_t *)"0123456789abcdef", true, 2}, (mh_bytes){bytes[2] + MH__FAST_HEAD, sizes[2] - MH__FAST_HEAD},
                         bytes[2] + 8);
            mh__sign_key_destroy(&k);
        }
        if (how == HUGE)
            memset(bytes[2], 0xff, 4);
        if (how == TORN)
            sizes[2] -= 3;
        if (how == NO_RECORD) {
            memset(bytes[2] + MH__FAST_HEAD + 6, 0xff, 6);
            mh__sign_key *k = NULL;
            assert_ok(mh__sign_key_create(&k, text("key")));
            mh__signer signer = mh__sign_key_signer(k);
            mh__fast_mac(&signer, &(mh__fast_mac_input){(const uint8_t *)"0123456789abcdef", true, 2}, (mh_bytes){bytes[2] + MH__FAST_HEAD, sizes[2] - MH__FAST_HEAD},
                         bytes[2] + 8);
            mh__sign_key_destroy(&k);
        }
        for (int i = 0; i < 3; i++)
            assert_int_equal(write(fds[0], bytes[i], sizes[i]), sizes[i]);
        close(fds[0]);
        while (!s.ends)
            turn(loop);
        assert_int_equal(s.greetings, 1);
        assert_int_equal(s.records, how == RIGHT ? 2 : how == FORGED ? 0 : 1);
        if (!strstr(s.why, whys[how]))
            printf("# case %d: %s\n", how, s.why);
        assert_non_null(strstr(s.why, whys[how]));
        mh__loop_destroy(&loop);
    }
}

/* ---- descriptors ----------------------------------------------------------------------------- */

typedef struct borrower {
    side side;
    mh__lents *lents;
} borrower;

static void on_lent(mh__lane *l, const mh__fast_record *r, void *ctx)
{
    borrower *b = ctx;
    b->side.greetings += r->kind == MH__FAST_GREETING;
    b->side.records += r->kind != MH__FAST_GREETING;
    if (r->kind == MH__FAST_LEND)
        mh__lents_take(b->lents, l, r);
}

static int count_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static mh__parcel *message_of(size_t buffers)
{
    mh__parcel *p = NULL;
    assert_ok(mh__parcel_create(&p));
    for (size_t i = 0; i < 1 + buffers; i++)
        assert_ok(mh__parcel_add(p, i ? (mh_bytes){"", 0} : text("head")));
    return p;
}

/* What was lent is mapped where it is named, once; passed on by who passes on; and whoever names what is not there, or sends what could change, gets nothing. */
static void buffers_are_lent(void **state)
{
    (void)state;
    enum { SIZE = MH__LENT_FROM + 3 };
    static char bytes[SIZE];
    mh__loop *loop = NULL;
    side a;
    borrower b = {0};
    mh__lent_offer o = {0}, other = {0};
    mh__parcel *p = message_of(2), *lean = NULL;
    mh_buf *metadata = NULL;
    uint8_t key[MH__FAST_KEY_SIZE] = "0123456789abcdef";
    int fds[2], open_before = count_fds(), loose = -1;
    bytes[SIZE - 1] = 'z';
    assert_ok(mh__loop_create(&loop));
    make_pair(fds);
    open_side(&a, loop, &fds[0], true, "key");
    assert_ok(mh__lents_create(&b.lents, true));
    assert_ok(mh__lane_open(&b.side.lane, loop, &fds[1], &(mh__lane_options){.key = text("key"), .on_record = on_lent, .on_end = on_end, .ctx = &b}));
    while (!b.side.greetings)
        turn(loop);
    assert_ok(mh__lent_add(&o, 1, (mh_bytes){bytes, SIZE}, a.lane));
    assert_ok(mh_buf_create(&metadata, 0));
    assert_ok(mh__lent_write(&o, text("{\"a\":1}"), metadata));
    mh_bytes said = {mh_buf_data(metadata), mh_buf_size(metadata)};
    assert_true(mh__lent_is_named(said));
    assert_false(mh__lent_is_named(text("{\"a\":1}")));
    assert_ok(mh__lents_claim(b.lents, b.side.lane, said, p, 1)); /* reads the lane itself */
    assert_int_equal(mh__parcel_frames(p)[2].size, SIZE);
    assert_int_equal(((const char *)mh__parcel_frames(p)[2].data)[SIZE - 1], 'z');
    assert_int_equal(mh__parcel_frames(p)[1].size, 0);
    assert_ok(mh__lents_claim(b.lents, b.side.lane, said, p, 1)); /* it is there */
    assert_ok(mh__lents_pass_on(b.lents, p, b.side.lane, &lean));
    assert_non_null(lean);
    assert_int_equal(mh__parcel_frames(lean)[2].size, 0);
    assert_int_equal(mh__parcel_frames(p)[2].size, SIZE);
    mh__parcel_destroy(&lean);
    mh__parcel_destroy(&p);

    p = message_of(2);
    assert_err(mh__lents_claim(b.lents, b.side.lane, said, p, 1), MH_ERR_NOT_FOUND); /* once */
    assert_err(mh__lents_claim(b.lents, b.side.lane, said, p, 2), MH_ERR_CORRUPT);   /* no such buffer */
    assert_err(mh__lents_claim(b.lents, b.side.lane, text("{\"x_lent\":[[0]]}"), p, 1), MH_ERR_CORRUPT);
    assert_err(mh__lents_claim(b.lents, b.side.lane, text("{\"x_lent\":[[-1,\"00\"]]}"), p, 1), MH_ERR_CORRUPT);
    loose = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING); /* could be cut while it is read */
    assert_int_equal(ftruncate(loose, SIZE), 0);
    assert_ok(mh__lane_pass(a.lane, &(mh__fast_record){.kind = MH__FAST_LEND, .ident_count = 1, .parts = {{key, sizeof key}}}, loose));
    close(loose);
    assert_err(mh__lents_claim(b.lents, b.side.lane, text("{\"x_lent\":[[0,\"30313233343536373839616263646566\"]]}"), p, 1), MH_ERR_NOT_FOUND);
    assert_ok(mh__lent_add(&other, 0, (mh_bytes){bytes, SIZE}, a.lane)); /* named by nobody */
    while (b.side.records < 3)
        turn(loop);
    mh__parcel_destroy(&p);
    mh_buf_destroy(&metadata);
    mh__lane_close(&a.lane);
    while (!b.side.ends)
        turn(loop);
    mh__lents_destroy(&b.lents);
    mh__loop_destroy(&loop);
    assert_int_equal(count_fds(), open_before);
}

static void names_of_sockets_are_private_and_reused(void **state)
{
    (void)state;
    char folder[] = "/tmp/mh-lane-XXXXXX", path[64], long_path[200];
    int listener = -1, other = -1, client = -1, server = -1;
    struct stat st;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/fast", folder);
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = 0;
    assert_err(mh__os_unix_connect(&client, path), MH_ERR_NOT_FOUND);
    assert_err(mh__os_unix_listen(&listener, long_path), MH_ERR_TOO_LARGE);
    assert_ok(mh__os_unix_listen(&listener, path));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_err(mh__os_unix_listen(&other, path), MH_ERR_EXISTS);
    assert_int_equal(other, -1);
    assert_ok(mh__os_unix_connect(&client, path));
    mh_err err;
    while ((err = mh__os_unix_accept(listener, &server)) == MH_ERR_EMPTY || (err == MH_OK && mh__os_is_hung_up(server)))
        mh__os_close(&server); /* the one that asked whether somebody listens came first */
    assert_ok(err);
    mh__os_close(&client);
    mh__os_close(&server);
    mh__os_close(&listener);
    assert_err(mh__os_unix_connect(&client, path), MH_ERR_NOT_FOUND); /* a name that was left */
    assert_ok(mh__os_unix_listen(&listener, path));
    mh__os_close(&listener);
    assert_ok(mh__os_file_unlink(path));
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    assert_err(mh__os_unix_listen(&listener, path), MH_ERR_EXISTS); /* no socket: left alone */
    close(file);
    assert_ok(mh__os_file_unlink(path));
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_go_both_ways),
        cmocka_unit_test(what_is_not_valid_ends_the_lane),
        cmocka_unit_test(buffers_are_lent),
        cmocka_unit_test(names_of_sockets_are_private_and_reused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
