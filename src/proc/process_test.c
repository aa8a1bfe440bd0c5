#include "proc/proc_test.h"

#include "os/cpu.h"
#include "os/thread.h"

#include <dirent.h>
#include <sys/stat.h>

/* ---- what spawned copies of this program do: see main ----------------------------------------- */

/* Write the numbers of all open descriptors to `out`. */
static int tell_fds(int out)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned long long open_fds = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(dir) && atoi(e->d_name) < 64)
            open_fds |= 1ULL << atoi(e->d_name);
    closedir(dir);
    return write(out, &open_fds, sizeof open_fds) == (ssize_t)sizeof open_fds ? 0 : 1;
}

/* Exit with what SIGUSR1 (1: ignored), SIGUSR2 (2: blocked), SIGPIPE (4: ignored) and SIGINT (16: ignored) do. */
static int tell_signals(void)
{
    sigset_t mask;
    struct sigaction one, broken, interrupt;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    sigaction(SIGUSR1, NULL, &one);
    sigaction(SIGPIPE, NULL, &broken);
    sigaction(SIGINT, NULL, &interrupt);
    return (interrupt.sa_handler == SIG_IGN ? 16 : 0) | (one.sa_handler == SIG_IGN) | (sigismember(&mask, SIGUSR2) ? 2 : 0) | (broken.sa_handler == SIG_IGN ? 4 : 0);
}

/* 1: leads its group, 2: leads its session, 4: stdin is a null device, 8: is in / */
static int tell_surroundings(void *ctx)
{
    (void)ctx;
    char cwd[64] = "", c;
    struct stat st;
    bool null = fstat(0, &st) == 0 && S_ISCHR(st.st_mode) && read(0, &c, 1) == 0;
    bool root = getcwd(cwd, sizeof cwd) && strcmp(cwd, "/") == 0;
    return (getpgrp() == getpid()) | (getsid(0) == getpid() ? 2 : 0) | (null ? 4 : 0) | (root ? 8 : 0);
}

static int be_program(int argc, char **argv)
{
    if (strcmp(argv[1], "exit") == 0 && argc > 2)
        return atoi(argv[2]);
    if (strcmp(argv[1], "fds") == 0)
        return tell_fds(5);
    if (strcmp(argv[1], "signals") == 0)
        return tell_signals();
    if (strcmp(argv[1], "surroundings") == 0)
        return tell_surroundings(NULL);
    if (strcmp(argv[1], "variable") == 0)
        return getenv("MH_TEST_VARIABLE") ? atoi(getenv("MH_TEST_VARIABLE")) : 0;
    if (strcmp(argv[1], "answer") == 0 && argc > 3)
        return answer(atoi(argv[2]), atoi(argv[3]), 'a');
    return 99;
}

#define SELF(...) ((const char *const[]){"/proc/self/exe", __VA_ARGS__, NULL})

/* ---- ends ------------------------------------------------------------------------------------ */

static int exit_with(void *ctx) { return *(int *)ctx; }

static int end_by_signal(void *ctx)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    raise(*(int *)ctx);
    return 0;
}

static void ends_are_told(void **state)
{
    (void)state;
    static const struct {
        int (*run)(void *);
        int argument, code, signal;
        const char *why;
    } rows[] = {
        {exit_with, 0, 0, 0, "success"},
        {exit_with, 1, 1, 0, "failure"},
        {exit_with, 255, 255, 0, "the largest"},
        {exit_with, 256 + 7, 7, 0, "the kernel keeps eight bits"},
        {end_by_signal, SIGKILL, 0, SIGKILL, "cannot be caught"},
        {end_by_signal, SIGTERM, 0, SIGTERM, "default action"},
        {end_by_signal, SIGABRT, 0, SIGABRT, "would dump a core, which the limit forbids"},
        {end_by_signal, 37, 0, 37, "a real-time signal"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_process *p;
        mh_exit status = {.code = -1};
        int argument = rows[i].argument;
        int signal = rows[i].signal;
        assert_ok(mh_process_start(&p, &(mh_process_options){.run = rows[i].run, .ctx = &argument}));
        assert_true(mh_process_pid(p) > 0);
        assert_ok(mh_process_wait(p, LONG_ENOUGH, &status));
        assert_int_equal(status.code, rows[i].code);
        assert_int_equal(status.signal, signal);
        assert_int_equal(mh_exit_number(status), signal ? -signal : rows[i].code);
        assert_false(status.core || status.lost);
        assert_false(mh_process_is_alive(p));
        memset(&status, 0xff, sizeof status);
        assert_ok(mh_process_wait(p, MH_NOW, &status)); /* again, from memory */
        assert_int_equal(status.code, rows[i].code);
        assert_err(mh_process_kill(p), MH_ERR_EXITED);
        assert_ok(mh_process_await_start(p, MH_NOW));
        mh_process_destroy(&p);
        assert_null(p);
    }
    assert_no_children();
}

static void spawned_programs_end(void **state)
{
    (void)state;
    mh_process *p;
    assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("exit", "7")}));
    expect_end(&p, 7);
    assert_ok(mh_process_start(&p, &(mh_process_options){.argv = (const char *const[]){"sh", "-c", "kill -9 $$", NULL}}));
    expect_end(&p, -SIGKILL);
    assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("variable"),
                                                         .env = (const char *const[]){"MH_TEST_VARIABLE=33", NULL}}));
    expect_end(&p, 33);
    assert_int_equal(setenv("MH_TEST_VARIABLE", "44", 1), 0);
    assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("variable")}));
    expect_end(&p, 44);
    unsetenv("MH_TEST_VARIABLE");
    assert_no_children();
}

