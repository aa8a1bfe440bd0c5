/* mh_queue: what every function promises, with processes and with threads. Kills are in queue_kill_test.c. */
#include "queue/queue_test.h"

#include "os/fd.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#define TEXT(s) ((mh_bytes){(s), sizeof(s) - 1})

static mh_queue *make(size_t capacity, size_t items, size_t most)
{
    mh_queue *q = NULL;
    assert_ok(mh_queue_create(&q, &(mh_queue_options){capacity, items, most}));
    return q;
}

static void assert_pops(mh_queue *q, const char *expected)
{
    mh_buf *got = NULL;
    assert_ok(mh_queue_pop(q, MH_NOW, &got));
    assert_int_equal(mh_buf_size(got), strlen(expected));
    if (*expected)
        assert_memory_equal(mh_buf_data(got), expected, strlen(expected));
    mh_buf_destroy(&got);
}

static void test_first_in_first_out(void **state)
{
    (void)state;
    mh_queue *q = make(0, 0, 0);
    mh_buf *none = (mh_buf *)1;
    assert_true(mh_queue_is_empty(q));
    assert_err(mh_queue_pop(q, MH_NOW, &none), MH_ERR_EMPTY);
    assert_ptr_equal(none, (mh_buf *)1);
    assert_ok(mh_queue_push(q, TEXT("one"), MH_NOW));
    assert_ok(mh_queue_push(q, TEXT(""), MH_NOW));
    mh_bytes parts[] = {TEXT("th"), TEXT(""), TEXT("re"), {NULL, 0}, TEXT("e")};
    assert_ok(mh_queue_push_parts(q, parts, 5, MH_NOW));
    assert_ok(mh_queue_push_parts(q, NULL, 0, MH_NOW));
    assert_int_equal(mh_queue_count(q), 4);
    assert_false(mh_queue_is_empty(q));
    assert_ok(mh_queue_wait(q, MH_NOW));
    assert_pops(q, "one");
    assert_pops(q, "");
    assert_pops(q, "three");
    assert_pops(q, "");
    assert_true(mh_queue_is_empty(q));
    assert_err(mh_queue_wait(q, MH_NOW), MH_ERR_EMPTY);
    mh_queue_destroy(&q);
    assert_null(q);
    mh_queue_destroy(&q);
}

static void test_options_are_checked(void **state)
{
    (void)state;
    static const struct {
        mh_queue_options options;
        mh_err expected;
        const char *reason;
    } rows[] = {
        {{0, 0, 0}, MH_OK, "defaults"},
        {{1, 1, 1}, MH_OK, "rounded up"},
        {{5000, 7, 1 << 20}, MH_OK, "a limit above the capacity"},
        {{(size_t)1 << 43, 0, 0}, MH_ERR_INVALID, "too large a ring"},
        {{0, MH_QUEUE_ITEMS_MAX + 1, 0}, MH_ERR_INVALID, "too many items"},
        {{0, 0, MH_QUEUE_MESSAGE_MAX + 1}, MH_ERR_INVALID, "too large messages"},
    };
    int before = mh__os_fd_count();
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_queue *q = (mh_queue *)1;
        assert_err(mh_queue_create(&q, &rows[i].options), rows[i].expected);
        assert_true(rows[i].expected ? q == NULL : q != NULL);
        mh_queue_destroy(&q);
    }
    assert_int_equal(mh__os_fd_count(), before);
}

static void test_full(void **state)
{
    (void)state;
    mh_queue *q = make(4096, 3, 0);
    for (int i = 0; i < 3; i++) {
        assert_false(mh_queue_is_full(q));
        assert_ok(mh_queue_push(q, TEXT("x"), MH_NOW));
    }
    assert_true(mh_queue_is_full(q));
    assert_err(mh_queue_push(q, TEXT("x"), MH_NOW), MH_ERR_FULL);
    int64_t start = mh_now();
    assert_err(mh_queue_push(q, TEXT("x"), mh_deadline_in(30 * MH_MILLISECOND)), MH_ERR_TIMEOUT);
    assert_true(mh_now() - start >= 30 * MH_MILLISECOND);
    assert_pops(q, "x");
    assert_ok(mh_queue_push(q, TEXT("x"), MH_NOW));
    mh_queue_destroy(&q);

    q = make(4096, 0, 0);
    int fitted = 0;
    while (mh_queue_push(q, (mh_bytes){"0123456789abcdef", 16}, MH_NOW) == MH_OK)
        fitted++;
    assert_int_equal(fitted, 4096 / 24); /* 8 bytes go with each */
    assert_int_equal(mh_queue_count(q), fitted);
    mh_buf *got;
    assert_ok(mh_queue_pop(q, MH_NOW, &got));
    mh_buf_destroy(&got);
    assert_ok(mh_queue_push(q, TEXT("0123456789abcdef"), MH_NOW)); /* goes around the end of the ring */
    mh_queue_destroy(&q);
}

