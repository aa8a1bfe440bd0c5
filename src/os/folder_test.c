/* Folders, logs and locks. */
#include "os/fd.h"
#include "os/file.h"
#include "os/folder.h"

#include "base/memory.h"
#include "base/number.h"
#include "mh_books.h"
#include "mh_test.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[64];

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/folder-test-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return mh__os_folder_remove(root) || access(root, F_OK) == 0 ? -1 : 0;
}

/* "<root>/<name>"; valid until the eighth call from now. */
static const char *in_root(const char *name)
{
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % MH__COUNT_OF(paths)];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static void touch(const char *name)
{
    int fd = open(in_root(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

/* ---- names ----------------------------------------------------------------------------------- */

static void names_are_sorted_and_whole(void **state)
{
    (void)state;
    char **names = NULL, name[32];
    size_t count = 7;
    assert_ok(mh__os_folder_names(root, &names, &count));
    assert_int_equal(count, 0);
    mh__os_names_free(&names, count);
    for (int i = 39; i >= 0; i--) { /* more than one portion, in no order */
        snprintf(name, sizeof name, "n%02d", (i * 17) % 40);
        touch(name);
    }
    touch(".hidden");
    assert_ok(mh__os_folder_names(root, &names, &count));
    assert_int_equal(count, 40);
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "n%02zu", i);
        assert_string_equal(names[i], name);
    }
    mh__os_names_free(&names, count);
    assert_null(names);
    assert_err(mh__os_folder_names(in_root("none"), &names, &count), MH_ERR_NOT_FOUND);
    assert_null(names);
    assert_int_equal(count, 0);
}

static void each_allocation_of_names_may_fail(void **state)
{
    (void)state;
    char **names, name[16];
    size_t count;
    long n = 0;
    mh_err err;
    int fds = mh__os_fd_count();
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "n%d", i);
        touch(name);
    }
    do {
        books b = {.until_failure = ++n};
        mh_allocator_set(keep_books, &b);
        err = mh__os_folder_names(root, &names, &count);
        if (!err)
            mh__os_names_free(&names, count);
        mh_allocator_set(NULL, NULL);
        assert_true(!err || (err == MH_ERR_NO_MEMORY && count == 0));
        assert_null(names);
        assert_int_equal(b.live, 0);
        assert_int_equal(mh__os_fd_count(), fds);
    } while (err);
    assert_int_equal(n, 20 + 2 + 1); /* twenty names, and twice the array */
}

/* ---- removing -------------------------------------------------------------------------------- */

static void folders_go_with_all_that_is_in_them(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_root("a"), 0700), 0);
    assert_int_equal(mkdir(in_root("a/b"), 0700), 0);
    assert_int_equal(mkdir(in_root("kept"), 0700), 0);
    touch("a/file");
    touch("a/.hidden");
    touch("a/b/file");
    touch("kept/file");
    assert_int_equal(symlink(in_root("kept"), in_root("a/b/link")), 0);
    assert_int_equal(mkfifo(in_root("a/pipe"), 0600), 0);
    assert_ok(mh__os_folder_remove(in_root("a")));
    assert_int_equal(access(in_root("a"), F_OK), -1);
    assert_int_equal(access(in_root("kept/file"), F_OK), 0); /* no link was followed */
    assert_ok(mh__os_folder_remove(in_root("a")));           /* gone already */
    assert_int_equal(symlink(in_root("kept"), in_root("link")), 0);
    assert_true(mh__os_folder_remove(in_root("link")) != MH_OK);
    assert_true(mh__os_folder_remove(in_root("kept/file")) != MH_OK);
    assert_int_equal(access(in_root("kept/file"), F_OK), 0);
}

/* Somebody's endless nesting is refused, not followed until descriptors or the stack run out. */
static void deep_nesting_is_refused(void **state)
{
    (void)state;
    char path[4096];
    int depth = 40, fds = mh__os_fd_count();
    size_t size = (size_t)snprintf(path, sizeof path, "%s/deep", root);
    for (int i = 0; i < depth; i++) {
        assert_int_equal(mkdir(path, 0700), 0);
        size += (size_t)snprintf(path + size, sizeof path - size, "/d");
    }
    assert_err(mh__os_folder_remove(in_root("deep")), MH_ERR_SYSTEM);
    assert_non_null(strstr(mh_err_detail(), "removing d/d"));
    assert_int_equal(mh__os_fd_count(), fds);
    for (int i = 0; i < depth; i++) {
        *strrchr(path, '/') = 0;
        assert_int_equal(rmdir(path), 0);
    }
}

/* ---- short-lived folders --------------------------------------------------------------------- */

