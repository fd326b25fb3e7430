/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/vec.h"

#include <math.h>

/* q or k of a token: where it is in a row of qkv, and its norm. */
struct part {
    int64_t heads, at;
    int64_t rstd_at, rstd_n; /* in a row of rstd */
    int64_t weight_step;     /* from one head's weights to the next: 0 or D */
    const void *weight;
};

static void parts_of(struct part p[2], int64_t NQ, int64_t NK, int64_t D,
                     enum slc_qk_norm norm, const void *qw, const void *kw)
{
    const bool full = norm == SLC_QK_NORM_FULL;

    p[0] = (struct part){.heads = NQ, .weight = qw};
    p[1] = (struct part){.heads = NK, .at = NQ * D, .weight = kw};
    p[1].rstd_at = full ? 1 : NQ;
    p[0].rstd_n = p[1].rstd_n = full ? 2 : NQ + NK;
    p[0].weight_step = p[1].weight_step = full ? D : 0;
}

struct angles {
    float sine[SLC_CPU_HEAD / 2], cosine[SLC_CPU_HEAD / 2];
};

static void angles_of(struct angles *r, int32_t pos, const float *inv_freq,
                      int64_t half)
{
    const float at = (float)pos;

#pragma omp simd
    for (int64_t i = 0; i < half; i++)
        slc_sincos(at * inv_freq[i], &r->sine[i], &r->cosine[i]);
}

static void clamp(float *x, int64_t n, float clip)
{
    if (clip <= 0)
        return;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float y = x[i] > clip ? clip : x[i];

        x[i] = y < -clip ? -clip : y;
    }
}

static float squares(const void *p, enum slc_dtype t, int64_t at, int64_t n)
{
    float buf[SLC_CPU_HEAD];
    const float *x = slc_in(p, t, at, n, buf);

    return slc_dot(x, x, n);
}

/* Row's rstd for each head (HEAD) or the whole part (FULL). */
static void norm_part(const struct slc_qkv_rope_forward_args *a, const struct part *p,
                      int64_t t)
{
    const int64_t at = t * (a->NQ + 2 * a->NK) * a->D + p->at;
    float *rstd = a->rstd + t * p->rstd_n + p->rstd_at;
    const float n = (float)a->D;
    double sum = 0;

    for (int64_t h = 0; h < p->heads; h++) {
        const float head = squares(a->qkv, a->dtype, at + h * a->D, a->D);

        if (a->norm == SLC_QK_NORM_FULL)
            sum += head;
        else
            rstd[h] = 1 / sqrtf(head / n + a->eps);
    }
    if (a->norm == SLC_QK_NORM_FULL)
        *rstd = (float)(1 / sqrt(sum / (double)(p->heads * a->D) + a->eps));
}

static void forward_head(const struct slc_qkv_rope_forward_args *a,
                         const struct part *p, int64_t t, int64_t h,
                         const struct angles *r, void *out)
{
    const int64_t D = a->D, half = D / 2, o = (t * p->heads + h) * D;
    float b1[SLC_CPU_HEAD], b2[SLC_CPU_HEAD], b3[SLC_CPU_HEAD], x[SLC_CPU_HEAD];
    const float *in =
        slc_in(a->qkv, a->dtype, t * (a->NQ + 2 * a->NK) * D + p->at + h * D, D, b1);
    float *y = slc_out(out, a->dtype, o, b3);

    if (a->norm == SLC_QK_NORM_NONE) {
        memcpy(x, in, (size_t)D * sizeof(*x));
    } else {
        const float *w = slc_in(p->weight, a->dtype, h * p->weight_step, D, b2);
        const float rstd =
            a->rstd[t * p->rstd_n + p->rstd_at + (p->weight_step ? 0 : h)];

#pragma omp simd
        for (int64_t i = 0; i < D; i++)
            x[i] = in[i] * rstd * w[i];
    }
    clamp(x, D, a->clip);
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        y[i] = x[i] * r->cosine[i] - x[i + half] * r->sine[i];
        y[i + half] = x[i + half] * r->cosine[i] + x[i] * r->sine[i];
    }
    slc_put(out, a->dtype, o, D, y);
}

