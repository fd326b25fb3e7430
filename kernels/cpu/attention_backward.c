/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/deal.h"

#include <omp.h>

#define BQ SLC_ATTN_BQ
#define BK SLC_ATTN_BK
#define STRIP SLC_ATTN_STRIP

/*
 * A task owns all it writes: a key head of a document its dk, dv and dq, summed over
 * blocks in ascending order. Where such tasks are too few for the threads, dq is left to
 * tasks of its own, one for a block of queries, which make the scores again: two of seven
 * products more, and the same sums in the same order, so the same bits.
 *
 * Rows of words are left sides of products, `right` ones are summed over.
 */
struct backward {
    float p[BQ * BK], ds[BQ * BK], pairs[BQ * BK / 2]; /* [query][key] */
    float q[BQ * SLC_ATTN_ROW], d_o[BQ * SLC_ATTN_ROW];
    float q_right[BQ * SLC_ATTN_ROW], d_o_right[BQ * SLC_ATTN_ROW];
    float k_right[BK * SLC_ATTN_ROW], part[BQ * SLC_ATTN_ROW];
    float kt[SLC_CPU_HEAD * BK], vt[SLC_CPU_HEAD * BK]; /* words, transposed */
    float dk[BK * SLC_ATTN_ROW], dv[BK * SLC_ATTN_ROW];
};

/* A call, and what is shared by its tasks. */
struct call {
    const struct slc_attention_backward_args *a;
    float *dq, *delta; /* [T,NQ,D] fp32 sums; [T,NQ] */
    int64_t ld, words; /* of a block's rows */
    bool pair;
};

/* A block of queries of one head against a block of keys. */
struct place {
    int64_t from, t0, nq, u0, nk, h;
};

/* <do, o> of one query. */
static float delta_of(const struct slc_attention_backward_args *a, int64_t t, int64_t h)
{
    float b1[SLC_CPU_HEAD], b2[SLC_CPU_HEAD];
    const float *d_o = slc_in(a->d_o, a->dtype, (t * a->NQ + h) * a->D, a->D, b1);
    const float *o = slc_in(a->o, a->dtype, (t * a->NQ + h) * a->D, a->D, b2);

    return slc_dot(d_o, o, a->D);
}

/* Scores and do.v of one query -> P and scale * dS; keys outside [lo, hi) zero. */
static void score_row(float *p, float *ds, int64_t lo, int64_t hi, int64_t n, float lse,
                      float delta, float scale)
{
    if (lo >= hi)
        lo = hi = 0;
    for (int64_t j = 0; j < n; j += SLC_VL)
#pragma omp simd
        for (int64_t l = j; l < j + SLC_VL; l++) {
            const bool seen = l >= lo && l < hi;
            const float e = slc_exp(p[l] * scale - lse);

            p[l] = seen ? e : 0.0f;
            ds[l] = seen ? scale * e * (ds[l] - delta) : 0.0f;
        }
}

static void keys_prepare(const struct call *c, struct backward *w, int64_t u0, int64_t nk,
                         int64_t g)
{
    const struct slc_attention_backward_args *a = c->a;
    const struct slc_block k = slc_block_of(a->k, a->dtype, u0, nk, a->NK, g, a->D,
                                            w->k_right);
    const struct slc_block v = slc_block_of(a->v, a->dtype, u0, nk, a->NK, g, a->D, w->part);

    slc_block_transpose(k.rows, k.ld, nk, c->words, w->kt, BK);
    slc_block_transpose(v.rows, v.ld, nk, c->words, w->vt, BK);
    slc_block_right(a->k, a->dtype, u0, nk, a->NK, g, a->D, w->k_right);
}

static void queries_prepare(const struct call *c, struct backward *w, int64_t t0,
                            int64_t nq, int64_t h)
{
    const struct slc_attention_backward_args *a = c->a;

    slc_block_copy(a->q, a->dtype, t0, nq, a->NQ, h, a->D, w->q);
    slc_block_copy(a->d_o, a->dtype, t0, nq, a->NQ, h, a->D, w->d_o);
    if (!c->pair)
        return;
    slc_block_right(a->q, a->dtype, t0, nq, a->NQ, h, a->D, w->q_right);
    slc_block_right(a->d_o, a->dtype, t0, nq, a->NQ, h, a->D, w->d_o_right);
}

