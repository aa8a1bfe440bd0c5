/* Segments: a descriptor and its mapping. */
#include "manyhands/shm.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "os/fd.h"
#include "os/janitor.h"
#include "os/memory.h"
#include "os/named.h"
#include "shm/segment.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mh_shm {
    char *data;
    size_t size;
    int fd;
    bool readonly;
    char name[MH__OS_NAME_MAX + 1];
};

/* What goes with the descriptor over a socket. */
typedef struct greeting {
    uint64_t magic, size;
} greeting;
#define GREETING UINT64_C(0x316d68732d68616d) /* "mah-shm1" */

static mh_err check_flags(uint32_t flags)
{
    return flags & ~MH_SHM_READONLY ? mh__fail(MH_ERR_INVALID, "unknown flags %#x for a segment", flags) : MH_OK;
}

static mh_err check_size(size_t size) { return size ? MH_OK : mh__fail(MH_ERR_INVALID, "a segment of 0 bytes"); }

/* Takes fd on success. */
static mh_err wrap(mh_shm **out, int fd, size_t size, uint32_t flags, const char *name)
{
    void *data = NULL;
    mh_shm *shm = mh__calloc(1, sizeof *shm);
    if (!shm)
        return MH_ERR_NO_MEMORY;
    mh_err err = mh__os_map(&data, fd, 0, size, !(flags & MH_SHM_READONLY));
    if (err) {
        mh__free(shm);
        return err;
    }
    *shm = (mh_shm){.data = data, .size = size, .fd = fd, .readonly = flags & MH_SHM_READONLY};
    memcpy(shm->name, name, strlen(name) + 1); /* checked when the file was opened */
    *out = shm;
    return MH_OK;
}

mh_err mh_shm_create(mh_shm **out, size_t size)
{
    int fd = -1;
    *out = NULL;
    mh_err err = check_size(size);
    if (!err)
        err = mh__os_memfd(&fd, "manyhands", size);
    if (!err)
        err = wrap(out, fd, size, 0, "");
    if (err)
        mh__os_close(&fd);
    return err;
}

mh_err mh_shm_from_fd(mh_shm **out, int fd, uint32_t flags)
{
    size_t size = 0;
    *out = NULL;
    mh_err err = check_flags(flags);
    if (!err)
        err = mh__os_fd_sealed(fd, &size);
    if (!err && (!size || !mh__os_fd_is_solid(fd)))
        err = mh__fail(MH_ERR_INVALID, "descriptor %d holds %zu bytes whose pages are not all there", fd, size);
    if (!err)
        err = mh__os_set_inherit(fd, false);
    return err ? err : wrap(out, fd, size, flags, "");
}

mh_err mh_shm_send(const mh_shm *shm, int socket, mh_deadline until)
{
    greeting hello = {GREETING, shm->size};
    if (shm->name[0])
        return mh__fail(MH_ERR_UNSUPPORTED, "segment %.60s has a name: pass that, for it is not sealed", shm->name);
    return mh__os_send(socket, (mh_bytes){&hello, sizeof hello}, &shm->fd, 1, until);
}

mh_err mh_shm_receive(mh_shm **out, int socket, uint32_t flags, mh_deadline until)
{
    greeting hello = {0};
    int fds[MH__OS_FDS_MAX];
    size_t size = 0, count = 0;
    *out = NULL;
    mh_err err = check_flags(flags);
    if (!err)
        err = mh__os_receive(socket, &hello, sizeof hello, &size, fds, &count, until);
    if (err)
        return err == MH_ERR_TOO_LARGE ? mh__fail(MH_ERR_CORRUPT, "what came over the socket is no segment") : err;
    if (size != sizeof hello || hello.magic != GREETING || count != 1)
        err = mh__fail(MH_ERR_CORRUPT, "what came over the socket is no segment (%zu bytes, %zu descriptors)", size, count);
    if (!err && mh_shm_from_fd(out, fds[0], flags))
        err = MH_ERR_CORRUPT; /* with the detail of what is wrong with it */
    if (!err && (*out)->size != hello.size) {
        err = mh__fail(MH_ERR_CORRUPT, "a segment of %zu bytes came as one of %" PRIu64, (*out)->size, hello.size);
        mh_shm_destroy(out);
        count = 0;
    }
    for (size_t i = 0; err && i < count; i++)
        mh__os_close(&fds[i]);
    return err;
}

/* ---- names ------------------------------------------------------------------------------------- */

#define PREFIX "mh-"

/* mh-<namespace>-<janitor>-<creator>-<128 random bits>: whoever finds it can tell whether somebody still cares for it. */
static mh_err random_name(char name[MH__OS_NAME_MAX + 1])
{
    uint64_t bits[2];
    mh_err err = mh__os_random(bits, sizeof bits);
    if (!err)
        snprintf(name, MH__OS_NAME_MAX + 1, PREFIX "%" PRIx64 "-%016" PRIx64 "-%016" PRIx64 "-%016" PRIx64 "%016" PRIx64,
                 mh__os_process_namespace(), mh__os_janitor_identity(), mh__os_self_process(), bits[0], bits[1]);
    return err;
}

/* Both are gone, as seen from the namespace that their numbers belong to. */
static bool is_stale(const char *name)
{
    uint64_t part[3];
    const char *at = name + strlen(PREFIX);
    for (size_t i = 0; i < MH__COUNT_OF(part); i++) {
        char *end;
        part[i] = strtoull(at, &end, 16);
        if (end == at || *end != '-')
            return false;
        at = end + 1;
    }
    return strlen(at) == 32 && part[0] == mh__os_process_namespace() && part[1] && part[2] &&
           !mh__os_is_process_alive(part[1]) && !mh__os_is_process_alive(part[2]);
}

