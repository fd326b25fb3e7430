/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

/*
 * A "part" is q or k: `heads` heads of a token. A norm runs over `width` values: one
 * head (HEAD) or the whole part (FULL); with NONE a group is a head without rstd.
 */
struct part {
    int64_t heads, at;     /* at: first element inside a row of qkv */
    int64_t width, groups; /* norm groups of a token */
    int64_t rstd_at, rstd_n;
    const void *weight;
};

static void parts_of(struct part p[2], int64_t NQ, int64_t NK, int64_t D,
                     enum slc_qk_norm norm, const void *qw, const void *kw)
{
    const bool full = norm == SLC_QK_NORM_FULL;

    for (int i = 0; i < 2; i++) {
        p[i].heads = i ? NK : NQ;
        p[i].at = i ? NQ * D : 0;
        p[i].width = full ? p[i].heads * D : D;
        p[i].groups = full ? 1 : p[i].heads;
        p[i].rstd_at = !i ? 0 : full ? 1 : NQ;
        p[i].rstd_n = full ? 2 : NQ + NK;
        p[i].weight = i ? kw : qw;
    }
}

static double clamp(double x, double clip)
{
    if (clip <= 0)
        return x;
    return x > clip ? clip : x < -clip ? -clip : x;
}

/* The angle is an fp32 product, as in Transformers; its sine and cosine are not
 * rounded. */
static double angle_of(const int32_t *pos, const float *inv_freq, int64_t t, int64_t i)
{
    return (float)pos[t] * inv_freq[i];
}

static void forward_part(const struct slc_qkv_rope_forward_args *a,
                         const struct part *p, int64_t t, void *out, double *x)
{
    const int64_t D = a->D, half = D / 2, row = (a->NQ + 2 * a->NK) * D;

    for (int64_t g = 0; g < p->groups; g++) {
        double *xg = x + g * p->width, rstd = 1;

        for (int64_t i = 0; i < p->width; i++)
            xg[i] = slc_ref_load(a->qkv, a->dtype, t * row + p->at + g * p->width + i);
        if (a->norm != SLC_QK_NORM_NONE) {
            double mean = 0;

            for (int64_t i = 0; i < p->width; i++)
                mean += xg[i] * xg[i];
            rstd = 1 / sqrt(mean / (double)p->width + a->eps);
            a->rstd[t * p->rstd_n + p->rstd_at + g] = (float)rstd;
            for (int64_t i = 0; i < p->width; i++)
                xg[i] *= rstd * slc_ref_load(p->weight, a->dtype, i);
        }
    }
    for (int64_t h = 0; h < p->heads; h++)
        for (int64_t i = 0; i < half; i++) {
            double angle = angle_of(a->pos, a->inv_freq, t, i);
            double lo = clamp(x[h * D + i], a->clip);
            double hi = clamp(x[h * D + i + half], a->clip);
            int64_t o = (t * p->heads + h) * D + i;

            slc_ref_store(out, a->dtype, o, lo * cos(angle) - hi * sin(angle));
            slc_ref_store(out, a->dtype, o + half, hi * cos(angle) + lo * sin(angle));
        }
}

void slc_ref_qkv_rope_forward(struct slc_queue *q,
                              const struct slc_qkv_rope_forward_args *a)
{
    const int64_t D = a->D, row = (a->NQ + 2 * a->NK) * D, v_at = (a->NQ + a->NK) * D;
    double *x = slc_ref_doubles((a->NQ > a->NK ? a->NQ : a->NK) * D);
    struct part p[2];

    (void)q;
    parts_of(p, a->NQ, a->NK, D, a->norm, a->q_weight, a->k_weight);
    for (int64_t t = 0; t < a->T; t++) {
        forward_part(a, &p[0], t, a->q, x);
        forward_part(a, &p[1], t, a->k, x);
        for (int64_t i = 0; i < a->NK * D; i++)
            slc_ref_store(
                a->v, a->dtype, t * a->NK * D + i,
                clamp(slc_ref_load(a->qkv, a->dtype, t * row + v_at + i), a->clip));
    }
    free(x);
}

