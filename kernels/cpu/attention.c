/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/attention.h"

#include <math.h>

/*
 * Blocks of queries against blocks of keys; the products are oneDNN's, the softmax runs
 * over blocks as they come (Milakov and Gimelshein 2018; Dao et al. 2022). A block of
 * bf16 rows is converted into a buffer first, so the arithmetic is fp32 for both types.
 */
#define BQ SLC_ATTN_BQ
#define BK SLC_ATTN_BK

struct forward {
    float s[BQ * BK], o[BQ * SLC_CPU_HEAD], max[BQ], sum[BQ];
    float q[BQ * SLC_CPU_HEAD], k[BK * SLC_CPU_HEAD];
};

/* Row of scores -> exp(score - max) with keys outside [lo, hi) zero; rescales o. */
static void softmax_row(struct forward *w, int64_t i, int64_t lo, int64_t hi,
                        int64_t nk, int64_t D, float scale)
{
    float *s = w->s + i * BK, *o = w->o + i * SLC_CPU_HEAD;
    float max = w->max[i], sum = 0;

    if (lo >= hi) {
        memset(s, 0, (size_t)nk * sizeof(*s));
        return;
    }
#pragma omp simd reduction(max : max)
    for (int64_t j = lo; j < hi; j++) {
        s[j] *= scale;
        max = s[j] > max ? s[j] : max;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t j = lo; j < hi; j++) {
        s[j] = slc_exp(s[j] - max);
        sum += s[j];
    }
    memset(s, 0, (size_t)lo * sizeof(*s));
    memset(s + hi, 0, (size_t)(nk - hi) * sizeof(*s));
    if (max > w->max[i]) {
        const float f = slc_exp(w->max[i] - max);

        w->sum[i] *= f;
#pragma omp simd
        for (int64_t d = 0; d < D; d++)
            o[d] *= f;
        w->max[i] = max;
    }
    w->sum[i] += sum;
}

/* Queries [t0, t0+nq) of head h against keys [u0, u0+nk). */
static void forward_pair(struct slc_queue *q,
                         const struct slc_attention_forward_args *a, struct forward *w,
                         struct slc_block qb, int64_t from, int64_t t0, int64_t nq,
                         int64_t u0, int64_t nk, int64_t h)
{
    const int64_t D = a->D, g = h / (a->NQ / a->NK);
    struct slc_block kb = slc_block_of(a->k, a->dtype, u0, nk, a->NK, g, D, w->k);

    slc_cpu_sgemm(q, false, true, nq, nk, D, qb.rows, qb.ld, kb.rows, kb.ld, 0, w->s,
                  BK);
    for (int64_t i = 0; i < nq; i++) {
        const int64_t t = t0 + i, lo = slc_first_key(t, from, a->window) - u0;

        softmax_row(w, i, lo > 0 ? slc_min(lo, nk) : 0, slc_min(t + 1 - u0, nk), nk, D,
                    a->scale);
    }
    struct slc_block vb = slc_block_of(a->v, a->dtype, u0, nk, a->NK, g, D, w->k);
    slc_cpu_sgemm(q, false, false, nq, D, nk, w->s, BK, vb.rows, vb.ld, 1, w->o,
                  SLC_CPU_HEAD);
}

static void forward_block(struct slc_queue *q,
                          const struct slc_attention_forward_args *a, struct forward *w,
                          int64_t from, int64_t t0, int64_t nq, int64_t h)
{
    const int64_t D = a->D;
    struct slc_block qb = slc_block_of(a->q, a->dtype, t0, nq, a->NQ, h, D, w->q);

    for (int64_t i = 0; i < nq; i++) {
        memset(w->o + i * SLC_CPU_HEAD, 0, (size_t)D * sizeof(float));
        w->max[i] = -INFINITY;
        w->sum[i] = 0;
    }
    for (int64_t u = slc_first_key(t0, from, a->window); u < t0 + nq; u += BK)
        forward_pair(q, a, w, qb, from, t0, nq, u, slc_min(BK, t0 + nq - u), h);
    for (int64_t i = 0; i < nq; i++) {
        const int64_t at = ((t0 + i) * a->NQ + h) * D;
        const float f = 1 / w->sum[i], *o = w->o + i * SLC_CPU_HEAD;
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
                forward_block(q, a, &w, from, t, slc_min(BQ, to - t), h);
        }
}
