/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#define COLUMNS 256 /* of one piece */

void SLC_CPU(embedding_forward)(struct slc_queue *q,
                                const struct slc_embedding_forward_args *a)
{
    const size_t row = (size_t)a->H * slc_dtype_size(a->dtype);

    (void)q;
#pragma omp parallel for schedule(static) if (a->T * a->H > SLC_CPU_GRAIN)
    for (int64_t t = 0; t < a->T; t++)
        memcpy((char *)a->y + (size_t)t * row,
               (const char *)a->w + (size_t)a->ids[t] * row, row);
}

/* A piece owns columns, so that every row is added in ascending t without atomics. */
void SLC_CPU(embedding_backward)(struct slc_queue *q,
                                 const struct slc_embedding_backward_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->T * a->H > SLC_CPU_GRAIN)
    for (int64_t at = 0; at < a->H; at += COLUMNS) {
        const int64_t n = slc_min(COLUMNS, a->H - at);
        float buf[COLUMNS];

        for (int64_t t = 0; t < a->T; t++) {
            const float *dy = slc_in(a->dy, a->dtype, t * a->H + at, n, buf);
            float *dw = a->dw + a->ids[t] * a->H + at;

#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                dw[i] += dy[i];
        }
    }
}
