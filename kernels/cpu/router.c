/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

/* Insertion into K places kept in descending order: equal logits keep the lower id. */
static void top_k(const float *x, int64_t E, int64_t K, int32_t *ids)
{
    int64_t n = 0;

    for (int64_t e = 0; e < E; e++) {
        int64_t at = n;

        while (at > 0 && x[e] > x[ids[at - 1]])
            at--;
        if (at >= K)
            continue;
        n = n < K ? n + 1 : K;
        for (int64_t i = n - 1; i > at; i--)
            ids[i] = ids[i - 1];
        ids[at] = (int32_t)e;
    }
    for (int64_t i = 1; i < K; i++) { /* now ascending by id */
        int32_t id = ids[i];
        int64_t at = i;

        for (; at > 0 && ids[at - 1] > id; at--)
            ids[at] = ids[at - 1];
        ids[at] = id;
    }
}

static void softmax(const float *x, float *p, float *lse, int64_t E)
{
    float max = -INFINITY, sum = 0;

#pragma omp simd reduction(max : max)
    for (int64_t e = 0; e < E; e++)
        max = x[e] > max ? x[e] : max;
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < E; e++) {
        p[e] = slc_exp(x[e] - max);
        sum += p[e];
    }
    const float f = 1 / sum;
    *lse = max + logf(sum);
#pragma omp simd
    for (int64_t e = 0; e < E; e++)
        p[e] *= f;
}

static void forward_row(const struct slc_router_forward_args *a, int64_t t)
{
    const float *x = a->logits + t * a->E;
    float *p = a->probs + t * a->E, *w = a->weights + t * a->K, chosen = 0;
    int32_t *ids = a->ids + t * a->K;

    if (a->forced)
        memcpy(ids, a->forced + t * a->K, (size_t)a->K * sizeof(*ids));
    else
        top_k(x, a->E, a->K, ids);
    softmax(x, p, &a->lse[t], a->E);
    if (a->pool && a->pool[t] < 0)
        for (int64_t k = 0; k < a->K; k++)
            ids[k] = -1;
    for (int64_t k = 0; k < a->K; k++) {
        w[k] = ids[k] < 0 ? 0 : p[ids[k]];
        chosen += w[k];
    }
    for (int64_t k = 0; a->renorm && k < a->K; k++)
        w[k] = ids[k] < 0 ? 0 : w[k] / chosen;
}

#define COLUMNS 64

/*
 * Sums of probabilities of experts [at, at+n): tokens in ascending order, in double
 * while the pool stays the same (the tokens of a document follow each other).
 */
static void sum_columns(const struct slc_router_forward_args *a, int64_t at, int64_t n)
{
    double acc[COLUMNS] = {0};
    int64_t current = -1;

    for (int64_t p = 0; p < a->P; p++)
        memset(a->prob_sum + p * a->E + at, 0, (size_t)n * sizeof(float));
    for (int64_t t = 0; t <= a->T; t++) {
        const int64_t pool = t == a->T ? -1 : a->pool ? a->pool[t] : 0;

        if (pool != current) {
            for (int64_t i = 0; current >= 0 && i < n; i++)
                a->prob_sum[current * a->E + at + i] += (float)acc[i];
            memset(acc, 0, sizeof(acc));
            current = pool;
        }
        if (pool < 0)
            continue;
        const float *p = a->probs + t * a->E + at;
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            acc[i] += p[i];
    }
}

static void count(const struct slc_router_forward_args *a)
{
    double z = 0;

    if (a->count)
        memset(a->count, 0, (size_t)(a->P * a->E) * sizeof(*a->count));
    for (int64_t t = 0; t < a->T; t++) {
        const int64_t pool = a->pool ? a->pool[t] : 0;
        const int32_t *ids = a->ids + t * a->K;

        if (pool < 0)
            continue;
        z += (double)a->lse[t] * a->lse[t];
        for (int64_t k = 0; a->count && k < a->K; k++)
            if (ids[k] >= 0)
                a->count[pool * a->E + ids[k]]++;
    }
    if (a->z_sum)
        *a->z_sum = (float)z;
}

void SLC_CPU(router_forward)(struct slc_queue *q,
                             const struct slc_router_forward_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->T * a->E > SLC_CPU_GRAIN)
    for (int64_t t = 0; t < a->T; t++)
        forward_row(a, t);
    if (a->prob_sum)
#pragma omp parallel for schedule(static) if (a->T * a->E > 4 * SLC_CPU_GRAIN)
        for (int64_t e = 0; e < a->E; e += COLUMNS)
            sum_columns(a, e, slc_min(COLUMNS, a->E - e));
    count(a);
}

static void backward_row(const struct slc_router_backward_args *a, int64_t t)
{
    const int64_t pool = a->pool ? a->pool[t] : 0;
    const int32_t *ids = a->ids + t * a->K;
    const float *p = a->probs + t * a->E, *w = a->weights + t * a->K;
    const float *dw = a->dweights + t * a->K;
    const float *g = a->prob_grad ? a->prob_grad + pool * a->E : NULL;
    const float z = 2 * a->z_coef * a->lse[t];
    float *d = a->dlogits + t * a->E, chosen = 0, mean = 0, inner = 0;

    for (int64_t k = 0; k < a->K; k++)
        if (ids[k] >= 0) {
            chosen += p[ids[k]];
            mean += dw[k] * w[k];
        }
    for (int64_t e = 0; e < a->E; e++)
        d[e] = g ? g[e] : 0;
    for (int64_t k = 0; k < a->K; k++)
        if (ids[k] >= 0)
            d[ids[k]] += a->renorm ? (dw[k] - mean) / chosen : dw[k];
#pragma omp simd reduction(+ : inner)
    for (int64_t e = 0; e < a->E; e++)
        inner += p[e] * d[e];
#pragma omp simd
    for (int64_t e = 0; e < a->E; e++)
        d[e] = p[e] * (d[e] - inner + z);
}

void SLC_CPU(router_backward)(struct slc_queue *q,
                              const struct slc_router_backward_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->T * a->E > SLC_CPU_GRAIN)
    for (int64_t t = 0; t < a->T; t++)
        if (a->pool && a->pool[t] < 0)
            memset(a->dlogits + t * a->E, 0, (size_t)a->E * sizeof(float));
        else
            backward_row(a, t);
}
