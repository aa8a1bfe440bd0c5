/* Rows, the file that they lie in, and the journal over it. */
#include "cluster/journal.h"

#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "wire/message.h"

#include "mh_books.h"
#include "mh_test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- rows ------------------------------------------------------------------------------------ */

static void a_row_gives_back_what_was_packed(void **state)
{
    (void)state;
    static char large[MH__ENTRY_INLINE_MAX + 1];
    const mh_bytes frames[] = {MH__TEXT("client"), MH__TEXT(""), {large, sizeof large}, MH__TEXT("{}")};
    mh__entry e = {.kind = MH__ENTRY_RESULT, .seq = 77, .order = 5, .token = UINT64_MAX, .time_ns = -1, .how = 3, .at = 1,
                   .name = MH__TEXT("engine"), .frames = frames, .frame_count = MH__COUNT_OF(frames)}, got;
    mh_buf *row = NULL, *list = NULL;
    assert_ok(mh_buf_create(&row, 0));
    assert_ok(mh_buf_create(&list, 0));
    assert_ok(mh__entry_pack(&e, row));
    mh_bytes bytes = {mh_buf_data(row), mh_buf_size(row)};
    int64_t id = mh__entry_id(77, MH__ENTRY_RESULT);
    assert_ok(mh__entry_unpack(id, bytes, &got, list));
    assert_true(got.kind == e.kind && got.seq == 77 && got.order == 5 && got.token == UINT64_MAX && got.time_ns == -1 && got.how == 3 && got.at == 1);
    assert_true(mh__bytes_are(got.name, "engine"));
    assert_int_equal(got.frame_count, 4);
    assert_true(mh__bytes_are(got.frames[0], "client") && got.frames[1].size == 0 && mh__bytes_are(got.frames[3], "{}"));
    assert_true(!got.frames[2].data && got.frames[2].size == sizeof large);
    /* no bit of it may be another, no byte may be missing, and it may lie nowhere else */
    for (size_t i = 0; i < 8 * bytes.size; i++) {
        ((uint8_t *)mh_buf_data(row))[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_err(mh__entry_unpack(id, bytes, &got, list), MH_ERR_CORRUPT);
        ((uint8_t *)mh_buf_data(row))[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t size = 0; size < bytes.size; size++)
        assert_err(mh__entry_unpack(id, (mh_bytes){bytes.data, size}, &got, list), MH_ERR_CORRUPT);
    assert_err(mh__entry_unpack(id + 1, bytes, &got, list), MH_ERR_CORRUPT);
    mh_buf_destroy(&row);
    mh_buf_destroy(&list);
}

/* ---- a folder -------------------------------------------------------------------------------- */

static char folder[64], path[96];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/dev/shm/journal-test-XXXXXX"); /* memory: the disk is not what is tested */
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/tasks.sqlite", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const tails[] = {"", "-wal", "-shm", "-journal", ".copy", ".copy-wal"};
    for (size_t i = 0; i < MH__COUNT_OF(tails); i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", path, tails[i]);
        unlink(name);
    }
    return rmdir(folder);
}

static mh__journal *open_journal(void)
{
    mh__store *s = NULL;
    mh__journal *j = NULL;
    assert_ok(mh__sqlite_open(&s, path));
    assert_ok(mh__journal_open(&j, s));
    return j;
}

static void wait_written(mh__journal *j, uint64_t ticket, bool is_synced)
{
    mh__journal_view v;
    for (;;) {
        mh__journal_flush(j);
        mh__journal_look(j, &v);
        assert_int_equal(v.state, MH__JOURNAL_OK);
        if ((is_synced ? v.synced : v.written) >= ticket)
            return;
        assert_ok(mh__os_wait_readable(mh__journal_bell(j), mh_deadline_in(30 * MH_SECOND)));
    }
}

/* What was loaded: a line for each entry. */
typedef struct seen {
    size_t count, bytes;
    uint64_t first, last;
    char text[2048];
    bool is_first_set;
} seen;

static mh_err see(const mh__entry *e, mh__parcel *message, void *ctx)
{
    seen *s = ctx;
    size_t have = strlen(s->text);
    if (!s->is_first_set)
        s->first = e->seq;
    s->is_first_set = true;
    s->last = e->seq;
    s->count++;
    s->bytes += mh__parcel_bytes(message);
    snprintf(s->text + have, sizeof s->text - have, "%llu.%d:%llu/%u@%u %.*s %.*s\n", (unsigned long long)e->seq, (int)e->kind,
             (unsigned long long)e->order, e->how, e->at, (int)e->name.size, (const char *)e->name.data,
             mh__parcel_count(message) ? (int)MH__MIN(mh__parcel_frames(message)[0].size, (size_t)10) : 0,
             mh__parcel_count(message) ? (const char *)mh__parcel_frames(message)[0].data : "");
    return MH_OK;
}

static void put(mh__journal *j, uint64_t seq, mh__entry_kind kind, const char *name, const char *text, uint64_t *ticket)
{
    const mh_bytes frames[] = {mh__text(text)};
    assert_ok(mh__journal_put(j, &(mh__entry){.kind = kind, .seq = seq, .order = seq + 10, .how = 1, .name = mh__text(name), .frames = frames,
                                              .frame_count = 1}, NULL, ticket));
}

/* ---- the journal ----------------------------------------------------------------------------- */

static void what_was_written_is_there_again(void **state)
{
    (void)state;
    uint64_t ticket = 0;
    mh__journal *j = open_journal();
    assert_ok(mh__journal_start(j));
    put(j, 1, MH__ENTRY_REQUEST, "", "one", &ticket);
    put(j, 2, MH__ENTRY_REQUEST, "", "two", &ticket);
    put(j, 1, MH__ENTRY_PLACE, "e1", "", &ticket);
    wait_written(j, ticket, false);
    put(j, 1, MH__ENTRY_PLACE, "e2", "", &ticket); /* replaces */
    put(j, 1, MH__ENTRY_RESULT, "e2", "answer", &ticket);
    put(j, 3, MH__ENTRY_REQUEST, "", "three", &ticket);
    assert_ok(mh__journal_forget(j, 2, false));
    put(j, 4, MH__ENTRY_REQUEST, "", "four", NULL); /* nobody waits: closing writes it all the same */
    mh__journal_close(&j);
    seen s = {0};
    j = open_journal();
    assert_ok(mh__journal_load(j, see, &s));
    assert_string_equal(s.text, "1.0:11/1@0  one\n1.1:11/1@0 e2 \n1.2:11/1@0 e2 answer\n3.0:13/1@0  three\n4.0:14/1@0  four\n");
    mh__journal_close(&j);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void large_frames_come_back_whole(void **state)
{
    (void)state;
    size_t size = (size_t)MH__ENTRY_PIECE + 12345; /* two pieces */
    mh__journal *j = open_journal();
    mh__parcel *p = NULL;
    mh_buf *large = NULL;
    uint64_t ticket;
    assert_ok(mh__journal_start(j));
    assert_ok(mh__parcel_create(&p));
    assert_ok(mh_buf_create(&large, size));
    for (size_t i = 0; i < size; i += 4096)
        ((char *)mh_buf_data(large))[i] = (char)(i >> 12);
    ((char *)mh_buf_data(large))[size - 1] = 'z';
    assert_ok(mh__parcel_add(p, MH__TEXT("small")));
    assert_ok(mh__parcel_give(p, &large));
    assert_ok(mh__parcel_add(p, MH__TEXT("last")));
    assert_ok(mh__journal_put(j, &(mh__entry){.seq = 9}, p, &ticket));
    mh__parcel_destroy(&p); /* the journal has its own hold on it */
    mh__journal_view v;
    mh__journal_look(j, &v);
    assert_true(v.backlog > size);
    wait_written(j, ticket, true);
    mh__journal_look(j, &v);
    assert_int_equal(v.backlog, 0);
    mh__journal_close(&j);
    seen s = {0};
    j = open_journal();
    assert_ok(mh__journal_load(j, see, &s));
    assert_int_equal(s.count, 1);
    assert_int_equal(s.bytes, size + 9);
    assert_ok(mh__journal_start(j));
    assert_ok(mh__journal_forget(j, 9, true));
    mh__journal_close(&j);
    j = open_journal();
    s = (seen){0};
    assert_ok(mh__journal_load(j, see, &s));
    assert_int_equal(s.count, 0);
    mh__journal_close(&j);
}

/* What the writer's end left: whatever was told to be written is there, in one piece and in order. */
static void a_killed_writer_loses_nothing_that_it_told(void **state)
{
    (void)state;
    uint64_t next = 1;
    for (int round = 0; round < 20; round++) {
        int told[2];
        assert_int_equal(pipe2(told, O_CLOEXEC), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            mh__journal *j = open_journal();
            mh__journal_view v;
            uint64_t first = next;
            if (mh__journal_start(j))
                _exit(1);
            for (uint64_t seq = next;; seq++) {
                put(j, seq, MH__ENTRY_REQUEST, "", "row", NULL);
                mh__journal_flush(j);
                mh__journal_look(j, &v);
                uint64_t upto = first + v.written - 1;
                if (v.written && write(told[1], &upto, sizeof upto) != sizeof upto)
                    _exit(0);
            }
        }
        close(told[1]);
        uint64_t upto = 0, heard;
        for (int n = 0; n < 1 + 37 * round && read(told[0], &heard, sizeof heard) == (ssize_t)sizeof heard; n++)
            upto = heard;
        kill(child, SIGKILL);
        while (read(told[0], &heard, sizeof heard) == (ssize_t)sizeof heard)
            upto = heard;
        close(told[0]);
        assert_int_equal(waitpid(child, NULL, 0), child);
        seen s = {0};
        mh__journal *j = open_journal();
        assert_ok(mh__journal_load(j, see, &s));
        assert_int_equal(s.first, 1);
        assert_true(s.last >= upto);
        assert_int_equal(s.count, s.last);
        mh__journal_close(&j);
        next = s.last + 1;
    }
}

static mh_err load_copy(const char *copy, seen *s)
{
    mh__store *store = NULL;
    mh__journal *j = NULL;
    mh_err err = mh__sqlite_open(&store, copy);
    if (!err)
        err = mh__journal_open(&j, store);
    if (!err)
        err = mh__journal_load(j, see, s);
    mh__journal_close(&j);
    return err;
}

/* ---- memory runs out ------------------------------------------------------------------------- */

static mh_err put_some(mh__journal *j, const mh__parcel *large, uint64_t *told)
{
    const mh_bytes frames[] = {MH__TEXT("row")};
    mh_err err = MH_OK;
    for (uint64_t seq = 1; seq <= 70 && !err; seq++) { /* a batch's array grows once */
        err = mh__journal_put(j, &(mh__entry){.seq = seq, .frames = frames, .frame_count = 1}, seq == 3 ? large : NULL, NULL);
        *told += !err;
    }
    if (!err)
        err = mh__journal_forget(j, 1, false);
    return err;
}

/* One process's life with a log: what it was told is kept is in it, wherever memory ran out. */
static mh_err use_a_journal(const mh__parcel *large, uint64_t *told)
{
    mh__store *store = NULL;
    mh__journal *j = NULL;
    seen s = {0};
    *told = 0;
    mh_err err = mh__sqlite_open(&store, path);
    if (!err)
        err = mh__journal_open(&j, store);
    if (!err)
        err = mh__journal_load(j, see, &s);
    if (!err)
        err = mh__journal_start(j);
    if (!err)
        err = put_some(j, large, told);
    mh__journal_close(&j);
    return err;
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    static char bytes[MH__ENTRY_INLINE_MAX + 1];
    mh__parcel *large = NULL;
    uint64_t told;
    long n = 0;
    mh_err err;
    assert_ok(mh__parcel_create(&large));
    assert_ok(mh__parcel_add(large, (mh_bytes){bytes, sizeof bytes}));
    int fds = mh__os_fd_count();
    do {
        seen s = {0};
        books b = {.until_failure = ++n};
        mh_allocator_set(keep_books, &b);
        err = use_a_journal(large, &told);
        mh_allocator_set(NULL, NULL);
        assert_true(!err || err == MH_ERR_NO_MEMORY);
        assert_int_equal(b.live, 0);
        assert_int_equal(mh__os_fd_count(), fds);
        assert_ok(load_copy(path, &s));
        assert_int_equal(s.count, err ? told : told - 1); /* the last step forgets one */
        unlink(path);
        assert_true(n < 1000);
    } while (err);
    assert_int_equal(told, 70);
    assert_true(n > 10);
    mh__parcel_destroy(&large);
}

/* ---- bad luck with files --------------------------------------------------------------------- */

static void copy_file(const char *from, const char *to, off_t size_max)
{
    static char bytes[1 << 20];
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t n; size_max > 0 && (n = read(in, bytes, (size_t)MH__MIN((off_t)sizeof bytes, size_max))) > 0; size_max -= n)
        assert_int_equal(write(out, bytes, (size_t)n), n);
    close(in);
    close(out);
}

/* A log that ends anywhere gives the transactions that are whole. */
static void a_torn_log_is_cut_at_its_last_whole_transaction(void **state)
{
    (void)state;
    enum { ROWS = 6 };
    char copy[128], log[128], copied_log[140];
    mh__journal *j = open_journal();
    struct stat st;
    uint64_t ticket;
    assert_ok(mh__journal_start(j));
    for (uint64_t seq = 1; seq <= ROWS; seq++) {
        put(j, seq, MH__ENTRY_REQUEST, "", "row", &ticket);
        wait_written(j, ticket, false);
    }
    snprintf(copy, sizeof copy, "%s.copy", path);
    snprintf(log, sizeof log, "%s-wal", path);
    snprintf(copied_log, sizeof copied_log, "%s-wal", copy);
    assert_int_equal(stat(log, &st), 0);
    size_t before = 0;
    for (off_t size = 0; size <= st.st_size; size += size < st.st_size && size + 37 > st.st_size ? st.st_size - size : 37) {
        seen s = {0};
        copy_file(path, copy, st.st_size);
        copy_file(log, copied_log, size);
        assert_ok(load_copy(copy, &s));
        assert_true(s.count >= before && s.last == s.count);
        before = s.count;
        unlink(copied_log);
    }
    assert_int_equal(before, ROWS);
    mh__journal_close(&j);
}

/* A byte that is wrong anywhere is found, or does no harm: never a crash, never a row that is not what was written. */
static void a_wrong_byte_is_found_or_does_no_harm(void **state)
{
    (void)state;
    enum { ROWS = 40 };
    static char text[1500];
    char copy[128];
    mh__journal *j = open_journal();
    struct stat st;
    memset(text, 'x', sizeof text - 1);
    assert_ok(mh__journal_start(j));
    for (uint64_t seq = 1; seq <= ROWS; seq++)
        put(j, seq, MH__ENTRY_REQUEST, "engine", text, NULL);
    mh__journal_close(&j);
    seen whole = {0};
    assert_ok(load_copy(path, &whole));
    assert_int_equal(whole.count, ROWS);
    snprintf(copy, sizeof copy, "%s.copy", path);
    assert_int_equal(stat(path, &st), 0);
    size_t found = 0;
    for (off_t at = 0; at < st.st_size; at += at < 4096 ? 7 : 211) {
        uint8_t byte;
        seen s = {0};
        copy_file(path, copy, st.st_size);
        int fd = open(copy, O_RDWR | O_CLOEXEC);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x41;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
        mh_err err = load_copy(copy, &s);
        found += err != MH_OK;
        if (!err)
            assert_true(s.count == ROWS && !strcmp(s.text, whole.text));
        unlink(copy);
    }
    assert_true(found > 100);
}

static void files_that_are_not_ours_alone_are_refused(void **state)
{
    (void)state;
    mh__store *s = NULL, *second = NULL;
    char link[128];
    assert_ok(mh__sqlite_open(&s, path));
    mh__store_close(&s);
    assert_int_equal(chmod(path, 0644), 0);
    assert_err(mh__sqlite_open(&s, path), MH_ERR_PERMISSION);
    assert_int_equal(chmod(path, 0600), 0);
    snprintf(link, sizeof link, "%s.copy", path);
    assert_int_equal(symlink(path, link), 0);
    assert_err(mh__sqlite_open(&s, link), MH_ERR_PERMISSION);
    int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    assert_int_equal(write(fd, "this is no database, and was never meant to be one", 50), 50);
    close(fd);
    assert_err(mh__sqlite_open(&second, path), MH_ERR_CORRUPT);
    assert_null(second);
}

/* A file system of one megabyte in place of the folder, which nobody else sees: false where this user may not mount. */
static bool make_small_disk(void)
{
    if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
        return false;
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount("small", folder, "tmpfs", 0, "size=1m,mode=0700") == 0;
}

static void wait_for_state(mh__journal *j, mh__journal_state state, mh__journal_view *v)
{
    for (mh__journal_look(j, v); v->state != state; mh__journal_look(j, v))
        assert_ok(mh__os_wait_readable(mh__journal_bell(j), mh_deadline_in(30 * MH_SECOND)));
}

/* A disk that is full: entries wait, it is said which file it is about, and they are written when there is room. */
static void fill_a_small_disk(void)
{
    static char text[60000];
    mh__journal *j = open_journal();
    mh__journal_view v;
    uint64_t ticket;
    memset(text, 'x', sizeof text - 1);
    assert_ok(mh__journal_start(j));
    for (uint64_t seq = 1; seq <= 60; seq++) /* more than three times the room */
        put(j, seq, MH__ENTRY_REQUEST, "", text, &ticket);
    mh__journal_flush(j);
    wait_for_state(j, MH__JOURNAL_WAITING, &v);
    assert_int_equal(v.err, MH_ERR_NO_SPACE);
    assert_int_equal(v.written, 0);
    assert_non_null(strstr(v.why, path));
    assert_int_equal(mount("small", folder, "tmpfs", MS_REMOUNT, "size=64m,mode=0700"), 0);
    wait_for_state(j, MH__JOURNAL_OK, &v);
    wait_written(j, ticket, true);
    mh__journal_close(&j);
    seen s = {0};
    assert_ok(load_copy(path, &s));
    assert_int_equal(s.count, 60);
}

static void a_full_disk_holds_entries_until_there_is_room(void **state)
{
    (void)state;
    enum { SKIPPED = 77 };
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) { /* what fails there ends it */
        if (!make_small_disk())
            _exit(SKIPPED);
        fill_a_small_disk();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
        MH_SKIP("this user may not mount a file system");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_gives_back_what_was_packed),
        cmocka_unit_test_setup_teardown(what_was_written_is_there_again, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(large_frames_come_back_whole, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_killed_writer_loses_nothing_that_it_told, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(each_allocation_may_fail, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_torn_log_is_cut_at_its_last_whole_transaction, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_wrong_byte_is_found_or_does_no_harm, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(files_that_are_not_ours_alone_are_refused, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_full_disk_holds_entries_until_there_is_room, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
