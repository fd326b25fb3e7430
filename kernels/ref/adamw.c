/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>

/* Every line rounds to fp32, as torch does: the moments of a run are compared with it.
 */
void slc_ref_adamw(struct slc_queue *q, const struct slc_adamw_args *a)
{
    const double step = a->lr / a->bc1, root = sqrt(a->bc2);

    (void)q;
    for (int64_t i = 0; i < a->n; i++) {
        double g = (float)((double)a->g[i] * a->grad_scale);
        double p = (float)(a->p[i] * (1 - (double)a->lr * a->wd));

        a->m[i] = (float)(a->m[i] + (1 - (double)a->beta1) * (g - a->m[i]));
        a->v[i] = (float)((double)a->beta2 * a->v[i] + (1 - (double)a->beta2) * g * g);
        a->p[i] = (float)(p - step * a->m[i] / (sqrt(a->v[i]) / root + a->eps));
        if (a->p_low)
            a->p_low[i] = slc_f32_to_bf16(a->p[i]);
    }
}