static void sweep_one(const char *name, mh__file_id id, void *ctx)
{
    (void)ctx;
    if (is_stale(name))
        mh__os_named_unlink_file(name, id);
}

static void sweep(void) { mh__os_named_each(PREFIX, sweep_one, NULL); }

/* The janitor knows the file before it has a name, so that no kill in between leaves one behind; and it removes the name
 * only while that file has it, so that losing the race for a name harms nobody. */
static mh_err publish(int fd, const char *name, bool quietly)
{
    mh__file_id id;
    mh_err err = mh__os_file_id(fd, &id);
    if (!err)
        err = mh__os_janitor_add(name, id, quietly);
    if (err)
        return err;
    err = mh__os_named_publish(fd, name);
    if (err)
        mh__os_janitor_forget(name, id);
    return err;
}

static mh_err prepare(int *fd, size_t size)
{
    mh_err err = mh__os_named_prepare(fd, size);
    if (err != MH_ERR_NO_SPACE)
        return err;
    sweep(); /* what dead programs left may be what is missing */
    return mh__os_named_prepare(fd, size);
}

mh_err mh__shm_create_named(mh_shm **out, const char *wanted, size_t size, bool quietly)
{
    char name[MH__OS_NAME_MAX + 1];
    int fd = -1, tree;
    bool started = false;
    *out = NULL;
    mh_err err = check_size(size);
    if (!err && wanted)
        err = mh__os_name_check(wanted);
    if (!err && wanted)
        memcpy(name, wanted, strlen(wanted) + 1);
    if (!err)
        err = mh__os_janitor_open(&tree, &started);
    if (!err && started)
        sweep();
    if (!err && !wanted)
        err = random_name(name);
    if (!err)
        err = prepare(&fd, size);
    if (!err)
        err = wrap(out, fd, size, 0, name); /* before it has its name: nothing can fail once that is there */
    if (err) {
        mh__os_close(&fd);
        return err;
    }
    err = publish(fd, name, quietly);
    if (err)
        mh_shm_destroy(out);
    return err;
}

mh_err mh_shm_create_named(mh_shm **out, const char *name, size_t size) { return mh__shm_create_named(out, name, size, false); }

mh_err mh_shm_open_named(mh_shm **out, const char *name, uint32_t flags)
{
    int fd = -1;
    size_t size = 0;
    *out = NULL;
    mh_err err = check_flags(flags);
    if (!err)
        err = mh__os_named_open(&fd, name);
    if (!err)
        err = mh__os_fd_size(fd, &size);
    if (!err)
        err = check_size(size);
    if (!err)
        err = wrap(out, fd, size, flags, name);
    if (err)
        mh__os_close(&fd);
    return err;
}

mh_err mh_shm_unlink(const char *name)
{
    mh__file_id id = {0};
    mh_err err = mh__os_named_id(name, &id);
    if (!err)
        err = mh__os_named_unlink(name);
    if (!err)
        mh__os_janitor_forget(name, id);
    return err;
}

mh_err mh_shm_tree_fd(int *fd)
{
    int tree = -1;
    bool started;
    mh_err err = mh__os_janitor_open(&tree, &started);
    if (!err)
        *fd = tree;
    return err;
}

mh_err mh_shm_tree_join(int fd) { return mh__os_janitor_adopt(fd); }

uint64_t mh_shm_tree_self(void) { return mh__os_self_process(); }

mh_err mh_shm_tree_await(uint64_t process)
{
    int fd;
    mh_err err = process ? mh_shm_tree_fd(&fd) : mh__fail(MH_ERR_INVALID, "no process has the identity 0");
    return err ? err : mh__os_janitor_await(process);
}

mh_err mh_shm_tree_report(int descriptor)
{
    int fd;
    mh_err err = descriptor >= 0 ? mh_shm_tree_fd(&fd) : mh__fail(MH_ERR_INVALID, "descriptor %d", descriptor);
    return err ? err : mh__os_janitor_report(descriptor);
}

mh_err mh_shm_track(const char *name)
{
    mh__file_id id = {0};
    int fd;
    mh_err err = mh__os_named_id(name, &id);
    if (!err)
        err = mh_shm_tree_fd(&fd);
    return err ? err : mh__os_janitor_add(name, id, false);
}

mh_err mh_shm_untrack(const char *name)
{
    mh__file_id id = {0};
    mh_err err = mh__os_named_id(name, &id);
    if (!err)
        mh__os_janitor_forget(name, id);
    return err;
}

/* ---- any segment ------------------------------------------------------------------------------- */

void *mh_shm_data(const mh_shm *shm) { return shm->data; }
size_t mh_shm_size(const mh_shm *shm) { return shm->size; }
int mh_shm_fd(const mh_shm *shm) { return shm->fd; }
const char *mh_shm_name(const mh_shm *shm) { return shm->name; }
bool mh_shm_is_readonly(const mh_shm *shm) { return shm->readonly; }

void mh_shm_destroy(mh_shm **shm)
{
    if (!*shm)
        return;
    mh__os_unmap((*shm)->data, (*shm)->size);
    mh__os_close(&(*shm)->fd);
    mh__free(*shm);
    *shm = NULL;
}