/* w->p and w->ds [query][key]; on the diagonal a strip of queries sees no key after it. */
static void scores(const struct call *c, struct backward *w, const struct place *x)
{
    const struct slc_attention_backward_args *a = c->a;
    const int64_t whole = slc_whole(x->nk), strip = x->t0 == x->u0 ? STRIP : x->nq;

    for (int64_t i = 0; i < x->nq; i += strip) {
        const int64_t m = slc_min(strip, x->nq - i);
        const int64_t n = x->t0 == x->u0 ? slc_min(i + strip, whole) : whole;

        slc_block_product(m, n, c->words, w->q + i * c->ld, c->ld, 1, w->kt, BK,
                          w->p + i * BK, BK, false, c->pair);
        slc_block_product(m, n, c->words, w->d_o + i * c->ld, c->ld, 1, w->vt, BK,
                          w->ds + i * BK, BK, false, c->pair);
    }
    for (int64_t i = 0; i < x->nq; i++) {
        const int64_t t = x->t0 + i, lo = slc_first_key(t, x->from, a->window) - x->u0;

        score_row(w->p + i * BK, w->ds + i * BK, lo > 0 ? slc_min(lo, x->nk) : 0,
                  slc_min(t + 1 - x->u0, x->nk), whole, a->lse[t * a->NQ + x->h],
                  c->delta[t * a->NQ + x->h], a->scale);
    }
}

/* out[key] += x^T rows of queries; on the diagonal a strip of keys has no query before it. */
static void add_keys(const struct call *c, struct backward *w, const struct place *x,
                     const float *s, const float *right, float *out)
{
    const bool diagonal = x->t0 == x->u0;
    const int64_t strip = diagonal ? STRIP : x->nk, each = c->pair ? 2 : 1;

    if (c->pair) {
        slc_pair_rows(s, x->nq, slc_whole(x->nk), BK, w->pairs);
        s = w->pairs;
    }
    for (int64_t j = 0; j < x->nk; j += strip) {
        const int64_t first = diagonal ? j / each : 0, K = (x->nq + each - 1) / each;

        slc_block_product(slc_min(strip, x->nk - j), slc_whole(c->a->D), K - first,
                          s + first * BK + j, 1, BK, right + first * c->ld, c->ld,
                          out + j * c->ld, c->ld, true, c->pair);
    }
}

