/* mh_pipe: messages both ways, ends that close or die, descriptors to poll. */
#include "queue/queue_test.h"

#include "os/fd.h"

#include <fcntl.h>
#include <pthread.h>

#define TEXT(s) ((mh_bytes){(s), sizeof(s) - 1})

static void make(mh_pipe **a, mh_pipe **b, bool duplex, size_t capacity)
{
    assert_ok(mh_pipe_create(a, b, &(mh_pipe_options){.duplex = duplex, .capacity_bytes = capacity}));
}

static void assert_receives(mh_pipe *p, const char *expected)
{
    mh_buf *got = NULL;
    assert_ok(mh_pipe_receive(p, SOON, &got));
    assert_int_equal(mh_buf_size(got), strlen(expected));
    assert_memory_equal(mh_buf_data(got), expected, strlen(expected));
    mh_buf_destroy(&got);
}

static void test_one_way(void **state)
{
    (void)state;
    mh_pipe *a, *b;
    mh_buf *none = NULL;
    assert_ok(mh_pipe_create(&a, &b, NULL));
    assert_true(mh_pipe_can_receive(a) && !mh_pipe_can_send(a) && mh_pipe_can_send(b) && !mh_pipe_can_receive(b));
    assert_err(mh_pipe_send(a, TEXT("x"), MH_NOW), MH_ERR_UNSUPPORTED);
    assert_err(mh_pipe_receive(b, MH_NOW, &none), MH_ERR_UNSUPPORTED);
    assert_err(mh_pipe_wait(b, MH_NOW), MH_ERR_UNSUPPORTED);
    assert_err(mh_pipe_receive(a, MH_NOW, &none), MH_ERR_EMPTY);
    assert_err(mh_pipe_wait(a, MH_NOW), MH_ERR_EMPTY);
    assert_err(mh_pipe_wait(a, mh_deadline_in(MH_MILLISECOND)), MH_ERR_TIMEOUT);
    assert_ok(mh_pipe_send(b, TEXT("one"), MH_NOW));
    assert_ok(mh_pipe_send_parts(b, (mh_bytes[]){TEXT("t"), TEXT("wo")}, 2, MH_NOW));
    assert_ok(mh_pipe_wait(a, MH_NOW));
    assert_receives(a, "one");
    char into[2];
    size_t size;
    assert_err(mh_pipe_receive_into(a, into, 2, MH_NOW, &size), MH_ERR_TOO_LARGE);
    assert_int_equal(size, 3);
    assert_receives(a, "two");
    mh_pipe_destroy(&a);
    mh_pipe_destroy(&b);
    mh_pipe_destroy(&b);
}

static void test_duplex_with_a_child(void **state)
{
    (void)state;
    mh_pipe *a, *b;
    make(&a, &b, true, 0);
    pid_t pid = test_fork();
    if (pid == 0) {
        mh_pipe_destroy(&a);
        mh_buf *got;
        while (mh_pipe_receive(b, SOON, &got) == MH_OK) {
            if (mh_pipe_send(b, (mh_bytes){mh_buf_data(got), mh_buf_size(got)}, SOON))
                _exit(1);
            mh_buf_destroy(&got);
        }
        _exit(0); /* the other end is gone */
    }
    mh_pipe_destroy(&b);
    assert_ok(mh_pipe_send(a, TEXT("there"), SOON));
    assert_receives(a, "there");
    assert_ok(mh_pipe_send(a, TEXT("and back"), SOON));
    assert_receives(a, "and back");
    mh_pipe_destroy(&a);
    assert_int_equal(test_reap(pid), 0);
}

static void test_the_other_end_closes(void **state)
{
    (void)state;
    mh_pipe *a, *b;
    mh_buf *none = NULL;
    make(&a, &b, false, 0);
    assert_ok(mh_pipe_send(b, TEXT("left"), MH_NOW));
    mh_pipe_destroy(&b);
    assert_receives(a, "left");
    assert_err(mh_pipe_receive(a, MH_NOW, &none), MH_ERR_CLOSED);
    assert_err(mh_pipe_receive(a, MH_FOREVER, &none), MH_ERR_CLOSED);
    assert_err(mh_pipe_wait(a, MH_FOREVER), MH_ERR_CLOSED);
    assert_err(mh_pipe_wait(a, MH_NOW), MH_ERR_CLOSED);
    mh_pipe_destroy(&a);

    make(&a, &b, false, 0);
    assert_ok(mh_pipe_send(b, TEXT("x"), MH_NOW)); /* has just seen the other end */
    mh_pipe_destroy(&a);
    assert_err(mh_pipe_send(b, TEXT("y"), MH_NOW), MH_ERR_CLOSED);
    mh_pipe_destroy(&b);
}