static void forward_v(const struct slc_qkv_rope_forward_args *a, int64_t t)
{
    const int64_t row = (a->NQ + 2 * a->NK) * a->D, D = a->D;

    for (int64_t h = 0; h < a->NK; h++) {
        float b1[SLC_CPU_HEAD], b2[SLC_CPU_HEAD];
        const int64_t o = (t * a->NK + h) * D;
        const float *x =
            slc_in(a->qkv, a->dtype, t * row + (a->NQ + a->NK + h) * D, D, b1);
        float *y = slc_out(a->v, a->dtype, o, b2);

        memcpy(y, x, (size_t)D * sizeof(*y));
        clamp(y, D, a->clip);
        slc_put(a->v, a->dtype, o, D, y);
    }
}

void SLC_CPU(qkv_rope_forward)(struct slc_queue *q,
                               const struct slc_qkv_rope_forward_args *a)
{
    struct part parts[2];

    if (a->D > SLC_CPU_HEAD || a->D % 2) {
        slc_cpu_refuse(q, "a head width that is odd or above 256");
        return;
    }
    parts_of(parts, a->NQ, a->NK, a->D, a->norm, a->q_weight, a->k_weight);
#pragma omp parallel for schedule(static) if (a->T * a->NQ * a->D > SLC_CPU_GRAIN)
    for (int64_t t = 0; t < a->T; t++) {
        struct angles r;

        angles_of(&r, a->pos[t], a->inv_freq, a->D / 2);
        for (int i = 0; i < 2; i++) {
            if (a->norm != SLC_QK_NORM_NONE)
                norm_part(a, &parts[i], t);
            for (int64_t h = 0; h < parts[i].heads; h++)
                forward_head(a, &parts[i], t, h, &r, i ? a->k : a->q);
        }
        forward_v(a, t);
    }
}

/* dy: gradient by the normalised values; dw += dy * n; returns sum of dy * w * n. */
static float unrotate(const struct slc_qkv_rope_backward_args *a, const struct part *p,
                      int64_t t, int64_t h, const struct angles *r, const void *d,
                      float *dy, float *dw)
{
    const int64_t D = a->D, half = D / 2;
    float b1[SLC_CPU_HEAD], b2[SLC_CPU_HEAD], b3[SLC_CPU_HEAD], part[SLC_CPU_HEAD];
    const float *g = slc_in(d, a->dtype, (t * p->heads + h) * D, D, b1);
    const float *x =
        slc_in(a->qkv, a->dtype, t * (a->NQ + 2 * a->NK) * D + p->at + h * D, D, b2);
    const float clip = a->clip > 0 ? a->clip : INFINITY;

#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        dy[i] = g[i] * r->cosine[i] + g[i + half] * r->sine[i];
        dy[i + half] = g[i + half] * r->cosine[i] - g[i] * r->sine[i];
    }
    if (a->norm == SLC_QK_NORM_NONE) {
#pragma omp simd
        for (int64_t i = 0; i < D; i++)
            dy[i] = fabsf(x[i]) > clip ? 0.0f : dy[i];
        return 0;
    }
    const float *w = slc_in(p->weight, a->dtype, h * p->weight_step, D, b3);
    const float rstd = a->rstd[t * p->rstd_n + p->rstd_at + (p->weight_step ? 0 : h)];
#pragma omp simd
    for (int64_t i = 0; i < D; i++) {
        float n = x[i] * rstd, wn = n * w[i];
        float dyi = fabsf(wn) > clip ? 0.0f : dy[i];

        dy[i] = dyi;
        dw[i] += dyi * n;
        part[i] = dyi * wn;
    }
    return slc_sum(part, D);
}

/* dx from dy and the mean of dy * w * n over the norm's group. */
static void backward_head(const struct slc_qkv_rope_backward_args *a,
                          const struct part *p, int64_t t, int64_t h, const float *dy,
                          float mean)
{
    const int64_t D = a->D, at = t * (a->NQ + 2 * a->NK) * D + p->at + h * D;
    float b1[SLC_CPU_HEAD], b2[SLC_CPU_HEAD], b3[SLC_CPU_HEAD];
    const float *x = slc_in(a->qkv, a->dtype, at, D, b1);
    float *dx = slc_out(a->dqkv, a->dtype, at, b3);

    if (a->norm == SLC_QK_NORM_NONE) {
        memcpy(dx, dy, (size_t)D * sizeof(*dx));
    } else {
        const float *w = slc_in(p->weight, a->dtype, h * p->weight_step, D, b2);
        const float rstd =
            a->rstd[t * p->rstd_n + p->rstd_at + (p->weight_step ? 0 : h)];

#pragma omp simd
        for (int64_t i = 0; i < D; i++)
            dx[i] = rstd * (dy[i] * w[i] - x[i] * rstd * mean);
    }
    slc_put(a->dqkv, a->dtype, at, D, dx);
}

