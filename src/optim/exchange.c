/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums of gradients and gathers of weights over a replica group, bucket by bucket: by a
 * bulk that works on their memory itself where the host can use it, through a bucket of
 * host memory elsewhere.
 */
#include "optim/shard.h"

#include <string.h>

#include "base/fail.h"

static struct slc_bulk_op whole(const struct slc_shard *s, void *base,
                                enum slc_dtype dtype)
{
    return (struct slc_bulk_op){
        .unit = slc_dtype_size(dtype),
        .dtype = dtype,
        .base = base,
        .n_runs = s->n,
        .flat = s->first,
        .at = s->at,
        .n_buckets = s->n_buckets,
        .cut = s->cut,
    };
}

/* -- in place ----------------------------------------------------------------------- */

void slc_shard_reduce_begin(struct slc_shard *s)
{
    struct slc_bulk_op op = whole(s, s->ps->g, SLC_F32);

    if (!s->bulk)
        return;
    s->ready = 0;
    for (int b = 0, i = s->n - 1; b < s->n_buckets; b++) {
        int64_t from = slc_shard_cut(s, b, 0), to = slc_shard_cut(s, b, s->size);

        s->pending[b] = 0;
        while (i > 0 && s->first[i] >= to)
            i--;
        for (int k = i; k >= 0 && s->first[k + 1] > from; k--)
            s->pending[b]++;
    }
    op.reduce = true;
    slc_bulk_start(s->bulk, &op);
}

int slc_shard_grad_ready(struct slc_shard *s, int param, struct slc_err *e)
{
    int i = 0;

    if (!s->bulk || !slc_bulk_active(s->bulk))
        return 0;
    while (i < s->n && s->param[i] != param)
        i++;
    if (i == s->n) /* no element of it here */
        return 0;
    for (int b = 0; b < s->n_buckets; b++)
        if (slc_shard_cut(s, b, 0) < s->first[i + 1] &&
            slc_shard_cut(s, b, s->size) > s->first[i]) {
            SLC_ASSERT(s->pending[b] > 0);
            s->pending[b]--;
        }
    while (s->ready < s->n_buckets && s->pending[s->ready] == 0)
        s->ready++;
    slc_bulk_ready(s->bulk, s->ready);
    return slc_bulk_progress(s->bulk, e);
}

/* -- through host memory ------------------------------------------------------------ */

static void *element(struct slc_bucket *k, int64_t i, size_t width)
{
    return (char *)k->stage + (size_t)i * width;
}

enum way { INTO_BUCKET, OUT_OF_BUCKET };

/* Copy flat elements [at, end) of gradients (grads) or weights to or from the bucket. */
static void move(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q, bool grads,
                 int64_t at, int64_t end, int64_t slot, enum way way)
{
    size_t width = grads ? sizeof(float) : slc_dtype_size(s->ps->dtype);
    struct slc_piece p;

    while (slc_shard_next(s, &at, end, &p)) {
        char *own = grads ? (char *)slc_param_grad(s->ps, p.param)
                          : (char *)slc_param_acquire(s->ps, p.param, q);
        void *a = own + (size_t)p.local * width, *b = element(k, slot, width);
        SLC_RUN(q, copy, .dst = way == INTO_BUCKET ? b : a,
                .src = way == INTO_BUCKET ? a : b, .bytes = p.n * (int64_t)width);
        if (!grads)
            slc_param_release(s->ps, p.param, q);
        slot += p.n;
    }
}

/* Bucket b: fill s->off; copy the shares of members [from, to) in or out. */
static void move_shares(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                        bool grads, int b, int from, int to, enum way way)
{
    for (int i = 0; i <= s->size; i++)
        s->off[i] = slc_shard_cut(s, b, i) - slc_shard_cut(s, b, 0);
    move(s, k, q, grads, slc_shard_cut(s, b, from), slc_shard_cut(s, b, to),
         s->off[from], way);
}