typedef struct job {
    mh_queue *q;
    const unsigned char *data;
    size_t size;
    mh_err err;
} job;

static void *push_job(void *arg)
{
    job *j = arg;
    j->err = mh_queue_push(j->q, (mh_bytes){j->data, j->size}, SOON);
    return NULL;
}

/* Sizes about the capacity (4096, of which a message may have 4088) and far above it, from an offset so that they wrap. */
static void test_every_size_passes(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 7, 8, 9, 4079, 4080, 4081, 4087, 4088, 4089, 4096, 4097, 5000, 8192, 65536, 1000003, 100 << 20};
    unsigned char *data = malloc(100 << 20), *into = malloc(100 << 20);
    for (size_t i = 0; i < 100 << 20; i++)
        data[i] = (unsigned char)(i * 7 + (i >> 11));
    for (size_t i = 0; i < MH__COUNT_OF(sizes); i++) {
        mh_queue *q = make(sizes[i] > 1 << 20 ? 1 << 20 : 4096, 0, 0);
        assert_ok(mh_queue_push(q, TEXT("to begin not at the start"), MH_NOW));
        assert_pops(q, "to begin not at the start");
        job j = {q, data, sizes[i], MH_OK};
        pthread_t thread;
        pthread_create(&thread, NULL, push_job, &j);
        size_t size = 0;
        if (sizes[i])
            assert_err(mh_queue_pop_into(q, into, sizes[i] - 1, SOON, &size), MH_ERR_TOO_LARGE);
        else
            assert_ok(mh_queue_wait(q, SOON));
        assert_int_equal(size, sizes[i]);
        assert_ok(mh_queue_pop_into(q, into, sizes[i], SOON, &size));
        pthread_join(thread, NULL);
        assert_ok(j.err);
        assert_int_equal(size, sizes[i]);
        assert_memory_equal(into, data, size);
        assert_true(mh_queue_is_empty(q));
        assert_int_equal(mh_queue_count_unfinished(q), 2);
        mh_queue_destroy(&q);
    }
    free(data);
    free(into);
}

static void test_the_limit_of_a_message(void **state)
{
    (void)state;
    char data[101] = "";
    mh_queue *q = make(4096, 0, 100);
    assert_ok(mh_queue_push(q, (mh_bytes){data, 100}, MH_NOW));
    assert_err(mh_queue_push(q, (mh_bytes){data, 101}, MH_NOW), MH_ERR_TOO_LARGE);
    mh_bytes absurd[] = {{data, SIZE_MAX}, {data, SIZE_MAX}};
    assert_err(mh_queue_push_parts(q, absurd, 2, MH_NOW), MH_ERR_TOO_LARGE);
    assert_int_equal(mh_queue_count(q), 1);
    mh_queue_destroy(&q);
}

/* A message larger than the ring that nobody takes: the push ends, and leaves no trace. */
static void test_a_large_push_gives_up(void **state)
{
    (void)state;
    static unsigned char data[20000];
    mh_queue *q = make(4096, 0, 0);
    assert_err(mh_queue_push(q, (mh_bytes){data, sizeof data}, MH_NOW), MH_ERR_FULL);
    assert_true(mh_queue_is_empty(q));
    assert_err(mh_queue_push(q, (mh_bytes){data, sizeof data}, mh_deadline_in(MH_MILLISECOND)), MH_ERR_TIMEOUT);
    assert_err(mh_queue_wait(q, MH_NOW), MH_ERR_EMPTY);
    assert_int_equal(mh_queue_count_unfinished(q), 0);
    assert_ok(mh_queue_push(q, (mh_bytes){data, 4088}, MH_NOW)); /* all of the ring is free */
    mh_queue_destroy(&q);
}