static void backward_part(const struct slc_qkv_rope_backward_args *a,
                          const struct part *p, int64_t t, const struct angles *r,
                          const void *d, float *dw)
{
    const bool full = a->norm == SLC_QK_NORM_FULL;
    float dy[SLC_CPU_HEAD], ignored[SLC_CPU_HEAD];
    double sum = 0;

    if (full)
        memset(ignored, 0, sizeof(ignored));
    /* FULL needs the sum over all heads before any dx: dy is computed twice. */
    for (int64_t h = 0; full && h < p->heads; h++)
        sum += unrotate(a, p, t, h, r, d, dy, dw + h * a->D);
    for (int64_t h = 0; h < p->heads; h++) {
        double head = unrotate(a, p, t, h, r, d, dy, full ? ignored : dw);
        int64_t width = full ? p->heads * a->D : a->D;

        backward_head(a, p, t, h, dy, (float)((full ? sum : head) / (double)width));
    }
}

static void backward_v(const struct slc_qkv_rope_backward_args *a, int64_t t)
{
    const int64_t row = (a->NQ + 2 * a->NK) * a->D, D = a->D;
    const float clip = a->clip > 0 ? a->clip : INFINITY;

    for (int64_t h = 0; h < a->NK; h++) {
        const int64_t at = t * row + (a->NQ + a->NK + h) * D;
        float b1[SLC_CPU_HEAD], b2[SLC_CPU_HEAD];
        const float *v = slc_in(a->qkv, a->dtype, at, D, b1);
        const float *d = slc_in(a->dv, a->dtype, (t * a->NK + h) * D, D, b2);
        float *dx = slc_out(a->dqkv, a->dtype, at, b2);

#pragma omp simd
        for (int64_t i = 0; i < D; i++)
            dx[i] = fabsf(v[i]) > clip ? 0.0f : d[i];
        slc_put(a->dqkv, a->dtype, at, D, dx);
    }
}

static void add_pieces(float *out, const float *part, int64_t pieces, int64_t step,
                       int64_t n)
{
    for (int64_t p = 0; out && p < pieces; p++)
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            out[i] += part[p * step + i];
}

void SLC_CPU(qkv_rope_backward)(struct slc_queue *q,
                                const struct slc_qkv_rope_backward_args *a)
{
    const bool full = a->norm == SLC_QK_NORM_FULL;
    const int64_t nq = full ? a->NQ * a->D : a->D, nk = full ? a->NK * a->D : a->D;
    const struct slc_pieces pieces = slc_pieces_of(a->T);
    struct part parts[2];
    float *part;

    if (a->D > SLC_CPU_HEAD || a->D % 2) {
        slc_cpu_refuse(q, "a head width that is odd or above 256");
        return;
    }
    part = slc_cpu_scratch(q, pieces.n * (nq + nk));
    if (!part)
        return;
    parts_of(parts, a->NQ, a->NK, a->D, a->norm, a->q_weight, a->k_weight);
#pragma omp parallel for schedule(static) if (a->T * a->NQ * a->D > SLC_CPU_GRAIN)
    for (int64_t p = 0; p < pieces.n; p++) {
        float *dw = part + p * (nq + nk);

        memset(dw, 0, (size_t)(nq + nk) * sizeof(*dw));
        for (int64_t t = p * pieces.rows; t < slc_min((p + 1) * pieces.rows, a->T);
             t++) {
            struct angles r;

            angles_of(&r, a->pos[t], a->inv_freq, a->D / 2);
            backward_part(a, &parts[0], t, &r, a->dq, dw);
            backward_part(a, &parts[1], t, &r, a->dk, dw + nq);
            backward_v(a, t);
        }
    }
    if (a->norm == SLC_QK_NORM_NONE)
        return;
    add_pieces(a->dq_weight, part, pieces.n, nq + nk, nq);
    add_pieces(a->dk_weight, part + nq, pieces.n, nq + nk, nk);
}
