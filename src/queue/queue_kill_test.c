/* SIGKILL among producers and consumers while the others go on: nobody blocks, nothing is torn, doubled or out of order, and each killed consumer
 * takes at most one message with it. (Single steps: tests/crash/queue_stepkill_test.c.) */
#include "queue/queue_test.h"

enum { LIVES = 1024, NUMBERS = 32768, PRODUCERS = 2, CONSUMERS = 2 };

/* Each process that was ever started is a life of its own. Written by those processes, read at the end. */
typedef struct ledger {
    _Atomic uint32_t stop;
    _Atomic uint64_t moves;   /* messages pushed or popped: how the tester sees that things go on */
    _Atomic uint64_t allowed; /* producers wait when there were more */
    _Atomic uint64_t torn, disordered, refused;
    _Atomic uint32_t pushed[LIVES]; /* pushes that returned OK */
    _Atomic uint8_t got[LIVES][NUMBERS];
} ledger;

typedef struct mix {
    size_t capacity, small, large; /* one message in 16 has up to `large` bytes */
    int kills;
    const char *reason;
} mix;

static const mix mixes[] = {
    {4096, 100, 100, 600, "small messages, which wrap around all the time"},
    {4096, 100, 30000, 600, "some larger than the ring"},
    {1 << 20, 500, 100000, 200, "a ring with room"},
};

static size_t next_size(const mix *m, uint64_t *seed)
{
    uint64_t x = mh__splitmix(seed);
    return sizeof(test_head) + (x >> 32) % (x % 16 ? m->small : m->large);
}

static void produce(mh_queue *q, ledger *l, const mix *m, uint32_t life)
{
    uint64_t seed = life;
    unsigned char *data = malloc(sizeof(test_head) + m->large + m->small);
    for (uint32_t i = 0; i < NUMBERS && !atomic_load(&l->stop); i++) {
        size_t size = next_size(m, &seed);
        while (atomic_load(&l->moves) > atomic_load(&l->allowed) && !atomic_load(&l->stop))
            sched_yield();
        test_fill(data, life, i, size);
        mh_err err = mh_queue_push(q, (mh_bytes){data, size}, SOON);
        if (err) {
            atomic_fetch_add(&l->refused, err != MH_ERR_CLOSED);
            break;
        }
        atomic_store(&l->pushed[life], i + 1);
        atomic_fetch_add(&l->moves, 1);
    }
    while (!atomic_load(&l->stop))
        sched_yield();
    _exit(0);
}

static void consume(mh_queue *q, ledger *l)
{
    static uint32_t next[LIVES];
    mh_buf *got;
    mh_err err;
    while ((err = mh_queue_pop(q, SOON, &got)) == MH_OK) {
        test_head h;
        if (!test_check(mh_buf_data(got), mh_buf_size(got), &h) || h.producer >= LIVES || h.number >= NUMBERS) {
            atomic_fetch_add(&l->torn, 1);
        } else {
            atomic_fetch_add(&l->got[h.producer][h.number], 1);
            if (h.number < next[h.producer])
                atomic_fetch_add(&l->disordered, 1);
            next[h.producer] = h.number + 1;
        }
        atomic_fetch_add(&l->moves, 1);
        mh_buf_destroy(&got);
    }
    _exit(err == MH_ERR_CLOSED ? 0 : 1);
}

static pid_t start(mh_queue *q, ledger *l, const mix *m, bool is_producer, uint32_t life)
{
    pid_t pid = test_fork();
    if (pid == 0) {
        if (is_producer)
            produce(q, l, m, life);
        else
            consume(q, l);
    }
    return pid;
}

static void check_ledger(ledger *l, uint32_t lives, int consumers_killed)
{
    uint64_t lost = 0, doubled = 0, invented = 0;
    for (uint32_t life = 0; life < lives; life++) {
        uint32_t pushed = atomic_load(&l->pushed[life]);
        for (uint32_t i = 0; i < NUMBERS; i++) {
            unsigned times = atomic_load(&l->got[life][i]);
            lost += i < pushed && times == 0;
            doubled += times > 1;
            invented += i > pushed && times; /* number `pushed` was just being pushed when its producer was killed */
        }
    }
    assert_int_equal(atomic_load(&l->torn), 0);
    assert_int_equal(atomic_load(&l->disordered), 0);
    assert_int_equal(atomic_load(&l->refused), 0);
    assert_int_equal(doubled, 0);
    assert_int_equal(invented, 0);
    assert_true(lost <= (uint64_t)consumers_killed);
}

