#include "mh_test.h"

#include "base/number.h"
#include "manyhands/shm.h"
#include "os/fd.h"
#include "os/janitor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, MIB = 1 << 20 };

/* ---- anonymous segments ------------------------------------------------------------------------- */

static void a_segment_is_zeroed_and_all_there(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4095, 4096, 4097, 1000000};
    for (size_t i = 0; i < MH__COUNT_OF(sizes); i++) {
        mh_shm *s = NULL;
        struct stat st;
        assert_ok(mh_shm_create(&s, sizes[i]));
        assert_int_equal(mh_shm_size(s), sizes[i]);
        assert_string_equal(mh_shm_name(s), "");
        assert_false(mh_shm_is_readonly(s));
        assert_int_equal(fstat(mh_shm_fd(s), &st), 0);
        assert_true((size_t)st.st_blocks * 512 >= sizes[i]);
        assert_true(fcntl(mh_shm_fd(s), F_GETFD) & FD_CLOEXEC);
        for (size_t at = 0; at < sizes[i]; at++)
            assert_int_equal(((char *)mh_shm_data(s))[at], 0);
        mh_shm_destroy(&s);
        assert_null(s);
        mh_shm_destroy(&s);
    }
}

static void a_segment_cannot_be_cut_or_grown(void **state)
{
    (void)state;
    mh_shm *s = NULL;
    assert_ok(mh_shm_create(&s, 3 * PAGE));
    static const off_t sizes[] = {0, PAGE, 4 * PAGE};
    for (size_t i = 0; i < MH__COUNT_OF(sizes); i++) {
        assert_int_equal(ftruncate(mh_shm_fd(s), sizes[i]), -1);
        assert_int_equal(errno, EPERM);
    }
    assert_int_equal(fcntl(mh_shm_fd(s), F_ADD_SEALS, F_SEAL_WRITE), -1); /* nor sealed against its users */
    mh_shm_destroy(&s);
}

static void sizes_that_cannot_be(void **state)
{
    (void)state;
    static const struct {
        size_t size;
        mh_err err;
    } rows[] = {{0, MH_ERR_INVALID}, {(size_t)1 << 45, MH_ERR_NO_SPACE}, {SIZE_MAX / 2 - PAGE, MH_ERR_NO_SPACE}};
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_shm *s = (mh_shm *)&s;
        int before = mh__os_fd_count();
        char text[32];
        snprintf(text, sizeof text, "%zu", rows[i].size);
        assert_err(mh_shm_create(&s, rows[i].size), rows[i].err);
        assert_null(s);
        if (rows[i].err == MH_ERR_NO_SPACE)
            assert_non_null(strstr(mh_err_detail(), text));
        s = (mh_shm *)&s;
        assert_err(mh_shm_create_named(&s, NULL, rows[i].size), rows[i].err);
        assert_null(s);
        int after = mh__os_fd_count();
        assert_in_range(after, before, before + 1); /* the janitor's socket, once */
    }
}

/* A child that was forked uses, destroys and exits; the parent's segment is as it was. */
static void a_fork_shares_and_each_destroys_its_own(void **state)
{
    (void)state;
    mh_shm *s = NULL;
    assert_ok(mh_shm_create(&s, PAGE));
    pid_t child = fork();
    if (child == 0) {
        strcpy(mh_shm_data(s), "child");
        mh_shm_destroy(&s);
        _exit(s != NULL);
    }
    int status = -1;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    assert_string_equal(mh_shm_data(s), "child");
    mh_shm_destroy(&s);
}

static void segments_go_over_sockets(void **state)
{
    (void)state;
    static const int types[] = {SOCK_SEQPACKET, SOCK_STREAM, SOCK_DGRAM};
    for (size_t i = 0; i < MH__COUNT_OF(types); i++) {
        int pair[2], before = mh__os_fd_count();
        mh_shm *s = NULL, *got = NULL;
        assert_int_equal(socketpair(AF_UNIX, types[i] | SOCK_CLOEXEC, 0, pair), 0);
        assert_ok(mh_shm_create(&s, 10000));
        strcpy(mh_shm_data(s), "sent");
        assert_err(mh_shm_receive(&got, pair[1], 0, MH_NOW), MH_ERR_TIMEOUT);
        assert_ok(mh_shm_send(s, pair[0], MH_FOREVER));
        assert_ok(mh_shm_send(s, pair[0], MH_FOREVER));
        mh_shm_destroy(&s);
        assert_ok(mh_shm_receive(&got, pair[1], 0, MH_FOREVER));
        assert_int_equal(mh_shm_size(got), 10000);
        assert_string_equal(mh_shm_data(got), "sent");
        mh_shm_destroy(&got);
        assert_ok(mh_shm_receive(&got, pair[1], MH_SHM_READONLY, MH_FOREVER));
        assert_true(mh_shm_is_readonly(got));
        mh_shm_destroy(&got);
        close(pair[0]);
        close(pair[1]);
        assert_int_equal(mh__os_fd_count(), before);
    }
}

