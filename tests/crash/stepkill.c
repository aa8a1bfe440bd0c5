#include "stepkill.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mh_test.h"
#include "os/cores.h"
#include "os/identity.h"

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define INSTRUMENTED 1
#elif defined __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define INSTRUMENTED 1
#endif
#endif

enum { MAX_STEPS = 100000, READY = 1, ENDED = 2 };

/* In a page of its own, which the operation does not see. */
struct control {
    volatile int child; /* ENDED after the operation */
    volatile int waiter; /* READY just before waiter() */
};

struct run {
    const struct stepkill_case *c;
    struct stepkill_report *report;
    struct control *control;
    unsigned char *shared;
    unsigned char *before; /* shared memory before a step */
    pid_t child, waiter;
};

static int explain(struct run *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->report->why, sizeof r->report->why, format, args);
    va_end(args);
    return -1;
}

/* ---- processes --------------------------------------------------------------------------------- */

static void breakpoint(void)
{
#if defined __x86_64__ || defined __i386__
    __asm__ volatile("int3");
#else
    raise(SIGTRAP);
#endif
}

static void run_child(struct run *r)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_DUMPABLE, 1);
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
        _exit(99);
    mh__os_self_thread(); /* looked up once a process: not part of any operation */
    mh__os_self_process();
    mh__os_usable_cores();
    if (r->c->prepare)
        r->c->prepare(r->shared);
    breakpoint();
    r->c->operation(r->shared);
    r->control->child = ENDED;
    breakpoint();
    _exit(0);
}

static int start_child(struct run *r)
{
    int status;
    r->control->child = 0;
    r->child = fork();
    if (r->child < 0)
        return explain(r, "fork: %s", strerror(errno));
    if (r->child == 0)
        run_child(r);
    if (waitpid(r->child, &status, 0) < 0)
        return explain(r, "waitpid: %s", strerror(errno));
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
        return explain(r, "%s: the child ended before the operation (status 0x%x)", r->c->name, (unsigned)status);
    return 0;
}

/* State letter of a process: 'S' sleeps. */
static char state_of(pid_t pid)
{
    char path[40], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (size <= 0)
        return '?';
    text[size] = 0;
    char *at = strrchr(text, ')');
    return at && at[1] ? at[2] : '?';
}

static int start_waiter(struct run *r)
{
    r->waiter = 0;
    if (!r->c->waiter)
        return 0;
    r->control->waiter = 0;
    r->waiter = fork();
    if (r->waiter < 0)
        return explain(r, "fork: %s", strerror(errno));
    if (r->waiter == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        r->control->waiter = READY;
        r->c->waiter(r->shared);
        _exit(0);
    }
    for (;;) { /* it sleeps in nothing but what it waits for */
        char state = r->control->waiter == READY ? state_of(r->waiter) : 'R';
        if (state == 'S')
            return 0;
        if (state == 'Z' || state == '?')
            return explain(r, "%s: the waiter ended before the operation began", r->c->name);
        sched_yield();
    }
}

/* Wait until the traced child has stopped or ended, or sleeps in a system call: false. */
static bool has_stopped(struct run *r, int *status)
{
    if (!r->c->may_block)
        return waitpid(r->child, status, 0) == r->child;
    for (int asleep = 0; asleep < 2; asleep = state_of(r->child) == 'S' ? asleep + 1 : 0) {
        sched_yield(); /* on the one core that both have */
        if (waitpid(r->child, status, WNOHANG) == r->child)
            return true;
    }
    return false;
}

/* Whether the child is about to call the system. */
static bool is_at_system_call(pid_t pid)
{
#if defined __x86_64__
    long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
    return (ptrace(PTRACE_PEEKTEXT, pid, at, 0) & 0xffff) == 0x050f;
#else
    (void)pid;
    return true; /* every instruction may be one */
#endif
}

static int step(struct run *r, struct stepkill_point *at)
{
    int status;
    if (ptrace(PTRACE_SINGLESTEP, r->child, 0, 0) < 0)
        return explain(r, "PTRACE_SINGLESTEP: %s", strerror(errno));
    at->step++;
    at->blocked = !has_stopped(r, &status);
    if (!at->blocked && (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP))
        return explain(r, "%s: the operation ended badly at step %u (status 0x%x)", r->c->name, at->step, (unsigned)status);
    at->ended = r->control->child == ENDED;
    return 0;
}

/* Run `count` instructions of the operation; in sparse cases, count those that changed the shared memory or called the system,
 * and every n-th. */
static int run_to(struct run *r, unsigned count, bool is_sparse, struct stepkill_point *at)
{
    *at = (struct stepkill_point){0};
    memcpy(r->before, r->shared, r->c->shared_bytes);
    while (count > 0 && !at->ended && !at->blocked) {
        bool counts = !is_sparse || (at->step + 1) % r->c->sparse == 0 || is_at_system_call(r->child);
        if (step(r, at))
            return -1;
        if (is_sparse && memcmp(r->before, r->shared, r->c->shared_bytes) != 0) {
            memcpy(r->before, r->shared, r->c->shared_bytes);
            counts = true;
        }
        count -= counts;
        if (at->step > MAX_STEPS)
            return explain(r, "%s: more than %d instructions", r->c->name, MAX_STEPS);
    }
    return 0;
}

