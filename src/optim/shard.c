/* SPDX-License-Identifier: Apache-2.0 */
#include "optim/shard.h"

#include <stdlib.h>
#include <string.h>

#include "optim/optim.h"

/* Elements of one bucket over all members: large enough for bandwidth, small beside a
 * model. */
#define BUCKET (4 << 20)

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

int slc_shard_init(struct slc_shard *s, struct slc_params *ps, bool expert,
                   struct slc_group *group, int64_t bucket, struct slc_err *e)
{
    *s = (struct slc_shard){.group = group,
                            .ps = ps,
                            .size = group ? slc_group_size(group) : 1,
                            .index = group ? slc_group_index(group) : 0};
    s->param = calloc((size_t)ps->n + 1, sizeof(*s->param));
    s->first = calloc((size_t)ps->n + 1, sizeof(*s->first));
    s->cut = calloc((size_t)s->size + 1, sizeof(*s->cut));
    s->off = calloc((size_t)s->size + 1, sizeof(*s->off));
    if (!s->param || !s->first || !s->cut || !s->off) {
        slc_shard_release(s);
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the optimizer's shares");
    }
    for (int i = 0; i < ps->n; i++) {
        if (ps->p[i].expert != expert || ps->p[i].local == 0)
            continue;
        s->param[s->n] = i;
        s->first[s->n + 1] = s->first[s->n] + ps->p[i].local;
        s->n++;
    }
    int64_t total = s->first[s->n], largest = 0;
    for (int i = 1; i <= s->size; i++) {
        /* total * i / size without overflow */
        int64_t even = total / s->size * i + total % s->size * i / s->size;
        s->cut[i] = i == s->size ? total : cut_near(s, even);
        if (s->cut[i] - s->cut[i - 1] > largest)
            largest = s->cut[i] - s->cut[i - 1];
    }
    s->chunk = (bucket ? bucket : BUCKET) / s->size;
    if (s->chunk < SLC_EXTENT)
        s->chunk = SLC_EXTENT;
    if (s->chunk > largest)
        s->chunk = largest;
    s->rounds = s->chunk ? (largest + s->chunk - 1) / s->chunk : 0;
    return 0;
}

void slc_shard_release(struct slc_shard *s)
{
    free(s->param);
    free(s->first);
    free(s->cut);
    free(s->off);
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
        size_t bytes = (size_t)(s[i].chunk * s[i].size) * sizeof(float);
        if (s[i].size > 1 && bytes > k->bytes)
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
