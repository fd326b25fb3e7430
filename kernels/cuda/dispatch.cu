/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/index.cuh"

__device__ __forceinline__ int rank_of(const int32_t *first_expert, int R, int id)
{
    int r = 0;

    while (r + 1 < R && first_expert[r + 1] <= id)
        r++;
    return r;
}

/* Items are tokens, keys are ranks. ids ascend, so a token's ranks do. */
struct token_ranks {
    int64_t n;
    int M, keys; /* K, R */
    const int32_t *ids, *first_expert;
    int32_t *slot_rank, *slot_row;
    int S;

    __device__ int key(int64_t t, int k) const
    {
        const int id = ids[t * M + k];
        const int r = id < 0 ? -1 : rank_of(first_expert, keys, id);
        int o = k - 1;

        while (o >= 0 && ids[t * M + o] < 0)
            o--;
        /* the same rank again is the same record */
        return o >= 0 && r >= 0 && rank_of(first_expert, keys, ids[t * M + o]) == r ? -1
                                                                                    : r;
    }
    __device__ void put(int64_t t, int k, int r, int number) const
    {
        int slot = 0;

        if (r < 0)
            return;
        for (int o = 0; o < k; o++)
            slot += key(t, o) >= 0;
        slot_rank[t * S + slot] = r;
        slot_row[t * S + slot] = number;
    }
};

__global__ void count_kernel(int32_t *count, const int32_t *ids, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n && ids[i] >= 0)
        atomicAdd(&count[ids[i]], 1);
}

void slc_cuda_dispatch_index(struct slc_queue *q,
                             const struct slc_dispatch_index_args *a)
{
    const token_ranks items = {a->T,         (int)a->K,    (int)a->R,   a->ids,
                               a->first_expert, a->slot_rank, a->slot_row, (int)a->S};
    const size_t slots = (size_t)(a->T * a->S) * sizeof(int32_t);
    cudaStream_t stream = SLC_STREAM(q);
    int32_t *chunks = (int32_t *)slc_cuda_scratch(q, slc_index_scratch(a->T, a->R));

    if (!chunks)
        return;
    slc_cuda_fail(q, cudaMemsetAsync(a->counts, 0, (size_t)(a->R + a->E) * 4, stream),
                  "dispatch_index");
    if (slots > 0) {
        slc_cuda_fail(q, cudaMemsetAsync(a->slot_rank, 0xff, slots, stream),
                      "dispatch_index");
        slc_cuda_fail(q, cudaMemsetAsync(a->slot_row, 0xff, slots, stream),
                      "dispatch_index");
    }
    if (a->T > 0)
        count_kernel<<<(unsigned)slc_ceil_div(a->T * a->K, 256), 256, 0, stream>>>(
            a->counts + a->R, a->ids, a->T * a->K);
    if (slc_index_totals(q, items, chunks, a->counts, "dispatch_index") == 0)
        slc_index_numbers(q, items, chunks, "dispatch_index");
}

/* Block (t, s) writes one record. */
__global__ void pack_kernel(struct slc_dispatch_pack_args a, int64_t bytes)
{
    const int64_t t = blockIdx.x, s = blockIdx.y;
    const int r = a.slot_rank[t * a.S + s];

    if (r < 0)
        return;
    const struct slc_rows d = a.dst[r];
    const int64_t row = (int64_t)a.slot_row[t * a.S + s] - d.first;
    if (row < 0 || row >= d.count)
        return;
    if (d.data)
        slc_copy_any(d.data + row * d.stride, (const char *)a.x + t * bytes, bytes);
    if (!a.ids || !d.ids || threadIdx.x > 0)
        return;
    int32_t *ids = (int32_t *)(d.ids + row * d.meta_stride);
    float *scalars = d.scalars ? (float *)(d.scalars + row * d.meta_stride) : nullptr;
    int64_t m = 0;
    for (int64_t k = 0; k < a.K; k++) {
        const int id = a.ids[t * a.K + k];

        if (id < a.first_expert[r] || id >= a.first_expert[r + 1] || m >= a.M)
            continue;
        ids[m] = id - a.first_expert[r];
        if (scalars)
            scalars[m] = a.weights[t * a.K + k];
        m++;
    }
    for (; m < a.M; m++) {
        ids[m] = -1;
        if (scalars)
            scalars[m] = 0;
    }
}

void slc_cuda_dispatch_pack(struct slc_queue *q, const struct slc_dispatch_pack_args *a)
{
    if (a->T <= 0 || a->S <= 0)
        return;
    pack_kernel<<<dim3((unsigned)a->T, (unsigned)a->S), 128, 0, SLC_STREAM(q)>>>(
        *a, a->H * (int64_t)slc_dtype_size(a->dtype));
    slc_cuda_launched(q, "dispatch_pack");
}
