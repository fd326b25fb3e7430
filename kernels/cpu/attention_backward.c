/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/attention.h"

#define BQ SLC_ATTN_BQ
#define BK SLC_ATTN_BK

/*
 * One thread owns a key head of a document and so all it writes: dk and dv are summed
 * over query blocks in ascending order, dq over key blocks in ascending order.
 */
struct backward {
    float p[BQ * BK], ds[BQ * BK];
    float q[BQ * SLC_ATTN_ROW], d_o[BQ * SLC_ATTN_ROW], dq[BQ * SLC_ATTN_ROW];
    float k[BK * SLC_ATTN_ROW], v[BK * SLC_ATTN_ROW];
    float kt[SLC_CPU_HEAD * BK], vt[SLC_CPU_HEAD * BK]; /* transposed */
    float dk[BK * SLC_ATTN_ROW], dv[BK * SLC_ATTN_ROW];
};

/* <do, o> of one query. */
static float delta_of(const struct slc_attention_backward_args *a, const float *d_o,
                      int64_t t, int64_t h)
{
    float buf[SLC_CPU_HEAD], sum = 0;
    const float *o = slc_in(a->o, a->dtype, (t * a->NQ + h) * a->D, a->D, buf);

#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < a->D; d++)
        sum += d_o[d] * o[d];
    return sum;
}

/* Scores and do.v of one query -> P and scale * dS; keys outside [lo, hi) zero. */
static void score_row(float *p, float *ds, int64_t lo, int64_t hi, int64_t nk,
                      float lse, float delta, float scale)
{
    if (lo >= hi)
        lo = hi = 0;
    memset(p, 0, (size_t)lo * sizeof(*p));
    memset(ds, 0, (size_t)lo * sizeof(*ds));
#pragma omp simd
    for (int64_t j = lo; j < hi; j++) {
        p[j] = slc_exp(p[j] * scale - lse);
        ds[j] = scale * p[j] * (ds[j] - delta);
    }
    memset(p + hi, 0, (size_t)(nk - hi) * sizeof(*p));
    memset(ds + hi, 0, (size_t)(nk - hi) * sizeof(*ds));
}

/* Queries [t0, t0+nq) of head h against keys [u0, u0+nk); dq is [T,NQ,D] fp32. */
static void backward_pair(const struct slc_attention_backward_args *a,
                          struct backward *w, struct slc_block k, int64_t from,
                          int64_t t0, int64_t nq, int64_t u0, int64_t nk, int64_t h,
                          float *dq)
{
    const int64_t D = a->D, ld = slc_attn_row(D), n = slc_whole(nk);
    struct slc_block q = slc_block_copy(a->q, a->dtype, t0, nq, a->NQ, h, D, w->q);
    struct slc_block o = slc_block_copy(a->d_o, a->dtype, t0, nq, a->NQ, h, D, w->d_o);

    slc_block_product(nq, n, D, q.rows, q.ld, 1, w->kt, BK, w->p, BK, false);
    slc_block_product(nq, n, D, o.rows, o.ld, 1, w->vt, BK, w->ds, BK, false);
    for (int64_t i = 0; i < nq; i++) {
        const int64_t t = t0 + i, lo = slc_first_key(t, from, a->window) - u0;

        score_row(w->p + i * BK, w->ds + i * BK, lo > 0 ? slc_min(lo, nk) : 0,
                  slc_min(t + 1 - u0, nk), nk, a->lse[t * a->NQ + h],
                  delta_of(a, o.rows + i * o.ld, t, h), a->scale);
    }
    slc_block_product(nk, D, nq, w->p, 1, BK, o.rows, o.ld, w->dv, ld, true);
    slc_block_product(nk, D, nq, w->ds, 1, BK, q.rows, q.ld, w->dk, ld, true);
    slc_block_product(nq, D, nk, w->ds, BK, 1, k.rows, k.ld, w->dq, ld, false);
    for (int64_t i = 0; i < nq; i++) {
        float *sum = dq + ((t0 + i) * a->NQ + h) * D;
        const float *part = w->dq + i * ld;

#pragma omp simd
        for (int64_t d = 0; d < D; d++)
            sum[d] += part[d];
    }
}

