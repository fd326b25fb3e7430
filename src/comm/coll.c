/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives on host memory: small ones by UCX messages, every member talking to every
 * other, starting with its right neighbour, so that no link is hit by all at once; large
 * ones by a bulk.
 */
#include "comm/comm_private.h"
#include "comm/bulk_private.h"

#include <stdlib.h>
#include <string.h>

#define SMALL 16384u /* bytes that a bulk is not worth */

static int barrier(struct slc_group *g, struct slc_err *e)
{
    uint32_t number = g->seq++;
    char in, out = 0;

    /* Dissemination: after round k, 2^(k+1) members are known to be here. */
    for (int step = 1; step < g->size; step *= 2) {
        int to = (g->index + step) % g->size;
        int from = (g->index - step + g->size) % g->size;

        if (slc_group_irecv(g, from, SLC_TAG_COLL, number, &in, 1, &g->requests[0], e) <
                0 ||
            slc_group_isend(g, to, SLC_TAG_COLL, number, &out, 1, &g->requests[1], e) <
                0 ||
            slc_group_wait(g, g->requests, 2, e) < 0)
            return -1;
        g->w->traffic.collective_bytes += 1;
    }
    return 0;
}

static int broadcast(struct slc_group *g, void *buf, size_t bytes, int root,
                     struct slc_err *e)
{
    uint32_t number = g->seq++;
    int me = (g->index - root + g->size) % g->size, n = 0, bit = 1;

    if (bytes == 0)
        return 0;
    /* Binomial tree: my parent is me without my lowest set bit. */
    while (bit < g->size && !(me & bit))
        bit *= 2;
    if (me != 0) {
        int parent = (me - bit + root) % g->size;

        if (slc_group_irecv(g, parent, SLC_TAG_COLL, number, buf, bytes,
                            &g->requests[0], e) < 0 ||
            slc_group_wait(g, g->requests, 1, e) < 0)
            return -1;
    }
    for (bit /= 2; bit > 0; bit /= 2)
        if (me + bit < g->size) {
            if (slc_group_isend(g, (me + bit + root) % g->size, SLC_TAG_COLL, number,
                                buf, bytes, &g->requests[n++], e) < 0)
                return -1;
            g->w->traffic.collective_bytes += bytes;
        }
    return slc_group_wait(g, g->requests, n, e);
}

/* Send my share to all, receive theirs; member i's is [at[i], at[i + 1]) times unit. */
static int gather_shares(struct slc_group *g, char *buf, const int64_t *at, size_t each,
                         size_t unit, struct slc_err *e)
{
    uint32_t number = g->seq++;
    int n = 0;

#define SHARE_AT(i) (at ? (size_t)at[i] * unit : (size_t)(i)*each)
    for (int step = 1; step < g->size; step++) {
        int from = (g->index - step + g->size) % g->size;
        size_t bytes = SHARE_AT(from + 1) - SHARE_AT(from);

        if (bytes &&
            slc_group_irecv(g, from, SLC_TAG_COLL, number, buf + SHARE_AT(from), bytes,
                            &g->requests[n++], e) < 0)
            return -1;
    }
    size_t mine = SHARE_AT(g->index + 1) - SHARE_AT(g->index);
    for (int step = 1; mine && step < g->size; step++) {
        int to = (g->index + step) % g->size;

        if (slc_group_isend(g, to, SLC_TAG_COLL, number, buf + SHARE_AT(g->index), mine,
                            &g->requests[n++], e) < 0)
            return -1;
        g->w->traffic.collective_bytes += mine;
    }
#undef SHARE_AT
    return slc_group_wait(g, g->requests, n, e);
}

/* The group's own bulk, made when first needed. */
static int need_bulk(struct slc_group *g, struct slc_err *e)
{
    if (g->bulk)
        return 0;
    g->making_bulk = true; /* by messages */
    g->bulk = slc_bulk_create(g, e);
    g->making_bulk = false;
    return g->bulk ? 0 : -1;
}

/* One bucket that is one piece of memory. */
static int run_bulk(struct slc_group *g, void *buf, const int64_t *off, size_t unit,
                    enum slc_dtype dtype, bool reduce, bool gather, struct slc_err *e)
{
    const int64_t flat[] = {0, off[g->size]}, at[] = {0};
    struct slc_bulk_op op = {
        .reduce = reduce,
        .gather = gather,
        .unit = unit,
        .dtype = dtype,
        .base = buf,
        .n_runs = 1,
        .flat = flat,
        .at = at,
        .n_buckets = 1,
        .cut = off,
    };

    if (off[g->size] == 0)
        return 0;
    if (need_bulk(g, e) < 0)
        return -1;
    slc_bulk_start(g->bulk, &op);
    return slc_bulk_finish(g->bulk, e);
}

