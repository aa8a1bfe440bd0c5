#include "mh_test.h"

#include "base/number.h"
#include "manyhands/shm.h"
#include "os/fd.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, STATE_AT = 8, USERS_MAX = 508 };

static bool exists(const char *name)
{
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    return lstat(path, &st) == 0;
}

static mh_shared *create(char name[256], size_t size)
{
    mh_shared *s = NULL;
    assert_ok(mh_shared_create(&s, size));
    strcpy(name, mh_shared_name(s));
    assert_true(exists(name));
    return s;
}

static void the_last_to_close_removes_the_name(void **state)
{
    (void)state;
    char name[256];
    mh_shared *first = create(name, 5000), *second = NULL;
    assert_int_equal(mh_shared_size(first), 5000);
    assert_int_equal((uintptr_t)mh_shared_data(first) % PAGE, 0);
    for (size_t i = 0; i < 5000; i++)
        assert_int_equal(((char *)mh_shared_data(first))[i], 0);
    strcpy(mh_shared_data(first), "hello");
    assert_ok(mh_shared_open(&second, name, 0));
    mh_shared_close(&first);
    assert_null(first);
    assert_true(exists(name));
    assert_string_equal(mh_shared_data(second), "hello");
    assert_int_equal(mh_shared_size(second), 5000);
    mh_shared_close(&second);
    assert_false(exists(name));
    assert_err(mh_shared_open(&second, name, 0), MH_ERR_NOT_FOUND);
    mh_shared_close(&second);
}

static void a_posted_name_waits_for_its_receiver(void **state)
{
    (void)state;
    char name[256];
    mh_shared *sender = create(name, 100), *receiver = NULL;
    assert_ok(mh_shared_post(sender));
    assert_ok(mh_shared_post(sender));
    assert_ok(mh_shared_post(sender));
    mh_shared_arrive(sender);
    mh_shared_close(&sender);
    for (int i = 0; i < 2; i++) {
        assert_true(exists(name));
        assert_ok(mh_shared_open(&receiver, name, 0));
        mh_shared_close(&receiver);
    }
    assert_false(exists(name));
}

static void readonly_and_refused(void **state)
{
    (void)state;
    char name[256];
    mh_shared *s = create(name, 100), *other = NULL;
    mh_shm *plain = NULL;
    strcpy(mh_shared_data(s), "x");
    assert_err(mh_shared_open(&other, name, 64), MH_ERR_INVALID);
    assert_ok(mh_shared_open(&other, name, MH_SHM_READONLY));
    assert_true(mh_shared_is_readonly(other) && !mh_shared_is_readonly(s));
    assert_string_equal(mh_shared_data(other), "x");
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)mh_shared_data(other) = 1;
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    mh_shared_close(&other);
    mh_shared_close(&s);
    for (size_t size = 1; size <= 3 * PAGE; size += PAGE) { /* none has a table */
        assert_ok(mh_shm_create_named(&plain, NULL, size));
        assert_err(mh_shared_open(&other, mh_shm_name(plain), 0), MH_ERR_CORRUPT);
        assert_ok(mh_shm_unlink(mh_shm_name(plain)));
        mh_shm_destroy(&plain);
    }
    assert_err(mh_shared_create(&other, 0), MH_ERR_INVALID);
    assert_err(mh_shared_create(&other, SIZE_MAX / 4), MH_ERR_NO_SPACE);
}

