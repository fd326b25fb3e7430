/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/deal.h"

#include <math.h>

/*
 * Blocks of queries against blocks of keys; the softmax runs over blocks as they come
 * (Milakov and Gimelshein 2018; Dao et al. 2022). Scores are kept key-major, so that a
 * block of queries is transposed once and everything is vectorised over queries. The
 * softmax is fp32 for both types; bf16 weights are rounded before the product with v.
 */
#define BQ SLC_ATTN_BQ
#define BK SLC_ATTN_BK
#define STRIP SLC_ATTN_STRIP

struct forward {
    float s[BK * BQ], pairs[BK / 2 * BQ]; /* [key][query] */
    float qt[SLC_CPU_HEAD * BQ], o[BQ * SLC_ATTN_ROW], kv[BK * SLC_ATTN_ROW];
    float max[BQ], sum[BQ], shift[BQ], factor[BQ];
};

/* Scale the scores of key u for queries [t0, t0+n); -inf where u is not seen. */
static void mask_row(float *s, int64_t n, int64_t u, int64_t t0, int64_t window,
                     float scale)
{
    const int64_t lo = u > t0 ? slc_min(u - t0, n) : 0;
    const int64_t hi = window > 0 ? slc_min(u + window - t0, n) : n;

    for (int64_t i = 0; i < lo; i++)
        s[i] = -INFINITY;
#pragma omp simd
    for (int64_t i = lo; i < n; i++)
        s[i] *= scale;
    for (int64_t i = hi > lo ? hi : lo; i < n; i++)
        s[i] = -INFINITY;
}

/* A vector of queries: scores of a block -> weights; running maximum and sum; how much o
 * must shrink. Scores are multiplied by `scale`. */
SLC_ALWAYS void softmax_vector(struct forward *w, int64_t at, int64_t nk, float scale)
{
    float shift[SLC_VL], sum[SLC_VL];

    memcpy(shift, w->max + at, sizeof(shift));
    for (int64_t j = 0; j < nk; j++) {
        const float *s = w->s + j * BQ + at;

#pragma omp simd
        for (int l = 0; l < SLC_VL; l++) {
            const float x = s[l] * scale;

            shift[l] = x > shift[l] ? x : shift[l];
        }
    }
#pragma omp simd
    for (int l = 0; l < SLC_VL; l++) {
        const float max = shift[l];

        /* A query that has seen no key yet: -inf - (-inf) must not appear. */
        shift[l] = max == -INFINITY ? 0.0f : max;
        w->factor[at + l] = slc_exp(w->max[at + l] - shift[l]);
        sum[l] = w->sum[at + l] * w->factor[at + l];
        w->max[at + l] = max;
    }
    for (int64_t j = 0; j < nk; j++) {
        float *s = w->s + j * BQ + at;

#pragma omp simd
        for (int l = 0; l < SLC_VL; l++) {
            s[l] = slc_exp(s[l] * scale - shift[l]);
            sum[l] += s[l];
        }
    }
    memcpy(w->sum + at, sum, sizeof(sum));
}

static void shrink(struct forward *w, int64_t nq, int64_t D)
{
    for (int64_t i = 0; i < nq; i++) {
        const float f = w->factor[i];
        float *o = w->o + i * slc_attn_row(D);

        if (f == 1.0f)
            continue;
#pragma omp simd
        for (int64_t d = 0; d < D; d++)
            o[d] *= f;
    }
}

/* Scores [key][query] of a block; on the diagonal a strip of keys has no query before it. */
static void scores(const struct slc_attention_forward_args *a, struct forward *w,
                   struct slc_block k, int64_t t0, int64_t n, int64_t u0, int64_t nk)
{
    const bool pair = slc_attn_pairs(a->dtype, a->D);
    const int64_t words = pair ? a->D / 2 : a->D;
    const int64_t strip = t0 == u0 ? STRIP : nk;

    for (int64_t j = 0; j < nk; j += strip) {
        const int64_t first = t0 == u0 ? j : 0;

        slc_block_product(slc_min(strip, nk - j), n - first, words, k.rows + j * k.ld,
                          k.ld, 1, w->qt + first, BQ, w->s + j * BQ + first, BQ, false,
                          pair);
    }
}