/* Who waits is told soon when the last process of the other end is killed. */
static void test_the_other_end_is_killed(void **state)
{
    (void)state;
    static unsigned char large[100000];
    static const struct {
        int action; /* of the parent: 0 receives, 1 sends what does not fit, 2 sends a large message, 3 polls */
        const char *reason;
    } rows[] = {{0, "receives"}, {1, "waits for room"}, {2, "in the middle of a message"}, {3, "polls"}};
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_pipe *a, *b;
        make(&a, &b, true, 4096);
        pid_t pid = test_fork();
        if (pid == 0)
            for (;;)
                pause();
        mh_pipe_destroy(&b);
        pid_t killer = test_fork();
        if (killer == 0) {
            test_await_sleep(getppid());
            kill(pid, SIGKILL);
            _exit(0);
        }
        mh_buf *none;
        mh_err err = MH_OK;
        while (!err)
            err = rows[i].action == 0   ? mh_pipe_receive(a, SOON, &none)
                  : rows[i].action == 3 ? mh_pipe_wait(a, SOON)
                                        : mh_pipe_send(a, (mh_bytes){large, rows[i].action == 1 ? 1000 : sizeof large}, SOON);
        assert_err(err, MH_ERR_CLOSED);
        mh_pipe_destroy(&a);
        assert_int_equal(test_reap(killer), 0);
        assert_int_equal(test_reap(pid), -SIGKILL);
    }
}

/* One of two processes that share an end is killed: the end lives on. */
static void test_a_shared_end(void **state)
{
    (void)state;
    mh_pipe *a, *b;
    make(&a, &b, false, 0);
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        pids[i] = test_fork();
        if (pids[i] == 0) {
            mh_pipe_destroy(&a);
            if (i == 0)
                for (;;)
                    pause();
            _exit((int)mh_pipe_send(b, TEXT("alive"), SOON));
        }
        if (i == 0) {
            kill(pids[0], SIGKILL);
            assert_int_equal(test_reap(pids[0]), -SIGKILL);
        }
    }
    mh_pipe_destroy(&b);
    assert_receives(a, "alive");
    mh_buf *none;
    assert_err(mh_pipe_receive(a, SOON, &none), MH_ERR_CLOSED);
    assert_int_equal(test_reap(pids[1]), 0);
    mh_pipe_destroy(&a);
}

static bool is_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void test_the_descriptor_tells(void **state)
{
    (void)state;
    mh_pipe *a, *b;
    make(&a, &b, true, 0);
    int before = mh__os_fd_count(), fd = -1, same = -1;
    assert_ok(mh_pipe_send(b, TEXT("before"), MH_NOW));
    assert_ok(mh_pipe_borrow_descriptor(a, &fd));
    assert_int_equal(mh__os_fd_count(), before);
    assert_true(is_readable(fd));
    assert_receives(a, "before");
    assert_false(is_readable(fd));
    for (int i = 0; i < 3; i++) {
        assert_ok(mh_pipe_send(b, TEXT("one"), MH_NOW));
        assert_ok(mh_pipe_send(b, TEXT("two"), MH_NOW));
        assert_true(is_readable(fd));
        assert_receives(a, "one");
        assert_true(is_readable(fd));
        assert_receives(a, "two");
        assert_false(is_readable(fd));
    }
    assert_ok(mh_pipe_borrow_descriptor(a, &same));
    assert_int_equal(same, fd);
    pid_t pid = test_fork();
    if (pid == 0) {
        mh_pipe_destroy(&a);
        _exit((int)mh_pipe_send(b, TEXT("child"), SOON));
    }
    mh_pipe_destroy(&b);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20000), 1);
    assert_ok(mh_pipe_wait(a, MH_NOW));
    assert_receives(a, "child");
    assert_int_equal(test_reap(pid), 0);
    assert_int_equal(poll(&p, 1, 20000), 1); /* hung up */
    assert_err(mh_pipe_wait(a, MH_NOW), MH_ERR_CLOSED);
    mh_pipe_destroy(&a);
}