static void stdout_is_flushed_once(void **state)
{
    (void)state;
    int pipe_fds[2], saved = dup(1);
    char text[64];
    mh_process *p;
    int code = 0;
    fflush(stdout);
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    dup2(pipe_fds[1], 1);
    printf("from the parent. "); /* stays in the buffer: a pipe is not a terminal */
    mh_err err = mh_process_start(&p, &(mh_process_options){.run = exit_with, .ctx = &code});
    fflush(stdout);
    dup2(saved, 1);
    close(saved);
    close(pipe_fds[1]);
    assert_ok(err);
    expect_end(&p, 0);
    ssize_t size = read(pipe_fds[0], text, sizeof text - 1);
    assert_true(size > 0);
    text[size] = 0;
    assert_string_equal(text, "from the parent. ");
    close(pipe_fds[0]);
}

/* ---- waiting and signals --------------------------------------------------------------------- */

static void start_answering(mh_process **p, talk *t)
{
    talk_open(t);
    assert_ok(mh_process_start(p, &(mh_process_options){.run = answer_talk, .ctx = t}));
    mh__os_close(&t->to[0]);
    mh__os_close(&t->from[1]);
    assert_int_equal(hear(t->from[0]), 'a');
}

static void waits_have_deadlines(void **state)
{
    (void)state;
    mh_process *p;
    talk t;
    start_answering(&p, &t);
    assert_err(mh_process_wait(p, MH_NOW, NULL), MH_ERR_TIMEOUT);
    int64_t before = mh_now();
    assert_err(mh_process_wait(p, mh_deadline_in(20 * MH_MILLISECOND), NULL), MH_ERR_TIMEOUT);
    assert_true(mh_now() - before >= 20 * MH_MILLISECOND);
    assert_true(mh_process_is_alive(p));
    assert_err(mh__os_wait_readable(mh_process_sentinel(p), MH_NOW), MH_ERR_TIMEOUT);
    assert_int_equal(ask(&t, 'x'), 'y');
    mh__os_close(&t.to[1]);
    assert_ok(mh__os_wait_readable(mh_process_sentinel(p), LONG_ENOUGH));
    assert_false(mh_process_is_alive(p));
    expect_end(&p, 'y'); /* the last byte said */
    talk_close(&t);
}

static void on_signal(int number) { (void)number; }

/* In the child: what SIGTERM does is our business now. */
static int ignore_term(void *ctx)
{
    signal(SIGTERM, SIG_IGN);
    return answer_talk(ctx);
}

static void terminate_asks_and_kill_does_not(void **state)
{
    (void)state;
    mh_process *p;
    talk t;
    start_answering(&p, &t);
    assert_ok(mh_process_terminate(p));
    expect_end(&p, -SIGTERM);
    talk_close(&t);

    talk_open(&t);
    assert_ok(mh_process_start(&p, &(mh_process_options){.run = ignore_term, .ctx = &t}));
    assert_int_equal(hear(t.from[0]), 'a');
    assert_ok(mh_process_terminate(p));
    assert_int_equal(ask(&t, 'b'), 'c'); /* it took no notice */
    assert_err(mh_process_wait(p, MH_NOW, NULL), MH_ERR_TIMEOUT);
    assert_err(mh_process_signal(p, 9999), MH_ERR_INVALID);
    assert_ok(mh_process_kill(p));
    expect_end(&p, -SIGKILL);
    talk_close(&t);
}

static void stop_is_not_an_end(void **state)
{
    (void)state;
    mh_process *p;
    talk t;
    siginfo_t info;
    start_answering(&p, &t);
    assert_ok(mh_process_signal(p, SIGSTOP));
    assert_int_equal(waitid(P_PID, (id_t)mh_process_pid(p), &info, WSTOPPED), 0);
    assert_true(mh_process_is_alive(p));
    assert_err(mh_process_wait(p, mh_deadline_in(5 * MH_MILLISECOND), NULL), MH_ERR_TIMEOUT);
    assert_ok(mh_process_signal(p, SIGCONT));
    assert_int_equal(ask(&t, 'b'), 'c');
    assert_ok(mh_process_signal(p, SIGSTOP));
    assert_ok(mh_process_kill(p)); /* a stopped process dies too */
    expect_end(&p, -SIGKILL);
    talk_close(&t);
}

static void *wait_in_thread(void *arg)
{
    mh_exit *status = malloc(sizeof *status);
    if (mh_process_wait(arg, LONG_ENOUGH, status))
        status->code = -1;
    return status;
}