/* dq += dS k */
static void add_queries(const struct call *c, struct backward *w, const struct place *x)
{
    const int64_t D = c->a->D, whole = slc_whole(x->nk), each = c->pair ? 2 : 1;
    const int64_t strip = x->t0 == x->u0 ? STRIP : x->nq;
    const float *s = w->ds;

    if (c->pair) {
        for (int64_t i = 0; i < x->nq; i++)
            slc_put(w->pairs, SLC_BF16, i * BK, whole, w->ds + i * BK);
        s = w->pairs;
    }
    for (int64_t i = 0; i < x->nq; i += strip) {
        const int64_t keys = x->t0 == x->u0 ? slc_min(i + strip, x->nk) : x->nk;

        slc_block_product(slc_min(strip, x->nq - i), slc_whole(D), (keys + each - 1) / each,
                          s + i * BK / each, BK / each, 1, w->k_right, c->ld,
                          w->part + i * c->ld, c->ld, false, c->pair);
    }
    for (int64_t i = 0; i < x->nq; i++) {
        float *sum = c->dq + ((x->t0 + i) * c->a->NQ + x->h) * D;
        const float *part = w->part + i * c->ld;

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
static void backward_keys(const struct call *c, struct backward *w, int64_t from,
                          int64_t to, int64_t u0, int64_t g, bool with_queries)
{
    const struct slc_attention_backward_args *a = c->a;
    const int64_t group = a->NQ / a->NK, nk = slc_min(BK, to - u0);
    const int64_t last = a->window > 0 ? slc_min(to, u0 + nk - 1 + a->window) : to;

    keys_prepare(c, w, u0, nk, g);
    memset(w->dk, 0, (size_t)(nk * c->ld) * sizeof(float));
    memset(w->dv, 0, (size_t)(nk * c->ld) * sizeof(float));
    for (int64_t h = g * group; h < (g + 1) * group; h++)
        for (int64_t t = u0; t < last; t += BQ) {
            const struct place x = {from, t, slc_min(BQ, last - t), u0, nk, h};

            queries_prepare(c, w, t, x.nq, h);
            scores(c, w, &x);
            add_keys(c, w, &x, w->p, c->pair ? w->d_o_right : w->d_o, w->dv);
            add_keys(c, w, &x, w->ds, c->pair ? w->q_right : w->q, w->dk);
            if (with_queries)
                add_queries(c, w, &x);
        }
    put_keys(a->dk, a->dtype, w->dk, u0, nk, a->NK, g, a->D);
    put_keys(a->dv, a->dtype, w->dv, u0, nk, a->NK, g, a->D);
}

/* The same sums for queries [t0, t0+nq) of head h alone. */
static void backward_queries(const struct call *c, struct backward *w, int64_t from,
                             int64_t to, int64_t t0, int64_t h)
{
    const struct slc_attention_backward_args *a = c->a;
    const int64_t nq = slc_min(BQ, to - t0), seen = slc_first_key(t0, from, a->window);

    queries_prepare(c, w, t0, nq, h);
    for (int64_t u = seen - (seen - from) % BK; u < t0 + nq; u += BK) {
        const struct place x = {from, t0, nq, u, slc_min(BK, to - u), h};

        keys_prepare(c, w, u, x.nk, h / (a->NQ / a->NK));
        scores(c, w, &x);
        add_queries(c, w, &x);
    }
}

/* Before: dq is zero and delta known. After: the sums as dtype. Queries of one head. */
static void queries_begin(const struct call *c, int64_t t, int64_t h)
{
    const struct slc_attention_backward_args *a = c->a;

    c->delta[t * a->NQ + h] = delta_of(a, t, h);
    memset(c->dq + (t * a->NQ + h) * a->D, 0, (size_t)a->D * sizeof(float));
}

/*
 * Whether key heads of documents are too few or too unequal to keep the threads busy: the
 * time then is that of the longest one.
 */
static bool too_few(const struct slc_attention_backward_args *a)
{
    const double threads = omp_get_max_threads();
    double sum = 0, longest = 0;

    for (int64_t s = 0; s < a->n_seg; s++) {
        const double n = (double)(a->seg[s + 1] - a->seg[s]);

        sum += (double)a->NK * n * n;
        longest = n * n > longest ? n * n : longest;
    }
    return longest > 1.4 * sum / threads;
}

/* Tasks of one thread in both ways. */
static void work(const struct call *c, struct backward *w, bool few, int64_t *next)
{
    const struct slc_attention_backward_args *a = c->a;
    struct slc_deal d = slc_deal_begin(next);

    for (int64_t s = 0; s < a->n_seg; s++) {
        const int64_t from = a->seg[s], to = a->seg[s + 1];

        for (int64_t g = 0; !few && g < a->NK; g++) {
            if (from == to || !slc_deal_mine(&d))
                continue;
            for (int64_t u = from; u < to; u += BK)
                backward_keys(c, w, from, to, u, g, true);
        }
        for (int64_t u = from; few && u < to; u += BK)
            for (int64_t g = 0; g < a->NK; g++)
                if (slc_deal_mine(&d))
                    backward_keys(c, w, from, to, u, g, false);
    }
    for (int64_t s = 0; few && s < a->n_seg; s++)
        for (int64_t t = a->seg[s]; t < a->seg[s + 1]; t += BQ)
            for (int64_t h = 0; h < a->NQ; h++)
                if (slc_deal_mine(&d))
                    backward_queries(c, w, a->seg[s], a->seg[s + 1], t, h);
}

void SLC_CPU(attention_backward)(struct slc_queue *q,
                                 const struct slc_attention_backward_args *a)
{
    const int64_t rows = a->T * a->NQ, n = rows * a->D;
    const bool low = a->dtype != SLC_F32;
    float *scratch;
    int64_t next = 0;

    if (a->D > SLC_CPU_HEAD) {
        slc_cpu_refuse(q, "a head width above 256");
        return;
    }
    scratch = slc_cpu_scratch(q, rows + (low ? n : 0));
    if (!scratch)
        return;
    const bool few = too_few(a), pair = slc_attn_pairs(a->dtype, a->D);
    const struct call c = {.a = a,
                           .dq = low ? scratch + rows : a->dq,
                           .delta = scratch,
                           .ld = slc_attn_row(a->D),
                           .words = pair ? a->D / 2 : a->D,
                           .pair = pair};
#pragma omp parallel if (a->T > BQ)
    {
        struct backward w;

#pragma omp for schedule(static)
        for (int64_t t = 0; t < a->T; t++)
            for (int64_t h = 0; h < a->NQ; h++)
                queries_begin(&c, t, h);
        work(&c, &w, few, &next);
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t t = 0; t < (low ? a->T : 0); t++)
            slc_put(a->dq, a->dtype, t * a->NQ * a->D, a->NQ * a->D,
                    c.dq + t * a->NQ * a->D);
    }
}
