/* SPDX-License-Identifier: Apache-2.0 */
/* How the ranks of a world get to know each other: who is where, what each one found wrong, and
 * the lanes between them. */
#include "comm/comm_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/start.h"

void slc_node_name(char name[SLC_NAME_MAX])
{
    const char *slurm = getenv("SLURMD_NODENAME");

    if (slurm && *slurm)
        snprintf(name, SLC_NAME_MAX, "%s", slurm);
    else if (gethostname(name, SLC_NAME_MAX) < 0)
        snprintf(name, SLC_NAME_MAX, "unknown");
    name[SLC_NAME_MAX - 1] = '\0';
}

/* The kernel's boot id: the same for all containers and Slurm nodes of a machine. */
static void machine_name(char name[SLC_NAME_MAX])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    if (!f || !fgets(name, SLC_NAME_MAX, f))
        gethostname(name, SLC_NAME_MAX);
    if (f)
        fclose(f);
    name[SLC_NAME_MAX - 1] = '\0';
}

static void fill_blob(struct slc_blob *b)
{
    b->magic = SLC_BLOB_MAGIC;
    slc_node_name(b->node);
    machine_name(b->machine);
    CPU_ZERO(&b->cpus);
    sched_getaffinity(0, sizeof(b->cpus), &b->cpus);
    b->threads = slc_threads_wanted() > 0 ? slc_threads_wanted() : 1;
    slc_process_self(&b->process);
}

static struct slc_blob *make_blob(const struct slc_err *error, const void *data,
                                  size_t data_len, const void *beat, size_t beat_len)
{
    struct slc_blob *b = calloc(1, sizeof(*b) + data_len + beat_len);

    if (!b)
        return NULL;
    fill_blob(b);
    if (error) {
        b->error_code = error->code;
        memcpy(b->error_text, error->text, sizeof(b->error_text));
    }
    b->data_len = (uint32_t)data_len;
    b->beat_len = (uint32_t)beat_len;
    if (data_len)
        memcpy(b + 1, data, data_len);
    if (beat_len)
        memcpy((char *)(b + 1) + data_len, beat, beat_len);
    return b;
}

/* Tell all ranks who I am, or why I refuse; learn the same of them. */
static int introduce(struct slc_world *w, const struct slc_err *error,
                     struct slc_err *e)
{
    ucp_address_t *data = NULL;
    void *beat = NULL;
    size_t data_len = 0, beat_len = 0;
    struct slc_err local = SLC_ERR_INIT;

    if (!error && (slc_transport_open(w, &local) < 0 ||
                   slc_heart_open(w, &beat, &beat_len, &local) < 0))
        error = &local;
    if (!error) {
        ucs_status_t status = ucp_worker_get_address(w->worker, &data, &data_len);
        if (status != UCS_OK) {
            slc_ucx_error(&local, "ucp_worker_get_address", status);
            error = &local;
        }
    }
    slc_start_mark("ucx");
    struct slc_blob *blob = make_blob(error, data, data_len, beat, beat_len);
    if (data)
        ucp_worker_release_address(w->worker, data);
    free(beat);
    if (!blob)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for this rank's address");
    int rc = slc_bootstrap_exchange(w, blob,
                                    sizeof(*blob) + blob->data_len + blob->beat_len, e);
    free(blob);
    return rc;
}

/* The lowest rank that refuses speaks for all. */
static int any_refusal(struct slc_world *w, struct slc_err *e)
{
    for (int r = 0; r < w->size; r++) {
        const struct slc_blob *b = w->peers[r].blob;

        if (!b->error_code)
            continue;
        slc_errf(e, b->error_code, "%.*s", (int)sizeof(b->error_text) - 1,
                 b->error_text);
        if (e)
            e->rank = r;
        slc_fail_raise(b->error_code, r, b->node, "bootstrap", b->error_text);
        return -1;
    }
    return 0;
}

/* Nodes are numbered by their first rank. */
static void find_nodes(struct slc_world *w)
{
    const struct slc_blob *me = w->peers[w->rank].blob;
    int *first = calloc((size_t)w->size, sizeof(*first)); /* node -> its first rank */

    SLC_ASSERT(first != NULL);
    for (int r = 0; r < w->size; r++) {
        struct slc_peer *p = &w->peers[r];
        int n =
            r ? w->peers[r - 1].node : 0; /* ranks of a node mostly follow each other */

        memcpy(p->host, p->blob->node, sizeof(p->host));
        p->same_machine = strcmp(p->blob->machine, me->machine) == 0;
        if (w->nodes == 0 || strcmp(w->peers[first[n]].host, p->host) != 0)
            for (n = 0; n < w->nodes; n++)
                if (strcmp(w->peers[first[n]].host, p->host) == 0)
                    break;
        if (n == w->nodes)
            first[w->nodes++] = r;
        p->node = n;
    }
    w->node = w->peers[w->rank].node;
    for (int r = 0; r < w->size; r++) {
        w->local_size += w->peers[r].node == w->node;
        w->local_rank += w->peers[r].node == w->node && r < w->rank;
    }
    free(first);
}