static void several_threads_wait(void **state)
{
    (void)state;
    pthread_t threads[4];
    mh_process *p;
    talk t;
    start_answering(&p, &t);
    for (size_t i = 0; i < MH__COUNT_OF(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_in_thread, p), 0);
    mh__os_close(&t.to[1]);
    for (size_t i = 0; i < MH__COUNT_OF(threads); i++) {
        void *status;
        pthread_join(threads[i], &status);
        assert_int_equal(((mh_exit *)status)->code, 'a');
        free(status);
    }
    expect_end(&p, 'a');
    talk_close(&t);
}

typedef struct pester {
    pthread_t whom;
    _Atomic bool enough;
} pester;

static void *send_signals(void *arg)
{
    pester *job = arg;
    while (!job->enough) {
        pthread_kill(job->whom, SIGUSR1);
        sched_yield();
    }
    return NULL;
}

static void signals_interrupt_waits(void **state)
{
    (void)state;
    struct sigaction handle = {.sa_handler = on_signal}, before;
    pester job = {.whom = pthread_self()};
    pthread_t thread;
    mh_process *p;
    talk t;
    sigaction(SIGUSR1, &handle, &before);
    start_answering(&p, &t);
    pthread_create(&thread, NULL, send_signals, &job);
    mh_err err = mh_process_wait(p, LONG_ENOUGH, NULL);
    bool always_alive = true;
    for (int i = 0; i < rounds(2000); i++)
        always_alive = mh_process_is_alive(p) && mh_process_wait(p, MH_NOW, NULL) == MH_ERR_TIMEOUT && always_alive;
    /* and starting or destroying goes through with signals raining in */
    int code = 3;
    mh_process *other = NULL;
    mh_err start_err = mh_process_start(&other, &(mh_process_options){.run = exit_with, .ctx = &code, .cwd = "/"});
    mh_process_destroy(&other);
    mh_process_destroy(&p);
    job.enough = true;
    pthread_join(thread, NULL);
    sigaction(SIGUSR1, &before, NULL);
    assert_err(err, MH_ERR_INTERRUPTED);
    assert_true(always_alive);
    assert_ok(start_err);
    talk_close(&t);
    assert_no_children();
}

/* ---- options --------------------------------------------------------------------------------- */

static void wrong_options_are_named(void **state)
{
    (void)state;
    static const char *const argv[] = {"true", NULL}, *const empty[] = {NULL};
    static const mh_pass_fd closed[] = {{.fd = 1000, .number = 5}}, twice[] = {{0, 5}, {1, 5}}, odd[] = {{0, -2}};
    static const struct {
        mh_process_options options;
        const char *detail;
    } rows[] = {
        {{.method = MH_START_FORKSERVER, .run = exit_with}, "mh_forkserver_fork"},
        {{.method = (mh_start_method)9, .run = exit_with}, "no start method 9"},
        {{.method = MH_START_FORK}, "fork needs run"},
        {{.method = MH_START_DEFAULT}, "fork needs run"},
        {{.method = MH_START_FORK, .argv = argv}, "fork needs run"},
        {{.method = MH_START_FORK, .run = exit_with, .env = argv}, "neither argv nor env"},
        {{.method = MH_START_SPAWN}, "spawn needs argv"},
        {{.argv = empty}, "spawn needs argv"},
        {{.argv = argv, .run = exit_with}, "spawn needs argv"},
        {{.run = exit_with, .fds = closed, .fd_count = 1}, "descriptor 1000 is not open"},
        {{.argv = argv, .fds = closed, .fd_count = 1}, "descriptor 1000 is not open"},
        {{.argv = argv, .fds = twice, .fd_count = 2}, "two descriptors for the number 5"},
        {{.argv = argv, .fds = odd, .fd_count = 1}, "number -2"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_process *p = (void *)&state;
        assert_err(mh_process_start(&p, &rows[i].options), MH_ERR_INVALID);
        assert_null(p);
        assert_non_null(strstr(mh_err_detail(), rows[i].detail));
    }
}

static void failures_of_exec_are_errors(void **state)
{
    (void)state;
    char script[] = "/tmp/mh-test-XXXXXX";
    int fd = mkostemp(script, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "not a program", 13), 13);
    fchmod(fd, 0700);
    close(fd); /* else: text file busy */
    const struct {
        const char *program, *cwd;
        mh_err err;
        int error;
    } rows[] = {
        {"/nowhere/at/all", NULL, MH_ERR_NOT_FOUND, ENOENT},
        {"no-such-program-in-path", NULL, MH_ERR_NOT_FOUND, ENOENT},
        {"", NULL, MH_ERR_NOT_FOUND, ENOENT},
        {"/", NULL, MH_ERR_PERMISSION, EACCES},
        {"/dev/null", NULL, MH_ERR_PERMISSION, EACCES},
        {"/dev/null/x", NULL, MH_ERR_SYSTEM, ENOTDIR},
        {script, NULL, MH_ERR_SYSTEM, ENOEXEC},
        {"sh", "/nowhere", MH_ERR_NOT_FOUND, ENOENT},
        {"sh", "/dev/null", MH_ERR_SYSTEM, ENOTDIR},
    };
    int fds = mh__os_fd_count();
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_process *p = (void *)&state;
        const char *const argv[] = {rows[i].program, "-c", "true", NULL};
        assert_err(mh_process_start(&p, &(mh_process_options){.argv = argv, .cwd = rows[i].cwd}), rows[i].err);
        assert_null(p);
        assert_int_equal(mh_err_errno(), rows[i].error);
    }
    mh_process *p = (void *)&state;
    int code = 0;
    assert_err(mh_process_start(&p, &(mh_process_options){.run = exit_with, .ctx = &code, .cwd = "/nowhere"}), MH_ERR_NOT_FOUND);
    assert_null(p);
    assert_int_equal(mh_err_errno(), ENOENT);
    const mh_pass_fd beyond = {.fd = 1, .number = 1 << 29};
    assert_err(mh_process_start(&p, &(mh_process_options){.run = exit_with, .ctx = &code, .fds = &beyond, .fd_count = 1}),
               MH_ERR_INVALID); /* the system's EINVAL, from the child */
    assert_err(mh_process_start(&p, &(mh_process_options){.argv = SELF("exit", "0"), .fds = &beyond, .fd_count = 1}),
               MH_ERR_INVALID);
    unlink(script);
    assert_int_equal(mh__os_fd_count(), fds);
    assert_no_children();
}

