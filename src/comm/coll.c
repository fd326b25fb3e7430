/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives over UCX messages. Exchanges are direct: every member talks to every
 * other, starting with its right neighbour, so that no link is hit by all at once.
 */
#include "comm/comm_private.h"

#include <stdlib.h>
#include <string.h>

#define STAGING_BYTES (16u << 20) /* of reduce_scatter, per group */
#define CHUNK_MAX (1u << 20)
#define CHUNK_MIN 4096u

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

static int allgather(struct slc_group *g, const void *send, void *recv, size_t bytes,
                     struct slc_err *e)
{
    char *own = (char *)recv + (size_t)g->index * bytes;

    if (own != send)
        memmove(own, send, bytes);
    return gather_shares(g, recv, NULL, bytes, 1, e);
}

static int allgatherv(struct slc_group *g, void *buf, const int64_t *off,
                      enum slc_dtype dtype, struct slc_err *e)
{
    return gather_shares(g, buf, off, 0, slc_dtype_size(dtype), e);
}

/*
 * out[j] = sum over members in ascending order; `parts` is [size - 1][stride] bytes of
 * the others, `out` holds the own part. A block fits the first-level cache and the
 * compiler's vectors; the order of additions is the same whatever the block.
 */
#define SUM_BLOCK 512
#define DEFINE_SUM(name, type)                                                         \
    static void name(const struct slc_group *g, const char *parts, size_t stride,      \
                     void *out, size_t n)                                              \
    {                                                                                  \
        type acc[SUM_BLOCK], *own = out;                                               \
                                                                                       \
        for (size_t at = 0; at < n; at += SUM_BLOCK) {                                 \
            size_t len = n - at < SUM_BLOCK ? n - at : SUM_BLOCK;                      \
                                                                                       \
            for (int m = 0; m < g->size; m++) {                                        \
                int row = m < g->index ? m : m - 1;                                    \
                const type *x =                                                        \
                    m == g->index ? own + at                                           \
                                  : (const type *)(parts + (size_t)row * stride) + at; \
                if (m == 0)                                                            \
                    memcpy(acc, x, len * sizeof(type));                                \
                else                                                                   \
                    for (size_t j = 0; j < len; j++)                                   \
                        acc[j] += x[j];                                                \
            }                                                                          \
            memcpy(own + at, acc, len * sizeof(type));                                 \
        }                                                                              \
    }
DEFINE_SUM(sum_f32, float)
DEFINE_SUM(sum_f64, double)
DEFINE_SUM(sum_i64, int64_t)

static void sum_parts(const struct slc_group *g, enum slc_dtype dtype,
                      const char *parts, void *out, size_t n)
{
    if (dtype == SLC_F32)
        sum_f32(g, parts, g->chunk, out, n);
    else if (dtype == SLC_F64)
        sum_f64(g, parts, g->chunk, out, n);
    else if (dtype == SLC_I64)
        sum_i64(g, parts, g->chunk, out, n);
    else
        SLC_BUG("no sum of %s over ranks", slc_dtype_name(dtype));
}

static int need_staging(struct slc_group *g, struct slc_err *e)
{
    size_t others = (size_t)g->size - 1, chunk = STAGING_BYTES / (2 * others);

    if (g->staging)
        return 0;
    chunk = chunk > CHUNK_MAX ? CHUNK_MAX : chunk < CHUNK_MIN ? CHUNK_MIN : chunk;
    g->chunk = chunk & ~(size_t)63;
    g->staging = aligned_alloc(64, 2 * others * g->chunk);
    return g->staging ? 0
                      : slc_errf(e, SLC_EXIT_SYSTEM,
                                 "no memory for the %zu bytes of a "
                                 "reduction's staging",
                                 2 * others * g->chunk);
}

/* Bytes of share i in round r. */
static size_t piece(const struct slc_group *g, const int64_t *off, int i, int64_t round,
                    size_t unit)
{
    size_t bytes = (size_t)(off[i + 1] - off[i]) * unit,
           skip = (size_t)round * g->chunk;

    return bytes <= skip ? 0 : bytes - skip < g->chunk ? bytes - skip : g->chunk;
}

