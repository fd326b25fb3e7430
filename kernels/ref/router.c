/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

/* The K largest of x[0,E), ties to the lowest index; written in ascending index. */
static void top_k(const float *x, int64_t E, int64_t K, int32_t *ids)
{
    int64_t n = 0;

    for (int64_t e = 0; e < E && n < K; e++) {
        int64_t better = 0; /* how many come before e */

        for (int64_t o = 0; o < E; o++)
            better += x[o] > x[e] || (x[o] == x[e] && o < e);
        if (better < K)
            ids[n++] = (int32_t)e;
    }
    /* Only NaN logits come here short: any distinct ids will do, the loss is NaN. */
    for (int64_t e = 0; n < K; e++)
        ids[n++] = (int32_t)e;
}

/* Softmax of a row, its logsumexp, the chosen experts and their weights. */
static void forward_row(const struct slc_router_forward_args *a, int64_t t, double *p)
{
    const float *x = a->logits + t * a->E;
    double max = -INFINITY, sum = 0, chosen = 0;
    int32_t *ids = a->ids + t * a->K;

    for (int64_t e = 0; e < a->E; e++)
        max = fmax(max, x[e]);
    for (int64_t e = 0; e < a->E; e++)
        sum += exp(x[e] - max);
    for (int64_t e = 0; e < a->E; e++)
        p[e] = exp(x[e] - max) / sum;
    a->lse[t] = (float)(max + log(sum));
    if (a->forced)
        memcpy(ids, a->forced + t * a->K, (size_t)a->K * sizeof(*ids));
    else
        top_k(x, a->E, a->K, ids);
    if (a->pool && a->pool[t] < 0)
        for (int64_t k = 0; k < a->K; k++)
            ids[k] = -1;
    for (int64_t k = 0; k < a->K; k++)
        chosen += ids[k] < 0 ? 0 : p[ids[k]];
    for (int64_t k = 0; k < a->K; k++)
        a->weights[t * a->K + k] =
            ids[k] < 0 ? 0 : (float)(a->renorm ? p[ids[k]] / chosen : p[ids[k]]);
    for (int64_t e = 0; e < a->E; e++)
        a->probs[t * a->E + e] = (float)p[e];
}

void slc_ref_router_forward(struct slc_queue *q,
                            const struct slc_router_forward_args *a)
{
    double *p = slc_ref_doubles(a->E), *prob_sum = slc_ref_doubles(a->P * a->E), z = 0;

    (void)q;
    if (a->count)
        memset(a->count, 0, (size_t)(a->P * a->E) * sizeof(*a->count));
    for (int64_t t = 0; t < a->T; t++) {
        const int64_t pool = a->pool ? a->pool[t] : 0;

        forward_row(a, t, p);
        if (pool < 0)
            continue;
        z += (double)a->lse[t] * a->lse[t];
        for (int64_t e = 0; e < a->E; e++)
            prob_sum[pool * a->E + e] += p[e];
        for (int64_t k = 0; a->count && k < a->K; k++)
            if (a->ids[t * a->K + k] >= 0)
                a->count[pool * a->E + a->ids[t * a->K + k]]++;
    }
    for (int64_t i = 0; a->prob_sum && i < a->P * a->E; i++)
        a->prob_sum[i] = (float)prob_sum[i];
    if (a->z_sum)
        *a->z_sum = (float)z;
    free(prob_sum);
    free(p);
}

/* dp [E]: gradient by the probabilities. */
static void backward_row(const struct slc_router_backward_args *a, int64_t t,
                         double *dp)
{
    const int64_t pool = a->pool ? a->pool[t] : 0;
    const int32_t *ids = a->ids + t * a->K;
    const float *p = a->probs + t * a->E;
    const float *w = a->weights + t * a->K, *dw = a->dweights + t * a->K;
    double chosen = 0, mean = 0, inner = 0;

    for (int64_t k = 0; k < a->K; k++)
        if (ids[k] >= 0) {
            chosen += p[ids[k]];
            mean += (double)dw[k] * w[k];
        }
    for (int64_t e = 0; e < a->E; e++)
        dp[e] = a->prob_grad ? a->prob_grad[pool * a->E + e] : 0;
    for (int64_t k = 0; k < a->K; k++)
        if (ids[k] >= 0)
            dp[ids[k]] += a->renorm ? (dw[k] - mean) / chosen : dw[k];
    for (int64_t e = 0; e < a->E; e++)
        inner += p[e] * dp[e];
    for (int64_t e = 0; e < a->E; e++)
        a->dlogits[t * a->E + e] =
            (float)(p[e] * (dp[e] - inner + 2 * (double)a->z_coef * a->lse[t]));
}

void slc_ref_router_backward(struct slc_queue *q,
                             const struct slc_router_backward_args *a)
{
    double *dp = slc_ref_doubles(a->E);

    (void)q;
    for (int64_t t = 0; t < a->T; t++)
        if (a->pool && a->pool[t] < 0)
            memset(a->dlogits + t * a->E, 0, (size_t)a->E * sizeof(float));
        else
            backward_row(a, t, dp);
    free(dp);
}
