#include "os/topology.h"

#include "base/error.h"
#include "base/memory.h"

#include <errno.h>
#include <hwloc.h>
#include <limits.h>
#include <sched.h>

struct mh__places {
    size_t count;
    hwloc_bitmap_t sets[]; /* NULL after a failure on the way */
};

static mh_err load(hwloc_topology_t *out)
{
    hwloc_topology_t topology = NULL;
    hwloc_bitmap_t mine = hwloc_bitmap_alloc();
    if (!mine || hwloc_topology_init(&topology) < 0) {
        hwloc_bitmap_free(mine);
        return mh__fail(MH_ERR_NO_MEMORY, "reading the machine's topology");
    }
    int rc = hwloc_topology_load(topology);
    if (rc == 0 && hwloc_get_cpubind(topology, mine, HWLOC_CPUBIND_THREAD) == 0)
        rc = hwloc_topology_restrict(topology, mine, 0);
    int failed = errno;
    hwloc_bitmap_free(mine);
    if (rc < 0) {
        hwloc_topology_destroy(topology);
        return mh__fail_os(failed, "reading the machine's topology");
    }
    *out = topology;
    return MH_OK;
}

/* A share of the machine may span many cores: one of them is the place. */
static void narrow(hwloc_topology_t topology, hwloc_bitmap_t set)
{
    hwloc_obj_t core = hwloc_get_obj_inside_cpuset_by_type(topology, set, HWLOC_OBJ_CORE, 0);
    if (core)
        hwloc_bitmap_copy(set, core->cpuset);
}

mh_err mh__topology_spread(mh__places **out, size_t count)
{
    hwloc_topology_t topology = NULL;
    *out = NULL;
    if (count == 0 || count > INT_MAX)
        return mh__fail(MH_ERR_INVALID, "%zu workers cannot be bound", count);
    mh__places *places = mh__calloc(1, sizeof *places + count * sizeof places->sets[0]);
    if (!places)
        return MH_ERR_NO_MEMORY;
    places->count = count;
    mh_err err = load(&topology);
    if (err) {
        mh__free(places);
        return err;
    }
    hwloc_obj_t root = hwloc_get_root_obj(topology);
    if (hwloc_distrib(topology, &root, 1, places->sets, (unsigned)count, INT_MAX, 0) < 0)
        err = mh__fail_os(errno, "spreading %zu workers over the machine", count);
    for (size_t i = 0; i < count && !err; i++)
        narrow(topology, places->sets[i]);
    hwloc_topology_destroy(topology);
    if (err)
        mh__topology_destroy(&places);
    *out = places;
    return err;
}

/* Without hwloc's own call: it needs the topology, which takes memory and is not for forked children. */
mh_err mh__topology_bind(const mh__places *places, size_t index, int32_t pid)
{
    hwloc_const_bitmap_t set = places->sets[index % places->count];
    size_t cpus = (size_t)hwloc_bitmap_last(set) + 1, size = CPU_ALLOC_SIZE(cpus);
    cpu_set_t *mask = mh__calloc(1, size);
    if (!mask)
        return MH_ERR_NO_MEMORY;
    for (int cpu = hwloc_bitmap_first(set); cpu >= 0; cpu = hwloc_bitmap_next(set, cpu))
        CPU_SET_S((size_t)cpu, size, mask);
    int failed = sched_setaffinity(pid, size, mask) < 0 ? errno : 0;
    mh__free(mask);
    return failed ? mh__fail_os(failed, "binding to processor %zu", mh__topology_processor(places, index)) : MH_OK;
}

size_t mh__topology_processor(const mh__places *places, size_t index)
{
    int first = hwloc_bitmap_first(places->sets[index % places->count]);
    return first < 0 ? 0 : (size_t)first;
}

void mh__topology_destroy(mh__places **places)
{
    if (!*places)
        return;
    for (size_t i = 0; i < (*places)->count; i++)
        hwloc_bitmap_free((*places)->sets[i]);
    mh__free(*places);
    *places = NULL;
}
