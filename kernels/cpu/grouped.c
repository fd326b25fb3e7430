/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/deal.h"
#include "kernels/cpu/gemm.h"

#define TILE 256

/* Tiles of one expert's product, to whichever thread is free. */
static void expert_tiles(const struct slc_product *p, const struct slc_matmul_args *a,
                         struct slc_deal *d)
{
    for (int64_t m = 0; m < a->M; m += TILE)
        for (int64_t n = 0; n < a->N; n += 2 * TILE)
            if (slc_deal_mine(d))
                slc_product_tile(p, a, m, n, TILE, 2 * TILE);
}

void SLC_CPU(grouped_matmul)(struct slc_queue *q,
                             const struct slc_grouped_matmul_args *a)
{
    const int64_t size = (int64_t)slc_dtype_size(a->dtype), N = a->N, K = a->Kd;
    const struct slc_matmul_args layout = {
        .trans_b = a->trans_w, .dtype = a->dtype, .c_dtype = a->dtype};
    struct slc_product p;
    int64_t next = 0;

    if (!slc_product_begin(&p, q, &layout))
        return;
#pragma omp parallel if (a->off[a->El] * N * K > 32 * SLC_CPU_GRAIN)
    {
        struct slc_deal deal = slc_deal_begin(&next);

        for (int64_t e = 0; e < a->El; e++) {
            const struct slc_matmul_args one = {
                .c = (char *)a->y + a->off[e] * N * size,
                .a = (const char *)a->x + a->off[e] * K * size,
                .b = (const char *)a->w + e * N * K * size,
                .M = a->off[e + 1] - a->off[e],
                .N = N,
                .K = K,
                .lda = K,
                .ldb = a->trans_w ? K : N,
                .ldc = N,
                .trans_b = a->trans_w,
                .dtype = a->dtype,
                .c_dtype = a->dtype,
            };

            expert_tiles(&p, &one, &deal);
        }
    }
}

void SLC_CPU(grouped_wgrad)(struct slc_queue *q, const struct slc_grouped_wgrad_args *a)
{
    const int64_t size = (int64_t)slc_dtype_size(a->dtype), N = a->N, K = a->Kd;
    const int64_t out = (int64_t)slc_dtype_size(a->dw_dtype);
    const struct slc_matmul_args layout = {
        .trans_a = true, .acc = a->acc, .dtype = a->dtype, .c_dtype = a->dw_dtype};
    struct slc_product p;
    int64_t next = 0;

    if (!slc_product_begin(&p, q, &layout))
        return;
#pragma omp parallel if (a->off[a->El] * N * K > 32 * SLC_CPU_GRAIN)
    {
        struct slc_deal deal = slc_deal_begin(&next);

        for (int64_t e = 0; e < a->El; e++) {
            const struct slc_matmul_args one = {
                .c = (char *)a->dw + e * N * K * out,
                .a = (const char *)a->dy + a->off[e] * N * size,
                .b = (const char *)a->x + a->off[e] * K * size,
                .M = N,
                .N = K,
                .K = a->off[e + 1] - a->off[e],
                .lda = N,
                .ldb = K,
                .ldc = K,
                .trans_a = true,
                .acc = a->acc,
                .dtype = a->dtype,
                .c_dtype = a->dw_dtype,
            };

            expert_tiles(&p, &one, &deal);
        }
    }
}
