/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

void slc_ref_sum_squares(struct slc_queue *q, const struct slc_sum_squares_args *a)
{
    double sum = 0;

    (void)q;
    for (int64_t i = 0; i < a->n; i++) {
        double x = slc_ref_load(a->x, a->dtype, i);

        sum += x * x;
    }
    *a->out = a->acc ? *a->out + sum : sum;
}

void slc_ref_sum(struct slc_queue *q, const struct slc_sum_args *a)
{
    double sum = 0;

    (void)q;
    for (int64_t i = 0; i < a->n; i++)
        sum += a->x[i];
    *a->out = a->acc ? *a->out + sum : sum;
}
