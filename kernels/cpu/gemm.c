/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/gemm.h"

#include <string.h>

void slc_cpu_tile(struct slc_queue *q, const struct slc_matmul_args *a, int64_t m,
                  int64_t n, int64_t tm, int64_t tn)
{
    const int64_t M = a->M - m < tm ? a->M - m : tm, N = a->N - n < tn ? a->N - n : tn;

    if (a->dtype != SLC_F32 || a->c_dtype != SLC_F32) {
        slc_cpu_refuse(q, "a product in bf16; use dtype fp32");
        return;
    }
    const float *A = (const float *)a->a + (a->trans_a ? m : m * a->lda);
    const float *B = (const float *)a->b + (a->trans_b ? n * a->ldb : n);
    float *C = (float *)a->c + m * a->ldc + n;
    if (a->K > 0)
        slc_cpu_sgemm(q, a->trans_a, a->trans_b, M, N, a->K, A, a->lda, B, a->ldb,
                      a->acc ? 1.0f : 0.0f, C, a->ldc);
    else if (!a->acc)
        for (int64_t i = 0; i < M; i++)
            memset(C + i * a->ldc, 0, (size_t)N * sizeof(*C));
}
