/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

static bool is_double(const struct slc_cast_args *a)
{
    return a->dst_dtype == SLC_F64 || a->src_dtype == SLC_F64;
}

/* Pieces with fp64 on one side: element by element, only set-up code asks for them. */
static void cast_double(const struct slc_cast_args *a, int64_t at, int64_t n)
{
    float buf[SLC_CPU_CHUNK];

    if (a->src_dtype == SLC_F64 && a->dst_dtype == SLC_F64) {
        memcpy((double *)a->dst + at, (const double *)a->src + at,
               (size_t)n * sizeof(double));
    } else if (a->src_dtype == SLC_F64) {
        float *y = slc_out(a->dst, a->dst_dtype, at, buf);

        for (int64_t i = 0; i < n; i++)
            y[i] = (float)((const double *)a->src)[at + i];
        slc_put(a->dst, a->dst_dtype, at, n, y);
    } else {
        const float *x = slc_in(a->src, a->src_dtype, at, n, buf);

        for (int64_t i = 0; i < n; i++)
            ((double *)a->dst)[at + i] = x[i];
    }
}

void SLC_CPU(cast)(struct slc_queue *q, const struct slc_cast_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->n > SLC_CPU_GRAIN)
    for (int64_t at = 0; at < a->n; at += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->n - at);
        float buf[SLC_CPU_CHUNK];

        if (is_double(a)) {
            cast_double(a, at, n);
            continue;
        }
        const float *x = slc_in(a->src, a->src_dtype, at, n, buf);
        if (a->dst_dtype == SLC_F32)
            memcpy((float *)a->dst + at, x, (size_t)n * sizeof(float));
        else
            slc_put(a->dst, a->dst_dtype, at, n, x);
    }
}

void SLC_CPU(add)(struct slc_queue *q, const struct slc_add_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->n > SLC_CPU_GRAIN)
    for (int64_t at = 0; at < a->n; at += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->n - at);
        float b1[SLC_CPU_CHUNK], b2[SLC_CPU_CHUNK];
        const float *x = slc_in(a->a, a->dtype, at, n, b1);
        const float *z = slc_in(a->b, a->dtype, at, n, b2);
        float *y = slc_out(a->y, a->dtype, at, b1);

#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] + z[i];
        slc_put(a->y, a->dtype, at, n, y);
    }
}

void SLC_CPU(scale)(struct slc_queue *q, const struct slc_scale_args *a)
{
    const float alpha = a->alpha;

    (void)q;
#pragma omp parallel for schedule(static) if (a->n > SLC_CPU_GRAIN)
    for (int64_t at = 0; at < a->n; at += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->n - at);
        float buf[SLC_CPU_CHUNK];
        const float *x = slc_in(a->x, a->dtype, at, n, buf);
        float *y = slc_out(a->x, a->dtype, at, buf);

#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] * alpha;
        slc_put(a->x, a->dtype, at, n, y);
    }
}
