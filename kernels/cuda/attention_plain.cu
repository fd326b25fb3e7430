/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/attention_plain.cuh"

#include <math.h>

/*
 * Attention on the ordinary fp32 units, in tiles of B tokens that lie in shared memory as
 * fp32. Tiles are cut from the packed row of T tokens without regard to documents: every
 * query knows the first key it may see, so one grid serves every packing. The backward
 * takes queries and keys in two kernels, each of which owns what it writes: no atomics.
 * DM is the head width rounded up to 64, 128 or 256 (missing columns are zero).
 */

template <int B, int DM> struct forward_tiles {
    float q[B][DM + 4], k[B][DM + 4], p[B][B + 4];
    int first[B];
};

template <class T, int B, int DM>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(T *o, float *lse, const T *q, const T *k, const T *v, shape s)
{
    constexpr int M = B / 16;
    extern __shared__ float4 raw[];
    forward_tiles<B, DM> &t = *reinterpret_cast<forward_tiles<B, DM> *>(raw);
    const int h = blockIdx.y, g = h / (s.NQ / s.NK);
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    /* long rows first */
    const int64_t t0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * B;
    const int64_t last = t0 + B < s.T ? t0 + B : s.T;
    float max[M], sum[M], acc[M][DM / 16] = {}, c[M][M];

    load_first<B>(t.first, s, t0);
    load_tile<T, B, DM>(t.q, q, s, t0, s.NQ, h);
    for (int i = 0; i < M; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
    }
    __syncthreads();
    for (int64_t u0 = t.first[0] / B * B; u0 < last; u0 += B) {
        load_tile<T, B, DM>(t.k, k, s, u0, s.NK, g);
        __syncthreads();
        product<M, DM>(c, t.q, t.k, ty, tx);
#pragma unroll
        for (int i = 0; i < M; i++) {
            const int64_t row = t0 + ty * M + i, first = t.first[ty * M + i];
            float m = max[i], part = 0;

#pragma unroll
            for (int j = 0; j < M; j++) {
                const int64_t u = u0 + tx + 16 * j;

                c[i][j] = u >= first && u <= row ? c[i][j] * s.scale : -INFINITY;
                m = fmaxf(m, c[i][j]);
            }
            for (int x = 8; x > 0; x >>= 1)
                m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, x));
            const float base = m == -INFINITY ? 0.0f : m;
            const float keep = expf(max[i] - base);
#pragma unroll
            for (int j = 0; j < M; j++) {
                c[i][j] = expf(c[i][j] - base);
                part += c[i][j];
                t.p[ty * M + i][tx + 16 * j] = c[i][j];
            }
            for (int x = 8; x > 0; x >>= 1)
                part += __shfl_xor_sync(0xffffffffu, part, x);
            sum[i] = sum[i] * keep + part;
            max[i] = m;
#pragma unroll
            for (int d = 0; d < DM / 16; d++)
                acc[i][d] *= keep;
        }
        __syncthreads();
        load_tile<T, B, DM>(t.k, v, s, u0, s.NK, g);
        __syncthreads();
        accumulate<B, M, DM, false>(acc, t.p, t.k, ty, tx);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < M; i++) {
        const int64_t row = t0 + ty * M + i;

        if (tx == 0 && row < s.T)
            lse[row * s.NQ + h] = max[i] + logf(sum[i]);
        sum[i] = 1.0f / sum[i];
    }
    store_rows<T, M, DM>(o, acc, sum, s, t0, s.NQ, h, ty, tx);
}

/* delta[t,h] = do . o, one warp each. */
template <class T>
__global__ void delta_kernel(float *delta, const T *d_o, const T *o, int64_t n, int D)
{
    const int64_t i = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    float sum = 0;

    if (i >= n)
        return;
    for (int d = threadIdx.x % 32; d < D; d += 32)
        sum += slc_f(d_o[i * D + d]) * slc_f(o[i * D + d]);
    sum = slc_warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        delta[i] = sum;
}

template <int B, int DM> struct backward_tiles {
    float q[B][DM + 4], d_o[B][DM + 4], k[B][DM + 4], v[B][DM + 4];
    float p[B][B + 4], ds[B][B + 4];
    float lse[B], delta[B];
    int first[B];
};

