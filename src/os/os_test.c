/* Clock, futex, descriptors, pages, identities, threads. */
#include "os/clock.h"
#include "os/fd.h"
#include "os/futex.h"
#include "os/identity.h"
#include "os/memory.h"
#include "os/named.h"
#include "os/process.h"
#include "os/thread.h"

#include "base/number.h"
#include "mh_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void deadlines_do_not_overflow(void **state)
{
    (void)state;
    assert_true(mh_now() > 0);
    int64_t before = mh_now(), about = mh_now_about();
    assert_true(about <= mh_now() && about > before - MH_SECOND);
    assert_true(mh_deadline_in(MH_SECOND) > mh_now());
    assert_int_equal(mh_deadline_in(INT64_MAX), MH_FOREVER);
    assert_true(mh_deadline_in(-5) <= mh_now());
    assert_int_equal(mh__os_left_ns(MH_NOW), 0);
    assert_int_equal(mh__os_left_ns(1), 0); /* long past */
    assert_int_equal(mh__os_left_ns(MH_FOREVER), INT64_MAX);
    assert_true(mh__os_left_ns(mh_deadline_in(MH_SECOND)) > MH_SECOND / 2);
    assert_int_equal(mh__os_sooner(1, MH_SECOND), 1);
    assert_true(mh__os_sooner(MH_FOREVER, MH_SECOND) < MH_FOREVER);
}

/* ---- futex ----------------------------------------------------------------------------------- */

static void wake_word(void *ctx)
{
    _Atomic uint32_t *word = ctx;
    atomic_store(word, 1);
    mh__os_futex_wake(word, 1);
}

