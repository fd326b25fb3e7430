/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_COMM_PRIVATE_H
#define SLC_COMM_PRIVATE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* cpu_set_t and its macros; this file is included first */
#endif

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucp/api/ucp.h>

#include "base/clock.h"
#include "comm/group.h"
#include "comm/window.h"
#include "comm/world.h"

#define SLC_NAME_MAX 64
#define SLC_LANES_MAX 64    /* "sysv+posix" */
#define SLC_RANKS_MAX 65535 /* 16 bits of a message tag */

/* A process of some machine: to see that it is gone, or to end it. */
struct slc_process {
    int32_t pid;
    uint64_t start; /* since boot, as the kernel counts: a pid may be used again */
    uint64_t space; /* pid namespace; 0: cannot be judged */
};

/* What one rank tells all others at start: fixed part, then the two UCX addresses. */
struct slc_blob {
    uint64_t magic;
    char node[SLC_NAME_MAX];    /* SLURMD_NODENAME, else the hostname */
    char machine[SLC_NAME_MAX]; /* boot id: two Slurm nodes may share one machine */
    cpu_set_t cpus;             /* what this rank may run on */
    int32_t threads;            /* CPU threads it will use */
    struct slc_process process;
    int32_t error_code; /* != 0: this rank refuses, with error_text */
    char error_text[sizeof(((struct slc_err *)0)->text)];
    uint32_t data_len, beat_len; /* bytes of the addresses that follow */
};
#define SLC_BLOB_MAGIC 0x31304d4f43434c53u /* layout version in it */

/* How data reaches a peer. */
enum slc_path { SLC_PATH_UNKNOWN, SLC_PATH_NEAR, SLC_PATH_PUT, SLC_PATH_MESSAGE };

struct slc_peer {
    int node;
    bool same_machine;
    char host[SLC_NAME_MAX];
    struct slc_blob *blob; /* owned; addresses inside */
    ucp_ep_h ep;           /* NULL until first used */
    enum slc_path path;    /* what its lanes can do, set with ep: PUT or MESSAGE */
    enum slc_path chosen;  /* how windows are written, set by the first one */
    bool dead;             /* its connection failed: nothing may be posted to it */
    char
        lanes[SLC_LANES_MAX]; /* "posix+cma": transports of the endpoint, set with ep */
};

struct slc_world {
    int rank, size, local_rank, local_size, node, nodes;
    bool shares_cores;
    int machine_threads, machine_cores; /* of all ranks on this rank's machine */
    struct slc_world_options options;
    struct slc_peer *peers; /* [size] */
    char transports[256];
    struct slc_traffic traffic;
    double waited; /* seconds in slc_wait_step */
    unsigned long long moved; /* times that progress moved something */

    ucp_context_h ctx; /* NULL in a world of one */
    ucp_worker_h worker;
    struct slc_group *all; /* every rank: the group of start and end */

    struct slc_group **groups; /* by local id - 1; NULL: free */
    int n_groups;
    struct slc_window **windows; /* by local id; NULL: free */
    int n_windows;
    int n_busy; /* windows with operations under way */
    struct slc_bulk *bulks; /* under way */

    struct slc_heart *heart; /* NULL in a world of one */
    atomic_bool closing;     /* peers may go away without having died */
};

/* --- bootstrap.c: PMIx --------------------------------------------------------------
 */

/* Is there a PMIx launcher? 0 no (alone), 1 yes, -1 one without PMIx: e filled. */
int slc_bootstrap_find(struct slc_err *e);
/* PMIx_Init: sets w->rank, w->size. */
int slc_bootstrap_open(struct slc_world *w, struct slc_err *e);
/* Publish own blob (bytes long), fence, copy everyone's into w->peers[].blob. */
int slc_bootstrap_exchange(struct slc_world *w, const void *blob, size_t bytes,
                           struct slc_err *e);
void slc_bootstrap_close(void);

/* --- transport.c: the data worker
 * ------------------------------------------------------- */

/* Context with our settings. features: UCP_FEATURE_*; ranks: estimate for UCX. */
int slc_ucx_context(uint64_t features, int ranks, ucp_context_h *ctx,
                    struct slc_err *e);
/* Settings that UCX reads from the environment; what is set there stays. Before threads. */
void slc_ucx_prepare(void);
int slc_ucx_error(struct slc_err *e, const char *what, ucs_status_t status);
int slc_transport_open(struct slc_world *w, struct slc_err *e);
void slc_transport_close(struct slc_world *w);
/* The endpoint to a rank, made at first use. NULL with e filled. */
ucp_ep_h slc_peer_ep(struct slc_world *w, int rank, struct slc_err *e);
/* Names of the transports in what ucp_ep_print_info says: "sysv+posix". */
void slc_ucx_lanes(ucp_ep_h ep, char *lanes, size_t size, bool *has_put);
/* Wait for one request (NULL and errors as UCX returns them); rank is the peer. */
int slc_request_wait(struct slc_world *w, void *request, int rank, struct slc_err *e);

