/* A cluster that is watched over. Its controller and engines are this program again, which behaves as its arguments say. */
#include "cluster/profile_test.h"

#include "manyhands/process.h"
#include "mh_books.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { READY_FD = 3 };

/* ---- what its processes do ------------------------------------------------------------------- */

static bool has(int argc, char **argv, const char *word)
{
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], word))
            return true;
    return false;
}

static void end_well(int number)
{
    (void)number;
    _exit(0);
}

/* Whether this is not the first of its kind: the second finds what the first has left. */
static bool is_second(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s/second", getenv("IPP_PROFILE_DIR"));
    return mkdir(path, 0700) != 0;
}

/* "controller" or "engine", and one of: fail, silent, short (all but the first end at once). */
static int be_member(int argc, char **argv)
{
    const char *id = "";
    const char *ready = getenv("MANYHANDS_READY_FD");
    for (int i = 2; i < argc; i++)
        if (!strncmp(argv[i], "--id=", 5))
            id = argv[i] + 5;
    if (!ready || atoi(ready) != READY_FD || !getenv("IPP_PROFILE_DIR") || !getenv("IPP_CLUSTER_ID"))
        return 90;
    if (!strcmp(argv[1], "controller") ? *id != 0 : !*id)
        return 91;
    if (has(argc, argv, "fail")) {
        fprintf(stderr, "a first line\nno such address\n");
        return 3;
    }
    signal(SIGTERM, end_well);
    bool must_end = has(argc, argv, "short") && is_second(); /* asked before anybody knows of us */
    if (!has(argc, argv, "silent") && send(READY_FD, *id ? id : "0", strlen(*id ? id : "0"), MSG_NOSIGNAL) < 0)
        return 92;
    if (must_end)
        return 7;
    for (;;)
        pause();
}

/* ---- what tests share ------------------------------------------------------------------------ */

static const char *const fail[] = {"fail", NULL}, *const silent[] = {"silent", NULL}, *const short_lived[] = {"short", NULL};

static mh_cluster_options options(void)
{
    return (mh_cluster_options){.folder = folder, .engine_count = 2, .command = "/proc/self/exe", .grace_ns = 20 * MH_SECOND};
}

static mh_clusters *list(void)
{
    mh_clusters *l = NULL;
    assert_ok(mh_clusters_create(&l, &(mh_clusters_query){.folder = folder}));
    return l;
}

static size_t count_names(const char *inner)
{
    char path[160], **names = NULL;
    size_t count = 0;
    snprintf(path, sizeof path, "%s/%s", folder, inner);
    assert_ok(mh__os_folder_names(path, &names, &count));
    mh__os_names_free(&names, count);
    return count;
}

static void assert_no_children(void) { assert_int_equal(waitpid(-1, NULL, WNOHANG | WNOWAIT), -1); }

/* What it tells, and after which of it the test wants it to stop. */
typedef struct ear {
    mh_cluster *of;
    const char *last;
    char text[4096];
} ear;

static void hear(mh_log_level level, const char *line, void *ctx)
{
    ear *e = ctx;
    size_t have = strlen(e->text);
    snprintf(e->text + have, sizeof e->text - have, "%s%s\n", level >= MH_LOG_WARNING ? "! " : "", line);
    if (e->of && e->last && strstr(e->text + have, e->last))
        mh_cluster_stop(e->of);
}

static size_t count_of(const char *text, const char *word)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, word)); at++)
        count++;
    return count;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void it_is_found_while_it_lives_and_leaves_its_logs(void **state)
{
    (void)state;
    mh_cluster *c = NULL, *second = NULL;
    mh_cluster_options o = options();
    int fds = mh__os_fd_count();
    o.cluster_id = "x";
    assert_ok(mh_cluster_create(&c, &o));
    assert_int_equal(mh_cluster_engine_count(c), 2);
    assert_string_equal(mh_cluster_folder(c), folder);
    mh_clusters *l = list();
    assert_int_equal(mh_clusters_count(l), 1);
    const mh_cluster_info *info = mh_clusters_at(l, 0);
    assert_true(info->is_running && info->is_ready && !info->is_stale && info->watcher_pid == getpid());
    assert_int_equal(info->controller.pid, mh_cluster_controller_pid(c));
    assert_int_equal(info->engines_alive, 2);
    assert_true(info->engines[0].engine_id == 0 && info->engines[1].engine_id == 1);
    mh_clusters_destroy(&l);
    assert_err(mh_cluster_create(&second, &o), MH_ERR_EXISTS);
    assert_null(second);
    assert_non_null(strstr(mh_err_detail(), "cluster \"x\""));
    mh_cluster_stop(c);
    assert_ok(mh_cluster_run(c));
    mh_cluster_destroy(&c);
    assert_null(c);
    assert_int_equal(count_names("security"), 0);
    assert_int_equal(count_names("pid"), 0);
    assert_int_equal(count_names("log"), 3);
    assert_int_equal(mh__os_fd_count(), fds);
    assert_no_children();
    assert_ok(mh_cluster_create(&c, &o)); /* its name is free again */
    mh_cluster_destroy(&c);
}