/* Whatever comes over the socket: an error, and no descriptor stays open. */
static void what_is_no_segment_is_refused(void **state)
{
    (void)state;
    enum { NOTHING, A_PIPE, UNSEALED, SPARSE, EMPTY, GOOD, TWO };
    static const struct {
        int what;
        size_t size, said;
        const char *why;
    } rows[] = {{NOTHING, 16, PAGE, "no descriptor"},     {A_PIPE, 16, PAGE, "a pipe"},
                {UNSEALED, 16, PAGE, "may be cut"},       {SPARSE, 16, PAGE, "pages missing"},
                {EMPTY, 16, 0, "nothing in it"},          {GOOD, 15, PAGE, "greeting cut"},
                {GOOD, 17, PAGE, "greeting too long"},    {GOOD, 16, 2 * PAGE, "another size"},
                {GOOD, 0, 0, "descriptor alone"},         {TWO, 16, PAGE, "two descriptors"}};
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        int pair[2], pipes[2] = {-1, -1}, before = mh__os_fd_count();
        mh_shm *good = NULL, *got = NULL;
        uint64_t message[3] = {UINT64_C(0x316d68732d68616d), rows[i].said, 0};
        assert_ok(mh__os_socketpair(pair));
        int fd = memfd_create("odd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_int_equal(ftruncate(fd, rows[i].what == EMPTY ? 0 : PAGE), 0);
        if (rows[i].what == SPARSE || rows[i].what == EMPTY)
            assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
        assert_ok(mh_shm_create(&good, PAGE));
        assert_int_equal(pipe(pipes), 0);
        int fds[] = {rows[i].what >= GOOD ? mh_shm_fd(good) : rows[i].what == A_PIPE ? pipes[0] : fd, fd};
        size_t count = rows[i].what == NOTHING ? 0 : rows[i].what == TWO ? 2 : 1;
        assert_ok(mh__os_send(pair[0], (mh_bytes){message, rows[i].size}, fds, count, MH_FOREVER));
        assert_err(mh_shm_receive(&got, pair[1], 0, MH_FOREVER), MH_ERR_CORRUPT);
        assert_null(got);
        if (count == 1 && rows[i].what < GOOD) {
            assert_err(mh_shm_from_fd(&got, fds[0], 0), MH_ERR_INVALID);
            assert_true(fcntl(fds[0], F_GETFD) >= 0); /* still the caller's */
        }
        mh_shm_destroy(&good);
        for (size_t j = 0; j < 2; j++) {
            close(pipes[j]);
            close(pair[j]);
        }
        close(fd);
        assert_int_equal(mh__os_fd_count(), before);
    }
}

static void a_descriptor_that_was_inherited(void **state)
{
    (void)state;
    mh_shm *s = NULL, *again = NULL;
    assert_ok(mh_shm_create(&s, PAGE));
    int fd = dup(mh_shm_fd(s));
    strcpy(mh_shm_data(s), "same");
    assert_ok(mh_shm_from_fd(&again, fd, 0));
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_string_equal(mh_shm_data(again), "same");
    mh_shm_destroy(&again);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    assert_err(mh_shm_from_fd(&again, mh_shm_fd(s), 6), MH_ERR_INVALID);
    assert_int_not_equal(mh_shm_from_fd(&again, -1, 0), MH_OK);
    mh_shm_destroy(&s);
}

static void writing_to_a_readonly_one_is_caught(void **state)
{
    (void)state;
    mh_shm *s = NULL, *readonly = NULL;
    assert_ok(mh_shm_create(&s, PAGE));
    assert_ok(mh_shm_from_fd(&readonly, dup(mh_shm_fd(s)), MH_SHM_READONLY));
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        *(volatile char *)mh_shm_data(readonly) = 1;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    assert_int_not_equal(status, 0);
    mh_shm_destroy(&readonly);
    mh_shm_destroy(&s);
}

/* ---- names --------------------------------------------------------------------------------------- */

static const char *test_name(const char *what)
{
    static char name[80];
    snprintf(name, sizeof name, "manyhands-test-%d-%s", getpid(), what);
    return name;
}

static bool exists(const char *name)
{
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    return lstat(path, &st) == 0;
}

static void names_open_and_go(void **state)
{
    (void)state;
    const char *name = test_name("plain");
    mh_shm *s = NULL, *other = NULL;
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    mode_t mask = umask(0277); /* what the umask takes away is given back */
    assert_ok(mh_shm_create_named(&s, name, 5000));
    umask(mask);
    assert_string_equal(mh_shm_name(s), name);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true(st.st_blocks * 512 >= 5000);
    assert_err(mh_shm_create_named(&other, name, 10), MH_ERR_EXISTS);
    assert_null(other);
    assert_ok(mh_shm_open_named(&other, name, 0));
    assert_int_equal(mh_shm_size(other), 5000);
    strcpy(mh_shm_data(other), "through");
    mh_shm_destroy(&other);
    assert_string_equal(mh_shm_data(s), "through");
    assert_ok(mh_shm_open_named(&other, name, MH_SHM_READONLY));
    assert_string_equal(mh_shm_data(other), "through");
    int pair[2];
    assert_ok(mh__os_socketpair(pair));
    assert_err(mh_shm_send(other, pair[0], MH_NOW), MH_ERR_UNSUPPORTED);
    close(pair[0]);
    close(pair[1]);
    mh_shm_destroy(&s);
    assert_true(exists(name)); /* destroying is not unlinking */
    assert_ok(mh_shm_unlink(name));
    assert_false(exists(name));
    assert_string_equal(mh_shm_data(other), "through"); /* and unlinking is not destroying */
    assert_err(mh_shm_unlink(name), MH_ERR_NOT_FOUND);
    mh_shm_destroy(&other);
    assert_err(mh_shm_open_named(&other, name, 0), MH_ERR_NOT_FOUND);
}

