/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

static double dot(const void *a, int64_t a_at, const void *b, int64_t b_at, int64_t n,
                  enum slc_dtype t)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += slc_ref_load(a, t, a_at + i) * slc_ref_load(b, t, b_at + i);
    return sum;
}

/* First key that query t of a segment starting at `from` may see. */
static int64_t first_key(int64_t t, int64_t from, int64_t window)
{
    return window > 0 && t - window + 1 > from ? t - window + 1 : from;
}

static void forward_one(const struct slc_attention_forward_args *a, int64_t from,
                        int64_t t, int64_t h, double *p, double *o)
{
    const int64_t D = a->D, g = h / (a->NQ / a->NK), q_at = (t * a->NQ + h) * D;
    const int64_t first = first_key(t, from, a->window);
    double max = -INFINITY, sum = 0;

    for (int64_t u = first; u <= t; u++) {
        p[u - first] =
            a->scale * dot(a->q, q_at, a->k, (u * a->NK + g) * D, D, a->dtype);
        if (p[u - first] > max)
            max = p[u - first];
    }
    for (int64_t i = 0; i < D; i++)
        o[i] = 0;
    for (int64_t u = first; u <= t; u++) {
        double e = exp(p[u - first] - max);

        sum += e;
        for (int64_t i = 0; i < D; i++)
            o[i] += e * slc_ref_load(a->v, a->dtype, (u * a->NK + g) * D + i);
    }
    for (int64_t i = 0; i < D; i++)
        slc_ref_store(a->o, a->dtype, q_at + i, o[i] / sum);
    a->lse[t * a->NQ + h] = (float)(max + log(sum));
}

void slc_ref_attention_forward(struct slc_queue *q,
                               const struct slc_attention_forward_args *a)
{
    double *p = slc_ref_doubles(a->T), *o = slc_ref_doubles(a->D);

    (void)q;
    for (int64_t s = 0; s < a->n_seg; s++)
        for (int64_t t = a->seg[s]; t < a->seg[s + 1]; t++)
            for (int64_t h = 0; h < a->NQ; h++)
                forward_one(a, a->seg[s], t, h, p, o);
    free(o);
    free(p);
}

/* P and dS of the pair (query t, key u) for query head h. */
static void pair(const struct slc_attention_backward_args *a, int64_t t, int64_t u,
                 int64_t h, double delta, double *p, double *ds)
{
    const int64_t D = a->D, q_at = (t * a->NQ + h) * D;
    const int64_t k_at = (u * a->NK + h / (a->NQ / a->NK)) * D;

    *p = exp(a->scale * dot(a->q, q_at, a->k, k_at, D, a->dtype) -
             a->lse[t * a->NQ + h]);
    *ds = *p * (dot(a->d_o, q_at, a->v, k_at, D, a->dtype) - delta);
}

static double delta_of(const struct slc_attention_backward_args *a, int64_t t,
                       int64_t h)
{
    const int64_t at = (t * a->NQ + h) * a->D;

    return dot(a->d_o, at, a->o, at, a->D, a->dtype);
}

static void backward_query(const struct slc_attention_backward_args *a, int64_t from,
                           int64_t t, int64_t h, double *dq)
{
    const int64_t D = a->D, g = h / (a->NQ / a->NK);
    double delta = delta_of(a, t, h), p, ds;

    for (int64_t i = 0; i < D; i++)
        dq[i] = 0;
    for (int64_t u = first_key(t, from, a->window); u <= t; u++) {
        pair(a, t, u, h, delta, &p, &ds);
        for (int64_t i = 0; i < D; i++)
            dq[i] += ds * slc_ref_load(a->k, a->dtype, (u * a->NK + g) * D + i);
    }
    for (int64_t i = 0; i < D; i++)
        slc_ref_store(a->dq, a->dtype, (t * a->NQ + h) * D + i, a->scale * dq[i]);
}

static void backward_key(const struct slc_attention_backward_args *a, int64_t from,
                         int64_t to, int64_t u, int64_t g, double *dk, double *dv)
{
    const int64_t D = a->D, group = a->NQ / a->NK;
    double p, ds;

    for (int64_t i = 0; i < D; i++)
        dk[i] = dv[i] = 0;
    for (int64_t t = u; t < to && first_key(t, from, a->window) <= u; t++)
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
            const int64_t at = (t * a->NQ + h) * D;

            pair(a, t, u, h, delta_of(a, t, h), &p, &ds);
            for (int64_t i = 0; i < D; i++) {
                dk[i] += ds * slc_ref_load(a->q, a->dtype, at + i);
                dv[i] += p * slc_ref_load(a->d_o, a->dtype, at + i);
            }
        }
    for (int64_t i = 0; i < D; i++) {
        slc_ref_store(a->dk, a->dtype, (u * a->NK + g) * D + i, a->scale * dk[i]);
        slc_ref_store(a->dv, a->dtype, (u * a->NK + g) * D + i, dv[i]);
    }
}

void slc_ref_attention_backward(struct slc_queue *q,
                                const struct slc_attention_backward_args *a)
{
    double *x = slc_ref_doubles(a->D), *y = slc_ref_doubles(a->D);

    (void)q;
    for (int64_t s = 0; s < a->n_seg; s++)
        for (int64_t t = a->seg[s]; t < a->seg[s + 1]; t++) {
            for (int64_t h = 0; h < a->NQ; h++)
                backward_query(a, a->seg[s], t, h, x);
            for (int64_t g = 0; g < a->NK; g++)
                backward_key(a, a->seg[s], a->seg[s + 1], t, g, x, y);
        }
    free(y);
    free(x);
}
