/* The client's messages, with a real controller and engine in processes of their own, and with a controller made of plain sockets that says
 * what a test wants. */
#include "manyhands/client.h"

#include "base/number.h"
#include "cluster/client_state.h"
#include "manyhands/controller.h"
#include "net/sign.h"
#include "net/socket.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/file.h"
#include "wire/connection.h"

#include "mh_test.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static mh_deadline soon(void) { return mh_deadline_in(30 * MH_SECOND); }
static mh_bytes text(const char *s) { return (mh_bytes){s, strlen(s)}; }

/* ---- a cluster ------------------------------------------------------------------------------- */

typedef struct cluster {
    char folder[64], client_file[128], engine_file[128], library[512], command[512];
    pid_t controller, engine, second;
} cluster;

static void start_controller(cluster *k)
{
    k->controller = fork();
    assert_true(k->controller >= 0);
    if (k->controller == 0) {
        mh_controller *c = NULL;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        mh_err err = mh_controller_create(&c, &(mh_controller_options){.folder = k->folder, .reuse = true});
        if (!err)
            err = mh_controller_run(c);
        mh_controller_destroy(&c);
        if (err)
            fprintf(stderr, "# controller: %s\n", mh_err_detail());
        _exit(err ? 1 : 0);
    }
    for (mh_deadline until = soon(); !mh__os_path_exists(k->client_file) && mh_now() < until;)
        usleep(2000);
    assert_true(mh__os_path_exists(k->client_file));
}

static void start_one(const cluster *k, pid_t *pid)
{
    *pid = fork();
    assert_true(*pid >= 0);
    if (*pid == 0) { /* a program that exports what task libraries need, which this one does not */
        char file[200], library[600];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(file, sizeof file, "--file=%s", k->engine_file);
        snprintf(library, sizeof library, "--library=%s", k->library);
        if (freopen("/dev/null", "w", stderr))
            execl(k->command, "manyhands", "engine", file, library, NULL);
        _exit(127);
    }
}

static void start_engine(cluster *k) { start_one(k, &k->engine); }

static void start(cluster *k)
{
    *k = (cluster){.folder = "/tmp/mh-client-XXXXXX"};
    assert_non_null(mkdtemp(k->folder));
    snprintf(k->client_file, sizeof k->client_file, "%s/security/ipcontroller-client.json", k->folder);
    snprintf(k->engine_file, sizeof k->engine_file, "%s/security/ipcontroller-engine.json", k->folder);
    assert_ok(mh__os_path_beside_program("libcluster-tasks.so", k->library, sizeof k->library));
    assert_ok(mh__os_path_beside_program("../cli/manyhands", k->command, sizeof k->command));
    start_controller(k);
}

static int end_process(pid_t *pid, int number)
{
    int status = 0;
    if (*pid > 0) {
        kill(*pid, number);
        waitpid(*pid, &status, 0);
    }
    *pid = 0;
    return status;
}

static void stop(cluster *k)
{
    char command[128];
    end_process(&k->engine, SIGTERM);
    end_process(&k->second, SIGTERM);
    assert_int_equal(end_process(&k->controller, SIGTERM), 0);
    snprintf(command, sizeof command, "rm -r %s", k->folder);
    assert_int_equal(system(command), 0);
}

static mh_client *open_client(const cluster *k, mh_client_options o)
{
    mh_client *c = NULL;
    o.connection_file = k->client_file;
    assert_ok(mh_client_open(&c, &o));
    return c;
}

static bool is(mh_bytes b, const char *expected) { return mh__bytes_are(b, expected); }

/* The next message of this type; others are dropped. */
static mh_client_message *take_type(mh_client *c, const char *type)
{
    mh_client_message *m = NULL;
    for (;;) {
        assert_ok(mh_client_take(c, soon(), &m));
        if (is(m->type, type))
            return m;
        mh_client_message_free(&m);
    }
}

static mh_client_message *take_reply(mh_client *c, const char *id)
{
    mh_client_message *m = NULL;
    for (;;) {
        assert_ok(mh_client_take(c, soon(), &m));
        if (is(m->parent_id, id) && m->channel != MH_CLIENT_IOPUB)
            return m;
        mh_client_message_free(&m);
    }
}

static void await_engine(mh_client *c, mh_client_engine *e)
{
    size_t count = 1;
    mh_client_engines(c, e, &count);
    if (!count)
        for (mh_client_message *m = take_type(c, "registration_notification"); m;)
            mh_client_message_free(&m);
    count = 1;
    mh_client_engines(c, e, &count);
    assert_int_equal(count, 1);
}

static const mh_client_request squares = {.channel = MH_CLIENT_TASK, .type = "call_request", .content = {"{\"function\":\"square\"}", 21}};

/* ---- with a real cluster --------------------------------------------------------------------- */

static void every_channel_carries_messages(void **state)
{
    (void)state;
    cluster k;
    mh_client_engine e = {0};
    mh_client_message *m = NULL;
    char id[MH_CLIENT_ID_SIZE], uuid[MH_CLIENT_UUID_SIZE];
    start(&k);
    mh_client *c = open_client(&k, (mh_client_options){.username = "na\"me"});
    start_engine(&k);
    await_engine(c, &e);
    assert_int_equal(e.id, 0);
    strcpy(uuid, e.uuid);

    int64_t x = 12, y;
    mh_client_request r = squares;
    r.buffers = &(mh_bytes){&x, sizeof x};
    r.buffer_count = 1;
    assert_ok(mh_client_send(c, &r, soon(), id));
    assert_int_equal(strncmp(id, mh_client_session(c), 32), 0);
    m = take_reply(c, id);
    assert_int_equal(m->channel, MH_CLIENT_TASK);
    assert_true(is(m->type, "call_reply") && is(m->source, uuid));
    assert_int_equal(m->buffer_count, 1);
    memcpy(&y, m->buffers[0].data, sizeof y);
    assert_int_equal(y, 144);
    mh_client_message_free(&m);

    r.channel = MH_CLIENT_MUX;
    r.engine = uuid;
    assert_ok(mh_client_send(c, &r, soon(), id));
    m = take_reply(c, id);
    assert_int_equal(m->channel, MH_CLIENT_MUX);
    assert_non_null(memmem(m->parent.data, m->parent.size, "na_me", 5));
    mh_client_message_free(&m);

    char metadata[256];
    snprintf(metadata, sizeof metadata, "{\"targets\":[[\"%s\",0]],\"is_broadcast\":true,\"is_coalescing\":false}", uuid);
    r = squares;
    r.channel = MH_CLIENT_BROADCAST;
    r.metadata = text(metadata);
    assert_ok(mh_client_send(c, &r, soon(), id));
    m = take_type(c, "call_reply");
    assert_int_equal(m->channel, MH_CLIENT_BROADCAST);
    assert_non_null(memmem(m->metadata.data, m->metadata.size, id, strlen(id)));
    mh_client_message_free(&m);

    assert_ok(mh_client_send(c, &(mh_client_request){.channel = MH_CLIENT_REGISTRATION, .type = "queue_request"}, soon(), id));
    m = take_reply(c, id);
    assert_true(m->channel == MH_CLIENT_REGISTRATION && is(m->type, "queue_reply"));
    mh_client_message_free(&m);

    assert_ok(mh_client_send(c, &(mh_client_request){.channel = MH_CLIENT_CONTROL, .type = "shutdown_request", .engine = uuid}, soon(), id));
    m = take_reply(c, id);
    assert_true(m->channel == MH_CLIENT_CONTROL && is(m->type, "shutdown_reply"));
    mh_client_message_free(&m);
    for (bool is_there = true; is_there;) { /* its notification may have come before the reply */
        size_t count = 0;
        mh_client_engines(c, NULL, &count);
        is_there = count > 0;
        if (is_there && mh_client_take(c, mh_deadline_in(10 * MH_MILLISECOND), &m) == MH_OK)
            mh_client_message_free(&m);
    }
    mh_client_close(&c);
    assert_null(c);
    mh_client_close(&c);
    stop(&k);
}

