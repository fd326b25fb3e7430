/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_COMM_WORLD_H
#define SLC_COMM_WORLD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/*
 * The world: all ranks of the job, one process each. Started by a PMIx launcher
 * (srun --mpi=pmix, or tests/launch) or alone (a world of one, no UCX, no PMIx).
 * Under a launcher without PMIx it refuses with the advice to use --mpi=pmix.
 *
 * Bootstrap: PMIx_Init, one blob per rank {worker addresses, host, error}, one fence
 * with data collection, PMIx_Finalize; from then on UCX alone connects the ranks
 * and the heartbeat thread watches them. A rank with an error of its own before
 * that puts it in its blob: then slc_world_create fails on all ranks alike, with
 * that rank's error.
 *
 * The main thread owns the data UCX worker: all functions of comm, but those of
 * base/fail, are called from it only.
 */
struct slc_world;

struct slc_world_options {
    bool allow_tcp;          /* permit TCP between ranks of one node */
    double heartbeat_period; /* seconds; 0: 1.0. Three missed beats decide. */
    int force_far;           /* 1: treat all peers as far (tests, benchmarks) */
    unsigned test_seed;      /* != 0: delay and reorder puts and signals by this seed */
    const struct slc_err *early; /* an error this rank already has (bad run file), or NULL */
};

/*
 * NULL: the failure is known to base/fail too, its line is printed (by one rank) and
 * reason.json written if the folder is known; the command leaves with e->code.
 */
struct slc_world *slc_world_create(const struct slc_world_options *o, struct slc_err *e);
/*
 * Says BYE to the heartbeat partners first, so that leaving is not dying. Collective
 * unless a failure is known. NULL is fine. With a known failure: tells the partners,
 * prints its line, writes reason.json; the process must then end within
 * SLC_FAIL_GRACE seconds or is ended.
 */
void slc_world_destroy(struct slc_world *w);

int slc_world_rank(const struct slc_world *w);
int slc_world_size(const struct slc_world *w);
int slc_world_local_rank(const struct slc_world *w);  /* among ranks of this node */
int slc_world_local_size(const struct slc_world *w);
int slc_world_node(const struct slc_world *w);        /* node number of this rank */
int slc_world_nodes(const struct slc_world *w);
int slc_world_node_of(const struct slc_world *w, int rank);
const char *slc_world_host(const struct slc_world *w, int rank); /* SLURMD_NODENAME, else hostname */

/* True when ranks of this node share cores (more ranks x threads than cores granted). */
bool slc_world_shares_cores(const struct slc_world *w);
/* Threads that the ranks of this rank's machine ask for, and the cores they may run on. */
void slc_world_cores(const struct slc_world *w, int *threads, int *cores);

/* Threads a rank of this environment will use (OMP_NUM_THREADS, else SLURM_CPUS_PER_TASK);
 * 0: it does not say. */
int slc_threads_wanted(void);

/* CPU threads this rank should use: OMP_NUM_THREADS, else SLURM_CPUS_PER_TASK, else its
 * share of the cores granted to the ranks of its machine; at least 1. */
int slc_world_threads(const struct slc_world *w);

/* One line for the start banner: "4 ranks on 2 nodes, same node: posix, other: tcp". */
const char *slc_world_transports(const struct slc_world *w);

/*
 * How windows are written, as chosen for each peer when they were created: near (in place,
 * through memory), put, or message (where the lane has no fast put). Collective. line, the
 * same on all ranks: "near (sysv) to 1 peer of each rank, message (tcp) to 2 peers of each
 * rank"; empty without windows between ranks. rows: NULL, or [size] strings to free, what
 * each rank chose: "near 1 (sysv), message 2-3 (tcp)".
 */
int slc_world_paths(struct slc_world *w, char *line, size_t size, char **rows,
                    struct slc_err *e);

/* Drive communication once. -1 with e filled when a failure is known. */
int slc_world_progress(struct slc_world *w, struct slc_err *e);

/*
 * Wait loop helper: spins a little, then yields the core, then sleeps up to 1 ms at a
 * time; checks for failure.
 *     struct slc_wait wait = {0};
 *     while (!done) if (slc_wait_step(w, &wait, e) < 0) return -1;
 */
struct slc_wait {
    unsigned spins;           /* looks since something last moved */
    double started;           /* of the naps; 0: none yet */
    unsigned long long moved; /* what the world had moved then */
};
int slc_wait_step(struct slc_world *w, struct slc_wait *wait, struct slc_err *e);
/* Seconds spent in slc_wait_step so far. */
double slc_world_waited(const struct slc_world *w);

/* Bytes sent so far by this rank, by kind; for metrics and tests. */
struct slc_traffic {
    unsigned long long near_bytes;       /* written straight into a near peer's window */
    unsigned long long far_bytes;        /* put into far windows */
    unsigned long long collective_bytes; /* sent by collectives */
};
struct slc_traffic *slc_world_traffic(struct slc_world *w); /* callers may add and reset */

#endif