/* Make [at, end) of the bucket visible to the host, or to ops again. */
static int to_host(struct slc_bucket *k, struct slc_queue *q, int64_t at, int64_t end,
                   size_t width, struct slc_err *e)
{
    if (k->stage == k->host)
        return slc_queue_sync(q, e);
    return slc_fetch(q, (char *)k->host + (size_t)at * width, element(k, at, width),
                     (size_t)(end - at) * width, e);
}

static void to_ops(struct slc_bucket *k, struct slc_queue *q, int64_t at, int64_t end,
                   size_t width)
{
    if (k->stage != k->host)
        slc_upload(q, element(k, at, width), (char *)k->host + (size_t)at * width,
                   (size_t)(end - at) * width);
}

/* In backend memory: the queue keeps the order, the host waits for nothing. */
static int reduce_here(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                       struct slc_err *e)
{
    int me = s->index;

    for (int b = 0; b < s->n_buckets; b++) {
        move_shares(s, k, q, true, b, 0, s->size, INTO_BUCKET);
        s->ps->b->calls.coll_reduce_scatter(q, s->coll, k->stage, s->off, SLC_F32);
        move_shares(s, k, q, true, b, me, me + 1, OUT_OF_BUCKET);
    }
    return slc_queue_sync(q, e);
}

static int gather_here(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                       struct slc_err *e)
{
    int me = s->index;

    for (int b = 0; b < s->n_buckets; b++) {
        move_shares(s, k, q, false, b, me, me + 1, INTO_BUCKET);
        s->ps->b->calls.coll_allgatherv(q, s->coll, k->stage, s->off, s->ps->dtype);
        move_shares(s, k, q, false, b, 0, me, OUT_OF_BUCKET);
        move_shares(s, k, q, false, b, me + 1, s->size, OUT_OF_BUCKET);
    }
    return slc_queue_sync(q, e);
}

int slc_shard_reduce(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                     struct slc_err *e)
{
    const size_t width = sizeof(float);
    int me = s->index;

    if (s->bulk) {
        if (!slc_bulk_active(s->bulk))
            slc_shard_reduce_begin(s);
        return slc_bulk_finish(s->bulk, e);
    }
    if (s->coll)
        return reduce_here(s, k, q, e);
    for (int b = 0; s->size > 1 && b < s->n_buckets; b++) {
        move_shares(s, k, q, true, b, 0, s->size, INTO_BUCKET);
        if (to_host(k, q, 0, s->off[s->size], width, e) < 0 ||
            slc_reduce_scatter(s->group, k->host, s->off, SLC_F32, e) < 0)
            return -1;
        to_ops(k, q, s->off[me], s->off[me + 1], width);
        move_shares(s, k, q, true, b, me, me + 1, OUT_OF_BUCKET);
    }
    return slc_queue_sync(q, e); /* the bucket is free again */
}

int slc_shard_gather(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                     struct slc_err *e)
{
    const size_t width = slc_dtype_size(s->ps->dtype);
    int me = s->index;

    if (s->bulk) {
        struct slc_bulk_op op = whole(s, s->ps->w, s->ps->dtype);

        op.gather = true;
        slc_bulk_start(s->bulk, &op);
        return slc_bulk_finish(s->bulk, e);
    }
    if (s->coll)
        return gather_here(s, k, q, e);
    for (int b = 0; s->size > 1 && b < s->n_buckets; b++) {
        move_shares(s, k, q, false, b, me, me + 1, INTO_BUCKET);
        if (to_host(k, q, s->off[me], s->off[me + 1], width, e) < 0 ||
            slc_allgatherv(s->group, k->host, s->off, s->ps->dtype, e) < 0)
            return -1;
        to_ops(k, q, 0, s->off[s->size], width);
        move_shares(s, k, q, false, b, 0, me, OUT_OF_BUCKET);
        move_shares(s, k, q, false, b, me + 1, s->size, OUT_OF_BUCKET);
    }
    return slc_queue_sync(q, e);
}
