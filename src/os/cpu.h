/* How many cores this process may use. */
#ifndef MH_OS_CPU_H
#define MH_OS_CPU_H

#include "manyhands/base.h"

/* The lesser of the two below, at least 1. Reads files. */
size_t mh__cpu_count(void);
/* Cores in this process's affinity mask; 0 when the kernel does not say. */
size_t mh__cpu_affinity(void);
/* The CPU quota of the control groups that `membership` (the form of /proc/self/cgroup) names, looked for below `root` (the form of
 * /sys/fs/cgroup; version 1, 2 or both): cores, rounded up, or 0 for no limit. The least of a group's and its ancestors' counts. */
size_t mh__cpu_quota(const char *membership, const char *root);

#endif