/* Let the others make a few moves, which shows that they are not blocked, and a little of chance. */
static void let_move(ledger *l, uint64_t *seed)
{
    uint64_t enough = atomic_load(&l->moves) + mh__splitmix(seed) % 40 + 1;
    atomic_store(&l->allowed, enough + 100);
    for (mh_deadline until = SOON; atomic_load(&l->moves) < enough; sched_yield())
        assert_true(mh_now() < until);
    for (volatile uint64_t i = mh__splitmix(seed) % 20000; i > 0; i--)
        ;
}

static void kill_among(const mix *m, uint64_t seed)
{
    ledger *l = test_shared(sizeof *l);
    mh_queue *q = NULL;
    assert_ok(mh_queue_create(&q, &(mh_queue_options){.capacity_bytes = m->capacity}));
    pid_t pids[PRODUCERS + CONSUMERS];
    uint32_t lives = 0;
    int consumers_killed = 0;
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++)
        pids[i] = start(q, l, m, i < PRODUCERS, i < PRODUCERS ? lives++ : 0);
    for (int n = 0; n < m->kills; n++) {
        let_move(l, &seed);
        int victim = (int)(mh__splitmix(&seed) % (PRODUCERS + CONSUMERS));
        kill(pids[victim], SIGKILL);
        assert_int_equal(test_reap(pids[victim]), -SIGKILL);
        consumers_killed += victim >= PRODUCERS;
        pids[victim] = start(q, l, m, victim < PRODUCERS, victim < PRODUCERS ? lives++ : 0);
    }
    atomic_store(&l->stop, 1);
    for (int i = 0; i < PRODUCERS; i++)
        assert_int_equal(test_reap(pids[i]), 0);
    mh_queue_close(q);
    for (int i = PRODUCERS; i < PRODUCERS + CONSUMERS; i++)
        assert_int_equal(test_reap(pids[i]), 0);
    check_ledger(l, lives, consumers_killed);
    assert_true(mh_queue_is_empty(q));
    mh_queue_destroy(&q);
    munmap(l, sizeof *l);
}

static void test_kills_among_many(void **state)
{
    (void)state;
    for (int round = 0; round < test_rounds(1); round++)
        for (size_t i = 0; i < MH__COUNT_OF(mixes); i++)
            kill_among(&mixes[i], (uint64_t)round * 100 + i + 1);
}

/* Who is killed while it waits in pop or push takes no wake with it for ever. */
static void test_a_killed_waiter(void **state)
{
    (void)state;
    for (int pushes = 0; pushes < 2; pushes++) {
        mh_queue *q = NULL;
        assert_ok(mh_queue_create(&q, &(mh_queue_options){.capacity_bytes = 4096, .max_items = 1}));
        mh_buf *got = NULL;
        if (pushes)
            assert_ok(mh_queue_push(q, (mh_bytes){"x", 1}, MH_NOW));
        pid_t pids[2];
        for (int i = 0; i < 2; i++) {
            pids[i] = test_fork();
            if (pids[i] == 0)
                _exit((int)(pushes ? mh_queue_push(q, (mh_bytes){"y", 1}, SOON) : mh_queue_pop(q, SOON, &got)));
            test_await_sleep(pids[i]);
        }
        kill(pids[0], SIGSTOP); /* a wake may go to one that cannot use it */
        if (pushes)
            assert_ok(mh_queue_pop(q, MH_NOW, &got));
        else
            assert_ok(mh_queue_push(q, (mh_bytes){"x", 1}, MH_NOW));
        kill(pids[0], SIGKILL);
        assert_int_equal(test_reap(pids[0]), -SIGKILL);
        assert_int_equal(test_reap(pids[1]), MH_OK);
        mh_buf_destroy(&got);
        mh_queue_destroy(&q);
    }
}