static void signals_and_the_controllers_end_stop_it(void **state)
{
    (void)state;
    mh_cluster *c = NULL;
    mh_cluster_options o = options();
    const struct {
        int to_us, to_controller;
        mh_err err;
        const char *said;
    } rows[] = {
        {SIGTERM, 0, MH_OK, "stopping: Terminated"},
        {SIGINT, 0, MH_OK, "stopping: Interrupt"},
        {SIGHUP, 0, MH_OK, "stopping: Hangup"},
        {0, SIGTERM, MH_OK, "stopping: the controller was told to end"},
        {0, SIGKILL, MH_ERR_BROKEN, "stopping: the controller was killed by Killed"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        ear e = {0};
        o.log = hear;
        o.log_ctx = &e;
        assert_ok(mh_cluster_create(&c, &o));
        kill(rows[i].to_us ? getpid() : mh_cluster_controller_pid(c), rows[i].to_us ? rows[i].to_us : rows[i].to_controller);
        assert_err(mh_cluster_run(c), rows[i].err);
        assert_non_null(strstr(e.text, rows[i].said));
        mh_cluster_destroy(&c);
        assert_no_children();
    }
}

static void the_dead_are_started_again(void **state)
{
    (void)state;
    mh_cluster *c = NULL;
    mh_cluster_options o = options();
    ear e = {.last = "engine 1 is back"};
    o.restart = true;
    o.log = hear;
    o.log_ctx = &e;
    assert_ok(mh_cluster_create(&c, &o));
    e.of = c;
    mh_clusters *l = list();
    pid_t first = mh_clusters_at(l, 0)->engines[1].pid, controller = mh_cluster_controller_pid(c);
    mh_clusters_destroy(&l);
    kill(first, SIGKILL);
    assert_ok(mh_cluster_run(c));
    l = list();
    assert_int_equal(mh_clusters_at(l, 0)->engines_alive, 2);
    assert_int_not_equal(mh_clusters_at(l, 0)->engines[1].pid, first);
    assert_int_equal(mh_cluster_controller_pid(c), controller);
    mh_clusters_destroy(&l);
    mh_cluster_destroy(&c);
    assert_no_children();
}

/* One that does nothing but die is given up, and the others stay. */
static void a_crash_loop_is_broken_off(void **state)
{
    (void)state;
    mh_cluster *c = NULL;
    mh_cluster_options o = options();
    ear e = {.last = "! engine 0 ended with code 7\n"};
    o.engine_count = 1;
    o.restart = true;
    o.engine_args = short_lived;
    o.log = hear;
    o.log_ctx = &e;
    assert_ok(mh_cluster_create(&c, &o));
    e.of = c;
    mh_clusters *l = list();
    kill(mh_clusters_at(l, 0)->engines[0].pid, SIGKILL);
    mh_clusters_destroy(&l);
    assert_ok(mh_cluster_run(c));
    mh_cluster_destroy(&c);
    assert_int_equal(count_of(e.text, "; started again"), 5);
    assert_int_equal(count_of(e.text, "! engine 0 ended with code 7\n"), 1);
    assert_no_children();
}

/* ---- starts that fail ------------------------------------------------------------------------ */

static void a_failed_start_says_why_and_leaves_nothing(void **state)
{
    (void)state;
    int fds = mh__os_fd_count();
    const struct {
        const char *const *controller, *const *engine;
        mh_err err;
        const char *said, *name;
    } rows[] = {
        {fail, NULL, MH_ERR_BROKEN, "the controller ended with code 3 before it was ready: no such address", ""},
        {NULL, fail, MH_ERR_BROKEN, "ended with code 3 before it was ready: no such address", ""},
        {silent, NULL, MH_ERR_TIMEOUT, "the controller was not ready in time; see ", ""},
        {NULL, silent, MH_ERR_TIMEOUT, "0 of 2 engines registered in time; see ", ""},
        {NULL, NULL, MH_ERR_INVALID, "no slashes", "a/b"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_cluster *c = NULL;
        mh_cluster_options o = options();
        o.cluster_id = rows[i].name;
        o.controller_args = rows[i].controller;
        o.engine_args = rows[i].engine;
        o.timeout_ns = rows[i].err == MH_ERR_TIMEOUT ? (rows[i].engine ? 10 * MH_SECOND : 100 * MH_MILLISECOND) : 0;
        assert_err(mh_cluster_create(&c, &o), rows[i].err);
        assert_null(c);
        assert_non_null(strstr(mh_err_detail(), rows[i].said));
        assert_int_equal(count_names("security"), 0);
        assert_int_equal(count_names("pid"), 0);
        assert_int_equal(mh__os_fd_count(), fds);
        assert_no_children();
    }
    mh_cluster *c = NULL;
    assert_err(mh_cluster_create(&c, NULL), MH_ERR_INVALID);
    assert_err(mh_cluster_create(&c, &(mh_cluster_options){.command = "/proc/self/exe"}), MH_ERR_INVALID);
    assert_non_null(strstr(mh_err_detail(), "folder"));
    assert_err(mh_cluster_create(&c, &(mh_cluster_options){.folder = folder, .engine_count = 2000000}), MH_ERR_INVALID);
    assert_non_null(strstr(mh_err_detail(), "engine_count"));
}

/* Processes that took their time to die are given back by the next start. */
static void sweep(books *b)
{
    mh_process *p = NULL;
    b->until_failure = 0;
    for (mh_deadline until = mh_deadline_in(30 * MH_SECOND); b->live && mh_now() < until;) {
        mh_allocator_set(keep_books, b);
        mh_err err = mh_process_start(&p, &(mh_process_options){.argv = (const char *const[]){"/bin/true", NULL}});
        mh_process_destroy(&p);
        mh_allocator_set(NULL, NULL);
        assert_ok(err);
    }
    assert_int_equal(b->live, 0);
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    int fds = mh__os_fd_count();
    long n = 0;
    bool has_failed;
    mh_cluster_options o = options();
    o.engine_count = 1;
    do {
        mh_cluster *c = NULL;
        books b = {.until_failure = ++n};
        mh_allocator_set(keep_books, &b);
        mh_err err = mh_cluster_create(&c, &o);
        mh_cluster_destroy(&c);
        mh_allocator_set(NULL, NULL);
        has_failed = b.until_failure <= 0; /* what fails while files are looked at is no failure of the start */
        assert_true(!err || err == MH_ERR_NO_MEMORY);
        sweep(&b);
        assert_int_equal(mh__os_fd_count(), fds);
        assert_no_children();
    } while (has_failed);
    assert_true(n > 20);
}

/* ---- whom it belongs to ---------------------------------------------------------------------- */

static void a_private_one_is_gone_without_a_trace(void **state)
{
    (void)state;
    mh_cluster *c = NULL;
    char dead[160], living[160];
    setenv("XDG_RUNTIME_DIR", ipython, 1);
    snprintf(dead, sizeof dead, "%s/manyhands-%llx-abcdef", ipython, (unsigned long long)1 << 32 | 0x7fffffff); /* of a process that is gone */
    snprintf(living, sizeof living, "%s/manyhands-%llx-abcdef", ipython, (unsigned long long)mh__os_identity_of(getppid()));
    assert_ok(mh__os_folder_make(dead));
    assert_ok(mh__os_folder_make(living));
    assert_ok(mh_cluster_create(&c, &(mh_cluster_options){.is_private = true, .engine_count = 1, .command = "/proc/self/exe"}));
    char own[MH_CLUSTER_PATH_SIZE];
    snprintf(own, sizeof own, "%s", mh_cluster_folder(c));
    assert_int_equal(strncmp(own, ipython, strlen(ipython)), 0);
    struct stat st;
    assert_int_equal(stat(own, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_true(!mh__os_path_exists(dead) && mh__os_path_exists(living));
    mh_clusters *l = NULL;
    assert_ok(mh_clusters_create(&l, &(mh_clusters_query){.folder = own}));
    assert_int_equal(mh_clusters_count(l), 0); /* nobody is to find it */
    mh_clusters_destroy(&l);
    mh_cluster_destroy(&c);
    assert_false(mh__os_path_exists(own));
    assert_no_children();
    unsetenv("XDG_RUNTIME_DIR");
}

/* A child that watches over a cluster, in the background: the numbers of its processes come out of `told`. */
static pid_t start_watcher(int told, bool is_owned)
{
    pid_t owner = getpid(), child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        mh_cluster *c = NULL;
        mh_cluster_options o = options();
        o.is_background = true;
        o.owner_pid = is_owned ? owner : 0;
        pid_t controller = 0;
        if (!mh_cluster_create(&c, &o))
            controller = mh_cluster_controller_pid(c);
        bool is_told = write(told, &controller, sizeof controller) == (ssize_t)sizeof controller;
        mh_err err = controller && is_told ? mh_cluster_run(c) : MH_ERR_BROKEN;
        mh_cluster_destroy(&c);
        _exit(err ? 1 : 0);
    }
    return child;
}

static void wait_gone(pid_t pid)
{
    for (mh_deadline until = mh_deadline_in(30 * MH_SECOND); kill(pid, 0) == 0; sched_yield()) {
        assert_true(mh_now() < until);
        waitpid(pid, NULL, WNOHANG); /* orphans come to us */
    }
}

static void it_ends_with_its_owner(void **state)
{
    (void)state;
    int told[2], status;
    pid_t pids[2];
    assert_int_equal(pipe2(told, O_CLOEXEC), 0);
    pid_t owner = fork();
    assert_true(owner >= 0);
    if (owner == 0) {
        int inner[2];
        if (pipe2(inner, O_CLOEXEC))
            _exit(1);
        pids[0] = start_watcher(inner[1], true);
        if (read(inner[0], &pids[1], sizeof pids[1]) != (ssize_t)sizeof pids[1] || write(told[1], pids, sizeof pids) != (ssize_t)sizeof pids)
            _exit(1);
        _exit(0);
    }
    assert_int_equal(read(told[0], pids, sizeof pids), sizeof pids);
    assert_int_equal(waitpid(owner, &status, 0), owner);
    assert_int_equal(status, 0);
    assert_true(pids[1] > 0);
    assert_int_equal(waitpid(pids[0], &status, 0), pids[0]);
    assert_int_equal(status, 0);
    wait_gone(pids[1]);
    assert_int_equal(count_names("security"), 0);
    close(told[0]);
    close(told[1]);
}

static void its_processes_die_with_it_and_its_files_are_cleaned(void **state)
{
    (void)state;
    int told[2];
    pid_t controller = 0;
    size_t removed = 0;
    assert_int_equal(pipe2(told, O_CLOEXEC), 0);
    pid_t watcher = start_watcher(told[1], false);
    assert_int_equal(read(told[0], &controller, sizeof controller), sizeof controller);
    assert_true(controller > 0);
    mh_clusters *l = list();
    assert_int_equal(mh_clusters_at(l, 0)->watcher_pid, watcher);
    pid_t engine = mh_clusters_at(l, 0)->engines[0].pid;
    mh_clusters_destroy(&l);
    kill(watcher, SIGKILL);
    assert_int_equal(waitpid(watcher, NULL, 0), watcher);
    wait_gone(controller);
    wait_gone(engine);
    l = list();
    assert_true(mh_clusters_at(l, 0)->is_stale);
    mh_clusters_destroy(&l);
    assert_ok(mh_cluster_clean(&(mh_cluster_clean_options){.folder = folder}, &removed));
    assert_true(removed >= 4);
    assert_int_equal(count_names("security") + count_names("pid") + count_names("log"), 0);
    close(told[0]);
    close(told[1]);
}

static void another_process_can_end_it(void **state)
{
    (void)state;
    int told[2], status;
    pid_t controller = 0;
    assert_int_equal(pipe2(told, O_CLOEXEC), 0);
    pid_t watcher = start_watcher(told[1], false);
    assert_int_equal(read(told[0], &controller, sizeof controller), sizeof controller);
    mh_clusters *l = list();
    assert_ok(mh_cluster_end(mh_clusters_at(l, 0), 20 * MH_SECOND));
    assert_int_equal(waitpid(watcher, &status, 0), watcher);
    assert_int_equal(status, 0); /* it was asked, and ended its processes itself */
    wait_gone(controller);
    assert_err(mh_cluster_end(mh_clusters_at(l, 0), MH_SECOND), MH_ERR_EXITED);
    mh_clusters_destroy(&l);
    assert_int_equal(count_names("security") + count_names("pid"), 0);
    close(told[0]);
    close(told[1]);
}

int main(int argc, char **argv)
{
    if (argc > 1 && (!strcmp(argv[1], "controller") || !strcmp(argv[1], "engine")))
        return be_member(argc, argv);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    unsetenv("IPP_PROFILE_DIR");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_is_found_while_it_lives_and_leaves_its_logs, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(signals_and_the_controllers_end_stop_it, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(the_dead_are_started_again, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(a_crash_loop_is_broken_off, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(a_failed_start_says_why_and_leaves_nothing, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(each_allocation_may_fail, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(a_private_one_is_gone_without_a_trace, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(it_ends_with_its_owner, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(its_processes_die_with_it_and_its_files_are_cleaned, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(another_process_can_end_it, make_profile, remove_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
