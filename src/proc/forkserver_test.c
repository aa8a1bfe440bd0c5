#include "proc/proc_test.h"

#include "proc/forkserver.h"

/* ---- what children do: the first byte of the message says it ---------------------------------- */

enum { EXIT = 'e', ECHO = 'c', SUM = 's', TELL = 't', SLEEP = 'z', ANSWER = 'a', DIE = 'd', SURVIVE = 'v' };

/* 1: SIGINT ignored, 2: a pending or blocked SIGINT, 4: descriptors of the server's are open besides ours */
static int tell(const int *fds, size_t fd_count)
{
    struct sigaction interrupt;
    sigset_t mask;
    int extra = 0;
    sigaction(SIGINT, NULL, &interrupt);
    sigprocmask(SIG_SETMASK, NULL, &mask);
    for (int fd = 3; fd < 64; fd++) {
        bool ours = false;
        for (size_t i = 0; i < fd_count; i++)
            ours = ours || fds[i] == fd;
        extra += !ours && fcntl(fd, F_GETFD) >= 0;
    }
    return (interrupt.sa_handler == SIG_IGN) | (sigismember(&mask, SIGINT) ? 2 : 0) | (extra ? 4 : 0);
}

static int entry(mh_bytes message, const int *fds, size_t fd_count, void *ctx)
{
    const unsigned char *text = message.data;
    unsigned sum = 0;
    switch (message.size ? text[0] : EXIT) {
    case EXIT: return message.size > 1 ? text[1] : ctx ? *(int *)ctx : 0;
    case ECHO: return write(fds[0], text, message.size) == (ssize_t)message.size ? 0 : 1;
    case SUM:
        for (size_t i = 0; i < message.size; i++)
            sum += text[i];
        return write(fds[0], &sum, sizeof sum) == (ssize_t)sizeof sum ? (int)fd_count : 99;
    case TELL: return tell(fds, fd_count);
    case ANSWER: return answer(fds[0], fds[1], 'a');
    case SURVIVE: return mh_parent_survive() ? 97 : answer(fds[0], fds[1], 'a');
    case DIE: raise(text[1]); return 98;
    default:
        while (pause() < 0)
            ;
        return 0;
    }
}

static const char *const program[] = {"/proc/self/exe", "serve", "{socket}", NULL};

/* Every test of behaviour runs over both kinds of server. */
static const char *const sparing_program[] = {"/proc/self/exe", "serve", "{socket}", "spare", NULL};
static const mh_forkserver_options kinds[] = {
    {.child = {.entry = entry}},
    {.argv = program},
    {.child = {.entry = entry, .spare = true}},
    {.argv = sparing_program},
};
enum { SPARING = 3 };

static mh_err request(mh_forkserver *s, const char *text, const int *fds, size_t fd_count, mh_process **p)
{
    return mh_forkserver_fork(s, (mh_bytes){text, strlen(text)}, fds, fd_count, LONG_ENOUGH, p);
}

/* A child that answers over t. */
static void start_answering(mh_forkserver *s, mh_process **p, talk *t)
{
    talk_open(t);
    assert_ok(request(s, "a", (int[]){t->to[0], t->from[1]}, 2, p));
    mh__os_close(&t->to[0]);
    mh__os_close(&t->from[1]);
    assert_int_equal(hear(t->from[0]), 'a');
}

/* A child of the server other than `known`. */
static int32_t await_spare(const mh_forkserver *s, int32_t known)
{
    char path[64], *text = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", mh_forkserver_pid(s), mh_forkserver_pid(s));
    for (;;) {
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        ssize_t length = getline(&text, &size, file);
        fclose(file);
        char *at = text;
        for (long pid; length > 0 && (pid = strtol(at, &at, 10)) > 0;)
            if (pid != known) {
                free(text);
                return (int32_t)pid;
            }
        sched_yield();
    }
}

/* ---- ordinary life --------------------------------------------------------------------------- */

static void children_run_and_end(void **state)
{
    (void)state;
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p;
        mh_exit status;
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        assert_true(mh_forkserver_pid(s) > 0);
        assert_ok(request(s, "e\x2a", NULL, 0, &p));
        assert_true(mh_process_pid(p) > 0 && mh_process_pid(p) != mh_forkserver_pid(s));
        assert_ok(mh__os_wait_readable(mh_process_sentinel(p), LONG_ENOUGH));
        assert_ok(mh_process_wait(p, MH_NOW, &status)); /* the status may be on its way still: waiting allows for that */
        assert_int_equal(status.code, 42);
        assert_false(status.lost);
        assert_false(mh_process_is_alive(p));
        assert_err(mh_process_kill(p), MH_ERR_EXITED);
        expect_end(&p, 42);
        assert_ok(request(s, "d\x0f", NULL, 0, &p));
        expect_end(&p, -SIGTERM);
        assert_ok(request(s, "", NULL, 0, &p)); /* an empty message */
        expect_end(&p, 0);
        assert_ok(request(s, "z", NULL, 0, &p));
        assert_true(mh_process_is_alive(p));
        assert_err(mh_process_wait(p, MH_NOW, NULL), MH_ERR_TIMEOUT);
        assert_ok(mh_process_kill(p));
        expect_end(&p, -SIGKILL);
        mh_forkserver_destroy(&s);
        assert_null(s);
        mh_forkserver_destroy(&s);
        assert_no_children();
    }
}