/* o += weights v; on the diagonal a strip of queries has no key after it. */
static void weighted(const struct slc_attention_forward_args *a, struct forward *w,
                     int64_t nq, int64_t n, int64_t nk, bool diagonal)
{
    const bool pair = slc_attn_pairs(a->dtype, a->D);
    const int64_t ld = slc_attn_row(a->D), strip = diagonal ? STRIP : nq;

    if (pair)
        slc_pair_rows(w->s, nk, n, BQ, w->pairs);
    for (int64_t i = 0; i < nq; i += strip) {
        const int64_t keys = diagonal ? slc_min(i + strip, nk) : nk;

        slc_block_product(slc_min(strip, nq - i), slc_whole(a->D),
                          pair ? (keys + 1) / 2 : keys, (pair ? w->pairs : w->s) + i, 1,
                          BQ, w->kv, ld, w->o + i * ld, ld, true, pair);
    }
}

/* Queries [t0, t0+nq) of head h against keys [u0, u0+nk). */
static void forward_pair(const struct slc_attention_forward_args *a, struct forward *w,
                         int64_t t0, int64_t nq, int64_t u0, int64_t nk, int64_t h)
{
    const int64_t D = a->D, g = h / (a->NQ / a->NK), n = slc_whole(nq);
    const bool diagonal = t0 == u0;
    const bool masked = diagonal || (a->window > 0 && u0 + a->window < t0 + nq);

    scores(a, w, slc_block_of(a->k, a->dtype, u0, nk, a->NK, g, D, w->kv), t0, n, u0, nk);
    for (int64_t j = 0; masked && j < nk; j++)
        mask_row(w->s + j * BQ, n, u0 + j, t0, a->window, a->scale);
    for (int64_t i = 0; i < n; i += SLC_VL)
        softmax_vector(w, i, nk, masked ? 1.0f : a->scale);
    shrink(w, nq, D);
    slc_block_right(a->v, a->dtype, u0, nk, a->NK, g, D, w->kv);
    weighted(a, w, nq, n, nk, diagonal);
}

static void finish(const struct slc_attention_forward_args *a, struct forward *w,
                   int64_t t0, int64_t nq, int64_t h)
{
    const int64_t D = a->D, n = slc_whole(nq);

    for (int64_t i = 0; i < n; i += SLC_VL)
#pragma omp simd
        for (int64_t l = i; l < i + SLC_VL; l++) {
            w->factor[l] = 1 / w->sum[l];
            w->shift[l] = w->max[l] + slc_log(w->sum[l]);
        }
    for (int64_t i = 0; i < nq; i++) {
        const int64_t at = ((t0 + i) * a->NQ + h) * D;
        const float f = w->factor[i], *o = w->o + i * slc_attn_row(D);
        float buf[SLC_CPU_HEAD], *y = slc_out(a->o, a->dtype, at, buf);

#pragma omp simd
        for (int64_t d = 0; d < D; d++)
            y[d] = o[d] * f;
        slc_put(a->o, a->dtype, at, D, y);
        a->lse[(t0 + i) * a->NQ + h] = w->shift[i];
    }
}

static void forward_block(const struct slc_attention_forward_args *a, struct forward *w,
                          int64_t from, int64_t t0, int64_t nq, int64_t h)
{
    const int64_t D = a->D, n = slc_whole(nq);
    const bool pair = slc_attn_pairs(a->dtype, D);
    struct slc_block q = slc_block_of(a->q, a->dtype, t0, nq, a->NQ, h, D, w->o);
    const int64_t seen = slc_first_key(t0, from, a->window);

    slc_block_transpose(q.rows, q.ld, nq, pair ? D / 2 : D, w->qt, BQ);
    memset(w->o, 0, (size_t)(nq * slc_attn_row(D)) * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0;
    }
    /* Key blocks start where query blocks do, so that one of them is the diagonal. */
    for (int64_t u = seen - (seen - from) % BK; u < t0 + nq; u += BK)
        forward_pair(a, w, t0, nq, u, slc_min(BK, t0 + nq - u), h);
    finish(a, w, t0, nq, h);
}

void SLC_CPU(attention_forward)(struct slc_queue *q,
                                const struct slc_attention_forward_args *a)
{
    int64_t next = 0;

    if (a->D > SLC_CPU_HEAD) {
        slc_cpu_refuse(q, "a head width above 256");
        return;
    }
#pragma omp parallel if (a->T > BQ)
    {
        struct slc_deal d = slc_deal_begin(&next);
        struct forward w;

        for (int64_t s = 0; s < a->n_seg; s++)
            for (int64_t t = a->seg[s]; t < a->seg[s + 1]; t += BQ)
                for (int64_t h = 0; h < a->NQ; h++)
                    if (slc_deal_mine(&d))
                        forward_block(a, &w, a->seg[s], t,
                                      slc_min(BQ, a->seg[s + 1] - t), h);
    }
}