/* Another process that polls sees what this one sees: the descriptor is not private. */
static void test_the_descriptor_tells_all_processes(void **state)
{
    (void)state;
    mh_pipe *a, *b;
    int fd = -1;
    make(&a, &b, false, 0);
    assert_ok(mh_pipe_borrow_descriptor(a, &fd));
    pid_t pid = test_fork();
    if (pid == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        mh_pipe_destroy(&b);
        for (uint32_t i = 0; i < 1000; i++) { /* one at a time, so that each has to ring */
            size_t size;
            uint32_t got;
            if (poll(&p, 1, 20000) != 1 || mh_pipe_receive_into(a, &got, sizeof got, SOON, &size) || got != i)
                _exit(1);
        }
        _exit(0);
    }
    for (uint32_t i = 0; i < 1000; i++) {
        while (is_readable(fd) && mh_pipe_wait(a, MH_NOW) == MH_OK)
            sched_yield();
        assert_ok(mh_pipe_send(b, (mh_bytes){&i, sizeof i}, SOON));
    }
    assert_int_equal(test_reap(pid), 0);
    mh_pipe_destroy(&a);
    mh_pipe_destroy(&b);
}

/* What is readable for nothing, after deaths at bad moments, is so only until somebody looks. */
static void test_leftover_tokens_are_removed(void **state)
{
    (void)state;
    mh_pipe *a, *b;
    int fd = -1;
    make(&a, &b, false, 0);
    assert_ok(mh_pipe_borrow_descriptor(a, &fd));
    int other = mh_pipe_borrow_parts(b).socket;
    for (int i = 0; i < 3; i++)
        assert_int_equal(write(other, "\xa5", 1), 1);
    assert_true(is_readable(fd));
    assert_err(mh_pipe_wait(a, MH_NOW), MH_ERR_EMPTY);
    assert_false(is_readable(fd));
    assert_ok(mh_pipe_send(b, TEXT("x"), MH_NOW));
    assert_true(is_readable(fd));
    assert_receives(a, "x");
    mh_pipe_destroy(&a);
    mh_pipe_destroy(&b);
}

static void assert_descriptor(mh_pipe *p, const char *expected)
{
    char text[8] = "";
    int fd = -1;
    assert_ok(mh_pipe_receive_descriptor(p, SOON, &fd));
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(read(fd, text, sizeof text), (int)strlen(expected));
    assert_string_equal(text, expected);
    mh__os_close(&fd);
}

static void send_descriptor(mh_pipe *p, const char *text)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], text, strlen(text)), (int)strlen(text));
    assert_ok(mh_pipe_send_descriptor(p, ends[0], SOON));
    mh__os_close(&ends[0]);
    mh__os_close(&ends[1]);
}

static void test_descriptors_travel(void **state)
{
    (void)state;
    mh_pipe *a, *b;
    int none = -1, fd;
    int before = mh__os_fd_count();
    for (int watched = 0; watched < 2; watched++) {
        make(&a, &b, true, 0);
        assert_err(mh_pipe_receive_descriptor(a, MH_NOW, &none), MH_ERR_EMPTY);
        assert_err(mh_pipe_receive_descriptor(a, mh_deadline_in(MH_MILLISECOND), &none), MH_ERR_TIMEOUT);
        if (watched)
            assert_ok(mh_pipe_borrow_descriptor(a, &fd));
        assert_ok(mh_pipe_send(b, TEXT("1"), MH_NOW));
        send_descriptor(b, "one");
        assert_ok(mh_pipe_send(b, TEXT("2"), MH_NOW));
        send_descriptor(b, "two");
        assert_ok(mh_pipe_borrow_descriptor(a, &fd));
        assert_true(is_readable(fd));
        assert_descriptor(a, "one");
        assert_true(is_readable(fd));
        assert_receives(a, "1");
        assert_true(is_readable(fd));
        assert_descriptor(a, "two");
        assert_true(is_readable(fd)); /* a message is left */
        assert_receives(a, "2");
        assert_false(is_readable(fd));
        send_descriptor(b, "three");
        assert_true(is_readable(fd));
        assert_descriptor(a, "three");
        assert_false(is_readable(fd));
        send_descriptor(a, "back");
        assert_descriptor(b, "back");
        assert_int_equal(write(mh_pipe_borrow_parts(b).socket, "", 1), 1);
        assert_err(mh_pipe_receive_descriptor(a, SOON, &none), MH_ERR_CORRUPT);
        mh_pipe_destroy(&b);
        assert_err(mh_pipe_receive_descriptor(a, MH_FOREVER, &none), MH_ERR_CLOSED);
        assert_err(mh_pipe_send_descriptor(a, 0, SOON), MH_ERR_CLOSED);
        mh_pipe_destroy(&a);
    }
    make(&a, &b, false, 0); /* the only way back is this one */
    send_descriptor(a, "back");
    assert_descriptor(b, "back");
    send_descriptor(b, "forth");
    assert_descriptor(a, "forth");
    mh_pipe_destroy(&a);
    mh_pipe_destroy(&b);
    assert_int_equal(mh__os_fd_count(), before);
}

