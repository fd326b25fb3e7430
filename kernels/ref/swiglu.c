/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>

static int64_t rows_of(int64_t rows, const int32_t *rows_dev)
{
    return rows_dev && *rows_dev < rows ? *rows_dev : rows;
}

void slc_ref_swiglu_forward(struct slc_queue *q,
                            const struct slc_swiglu_forward_args *a)
{
    const int64_t rows = rows_of(a->rows, a->rows_dev), F = a->F;

    (void)q;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t f = 0; f < F; f++) {
            double g = slc_ref_load(a->h, a->dtype, r * 2 * F + f);
            double u = slc_ref_load(a->h, a->dtype, r * 2 * F + F + f);

            slc_ref_store(a->a, a->dtype, r * F + f, g / (1 + exp(-g)) * u);
        }
}

void slc_ref_swiglu_backward(struct slc_queue *q,
                             const struct slc_swiglu_backward_args *a)
{
    const int64_t rows = rows_of(a->rows, a->rows_dev), F = a->F;

    (void)q;
    for (int64_t r = 0; r < rows; r++) {
        double w = a->w ? a->w[r] : 1, dw = 0;

        for (int64_t f = 0; f < F; f++) {
            double g = slc_ref_load(a->h, a->dtype, r * 2 * F + f);
            double u = slc_ref_load(a->h, a->dtype, r * 2 * F + F + f);
            double d = slc_ref_load(a->da0, a->dtype, r * F + f);
            double s = 1 / (1 + exp(-g)), act = g * s * u;

            dw += d * act;
            if (a->aw)
                slc_ref_store(a->aw, a->dtype, r * F + f, w * act);
            slc_ref_store(a->dh, a->dtype, r * 2 * F + f,
                          w * d * u * s * (1 + g * (1 - s)));
            slc_ref_store(a->dh, a->dtype, r * 2 * F + F + f, w * d * g * s);
        }
        if (a->dw)
            a->dw[r] = (float)dw;
    }
}