static void random_names_differ(void **state)
{
    (void)state;
    mh_shm *one = NULL, *two = NULL;
    assert_ok(mh_shm_create_named(&one, NULL, 1));
    assert_ok(mh_shm_create_named(&two, NULL, 1));
    assert_string_not_equal(mh_shm_name(one), mh_shm_name(two));
    assert_true(exists(mh_shm_name(one)) && exists(mh_shm_name(two)));
    assert_ok(mh_shm_unlink(mh_shm_name(one)));
    assert_ok(mh_shm_unlink(mh_shm_name(two)));
    mh_shm_destroy(&one);
    mh_shm_destroy(&two);
}

static void bad_names(void **state)
{
    (void)state;
    char longest[202];
    memset(longest, 'x', 201);
    longest[201] = 0;
    const char *const rows[] = {"", "a/b", "/x", ".", "..", "../tmp/x", longest};
    for (size_t i = 0; i < MH__COUNT_OF(rows); i++) {
        mh_shm *s = NULL;
        assert_err(mh_shm_create_named(&s, rows[i], 1), MH_ERR_INVALID);
        assert_err(mh_shm_open_named(&s, rows[i], 0), MH_ERR_INVALID);
        assert_err(mh_shm_unlink(rows[i]), MH_ERR_INVALID);
    }
    mh_shm *s = NULL;
    assert_err(mh_shm_open_named(&s, "x", 2), MH_ERR_INVALID);
}

/* What others may have put there under the name that we open. */
static void files_that_are_not_trusted(void **state)
{
    (void)state;
    char path[300], target[300];
    const char *name = test_name("odd");
    mh_shm *s = NULL;
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    snprintf(target, sizeof target, "/dev/shm/%s-target", name);

    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_err(mh_shm_open_named(&s, name, 0), MH_ERR_INVALID); /* empty: cut, or not ready */
    assert_int_equal(ftruncate(fd, 3 * PAGE), 0);
    assert_ok(mh_shm_open_named(&s, name, 0)); /* holes are filled */
    struct stat st;
    fstat(fd, &st);
    assert_int_equal(st.st_blocks * 512, 3 * PAGE);
    mh_shm_destroy(&s);
    assert_int_equal(fchmod(fd, 0640), 0);
    assert_err(mh_shm_open_named(&s, name, 0), MH_ERR_PERMISSION);
    assert_int_equal(fchmod(fd, 0600), 0);
    assert_int_equal(rename(path, target), 0);
    assert_int_equal(symlink(target, path), 0);
    assert_err(mh_shm_open_named(&s, name, 0), MH_ERR_PERMISSION);
    unlink(path);
    unlink(target);
    close(fd);

    assert_int_equal(mkfifo(path, 0600), 0);
    assert_err(mh_shm_open_named(&s, name, 0), MH_ERR_PERMISSION);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_not_equal(mh_shm_open_named(&s, name, 0), MH_OK);
    rmdir(path);
    assert_null(s);
}

static void somebody_elses_segment(void **state)
{
    (void)state;
    char path[300];
    const char *name = test_name("theirs");
    mh_shm *s = NULL;
    if (geteuid() != 0)
        MH_SKIP("only root can make files of other users");
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, PAGE), 0);
    assert_int_equal(fchown(fd, 12345, 12345), 0);
    close(fd);
    assert_err(mh_shm_open_named(&s, name, 0), MH_ERR_PERMISSION);
    unlink(path);
}

/* ---- who removes names ---------------------------------------------------------------------------- */

/* What a child reports before it goes on to be killed. */
typedef struct report {
    mh__identity janitor;
    char names[3][256];
} report;

/* Start a child in a process group of its own that runs `body` and then waits to be killed; returns once it has reported. */
static pid_t start_tree(void (*body)(report *), report *r)
{
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0);
        report mine = {0};
        body(&mine);
        mine.janitor = mh__os_janitor_identity();
        if (write(pipes[1], &mine, sizeof mine) != sizeof mine)
            _exit(1);
        for (;;)
            pause();
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], r, sizeof *r), sizeof *r);
    close(pipes[0]);
    return child;
}

static int open_janitor(const report *r)
{
    int fd = (int)syscall(SYS_pidfd_open, mh__identity_number(r->janitor), 0);
    assert_true(r->janitor && fd >= 0);
    return fd;
}

static void wait_for_janitor(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1);
    close(pidfd);
}

static void forget_parents_tree(void)
{
    int fd = -1;
    bool started;
    /* the test process may have a janitor already, which a forked child would share: a closed socket makes it start its own */
    if (mh__os_janitor_identity() && !mh__os_janitor_open(&fd, &started))
        close(fd);
}