/* A consumer that tires of a stream that does not go on: the producer begins again for the next one. */
static void test_a_large_pop_gives_up(void **state)
{
    (void)state;
    enum { SIZE = 50000 };
    unsigned char *data = malloc(SIZE), *into = malloc(SIZE);
    test_fill(data, 1, 2, SIZE);
    mh_queue *q = make(4096, 0, 0);
    pid_t pid = test_fork();
    if (pid == 0)
        _exit((int)mh_queue_push(q, (mh_bytes){data, SIZE}, SOON));
    test_await_sleep(pid); /* the ring is full of pieces */
    kill(pid, SIGSTOP);
    size_t size;
    test_head h;
    assert_err(mh_queue_pop_into(q, into, SIZE, mh_deadline_in(MH_MILLISECOND), &size), MH_ERR_TIMEOUT);
    assert_err(mh_queue_pop_into(q, into, SIZE, MH_NOW, &size), MH_ERR_EMPTY);
    kill(pid, SIGCONT);
    assert_ok(mh_queue_pop_into(q, into, SIZE, SOON, &size));
    assert_true(test_check(into, size, &h));
    assert_int_equal(test_reap(pid), MH_OK);
    assert_true(mh_queue_is_empty(q));
    mh_queue_destroy(&q);
    free(data);
    free(into);
}

static void test_batches(void **state)
{
    (void)state;
    mh_queue *q = make(4096, 4, 0);
    mh_bytes messages[] = {TEXT("a"), TEXT("bb"), TEXT(""), TEXT("cccc"), TEXT("d"), TEXT("e")};
    size_t pushed = 0, count = 0, sizes[8];
    char into[64];
    assert_err(mh_queue_push_many(q, messages, 6, MH_NOW, &pushed), MH_ERR_FULL);
    assert_int_equal(pushed, 4);
    assert_ok(mh_queue_pop_many(q, into, sizeof into, sizes, 3, MH_NOW, &count));
    assert_int_equal(count, 3);
    assert_memory_equal(into, "abb", 3);
    assert_int_equal(sizes[2], 0);
    assert_ok(mh_queue_push_many(q, messages + 4, 2, MH_NOW, NULL));
    assert_err(mh_queue_pop_many(q, into, 3, sizes, 8, MH_NOW, &count), MH_ERR_TOO_LARGE);
    assert_int_equal(sizes[0], 4);
    assert_ok(mh_queue_pop_many(q, into, 5, sizes, 8, MH_NOW, &count));
    assert_int_equal(count, 2);
    assert_memory_equal(into, "ccccd", 5);
    assert_ok(mh_queue_pop_many(q, into, sizeof into, sizes, 8, MH_NOW, &count));
    assert_int_equal(count, 1);
    assert_err(mh_queue_pop_many(q, into, sizeof into, sizes, 8, MH_NOW, &count), MH_ERR_EMPTY);
    assert_err(mh_queue_pop_many(q, into, sizeof into, sizes, 0, MH_NOW, &count), MH_ERR_INVALID);
    mh_queue_destroy(&q);
}

static void *batch_job(void *arg)
{
    job *j = arg;
    mh_bytes messages[] = {{j->data, 10}, {j->data, j->size}, {j->data, 20}};
    j->err = mh_queue_push_many(j->q, messages, 3, SOON, NULL);
    return NULL;
}

static void test_a_large_message_in_a_batch(void **state)
{
    (void)state;
    static unsigned char data[30000], into[30000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 5 + (i >> 7));
    mh_queue *q = make(4096, 0, 0);
    job j = {q, data, sizeof data, MH_OK};
    pthread_t thread;
    pthread_create(&thread, NULL, batch_job, &j);
    static const size_t expected[] = {10, sizeof data, 20};
    size_t sizes[3], count;
    for (size_t i = 0; i < 3; i++) {
        assert_ok(mh_queue_pop_many(q, into, sizeof into, sizes, 1, SOON, &count));
        assert_int_equal(count, 1);
        assert_int_equal(sizes[0], expected[i]);
        assert_memory_equal(into, data, sizes[0]);
    }
    pthread_join(thread, NULL);
    assert_ok(j.err);
    mh_queue_destroy(&q);
}

