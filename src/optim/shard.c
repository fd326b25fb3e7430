/* SPDX-License-Identifier: Apache-2.0 */
#include "optim/shard.h"

#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "optim/optim.h"

/* Elements of one bucket over all members: an eighth of all, so that most of the sum is
 * done before backward ends; large enough for bandwidth, small beside a model. */
#define BUCKET_MAX (4 << 20)
#define BUCKET_SHARE (16 << 10) /* at least, of one member */
#define BUCKETS 8

/* Parameter that holds element `at` of the flat list. */
static int param_at(const struct slc_shard *s, int64_t at)
{
    int low = 0, high = s->n;

    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (s->first[mid] <= at)
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* Nearest allowed cut to element `at`: it stays inside (or at the edge of) its tensor, so
 * cuts ascend. Multiples are of the global element number, which is what a checkpoint
 * stores. */
static int64_t cut_near(const struct slc_shard *s, int64_t at)
{
    if (at >= s->first[s->n])
        return s->first[s->n];
    int i = param_at(s, at);
    const struct slc_param *p = &s->ps->p[s->param[i]];
    int64_t global = p->start + at - s->first[i];
    int64_t cut = (global + SLC_EXTENT / 2) / SLC_EXTENT * SLC_EXTENT;

    if (cut < p->start)
        cut = p->start;
    if (cut > p->start + p->local)
        cut = p->start + p->local;
    return s->first[i] + cut - p->start;
}

static int64_t bucket_size(const struct slc_shard *s, int64_t wanted)
{
    int64_t total = s->first[s->n], n = total / BUCKETS;

    if (wanted > 0)
        return wanted;
    n = n > BUCKET_MAX ? BUCKET_MAX : n;
    return n < (int64_t)BUCKET_SHARE * s->size ? (int64_t)BUCKET_SHARE * s->size : n;
}

/* Cut bucket [from, to) so that all members come nearest to an equal part of everything
 * up to here. owned [size]: elements of each member so far. */
static void cut_bucket(struct slc_shard *s, int64_t *cut, int64_t from, int64_t to,
                       int64_t *owned)
{
    int64_t all = to - from, wanted = 0, sum = 0;

    for (int i = 0; i < s->size; i++)
        all += owned[i];
    for (int i = 0; i < s->size; i++)
        wanted += all / s->size > owned[i] ? all / s->size - owned[i] : 0;
    cut[0] = from;
    for (int i = 0; i < s->size; i++) {
        sum += all / s->size > owned[i] ? all / s->size - owned[i] : 0;
        int64_t at = wanted ? from + (int64_t)((double)(to - from) * (double)sum /
                                               (double)wanted)
                            : to;

        cut[i + 1] = i == s->size - 1 ? to : cut_near(s, at);
        if (cut[i + 1] > to)
            cut[i + 1] = to;
        if (cut[i + 1] < cut[i])
            cut[i + 1] = cut[i];
        owned[i] += cut[i + 1] - cut[i];
    }
}

static int make_buckets(struct slc_shard *s, int64_t wanted, struct slc_err *e)
{
    int64_t total = s->first[s->n], size = bucket_size(s, wanted), to = total;
    int n = (int)((total + size - 1) / size), k = 0;
    int64_t *owned = calloc((size_t)s->size, sizeof(*owned));

    s->cut = calloc((size_t)(n + 1) * (size_t)(s->size + 1), sizeof(*s->cut));
    s->pending = calloc((size_t)n + 1, sizeof(*s->pending));
    if (!owned || !s->cut || !s->pending) {
        free(owned);
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the optimizer's shares");
    }
    for (int b = n - 1; b >= 0; b--) {
        int64_t from = b ? cut_near(s, total / n * b + total % n * b / n) : 0;

        if (from >= to)
            continue;
        cut_bucket(s, s->cut + (int64_t)k * (s->size + 1), from, to, owned);
        s->largest = to - from > s->largest ? to - from : s->largest;
        to = from;
        k++;
    }
    s->n_buckets = k;
    free(owned);
    return 0;
}

int slc_shard_init(struct slc_shard *s, struct slc_params *ps, bool expert,
                   struct slc_group *group, int64_t bucket, bool in_place,
                   struct slc_err *e)
{
    *s = (struct slc_shard){.group = group,
                            .ps = ps,
                            .size = group ? slc_group_size(group) : 1,
                            .index = group ? slc_group_index(group) : 0};
    s->param = calloc((size_t)ps->n + 1, sizeof(*s->param));
    s->first = calloc((size_t)ps->n + 1, sizeof(*s->first));
    s->at = calloc((size_t)ps->n + 1, sizeof(*s->at));
    s->off = calloc((size_t)s->size + 1, sizeof(*s->off));
    if (!s->param || !s->first || !s->at || !s->off) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the optimizer's shares");
        goto err_release;
    }
    for (int i = 0; i < ps->n; i++) {
        if (ps->p[i].expert != expert || ps->p[i].local == 0)
            continue;
        s->param[s->n] = i;
        s->at[s->n] = ps->p[i].at;
        s->first[s->n + 1] = s->first[s->n] + ps->p[i].local;
        s->n++;
    }
    if (make_buckets(s, bucket, e) < 0)
        goto err_release;
    if (in_place && s->size > 1 && s->n_buckets > 0) {
        s->bulk = slc_bulk_create(group, e);
        if (!s->bulk)
            goto err_release;
    }
    return 0;

err_release:
    slc_shard_release(s);
    return -1;
}