static void create_one_explicit_one_random_one_unlinked(report *r)
{
    mh_shm *s[3] = {NULL};
    forget_parents_tree();
    if (mh_shm_create_named(&s[0], test_name("explicit"), PAGE) || mh_shm_create_named(&s[1], NULL, PAGE) ||
        mh_shm_create_named(&s[2], test_name("gone"), PAGE) || mh_shm_unlink(test_name("gone")))
        _exit(1);
    for (size_t i = 0; i < 2; i++)
        strcpy(r->names[i], mh_shm_name(s[i]));
    strcpy(r->names[2], test_name("gone"));
}

static void names_go_when_the_whole_group_is_killed(void **state)
{
    (void)state;
    report r;
    pid_t child = start_tree(create_one_explicit_one_random_one_unlinked, &r);
    int janitor = open_janitor(&r);
    assert_true(exists(r.names[0]) && exists(r.names[1]) && !exists(r.names[2]));
    /* the janitor forgot what was unlinked: somebody else's segment of that name is not its business */
    mh_shm *mine = NULL;
    assert_ok(mh_shm_create_named(&mine, r.names[2], PAGE));
    kill(-child, SIGTERM);
    kill(-child, SIGKILL);
    waitpid(child, NULL, 0);
    wait_for_janitor(janitor);
    assert_false(exists(r.names[0]));
    assert_false(exists(r.names[1]));
    assert_true(exists(r.names[2]));
    assert_ok(mh_shm_unlink(r.names[2]));
    mh_shm_destroy(&mine);
}

static void give_names_away(report *r)
{
    mh_shm *s[2] = {NULL};
    char from[300], to[300];
    forget_parents_tree();
    strcpy(r->names[0], test_name("again"));
    strcpy(r->names[1], test_name("other"));
    if (mh_shm_create_named(&s[0], r->names[0], PAGE) || mh_shm_create_named(&s[1], r->names[1], PAGE))
        _exit(1);
    /* the first was unlinked by us, and somebody who kept the file gives it the name again */
    snprintf(from, sizeof from, "/dev/shm/%s-kept", r->names[0]);
    snprintf(to, sizeof to, "/dev/shm/%s", r->names[0]);
    if (link(to, from) || mh_shm_unlink(r->names[0]) || rename(from, to))
        _exit(1);
    /* the second is unlinked by somebody, who then uses the name for something else */
    snprintf(to, sizeof to, "/dev/shm/%s", r->names[1]);
    if (unlink(to) || open(to, O_CREAT | O_EXCL | O_RDWR, 0600) < 0)
        _exit(1);
}

static void names_that_are_somebody_elses_now_stay(void **state)
{
    (void)state;
    report r;
    pid_t child = start_tree(give_names_away, &r);
    int janitor = open_janitor(&r);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    wait_for_janitor(janitor);
    assert_ok(mh_shm_unlink(r.names[0]));
    assert_ok(mh_shm_unlink(r.names[1]));
}

static void names_stay_until_the_last_of_the_tree_has_ended(void **state)
{
    (void)state;
    report r;
    pid_t child = start_tree(create_one_explicit_one_random_one_unlinked, &r);
    int janitor = open_janitor(&r);
    mh_shm *attached = NULL;
    /* somebody who only attaches ends: nothing is removed */
    pid_t attacher = fork();
    if (attacher == 0) {
        mh_shm *s = NULL;
        _exit(mh_shm_open_named(&s, r.names[0], 0) || (mh_shm_destroy(&s), false));
    }
    int status = -1;
    waitpid(attacher, &status, 0);
    assert_int_equal(status, 0);
    assert_true(exists(r.names[0]));
    assert_ok(mh_shm_open_named(&attached, r.names[0], 0));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    wait_for_janitor(janitor);
    assert_false(exists(r.names[0]));
    ((char *)mh_shm_data(attached))[0] = 1; /* the memory is still ours */
    mh_shm_destroy(&attached);
}

static pid_t grandchild;

static void create_and_fork(report *r)
{
    mh_shm *s = NULL;
    forget_parents_tree();
    if (mh_shm_create_named(&s, NULL, PAGE))
        _exit(1);
    strcpy(r->names[0], mh_shm_name(s));
    grandchild = fork();
    if (grandchild == 0) {
        alarm(60); /* it outlives its parent on purpose, but not a test that failed */
        for (;;)
            pause();
    }
    memcpy(r->names[1], &grandchild, sizeof grandchild);
}

static void a_grandchild_belongs_to_the_tree(void **state)
{
    (void)state;
    report r;
    pid_t child = start_tree(create_and_fork, &r), last;
    int janitor = open_janitor(&r);
    memcpy(&last, r.names[1], sizeof last);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    struct pollfd p = {.fd = janitor, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_true(exists(r.names[0])); /* its creator is dead, its tree is not */
    kill(last, SIGKILL);
    wait_for_janitor(janitor);
    assert_false(exists(r.names[0]));
}

static void close_everything(report *r)
{
    create_one_explicit_one_random_one_unlinked(r);
    int out = -1;
    bool started;
    if (mh__os_janitor_open(&out, &started) || started)
        _exit(1);
    r->janitor = mh__os_janitor_identity();
    close(out);
}

static void closing_all_descriptors_does_not_remove_names(void **state)
{
    (void)state;
    report r;
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        memset(&r, 0, sizeof r);
        close_everything(&r);
        if (write(pipes[1], &r, sizeof r) != sizeof r)
            _exit(1);
        for (;;)
            pause();
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &r, sizeof r), sizeof r);
    int janitor = open_janitor(&r);
    struct pollfd p = {.fd = janitor, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 50), 0); /* it has seen the end of its socket by then, if it is quick; it must not have gone */
    assert_true(exists(r.names[0]));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    wait_for_janitor(janitor);
    assert_false(exists(r.names[0]));
    close(pipes[0]);
}

