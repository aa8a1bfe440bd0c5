#include "os/janitor.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define THREAD_SANITIZER 1
#define DROPS_MEMORY 0 /* a sanitizer's own books are such memory */
#elif defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define DROPS_MEMORY 0
#else
#define DROPS_MEMORY 1
#endif

enum { ADD = 1, FORGET = 2, ADD_QUIETLY = 3, AWAIT = 4, REPORT = 5, SEND_TIMEOUT_S = 5 };

typedef struct message {
    uint32_t verb;
    uint32_t name_size; /* with the zero */
    mh__file_id id;
    mh__identity creator; /* AWAIT: whom to wait for */
    char name[MH__OS_NAME_MAX + 1];
} message;

/* ---- in the janitor: forked beside threads, and its memory wiped, so nothing but system calls -------
 *
 * Not even snprintf or strtoul: they read the locale, which lies in memory that is gone. */

enum { ENTRIES_MAX = 1 << 20, CREATORS_MAX = 256, SOCKET = 3 };

typedef struct entry {
    mh__file_id id;
    bool quiet; /* not to be reported */
    char name[MH__OS_NAME_MAX + 1];
} entry;

/* Numbers apart from the entries, so that searching them touches little memory. Pages come as they are needed. */
typedef struct table {
    uint64_t *numbers; /* of files; 0: a hole */
    entry *entries;
    size_t count, capacity;
    struct {
        mh__identity who;
        int fd;
    } creators[CREATORS_MAX]; /* the processes that told of names, while they live */
    size_t creator_count;
    int report; /* where to tell of names that were left, or -1 */
} table;

static bool open_table(table *t)
{
    for (t->capacity = ENTRIES_MAX; t->capacity >= 1024; t->capacity /= 2) {
        size_t size = t->capacity * (sizeof(uint64_t) + sizeof(entry));
        void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at != MAP_FAILED) {
            t->numbers = at;
            t->entries = (entry *)(t->numbers + t->capacity);
            return true;
        }
    }
    return false;
}

static void add(table *t, const message *m)
{
    size_t at = 0;
    while (at < t->count && t->numbers[at])
        at++;
    if (at == t->capacity)
        return;
    t->count = MH__MAX(t->count, at + 1);
    t->numbers[at] = m->id.number;
    t->entries[at] = (entry){.id = m->id, .quiet = m->verb == ADD_QUIETLY};
    memcpy(t->entries[at].name, m->name, m->name_size);
}

static void forget(table *t, const message *m)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->numbers[i] == m->id.number && t->entries[i].id.device == m->id.device &&
            !strcmp(t->entries[i].name, m->name))
            t->numbers[i] = 0;
    while (t->count && !t->numbers[t->count - 1])
        t->count--;
}

static bool has_ended(int pidfd, int timeout_ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int rc;
    do
        rc = poll(&p, 1, timeout_ms);
    while (rc < 0 && errno == EINTR);
    return rc != 0;
}

static void drop_dead_creators(table *t)
{
    size_t kept = 0;
    for (size_t i = 0; i < t->creator_count; i++) {
        if (has_ended(t->creators[i].fd, 0))
            mh__os_close(&t->creators[i].fd);
        else
            t->creators[kept++] = t->creators[i];
    }
    t->creator_count = kept;
}

/* A creator may close every descriptor that it finds, this tree's among them, and live on: so its own end is waited for as well. */
static void note_creator(table *t, mh__identity who)
{
    for (size_t i = 0; i < t->creator_count; i++)
        if (t->creators[i].who == who)
            return;
    if (t->creator_count == CREATORS_MAX)
        drop_dead_creators(t);
    int fd = t->creator_count < CREATORS_MAX ? (int)syscall(SYS_pidfd_open, mh__identity_number(who), 0) : -1;
    if (fd < 0)
        return;
    t->creators[t->creator_count].who = who;
    t->creators[t->creator_count++].fd = fd;
}

/* A message comes whole (SEQPACKET); whoever sent nonsense is one of our own tree and only harms itself. */
static void obey(table *t, const message *m, size_t size)
{
    if (size < offsetof(message, name) || m->name_size < 1 || m->name_size > sizeof m->name ||
        size != offsetof(message, name) + m->name_size || m->name[m->name_size - 1])
        return;
    if (m->verb == AWAIT)
        note_creator(t, m->creator);
    if (!m->id.number)
        return;
    if (m->verb == ADD || m->verb == ADD_QUIETLY) {
        add(t, m);
        note_creator(t, m->creator);
    } else if (m->verb == FORGET) {
        forget(t, m);
    }
}

