/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/packing.h"

#define THREADS 256

struct lists {
    struct slc_cuda_sequences to;
    int NQ, NK, D;
};

__device__ void write_slot(const lists &l, int slot, int at, int length)
{
    l.to.length[slot] = length;
    l.to.off_q[slot] = at * l.NQ * l.D;
    l.to.off_k[slot] = at * l.NK * l.D;
    l.to.off_stats[slot] = at * l.NQ;
}

/* Whether no document goes to a slot. */
__device__ bool is_free(const slc_packing &p, int slot)
{
    for (int i = 0; i < p.n; i++) {
        const slc_packing_part &x = p.part[i];
        const int at = slot - x.slot;

        if (at < 0 || at >= x.calls * x.stride)
            continue;
        return at % x.stride >= x.B || at / x.stride * x.B + at % x.stride >= x.count;
    }
    return true;
}

/* The slot of the rank-th longest document, -1: none. */
__device__ int slot_of(const slc_packing &p, int rank)
{
    for (int i = 0; i < p.n; i++) {
        const slc_packing_part &x = p.part[i];
        const int at = rank - x.first;

        if (at >= 0 && at < x.count)
            return x.slot + at / x.B * x.stride + at % x.B;
    }
    return -1;
}

/* A warp a document: its rank is the count of those that go before it. */
__global__ void __launch_bounds__(THREADS)
    sequences_kernel(lists l, const int32_t *seg, int n_seg, slc_packing p)
{
    const int thread = blockIdx.x * THREADS + threadIdx.x;
    const int i = thread / 32, lane = threadIdx.x % 32;

    if (i < n_seg) {
        const int at = seg[i], length = seg[i + 1] - at;
        int before = 0;

        for (int j = lane; j < n_seg; j += 32) {
            const int other = seg[j + 1] - seg[j];

            before += other > length || (other == length && j < i);
        }
        const int slot = slot_of(p, __reduce_add_sync(0xffffffffu, before));
        if (lane == 0 && slot >= 0)
            write_slot(l, slot, at, length);
    }
    for (int slot = thread; slot < p.slots; slot += gridDim.x * THREADS)
        if (is_free(p, slot))
            write_slot(l, slot, seg[n_seg], 0);
}

void slc_cuda_sequences(struct slc_queue *q, const struct slc_cuda_sequences *to,
                        const struct slc_packing *p, const int32_t *seg, int64_t n_seg,
                        int64_t NQ, int64_t NK, int64_t D)
{
    const lists l = {*to, (int)NQ, (int)NK, (int)D};

    sequences_kernel<<<(unsigned)slc_ceil_div(32 * n_seg, THREADS), THREADS, 0,
                       SLC_STREAM(q)>>>(l, seg, (int)n_seg, *p);
    slc_cuda_launched(q, "attention");
}