static void test_tags(void **state)
{
    (void)state;
    static unsigned char large[20000];
    mh_pipe *a, *b;
    size_t size;
    uint32_t tag;
    make(&a, &b, false, 4096);
    assert_err(mh_pipe_send_tagged(b, NULL, 0, MH_QUEUE_TAG_MAX + 1, MH_NOW), MH_ERR_INVALID);
    for (uint32_t i = 0; i <= MH_QUEUE_TAG_MAX; i++) {
        assert_ok(mh_pipe_send_tagged(b, (mh_bytes[]){TEXT("ab"), TEXT("c")}, 2, i, MH_NOW));
        assert_err(mh_pipe_receive_tagged(a, large, 2, MH_NOW, &size, &tag), MH_ERR_TOO_LARGE);
        assert_true(size == 3 && tag == i);
        tag = 99;
        assert_ok(mh_pipe_receive_tagged(a, large, 3, MH_NOW, &size, &tag));
        assert_true(size == 3 && tag == i);
    }
    pid_t pid = test_fork(); /* and through the ring in pieces */
    if (pid == 0)
        _exit((int)mh_pipe_send_tagged(b, &(mh_bytes){large, sizeof large}, 1, 7, SOON));
    assert_ok(mh_pipe_receive_tagged(a, large, sizeof large, SOON, &size, &tag));
    assert_true(size == sizeof large && tag == 7);
    assert_int_equal(test_reap(pid), 0);
    mh_pipe_destroy(&a);
    mh_pipe_destroy(&b);
}

static void test_attaching(void **state)
{
    (void)state;
    int before = mh__os_fd_count();
    mh_pipe *a, *b, *other = NULL;
    make(&a, &b, true, 0);
    mh_pipe_parts parts = mh_pipe_borrow_parts(b);
    assert_int_equal(parts.side, 1);
    assert_err(mh_pipe_attach(&other, (mh_pipe_parts){parts.memory, parts.socket, 2}), MH_ERR_INVALID);
    assert_null(other);
    parts = (mh_pipe_parts){dup(parts.memory), dup(parts.socket), 1};
    assert_ok(mh_pipe_attach(&other, parts));
    mh_pipe_destroy(&b);
    assert_ok(mh_pipe_send(a, TEXT("to"), MH_NOW));
    assert_receives(other, "to");
    assert_ok(mh_pipe_send(other, TEXT("fro"), MH_NOW));
    assert_receives(a, "fro");
    mh_queue *q = NULL;
    assert_ok(mh_queue_create(&q, NULL));
    mh_pipe *wrong = NULL;
    assert_err(mh_pipe_attach(&wrong, (mh_pipe_parts){mh_queue_borrow_parts(q).memory, -1, 0}), MH_ERR_CORRUPT);
    mh_queue_destroy(&q);
    mh_pipe_destroy(&a);
    mh_pipe_destroy(&other);
    assert_int_equal(mh__os_fd_count(), before);
}

static const size_t sizes[] = {0, 1, 4087, 4088, 4089, 100000, 3000001, 100 << 20};