static void a_futex_wait_ends(void **state)
{
    (void)state;
    _Atomic uint32_t word = 0;
    assert_int_equal(mh__os_futex_wait(&word, 1, MH_FOREVER), MH_OK); /* it differs already */
    assert_int_equal(mh__os_futex_wait(&word, 0, MH_NOW), MH_ERR_TIMEOUT);
    assert_int_equal(mh__os_futex_wait(&word, 0, mh_deadline_in(MH_MILLISECOND)), MH_ERR_TIMEOUT);
    mh__thread *thread = NULL;
    assert_int_equal(mh__thread_start(&thread, "waker", wake_word, (void *)&word), MH_OK);
    while (atomic_load(&word) == 0)
        assert_int_equal(mh__os_futex_wait(&word, 0, MH_FOREVER), MH_OK);
    mh__thread_join(&thread);
    assert_null(thread);
    assert_int_equal(mh__os_futex_wake(&word, 1), 0);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static void a_message_carries_descriptors(void **state)
{
    (void)state;
    int before = mh__os_fd_count();
    int pair[2], event, fds[MH__OS_FDS_MAX];
    size_t count = 0, size = 0;
    char text[16];
    assert_int_equal(mh__os_socketpair(pair), MH_OK);
    assert_int_equal(mh__os_eventfd(&event), MH_OK);
    assert_int_equal(mh__os_send(pair[0], (mh_bytes){"hello", 5}, &event, 1, MH_NOW), MH_OK);
    assert_int_equal(mh__os_receive(pair[1], text, sizeof text, &size, fds, &count, MH_NOW), MH_OK);
    assert_int_equal(size, 5);
    assert_int_equal(count, 1);
    assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
    mh__os_eventfd_set(event); /* both numbers mean the same counter */
    assert_int_equal(mh__os_wait_readable(fds[0], MH_NOW), MH_OK);
    mh__os_eventfd_clear(fds[0]);
    assert_int_equal(mh__os_wait_readable(event, MH_NOW), MH_ERR_TIMEOUT);
    mh__os_close(&fds[0]);
    assert_int_equal(fds[0], -1);

    assert_int_equal(mh__os_receive(pair[1], text, sizeof text, &size, fds, &count, mh_deadline_in(1000)), MH_ERR_TIMEOUT);
    assert_int_equal(mh__os_send(pair[0], (mh_bytes){"longer than four", 16}, &event, 1, MH_NOW), MH_OK);
    assert_int_equal(mh__os_receive(pair[1], text, 4, &size, fds, &count, MH_NOW), MH_ERR_TOO_LARGE);
    assert_int_equal(mh__os_fd_count(), before + 3); /* the cut message's descriptor was closed */
    assert_int_equal(mh__os_send(pair[0], (mh_bytes){"x", 1}, fds, MH__OS_FDS_MAX + 1, MH_NOW), MH_ERR_LIMIT);
    mh__os_close(&pair[0]);
    assert_int_equal(mh__os_receive(pair[1], text, 4, &size, fds, &count, MH_FOREVER), MH_ERR_CLOSED);
    assert_int_equal(mh__os_send(pair[1], (mh_bytes){"x", 1}, NULL, 0, MH_NOW), MH_ERR_CLOSED);
    mh__os_close(&pair[1]);
    mh__os_close(&event);
    assert_int_equal(mh__os_fd_count(), before);
}

static void a_full_socket_times_out(void **state)
{
    (void)state;
    int pair[2];
    char block[4096] = {0};
    mh_err err = MH_OK;
    assert_int_equal(mh__os_socketpair(pair), MH_OK);
    for (int i = 0; i < 10000 && !err; i++)
        err = mh__os_send(pair[0], (mh_bytes){block, sizeof block}, NULL, 0, mh_deadline_in(MH_MILLISECOND));
    assert_int_equal(err, MH_ERR_TIMEOUT);
    assert_int_equal(mh__os_wait_writable(pair[0], MH_NOW), MH_ERR_TIMEOUT);
    mh__os_close(&pair[0]);
    mh__os_close(&pair[1]);
    assert_int_equal(mh__os_wait_readable(9999, MH_NOW), MH_ERR_INVALID);
}

static void a_poller_tells_which(void **state)
{
    (void)state;
    int poller, events[2];
    uint64_t tags[4];
    size_t count;
    assert_int_equal(mh__os_poller_open(&poller), MH_OK);
    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(mh__os_eventfd(&events[i]), MH_OK);
        assert_int_equal(mh__os_poller_add(poller, events[i], 70 + i), MH_OK);
    }
    assert_int_equal(mh__os_poller_wait(poller, tags, 4, &count, MH_NOW), MH_ERR_TIMEOUT);
    assert_int_equal(count, 0);
    mh__os_eventfd_set(events[1]);
    assert_int_equal(mh__os_poller_wait(poller, tags, 4, &count, MH_FOREVER), MH_OK);
    assert_int_equal(count, 1);
    assert_int_equal(tags[0], 71);
    mh__os_poller_remove(poller, events[1]);
    assert_int_equal(mh__os_poller_wait(poller, tags, 4, &count, MH_NOW), MH_ERR_TIMEOUT);
    for (int i = 0; i < 2; i++)
        mh__os_close(&events[i]);
    mh__os_close(&poller);
}