static void test_close(void **state)
{
    (void)state;
    mh_queue *q = make(0, 0, 0);
    assert_ok(mh_queue_push(q, TEXT("left"), MH_NOW));
    assert_false(mh_queue_is_closed(q));
    mh_queue_close(q);
    mh_queue_close(q);
    assert_true(mh_queue_is_closed(q));
    assert_err(mh_queue_push(q, TEXT("late"), MH_FOREVER), MH_ERR_CLOSED);
    assert_pops(q, "left");
    mh_buf *none;
    assert_err(mh_queue_pop(q, MH_FOREVER, &none), MH_ERR_CLOSED);
    assert_ok(mh_queue_wait(q, MH_FOREVER));
    mh_queue_destroy(&q);
}

/* Those that wait when it is closed are told. */
static void test_close_wakes(void **state)
{
    (void)state;
    static unsigned char large[9000];
    static const struct {
        size_t size;  /* pushed by the child; 0: it pops */
        size_t first; /* pushed before */
        const char *reason;
    } rows[] = {{0, 0, "waits in pop"}, {5, 4088, "waits for room"}, {sizeof large, 0, "in the middle of a large message"}};
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_queue *q = make(4096, 0, 0);
        if (rows[i].first)
            assert_ok(mh_queue_push(q, (mh_bytes){large, rows[i].first}, MH_NOW));
        pid_t pid = test_fork();
        if (pid == 0) {
            mh_buf *got;
            _exit((int)(rows[i].size ? mh_queue_push(q, (mh_bytes){large, rows[i].size}, SOON) : mh_queue_pop(q, SOON, &got)));
        }
        test_await_sleep(pid);
        mh_queue_close(q);
        assert_int_equal(test_reap(pid), MH_ERR_CLOSED);
        mh_queue_destroy(&q);
    }
}

static void ignore(int number) { (void)number; }

static void test_a_signal_interrupts(void **state)
{
    (void)state;
    for (int pushes = 0; pushes < 2; pushes++) {
        mh_queue *q = make(4096, 1, 0);
        if (pushes)
            assert_ok(mh_queue_push(q, TEXT("x"), MH_NOW));
        pid_t pid = test_fork();
        if (pid == 0) {
            struct sigaction action = {.sa_handler = ignore};
            sigaction(SIGUSR1, &action, NULL);
            mh_buf *got;
            _exit((int)(pushes ? mh_queue_push(q, TEXT("y"), SOON) : mh_queue_pop(q, SOON, &got)));
        }
        test_await_sleep(pid);
        siginfo_t ended = {0}; /* one signal may come just between two sleeps */
        for (mh_deadline until = SOON; !ended.si_pid && mh_now() < until; sched_yield()) {
            kill(pid, SIGUSR1);
            waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT);
        }
        assert_int_equal(test_reap(pid), MH_ERR_INTERRUPTED);
        mh_queue_destroy(&q);
    }
}

static void test_timeouts(void **state)
{
    (void)state;
    mh_queue *q = make(0, 0, 0);
    mh_buf *got = NULL;
    int64_t start = mh_now();
    assert_err(mh_queue_pop(q, mh_deadline_in(30 * MH_MILLISECOND), &got), MH_ERR_TIMEOUT);
    assert_err(mh_queue_wait(q, mh_deadline_in(MH_MILLISECOND)), MH_ERR_TIMEOUT);
    assert_true(mh_now() - start >= 31 * MH_MILLISECOND);
    assert_err(mh_queue_pop(q, 1, &got), MH_ERR_TIMEOUT); /* passed long ago */
    assert_null(got);
    mh_queue_destroy(&q);
}

static void test_unfinished_work(void **state)
{
    (void)state;
    mh_queue *q = make(0, 0, 0);
    assert_ok(mh_queue_join(q, MH_NOW));
    assert_err(mh_queue_task_done(q), MH_ERR_INVALID);
    mh_bytes messages[] = {TEXT("a"), TEXT("b"), TEXT("c")};
    assert_ok(mh_queue_push_many(q, messages, 3, MH_NOW, NULL));
    assert_int_equal(mh_queue_count_unfinished(q), 3);
    assert_pops(q, "a");
    assert_int_equal(mh_queue_count_unfinished(q), 3);
    assert_ok(mh_queue_task_done(q));
    assert_err(mh_queue_join(q, mh_deadline_in(MH_MILLISECOND)), MH_ERR_TIMEOUT);
    assert_ok(mh_queue_task_done(q));
    pid_t pid = test_fork();
    if (pid == 0)
        _exit((int)mh_queue_join(q, SOON));
    test_await_sleep(pid);
    assert_ok(mh_queue_task_done(q));
    assert_int_equal(test_reap(pid), MH_OK);
    assert_err(mh_queue_task_done(q), MH_ERR_INVALID);
    mh_queue_destroy(&q);
}