static void the_runtime_folder_is_private_or_temporary(void **state)
{
    (void)state;
    char runtime[80];
    snprintf(runtime, sizeof runtime, "%s", in_root("run"));
    assert_int_equal(mkdir(runtime, 0700), 0);
    const struct {
        const char *xdg;
        mode_t mode;
        const char *tmpdir, *expected, *why;
    } rows[] = {
        {runtime, 0700, "/var/tmp", runtime, "this user's own"},
        {runtime, 0750, "/var/tmp", "/var/tmp", "others may look in"},
        {"run", 0700, "/var/tmp", "/var/tmp", "not absolute"},
        {"/nowhere/at/all", 0700, "/var/tmp", "/var/tmp", "not there"},
        {NULL, 0700, "/var/tmp", "/var/tmp", "not set"},
        {NULL, 0700, "relative", "/tmp", "a relative one would change its meaning"},
        {NULL, 0700, NULL, "/tmp", "nothing set"},
    };
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        rows[i].xdg ? setenv("XDG_RUNTIME_DIR", rows[i].xdg, 1) : unsetenv("XDG_RUNTIME_DIR");
        rows[i].tmpdir ? setenv("TMPDIR", rows[i].tmpdir, 1) : unsetenv("TMPDIR");
        assert_int_equal(chmod(runtime, rows[i].mode), 0);
        assert_string_equal(mh__os_runtime_folder(), rows[i].expected);
    }
    unsetenv("XDG_RUNTIME_DIR");
}

static void unique_folders_are_private(void **state)
{
    (void)state;
    char path[128], second[128], small[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/u-", root);
    snprintf(second, sizeof second, "%s/u-", root);
    assert_ok(mh__os_folder_unique(path, sizeof path));
    assert_ok(mh__os_folder_unique(second, sizeof second));
    assert_string_not_equal(path, second);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    size_t size = (size_t)snprintf(small, sizeof small, "%s/v-", root);
    assert_err(mh__os_folder_unique(small, size + 6), MH_ERR_INVALID);
    assert_ok(mh__os_folder_unique(small, size + 7));
    snprintf(small, sizeof small, "%s/none/v-", root);
    assert_err(mh__os_folder_unique(small, sizeof small), MH_ERR_NOT_FOUND);
}

/* ---- logs and locks -------------------------------------------------------------------------- */

static void logs_are_appended_to(void **state)
{
    (void)state;
    char text[64];
    int fd;
    struct stat st;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (mh__os_log_open(in_root("log"), &fd) || mh__os_output_to(fd))
            _exit(1);
        close(fd);
        printf("out\n");
        fflush(stdout);
        fprintf(stderr, "err\n");
        _exit(read(0, text, 1) == 0 ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ok(mh__os_log_open(in_root("log"), &fd));
    assert_int_equal(write(fd, "more\n", 5), 5);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    mh__os_close(&fd);
    fd = open(in_root("log"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, text, sizeof text), 13);
    assert_memory_equal(text, "out\nerr\nmore\n", 13);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    close(fd);
    assert_int_equal(symlink(in_root("log"), in_root("link")), 0);
    assert_true(mh__os_log_open(in_root("link"), &fd) != MH_OK);
    assert_int_equal(fd, -1);
}

static void a_lock_has_one_holder_until_its_end(void **state)
{
    (void)state;
    int mine, second = -1, told[2];
    char byte;
    const char *path = in_root("lock");
    assert_ok(mh__os_lock_take(path, &mine));
    assert_err(mh__os_lock_take(path, &second), MH_ERR_EXISTS);
    assert_int_equal(second, -1);
    assert_non_null(strstr(mh_err_detail(), path));
    mh__os_close(&mine);
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (mh__os_lock_take(path, &mine) || write(told[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(told[0], &byte, 1), 1);
    assert_err(mh__os_lock_take(path, &second), MH_ERR_EXISTS);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_ok(mh__os_lock_take(path, &mine)); /* whatever ended its holder */
    assert_ok(mh__os_file_unlink(path));
    assert_ok(mh__os_lock_take(path, &second)); /* another file of that name */
    mh__os_close(&mine);
    mh__os_close(&second);
    assert_int_equal(symlink("elsewhere", in_root("link")), 0);
    assert_true(mh__os_lock_take(in_root("link"), &mine) != MH_OK);
    assert_int_equal(access(in_root("elsewhere"), F_OK), -1);
    close(told[0]);
    close(told[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_are_sorted_and_whole, make_root, remove_root),
        cmocka_unit_test_setup_teardown(each_allocation_of_names_may_fail, make_root, remove_root),
        cmocka_unit_test_setup_teardown(folders_go_with_all_that_is_in_them, make_root, remove_root),
        cmocka_unit_test_setup_teardown(deep_nesting_is_refused, make_root, remove_root),
        cmocka_unit_test_setup_teardown(the_runtime_folder_is_private_or_temporary, make_root, remove_root),
        cmocka_unit_test_setup_teardown(unique_folders_are_private, make_root, remove_root),
        cmocka_unit_test_setup_teardown(logs_are_appended_to, make_root, remove_root),
        cmocka_unit_test_setup_teardown(a_lock_has_one_holder_until_its_end, make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