static void a_descriptor_is_inherited_only_when_asked(void **state)
{
    (void)state;
    int event;
    assert_int_equal(mh__os_eventfd(&event), MH_OK);
    assert_true(fcntl(event, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(mh__os_set_inherit(event, true), MH_OK);
    assert_false(fcntl(event, F_GETFD) & FD_CLOEXEC);
    mh__os_close(&event);
    assert_int_equal(mh__os_set_inherit(9999, true), MH_ERR_SYSTEM);
}

/* ---- pages ----------------------------------------------------------------------------------- */

static void a_memfd_is_sealed_and_shared(void **state)
{
    (void)state;
    int fd;
    size_t size, page = mh__os_page_size();
    char *one, *two, *copy;
    assert_int_equal(mh__os_memfd(&fd, "test", 3 * page), MH_OK);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(mh__os_fd_size(fd, &size), MH_OK);
    assert_int_equal(size, 3 * page);
    assert_int_equal(mh__os_map((void **)&one, fd, 0, 3 * page, true), MH_OK);
    assert_int_equal(mh__os_map((void **)&two, fd, page, page, false), MH_OK);
    assert_int_equal(mh__os_map_private((void **)&copy, fd, page, page), MH_OK);
    strcpy(one + page, "seen");
    assert_string_equal(two, "seen");
    strcpy(copy, "mine");
    assert_string_equal(two, "seen");
    mh__os_unmap(one, 3 * page);
    mh__os_unmap(two, page);
    mh__os_unmap(copy, page);
    mh__os_close(&fd);
}

static void a_sparse_memfd_takes_and_gives_back_pages(void **state)
{
    (void)state;
    int fd;
    char *at;
    size_t size = (size_t)1 << 36;
    assert_int_equal(mh__os_memfd_sparse(&fd, "sparse", size), MH_OK);
    assert_int_equal(mh__os_map((void **)&at, fd, 0, size, true), MH_OK);
    assert_int_equal(mh__os_allocate_range(fd, size - 4096, 4096), MH_OK);
    memset(at + size - 4096, 7, 4096);
    mh__os_release_range(fd, size - 4096, 4096);
    assert_int_equal(at[size - 1], 0);
    mh__os_unmap(at, size);
    mh__os_close(&fd);
}

static void too_much_memory_is_an_error_that_says_how_much(void **state)
{
    (void)state;
    int fd = 5;
    assert_int_equal(mh__os_named_create(&fd, "manyhands-os-test", (size_t)1 << 50), MH_ERR_NO_SPACE);
    assert_int_equal(fd, -1);
    assert_non_null(strstr(mh_err_detail(), "1125899906842624"));
    assert_non_null(strstr(mh_err_detail(), "free"));
    assert_int_equal(mh__os_named_unlink("manyhands-os-test"), MH_ERR_NOT_FOUND);
    assert_true(mh__os_shm_free_bytes() > 0);
}

static void names_are_checked_and_exclusive(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "a/b", "../x"};
    int fd, again;
    char name[64];
    for (size_t i = 0; i < MH__COUNT_OF(bad); i++)
        assert_int_equal(mh__os_named_create(&fd, bad[i], 1), MH_ERR_INVALID);
    snprintf(name, sizeof name, "manyhands-os-test-%d", getpid());
    assert_int_equal(mh__os_named_create(&fd, name, 4096), MH_OK);
    assert_int_equal(mh__os_named_create(&again, name, 4096), MH_ERR_EXISTS);
    assert_int_equal(mh__os_named_open(&again, name), MH_OK);
    mh__os_close(&again);
    assert_int_equal(mh__os_named_unlink(name), MH_OK);
    assert_int_equal(mh__os_named_open(&again, name), MH_ERR_NOT_FOUND);
    mh__os_close(&fd);
}

static void huge_pages_are_only_a_hint(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4096, (size_t)5 << 20};
    char *at;
    size_t size = (size_t)8 << 20;
    assert_int_equal(mh__os_map((void **)&at, -1, 0, size, true), MH_OK);
    for (size_t i = 0; i < MH__COUNT_OF(sizes); i++) {
        mh_memory_want_huge(at + 4096, sizes[i]);
        memset(at, 1, size); /* whatever the kernel thinks of it */
    }
    mh__os_unmap(at, size);
    mh_memory_want_huge(NULL, 0);
}

static void random_bytes_differ(void **state)
{
    (void)state;
    unsigned char a[32], b[32];
    assert_int_equal(mh__os_random(a, sizeof a), MH_OK);
    assert_int_equal(mh__os_random(b, sizeof b), MH_OK);
    assert_memory_not_equal(a, b, sizeof a);
}

/* ---- identities ------------------------------------------------------------------------------ */

static void identities_follow_a_fork_and_end_with_it(void **state)
{
    (void)state;
    mh__identity self = mh__os_self_process();
    assert_int_equal(mh__identity_number(self), getpid());
    assert_true(self >> 32);
    assert_int_equal(mh__os_self_thread(), self); /* the first thread has the process's number */
    assert_true(mh__os_is_alive(self));
    assert_false(mh__os_is_alive(0));
    assert_false(mh__os_is_alive(self ^ UINT64_C(1) << 40)); /* the number again, another start */

    int go[2];
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        bool ok = mh__os_self_process() != self && mh__identity_number(mh__os_self_thread()) == getpid();
        char byte;
        close(go[1]);
        _exit(read(go[0], &byte, 1) == 0 && ok ? 0 : 1);
    }
    mh__identity who = mh__os_identity_of(child);
    assert_int_equal(mh__identity_number(who), child);
    assert_true(mh__os_is_alive(who));
    close(go[1]);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    assert_false(mh__os_is_alive(who)); /* a zombie has ended */
    assert_int_equal(mh__os_identity_of(child), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_false(mh__os_is_alive(who));
    close(go[0]);
}