static void a_spare_is_there_before_it_is_asked_for(void **state)
{
    (void)state;
    for (size_t k = 2; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p, *other;
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        int32_t spare = await_spare(s, 0);
        assert_int_equal(kill(spare, SIGINT), 0); /* a Ctrl-C meant for others */
        assert_ok(request(s, "z", NULL, 0, &other));
        assert_int_equal(mh_process_pid(other), spare);
        assert_true(mh_process_is_alive(other));
        spare = await_spare(s, mh_process_pid(other));
        assert_int_equal(kill(spare, SIGKILL), 0); /* it is replaced, sooner or later */
        for (int i = 0; i < 3; i++) {
            assert_ok(request(s, "e\x05", NULL, 0, &p));
            if (mh_process_pid(p) != spare) /* else it had its order already when it died */
                expect_end(&p, 5);
            mh_process_destroy(&p);
        }
        spare = await_spare(s, mh_process_pid(other));
        assert_ok(mh_process_kill(other));
        mh_process_destroy(&other);
        mh_forkserver_destroy(&s);
        assert_int_equal(kill(spare, 0), -1);
        assert_no_children();
    }
}

static void several_requests_overlap(void **state)
{
    (void)state;
    enum { COUNT = 8 };
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p[COUNT];
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        for (int i = 0; i < COUNT; i++) {
            char message[] = {EXIT, (char)(i + 1)};
            assert_ok(mh_forkserver_post(s, (mh_bytes){message, 2}, NULL, 0, LONG_ENOUGH, &p[i]));
        }
        for (int i = COUNT; i-- > 0;) { /* out of order */
            if (i % 2)
                assert_ok(mh_process_await_start(p[i], LONG_ENOUGH));
            expect_end(&p[i], i + 1);
        }
        mh_forkserver_destroy(&s);
    }
}

static void messages_and_descriptors_arrive(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 1000, MH__REQUEST_INLINE - 1, MH__REQUEST_INLINE, MH__REQUEST_INLINE + 1, 3000000};
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p;
        int out[2], many[MH_FORKSERVER_FDS_MAX + 1];
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        for (size_t i = 0; i < MH__COUNT_OF(many); i++)
            many[i] = out[1];
        for (size_t i = 0; i < MH__COUNT_OF(sizes); i++) {
            unsigned char *text = malloc(sizes[i]);
            unsigned sum = 0, got = 1;
            for (size_t j = 0; j < sizes[i]; j++)
                sum += text[j] = j ? (unsigned char)(j * 7 + i) : SUM;
            size_t fd_count = 1 + i % MH_FORKSERVER_FDS_MAX;
            assert_ok(mh_forkserver_fork(s, (mh_bytes){text, sizes[i]}, many, fd_count, LONG_ENOUGH, &p));
            free(text);
            expect_end(&p, (int)fd_count);
            assert_int_equal(read(out[0], &got, sizeof got), sizeof got);
            assert_int_equal(got, sum);
        }
        assert_ok(request(s, "s", many, MH_FORKSERVER_FDS_MAX, &p));
        expect_end(&p, MH_FORKSERVER_FDS_MAX);
        assert_err(request(s, "s", many, MH_FORKSERVER_FDS_MAX + 1, &p), MH_ERR_LIMIT);
        assert_null(p);
        assert_err(request(s, "s", (int[]){1000}, 1, &p), MH_ERR_INVALID);
        mh_forkserver_destroy(&s);
        close(out[0]);
        close(out[1]);
    }
}