/* Shares of n elements over the members, in the group's own scratch. */
static int64_t *equal_shares(struct slc_group *g, int64_t n)
{
    for (int i = 0; i <= g->size; i++)
        g->shares[i] = (int64_t)((__int128)n * i / g->size);
    return g->shares;
}

static int allgather(struct slc_group *g, const void *send, void *recv, size_t bytes,
                     struct slc_err *e)
{
    char *own = (char *)recv + (size_t)g->index * bytes;

    if (own != send)
        memmove(own, send, bytes);
    if (g->making_bulk || bytes * (size_t)g->size < SMALL)
        return gather_shares(g, recv, NULL, bytes, 1, e);
    for (int i = 0; i <= g->size; i++)
        g->shares[i] = (int64_t)bytes * i;
    return run_bulk(g, recv, g->shares, 1, SLC_U8, false, true, e);
}

static int allgatherv(struct slc_group *g, void *buf, const int64_t *off,
                      enum slc_dtype dtype, struct slc_err *e)
{
    size_t unit = slc_dtype_size(dtype);

    if ((size_t)off[g->size] * unit < SMALL)
        return gather_shares(g, buf, off, 0, unit, e);
    return run_bulk(g, buf, off, unit, dtype, false, true, e);
}

static int reduce_scatter(struct slc_group *g, void *buf, const int64_t *off,
                          enum slc_dtype dtype, struct slc_err *e)
{
    return run_bulk(g, buf, off, slc_dtype_size(dtype), dtype, true, false, e);
}

/* A sum so small that one round trip counts: all get all, and each adds. */
static int sum_small(struct slc_group *g, void *buf, size_t bytes, enum slc_dtype dtype,
                     struct slc_err *e)
{
    char *all = g->small;

    memcpy(all + (size_t)g->index * bytes, buf, bytes);
    if (gather_shares(g, all, NULL, bytes, 1, e) < 0)
        return -1;
    for (int i = 0; i < g->size; i++)
        g->addends[i] = all + (size_t)i * bytes;
    slc_bulk_sum(dtype, buf, g->addends, g->size, bytes / slc_dtype_size(dtype));
    return 0;
}

static int allreduce(struct slc_group *g, void *buf, int64_t n, enum slc_dtype dtype,
                     struct slc_err *e)
{
    size_t unit = slc_dtype_size(dtype);

    if ((size_t)n * unit * (size_t)g->size <= SLC_SUM_SMALL)
        return sum_small(g, buf, (size_t)n * unit, dtype, e);
    return run_bulk(g, buf, equal_shares(g, n), unit, dtype, true, true, e);
}

const struct slc_coll_ops slc_coll_host = {
    .barrier = barrier,
    .broadcast = broadcast,
    .allgather = allgather,
    .reduce_scatter = reduce_scatter,
    .allgatherv = allgatherv,
    .allreduce = allreduce,
};

int slc_barrier(struct slc_group *g, struct slc_err *e)
{
    return g->size == 1 ? 0 : g->ops->barrier(g, e);
}

int slc_broadcast(struct slc_group *g, void *buf, size_t bytes, int root,
                  struct slc_err *e)
{
    return g->size == 1 ? 0 : g->ops->broadcast(g, buf, bytes, root, e);
}

int slc_allgather(struct slc_group *g, const void *send, void *recv, size_t bytes,
                  struct slc_err *e)
{
    if (g->size == 1) {
        if (bytes)
            memmove(recv, send, bytes);
        return 0;
    }
    return bytes ? g->ops->allgather(g, send, recv, bytes, e) : 0;
}

int slc_reduce_scatter(struct slc_group *g, void *buf, const int64_t *off,
                       enum slc_dtype dtype, struct slc_err *e)
{
    return g->size == 1 ? 0 : g->ops->reduce_scatter(g, buf, off, dtype, e);
}

int slc_allgatherv(struct slc_group *g, void *buf, const int64_t *off,
                   enum slc_dtype dtype, struct slc_err *e)
{
    return g->size == 1 ? 0 : g->ops->allgatherv(g, buf, off, dtype, e);
}

int slc_allreduce(struct slc_group *g, void *buf, int64_t n, enum slc_dtype dtype,
                  struct slc_err *e)
{
    return g->size == 1 || n == 0 ? 0 : g->ops->allreduce(g, buf, n, dtype, e);
}

int slc_allreduce_max(struct slc_group *g, int64_t *value, struct slc_err *e)
{
    if (slc_allgather(g, value, g->shares, sizeof(*value), e) < 0)
        return -1;
    for (int i = 0; i < g->size; i++)
        if (g->shares[i] > *value)
            *value = g->shares[i];
    return 0;
}
