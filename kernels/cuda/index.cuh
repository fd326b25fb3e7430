/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_INDEX_CUH
#define SLC_KERNELS_CUDA_INDEX_CUH

#include "kernels/cuda/device.cuh"

/*
 * Numbering items under keys: item j has up to M distinct keys (or -1); under each key
 * the items are numbered in ascending j. In chunks of 256 items: count, scan the chunks,
 * number. Within a chunk an item's number is how many bits of lower items are set in
 * the key's bit map, so nothing depends on the order in which threads run.
 *
 * ITEMS is a struct with n (items), M, keys, and
 *     __device__ int key(int64_t j, int m) const
 *     __device__ void put(int64_t j, int m, int key, int number) const
 */

#define SLC_INDEX_CHUNK 256
#define SLC_INDEX_WORDS (SLC_INDEX_CHUNK / 32)

template <class ITEMS> __global__ void slc_index_count(ITEMS items, int32_t *chunks)
{
    extern __shared__ int32_t held[];
    const int64_t j = (int64_t)blockIdx.x * SLC_INDEX_CHUNK + threadIdx.x;

    for (int k = threadIdx.x; k < items.keys; k += SLC_INDEX_CHUNK)
        held[k] = 0;
    __syncthreads();
    for (int m = 0; j < items.n && m < items.M; m++) {
        const int k = items.key(j, m);

        if (k >= 0)
            atomicAdd(&held[k], 1);
    }
    __syncthreads();
    for (int k = threadIdx.x; k < items.keys; k += SLC_INDEX_CHUNK)
        chunks[(int64_t)blockIdx.x * items.keys + k] = held[k];
}

/* chunks: counts become how many items of earlier chunks have the key. */
static __global__ void slc_index_scan(int32_t *chunks, int32_t *total, int64_t n,
                                      int keys)
{
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    int32_t sum = 0;

    if (k >= keys)
        return;
#pragma unroll 8
    for (int64_t c = 0; c < n; c++) {
        const int32_t count = chunks[c * keys + k];

        chunks[c * keys + k] = sum;
        sum += count;
    }
    total[k] = sum;
}

template <class ITEMS>
__global__ void slc_index_number(ITEMS items, const int32_t *chunks)
{
    extern __shared__ uint32_t map[]; /* [keys][SLC_INDEX_WORDS] */
    const int64_t j = (int64_t)blockIdx.x * SLC_INDEX_CHUNK + threadIdx.x;
    const int word = threadIdx.x / 32, bit = threadIdx.x % 32;

    for (int i = threadIdx.x; i < items.keys * SLC_INDEX_WORDS; i += SLC_INDEX_CHUNK)
        map[i] = 0;
    __syncthreads();
    for (int m = 0; j < items.n && m < items.M; m++) {
        const int k = items.key(j, m);

        if (k >= 0)
            atomicOr(&map[k * SLC_INDEX_WORDS + word], 1u << bit);
    }
    __syncthreads();
    for (int m = 0; j < items.n && m < items.M; m++) {
        const int k = items.key(j, m);

        if (k < 0) {
            items.put(j, m, -1, -1);
            continue;
        }
        int number = chunks[(int64_t)blockIdx.x * items.keys + k];
        for (int w = 0; w < word; w++)
            number += __popc(map[k * SLC_INDEX_WORDS + w]);
        number += __popc(map[k * SLC_INDEX_WORDS + word] & ((1u << bit) - 1));
        items.put(j, m, k, number);
    }
}

/* Bytes of scratch for n items under `keys` keys. */
static inline size_t slc_index_scratch(int64_t n, int64_t keys)
{
    return (size_t)(slc_ceil_div(n, SLC_INDEX_CHUNK) * keys + 1) * sizeof(int32_t);
}

/* Counting half: chunks (scratch) and total [keys]. */
template <class ITEMS>
static int slc_index_totals(struct slc_queue *q, const ITEMS &items, int32_t *chunks,
                            int32_t *total, const char *what)
{
    const int64_t n = slc_ceil_div(items.n, SLC_INDEX_CHUNK);
    const size_t smem = (size_t)items.keys * sizeof(int32_t);

    if (slc_cuda_allow_smem(q, (const void *)slc_index_count<ITEMS>, smem, what) != 0)
        return -1;
    if (n > 0)
        slc_index_count<ITEMS>
            <<<(unsigned)n, SLC_INDEX_CHUNK, smem, SLC_STREAM(q)>>>(items, chunks);
    slc_index_scan<<<(unsigned)slc_ceil_div(items.keys, 32), 32, 0, SLC_STREAM(q)>>>(
        chunks, total, n, items.keys);
    return slc_cuda_launched(q, what);
}

/* Numbering half: put() for every item and place. */
template <class ITEMS>
static int slc_index_numbers(struct slc_queue *q, const ITEMS &items,
                             const int32_t *chunks, const char *what)
{
    const int64_t n = slc_ceil_div(items.n, SLC_INDEX_CHUNK);
    const size_t smem = (size_t)items.keys * SLC_INDEX_WORDS * sizeof(uint32_t);

    if (slc_cuda_allow_smem(q, (const void *)slc_index_number<ITEMS>, smem, what) != 0)
        return -1;
    if (n > 0)
        slc_index_number<ITEMS>
            <<<(unsigned)n, SLC_INDEX_CHUNK, smem, SLC_STREAM(q)>>>(items, chunks);
    return slc_cuda_launched(q, what);
}

/* Copy `bytes` (a multiple of W) from src to dst by the threads of a block. */
template <class W>
__device__ __forceinline__ void slc_copy_row(char *dst, const char *src, int64_t bytes)
{
    for (int64_t i = threadIdx.x; i < bytes / (int64_t)sizeof(W); i += blockDim.x)
        reinterpret_cast<W *>(dst)[i] = reinterpret_cast<const W *>(src)[i];
}
__device__ __forceinline__ void slc_copy_any(char *dst, const char *src, int64_t bytes)
{
    const uintptr_t all = (uintptr_t)dst | (uintptr_t)src | (uintptr_t)bytes;

    if (all % 16 == 0)
        slc_copy_row<uint4>(dst, src, bytes);
    else if (all % 4 == 0)
        slc_copy_row<uint32_t>(dst, src, bytes);
    else
        slc_copy_row<uint16_t>(dst, src, bytes);
}

#endif