static _Atomic int released;
static void count_release(void *ctx)
{
    assert_ptr_equal(ctx, &released);
    atomic_fetch_add(&released, 1);
}

static void large_buffers_are_lent_and_returned(void **state)
{
    (void)state;
    enum { LARGE = 5000000 };
    cluster k;
    mh_client_engine e;
    char id[MH_CLIENT_ID_SIZE];
    start(&k);
    start_engine(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    await_engine(c, &e);
    char *large = malloc(LARGE);
    memset(large, 'a', LARGE);
    large[0] = 'z';
    released = 0;
    mh_client_request r = {.channel = MH_CLIENT_TASK, .type = "call_request", .content = text("{\"function\":\"reverse\"}"),
                           .buffers = &(mh_bytes){large, LARGE}, .buffer_count = 1, .release = count_release, .release_ctx = &released};
    assert_ok(mh_client_send(c, &r, soon(), id));
    mh_client_message *m = take_reply(c, id);
    assert_int_equal(m->buffers[0].size, LARGE);
    assert_int_equal(((const char *)m->buffers[0].data)[LARGE - 1], 'z');
    assert_int_equal(released, 1); /* the engine has it, so it was sent */
    r.buffers = &(mh_bytes){large, 3};
    assert_ok(mh_client_send(c, &r, soon(), id));
    assert_int_equal(released, 2); /* small ones are copied at once */
    r.content = text("[1]");
    assert_err(mh_client_send(c, &r, soon(), id), MH_ERR_INVALID);
    assert_int_equal(released, 2); /* what was refused is not released */
    mh_client_close(&c);
    assert_int_equal(((const char *)m->buffers[0].data)[0], 'a'); /* messages outlive their client */
    mh_client_message_free(&m);
    free(large);
    stop(&k);
}

static void bad_requests_are_named(void **state)
{
    (void)state;
    cluster k;
    char id[MH_CLIENT_ID_SIZE], long_name[100];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    start(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    const struct {
        mh_client_request r;
        const char *names;
    } rows[] = {
        {{.channel = MH_CLIENT_IOPUB, .type = "x"}, "channel"},
        {{.channel = 0, .type = "x"}, "channel"},
        {{.channel = MH_CLIENT_TASK}, "type"},
        {{.channel = MH_CLIENT_TASK, .type = long_name}, "too long"},
        {{.channel = MH_CLIENT_TASK, .type = "a\"b"}, "ASCII"},
        {{.channel = MH_CLIENT_TASK, .type = "x", .engine = "e"}, "engine"},
        {{.channel = MH_CLIENT_MUX, .type = "x"}, "engine"},
        {{.channel = MH_CLIENT_MUX, .type = "x", .engine = long_name}, "engine"},
        {{.channel = MH_CLIENT_TASK, .type = "x", .content = {"{", 1}}, "content"},
        {{.channel = MH_CLIENT_TASK, .type = "x", .metadata = {"5", 1}}, "metadata"},
        {{.channel = MH_CLIENT_TASK, .type = "x", .buffer_count = 100000}, "buffers"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        assert_err(mh_client_send(c, &rows[i].r, soon(), id), MH_ERR_INVALID);
        assert_non_null(strstr(mh_err_detail(), rows[i].names));
    }
    mh_client_message *m = NULL;
    assert_err(mh_client_take(c, MH_NOW, &m), MH_ERR_TIMEOUT);
    assert_null(m);
    mh_client_close(&c);
    stop(&k);
}

/* The controller is killed and started again: the client goes on by itself, and says so. */
static void a_restarted_controller_is_found_again(void **state)
{
    (void)state;
    cluster k;
    mh_client_engine e;
    char id[MH_CLIENT_ID_SIZE];
    start(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    start_engine(&k);
    await_engine(c, &e);
    usleep(100000); /* the list of engines is on the disk 50 ms after it changes */
    end_process(&k.controller, SIGKILL);
    mh_client_message *m = take_type(c, "x_connection_lost");
    mh_client_message_free(&m);
    mh_client_request r = squares;
    r.metadata = text("{\"retries\":3}");
    assert_ok(mh_client_send(c, &r, soon(), id)); /* waits for it */
    start_controller(&k);
    m = take_type(c, "x_connection_back");
    mh_client_message_free(&m);
    m = take_reply(c, id);
    assert_true(is(m->type, "call_reply"));
    mh_client_message_free(&m);
    mh_client_stats stats;
    mh_client_stats_read(c, &stats);
    assert_true(stats.reconnects >= 1);
    mh_client_close(&c);
    stop(&k);
}

typedef struct sender {
    mh_client *client;
    int count, failed;
} sender;

static void *send_many(void *ctx)
{
    sender *s = ctx;
    char id[MH_CLIENT_ID_SIZE];
    int64_t x = 1;
    mh_client_request r = squares;
    r.buffers = &(mh_bytes){&x, sizeof x};
    r.buffer_count = 1;
    for (int i = 0; i < s->count; i++)
        s->failed += mh_client_send(s->client, &r, soon(), id) != MH_OK;
    return NULL;
}

static void threads_share_a_client(void **state)
{
    (void)state;
    enum { THREADS = 4, EACH = 250 };
    cluster k;
    mh_client_engine e;
    pthread_t threads[THREADS];
    sender senders[THREADS];
    int fd = -1, replies = 0;
    unsigned ready;
    start(&k);
    start_engine(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    await_engine(c, &e);
    assert_ok(mh_client_fd(c, &fd));
    for (int i = 0; i < THREADS; i++) {
        senders[i] = (sender){c, EACH, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, send_many, &senders[i]), 0);
    }
    while (replies < THREADS * EACH) {
        mh_client_message *m = NULL;
        assert_ok(mh__os_wait_any(&fd, 1, soon(), &ready));
        while (mh_client_take(c, MH_NOW, &m) == MH_OK) {
            replies += is(m->type, "call_reply");
            mh_client_message_free(&m);
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(senders[i].failed, 0);
    }
    mh_client_stats stats;
    mh_client_stats_read(c, &stats);
    assert_int_equal(stats.out_bytes, 0);
    assert_int_equal(stats.out_count, 0);
    assert_int_equal(stats.refused + stats.replayed, 0);
    mh_client_close(&c);
    stop(&k);
}

static void a_fork_of_a_client_is_told_so(void **state)
{
    (void)state;
    cluster k;
    start(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    pid_t child = fork();
    if (child == 0) {
        char id[MH_CLIENT_ID_SIZE];
        int fd, bad = 0;
        size_t count = 0;
        mh_client_message *m;
        bad += mh_client_send(c, &squares, MH_FOREVER, id) != MH_ERR_FORKED;
        bad += mh_client_take(c, MH_FOREVER, &m) != MH_ERR_FORKED;
        bad += mh_client_wait(c, MH_FOREVER) != MH_ERR_FORKED;
        bad += mh_client_fd(c, &fd) != MH_ERR_FORKED;
        mh_client_engines(c, NULL, &count);
        mh_client_close(&c);
        _exit(bad || c ? 1 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    mh_client_close(&c);
    stop(&k);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void await_count(mh_client *c, size_t wanted)
{
    size_t count = 0;
    for (mh_deadline until = soon(); count != wanted && mh_now() < until;) {
        mh_client_message *m = NULL;
        count = 0;
        mh_client_engines(c, NULL, &count);
        if (count != wanted && mh_client_take(c, mh_deadline_in(5 * MH_MILLISECOND), &m) == MH_OK)
            mh_client_message_free(&m);
    }
    assert_int_equal(count, wanted);
}

static void touch(const char *path)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
}

static void balanced_calls_end_as_they_should(void **state)
{
    (void)state;
    cluster k;
    mh_balanced_view *v = NULL;
    mh_client_result r;
    int64_t x = 9, y;
    start(&k);
    start_engine(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    assert_ok(mh_client_balanced_view(c, NULL, &v));
    const struct {
        const char *function;
        size_t size;
        mh_balanced_options options;
        mh_err err;
        const char *ename, *evalue;
    } rows[] = {
        {"square", sizeof x, {0}, MH_OK, "", ""},
        {"square", 3, {0}, MH_ERR_INVALID, "MH_ERR_INVALID", "invalid argument"},
        {"no \"such\"", 0, {0}, MH_ERR_TASK_FAILED, "ValueError", "function"},
        {"nothing", 0, {0}, MH_ERR_NOT_FOUND, "UnknownFunction", "no such"},
        {"complain", 1, {0}, MH_ERR_TASK_FAILED, "TaskFailed", "that is no number"},
        {"die", 1, {.retries = 1}, MH_ERR_WORKER_LOST, "WorkerLost", ""},
        {"square", sizeof x, {.priority = 2, .wait_ns = 60 * MH_SECOND, .engines = (const int64_t[]){0}, .engine_count = 1}, MH_OK, "", ""},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_client_future *f = NULL;
        if (i == 0 || rows[i].options.engine_count)
            await_count(c, 1);
        assert_ok(mh_balanced_view_submit(v, rows[i].function, (mh_bytes){&x, rows[i].size}, &rows[i].options, &f));
        assert_ok(mh_client_future_result(f, soon(), &r));
        assert_err(r.err, rows[i].err);
        assert_string_equal(r.ename, rows[i].ename);
        assert_non_null(strstr(r.evalue, rows[i].evalue));
        if (!r.err) {
            memcpy(&y, r.value.data, sizeof y);
            assert_int_equal(y, 81);
            assert_int_equal(r.engine_id, 0);
        }
        assert_true(mh_client_future_is_done(f));
        mh_client_future_release(&f);
        assert_null(f);
    }
    mh_client_future *f = NULL;
    assert_err(mh_balanced_view_submit(v, "square", (mh_bytes){0}, &(mh_balanced_options){.priority = 9}, &f), MH_ERR_INVALID);
    assert_err(mh_balanced_view_submit(v, "", (mh_bytes){0}, NULL, &f), MH_ERR_INVALID);
    assert_err(mh_balanced_view_submit(v, "square", (mh_bytes){0}, &(mh_balanced_options){.engines = (const int64_t[]){7}, .engine_count = 1}, &f),
               MH_ERR_NOT_FOUND);
    assert_null(f);
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    stop(&k);
}

static void maps_fill_arrays(void **state)
{
    (void)state;
    enum { COUNT = 1001 };
    cluster k;
    mh_balanced_view *v = NULL;
    mh_direct_view *d = NULL;
    static int64_t in[COUNT], out[COUNT];
    start(&k);
    start_engine(&k);
    start_one(&k, &k.second);
    mh_client *c = open_client(&k, (mh_client_options){0});
    await_count(c, 2);
    assert_ok(mh_client_balanced_view(c, NULL, &v));
    assert_ok(mh_client_direct_view(c, NULL, 0, &d));
    assert_int_equal(mh_direct_view_count(d), 2);
    for (int i = 0; i < COUNT; i++)
        in[i] = i;
    for (int how = 0; how < 3; how++) {
        memset(out, 0, sizeof out);
        if (how < 2)
            assert_ok(mh_balanced_view_map(v, "squares", in, sizeof in[0], COUNT, out, sizeof out[0], how ? 100 : 0, soon()));
        else
            assert_ok(mh_direct_view_map(d, "squares", in, sizeof in[0], COUNT, out, sizeof out[0], soon()));
        for (int i = 0; i < COUNT; i++)
            assert_int_equal(out[i], (int64_t)i * i);
    }
    assert_ok(mh_direct_view_map(d, "squares", in, sizeof in[0], 1, out, sizeof out[0], soon()));
    assert_ok(mh_balanced_view_map(v, "squares", in, sizeof in[0], 0, out, sizeof out[0], 0, soon()));
    assert_err(mh_balanced_view_map(v, "complain", in, sizeof in[0], COUNT, out, sizeof out[0], 10, soon()), MH_ERR_TASK_FAILED);
    assert_non_null(strstr(mh_err_detail(), "that is no number"));
    assert_err(mh_balanced_view_map(v, "squares", in, sizeof in[0], COUNT, out, 4, 10, soon()), MH_ERR_CORRUPT);
    assert_err(mh_direct_view_map(d, "nothing", in, sizeof in[0], COUNT, out, 4, soon()), MH_ERR_NOT_FOUND);
    mh_client_future *futures[2];
    assert_ok(mh_direct_view_apply(d, "square", (mh_bytes){&in[7], sizeof in[7]}, futures));
    for (int i = 0; i < 2; i++) {
        mh_client_result r;
        assert_ok(mh_client_future_result(futures[i], soon(), &r));
        assert_int_equal(r.engine_id, i);
        assert_int_equal(*(const int64_t *)r.value.data, 49);
        mh_client_future_release(&futures[i]);
    }
    mh_direct_view_destroy(&d);
    assert_err(mh_client_direct_view(c, (const int64_t[]){0, 5}, 2, &d), MH_ERR_NOT_FOUND);
    assert_null(d);
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    stop(&k);
}

static _Atomic int called;
static void note_call(mh_client_future *f, void *ctx)
{
    mh_client_result r;
    assert_ok(mh_client_future_result(f, MH_NOW, &r));
    *(mh_err *)ctx = r.err;
    atomic_fetch_add(&called, 1);
}

/* One engine, held by a task that waits for a file. */
static void calls_wait_are_cancelled_and_called_back(void **state)
{
    (void)state;
    cluster k;
    char path[128];
    mh_balanced_view *v = NULL;
    mh_client_future *first = NULL, *next = NULL, *cancelled = NULL, *never = NULL;
    mh_client_result r;
    mh_err got[2] = {MH_ERR_SYSTEM, MH_ERR_SYSTEM};
    int64_t x = 3;
    mh_bytes input = {&x, sizeof x};
    start(&k);
    start_engine(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    await_count(c, 1);
    snprintf(path, sizeof path, "%s/go", k.folder);
    assert_ok(mh_client_balanced_view(c, NULL, &v));
    assert_ok(mh_balanced_view_submit(v, "await_file", text(path), NULL, &first));
    assert_ok(mh_balanced_view_submit(v, "square", input, &(mh_balanced_options){.after = {.items = &first, .count = 1}}, &next));
    assert_ok(mh_balanced_view_submit(v, "square", input, NULL, &cancelled));
    assert_ok(mh_balanced_view_submit(v, "square", input, &(mh_balanced_options){.after = {.items = &first, .count = 1, .on_failure = true,
                                                                                          .not_on_success = true}}, &never));
    assert_ok(mh_client_future_cancel(cancelled));
    assert_ok(mh_client_future_result(cancelled, soon(), &r));
    assert_err(r.err, MH_ERR_CANCELLED);
    assert_err(mh_client_future_wait(next, mh_deadline_in(10 * MH_MILLISECOND)), MH_ERR_TIMEOUT);
    called = 0;
    assert_ok(mh_client_future_on_done(next, note_call, &got[0]));
    assert_err(mh_client_future_on_done(next, note_call, &got[0]), MH_ERR_INVALID);
    touch(path);
    assert_ok(mh_client_future_wait(next, soon()));
    assert_ok(mh_client_future_result(never, soon(), &r));
    assert_err(r.err, MH_ERR_NOT_FOUND);
    assert_ok(mh_client_future_on_done(first, note_call, &got[1])); /* done already: at once */
    for (mh_deadline until = soon(); called < 2 && mh_now() < until;)
        usleep(1000);
    assert_int_equal(called, 2);
    assert_int_equal(got[0] | got[1], MH_OK);
    assert_ok(mh_client_future_cancel(first));
    mh_client_future_release(&first);
    mh_client_future_release(&next);
    mh_client_future_release(&cancelled);
    mh_client_future_release(&never);
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    stop(&k);
}

static void the_end_of_an_engine_or_a_client_ends_calls(void **state)
{
    (void)state;
    cluster k;
    char path[128];
    mh_direct_view *d = NULL;
    mh_balanced_view *v = NULL;
    mh_client_future *lost = NULL, *closed = NULL;
    mh_client_result r;
    start(&k);
    start_engine(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    await_count(c, 1);
    snprintf(path, sizeof path, "%s/go", k.folder);
    assert_ok(mh_client_direct_view(c, NULL, 0, &d));
    assert_ok(mh_direct_view_apply(d, "await_file", text(path), &lost));
    usleep(20000); /* it may run already or not: both end alike */
    end_process(&k.engine, SIGKILL);
    assert_ok(mh_client_future_result(lost, soon(), &r));
    assert_err(r.err, MH_ERR_WORKER_LOST);
    assert_string_equal(r.ename, "MH_ERR_WORKER_LOST");
    assert_ok(mh_client_balanced_view(c, NULL, &v));
    assert_ok(mh_balanced_view_submit(v, "square", (mh_bytes){0}, NULL, &closed)); /* no engine: it waits */
    mh_balanced_view_destroy(&v);
    mh_direct_view_destroy(&d);
    mh_client_close(&c);
    assert_ok(mh_client_future_result(closed, MH_NOW, &r));
    assert_err(r.err, MH_ERR_CLOSED);
    assert_ok(mh_client_future_cancel(closed));
    mh_client_future_release(&closed);
    mh_client_future_release(&lost);
    stop(&k);
}

/* A call that runs while the controller is killed and started again is answered, or said to be lost: never neither. One that is sent after the loss was told waits
 * for the controller. */
static void calls_outlive_a_controller_or_are_told_lost(void **state)
{
    (void)state;
    cluster k;
    char path[128];
    mh_balanced_view *v = NULL;
    mh_client_future *before = NULL, *after = NULL;
    mh_client_result r;
    int64_t x = 5;
    start(&k);
    start_engine(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    await_count(c, 1);
    usleep(100000); /* the list of engines is on the disk 50 ms after it changes */
    snprintf(path, sizeof path, "%s/go", k.folder);
    assert_ok(mh_client_balanced_view(c, NULL, &v));
    assert_ok(mh_balanced_view_submit(v, "await_file", text(path), NULL, &before));
    usleep(50000);
    end_process(&k.controller, SIGKILL);
    mh_client_message *m = take_type(c, "x_connection_lost");
    mh_client_message_free(&m);
    assert_ok(mh_balanced_view_submit(v, "square", (mh_bytes){&x, sizeof x}, &(mh_balanced_options){.retries = 3}, &after));
    start_controller(&k);
    touch(path);
    assert_ok(mh_client_future_result(after, soon(), &r));
    assert_ok(r.err);
    assert_ok(mh_client_future_result(before, soon(), &r));
    assert_true(r.err == MH_OK || r.err == MH_ERR_WORKER_LOST);
    mh_client_future_release(&before);
    mh_client_future_release(&after);
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    stop(&k);
}

/* ---- the fast lane --------------------------------------------------------------------------- */

static void both_lanes_serve_the_same_engines(void **state)
{
    (void)state;
    enum { COUNT = 2000 };
    cluster k;
    mh_client *clients[2];
    mh_balanced_view *views[2];
    mh_client_stats stats;
    static int64_t in[COUNT], out[COUNT];
    start(&k);
    start_engine(&k);
    start_one(&k, &k.second);
    for (int i = 0; i < 2; i++) {
        clients[i] = open_client(&k, (mh_client_options){.no_fast_lane = i == 1});
        mh_client_stats_read(clients[i], &stats);
        assert_int_equal(stats.has_fast_lane, i == 0);
        assert_ok(mh_client_balanced_view(clients[i], NULL, &views[i]));
    }
    await_count(clients[0], 2);
    for (int i = 0; i < COUNT; i++)
        in[i] = i - 1000;
    for (int i = 0; i < 2; i++) {
        memset(out, 0, sizeof out);
        assert_ok(mh_balanced_view_map(views[i], "square", in, sizeof in[0], COUNT, out, sizeof out[0], 0, soon()));
        for (int j = 0; j < COUNT; j++)
            assert_int_equal(out[j], in[j] * in[j]);
        mh_client_stats_read(clients[i], &stats);
        assert_int_equal(stats.fast, i == 0 ? COUNT : 0);
    }
    for (int i = 0; i < 2; i++) { /* one history for all */
        char id[MH_CLIENT_ID_SIZE];
        assert_ok(mh_client_send(clients[i], &(mh_client_request){.channel = MH_CLIENT_REGISTRATION, .type = "db_request",
            .content = text("{\"query\":{},\"keys\":[\"msg_id\",\"result_content\"]}")}, soon(), id));
        mh_client_message *m = take_reply(clients[i], id);
        assert_non_null(memmem(m->content.data, m->content.size, mh_client_session(clients[1]), 32)); /* the last 1,024 are the second's */
        assert_non_null(memmem(m->content.data, m->content.size, "{\"status\":\"ok\"}", 15));
        mh_client_message_free(&m);
    }
    for (int i = 0; i < 2; i++) {
        mh_balanced_view_destroy(&views[i]);
        mh_client_close(&clients[i]);
    }
    stop(&k);
}

/* Whoever of them has a lane: the bytes are the same, and only with lanes on both sides of the controller none are copied through it. */
static void large_buffers_are_lent(void **state)
{
    (void)state;
    enum { SIZE = (3 << 20) + 5 };
    cluster k;
    mh_client_stats stats;
    char *bytes = malloc(SIZE);
    start(&k);
    start_engine(&k);
    assert_non_null(bytes);
    for (int i = 0; i < SIZE; i++)
        bytes[i] = (char)(i * 7 + i / 251);
    for (int i = 0; i < 2; i++) {
        mh_client *c = open_client(&k, (mh_client_options){.no_fast_lane = i == 1});
        mh_balanced_view *balanced = NULL;
        mh_direct_view *direct = NULL;
        mh_client_future *f[2] = {NULL};
        mh_client_result r;
        await_count(c, 1);
        assert_ok(mh_client_balanced_view(c, NULL, &balanced));
        assert_ok(mh_client_direct_view(c, NULL, 0, &direct));
        assert_ok(mh_balanced_view_submit(balanced, "reverse", (mh_bytes){bytes, SIZE}, NULL, &f[0]));
        assert_ok(mh_direct_view_apply(direct, "reverse", (mh_bytes){bytes, SIZE}, &f[1]));
        for (int j = 0; j < 2; j++) {
            assert_ok(mh_client_future_result(f[j], soon(), &r));
            assert_ok(r.err);
            assert_int_equal(r.value.size, SIZE);
            for (int b = 0; b < SIZE; b++)
                if (((const char *)r.value.data)[b] != bytes[SIZE - 1 - b])
                    fail_msg("byte %d", b);
        }
        mh_client_stats_read(c, &stats);
        assert_int_equal(stats.lent, i == 0 ? 2 : 0);
        mh_client_close(&c); /* what was lent outlives it */
        assert_int_equal(((const char *)r.value.data)[0], bytes[SIZE - 1]);
        for (int j = 0; j < 2; j++)
            mh_client_future_release(&f[j]);
        mh_balanced_view_destroy(&balanced);
        mh_direct_view_destroy(&direct);
    }
    free(bytes);
    stop(&k);
}

/* Cut this process's own fast lane to the controller. */
static int cut_lane(const cluster *k)
{
    int cut = 0;
    for (int fd = 3; fd < 1024; fd++) {
        struct sockaddr_un peer = {0};
        socklen_t size = sizeof peer - 1;
        if (!getpeername(fd, (struct sockaddr *)&peer, &size) && peer.sun_family == AF_UNIX && !strncmp(peer.sun_path, k->folder, strlen(k->folder)))
            cut += !shutdown(fd, SHUT_RDWR);
    }
    return cut;
}

static bool has_lane(mh_client *c)
{
    mh_client_stats stats;
    mh_client_stats_read(c, &stats);
    return stats.has_fast_lane;
}

/* The lane ends while both of its ends live: what was in it is answered or told lost, the rest goes by the stock lane, and there is a new lane soon. */
static void a_lane_that_ends_is_left_and_found_again(void **state)
{
    (void)state;
    enum { COUNT = 300, CUT_AT = 200 };
    cluster k;
    char path[128];
    mh_balanced_view *v = NULL;
    mh_client_future *held = NULL, *f[COUNT];
    mh_client_result r;
    int64_t x = 4;
    start(&k);
    start_engine(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    await_count(c, 1);
    assert_true(has_lane(c));
    snprintf(path, sizeof path, "%s/go", k.folder);
    assert_ok(mh_client_balanced_view(c, NULL, &v));
    assert_ok(mh_balanced_view_submit(v, "await_file", text(path), NULL, &held));
    for (int i = 0; i < COUNT; i++) {
        if (i == CUT_AT)
            assert_int_equal(cut_lane(&k), 1);
        assert_ok(mh_balanced_view_submit(v, "square", (mh_bytes){&x, sizeof x}, NULL, &f[i]));
    }
    mh_client_message *m = take_type(c, "x_connection_lost");
    mh_client_message_free(&m);
    m = take_type(c, "x_connection_back");
    mh_client_message_free(&m);
    for (mh_deadline until = soon(); !has_lane(c) && mh_now() < until;)
        usleep(2000);
    assert_true(has_lane(c)); /* so the controller has left the old one: no reply goes into it */
    touch(path);
    for (int i = 0; i < COUNT; i++) {
        assert_ok(mh_client_future_result(f[i], soon(), &r));
        assert_true(r.err == MH_OK || r.err == MH_ERR_WORKER_LOST);
        mh_client_future_release(&f[i]);
    }
    assert_ok(mh_client_future_result(held, soon(), &r));
    assert_true(r.err == MH_OK || r.err == MH_ERR_WORKER_LOST);
    mh_client_future_release(&held);
    assert_ok(mh_balanced_view_submit(v, "square", (mh_bytes){&x, sizeof x}, NULL, &held));
    assert_ok(mh_client_future_result(held, soon(), &r));
    assert_ok(r.err);
    mh_client_future_release(&held);
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    stop(&k);
}

/* A queue of short tasks behind a long one moves to the engine that has nothing to do. */
static void what_waits_behind_a_long_task_moves(void **state)
{
    (void)state;
    enum { COUNT = 50 };
    cluster k;
    char path[128];
    mh_balanced_view *v = NULL;
    mh_client_future *held = NULL, *f[COUNT];
    mh_client_result r;
    int64_t x = 4;
    start(&k);
    start_engine(&k);
    mh_client *c = open_client(&k, (mh_client_options){0});
    await_count(c, 1);
    snprintf(path, sizeof path, "%s/go", k.folder);
    assert_ok(mh_client_balanced_view(c, NULL, &v));
    for (int i = 0; i < COUNT; i++) { /* so that much is given to it at once */
        assert_ok(mh_balanced_view_submit(v, "square", (mh_bytes){&x, sizeof x}, NULL, &f[i]));
        assert_ok(mh_client_future_wait(f[i], soon()));
        mh_client_future_release(&f[i]);
    }
    assert_ok(mh_balanced_view_submit(v, "await_file", text(path), NULL, &held));
    for (int i = 0; i < COUNT; i++)
        assert_ok(mh_balanced_view_submit(v, "square", (mh_bytes){&x, sizeof x}, NULL, &f[i]));
    start_one(&k, &k.second);
    int ended = 0;
    for (mh_deadline until = soon(); ended < COUNT / 2 && mh_now() < until;) { /* but for what the task's own pool had already */
        ended = 0;
        for (int i = 0; i < COUNT; i++)
            ended += mh_client_future_is_done(f[i]);
        usleep(2000);
    }
    assert_false(mh_client_future_is_done(held));
    assert_true(ended >= COUNT / 2);
    touch(path);
    for (int i = 0; i < COUNT; i++) {
        assert_ok(mh_client_future_result(f[i], soon(), &r));
        assert_ok(r.err);
        mh_client_future_release(&f[i]);
    }
    assert_ok(mh_client_future_result(held, soon(), &r));
    assert_ok(r.err);
    mh_client_future_release(&held);
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    stop(&k);
}

/* ---- with a controller that says what it is told --------------------------------------------- */

typedef struct fake {
    mh__loop *loop;
    mh__socket *sockets[MH__COUNT_OF(((mh__connection *)0)->broadcast)];
    mh__connection info;
    mh__sign_key *key;
    mh__session session;
    mh_buf *file;
    int queries;
    pthread_t thread;
    _Atomic bool must_stop, notifies, holds, has_held; /* holds: the first query is answered when it no longer does, others are not */
    mh__parcel *held;
    bool answers;
} fake;

static void answer_query(mh__socket *s, mh__parcel *p, void *ctx)
{
    fake *f = ctx;
    mh__built built;
    mh__parcel *out = NULL;
    mh__message m;
    const char *content = f->queries++ ? "{\"status\":\"ok\",\"engines\":{\"4\":\"def\",\"5\":\"ghi\"}}"
                                       : "{\"status\":\"ok\",\"engines\":{\"3\":\"abc\",\"4\":\"def\"}}";
    assert_ok(mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &m));
    assert_ok(mh__parcel_create(&out));
    assert_ok(mh__session_build(&f->session, &(mh__draft){.type = "connection_reply", .parent = m.header,
                                                          .content = text(content)}, &built));
    assert_ok(mh__parcel_add(out, m.idents[0]));
    for (int i = 0; i < MH__FRAMES_SIGNED; i++)
        assert_ok(mh__parcel_add(out, built.frames[i]));
    assert_ok(mh__socket_send(s, out));
    mh__parcel_destroy(&out);
}

static void keep_query(mh__socket *s, mh__parcel *p, void *ctx)
{
    fake *f = ctx;
    if (f->answers) {
        answer_query(s, p, ctx);
    } else if (f->holds && !f->held) {
        assert_ok(mh__parcel_create(&f->held));
        mh__parcel_move(f->held, p);
        f->has_held = true;
    }
}

/* Engine 9 comes, as often as it takes until somebody has subscribed. */
static void notify(fake *f)
{
    mh__built built;
    mh__parcel *out = NULL;
    assert_ok(mh__session_build(&f->session, &(mh__draft){.type = "registration_notification", .content = text("{\"id\":9,\"uuid\":\"nine\"}")}, &built));
    assert_ok(mh__parcel_create(&out));
    assert_ok(mh__parcel_add(out, text("registration_notification")));
    for (int i = 0; i < MH__FRAMES_SIGNED; i++)
        assert_ok(mh__parcel_add(out, built.frames[i]));
    assert_ok(mh__socket_send(f->sockets[6], out));
    mh__parcel_destroy(&out);
}

/* Answers a task as the type of the message says. */
static void play_task(mh__socket *s, mh__parcel *p, void *ctx)
{
    fake *f = ctx;
    mh__built built;
    mh__message m;
    mh__header h;
    assert_ok(mh__message_split(mh__parcel_frames(p), mh__parcel_count(p), &m));
    assert_ok(mh__header_read(m.header, &h));
    mh_bytes client = m.idents[0];
    int times = mh__bytes_are(h.msg_type, "replayed") ? 2 : mh__bytes_are(h.msg_type, "flood") ? 3000 : 1;
    static char filler[8000];
    memset(filler, ' ', sizeof filler);
    for (int i = 0; i < times; i++) {
        mh__parcel *out = NULL;
        mh_bytes content = mh__bytes_are(h.msg_type, "no_json") ? text("{\"a\":}") : text("{}");
        if (i == 0 || times > 2)
            assert_ok(mh__session_build(&f->session, &(mh__draft){.type = "answer", .parent = m.header, .content = content}, &built));
        if (mh__bytes_are(h.msg_type, "forged"))
            built.signature[5] ^= 1;
        assert_ok(mh__parcel_create(&out));
        assert_ok(mh__parcel_add(out, client));
        int frames = mh__bytes_are(h.msg_type, "truncated") ? 4 : MH__FRAMES_SIGNED;
        for (int j = 0; j < frames; j++)
            assert_ok(mh__parcel_add(out, built.frames[j]));
        if (times > 2)
            assert_ok(mh__parcel_add(out, (mh_bytes){filler, sizeof filler}));
        mh_err err;
        while ((err = mh__socket_send(s, out)) == MH_ERR_FULL && !f->must_stop)
            usleep(1000);
        mh__parcel_destroy(&out);
    }
}

static void *run_fake(void *ctx)
{
    fake *f = ctx;
    while (!f->must_stop) {
        (void)!mh__loop_wait(f->loop, mh_deadline_in(20 * MH_MILLISECOND));
        mh__loop_dispatch(f->loop);
        if (f->notifies)
            notify(f);
        if (f->held && !f->holds) {
            answer_query(f->sockets[0], f->held, f);
            mh__parcel_destroy(&f->held);
        }
    }
    return NULL;
}

static void start_fake(fake *f, bool answers)
{
    *f = (fake){.answers = answers};
    uint16_t *ports[] = {&f->info.registration, &f->info.task, &f->info.mux, &f->info.control, &f->info.broadcast[0], &f->info.iopub, &f->info.notification};
    strcpy(f->info.interface_, "tcp://127.0.0.1");
    strcpy(f->info.key, "a key");
    strcpy(f->session.id, "fake");
    f->info.broadcast_count = 1;
    assert_ok(mh__sign_key_create(&f->key, text("a key")));
    f->session.signer = mh__sign_key_signer(f->key);
    assert_ok(mh__loop_create(&f->loop));
    for (size_t i = 0; i < MH__COUNT_OF(ports); i++) {
        assert_ok(mh__socket_open(&f->sockets[i], f->loop, &(mh__socket_options){.kind = i < 5 ? MH__ROUTER : MH__PUB, .linger_ms = -1,
            .on_message = i == 0 ? keep_query : i == 1 ? play_task : NULL, .ctx = f}));
        assert_ok(mh__socket_bind(f->sockets[i], f->info.interface_, ports[i]));
    }
    assert_ok(mh_buf_create(&f->file, 0));
    assert_ok(mh__connection_write(&f->info, f->file));
    assert_ok(mh_buf_append(f->file, (mh_bytes){"", 1}));
    assert_int_equal(pthread_create(&f->thread, NULL, run_fake, f), 0);
}

static void stop_fake(fake *f)
{
    f->must_stop = true;
    pthread_join(f->thread, NULL);
    for (size_t i = 0; i < MH__COUNT_OF(f->sockets); i++)
        mh__socket_close(&f->sockets[i]);
    mh__loop_destroy(&f->loop);
    mh__parcel_destroy(&f->held);
    mh__sign_key_destroy(&f->key);
    mh_buf_destroy(&f->file);
}

static void what_is_not_right_is_dropped_and_counted(void **state)
{
    (void)state;
    fake f;
    mh_client *c = NULL;
    mh_client_message *m = NULL;
    mh_client_engine e;
    mh_client_stats stats;
    size_t count = 1;
    char id[MH_CLIENT_ID_SIZE];
    start_fake(&f, true);
    assert_ok(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(f.file)}));
    mh_client_engines(c, &e, &count);
    assert_true(count == 2 && e.id == 3 && !strcmp(e.uuid, "abc"));
    static const char *const types[] = {"forged", "truncated", "no_json", "replayed", "right"};
    for (size_t i = 0; i < MH__COUNT_OF(types); i++)
        assert_ok(mh_client_send(c, &(mh_client_request){.channel = MH_CLIENT_TASK, .type = types[i]}, soon(), id));
    for (int i = 0; i < 2; i++) { /* "replayed" once, then "right" */
        m = take_type(c, "answer");
        assert_int_equal(is(m->parent_id, id), i == 1);
        mh_client_message_free(&m);
    }
    mh_client_stats_read(c, &stats);
    assert_int_equal(stats.refused, 3);
    assert_int_equal(stats.replayed, 1);
    assert_true(stats.sent >= 5 + 1);
    mh_client_close(&c);
    stop_fake(&f);
}

/* The client asks again soon after it began: the subscription may have come too late for a notification. */
static void what_was_missed_is_told(void **state)
{
    (void)state;
    fake f;
    mh_client *c = NULL;
    mh_client_engine e[2] = {{0}};
    size_t count = 2;
    start_fake(&f, true);
    assert_ok(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(f.file)}));
    mh_client_message *m = take_type(c, "unregistration_notification");
    assert_true(is(m->content, "{\"id\":3,\"uuid\":\"abc\"}"));
    mh_client_message_free(&m);
    m = take_type(c, "registration_notification");
    assert_true(is(m->content, "{\"id\":5,\"uuid\":\"ghi\"}"));
    mh_client_message_free(&m);
    mh_client_engines(c, e, &count);
    assert_true(count == 2 && e[0].id == 4 && e[1].id == 5);
    mh_client_close(&c);
    stop_fake(&f);
}

/* An engine that was told to have come is there, also when an answer comes that was written before. */
static void an_old_answer_takes_nobody_away(void **state)
{
    (void)state;
    fake f;
    mh_client *c = NULL;
    mh_client_engine e[3] = {{0}};
    size_t count = 3;
    start_fake(&f, false);
    f.holds = f.notifies = true;
    assert_ok(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(f.file), .timeout_ns = -1}));
    mh_client_message *m = take_type(c, "registration_notification");
    mh_client_message_free(&m);
    for (mh_deadline until = soon(); !f.has_held && mh_now() < until;)
        usleep(1000);
    f.notifies = f.holds = false;
    assert_ok(mh_client_wait(c, soon()));
    mh_client_engines(c, e, &count);
    assert_int_equal(count, 3);
    assert_true(e[0].id == 3 && e[1].id == 4 && e[2].id == 9);
    mh_client_close(&c);
    stop_fake(&f);
}

static void what_waits_to_be_taken_is_bounded(void **state)
{
    (void)state;
    enum { LIMIT = 100000, EACH = 8000 };
    fake f;
    mh_client *c = NULL;
    mh_client_message *m = NULL;
    mh_client_stats stats;
    char id[MH_CLIENT_ID_SIZE];
    start_fake(&f, true);
    assert_ok(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(f.file), .in_bytes_max = LIMIT}));
    assert_ok(mh_client_send(c, &(mh_client_request){.channel = MH_CLIENT_TASK, .type = "flood"}, soon(), id));
    for (int i = 0; i < 3000; i++) {
        m = take_type(c, "answer");
        mh_client_message_free(&m);
        mh_client_stats_read(c, &stats);
        assert_true(stats.in_bytes <= LIMIT + 2 * EACH);
    }
    mh_client_close(&c);
    stop_fake(&f);
}

static void what_waits_to_be_sent_is_bounded(void **state)
{
    (void)state;
    mh_client *c = NULL;
    mh_buf *file = NULL;
    char id[MH_CLIENT_ID_SIZE];
    static char large[40000];
    mh__connection info = {.interface_ = "tcp://127.0.0.1", .key = "k", .registration = 1, .mux = 1, .task = 1, .control = 1, .iopub = 1,
                           .notification = 1, .broadcast = {1}, .broadcast_count = 1};
    assert_ok(mh_buf_create(&file, 0));
    assert_ok(mh__connection_write(&info, file));
    assert_ok(mh_buf_append(file, (mh_bytes){"", 1}));
    /* nobody listens at port 1 */
    assert_err(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(file), .timeout_ns = 50 * MH_MILLISECOND}), MH_ERR_TIMEOUT);
    assert_null(c);
    assert_non_null(strstr(mh_err_detail(), "no controller answers at tcp://127.0.0.1:1"));
    assert_ok(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(file), .timeout_ns = -1, .out_bytes_max = 100000}));
    released = 0;
    mh_client_request r = {.channel = MH_CLIENT_TASK, .type = "x", .buffers = &(mh_bytes){large, sizeof large}, .buffer_count = 1,
                           .release = count_release, .release_ctx = &released};
    assert_ok(mh_client_send(c, &r, MH_NOW, id));
    assert_ok(mh_client_send(c, &r, MH_NOW, id));
    assert_err(mh_client_send(c, &r, MH_NOW, id), MH_ERR_FULL);
    assert_err(mh_client_send(c, &r, mh_deadline_in(5 * MH_MILLISECOND), id), MH_ERR_FULL);
    assert_int_equal(released, 0);
    mh_client_close(&c);
    assert_int_equal(released, 2);
    mh_buf_destroy(&file);
}