static void a_killed_janitor_is_replaced_and_its_names_are_swept(void **state)
{
    (void)state;
    report r, second;
    pid_t child = start_tree(create_one_explicit_one_random_one_unlinked, &r);
    int janitor = open_janitor(&r);
    kill(mh__identity_number(r.janitor), SIGKILL);
    wait_for_janitor(janitor);
    /* its creator lives: another tree that starts must not take the name away */
    pid_t other = start_tree(create_and_fork, &second);
    assert_true(exists(r.names[1]));
    memcpy(&grandchild, second.names[1], sizeof grandchild);
    kill(grandchild, SIGKILL);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_true(exists(r.names[0]) && exists(r.names[1]));
    other = start_tree(create_and_fork, &second); /* now nobody is left who would care */
    assert_false(exists(r.names[1]));
    assert_true(exists(second.names[0]));
    assert_ok(mh_shm_unlink(r.names[0])); /* a name of the user's choice says nothing about its creator */
    memcpy(&grandchild, second.names[1], sizeof grandchild);
    kill(grandchild, SIGKILL);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    wait_for_janitor(open_janitor(&second));
}

static void kill_janitor_and_create(report *r)
{
    mh_shm *s = NULL;
    create_one_explicit_one_random_one_unlinked(r);
    mh__identity first = mh__os_janitor_identity();
    int fd = (int)syscall(SYS_pidfd_open, mh__identity_number(first), 0);
    kill(mh__identity_number(first), SIGKILL);
    wait_for_janitor(fd);
    if (mh_shm_unlink(r->names[0]) || mh_shm_unlink(r->names[1]) || mh_shm_create_named(&s, test_name("later"), PAGE) ||
        mh__os_janitor_identity() == first)
        _exit(1);
    strcpy(r->names[0], mh_shm_name(s));
}

static void a_killed_janitor_has_a_successor(void **state)
{
    (void)state;
    report r;
    pid_t child = start_tree(kill_janitor_and_create, &r);
    int janitor = open_janitor(&r);
    assert_true(exists(r.names[0]));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    wait_for_janitor(janitor);
    assert_false(exists(r.names[0]));
}

static int tree_socket;

static void join_other_tree(report *r)
{
    mh_shm *s = NULL;
    forget_parents_tree();
    if (mh_shm_tree_join(tree_socket) || mh_shm_create_named(&s, NULL, PAGE))
        _exit(1);
    strcpy(r->names[0], mh_shm_name(s));
}

/* A program that was started rather than forked, and given the descriptor: its names live as long as the tree that it joined. */
static void others_may_join_a_tree(void **state)
{
    (void)state;
    report r;
    mh_shm *s = NULL;
    int fd = -1, pipes[2];
    assert_err(mh_shm_tree_join(-1), MH_ERR_INVALID);
    assert_int_equal(pipe(pipes), 0);
    assert_err(mh_shm_tree_join(pipes[0]), MH_ERR_INVALID);
    close(pipes[0]);
    close(pipes[1]);
    assert_ok(mh_shm_create_named(&s, NULL, PAGE));
    assert_ok(mh_shm_tree_fd(&fd));
    assert_err(mh_shm_tree_join(fd), MH_ERR_EXISTS);
    tree_socket = dup(fd);
    pid_t child = start_tree(join_other_tree, &r);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(tree_socket);
    assert_true(exists(r.names[0])); /* this process is of the same tree, and lives */
    assert_ok(mh_shm_unlink(r.names[0]));
    assert_ok(mh_shm_unlink(mh_shm_name(s)));
    mh_shm_destroy(&s);
}

static void create_tracked_and_untracked(report *r)
{
    mh_shm *s[3] = {NULL};
    forget_parents_tree();
    for (size_t i = 0; i < 3; i++) {
        snprintf(r->names[i], sizeof r->names[i], "manyhands-test-%d-track-%zu", getpid(), i);
        if (mh_shm_create_named(&s[i], r->names[i], PAGE))
            _exit(1);
    }
    if (mh_shm_untrack(r->names[1]) || mh_shm_untrack(r->names[2]) || mh_shm_track(r->names[2]))
        _exit(1);
}

static void names_may_be_left_to_others(void **state)
{
    (void)state;
    report r;
    pid_t child = start_tree(create_tracked_and_untracked, &r);
    int janitor = open_janitor(&r);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    wait_for_janitor(janitor);
    assert_false(exists(r.names[0]));
    assert_true(exists(r.names[1]));
    assert_false(exists(r.names[2]));
    assert_ok(mh_shm_unlink(r.names[1]));
    assert_err(mh_shm_track(r.names[1]), MH_ERR_NOT_FOUND);
    assert_err(mh_shm_untrack(r.names[1]), MH_ERR_NOT_FOUND);
    assert_err(mh_shm_track("a/b"), MH_ERR_INVALID);
}

