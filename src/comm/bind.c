/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Binding: when nobody else has bound the ranks of a machine, each gets a run of
 * neighbouring cores of what was granted. Left alone where Slurm has bound (masks
 * differ or it says so), and where there is not a core for every thread.
 */
#include "comm/comm_private.h"

#include <hwloc.h>
#include <hwloc/glibc-sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* Slurm says how it bound tasks: "quiet,mask_cpu:0x3". */
static bool slurm_has_bound(void)
{
    const char *type = getenv("SLURM_CPU_BIND_TYPE");

    return type && *type && !strstr(type, "none");
}

/* Ranks of this machine before me, and whether all of them have my mask. */
static bool count_machine(const struct slc_world *w, int *mine, int *n, int *threads)
{
    const cpu_set_t *own = &w->peers[w->rank].blob->cpus;

    *mine = *n = *threads = 0;
    for (int r = 0; r < w->size; r++) {
        const struct slc_peer *p = &w->peers[r];

        if (!p->same_machine)
            continue;
        if (!CPU_EQUAL(&p->blob->cpus, own))
            return false;
        *mine = r == w->rank ? *n : *mine;
        *threads = p->blob->threads > *threads ? p->blob->threads : *threads;
        *n += 1;
    }
    return true;
}

/* The cores whose threads are all granted, split evenly; -1 with errno on failure. */
static int bind_share(hwloc_topology_t topology, const cpu_set_t *granted, int mine,
                      int n, int threads)
{
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc(), share = hwloc_bitmap_alloc();
    int rc = -1;

    if (!allowed || !share ||
        hwloc_cpuset_from_glibc_sched_affinity(topology, allowed, granted,
                                               sizeof(*granted)) < 0)
        goto out;
    int cores =
        hwloc_get_nbobjs_inside_cpuset_by_type(topology, allowed, HWLOC_OBJ_CORE);
    if (cores < n * threads) { /* hardware threads do not count as cores */
        rc = 0;
        goto out;
    }
    for (int i = (int)((long)cores * mine / n); i < (int)((long)cores * (mine + 1) / n);
         i++) {
        hwloc_obj_t core = hwloc_get_obj_inside_cpuset_by_type(
            topology, allowed, HWLOC_OBJ_CORE, (unsigned)i);
        if (core)
            hwloc_bitmap_or(share, share, core->cpuset);
    }
    if (!hwloc_bitmap_iszero(share))
        rc = hwloc_set_cpubind(topology, share, HWLOC_CPUBIND_PROCESS);
    slc_debug("comm", "bound to %d of %d cores",
              hwloc_get_nbobjs_inside_cpuset_by_type(topology, share, HWLOC_OBJ_CORE),
              cores);
out:
    hwloc_bitmap_free(allowed);
    hwloc_bitmap_free(share);
    return rc;
}

void slc_bind(const struct slc_world *w)
{
    const cpu_set_t *own = &w->peers[w->rank].blob->cpus;
    hwloc_topology_t topology;
    int mine, n, threads;

    if (w->size == 1 || w->shares_cores || slurm_has_bound() ||
        !count_machine(w, &mine, &n, &threads) || n < 2 || CPU_COUNT(own) < n * threads)
        return;
    if (hwloc_topology_init(&topology) < 0)
        return;
    if (hwloc_topology_load(topology) < 0 ||
        bind_share(topology, own, mine, n, threads) < 0)
        slc_warn("comm", "ranks are not bound to cores: hwloc cannot");
    hwloc_topology_destroy(topology);
}
