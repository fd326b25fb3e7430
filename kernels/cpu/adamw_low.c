/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

/* As adamw.c; every value is rounded by random bits of its own. */
static void chunk(const struct slc_adamw_low_args *a, int64_t at, int64_t n)
{
    const float keep = (float)(1 - a->lr * a->wd), b1 = (float)(1 - a->beta1);
    const float b2 = (float)a->beta2, c2 = (float)(1 - a->beta2);
    const float step = (float)(a->lr / a->bc1), root = (float)sqrt(a->bc2);
    const float eps = (float)a->eps, scale = a->grad_scale;
    const float *wide = (const float *)a->g + at;
    const uint16_t *low = (const uint16_t *)a->g + at;
    uint16_t *p = a->p + at, *m = a->m + at, *v = a->v + at;

    for (int64_t i = 0; i < n; i++) {
        const uint64_t random = slc_adamw_bits(a->key, a->first + at + i);
        float g = (a->g_dtype == SLC_F32 ? wide[i] : slc_bf16_to_f32(low[i])) * scale;
        float mi = slc_bf16_to_f32(m[i]), vi = slc_bf16_to_f32(v[i]);

        mi += b1 * (g - mi);
        vi = b2 * vi + c2 * g * g;
        float pi = keep * slc_bf16_to_f32(p[i]) - step * (mi / (sqrtf(vi) / root + eps));
        p[i] = slc_adamw_round(slc_bits_of(pi), (uint32_t)random);
        m[i] = slc_adamw_round(slc_bits_of(mi), (uint32_t)(random >> 16));
        v[i] = slc_adamw_round(slc_bits_of(vi), (uint32_t)(random >> 32));
    }
}

void SLC_CPU(adamw_low)(struct slc_queue *q, const struct slc_adamw_low_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->n > SLC_CPU_GRAIN)
    for (int64_t at = 0; at < a->n; at += SLC_CPU_CHUNK)
        chunk(a, at, a->n - at < SLC_CPU_CHUNK ? a->n - at : SLC_CPU_CHUNK);
}
