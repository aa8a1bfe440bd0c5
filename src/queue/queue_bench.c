/* Queue and pipe beside a unix socket pair, a pipe(2) and a queue under a process-shared pthread mutex, between two processes, in rounds that
 * take turns. Prints medians, tails and the ratio to the best peer. */
#include "base/number.h"
#include "manyhands/queue.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SMALL = 64, LARGE = 8 << 20, ROUNDS = 5, MESSAGES = 300000, LATENCIES = 3000, LARGE_MESSAGES = 40 };

/* ---- the peers, all behind one face ---------------------------------------------------------- */

typedef struct channel {
    mh_queue *q;
    mh_pipe *receiver, *sender;
    int fds[2];
    struct mutex_queue *m;
} channel;

typedef struct mutex_queue {
    pthread_mutex_t mutex;
    pthread_cond_t more, room;
    size_t head, tail;
    unsigned char slots[1024][SMALL];
} mutex_queue;

typedef struct kind {
    const char *name;
    void (*open)(channel *c);
    void (*send)(channel *c, const void *data, size_t size);
    void (*receive)(channel *c, void *data, size_t size);
    bool is_small_only, is_ours, is_large_only;
} kind;

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    _exit(1);
}

static void open_queue(channel *c) { need(!mh_queue_create(&c->q, NULL), "queue"); }
static void send_queue(channel *c, const void *data, size_t size)
{
    need(!mh_queue_push(c->q, (mh_bytes){data, size}, MH_FOREVER), "push");
}
static void receive_queue(channel *c, void *data, size_t size)
{
    need(!mh_queue_pop_into(c->q, data, size, MH_FOREVER, &size), "pop");
}

static void open_pipe(channel *c) { need(!mh_pipe_create(&c->receiver, &c->sender, NULL), "pipe"); }
static void send_pipe(channel *c, const void *data, size_t size)
{
    need(!mh_pipe_send(c->sender, (mh_bytes){data, size}, MH_FOREVER), "send");
}
static void receive_pipe(channel *c, void *data, size_t size)
{
    need(!mh_pipe_receive_into(c->receiver, data, size, MH_FOREVER, &size), "receive");
}

static void open_packets(channel *c) { need(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, c->fds), "socketpair"); }
static void open_stream(channel *c) { need(!socketpair(AF_UNIX, SOCK_STREAM, 0, c->fds), "socketpair"); }
static void open_pipe2(channel *c) { need(!pipe(c->fds), "pipe(2)"); }
static void send_fd(channel *c, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(c->fds[1], (const char *)data + done, size - done);
        need(n > 0, "write");
        done += (size_t)n;
    }
}
static void receive_fd(channel *c, void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(c->fds[0], (char *)data + done, size - done);
        need(n > 0, "read");
        done += (size_t)n;
    }
}

static void *shared(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED, "mmap");
    return at;
}

static void open_mutex(channel *c)
{
    c->m = shared(sizeof *c->m);
    pthread_mutexattr_t ma;
    pthread_condattr_t ca;
    pthread_mutexattr_init(&ma);
    pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
    pthread_condattr_init(&ca);
    pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&c->m->mutex, &ma);
    pthread_cond_init(&c->m->more, &ca);
    pthread_cond_init(&c->m->room, &ca);
}
static void send_mutex(channel *c, const void *data, size_t size)
{
    mutex_queue *m = c->m;
    pthread_mutex_lock(&m->mutex);
    while (m->tail - m->head == MH__COUNT_OF(m->slots))
        pthread_cond_wait(&m->room, &m->mutex);
    memcpy(m->slots[m->tail++ % MH__COUNT_OF(m->slots)], data, size);
    pthread_cond_signal(&m->more);
    pthread_mutex_unlock(&m->mutex);
}
static void receive_mutex(channel *c, void *data, size_t size)
{
    mutex_queue *m = c->m;
    pthread_mutex_lock(&m->mutex);
    while (m->tail == m->head)
        pthread_cond_wait(&m->more, &m->mutex);
    memcpy(data, m->slots[m->head++ % MH__COUNT_OF(m->slots)], size);
    pthread_cond_signal(&m->room);
    pthread_mutex_unlock(&m->mutex);
}

static const kind kinds[] = {
    {"mh_queue", open_queue, send_queue, receive_queue, false, true, false},
    {"mh_pipe", open_pipe, send_pipe, receive_pipe, false, true, false},
    {"socketpair, packets", open_packets, send_fd, receive_fd, true, false, false},
    {"socketpair, stream", open_stream, send_fd, receive_fd, false, false, true},
    {"pthread mutex", open_mutex, send_mutex, receive_mutex, true, false, false},
    {"pipe(2)", open_pipe2, send_fd, receive_fd, false, false, false},
};
enum { KINDS = MH__COUNT_OF(kinds) };

static void close_channel(channel *c)
{
    mh_queue_destroy(&c->q);
    mh_pipe_destroy(&c->receiver);
    mh_pipe_destroy(&c->sender);
    for (int i = 0; i < 2; i++)
        if (c->fds[i])
            close(c->fds[i]);
    if (c->m)
        munmap(c->m, sizeof *c->m);
}

