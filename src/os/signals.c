#include "os/signals.h"

#include "base/error.h"
#include "os/fd.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

static sigset_t set_of(const int *signals, size_t count)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < count; i++)
        sigaddset(&set, signals[i]);
    return set;
}

mh_err mh__os_signals_open(int *fd, const int *signals, size_t count)
{
    sigset_t set = set_of(signals, count);
    *fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (*fd < 0)
        return mh__fail_os(errno, "signalfd");
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return MH_OK;
}

int mh__os_signals_take(int fd)
{
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

void mh__os_signals_close(int *fd, const int *signals, size_t count)
{
    sigset_t set = set_of(signals, count);
    if (*fd < 0)
        return;
    mh__os_close(fd);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int mh__os_signal_number(mh_bytes name)
{
    enum { PREFIX = 3 };
    if (name.size <= PREFIX || memcmp(name.data, "SIG", PREFIX))
        return 0;
    for (int number = 1; number < NSIG; number++) {
        const char *abbreviation = sigabbrev_np(number);
        if (abbreviation && strlen(abbreviation) == name.size - PREFIX &&
            !memcmp(abbreviation, (const char *)name.data + PREFIX, name.size - PREFIX))
            return number;
    }
    return 0;
}