static void open_says_what_is_wrong(void **state)
{
    (void)state;
    fake f;
    mh_client *c = NULL;
    char path[] = "/tmp/mh-client-XXXXXX", engine[1024];
    int fd = mkstemp(path);
    start_fake(&f, false);
    assert_err(mh_client_open(&c, &(mh_client_options){0}), MH_ERR_INVALID);
    assert_err(mh_client_open(&c, &(mh_client_options){.connection_file = path, .connection_text = "{}"}), MH_ERR_INVALID);
    assert_err(mh_client_open(&c, &(mh_client_options){.connection_text = "{"}), MH_ERR_CORRUPT);
    assert_err(mh_client_open(&c, &(mh_client_options){.connection_file = "/nowhere/x"}), MH_ERR_NOT_FOUND);
    assert_int_equal(fchmod(fd, 0644), 0);
    assert_err(mh_client_open(&c, &(mh_client_options){.connection_file = path}), MH_ERR_PERMISSION);
    f.info.is_engine = true;
    f.info.hb_ping = f.info.hb_pong = 1;
    assert_ok(mh_buf_resize(f.file, 0));
    assert_ok(mh__connection_write(&f.info, f.file));
    snprintf(engine, sizeof engine, "%.*s", (int)mh_buf_size(f.file), (const char *)mh_buf_data(f.file));
    assert_err(mh_client_open(&c, &(mh_client_options){.connection_text = engine}), MH_ERR_INVALID);
    assert_non_null(strstr(mh_err_detail(), "-client.json"));
    f.info.is_engine = false;
    f.info.key[0] = 0;
    assert_ok(mh_buf_resize(f.file, 0));
    assert_ok(mh__connection_write(&f.info, f.file));
    assert_ok(mh_buf_append(f.file, (mh_bytes){"", 1}));
    assert_err(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(f.file)}), MH_ERR_CORRUPT);
    assert_non_null(strstr(mh_err_detail(), "key"));
    strcpy(f.info.key, "k");
    assert_ok(mh_buf_resize(f.file, 0));
    assert_ok(mh__connection_write(&f.info, f.file));
    assert_ok(mh_buf_append(f.file, (mh_bytes){"", 1}));
    assert_ok(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(f.file), .timeout_ns = -1}));
    mh_err err = MH_OK; /* reached, and silent */
    for (mh_deadline until = soon(); !strstr(mh_err_detail(), "was reached") && mh_now() < until;)
        err = mh_client_wait(c, mh_deadline_in(10 * MH_MILLISECOND));
    assert_int_equal(err, MH_ERR_TIMEOUT);
    mh_client_close(&c);
    stop_fake(&f);
    close(fd);
    unlink(path);
}