static void surroundings_are_set(void **state)
{
    (void)state;
    const struct {
        mh_process_options options;
        int expected;
    } rows[] = {
        {{0}, 0},
        {{.new_group = true}, 1},
        {{.new_session = true}, 1 | 2},
        {{.new_group = true, .new_session = true}, 1 | 2},
        {{.stdin_null = true}, 4},
        {{.cwd = "/"}, 8},
        {{.new_session = true, .stdin_null = true, .cwd = "/"}, 15},
    };
    /* a stdin that is not /dev/null, whatever the tests run with */
    int saved = dup(0), closed[2];
    assert_int_equal(pipe2(closed, O_CLOEXEC), 0);
    dup2(closed[0], 0);
    mh__os_close(&closed[1]);
    assert_int_equal(chdir("/tmp"), 0);
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_process *p;
        mh_process_options options = rows[i].options;
        options.run = tell_surroundings;
        assert_ok(mh_process_start(&p, &options));
        expect_end(&p, rows[i].expected);
        options.run = NULL;
        options.argv = SELF("surroundings");
        assert_ok(mh_process_start(&p, &options));
        expect_end(&p, rows[i].expected);
    }
    dup2(saved, 0);
    close(saved);
    mh__os_close(&closed[0]);
}

static int tell_signals_of_fork(void *ctx)
{
    (void)ctx;
    struct sigaction two;
    sigaction(SIGALRM, NULL, &two);
    return tell_signals() | (two.sa_handler == on_signal ? 8 : 0);
}

static void signals_are_reset_or_kept(void **state)
{
    (void)state;
    sigset_t block, mask;
    struct sigaction handle = {.sa_handler = on_signal}, alarm_before;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR2);
    sigprocmask(SIG_BLOCK, &block, &mask);
    sigaction(SIGALRM, &handle, &alarm_before);
    void (*one)(int) = signal(SIGUSR1, SIG_IGN), (*broken)(int) = signal(SIGPIPE, SIG_IGN);
    for (int keep = 0; keep <= 1; keep++) {
        mh_process *p;
        assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("signals"), .keep_signals = keep}));
        expect_end(&p, keep ? 7 : 0);
        assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("signals"), .keep_signals = keep, .ignore_interrupt = true}));
        expect_end(&p, keep ? 23 : 16);
        assert_ok(mh_process_start(&p, &(mh_process_options){.run = tell_signals_of_fork, .keep_signals = keep}));
        expect_end(&p, keep ? 15 : 0);
    }
    struct sigaction now;
    sigaction(SIGALRM, NULL, &now); /* the spawned child's resetting did not reach into its parent */
    assert_ptr_equal(now.sa_handler, on_signal);
    signal(SIGUSR1, one);
    signal(SIGPIPE, broken);
    sigaction(SIGALRM, &alarm_before, NULL);
    sigprocmask(SIG_SETMASK, &mask, NULL);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static unsigned long long read_fds(int fd)
{
    unsigned long long fds = 0;
    assert_ok(mh__os_wait_readable(fd, LONG_ENOUGH));
    assert_int_equal(read(fd, &fds, sizeof fds), sizeof fds);
    return fds;
}

static void spawn_and_list(void *ctx)
{
    unsigned long long *fds = ctx;
    int out[2], leaky = dup(1); /* not close-on-exec */
    mh_process *p;
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    int twenty = fcntl(1, F_DUPFD_CLOEXEC, 20);
    const mh_pass_fd pass[] = {{out[1], 5}, {leaky, 6}, {twenty, -1}};
    assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("fds"), .fds = pass, .fd_count = 3}));
    *fds = read_fds(out[0]) & ~(1ULL << twenty);
    *fds |= 1ULL << 63;
    expect_end(&p, 0);
    close(out[0]);
    close(out[1]);
    close(leaky);
    close(twenty);
}

