/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>

static void one_row(const struct slc_cross_entropy_args *a, int64_t r)
{
    const int64_t at = r * a->V, target = a->targets[r];
    double max = -INFINITY, sum = 0;

    for (int64_t i = 0; i < a->V; i++)
        max = fmax(max, slc_ref_load(a->logits, a->dtype, at + i));
    for (int64_t i = 0; i < a->V; i++)
        sum += exp(slc_ref_load(a->logits, a->dtype, at + i) - max);
    double lse = max + log(sum);
    a->loss[r] =
        target < 0 ? 0 : (float)(lse - slc_ref_load(a->logits, a->dtype, at + target));
    if (!a->grad)
        return;
    for (int64_t i = 0; i < a->V; i++) {
        double p = exp(slc_ref_load(a->logits, a->dtype, at + i) - lse);

        slc_ref_store(a->logits, a->dtype, at + i,
                      target < 0 ? 0 : a->scale * (p - (i == target)));
    }
}

void slc_ref_cross_entropy(struct slc_queue *q, const struct slc_cross_entropy_args *a)
{
    (void)q;
    for (int64_t r = 0; r < a->rows; r++)
        one_row(a, r);
}