static void kill_child(struct run *r)
{
    siginfo_t info;
    kill(r->child, SIGKILL);
    waitid(P_PID, (id_t)r->child, &info, WEXITED | WNOWAIT); /* stays a zombie, as children of a busy parent do */
}

static void reap(pid_t *pid)
{
    int status;
    if (*pid > 0) {
        kill(*pid, SIGKILL);
        waitpid(*pid, &status, 0);
    }
    *pid = 0;
}

/* NULL, or what is wrong with the waiter. */
static const char *join_waiter(struct run *r)
{
    static char why[STEPKILL_WHY_BYTES];
    int status, timeout = r->c->waiter_ms ? (int)r->c->waiter_ms : 5000;
    if (!r->waiter)
        return NULL;
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, r->waiter, 0), .events = POLLIN};
    int ready = poll(&p, 1, timeout);
    close(p.fd);
    if (ready != 1)
        return "the waiter hangs";
    waitpid(r->waiter, &status, 0);
    r->waiter = 0;
    if (status == 0)
        return NULL;
    snprintf(why, sizeof why, "the waiter failed (status 0x%x)", (unsigned)status);
    return why;
}

/* ---- points ------------------------------------------------------------------------------------ */

static int begin(struct run *r)
{
    memset(r->shared, 0, r->c->shared_bytes);
    r->c->setup(r->shared);
    return start_child(r) || start_waiter(r) ? -1 : 0;
}

/* Kill after `count` instructions or events, and check. */
static int try_point(struct run *r, unsigned count, bool is_sparse, struct stepkill_point *at)
{
    const char *why = NULL;
    int rc = begin(r) || run_to(r, count, is_sparse, at) ? -1 : 0;
    if (rc == 0) {
        kill_child(r);
        if (r->c->rescue)
            r->c->rescue(r->shared, at);
        why = join_waiter(r);
        if (!why)
            why = r->c->check(r->shared, at);
        r->report->points++;
    }
    reap(&r->child);
    reap(&r->waiter);
    if (why && r->report->broken++ == 0) {
        r->report->first_broken = at->step;
        explain(r, "%s: killed after %u instructions%s: %s", r->c->name, at->step, at->ended ? " (at its end)" : "", why);
    }
    return rc;
}

static int try_points(struct run *r)
{
    const char *is_long = getenv("MH_LONG");
    bool is_sparse = r->c->sparse && (r->c->always_sparse || !(is_long && *is_long == '1'));
    for (unsigned count = 1;; count++) {
        struct stepkill_point at;
        if (try_point(r, count, is_sparse, &at))
            return -1;
        if (at.ended || at.blocked) {
            r->report->steps = at.step;
            return 0;
        }
    }
}

static void *shared_pages(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static int is_traceable(struct run *r)
{
#ifdef INSTRUMENTED
    return explain(r, "does not apply: a sanitizer's instructions are not those of the library");
#else
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, 0, 0) < 0 ? 1 : 0);
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status)
        return explain(r, "PTRACE_TRACEME is not permitted here (seccomp, or yama's ptrace_scope)");
    return 0;
#endif
}

/* Tester, child and waiter share one core: a step then costs one switch, and the library, which sees one core, does not
 * spin: spinning would only be the same instructions again and again. */
static void use_one_core(cpu_set_t *before)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    if (sched_getaffinity(0, sizeof *before, before) == 0)
        sched_setaffinity(0, sizeof one, &one);
}

enum stepkill_outcome stepkill_run(const struct stepkill_case *c, struct stepkill_report *report)
{
    cpu_set_t cores;
    struct run r = {.c = c, .report = report};
    *report = (struct stepkill_report){0};
    if (is_traceable(&r))
        return STEPKILL_REFUSED;
    use_one_core(&cores);
    r.shared = shared_pages(c->shared_bytes);
    r.control = shared_pages(sizeof *r.control);
    r.before = malloc(c->shared_bytes);
    int rc = -1;
    if (r.shared && r.control && r.before)
        rc = try_points(&r);
    else
        explain(&r, "out of memory");
    if (r.shared)
        munmap(r.shared, c->shared_bytes);
    if (r.control)
        munmap(r.control, sizeof *r.control);
    free(r.before);
    sched_setaffinity(0, sizeof cores, &cores);
    return rc ? STEPKILL_FAILED : STEPKILL_DONE;
}

void stepkill_run_all(const struct stepkill_case *cases, size_t count)
{
    unsigned points = 0, broken = 0;
    const char *only = getenv("MH_CASE");
    for (size_t i = 0; i < count; i++) {
        struct stepkill_report report;
        int64_t start = mh_now();
        if (only && !strstr(cases[i].name, only))
            continue;
        enum stepkill_outcome outcome = stepkill_run(&cases[i], &report);
        if (outcome == STEPKILL_REFUSED)
            MH_SKIP(report.why);
        if (outcome == STEPKILL_FAILED)
            fail_msg("%s: %s", cases[i].name, report.why);
        if (report.points == 0)
            fail_msg("%s: nobody was killed", cases[i].name);
        points += report.points;
        broken += report.broken;
        printf("# %-40s %5u instructions, %5u kills, %u broken, %lld ms\n", cases[i].name, report.steps, report.points, report.broken,
               (long long)((mh_now() - start) / MH_MILLISECOND));
        if (report.broken)
            print_error("%s: first broken after instruction %u: %s\n", cases[i].name, report.first_broken, report.why);
    }
    printf("# %u kills in all\n", points);
    assert_int_equal(broken, 0);
}