static void only_what_was_passed_is_open(void **state)
{
    (void)state;
    unsigned long long fds = 0;
    spawn_and_list(&fds);
    assert_true(fds == ((1ULL << 63) | 0x67)); /* 0 1 2 5 6 */
    call_in_thread(spawn_and_list, &fds);
    fds &= ~((1ULL << 63) | 0x67);
    assert_int_equal(__builtin_popcountll(fds), 1); /* and the pipe that tells of the parent's end */
}

static void descriptors_may_change_places(void **state)
{
    (void)state;
    talk t;
    mh_process *p;
    talk_open(&t);
    assert_int_equal(dup3(t.to[0], 50, O_CLOEXEC), 50);
    assert_int_equal(dup3(t.from[1], 51, O_CLOEXEC), 51);
    const mh_pass_fd swap[] = {{50, 51}, {51, 50}}; /* each number is the other one's source */
    assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("answer", "51", "50"), .fds = swap, .fd_count = 2}));
    assert_int_equal(hear(t.from[0]), 'a');
    assert_int_equal(ask(&t, 'p'), 'q');
    mh__os_close(&t.to[1]);
    expect_end(&p, 'q');
    close(50);
    close(51);
    talk_close(&t);
}

static void forks_get_numbers_too(void **state)
{
    (void)state;
    talk t;
    mh_process *p;
    talk_open(&t);
    const mh_pass_fd pass[] = {{t.to[0], 40}, {t.from[1], 41}};
    talk numbers = {.to = {40, -1}, .from = {-1, 41}};
    assert_ok(mh_process_start(&p, &(mh_process_options){.run = answer_talk, .ctx = &numbers, .fds = pass, .fd_count = 2}));
    assert_int_equal(hear(t.from[0]), 'a');
    assert_ok(mh_process_kill(p));
    expect_end(&p, -SIGKILL);
    talk_close(&t);
}

/* ---- the end of the parent ------------------------------------------------------------------- */

enum { GRANDCHILDREN = 4 };

static int sleep_for_ever(void *ctx)
{
    (void)ctx;
    while (pause() < 0)
        ;
    return 0;
}

static const char *const cat[] = {"sleep", "1000", NULL};

static void start_grandchildren(void *ctx)
{
    mh_process **p = ctx;
    assert_ok(mh_process_start(&p[0], &(mh_process_options){.run = sleep_for_ever}));
    assert_ok(mh_process_start(&p[1], &(mh_process_options){.argv = cat}));
}

/* A process that starts children in both of its ways, from its main thread and from another that ends. */
static void be_parent(int out)
{
    mh_process *p[GRANDCHILDREN];
    int32_t pids[GRANDCHILDREN];
    start_grandchildren(p);
    call_in_thread(start_grandchildren, p + 2);
    for (int i = 0; i < GRANDCHILDREN; i++) {
        if (!mh_process_is_alive(p[i])) /* also those whose starting thread has ended */
            _exit(1);
        pids[i] = mh_process_pid(p[i]);
    }
    if (write(out, pids, sizeof pids) != (ssize_t)sizeof pids)
        _exit(1);
    sleep_for_ever(NULL);
}

static void children_die_with_their_parent(void **state)
{
    (void)state;
    int out[2];
    int32_t pids[GRANDCHILDREN];
    int pidfds[GRANDCHILDREN];
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t parent = fork();
    if (parent == 0)
        be_parent(out[1]);
    close(out[1]);
    assert_ok(mh__os_wait_readable(out[0], LONG_ENOUGH));
    assert_int_equal(read(out[0], pids, sizeof pids), sizeof pids);
    for (int i = 0; i < GRANDCHILDREN; i++)
        assert_true((pidfds[i] = open_pidfd(pids[i])) >= 0);
    kill(parent, SIGKILL);
    mh_deadline until = mh_deadline_in(MH_SECOND);
    for (int i = 0; i < GRANDCHILDREN; i++) {
        assert_ok(mh__os_wait_readable(pidfds[i], until));
        close(pidfds[i]);
    }
    close(out[0]);
    while (waitpid(-1, NULL, 0) > 0) /* the parent and, as we are their reaper, the orphans */
        ;
}

/* ---- surviving it ---------------------------------------------------------------------------- */

static void survivors_go_on(void **state)
{
    (void)state;
    talk t;
    talk_open(&t);
    pid_t parent = fork();
    if (parent == 0) {
        mh_process *p;
        if (mh_process_start(&p, &(mh_process_options){.run = answer_talk, .ctx = &t, .survive_parent = true}))
            _exit(1);
        _exit(0);
    }
    mh__os_close(&t.to[0]);
    mh__os_close(&t.from[1]);
    int status;
    assert_int_equal(waitpid(parent, &status, 0), parent);
    assert_int_equal(status, 0);
    assert_int_equal(hear(t.from[0]), 'a');
    assert_int_equal(ask(&t, 'b'), 'c');
    talk_close(&t);
    while (waitpid(-1, NULL, 0) > 0)
        ;
}

