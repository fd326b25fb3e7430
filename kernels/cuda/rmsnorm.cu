/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

/* One block a row. A thread always holds the same columns, V neighbours at a time. */

#define THREADS 256

template <class T, int V>
__global__ void forward_kernel(T *y, T *sum, float *rstd, const T *x, const T *add,
                               const T *w, int64_t H, float eps)
{
    const int64_t at = (int64_t)blockIdx.x * H;
    const T *s = add ? sum : x;
    float mean = 0, v[V], z[V];

    for (int64_t i = (int64_t)threadIdx.x * V; i < H; i += THREADS * V) {
        slc_load<T, V>(v, x + at + i);
        if (add) {
            slc_load<T, V>(z, add + at + i);
#pragma unroll
            for (int j = 0; j < V; j++)
                v[j] = slc_rounded<T>(v[j] + z[j]);
            slc_store<T, V>(sum + at + i, v);
        }
#pragma unroll
        for (int j = 0; j < V; j++)
            mean += v[j] * v[j];
    }
    mean = slc_block_sum(mean) / (float)H;
    const float r = 1.0f / sqrtf(mean + eps);
    if (threadIdx.x == 0)
        rstd[blockIdx.x] = r;
    for (int64_t i = (int64_t)threadIdx.x * V; i < H; i += THREADS * V) {
        slc_load<T, V>(v, s + at + i);
        slc_load<T, V>(z, w + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = slc_rounded<T>(v[j] * r) * z[j];
        slc_store<T, V>(y + at + i, v);
    }
}

void slc_cuda_rmsnorm_forward(struct slc_queue *q,
                              const struct slc_rmsnorm_forward_args *a)
{
    if (a->T <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        const bool wide = a->H % (16 / sizeof(T)) == 0 && slc_aligned(a->y, 16) &&
                          slc_aligned(a->x, 16) && slc_aligned(a->w, 16) &&
                          slc_aligned(a->add, 16) && slc_aligned(a->sum, 16);
        SLC_BY_WIDTH(wide, {
            forward_kernel<T, V><<<(unsigned)a->T, THREADS, 0, SLC_STREAM(q)>>>(
                (T *)a->y, (T *)a->sum, a->rstd, (const T *)a->x, (const T *)a->add,
                (const T *)a->w, a->H, a->eps);
        });
    });
    slc_cuda_launched(q, "rmsnorm_forward");
}

/*
 * Block b takes rows [b*rows, (b+1)*rows) one after another and leaves its part of dw
 * in part[b]; the parts are added in order of b by total_kernel.
 */
template <class T, int V>
__global__ void backward_kernel(T *dx, float *part, const T *dy, const T *x, const T *w,
                                const T *dres, const float *rstd, int64_t rows,
                                int64_t n, int64_t H)
{
    extern __shared__ float dw[];
    const int64_t first = (int64_t)blockIdx.x * rows;
    const int64_t last = first + rows < n ? first + rows : n;
    float d[V], s[V], z[V];

    for (int64_t i = (int64_t)threadIdx.x * V; part && i < H; i += THREADS * V)
#pragma unroll
        for (int j = 0; j < V; j++)
            dw[i + j] = 0;
    for (int64_t t = first; t < last; t++) {
        const int64_t at = t * H;
        const float r = rstd[t];
        float mean = 0;

        for (int64_t i = (int64_t)threadIdx.x * V; i < H; i += THREADS * V) {
            slc_load<T, V>(d, dy + at + i);
            slc_load<T, V>(s, x + at + i);
            slc_load<T, V>(z, w + i);
#pragma unroll
            for (int j = 0; j < V; j++) {
                mean += d[j] * z[j] * (s[j] * r);
                if (part)
                    dw[i + j] += d[j] * (s[j] * r);
            }
        }
        mean = slc_block_sum(mean) / (float)H;
        for (int64_t i = (int64_t)threadIdx.x * V; i < H; i += THREADS * V) {
            float res[V] = {};

            slc_load<T, V>(d, dy + at + i);
            slc_load<T, V>(s, x + at + i);
            slc_load<T, V>(z, w + i);
            if (dres)
                slc_load<T, V>(res, dres + at + i);
#pragma unroll
            for (int j = 0; j < V; j++)
                d[j] = r * (d[j] * z[j] - s[j] * r * mean) + res[j];
            slc_store<T, V>(dx + at + i, d);
        }
    }
    for (int64_t i = (int64_t)threadIdx.x * V; part && i < H; i += THREADS * V)
#pragma unroll
        for (int j = 0; j < V; j++)
            part[blockIdx.x * H + i + j] = dw[i + j];
}

__global__ void total_kernel(float *dw, const float *part, int64_t n, int64_t H)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0;

    if (i >= H)
        return;
#pragma unroll 8
    for (int64_t b = 0; b < n; b++)
        sum += part[b * H + i];
    dw[i] += sum;
}

/* Rows of a block depend on T alone, so that the sums do not change with the card. */
#define BLOCKS 264

void slc_cuda_rmsnorm_backward(struct slc_queue *q,
                               const struct slc_rmsnorm_backward_args *a)
{
    const int64_t rows = slc_ceil_div(a->T, BLOCKS);
    const int64_t blocks = rows ? slc_ceil_div(a->T, rows) : 0;
    const size_t smem = a->dw ? (size_t)a->H * sizeof(float) : 0;
    float *part = NULL;

    if (a->T <= 0)
        return;
    if (a->dw) {
        part = (float *)slc_cuda_scratch(q, (size_t)blocks * a->H * sizeof(float));
        if (!part)
            return;
    }
    SLC_BY_DTYPE(a->dtype, {
        const bool wide = a->H % (16 / sizeof(T)) == 0 && slc_aligned(a->dx, 16) &&
                          slc_aligned(a->dy, 16) && slc_aligned(a->x, 16) &&
                          slc_aligned(a->w, 16) && slc_aligned(a->dres, 16);
        SLC_BY_WIDTH(wide, {
            if (slc_cuda_allow_smem(q, (const void *)backward_kernel<T, V>, smem,
                                    "rmsnorm_backward") != 0)
                return;
            backward_kernel<T, V><<<(unsigned)blocks, THREADS, smem, SLC_STREAM(q)>>>(
                (T *)a->dx, part, (const T *)a->dy, (const T *)a->x, (const T *)a->w,
                (const T *)a->dres, a->rstd, rows, a->T, a->H);
        });
    });
    if (a->dw)
        total_kernel<<<(unsigned)slc_ceil_div(a->H, 64), 64, 0, SLC_STREAM(q)>>>(
            a->dw, part, blocks, a->H);
    slc_cuda_launched(q, "rmsnorm_backward");
}
