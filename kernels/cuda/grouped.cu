/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/plain.cuh"

/*
 * Products of experts on the plain tile, for what the tensor cores do not take. The
 * grid covers the most tiles that rows_cap rows in El segments can have; a block finds
 * its expert in `off` on the card.
 */

template <class T>
__global__ void forward_kernel(T *y, const T *x, const T *w, const int32_t *off, int El,
                               int64_t N, int64_t K, bool trans_w)
{
    int tile = blockIdx.y;
    const int e = slc_expert_of(off, El, SLC_TILE, &tile);

    if (e == El)
        return;
    const int64_t first = off[e];
    slc_tile_args<T, T> a;
    a.c = y + first * N;
    a.a = x + first * K;
    a.b = w + (int64_t)e * N * K;
    a.M = off[e + 1] - first;
    a.N = N;
    a.K = K;
    a.am = K;
    a.ak = 1;
    a.bk = trans_w ? 1 : N;
    a.bn = trans_w ? K : 1;
    a.ldc = N;
    a.acc = false;
    slc_tile_run<T, T>(a, (int64_t)tile * SLC_TILE, (int64_t)blockIdx.x * SLC_TILE);
}

void slc_cuda_grouped_matmul(struct slc_queue *q, const struct slc_grouped_matmul_args *a)
{
    if (a->rows_cap <= 0 || a->N <= 0 || slc_cuda_grouped_sm90(q, a) ||
        slc_cuda_grouped_sm80(q, a))
        return;
    const dim3 grid((unsigned)slc_ceil_div(a->N, SLC_TILE),
                    (unsigned)(slc_ceil_div(a->rows_cap, SLC_TILE) + a->El));
    SLC_BY_DTYPE(a->dtype, {
        forward_kernel<T><<<grid, SLC_TILE_THREADS, 0, SLC_STREAM(q)>>>(
            (T *)a->y, (const T *)a->x, (const T *)a->w, a->off, (int)a->El, a->N, a->Kd,
            a->trans_w);
    });
    slc_cuda_launched(q, "grouped_matmul");
}

template <class T, class TC>
__global__ void wgrad_kernel(TC *dw, const T *dy, const T *x, const int32_t *off,
                             int64_t N, int64_t K, bool acc)
{
    const int e = blockIdx.z;
    const int64_t first = off[e];
    slc_tile_args<T, TC> a;

    a.c = dw + (int64_t)e * N * K;
    a.a = dy + first * N;
    a.b = x + first * K;
    a.M = N;
    a.N = K;
    a.K = off[e + 1] - first;
    a.am = 1;
    a.ak = N;
    a.bk = K;
    a.bn = 1;
    a.ldc = K;
    a.acc = acc;
    slc_tile_run<T, TC>(a, (int64_t)blockIdx.y * SLC_TILE,
                        (int64_t)blockIdx.x * SLC_TILE);
}

template <class T, class TC>
static void wgrad(struct slc_queue *q, const struct slc_grouped_wgrad_args *a)
{
    const dim3 grid((unsigned)slc_ceil_div(a->Kd, SLC_TILE),
                    (unsigned)slc_ceil_div(a->N, SLC_TILE), (unsigned)a->El);

    wgrad_kernel<T, TC><<<grid, SLC_TILE_THREADS, 0, SLC_STREAM(q)>>>(
        (TC *)a->dw, (const T *)a->dy, (const T *)a->x, a->off, a->N, a->Kd, a->acc);
    slc_cuda_launched(q, "grouped_wgrad");
}

void slc_cuda_grouped_wgrad(struct slc_queue *q, const struct slc_grouped_wgrad_args *a)
{
    if (a->El <= 0 || a->N <= 0 || a->Kd <= 0 || slc_cuda_wgrad_sm90(q, a) ||
        slc_cuda_wgrad_sm80(q, a))
        return;
    if (a->dtype == SLC_F32)
        wgrad<float, float>(q, a);
    else if (a->dw_dtype == SLC_F32)
        wgrad<bf16, float>(q, a);
    else
        wgrad<bf16, bf16>(q, a);
}