static int survive_and_answer(void *ctx)
{
    return mh_parent_survive() ? 1 : answer_talk(ctx);
}

static void start_survivor(void *ctx)
{
    mh_process *p;
    if (mh_process_start(&p, &(mh_process_options){.run = survive_and_answer, .ctx = ctx}))
        _exit(1);
}

/* It said after its start that it wants to, having been tied to its parent in one way or the other. */
static void a_child_may_choose_to_survive(void **state)
{
    (void)state;
    for (int way = 0; way < 2; way++) {
        talk t;
        talk_open(&t);
        pid_t parent = fork();
        if (parent == 0) {
            if (way == 1)
                call_in_thread(start_survivor, &t);
            else
                start_survivor(&t);
            sleep_for_ever(NULL);
        }
        mh__os_close(&t.to[0]);
        mh__os_close(&t.from[1]);
        assert_int_equal(hear(t.from[0]), 'a');
        kill(parent, SIGKILL);
        assert_int_equal(waitpid(parent, NULL, 0), parent);
        assert_int_equal(ask(&t, 'b'), 'c');
        talk_close(&t);
        while (waitpid(-1, NULL, 0) > 0)
            ;
    }
}

static void survive_here(void *ctx) { *(mh_err *)ctx = mh_parent_survive(); }

static void only_the_main_thread_chooses(void **state)
{
    (void)state;
    mh_err err = MH_OK;
    call_in_thread(survive_here, &err);
    assert_err(err, MH_ERR_INVALID);
}

typedef struct started {
    talk t;
    mh_process *p;
} started;

static void start_for_test(void *ctx)
{
    started *s = ctx;
    start_answering(&s->p, &s->t);
}

static void children_outlive_the_thread_that_started_them(void **state)
{
    (void)state;
    started s;
    call_in_thread(start_for_test, &s);
    assert_int_equal(ask(&s.t, 'b'), 'c');
    assert_true(mh_process_is_alive(s.p));
    mh__os_close(&s.t.to[1]);
    expect_end(&s.p, 'c');
    talk_close(&s.t);
}

/* ---- destroying, detaching, inheriting ------------------------------------------------------- */

static void destroying_kills(void **state)
{
    (void)state;
    mh_process *p;
    talk t;
    start_answering(&p, &t);
    mh_process_destroy(&p);
    assert_null(p);
    assert_int_equal(hear(t.from[0]), -1);
    mh_process_destroy(&p); /* NULL is fine */
    talk_close(&t);
    assert_no_children();
}

static void detaching_lets_go_on(void **state)
{
    (void)state;
    mh_process *p;
    talk t;
    int fds = mh__os_fd_count(), code = 0;
    start_answering(&p, &t);
    int pidfd = open_pidfd(mh_process_pid(p));
    mh_process_detach(&p);
    assert_null(p);
    assert_int_equal(ask(&t, 'b'), 'c');
    talk_close(&t);
    assert_ok(mh__os_wait_readable(pidfd, LONG_ENOUGH));
    close(pidfd);
    /* the next start takes its status away */
    assert_ok(mh_process_start(&p, &(mh_process_options){.run = exit_with, .ctx = &code}));
    mh_process_destroy(&p);
    assert_no_children();
    assert_int_equal(mh__os_fd_count(), fds);
    mh_process_detach(&p);
}

static void inherited_objects_are_refused(void **state)
{
    (void)state;
    mh_process *p;
    talk t;
    start_answering(&p, &t);
    pid_t child = fork();
    if (child == 0) {
        int fds = mh__os_fd_count();
        bool right = mh_process_wait(p, MH_FOREVER, NULL) == MH_ERR_FORKED && mh_process_kill(p) == MH_ERR_FORKED &&
                     mh_process_terminate(p) == MH_ERR_FORKED && mh_process_signal(p, 0) == MH_ERR_FORKED &&
                     mh_process_await_start(p, MH_FOREVER) == MH_ERR_FORKED && mh_process_pid(p) == -1 &&
                     mh_process_sentinel(p) == -1 && !mh_process_is_alive(p);
        mh_process_destroy(&p);
        _exit(right && !p && mh__os_fd_count() == fds - 1 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(ask(&t, 'b'), 'c'); /* destroying the copy did not kill it */
    mh_process_destroy(&p);
    talk_close(&t);
}

/* Runs in the parent between the fork and what we do next: give the child the time to end and to vanish, if it does. */
static bool linger;

static void linger_after_fork(void)
{
    mh_deadline until = mh_deadline_in(30 * MH_MILLISECOND);
    while (linger && waitpid(-1, NULL, WNOHANG) == 0 && mh_now() < until)
        sched_yield();
}

static void stolen_statuses_are_lost(void **state)
{
    (void)state;
    mh_process *p;
    mh_exit status;
    int code = 5;
    assert_ok(mh_process_start(&p, &(mh_process_options){.run = exit_with, .ctx = &code}));
    assert_int_equal(waitpid(mh_process_pid(p), NULL, 0), mh_process_pid(p));
    assert_ok(mh_process_wait(p, LONG_ENOUGH, &status));
    assert_true(status.lost);
    assert_int_equal(mh_exit_number(status), 255);
    mh_process_destroy(&p);
    /* nobody keeps statuses: the child may be gone before we look */
    void (*before)(int) = signal(SIGCHLD, SIG_IGN);
    pthread_atfork(NULL, linger_after_fork, NULL);
    for (int i = 0; i < rounds(20); i++) {
        linger = i == 0;
        assert_ok(mh_process_start(&p, &(mh_process_options){.run = exit_with, .ctx = &code}));
        assert_ok(mh_process_wait(p, LONG_ENOUGH, &status));
        assert_true(status.lost);
        mh_process_destroy(&p);
        assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("exit", "0"), .cwd = "/"}));
        mh_process_destroy(&p);
    }
    signal(SIGCHLD, before);
}

