/* SPDX-License-Identifier: Apache-2.0 */
#include "comm/comm_private.h"

#include <stdlib.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/start.h"

int slc_threads_wanted(void)
{
    static const char *const names[] = {"OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *text = getenv(names[i]);

        if (text && atoi(text) > 0)
            return atoi(text);
    }
    return 0;
}

/* Without PMIx every rank refuses by itself; rank 0 speaks. */
static int rank_by_slurm(void)
{
    const char *text = getenv("SLURM_PROCID");

    return text ? atoi(text) : 0;
}

struct slc_world *slc_world_create(const struct slc_world_options *o, struct slc_err *e)
{
    struct slc_world *w = calloc(1, sizeof(*w));
    struct slc_err local = SLC_ERR_INIT;
    char host[SLC_NAME_MAX];
    int launcher;

    if (!e)
        e = &local;
    if (!w) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to start");
        return NULL;
    }
    slc_node_name(host);
    w->size = 1;
    w->options = *o;
    w->options.early = NULL;     /* the caller's memory */
    w->options.allow_tcp = true; /* until all ranks judge together: check_lanes */
    slc_fail_set_self(rank_by_slurm(), host);
    slc_ucx_prepare();
    launcher = slc_bootstrap_find(e);
    if (launcher < 0 || (launcher && slc_bootstrap_open(w, e) < 0)) {
        slc_fail_raise(e->code, 0, host, "bootstrap", e->text);
        goto err_destroy;
    }
    slc_start_mark("pmix");
    slc_log_init(w->rank, w->size);
    slc_fail_set_self(w->rank, host);
    if (launcher && w->size == 1)
        slc_bootstrap_close();
    if (slc_world_start(w, o, e) == 0) {
        slc_fail_started();
        return w;
    }
    slc_fail_raise(e->code, w->rank, host, "bootstrap", e->text);

err_destroy:
    w->size = w->peers ? w->size : 1;
    slc_world_destroy(w);
    return NULL;
}

/* After a failure the heartbeat thread still needs its world; kept where a leak checker
 * sees it. */
static struct slc_world *left_behind;

void slc_world_destroy(struct slc_world *w)
{
    struct slc_err e = SLC_ERR_INIT;

    if (!w)
        return;
    if (w->size > 1 && w->all && !slc_fail_known())
        slc_barrier(w->all, &e);
    atomic_store(&w->closing, true);
    slc_heart_stop(w);
    slc_fail_print();
    slc_fail_write_reason(NULL);
    if (w->heart) {
        left_behind = w;
        return;
    }
    slc_group_destroy(w->all);
    slc_transport_close(w);
    for (int r = 0; w->peers && r < w->size; r++)
        free(w->peers[r].blob);
    free(w->peers);
    free(w->groups);
    free(w->windows);
    free(w);
}

int slc_world_rank(const struct slc_world *w)
{
    return w->rank;
}

int slc_world_size(const struct slc_world *w)
{
    return w->size;
}

int slc_world_local_rank(const struct slc_world *w)
{
    return w->local_rank;
}

int slc_world_local_size(const struct slc_world *w)
{
    return w->local_size;
}

int slc_world_node(const struct slc_world *w)
{
    return w->node;
}

int slc_world_nodes(const struct slc_world *w)
{
    return w->nodes;
}

int slc_world_node_of(const struct slc_world *w, int rank)
{
    return w->peers[rank].node;
}

const char *slc_world_host(const struct slc_world *w, int rank)
{
    return w->peers[rank].host;
}

bool slc_world_shares_cores(const struct slc_world *w)
{
    return w->shares_cores;
}

int slc_world_threads(const struct slc_world *w)
{
    int ranks = 1, n = slc_threads_wanted();
    cpu_set_t now;

    if (n > 0 || sched_getaffinity(0, sizeof(now), &now) < 0)
        return n > 0 ? n : 1;
    /* Ranks with one and the same mask share it; a rank bound by us has its own. */
    if (w->size > 1 && CPU_EQUAL(&now, &w->peers[w->rank].blob->cpus)) {
        ranks = 0;
        for (int r = 0; r < w->size; r++)
            ranks += w->peers[r].same_machine &&
                     CPU_EQUAL(&now, &w->peers[r].blob->cpus);
    }
    n = CPU_COUNT(&now) / (ranks > 0 ? ranks : 1);
    return n > 0 ? n : 1;
}

void slc_world_cores(const struct slc_world *w, int *threads, int *cores)
{
    *threads = w->machine_threads;
    *cores = w->machine_cores;
}

const char *slc_world_transports(const struct slc_world *w)
{
    return w->transports;
}

double slc_world_waited(const struct slc_world *w)
{
    return w->waited;
}

struct slc_traffic *slc_world_traffic(struct slc_world *w)
{
    return &w->traffic;
}
