/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#define PIECES 64

/* No fast-math here: a NaN or infinity must reach the sum. */
static double squares(const struct slc_sum_squares_args *a, int64_t from, int64_t to)
{
    double sum = 0;

    for (int64_t at = from; at < to; at += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, to - at);
        float buf[SLC_CPU_CHUNK];
        const float *x = slc_in(a->x, a->dtype, at, n, buf);

#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++)
            sum += (double)x[i] * (double)x[i];
    }
    return sum;
}

void SLC_CPU(sum_squares)(struct slc_queue *q, const struct slc_sum_squares_args *a)
{
    const int64_t chunks = (a->n + SLC_CPU_CHUNK - 1) / SLC_CPU_CHUNK;
    const int64_t step = (chunks + PIECES - 1) / PIECES * SLC_CPU_CHUNK;
    double part[PIECES], sum = 0;

    (void)q;
#pragma omp parallel for schedule(static) if (a->n > SLC_CPU_GRAIN)
    for (int64_t p = 0; p < PIECES; p++)
        part[p] = squares(a, slc_min(p * step, a->n), slc_min((p + 1) * step, a->n));
    for (int64_t p = 0; p < PIECES; p++)
        sum += part[p];
    *a->out = a->acc ? *a->out + sum : sum;
}

void SLC_CPU(sum)(struct slc_queue *q, const struct slc_sum_args *a)
{
    double sum = 0;

    (void)q;
    for (int64_t i = 0; i < a->n; i++)
        sum += a->x[i];
    *a->out = a->acc ? *a->out + sum : sum;
}
