/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/attention.h"

#include <math.h>

/*
 * Blocks of queries against blocks of keys; the softmax runs over blocks as they come
 * (Milakov and Gimelshein 2018; Dao et al. 2022). Scores are kept key-major, so that a
 * block of queries is transposed once and everything is vectorised over queries. A
 * block of bf16 rows is converted into a buffer first: the arithmetic is fp32 for both
 * types.
 */
#define BQ SLC_ATTN_BQ
#define BK SLC_ATTN_BK

struct forward {
    float s[BK * BQ]; /* [key][query] */
    float qt[SLC_CPU_HEAD * BQ], o[BQ * SLC_ATTN_ROW], kv[BK * SLC_ATTN_ROW];
    float max[BQ], sum[BQ], shift[BQ], factor[BQ];
};

/* Scores of key u for queries [t0, t0+n): scaled, -inf where u is not seen. */
static void mask_row(float *s, int64_t n, int64_t u, int64_t t0, int64_t window,
                     float scale)
{
    const int64_t lo = u > t0 ? slc_min(u - t0, n) : 0;
    const int64_t hi = window > 0 ? slc_min(u + window - t0, n) : n;

#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        s[i] *= scale;
    for (int64_t i = 0; i < lo; i++)
        s[i] = -INFINITY;
    for (int64_t i = hi > lo ? hi : lo; i < n; i++)
        s[i] = -INFINITY;
}

/* Scores of a block -> weights; running maximum and sum; how much o must shrink. */
static void softmax_block(struct forward *w, int64_t n, int64_t nk)
{
    for (int64_t i = 0; i < n; i++)
        w->shift[i] = w->max[i];
    for (int64_t j = 0; j < nk; j++) {
        const float *s = w->s + j * BQ;

#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            w->shift[i] = s[i] > w->shift[i] ? s[i] : w->shift[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float max = w->shift[i];

        /* A query that has seen no key yet: -inf - (-inf) must not appear. */
        w->shift[i] = max == -INFINITY ? 0.0f : max;
        w->factor[i] = slc_exp(w->max[i] - w->shift[i]);
        w->sum[i] *= w->factor[i];
        w->max[i] = max;
    }
    for (int64_t j = 0; j < nk; j++) {
        float *s = w->s + j * BQ;

#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            s[i] = slc_exp(s[i] - w->shift[i]);
            w->sum[i] += s[i];
        }
    }
}

/* Queries [t0, t0+nq) of head h against keys [u0, u0+nk). */
static void forward_pair(const struct slc_attention_forward_args *a, struct forward *w,
                         int64_t t0, int64_t nq, int64_t u0, int64_t nk, int64_t h)
{
    const int64_t D = a->D, g = h / (a->NQ / a->NK), n = slc_whole(nq);
    struct slc_block k = slc_block_of(a->k, a->dtype, u0, nk, a->NK, g, D, w->kv);

    slc_block_product(nk, n, D, k.rows, k.ld, 1, w->qt, BQ, w->s, BQ, false);
    for (int64_t j = 0; j < nk; j++)
        mask_row(w->s + j * BQ, n, u0 + j, t0, a->window, a->scale);
    softmax_block(w, n, nk);
    for (int64_t i = 0; i < nq; i++) {
        const float f = w->factor[i];
        float *o = w->o + i * slc_attn_row(D);

        if (f == 1.0f)
            continue;
#pragma omp simd
        for (int64_t d = 0; d < D; d++)
            o[d] *= f;
    }
    struct slc_block v = slc_block_copy(a->v, a->dtype, u0, nk, a->NK, g, D, w->kv);
    slc_block_product(nq, D, nk, w->s, 1, BQ, v.rows, v.ld, w->o, slc_attn_row(D),
                      true);
}

static void forward_block(const struct slc_attention_forward_args *a, struct forward *w,
                          int64_t from, int64_t t0, int64_t nq, int64_t h)
{
    const int64_t D = a->D;
    struct slc_block q = slc_block_of(a->q, a->dtype, t0, nq, a->NQ, h, D, w->o);

    slc_block_transpose(q.rows, q.ld, nq, D, w->qt, BQ);
    memset(w->o, 0, (size_t)(nq * slc_attn_row(D)) * sizeof(float));
    for (int64_t i = 0; i < BQ; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0;
    }
    for (int64_t u = slc_first_key(t0, from, a->window); u < t0 + nq; u += BK)
        forward_pair(a, w, t0, nq, u, slc_min(BK, t0 + nq - u), h);
    for (int64_t i = 0; i < nq; i++) {
        const int64_t at = ((t0 + i) * a->NQ + h) * D;
        const float f = 1 / w->sum[i], *o = w->o + i * slc_attn_row(D);
        float buf[SLC_CPU_HEAD], *y = slc_out(a->o, a->dtype, at, buf);

#pragma omp simd
        for (int64_t d = 0; d < D; d++)
            y[d] = o[d] * f;
        slc_put(a->o, a->dtype, at, D, y);
        a->lse[(t0 + i) * a->NQ + h] = w->max[i] + logf(w->sum[i]);
    }
}

void SLC_CPU(attention_forward)(struct slc_queue *q,
                                const struct slc_attention_forward_args *a)
{
    if (a->D > SLC_CPU_HEAD) {
        slc_cpu_refuse(q, "a head width above 256");
        return;
    }
#pragma omp parallel for collapse(2) schedule(dynamic) if (a->T > BQ)
    for (int64_t s = 0; s < a->n_seg; s++)
        for (int64_t h = 0; h < a->NQ; h++) {
            const int64_t from = a->seg[s], to = a->seg[s + 1];
            struct forward w;

            for (int64_t t = from; t < to; t += BQ)
                forward_block(a, &w, from, t, slc_min(BQ, to - t), h);
        }
}
