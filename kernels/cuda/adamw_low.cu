/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

#include <math.h>

#define THREADS 256

struct scalars {
    float keep, new_m, old_v, new_v, step, root, eps, grad_scale;
    uint64_t key;
    int64_t first;
};

__device__ __forceinline__ bf16 rounded(float x, uint64_t random)
{
    return __ushort_as_bfloat16(
        slc_adamw_round(__float_as_uint(x), (uint32_t)random));
}

__device__ __forceinline__ void one(bf16 &p, bf16 &m, bf16 &v, float g, int64_t i,
                                    const scalars &s)
{
    const uint64_t random = slc_adamw_bits(s.key, s.first + i);
    float mi = slc_f(m), vi = slc_f(v);

    g *= s.grad_scale;
    mi += s.new_m * (g - mi);
    vi = s.old_v * vi + s.new_v * g * g;
    const float pi =
        slc_f(p) * s.keep - s.step * mi / (sqrtf(vi) / s.root + s.eps);
    p = rounded(pi, random);
    m = rounded(mi, random >> 16);
    v = rounded(vi, random >> 32);
}

template <class G, int V>
__global__ void adamw_low_kernel(bf16 *p, bf16 *m, bf16 *v, const G *g, int64_t n,
                                 scalars s)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;

    if (i + V <= n) {
        slc_vec<bf16, V> pv = *reinterpret_cast<slc_vec<bf16, V> *>(p + i);
        slc_vec<bf16, V> mv = *reinterpret_cast<slc_vec<bf16, V> *>(m + i);
        slc_vec<bf16, V> vv = *reinterpret_cast<slc_vec<bf16, V> *>(v + i);
        const slc_vec<G, V> gv = *reinterpret_cast<const slc_vec<G, V> *>(g + i);

#pragma unroll
        for (int j = 0; j < V; j++)
            one(pv.v[j], mv.v[j], vv.v[j], slc_f(gv.v[j]), i + j, s);
        *reinterpret_cast<slc_vec<bf16, V> *>(p + i) = pv;
        *reinterpret_cast<slc_vec<bf16, V> *>(m + i) = mv;
        *reinterpret_cast<slc_vec<bf16, V> *>(v + i) = vv;
    } else {
        for (int64_t j = i; j < n; j++)
            one(p[j], m[j], v[j], slc_f(g[j]), j, s);
    }
}

template <class G>
static void run(struct slc_queue *q, const struct slc_adamw_low_args *a, const scalars &s)
{
    const bool wide = slc_aligned(a->p, 16) && slc_aligned(a->m, 16) &&
                      slc_aligned(a->v, 16) && slc_aligned(a->g, 16);
    const int V = wide ? 8 : 1;
    const unsigned blocks = (unsigned)slc_ceil_div(a->n, (int64_t)THREADS * V);

    if (wide)
        adamw_low_kernel<G, 8><<<blocks, THREADS, 0, SLC_STREAM(q)>>>(
            (bf16 *)a->p, (bf16 *)a->m, (bf16 *)a->v, (const G *)a->g, a->n, s);
    else
        adamw_low_kernel<G, 1><<<blocks, THREADS, 0, SLC_STREAM(q)>>>(
            (bf16 *)a->p, (bf16 *)a->m, (bf16 *)a->v, (const G *)a->g, a->n, s);
    slc_cuda_launched(q, "adamw_low");
}

void slc_cuda_adamw_low(struct slc_queue *q, const struct slc_adamw_low_args *a)
{
    const scalars s = {
        (float)(1 - a->lr * a->wd),
        (float)(1 - a->beta1),
        (float)a->beta2,
        (float)(1 - a->beta2),
        (float)(a->lr / a->bc1),
        (float)sqrt(a->bc2),
        (float)a->eps,
        a->grad_scale,
        a->key,
        a->first,
    };

    if (a->n <= 0)
        return;
    if (a->g_dtype == SLC_F32)
        run<float>(q, a, s);
    else
        run<bf16>(q, a, s);
}