static void forks_are_counted(void **state)
{
    (void)state;
    uint64_t count = mh__os_fork_count();
    unsigned depth = mh__os_fork_depth();
    for (int i = 1; i <= 2; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(mh__os_fork_count() == count + (uint64_t)i && mh__os_fork_depth() == depth + 1u ? 0 : 1);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        assert_int_equal(mh__os_fork_count(), count + (uint64_t)i);
        assert_int_equal(mh__os_fork_depth(), depth);
    }
}

static void note_thread(void *ctx) { *(mh__identity *)ctx = mh__os_self_thread(); }

static void a_thread_has_an_identity_of_its_own(void **state)
{
    (void)state;
    mh__identity other = 0;
    mh__thread *thread = NULL;
    assert_int_equal(mh__thread_start(&thread, "a name longer than fifteen", note_thread, &other), MH_OK);
    mh__thread_join(&thread);
    assert_true(other && other != mh__os_self_thread());
}

/* ---- threads --------------------------------------------------------------------------------- */

typedef struct turns {
    mh__lock *lock;
    mh__cond *cond;
    int next;
    int threads_seen;
} turns;

static void take_turn(void *ctx)
{
    turns *t = ctx;
    mh__lock_take(t->lock);
    t->threads_seen = mh__os_thread_count();
    while (t->next != 1)
        (void)mh__cond_wait(t->cond, t->lock, MH_FOREVER);
    t->next = 2;
    mh__cond_wake_one(t->cond);
    mh__lock_drop(t->lock);
}

static void locks_and_conditions_hand_over(void **state)
{
    (void)state;
    turns t = {0};
    mh__thread *thread = NULL;
    assert_int_equal(mh__lock_create(&t.lock), MH_OK);
    assert_int_equal(mh__cond_create(&t.cond), MH_OK);
    assert_int_equal(mh__thread_start(&thread, "turns", take_turn, &t), MH_OK);
    mh__lock_take(t.lock);
    assert_int_equal(mh__cond_wait(t.cond, t.lock, mh_deadline_in(1000)), MH_ERR_TIMEOUT);
    t.next = 1;
    mh__cond_wake_all(t.cond);
    while (t.next != 2)
        (void)mh__cond_wait(t.cond, t.lock, MH_FOREVER);
    assert_in_range(t.threads_seen, 2, 64);
    mh__lock_drop(t.lock);
    mh__thread_join(&thread);
    assert_true(mh__lock_try(t.lock));
    assert_false(mh__lock_try(t.lock));
    mh__lock_drop(t.lock);
    mh__cond_destroy(&t.cond);
    mh__lock_destroy(&t.lock);
    assert_null(t.lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deadlines_do_not_overflow),
        cmocka_unit_test(a_futex_wait_ends),
        cmocka_unit_test(forks_are_counted),
        cmocka_unit_test(a_message_carries_descriptors),
        cmocka_unit_test(a_full_socket_times_out),
        cmocka_unit_test(a_poller_tells_which),
        cmocka_unit_test(a_descriptor_is_inherited_only_when_asked),
        cmocka_unit_test(a_memfd_is_sealed_and_shared),
        cmocka_unit_test(a_sparse_memfd_takes_and_gives_back_pages),
        cmocka_unit_test(too_much_memory_is_an_error_that_says_how_much),
        cmocka_unit_test(names_are_checked_and_exclusive),
        cmocka_unit_test(huge_pages_are_only_a_hint),
        cmocka_unit_test(random_bytes_differ),
        cmocka_unit_test(identities_follow_a_fork_and_end_with_it),
        cmocka_unit_test(a_thread_has_an_identity_of_its_own),
        cmocka_unit_test(locks_and_conditions_hand_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
