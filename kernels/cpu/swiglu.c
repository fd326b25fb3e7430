/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/vec.h"

static int64_t rows_of(int64_t rows, const int32_t *rows_dev)
{
    return rows_dev && *rows_dev < rows ? *rows_dev : rows;
}

static void forward_chunk(const struct slc_swiglu_forward_args *a, int64_t r, int64_t f,
                          int64_t n)
{
    float b1[SLC_CPU_CHUNK], b2[SLC_CPU_CHUNK];
    const float *g = slc_in(a->h, a->dtype, r * 2 * a->F + f, n, b1);
    const float *u = slc_in(a->h, a->dtype, r * 2 * a->F + a->F + f, n, b2);
    float *y = slc_out(a->a, a->dtype, r * a->F + f, b1);

#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = g[i] / (1.0f + slc_exp(-g[i])) * u[i];
    slc_put(a->a, a->dtype, r * a->F + f, n, y);
}

void SLC_CPU(swiglu_forward)(struct slc_queue *q,
                             const struct slc_swiglu_forward_args *a)
{
    const int64_t rows = rows_of(a->rows, a->rows_dev);

    (void)q;
#pragma omp parallel for schedule(static) if (rows * a->F > SLC_CPU_GRAIN)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t f = 0; f < a->F; f += SLC_CPU_CHUNK)
            forward_chunk(a, r, f, slc_min(SLC_CPU_CHUNK, a->F - f));
}

/* One piece of a row; returns its part of dw. */
static float backward_chunk(const struct slc_swiglu_backward_args *a, int64_t r,
                            int64_t f, int64_t n, float w)
{
    const int64_t at = r * 2 * a->F + f;
    float b1[SLC_CPU_CHUNK], b2[SLC_CPU_CHUNK], b3[SLC_CPU_CHUNK], b4[SLC_CPU_CHUNK];
    const float *g = slc_in(a->h, a->dtype, at, n, b1);
    const float *u = slc_in(a->h, a->dtype, at + a->F, n, b2);
    const float *d = slc_in(a->da0, a->dtype, r * a->F + f, n, b3);
    float *dg = slc_out(a->dh, a->dtype, at, b1);
    float *du = slc_out(a->dh, a->dtype, at + a->F, b2);
    float *aw = a->aw ? slc_out(a->aw, a->dtype, r * a->F + f, b4) : b4;
    float part[SLC_CPU_CHUNK];

#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float s = 1.0f / (1.0f + slc_exp(-g[i])), gs = g[i] * s, act = gs * u[i];
        float wd = w * d[i];

        part[i] = d[i] * act;
        aw[i] = w * act;
        dg[i] = wd * u[i] * (s + gs * (1.0f - s));
        du[i] = wd * gs;
    }
    slc_put(a->dh, a->dtype, at, n, dg);
    slc_put(a->dh, a->dtype, at + a->F, n, du);
    if (a->aw)
        slc_put(a->aw, a->dtype, r * a->F + f, n, aw);
    return slc_sum(part, n);
}

void SLC_CPU(swiglu_backward)(struct slc_queue *q,
                              const struct slc_swiglu_backward_args *a)
{
    const int64_t rows = rows_of(a->rows, a->rows_dev);

    (void)q;
#pragma omp parallel for schedule(static) if (rows * a->F > SLC_CPU_GRAIN)
    for (int64_t r = 0; r < rows; r++) {
        double dw = 0;

        for (int64_t f = 0; f < a->F; f += SLC_CPU_CHUNK)
            dw += backward_chunk(a, r, f, slc_min(SLC_CPU_CHUNK, a->F - f),
                                 a->w ? a->w[r] : 1.0f);
        if (a->dw)
            a->dw[r] = (float)dw;
    }
}