static uint64_t awaited;
static int report_to;

static void create_and_await(report *r)
{
    mh_shm *s = NULL, *other = NULL;
    forget_parents_tree();
    if (mh_shm_create_named(&s, NULL, PAGE) || mh_shm_create_named(&other, NULL, PAGE) || mh_shm_tree_await(awaited) || mh_shm_tree_await(0) != MH_ERR_INVALID ||
        mh_shm_tree_report(-1) != MH_ERR_INVALID || (report_to >= 0 && mh_shm_tree_report(report_to)))
        _exit(1);
    strcpy(r->names[0], mh_shm_name(s));
    strcpy(r->names[1], mh_shm_name(other));
}

static void tell_who_it_is(report *r)
{
    uint64_t self = mh_shm_tree_self();
    memcpy(r->names[0], &self, sizeof self);
}

/* The janitor of one tree waits for a process of another. */
static void names_stay_until_who_is_awaited_has_ended(void **state)
{
    (void)state;
    report r, other;
    pid_t starter = start_tree(tell_who_it_is, &other);
    memcpy(&awaited, other.names[0], sizeof awaited);
    report_to = -1;
    pid_t child = start_tree(create_and_await, &r);
    int janitor = open_janitor(&r);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    struct pollfd p = {.fd = janitor, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 100), 0);
    assert_true(exists(r.names[0]));
    kill(starter, SIGKILL);
    waitpid(starter, NULL, 0);
    wait_for_janitor(janitor);
    assert_false(exists(r.names[0]));
}

static void names_that_were_left_are_reported(void **state)
{
    (void)state;
    int pipes[2];
    report r;
    char line[1000], expected[1000];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    awaited = (mh_shm_tree_self() & ~UINT64_C(0xffffffff)) | 0x7ffffffe; /* nobody */
    report_to = pipes[1];
    pid_t child = start_tree(create_and_await, &r);
    close(pipes[1]);
    assert_ok(mh_shm_unlink(r.names[1])); /* by a stranger: its tree is not told */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    ssize_t size = 0, got;
    while ((got = read(pipes[0], line + size, sizeof line - 1 - (size_t)size)) > 0)
        size += got;
    line[size] = 0;
    snprintf(expected, sizeof expected, "manyhands: resource_tracker: There appear to be 2 leaked shared_memory objects to clean up at shutdown\n"
             "manyhands: resource_tracker: '/%s': [Errno 2] somebody else had removed it\n", r.names[1]);
    assert_string_equal(line, expected);
    assert_false(exists(r.names[0]));
    close(pipes[0]);
}

/* ---- the janitor itself ---------------------------------------------------------------------------- */

static size_t count_fds(int32_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    size_t count = 0;
    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 2;
}

static size_t status_kib(int32_t pid, const char *key)
{
    char path[64], line[256];
    size_t value = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)))
            value = strtoull(line + strlen(key), NULL, 10);
    if (f)
        fclose(f);
    return value;
}

#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || \
    __has_feature(thread_sanitizer)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static void create_with_much_memory(report *r)
{
    mh_shm *s = NULL, *big = NULL;
    char *memory = malloc(100 * MIB);
    forget_parents_tree();
    memset(memory, 1, 100 * MIB);
    for (int i = 0; i < 100; i++) /* into every gap, also beside this thread's own variables */
        if (mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED)
            _exit(1);
    if (mh_shm_create(&big, 50 * MIB) || mh_shm_create_named(&s, NULL, PAGE))
        _exit(1);
    memset(mh_shm_data(big), 1, 50 * MIB);
    memset(memory, 2, 100 * MIB);
    snprintf(r->names[1], sizeof r->names[1], "%c", memory[77]);
    strcpy(r->names[0], mh_shm_name(s));
}

static void the_janitor_keeps_nothing(void **state)
{
    (void)state;
    report r;
    int held[20];
    for (size_t i = 0; i < 20; i++)
        held[i] = open("/dev/zero", O_RDONLY); /* on purpose not close-on-exec */
    pid_t child = start_tree(create_with_much_memory, &r);
    int janitor = open_janitor(&r);
    int32_t pid = mh__identity_number(r.janitor);
    /* it says nothing when it has tidied up: look until it has */
    for (int64_t start = mh_now(); (count_fds(pid) > 5 || (!SANITIZED && status_kib(pid, "Private_Dirty:") > 4096)) &&
                                   mh_now() - start < 5 * MH_SECOND;)
        sched_yield();
    assert_true(count_fds(pid) <= 5); /* nothing, thrice; its socket; its creator */
    assert_true(getsid(pid) == pid);
    if (!SANITIZED) {
        size_t dirty = status_kib(pid, "Private_Dirty:"), rss = status_kib(pid, "Rss:");
        assert_true(dirty < 4096);
        assert_true(rss < 16384);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    wait_for_janitor(janitor);
    for (size_t i = 0; i < 20; i++)
        close(held[i]);
}

static volatile sig_atomic_t child_signals;
static void note_child(int signal)
{
    (void)signal;
    child_signals = 1;
}

static void create_and_wait_for_children(report *r)
{
    mh_shm *s = NULL;
    forget_parents_tree();
    signal(SIGCHLD, note_child);
    if (mh_shm_create_named(&s, NULL, PAGE))
        _exit(1);
    int fd = (int)syscall(SYS_pidfd_open, mh__identity_number(mh__os_janitor_identity()), 0);
    int none = waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD;
    if (mh_shm_unlink(mh_shm_name(s)))
        _exit(1);
    mh__identity janitor = mh__os_janitor_identity();
    kill(mh__identity_number(janitor), SIGKILL);
    wait_for_janitor(fd);
    none = none && waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD && !child_signals;
    r->names[0][0] = none ? 'y' : 'n';
}

static void no_wait_is_surprised_by_the_janitor(void **state)
{
    (void)state;
    report r;
    if (SANITIZED)
        MH_SKIP("does not apply: the thread sanitizer wants a plain fork");
    pid_t child = start_tree(create_and_wait_for_children, &r);
    assert_int_equal(r.names[0][0], 'y');
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void *create_many(void *ctx)
{
    (void)ctx;
    for (int i = 0; i < 50; i++) {
        mh_shm *s = NULL;
        if (mh_shm_create_named(&s, NULL, 1) || mh_shm_unlink(mh_shm_name(s)))
            return "failed";
        mh_shm_destroy(&s);
    }
    return NULL;
}

static void create_from_threads(report *r)
{
    pthread_t threads[4];
    void *result;
    forget_parents_tree();
    for (size_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, create_many, NULL);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], &result);
        if (result)
            _exit(1);
    }
    snprintf(r->names[0], sizeof r->names[0], "%d", mh__os_fd_count());
}

