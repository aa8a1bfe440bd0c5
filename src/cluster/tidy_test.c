/* Ending clusters that others started, and what cleaning removes and keeps. */
#include "cluster/profile_test.h"

#include "mh_books.h"
#include "os/fd.h"
#include "os/process.h"
#include "wire/message.h"

#include <sys/stat.h>

static void write_record(const char *id, pid_t controller, const pid_t *engines, size_t count)
{
    mh__record_member members[4];
    for (size_t i = 0; i < count; i++)
        members[i] = member(engines[i], (int64_t)i, "");
    assert_ok(mh__record_write(&(mh__record){.folder = folder, .cluster_id = id, .set_id = "1", .controller = member(controller, -1, ""), .engines = members,
                                             .engine_count = count}));
}

static mh_clusters *list(void)
{
    mh_clusters *l = NULL;
    assert_ok(mh_clusters_create(&l, &(mh_clusters_query){.folder = folder}));
    return l;
}

static bool is_there(mh__profile_file which, const char *id)
{
    char path[MH_CLUSTER_PATH_SIZE];
    assert_ok(mh__profile_path(folder, which, id, path));
    return mh__os_path_exists(path);
}

static void put(mh__profile_file which, const char *id, const char *text)
{
    char path[MH_CLUSTER_PATH_SIZE];
    assert_ok(mh__profile_path(folder, which, id, path));
    assert_ok(mh__os_file_write_private(path, mh__text(text)));
}

/* ---- ending ---------------------------------------------------------------------------------- */

static void a_cluster_without_a_watcher_is_ended(void **state)
{
    (void)state;
    int status;
    pid_t controller = start_marked("c"), engines[] = {start_marked("c"), start_marked("other"), start_marked("c")};
    assert_int_equal(kill(engines[2], SIGSTOP), 0); /* does not heed SIGTERM */
    assert_int_equal(waitpid(engines[2], &status, WUNTRACED), engines[2]);
    write_record("c", controller, engines, MH__COUNT_OF(engines));
    mh_clusters *l = list();
    assert_ok(mh_cluster_end(mh_clusters_at(l, 0), 100 * MH_MILLISECOND));
    assert_int_equal(waitpid(controller, &status, 0), controller);
    assert_int_equal(WTERMSIG(status), SIGTERM);
    assert_int_equal(waitpid(engines[0], &status, 0), engines[0]);
    assert_int_equal(WTERMSIG(status), SIGTERM);
    assert_int_equal(waitpid(engines[2], &status, 0), engines[2]);
    assert_int_equal(WTERMSIG(status), SIGKILL);
    assert_int_equal(waitpid(engines[1], &status, WNOHANG), 0); /* the file names it, but it is none of this cluster's */
    assert_false(is_there(MH__FILE_CLUSTER, "c") || is_there(MH__FILE_WATCHER, "c"));
    assert_err(mh_cluster_end(mh_clusters_at(l, 0), 0), MH_ERR_EXITED);
    mh_clusters_destroy(&l);
    end_marked(engines[1]);
}

static void what_runs_elsewhere_is_left_to_who_started_it(void **state)
{
    (void)state;
    put(MH__FILE_CLUSTER, "", "{\"controller\":{\"class\":\"local\",\"state\":{}},\"engines\":{\"class\":\"slurm\",\"sets\":{\"1\":{\"n\":4}}}}");
    mh_clusters *l = list();
    assert_err(mh_cluster_end(mh_clusters_at(l, 0), 0), MH_ERR_UNSUPPORTED);
    assert_non_null(strstr(mh_err_detail(), "slurm"));
    assert_true(is_there(MH__FILE_CLUSTER, ""));
    mh_clusters_destroy(&l);
}

/* ---- cleaning -------------------------------------------------------------------------------- */

static char told[8192];

static void note(const char *line, void *ctx)
{
    (void)ctx;
    size_t have = strlen(told);
    snprintf(told + have, sizeof told - have, "%s\n", line);
}

static size_t clean(mh_cluster_clean_options o)
{
    size_t removed = 99;
    *told = 0;
    o.folder = folder;
    o.tell = note;
    assert_ok(mh_cluster_clean(&o, &removed));
    return removed;
}

/* A connection file of a controller that is on another host; on this one nobody listens at its ports. */
static void put_connection(const char *id, const char *location)
{
    char text[700];
    snprintf(text, sizeof text, "{\"key\":\"k\",\"interface\":\"tcp://127.0.0.1\",\"location\":\"%s\",\"registration\":1,\"control\":2,\"mux\":3,\"task\":4,"
             "\"iopub\":5,\"task_scheme\":\"leastload\",\"notification\":6,\"broadcast\":7,\"pack\":\"json\",\"unpack\":\"json\",\"signature_scheme\":\"hmac-sha256\"}", location);
    put(MH__FILE_CLIENT, id, text);
}