static bool is_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void test_the_descriptor_tells(void **state)
{
    (void)state;
    mh_queue *q = make(0, 0, 0);
    int fd = -1;
    assert_ok(mh_queue_push(q, TEXT("before"), MH_NOW));
    assert_ok(mh_queue_borrow_descriptor(q, &fd));
    assert_true(is_readable(fd));
    assert_pops(q, "before");
    assert_false(is_readable(fd));
    for (int i = 0; i < 3; i++) { /* without asking for it again */
        assert_ok(mh_queue_push(q, TEXT("one"), MH_NOW));
        assert_ok(mh_queue_push(q, TEXT("two"), MH_NOW));
        assert_true(is_readable(fd));
        assert_pops(q, "one");
        assert_true(is_readable(fd));
        assert_pops(q, "two");
        assert_false(is_readable(fd));
    }
    pid_t pid = test_fork();
    if (pid == 0)
        _exit((int)mh_queue_push(q, TEXT("child"), SOON));
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20000), 1);
    assert_pops(q, "child");
    assert_int_equal(test_reap(pid), MH_OK);
    mh_queue_close(q);
    assert_true(is_readable(fd));
    mh_queue_destroy(&q);
}

static void test_attaching(void **state)
{
    (void)state;
    int before = mh__os_fd_count();
    mh_queue *q = make(8192, 5, 77), *other = NULL;
    mh_queue_parts parts = mh_queue_borrow_parts(q);
    mh_queue_parts copies = {dup(parts.memory), dup(parts.notify)};
    assert_ok(mh_queue_attach(&other, copies));
    assert_ok(mh_queue_push(q, TEXT("hello"), MH_NOW));
    mh_queue_destroy(&q);
    assert_pops(other, "hello");
    assert_err(mh_queue_push(other, (mh_bytes){"", 78}, MH_NOW), MH_ERR_TOO_LARGE);
    mh_queue_destroy(&other);

    int plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(plain, 16384), 0);
    assert_err(mh_queue_attach(&other, (mh_queue_parts){plain, -1}), MH_ERR_INVALID); /* may shrink under us */
    fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    assert_err(mh_queue_attach(&other, (mh_queue_parts){plain, -1}), MH_ERR_CORRUPT);
    assert_null(other);
    close(plain);
    assert_int_equal(mh__os_fd_count(), before);
}

/* Bursts use memory, and give most of it back when they are over. */
static void test_memory_follows_use(void **state)
{
    (void)state;
    mh_queue *q = make((size_t)1 << 36, 0, 0); /* far more than the machine has */
    int fd = mh_queue_borrow_parts(q).memory;
    static unsigned char data[1 << 20];
    struct stat st;
    fstat(fd, &st);
    assert_true(st.st_blocks * 512 <= 64 << 10);
    for (int i = 0; i < 24; i++)
        assert_ok(mh_queue_push(q, (mh_bytes){data, sizeof data}, MH_NOW));
    fstat(fd, &st);
    assert_true(st.st_blocks * 512 >= 24 << 20);
    size_t size;
    for (int i = 0; i < 24; i++)
        assert_ok(mh_queue_pop_into(q, data, sizeof data, MH_NOW, &size));
    for (int i = 0; i < 1000; i++) {
        assert_ok(mh_queue_push(q, (mh_bytes){data, 5000}, MH_NOW));
        assert_ok(mh_queue_pop_into(q, data, sizeof data, MH_NOW, &size));
    }
    fstat(fd, &st);
    assert_true(st.st_blocks * 512 <= 5 << 20);
    mh_queue_destroy(&q);
}

/* ---- many producers, many consumers ---------------------------------------------------------- */

