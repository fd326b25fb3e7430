/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"

/*
 * C is cut into tiles by shape alone and K is never split, so the bits do not depend on
 * the number of threads. Tiles shrink until there are 32, but not below 128 x 128.
 */
static void tile_size(int64_t M, int64_t N, int64_t *tm, int64_t *tn)
{
    *tm = M < SLC_TILE_MAX ? M : SLC_TILE_MAX;
    *tn = N < SLC_TILE_MAX ? N : SLC_TILE_MAX;
    while (((M + *tm - 1) / *tm) * ((N + *tn - 1) / *tn) < 32) {
        if (*tm >= *tn && *tm >= 256)
            *tm /= 2;
        else if (*tn >= 256)
            *tn /= 2;
        else
            return;
    }
}

void SLC_CPU(matmul)(struct slc_queue *q, const struct slc_matmul_args *a)
{
    struct slc_matmul_args all = *a;
    struct slc_product p;
    int64_t tm, tn;

    if (a->M <= 0 || a->N <= 0 || !slc_product_begin(&p, q, a))
        return;
    all.lda = a->lda ? a->lda : a->trans_a ? a->M : a->K;
    all.ldb = a->ldb ? a->ldb : a->trans_b ? a->K : a->N;
    all.ldc = a->ldc ? a->ldc : a->N;
    tile_size(a->M, a->N, &tm, &tn);
#pragma omp parallel for collapse(2)                                                   \
    schedule(static) if (a->M * a->N * a->K > 32 * SLC_CPU_GRAIN)
    for (int64_t m = 0; m < a->M; m += tm)
        for (int64_t n = 0; n < a->N; n += tn)
            slc_product_tile(&p, &all, m, n, tm, tn);
}