static void zygotes_hand_on_their_context(void **state)
{
    (void)state;
    mh_forkserver *s;
    mh_process *p;
    int code = 77;
    assert_ok(mh_forkserver_start(&s, &(mh_forkserver_options){.child = {.entry = entry, .ctx = &code}}));
    code = 1; /* too late: the server has its copy */
    assert_ok(request(s, "", NULL, 0, &p));
    expect_end(&p, 77);
    mh_forkserver_destroy(&s);
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    static const char *const empty[] = {NULL};
    static const struct {
        mh_forkserver_options options;
        const char *detail;
    } rows[] = {
        {{.method = MH_START_FORKSERVER, .child.entry = entry}, "by fork or spawn"},
        {{.method = MH_START_FORK}, "child.entry"},
        {{0}, "child.entry"},
        {{.method = MH_START_FORK, .child.entry = entry, .argv = program}, "neither argv"},
        {{.method = MH_START_SPAWN, .child.entry = entry}, "needs argv"},
        {{.argv = empty}, "needs argv"},
    };
    mh_forkserver *s;
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        s = (void *)&state;
        assert_err(mh_forkserver_start(&s, &rows[i].options), MH_ERR_INVALID);
        assert_null(s);
        assert_non_null(strstr(mh_err_detail(), rows[i].detail));
    }
    assert_err(mh_forkserver_start(&s, &(mh_forkserver_options){.argv = (const char *const[]){"/nowhere", NULL}}), MH_ERR_NOT_FOUND);
    assert_int_equal(mh_err_errno(), ENOENT);
    assert_err(mh_forkserver_serve(1000, &kinds[0].child), MH_ERR_INVALID);
    int out[2];
    assert_int_equal(pipe(out), 0);
    assert_err(mh_forkserver_serve(out[0], &kinds[0].child), MH_ERR_INVALID);
    close(out[0]);
    close(out[1]);
    assert_no_children();
}

static void serve_elsewhere(void *ctx)
{
    int ends[2];
    assert_ok(mh__os_socketpair(ends));
    *(mh_err *)ctx = mh_forkserver_serve(ends[0], &kinds[0].child);
    close(ends[0]);
    close(ends[1]);
}

static void only_main_threads_serve(void **state)
{
    (void)state;
    mh_err err = MH_OK;
    call_in_thread(serve_elsewhere, &err);
    assert_err(err, MH_ERR_INVALID);
}

/* ---- what children inherit ------------------------------------------------------------------- */

static void children_start_clean(void **state)
{
    (void)state;
    mh_forkserver *s;
    mh_process *p, *other;
    int before = mh__os_fd_count();
    for (size_t k = 1; k < MH__COUNT_OF(kinds); k += 2) {
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        assert_ok(request(s, "z", NULL, 0, &other)); /* its descriptors in the server are none of the next child's */
        if (k == SPARING)
            await_spare(s, mh_process_pid(other));
        assert_ok(request(s, "t", (int[]){1}, 1, &p));
        expect_end(&p, 0); /* SIGINT as it was, nothing blocked, no stray descriptor */
        mh_process_destroy(&other);
        mh_forkserver_destroy(&s);
        assert_int_equal(mh__os_fd_count(), before);
    }

    const char *const ignoring[] = {"/proc/self/exe", "serve", "{socket}", "ignore", NULL};
    assert_ok(mh_forkserver_start(&s, &(mh_forkserver_options){.argv = ignoring}));
    assert_ok(request(s, "t", NULL, 0, &p));
    expect_end(&p, 1);
    mh_forkserver_destroy(&s);
}

static void servers_take_no_notice_of_interrupts(void **state)
{
    (void)state;
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p;
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        assert_int_equal(kill(mh_forkserver_pid(s), SIGINT), 0); /* at once: also before it serves */
        assert_ok(request(s, "e\x05", NULL, 0, &p));
        expect_end(&p, 5);
        assert_int_equal(kill(mh_forkserver_pid(s), SIGINT), 0);
        assert_ok(request(s, "z", NULL, 0, &p));
        assert_ok(mh_process_signal(p, SIGINT)); /* its children do */
        expect_end(&p, -SIGINT);
        mh_forkserver_destroy(&s);
    }
}

/* ---- deaths ---------------------------------------------------------------------------------- */

static void children_die_with_their_server(void **state)
{
    (void)state;
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p[3], *late;
        mh_exit status;
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        for (int i = 0; i < 3; i++)
            assert_ok(request(s, "z", NULL, 0, &p[i]));
        assert_int_equal(kill(mh_forkserver_pid(s), SIGSTOP), 0);
        assert_ok(mh_forkserver_post(s, (mh_bytes){"z", 1}, NULL, 0, LONG_ENOUGH, &late));
        assert_int_equal(kill(mh_forkserver_pid(s), SIGKILL), 0);
        mh_deadline until = mh_deadline_in(MH_SECOND);
        for (int i = 0; i < 3; i++) {
            assert_ok(mh_process_wait(p[i], until, &status));
            assert_int_equal(status.signal, SIGKILL);
            assert_true(status.lost);
            mh_process_destroy(&p[i]);
        }
        assert_err(mh_process_wait(late, until, NULL), MH_ERR_CLOSED);
        assert_err(mh_process_await_start(late, until), MH_ERR_CLOSED); /* and again */
        assert_err(mh_process_kill(late), MH_ERR_CLOSED);
        assert_false(mh_process_is_alive(late));
        assert_int_equal(mh_process_pid(late), -1);
        mh_process_destroy(&late);
        assert_ok(mh__os_wait_readable(mh_forkserver_sentinel(s), until));
        assert_err(request(s, "z", NULL, 0, &late), MH_ERR_CLOSED);
        assert_null(late);
        mh_forkserver_destroy(&s);
        while (waitpid(-1, NULL, 0) > 0) /* orphans come to us */
            ;
    }
}

