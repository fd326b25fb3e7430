/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#define BLOCK ((int64_t)1 << 18) /* bytes of one piece */

void SLC_CPU(copy)(struct slc_queue *q, const struct slc_copy_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->bytes > BLOCK)
    for (int64_t at = 0; at < a->bytes; at += BLOCK)
        memcpy((char *)a->dst + at, (const char *)a->src + at,
               (size_t)slc_min(BLOCK, a->bytes - at));
}

void SLC_CPU(zero)(struct slc_queue *q, const struct slc_zero_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->bytes > BLOCK)
    for (int64_t at = 0; at < a->bytes; at += BLOCK)
        memset((char *)a->dst + at, 0, (size_t)slc_min(BLOCK, a->bytes - at));
}