/* Killed in the middle of a message larger than the ring: the consumer that had begun with it forgets it. */
static void test_a_producer_killed_in_a_large_message(void **state)
{
    (void)state;
    static unsigned char data[60000];
    mh_queue *q = NULL;
    size_t size = 0;
    assert_ok(mh_queue_create(&q, &(mh_queue_options){.capacity_bytes = 4096}));
    pid_t producer = test_fork();
    if (producer == 0)
        _exit((int)mh_queue_push(q, (mh_bytes){data, sizeof data}, SOON));
    test_await_sleep(producer);
    kill(producer, SIGSTOP);
    pid_t consumer = test_fork();
    if (consumer == 0) {
        mh_err err = mh_queue_pop_into(q, data, sizeof data, SOON, &size);
        _exit(err ? 100 + (int)err : (int)size);
    }
    while (mh_queue_wait(q, MH_NOW) == MH_OK) /* until the consumer has taken the pieces that are there */
        sched_yield();
    kill(producer, SIGKILL);
    assert_int_equal(test_reap(producer), -SIGKILL);
    assert_ok(mh_queue_push(q, (mh_bytes){data, 7}, SOON));
    assert_int_equal(test_reap(consumer), 7);
    assert_int_equal(mh_queue_count_unfinished(q), 1);
    mh_queue_destroy(&q);
}

/* What a dead producer began is no message, and nobody is told that there is one. */
static void test_what_a_killed_producer_began_is_not_there(void **state)
{
    (void)state;
    static unsigned char data[60000];
    mh_queue *q = NULL;
    int fd = -1;
    assert_ok(mh_queue_create(&q, &(mh_queue_options){.capacity_bytes = 4096}));
    assert_ok(mh_queue_borrow_descriptor(q, &fd));
    pid_t producer = test_fork();
    if (producer == 0)
        _exit((int)mh_queue_push(q, (mh_bytes){data, sizeof data}, SOON));
    test_await_sleep(producer);
    assert_ok(mh_queue_wait(q, MH_NOW));
    kill(producer, SIGKILL);
    assert_int_equal(test_reap(producer), -SIGKILL);
    assert_err(mh_queue_wait(q, MH_NOW), MH_ERR_EMPTY);
    assert_true(mh_queue_is_empty(q));
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    mh_queue_destroy(&q);
}

/* Killed in the middle of a message larger than the ring, its consumer gets it again from the start if the producer still has it. */
static void test_a_consumer_killed_in_a_large_message(void **state)
{
    (void)state;
    enum { SIZE = 60000 };
    static unsigned char data[SIZE];
    mh_queue *q = NULL;
    size_t size = 0;
    test_head h;
    assert_ok(mh_queue_create(&q, &(mh_queue_options){.capacity_bytes = 4096}));
    test_fill(data, 3, 4, SIZE);
    pid_t producer = test_fork();
    if (producer == 0)
        _exit((int)mh_queue_push(q, (mh_bytes){data, SIZE}, SOON));
    test_await_sleep(producer);
    kill(producer, SIGSTOP);
    pid_t consumer = test_fork();
    if (consumer == 0)
        _exit((int)mh_queue_pop_into(q, data, SIZE, SOON, &size));
    while (mh_queue_wait(q, MH_NOW) == MH_OK)
        sched_yield();
    kill(consumer, SIGKILL);
    assert_int_equal(test_reap(consumer), -SIGKILL);
    kill(producer, SIGCONT);
    memset(data, 0, SIZE);
    assert_ok(mh_queue_pop_into(q, data, SIZE, SOON, &size));
    assert_true(test_check(data, size, &h));
    assert_int_equal(size, SIZE);
    assert_int_equal(test_reap(producer), MH_OK);
    assert_int_equal(mh_queue_count_unfinished(q), 1);
    mh_queue_destroy(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_killed_waiter),
        cmocka_unit_test(test_a_producer_killed_in_a_large_message),
        cmocka_unit_test(test_what_a_killed_producer_began_is_not_there),
        cmocka_unit_test(test_a_consumer_killed_in_a_large_message),
        cmocka_unit_test(test_kills_among_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
