#include "os/maps.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* One shared mapping: [begin, end) is `device:inode` from `offset` on. */
typedef struct mapping {
    uint64_t begin, end, offset, inode;
    unsigned major, minor;
} mapping;

/* The mapping of a process that holds address `at`. errors: NOT_FOUND none, or one that is not shared. */
static mh_err find(FILE *maps, uint64_t at, mapping *out)
{
    char line[512];
    while (fgets(line, sizeof line, maps)) {
        char rights[5];
        mapping m;
        int got = sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &m.begin, &m.end, rights, &m.offset,
                         &m.major, &m.minor, &m.inode);
        bool cut = !strchr(line, '\n');
        while (cut && fgets(line, sizeof line, maps))
            cut = !strchr(line, '\n'); /* the rest of a long name */
        if (got != 7 || at < m.begin || at >= m.end)
            continue;
        *out = m;
        return rights[3] == 's' ? MH_OK : MH_ERR_NOT_FOUND;
    }
    return MH_ERR_NOT_FOUND;
}

static mh_err find_in(const char *path, uint64_t at, mapping *out)
{
    FILE *maps = fopen(path, "re");
    if (!maps)
        return mh__fail_os(errno, "opening %s", path);
    mh_err err = find(maps, at, out);
    fclose(maps);
    return err;
}

static bool is_same(const mapping *a, const mapping *b, uint64_t at)
{
    return a->inode == b->inode && a->major == b->major && a->minor == b->minor &&
           at - a->begin + a->offset == at - b->begin + b->offset;
}

mh_err mh__os_is_common(int32_t pid, const void *from, size_t size, bool *common)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    *common = false;
    uint64_t at = (uintptr_t)from, end = at + (size ? size : 1);
    while (at < end) {
        mapping here, there;
        mh_err err = find_in("/proc/self/maps", at, &here);
        if (!err)
            err = find_in(path, at, &there);
        if (err == MH_ERR_NOT_FOUND || (!err && !is_same(&here, &there, at)))
            return MH_OK;
        if (err)
            return err;
        at = here.end < there.end ? here.end : there.end;
    }
    *common = true;
    return MH_OK;
}