static void test_every_size_passes(void **state)
{
    (void)state;
    for (size_t row = 0; row < 2; row++) {
        mh_pipe *a, *b;
        make(&a, &b, false, row ? 0 : 4096);
        pid_t pid = test_fork();
        if (pid == 0) {
            mh_pipe_destroy(&a);
            unsigned char *data = malloc(100 << 20);
            for (uint32_t i = 0; i < MH__COUNT_OF(sizes); i++) {
                if (sizes[i] >= sizeof(test_head))
                    test_fill(data, 9, i, sizes[i]);
                if (mh_pipe_send(b, (mh_bytes){data, sizes[i]}, SOON))
                    _exit(1);
            }
            _exit(0);
        }
        mh_pipe_destroy(&b);
        for (uint32_t i = 0; i < MH__COUNT_OF(sizes); i++) {
            mh_buf *got = NULL;
            test_head h;
            if (row == 0 && sizes[i] > 4 << 20)
                break; /* a hundred megabytes through four kilobytes: in the row with a usual ring */
            assert_ok(mh_pipe_receive(a, SOON, &got));
            assert_int_equal(mh_buf_size(got), sizes[i]);
            if (sizes[i] >= sizeof h)
                assert_true(test_check(mh_buf_data(got), sizes[i], &h) && h.number == i);
            mh_buf_destroy(&got);
        }
        mh_pipe_destroy(&a);
        assert_int_equal(test_reap(pid), row ? 0 : 1); /* it was told when nobody listened any more */
    }
}

typedef struct talk {
    mh_pipe *p;
    int count;
    bool ok;
} talk;

static void *sing(void *arg)
{
    talk *t = arg;
    unsigned char data[600];
    for (int i = 0; i < t->count; i++) {
        size_t size = sizeof(test_head) + (size_t)(i * 7 % 500);
        test_fill(data, 1, (uint32_t)i, size);
        if (mh_pipe_send(t->p, (mh_bytes){data, size}, SOON))
            return NULL;
    }
    t->ok = true;
    return NULL;
}

static void *listen_to(void *arg)
{
    talk *t = arg;
    unsigned char data[600];
    for (int i = 0; i < t->count; i++) {
        size_t size;
        test_head h;
        if (mh_pipe_receive_into(t->p, data, sizeof data, SOON, &size) || !test_check(data, size, &h) || h.number != (uint32_t)i)
            return NULL;
    }
    t->ok = true;
    return NULL;
}

/* Both directions at once, among threads, where the thread sanitizer sees it. */
static void test_threads_both_ways(void **state)
{
    (void)state;
    mh_pipe *ends[2];
    make(&ends[0], &ends[1], true, 4096);
    talk talks[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        talks[i] = (talk){ends[i / 2], test_rounds(20000), false};
        pthread_create(&threads[i], NULL, i % 2 ? sing : listen_to, &talks[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(talks[i].ok);
    }
    mh_pipe_destroy(&ends[0]);
    mh_pipe_destroy(&ends[1]);
}

static size_t until_failure;
static void *failing(void *old, size_t size, void *ctx)
{
    (void)ctx;
    if (size && until_failure && --until_failure == 0)
        return NULL;
    if (!size) {
        free(old);
        return NULL;
    }
    return realloc(old, size);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    int before = mh__os_fd_count();
    mh_allocator_set(failing, NULL);
    mh_err err;
    size_t n = 0;
    do {
        mh_pipe *a = NULL, *b = NULL;
        mh_buf *got = NULL;
        until_failure = ++n;
        err = mh_pipe_create(&a, &b, NULL);
        assert_true(err ? !a && !b : a && b);
        if (!err)
            err = mh_pipe_send(b, TEXT("hello"), MH_NOW);
        if (!err)
            err = mh_pipe_receive(a, MH_NOW, &got);
        assert_true(err == MH_OK || err == MH_ERR_NO_MEMORY);
        mh_buf_destroy(&got);
        mh_pipe_destroy(&a);
        mh_pipe_destroy(&b);
        assert_int_equal(mh__os_fd_count(), before);
    } while (err);
    until_failure = 0;
    mh_allocator_set(NULL, NULL);
    assert_true(n > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_way),
        cmocka_unit_test(test_duplex_with_a_child),
        cmocka_unit_test(test_the_other_end_closes),
        cmocka_unit_test(test_the_other_end_is_killed),
        cmocka_unit_test(test_a_shared_end),
        cmocka_unit_test(test_the_descriptor_tells),
        cmocka_unit_test(test_the_descriptor_tells_all_processes),
        cmocka_unit_test(test_leftover_tokens_are_removed),
        cmocka_unit_test(test_descriptors_travel),
        cmocka_unit_test(test_tags),
        cmocka_unit_test(test_attaching),
        cmocka_unit_test(test_every_size_passes),
        cmocka_unit_test(test_threads_both_ways),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
