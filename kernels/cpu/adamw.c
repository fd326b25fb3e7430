/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

/* Constants are formed in double and rounded once, as torch does with its scalars. */
static void chunk(const struct slc_adamw_args *a, int64_t at, int64_t n)
{
    const float keep = (float)(1 - a->lr * a->wd), b1 = (float)(1 - a->beta1);
    const float b2 = (float)a->beta2, c2 = (float)(1 - a->beta2);
    const float step = (float)(a->lr / a->bc1), root = (float)sqrt(a->bc2);
    const float eps = (float)a->eps, scale = a->grad_scale;
    float *p = a->p + at, *m = a->m + at, *v = a->v + at;
    const float *grad = a->g + at;

#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * scale;
        float mi = m[i] + b1 * (g - m[i]);
        float vi = b2 * v[i] + c2 * g * g;

        m[i] = mi;
        v[i] = vi;
        p[i] = keep * p[i] - step * (mi / (sqrtf(vi) / root + eps));
    }
    if (a->p_low)
        slc_put(a->p_low, SLC_BF16, at, n, p);
}

void SLC_CPU(adamw)(struct slc_queue *q, const struct slc_adamw_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->n > SLC_CPU_GRAIN)
    for (int64_t at = 0; at < a->n; at += SLC_CPU_CHUNK)
        chunk(a, at, slc_min(SLC_CPU_CHUNK, a->n - at));
}
