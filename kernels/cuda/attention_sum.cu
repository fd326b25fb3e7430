/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

#define THREADS 256
#define WIDTH 8 /* elements of 16 bytes */

/* One piece of WIDTH elements of a key head: the sum over its query heads, in their
 * order. */
static __device__ void sum_heads(void *out, const void *all, int64_t to, int64_t from,
                                 int group, int D)
{
    float sum[WIDTH] = {}, x[WIDTH];

    for (int g = 0; g < group; g++) {
        slc_load(x, (const bf16 *)all + from + g * D);
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            sum[i] += x[i];
    }
    slc_store((bf16 *)out + to, sum);
}

__global__ void __launch_bounds__(THREADS) sum_groups_kernel(slc_cuda_groups a)
{
    const int pieces = (int)(a.D / WIDTH), group = (int)(a.NQ / a.NK);
    const int64_t tokens = a.length ? a.length[blockIdx.y] : a.most;
    const int64_t first = a.length ? a.off_k[blockIdx.y] / (a.NK * a.D) : 0;
    const int64_t step = (int64_t)gridDim.x * THREADS;

    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
         i < tokens * a.NK * pieces; i += step) {
        const int64_t head = first * a.NK + i / pieces; /* of all tokens' key heads */
        const int64_t to = head * a.D + i % pieces * WIDTH;
        const int64_t from = head * group * a.D + i % pieces * WIDTH;

        sum_heads(a.dk, a.all_dk, to, from, group, (int)a.D);
        sum_heads(a.dv, a.all_dv, to, from, group, (int)a.D);
    }
}

void slc_cuda_sum_groups(struct slc_queue *q, const struct slc_cuda_groups *a)
{
    const int64_t pieces = a->most * a->NK * (a->D / WIDTH);
    const dim3 grid((unsigned)slc_least(slc_ceil_div(pieces, THREADS), 1024),
                    (unsigned)a->slots);

    sum_groups_kernel<<<grid, THREADS, 0, SLC_STREAM(q)>>>(*a);
    slc_cuda_launched(q, "attention");
}
