/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_ATTENTION_PLAIN_CUH
#define SLC_KERNELS_CUDA_ATTENTION_PLAIN_CUH

#include "kernels/cuda/device.cuh"

/* Tiles of attention_plain.cu: loads, products of tiles, stores. */

#define THREADS 256

struct shape {
    const int32_t *seg;
    int64_t T, n_seg, window;
    int NQ, NK, D;
    float scale;
};

/* Segment of token t: the last one that starts at or before t. */
__device__ int segment_of(const shape &s, int64_t t)
{
    int lo = 0, hi = (int)s.n_seg; /* seg[lo] <= t < seg[hi] */

    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;

        if (s.seg[mid] <= t)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

__device__ int64_t first_key(const shape &s, int64_t t)
{
    const int64_t from = s.seg[segment_of(s, t)];

    return s.window > 0 && t - s.window + 1 > from ? t - s.window + 1 : from;
}

/* first[i] = first key of query t0 + i; past the end: no key at all. */
template <int B> __device__ void load_first(int *first, const shape &s, int64_t t0)
{
    for (int i = threadIdx.x; i < B; i += THREADS)
        first[i] = t0 + i < s.T ? (int)first_key(s, t0 + i) : (int)s.T;
}

/* tile[i][d] = p[(t0+i), h, d] of an array [T, heads, D]. */
template <class T, int B, int DM>
__device__ void load_tile(float (*tile)[DM + 4], const T *p, const shape &s, int64_t t0,
                          int heads, int h)
{
    for (int i = threadIdx.x; i < B * DM; i += THREADS) {
        const int r = i / DM, d = i % DM;

        tile[r][d] = t0 + r < s.T && d < s.D ? slc_f(p[((t0 + r) * heads + h) * s.D + d])
                                             : 0.0f;
    }
}

/* c[i][j] = a[ty*M+i] . b[tx + 16*j] over DM columns. */
template <int M, int DM>
__device__ void product(float (&c)[M][M], const float (*a)[DM + 4],
                        const float (*b)[DM + 4], int ty, int tx)
{
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < M; j++)
            c[i][j] = 0;
#pragma unroll 4
    for (int d = 0; d < DM; d += 4) {
        float4 x[M], y[M];

#pragma unroll
        for (int i = 0; i < M; i++)
            x[i] = *(const float4 *)&a[ty * M + i][d];
#pragma unroll
        for (int j = 0; j < M; j++)
            y[j] = *(const float4 *)&b[tx + 16 * j][d];
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < M; j++)
                c[i][j] += x[i].x * y[j].x + x[i].y * y[j].y + x[i].z * y[j].z +
                           x[i].w * y[j].w;
    }
}

/* o[i][..] += sum over u < B of w(u, row i) * v[u][columns of tx]. */
template <int B, int M, int DM, bool TRANS>
__device__ void accumulate(float (&o)[M][DM / 16], const float (*w)[B + 4],
                           const float (*v)[DM + 4], int ty, int tx)
{
#pragma unroll 2
    for (int u = 0; u < B; u++) {
        float p[M];

#pragma unroll
        for (int i = 0; i < M; i++)
            p[i] = TRANS ? w[u][ty * M + i] : w[ty * M + i][u];
#pragma unroll
        for (int c = 0; c < DM / 64; c++) {
            const float4 x = *(const float4 *)&v[u][c * 64 + tx * 4];

#pragma unroll
            for (int i = 0; i < M; i++) {
                o[i][c * 4] += p[i] * x.x;
                o[i][c * 4 + 1] += p[i] * x.y;
                o[i][c * 4 + 2] += p[i] * x.z;
                o[i][c * 4 + 3] += p[i] * x.w;
            }
        }
    }
}

template <class T, int M, int DM>
__device__ void store_rows(T *p, const float (&o)[M][DM / 16], const float *factor,
                           const shape &s, int64_t t0, int heads, int h, int ty, int tx)
{
#pragma unroll
    for (int i = 0; i < M; i++) {
        const int64_t t = t0 + ty * M + i;

        if (t >= s.T)
            continue;
#pragma unroll
        for (int c = 0; c < DM / 16; c++) {
            const int d = c / 4 * 64 + tx * 4 + c % 4;

            if (d < s.D)
                p[(t * heads + h) * s.D + d] = slc_t<T>(o[i][c] * factor[i]);
        }
    }
}

#endif
