/* SPDX-License-Identifier: Apache-2.0 */
#include "optim/shard.h"

/*
 * Shares travel bucket by bucket: bucket r holds piece r of each member's share, so that
 * every member sends and receives the same amount in every collective, whatever tensors
 * the shares are cut from.
 */

/* Piece r of member i's share. */
static void piece_of(const struct slc_shard *s, int i, int64_t r, int64_t *at, int64_t *end)
{
    *at = s->cut[i] + r * s->chunk;
    if (*at > s->cut[i + 1])
        *at = s->cut[i + 1];
    *end = *at + s->chunk < s->cut[i + 1] ? *at + s->chunk : s->cut[i + 1];
}

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

/* Bucket r: fill s->off; copy the pieces of members [from, to) in or out. */
static void move_round(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                       bool grads, int64_t r, int from, int to, enum way way)
{
    int64_t at, end;

    for (int i = 0; i < s->size; i++) {
        piece_of(s, i, r, &at, &end);
        s->off[i + 1] = s->off[i] + end - at;
    }
    for (int i = from; i < to; i++) {
        piece_of(s, i, r, &at, &end);
        move(s, k, q, grads, at, end, s->off[i], way);
    }
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

int slc_shard_reduce(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                     struct slc_err *e)
{
    const size_t width = sizeof(float);
    int me = s->index;

    if (s->size == 1)
        return 0;
    for (int64_t r = 0; r < s->rounds; r++) {
        move_round(s, k, q, true, r, 0, s->size, INTO_BUCKET);
        if (to_host(k, q, 0, s->off[s->size], width, e) < 0 ||
            slc_reduce_scatter(s->group, k->host, s->off, SLC_F32, e) < 0)
            return -1;
        to_ops(k, q, s->off[me], s->off[me + 1], width);
        move_round(s, k, q, true, r, me, me + 1, OUT_OF_BUCKET);
    }
    return slc_queue_sync(q, e); /* the bucket is free again */
}

int slc_shard_gather(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                     struct slc_err *e)
{
    const size_t width = slc_dtype_size(s->ps->dtype);
    int me = s->index;

    if (s->size == 1)
        return 0;
    for (int64_t r = 0; r < s->rounds; r++) {
        move_round(s, k, q, false, r, me, me + 1, INTO_BUCKET);
        if (to_host(k, q, s->off[me], s->off[me + 1], width, e) < 0 ||
            slc_allgatherv(s->group, k->host, s->off, s->ps->dtype, e) < 0)
            return -1;
        to_ops(k, q, 0, s->off[s->size], width);
        move_round(s, k, q, false, r, 0, me, OUT_OF_BUCKET);
        move_round(s, k, q, false, r, me + 1, s->size, OUT_OF_BUCKET);
    }
    return slc_queue_sync(q, e);
}
