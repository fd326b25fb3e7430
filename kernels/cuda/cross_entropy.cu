/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

#include <math.h>

/* One block a row: a pass for maximum and sum together, a pass for the gradient. */

#define THREADS 512

/* (max, sum) of two parts of a row; -inf and 0 is the empty part. */
__device__ __forceinline__ void join(float &max, float &sum, float max2, float sum2)
{
    const float m = fmaxf(max, max2);

    if (m == -INFINITY)
        return;
    sum = sum * expf(max - m) + sum2 * expf(max2 - m);
    max = m;
}

__device__ void row_join(float &max, float &sum)
{
    __shared__ float maxes[THREADS / 32], sums[THREADS / 32];

    for (int o = 16; o > 0; o >>= 1) {
        const float m = __shfl_down_sync(0xffffffffu, max, o);
        const float s = __shfl_down_sync(0xffffffffu, sum, o);

        join(max, sum, m, s);
    }
    if (threadIdx.x % 32 == 0) {
        maxes[threadIdx.x / 32] = max;
        sums[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    max = maxes[0];
    sum = sums[0];
    for (int i = 1; i < THREADS / 32; i++)
        join(max, sum, maxes[i], sums[i]);
}

template <class T, int V>
__global__ void kernel(float *loss, T *logits, const int32_t *targets, int64_t n,
                       float scale, bool grad)
{
    T *row = logits + (int64_t)blockIdx.x * n;
    const int32_t target = targets[blockIdx.x];
    float max = -INFINITY, sum = 0, x[V];

    for (int64_t i = (int64_t)threadIdx.x * V; i < n; i += THREADS * V) {
        float m = -INFINITY, s = 0;

        slc_load<T, V>(x, row + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            m = fmaxf(m, x[j]);
        if (m == -INFINITY && x[0] == x[0])
            continue;
#pragma unroll
        for (int j = 0; j < V; j++)
            s += expf(x[j] - m);
        join(max, sum, m, s);
    }
    row_join(max, sum);
    const float lse = max + logf(sum);
    if (threadIdx.x == 0)
        loss[blockIdx.x] = target < 0 ? 0.0f : lse - slc_f(row[target]);
    if (!grad)
        return;
    __syncthreads(); /* the target's logit is read before it is overwritten */
    for (int64_t i = (int64_t)threadIdx.x * V; i < n; i += THREADS * V) {
        slc_load<T, V>(x, row + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float p = expf(x[j] - max) / sum - (i + j == target ? 1.0f : 0.0f);

            x[j] = target < 0 ? 0.0f : scale * p;
        }
        slc_store<T, V>(row + i, x);
    }
}

void slc_cuda_cross_entropy(struct slc_queue *q, const struct slc_cross_entropy_args *a)
{
    if (a->rows <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        const bool wide = a->V % (16 / sizeof(T)) == 0 && slc_aligned(a->logits, 16);
        const int64_t n = a->V;
        SLC_BY_WIDTH(wide, {
            kernel<T, V><<<(unsigned)a->rows, THREADS, 0, SLC_STREAM(q)>>>(
                a->loss, (T *)a->logits, a->targets, n, a->scale, a->grad);
        });
    });
    slc_cuda_launched(q, "cross_entropy");
}