/* One message, and the descriptor that a REPORT brings. Returns its size; 0 at the end, or -1 with errno. */
static ssize_t receive(table *t, message *m)
{
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {m, sizeof *m};
    struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(SOCKET, &head, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = size > 0 ? CMSG_FIRSTHDR(&head) : NULL;
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(sizeof(int)))
        return size;
    if (t->report >= 0)
        close(t->report);
    memcpy(&t->report, CMSG_DATA(c), sizeof(int));
    return size;
}

/* A line of a report: what fits. */
typedef struct report_line {
    char text[128 + MH__OS_NAME_MAX];
    size_t size;
} report_line;

static void put(report_line *l, const char *text)
{
    size_t size = MH__MIN(strlen(text), sizeof l->text - l->size);
    memcpy(l->text + l->size, text, size);
    l->size += size;
}

static void put_number(report_line *l, size_t number)
{
    char digits[24];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    put(l, digits + at);
}

static void write_line(const report_line *l, int fd)
{
    if (write(fd, l->text, l->size) < 0)
        return; /* nobody listens */
}

/* What the standard library's resource tracker says, in its words, for who looks for them. A pipe that nobody reads may be full: it is said
 * after the names are gone. Entries `missing` had lost
 * their names already. */
enum { MISSING_MAX = 16 };
static void report(const table *t, size_t count, const size_t *missing, size_t missing_count)
{
    report_line first = {.size = 0};
    put(&first, "manyhands: resource_tracker: There appear to be ");
    put_number(&first, count);
    put(&first, " leaked shared_memory objects to clean up at shutdown\n");
    write_line(&first, t->report);
    for (size_t i = 0; i < missing_count; i++) {
        report_line l = {.size = 0};
        put(&l, "manyhands: resource_tracker: '/");
        put(&l, t->entries[missing[i]].name);
        put(&l, "': [Errno 2] somebody else had removed it\n");
        write_line(&l, t->report);
    }
}

static void remove_names(const table *t)
{
    size_t left = 0, missing[MISSING_MAX], missing_count = 0;
    for (size_t i = 0; i < t->count; i++) {
        if (!t->numbers[i])
            continue;
        bool removed = mh__os_named_unlink_file(t->entries[i].name, t->entries[i].id);
        left += !t->entries[i].quiet;
        if (!removed && !t->entries[i].quiet && missing_count < MISSING_MAX)
            missing[missing_count++] = i;
    }
    if (left && t->report >= 0)
        report(t, left, missing, missing_count);
}

static void serve(void)
{
    static table t;
    message m;
    t.report = -1;
    if (!open_table(&t))
        return;
    for (;;) {
        ssize_t size = receive(&t, &m);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            break; /* the last holder has ended */
        obey(&t, &m, (size_t)size);
    }
    for (size_t i = 0; i < t.creator_count; i++)
        has_ended(t.creators[i].fd, -1);
    remove_names(&t);
}

/* ---- giving up what the fork gave ------------------------------------------------------------------ */

/* Smaller areas may be a library's variables, and are not worth it; as much is kept on both sides of what is in use. A
 * multiple of every page size. */
#define KEEP_BYTES ((uintptr_t)128 << 10)

typedef struct area {
    uintptr_t start, end;
    bool shared, writable, from_file;
} area;

static const char *read_hex(const char *at, uintptr_t *value)
{
    *value = 0;
    for (;; at++) {
        unsigned digit = *at >= '0' && *at <= '9'   ? (unsigned)(*at - '0')
                         : *at >= 'a' && *at <= 'f' ? (unsigned)(*at - 'a' + 10)
                                                    : 16;
        if (digit > 15)
            return at;
        *value = *value << 4 | digit;
    }
}

/* One line of /proc/self/maps: "start-end rwxp offset device inode path". */
static area read_area(const char *line)
{
    area a;
    uintptr_t ignored;
    const char *at = read_hex(line, &a.start);
    at = read_hex(at + 1, &a.end);
    a.writable = at[1] && at[2] == 'w';
    a.shared = at[1] && at[2] && at[3] && at[4] == 's';
    a.from_file = false;
    for (int field = 0; field < 3 && *at; field++) /* to the inode */
        for (at++; *at && *at != ' '; at++)
            ;
    if (*at == ' ')
        a.from_file = *read_hex(at + 1, &ignored) == ' ' && at[1] != '0';
    return a;
}

/* Empty [start, end) but for what lies near the kept addresses, which are in rising order. */
static void empty(uintptr_t start, uintptr_t end, const uintptr_t *kept, size_t count)
{
    for (size_t i = 0; i <= count; i++) {
        uintptr_t stop = i < count && kept[i] - KEEP_BYTES < end ? kept[i] - KEEP_BYTES : end;
        if (start < stop)
            madvise((void *)start, stop - start, MADV_DONTNEED);
        if (i < count && start < kept[i] + 2 * KEEP_BYTES)
            start = kept[i] + 2 * KEEP_BYTES; /* it was rounded down by up to one of them */
    }
}

