/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

/* One thread makes V neighbouring values; a tail of n is done one by one. */

#define THREADS 256

static unsigned blocks_for(int64_t n, int per_thread)
{
    return (unsigned)slc_ceil_div(n, (int64_t)THREADS * per_thread);
}

template <class To, class From, int V>
__global__ void cast_kernel(To *dst, const From *src, int64_t n)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float x[V];

    if (i + V <= n) {
        slc_load<From, V>(x, src + i);
        slc_store<To, V>(dst + i, x);
    } else {
        for (int64_t j = i; j < n; j++)
            dst[j] = slc_t<To>(slc_f(src[j]));
    }
}

template <class To, class From>
static void cast(struct slc_queue *q, const struct slc_cast_args *a)
{
    if (slc_aligned(a->dst, 16) && slc_aligned(a->src, 16))
        cast_kernel<To, From, 4><<<blocks_for(a->n, 4), THREADS, 0, SLC_STREAM(q)>>>(
            (To *)a->dst, (const From *)a->src, a->n);
    else
        cast_kernel<To, From, 1><<<blocks_for(a->n, 1), THREADS, 0, SLC_STREAM(q)>>>(
            (To *)a->dst, (const From *)a->src, a->n);
    slc_cuda_launched(q, "cast");
}

/* To or from fp64 (few values: sums, norms), one a thread. */
__global__ void cast_f64_kernel(slc_cast_args a)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;

    if (i >= a.n)
        return;
    const double x = a.src_dtype == SLC_F64   ? ((const double *)a.src)[i]
                     : a.src_dtype == SLC_F32 ? ((const float *)a.src)[i]
                                              : slc_f(((const bf16 *)a.src)[i]);
    if (a.dst_dtype == SLC_F64)
        ((double *)a.dst)[i] = x;
    else if (a.dst_dtype == SLC_F32)
        ((float *)a.dst)[i] = (float)x;
    else
        ((bf16 *)a.dst)[i] = slc_t<bf16>((float)x);
}

static void cast_f64(struct slc_queue *q, const struct slc_cast_args *a)
{
    cast_f64_kernel<<<blocks_for(a->n, 1), THREADS, 0, SLC_STREAM(q)>>>(*a);
    slc_cuda_launched(q, "cast");
}

template <class T, int V>
__global__ void add_kernel(T *y, const T *a, const T *b, int64_t n)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float x[V], z[V];

    if (i + V <= n) {
        slc_load<T, V>(x, a + i);
        slc_load<T, V>(z, b + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            x[j] += z[j];
        slc_store<T, V>(y + i, x);
    } else {
        for (int64_t j = i; j < n; j++)
            y[j] = slc_t<T>(slc_f(a[j]) + slc_f(b[j]));
    }
}

template <class T, int V> __global__ void scale_kernel(T *x, float alpha, int64_t n)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float z[V];

    if (i + V <= n) {
        slc_load<T, V>(z, x + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            z[j] *= alpha;
        slc_store<T, V>(x + i, z);
    } else {
        for (int64_t j = i; j < n; j++)
            x[j] = slc_t<T>(slc_f(x[j]) * alpha);
    }
}

void slc_cuda_cast(struct slc_queue *q, const struct slc_cast_args *a)
{
    if (a->n <= 0)
        return;
    if (a->dst_dtype == SLC_F64 || a->src_dtype == SLC_F64)
        cast_f64(q, a);
    else if (a->dst_dtype == SLC_F32 && a->src_dtype == SLC_F32)
        cast<float, float>(q, a);
    else if (a->dst_dtype == SLC_F32)
        cast<float, bf16>(q, a);
    else if (a->src_dtype == SLC_F32)
        cast<bf16, float>(q, a);
    else
        cast<bf16, bf16>(q, a);
}

void slc_cuda_add(struct slc_queue *q, const struct slc_add_args *a)
{
    const bool wide =
        slc_aligned(a->y, 16) && slc_aligned(a->a, 16) && slc_aligned(a->b, 16);

    if (a->n <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, SLC_BY_WIDTH(wide, {
                     add_kernel<T, V><<<blocks_for(a->n, V), THREADS, 0, SLC_STREAM(q)>>>(
                         (T *)a->y, (const T *)a->a, (const T *)a->b, a->n);
                 }));
    slc_cuda_launched(q, "add");
}

void slc_cuda_scale(struct slc_queue *q, const struct slc_scale_args *a)
{
    if (a->n <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, SLC_BY_WIDTH(slc_aligned(a->x, 16), {
                     scale_kernel<T, V><<<blocks_for(a->n, V), THREADS, 0, SLC_STREAM(q)>>>(
                         (T *)a->x, a->alpha, a->n);
                 }));
    slc_cuda_launched(q, "scale");
}
