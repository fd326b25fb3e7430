/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"

/* A few thousand values: one thread. */
void SLC_CPU(balance)(struct slc_queue *q, const struct slc_balance_args *a)
{
    (void)q;
    for (int64_t e = 0; a->pooled && e < a->E; e++) {
        double sum = 0;

        for (int64_t r = 0; r < a->rows; r++)
            sum += a->count[r * a->E + e];
        a->out[e] = (float)(a->scale * sum);
    }
    for (int64_t r = 0; !a->pooled && r < a->rows; r++) {
        const int32_t *count = a->count + r * a->E;
        double sum = 0;

        for (int64_t e = 0; e < a->E; e++)
            sum += count[e];
        for (int64_t e = 0; e < a->E; e++)
            a->out[r * a->E + e] =
                sum > 0 ? (float)(a->scale * count[e] / (sum * sum)) : 0;
    }
}