/* Private memory is emptied and stays mapped (somebody may still read a zero from it); shared memory is unmapped, or it would
 * live as long as we do. Kept: the libraries, and what lies around this stack and this thread's own variables (not all of
 * their area: the kernel joins areas that touch, so that one may hold all of the program's memory). */
static void drop(area a)
{
    uintptr_t kept[] = {(uintptr_t)__builtin_frame_address(0), (uintptr_t)&errno, (uintptr_t)pthread_self()};
    for (size_t i = 0; i < MH__COUNT_OF(kept); i++)
        kept[i] -= kept[i] % KEEP_BYTES;
    for (size_t i = 1; i < MH__COUNT_OF(kept); i++)
        for (size_t j = i; j > 0 && kept[j] < kept[j - 1]; j--) {
            uintptr_t swapped = kept[j];
            kept[j] = kept[j - 1];
            kept[j - 1] = swapped;
        }
    if (a.shared)
        munmap((void *)a.start, a.end - a.start);
    else if (a.writable && !a.from_file && a.end - a.start >= KEEP_BYTES)
        empty(a.start, a.end, kept, MH__COUNT_OF(kept));
}

static void drop_memory(void)
{
    char text[8192];
    size_t used = 0;
    ssize_t got;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (got = read(fd, text + used, sizeof text - 1 - used)) > 0) {
        used += (size_t)got;
        text[used] = 0;
        char *line = text;
        for (char *end; (end = strchr(line, '\n')); line = end + 1) {
            *end = 0;
            drop(read_area(line));
        }
        used = (size_t)(text + used - line);
        if (used == sizeof text - 1)
            break; /* a line longer than any path */
        memmove(text, line, used);
    }
    mh__os_close(&fd);
}

static void drop_descriptors(int socket)
{
    dup2(socket, SOCKET);
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3; i++)
        if (null < 0 || dup2(null, i) < 0)
            close(i);
    if (syscall(SYS_close_range, SOCKET + 1, ~0u, 0) < 0)
        for (int i = SOCKET + 1; i < 65536; i++)
            close(i);
}

__attribute__((noreturn)) static void be_janitor(int socket)
{
    setsid();
    prctl(PR_SET_NAME, "mh-janitor");
    drop_descriptors(socket);
    send(SOCKET, "", 1, MSG_NOSIGNAL); /* from here on what kills the group does not reach it */
    if (chdir("/") < 0)
        _exit(1); /* "/" is always there; a file system that is in use cannot be unmounted */
    if (DROPS_MEMORY)
        drop_memory();
    serve();
    _exit(0);
}

/* ---- in the processes of the tree ------------------------------------------------------------------ */

/* How this process reaches its janitor. Immutable once published; a fork copies it, and the descriptor with it. A newer one takes its place
 * when the janitor was killed; old ones stay in a chain, for other threads may be reading them. */
typedef struct tie {
    struct tie *older;
    int fd;
    uint64_t inode; /* of the socket: a program that closes all descriptors may get the number for something else */
    mh__identity janitor;
} tie;
static _Atomic(tie *) newest; /* a compare-and-swap decides between threads: a lock would not survive a fork */

/* By statx, because the thread sanitizer takes an fstat of a number for a use of the file that another thread is just opening. */
static uint64_t socket_inode(int fd)
{
    struct statx st;
    bool found = fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_TYPE, &st) == 0 && S_ISSOCK(st.stx_mode);
    return found ? st.stx_ino : 0;
}

static const tie *current(void)
{
    const tie *l = atomic_load(&newest);
    return l && socket_inode(l->fd) == l->inode ? l : NULL;
}

/* Publish a tie if `older` is still the newest; else it is dropped, and its janitor sees its socket close and exits. */
static mh_err install(tie *older, int fd, mh__identity janitor)
{
    tie *l = mh__alloc(sizeof *l);
    if (!l)
        return MH_ERR_NO_MEMORY;
    *l = (tie){older, fd, socket_inode(fd), janitor};
    if (atomic_compare_exchange_strong(&newest, &older, l))
        return MH_OK;
    mh__free(l);
    return MH_ERR_EXISTS;
}

/* Wait until it has left this process group. It may be killed before: then the socket ends. */
static bool await_janitor(int socket)
{
    char byte;
    ssize_t rc;
    do
        rc = recv(socket, &byte, 1, 0);
    while (rc < 0 && errno == EINTR);
    return rc == 1;
}