static void stopping_ends_the_children(void **state)
{
    (void)state;
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p, *none;
        mh_exit status;
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        assert_ok(request(s, "z", NULL, 0, &p));
        mh_forkserver_stop(s);
        mh_forkserver_stop(s);
        assert_err(request(s, "z", NULL, 0, &none), MH_ERR_CLOSED);
        assert_ok(mh__os_wait_readable(mh_forkserver_sentinel(s), LONG_ENOUGH));
        mh_forkserver_destroy(&s);
        assert_ok(mh_process_wait(p, LONG_ENOUGH, &status)); /* outlives the server object */
        assert_int_equal(status.signal, SIGKILL);
        assert_false(status.lost); /* the server reaped it and said so */
        mh_process_destroy(&p);
        assert_no_children();
    }
}

/* Those who chose to stay when their server ends: asked to, or killed. */
static void children_may_choose_to_survive(void **state)
{
    (void)state;
    for (size_t k = 0; k < MH__COUNT_OF(kinds) * 2; k++) {
        mh_forkserver *s;
        mh_process *p, *other;
        talk t;
        assert_ok(mh_forkserver_start(&s, &kinds[k / 2]));
        talk_open(&t);
        assert_ok(request(s, "v", (int[]){t.to[0], t.from[1]}, 2, &p));
        mh__os_close(&t.to[0]);
        mh__os_close(&t.from[1]);
        assert_int_equal(hear(t.from[0]), 'a');
        assert_ok(request(s, "z", NULL, 0, &other));
        if (k % 2)
            assert_int_equal(kill(mh_forkserver_pid(s), SIGKILL), 0);
        else
            mh_forkserver_stop(s);
        assert_ok(mh__os_wait_readable(mh_forkserver_sentinel(s), LONG_ENOUGH));
        assert_ok(mh_process_wait(other, LONG_ENOUGH, NULL));
        assert_int_equal(ask(&t, 'b'), 'c');
        mh_process_destroy(&other);
        mh_forkserver_destroy(&s);
        talk_close(&t);
        mh_process_destroy(&p);
        while (waitpid(-1, NULL, 0) > 0) /* orphans come to us */
            ;
    }
}

/* From the moment on that they are there, though they do nothing for it. */
static void children_may_be_made_to_survive(void **state)
{
    (void)state;
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p;
        talk t;
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        talk_open(&t);
        assert_ok(mh_forkserver_post_surviving(s, (mh_bytes){(char[]){ANSWER}, 1}, (int[]){t.to[0], t.from[1]}, 2, LONG_ENOUGH, &p));
        assert_ok(mh_process_await_start(p, LONG_ENOUGH));
        assert_int_equal(kill(mh_forkserver_pid(s), SIGKILL), 0);
        mh__os_close(&t.to[0]);
        mh__os_close(&t.from[1]);
        assert_ok(mh__os_wait_readable(mh_forkserver_sentinel(s), LONG_ENOUGH));
        assert_int_equal(hear(t.from[0]), 'a');
        assert_true(mh_process_is_alive(p));
        assert_err(mh_process_wait(p, MH_NOW, NULL), MH_ERR_TIMEOUT);
        assert_int_equal(ask(&t, 'b'), 'c');
        talk_close(&t);
        mh_exit status;
        assert_ok(mh_process_wait(p, LONG_ENOUGH, &status));
        assert_true(status.lost && status.code == 255 && !status.signal);
        mh_forkserver_destroy(&s);
        mh_process_destroy(&p);
        while (waitpid(-1, NULL, 0) > 0) /* orphans come to us */
            ;
    }
}

static void a_hung_server_is_killed(void **state)
{
    (void)state;
    mh_forkserver *s;
    assert_ok(mh_forkserver_start(&s, &kinds[0]));
    assert_int_equal(kill(mh_forkserver_pid(s), SIGSTOP), 0);
    mh_process *p;
    assert_err(mh_forkserver_fork(s, (mh_bytes){"z", 1}, NULL, 0, mh_deadline_in(5 * MH_MILLISECOND), &p), MH_ERR_TIMEOUT);
    assert_null(p);
    mh_forkserver_destroy(&s); /* takes a second */
    assert_no_children();
}

