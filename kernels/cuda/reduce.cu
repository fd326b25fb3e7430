/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

/*
 * Sums in double. How values are dealt to threads and blocks depends on n alone, and the
 * partial sums are added in one fixed tree.
 */

#define THREADS 256
#define MOST_BLOCKS 1024

static int64_t blocks_for(int64_t n)
{
    return slc_most(1, slc_least(slc_ceil_div(n, THREADS * 16), MOST_BLOCKS));
}

template <class T, int V, bool SQUARE>
__global__ void partial_kernel(double *part, const T *x, int64_t n)
{
    const int64_t step = (int64_t)gridDim.x * THREADS * V;
    double sum = 0;

    for (int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V; i < n; i += step) {
        if (i + V <= n) {
            float z[V];

            slc_load<T, V>(z, x + i);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum += SQUARE ? (double)z[j] * z[j] : z[j];
        } else {
            for (int64_t j = i; j < n; j++)
                sum += SQUARE ? (double)slc_f(x[j]) * slc_f(x[j]) : slc_f(x[j]);
        }
    }
    sum = slc_block_sum(sum);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

__global__ void total_kernel(double *out, const double *part, int n, bool acc)
{
    double sum = 0;

    for (int i = threadIdx.x; i < n; i += THREADS)
        sum += part[i];
    sum = slc_block_sum(sum);
    if (threadIdx.x == 0)
        *out = acc ? *out + sum : sum;
}

template <class T, bool SQUARE>
static void reduce(struct slc_queue *q, double *out, const void *x, int64_t n, bool acc,
                   const char *what)
{
    const int64_t blocks = blocks_for(n);
    double *part = (double *)slc_cuda_scratch(q, MOST_BLOCKS * sizeof(double));

    if (!part)
        return;
    SLC_BY_WIDTH(slc_aligned(x, 16), {
        partial_kernel<T, V, SQUARE>
            <<<(unsigned)blocks, THREADS, 0, SLC_STREAM(q)>>>(part, (const T *)x, n);
    });
    total_kernel<<<1, THREADS, 0, SLC_STREAM(q)>>>(out, part, (int)blocks, acc);
    slc_cuda_launched(q, what);
}

void slc_cuda_sum_squares(struct slc_queue *q, const struct slc_sum_squares_args *a)
{
    SLC_BY_DTYPE(a->dtype,
                 reduce<T, true>(q, a->out, a->x, a->n, a->acc, "sum_squares"));
}

void slc_cuda_sum(struct slc_queue *q, const struct slc_sum_args *a)
{
    reduce<float, false>(q, a->out, a->x, a->n, a->acc, "sum");
}