static void find_sharing(struct slc_world *w)
{
    cpu_set_t all;
    int threads = 0;

    CPU_ZERO(&all);
    for (int r = 0; r < w->size; r++)
        if (w->peers[r].same_machine) {
            CPU_OR(&all, &all, &w->peers[r].blob->cpus);
            threads += w->peers[r].blob->threads;
        }
    w->machine_threads = threads;
    w->machine_cores = CPU_COUNT(&all);
    w->shares_cores = w->machine_threads > w->machine_cores;
}

/* What each rank found out about its connections; the same view on all ranks after. */
struct lanes {
    char near[SLC_LANES_MAX], far[SLC_LANES_MAX]; /* "" : no such peer */
    int32_t peer; /* the same-node rank that only TCP reaches, or -1 */
    int32_t pad;
};

static int look_at_lanes(struct slc_world *w, struct lanes *l, struct slc_err *e)
{
    int rc = 0;

    l->peer = -1;
    for (int step = 1; rc == 0 && step < w->size; step++) {
        int r = (w->rank + step) % w->size;
        char *text = w->peers[r].node == w->node ? l->near : l->far;

        if (text[0])
            continue;
        if (!slc_peer_ep(w, r, e))
            rc = -1;
        memcpy(text, w->peers[r].lanes, SLC_LANES_MAX);
        if (text == l->near && strcmp(text, "tcp") == 0)
            l->peer = r;
    }
    return rc;
}

static int check_lanes(struct slc_world *w, bool allow_tcp, struct slc_err *e)
{
    struct lanes *all = calloc((size_t)w->size, sizeof(*all));
    const char *near = NULL, *far = NULL;
    int rc = -1;

    if (!all)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d ranks", w->size);
    if (look_at_lanes(w, &all[w->rank], e) < 0 ||
        slc_group_setup_gather(w->all, 0x4c414e45, all, sizeof(*all), e) < 0)
        goto out;
    for (int r = 0; r < w->size; r++) {
        if (all[r].peer >= 0 && !allow_tcp) {
            slc_errf(e, SLC_EXIT_CONFIG,
                     "ranks %d and %d of node %s would talk over TCP: "
                     "let UCX use shared memory (UCX_TLS, size of /dev/shm), or set "
                     "parallel.allow_tcp=true",
                     r, all[r].peer, w->peers[r].host);
            if (e)
                e->rank = r;
            slc_fail_raise(SLC_EXIT_CONFIG, r, w->peers[r].host, "bootstrap",
                           e ? e->text : "TCP between ranks of one node");
            goto out;
        }
        if (!near && all[r].near[0])
            near = all[r].near;
        if (!far && all[r].far[0])
            far = all[r].far;
    }
    snprintf(w->transports, sizeof(w->transports), "%d ranks on %d node%s%s%s%s%s",
             w->size, w->nodes, w->nodes > 1 ? "s" : "", near ? ", same node: " : "",
             near ? near : "", far ? ", other: " : "", far ? far : "");
    w->options.allow_tcp = allow_tcp; /* from here on each new connection is judged */
    rc = 0;
out:
    free(all);
    return rc;
}

static int start_alone(struct slc_world *w, const struct slc_err *early,
                       struct slc_err *e)
{
    struct slc_blob *b;

    w->size = 1;
    if (early) {
        if (e)
            *e = *early;
        return -1;
    }
    w->peers = calloc(1, sizeof(*w->peers));
    b = make_blob(NULL, NULL, 0, NULL, 0);
    if (!w->peers || !b) {
        free(b);
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to start");
    }
    w->peers[0].blob = b;
    find_nodes(w);
    find_sharing(w);
    snprintf(w->transports, sizeof(w->transports), "1 rank");
    return 0;
}

static int start_together(struct slc_world *w, const struct slc_err *early,
                          struct slc_err *e)
{
    int rc;

    w->peers = calloc((size_t)w->size, sizeof(*w->peers));
    rc = w->peers ? introduce(w, early, e)
                  : slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d ranks", w->size);
    slc_start_mark("fence");
    slc_bootstrap_close();
    if (rc < 0 || any_refusal(w, e) < 0)
        return -1;
    find_nodes(w);
    find_sharing(w);
    slc_bind(w); /* before threads are made */
    return 0;
}

static int start(struct slc_world *w, const struct slc_world_options *o,
                 struct slc_err *e)
{
    int *members = malloc(sizeof(int) * (size_t)w->size);

    if (!members)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d ranks", w->size);
    for (int r = 0; r < w->size; r++)
        members[r] = r;
    if (w->size > 1 && slc_heart_start(w, e) == 0)
        w->all = slc_group_create(w, members, w->size, e);
    else if (w->size == 1)
        w->all = slc_group_create(w, members, 1, e);
    free(members);
    if (!w->all || (w->size > 1 && check_lanes(w, o->allow_tcp, e) < 0))
        return -1;
    slc_start_mark("connect");
    return 0;
}

int slc_world_start(struct slc_world *w, const struct slc_world_options *o, struct slc_err *e)
{
    if ((w->size == 1 ? start_alone : start_together)(w, o->early, e) < 0)
        return -1;
    return start(w, o, e);
}