/* A transport to `rank` failed: returns -1 with the failure, once the cause is known.
 */
int slc_peer_lost(struct slc_world *w, int rank, const char *what, struct slc_err *e);

/* --- group.c
 * ---------------------------------------------------------------------------- */

struct slc_group {
    struct slc_world *w;
    int size, index;
    int *members;
    uint16_t id;     /* of this rank: names messages to it */
    uint16_t *ids;   /* [size] members' ids for this group */
    uint32_t seq;    /* collectives so far */
    void **requests; /* [2 size] */
    int64_t *shares; /* [size + 1] scratch */
    struct slc_bulk *bulk; /* of large collectives, at first use */
    bool making_bulk;
    char *small;           /* scratch of small sums: SLC_SUM_SMALL bytes */
    const char **addends;  /* [size] */
    const struct slc_coll_ops *ops;
};

extern const struct slc_coll_ops slc_coll_host;
#define SLC_SUM_SMALL 1024u /* bytes, of all members together, that each member adds */

/* Tags: receiver's group id, sender's index in the group, and a number. */
#define SLC_TAG_COLL 0 /* kinds: even ids are collectives, odd ones point to point */
#define SLC_TAG_P2P 1
uint64_t slc_group_tag(uint16_t id, int kind, int src, uint32_t number);
/* Start a transfer with member i; requests may be NULL (done at once). */
int slc_group_isend(struct slc_group *g, int to, int kind, uint32_t number,
                    const void *buf, size_t bytes, void **request, struct slc_err *e);
int slc_group_irecv(struct slc_group *g, int from, int kind, uint32_t number, void *buf,
                    size_t bytes, void **request, struct slc_err *e);
/* Wait for n requests; entries are set to NULL. On failure the rest is cancelled. */
int slc_group_wait(struct slc_group *g, void **requests, int n, struct slc_err *e);

/*
 * All-gather of small items [size][each] in place at set-up (Bruck): endpoints to
 * log2(size) members only, so that a group of all ranks stays cheap.
 */
int slc_group_setup_gather(struct slc_group *g, uint32_t number, void *items,
                           size_t each, struct slc_err *e);

/* --- window_target.c, window_message.c
 * --------------------------------------------------------------------------- */

/* Move operations of all windows on; called by slc_world_progress. */
int slc_windows_progress(struct slc_world *w, struct slc_err *e);
/* Register the handlers of windows whose lane has no put. */
int slc_windows_open(struct slc_world *w, struct slc_err *e);

/* --- world_start.c ----------------------------------------------------------------- */

/* The name of this node; of a rank before it has a world. */
void slc_node_name(char name[SLC_NAME_MAX]);
/* Peers, groups and heartbeat of a world that knows its rank and size; -1 with e, the same on
 * all ranks. */
int slc_world_start(struct slc_world *w, const struct slc_world_options *o,
                    struct slc_err *e);

/* --- bind.c ------------------------------------------------------------------------ */

/* Bind this process to its share of the machine's granted cores, unless Slurm bound it or
 * there is not a core for each thread. Not being able to is a warning only. */
void slc_bind(const struct slc_world *w);

/* --- wait.c ------------------------------------------------------------------------ */

/* One more fruitless look: pause, yield or nap, by how many there were. */
void slc_wait_idle(struct slc_wait *wait, bool shares_cores);

/* --- process.c ----------------------------------------------------------------------
 */

void slc_process_self(struct slc_process *p);
/* Ended, also as a zombie. False when it cannot be known. */
bool slc_process_gone(const struct slc_process *p);
void slc_process_kill(const struct slc_process *p);

/* --- heartbeat.c
 * ------------------------------------------------------------------------ */

/* Own context and worker; the address goes into the blob. */
int slc_heart_open(struct slc_world *w, void **address, size_t *len, struct slc_err *e);
int slc_heart_start(struct slc_world *w, struct slc_err *e);
/* The data worker lost its connection to rank: declare it dead unless another cause
 * arrives first. Any thread. */
void slc_heart_suspect(struct slc_world *w, int rank, const char *what);
/* Say BYE and stop. When a failure is known: tell it to the partners; the thread then
 * stays, without touching UCX, and ends the process if that takes too long. */
void slc_heart_stop(struct slc_world *w);

#endif