/* Run body(name) in a child, wait until it says so, and kill it. */
static void in_a_child_that_is_killed(void (*body)(const char *name), const char *name)
{
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        body(name);
        if (write(pipes[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char byte;
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    close(pipes[0]);
    close(pipes[1]);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void open_it(const char *name)
{
    mh_shared *s = NULL;
    if (mh_shared_open(&s, name, 0))
        _exit(1);
}

static void the_killed_do_not_count(void **state)
{
    (void)state;
    char name[256];
    mh_shared *s = create(name, 100);
    in_a_child_that_is_killed(open_it, name);
    mh_shared_close(&s);
    assert_false(exists(name));
}

static mh_shared *inherited;

static int post_inherited(void)
{
    mh_err err = mh_shared_post(inherited);
    mh_shared_close(&inherited);
    return (int)err;
}

/* Run in a child, which does it before or after the parent closes. */
static int post_in_child(bool parent_first)
{
    int pipes[2], status;
    char byte;
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        if (parent_first && read(pipes[0], &byte, 1) != 1)
            _exit(99);
        _exit(post_inherited());
    }
    if (parent_first) {
        mh_shared_close(&inherited);
        assert_int_equal(write(pipes[1], "", 1), 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    mh_shared_close(&inherited);
    close(pipes[0]);
    close(pipes[1]);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_forked_child_posts(void **state)
{
    (void)state;
    char name[256];
    mh_shared *s = NULL;
    inherited = create(name, 100);
    assert_int_equal(post_in_child(false), MH_OK);
    assert_true(exists(name)); /* on its way */
    assert_ok(mh_shared_open(&s, name, 0));
    mh_shared_close(&s);
    assert_false(exists(name));
    inherited = create(name, 100);
    assert_int_equal(post_in_child(true), MH_ERR_CLOSED);
    assert_false(exists(name));
}

static void more_users_than_places(void **state)
{
    (void)state;
    char name[256];
    static mh_shared *s[USERS_MAX + 2];
    s[0] = create(name, 100);
    for (size_t i = 1; i < MH__COUNT_OF(s); i++)
        assert_ok(mh_shared_open(&s[i], name, 0));
    for (size_t i = 0; i < MH__COUNT_OF(s); i++)
        mh_shared_close(&s[i]);
    assert_true(exists(name)); /* until the tree ends */
    assert_ok(mh_shm_unlink(name));
}

static void fill_with_killed(const char *name)
{
    mh_shared *s = NULL;
    for (size_t i = 1; i < USERS_MAX; i++)
        if (mh_shared_open(&s, name, 0))
            _exit(1);
}

static void places_of_the_killed_are_taken_again(void **state)
{
    (void)state;
    char name[256];
    mh_shared *s = create(name, 100), *other = NULL;
    in_a_child_that_is_killed(fill_with_killed, name);
    assert_ok(mh_shared_open(&other, name, 0));
    mh_shared_close(&other);
    mh_shared_close(&s);
    assert_false(exists(name));
}

static void a_closer_that_was_killed(void **state)
{
    (void)state;
    char name[256];
    mh_shared *s = create(name, 100);
    mh_shm *raw = NULL;
    assert_ok(mh_shm_open_named(&raw, name, 0));
    uint32_t closing = 1;
    memcpy((char *)mh_shm_data(raw) + STATE_AT, &closing, sizeof closing);
    assert_err(mh_shared_post(s), MH_ERR_CLOSED);
    mh_shared_close(&s); /* the janitor's now */
    assert_true(exists(name));
    assert_ok(mh_shm_unlink(name));
    mh_shm_destroy(&raw);
}

/* Every byte of the table wrong, one after the other: nothing crashes. */
static void a_table_that_was_written_over(void **state)
{
    (void)state;
    for (size_t at = 8; at < 64; at++) {
        char name[256];
        mh_shared *s = create(name, 100), *other = NULL;
        mh_shm *raw = NULL;
        assert_ok(mh_shm_open_named(&raw, name, 0));
        ((unsigned char *)mh_shm_data(raw))[at] = 0xa5;
        mh_err err = mh_shared_open(&other, name, 0);
        assert_true(err == MH_OK);
        mh_shared_close(&other);
        mh_shared_close(&s);
        (void)mh_shm_unlink(name);
        mh_shm_destroy(&raw);
    }
}

enum { ROUNDS = 3000 };
typedef struct relay {
    mh_shared *shared;
    _Atomic unsigned failures;
} relay;

/* Post, open, close what was opened: as a receiver would, while others do the same. */
static void *pass_on(void *ctx)
{
    relay *r = ctx;
    char name[256];
    strcpy(name, mh_shared_name(r->shared));
    for (int i = 0; i < ROUNDS; i++) {
        mh_shared *mine = NULL;
        if (mh_shared_post(r->shared) || mh_shared_open(&mine, name, 0))
            atomic_fetch_add(&r->failures, 1);
        mh_shared_close(&mine);
    }
    return NULL;
}

static void threads_pass_references_on(void **state)
{
    (void)state;
    char name[256];
    relay r = {.shared = create(name, 100)};
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, pass_on, &r), 0);
    for (size_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(r.failures, 0);
    mh_shared_close(&r.shared);
    assert_false(exists(name));
}

/* Two processes hand one reference to and fro, each closing as soon as it has posted: it is never lost, and gone in the end. */
static void a_relay_between_processes(void **state)
{
    (void)state;
    char name[256];
    int there[2], back[2], status;
    char byte = 0;
    mh_shared *s = create(name, 100);
    assert_int_equal(pipe(there) | pipe(back), 0);
    pid_t child = fork();
    if (child == 0) {
        mh_shared_close(&s);
        for (int i = 0; i < ROUNDS; i++)
            if (read(there[0], &byte, 1) != 1 || mh_shared_open(&s, name, 0) || mh_shared_post(s) || write(back[1], &byte, 1) != 1)
                _exit(1);
            else
                mh_shared_close(&s);
        _exit(0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        assert_ok(mh_shared_post(s));
        assert_int_equal(write(there[1], &byte, 1), 1);
        mh_shared_close(&s);
        assert_int_equal(read(back[0], &byte, 1), 1);
        assert_ok(mh_shared_open(&s, name, 0));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    mh_shared_close(&s);
    assert_false(exists(name));
    for (int i = 0; i < 2; i++) {
        close(there[i]);
        close(back[i]);
    }
}

static void descriptors_come_back(void **state)
{
    (void)state;
    char name[256];
    mh_shared *s = create(name, 100), *other = NULL;
    mh_shared_close(&s);
    int before = mh__os_fd_count();
    for (int i = 0; i < 20; i++) {
        s = create(name, 100);
        assert_ok(mh_shared_open(&other, name, MH_SHM_READONLY));
        mh_shared_close(&s);
        mh_shared_close(&other);
    }
    assert_int_equal(mh__os_fd_count(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_to_close_removes_the_name),
        cmocka_unit_test(a_posted_name_waits_for_its_receiver),
        cmocka_unit_test(readonly_and_refused),
        cmocka_unit_test(the_killed_do_not_count),
        cmocka_unit_test(a_forked_child_posts),
        cmocka_unit_test(more_users_than_places),
        cmocka_unit_test(places_of_the_killed_are_taken_again),
        cmocka_unit_test(a_closer_that_was_killed),
        cmocka_unit_test(a_table_that_was_written_over),
        cmocka_unit_test(threads_pass_references_on),
        cmocka_unit_test(a_relay_between_processes),
        cmocka_unit_test(descriptors_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
