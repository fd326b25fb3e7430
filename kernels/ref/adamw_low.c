/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>

static uint16_t rounded(double x, uint64_t random)
{
    const float f = (float)x;
    uint32_t bits;

    memcpy(&bits, &f, 4);
    return slc_adamw_round(bits, (uint32_t)random);
}

void slc_ref_adamw_low(struct slc_queue *q, const struct slc_adamw_low_args *a)
{
    (void)q;
    for (int64_t i = 0; i < a->n; i++) {
        const uint64_t random = slc_adamw_bits(a->key, a->first + i);
        double g = slc_ref_load(a->g, a->g_dtype, i) * a->grad_scale;
        double p = slc_bf16_to_f32(a->p[i]) * (1 - a->lr * a->wd);
        double m = slc_bf16_to_f32(a->m[i]), v = slc_bf16_to_f32(a->v[i]);

        m += (1 - a->beta1) * (g - m);
        v = a->beta2 * v + (1 - a->beta2) * g * g;
        p -= a->lr / a->bc1 * m / (sqrt(v) / sqrt(a->bc2) + a->eps);
        a->p[i] = rounded(p, random);
        a->m[i] = rounded(m, random >> 16);
        a->v[i] = rounded(v, random >> 32);
    }
}