template <class T, int B, int DM>
__device__ void load_queries(backward_tiles<B, DM> &t, const T *q, const T *d_o,
                             const float *lse, const float *delta, const shape &s,
                             int64_t t0, int h)
{
    load_first<B>(t.first, s, t0);
    for (int i = threadIdx.x; i < B; i += THREADS) {
        t.lse[i] = t0 + i < s.T ? lse[(t0 + i) * s.NQ + h] : 0.0f;
        t.delta[i] = t0 + i < s.T ? delta[(t0 + i) * s.NQ + h] : 0.0f;
    }
    load_tile<T, B, DM>(t.q, q, s, t0, s.NQ, h);
    load_tile<T, B, DM>(t.d_o, d_o, s, t0, s.NQ, h);
}

/* P and dS of the tile pair into shared memory. */
template <int B, int DM>
__device__ void pair_of(backward_tiles<B, DM> &t, const shape &s, int64_t t0, int64_t u0,
                        int ty, int tx)
{
    constexpr int M = B / 16;
    float c[M][M], d[M][M];

    product<M, DM>(c, t.q, t.k, ty, tx);
    product<M, DM>(d, t.d_o, t.v, ty, tx);
#pragma unroll
    for (int i = 0; i < M; i++) {
        const int r = ty * M + i;

#pragma unroll
        for (int j = 0; j < M; j++) {
            const int64_t u = u0 + tx + 16 * j;
            const bool in = u >= t.first[r] && u <= t0 + r && t0 + r < s.T;
            const float p = in ? expf(c[i][j] * s.scale - t.lse[r]) : 0.0f;

            t.p[r][tx + 16 * j] = p;
            t.ds[r][tx + 16 * j] = p * (d[i][j] - t.delta[r]);
        }
    }
}

template <class T, int B, int DM>
__global__ void __launch_bounds__(THREADS)
    dq_kernel(T *dq, const T *d_o, const T *q, const T *k, const T *v, const float *lse,
              const float *delta, shape s)
{
    constexpr int M = B / 16;
    extern __shared__ float4 raw[];
    backward_tiles<B, DM> &t = *reinterpret_cast<backward_tiles<B, DM> *>(raw);
    const int h = blockIdx.y, g = h / (s.NQ / s.NK);
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const int64_t t0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * B;
    const int64_t last = t0 + B < s.T ? t0 + B : s.T;
    float acc[M][DM / 16] = {}, factor[M];

    load_queries<T, B, DM>(t, q, d_o, lse, delta, s, t0, h);
    __syncthreads();
    for (int64_t u0 = t.first[0] / B * B; u0 < last; u0 += B) {
        load_tile<T, B, DM>(t.k, k, s, u0, s.NK, g);
        load_tile<T, B, DM>(t.v, v, s, u0, s.NK, g);
        __syncthreads();
        pair_of<B, DM>(t, s, t0, u0, ty, tx);
        __syncthreads();
        accumulate<B, M, DM, false>(acc, t.ds, t.k, ty, tx);
        __syncthreads();
    }
    for (int i = 0; i < M; i++)
        factor[i] = s.scale;
    store_rows<T, M, DM>(dq, acc, factor, s, t0, s.NQ, h, ty, tx);
}

/* Block (key tile, kv head): query heads of the group, then queries, in order. */
template <class T, int B, int DM>
__global__ void __launch_bounds__(THREADS)
    dkv_kernel(T *dk, T *dv, const T *d_o, const T *q, const T *k, const T *v,
               const float *lse, const float *delta, shape s)
{
    constexpr int M = B / 16;
    extern __shared__ float4 raw[];
    backward_tiles<B, DM> &t = *reinterpret_cast<backward_tiles<B, DM> *>(raw);
    const int g = blockIdx.y, group = s.NQ / s.NK;
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const int64_t u0 = (int64_t)blockIdx.x * B;
    const int64_t u_last = u0 + B < s.T ? u0 + B - 1 : s.T - 1;
    float acc_k[M][DM / 16] = {}, acc_v[M][DM / 16] = {}, factor[M];

    /* Segment ends and windows ascend, so the last key has the last query. */
    int64_t end = s.seg[segment_of(s, u_last) + 1];
    if (s.window > 0 && u_last + s.window < end)
        end = u_last + s.window;
    load_tile<T, B, DM>(t.k, k, s, u0, s.NK, g);
    load_tile<T, B, DM>(t.v, v, s, u0, s.NK, g);
    for (int h = g * group; h < (g + 1) * group; h++)
        for (int64_t t0 = u0; t0 < end; t0 += B) {
            __syncthreads();
            load_queries<T, B, DM>(t, q, d_o, lse, delta, s, t0, h);
            __syncthreads();
            pair_of<B, DM>(t, s, t0, u0, ty, tx);
            __syncthreads();
            accumulate<B, M, DM, true>(acc_k, t.ds, t.q, ty, tx);
            accumulate<B, M, DM, true>(acc_v, t.p, t.d_o, ty, tx);
        }
    for (int i = 0; i < M; i++)
        factor[i] = s.scale;
    store_rows<T, M, DM>(dk, acc_k, factor, s, u0, s.NK, g, ty, tx);
    for (int i = 0; i < M; i++)
        factor[i] = 1.0f;
    store_rows<T, M, DM>(dv, acc_v, factor, s, u0, s.NK, g, ty, tx);
}

