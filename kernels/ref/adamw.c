/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>

void slc_ref_adamw(struct slc_queue *q, const struct slc_adamw_args *a)
{
    (void)q;
    for (int64_t i = 0; i < a->n; i++) {
        double g = (double)a->g[i] * a->grad_scale;
        double p = a->p[i] * (1 - a->lr * a->wd);
        double m = a->m[i] + (1 - a->beta1) * (g - a->m[i]);
        double v = a->beta2 * a->v[i] + (1 - a->beta2) * g * g;

        p -= a->lr / a->bc1 * m / (sqrt(v) / sqrt(a->bc2) + a->eps);
        a->p[i] = (float)p;
        a->m[i] = (float)m;
        a->v[i] = (float)v;
        if (a->p_low)
            a->p_low[i] = slc_f32_to_bf16(a->p[i]);
    }
}
