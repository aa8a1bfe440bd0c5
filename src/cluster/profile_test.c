/* Names of files in a profile, what is written there, and which clusters are read out of it. */
#include "cluster/profile_test.h"

#include "mh_books.h"
#include "os/fd.h"
#include "os/file.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- names ----------------------------------------------------------------------------------- */

static void paths_and_ids_are_each_others_inverse(void **state)
{
    (void)state;
    static const struct {
        mh__profile_file which;
        const char *id, *path;
    } rows[] = {
        {MH__FILE_CLUSTER, "", "/p/security/cluster-.json"}, /* these four as ipyparallel has them */
        {MH__FILE_CLUSTER, "a b", "/p/security/cluster-a b.json"},
        {MH__FILE_CLIENT, "", "/p/security/ipcontroller-client.json"},
        {MH__FILE_ENGINE, "x-y", "/p/security/ipcontroller-x-y-engine.json"},
        {MH__FILE_ENGINES, "", "/p/security/ipcontroller-engines.json"},
        {MH__FILE_TASKS, "1", "/p/security/ipcontroller-1-tasks.sqlite"},
        {MH__FILE_FAST, "", "/p/security/ipcontroller.fast"},
        {MH__FILE_SEEN, "c", "/p/security/ipcontroller-c-seen"},
        {MH__FILE_WATCHER, "", "/p/pid/manyhands-.json"},
        {MH__FILE_LOCK, "1", "/p/pid/manyhands-1.lock"},
        {MH__FILE_LOG, "1", "/p/log/manyhands-1.log"},
    };
    char path[MH_CLUSTER_PATH_SIZE], id[MH_CLUSTER_ID_SIZE];
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        assert_ok(mh__profile_path("/p", rows[i].which, rows[i].id, path));
        assert_string_equal(path, rows[i].path);
        assert_true(mh__profile_id_of(strrchr(path, '/') + 1, rows[i].which, id));
        assert_string_equal(id, rows[i].id);
    }
}

static void other_names_have_no_id(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        mh__profile_file which;
        const char *why;
    } rows[] = {
        {"", MH__FILE_CLUSTER, "nothing"},
        {"cluster.json", MH__FILE_CLUSTER, "its dash is always there"},
        {"cluster-a.jso", MH__FILE_CLUSTER, "another ending"},
        {"clusters-a.json", MH__FILE_CLUSTER, "another beginning"},
        {"ipcontrollerclient.json", MH__FILE_CLIENT, "no dash before its ending"},
        {"ipcontrollera-client.json", MH__FILE_CLIENT, "no dash before the id"},
        {"ipcontroller-engine.json", MH__FILE_CLIENT, "another kind"},
        {"ipcontroller-engine.json", MH__FILE_ENGINES, "another kind"},
        {".json", MH__FILE_WATCHER, "its ending alone"},
    };
    char id[MH_CLUSTER_ID_SIZE], path[MH_CLUSTER_PATH_SIZE], long_id[MH_CLUSTER_PATH_SIZE + 1], name[400];
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++)
        assert_false(mh__profile_id_of(rows[i].name, rows[i].which, id));
    memset(long_id, 'x', sizeof long_id);
    snprintf(name, sizeof name, "cluster-%.*s.json", MH_CLUSTER_ID_SIZE - 1, long_id);
    assert_true(mh__profile_id_of(name, MH__FILE_CLUSTER, id));
    assert_int_equal(strlen(id), MH_CLUSTER_ID_SIZE - 1);
    snprintf(name, sizeof name, "cluster-%.*s.json", MH_CLUSTER_ID_SIZE, long_id);
    assert_false(mh__profile_id_of(name, MH__FILE_CLUSTER, id));

    long_id[MH_CLUSTER_PATH_SIZE - 30] = 0;
    assert_err(mh__profile_path(long_id, MH__FILE_ENGINES, "", path), MH_ERR_INVALID);
    long_id[MH_CLUSTER_ID_SIZE] = 0;
    assert_err(mh__cluster_id_check(long_id), MH_ERR_INVALID);
    long_id[MH_CLUSTER_ID_SIZE - 1] = 0;
    assert_ok(mh__cluster_id_check(long_id));
    assert_err(mh__cluster_id_check("../../etc/x"), MH_ERR_INVALID);
    assert_err(mh__cluster_id_check("two\nlines"), MH_ERR_INVALID);
    assert_ok(mh__cluster_id_check(""));
}