/* The caller gave up before the server got to it. */
static void late_children_are_killed(void **state)
{
    (void)state;
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p;
        talk t;
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        assert_ok(request(s, "e", NULL, 0, &p)); /* it serves now */
        mh_process_destroy(&p);
        talk_open(&t);
        assert_int_equal(kill(mh_forkserver_pid(s), SIGSTOP), 0);
        assert_err(mh_forkserver_fork(s, (mh_bytes){"a", 1}, (int[]){t.to[0], t.from[1]}, 2, MH_NOW, &p), MH_ERR_TIMEOUT);
        mh__os_close(&t.to[0]);
        mh__os_close(&t.from[1]);
        assert_int_equal(kill(mh_forkserver_pid(s), SIGCONT), 0);
        int heard = hear(t.from[0]);
        if (heard == 'a') /* it had the time to say so */
            heard = hear(t.from[0]);
        assert_int_equal(heard, -1);
        talk_close(&t);
        assert_ok(request(s, "e\x02", NULL, 0, &p)); /* and the server goes on */
        expect_end(&p, 2);
        mh_forkserver_destroy(&s);
    }
}

static void be_parent(int out, const mh_forkserver_options *options)
{
    mh_forkserver *s;
    mh_process *p[2];
    if (mh_forkserver_start(&s, options) || request(s, "z", NULL, 0, &p[0]) || request(s, "z", NULL, 0, &p[1]))
        _exit(1);
    int32_t pids[] = {mh_forkserver_pid(s), mh_process_pid(p[0]), mh_process_pid(p[1])};
    if (write(out, pids, sizeof pids) != (ssize_t)sizeof pids)
        _exit(1);
    while (pause() < 0)
        ;
}

static void be_parent_in_thread(void *ctx) { be_parent(*(int *)ctx, &kinds[0]); }

static void everything_dies_with_the_parent(void **state)
{
    (void)state;
    for (int way = 0; way < 5; way++) { /* two kinds of server, from a thread, and with server or child stopped */
        int out[2], pidfds[3];
        int32_t pids[3];
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        pid_t parent = fork();
        if (parent == 0) {
            if (way == 2)
                call_in_thread(be_parent_in_thread, &out[1]);
            be_parent(out[1], &kinds[way % 2]);
        }
        close(out[1]);
        assert_ok(mh__os_wait_readable(out[0], LONG_ENOUGH));
        assert_int_equal(read(out[0], pids, sizeof pids), sizeof pids);
        for (int i = 0; i < 3; i++)
            assert_true((pidfds[i] = open_pidfd(pids[i])) >= 0);
        if (way >= 3)
            kill(pids[way - 3], SIGSTOP);
        kill(parent, SIGKILL);
        mh_deadline until = mh_deadline_in(MH_SECOND);
        for (int i = 0; i < 3; i++) {
            assert_ok(mh__os_wait_readable(pidfds[i], until));
            close(pidfds[i]);
        }
        close(out[0]);
        while (waitpid(-1, NULL, 0) > 0)
            ;
    }
}

/* Behind a shell, which dies in its place, no parent-death signal reaches the server; and a copy of the socket in another
 * process keeps it from hanging up. Its starter's pidfd is what is left. */
static void servers_watch_their_starter(void **state)
{
    (void)state;
    char self[256];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = 0;
    const char *const behind_shell[] = {"sh", "-c", "\"$0\" serve \"$1\"; exit $?", self, "{socket}", NULL};
    talk t;
    talk_open(&t);
    pid_t parent = fork();
    if (parent == 0) {
        mh_forkserver *s;
        mh_process *p;
        if (mh_forkserver_start(&s, &(mh_forkserver_options){.argv = behind_shell}) ||
            request(s, "a", (int[]){t.to[0], t.from[1]}, 2, &p))
            _exit(1);
        if (fork() == 0) { /* holds the copies until the test ends its pipe */
            char c = 'a';
            mh__os_close(&t.to[1]);
            if (write(t.from[1], &c, 1) != 1)
                _exit(1);
            mh__os_close(&t.from[0]);
            mh__os_close(&t.from[1]);
            _exit(read(t.to[0], &c, 1) == 0 ? 0 : 1);
        }
        while (pause() < 0)
            ;
    }
    mh__os_close(&t.to[0]);
    mh__os_close(&t.from[1]);
    assert_int_equal(hear(t.from[0]), 'a'); /* one from the server's child, one from the sibling */
    assert_int_equal(hear(t.from[0]), 'a');
    kill(parent, SIGKILL);
    assert_ok(mh__os_wait_readable(t.from[0], mh_deadline_in(MH_SECOND)));
    assert_int_equal(hear(t.from[0]), -1);
    talk_close(&t);
    while (waitpid(-1, NULL, 0) > 0)
        ;
}

/* ---- handles --------------------------------------------------------------------------------- */