/* Start receiving what others hold of my share: round's piece of each. */
static int post_receives(struct slc_group *g, const int64_t *off, int64_t round,
                         size_t unit, uint32_t number, struct slc_err *e)
{
    size_t bytes = piece(g, off, g->index, round, unit);
    size_t others = (size_t)g->size - 1;
    char *half = g->staging + (size_t)(round & 1) * others * g->chunk;

    for (int step = 1; bytes && step < g->size; step++) {
        int from = (g->index - step + g->size) % g->size;
        size_t row = (size_t)(from < g->index ? from : from - 1);

        if (slc_group_irecv(g, from, SLC_TAG_COLL, number, half + row * g->chunk, bytes,
                            &g->requests[row], e) < 0)
            return -1;
    }
    return 0;
}

static int reduce_scatter(struct slc_group *g, void *buf, const int64_t *off,
                          enum slc_dtype dtype, struct slc_err *e)
{
    size_t unit = slc_dtype_size(dtype), others = (size_t)g->size - 1;
    uint32_t number = g->seq;
    int64_t rounds = 0;

    if (need_staging(g, e) < 0)
        return -1;
    for (int i = 0; i < g->size; i++) {
        int64_t share = (off[i + 1] - off[i]) * (int64_t)unit;
        int64_t need = (share + (int64_t)g->chunk - 1) / (int64_t)g->chunk;

        rounds = need > rounds ? need : rounds;
    }
    g->seq += (uint32_t)rounds;
    if (rounds && post_receives(g, off, 0, unit, number, e) < 0)
        return -1;
    for (int64_t r = 0; r < rounds; r++) {
        void **sends = g->requests + g->size;
        size_t mine = piece(g, off, g->index, r, unit);
        char *own = (char *)buf + (size_t)off[g->index] * unit + (size_t)r * g->chunk;

        for (int step = 1; step < g->size; step++) {
            int to = (g->index + step) % g->size;
            size_t bytes = piece(g, off, to, r, unit);

            if (bytes && slc_group_isend(g, to, SLC_TAG_COLL, number + (uint32_t)r,
                                         (char *)buf + (size_t)off[to] * unit +
                                             (size_t)r * g->chunk,
                                         bytes, &sends[step], e) < 0)
                return -1;
            g->w->traffic.collective_bytes += bytes;
        }
        /* The next pieces arrive in the other half while these are added. */
        if (slc_group_wait(g, g->requests, (int)others, e) < 0 ||
            (r + 1 < rounds &&
             post_receives(g, off, r + 1, unit, number + (uint32_t)r + 1, e) < 0))
            return -1;
        sum_parts(g, dtype, g->staging + (size_t)(r & 1) * others * g->chunk, own,
                  mine / unit);
        if (slc_group_wait(g, sends, g->size, e) < 0)
            return -1;
    }
    return 0;
}

const struct slc_coll_ops slc_coll_host = {
    .barrier = barrier,
    .broadcast = broadcast,
    .allgather = allgather,
    .reduce_scatter = reduce_scatter,
    .allgatherv = allgatherv,
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

/* Shares of n elements over the members, in the group's own scratch. */
static int64_t *equal_shares(struct slc_group *g, int64_t n)
{
    for (int i = 0; i <= g->size; i++)
        g->shares[i] = (int64_t)((__int128)n * i / g->size);
    return g->shares;
}

int slc_allreduce(struct slc_group *g, void *buf, int64_t n, enum slc_dtype dtype,
                  struct slc_err *e)
{
    if (g->size == 1 || n == 0)
        return 0;
    const int64_t *off = equal_shares(g, n);
    if (slc_reduce_scatter(g, buf, off, dtype, e) < 0)
        return -1;
    return slc_allgatherv(g, buf, off, dtype, e);
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