static void threads_start_one_janitor(void **state)
{
    (void)state;
    report r;
    int before = mh__os_fd_count();
    pid_t child = start_tree(create_from_threads, &r);
    int after = atoi(r.names[0]);
    assert_in_range(after, before, before + 3); /* the report's pipe, and one socket, whoever won */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

/* ---- trouble ---------------------------------------------------------------------------------------- */

/* Run body in a child that has a /dev/shm of its own, mounted with these options. Exit 77: not permitted. */
static int in_own_dev_shm(const char *options, unsigned long flags, int (*body)(void))
{
    pid_t child = fork();
    if (child == 0) {
        forget_parents_tree();
        if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
            mount("tmpfs", "/dev/shm", "tmpfs", flags, options))
            _exit(77);
        _exit(body());
    }
    int status = -1;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static int fill_small_one(void)
{
    mh_shm *s = NULL, *all[8] = {NULL};
    size_t count = 0;
    if (mh_shm_create_named(&s, NULL, 5 * MIB) != MH_ERR_NO_SPACE || !strstr(mh_err_detail(), "5242880") ||
        !strstr(mh_err_detail(), "4194304 bytes are free"))
        return 1;
    while (count < 8 && !mh_shm_create_named(&all[count], NULL, MIB))
        memset(mh_shm_data(all[count++]), 1, MIB);
    if (count != 4 || mh_err_errno() == 999 || mh_shm_create_named(&s, "x", 1) != MH_ERR_NO_SPACE)
        return 2;
    if (mh_shm_create(&s, 8 * MIB)) /* without a name /dev/shm does not matter */
        return 3;
    int fd = open("/dev/shm/sparse", O_CREAT | O_RDWR, 0600);
    if (ftruncate(fd, MIB) || mh_shm_open_named(&s, "sparse", 0) != MH_ERR_NO_SPACE)
        return 4; /* touching its holes would raise SIGBUS */
    return 0;
}

static void a_small_dev_shm(void **state)
{
    (void)state;
    int rc = in_own_dev_shm("size=4m", 0, fill_small_one);
    if (rc == 77)
        MH_SKIP("mounting a small /dev/shm needs CAP_SYS_ADMIN");
    assert_int_equal(rc, 0);
}

/* Stale names of dead programs make room when there is none. */
static int sweep_for_room(void)
{
    report r;
    mh_shm *s = NULL;
    int pipes[2];
    if (pipe(pipes))
        return 1;
    pid_t child = fork();
    if (child == 0) {
        if (mh_shm_create_named(&s, NULL, 3 * MIB))
            _exit(1);
        r.janitor = mh__os_janitor_identity();
        if (write(pipes[1], &r, sizeof r) != sizeof r)
            _exit(1);
        for (;;)
            pause();
    }
    if (read(pipes[0], &r, sizeof r) != sizeof r)
        return 2;
    int janitor = (int)syscall(SYS_pidfd_open, mh__identity_number(r.janitor), 0);
    struct pollfd p = {.fd = janitor, .events = POLLIN};
    kill(mh__identity_number(r.janitor), SIGKILL);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    poll(&p, 1, 10000);
    return mh_shm_create_named(&s, NULL, 3 * MIB) ? 3 : 0;
}

static void stale_names_make_room(void **state)
{
    (void)state;
    int rc = in_own_dev_shm("size=4m", 0, sweep_for_room);
    if (rc == 77)
        MH_SKIP("mounting a small /dev/shm needs CAP_SYS_ADMIN");
    assert_int_equal(rc, 0);
}

static int try_readonly(void)
{
    mh_shm *s = NULL;
    mh_err named = mh_shm_create_named(&s, NULL, PAGE);
    return named == MH_OK || named == MH_ERR_NO_SPACE || !strstr(mh_err_detail(), "/dev/shm") || mh_shm_create(&s, PAGE);
}

static void a_readonly_dev_shm(void **state)
{
    (void)state;
    int rc = in_own_dev_shm("", MS_RDONLY, try_readonly);
    if (rc == 77)
        MH_SKIP("mounting a read-only /dev/shm needs CAP_SYS_ADMIN");
    assert_int_equal(rc, 0);
}

static int use_up_descriptors(void)
{
    mh_shm *s = NULL;
    struct rlimit limit = {64, 64};
    forget_parents_tree();
    setrlimit(RLIMIT_NOFILE, &limit);
    int last = -1, fd;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0)
        last = fd;
    for (int free_count = 0; free_count < 4; free_count++) {
        mh_err err = mh_shm_create(&s, PAGE);
        if ((free_count == 0) != (err == MH_ERR_SYSTEM))
            return 1;
        mh_shm_destroy(&s);
        err = mh_shm_create_named(&s, NULL, PAGE);
        if (free_count < 2 ? err != MH_ERR_SYSTEM : err && err != MH_ERR_SYSTEM)
            return 2;
        if (s && mh_shm_unlink(mh_shm_name(s)))
            return 3;
        mh_shm_destroy(&s);
        close(last--);
    }
    return 0;
}

