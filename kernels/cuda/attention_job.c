/* SPDX-License-Identifier: Apache-2.0 */
#ifdef SLC_HAVE_CUDNN

#include "kernels/cuda/attention_job.h"

#include <string.h>

#define SPARE_BYTES (64u << 20) /* what a plan may want beside dS */
/* What a call costs beside its work, in blocks of 128 queries that find nothing to do:
 * launches, and multiprocessors without work while its longest document ends. Measured
 * on an H100; the forward is short, so its ends weigh more. */
#define FORWARD_CALL 11000
#define BACKWARD_CALL 2048

bool slc_attention_job_init(struct slc_attention_job *j, const struct slc_cuda *c,
                            const struct slc_attention_backward_args *a, bool backward)
{
    if (a->dtype != SLC_BF16 || a->D % 8 || a->D > 128 || c->arch < 90 ||
        a->max_len <= 0 || a->T * a->NQ * a->D >= 1ll << 31)
        return false;
    memset(&j->shape, 0, sizeof(j->shape)); /* shapes are compared as bytes */
    j->a = a;
    j->shape.NQ = a->NQ;
    j->shape.NK = a->NK;
    j->shape.D = a->D;
    j->shape.window = a->window;
    j->shape.backward = backward;
    j->rule = (struct slc_packing_rule){
        .T = a->T,
        .row = c->attention ? c->attention->whole : 0,
        .heads = a->NQ,
        .kv_heads = a->NK,
        /* dS of as many calls at once as there are streams */
        .workspace = backward ? c->attention_bytes / SLC_ATTENTION_LANES : 0,
        .call_blocks = backward ? BACKWARD_CALL : FORWARD_CALL,
    };
    return true;
}

int slc_attention_check_room(const struct slc_cuda *c, int64_t S, struct slc_err *e)
{
    if (2 * S * S <= c->attention_bytes)
        return 0;
    return slc_errf(
        e, SLC_EXIT_CONFIG,
        "attention over %lld tokens: its deterministic backward keeps %lld MiB "
        "of scores for a head, run.attention_mib allows %lld; raise it or "
        "shorten data.sequence",
        (long long)S, (long long)(2 * S * S >> 20),
        (long long)(c->attention_bytes >> 20));
}

int slc_cuda_attention_check(const struct slc_cuda *c,
                             const struct slc_attention_backward_args *a,
                             struct slc_err *e)
{
    struct slc_attention_job j;

    if (!slc_attention_job_init(&j, c, a, true))
        return 0;
    return slc_attention_check_room(c, slc_ceil_div(a->max_len, 128) * 128, e);
}

void slc_attention_cut(struct slc_attention_job *j)
{
    const struct slc_attention_backward_args *a = j->a;
    const bool whole = a->n_seg * a->max_len == a->T && a->max_len % 128 == 0 &&
                       (j->rule.row == 0 || a->max_len == j->rule.row);

    j->shape.ragged = !whole;
    if (whole)
        slc_packing_rows(&j->packing, &j->rule, a->n_seg, a->max_len);
    else
        slc_packing_cut(&j->packing, &j->rule, a->seg_host, a->n_seg, a->max_len);
}

const struct slc_sdpa_shape *slc_attention_shape(struct slc_attention_job *j, int64_t B,
                                                 int64_t S)
{
    struct slc_sdpa_shape *s = &j->shape;
    const int64_t group = s->NQ / s->NK;

    s->B = B;
    s->S = S;
    s->heads = slc_packing_heads(&j->rule, B, S);
    s->split = s->heads < group;
    s->kv_heads = s->split ? 1 : s->heads / group;
    return s;
}

bool slc_attention_add_need(struct slc_attention_need *n, struct slc_cuda *c,
                            struct slc_attention_job *j, int64_t B, int64_t S)
{
    const struct slc_sdpa_plan *p =
        slc_cuda_attention_plan(c, slc_attention_shape(j, B, S));

    if (!p)
        return false;
    n->workspace = (size_t)slc_most((int64_t)n->workspace, p->workspace);
    n->sum = n->sum || p->uses[SLC_SDPA_SUM];
    n->full = n->full || p->uses[SLC_SDPA_DK_FULL] || j->shape.split;
    return true;
}

static size_t part(size_t *at, size_t bytes)
{
    const size_t here = *at;

    *at = (here + bytes + 255) / 256 * 256;
    return here;
}

struct slc_attention_parts
slc_attention_scratch(const struct slc_cuda *c,
                      const struct slc_attention_backward_args *a, int64_t slots,
                      const struct slc_attention_need *n)
{
    const size_t list = (size_t)(slots + 1) * sizeof(int32_t);
    const size_t rows = (size_t)(a->T * a->NQ), full = rows * (size_t)a->D * 2;
    const size_t most = (size_t)c->attention_bytes + SPARE_BYTES;
    const size_t both = SLC_ATTENTION_LANES * (n->workspace + 255);
    struct slc_attention_parts x;
    size_t at = 0;

    x.length = part(&at, list);
    x.off_q = part(&at, list);
    x.off_k = part(&at, list);
    x.off_stats = part(&at, list);
    x.sum = part(&at, n->sum ? rows * sizeof(float) : 0);
    x.dk = part(&at, n->full ? full : 0);
    x.dv = part(&at, n->full ? full : 0);
    x.workspace = part(&at, n->workspace);
    x.second = x.workspace;
    if (both <= most)
        x.second = part(&at, n->workspace);
    /* what a larger need reserves is enough for a smaller one in two lanes */
    x.end = both <= most ? at
                         : (size_t)slc_most((int64_t)at, (int64_t)(x.workspace + most));
    return x;
}

#endif