/* ---- hooks ----------------------------------------------------------------------------------- */

typedef struct hook_counts {
    int before, parent, child;
} hook_counts;

static void count_before(void *ctx) { ((hook_counts *)ctx)->before++; }
static void count_parent(void *ctx) { ((hook_counts *)ctx)->parent++; }
static void count_child(void *ctx) { ((hook_counts *)ctx)->child++; }

static int tell_counts(void *ctx)
{
    hook_counts *c = ctx;
    return c->before * 100 + c->parent * 10 + c->child;
}

static void hooks_are_called_around_forks(void **state)
{
    (void)state;
    hook_counts counts = {0};
    mh_process *p;
    mh_fork_hooks_set(count_before, count_parent, count_child, &counts);
    assert_ok(mh_process_start(&p, &(mh_process_options){.run = tell_counts, .ctx = &counts}));
    mh_process_destroy(&p);
    assert_ok(mh_process_start(&p, &(mh_process_options){.run = tell_counts, .ctx = &counts}));
    expect_end(&p, 211); /* two before, one in the parent until now, one in the child */
    assert_int_equal(tell_counts(&counts), 220);
    assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("exit", "0")}));
    expect_end(&p, 0);
    assert_int_equal(tell_counts(&counts), 220); /* not around spawn */
    assert_err(mh_process_start(&p, &(mh_process_options){.run = tell_counts, .ctx = &counts, .cwd = "/nowhere"}), MH_ERR_NOT_FOUND);
    assert_int_equal(tell_counts(&counts), 330); /* a failure is followed by the parent's too */
    mh_fork_hooks_set(NULL, NULL, NULL, NULL);
    assert_ok(mh_process_start(&p, &(mh_process_options){.run = tell_counts, .ctx = &counts}));
    mh_process_destroy(&p);
    assert_int_equal(tell_counts(&counts), 330);
}

/* ---- many, from many threads, and with nothing left ------------------------------------------ */

static void rounds_leave_nothing(void **state)
{
    (void)state;
    books b = {.until_failure = -1};
    int fds = mh__os_fd_count();
    mh_allocator_set(keep_books, &b);
    for (int i = 0; i < rounds(200); i++) {
        mh_process *p;
        int code = i & 0x7f;
        assert_ok(mh_process_start(&p, &(mh_process_options){.run = exit_with, .ctx = &code}));
        expect_end(&p, code);
        assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("exit", "3"), .stdin_null = true}));
        if (i % 2)
            expect_end(&p, 3);
        mh_process_destroy(&p);
    }
    mh_allocator_set(NULL, NULL);
    assert_int_equal(b.live, 0);
    assert_int_equal(mh__os_fd_count(), fds);
    assert_no_children();
}

static void *start_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < rounds(25); i++) {
        mh_process *p;
        mh_exit status;
        int code = i % 100;
        char text[12];
        snprintf(text, sizeof text, "%d", code);
        const mh_process_options spawn = {.argv = SELF("exit", text)}, fork = {.run = exit_with, .ctx = &code};
        if (mh_process_start(&p, i % 2 ? &spawn : &fork))
            return "start";
        if (mh_process_wait(p, LONG_ENOUGH, &status))
            return "wait";
        if (mh_exit_number(status) != code)
            return "status";
        mh_process_destroy(&p);
    }
    return NULL;
}

static void start_one(void *ctx)
{
    (void)ctx;
    assert_null(start_many(NULL));
}

static void several_threads_start(void **state)
{
    (void)state;
    pthread_t threads[4];
    call_in_thread(start_one, NULL); /* opens the pipe for the parent's end */
    int fds = mh__os_fd_count();
    for (size_t i = 0; i < MH__COUNT_OF(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, start_many, NULL), 0);
    for (size_t i = 0; i < MH__COUNT_OF(threads); i++) {
        void *failure;
        pthread_join(threads[i], &failure);
        if (failure)
            fail_msg("%s", (char *)failure);
    }
    assert_int_equal(mh__os_fd_count(), fds);
    assert_no_children();
}

