/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_DEVICE_CUH
#define SLC_KERNELS_CUDA_DEVICE_CUH

#include <cuda_bf16.h>

#include "kernels/cuda/cuda.h"

/* What kernels share: conversion, 16-byte vectors, sums of a fixed order. */

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float slc_f(float x) { return x; }
__device__ __forceinline__ float slc_f(bf16 x) { return __bfloat162float(x); }
template <class T> __device__ __forceinline__ T slc_t(float x);
template <> __device__ __forceinline__ float slc_t<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 slc_t<bf16>(float x)
{
    return __float2bfloat16_rn(x);
}
/* x as it reads back after being stored as T. */
template <class T> __device__ __forceinline__ float slc_rounded(float x)
{
    return slc_f(slc_t<T>(x));
}

/* N values of T, moved as one access. */
template <class T, int N> struct alignas(N * sizeof(T)) slc_vec {
    T v[N];
};
template <class T, int N>
__device__ __forceinline__ void slc_load(float (&x)[N], const T *p)
{
    slc_vec<T, N> v = *reinterpret_cast<const slc_vec<T, N> *>(p);
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = slc_f(v.v[i]);
}
template <class T, int N>
__device__ __forceinline__ void slc_store(T *p, const float (&x)[N])
{
    slc_vec<T, N> v;
#pragma unroll
    for (int i = 0; i < N; i++)
        v.v[i] = slc_t<T>(x[i]);
    *reinterpret_cast<slc_vec<T, N> *>(p) = v;
}

/* The expert of a tile, counted over all segments in tiles of `size` rows, and in *tile its
 * number within the segment. El: there are not so many tiles. */
__device__ __forceinline__ int slc_expert_of(const int32_t *off, int El, int size, int *tile)
{
    for (int e = 0; e < El; e++) {
        const int n = (off[e + 1] - off[e] + size - 1) / size;

        if (*tile < n)
            return e;
        *tile -= n;
    }
    return El;
}

/* Sum over a warp; every lane gets it. The tree is fixed. */
template <class V> __device__ __forceinline__ V slc_warp_sum(V x)
{
#pragma unroll
    for (int o = 16; o > 0; o >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}
__device__ __forceinline__ float slc_warp_max(float x)
{
#pragma unroll
    for (int o = 16; o > 0; o >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    return x;
}
/* Sum over the block (a multiple of 32 threads); every thread gets it. */
template <class V> __device__ V slc_block_sum(V x)
{
    __shared__ V part[33];
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32;

    x = slc_warp_sum(x);
    __syncthreads(); /* part may still be read from the call before */
    if (threadIdx.x % 32 == 0)
        part[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = (int)threadIdx.x < warps ? part[threadIdx.x] : V(0);
        x = slc_warp_sum(x);
        if (threadIdx.x == 0)
            part[32] = x;
    }
    __syncthreads();
    return part[32];
}

/* Host side: the widest vector that all these pointers and the row length allow. */
static inline bool slc_aligned(const void *p, size_t n)
{
    return ((uintptr_t)p & (n - 1)) == 0;
}

/* Run the statements with T bound to the type of `dtype`. */
#define SLC_BY_DTYPE(dtype, ...)                                                       \
    do {                                                                               \
        if ((dtype) == SLC_BF16) {                                                     \
            typedef bf16 T;                                                            \
            __VA_ARGS__;                                                               \
        } else {                                                                       \
            typedef float T;                                                           \
            __VA_ARGS__;                                                               \
        }                                                                              \
    } while (0)
/* The same with V bound to 16 bytes' worth of T where `wide`, else to 1. */
#define SLC_BY_WIDTH(wide, ...)                                                        \
    do {                                                                               \
        if (wide) {                                                                    \
            constexpr int V = 16 / sizeof(T);                                          \
            __VA_ARGS__;                                                               \
        } else {                                                                       \
            constexpr int V = 1;                                                       \
            __VA_ARGS__;                                                               \
        }                                                                              \
    } while (0)

#define SLC_STREAM(q) (slc_cuda_queue_of(q)->stream)

#endif