int slc_shard_join(struct slc_shard *s, struct slc_err *e)
{
    struct slc_backend *b = s->ps->b;
    struct {
        unsigned char id[SLC_COLL_ID];
        int there;
    } name = {.there = 0};
    struct slc_err none = SLC_ERR_INIT;

    if (s->size == 1 || !b->calls.coll_create)
        return 0;
    if (s->index == 0) {
        name.there = b->calls.coll_id(b, name.id, &none) == 0;
        if (!name.there)
            slc_warn("optim", "gradients travel through host memory: %s", none.text);
    }
    if (slc_broadcast(s->group, &name, sizeof(name), 0, e) < 0)
        return -1;
    if (!name.there)
        return 0;
    s->coll = b->calls.coll_create(b, name.id, s->size, s->index, e);
    return s->coll ? 0 : -1;
}

void slc_shard_release(struct slc_shard *s)
{
    slc_bulk_destroy(s->bulk);
    if (s->coll && !slc_fail_known()) /* leaving it in order needs the peers */
        s->ps->b->calls.coll_destroy(s->coll);
    free(s->param);
    free(s->first);
    free(s->at);
    free(s->cut);
    free(s->off);
    free(s->pending);
    memset(s, 0, sizeof(*s));
}

bool slc_shard_next(const struct slc_shard *s, int64_t *at, int64_t end,
                    struct slc_piece *piece)
{
    if (*at >= end)
        return false;
    int i = param_at(s, *at);
    int64_t stop = s->first[i + 1] < end ? s->first[i + 1] : end;

    *piece = (struct slc_piece){s->param[i], *at - s->first[i], stop - *at};
    *at = stop;
    return true;
}

int slc_bucket_init(struct slc_bucket *k, struct slc_backend *b, const struct slc_shard *s,
                    int n_shards, struct slc_err *e)
{
    *k = (struct slc_bucket){.b = b};
    for (int i = 0; i < n_shards; i++) {
        size_t bytes = (size_t)s[i].largest * sizeof(float);
        if (s[i].size > 1 && !s[i].bulk && bytes > k->bytes)
            k->bytes = bytes;
    }
    if (k->bytes == 0)
        return 0;
    k->host = slc_mem_alloc(b, k->bytes, SLC_MEM_HOST, e);
    if (!k->host)
        return -1;
    k->stage = b->host_readable ? k->host : slc_mem_alloc(b, k->bytes, SLC_MEM_DEVICE, e);
    return k->stage ? 0 : -1;
}

void slc_bucket_release(struct slc_bucket *k)
{
    if (k->stage && k->stage != k->host)
        slc_mem_free(k->b, k->stage, SLC_MEM_DEVICE);
    if (k->host)
        slc_mem_free(k->b, k->host, SLC_MEM_HOST);
    *k = (struct slc_bucket){0};
}
