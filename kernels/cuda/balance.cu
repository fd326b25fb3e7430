/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

#define THREADS 128

/* One thread an expert; rows in ascending order. */
__global__ void pooled_kernel(float *out, const int32_t *count, int64_t rows, int64_t E,
                              double scale)
{
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    double sum = 0;

    if (e >= E)
        return;
    for (int64_t r = 0; r < rows; r++)
        sum += count[r * E + e];
    out[e] = (float)(scale * sum);
}

/* One block a row. Sums of whole numbers are exact in any order. */
__global__ void row_kernel(float *out, const int32_t *count, int64_t E, double scale)
{
    const int64_t at = (int64_t)blockIdx.x * E;
    double sum = 0;

    for (int64_t e = threadIdx.x; e < E; e += THREADS)
        sum += count[at + e];
    sum = slc_block_sum(sum);
    for (int64_t e = threadIdx.x; e < E; e += THREADS)
        out[at + e] = sum > 0 ? (float)(scale * count[at + e] / (sum * sum)) : 0.0f;
}

void slc_cuda_balance(struct slc_queue *q, const struct slc_balance_args *a)
{
    if (a->E <= 0 || a->rows <= 0)
        return;
    if (a->pooled)
        pooled_kernel<<<(unsigned)slc_ceil_div(a->E, THREADS), THREADS, 0,
                        SLC_STREAM(q)>>>(a->out, a->count, a->rows, a->E, a->scale);
    else
        row_kernel<<<(unsigned)a->rows, THREADS, 0, SLC_STREAM(q)>>>(a->out, a->count,
                                                                     a->E, a->scale);
    slc_cuda_launched(q, "balance");
}
