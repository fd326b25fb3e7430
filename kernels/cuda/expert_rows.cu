/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/index.cuh"

/* Items are records, keys are local experts. */
struct record_experts {
    int64_t n;
    int M, keys; /* M, El */
    const char *ids, *scalars;
    int64_t meta_stride, base, rows_cap;
    const int32_t *off;
    int32_t *row_of, *rec_of;
    float *row_weight;

    __device__ int key(int64_t j, int m) const
    {
        const int64_t id = ((const int32_t *)(ids + j * meta_stride))[m];

        return id < 0 || id < base || id - base >= keys ? -1 : (int)(id - base);
    }
    __device__ void put(int64_t j, int m, int e, int number) const
    {
        const int64_t row = e < 0 ? -1 : (int64_t)off[e] + number;

        row_of[j * M + m] = (int32_t)row;
        if (row < 0)
            return;
        if (row >= rows_cap) /* the caller's bound is wrong: an error, not a write */
            __trap();
        rec_of[row] = (int32_t)j;
        if (row_weight)
            row_weight[row] = ((const float *)(scalars + j * meta_stride))[m];
    }
};

/* off [El+1] from total [El]; load. One block. */
__global__ void offsets_kernel(int32_t *off, int32_t *load, const int32_t *total, int El,
                               int64_t align, bool acc)
{
    if (threadIdx.x == 0) {
        int64_t row = 0;

        for (int e = 0; e < El; e++) {
            off[e] = (int32_t)row;
            row = (row + total[e] + align - 1) / align * align;
        }
        off[El] = (int32_t)row;
    }
    for (int e = threadIdx.x; load && e < El; e += blockDim.x)
        load[e] = (acc ? load[e] : 0) + total[e];
}

void slc_cuda_expert_index(struct slc_queue *q, const struct slc_expert_index_args *a)
{
    const int64_t n = a->src.count;
    const record_experts items = {
        n,       (int)a->M,   (int)a->El, a->src.ids, a->src.scalars, a->src.meta_stride,
        a->base, a->rows_cap, a->off,     a->row_of,  a->rec_of,      a->row_weight,
    };
    int32_t *total = (int32_t *)slc_cuda_scratch(
        q, slc_index_scratch(n, a->El) + (size_t)a->El * sizeof(int32_t));
    cudaStream_t stream = SLC_STREAM(q);

    if (!total)
        return;
    slc_cuda_fail(q, cudaMemsetAsync(a->rec_of, 0xff, (size_t)a->rows_cap * 4, stream),
                  "expert_index");
    if (a->row_weight)
        slc_cuda_fail(q,
                      cudaMemsetAsync(a->row_weight, 0, (size_t)a->rows_cap * 4, stream),
                      "expert_index");
    if (slc_index_totals(q, items, total + a->El, total, "expert_index") != 0)
        return;
    offsets_kernel<<<1, 128, 0, stream>>>(a->off, a->load, total, (int)a->El,
                                          a->row_align, a->acc);
    slc_index_numbers(q, items, total + a->El, "expert_index");
}

__global__ void gather_kernel(char *x, const char *data, int64_t stride,
                              const int32_t *rec_of, const int32_t *rows, int64_t bytes)
{
    const int64_t i = blockIdx.x;
    char *to = x + i * bytes;

    if (i >= *rows)
        return;
    const int rec = rec_of[i];
    if (rec >= 0) {
        slc_copy_any(to, data + rec * stride, bytes);
        return;
    }
    if (((uintptr_t)to | (uintptr_t)bytes) % 4 == 0)
        for (int64_t j = threadIdx.x; j < bytes / 4; j += blockDim.x)
            ((uint32_t *)to)[j] = 0;
    else
        for (int64_t j = threadIdx.x; j < bytes / 2; j += blockDim.x)
            ((uint16_t *)to)[j] = 0;
}

void slc_cuda_expert_gather(struct slc_queue *q, const struct slc_expert_gather_args *a)
{
    if (a->rows_cap <= 0)
        return;
    gather_kernel<<<(unsigned)a->rows_cap, 128, 0, SLC_STREAM(q)>>>(
        (char *)a->x, a->src.data, a->src.stride, a->rec_of, a->off + a->El,
        a->H * (int64_t)slc_dtype_size(a->dtype));
    slc_cuda_launched(q, "expert_gather");
}

/* Element i.. of a record's sum, m ascending, V at a time. */
template <class T, int V>
__device__ void sum_row(const struct slc_expert_sum_args &a, T *out, int64_t j)
{
    const int32_t *rows = a.row_of + j * a.M;
    const T *y = (const T *)a.y, *add = (const T *)a.add;

    for (int64_t i = (int64_t)threadIdx.x * V; i < a.H; i += blockDim.x * V) {
        float sum[V] = {}, x[V];

        for (int64_t m = 0; m < a.M; m++) {
            const int64_t row = rows[m];

            if (row < 0)
                continue;
            const float w = a.row_weight ? a.row_weight[row] : 1.0f;
            slc_load<T, V>(x, y + row * a.H + i);
#pragma unroll
            for (int c = 0; c < V; c++)
                sum[c] += w * x[c];
        }
        if (add) {
            slc_load<T, V>(x, add + j * a.H + i);
#pragma unroll
            for (int c = 0; c < V; c++)
                sum[c] += x[c];
        }
        slc_store<T, V>(out + i, sum);
    }
}

/* One block a record. The lists of dst lie in GPU memory, so the kernel itself looks
 * whether 16-byte accesses are possible. */
template <class T> __global__ void sum_kernel(struct slc_expert_sum_args a)
{
    constexpr int V = 16 / sizeof(T);
    const int64_t j = blockIdx.x;
    int64_t r = 0;

    while (r < a.R &&
           (j < a.dst[r].first || j >= (int64_t)a.dst[r].first + a.dst[r].count))
        r++;
    if (r == a.R)
        return;
    const struct slc_rows d = a.dst[r];
    if (d.data) {
        T *out = (T *)(d.data + (j - d.first) * d.stride);
        const uintptr_t all = (uintptr_t)out | (uintptr_t)a.y | (uintptr_t)a.add;

        if (all % 16 == 0 && a.H % V == 0)
            sum_row<T, V>(a, out, j);
        else
            sum_row<T, 1>(a, out, j);
    }
    if (!a.row_scalar || !d.scalars)
        return;
    float *scalars = (float *)(d.scalars + (j - d.first) * d.meta_stride);
    for (int64_t m = threadIdx.x; m < a.M; m += blockDim.x) {
        const int row = a.row_of[j * a.M + m];

        scalars[m] = row < 0 ? 0.0f : a.row_scalar[row];
    }
}

void slc_cuda_expert_sum(struct slc_queue *q, const struct slc_expert_sum_args *a)
{
    if (a->n <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        sum_kernel<T><<<(unsigned)a->n, 128, 0, SLC_STREAM(q)>>>(*a);
    });
    slc_cuda_launched(q, "expert_sum");
}