enum { PRODUCERS = 3, CONSUMERS = 3 };
typedef struct tally {
    _Atomic uint64_t got, bytes, torn, disordered;
    _Atomic uint32_t ready;
} tally;
typedef struct crowd {
    mh_queue *q;
    tally *t;
    uint32_t number, messages;
    size_t most;
} crowd;

static size_t size_of(uint32_t producer, uint32_t number, size_t most)
{
    uint64_t seed = (uint64_t)producer << 32 | number;
    uint64_t x = mh__splitmix(&seed);
    size_t usual = sizeof(test_head) + x % 200;
    return x >> 40 & 31 ? usual : sizeof(test_head) + (x >> 8) % most;
}

static void *produce(void *arg)
{
    crowd *c = arg;
    unsigned char *data = malloc(sizeof(test_head) + MH__MAX(c->most, (size_t)200));
    for (uint32_t i = 0; i < c->messages; i++) {
        size_t size = size_of(c->number, i, c->most);
        test_fill(data, c->number, i, size);
        if (mh_queue_push(c->q, (mh_bytes){data, size}, SOON))
            break;
    }
    free(data);
    return NULL;
}

static void *consume(void *arg)
{
    crowd *c = arg;
    uint32_t next[PRODUCERS] = {0};
    mh_buf *got;
    while (mh_queue_pop(c->q, SOON, &got) == MH_OK) {
        test_head h;
        if (!test_check(mh_buf_data(got), mh_buf_size(got), &h) || h.producer >= PRODUCERS) {
            atomic_fetch_add(&c->t->torn, 1);
        } else {
            if (h.number < next[h.producer])
                atomic_fetch_add(&c->t->disordered, 1);
            next[h.producer] = h.number + 1;
            atomic_fetch_add(&c->t->bytes, h.size);
        }
        atomic_fetch_add(&c->t->got, 1);
        mh_buf_destroy(&got);
    }
    return NULL;
}

static void check_tally(const tally *t, uint32_t messages, size_t most)
{
    uint64_t bytes = 0;
    for (uint32_t p = 0; p < PRODUCERS; p++)
        for (uint32_t i = 0; i < messages; i++)
            bytes += size_of(p, i, most);
    assert_int_equal(atomic_load(&t->torn), 0);
    assert_int_equal(atomic_load(&t->disordered), 0);
    assert_int_equal(atomic_load(&t->got), (uint64_t)PRODUCERS * messages);
    assert_int_equal(atomic_load(&t->bytes), bytes);
}

static const struct {
    size_t capacity, items, most;
    int messages;
    const char *reason;
} crowds[] = {
    {4096, 0, 300, 4000, "a small ring"},
    {4096, 1, 100, 500, "one message at a time"},
    {4096, 0, 20000, 1500, "large messages in pieces"},
    {1 << 20, 0, 20000, 4000, "room enough"},
};

static void test_threads_conserve_messages(void **state)
{
    (void)state;
    for (size_t row = 0; row < MH__COUNT_OF(crowds); row++) {
        tally t = {0};
        uint32_t messages = (uint32_t)test_rounds(crowds[row].messages);
        mh_queue *q = make(crowds[row].capacity, crowds[row].items, 0);
        crowd c[PRODUCERS + CONSUMERS];
        pthread_t threads[PRODUCERS + CONSUMERS];
        for (uint32_t i = 0; i < PRODUCERS + CONSUMERS; i++) {
            c[i] = (crowd){q, &t, i, messages, crowds[row].most};
            pthread_create(&threads[i], NULL, i < PRODUCERS ? produce : consume, &c[i]);
        }
        for (int i = 0; i < PRODUCERS; i++)
            pthread_join(threads[i], NULL);
        mh_queue_close(q);
        for (int i = PRODUCERS; i < PRODUCERS + CONSUMERS; i++)
            pthread_join(threads[i], NULL);
        check_tally(&t, messages, crowds[row].most);
        mh_queue_destroy(&q);
    }
}

