/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

static float row_max(const struct slc_cross_entropy_args *a, int64_t row)
{
    float max = -INFINITY;

    for (int64_t v = 0; v < a->V; v += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->V - v);
        float buf[SLC_CPU_CHUNK];
        const float *x = slc_in(a->logits, a->dtype, row + v, n, buf);

#pragma omp simd reduction(max : max)
        for (int64_t i = 0; i < n; i++)
            max = x[i] > max ? x[i] : max;
    }
    return max;
}

/* A NaN logit was passed over by the maximum; here it reaches the sum. */
static double row_sum(const struct slc_cross_entropy_args *a, int64_t row, float max)
{
    double total = 0;

    for (int64_t v = 0; v < a->V; v += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->V - v);
        float buf[SLC_CPU_CHUNK], sum = 0;
        const float *x = slc_in(a->logits, a->dtype, row + v, n, buf);

#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++)
            sum += slc_exp(x[i] - max);
        total += sum;
    }
    return total;
}

/* The gradient; target < 0: zeros. */
static void row_grad(const struct slc_cross_entropy_args *a, int64_t row, float max,
                     double sum, int64_t target)
{
    const float f = target < 0 ? 0.0f : (float)(a->scale / sum);

    for (int64_t v = 0; v < a->V; v += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->V - v);
        float buf[SLC_CPU_CHUNK];
        const float *x = slc_in(a->logits, a->dtype, row + v, n, buf);
        float *y = slc_out(a->logits, a->dtype, row + v, buf);

        if (target < 0)
            memset(y, 0, (size_t)n * sizeof(*y));
        else
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                y[i] = f * slc_exp(x[i] - max);
        if (target >= v && target < v + n)
            y[target - v] -= a->scale;
        slc_put(a->logits, a->dtype, row + v, n, y);
    }
}

static void one_row(const struct slc_cross_entropy_args *a, int64_t r)
{
    const int64_t row = r * a->V, target = a->targets[r];
    float logit;

    if (target < 0) {
        a->loss[r] = 0;
        if (a->grad)
            row_grad(a, row, 0, 1, target);
        return;
    }
    const float max = row_max(a, row);
    const double sum = row_sum(a, row, max);
    logit = *slc_in(a->logits, a->dtype, row + target, 1, &logit);
    a->loss[r] = (float)((double)max - logit + log(sum));
    if (a->grad)
        row_grad(a, row, max, sum, target);
}

void SLC_CPU(cross_entropy)(struct slc_queue *q, const struct slc_cross_entropy_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->rows * a->V > SLC_CPU_GRAIN)
    for (int64_t r = 0; r < a->rows; r++)
        one_row(a, r);
}
