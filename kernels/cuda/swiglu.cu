/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

/* One block a row; rows past *rows_dev leave at once. */

#define THREADS 128

__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

template <class T, int V>
__global__ void forward_kernel(T *a, const T *h, const int32_t *rows_dev, int64_t F)
{
    const int64_t r = blockIdx.x;
    float g[V], u[V];

    if (rows_dev && r >= *rows_dev)
        return;
    for (int64_t f = (int64_t)threadIdx.x * V; f < F; f += THREADS * V) {
        slc_load<T, V>(g, h + r * 2 * F + f);
        slc_load<T, V>(u, h + r * 2 * F + F + f);
#pragma unroll
        for (int j = 0; j < V; j++)
            g[j] = g[j] * sigmoid(g[j]) * u[j];
        slc_store<T, V>(a + r * F + f, g);
    }
}

void slc_cuda_swiglu_forward(struct slc_queue *q,
                             const struct slc_swiglu_forward_args *a)
{
    if (a->rows <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        const bool wide = a->F % (16 / sizeof(T)) == 0 && slc_aligned(a->a, 16) &&
                          slc_aligned(a->h, 16);
        SLC_BY_WIDTH(wide, {
            forward_kernel<T, V><<<(unsigned)a->rows, THREADS, 0, SLC_STREAM(q)>>>(
                (T *)a->a, (const T *)a->h, a->rows_dev, a->F);
        });
    });
    slc_cuda_launched(q, "swiglu_forward");
}

template <class T, int V>
__global__ void backward_kernel(T *dh, T *aw, float *dw, const T *da0, const T *h,
                                const float *w, const int32_t *rows_dev, int64_t F)
{
    const int64_t r = blockIdx.x;
    float g[V], u[V], d[V], act[V];

    if (rows_dev && r >= *rows_dev)
        return;
    const float wr = w ? w[r] : 1.0f;
    float sum = 0;
    for (int64_t f = (int64_t)threadIdx.x * V; f < F; f += THREADS * V) {
        slc_load<T, V>(g, h + r * 2 * F + f);
        slc_load<T, V>(u, h + r * 2 * F + F + f);
        slc_load<T, V>(d, da0 + r * F + f);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float s = sigmoid(g[j]), silu = g[j] * s;
            const float up = u[j];

            act[j] = silu * up;
            sum += d[j] * act[j];
            act[j] *= wr;
            u[j] = wr * d[j] * silu;
            g[j] = wr * d[j] * up * s * (1.0f + g[j] * (1.0f - s));
        }
        if (aw)
            slc_store<T, V>(aw + r * F + f, act);
        slc_store<T, V>(dh + r * 2 * F + f, g);
        slc_store<T, V>(dh + r * 2 * F + F + f, u);
    }
    if (!dw)
        return;
    sum = slc_block_sum(sum);
    if (threadIdx.x == 0)
        dw[r] = sum;
}

void slc_cuda_swiglu_backward(struct slc_queue *q,
                              const struct slc_swiglu_backward_args *a)
{
    if (a->rows <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        const bool wide = a->F % (16 / sizeof(T)) == 0 && slc_aligned(a->dh, 16) &&
                          slc_aligned(a->aw, 16) && slc_aligned(a->da0, 16) &&
                          slc_aligned(a->h, 16);
        SLC_BY_WIDTH(wide, {
            backward_kernel<T, V><<<(unsigned)a->rows, THREADS, 0, SLC_STREAM(q)>>>(
                (T *)a->dh, (T *)a->aw, a->dw, (const T *)a->da0, (const T *)a->h, a->w,
                a->rows_dev, a->F);
        });
    });
    slc_cuda_launched(q, "swiglu_backward");
}
