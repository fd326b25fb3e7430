/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/plain.cuh"

template <class T, class TC> __global__ void matmul_kernel(slc_tile_args<T, TC> a)
{
    slc_tile_run<T, TC>(a, (int64_t)blockIdx.y * SLC_TILE, (int64_t)blockIdx.x * SLC_TILE);
}

template <class T, class TC>
static void run(struct slc_queue *q, const struct slc_matmul_args *m)
{
    const int64_t lda = m->lda ? m->lda : m->trans_a ? m->M : m->K;
    const int64_t ldb = m->ldb ? m->ldb : m->trans_b ? m->K : m->N;
    slc_tile_args<T, TC> a;

    a.c = (TC *)m->c;
    a.a = (const T *)m->a;
    a.b = (const T *)m->b;
    a.M = m->M;
    a.N = m->N;
    a.K = m->K;
    a.am = m->trans_a ? 1 : lda;
    a.ak = m->trans_a ? lda : 1;
    a.bk = m->trans_b ? 1 : ldb;
    a.bn = m->trans_b ? ldb : 1;
    a.ldc = m->ldc ? m->ldc : m->N;
    a.acc = m->acc;
    matmul_kernel<T, TC><<<dim3((unsigned)slc_ceil_div(m->N, SLC_TILE),
                                (unsigned)slc_ceil_div(m->M, SLC_TILE)),
                           SLC_TILE_THREADS, 0, SLC_STREAM(q)>>>(a);
}

void slc_cuda_matmul_plain(struct slc_queue *q, const struct slc_matmul_args *a)
{
    if (a->dtype == SLC_F32)
        run<float, float>(q, a);
    else if (a->c_dtype == SLC_F32)
        run<bf16, float>(q, a);
    else
        run<bf16, bf16>(q, a);
    slc_cuda_launched(q, "matmul");
}