static void put_keys(void *out, enum slc_dtype dtype, const float *x, int64_t u0,
                     int64_t nk, int64_t heads, int64_t g, int64_t D)
{
    for (int64_t j = 0; j < nk; j++) {
        const int64_t at = ((u0 + j) * heads + g) * D;

        if (dtype == SLC_F32)
            memcpy((float *)out + at, x + j * slc_attn_row(D), (size_t)D * sizeof(*x));
        else
            slc_put(out, dtype, at, D, x + j * slc_attn_row(D));
    }
}

/* Keys [u0, u0+nk) of key head g against all queries that see them. */
static void backward_keys(const struct slc_attention_backward_args *a,
                          struct backward *w, int64_t from, int64_t to, int64_t u0,
                          int64_t nk, int64_t g, float *dq)
{
    const int64_t D = a->D, group = a->NQ / a->NK;
    const int64_t last = a->window > 0 ? slc_min(to, u0 + nk - 1 + a->window) : to;
    struct slc_block k = slc_block_copy(a->k, a->dtype, u0, nk, a->NK, g, D, w->k);
    struct slc_block v = slc_block_copy(a->v, a->dtype, u0, nk, a->NK, g, D, w->v);

    slc_block_transpose(k.rows, k.ld, nk, D, w->kt, BK);
    slc_block_transpose(v.rows, v.ld, nk, D, w->vt, BK);
    memset(w->dk, 0, (size_t)(nk * slc_attn_row(D)) * sizeof(float));
    memset(w->dv, 0, (size_t)(nk * slc_attn_row(D)) * sizeof(float));
    for (int64_t h = g * group; h < (g + 1) * group; h++)
        for (int64_t t = u0; t < last; t += BQ)
            backward_pair(a, w, k, from, t, slc_min(BQ, last - t), u0, nk, h, dq);
    put_keys(a->dk, a->dtype, w->dk, u0, nk, a->NK, g, D);
    put_keys(a->dv, a->dtype, w->dv, u0, nk, a->NK, g, D);
}

/* Zero the queries of a key head, or write their sums as dtype. */
static void queries(const struct slc_attention_backward_args *a, int64_t from,
                    int64_t to, int64_t g, float *dq, bool zero)
{
    const int64_t n = a->NQ / a->NK * a->D;

    for (int64_t t = from; t < to; t++) {
        const int64_t at = t * a->NQ * a->D + g * n;

        if (zero)
            memset(dq + at, 0, (size_t)n * sizeof(*dq));
        else
            slc_put(a->dq, a->dtype, at, n, dq + at);
    }
}

void SLC_CPU(attention_backward)(struct slc_queue *q,
                                 const struct slc_attention_backward_args *a)
{
    float *dq = a->dtype == SLC_F32 ? a->dq : slc_cpu_scratch(q, a->T * a->NQ * a->D);

    if (a->D > SLC_CPU_HEAD) {
        slc_cpu_refuse(q, "a head width above 256");
        return;
    }
    if (!dq)
        return;
#pragma omp parallel for collapse(2) schedule(dynamic) if (a->T > BQ)
    for (int64_t s = 0; s < a->n_seg; s++)
        for (int64_t g = 0; g < a->NK; g++) {
            const int64_t from = a->seg[s], to = a->seg[s + 1];
            struct backward w;

            if (from == to)
                continue;
            queries(a, from, to, g, dq, true);
            for (int64_t u = from; u < to; u += BK)
                backward_keys(a, &w, from, to, u, slc_min(BK, to - u), g, dq);
            queries(a, from, to, g, dq, false);
        }
}
