/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

/* The token's row in slot s, or NULL; *meta gets its scalars. */
__device__ __forceinline__ const char *slot_row(const struct slc_combine_sum_args &a,
                                                int64_t t, int64_t s, const char **meta)
{
    const int r = a.slot_rank[t * a.S + s];

    if (r < 0)
        return nullptr;
    const struct slc_rows &d = a.src[r];
    const int64_t row = (int64_t)a.slot_row[t * a.S + s] - d.first;
    if (row < 0 || row >= d.count)
        return nullptr;
    if (meta)
        *meta = d.scalars + row * d.meta_stride;
    return d.data + row * d.stride;
}

template <class T, int V>
__device__ void sum_row(const struct slc_combine_sum_args &a, int64_t t)
{
    const T *add = (const T *)a.add;
    T *out = (T *)a.out;

    for (int64_t i = (int64_t)threadIdx.x * V; i < a.H; i += blockDim.x * V) {
        float sum[V] = {}, x[V];

        if (add)
            slc_load<T, V>(sum, add + t * a.H + i);
        for (int64_t s = 0; s < a.S; s++) {
            const T *row = (const T *)slot_row(a, t, s, nullptr);

            if (!row)
                continue;
            slc_load<T, V>(x, row + i);
#pragma unroll
            for (int c = 0; c < V; c++)
                sum[c] += x[c];
        }
        slc_store<T, V>(out + t * a.H + i, sum);
    }
}

/* One block a token; as in expert_rows.cu, the kernel sees how wide it may read. */
template <class T> __global__ void kernel(struct slc_combine_sum_args a)
{
    constexpr int V = 16 / sizeof(T);
    const int64_t t = blockIdx.x;
    uintptr_t all = (uintptr_t)a.out | (uintptr_t)a.add;

    for (int64_t s = 0; s < a.S; s++)
        all |= (uintptr_t)slot_row(a, t, s, nullptr);
    if (all % 16 == 0 && a.H % V == 0)
        sum_row<T, V>(a, t);
    else
        sum_row<T, 1>(a, t);
    if (!a.dweights || threadIdx.x > 0)
        return;
    for (int64_t k = 0; k < a.K; k++)
        if (a.ids[t * a.K + k] < 0)
            a.dweights[t * a.K + k] = 0;
    for (int64_t s = 0; s < a.S; s++) {
        const char *meta = nullptr;
        int64_t m = 0;

        if (!slot_row(a, t, s, &meta))
            continue;
        const int r = a.slot_rank[t * a.S + s];
        for (int64_t k = 0; k < a.K; k++) {
            const int id = a.ids[t * a.K + k];

            if (id >= a.first_expert[r] && id < a.first_expert[r + 1])
                a.dweights[t * a.K + k] = ((const float *)meta)[m++];
        }
    }
}

void slc_cuda_combine_sum(struct slc_queue *q, const struct slc_combine_sum_args *a)
{
    if (a->T <= 0)
        return;
    SLC_BY_DTYPE(a->dtype,
                 { kernel<T><<<(unsigned)a->T, 128, 0, SLC_STREAM(q)>>>(*a); });
    slc_cuda_launched(q, "combine_sum");
}