/* A raw clone: no exit signal, and no atfork handlers, which may take locks. Every signal is blocked on both sides meanwhile, and stays so in the janitor. */
static mh_err start(int *socket, mh__identity *janitor)
{
    int pair[2];
    sigset_t all, before;
    mh_err err = mh__os_socketpair(pair);
    if (err)
        return err;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
#ifdef THREAD_SANITIZER
    long pid = fork(); /* its locks must not be held by another thread: it knows of forks only */
#else
    long pid = syscall(SYS_clone, 0, 0, 0, 0, 0);
#endif
    if (pid == 0) {
        close(pair[0]);
        be_janitor(pair[1]);
    }
    int saved = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    mh__os_close(&pair[1]);
    if (pid < 0) {
        mh__os_close(&pair[0]);
        return mh__fail_os(saved, "starting the process that removes names from /dev/shm");
    }
    *janitor = mh__os_identity_of((int32_t)pid);
    if (!await_janitor(pair[0])) {
        mh__os_close(&pair[0]);
        return mh__fail(MH_ERR_SYSTEM, "the process that removes names from /dev/shm ended at once");
    }
    *socket = pair[0];
    return MH_OK;
}

static mh_err replace(tie *older)
{
    mh__identity janitor = 0;
    int fd = -1;
    mh_err err = start(&fd, &janitor);
    if (err)
        return err;
    err = install(older, fd, janitor);
    if (err)
        mh__os_close(&fd);
    return err == MH_ERR_EXISTS ? MH_OK : err; /* another thread was faster */
}

mh_err mh__os_janitor_open(int *fd, bool *started)
{
    tie *older = atomic_load(&newest);
    *started = !current();
    mh_err err = *started ? replace(older) : MH_OK;
    const tie *l = err ? NULL : atomic_load(&newest);
    *fd = l ? l->fd : -1;
    return err;
}

static bool is_janitor_socket(int fd)
{
    struct ucred peer = {0};
    int type = 0;
    socklen_t size = sizeof peer, type_size = sizeof type;
    return socket_inode(fd) && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) == 0 && type == SOCK_SEQPACKET &&
           getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

mh_err mh__os_janitor_adopt(int fd)
{
    tie *older = atomic_load(&newest);
    if (!is_janitor_socket(fd))
        return mh__fail(MH_ERR_INVALID, "descriptor %d is not that of a process tree", fd);
    mh_err err = current() ? MH_ERR_EXISTS : mh__os_set_inherit(fd, false);
    if (!err)
        err = install(older, fd, 0);
    return err == MH_ERR_EXISTS ? mh__fail(err, "this process belongs to a tree already") : err;
}

mh__identity mh__os_janitor_identity(void)
{
    const tie *l = current();
    return l ? l->janitor : 0;
}

uint64_t mh__os_process_namespace(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

static mh_err tell_with(uint32_t verb, const char *name, mh__file_id id, mh__identity who, int fd)
{
    message m = {.verb = verb, .id = id, .creator = who};
    const tie *l = current();
    size_t size = strlen(name) + 1;
    if (!l)
        return mh__fail(MH_ERR_CLOSED, "there is no janitor");
    if (size > sizeof m.name)
        return mh__fail(MH_ERR_INVALID, "name too long");
    memcpy(m.name, name, size);
    m.name_size = (uint32_t)size;
    mh_deadline until = mh_deadline_in(SEND_TIMEOUT_S * MH_SECOND);
    mh_bytes bytes = {&m, offsetof(message, name) + size};
    mh_err err;
    while ((err = mh__os_send(l->fd, bytes, fd >= 0 ? &fd : NULL, fd >= 0, until)) == MH_ERR_INTERRUPTED)
        ;
    return err;
}

static mh_err tell(uint32_t verb, const char *name, mh__file_id id)
{
    return tell_with(verb, name, id, mh__os_self_process(), -1);
}

/* When the janitor was killed another one takes its place: for this name and those to come. The old socket stays open:
 * who else was given its number could not tell. */
mh_err mh__os_janitor_add(const char *name, mh__file_id id, bool quietly)
{
    uint32_t verb = quietly ? ADD_QUIETLY : ADD;
    tie *l = atomic_load(&newest);
    mh_err err = tell(verb, name, id);
    if (err != MH_ERR_CLOSED)
        return err;
    if (l && l->janitor)
        waitpid(mh__identity_number(l->janitor), NULL, (int)__WCLONE | WNOHANG);
    err = replace(l);
    return err ? err : tell(verb, name, id);
}

void mh__os_janitor_forget(const char *name, mh__file_id id)
{
    if (current())
        (void)tell(FORGET, name, id);
}

mh_err mh__os_janitor_await(mh__identity who) { return tell_with(AWAIT, "", (mh__file_id){0}, who, -1); }

mh_err mh__os_janitor_report(int fd) { return tell_with(REPORT, "", (mh__file_id){0}, 0, fd); }