/* ---- what is measured ------------------------------------------------------------------------ */

static void reap(pid_t pid)
{
    int status;
    need(waitpid(pid, &status, 0) == pid && status == 0, "the other process");
}

/* Seconds for `count` messages of `size` bytes to a child, which says by the last that it has them. */
static double time_stream(const kind *k, size_t size, int count)
{
    channel c = {0}, back = {0};
    k->open(&c);
    open_pipe2(&back);
    char *data = malloc(size), byte = 0;
    memset(data, 1, size);
    pid_t pid = fork();
    if (pid == 0) {
        send_fd(&back, &byte, 1);
        for (int i = 0; i < count; i++)
            k->receive(&c, data, size);
        send_fd(&back, &byte, 1);
        _exit(0);
    }
    receive_fd(&back, &byte, 1);
    int64_t start = mh_now();
    for (int i = 0; i < count; i++)
        k->send(&c, data, size);
    receive_fd(&back, &byte, 1);
    double seconds = (double)(mh_now() - start) / 1e9;
    reap(pid);
    free(data);
    close_channel(&c);
    close_channel(&back);
    return seconds;
}

/* One-way times in ns to a receiver that has had time to fall asleep. */
static void time_one_way(const kind *k, int64_t *out, int count, int64_t gap_ns)
{
    channel c = {0};
    k->open(&c);
    _Atomic int *got = shared(4096);
    int64_t *times = shared((size_t)count * sizeof *times);
    char data[SMALL] = "";
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < count; i++) {
            k->receive(&c, data, SMALL);
            int64_t sent, now = mh_now();
            memcpy(&sent, data, sizeof sent);
            times[i] = now - sent;
            atomic_store(got, i + 1);
        }
        _exit(0);
    }
    for (int i = 0; i < count; i++) {
        for (int64_t until = mh_now() + gap_ns; mh_now() < until;)
            if (gap_ns > 50000)
                sched_yield();
        int64_t now = mh_now();
        memcpy(data, &now, sizeof now);
        k->send(&c, data, SMALL);
        while (atomic_load(got) <= i)
            sched_yield();
    }
    reap(pid);
    memcpy(out, times, (size_t)count * sizeof *out);
    close_channel(&c);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, ROUNDS, sizeof *values, by_value);
    return values[ROUNDS / 2];
}

static void report_rate(const char *title, const char *unit, size_t size, int count, double scale)
{
    static double rates[KINDS][ROUNDS];
    double best = 0;
    bool large = size > SMALL;
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < KINDS; i++)
            if (large ? !kinds[i].is_small_only : !kinds[i].is_large_only)
                rates[i][round] = scale * count / time_stream(&kinds[i], size, count);
    for (size_t i = 0; i < KINDS; i++)
        if (!kinds[i].is_ours && (large ? !kinds[i].is_small_only : !kinds[i].is_large_only))
            best = MH__MAX(best, median(rates[i]));
    printf("%s\n", title);
    for (size_t i = 0; i < KINDS; i++)
        if (large ? !kinds[i].is_small_only : !kinds[i].is_large_only) {
            double m = median(rates[i]);
            printf("  %-22s median %8.2f %s, slowest %8.2f, ratio to the best peer %.2f\n", kinds[i].name, m, unit, rates[i][0], m / best);
        }
}

static void report_latency(const char *title, int64_t gap_ns)
{
    static int64_t times[KINDS][LATENCIES];
    enum { PART = LATENCIES / 3 };
    double best = 1e18;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < KINDS; i++)
            if (!kinds[i].is_large_only)
                time_one_way(&kinds[i], times[i] + round * PART, PART, gap_ns);
    for (size_t i = 0; i < KINDS; i++) {
        qsort(times[i], LATENCIES, sizeof times[i][0], by_time);
        if (!kinds[i].is_ours && !kinds[i].is_large_only)
            best = MH__MIN(best, (double)times[i][LATENCIES / 2]);
    }
    printf("%s\n", title);
    for (size_t i = 0; i < KINDS; i++)
        if (!kinds[i].is_large_only) {
            double p50 = (double)times[i][LATENCIES / 2];
            printf("  %-22s p50 %8.2f us, p99 %8.2f us, ratio to the best peer %.2f\n", kinds[i].name, p50 / 1e3,
                   (double)times[i][LATENCIES * 99 / 100] / 1e3, p50 / best);
        }
}

int main(void)
{
    report_rate("messages of 64 bytes, one producer, one consumer", "M/s", SMALL, MESSAGES, 1e-6);
    report_latency("one way, 64 bytes, receiver waits for 10 us", 10000);
    report_latency("one way, 64 bytes, receiver waits for 300 us (it sleeps)", 300000);
    report_rate("messages of 8 MiB", "GB/s", LARGE, LARGE_MESSAGES, LARGE * 1e-9);
    return 0;
}