static void destroying_kills_and_detaching_does_not(void **state)
{
    (void)state;
    for (size_t k = 0; k < MH__COUNT_OF(kinds); k++) {
        mh_forkserver *s;
        mh_process *p, *posted;
        talk t;
        assert_ok(mh_forkserver_start(&s, &kinds[k]));
        start_answering(s, &p, &t);
        mh_process_destroy(&p);
        assert_int_equal(hear(t.from[0]), -1);
        talk_close(&t);
        start_answering(s, &p, &t);
        mh_process_detach(&p);
        assert_null(p);
        assert_int_equal(ask(&t, 'b'), 'c');
        assert_ok(mh_forkserver_post(s, (mh_bytes){"z", 1}, NULL, 0, LONG_ENOUGH, &posted));
        mh_process_destroy(&posted); /* waits for its start, to kill it */
        mh_forkserver_destroy(&s);
        assert_int_equal(hear(t.from[0]), -1);
        talk_close(&t);
        assert_no_children();
    }
}

static void inherited_objects_are_refused(void **state)
{
    (void)state;
    mh_forkserver *s;
    mh_process *p;
    talk t;
    assert_ok(mh_forkserver_start(&s, &kinds[0]));
    start_answering(s, &p, &t);
    pid_t child = fork();
    if (child == 0) {
        mh_process *none;
        int fds = mh__os_fd_count();
        bool right = request(s, "z", NULL, 0, &none) == MH_ERR_FORKED && !none && mh_forkserver_pid(s) == -1 &&
                     mh_forkserver_sentinel(s) == -1 && mh_process_wait(p, MH_FOREVER, NULL) == MH_ERR_FORKED &&
                     !mh_process_is_alive(p);
        mh_forkserver_stop(s);
        mh_process_destroy(&p);
        mh_forkserver_destroy(&s);
        _exit(right && !p && !s && mh__os_fd_count() == fds - 4 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(ask(&t, 'b'), 'c'); /* the original is as it was */
    mh_process_destroy(&p);
    assert_ok(request(s, "e\x01", NULL, 0, &p));
    expect_end(&p, 1);
    mh_forkserver_destroy(&s);
    talk_close(&t);
}

static void *wait_in_thread(void *arg)
{
    mh_exit status;
    return (void *)(intptr_t)(mh_process_wait(arg, LONG_ENOUGH, &status) ? -1 : mh_exit_number(status));
}

static void several_threads_wait(void **state)
{
    (void)state;
    mh_forkserver *s;
    assert_ok(mh_forkserver_start(&s, &kinds[0]));
    for (int round = 0; round < rounds(50); round++) {
        mh_process *p;
        pthread_t threads[3];
        assert_ok(mh_forkserver_post(s, (mh_bytes){"e\x07", 2}, NULL, 0, LONG_ENOUGH, &p));
        for (size_t i = 0; i < MH__COUNT_OF(threads); i++)
            assert_int_equal(pthread_create(&threads[i], NULL, wait_in_thread, p), 0);
        for (size_t i = 0; i < MH__COUNT_OF(threads); i++) {
            void *number;
            pthread_join(threads[i], &number);
            assert_int_equal((intptr_t)number, 7);
        }
        mh_process_destroy(&p);
    }
    mh_forkserver_destroy(&s);
}

static void *fork_many(void *arg)
{
    for (int i = 0; i < rounds(25); i++) {
        mh_process *p;
        mh_exit status = {0};
        char message[] = {EXIT, (char)(i % 100)};
        if (mh_forkserver_fork(arg, (mh_bytes){message, 2}, NULL, 0, LONG_ENOUGH, &p))
            return "fork";
        if (mh_process_wait(p, LONG_ENOUGH, &status) || status.code != i % 100 || status.signal)
            return "wait";
        mh_process_destroy(&p);
    }
    return NULL;
}

static void several_threads_request(void **state)
{
    (void)state;
    mh_forkserver *s;
    pthread_t threads[4];
    int fds = mh__os_fd_count();
    assert_ok(mh_forkserver_start(&s, &kinds[0]));
    for (size_t i = 0; i < MH__COUNT_OF(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fork_many, s), 0);
    for (size_t i = 0; i < MH__COUNT_OF(threads); i++) {
        void *failure;
        pthread_join(threads[i], &failure);
        assert_null(failure);
    }
    mh_forkserver_destroy(&s);
    assert_int_equal(mh__os_fd_count(), fds);
}

/* ---- hooks ----------------------------------------------------------------------------------- */

static struct {
    int before, parent, child;
} counts;

static void count_before(void *ctx) { ++*(int *)ctx, counts.before++; }
static void count_parent(void *ctx) { (void)ctx, counts.parent++; }
static void count_child(void *ctx) { (void)ctx, counts.child++; }

static int tell_counts(mh_bytes message, const int *fds, size_t fd_count, void *ctx)
{
    (void)message, (void)fds, (void)fd_count, (void)ctx;
    return counts.before * 16 + counts.parent * 4 + counts.child;
}

static void hooks_wait_for_the_children_of_servers(void **state)
{
    (void)state;
    mh_forkserver *s;
    mh_process *p;
    int calls = 0;
    mh_fork_hooks_set(count_before, count_parent, count_child, &calls);
    assert_ok(mh_forkserver_start(&s, &(mh_forkserver_options){.child.entry = tell_counts}));
    mh_fork_hooks_set(NULL, NULL, NULL, NULL);
    assert_int_equal(calls, 1);
    assert_int_equal(counts.before * 16 + counts.parent * 4 + counts.child, 16 + 4);
    assert_ok(request(s, "", NULL, 0, &p));
    expect_end(&p, 16 + 1); /* before the server was forked, and after this child was */
    assert_ok(request(s, "", NULL, 0, &p));
    expect_end(&p, 16 + 1);
    mh_forkserver_destroy(&s);
}

static void fork_bystander(void *pid)
{
    *(pid_t *)pid = fork();
    while (*(pid_t *)pid == 0)
        pause();
}

/* A fork of another thread's, in the moment between the socket's making and the server's start, keeps a copy of the server's end. */
static void a_dead_server_is_noticed_whoever_holds_its_socket(void **state)
{
    (void)state;
    mh_forkserver *s;
    mh_process *late;
    pid_t bystander = 0;
    mh_fork_hooks_set(fork_bystander, NULL, NULL, &bystander);
    assert_ok(mh_forkserver_start(&s, &kinds[0]));
    mh_fork_hooks_set(NULL, NULL, NULL, NULL);
    assert_true(bystander > 0);
    assert_int_equal(kill(mh_forkserver_pid(s), SIGKILL), 0);
    assert_ok(mh__os_wait_readable(mh_forkserver_sentinel(s), LONG_ENOUGH));
    assert_err(mh_forkserver_post(s, (mh_bytes){"z", 1}, NULL, 0, LONG_ENOUGH, &late), MH_ERR_CLOSED);
    assert_null(late);
    mh_forkserver_destroy(&s);
    assert_int_equal(kill(bystander, SIGKILL), 0);
    assert_int_equal(waitpid(bystander, NULL, 0), bystander);
}

/* ---- nothing left ---------------------------------------------------------------------------- */

static void rounds_leave_nothing(void **state)
{
    (void)state;
    books b = {.until_failure = -1};
    int fds = mh__os_fd_count();
    mh_allocator_set(keep_books, &b);
    mh_forkserver *s;
    assert_ok(mh_forkserver_start(&s, &kinds[0]));
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/20", mh_forkserver_pid(s));
    for (int i = 0; i < rounds(200); i++) {
        mh_process *p;
        assert_ok(request(s, i % 3 ? "e\x03" : "z", (int[]){1, 2}, 2, &p));
        if (i % 3)
            expect_end(&p, 3);
        mh_process_destroy(&p);
    }
    assert_int_not_equal(access(path, F_OK), 0); /* the server keeps nothing either */
    mh_forkserver_destroy(&s);
    for (int i = 0; i < rounds(20); i++) {
        assert_ok(mh_forkserver_start(&s, &kinds[i % 2]));
        mh_forkserver_destroy(&s);
    }
    mh_allocator_set(NULL, NULL);
    assert_int_equal(b.live, 0);
    assert_int_equal(mh__os_fd_count(), fds);
    assert_no_children();
}

static mh_err use_a_server(const mh_forkserver_options *options)
{
    mh_forkserver *s;
    mh_process *p = NULL;
    mh_exit status;
    static char large[MH__REQUEST_INLINE + 100] = "e\x09";
    mh_err err = mh_forkserver_start(&s, options);
    for (size_t i = 0; i < 2 && !err; i++) {
        err = mh_forkserver_fork(s, (mh_bytes){large, i ? sizeof large : 2}, (int[]){1, 2}, 2, LONG_ENOUGH, &p);
        if (!err)
            err = mh_process_wait(p, LONG_ENOUGH, &status);
        if (!err && mh_exit_number(status) != 9)
            err = MH_ERR_CORRUPT;
        mh_process_destroy(&p);
    }
    mh_forkserver_destroy(&s);
    return err;
}

/* The zygote inherits the allocator, so that this fails the server's allocations as well. */
static void each_allocation_may_fail(void **state)
{
    (void)state;
    int fds = mh__os_fd_count();
    long n = 0;
    mh_err err;
    do {
        books b = {.until_failure = ++n};
        mh_allocator_set(keep_books, &b);
        err = use_a_server(&kinds[0]);
        mh_allocator_set(NULL, NULL);
        if (err && err != MH_ERR_NO_MEMORY && err != MH_ERR_CLOSED)
            assert_err(err, MH_ERR_NO_MEMORY);
        assert_int_equal(b.live, 0);
        assert_int_equal(mh__os_fd_count(), fds);
        assert_no_children();
    } while (err);
    assert_true(n > 6);
}

/* Both the starter and the server (which inherits the limit) run out. */
static void descriptors_may_run_out(void **state)
{
    (void)state;
    struct rlimit before, low = {64, 0};
    int fds = mh__os_fd_count();
    getrlimit(RLIMIT_NOFILE, &before);
    low.rlim_max = before.rlim_max;
    mh_err err = MH_ERR_SYSTEM;
    size_t room = 0;
    for (; err && room < 24; room++) {
        int taken[64];
        size_t count = 0;
        setrlimit(RLIMIT_NOFILE, &low);
        while (count < MH__COUNT_OF(taken) && (taken[count] = fcntl(1, F_DUPFD_CLOEXEC, 0)) >= 0)
            count++;
        for (size_t i = 0; i < room && count; i++)
            close(taken[--count]);
        err = use_a_server(&kinds[0]);
        int error = mh_err_errno();
        setrlimit(RLIMIT_NOFILE, &before);
        for (size_t i = 0; i < count; i++)
            close(taken[i]);
        bool expected = !err || (err == MH_ERR_SYSTEM && error == EMFILE) || err == MH_ERR_LIMIT || err == MH_ERR_CLOSED;
        if (!expected)
            assert_err(err, MH_ERR_SYSTEM);
        assert_int_equal(mh__os_fd_count(), fds);
        assert_no_children();
    }
    assert_ok(err);
    assert_true(room > 4);
}

/* Garbage on the socket ends the server with an error, and without a crash. */
static void requests_are_checked(void **state)
{
    (void)state;
    const mh__request good = {.magic = MH__FORKSERVER_MAGIC, .size = 0};
    const struct {
        mh__request request;
        size_t size;
        int fd_count;
        const char *why;
    } rows[] = {
        {good, 3, 1, "shorter than its header"},
        {{.magic = 1}, sizeof good, 1, "another version"},
        {{.magic = MH__FORKSERVER_MAGIC, .large = 2}, sizeof good, 3, "an unknown kind"},
        {{.magic = MH__FORKSERVER_MAGIC, .size = 5}, sizeof good, 1, "a message that is not there"},
        {{.magic = MH__FORKSERVER_MAGIC, .size = UINT64_MAX}, sizeof good, 1, "a size that wraps around"},
        {{.magic = MH__FORKSERVER_MAGIC, .large = 1, .size = 5}, sizeof good, 1, "a memfd that is not there"},
        {good, sizeof good, 0, "no channel"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        int ends[2], status;
        assert_ok(mh__os_socketpair(ends));
        pid_t server = fork();
        if (server == 0) {
            close(ends[0]);
            _exit(mh_forkserver_serve(ends[1], &kinds[0].child) == MH_ERR_CORRUPT ? 55 : 1);
        }
        close(ends[1]);
        assert_ok(mh__os_send(ends[0], (mh_bytes){&rows[i].request, rows[i].size}, (int[]){1, 1, 1}, (size_t)rows[i].fd_count, MH_FOREVER));
        assert_int_equal(waitpid(server, &status, 0), server);
        assert_int_equal(WEXITSTATUS(status), 55);
        close(ends[0]);
    }
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "serve") == 0) {
        bool spare = argc > 3 && strcmp(argv[3], "spare") == 0;
        const mh_forkserver_child child = {.entry = entry, .ignore_interrupt = argc > 3 && !spare, .spare = spare};
        return mh_forkserver_serve(atoi(argv[2]), &child) ? 1 : 0;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(children_run_and_end),
        cmocka_unit_test(a_spare_is_there_before_it_is_asked_for),
        cmocka_unit_test(several_requests_overlap),
        cmocka_unit_test(messages_and_descriptors_arrive),
        cmocka_unit_test(zygotes_hand_on_their_context),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(only_main_threads_serve),
        cmocka_unit_test(children_start_clean),
        cmocka_unit_test(servers_take_no_notice_of_interrupts),
        cmocka_unit_test(children_die_with_their_server),
        cmocka_unit_test(stopping_ends_the_children),
        cmocka_unit_test(children_may_choose_to_survive),
        cmocka_unit_test(children_may_be_made_to_survive),
        cmocka_unit_test(a_hung_server_is_killed),
        cmocka_unit_test(late_children_are_killed),
        cmocka_unit_test(everything_dies_with_the_parent),
        cmocka_unit_test(servers_watch_their_starter),
        cmocka_unit_test(destroying_kills_and_detaching_does_not),
        cmocka_unit_test(inherited_objects_are_refused),
        cmocka_unit_test(several_threads_wait),
        cmocka_unit_test(several_threads_request),
        cmocka_unit_test(hooks_wait_for_the_children_of_servers),
        cmocka_unit_test(a_dead_server_is_noticed_whoever_holds_its_socket),
        cmocka_unit_test(rounds_leave_nothing),
        cmocka_unit_test(each_allocation_may_fail),
        cmocka_unit_test(descriptors_may_run_out),
        cmocka_unit_test(requests_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
