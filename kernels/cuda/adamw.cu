/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

#include <math.h>

#define THREADS 256

struct adamw_scalars {
    float keep, new_m, old_v, new_v, step, root, eps, grad_scale;
};

__device__ __forceinline__ void adamw_one(float &p, float &m, float &v, float g,
                                          const adamw_scalars &s)
{
    g *= s.grad_scale;
    p *= s.keep;
    m += s.new_m * (g - m);
    v = s.old_v * v + s.new_v * g * g;
    p -= s.step * m / (sqrtf(v) / s.root + s.eps);
}

template <int V>
__global__ void adamw_kernel(float *p, float *m, float *v, const float *g, bf16 *low,
                             int64_t n, adamw_scalars s)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float pv[V], mv[V], vv[V], gv[V];

    if (i + V <= n) {
        slc_load<float, V>(pv, p + i);
        slc_load<float, V>(mv, m + i);
        slc_load<float, V>(vv, v + i);
        slc_load<float, V>(gv, g + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            adamw_one(pv[j], mv[j], vv[j], gv[j], s);
        slc_store<float, V>(p + i, pv);
        slc_store<float, V>(m + i, mv);
        slc_store<float, V>(v + i, vv);
        if (low)
            slc_store<bf16, V>(low + i, pv);
    } else {
        for (int64_t j = i; j < n; j++) {
            adamw_one(p[j], m[j], v[j], g[j], s);
            if (low)
                low[j] = slc_t<bf16>(p[j]);
        }
    }
}

void slc_cuda_adamw(struct slc_queue *q, const struct slc_adamw_args *a)
{
    /* 1 - beta is taken in double: in fp32 it would be 1e-5 off. */
    const adamw_scalars s = {
        (float)(1 - a->lr * a->wd), (float)(1 - a->beta1), (float)a->beta2,
        (float)(1 - a->beta2),      (float)(a->lr / a->bc1), (float)sqrt(a->bc2),
        (float)a->eps,              a->grad_scale,
    };
    const bool wide = slc_aligned(a->p, 16) && slc_aligned(a->m, 16) &&
                      slc_aligned(a->v, 16) && slc_aligned(a->g, 16) &&
                      slc_aligned(a->p_low, 8);
    const int V = wide ? 4 : 1;
    const unsigned blocks = (unsigned)slc_ceil_div(a->n, (int64_t)THREADS * V);

    if (a->n <= 0)
        return;
    if (wide)
        adamw_kernel<4><<<blocks, THREADS, 0, SLC_STREAM(q)>>>(
            a->p, a->m, a->v, a->g, (bf16 *)a->p_low, a->n, s);
    else
        adamw_kernel<1><<<blocks, THREADS, 0, SLC_STREAM(q)>>>(
            a->p, a->m, a->v, a->g, (bf16 *)a->p_low, a->n, s);
    slc_cuda_launched(q, "adamw");
}
