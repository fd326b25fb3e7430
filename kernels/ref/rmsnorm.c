/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

static void forward_row(const struct slc_rmsnorm_forward_args *a, int64_t t)
{
    const int64_t at = t * a->H;
    const void *s = a->add ? a->sum : a->x;
    double mean = 0;

    if (a->add)
        for (int64_t i = at; i < at + a->H; i++)
            slc_ref_store(a->sum, a->dtype, i,
                          slc_ref_load(a->x, a->dtype, i) +
                              slc_ref_load(a->add, a->dtype, i));
    for (int64_t i = at; i < at + a->H; i++)
        mean += slc_ref_load(s, a->dtype, i) * slc_ref_load(s, a->dtype, i);
    mean /= (double)a->H;
    double rstd = 1 / sqrt(mean + a->eps);
    a->rstd[t] = (float)rstd;
    for (int64_t i = 0; i < a->H; i++) {
        double n = slc_ref_load(s, a->dtype, at + i) * rstd;

        if (a->dtype == SLC_BF16)
            n = slc_ref_round(n, SLC_BF16);
        slc_ref_store(a->y, a->dtype, at + i, n * slc_ref_load(a->w, a->dtype, i));
    }
}

void slc_ref_rmsnorm_forward(struct slc_queue *q,
                             const struct slc_rmsnorm_forward_args *a)
{
    (void)q;
    for (int64_t t = 0; t < a->T; t++)
        forward_row(a, t);
}

void slc_ref_rmsnorm_backward(struct slc_queue *q,
                              const struct slc_rmsnorm_backward_args *a)
{
    double *dw = slc_ref_doubles(a->H);

    (void)q;
    for (int64_t t = 0; t < a->T; t++) {
        const int64_t at = t * a->H;
        double mean = 0;

        for (int64_t i = 0; i < a->H; i++) {
            double dy = slc_ref_load(a->dy, a->dtype, at + i);
            double n = slc_ref_load(a->x, a->dtype, at + i) * a->rstd[t];

            mean += dy * slc_ref_load(a->w, a->dtype, i) * n;
            dw[i] += dy * n;
        }
        mean /= (double)a->H;
        for (int64_t i = 0; i < a->H; i++) {
            double g =
                slc_ref_load(a->dy, a->dtype, at + i) * slc_ref_load(a->w, a->dtype, i);
            double n = slc_ref_load(a->x, a->dtype, at + i) * a->rstd[t];
            double dres = a->dres ? slc_ref_load(a->dres, a->dtype, at + i) : 0;

            slc_ref_store(a->dx, a->dtype, at + i, a->rstd[t] * (g - n * mean) + dres);
        }
    }
    if (a->dw)
        for (int64_t i = 0; i < a->H; i++)
            a->dw[i] = (float)(a->dw[i] + dw[i]);
    free(dw);
}
