/* How much memory this process uses, and how much there is. */
#ifndef MH_OS_USAGE_H
#define MH_OS_USAGE_H

#include "manyhands/base.h"

/* Resident memory of this process that it shares with nobody's files or segments; 0 when unknown. Reads a file, about 2 us. */
size_t mh__os_own_bytes(void);
/* The same of any process, and all private memory that it may write to, touched or not. False when it has ended or cannot be looked at. */
typedef struct mh__usage {
    size_t own_bytes, data_bytes;
} mh__usage;
bool mh__os_usage(int32_t pid, mh__usage *out);
/* Resident memory of its own and processor time of a process and all its children, grandchildren and so on. False when it has ended. */
typedef struct mh__tree_usage {
    size_t own_bytes;
    int64_t cpu_ns;
} mh__tree_usage;
bool mh__os_tree_usage(int32_t pid, mh__tree_usage *out);
/* Let this process have at most so many bytes of data (see above; 0: what it was before the first call) from now on: allocations fail beyond. */
void mh__os_limit_data(size_t bytes);
/* How many processes the kernel has killed for want of memory so far, in this process's control group where that can be read, else in the
 * machine; -1 when unknown. Reads files, about 50 us. */
int64_t mh__os_oom_kills(void);
/* The same from given files: as /proc/self/cgroup, /sys/fs/cgroup and /proc/vmstat. For tests. */
int64_t mh__oom_kills_in(const char *membership, const char *root, const char *vmstat);
/* Bytes of memory in this machine; 0 when unknown. */
size_t mh__os_machine_bytes(void);

#endif
