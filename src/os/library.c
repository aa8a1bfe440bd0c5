#include "os/library.h"

#include "base/error.h"
#include "os/fd.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static mh_err open_checked(const char *path, int *fd)
{
    struct stat st;
    if (path[0] != '/')
        return mh__fail(MH_ERR_INVALID, "task library \"%s\": give its absolute path", path);
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 || fstat(*fd, &st) < 0) {
        int saved = errno;
        mh__os_close(fd);
        return mh__fail_os(saved, "task library \"%s\"", path);
    }
    mh_err err = MH_OK;
    if (!S_ISREG(st.st_mode))
        err = mh__fail(MH_ERR_INVALID, "task library \"%s\" is no plain file", path);
    else if (st.st_uid != 0 && st.st_uid != geteuid())
        err = mh__fail(MH_ERR_PERMISSION, "task library \"%s\" belongs to user %u: it must be yours or root's", path, (unsigned)st.st_uid);
    else if (st.st_mode & (S_IWGRP | S_IWOTH))
        err = mh__fail(MH_ERR_PERMISSION, "task library \"%s\" can be written by others: chmod go-w it", path);
    if (err)
        mh__os_close(fd);
    return err;
}

mh_err mh__os_library_check(const char *path)
{
    int fd = -1;
    mh_err err = open_checked(path, &fd);
    mh__os_close(&fd);
    return err;
}

mh_err mh__os_library_open(const char *path, const char *symbol, const void **out)
{
    char opened[64];
    int fd = -1;
    mh_err err = open_checked(path, &fd);
    if (err)
        return err;
    snprintf(opened, sizeof opened, "/proc/self/fd/%d", fd);
    void *handle = dlopen(opened, RTLD_NOW | RTLD_LOCAL);
    mh__os_close(&fd);
    if (!handle)
        return mh__fail(MH_ERR_INVALID, "task library \"%s\": %s", path, dlerror());
    *out = dlsym(handle, symbol);
    if (!*out) {
        err = mh__fail(MH_ERR_INVALID, "task library \"%s\" has no symbol \"%s\"", path, symbol);
        dlclose(handle);
    }
    return err;
}
