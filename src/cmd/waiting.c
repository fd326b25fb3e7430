/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "cmd/waiting.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/world.h"

static int from_environment(const char *name, int otherwise)
{
    const char *text = getenv(name);

    /* SLURM_TASKS_PER_NODE reads like "2(x2),1": the first number is close enough. */
    return text && atoi(text) > 0 ? atoi(text) : otherwise;
}

void slc_wait_passively(char **argv)
{
    cpu_set_t set;
    int ranks = from_environment("SLURM_TASKS_PER_NODE", 0);

    if (ranks == 0)
        ranks = from_environment("SLUICE_LOCAL_RANKS", 1);
    const int threads = slc_threads_wanted() > 0 ? slc_threads_wanted() : 1;
    if (getenv("OMP_WAIT_POLICY") || sched_getaffinity(0, sizeof(set), &set) < 0)
        return;
    /* Bound by Slurm, a rank has its cores for itself; unbound, all of the node's are seen. */
    const char *bound = getenv("SLURM_CPU_BIND_TYPE");
    if ((bound && strncmp(bound, "mask_cpu", 8) == 0) || CPU_COUNT(&set) >= ranks * threads)
        return;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv);
    /* It runs as well without, only slower. */
}