static void profiles_are_where_ipython_has_them(void **state)
{
    (void)state;
    static const struct {
        const char *name, *folder, *ipython, *home, *ipythondir, *named;
        mh_err err;
        const char *path;
    } rows[] = {
        {NULL, NULL, NULL, "/h", NULL, NULL, MH_OK, "/h/.ipython/profile_default"},
        {"p", NULL, NULL, "/h", NULL, NULL, MH_OK, "/h/.ipython/profile_p"},
        {"p", NULL, NULL, "/h", "/i", "/n", MH_OK, "/i/profile_p"},
        {"p", NULL, "/j", "/h", "/i", NULL, MH_OK, "/j/profile_p"},
        {NULL, NULL, NULL, "/h", "/i", "/n", MH_OK, "/n"},
        {NULL, "/f/", NULL, "/h", "/i", "/n", MH_OK, "/f"},
        {NULL, NULL, "/j", "/h", "/i", "/n", MH_OK, "/j/profile_default"},
        {"p", NULL, NULL, NULL, NULL, NULL, MH_ERR_INVALID, "neither IPYTHONDIR nor HOME"},
        {"a/b", NULL, NULL, "/h", NULL, NULL, MH_ERR_INVALID, "not the name of a profile"},
        {"", NULL, NULL, "/h", NULL, NULL, MH_ERR_INVALID, "not the name of a profile"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        char path[MH_CLUSTER_PATH_SIZE] = "";
        rows[i].home ? setenv("HOME", rows[i].home, 1) : unsetenv("HOME");
        rows[i].ipythondir ? setenv("IPYTHONDIR", rows[i].ipythondir, 1) : unsetenv("IPYTHONDIR");
        rows[i].named ? setenv("IPP_PROFILE_DIR", rows[i].named, 1) : unsetenv("IPP_PROFILE_DIR");
        assert_err(mh_profile_find(rows[i].name, rows[i].folder, rows[i].ipython, path), rows[i].err);
        if (rows[i].err)
            assert_non_null(strstr(mh_err_detail(), rows[i].path));
        else
            assert_string_equal(path, rows[i].path);
    }
    unsetenv("IPYTHONDIR");
    unsetenv("IPP_PROFILE_DIR");
}

/* ---- a profile ------------------------------------------------------------------------------- */

static mh_clusters *list(const char *id)
{
    mh_clusters *l = NULL;
    assert_ok(mh_clusters_create(&l, &(mh_clusters_query){.ipython_dir = ipython, .cluster_id = id}));
    return l;
}

static void what_is_written_is_read_and_borne_out(void **state)
{
    (void)state;
    pid_t controller = start_marked("c"), engine = start_marked("c"), other = start_marked("other");
    const mh__record_member engines[] = {member(engine, 7, "/log/7"), member(0, 8, "/log/8"), member(other, 9, "/log/9")};
    const char *const args[] = {"--ip=*", "\"quoted\"", NULL};
    assert_ok(mh__record_write(&(mh__record){.folder = folder, .cluster_id = "c", .set_id = "17", .controller_args = args, .watcher = mh__os_self_process(),
        .is_ready = true, .controller = member(controller, -1, "/log/c"), .engines = engines, .engine_count = MH__COUNT_OF(engines)}));
    mh_clusters *l = list(NULL);
    assert_int_equal(mh_clusters_count(l), 1);
    const mh_cluster_info *info = mh_clusters_at(l, 0);
    assert_null(mh_clusters_at(l, 1));
    assert_string_equal(info->profile, "p");
    assert_string_equal(info->cluster_id, "c");
    assert_string_equal(info->launcher, "local");
    assert_true(info->is_running && info->is_ready && !info->is_stale && !info->is_remote);
    assert_int_equal(info->watcher_pid, getpid());
    assert_int_equal(info->controller.pid, controller);
    assert_string_equal(info->controller.log, "/log/c");
    assert_int_equal(info->engine_count, 2);
    assert_true(info->engines[0].pid == engine && info->engines[0].is_alive && info->engines[0].engine_id == 7);
    assert_true(info->engines[1].pid == other && !info->engines[1].is_alive); /* it lives, but is none of this cluster's */
    assert_int_equal(info->engines_alive, 1);
    mh_clusters_destroy(&l);
    l = list("d");
    assert_int_equal(mh_clusters_count(l), 0);
    mh_clusters_destroy(&l);

    /* the same number, but another process */
    mh__record_member reused = member(controller, -1, "/log/c");
    reused.identity += UINT64_C(1) << 32;
    assert_ok(mh__record_write(&(mh__record){.folder = folder, .cluster_id = "c", .set_id = "17", .controller = reused}));
    l = list("c");
    info = mh_clusters_at(l, 0);
    assert_true(!info->is_running && !info->controller.is_alive && info->is_stale && !info->watcher_pid && !info->is_ready);
    mh_clusters_destroy(&l);
    end_marked(controller);
    end_marked(engine);
    end_marked(other);
    mh__record_remove(folder, "c");
    l = list(NULL);
    assert_int_equal(mh_clusters_count(l), 0);
    mh_clusters_destroy(&l);
}

static void write_text(const char *name, const char *text)
{
    char path[MH_CLUSTER_PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(mh__os_file_write_private(path, (mh_bytes){text, strlen(text)}));
}

/* Files of stock tools, and such as nobody wrote: a cluster about which nothing is believed, never a crash. */
static void files_of_others_are_read_as_far_as_they_go(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_remote, is_running;
        size_t engines_alive;
        const char *launcher, *why;
    } rows[] = {
        {"", false, false, 0, "", "empty"},
        {"{", false, false, 0, "", "cut off"},
        {"[]", false, false, 0, "", "no object"},
        {"{\"controller\":null,\"engines\":7}", false, false, 0, "", "other kinds"},
        {"{\"controller\":{\"class\":\"local\",\"state\":{\"pid\":1}},\"engines\":{\"class\":\"local\",\"sets\":{}}}", false, false, 0, "local", "somebody else's process"},
        {"{\"controller\":{\"class\":\"local\",\"state\":{\"pid\":99999999999}},\"engines\":{}}", false, false, 0, "", "no number of a process"},
        {"{\"controller\":{\"class\":\"local\",\"state\":{\"pid\":-1}},\"engines\":{}}", false, false, 0, "", "the number of all processes"},
        {"{\"controller\":{\"class\":\"ssh\",\"state\":{\"pid\":1}},\"engines\":{\"class\":\"ipyparallel.cluster.launcher.SSHEngineSetLauncher\",\"sets\":{\"1\":{\"n\":4}}}}",
         true, true, 4, "ssh", "on other hosts"},
        {"{\"controller\":{\"class\":\"mpi\",\"state\":{}},\"engines\":{\"class\":\"mpi\",\"sets\":{\"1\":{\"n\":-4},\"2\":[]}}}", true, true, 0, "mpi", "less than none"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        write_text("security/cluster-x.json", rows[i].text);
        mh_clusters *l = list(NULL);
        assert_int_equal(mh_clusters_count(l), 1);
        const mh_cluster_info *info = mh_clusters_at(l, 0);
        assert_string_equal(info->launcher, rows[i].launcher);
        assert_int_equal(info->is_remote, rows[i].is_remote);
        assert_int_equal(info->is_running, rows[i].is_running);
        assert_int_equal(info->engines_alive, rows[i].engines_alive);
        assert_int_equal(info->is_stale, !rows[i].is_running && !rows[i].engines_alive);
        mh_clusters_destroy(&l);
    }
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    const mh__record_member engines[] = {member(0, 0, "/log"), member(getpid(), 1, "/log")};
    int fds = mh__os_fd_count();
    books b;
    for (long n = 1; n == 1 || b.until_failure <= 0; n++) { /* until none failed: what can't be read for want of memory is left out */
        mh_clusters *l = NULL;
        b = (books){.until_failure = n};
        mh_allocator_set(keep_books, &b);
        mh_err err = mh__record_write(&(mh__record){.folder = folder, .cluster_id = "", .set_id = "1", .controller = member(0, -1, "/log/c"),
                                                        .engines = engines, .engine_count = 2});
        if (!err)
            err = mh_clusters_create(&l, &(mh_clusters_query){.ipython_dir = ipython});
        mh_clusters_destroy(&l);
        mh_allocator_set(NULL, NULL);
        assert_true(!err || err == MH_ERR_NO_MEMORY);
        assert_int_equal(b.live, 0);
        assert_int_equal(mh__os_fd_count(), fds);
        assert_true(n < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_and_ids_are_each_others_inverse),
        cmocka_unit_test(other_names_have_no_id),
        cmocka_unit_test(profiles_are_where_ipython_has_them),
        cmocka_unit_test_setup_teardown(what_is_written_is_read_and_borne_out, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(files_of_others_are_read_as_far_as_they_go, make_profile, remove_profile),
        cmocka_unit_test_setup_teardown(each_allocation_may_fail, make_profile, remove_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
