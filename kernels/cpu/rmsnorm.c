/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/vec.h"

#include <math.h>

/* Sum of squares of elements [at, at+n) of the normed row; adds the residual first. */
static float sum_chunk(const struct slc_rmsnorm_forward_args *a, int64_t at, int64_t n)
{
    float b1[SLC_CPU_CHUNK], b2[SLC_CPU_CHUNK];
    const float *x = slc_in(a->x, a->dtype, at, n, b1);

    if (a->add) {
        const float *r = slc_in(a->add, a->dtype, at, n, b2);
        float *s = slc_out(a->sum, a->dtype, at, b1);

#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            s[i] = x[i] + r[i];
        slc_put(a->sum, a->dtype, at, n, s);
        slc_round(s, a->dtype, n);
        x = s;
    }
    return slc_dot(x, x, n);
}

static void forward_row(const struct slc_rmsnorm_forward_args *a, int64_t t)
{
    const void *s = a->add ? a->sum : a->x;
    double sum = 0;

    for (int64_t i = 0; i < a->H; i += SLC_CPU_CHUNK)
        sum += sum_chunk(a, t * a->H + i, slc_min(SLC_CPU_CHUNK, a->H - i));
    const float rstd = 1 / sqrtf((float)(sum / (double)a->H) + a->eps);
    a->rstd[t] = rstd;
    for (int64_t i = 0; i < a->H; i += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->H - i), at = t * a->H + i;
        float b1[SLC_CPU_CHUNK], b2[SLC_CPU_CHUNK];
        const float *x = slc_in(s, a->dtype, at, n, b1);
        const float *w = slc_in(a->w, a->dtype, i, n, b2);
        float *y = slc_out(a->y, a->dtype, at, b1);

#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            y[j] = x[j] * rstd;
        slc_round(y, a->dtype, n);
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            y[j] *= w[j];
        slc_put(a->y, a->dtype, at, n, y);
    }
}

void SLC_CPU(rmsnorm_forward)(struct slc_queue *q,
                              const struct slc_rmsnorm_forward_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->T * a->H > SLC_CPU_GRAIN)
    for (int64_t t = 0; t < a->T; t++)
        forward_row(a, t);
}

/* With p = dy * x * rstd: dw += p; returns the sum of p * w. */
static float sum_products(const float *dy, const float *x, float rstd, const float *w,
                          float *dw, int64_t n)
{
    slc_vec s = {0};
    int64_t i = 0;

    for (; i + SLC_VL <= n; i += SLC_VL) {
        const slc_vec p = *(const slc_vec *)(dy + i) * (*(const slc_vec *)(x + i) * rstd);

        *(slc_vec *)(dw + i) += p;
        s += p * *(const slc_vec *)(w + i);
    }
    float sum = slc_lanes_sum(s);
    for (; i < n; i++) {
        const float p = dy[i] * (x[i] * rstd);

        dw[i] += p;
        sum += p * w[i];
    }
    return sum;
}

/* sum of g * n over a row, and dw += dy * n. */
static double backward_sums(const struct slc_rmsnorm_backward_args *a, int64_t t,
                            float *dw)
{
    const float rstd = a->rstd[t];
    double mean = 0;

    for (int64_t i = 0; i < a->H; i += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->H - i), at = t * a->H + i;
        float b1[SLC_CPU_CHUNK], b2[SLC_CPU_CHUNK], b3[SLC_CPU_CHUNK];
        const float *dy = slc_in(a->dy, a->dtype, at, n, b1);
        const float *x = slc_in(a->x, a->dtype, at, n, b2);
        const float *w = slc_in(a->w, a->dtype, i, n, b3);
        mean += sum_products(dy, x, rstd, w, dw + i, n);
    }
    return mean / (double)a->H;
}

static void backward_row(const struct slc_rmsnorm_backward_args *a, int64_t t,
                         float mean)
{
    const float rstd = a->rstd[t];

    for (int64_t i = 0; i < a->H; i += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->H - i), at = t * a->H + i;
        float b1[SLC_CPU_CHUNK], b2[SLC_CPU_CHUNK], b3[SLC_CPU_CHUNK],
            b4[SLC_CPU_CHUNK];
        const float *dy = slc_in(a->dy, a->dtype, at, n, b1);
        const float *x = slc_in(a->x, a->dtype, at, n, b2);
        const float *w = slc_in(a->w, a->dtype, i, n, b3);
        const float *r = a->dres ? slc_in(a->dres, a->dtype, at, n, b4) : NULL;
        float *dx = slc_out(a->dx, a->dtype, at, b1);

        if (r)
#pragma omp simd
            for (int64_t j = 0; j < n; j++)
                dx[j] = rstd * (dy[j] * w[j] - x[j] * rstd * mean) + r[j];
        else
#pragma omp simd
            for (int64_t j = 0; j < n; j++)
                dx[j] = rstd * (dy[j] * w[j] - x[j] * rstd * mean);
        slc_put(a->dx, a->dtype, at, n, dx);
    }
}

void SLC_CPU(rmsnorm_backward)(struct slc_queue *q,
                               const struct slc_rmsnorm_backward_args *a)
{
    const struct slc_pieces pieces = slc_pieces_of(a->T);
    float *part = slc_cpu_scratch(q, pieces.n * a->H);

    if (!part)
        return;
#pragma omp parallel for schedule(static) if (a->T * a->H > SLC_CPU_GRAIN)
    for (int64_t p = 0; p < pieces.n; p++) {
        float *dw = part + p * a->H;

        memset(dw, 0, (size_t)a->H * sizeof(*dw));
        for (int64_t t = p * pieces.rows; t < slc_min((p + 1) * pieces.rows, a->T); t++)
            backward_row(a, t, (float)backward_sums(a, t, dw));
    }
    for (int64_t p = 0; a->dw && p < pieces.n; p++)
#pragma omp simd
        for (int64_t i = 0; i < a->H; i++)
            a->dw[i] += part[p * a->H + i];
}