static void *take_for_ever(void *ctx)
{
    mh_client_message *m = NULL;
    mh_err err = mh_client_take(ctx, MH_FOREVER, &m);
    return (void *)(uintptr_t)err;
}

static void closing_ends_every_wait(void **state)
{
    (void)state;
    fake f;
    mh_client *c = NULL, *same;
    pthread_t waiter;
    void *got;
    start_fake(&f, true);
    assert_ok(mh_client_open(&c, &(mh_client_options){.connection_text = mh_buf_data(f.file)}));
    same = c;
    assert_int_equal(pthread_create(&waiter, NULL, take_for_ever, same), 0);
    mh__lock_take(c->lock);
    for (mh_deadline until = soon(); !c->users && mh_now() < until;) { /* once it is in it may wait: who comes later comes to nothing */
        mh__lock_drop(c->lock);
        sched_yield();
        mh__lock_take(c->lock);
    }
    assert_int_equal(c->users, 1);
    mh__lock_drop(c->lock);
    mh_client_close(&c);
    pthread_join(waiter, &got);
    assert_int_equal((uintptr_t)got, MH_ERR_CLOSED);
    stop_fake(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_channel_carries_messages),
        cmocka_unit_test(large_buffers_are_lent_and_returned),
        cmocka_unit_test(bad_requests_are_named),
        cmocka_unit_test(a_restarted_controller_is_found_again),
        cmocka_unit_test(threads_share_a_client),
        cmocka_unit_test(a_fork_of_a_client_is_told_so),
        cmocka_unit_test(balanced_calls_end_as_they_should),
        cmocka_unit_test(maps_fill_arrays),
        cmocka_unit_test(calls_wait_are_cancelled_and_called_back),
        cmocka_unit_test(the_end_of_an_engine_or_a_client_ends_calls),
        cmocka_unit_test(calls_outlive_a_controller_or_are_told_lost),
        cmocka_unit_test(both_lanes_serve_the_same_engines),
        cmocka_unit_test(large_buffers_are_lent),
        cmocka_unit_test(a_lane_that_ends_is_left_and_found_again),
        cmocka_unit_test(what_waits_behind_a_long_task_moves),
        cmocka_unit_test(what_is_not_right_is_dropped_and_counted),
        cmocka_unit_test(what_was_missed_is_told),
        cmocka_unit_test(an_old_answer_takes_nobody_away),
        cmocka_unit_test(what_waits_to_be_taken_is_bounded),
        cmocka_unit_test(what_waits_to_be_sent_is_bounded),
        cmocka_unit_test(open_says_what_is_wrong),
        cmocka_unit_test(closing_ends_every_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
