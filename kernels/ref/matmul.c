/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

void slc_ref_matmul(struct slc_queue *q, const struct slc_matmul_args *a)
{
    const int64_t lda = a->lda ? a->lda : a->trans_a ? a->M : a->K;
    const int64_t ldb = a->ldb ? a->ldb : a->trans_b ? a->K : a->N;
    const int64_t ldc = a->ldc ? a->ldc : a->N;

    (void)q;
    for (int64_t m = 0; m < a->M; m++)
        for (int64_t n = 0; n < a->N; n++) {
            double sum = a->acc ? slc_ref_load(a->c, a->c_dtype, m * ldc + n) : 0;

            for (int64_t k = 0; k < a->K; k++)
                sum += slc_ref_load(a->a, a->dtype,
                                    a->trans_a ? k * lda + m : m * lda + k) *
                       slc_ref_load(a->b, a->dtype,
                                    a->trans_b ? n * ldb + k : k * ldb + n);
            slc_ref_store(a->c, a->c_dtype, m * ldc + n, sum);
        }
}