static mh_err start_all_ways(void)
{
    mh_process *p;
    mh_exit status;
    int code = 9;
    const mh_pass_fd pass = {.fd = 1, .number = 7};
    const mh_process_options ways[] = {
        {.run = exit_with, .ctx = &code},
        {.run = exit_with, .ctx = &code, .fds = &pass, .fd_count = 1, .cwd = "/"},
        {.argv = SELF("exit", "9"), .fds = &pass, .fd_count = 1},
        {.argv = (const char *const[]){"sh", "-c", "exit 9", NULL}},
    };
    for (size_t i = 0; i < MH__COUNT_OF(ways); i++) {
        mh_err err = mh_process_start(&p, &ways[i]);
        if (err) {
            assert_null(p);
            return err;
        }
        err = mh_process_wait(p, LONG_ENOUGH, &status);
        mh_process_destroy(&p);
        if (err)
            return err;
        assert_int_equal(mh_exit_number(status), 9);
    }
    return MH_OK;
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    int fds = mh__os_fd_count();
    long n = 0;
    mh_err err;
    do {
        books b = {.until_failure = ++n};
        mh_allocator_set(keep_books, &b);
        err = start_all_ways();
        mh_allocator_set(NULL, NULL);
        if (err)
            assert_err(err, MH_ERR_NO_MEMORY);
        assert_int_equal(b.live, 0);
        assert_int_equal(mh__os_fd_count(), fds);
    } while (err);
    assert_true(n > 8); /* two for each process at least */
    assert_no_children();
}

/* Take every free descriptor below the limit but `room`. */
static size_t use_up(int *taken, size_t capacity, size_t room)
{
    size_t count = 0;
    while (count < capacity && (taken[count] = fcntl(1, F_DUPFD_CLOEXEC, 0)) >= 0)
        count++;
    for (size_t i = 0; i < room && count; i++)
        close(taken[--count]);
    return count;
}

static void descriptors_may_run_out(void **state)
{
    (void)state;
    struct rlimit before, low = {64, 0};
    int taken[64], fds = mh__os_fd_count();
    getrlimit(RLIMIT_NOFILE, &before);
    low.rlim_max = before.rlim_max;
    mh_err err = MH_ERR_SYSTEM;
    size_t room = 0;
    for (; err && room < 16; room++) {
        setrlimit(RLIMIT_NOFILE, &low);
        size_t count = use_up(taken, MH__COUNT_OF(taken), room);
        err = start_all_ways();
        int error = mh_err_errno();
        setrlimit(RLIMIT_NOFILE, &before);
        for (size_t i = 0; i < count; i++)
            close(taken[i]);
        if (err) {
            assert_err(err, MH_ERR_SYSTEM);
            assert_int_equal(error, EMFILE);
        }
        assert_int_equal(mh__os_fd_count(), fds);
        assert_no_children();
    }
    assert_ok(err);
    assert_true(room > 2);
}

static void note_method(void *ctx) { *(mh_start_method *)ctx = mh_start_method_default(); }

static void the_default_fits_the_process(void **state)
{
    (void)state;
    mh_start_method method = MH_START_DEFAULT;
    mh_process *p;
    call_in_thread(note_method, &method);
    assert_int_equal(method, MH_START_FORKSERVER);
    note_method(&method);
    if (mh__os_thread_count() == 1) /* the thread sanitizer has one of its own */
        assert_int_equal(method, MH_START_FORK);
    assert_ok(mh_process_start(&p, &(mh_process_options){.argv = SELF("exit", "4")}));
    expect_end(&p, 4);
    assert_int_equal(mh_cpu_count(), mh__cpu_count());
    assert_true(mh_fork_count() >= mh_fork_depth() && mh_fork_count() > 0); /* the test's own children */
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return be_program(argc, argv);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* so that orphans come to us, and not to whatever runs the tests */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_are_told),
        cmocka_unit_test(spawned_programs_end),
        cmocka_unit_test(stdout_is_flushed_once),
        cmocka_unit_test(waits_have_deadlines),
        cmocka_unit_test(terminate_asks_and_kill_does_not),
        cmocka_unit_test(stop_is_not_an_end),
        cmocka_unit_test(several_threads_wait),
        cmocka_unit_test(signals_interrupt_waits),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(failures_of_exec_are_errors),
        cmocka_unit_test(surroundings_are_set),
        cmocka_unit_test(signals_are_reset_or_kept),
        cmocka_unit_test(only_what_was_passed_is_open),
        cmocka_unit_test(descriptors_may_change_places),
        cmocka_unit_test(forks_get_numbers_too),
        cmocka_unit_test(children_die_with_their_parent),
        cmocka_unit_test(survivors_go_on),
        cmocka_unit_test(a_child_may_choose_to_survive),
        cmocka_unit_test(only_the_main_thread_chooses),
        cmocka_unit_test(children_outlive_the_thread_that_started_them),
        cmocka_unit_test(destroying_kills),
        cmocka_unit_test(detaching_lets_go_on),
        cmocka_unit_test(inherited_objects_are_refused),
        cmocka_unit_test(stolen_statuses_are_lost),
        cmocka_unit_test(hooks_are_called_around_forks),
        cmocka_unit_test(rounds_leave_nothing),
        cmocka_unit_test(several_threads_start),
        cmocka_unit_test(each_allocation_may_fail),
        cmocka_unit_test(descriptors_may_run_out),
        cmocka_unit_test(the_default_fits_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