/* dy: gradient by the normalised values, before clip and rotation. */
static void unrotate(const struct slc_qkv_rope_backward_args *a, const struct part *p,
                     int64_t t, const void *d, double *dy)
{
    const int64_t D = a->D, half = D / 2;

    for (int64_t h = 0; h < p->heads; h++)
        for (int64_t i = 0; i < half; i++) {
            double angle = angle_of(a->pos, a->inv_freq, t, i);
            double lo = slc_ref_load(d, a->dtype, (t * p->heads + h) * D + i);
            double hi = slc_ref_load(d, a->dtype, (t * p->heads + h) * D + i + half);

            dy[h * D + i] = lo * cos(angle) + hi * sin(angle);
            dy[h * D + i + half] = hi * cos(angle) - lo * sin(angle);
        }
}

static void backward_part(const struct slc_qkv_rope_backward_args *a,
                          const struct part *p, int64_t t, double *dy, double *dw)
{
    const bool norm = a->norm != SLC_QK_NORM_NONE;

    for (int64_t g = 0; g < p->groups; g++) {
        const int64_t at = t * (a->NQ + 2 * a->NK) * a->D + p->at + g * p->width;
        double rstd = norm ? a->rstd[t * p->rstd_n + p->rstd_at + g] : 1, mean = 0;
        double *dg = dy + g * p->width;

        for (int64_t i = 0; i < p->width; i++) {
            double n = slc_ref_load(a->qkv, a->dtype, at + i) * rstd;
            double w = norm ? slc_ref_load(p->weight, a->dtype, i) : 1;

            if (a->clip > 0 && fabs(n * w) > a->clip)
                dg[i] = 0;
            if (norm)
                dw[i] += dg[i] * n;
            mean += dg[i] * w * n;
        }
        mean = norm ? mean / (double)p->width : 0;
        for (int64_t i = 0; i < p->width; i++) {
            double n = slc_ref_load(a->qkv, a->dtype, at + i) * rstd;
            double w = norm ? slc_ref_load(p->weight, a->dtype, i) : 1;

            slc_ref_store(a->dqkv, a->dtype, at + i, rstd * (dg[i] * w - n * mean));
        }
    }
}

static void backward_v(const struct slc_qkv_rope_backward_args *a, int64_t t)
{
    const int64_t n = a->NK * a->D, row = (a->NQ + 2 * a->NK) * a->D;

    for (int64_t i = 0; i < n; i++) {
        const int64_t at = t * row + row - n + i;
        double v = slc_ref_load(a->qkv, a->dtype, at);
        bool cut = a->clip > 0 && fabs(v) > a->clip;

        slc_ref_store(a->dqkv, a->dtype, at,
                      cut ? 0 : slc_ref_load(a->dv, a->dtype, t * n + i));
    }
}

void slc_ref_qkv_rope_backward(struct slc_queue *q,
                               const struct slc_qkv_rope_backward_args *a)
{
    const int64_t most = (a->NQ > a->NK ? a->NQ : a->NK) * a->D;
    double *dy = slc_ref_doubles(most), *dw = slc_ref_doubles(2 * most);
    float *out[2] = {a->dq_weight, a->dk_weight};
    struct part p[2];

    (void)q;
    parts_of(p, a->NQ, a->NK, a->D, a->norm, a->q_weight, a->k_weight);
    for (int64_t t = 0; t < a->T; t++) {
        for (int i = 0; i < 2; i++) {
            unrotate(a, &p[i], t, i ? a->dk : a->dq, dy);
            backward_part(a, &p[i], t, dy, dw + i * most);
        }
        backward_v(a, t);
    }
    if (a->norm != SLC_QK_NORM_NONE)
        for (int i = 0; i < 2; i++)
            for (int64_t j = 0; out[i] && j < p[i].width; j++)
                out[i][j] = (float)(out[i][j] + dw[i * most + j]);
    free(dw);
    free(dy);
}
