/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

void slc_ref_grouped_matmul(struct slc_queue *q,
                            const struct slc_grouped_matmul_args *a)
{
    const int64_t N = a->N, K = a->Kd;

    (void)q;
    for (int64_t e = 0; e < a->El; e++)
        for (int64_t r = a->off[e]; r < a->off[e + 1]; r++)
            for (int64_t n = 0; n < N; n++) {
                double sum = 0;

                for (int64_t k = 0; k < K; k++) {
                    int64_t w = e * N * K + (a->trans_w ? n * K + k : k * N + n);

                    sum += slc_ref_load(a->x, a->dtype, r * K + k) *
                           slc_ref_load(a->w, a->dtype, w);
                }
                slc_ref_store(a->y, a->dtype, r * N + n, sum);
            }
}

void slc_ref_grouped_wgrad(struct slc_queue *q, const struct slc_grouped_wgrad_args *a)
{
    const int64_t N = a->N, K = a->Kd;

    (void)q;
    for (int64_t e = 0; e < a->El; e++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++) {
                const int64_t at = (e * N + n) * K + k;
                double sum = a->acc ? slc_ref_load(a->dw, a->dw_dtype, at) : 0;

                for (int64_t r = a->off[e]; r < a->off[e + 1]; r++)
                    sum += slc_ref_load(a->dy, a->dtype, r * N + n) *
                           slc_ref_load(a->x, a->dtype, r * K + k);
                slc_ref_store(a->dw, a->dw_dtype, at, sum);
            }
}