static void test_processes_conserve_messages(void **state)
{
    (void)state;
    tally *t = test_shared(sizeof *t);
    for (size_t row = 0; row < MH__COUNT_OF(crowds); row++) {
        memset(t, 0, sizeof *t);
        uint32_t messages = (uint32_t)test_rounds(crowds[row].messages);
        mh_queue *q = make(crowds[row].capacity, crowds[row].items, 0);
        pid_t pids[PRODUCERS + CONSUMERS];
        for (uint32_t i = 0; i < PRODUCERS + CONSUMERS; i++) {
            pids[i] = test_fork();
            if (pids[i] == 0) {
                crowd c = {q, t, i, messages, crowds[row].most};
                (i < PRODUCERS ? produce : consume)(&c);
                _exit(0);
            }
        }
        for (int i = 0; i < PRODUCERS; i++)
            assert_int_equal(test_reap(pids[i]), 0);
        mh_queue_close(q);
        for (int i = PRODUCERS; i < PRODUCERS + CONSUMERS; i++)
            assert_int_equal(test_reap(pids[i]), 0);
        check_tally(t, messages, crowds[row].most);
        mh_queue_destroy(&q);
    }
    munmap(t, sizeof *t);
}

/* A large message is not starved by small ones that fill every gap. */
static void *push_small(void *arg)
{
    crowd *c = arg;
    while (!atomic_load(&c->t->ready) && mh_queue_push(c->q, TEXT("12345678"), SOON) == MH_OK)
        ;
    return NULL;
}

static void *push_large(void *arg)
{
    crowd *c = arg;
    static unsigned char data[4000];
    if (mh_queue_push(c->q, (mh_bytes){data, sizeof data}, SOON) == MH_OK)
        atomic_store(&c->t->ready, 1);
    return NULL;
}

static void test_large_messages_do_not_starve(void **state)
{
    (void)state;
    tally t = {0};
    mh_queue *q = make(4096, 0, 0);
    crowd c = {.q = q, .t = &t};
    pthread_t threads[3];
    while (mh_queue_push(q, TEXT("12345678"), MH_NOW) == MH_OK)
        ;
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, i < 2 ? push_small : push_large, &c);
    mh_buf *got;
    mh_deadline until = SOON;
    while (!atomic_load(&t.ready) && mh_now() < until && mh_queue_pop(q, SOON, &got) == MH_OK)
        mh_buf_destroy(&got);
    assert_true(atomic_load(&t.ready));
    mh_queue_close(q);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    mh_queue_destroy(&q);
}

/* ---- memory that fails ----------------------------------------------------------------------- */

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

static mh_err use_once(void)
{
    mh_queue *q = NULL, *other = NULL;
    mh_buf *got = NULL;
    mh_err err = mh_queue_create(&q, NULL);
    if (err) {
        assert_null(q);
        return err;
    }
    mh_queue_parts parts = mh_queue_borrow_parts(q);
    parts = (mh_queue_parts){dup(parts.memory), dup(parts.notify)};
    err = mh_queue_attach(&other, parts);
    if (err) {
        close(parts.memory);
        close(parts.notify);
    }
    if (!err)
        err = mh_queue_push(q, TEXT("hello"), MH_NOW);
    if (!err)
        err = mh_queue_pop(other, MH_NOW, &got);
    if (err && other)
        assert_true(mh_queue_count(q) <= 1); /* what was not taken is still there */
    mh_buf_destroy(&got);
    mh_queue_destroy(&q);
    mh_queue_destroy(&other);
    return err;
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    int before = mh__os_fd_count();
    mh_allocator_set(failing, NULL);
    mh_err err;
    size_t n = 0;
    do {
        until_failure = ++n;
        err = use_once();
        assert_true(err == MH_OK || err == MH_ERR_NO_MEMORY);
    } while (err);
    until_failure = 0;
    mh_allocator_set(NULL, NULL);
    assert_true(n > 3);
    assert_int_equal(mh__os_fd_count(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_in_first_out),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_every_size_passes),
        cmocka_unit_test(test_the_limit_of_a_message),
        cmocka_unit_test(test_a_large_push_gives_up),
        cmocka_unit_test(test_a_large_pop_gives_up),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_a_large_message_in_a_batch),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_close_wakes),
        cmocka_unit_test(test_a_signal_interrupts),
        cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_unfinished_work),
        cmocka_unit_test(test_the_descriptor_tells),
        cmocka_unit_test(test_attaching),
        cmocka_unit_test(test_memory_follows_use),
        cmocka_unit_test(test_threads_conserve_messages),
        cmocka_unit_test(test_processes_conserve_messages),
        cmocka_unit_test(test_large_messages_do_not_starve),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