template <class T, int B, int DM>
static void forward(struct slc_queue *q, const struct slc_attention_forward_args *a,
                    const shape &s)
{
    const size_t smem = sizeof(forward_tiles<B, DM>);

    if (slc_cuda_allow_smem(q, (const void *)forward_kernel<T, B, DM>, smem,
                            "attention_forward") != 0)
        return;
    forward_kernel<T, B, DM>
        <<<dim3((unsigned)slc_ceil_div(a->T, B), (unsigned)a->NQ), THREADS, smem,
           SLC_STREAM(q)>>>((T *)a->o, a->lse, (const T *)a->q, (const T *)a->k,
                            (const T *)a->v, s);
    slc_cuda_launched(q, "attention_forward");
}

template <class T, int B, int DM>
static void backward(struct slc_queue *q, const struct slc_attention_backward_args *a,
                     const shape &s)
{
    const size_t smem = sizeof(backward_tiles<B, DM>);
    const unsigned tiles = (unsigned)slc_ceil_div(a->T, B);
    const int64_t n = a->T * a->NQ;
    cudaStream_t stream = SLC_STREAM(q);
    float *delta = (float *)slc_cuda_scratch(q, (size_t)n * sizeof(float));

    if (!delta ||
        slc_cuda_allow_smem(q, (const void *)dq_kernel<T, B, DM>, smem,
                            "attention_backward") != 0 ||
        slc_cuda_allow_smem(q, (const void *)dkv_kernel<T, B, DM>, smem,
                            "attention_backward") != 0)
        return;
    delta_kernel<T><<<(unsigned)slc_ceil_div(n, THREADS / 32), THREADS, 0, stream>>>(
        delta, (const T *)a->d_o, (const T *)a->o, n, s.D);
    dq_kernel<T, B, DM><<<dim3(tiles, (unsigned)a->NQ), THREADS, smem, stream>>>(
        (T *)a->dq, (const T *)a->d_o, (const T *)a->q, (const T *)a->k, (const T *)a->v,
        a->lse, delta, s);
    dkv_kernel<T, B, DM><<<dim3(tiles, (unsigned)a->NK), THREADS, smem, stream>>>(
        (T *)a->dk, (T *)a->dv, (const T *)a->d_o, (const T *)a->q, (const T *)a->k,
        (const T *)a->v, a->lse, delta, s);
    slc_cuda_launched(q, "attention_backward");
}

template <class ARGS> static shape shape_of(const ARGS *a)
{
    const shape s = {a->seg,      a->T,       a->n_seg,  a->window,
                     (int)a->NQ, (int)a->NK, (int)a->D, a->scale};
    return s;
}

#define TOO_WIDE                                                                       \
    "attention: not supported: heads wider than 256; use a model with narrower heads"

void slc_cuda_attention_forward_plain(struct slc_queue *q,
                                      const struct slc_attention_forward_args *a)
{
    const shape s = shape_of(a);

    if (a->T <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        if (a->D <= 64)
            forward<T, 64, 64>(q, a, s);
        else if (a->D <= 128)
            forward<T, 64, 128>(q, a, s);
        else if (a->D <= 256)
            forward<T, 32, 256>(q, a, s);
        else
            slc_cuda_fail_text(q, SLC_EXIT_UNSUPPORTED, TOO_WIDE);
    });
}

void slc_cuda_attention_backward_plain(struct slc_queue *q,
                                       const struct slc_attention_backward_args *a)
{
    const shape s = shape_of(a);

    if (a->T <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        if (a->D <= 64)
            backward<T, 64, 64>(q, a, s);
        else if (a->D <= 128)
            backward<T, 64, 128>(q, a, s);
        else if (a->D <= 256)
            backward<T, 32, 256>(q, a, s);
        else
            slc_cuda_fail_text(q, SLC_EXIT_UNSUPPORTED, TOO_WIDE);
    });
}
