/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

#include <cub/device/device_radix_sort.cuh>

/*
 * Backward sorts the tokens by id (a stable sort: one id's tokens stay in order) and
 * lets one thread add each run of one id in one column: no two threads write one
 * element, and the order of the terms is the order of the tokens.
 */

#define THREADS 256

template <class T, int V>
__global__ void forward_kernel(T *y, const T *w, const int32_t *ids, int64_t H)
{
    const int64_t t = blockIdx.x, at = (int64_t)ids[t] * H;

    for (int64_t i = (int64_t)threadIdx.x * V; i < H; i += blockDim.x * V)
        *reinterpret_cast<slc_vec<T, V> *>(y + t * H + i) =
            *reinterpret_cast<const slc_vec<T, V> *>(w + at + i);
}

void slc_cuda_embedding_forward(struct slc_queue *q,
                                const struct slc_embedding_forward_args *a)
{
    if (a->T <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        const bool wide = slc_aligned(a->y, 16) && slc_aligned(a->w, 16) &&
                          a->H % (16 / sizeof(T)) == 0;
        SLC_BY_WIDTH(wide, {
            forward_kernel<T, V><<<(unsigned)a->T, THREADS, 0, SLC_STREAM(q)>>>(
                (T *)a->y, (const T *)a->w, a->ids, a->H);
        });
    });
    slc_cuda_launched(q, "embedding_forward");
}

__global__ void number_kernel(int32_t *order, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;

    if (i < n)
        order[i] = (int32_t)i;
}

/* Block (i, c): if sorted place i starts a run, add the run in columns c*THREADS... */
template <class T>
__global__ void run_kernel(float *dw, const T *dy, const int32_t *key,
                           const int32_t *order, int64_t n, int64_t H)
{
    const int64_t first = blockIdx.x, col = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    const int32_t id = key[first];

    if ((first > 0 && key[first - 1] == id) || col >= H)
        return;
    float sum = dw[id * H + col];
    int64_t i = first;
    /* Rows in flight four at a time; they are still added one after another. */
    while (i + 4 <= n && key[i + 3] == id) {
        float x[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            x[j] = slc_f(dy[(int64_t)order[i + j] * H + col]);
#pragma unroll
        for (int j = 0; j < 4; j++)
            sum += x[j];
        i += 4;
    }
    for (; i < n && key[i] == id; i++)
        sum += slc_f(dy[(int64_t)order[i] * H + col]);
    dw[id * H + col] = sum;
}

static int key_bits(int64_t V)
{
    int bits = 1;

    while (bits < 31 && (1ll << bits) < V)
        bits++;
    return bits;
}

static cudaError_t sort(void *temp, size_t *bytes, const int32_t *key_in, int32_t *key,
                        const int32_t *order_in, int32_t *order, int64_t n, int bits,
                        cudaStream_t stream)
{
    return cub::DeviceRadixSort::SortPairs(temp, *bytes, key_in, key, order_in, order,
                                           (int)n, 0, bits, stream);
}

extern "C" size_t slc_cuda_embedding_scratch(struct slc_cuda *c,
                                             const struct slc_embedding_backward_args *a)
{
    size_t temp = 0;

    (void)c;
    if (a->T <= 0 || sort(NULL, &temp, NULL, NULL, NULL, NULL, a->T, key_bits(a->V),
                          NULL) != cudaSuccess)
        return 0;
    return temp + 3 * (size_t)slc_ceil_div(a->T, 64) * 64 * sizeof(int32_t);
}

void slc_cuda_embedding_backward(struct slc_queue *q,
                                 const struct slc_embedding_backward_args *a)
{
    const size_t bytes = slc_cuda_embedding_scratch(slc_cuda_queue_of(q)->cuda, a);
    const size_t list = (size_t)slc_ceil_div(a->T, 64) * 64;
    const dim3 grid((unsigned)a->T, (unsigned)slc_ceil_div(a->H, THREADS));
    size_t temp = bytes - 3 * list * sizeof(int32_t);
    int32_t *key, *number, *order;

    if (a->T <= 0)
        return;
    key = (int32_t *)slc_cuda_scratch(q, bytes);
    if (!key)
        return;
    number = key + list;
    order = number + list;
    number_kernel<<<(unsigned)slc_ceil_div(a->T, THREADS), THREADS, 0, SLC_STREAM(q)>>>(
        number, a->T);
    slc_cuda_fail(q,
                  sort(order + list, &temp, a->ids, key, number, order, a->T,
                       key_bits(a->V), SLC_STREAM(q)),
                  "embedding_backward: sort");
    SLC_BY_DTYPE(a->dtype, {
        run_kernel<T><<<grid, THREADS, 0, SLC_STREAM(q)>>>(a->dw, (const T *)a->dy, key,
                                                           order, a->T, a->H);
    });
    slc_cuda_launched(q, "embedding_backward");
}