static void descriptors_are_used_up(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0)
        _exit(use_up_descriptors());
    int status = -1;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
}

static int allocations_left;

static void *failing_realloc(void *old, size_t size, void *ctx)
{
    (void)ctx;
    if (!size) {
        free(old);
        return NULL;
    }
    return allocations_left-- > 0 ? realloc(old, size) : NULL;
}

static int create_of_each_kind(void)
{
    int pair[2], failures = 0;
    mh_shm *s = NULL, *got = NULL;
    mh_heap *heap = NULL;
    if (mh__os_socketpair(pair))
        return -1;
    mh_err err = mh_shm_create(&s, 16384);
    if (!err)
        err = mh_heap_create(&heap, mh_shm_data(s), 16384);
    failures += err != MH_OK;
    mh_heap_destroy(&heap);
    if (s && !mh_shm_send(s, pair[0], MH_NOW)) {
        err = mh_shm_receive(&got, pair[1], 0, MH_NOW);
        failures += err != MH_OK;
        mh_shm_destroy(&got);
    }
    mh_shm_destroy(&s);
    err = mh_shm_create_named(&s, NULL, 100);
    failures += err != MH_OK;
    if (s) {
        failures += mh_shm_open_named(&got, mh_shm_name(s), 0) != MH_OK;
        mh_shm_destroy(&got);
        (void)mh_shm_unlink(mh_shm_name(s));
    }
    mh_shm_destroy(&s);
    close(pair[0]);
    close(pair[1]);
    return failures;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    assert_int_equal(create_of_each_kind(), 0);
    int before = mh__os_fd_count();
    for (int n = 0; n < 20; n++) {
        allocations_left = n;
        mh_allocator_set(failing_realloc, NULL);
        int failures = create_of_each_kind();
        mh_allocator_set(NULL, NULL);
        assert_int_equal(mh__os_fd_count(), before);
        if (failures == 0 && n > 0)
            return;
    }
    fail_msg("the sweep never got through");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_segment_is_zeroed_and_all_there),
        cmocka_unit_test(a_segment_cannot_be_cut_or_grown),
        cmocka_unit_test(sizes_that_cannot_be),
        cmocka_unit_test(a_fork_shares_and_each_destroys_its_own),
        cmocka_unit_test(segments_go_over_sockets),
        cmocka_unit_test(what_is_no_segment_is_refused),
        cmocka_unit_test(a_descriptor_that_was_inherited),
        cmocka_unit_test(writing_to_a_readonly_one_is_caught),
        cmocka_unit_test(names_open_and_go),
        cmocka_unit_test(random_names_differ),
        cmocka_unit_test(bad_names),
        cmocka_unit_test(files_that_are_not_trusted),
        cmocka_unit_test(somebody_elses_segment),
        cmocka_unit_test(names_go_when_the_whole_group_is_killed),
        cmocka_unit_test(names_that_are_somebody_elses_now_stay),
        cmocka_unit_test(names_stay_until_the_last_of_the_tree_has_ended),
        cmocka_unit_test(a_grandchild_belongs_to_the_tree),
        cmocka_unit_test(closing_all_descriptors_does_not_remove_names),
        cmocka_unit_test(a_killed_janitor_is_replaced_and_its_names_are_swept),
        cmocka_unit_test(a_killed_janitor_has_a_successor),
        cmocka_unit_test(others_may_join_a_tree),
        cmocka_unit_test(names_may_be_left_to_others),
        cmocka_unit_test(names_stay_until_who_is_awaited_has_ended),
        cmocka_unit_test(names_that_were_left_are_reported),
        cmocka_unit_test(the_janitor_keeps_nothing),
        cmocka_unit_test(no_wait_is_surprised_by_the_janitor),
        cmocka_unit_test(threads_start_one_janitor),
        cmocka_unit_test(a_small_dev_shm),
        cmocka_unit_test(stale_names_make_room),
        cmocka_unit_test(a_readonly_dev_shm),
        cmocka_unit_test(descriptors_are_used_up),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