static void what_dead_clusters_left_is_removed(void **state)
{
    (void)state;
    const pid_t gone = 0;
    pid_t living = start_marked("living");
    int lock, fds = mh__os_fd_count();
    char path[MH_CLUSTER_PATH_SIZE];
    write_record("dead", gone, &gone, 1);
    put(MH__FILE_CLIENT, "dead", "{}");
    put(MH__FILE_ENGINE, "dead", "{}");
    put(MH__FILE_LOCK, "dead", "");
    put(MH__FILE_LOG, "dead", "");
    put(MH__FILE_TASKS, "dead", "");
    write_record("living", living, &gone, 1);
    put(MH__FILE_CLIENT, "living", "{}");
    put_connection("elsewhere", "another-host");
    assert_ok(mh__profile_path(folder, MH__FILE_LOCK, "held", path));
    assert_ok(mh__os_lock_take(path, &lock));
    snprintf(path, sizeof path, "%s/log/notes.txt", folder);
    assert_ok(mh__os_file_write_private(path, mh__text("mine")));

    assert_int_equal(clean((mh_cluster_clean_options){.dry_run = true}), 6);
    assert_non_null(strstr(told, "would remove"));
    assert_true(is_there(MH__FILE_CLUSTER, "dead") && is_there(MH__FILE_LOG, "dead") && is_there(MH__FILE_LOCK, "dead"));
    assert_int_equal(clean((mh_cluster_clean_options){.keep_logs = true}), 5);
    assert_true(is_there(MH__FILE_LOG, "dead"));
    assert_int_equal(clean((mh_cluster_clean_options){0}), 1);
    for (mh__profile_file which = MH__FILE_CLUSTER; which <= MH__FILE_LOG; which++)
        assert_int_equal(is_there(which, "dead"), which == MH__FILE_TASKS); /* accepted tasks are nobody's rubbish */
    assert_true(is_there(MH__FILE_CLUSTER, "living") && is_there(MH__FILE_WATCHER, "living") && is_there(MH__FILE_CLIENT, "living"));
    assert_true(is_there(MH__FILE_CLIENT, "elsewhere") && is_there(MH__FILE_LOCK, "held") && mh__os_path_exists(path));
    assert_non_null(strstr(told, "kept, for it runs:"));
    assert_non_null(strstr(told, "kept, for its controller may run:"));
    assert_int_equal(clean((mh_cluster_clean_options){0}), 0);

    assert_int_equal(clean((mh_cluster_clean_options){.force = true}), 1); /* of which nothing is known */
    assert_false(is_there(MH__FILE_CLIENT, "elsewhere"));
    assert_true(is_there(MH__FILE_CLUSTER, "living"));
    mh__os_close(&lock);
    assert_int_equal(mh__os_fd_count(), fds);
    end_marked(living);
}

/* Engines whose controller is gone wait for one that will not come back. */
static void force_ends_engines_that_lost_their_controller(void **state)
{
    (void)state;
    pid_t engine = start_marked("c");
    write_record("c", 0, &engine, 1);
    assert_int_equal(clean((mh_cluster_clean_options){0}), 0);
    assert_int_equal(clean((mh_cluster_clean_options){.force = true, .dry_run = true}), 0);
    assert_int_equal(waitpid(engine, NULL, WNOHANG), 0);
    assert_int_equal(clean((mh_cluster_clean_options){.force = true}), 1);
    assert_int_equal(waitpid(engine, NULL, 0), engine);
    assert_false(is_there(MH__FILE_CLUSTER, "c"));
}

static void nothing_to_clean_is_no_error(void **state)
{
    (void)state;
    size_t removed = 99;
    assert_ok(mh_cluster_clean(&(mh_cluster_clean_options){.folder = "/nowhere/at/all"}, &removed));
    assert_int_equal(removed, 0);
    assert_ok(mh_cluster_clean(&(mh_cluster_clean_options){.ipython_dir = "/nowhere/at/all"}, &removed));
    assert_int_equal(removed, 0);
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    const pid_t gone = 0;
    int fds = mh__os_fd_count();
    books b;
    for (long n = 1; n == 1 || b.until_failure <= 0; n++) {
        size_t removed;
        write_record("dead", gone, &gone, 1);
        put(MH__FILE_ENGINE, "dead", "{}");
        b = (books){.until_failure = n};
        mh_allocator_set(keep_books, &b);
        mh_err err = mh_cluster_clean(&(mh_cluster_clean_options){.folder = folder}, &removed);
        mh_allocator_set(NULL, NULL);
        assert_true(!err || err == MH_ERR_NO_MEMORY);
        assert_int_equal(b.live, 0);
        assert_int_equal(mh__os_fd_count(), fds);
        assert_true(n < 1000);
    }
    assert_false(is_there(MH__FILE_CLUSTER, "dead") || is_there(MH__FILE_ENGINE, "dead"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_cluster_without_a_watcher_is_ended, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(what_runs_elsewhere_is_left_to_who_started_it, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(what_dead_clusters_left_is_removed, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(force_ends_engines_that_lost_their_controller, make_profile, remove_profile),
        cmocka_unit_test(nothing_to_clean_is_no_error),
        cmocka_unit_test_setup_teardown(each_allocation_may_fail, make_profile, remove_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
