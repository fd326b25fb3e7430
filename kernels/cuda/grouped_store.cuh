/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_GROUPED_STORE_CUH
#define SLC_KERNELS_CUDA_GROUPED_STORE_CUH

#include <cuda_bf16.h>
#include <stdint.h>

#include "kernels/cuda/sm90.cuh"

/*
 * How the 64 x 256 results of a warpgroup of grouped_sm90.cu leave: a block at a time through
 * one of two buffers in shared memory, from which the copy engine takes them.
 */
#define OUT_BYTES (64 * 64 * 2) /* one block of results of a warpgroup */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ uint32_t packed(float lo, float hi)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);

    return *reinterpret_cast<const uint32_t *>(&v);
}

/* Where 64 x 256 results of a warpgroup belong. */
struct place {
    int x, y, z;
};

/* Block b of them, 64 columns wide, in bf16, through one of two buffers. */
__device__ __forceinline__ void store_bf16(const uint32_t (&low)[64], int b,
                                           const CUtensorMap *mc, uint32_t buffer,
                                           int group, const place &to)
{
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int row = warp * 16 + lane % 16, chunk = lane / 16;
    const uint32_t out = buffer + b % 2 * OUT_BYTES;

    if (thread == 0)
        slc_tma_store_read<1>();
    slc_group_sync(1 + group);
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        const uint32_t *v = &low[(b * 8 + j) * 2];

        slc_stmatrix(out + row * 128 + (((j + chunk) ^ (row % 8)) * 16), v[0], v[1], v[2],
                     v[3]);
    }
    slc_proxy_fence();
    slc_group_sync(1 + group);
    if (thread == 0)
        slc_tma_store(mc, out, to.x + b * 64, to.y, to.z);
}

/* All of them in fp32, in eight blocks of 32 columns; zeros where there are none. */
template <bool ADD>
__device__ __forceinline__ void store_f32(const float (&d)[128], bool any,
                                          const CUtensorMap *mc, uint32_t buffer, int group,
                                          const place &to)
{
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int row = warp * 16 + lane / 4, half = lane % 4 / 2, odd = lane % 2 * 8;

#pragma unroll
    for (int b = 0; b < 8; b++) {
        const uint32_t out = buffer + b % 2 * OUT_BYTES;

        if (thread == 0)
            slc_tma_store_read<1>();
        slc_group_sync(1 + group);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *v = &d[(b * 4 + j) * 4];
            const uint32_t at = out + row * 128 + (((2 * j + half) ^ (row % 8)) * 16) + odd;

            slc_store_pair(at, any ? v[0] : 0, any ? v[1] : 0);
            slc_store_pair(at + 8 * 128, any ? v[2] : 0, any ? v[3] : 0);
        }
        slc_proxy_fence();
        slc_group_sync(1 + group);
        if (thread != 0)
            continue;
        if (ADD)
            slc_tma_add(mc, out, to.x + b * 32, to.y, to.z);
        else
            slc_tma_store(mc, out, to.x + b * 32, to.y, to.z);
    }
}

/* Blocks of results that are due at step s of a tile: one a step while products run, and
 * at its end (s = steps) what is left. */
__device__ __forceinline__ void store_due(const uint32_t (&low)[64], int s, bool end,
                                          const CUtensorMap *mc, uint32_t buffer, int group,
                                          const place &to)
{
#pragma unroll
    for (int b = 0; b < 4; b++)
        if (end ? b >= s : b == s)
            store_bf16(low, b, mc, buffer, group, to);
}

#endif

#endif
